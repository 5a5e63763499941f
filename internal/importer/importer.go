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
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/storelog"
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

	// SkipVerify spares the comparison of the tables with the log.
	SkipVerify bool

	// MaxRejects is how many records may be left out because they cannot be
	// read or applied; one more ends the import. Negative: any number.
	MaxRejects int64

	// Rejects, if not nil, gets the records that are left out, each behind a
	// line with the reason that starts with '#'.
	Rejects io.Writer

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

// A Result says what an import did. The JSON names are an interface.
type Result struct {
	File       string   `json:"file"`
	Lines      int64    `json:"lines"`
	Bytes      int64    `json:"bytes"`
	Schema     string   `json:"schema"`
	Version    string   `json:"schema_version"`
	Releases   []string `json:"smp_server_releases"` // that accept the schema
	DryRun     bool     `json:"dry_run"`
	Unchanged  bool     `json:"unchanged"` // all of the log was in the schema already
	Services   int64    `json:"services"`  // in the log
	Queues     int64    `json:"queues"`    // in the log
	Added      int64    `json:"queues_added"`
	Present    int64    `json:"queues_present"` // in the schema before
	Rejected   int64    `json:"rejected"`       // records left out, conflicts included
	Conflicts  int64    `json:"conflicts"`      // queues left out because the schema has others
	Ignored    int64    `json:"ignored"`        // records about deleted queues, without effect
	Verified   bool     `json:"verified"`
	Checksum   string   `json:"checksum,omitempty"` // of the queues in the log
	Seconds    float64  `json:"seconds"`
	Archived   string   `json:"archived,omitempty"` // new name of the file
	Unfinished bool     `json:"unfinished_compaction"`
	Changed    bool     `json:"changed_while_read"` // the file; what was added later is not imported
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

// ErrDifferent reports tables that do not hold what the log has. It would be an
// error of smpq or of the database; the import is undone.
var ErrDifferent = errors.New("verification failed: the tables differ from the log")

// An importing is an import under way.
type importing struct {
	o       Options
	conn    *pgx.Conn
	file    *storelog.File
	res     Result
	rejects rejects
}

// StoreLog imports a store log.
//
// A log whose services and queues are in the schema already is no error: the
// result says Unchanged.
func StoreLog(ctx context.Context, conn *pgx.Conn, f *storelog.File, o Options) (Result, error) {
	start := time.Now()
	im := &importing{o: o, conn: conn, file: f, res: Result{
		File:       f.Name(),
		Schema:     o.Schema,
		DryRun:     o.DryRun,
		Unfinished: f.Unfinished(),
	}}
	im.rejects = rejects{file: f.Name(), max: o.MaxRejects, to: o.Rejects, res: &im.res, log: o.Log}
	err := im.run(ctx)
	if rejected, ok := errors.AsType[*RejectedError](err); ok {
		err = rejected // it says all; what was under way does not matter
	}
	im.res.Seconds = time.Since(start).Seconds()
	return im.res, err
}

func (im *importing) run(ctx context.Context) (err error) {
	if im.file.Unfinished() {
		im.o.Log.WarnContext(ctx, "a router was stopped while it compacted the log; reading what it would read at its next start",
			slog.String("file", im.file.Name()))
	}
	// Before anything is looked at: another smpq could change it.
	if !im.o.DryRun {
		unlock, lockErr := schema.Lock(ctx, im.conn, im.o.Schema, "import")
		if lockErr != nil {
			return lockErr
		}
		defer func() { err = errors.Join(err, unlock(context.WithoutCancel(ctx))) }()
	}
	state, err := schema.Inspect(ctx, im.conn, im.o.Schema)
	if err != nil {
		return err
	}
	if err := state.Err(); err != nil {
		return err
	}
	isNew := state.Version == schema.None
	im.setVersion(im.o.Version)
	if !isNew {
		im.setVersion(state.Version)
	}
	if isNew {
		if err := im.probe(ctx); err != nil {
			return err
		}
	}
	log, err := im.replay(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	switch {
	case isNew && im.o.DryRun:
		return im.count(ctx, log)
	case isNew:
		return im.create(ctx, log)
	case im.o.Merge:
		return im.merge(ctx, log)
	default:
		return im.compare(ctx, log)
	}
}

func (im *importing) setVersion(v schema.Version) {
	im.res.Version, im.res.Releases = string(v), v.Releases()
}

// probe makes the schema and takes it back, so that whatever forbids it is
// found before a long log is read.
func (im *importing) probe(ctx context.Context) error {
	tx, err := im.conn.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	err = schema.Create(ctx, tx, im.o.Schema, im.o.Version)
	return errors.Join(err, rollback(ctx, tx))
}

// replay reads the log up to the point from which its queues can be had.
func (im *importing) replay(ctx context.Context) (*storelog.State, error) {
	im.o.Progress.Phase("reading log", im.file.Size(), "bytes")
	log, err := storelog.Replay(ctx, im.file, storelog.Options{
		TempDir:     im.o.TempDir,
		Memory:      im.o.Memory,
		OnProblem:   im.rejects.problem,
		Progress:    im.o.Progress.Add,
		ForDatabase: true,
	})
	if err != nil {
		return nil, err
	}
	if im.res.Changed, err = im.file.Changed(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	if im.res.Changed {
		im.o.Log.WarnContext(ctx, "the log was written to while it was read: what was added is not imported; is the router running?",
			slog.String("file", im.file.Name()))
	}
	c := log.Counts()
	if c.Lines == 0 {
		im.o.Log.WarnContext(ctx, "the log is empty", slog.String("file", im.file.Name()))
	}
	im.res.Lines, im.res.Bytes = c.Lines, c.Bytes
	im.res.Services = int64(len(log.Services()))
	return log, nil
}

// count goes through the queues for a dry run.
func (im *importing) count(ctx context.Context, log *storelog.State) error {
	sum, err := im.checksum(ctx, log)
	im.res.Added = sum.Rows
	return err
}

// compare checks whether the schema holds just what the log has.
func (im *importing) compare(ctx context.Context, log *storelog.State) error {
	queues, err := im.checksum(ctx, log)
	if err != nil {
		return err
	}
	services, err := store.ChecksumOfServices(log.Services())
	if err != nil {
		return err
	}
	s, err := store.OpenSchema(ctx, im.conn, im.o.Schema)
	if err != nil {
		return err
	}
	im.o.Progress.Phase("comparing with the database", 0, "queues")
	have, err := store.ChecksumQueues(ctx, im.conn, s)
	if err != nil {
		return err
	}
	haveServices, err := store.ChecksumServices(ctx, im.conn, s)
	if err != nil {
		return err
	}
	if have != queues || haveServices != services {
		return fmt.Errorf("%w: %s has %d queues and %d services, which are not those of the log (%d and %d); "+
			"use --into-existing to add the log to them, or another --schema",
			schema.ErrExists, schema.Quote(im.o.Schema), have.Rows, haveServices.Rows, queues.Rows, services.Rows)
	}
	im.res.Unchanged, im.res.Verified, im.res.Present = true, true, queues.Rows
	return nil
}

func (im *importing) checksum(ctx context.Context, log *storelog.State) (store.Checksum, error) {
	im.o.Progress.Phase("replaying log", im.expected(log), "queues")
	queues := func(yield func(*queue.Record, error) bool) {
		for q, err := range log.Queues(ctx) {
			im.o.Progress.Add(1)
			if !yield(q, err) {
				return
			}
		}
	}
	sum, err := store.ChecksumOfQueues(queues)
	im.res.Queues, im.res.Checksum = sum.Rows, sum.String()
	return sum, err
}

// expected estimates the number of queues for the progress.
func (im *importing) expected(log *storelog.State) int64 {
	r := log.Counts().Records
	return max(r["CREATE"]-r["DELETE"], 0)
}

// create imports into a new schema: tables without indexes, data, then indexes,
// constraints and triggers, statistics and verification, all in one transaction.
func (im *importing) create(ctx context.Context, log *storelog.State) (err error) {
	tx, err := im.conn.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, rollback(ctx, tx))
		}
	}()
	if err := schema.Create(ctx, tx, im.o.Schema, im.o.Version); err != nil {
		return err
	}
	s, err := store.OpenSchema(ctx, tx, im.o.Schema)
	if err != nil {
		return err
	}
	detached, err := schema.Detach(ctx, tx, im.o.Schema, "msg_queues", "services")
	if err != nil {
		return err
	}
	im.o.Progress.Phase("copying queues", im.expected(log), "queues")
	copied, err := store.CopyQueues(ctx, tx, s.Fresh(), log.DrainQueues(ctx), im.o.Progress.Add)
	if err != nil {
		return err
	}
	im.res.Queues, im.res.Added, im.res.Checksum = copied.Rows, copied.Rows, copied.String()
	services, err := store.CopyServices(ctx, tx, s, log.Services(), copied)
	if err != nil {
		return err
	}
	im.o.Progress.Phase("building indexes", 0, "indexes and keys")
	if err := detached.Restore(ctx, tx, func(string) { im.o.Progress.Add(1) }); err != nil {
		return err
	}
	if err := store.Analyze(ctx, tx, s); err != nil {
		return err
	}
	if err := im.verify(ctx, tx, s, copied.Checksum, services); err != nil {
		return err
	}
	return commit(ctx, tx)
}

func (im *importing) verify(ctx context.Context, q store.Querier, s store.Schema, queues, services store.Checksum) error {
	if im.o.SkipVerify {
		return nil
	}
	im.o.Progress.Phase("verifying", queues.Rows, "queues")
	have, err := store.ChecksumQueues(ctx, q, s)
	if err != nil {
		return err
	}
	if have != queues {
		return fmt.Errorf("%w: queues in the log: %s; in the table: %s", ErrDifferent, queues, have)
	}
	haveServices, err := store.ChecksumServices(ctx, q, s)
	if err != nil {
		return err
	}
	if haveServices != services {
		return fmt.Errorf("%w: services in the log: %s; in the table: %s", ErrDifferent, services, haveServices)
	}
	wrong, err := store.WrongAggregates(ctx, q, s)
	if err != nil {
		return err
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%w: service %s has a wrong number or hash of queues", ErrDifferent, wrong[0])
	}
	im.o.Progress.Add(queues.Rows)
	im.res.Verified = true
	return nil
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
		return fmt.Errorf("commit: all or nothing of the log was imported, and importing it again will tell: %w", err)
	}
	return fmt.Errorf("commit: %w", err)
}
