package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/smpq/smpq/internal/schema"
)

// A lane is the connections for one kind of work, so that bulk work never makes
// clients wait. Each call takes one round trip and one transaction, READ
// COMMITTED.
//
// While the database cannot be reached, calls fail at once, but for one now and
// then that tries to connect; the first that can ends it.
type lane struct {
	pool    *pgxpool.Pool
	timeout time.Duration // for waiting for a connection, and for one transaction
	begin   string        // begins transactions where sessions cannot be set up; else empty
	args    []any         // of begin
	outage  outage
	orphans *orphans // nil where sessions belong to a pooler
}

const (
	// retryConnect is how long calls fail at once after a connection failed.
	retryConnect = 200 * time.Millisecond
	// connectTimeout bounds one attempt to connect, or to find out whether a
	// connection that was not used for a while still works.
	connectTimeout = 5 * time.Second
	// lockTimeout bounds how long a statement waits for a queue or a table that
	// another session has locked. It is much less than the time of a lane, as this
	// way it is certain that nothing was written.
	lockTimeout = 2 * time.Second
	// tries is how often statements are tried.
	tries = 3
	// retryPause is the pause before statements are tried again; it doubles.
	retryPause = 20 * time.Millisecond
)

// beginLocal sets, for a transaction, what prepareSession sets for a session. A
// pooler may give each transaction another one.
const beginLocal = "select set_config('search_path', $1, true), set_config('statement_timeout', $2, true), set_config('lock_timeout', $3, true)"

// newLane returns a lane with up to size connections, of which none is made yet.
func newLane(ctx context.Context, o Options, size int, timeout time.Duration) (*lane, error) {
	cfg, err := pgxpool.ParseConfig(o.DSN)
	if err != nil {
		return nil, fmt.Errorf("connection string: %w", parseCause(err))
	}
	cfg.MaxConns = int32(size) //nolint:gosec // a number of connections
	cfg.MinConns = 0
	cfg.MinIdleConns = 0
	// Less than the time of a call, so that a call sees what came of it.
	connect := min(connectTimeout, timeout/2)
	if t := cfg.ConnConfig.ConnectTimeout; t > 0 {
		connect = min(connect, t)
	}
	cfg.PingTimeout, cfg.ConnConfig.ConnectTimeout = connect, connect
	cfg.ConnConfig.RuntimeParams["application_name"] = o.Application
	l := &lane{timeout: timeout}
	// The client gives up first, and cancels the statement. The server does if that
	// does not get through.
	limit := serverLimit(timeout)
	if o.Pooled {
		// Prepared statements belong to a session.
		cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
		l.begin = beginLocal
		l.args = []any{schema.Quote(o.Schema), milliseconds(limit), milliseconds(lockTimeout)}
	}
	if !o.Pooled {
		l.orphans = &orphans{application: o.Application}
	}
	cfg.BeforeConnect = func(ctx context.Context, _ *pgx.ConnConfig) error {
		if ctx.Value(probing{}) != nil {
			return nil
		}
		return l.outage.err()
	}
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if !o.Pooled {
			ctx, cancel := context.WithTimeout(ctx, connect)
			defer cancel()
			if err := prepareSession(ctx, conn, o.Schema, limit, lockTimeout); err != nil {
				return err
			}
		}
		l.outage.end()
		return nil
	}
	cfg.PrepareConn = func(_ context.Context, conn *pgx.Conn) (bool, error) {
		return quiet(conn.PgConn().Conn()), nil
	}
	if l.pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		return nil, fmt.Errorf("connections to the database: %w", err)
	}
	return l, nil
}

// serverLimit is the server's limit for a statement of a lane with a timeout.
func serverLimit(timeout time.Duration) time.Duration { return 2 * timeout }

// acquire takes a connection, and waits for one if all are in use. It fails at
// once while the database cannot be reached.
func (l *lane) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	limited, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	// Not only before it connects: the pool may have no room for connections, as
	// those that broke keep theirs until the network has given them up.
	if l.outage.err() != nil && l.pool.Stat().IdleConns() == 0 {
		if err := l.outage.try(); err != nil {
			return nil, &unsentError{err}
		}
		limited = context.WithValue(limited, probing{}, true)
	}
	conn, err := l.pool.Acquire(limited)
	for err != nil && limited.Err() == nil && crowded(err) && l.pool.Stat().AcquiredConns() > 0 {
		// The server has no room for another connection; those that there are will
		// do, as soon as one is free.
		wait(limited, retryPause)
		conn, err = l.pool.Acquire(limited)
	}
	if err == nil {
		if err = l.orphans.end(limited, conn.Conn()); err == nil {
			return conn, nil
		}
		conn.Release()
		return nil, &unsentError{err}
	}
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case limited.Err() != nil:
		err = fmt.Errorf("no connection to the database within %s: %w", l.timeout, err)
	case errors.Is(err, errAway):
	default:
		err = &connectError{err}
		l.outage.begin(err)
	}
	return nil, &unsentError{err}
}

// crowded reports whether the server refused a connection because it has too many.
func crowded(err error) bool {
	const tooManyConnections = "53300"
	return sqlState(err) == tooManyConnections
}

// An unsentError is why no statement was sent.
type unsentError struct{ err error }

func (e *unsentError) Error() string { return e.err.Error() }
func (e *unsentError) Unwrap() error { return e.err }

