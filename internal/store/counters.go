package store

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/smpq/smpq/internal/queue"
)

// Entities returns the numbers of what the store has. They are counted once, by
// reading all rows, and kept up to date from then on; after changes by others
// they are counted again.
func (s *Store) Entities(ctx context.Context) (Entities, error) {
	if e, ok := s.counts.get(); ok {
		return e, nil
	}
	select {
	case s.counts.turn <- struct{}{}:
		defer func() { <-s.counts.turn }()
	case <-ctx.Done():
		return Entities{}, s.failed("count entities", ctx.Err())
	}
	if e, ok := s.counts.get(); ok {
		return e, nil // somebody else has counted meanwhile
	}
	e, err := s.countEntities(ctx)
	if err != nil {
		return Entities{}, s.failed("count entities", err)
	}
	return e, nil
}

func (s *Store) countEntities(ctx context.Context) (e Entities, err error) {
	conn, err := s.bulk.acquire(ctx)
	if err != nil {
		return Entities{}, err
	}
	defer conn.Release()
	ctx, cancel := context.WithTimeout(ctx, s.bulk.timeout)
	defer cancel()
	err = Snapshot(ctx, conn.Conn(), func(q Querier) error {
		if err := s.counts.restart(ctx, func(ctx context.Context) error {
			_, err := q.Exec(ctx, "select 1")
			return err
		}); err != nil {
			return err
		}
		counted, err := CountEntities(ctx, q, s.schema)
		if err == nil {
			e = s.counts.add(counted)
		}
		return err
	})
	return e, err
}

// counters keep the numbers of entities.
type counters struct {
	turn chan struct{} // has one element while somebody counts; its capacity is 1

	mu sync.Mutex // guards the rest

	// A count begins at a moment at which no change is under way: those that come
	// wait until those that are there have been counted.
	changes int           // under way
	drained chan struct{} // closed when there are none; nil: nobody waits for it
	pause   chan struct{} // closed when changes may go on; nil: they may

	known    bool     // numbers is complete
	doubtful bool     // others have changed something since the count began
	numbers  Entities // of all, or of what was changed since the count began
}

// get returns the numbers, if they are known.
func (c *counters) get() (Entities, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.numbers, c.known && !c.doubtful
}

// pauseLimit bounds how long changes wait for a count to begin: for those under
// way, and then for the database.
const pauseLimit = time.Second

// restart begins a count: see is to see all changes made before, and none made
// after.
func (c *counters) restart(ctx context.Context, see func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, pauseLimit)
	defer cancel()
	c.mu.Lock()
	c.pause, c.drained = make(chan struct{}), make(chan struct{})
	drained := c.drained
	if c.changes == 0 {
		close(drained)
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		close(c.pause)
		c.pause, c.drained = nil, nil
	}()
	select {
	case <-drained:
	case <-ctx.Done():
		return fmt.Errorf("wait for changes that are under way: %w", ctx.Err())
	}
	c.mu.Lock()
	c.numbers, c.known, c.doubtful = Entities{}, false, false
	c.mu.Unlock()
	return see(ctx)
}

// add ends a count.
func (c *counters) add(counted Entities) Entities {
	c.mu.Lock()
	defer c.mu.Unlock()
	counted.addAll(c.numbers)
	c.numbers, c.known = counted, true
	return counted
}

// doubt tells that others have changed something.
func (c *counters) doubt() {
	c.mu.Lock()
	c.doubtful = true
	c.mu.Unlock()
}

// A counting is a change that is to be counted.
type counting struct{ c *counters }

// begin waits while a count begins. The caller ends what it returns.
func (c *counters) begin(ctx context.Context) (counting, error) {
	for {
		c.mu.Lock()
		pause := c.pause
		if pause == nil {
			c.changes++
		}
		c.mu.Unlock()
		if pause == nil {
			return counting{c}, nil
		}
		select {
		case <-pause:
		case <-ctx.Done():
			return counting{}, &unsentError{ctx.Err()}
		}
	}
}

func (n counting) end() {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	n.c.changes--
	if n.c.changes == 0 && n.c.drained != nil {
		close(n.c.drained)
	}
}

// moved counts that a queue that was like one view is like another now; nil is a
// queue that is not there.
func (n counting) moved(was, now *View) {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	if was != nil {
		n.c.numbers.add(was, -1)
	}
	if now != nil {
		n.c.numbers.add(now, 1)
	}
}

// added counts a new service.
func (n counting) added(role queue.Role) {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	n.c.numbers.AddService(role, 1)
}

// failed notes that a change may have been made or not.
func (n counting) failed(err error) {
	if err != nil && !certain(err) {
		n.c.doubt()
	}
}

// addAll adds the numbers of more.
func (e *Entities) addAll(more Entities) {
	e.Queues += more.Queues
	e.Notifiers += more.Notifiers
	e.RcvServices += more.RcvServices
	e.NtfServices += more.NtfServices
	e.ProxyServices += more.ProxyServices
	e.RcvServiceQueues += more.RcvServiceQueues
	e.NtfServiceQueues += more.NtfServiceQueues
}
