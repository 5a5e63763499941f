// Package exporter writes a router's database to the files that routers without
// a database read.
package exporter

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/storelog"
)

// A Progress is told how far an export has come.
type Progress interface {
	// Phase begins a part of the work: total units, which are called unit.
	Phase(name string, total int64, unit string)
	// Add says that n more units are done.
	Add(n int64)
}

// Options control an export.
type Options struct {
	// Force lets the export replace a file, which stays as it is until the new
	// one is complete.
	Force bool

	// WithDeleted exports the messages of soft-deleted queues as well. smp-server
	// does that, and does not start with such a log in memory mode, as the store
	// log does not have these queues.
	WithDeleted bool

	// SkipEmpty leaves out messages with an empty body. smp-server writes them,
	// and does not start with such a log in memory mode.
	SkipEmpty bool

	// Progress is told of each queue, or of each message. It may be nil.
	Progress Progress
}

// A Summary says what was written.
type Summary struct {
	File     string `json:"file"` // empty: a stream
	Services int64  `json:"services"`
	Queues   int64  `json:"queues"`
	Bytes    int64  `json:"bytes"`

	// Differences are where the log is not what smp-server would have written.
	Differences []Difference `json:"differences,omitempty"`

	// Removed is the unfinished file of an earlier export, which was killed. It
	// was in the way and is gone.
	Removed string `json:"removed,omitempty"`

	// Replaced reports whether there was a file, which is gone.
	Replaced bool `json:"replaced,omitempty"`

	// Shadow is a file, left there by smp-server, that it reads instead of the
	// exported one.
	Shadow string `json:"shadow,omitempty"`
}

// A Difference is a kind of data with which smp-server cannot deal, such as one
// of which it cannot read what it writes itself, and the queues that have it.
type Difference struct {
	Kind     DifferenceKind      `json:"kind"`
	Queues   int64               `json:"queues"`
	Messages int64               `json:"messages,omitempty"` // of these queues; if it is about messages
	First    []queue.RecipientID `json:"first"`              // some of the queues, at most MaxFirst
}

// MaxFirst is how many queues a [Difference] names.
const MaxFirst = 10

// A DifferenceKind says what a [Difference] is about.
type DifferenceKind string

const (
	// DamagedNotice: an import of smp-server has taken the quotes from the
	// blocking notice, and smp-server fails to read the row. The notice was
	// written as it was meant.
	DamagedNotice DifferenceKind = "damaged_notice"

	// NoticeAndService: smp-server fails to read the line of a queue that has
	// both a blocking notice and a receiving service. The queue was written
	// without its status, and the status as a BLOCK record after it.
	NoticeAndService DifferenceKind = "notice_and_service"

	// LinkWithoutData: smp-server fails to read the line of a queue that has a
	// link without data. The queue was written without the link.
	LinkWithoutData DifferenceKind = "link_without_data"

	// PartialNotifier: some columns of the notifier are NULL, so that for
	// smp-server the queue has none. It was written without one, as smp-server
	// does.
	PartialNotifier DifferenceKind = "partial_notifier"

	// DeletedQueue: messages of a queue that was deleted, and is not in the store
	// log either. They were left out.
	DeletedQueue DifferenceKind = "deleted_queue"

	// EmptyBody: messages with an empty body, at which smp-server stops when it
	// reads the log. They were written.
	EmptyBody DifferenceKind = "empty_body"

	// EmptyBodyLeftOut: the same, but they were left out.
	EmptyBodyLeftOut DifferenceKind = "empty_body_left_out"
)

// Explain says in words what the kind is and what was done.
func (k DifferenceKind) Explain() string {
	switch k {
	case DamagedNotice:
		return "the blocking notice had lost its quotes; it was written as it was meant"
	case NoticeAndService:
		return "the blocking was written as a BLOCK record of its own, as smp-server drops the queue otherwise"
	case LinkWithoutData:
		return "the link has no data and was left out, as smp-server drops the queue otherwise"
	case PartialNotifier:
		return "the notifier credentials are incomplete and were left out, as by smp-server"
	case DeletedQueue:
		return "messages of deleted queues were left out; smp-server exports them, and does not start with them"
	case EmptyBody:
		return "messages with an empty body were written, as by smp-server, which does not start with them; to leave them out: --skip-empty"
	case EmptyBodyLeftOut:
		return "messages with an empty body were left out"
	}
	return string(k)
}

