package importer

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/journal"
	"github.com/smpq/smpq/internal/msglog"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

// A MessageResult says what an import of messages did. All numbers are of
// messages, quota markers included, unless they say otherwise. The JSON names are
// an interface.
type MessageResult struct {
	File      string   `json:"file"`            // or the folder of the journal
	Lines     int64    `json:"lines,omitempty"` // of a message log
	Bytes     int64    `json:"bytes,omitempty"` // of a message log
	Schema    string   `json:"schema"`
	Version   string   `json:"schema_version"`
	Releases  []string `json:"smp_server_releases"` // that accept the schema
	DryRun    bool     `json:"dry_run"`
	Unchanged bool     `json:"unchanged"` // all of the file was in the schema already
	Messages  int64    `json:"messages"`  // in the file that have a queue and have not expired
	Added     int64    `json:"messages_added"`
	Present   int64    `json:"messages_present"` // in the schema before
	Expired   int64    `json:"expired"`          // left out because of their time
	Queues    int64    `json:"queues"`           // that got messages
	OverQuota int64    `json:"queues_over_quota"`
	Oversize  int64    `json:"queues_oversize"` // with more messages than the quota and a quota marker
	Rejected  int64    `json:"rejected"`        // left out, orphans and conflicts included
	Orphans   int64    `json:"orphans"`         // left out because there is no such queue
	Conflicts int64    `json:"conflicts"`       // left out because the queue has others
	Notes     int64    `json:"notes"`           // irregularities that do no harm
	Verified  bool     `json:"verified"`
	Checksum  string   `json:"checksum,omitempty"` // of the messages that have a queue
	Seconds   float64  `json:"seconds"`
	Archived  string   `json:"archived,omitempty"` // new name of the file
	Changed   bool     `json:"changed_while_read"` // the file; what was added later is not imported
}

// MessageLog imports a message log into a schema that has its queues.
//
// A log whose messages are in the schema already is no error: the result says
// Unchanged. Without Options.Merge, the schema must have no other messages; with
// it, messages are added to queues that have none, and those of queues that have
// others are conflicts.
func MessageLog(ctx context.Context, conn *pgx.Conn, f *msglog.File, o Options) (MessageResult, error) {
	return newMessages(logSource(f, o.Log), o).run(ctx, conn)
}

// Journal is [MessageLog] for a journal.
func Journal(ctx context.Context, conn *pgx.Conn, t *journal.Tree, o Options) (MessageResult, error) {
	return newMessages(journalSource(t), o).run(ctx, conn)
}

// A source is a file with messages.
type source struct {
	name string
	size int64  // total for the progress, 0 if it is not known
	unit string // of it
	// items iterates over all that is in the file. It tells progress how many
	// more units were read.
	items func(ctx context.Context, progress func(int64)) iter.Seq2[item, error]
	// end completes the result when all items were read.
	end func(*MessageResult) error
}

// An item is a message, or what is wrong with a place in the file.
type item struct {
	queue   queue.RecipientID
	message *queue.Message // nil: see problem
	line    int64          // where it is, in a message log
	folder  string         // where it is, in a journal
	full    bool           // the queue is over quota
	problem *problem
}

// A problem is something that is not as it should be.
type problem struct {
	place, reason string
	text          []byte
	lost          bool // the record, which is rejected
}

func (i item) place() string {
	if i.folder != "" {
		return i.folder
	}
	return fmt.Sprintf("line %d", i.line)
}

