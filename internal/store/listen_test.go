package store_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

// patience is how long a test waits for what it waits for.
const patience = 20 * time.Second

// eventually waits until something is so.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ticks := time.NewTicker(5 * time.Millisecond)
	defer ticks.Stop()
	for !is() {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			t.Fatalf("in vain: %s", what)
		}
	}
}

// blocked reports whether a store finds a queue, and finds it blocked.
func blocked(t testing.TB, s *store.Store, id queue.RecipientID) bool {
	t.Helper()
	q, err := s.QueueByRecipient(t.Context(), id)
	return err == nil && view(t, q).Status.State == queue.Blocked
}

// block blocks a queue.
func block(t testing.TB, s *store.Store, id queue.RecipientID) {
	t.Helper()
	q, err := s.QueueByRecipient(t.Context(), id)
	if err == nil {
		err = s.BlockQueue(t.Context(), q, queue.Blocking{Reason: "spam"})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What an administrator changes is seen by the router, whether or not a pooler is
// said to be in between.
func TestChangesOfAnotherProcess(t *testing.T) {
	for name, pooled := range map[string]bool{"listening": false, "polling": true} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 0)
			router := openStore(t, store.Options{Config: f.config, CacheSize: 1 << 20, Pooled: pooled})
			var records []*queue.Record
			for range 3 {
				records = append(records, newRecord())
				f.add(t, records[len(records)-1])
			}
			look := func() {
				for _, r := range records {
					if _, err := router.QueueBySender(t.Context(), r.SenderID); err != nil {
						t.Fatal(err)
					}
				}
			}
			look()
			admin := openStore(t, store.Options{Config: f.config, Admin: "tester"})
			block(t, admin, records[0].RecipientID)
			eventually(t, "the first queue is blocked", func() bool { return blocked(t, router, records[0].RecipientID) })
			block(t, admin, records[1].RecipientID)
			eventually(t, "the second queue is blocked", func() bool { return blocked(t, router, records[1].RecipientID) })

			q, err := admin.QueueByRecipient(t.Context(), records[2].RecipientID)
			if err == nil {
				_, err = admin.DeleteQueue(t.Context(), q)
			}
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "the third queue is gone", func() bool {
				_, err := router.QueueBySender(t.Context(), records[2].SenderID)
				return store.CodeOf(err) == store.CodeAuth
			})
		})
	}
}

