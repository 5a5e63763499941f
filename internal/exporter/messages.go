package exporter

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/msglog"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/store"
)

// A MessageSummary says what was written.
type MessageSummary struct {
	File     string `json:"file"` // or the folder of the journal; empty: a stream
	Messages int64  `json:"messages"`
	Queues   int64  `json:"queues"` // that have messages
	Bytes    int64  `json:"bytes"`

	// Differences are where it is not what smp-server would have written, or not
	// what it can read.
	Differences []Difference `json:"differences,omitempty"`

	// Removed is the unfinished file of an earlier export, which was killed. It
	// was in the way and is gone.
	Removed string `json:"removed,omitempty"`

	// Replaced reports whether there was a file, which is gone.
	Replaced bool `json:"replaced,omitempty"`
}

// MessageLog writes a message log with the messages of the live queues, by
// recipient id. It is what smp-server's own export writes, byte for byte, but for
// the Differences of the summary, and all of it with Options.WithDeleted.
//
// All of it comes from one snapshot, so that a router may run meanwhile. After an
// error of w the connection may be closed.
func MessageLog(ctx context.Context, conn *pgx.Conn, s store.Schema, w io.Writer, o Options) (MessageSummary, error) {
	out := newMessageLog(w)
	var sum MessageSummary
	err := store.Snapshot(ctx, conn, func(q store.Querier) (err error) {
		sum, err = writeMessages(ctx, q, s, out, o)
		return err
	})
	return sum, err
}

// A messageWriter writes messages in one of the forms in which routers keep them.
type messageWriter interface {
	// write writes a message. Those of a queue come one after the other.
	write(m *store.StoredMessage) error
	// end completes what was written and returns its length in bytes.
	end() (int64, error)
}

// writeMessages writes the messages that are to be exported.
func writeMessages(parent context.Context, q store.Querier, s store.Schema, w messageWriter, o Options) (MessageSummary, error) {
	var sum MessageSummary
	if o.Progress != nil {
		n, err := store.CountMessages(parent, q, s)
		if err != nil {
			return sum, err
		}
		o.Progress.Phase("exporting", n, "messages")
	}
	// When writing fails, the rest of the rows must not be waited for.
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	var last queue.RecipientID
	noted := make(notes)
	for m, err := range store.AllMessages(ctx, q, s) {
		if err != nil {
			return sum, err
		}
		if o.Progress != nil {
			o.Progress.Add(1)
		}
		kind, left := judge(m, o)
		if kind != "" {
			sum.Differences = noted.add(sum.Differences, kind, m.Queue)
		}
		if left {
			continue
		}
		if err := w.write(m); err != nil {
			cancel()
			return sum, err
		}
		sum.Messages++
		if m.Queue != last {
			sum.Queues++
			last = m.Queue
		}
	}
	var err error
	sum.Bytes, err = w.end()
	return sum, err
}

// judge says what is different about a message, if anything, and whether it is
// left out.
func judge(m *store.StoredMessage, o Options) (kind DifferenceKind, left bool) {
	empty := len(m.Message.Body) == 0 && !m.Message.QuotaMarker
	switch {
	case m.Deleted && !o.WithDeleted:
		return DeletedQueue, true
	case empty && o.SkipEmpty:
		return EmptyBodyLeftOut, true
	case empty:
		return EmptyBody, false
	}
	return "", false
}

// notes remembers for each kind of differences the last queue that was added.
// Messages of a queue come one after the other.
type notes map[DifferenceKind]queue.RecipientID

// add adds a message of a queue to the differences of a kind.
func (n notes) add(all []Difference, kind DifferenceKind, id queue.RecipientID) []Difference {
	if n[kind] != id {
		n[kind] = id
		all = addDifference(all, kind, id)
	}
	i := slices.IndexFunc(all, func(d Difference) bool { return d.Kind == kind })
	all[i].Messages++
	return all
}

// A messageLog writes a message log.
type messageLog struct {
	w     *bufio.Writer
	bytes int64
	buf   []byte
}

func (l *messageLog) write(m *store.StoredMessage) error {
	l.buf = msglog.Append(l.buf[:0], m.Queue, &m.Message)
	n, err := l.w.Write(l.buf)
	l.bytes += int64(n)
	if err != nil {
		return fmt.Errorf("write message log: %w", err)
	}
	return nil
}

func (l *messageLog) end() (int64, error) {
	if err := l.w.Flush(); err != nil {
		return l.bytes, fmt.Errorf("write message log: %w", err)
	}
	return l.bytes, nil
}