func logSource(f *msglog.File, log *slog.Logger) source {
	var counts *msglog.Counts
	return source{
		name: f.Name(), size: f.Size(), unit: "bytes",
		items: func(ctx context.Context, progress func(int64)) iter.Seq2[item, error] {
			return func(yield func(item, error) bool) {
				o := msglog.Options{Progress: progress, OnProblem: func(p msglog.Problem) error {
					if !yield(item{problem: &problem{p.Place(), p.Reason, p.Text, p.Lost}}, nil) {
						return errStopped
					}
					return nil
				}}
				var entries iter.Seq2[*msglog.Entry, error]
				entries, counts = f.Entries(ctx, o)
				for e, err := range entries {
					switch {
					case errors.Is(err, errStopped):
						return
					case err != nil:
						yield(item{}, err)
						return
					case !yield(item{queue: e.Queue, message: &e.Message, line: e.Line}, nil):
						return
					}
				}
			}
		},
		end: func(res *MessageResult) error {
			res.Lines, res.Bytes = counts.Lines, counts.Bytes
			var err error
			if res.Changed, err = f.Changed(); res.Changed {
				log.Warn("the log was written to while it was read: what was added is not imported; is the router running?", slog.String("file", f.Name()))
			}
			return err
		},
	}
}

func journalSource(t *journal.Tree) source {
	return source{
		name: t.Name(), unit: "messages",
		items: func(ctx context.Context, progress func(int64)) iter.Seq2[item, error] {
			return func(yield func(item, error) bool) {
				o := journal.Options{OnProblem: func(p journal.Problem) error {
					if !yield(item{problem: &problem{p.Place(), p.Reason, p.Text, p.Lost}}, nil) {
						return errStopped
					}
					return nil
				}}
				for q, err := range t.Queues(ctx, o) {
					if err == nil {
						err = journalItems(ctx, q, progress, yield)
					}
					if errors.Is(err, errStopped) {
						return
					}
					if err != nil {
						yield(item{}, err)
						return
					}
				}
			}
		},
		end: func(*MessageResult) error { return nil },
	}
}

// journalItems yields the messages of a queue.
func journalItems(ctx context.Context, q *journal.Queue, progress func(int64), yield func(item, error) bool) error {
	folder := journal.Folder(q.ID)
	for m, err := range q.Messages(ctx) {
		if err != nil {
			return err
		}
		if !yield(item{queue: q.ID, message: m, folder: folder, full: !q.CanWrite}, nil) {
			return errStopped
		}
		progress(1)
	}
	return nil
}

// errStopped ends the reading of a file of which no more is wanted.
var errStopped = errors.New("no more is wanted")

// A messages is an import of messages under way.
type messages struct {
	o       Options
	source  source
	start   time.Time
	res     MessageResult
	rejects rejects
}

func newMessages(s source, o Options) *messages {
	return &messages{
		o: o, source: s, start: time.Now(),
		res:     MessageResult{File: s.name, Schema: o.Schema, DryRun: o.DryRun},
		rejects: rejects{file: s.name, max: o.MaxRejects, to: o.Rejects},
	}
}

// result returns what was done so far.
func (im *messages) result() MessageResult {
	im.res.Rejected, im.res.Conflicts = im.rejects.rejected, im.rejects.conflicts
	im.res.Seconds = time.Since(im.start).Seconds()
	return im.res
}

func (im *messages) run(ctx context.Context, conn *pgx.Conn) (MessageResult, error) {
	err := locked(ctx, conn, im.o, func(schema.State) error {
		return transaction(ctx, conn, func(tx pgx.Tx) (bool, error) {
			changed, err := im.apply(ctx, tx)
			return changed && !im.o.DryRun, err
		})
	})
	return im.result(), outcome(err)
}

// apply brings the messages into the database and reports whether that changes
// anything.
func (im *messages) apply(ctx context.Context, tx pgx.Tx) (changed bool, err error) {
	s, err := store.OpenSchema(ctx, tx, im.o.Schema)
	if err != nil {
		return false, err
	}
	im.res.Version, im.res.Releases = string(s.Version), s.Version.Releases()
	if err := limitWaiting(ctx, tx); err != nil {
		return false, err
	}
	load, err := store.NewLoad(ctx, tx, s)
	if err != nil {
		return false, err
	}
	if load.Direct() {
		return true, im.fill(ctx, tx, s, load)
	}
	return im.add(ctx, tx, s, load)
}

