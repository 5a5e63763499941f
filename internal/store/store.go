package store

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
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

	// Pooled says that a pooler that works by the transaction, such as PgBouncer,
	// stands in between: no session can be relied upon.
	Pooled bool
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
	work   *lane // what clients wait for
	bulk   *lane // everything else
}

// Open opens the store in a schema, which must have the newest version.
func Open(ctx context.Context, o Options) (*Store, error) {
	o.Quota = cmp.Or(o.Quota, DefaultQuota)
	o.Connections = cmp.Or(o.Connections, DefaultConnections)
	s := &Store{o: o, log: cmp.Or(o.Log, slog.New(slog.DiscardHandler))}
	var err error
	if s.schema, err = findSchema(ctx, o.Config); err != nil {
		return nil, err
	}
	if s.work, err = newLane(ctx, o, o.Connections, interactiveTimeout); err != nil {
		return nil, err
	}
	if s.bulk, err = newLane(ctx, o, bulkConnections, bulkTimeout); err != nil {
		s.work.close()
		return nil, err
	}
	return s, nil
}

// findSchema looks at the schema, by a connection of its own.
func findSchema(ctx context.Context, c Config) (_ Schema, err error) {
	conn, err := Connect(ctx, c)
	if err != nil {
		return Schema{}, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	s, err := OpenSchema(ctx, conn, c.Schema)
	if err == nil && !s.HasMessages() {
		err = fmt.Errorf("schema %s has version %s, which has no messages; run smpq migrate up first", c.Schema, s.Version)
	}
	return s, err
}

// Close waits for what is under way and closes all connections.
func (s *Store) Close() {
	s.work.close()
	s.bulk.close()
}

// queries is a statement with its arguments, for lanes that run just one.
func query(sql string, args []any, each func(pgx.Rows) error) func(*pgx.Batch) {
	return func(b *pgx.Batch) { b.Queue(sql, args...).Query(each) }
}
