package exporter

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/atomicfile"
	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/storelog"
)

// Paths name what is to be written: a store log, and a message log or the folder
// of a journal.
type Paths struct {
	StoreLog   string
	MessageLog string // empty: a journal
	Journal    string // empty: a message log
}

// An AllSummary says what was written.
type AllSummary struct {
	StoreLog Summary        `json:"storelog"`
	Messages MessageSummary `json:"messages"`
}

// All writes queues and messages, as [StoreLogFile] and [MessageLogFile] or
// [Journal] do, but from one snapshot, and all or nothing: both get their names
// when both are complete.
func All(ctx context.Context, conn *pgx.Conn, s store.Schema, p Paths, o Options) (sum AllSummary, err error) {
	queues, err := create(p.StoreLog, storelog.StartSuffix, o)
	if err != nil {
		return sum, failed(p.StoreLog, err)
	}
	defer func() { err = errors.Join(err, queues.Close()) }()
	messages, err := createMessages(p, o)
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, messages.close()) }()

	err = store.Snapshot(ctx, conn, func(q store.Querier) (err error) {
		e := export{w: bufio.NewWriterSize(queues, bufferSize), progress: o.Progress}
		err = e.run(ctx, q, s)
		sum.StoreLog = e.sum
		if err != nil {
			return failed(p.StoreLog, err)
		}
		sum.Messages, err = writeMessages(ctx, q, s, messages.writer, o)
		return failed(messages.name, err)
	})
	w := queues.written()
	sum.StoreLog.File, sum.StoreLog.Replaced, sum.StoreLog.Shadow, sum.StoreLog.Removed = w.name, w.replaced, w.shadow, w.removed
	w = messages.written()
	sum.Messages.File, sum.Messages.Replaced, sum.Messages.Removed = w.name, w.replaced, w.removed
	if err != nil {
		return sum, err
	}
	if err := messages.place(); err != nil {
		return sum, failed(messages.name, err)
	}
	if err := queues.place(); err != nil {
		if !w.replaced {
			err = errors.Join(err, os.RemoveAll(w.name)) // it would be half of an export
		}
		return sum, failed(p.StoreLog, err)
	}
	return sum, nil
}

// A messageTarget is a message log or a journal that is being written.
type messageTarget struct {
	name    string
	writer  messageWriter
	written func() written
	place   func() error
	close   func() error
}

func createMessages(p Paths, o Options) (*messageTarget, error) {
	if p.Journal == "" {
		f, err := create(p.MessageLog, "", o)
		if err != nil {
			return nil, failed(p.MessageLog, err)
		}
		return &messageTarget{p.MessageLog, newMessageLog(f), f.written, f.place, f.Close}, nil
	}
	f, err := createFolder(p.Journal)
	if err != nil {
		return nil, failed(p.Journal, err)
	}
	return journalTarget(p.Journal, f), nil
}

func newMessageLog(w io.Writer) *messageLog {
	return &messageLog{w: bufio.NewWriterSize(w, bufferSize)}
}

func journalTarget(name string, f *atomicfile.Folder) *messageTarget {
	w := newJournalWriter(f.Temp())
	return &messageTarget{
		name:   name,
		writer: w,
		written: func() written {
			done := written{name: name}
			if f.Removed() {
				done.removed = f.Temp()
			}
			return done
		},
		place: func() error { return placeFolder(f) },
		close: func() error { return errors.Join(w.close(), f.Close()) },
	}
}