// Lossy reports whether something of the database is not in the log.
func (k DifferenceKind) Lossy() bool {
	return k == LinkWithoutData || k == PartialNotifier || k == EmptyBodyLeftOut
}

// StoreLog writes a store log with the services, in the order in which they are
// stored, and the live queues, by recipient id. It is what smp-server's own
// export writes, byte for byte, but for the Differences of the summary.
//
// All of it comes from one snapshot, so that a router may run meanwhile. After an
// error of w the connection may be closed.
func StoreLog(ctx context.Context, conn *pgx.Conn, s store.Schema, w io.Writer, o Options) (Summary, error) {
	e := export{w: bufio.NewWriterSize(w, bufferSize), progress: o.Progress}
	err := store.Snapshot(ctx, conn, func(q store.Querier) error { return e.run(ctx, q, s) })
	return e.sum, err
}

// bufferSize is the number of bytes for one write.
const bufferSize = 256 << 10

// An export is a store log that is being written.
type export struct {
	w        *bufio.Writer
	progress Progress
	sum      Summary
	buf      []byte
}

func (e *export) run(ctx context.Context, q store.Querier, s store.Schema) error {
	if e.progress != nil {
		n, err := store.CountLive(ctx, q, s)
		if err != nil {
			return err
		}
		e.progress.Phase("exporting", n, "queues")
	}
	services, err := store.Services(ctx, q, s)
	if err != nil {
		return err
	}
	for _, sv := range services {
		e.buf = storelog.Append(e.buf[:0], &storelog.NewService{Service: sv.Service})
		if err := e.write(); err != nil {
			return err
		}
		e.sum.Services++
	}
	if err := e.queues(ctx, q, s); err != nil {
		return err
	}
	if err := e.w.Flush(); err != nil {
		return fmt.Errorf("write store log: %w", err)
	}
	return nil
}

func (e *export) queues(parent context.Context, q store.Querier, s store.Schema) error {
	// When writing fails, the rest of the rows must not be waited for.
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	for row, err := range store.Queues(ctx, q, s, store.ReadOptions{Live: true}) {
		if err != nil {
			return err
		}
		e.note(row)
		e.buf = storelog.AppendQueue(e.buf[:0], &row.Record)
		if err := e.write(); err != nil {
			cancel()
			return err
		}
		e.sum.Queues++
		if e.progress != nil {
			e.progress.Add(1)
		}
	}
	return nil
}

// write writes what is in the buffer.
func (e *export) write() error {
	n, err := e.w.Write(e.buf)
	e.sum.Bytes += int64(n)
	if err != nil {
		return fmt.Errorf("write store log: %w", err)
	}
	return nil
}

// note takes note of what is written differently.
func (e *export) note(row *store.Row) {
	if row.Damage.Notice {
		e.different(DamagedNotice, row)
	}
	if !row.Readable() {
		e.different(NoticeAndService, row)
	}
	if row.Damage.Link != nil {
		e.different(LinkWithoutData, row)
	}
	if row.Damage.Notifier != nil {
		e.different(PartialNotifier, row)
	}
}

func (e *export) different(kind DifferenceKind, row *store.Row) {
	e.sum.Differences = addDifference(e.sum.Differences, kind, row.RecipientID)
}

// addDifference adds a queue to the differences of a kind.
func addDifference(all []Difference, kind DifferenceKind, id queue.RecipientID) []Difference {
	i := slices.IndexFunc(all, func(d Difference) bool { return d.Kind == kind })
	if i < 0 {
		i = len(all)
		all = append(all, Difference{Kind: kind})
	}
	d := &all[i]
	d.Queues++
	if len(d.First) < MaxFirst {
		d.First = append(d.First, id)
	}
	return all
}
