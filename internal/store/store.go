package store

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
)

// Options say how a [Store] works.
type Options struct {
	Config

	// Log receives what went wrong inside. Nil: nothing is logged.
	Log *slog.Logger

	// CacheSize is the memory in bytes for queues that are in use no more, but
	// may be soon. 0: none is kept.
	CacheSize int64

	// Quota is the number of messages that a queue takes before its sender has to
	// wait. 0: DefaultQuota.
	Quota int

	// Connections is the number of connections for what clients wait for. 0:
	// DefaultConnections. There are a few more for bulk work.
	Connections int

	// StoreLog is the name of a store log that is written beside the database,
	// which does not depend on it. Empty: none.
	StoreLog string

	// Pooled says that a pooler that works by the transaction, such as PgBouncer,
	// stands in between: no session can be relied upon.
	Pooled bool

	// Admin says who makes administrative changes beside a router. They are logged
	// in the table smpq.audit, which is made if need be, and announced to the
	// router. Empty: this is the router's own Store, which hears of them.
	Admin string
}

// What Options mean by 0.
const (
	DefaultQuota       = 128
	DefaultConnections = 8
)

const (
	bulkConnections = 2
	// interactiveTimeout bounds a call that a client waits for.
	interactiveTimeout = 10 * time.Second
	// bulkTimeout bounds a step of bulk work.
	bulkTimeout = 5 * time.Minute
)

// A Store is the queues, services and messages of a router in a schema of a
// PostgreSQL database. The database is the truth, and other programs may use it
// as well; of queues, the Store keeps what it has seen in memory.
//
// Its methods may be called from many goroutines. Errors of operations are of
// type [*Error].
type Store struct {
	o      Options
	log    *slog.Logger
	schema Schema

	failures failures
	cache    *cache
	loads    loads
	counts   counters
	logged   *logFile // nil: there is no store log
	work     *lane    // what clients wait for
	writes   *batcher // on work
	bulk     *lane    // everything else

	audited  atomic.Bool  // the log of administrative changes is there
	onChange atomic.Value // see OnChange; func(queue.RecipientID)

	watching     sync.WaitGroup // what hears of administrative changes
	stopWatching func()         // nil: nothing does
}

// Open opens the store in a schema, which must have messages.
func Open(ctx context.Context, o Options) (_ *Store, err error) {
	o.Quota = cmp.Or(o.Quota, DefaultQuota)
	o.Connections = cmp.Or(o.Connections, DefaultConnections)
	s := &Store{o: o, log: cmp.Or(o.Log, slog.New(slog.DiscardHandler)), cache: newCache(o.CacheSize), counts: counters{turn: make(chan struct{}, 1)}}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if o.StoreLog != "" {
		if s.logged, err = openLogFile(o.StoreLog); err != nil {
			return nil, err
		}
	}
	if s.work, err = newLane(ctx, o, o.Connections, interactiveTimeout); err != nil {
		return nil, err
	}
	if s.schema, err = findSchema(ctx, s.work, o.Schema); err != nil {
		return nil, err
	}
	s.writes = newBatcher(s.work, s.schema, o.Quota, max(o.Connections/4, 1))
	if s.bulk, err = newLane(ctx, o, bulkConnections, bulkTimeout); err != nil {
		return nil, err
	}
	s.bulk.orphans = s.work.orphans // what one lane began concerns what the other reads
	if o.Admin != "" {
		if err = s.openAudit(ctx); err != nil {
			return nil, err
		}
		return s, nil
	}
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stopWatching = stop
	ready := make(chan struct{})
	s.watching.Go(func() { s.watch(watching, func() { close(ready) }) })
	select {
	case <-ready:
		return s, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("listen for administrative changes: %w", ctx.Err())
	}
}

// findSchema looks at the schema.
func findSchema(ctx context.Context, l *lane, name string) (s Schema, err error) {
	err = l.view(ctx, func(tx pgx.Tx) error {
		// Where sessions cannot be set up, they have to be right.
		var have string
		if err := tx.QueryRow(ctx, "show default_transaction_isolation").Scan(&have); err != nil {
			return fmt.Errorf("read default_transaction_isolation: %w", err)
		}
		if have != isolation {
			return fmt.Errorf("default_transaction_isolation is %s: set it to '%s' for the role or the database (alter role … set …)", have, isolation)
		}
		s, err = OpenSchema(ctx, tx, name)
		return err
	})
	if err == nil && !s.HasMessages() {
		err = fmt.Errorf("schema %s has version %s, which has no messages; run smpq migrate up first", name, s.Version)
	}
	return s, err
}

// Close waits for what is under way and closes all connections.
func (s *Store) Close() {
	if s.stopWatching != nil {
		s.stopWatching()
		s.watching.Wait()
	}
	if s.writes != nil {
		s.writes.close()
	}
	for _, l := range []*lane{s.work, s.bulk} {
		if l != nil {
			l.close()
		}
	}
	if s.logged != nil {
		if err := s.logged.close(); err != nil {
			s.log.Warn("the store log may lack its last records", slog.Any("error", err))
		}
	}
}

// Ping returns an error if the database does not answer.
func (s *Store) Ping(ctx context.Context) error {
	err := s.work.read(ctx, func(b *pgx.Batch) { b.Queue("select 1") })
	if err != nil {
		return &Error{Code: CodeStore, Op: "ask the database", Err: err}
	}
	return nil
}

// CacheStats returns what the cache has done and holds.
func (s *Store) CacheStats() CacheStats { return s.cache.stats() }

// OnChange has a function called for each queue of which it is announced that an
// administrator has changed it, when look-ups find it as it is now. It must return
// soon. What happens while nothing is heard of changes is not made up for.
func (s *Store) OnChange(f func(queue.RecipientID)) { s.onChange.Store(f) }

// invalidate tells that another process has changed a queue.
func (s *Store) invalidate(id queue.RecipientID) {
	s.cache.invalidate(id)
	s.counts.doubt()
	if f, _ := s.onChange.Load().(func(queue.RecipientID)); f != nil {
		f(id)
	}
}

// invalidateAll tells that other processes may have changed any queue.
func (s *Store) invalidateAll() {
	s.cache.invalidateAll()
	s.counts.doubt()
}

// query is a statement with its arguments, for lanes that run just one.
func query(sql string, args []any, each func(pgx.Rows) error) func(*pgx.Batch) {
	return func(b *pgx.Batch) { b.Queue(sql, args...).Query(each) }
}
