package store

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/smpq/smpq/internal/schema"
)

// A lane is the connections for one kind of work, so that bulk work never makes
// clients wait. Each call takes one round trip and one transaction, READ
// COMMITTED.
type lane struct {
	pool    *pgxpool.Pool
	timeout time.Duration // for one call, waiting for a connection not included
	begin   string        // begins transactions that write; empty: nothing to do
	path    string        // argument of begin
	lastTry atomic.Int64  // Unix nanoseconds of the last failure to connect
}

// errAway is what callers get at once while the database cannot be reached.
var errAway = errors.New("the database is away")

const (
	// retryConnect is how long callers fail at once after a connection failed.
	retryConnect = 200 * time.Millisecond
	// connectTimeout bounds one attempt to connect.
	connectTimeout = 5 * time.Second
	// tries is how often statements are tried when connections break.
	tries = 3
	// retryRead is the pause before a read is tried again; it doubles.
	retryRead = 20 * time.Millisecond
)

// localPath sets the search_path for a transaction: a pooler may give each
// transaction another session.
const localPath = "select set_config('search_path', $1, true)"

// newLane returns a lane with up to size connections, of which none is made yet.
func newLane(ctx context.Context, o Options, size int, timeout time.Duration) (*lane, error) {
	cfg, err := pgxpool.ParseConfig(o.DSN)
	if err != nil {
		return nil, fmt.Errorf("connection string: %w", parseCause(err))
	}
	cfg.MaxConns = int32(size) //nolint:gosec // a number of connections
	cfg.MinConns = 0
	cfg.PingTimeout = connectTimeout
	cfg.ConnConfig.ConnectTimeout = connectTimeout
	cfg.ConnConfig.RuntimeParams["application_name"] = o.Application
	l := &lane{timeout: timeout}
	if o.Pooled {
		// Prepared statements belong to a session.
		cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
		l.begin, l.path = localPath, schema.Quote(o.Schema)
	} else {
		cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			return prepareSession(ctx, conn, o.Schema, 2*timeout)
		}
	}
	cfg.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
		if time.Since(time.Unix(0, l.lastTry.Load())) < retryConnect {
			return errAway
		}
		return nil
	}
	if l.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return nil, fmt.Errorf("connections to the database: %w", err)
	}
	return l, nil
}

// acquire takes a connection. It fails at once if there is none and none could be
// made a moment ago.
func (l *lane) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	conn, err := l.pool.Acquire(ctx)
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() != nil, errors.Is(err, errAway):
	default:
		l.lastTry.Store(time.Now().UnixNano())
		err = &connectError{err}
	}
	return nil, &unsentError{err}
}

// An unsentError is why no statement was sent.
type unsentError struct{ err error }

func (e *unsentError) Error() string { return e.err.Error() }
func (e *unsentError) Unwrap() error { return e.err }

// read runs statements that change nothing, and runs them again if the connection
// breaks: queue is called once for each try. Cancelling ctx stops it.
func (l *lane) read(ctx context.Context, queue func(*pgx.Batch)) error {
	pause := retryRead
	for try := 1; ; try++ {
		conn, err := l.acquire(ctx)
		if err != nil {
			return err
		}
		err = send(ctx, l.timeout, conn, queue)
		broken := conn.Conn().IsClosed()
		conn.Release()
		if err == nil || !broken || try == tries || ctx.Err() != nil {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
		pause *= 2
	}
}

// write runs statements in one transaction. Until the first is on its way, ctx
// can cancel it, and it is tried again if the connection was broken; from then on
// it goes on to its end, within the time of the lane. An error that is not
// [certain] leaves open whether they were committed.
func (l *lane) write(ctx context.Context, queue func(*pgx.Batch)) error {
	for try := 1; ; try++ {
		conn, err := l.acquire(ctx)
		if err != nil {
			return err
		}
		err = send(context.WithoutCancel(ctx), l.timeout, conn, func(b *pgx.Batch) {
			if l.begin != "" {
				b.Queue(l.begin, l.path)
			}
			queue(b)
		})
		conn.Release()
		if err == nil || try == tries || !pgconn.SafeToRetry(err) {
			return err
		}
	}
}

// send runs statements as one pipeline, which is one transaction.
func send(ctx context.Context, timeout time.Duration, conn *pgxpool.Conn, queue func(*pgx.Batch)) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var b pgx.Batch
	queue(&b)
	return conn.SendBatch(ctx, &b).Close()
}

func (l *lane) close() { l.pool.Close() }