// The cache of a router goes on being used while nothing is announced: what it
// does itself is not.
func TestOwnChangesAreNotAnnounced(t *testing.T) {
	f := newFixture(t, 1<<20)
	listener := pgtest.Conn(t, f.config.DSN)
	pgtest.Exec(t, listener, "listen "+schema.Quote(store.Channel(f.config.Schema)))
	q := f.add(t, newRecord())
	block(t, f.Store, q.ID())
	admin := openStore(t, store.Options{Config: f.config, Admin: "tester"})
	if _, err := admin.DeleteQueue(t.Context(), must(admin.QueueByRecipient(t.Context(), q.ID()))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	n, err := listener.WaitForNotification(ctx)
	if err != nil || n.Payload != q.ID().String() {
		t.Fatalf("got %+v, %v", n, err)
	}
	lines, err := store.Audit(t.Context(), f.conn, f.schema(), 10)
	if err != nil || len(lines) != 1 || lines[0].Operation != "delete" {
		t.Errorf("got %+v, %v; want one line for the first notification", lines, err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// ear remembers what a listener says.
type ear struct {
	lost    atomic.Int64
	mu      sync.Mutex
	changed map[queue.RecipientID]int
}

func (e *ear) announcements() store.Announcements {
	return store.Announcements{
		Changed: func(id queue.RecipientID) {
			e.mu.Lock()
			defer e.mu.Unlock()
			if e.changed == nil {
				e.changed = make(map[queue.RecipientID]int)
			}
			e.changed[id]++
		},
		Lost: func() { e.lost.Add(1) },
	}
}

func (e *ear) times(id queue.RecipientID) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed[id]
}

// background runs f until the test ends.
func background(t testing.TB, f func(ctx context.Context)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { f(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// When the connection breaks, nothing is trusted any more, and again nothing when
// there is a new one; from then on changes are heard.
func TestListenerReconnects(t *testing.T) {
	c := newDatabase(t)
	p := newProxy(t, c.DSN)
	admin := pgtest.Conn(t, c.DSN)
	announce := func(id queue.RecipientID) {
		t.Helper()
		pgtest.Exec(t, admin, "select pg_notify($1, $2)", store.Channel(c.Schema), id.String())
	}
	var e ear
	proxied := c
	proxied.DSN, proxied.Application = p.dsn(), "the listener"
	background(t, func(ctx context.Context) {
		store.Listen(ctx, proxied, 100*time.Millisecond, time.Second, e.announcements())
	})

	const listeners = "select count(*) from pg_stat_activity where application_name = 'the listener' and datname = current_database()"
	f := fixture{nil, c, admin}
	hears := func(when string) {
		t.Helper()
		id := queue.RecipientID{EntityID: randomID()}
		eventually(t, when+": an announcement is heard", func() bool { announce(id); return e.times(id) > 0 })
	}
	eventually(t, "it listens", func() bool { return e.lost.Load() == 1 })
	hears("at first")
	for _, c := range []struct {
		name        string
		fail, after func()
	}{
		{"ended by the server", func() {
			pgtest.Exec(t, admin, "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'the listener' and datname = current_database()")
		}, func() {}},
		{"cut", func() { p.cutAll() }, func() {}},
		{"server away", p.refuse, func() { p.restore(t) }},
		{"no answer", p.hang, func() { p.restore(t) }},
	} {
		before := e.lost.Load()
		c.fail()
		eventually(t, c.name+": the loss is noticed", func() bool { return e.lost.Load() > before })
		c.after()
		eventually(t, c.name+": it is said that nothing was heard meanwhile", func() bool { return e.lost.Load() >= before+2 })
		hears("after " + c.name)
	}
	before := e.lost.Load()
	pgtest.Exec(t, admin, "select pg_notify($1, 'not an id!')", store.Channel(c.Schema))
	eventually(t, "what is not understood makes all doubtful", func() bool { return e.lost.Load() == before+1 })
	eventually(t, "one connection is left", func() bool { return f.number(t, listeners) == 1 })
}

// A quiet connection is left alone when its test succeeds.
func TestQuietListenerStays(t *testing.T) {
	c := newDatabase(t)
	p := newProxy(t, c.DSN)
	c.DSN = p.dsn()
	var e ear
	background(t, func(ctx context.Context) { store.Listen(ctx, c, 50*time.Millisecond, patience, e.announcements()) })
	eventually(t, "it listens", func() bool { return e.lost.Load() == 1 })
	tests := p.transactions.Load() + 5
	eventually(t, "the connection was tested", func() bool { return p.transactions.Load() >= tests })
	if n := e.lost.Load(); n != 1 {
		t.Errorf("the connection was given up %d times", n-1)
	}
}

// Whoever reads the log again and again sees each line once, however long its
// transaction took, and in whatever order they were committed.
func TestPolling(t *testing.T) {
	c := newDatabase(t)
	l, err := store.NewLane(t.Context(), store.Options{Config: c, Pooled: true}, 1, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	var e ear
	background(t, func(ctx context.Context) { store.Poll(ctx, l, c.Schema, 5*time.Millisecond, e.announcements()) })

	// The log is made while it is looked for.
	openStore(t, store.Options{Config: c, Admin: "tester"})
	insert := func(q store.Querier) queue.RecipientID {
		t.Helper()
		id := queue.RecipientID{EntityID: randomID()}
		_, err := q.Exec(t.Context(), "insert into smpq.audit (who, schema_name, operation, recipient_id, details) values ('', $1, '', $2, '')", c.Schema, id)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	slow, quick := pgtest.Conn(t, c.DSN), pgtest.Conn(t, c.DSN)
	tx, err := slow.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first := insert(tx)
	var later []queue.RecipientID
	for range 3 {
		later = append(later, insert(quick))
		eventually(t, "a later line is seen", func() bool { return e.times(later[len(later)-1]) > 0 })
	}
	if e.times(first) != 0 {
		t.Fatal("a line was seen before its transaction ended")
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the line of a slow transaction is seen", func() bool { return e.times(first) > 0 })
	last := insert(quick)
	eventually(t, "the last line is seen", func() bool { return e.times(last) > 0 })
	for _, id := range append(later, first, last) {
		if n := e.times(id); n != 1 {
			t.Errorf("a line was seen %d times", n)
		}
	}

	// While the log cannot be read, nothing is trusted.
	pgtest.Exec(t, quick, "alter table smpq.audit rename column schema_name to x")
	before := e.lost.Load()
	eventually(t, "nothing is trusted", func() bool { return e.lost.Load() > before+2 })
	pgtest.Exec(t, quick, "alter table smpq.audit rename column x to schema_name")
	last = insert(quick)
	eventually(t, "lines are seen again", func() bool { return e.times(last) == 1 })
}

// Announcements are shorter than PostgreSQL's limit and name each queue once.
func TestManyAnnouncements(t *testing.T) {
	c := newDatabase(t)
	var e ear
	background(t, func(ctx context.Context) { store.Listen(ctx, c, patience, patience, e.announcements()) })
	eventually(t, "it listens", func() bool { return e.lost.Load() == 1 })
	conn := pgtest.Conn(t, c.DSN)
	for _, n := range []int{1, 2, 241, 242, 243, 5000} {
		ids := make([]queue.RecipientID, n)
		for i := range ids {
			ids[i] = queue.RecipientID{EntityID: randomID()}
		}
		ids[n/2] = queue.RecipientID{EntityID: smp.NewEntityID(randomBytes(smp.MaxID))}
		payloads := store.Payloads(ids)
		for _, payload := range payloads {
			if len(payload) >= 8000 {
				t.Fatalf("%d ids: payload of %d bytes", n, len(payload))
			}
		}
		if len(payloads) > 1+(33*n+3500)/4000 {
			t.Errorf("%d ids: %d notifications", n, len(payloads))
		}
		pgtest.Exec(t, conn, "select pg_notify($1, payload) from unnest($2::text[]) payload", store.Channel(c.Schema), payloads)
		eventually(t, fmt.Sprintf("all of %d ids are heard of", n), func() bool {
			return !slices.ContainsFunc(ids, func(id queue.RecipientID) bool { return e.times(id) != 1 })
		})
	}
}

// The channel of a schema has a name that PostgreSQL takes, and none of another
// schema.
func TestChannel(t *testing.T) {
	conn := pgtest.Conn(t, pgtest.DSN(t))
	names := make(map[string]bool)
	long := "a_very_long_name_of_a_schema_that_fills_its_63_bytes_completely"
	for _, name := range []string{"smp_server", `we"ird; name`, long, long[:62] + "z", long[:52], long[:51]} {
		channel := store.Channel(name)
		if names[channel] || len(channel) > 63 {
			t.Errorf("%s: channel %s", name, channel)
		}
		names[channel] = true
		pgtest.Exec(t, conn, "listen "+pgx.Identifier{channel}.Sanitize())
		pgtest.Exec(t, conn, "select pg_notify($1, 'x')", channel)
		n, err := conn.WaitForNotification(t.Context())
		if err != nil || n.Channel != channel {
			t.Errorf("%s: %+v, %v", name, n, err)
		}
	}
}