// read runs statements that change nothing, and runs them again if the connection
// breaks: queue is called once for each try. Cancelling ctx stops it.
func (l *lane) read(ctx context.Context, queue func(*pgx.Batch)) error {
	return l.try(ctx, queue, func(conn *pgxpool.Conn, b *pgx.Batch) (again bool, err error) {
		ctx, cancel := context.WithTimeout(ctx, l.timeout)
		defer cancel()
		err = conn.SendBatch(ctx, b).Close()
		// A server that did not answer in time will not do better with more to do.
		return ctx.Err() == nil && conn.Conn().IsClosed(), err
	})
}

// write runs statements in one transaction. Until the first is on its way, ctx
// can cancel it, and it is tried again if the connection was broken, as it is if
// the server rolled it back for the sake of another transaction: queue is called
// once for each try. Once on its way it goes on to its end, within the time of
// the lane. An error that is not [certain] leaves open whether it was committed.
func (l *lane) write(ctx context.Context, queue func(*pgx.Batch)) error {
	begin := func(b *pgx.Batch) {
		if l.begin != "" {
			b.Queue(l.begin, l.args...)
		}
		queue(b)
	}
	return l.try(ctx, begin, func(conn *pgxpool.Conn, b *pgx.Batch) (again bool, err error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.timeout)
		defer cancel()
		err = conn.SendBatch(ctx, b).Close()
		if err != nil && !certain(err) && conn.Conn().IsClosed() {
			l.orphans.add(conn.Conn().PgConn().PID())
		}
		return pgconn.SafeToRetry(err) || rolledBack(err), err
	})
}

// try runs statements as one pipeline, which is one transaction, until they
// succeed, send says that another try is of no use, or ctx is done.
func (l *lane) try(ctx context.Context, queue func(*pgx.Batch), send func(*pgxpool.Conn, *pgx.Batch) (bool, error)) error {
	pause := retryPause
	for n := 1; ; n++ {
		conn, err := l.acquire(ctx)
		if err != nil {
			return err
		}
		var b pgx.Batch
		queue(&b)
		again, err := send(conn, &b)
		conn.Release()
		if err == nil || !again || n == tries || ctx.Err() != nil {
			return err
		}
		wait(ctx, pause)
		if ctx.Err() != nil {
			return err
		}
		pause *= 2
	}
}

// view runs f in a read-only transaction of a session that is set up, or is as if.
// It may take as long as ctx allows.
func (l *lane) view(ctx context.Context, f func(pgx.Tx) error) error {
	conn, err := l.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if l.begin != "" {
			if _, err := tx.Exec(ctx, l.begin, l.args...); err != nil {
				return fmt.Errorf("set up the transaction: %w", err)
			}
		}
		return f(tx)
	})
}

// close waits for the calls that are under way and closes all connections.
func (l *lane) close() { l.pool.Close() }

// orphans are sessions whose connections broke while they were at work. Their
// transactions may still be committed; until they are gone, others could read what
// was before, and take it for what came of it.
type orphans struct {
	application string

	mu   sync.Mutex
	pids []uint32
}

// orphanTimeout bounds how long a session may take to end.
const orphanTimeout = 3 * time.Second

func (o *orphans) add(pid uint32) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pids = append(o.pids, pid)
}

// end ends all orphans there are, by way of another session. Several callers may
// do so at the same time.
func (o *orphans) end(ctx context.Context, conn *pgx.Conn) error {
	if o == nil {
		return nil
	}
	o.mu.Lock()
	pids := slices.Clone(o.pids)
	o.mu.Unlock()
	if len(pids) == 0 {
		return nil
	}
	const these = " from pg_stat_activity where pid = any ($1::bigint[]) and application_name = $2 and usename = session_user and pid <> pg_backend_pid()"
	_, err := conn.Exec(ctx, "select pg_terminate_backend(pid, $3)"+these, pids, o.application, orphanTimeout.Milliseconds())
	left := 0
	if err == nil {
		err = conn.QueryRow(ctx, "select count(*)"+these, pids, o.application).Scan(&left)
	}
	switch {
	case err != nil:
		return fmt.Errorf("end sessions that lost their connections: %w", err)
	case left > 0:
		return fmt.Errorf("%d sessions that lost their connections are still at work", left)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pids = slices.DeleteFunc(o.pids, func(pid uint32) bool { return slices.Contains(pids, pid) })
	return nil
}

// errAway is what callers get at once while the database cannot be reached.
var errAway = errors.New("the database is away")

// An outage is the time between an attempt to connect that failed and the next
// that does not.
type outage struct {
	mu    sync.Mutex
	cause error     // nil: there is none
	until time.Time // nobody needs to try before
}

// probing is the key of a context of the caller who tries to connect during an
// outage.
type probing struct{}

// try returns nil if the caller is to find out whether the outage is over, else
// the error that callers get.
func (o *outage) try() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cause != nil && time.Now().Before(o.until) {
		return o.away()
	}
	o.until = time.Now().Add(connectTimeout)
	return nil
}

// err returns the error that callers get during an outage.
func (o *outage) err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cause == nil {
		return nil
	}
	return o.away()
}

func (o *outage) away() error { return fmt.Errorf("%w: %w", errAway, o.cause) }

// begin notes that an attempt to connect failed.
func (o *outage) begin(cause error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cause, o.until = cause, time.Now().Add(retryConnect)
}

// end notes that an attempt to connect did not fail.
func (o *outage) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cause = nil
}
