package inspect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/storelog"
)

// CompareOptions say how to compare a store log with a database.
type CompareOptions struct {
	TempDir string // for temporary files as large as the log; empty: the system's
	First   int    // how many differences to report with their ids

	// Progress is told of bytes and queues. It may be nil.
	Progress Progress
}

// A CompareReport says in what the state that a store log ends with and a database
// differ.
type CompareReport struct {
	File       string         `json:"file"`       // the one that was read
	Unfinished bool           `json:"unfinished"` // it is the ".start" file of the one that was asked for
	Changed    bool           `json:"changed"`    // it was written to meanwhile
	Rejected   int64          `json:"rejected"`   // records of the log that an import would leave out
	Schema     string         `json:"schema"`
	Version    schema.Version `json:"version"`
	Equal      bool           `json:"equal"`
	Queues     Comparison     `json:"queues"`
	Services   Comparison     `json:"services"`

	// Differences are the first ones: services, then queues by id.
	Differences []Difference `json:"differences"`
}

// A Comparison is numbers of what there is in the log and in the database.
type Comparison struct {
	Log            int64 `json:"log"`
	Database       int64 `json:"database"`
	OnlyInLog      int64 `json:"only_in_log"`
	OnlyInDatabase int64 `json:"only_in_database"`
	Different      int64 `json:"different"` // in both, with other values
}

// Differences returns how many are not the same in the log and in the database.
func (c Comparison) Differences() int64 { return c.OnlyInLog + c.OnlyInDatabase + c.Different }

// A Difference is a queue or a service that is not the same in the log and in the
// database.
type Difference struct {
	Kind string `json:"kind"` // "queue" or "service"
	ID   string `json:"id"`   // of a queue, that of the recipient
	In   string `json:"in"`   // "log", "database", or "both" with other values
}

// Compare replays a store log and compares its live queues and its services with
// those of the database, value by value, as they are at one moment. However many
// there are, a few are in memory.
func Compare(ctx context.Context, conn *pgx.Conn, s store.Schema, name string, o CompareOptions) (_ CompareReport, err error) {
	f, err := storelog.Open(name)
	if err != nil {
		return CompareReport{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	c := comparing{o: o, report: CompareReport{
		File: f.Name(), Unfinished: f.Unfinished(), Schema: s.Name, Version: s.Version, Differences: []Difference{},
	}}
	if err := c.run(ctx, conn, s, f); err != nil {
		return CompareReport{}, err
	}
	r := &c.report
	r.Equal = r.Queues.Differences()+r.Services.Differences() == 0
	r.Changed, err = f.Changed()
	return c.report, err
}

// comparing is a comparison under way.
type comparing struct {
	o      CompareOptions
	report CompareReport
}

func (c *comparing) run(ctx context.Context, conn *pgx.Conn, s store.Schema, f *storelog.File) (err error) {
	tell := reporter{c.o.Progress}
	tell.phase("reading", f.Size(), "bytes")
	log, err := storelog.Replay(ctx, f, storelog.Options{
		TempDir: c.o.TempDir,
		OnProblem: func(p storelog.Problem) error {
			if p.Kind.Loses() {
				c.report.Rejected++
			}
			return nil
		},
		Progress:    tell.add,
		ForDatabase: true,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	tell.phase("comparing", log.Counts().Records["CREATE"], "queues")
	return store.Snapshot(ctx, conn, func(q store.Querier) error {
		rows, err := store.Services(ctx, q, s)
		if err != nil {
			return err
		}
		c.services(log.Services(), rows)
		return c.queues(log.DrainQueues(ctx), store.Queues(ctx, q, s, store.ReadOptions{Live: true}), tell.add)
	})
}

// services compares services.
func (c *comparing) services(log []queue.Service, rows []store.ServiceRow) {
	n := &c.report.Services
	n.Log, n.Database = int64(len(log)), int64(len(rows))
	inLog := make(map[queue.ServiceID]queue.Service, len(log))
	for _, sv := range log {
		inLog[sv.ID] = sv
	}
	for i := range rows {
		id := rows[i].ID
		sv, ok := inLog[id]
		delete(inLog, id)
		switch {
		case !ok:
			n.OnlyInDatabase++
			c.add("service", id.String(), "database")
		case !bytes.Equal(serviceText(sv), serviceText(rows[i].Service)):
			n.Different++
			c.add("service", id.String(), "both")
		}
	}
	for _, sv := range log {
		if _, ok := inLog[sv.ID]; ok {
			n.OnlyInLog++
			c.add("service", sv.ID.String(), "log")
		}
	}
}

func serviceText(sv queue.Service) []byte {
	return storelog.Append(nil, &storelog.NewService{Service: sv})
}

// queues compares queues, which come in the order of their recipient ids.
func (c *comparing) queues(log iter.Seq2[*queue.Record, error], rows iter.Seq2[*store.Row, error], done func(int64)) error {
	nextLog, stopLog := iter.Pull2(log)
	defer stopLog()
	nextRow, stopRows := iter.Pull2(rows)
	defer stopRows()
	n := &c.report.Queues
	have, inLog, err := pull(nextLog)
	if err != nil {
		return err
	}
	row, inRows, err := pull(nextRow)
	for err == nil && (inLog || inRows) {
		var order int
		switch {
		case !inRows:
			order = -1
		case !inLog:
			order = 1
		default:
			order = have.RecipientID.Compare(row.RecipientID.EntityID)
		}
		switch {
		case order < 0:
			n.OnlyInLog++
			c.add("queue", have.RecipientID.String(), "log")
		case order > 0:
			n.OnlyInDatabase++
			c.add("queue", row.RecipientID.String(), "database")
		case !same(have, row):
			n.Different++
			c.add("queue", row.RecipientID.String(), "both")
		}
		if order <= 0 {
			n.Log++
			done(1)
			have, inLog, err = pull(nextLog)
		}
		if order >= 0 && err == nil {
			n.Database++
			row, inRows, err = pull(nextRow)
		}
	}
	if err != nil {
		return fmt.Errorf("compare queues: %w", err)
	}
	return nil
}

// pull returns the next element, and whether there is one.
func pull[T any](next func() (T, error, bool)) (T, bool, error) {
	v, err, ok := next()
	return v, ok, err
}

// same reports whether a row is just what a log has of the queue.
func same(have *queue.Record, row *store.Row) bool {
	return row.Damage == (store.Damage{}) && bytes.Equal(storelog.AppendQueue(nil, have), storelog.AppendQueue(nil, &row.Record))
}

func (c *comparing) add(kind, id, in string) {
	if len(c.report.Differences) < c.o.First {
		c.report.Differences = append(c.report.Differences, Difference{kind, id, in})
	}
}
