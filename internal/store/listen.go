package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
)

// An invalidator is told what can no longer be trusted to be what the database
// has.
type invalidator interface {
	invalidate(queue.RecipientID)
	invalidateAll()
}

const (
	// pollInterval is how often the log of administrative changes is read where
	// nobody can listen.
	pollInterval = time.Second
	// silence is how long a connection says nothing before it is tested.
	silence = 15 * time.Second
	// minRetry and maxRetry bound the pause before the next try to listen. As each
	// try makes all records stale, maxRetry bounds how old they get, too.
	minRetry = 50 * time.Millisecond
	maxRetry = 5 * time.Second
)

// watch tells the cache which queues administrators change, until ctx is done. It
// calls ready once: when it does so, or has failed for the first time.
func (s *Store) watch(ctx context.Context, ready func()) {
	if s.o.Pooled {
		newPoller(s.work, s.schema, s, s.log).run(ctx, pollInterval, ready)
		return
	}
	l := listener{config: s.o.Config, cache: s, log: s.log, silence: silence, timeout: connectTimeout}
	l.run(ctx, ready)
}

// A listener hears of changes by notifications.
type listener struct {
	config  Config
	cache   invalidator
	log     *slog.Logger
	silence time.Duration // after which the connection is tested
	timeout time.Duration // for what the server is asked
}

// run listens until ctx is done. Whatever happened while it did not listen is
// unknown, so all that is in the cache becomes stale: when the connection is lost,
// and again when there is a new one, on which everything from then on is heard.
func (l *listener) run(ctx context.Context, ready func()) {
	pause := minRetry
	tried := sync.OnceFunc(ready)
	for ctx.Err() == nil {
		err := l.listen(ctx, func() {
			if pause > minRetry {
				l.log.Info("administrative changes are heard of again")
			}
			pause = minRetry
			l.cache.invalidateAll()
			tried()
		})
		l.cache.invalidateAll()
		tried()
		if ctx.Err() != nil {
			return
		}
		if pause == minRetry {
			l.log.Warn("administrative changes are not heard of for now", slog.Any("error", err))
		}
		pause = min(2*pause, maxRetry)
		wait(ctx, pause/2+rand.N(pause/2)) //nolint:gosec // no secret
	}
}

// wait returns after a time, or when ctx is done.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// listen calls ready when it listens, and returns why it does no longer.
func (l *listener) listen(ctx context.Context, ready func()) error {
	conn, err := l.connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.timeout)
		defer cancel()
		_ = conn.Close(ctx) // nothing depends on how it ends
	}()
	ready()
	for {
		n, err := l.next(ctx, conn)
		if err != nil {
			return err
		}
		ids, err := parsePayload(n)
		if err != nil {
			l.log.Warn("an announcement of changes is not understood", slog.Any("error", err))
			l.cache.invalidateAll()
		}
		for _, id := range ids {
			l.cache.invalidate(id)
		}
	}
}

func (l *listener) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	conn, err := Connect(ctx, l.config)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "listen "+schema.Quote(channel(l.config.Schema))); err != nil {
		return nil, errors.Join(fmt.Errorf("listen: %w", err), conn.Close(ctx))
	}
	return conn, nil
}

// next waits for a notification and returns its payload. A connection that broke
// without anybody telling is found out by a question now and then.
func (l *listener) next(ctx context.Context, conn *pgx.Conn) (string, error) {
	for {
		quiet, cancel := context.WithTimeout(ctx, l.silence)
		n, err := conn.WaitForNotification(quiet)
		cancel()
		if err == nil {
			return n.Payload, nil
		}
		if ctx.Err() != nil || quiet.Err() == nil {
			return "", fmt.Errorf("wait for a notification: %w", err)
		}
		test, cancel := context.WithTimeout(ctx, l.timeout)
		err = conn.Ping(test)
		cancel()
		if err != nil {
			return "", fmt.Errorf("test the connection: %w", err)
		}
	}
}

// A poller reads of changes in the log. Transactions commit in another order than
// they begin, and a line can be seen long after later ones. So each time it reads
// the lines of all transactions that may have been under way the last time.
type poller struct {
	lane   *lane
	schema Schema
	cache  invalidator
	log    *slog.Logger
	from   int64              // the first transaction that may have been under way
	seen   map[int64]struct{} // lines of transactions from then on that are known
	exists bool               // the log was there the last time
	failed bool               // the last time
}

func newPoller(l *lane, s Schema, cache invalidator, log *slog.Logger) *poller {
	return &poller{lane: l, schema: s, cache: cache, log: log, from: math.MaxInt64}
}

func (p *poller) run(ctx context.Context, interval time.Duration, ready func()) {
	tried := sync.OnceFunc(ready)
	for ctx.Err() == nil {
		err := p.poll(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			// Either the database is away, or it does not let the log be read.
			p.cache.invalidateAll()
			if !p.failed {
				p.log.Warn("administrative changes are not seen for now", slog.Any("error", err))
			}
		case p.failed:
			p.log.Info("administrative changes are seen again")
		}
		p.failed = err != nil
		tried()
		wait(ctx, interval)
	}
}

func (p *poller) poll(ctx context.Context) error {
	if !p.exists {
		// To read what is not there would be an error in the server's log each time.
		err := p.lane.read(ctx, func(b *pgx.Batch) {
			b.Queue("select not " + auditMissing).QueryRow(func(row pgx.Row) error { return row.Scan(&p.exists) })
		})
		if err != nil {
			return fmt.Errorf("look for the log of administrative changes: %w", err)
		}
		if !p.exists {
			return nil
		}
	}
	var (
		from  int64
		lines []int64
		ids   []queue.RecipientID
	)
	err := p.lane.read(ctx, func(b *pgx.Batch) {
		// A database that was restored may have lines of transactions to come.
		b.Queue("select pg_snapshot_xmin(pg_current_snapshot())::text::bigint,"+
			" coalesce(array_agg(id), '{}'), coalesce(array_agg(recipient_id), '{}') from "+auditTable+
			" where schema_name = $1 and xact >= $2 and xact < pg_snapshot_xmax(pg_current_snapshot())::text::bigint",
			p.schema.Name, p.from).
			QueryRow(func(row pgx.Row) error { return row.Scan(&from, &lines, &ids) })
	})
	switch {
	case absent(err):
		p.exists = false
		return nil
	case err != nil:
		return fmt.Errorf("read the log of administrative changes: %w", err)
	}
	if p.from == math.MaxInt64 || from < p.from {
		// The log can be read for the first time, or the database went back to an
		// earlier state.
		p.cache.invalidateAll()
	}
	seen := make(map[int64]struct{}, len(lines))
	for i, line := range lines {
		if _, old := p.seen[line]; !old {
			p.cache.invalidate(ids[i])
		}
		seen[line] = struct{}{}
	}
	p.from, p.seen = from, seen
	return nil
}