// fill imports into a schema without messages: without indexes first.
func (im *messages) fill(ctx context.Context, tx pgx.Tx, s store.Schema, load *store.Load) error {
	detached, err := schema.Detach(ctx, tx, im.o.Schema, "messages")
	if err != nil {
		return err
	}
	if err := im.copy(ctx, load); err != nil {
		return err
	}
	im.o.Progress.Phase("building indexes", 0, "indexes and keys")
	if err := detached.Restore(ctx, tx, func(string) { im.o.Progress.Add(1) }); err != nil {
		return err
	}
	im.res.Added = im.res.Messages
	if err := im.count(ctx, load); err != nil {
		return err
	}
	if err := store.Analyze(ctx, tx, s); err != nil || im.o.SkipVerify {
		return err
	}
	im.o.Progress.Phase("verifying", im.res.Messages, "messages")
	if err := im.verifyCopy(ctx, load); err != nil {
		return err
	}
	return im.verifyCounts(ctx, load)
}

// add imports into a schema with messages.
func (im *messages) add(ctx context.Context, tx pgx.Tx, s store.Schema, load *store.Load) (changed bool, err error) {
	if err := im.copy(ctx, load); err != nil {
		return false, err
	}
	if !im.o.SkipVerify {
		im.o.Progress.Phase("verifying the copy", 0, "messages")
		if err := im.verifyCopy(ctx, load); err != nil {
			return false, err
		}
	}
	im.o.Progress.Phase("comparing with the database", 0, "messages")
	conflicts := int64(0)
	found, err := load.Compare(ctx, func(m store.MessageRow) error {
		conflicts++
		if !im.o.Merge {
			return nil
		}
		return im.rejects.reject("queue "+m.Queue.String(), "the database has other messages of the queue", msglog.Append(nil, m.Queue, &m.Message), true)
	})
	if err != nil {
		return false, err
	}
	im.res.Present = found.Present
	switch {
	case found.Added == 0 && conflicts == 0 && (im.o.Merge || found.Others == 0):
		im.res.Unchanged, im.res.Verified = true, !im.o.SkipVerify
		return false, nil
	case !im.o.Merge:
		return false, fmt.Errorf("%w: %s has messages, which are not those of %s; use --into-existing to add messages to queues that have none",
			schema.ErrExists, schema.Quote(im.o.Schema), im.source.name)
	}
	im.res.Added = found.Added
	im.o.Progress.Phase("merging", 0, "messages")
	if err := load.Insert(ctx); err != nil {
		return false, err
	}
	if err := im.count(ctx, load); err != nil {
		return false, err
	}
	if !im.o.SkipVerify {
		missing, err := load.Missing(ctx)
		if err != nil {
			return false, err
		}
		if missing > 0 {
			return false, fmt.Errorf("%w: of %d queues, schema %s has other messages", ErrDifferent, missing, schema.Quote(im.o.Schema))
		}
		if err := im.verifyCounts(ctx, load); err != nil {
			return false, err
		}
	}
	return im.res.Added > 0, store.Analyze(ctx, tx, s)
}

// A chunk is read ahead while the one before it is copied. It ends with the
// first of these limits.
const (
	chunkItems = 8192
	chunkBytes = 4 << 20 // of bodies
)

// copy copies the messages that have a queue and have not expired.
func (im *messages) copy(ctx context.Context, load *store.Load) error {
	im.o.Progress.Phase("copying messages", im.source.size, im.source.unit)
	reading, cancel := context.WithCancel(ctx)
	chunks := make(chan []item)
	var readErr error
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		defer close(chunks)
		readErr = im.read(reading, chunks)
	})
	for chunk := range chunks {
		if err := im.copyChunk(ctx, load, chunk); err != nil {
			return err
		}
	}
	if readErr != nil {
		return readErr
	}
	im.res.Messages = load.Copied().Rows
	im.res.Checksum = load.Copied().String()
	return im.source.end(&im.res)
}

