// Package importer brings the files in which a router keeps its data into the
// database: read, check, copy, verify, in one transaction. Nothing of it is
// visible before the end, nothing is left if it fails, and the file is only
// read.
package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/schema"
)

// Options control an import.
type Options struct {
	Schema string

	// Version is the version of a new schema. A merge keeps the version that
	// the schema has.
	Version schema.Version

	// Merge adds to a schema that has data. Otherwise the schema is made, and
	// must not be there.
	Merge bool

	// DryRun reports what would be done. A merge is tried in the database and
	// rolled back; the making of a schema is not tried.
	DryRun bool

	// SkipVerify spares the comparison of the tables with the files.
	SkipVerify bool

	// MaxRejects is how many records may be left out because they cannot be
	// read or applied; one more ends the import. Negative: any number.
	MaxRejects int64

	// Rejects, if not nil, gets the records that are left out, each behind a
	// line with the reason that starts with '#'.
	Rejects io.Writer

	// Before, if not 0, leaves out messages that a router took before this moment,
	// in Unix seconds: they have expired. Quota markers do not expire.
	Before int64

	// Quota is the number of messages that a queue takes. Queues with more are
	// imported as they are, and counted.
	Quota int64

	TempDir  string // for sorting; see storelog.Options
	Memory   int    // for sorting; see storelog.Options
	Progress Progress
	Log      *slog.Logger
}

// A Progress is told what an import is doing.
type Progress interface {
	// Phase starts a phase with a total number of units, 0 if it is not known.
	Phase(name string, total int64, unit string)
	// Add says that n more units are done.
	Add(n int64)
}

// A RejectedError reports more rejected records than allowed.
type RejectedError struct {
	File  string
	Place string // "line 12, column 5", or the queue for a conflict
	Cause string
	Max   int64

	// Conflict: nothing is wrong with the record, but the schema has another.
	Conflict bool
}

// Error names file and place.
func (e *RejectedError) Error() string {
	s := fmt.Sprintf("%s: %s: %s", e.File, e.Place, e.Cause)
	if e.Max == 0 {
		return s
	}
	return fmt.Sprintf("%s (rejected record %d; at most %d are allowed)", s, e.Max+1, e.Max)
}

// ErrDifferent reports tables that do not hold what the files have. It would be an
// error of smpq or of the database; the import is undone.
var ErrDifferent = errors.New("verification failed: the tables differ from what was read")

// locked does work on a schema that no other smpq changes meanwhile. A dry run
// does not lock it.
func locked(ctx context.Context, conn *pgx.Conn, o Options, work func(schema.State) error) (err error) {
	// Before anything is looked at: another smpq could change it.
	if !o.DryRun {
		unlock, lockErr := schema.Lock(ctx, conn, o.Schema, "import")
		if lockErr != nil {
			return lockErr
		}
		defer func() { err = errors.Join(err, unlock(context.WithoutCancel(ctx))) }()
	}
	state, err := schema.Inspect(ctx, conn, o.Schema)
	if err != nil {
		return err
	}
	if err := state.Err(); err != nil {
		return err
	}
	return work(state)
}

// transaction does work in a transaction, which is undone if it fails, or says
// that nothing of it is to be kept.
func transaction(ctx context.Context, conn *pgx.Conn, work func(pgx.Tx) (keep bool, err error)) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	keep, err := work(tx)
	if err != nil || !keep {
		return errors.Join(err, rollback(ctx, tx))
	}
	return commit(ctx, tx)
}

// limitWaiting limits how long the transaction waits for a lock: a wait for one
// of a writer makes all others wait behind it.
func limitWaiting(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "set local lock_timeout = '10s'"); err != nil {
		return fmt.Errorf("set lock_timeout: %w", err)
	}
	return nil
}

// outcome returns the error of an import: that of a rejected record says all,
// what was under way does not matter.
func outcome(err error) error {
	if rejected, ok := errors.AsType[*RejectedError](err); ok {
		return rejected
	}
	return err
}

// rollback ends a transaction whose context may be cancelled already.
func rollback(ctx context.Context, tx pgx.Tx) error {
	err := tx.Rollback(context.WithoutCancel(ctx))
	if errors.Is(err, pgx.ErrTxClosed) || tx.Conn().IsClosed() {
		return nil // the server has rolled back
	}
	return err
}

func commit(ctx context.Context, tx pgx.Tx) error {
	err := tx.Commit(ctx)
	switch {
	case err == nil:
		return nil
	case tx.Conn().IsClosed():
		// The server may have done it, and could not say so.
		return fmt.Errorf("commit: all or nothing was imported, and importing it again will tell: %w", err)
	}
	return fmt.Errorf("commit: %w", err)
}
