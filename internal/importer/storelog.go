package importer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/storelog"
)

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

// An importing is an import of a store log under way.
type importing struct {
	o       Options
	conn    *pgx.Conn
	file    *storelog.File
	start   time.Time
	isNew   bool // the schema is to be made
	res     Result
	rejects rejects
}

// StoreLog imports a store log.
//
// A log whose services and queues are in the schema already is no error: the
// result says Unchanged.
func StoreLog(ctx context.Context, conn *pgx.Conn, f *storelog.File, o Options) (Result, error) {
	im := newImporting(conn, f, o)
	err := locked(ctx, conn, o, func(state schema.State) (err error) {
		log, err := im.read(ctx, state)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, log.Close()) }()
		if im.isNew && o.DryRun {
			return im.count(ctx, log)
		}
		return transaction(ctx, conn, func(tx pgx.Tx) (bool, error) {
			changed, err := im.apply(ctx, tx, log)
			return changed && !o.DryRun, err
		})
	})
	return im.result(), outcome(err)
}

func newImporting(conn *pgx.Conn, f *storelog.File, o Options) *importing {
	return &importing{
		o: o, conn: conn, file: f, start: time.Now(),
		res:     Result{File: f.Name(), Schema: o.Schema, DryRun: o.DryRun, Unfinished: f.Unfinished()},
		rejects: rejects{file: f.Name(), max: o.MaxRejects, to: o.Rejects},
	}
}

// result returns what was done so far.
func (im *importing) result() Result {
	im.res.Rejected, im.res.Conflicts = im.rejects.rejected, im.rejects.conflicts
	im.res.Seconds = time.Since(im.start).Seconds()
	return im.res
}

// read reads the log for a schema that was found to be in a state.
func (im *importing) read(ctx context.Context, state schema.State) (*storelog.State, error) {
	if im.file.Unfinished() {
		im.o.Log.WarnContext(ctx, "a router was stopped while it compacted the log; reading what it would read at its next start",
			slog.String("file", im.file.Name()))
	}
	im.isNew = state.Version == schema.None
	if !im.isNew {
		im.setVersion(state.Version)
		return im.replay(ctx)
	}
	im.setVersion(im.o.Version)
	if err := im.probe(ctx); err != nil {
		return nil, err
	}
	return im.replay(ctx)
}

// apply brings the log into the database and reports whether that changes
// anything.
func (im *importing) apply(ctx context.Context, tx pgx.Tx, log *storelog.State) (changed bool, err error) {
	switch {
	case im.isNew:
		err = im.create(ctx, tx, log)
	case im.o.Merge:
		err = im.merge(ctx, tx, log)
	default:
		err = im.compare(ctx, tx, log)
	}
	return !im.res.Unchanged, err
}

// problem takes a problem of the log.
func (im *importing) problem(p storelog.Problem) error {
	switch {
	case p.Kind.Loses():
		return im.rejects.reject(p.Place(), p.Reason, p.Text, false)
	case p.Kind == storelog.Late:
		im.res.Ignored++
	default:
		im.o.Log.Warn(p.Reason, slog.String("file", im.file.Name()), slog.Int64("line", p.Line))
	}
	return nil
}

func (im *importing) setVersion(v schema.Version) {
	im.res.Version, im.res.Releases = string(v), v.Releases()
}

// probe makes the schema and takes it back, so that whatever forbids it is
// found before a long log is read.
func (im *importing) probe(ctx context.Context) error {
	return transaction(ctx, im.conn, func(tx pgx.Tx) (bool, error) {
		return false, schema.Create(ctx, tx, im.o.Schema, im.o.Version)
	})
}

// replay reads the log up to the point from which its queues can be had.
func (im *importing) replay(ctx context.Context) (*storelog.State, error) {
	im.o.Progress.Phase("reading log", im.file.Size(), "bytes")
	log, err := storelog.Replay(ctx, im.file, storelog.Options{
		TempDir:     im.o.TempDir,
		Memory:      im.o.Memory,
		OnProblem:   im.problem,
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
func (im *importing) compare(ctx context.Context, tx pgx.Tx, log *storelog.State) error {
	queues, err := im.checksum(ctx, log)
	if err != nil {
		return err
	}
	services, err := store.ChecksumOfServices(log.Services())
	if err != nil {
		return err
	}
	s, err := store.OpenSchema(ctx, tx, im.o.Schema)
	if err != nil {
		return err
	}
	im.o.Progress.Phase("comparing with the database", 0, "queues")
	have, err := store.ChecksumQueues(ctx, tx, s)
	if err != nil {
		return err
	}
	haveServices, err := store.ChecksumServices(ctx, tx, s)
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
// constraints and triggers, statistics and verification.
func (im *importing) create(ctx context.Context, tx pgx.Tx, log *storelog.State) error {
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
	return im.verify(ctx, tx, s, copied.Checksum, services)
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
