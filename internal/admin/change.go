package admin

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

// An Operation is something to do with a queue, by the name that it has in the log
// of administrative changes.
type Operation string

// The operations.
const (
	Block   Operation = "block"
	Unblock Operation = "unblock"
	Delete  Operation = "delete"
)

// done is what the result of an operation is called.
func (o Operation) done() string {
	switch o {
	case Block:
		return "blocked"
	case Unblock:
		return "unblocked"
	case Delete:
		return "deleted"
	}
	return string(o)
}

// Results that queues have if they were not changed.
const (
	Unchanged = "unchanged" // it was so already
	Rejected  = "rejected"
)

// Options say what to do.
type Options struct {
	Operation Operation
	Blocking  queue.Blocking // for Block
	By        []store.By     // of which party the ids are; none: of any
	DryRun    bool           // look only, change nothing

	// Quota is how many active queues administrators may block in one day, in UTC. Then
	// they change no reason either. 0: any number; negative: none.
	Quota int64

	Who      string // who does it, for the log of administrative changes
	Progress Progress
}

// A Progress is told what is done. It may be nil.
type Progress interface {
	// Add says that n more queues are done.
	Add(n int64)
}

// A Result says what was done.
type Result struct {
	Schema    string    `json:"schema"`
	Operation Operation `json:"operation"`
	DryRun    bool      `json:"dry_run"`
	Queues    []Outcome `json:"queues"` // in the order of the ids
	Changed   int64     `json:"changed"`
	Unchanged int64     `json:"unchanged"`
	Rejected  int64     `json:"rejected"`
}

// An Outcome says what was done with one queue.
type Outcome struct {
	ID          string            `json:"id"`             // as it was given
	Line        int64             `json:"line,omitempty"` // of the file with the ids
	Result      string            `json:"result"`         // "blocked", "unblocked", "deleted", "unchanged" or "rejected"
	FoundBy     []store.By        `json:"found_by,omitempty"`
	RecipientID queue.RecipientID `json:"recipient_id,omitzero"`
	Was         string            `json:"was,omitempty"`    // its status before, as in a store log
	Reason      string            `json:"reason,omitempty"` // why it was not changed
}

// Change does something with queues, one after another, and goes on after those
// for which that is not possible. The connection, which must be to the schema of
// the config, is to find them. If the database fails or ctx is done, the result is
// what was done before; the queue that the error names may or may not be changed.
func Change(ctx context.Context, conn *pgx.Conn, config store.Config, s store.Schema, subjects iter.Seq2[Subject, error], o Options) (Result, error) {
	c := changing{conn: conn, schema: s, o: o, result: Result{
		Schema: s.Name, Operation: o.Operation, DryRun: o.DryRun, Queues: []Outcome{},
	}}
	if o.Operation == Block && o.Quota > 0 {
		var err error
		if c.blocked, err = store.AuditedSince(ctx, conn, s, string(Block), time.Now().UTC().Truncate(24*time.Hour)); err != nil {
			return c.result, err
		}
	}
	if !o.DryRun {
		live, err := store.Open(ctx, store.Options{Config: config, Admin: o.Who, Connections: 1})
		if err != nil {
			return c.result, err
		}
		defer live.Close()
		c.store = live
	}
	for subject, err := range subjects {
		if err != nil {
			return c.result, err
		}
		if ctx.Err() != nil {
			return c.result, context.Cause(ctx)
		}
		outcome, err := c.change(ctx, subject)
		if err != nil {
			return c.result, err
		}
		c.add(outcome)
	}
	return c.result, nil
}

// changing is a Change under way.
type changing struct {
	conn    *pgx.Conn
	schema  store.Schema
	store   *store.Store // nil: nothing is to be changed
	o       Options
	blocked int64 // active queues, today
	result  Result
}

func (c *changing) add(o Outcome) {
	switch o.Result {
	case Rejected:
		c.result.Rejected++
	case Unchanged:
		c.result.Unchanged++
	default:
		c.result.Changed++
	}
	c.result.Queues = append(c.result.Queues, o)
	if c.o.Progress != nil {
		c.o.Progress.Add(1)
	}
}

func (c *changing) change(ctx context.Context, subject Subject) (Outcome, error) {
	out := Outcome{ID: subject.Text, Line: subject.Line, Result: Rejected}
	found, reason, err := look(c.conn, subject, func(id smp.EntityID) ([]store.Found, error) {
		return store.FindQueue(ctx, c.conn, c.schema, id.Bytes(), c.o.By...)
	})
	switch {
	case err != nil:
		return out, err
	case reason != "":
		out.Reason = reason
		return out, nil
	case len(found) > 1:
		out.Reason = "several queues have this id: say of which party it is the id"
		return out, nil
	}
	row := found[0].Row
	out.FoundBy, out.RecipientID, out.Was = found[0].By, row.RecipientID, row.Status.String()
	if out.Result, out.Reason = c.judge(row.Status, row.Deleted()); out.Reason != "" {
		return out, nil
	}
	if c.store != nil {
		if err := c.write(ctx, &out); err != nil {
			return out, err
		}
	}
	if out.Reason == "" {
		out.Result = c.o.Operation.done()
		if c.o.Operation == Block && out.Was == queue.Active.String() {
			c.blocked++
		}
	}
	return out, nil
}

// judge says why a queue with a status is not changed. It returns no reason if it
// is.
func (c *changing) judge(status queue.Status, deleted bool) (result, reason string) {
	switch c.o.Operation {
	case Block:
		switch {
		case deleted:
			return Rejected, reasonDeleted
		case status == queue.Status{State: queue.Blocked, Blocking: c.o.Blocking}:
			return Unchanged, "blocked like this already"
		case c.o.Quota < 0:
			return Rejected, "the router's configuration does not allow to block queues"
		case c.o.Quota > 0 && c.blocked >= c.o.Quota:
			return Rejected, fmt.Sprintf("the quota of %d queues a day is used up", c.o.Quota)
		}
	case Unblock:
		switch {
		case deleted:
			return Rejected, reasonDeleted
		case status.State == queue.Active:
			return Unchanged, "not blocked"
		case status.State == queue.Off:
			return Rejected, "not blocked, but suspended by its recipient"
		}
	case Delete:
		if deleted {
			return Unchanged, "deleted before"
		}
	}
	return "", ""
}

const reasonDeleted = "the queue is deleted"

// write changes the queue of an outcome. What others have made of it since it was
// found is taken into account.
func (c *changing) write(ctx context.Context, out *Outcome) error {
	q, err := c.store.QueueByRecipient(ctx, out.RecipientID)
	var now store.View
	if err == nil {
		now, err = q.View()
	}
	if err == nil {
		out.Was = now.Status.String()
		if out.Result, out.Reason = c.judge(now.Status, false); out.Reason != "" {
			return nil
		}
		switch c.o.Operation {
		case Block:
			err = c.store.BlockQueue(ctx, q, c.o.Blocking)
		case Unblock:
			err = c.store.UnblockQueue(ctx, q)
		case Delete:
			_, err = c.store.DeleteQueue(ctx, q)
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrDeleted), errors.Is(err, store.ErrStale):
		// Somebody else has deleted it just now.
		out.Result, out.Reason = c.judge(now.Status, true)
		return nil
	}
	return err
}