// read reads the file in chunks.
func (im *messages) read(ctx context.Context, chunks chan<- []item) error {
	var chunk []item
	bytes := 0
	send := func() error {
		select {
		case chunks <- chunk:
		case <-ctx.Done():
			return ctx.Err()
		}
		chunk, bytes = nil, 0
		return nil
	}
	for i, err := range im.source.items(ctx, im.o.Progress.Add) {
		if err != nil {
			return err
		}
		chunk = append(chunk, i)
		if i.message != nil {
			bytes += len(i.message.Body)
		}
		if len(chunk) == chunkItems || bytes >= chunkBytes {
			if err := send(); err != nil {
				return err
			}
		}
	}
	return send()
}

func (im *messages) copyChunk(ctx context.Context, load *store.Load, chunk []item) error {
	absent, err := im.absent(ctx, load, chunk)
	if err != nil {
		return err
	}
	rows := make([]store.MessageRow, 0, len(chunk))
	var full []queue.RecipientID
	for _, i := range chunk {
		if i.message == nil {
			if err := im.problem(i.problem); err != nil {
				return err
			}
			continue
		}
		if im.o.Before != 0 && i.message.Time < im.o.Before && !i.message.QuotaMarker {
			im.res.Expired++
			continue
		}
		if reason, ok := absent[i.queue]; ok {
			im.res.Orphans++
			reason = "queue " + i.queue.String() + ": " + reason
			if err := im.rejects.reject(i.place(), reason, msglog.Append(nil, i.queue, i.message), false); err != nil {
				return err
			}
			continue
		}
		rows = append(rows, store.MessageRow{Queue: i.queue, Message: *i.message})
		if i.full && (len(full) == 0 || full[len(full)-1] != i.queue) {
			full = append(full, i.queue)
		}
	}
	if len(rows) == 0 {
		return nil
	}
	if err := load.Copy(ctx, rows, nil); err != nil {
		return err
	}
	return load.Close(ctx, full)
}

// absent returns those queues of a chunk that the schema does not have.
func (im *messages) absent(ctx context.Context, load *store.Load, chunk []item) (map[queue.RecipientID]string, error) {
	var ids []queue.RecipientID
	seen := make(map[queue.RecipientID]bool)
	for _, i := range chunk {
		if i.message != nil && !seen[i.queue] {
			seen[i.queue] = true
			ids = append(ids, i.queue)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	return load.Absent(ctx, ids)
}

// problem takes what is wrong with the file.
func (im *messages) problem(p *problem) error {
	if p.lost {
		return im.rejects.reject(p.place, p.reason, p.text, false)
	}
	im.res.Notes++
	im.o.Log.Warn(p.reason, slog.String("file", im.source.name), slog.String("place", p.place))
	return nil
}

func (im *messages) count(ctx context.Context, load *store.Load) error {
	im.o.Progress.Phase("counting", 0, "queues")
	c, err := load.Count(ctx, im.o.Quota)
	im.res.Queues, im.res.OverQuota, im.res.Oversize = c.Queues, c.OverQuota, c.Oversize
	return err
}

func (im *messages) verifyCopy(ctx context.Context, load *store.Load) error {
	have, err := load.Checksum(ctx)
	if err != nil {
		return err
	}
	if have != load.Copied() {
		return fmt.Errorf("%w: messages that were sent: %s; in the table: %s", ErrDifferent, load.Copied(), have)
	}
	return nil
}

func (im *messages) verifyCounts(ctx context.Context, load *store.Load) error {
	wrong, err := load.WrongCounts(ctx)
	if err != nil {
		return err
	}
	if wrong > 0 {
		return fmt.Errorf("%w: %d queues do not count their messages as they are", ErrDifferent, wrong)
	}
	im.o.Progress.Add(im.res.Messages)
	im.res.Verified = true
	return nil
}
