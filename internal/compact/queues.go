package compact

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

// DefaultBatch is the number of queues that are removed in one transaction.
const DefaultBatch = 1000

// Timeouts of a batch. Nobody waits for it, but a router that deletes messages
// at the same time may have to wait for the disk.
const (
	lockTimeout      = 5 * time.Second
	statementTimeout = time.Minute
)

// QueueOptions say what to remove from a database, and how gently.
type QueueOptions struct {
	// TTL is how long queues stay after their soft delete. The database has
	// the day of the delete only, so a queue goes when TTL has passed since
	// the start of that day, as it does in a router.
	TTL time.Duration

	// Now is the time. The clock of the database counts as well: of the two
	// times the earlier one decides, so that neither clock being fast removes
	// too much.
	Now time.Time

	Batch   int           // number of queues in one transaction
	Pause   time.Duration // between batches
	MaxTime time.Duration // after which no batch is begun; 0: no limit

	DryRun bool // count only
	Vacuum bool // afterwards

	Progress Progress
}

// A Progress is told how far a compaction is.
type Progress interface {
	// Phase starts a phase with a total number of units, 0 if it is not known.
	Phase(name string, total int64, unit string)
	// Add says that n more units are done.
	Add(n int64)
}

// QueueResult says what was removed. The JSON names are an interface.
type QueueResult struct {
	Schema        string    `json:"schema"`
	DeletedBefore time.Time `json:"deleted_before"`
	store.Removed
	Batches  int64   `json:"batches"`
	Skipped  int64   `json:"skipped"` // others had removed or locked them
	Left     int64   `json:"left"`    // not reached before the time was up, an interrupt or a failure
	DryRun   bool    `json:"dry_run"` // nothing was removed
	Vacuumed bool    `json:"vacuumed"`
	Seconds  float64 `json:"seconds"`
}

// Queues removes the queues of a schema that were soft-deleted longer than
// o.TTL ago, with their messages. It holds the lock of the schema (schema.Lock)
// meanwhile, so that it is alone.
//
// Each batch is a transaction of its own, which nothing ends in the middle: when
// ctx ends, Queues returns after the batch. Whatever ends it, the result says
// what was removed, and the next call goes on.
func Queues(ctx context.Context, conn *pgx.Conn, name string, o QueueOptions) (r QueueResult, err error) {
	start := time.Now()
	r = QueueResult{Schema: name, DryRun: o.DryRun}
	defer func() { r.Seconds = time.Since(start).Seconds() }()
	s, err := store.OpenSchema(ctx, conn, name)
	if err != nil {
		return r, err
	}
	if r.DeletedBefore, err = deletedBefore(ctx, conn, o); err != nil {
		return r, err
	}
	if o.DryRun {
		o.Progress.Phase("count deleted queues", 0, "queues")
		r.Removed, err = store.CountDeleted(ctx, conn, s, r.DeletedBefore.Unix())
		return r, err
	}
	unlock, err := schema.Lock(ctx, conn, name, "compact")
	if err != nil {
		return r, err
	}
	defer func() {
		if !conn.IsClosed() {
			err = errors.Join(err, unlock(context.WithoutCancel(ctx)))
		}
	}()
	if err := purge(ctx, conn, s, o, &r); err != nil {
		return r, err
	}
	if o.Vacuum {
		o.Progress.Phase("vacuum", 0, "tables")
		if err := store.Vacuum(ctx, conn, s); err != nil {
			return r, err
		}
		r.Vacuumed = true
	}
	return r, nil
}

// deletedBefore returns the time before which queues must have been deleted.
func deletedBefore(ctx context.Context, conn *pgx.Conn, o QueueOptions) (time.Time, error) {
	var now time.Time
	if err := conn.QueryRow(ctx, "select clock_timestamp()").Scan(&now); err != nil {
		return time.Time{}, fmt.Errorf("ask the database for the time: %w", err)
	}
	if o.Now.Before(now) {
		now = o.Now
	}
	return now.Add(-o.TTL).UTC().Truncate(time.Second), nil
}

// purge removes the queues and adds them up in r.
func purge(ctx context.Context, conn *pgx.Conn, s store.Schema, o QueueOptions, r *QueueResult) (err error) {
	deadline := time.Now().Add(o.MaxTime)
	// A batch that has begun is not cancelled: its outcome would not be known.
	whole := context.WithoutCancel(ctx)
	o.Progress.Phase("list deleted queues", 0, "queues")
	list, err := store.NewPurge(ctx, conn, s, r.DeletedBefore.Unix(), store.Limits{Lock: lockTimeout, Statement: statementTimeout})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, list.Close(whole)) }()
	r.Left = list.Total()
	o.Progress.Phase("remove deleted queues", list.Total(), "queues")
	for r.Left > 0 {
		if o.MaxTime > 0 && !time.Now().Before(deadline) {
			return nil
		}
		listed, removed, err := list.Batch(whole, o.Batch)
		if err != nil {
			return err
		}
		r.Add(removed)
		r.Batches++
		r.Skipped += listed - removed.Queues
		r.Left -= listed
		o.Progress.Add(listed)
		if r.Left == 0 || listed == 0 {
			return nil
		}
		if err := wait(ctx, o.Pause); err != nil {
			return &leftError{r.Left, err}
		}
	}
	return nil
}

// A leftError says that a compaction was told to end. It has a cause that its
// reader knows.
type leftError struct {
	left  int64
	cause error
}

func (e *leftError) Error() string {
	return fmt.Sprintf("%d deleted queues are left; the next run goes on", e.left)
}

func (e *leftError) Unwrap() error { return e.cause }

// wait waits, and returns the cause if ctx ends before or meanwhile.
func wait(ctx context.Context, pause time.Duration) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if pause <= 0 {
		return nil
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
