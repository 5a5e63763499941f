package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/store"
)

// A lab is a lane to a table, through a proxy.
type lab struct {
	store.Lane
	*proxy
	direct string    // connection string of the server itself
	conn   *pgx.Conn // to it
}

// newLab returns a lane with so many connections, whose calls may take timeout.
func newLab(t testing.TB, size int, timeout time.Duration) lab {
	t.Helper()
	dsn := pgtest.DSN(t)
	l := lab{proxy: newProxy(t, dsn), direct: dsn, conn: pgtest.Conn(t, dsn)}
	pgtest.Exec(t, l.conn, "create table t (n int primary key)")
	o := store.Options{Config: store.Config{DSN: l.dsn(), Schema: "public", Application: "lane"}}
	var err error
	if l.Lane, err = store.NewLane(t.Context(), o, size, timeout); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// insert writes a row.
func (l lab) insert(ctx context.Context, n int) error {
	return l.Write(ctx, func(b *pgx.Batch) { b.Queue("insert into t values ($1)", n) })
}

// count reads how many rows there are.
func (l lab) count(ctx context.Context) (n int, err error) {
	err = l.Read(ctx, func(b *pgx.Batch) {
		b.Queue("select count(*) from t").QueryRow(func(row pgx.Row) error { return row.Scan(&n) })
	})
	return n, err
}

// has reports whether the server has a row.
func (l lab) has(t testing.TB, n int) bool {
	t.Helper()
	var is bool
	if err := l.conn.QueryRow(t.Context(), "select exists (select from t where n = $1)", n).Scan(&is); err != nil {
		t.Fatal(err)
	}
	return is
}

// sessions returns how many sessions of the lane there are on the server, and how
// many of them are at work.
func (l lab) sessions(t testing.TB) (all, active int) {
	t.Helper()
	err := l.conn.QueryRow(t.Context(), "select count(*), count(*) filter (where state <> 'idle') from pg_stat_activity"+
		" where application_name = 'lane' and datname = current_database()").Scan(&all, &active)
	if err != nil {
		t.Fatal(err)
	}
	return all, active
}

// lockTable makes everybody else wait who needs the table, until unlock.
func (l lab) lockTable(t testing.TB) (unlock func()) {
	t.Helper()
	tx, err := pgtest.Conn(t, l.direct).Begin(t.Context())
	if err == nil {
		_, err = tx.Exec(t.Context(), "lock table t")
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// works checks that the lane works.
func (l lab) works(t testing.TB, n int) {
	t.Helper()
	if err := l.insert(t.Context(), n); err != nil || !l.has(t, n) {
		t.Errorf("insert %d: %v", n, err)
	}
	if _, err := l.count(t.Context()); err != nil {
		t.Error(err)
	}
}

// useAll uses so many connections at once.
func (l lab) useAll(t testing.TB, connections int32) {
	t.Helper()
	unlock := l.lockTable(t)
	var wg sync.WaitGroup
	for range connections {
		wg.Go(func() {
			if _, err := l.count(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "all connections are in use", func() bool { return l.Connections() == connections })
	unlock()
	wg.Wait()
}

// What is known of a write that failed agrees with what the database has.
func TestCertainty(t *testing.T) {
	for _, c := range []struct {
		name             string
		fail             func(t *testing.T, l lab) // before the write
		certain, written bool
	}{
		{"cut before the commit", func(_ *testing.T, l lab) { l.cutNext(beforeCommit, "insert into t") }, false, false},
		{"cut after the commit", func(_ *testing.T, l lab) { l.cutNext(afterCommit, "insert into t") }, false, true},
		{"refused by the database", func(t *testing.T, l lab) { pgtest.Exec(t, l.conn, "insert into t values (2)") }, true, true},
		{"server away", func(_ *testing.T, l lab) { l.refuse() }, true, false},
		{"no answer", func(_ *testing.T, l lab) { l.hang() }, false, false},
		{"session ended while it wrote", func(t *testing.T, l lab) {
			pgtest.Exec(t, l.conn, `
				create function f() returns trigger language plpgsql as 'begin perform pg_terminate_backend(pg_backend_pid()); return new; end';
				create trigger f before insert on t for each row execute function f()`)
		}, false, false},
		{"cancelled by an operator", func(t *testing.T, l lab) {
			pgtest.Exec(t, l.conn, `
				create function f() returns trigger language plpgsql as
					'begin perform pg_cancel_backend(pg_backend_pid()); perform pg_sleep(60); return new; end';
				create trigger f before insert on t for each row execute function f()`)
		}, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, 2, time.Second)
			l.works(t, 1)
			defer l.restore(t)
			c.fail(t, l)
			err := l.insert(t.Context(), 2)
			if err == nil || store.Certain(err) != c.certain || l.has(t, 2) != c.written {
				t.Errorf("%v: certain %t, want %t; written %t, want %t", err, store.Certain(err), c.certain, l.has(t, 2), c.written)
			}
		})
	}
}

// Writes are tried again only where nothing can have been written: on connections
// that were lost while they were not in use, and after a deadlock.
func TestWritesTriedAgain(t *testing.T) {
	t.Run("lost while idle", func(t *testing.T) {
		l := newLab(t, 4, patience)
		l.useAll(t, 4)
		for n := range 3 {
			l.cutAll()
			l.works(t, 10+n)
		}
	})
	t.Run("deadlock", func(t *testing.T) {
		l := newLab(t, 1, patience)
		pgtest.Exec(t, l.conn, "create sequence tries; "+
			"create function f() returns trigger language plpgsql as "+
			"'begin if nextval(''tries'') < 3 then raise deadlock_detected; end if; return new; end';"+
			"create trigger f before insert on t for each row execute function f()")
		l.works(t, 1)
	})
}

// A read is tried again when its connection breaks, but not for ever, and not when
// the server does not answer.
func TestReadsTriedAgain(t *testing.T) {
	l := newLab(t, 2, 2*time.Second)
	l.works(t, 1)
	for range 2 {
		l.cutNext(afterCommit, "select count(*) from t")
	}
	if n, err := l.count(t.Context()); n != 1 || err != nil {
		t.Errorf("after two cuts: %d, %v", n, err)
	}
	var cuts []<-chan struct{}
	for range 3 {
		cuts = append(cuts, l.cutNext(beforeCommit, "select count(*) from t"))
	}
	if _, err := l.count(t.Context()); err == nil {
		t.Error("three cuts and no error")
	}
	for _, c := range cuts {
		<-c
	}
	l.works(t, 2)

	unlock := l.lockTable(t)
	start := time.Now()
	_, err := l.count(t.Context())
	if took := time.Since(start); err == nil || took > 5*time.Second {
		t.Errorf("no answer: %v after %s", err, took)
	}
	unlock()
	l.works(t, 3)
}

// A caller who gives up does not end a write that is on its way, and no connection
// is lost by it.
func TestCancelWrite(t *testing.T) {
	l := newLab(t, 2, patience)
	l.works(t, 1)
	unlock := l.lockTable(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.insert(ctx, 2) }()
	eventually(t, "the write is on its way", func() bool { _, active := l.sessions(t); return active == 1 })
	cancel()
	unlock()
	if err := <-done; err != nil || !l.has(t, 2) {
		t.Errorf("the write was not made: %v", err)
	}
	if err := l.insert(ctx, 3); !errors.Is(err, context.Canceled) || !store.Certain(err) || l.has(t, 3) {
		t.Errorf("a write that was given up before: %v", err)
	}
	l.works(t, 4)
}

// A caller who gives up ends a read; the connection that it used is replaced.
func TestCancelRead(t *testing.T) {
	l := newLab(t, 1, patience)
	l.works(t, 1)
	unlock := l.lockTable(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := l.count(ctx)
		done <- err
	}()
	eventually(t, "the read is on its way", func() bool { _, active := l.sessions(t); return active == 1 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	eventually(t, "the server knows", func() bool { _, active := l.sessions(t); return active == 0 })
	unlock()
	l.works(t, 2)
	if all, _ := l.sessions(t); all != 1 || l.Connections() != 1 {
		t.Errorf("%d sessions, %d connections", all, l.Connections())
	}
}

// A wait for a connection ends when the caller gives up, and is not endless.
func TestAllConnectionsInUse(t *testing.T) {
	l := newLab(t, 1, time.Second)
	l.works(t, 1)
	free := make(chan struct{})
	started := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := l.Read(t.Context(), func(b *pgx.Batch) {
			b.Queue("select 1").QueryRow(func(pgx.Row) error {
				close(started)
				<-free
				return nil
			})
		})
		if err != nil {
			t.Error(err)
		}
	})
	<-started
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.insert(ctx, 2); !errors.Is(err, context.Canceled) || !store.Certain(err) {
		t.Errorf("given up: %v", err)
	}
	if err := l.insert(t.Context(), 2); !errors.Is(err, context.DeadlineExceeded) || !store.Certain(err) {
		t.Errorf("waited too long: %v", err)
	}
	close(free)
	wg.Wait()
	l.works(t, 2)
}

// While the database is away, calls fail at once; when it is back, they work.
func TestDatabaseAway(t *testing.T) {
	l := newLab(t, 4, patience)
	l.works(t, 0)
	for n, c := range []struct {
		name string
		fail func()
	}{
		{"refused", l.refuse},
		{"refused without connections", func() { l.cutAll(); l.refuse() }},
	} {
		c.fail()
		start := time.Now()
		const calls = 100
		var wg sync.WaitGroup
		for range calls {
			wg.Go(func() {
				if _, err := l.count(t.Context()); err == nil {
					t.Errorf("%s: no error", c.name)
				}
				if err := l.insert(t.Context(), 99); err == nil || !store.Certain(err) {
					t.Errorf("%s: %v", c.name, err)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("%s: %d calls took %s", c.name, calls, took)
		}
		err := l.insert(t.Context(), 99)
		if _, ok := errors.AsType[*pgconn.ConnectError](err); !ok {
			t.Errorf("%s: %v does not say why", c.name, err)
		}
		l.restore(t)
		eventually(t, c.name+": it works again", func() bool { return l.insert(t.Context(), 1+n) == nil })
		began := time.Now()
		l.useAll(t, 4)
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("%s: it took %s until all connections were there again", c.name, took)
		}
	}
}

// When the network swallows everything, the first calls end after a time limit.
// Of later ones, one at a time waits, to find out whether that has changed; the
// others fail at once.
func TestNoAnswer(t *testing.T) {
	const limit = time.Second
	l := newLab(t, 2, limit)
	l.works(t, 1)
	l.hang()
	start := time.Now()
	var wg sync.WaitGroup
	for n := range 6 {
		wg.Go(func() {
			if err := l.insert(t.Context(), 10+n); err == nil {
				t.Error("no error")
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took > 4*limit {
		t.Errorf("took %s", took)
	}
	away := func() bool { return errors.Is(l.insert(t.Context(), 20), store.ErrAway) }
	eventually(t, "it is known that the database is away", away)
	start = time.Now()
	var waited atomic.Int64
	for range 8 {
		wg.Go(func() {
			for time.Since(start) < 2*limit {
				began := time.Now()
				away()
				if time.Since(began) > limit/4 { // half of the limit is for connecting
					waited.Add(1)
				}
				<-time.After(5 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	if n := waited.Load(); n > 6 {
		t.Errorf("%d calls waited while it was known", n)
	}
	l.restore(t)
	eventually(t, "it works again", func() bool { return l.insert(t.Context(), 2) == nil })
}

// A call takes one round trip once the connection knows the statements, and one
// transaction.
func TestOneRoundTrip(t *testing.T) {
	l := newLab(t, 1, patience)
	many := func(n int) error {
		return l.Write(t.Context(), func(b *pgx.Batch) {
			for i := range 3 {
				b.Queue("insert into t values ($1)", n+i)
			}
		})
	}
	if err := many(0); err != nil {
		t.Fatal(err)
	}
	before := l.transactions.Load()
	if err := many(10); err != nil {
		t.Fatal(err)
	}
	if n := l.transactions.Load() - before; n != 1 {
		t.Errorf("%d round trips", n)
	}
	if err := many(8); err == nil || l.has(t, 8) || l.has(t, 9) {
		t.Errorf("a transaction that failed was made in part: %v", err)
	}
	l.works(t, 100)
}

// However often connections break while many write and read, each write that is
// said to have been made is there, each that certainly was not is not, and the
// lane goes on.
func TestBrokenConnections(t *testing.T) {
	l := newLab(t, 4, patience)
	const writers, each = 8, 60
	var mu sync.Mutex
	outcomes := make(map[int]error)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				n := w*each + i
				switch i % 10 {
				case 3:
					l.cutNext(beforeCommit, "insert into t")
				case 6:
					l.cutNext(afterCommit, "insert into t")
				case 9:
					l.cutAll()
				}
				err := l.insert(t.Context(), n)
				mu.Lock()
				outcomes[n] = err
				mu.Unlock()
				_, _ = l.count(t.Context()) // too many cuts in a row are an error
			}
		})
	}
	wg.Wait()
	counts := make(map[string]int)
	for n, err := range outcomes {
		has := l.has(t, n)
		switch {
		case err == nil && !has:
			t.Errorf("%d is lost", n)
		case err != nil && store.Certain(err) && has:
			t.Errorf("%d was written in spite of %v", n, err)
		}
		counts[fmt.Sprintf("written %t, error %t", has, err != nil)]++
	}
	if counts["written true, error false"] == 0 || counts["written true, error true"]+counts["written false, error true"] == 0 {
		t.Errorf("nothing was tested: %v", counts)
	}
	next := 0
	eventually(t, "it works again", func() bool { next--; return l.insert(t.Context(), next) == nil })
}
