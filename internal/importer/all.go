package importer

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/journal"
	"github.com/smpq/smpq/internal/msglog"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/storelog"
)

// Files are the files in which a router keeps its data, nil for those that it
// does not use. There is at most one of a message log and a journal.
type Files struct {
	StoreLog   *storelog.File
	MessageLog *msglog.File
	Journal    *journal.Tree
}

// An AllResult says what an import of all files of a router did. What a router
// does not use is nil. The JSON names are an interface.
type AllResult struct {
	StoreLog *Result        `json:"storelog,omitempty"`
	Messages *MessageResult `json:"messages,omitempty"`
}

// Rejected returns the number of records that were left out.
func (r AllResult) Rejected() int64 {
	var n int64
	if r.StoreLog != nil {
		n += r.StoreLog.Rejected
	}
	if r.Messages != nil {
		n += r.Messages.Rejected
	}
	return n
}

// Unchanged reports whether all was in the schema already.
func (r AllResult) Unchanged() bool {
	return (r.StoreLog == nil || r.StoreLog.Unchanged) && (r.Messages == nil || r.Messages.Unchanged)
}

// All imports all files of a router in one transaction: [StoreLog], and then
// [MessageLog] or [Journal]. Options.MaxRejects is for all of them together. A dry
// run does all of it, and takes it back.
func All(ctx context.Context, conn *pgx.Conn, files Files, o Options) (AllResult, error) {
	var queues *importing
	var msgs *messages
	if files.StoreLog != nil {
		queues = newImporting(conn, files.StoreLog, o)
	}
	switch {
	case files.MessageLog != nil:
		msgs = newMessages(logSource(files.MessageLog, o.Log), o)
	case files.Journal != nil:
		msgs = newMessages(journalSource(files.Journal), o)
	}
	err := locked(ctx, conn, o, func(state schema.State) (err error) {
		var log *storelog.State
		if queues != nil {
			if log, err = queues.read(ctx, state); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, log.Close()) }()
		}
		return transaction(ctx, conn, func(tx pgx.Tx) (bool, error) {
			changed := false
			if queues != nil {
				if changed, err = queues.apply(ctx, tx, log); err != nil {
					return false, err
				}
			}
			if msgs != nil {
				if queues != nil {
					msgs.rejects.before = queues.rejects.rejected
				}
				more, err := msgs.apply(ctx, tx)
				if err != nil {
					return false, err
				}
				changed = changed || more
			}
			return changed && !o.DryRun, nil
		})
	})
	var res AllResult
	if queues != nil {
		r := queues.result()
		res.StoreLog = &r
	}
	if msgs != nil {
		r := msgs.result()
		res.Messages = &r
	}
	return res, outcome(err)
}
