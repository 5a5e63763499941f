package store

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
)

// Certain is certain, for tests.
func Certain(err error) bool { return certain(err) }

// ErrAway is errAway, for tests.
var ErrAway = errAway

// A Lane is a lane, for tests.
type Lane struct{ *lane }

// NewLane is newLane, for tests.
func NewLane(ctx context.Context, o Options, size int, timeout time.Duration) (Lane, error) {
	l, err := newLane(ctx, o, size, timeout)
	return Lane{l}, err
}

// Read is read, for tests.
func (l Lane) Read(ctx context.Context, queue func(*pgx.Batch)) error { return l.read(ctx, queue) }

// Write is write, for tests.
func (l Lane) Write(ctx context.Context, queue func(*pgx.Batch)) error { return l.write(ctx, queue) }

// Close is close, for tests.
func (l Lane) Close() { l.close() }

// Connections returns how many connections there are.
func (l Lane) Connections() int32 { return l.pool.Stat().TotalConns() }

// Announcements are what a listener tells a cache.
type Announcements struct {
	Changed func(queue.RecipientID)
	Lost    func()
}

func (a Announcements) invalidate(id queue.RecipientID) { a.Changed(id) }
func (a Announcements) invalidateAll()                  { a.Lost() }

// Listen listens until ctx is done. After a silence it tests the connection, which
// may take no longer than timeout.
func Listen(ctx context.Context, c Config, silence, timeout time.Duration, a Announcements) {
	l := listener{config: c, cache: a, log: slog.New(slog.DiscardHandler), silence: silence, timeout: timeout}
	l.run(ctx, func() {})
}

// Poll reads the log of administrative changes again and again until ctx is done.
func Poll(ctx context.Context, l Lane, schemaName string, interval time.Duration, a Announcements) {
	p := newPoller(l.lane, Schema{Name: schemaName}, a, slog.New(slog.DiscardHandler))
	p.run(ctx, interval, func() {})
}

// Channel is channel, for tests.
func Channel(schemaName string) string { return channel(schemaName) }

// Payloads is payloads, for tests.
func Payloads(ids []queue.RecipientID) []string { return payloads(ids) }

// LockWaiters returns how many callers wait for the lock of a queue.
func (s *Store) LockWaiters(q *Queue) int {
	sh := s.cache.shardOf(q.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if q.lock == nil {
		return 0
	}
	return len(q.lock.waiting)
}
