package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/store"
)

// newWrites returns a fixture whose store has up to runs round trips of requests
// under way.
func newWrites(t testing.TB, runs, quota int) fixture {
	t.Helper()
	c := newDatabase(t)
	return fixture{openStore(t, store.Options{Config: c, Quota: quota, Connections: 4 * runs}), c, pgtest.Conn(t, c.DSN)}
}

// hold locks queues in another session, until release is called.
func (f fixture) hold(t testing.TB, ids ...queue.RecipientID) (release func()) {
	t.Helper()
	conn := f.connect(t)
	pgtest.Exec(t, conn, "begin")
	pgtest.Exec(t, conn, "select from msg_queues where recipient_id = any ($1) for update", ids)
	return func() {
		t.Helper()
		pgtest.Exec(t, conn, "rollback")
	}
}

// awaitStuck waits until n sessions wait for locks.
func (f fixture) awaitStuck(t testing.TB, n int64) {
	t.Helper()
	f.await(t, "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'", n)
}

// calls are requests that are under way, with their errors by name.
type calls struct {
	running sync.WaitGroup
	mu      sync.Mutex
	errs    map[string]error
}

// start makes a call and waits until it is one of n that wait for their turn, if n is
// not negative.
func (c *calls) start(t testing.TB, f fixture, n int, name string, call func() error) {
	t.Helper()
	c.running.Go(func() {
		err := call()
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.errs == nil {
			c.errs = make(map[string]error)
		}
		c.errs[name] = err
	})
	eventually(t, "so many requests wait", func() bool { return n < 0 || f.Waiting() == n })
}

// err returns the error of a call, and whether there is an answer yet.
func (c *calls) err(name string) (error, bool) { //nolint:revive // as of a map
	c.mu.Lock()
	defer c.mu.Unlock()
	err, ok := c.errs[name]
	return err, ok
}

// block occupies the only round trip of a store, so that all other requests wait
// until release is called.
func (f fixture) block(t testing.TB, c *calls) (release func()) {
	t.Helper()
	id := f.addQueues(t, 1)[0]
	release = f.hold(t, id)
	c.start(t, f, 0, "blocking", func() error { return second(f.WriteMessage(t.Context(), id, newMessage(0, "blocking"))) })
	f.awaitStuck(t, 1)
	return release
}

// Requests that wait together go together, in one round trip and one transaction,
// and each caller gets its own answer.
func TestRequestsGoTogether(t *testing.T) {
	const quota = 3
	c := newDatabase(t)
	p := newProxy(t, c.DSN)
	through := c
	through.DSN = p.dsn()
	f := fixture{openStore(t, store.Options{Config: through, Quota: quota, Connections: 4}), c, pgtest.Conn(t, c.DSN)}
	ids := f.addQueues(t, 10)
	deleting := f.addQueues(t, 10)
	for i, id := range deleting {
		f.write(t, id, newMessage(i, fmt.Sprint("first of ", i)))
		f.write(t, id, newMessage(100+i, fmt.Sprint("second of ", i)))
	}
	before := f.number(t, "select count(*) from messages")
	var c1 calls
	release := f.block(t, &c1)
	waiting := 0
	full := make(map[string]bool) // by name of the call: it gets no room
	add := func(name string, call func() error) {
		waiting++
		c1.start(t, f, waiting, name, call)
	}
	for i := range 6 { // of which the last three are too many for the even queues
		for k, id := range ids {
			if k%2 == 1 && i >= quota {
				continue
			}
			name := fmt.Sprintf("write %d to %d", i, k)
			full[name] = i >= quota
			add(name, func() error {
				written, err := f.WriteMessage(t.Context(), id, newMessage(10*k+i, "body"))
				if err == nil && written.WasEmpty != (i == 0) {
					return fmt.Errorf("was empty: %t", written.WasEmpty)
				}
				return err
			})
		}
	}
	for i, id := range deleting {
		add(fmt.Sprint("delete ", i), func() error {
			switch m := messageID(i); i % 3 {
			case 0:
				deleted, err := f.DeleteMessage(t.Context(), id, m)
				if err == nil && (deleted == nil || string(deleted.Body) != fmt.Sprint("first of ", i)) {
					return fmt.Errorf("deleted %+v", deleted)
				}
				return err
			case 1:
				deleted, next, err := f.DeletePeekMessage(t.Context(), id, m)
				if err == nil && (deleted == nil || deleted.ID != m || next == nil || string(next.Body) != fmt.Sprint("second of ", i)) {
					return fmt.Errorf("deleted %+v, next %+v", deleted, next)
				}
				return err
			default:
				deleted, next, err := f.DeletePeekMessage(t.Context(), id, messageID(999))
				if err == nil && (deleted != nil || next == nil || next.ID != m) {
					return fmt.Errorf("deleted %+v, next %+v", deleted, next)
				}
				return err
			}
		})
	}
	trips := p.transactions.Load()
	release()
	c1.running.Wait()
	for name, err := range c1.errs {
		if full[name] {
			wantError(t, err, store.CodeQuota, store.ErrQuota)
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The statements have been used before, but for the one that does not wait for
	// locks, which has to be prepared.
	if n := p.transactions.Load() - trips; n > 2 {
		t.Errorf("%d round trips", n)
	}
	if n := f.number(t, "select count(distinct xmin::text) from messages where recipient_id = any ($1)", ids); n != 1 {
		t.Errorf("the messages were written in %d transactions", n)
	}
	for k, id := range ids {
		var numbers, want []queue.MessageID
		for i := range quota + 1 - k%2 {
			want = append(want, messageID(10*k+i))
		}
		for _, m := range messages(t, f.conn, id) {
			numbers = append(numbers, m.ID)
		}
		if !slices.Equal(numbers, want) {
			t.Errorf("queue %d has %v, want %v", k, numbers, want)
		}
	}
	if n, want := f.number(t, "select count(*) from messages"), before+1+5*quota+5*(quota+1)-7; n != want {
		t.Errorf("%d messages, want %d", n, want)
	}
	if n := f.Lines(); n != 0 {
		t.Errorf("%d lines are left", n)
	}
}

// Requests of one queue keep their order, whatever they are.
func TestRequestsKeepOrder(t *testing.T) {
	f := newWrites(t, 1, 2)
	id := f.addQueues(t, 1)[0]
	var c calls
	release := f.block(t, &c)
	var got [10]string
	steps := []func(m queue.Message) error{
		0: func(m queue.Message) error { return second(f.WriteMessage(t.Context(), id, m)) },
		1: func(m queue.Message) error { return second(f.WriteMessage(t.Context(), id, m)) },
		2: func(m queue.Message) error { return second(f.WriteMessage(t.Context(), id, m)) }, // leaves a marker
		3: func(queue.Message) error { return second(f.DeleteMessage(t.Context(), id, messageID(0))) },
		4: func(m queue.Message) error { return second(f.WriteMessage(t.Context(), id, m)) }, // refused: not empty
		5: func(queue.Message) error { return third(f.DeletePeekMessage(t.Context(), id, messageID(1))) },
		6: func(queue.Message) error { return second(f.DeleteMessage(t.Context(), id, messageID(2))) },
		7: func(m queue.Message) error { return second(f.WriteMessage(t.Context(), id, m)) },
		8: func(m queue.Message) error { m.QuotaMarker = true; return second(f.WriteMessage(t.Context(), id, m)) },
		9: func(m queue.Message) error { return second(f.WriteMessage(t.Context(), id, m)) },
	}
	for i, step := range steps {
		c.start(t, f, i+1, fmt.Sprint(i), func() error { return step(newMessage(i, "body")) })
	}
	release()
	c.running.Wait()
	for i := range steps {
		switch err, _ := c.err(fmt.Sprint(i)); {
		case errors.Is(err, store.ErrQuota):
			got[i] = "full"
		case err != nil:
			got[i] = err.Error()
		}
	}
	if want := [10]string{2: "full", 4: "full", 8: "full", 9: "full"}; got != want {
		t.Errorf("answers %q, want %q", got, want)
	}
	if all := messages(t, f.conn, id); len(all) != 2 || all[0].ID != messageID(7) || all[1].ID != messageID(8) || !all[1].QuotaMarker {
		t.Errorf("messages %+v", all)
	}
}

// A request that fails does not take others with it, be they of other queues or of
// the same one.
func TestBadRequestFailsAlone(t *testing.T) {
	f := newWrites(t, 1, 100)
	ids := f.addQueues(t, 4)
	deleted := f.addQueues(t, 1)[0]
	f.exec(t, "update msg_queues set deleted_at = 0 where recipient_id = $1", deleted)
	f.exec(t, "alter table messages add constraint short check (length(msg_body) < 20)")
	var c calls
	release := f.block(t, &c)
	n := 0
	add := func(name string, id queue.RecipientID, m queue.Message) {
		n++
		c.start(t, f, n, name, func() error { return second(f.WriteMessage(t.Context(), id, m)) })
	}
	for i, id := range ids {
		add(fmt.Sprint("first ", i), id, newMessage(10*i, "body"))
	}
	add("without id", ids[1], queue.Message{Body: []byte("body")})
	add("too long", ids[2], newMessage(1, "this is a secret that is too long"))
	add("deleted queue", deleted, newMessage(1, "body"))
	add("no queue", queue.RecipientID{}, newMessage(1, "body"))
	for i, id := range ids {
		add(fmt.Sprint("second ", i), id, newMessage(10*i+2, "body"))
	}
	release()
	c.running.Wait()
	for name, err := range c.errs {
		switch name {
		case "without id", "too long":
			if e, ok := errors.AsType[*pgconn.PgError](err); !ok || store.CodeOf(err) != store.CodeStore || e.Code[:2] != "23" || !store.Certain(err) {
				t.Errorf("%s: %v", name, err)
			}
		case "deleted queue", "no queue":
			wantError(t, err, store.CodeAuth, store.ErrNotFound)
		default:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for i, id := range ids {
		all := messages(t, f.conn, id)
		if len(all) != 2 || all[0].ID != messageID(10*i) || all[1].ID != messageID(10*i+2) {
			t.Errorf("queue %d: %+v", i, all)
		}
	}
}

// Requests that are tried again by themselves stay in front of those that came
// meanwhile.
func TestBadRequestKeepsOrder(t *testing.T) {
	f := newWrites(t, 1, 100)
	id := f.addQueues(t, 1)[0]
	f.exec(t, `
		create function wait() returns trigger language plpgsql as $$ begin perform pg_advisory_xact_lock(7); return new; end $$;
		create trigger wait before insert on messages for each row when (new.msg_body = 'wait') execute function wait()`)
	other := f.connect(t)
	pgtest.Exec(t, other, "select pg_advisory_lock(7)")
	var c calls
	release := f.block(t, &c)
	write := func(m queue.Message) func() error {
		return func() error { return second(f.WriteMessage(t.Context(), id, m)) }
	}
	c.start(t, f, 1, "first", write(newMessage(1, "wait")))
	c.start(t, f, 2, "bad", write(queue.Message{Body: []byte("no id")}))
	release()
	eventually(t, "no request waits", func() bool { return f.Waiting() == 0 })
	f.awaitStuck(t, 1)
	c.start(t, f, 1, "second", write(newMessage(2, "body")))
	pgtest.Exec(t, other, "select pg_advisory_unlock(7)")
	c.running.Wait()
	for name, err := range c.errs {
		if (err == nil) == (name == "bad") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if all := messages(t, f.conn, id); len(all) != 2 || all[0].ID != messageID(1) {
		t.Errorf("messages %+v", all)
	}
}

// Queues that somebody keeps locked make nobody else wait, however many they are.
// Their own requests fail after a while, and it is certain that they came to nothing.
func TestLockedQueuesWaitAlone(t *testing.T) {
	t.Parallel() // it waits for time to pass
	f := newWrites(t, 2, 100)
	ids := f.addQueues(t, 3)
	locked := ids[:2]
	release := f.hold(t, locked...)
	var c calls
	for i, id := range locked {
		c.start(t, f, i, id.String(), func() error { return second(f.WriteMessage(t.Context(), id, newMessage(i, "body"))) })
		f.awaitStuck(t, 1)
	}
	for i := range 10 {
		f.write(t, ids[2], newMessage(i, "body"))
	}
	for _, id := range locked {
		if err, ok := c.err(id.String()); ok {
			t.Errorf("queue %s was not waited for: %v", id, err)
		}
	}
	c.running.Wait()
	for _, id := range locked {
		if err, _ := c.err(id.String()); store.CodeOf(err) != store.CodeStore || !store.Certain(err) {
			t.Errorf("queue %s: %v", id, err)
		}
	}
	release()
	for _, id := range locked {
		if all := messages(t, f.conn, id); len(all) != 0 {
			t.Errorf("queue %s has %+v", id, all)
		}
		f.write(t, id, newMessage(5, "body"))
	}
}

// A queue that was locked for a moment is written to as soon as those that still are
// have had one turn each, however many requests wait for any of them.
func TestQueueLockedForAMoment(t *testing.T) {
	t.Parallel() // it waits for time to pass
	f := newWrites(t, 2, 1<<30)
	ids := f.addQueues(t, 2)
	release := f.hold(t, ids[0])
	ctx, cancel := context.WithCancel(t.Context())
	var stubborn calls
	for range 5 {
		stubborn.running.Go(func() {
			for ctx.Err() == nil {
				_, _ = f.WriteMessage(ctx, ids[0], newMessage(0, "body"))
			}
		})
	}
	f.awaitStuck(t, 1)
	releaseSoon := f.hold(t, ids[1])
	const n = 30
	var c calls
	for i := range n {
		c.start(t, f, -1, strconv.Itoa(i), func() error { return second(f.WriteMessage(t.Context(), ids[1], newMessage(i, "body"))) })
	}
	eventually(t, "all wait for their locks", func() bool { return f.Waiting() >= n })
	releaseSoon()
	c.running.Wait()
	for name, err := range c.errs {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	cancel()
	release()
	stubborn.running.Wait()
}

// A caller that gives up while its request is under way is let go when that has failed
// because of another one: it is not tried again.
func TestGivenUpUnderWay(t *testing.T) {
	f := newWrites(t, 1, 100)
	ids := f.addQueues(t, 2)
	f.exec(t, `
		create function wait() returns trigger language plpgsql as $$ begin perform pg_advisory_xact_lock(7); return new; end $$;
		create trigger wait before insert on messages for each row when (new.msg_body = 'wait') execute function wait()`)
	other := f.connect(t)
	pgtest.Exec(t, other, "select pg_advisory_lock(7)")
	var c calls
	release := f.block(t, &c)
	given := &watchedContext{asked: make(chan struct{})}
	var cancel context.CancelFunc
	given.Context, cancel = context.WithCancel(t.Context())
	c.start(t, f, 1, "given up", func() error { return second(f.WriteMessage(given, ids[0], newMessage(1, "wait"))) })
	c.start(t, f, 2, "bad", func() error { return second(f.WriteMessage(t.Context(), ids[1], queue.Message{Body: []byte("no id")})) })
	release()
	eventually(t, "no request waits", func() bool { return f.Waiting() == 0 })
	f.awaitStuck(t, 1)
	cancel()
	<-given.asked
	pgtest.Exec(t, other, "select pg_advisory_unlock(7)")
	c.running.Wait()
	err, _ := c.err("given up")
	wantError(t, err, store.CodeStore, context.Canceled)
	if !store.Certain(err) {
		t.Errorf("it is not certain: %v", err)
	}
	if all := messages(t, f.conn, ids[0]); len(all) != 0 {
		t.Errorf("messages %+v", all)
	}
}

// A watchedContext tells when somebody asks why it is done.
type watchedContext struct {
	context.Context

	once  sync.Once
	asked chan struct{}
}

func (c *watchedContext) Err() error {
	err := c.Context.Err()
	if err != nil {
		c.once.Do(func() { close(c.asked) })
	}
	return err
}

// A caller that gives up while its request waits is let go at once, and nothing is
// done. When the request is under way, it gets the answer.
func TestCancelledRequest(t *testing.T) {
	f := newWrites(t, 1, 100)
	ids := f.addQueues(t, 3)
	release := f.hold(t, ids[0])
	var c calls
	ctx, cancel := context.WithCancel(t.Context())
	c.start(t, f, 0, "under way", func() error { return second(f.WriteMessage(ctx, ids[0], newMessage(0, "body"))) })
	f.awaitStuck(t, 1)
	c.start(t, f, 1, "waiting", func() error { return second(f.WriteMessage(ctx, ids[1], newMessage(0, "body"))) })
	c.start(t, f, 2, "other", func() error { return second(f.WriteMessage(t.Context(), ids[2], newMessage(0, "body"))) })
	c.start(t, f, 3, "waiting too", func() error { return second(f.WriteMessage(ctx, ids[2], newMessage(1, "body"))) })
	cancel()
	for _, name := range []string{"waiting", "waiting too"} {
		eventually(t, "the call ends", func() bool { _, ok := c.err(name); return ok })
		err, _ := c.err(name)
		wantError(t, err, store.CodeStore, context.Canceled)
	}
	if err, ok := c.err("under way"); ok {
		t.Errorf("no answer was awaited: %v", err)
	}
	_, err := f.WriteMessage(ctx, ids[0], newMessage(1, "body"))
	wantError(t, err, store.CodeStore, context.Canceled)
	release()
	c.running.Wait()
	for _, name := range []string{"under way", "other"} {
		if err, _ := c.err(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i, want := range []int{1, 0, 1} {
		if n := len(messages(t, f.conn, ids[i])); n != want {
			t.Errorf("queue %d has %d messages, want %d", i, n, want)
		}
	}
	if n := f.Lines(); n != 0 {
		t.Errorf("%d lines are left", n)
	}
}

// No more requests wait than there is room for.
func TestTooManyRequests(t *testing.T) {
	f := newWrites(t, 1, 1<<30)
	ids := f.addQueues(t, 8)
	var c calls
	release := f.block(t, &c)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range store.MaxWaiting {
		c.running.Go(func() {
			if _, err := f.WriteMessage(ctx, ids[i%len(ids)], newMessage(i, "")); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	eventually(t, "no more can wait", func() bool { return f.Waiting() == store.MaxWaiting })
	_, err := f.WriteMessage(ctx, ids[0], newMessage(0, ""))
	wantError(t, err, store.CodeStore, store.ErrBusy)
	f.AddWaiting(1) // as when a round trip is to be repeated
	_, err = f.DeleteMessage(ctx, ids[0], messageID(0))
	wantError(t, err, store.CodeStore, store.ErrBusy)
	f.AddWaiting(-1)
	cancel()
	eventually(t, "no request waits", func() bool { return f.Waiting() == 0 })
	c.start(t, f, 1, "after", func() error { return second(f.WriteMessage(t.Context(), ids[0], newMessage(0, ""))) })
	release()
	c.running.Wait()
	if err, _ := c.err("after"); err != nil {
		t.Error(err)
	}
	// Large ones count by their bytes.
	var c2 calls
	release = f.block(t, &c2)
	body := string(make([]byte, 1<<20))
	for i := range 64 {
		c2.start(t, f, i+1, fmt.Sprint(i), func() error { return second(f.WriteMessage(t.Context(), ids[1], newMessage(i, body))) })
	}
	_, err = f.WriteMessage(t.Context(), ids[1], newMessage(0, "x"))
	wantError(t, err, store.CodeStore, store.ErrBusy)
	release()
	c2.running.Wait()
	if n := len(messages(t, f.conn, ids[1])); n != 64 {
		t.Errorf("%d large messages, want 64", n)
	}
}

// Close answers all requests. What it answered with success is there, and nothing
// else.
func TestCloseUnderLoad(t *testing.T) {
	f := newWrites(t, 2, 1<<30)
	ids := f.addQueues(t, 5)
	var running sync.WaitGroup
	written := make([]int, 16)
	begun := make(chan struct{}, len(written))
	for w := range written {
		running.Go(func() {
			for i := 0; ; i++ {
				_, err := f.WriteMessage(t.Context(), ids[(w+i)%len(ids)], newMessage(1000*w+i, "body"))
				if err != nil {
					wantError(t, err, store.CodeStore, store.ErrClosed)
					return
				}
				if written[w]++; written[w] == 10 {
					begun <- struct{}{}
				}
			}
		})
	}
	for range written {
		<-begun
	}
	f.Close()
	running.Wait()
	total := 0
	for _, n := range written {
		total += n
	}
	if n := f.number(t, "select count(*) from messages"); n != int64(total) {
		t.Errorf("%d messages are there, %d were written", n, total)
	}
}

// contract: QS-08
//
// While the database is away, requests fail at once with STORE; when it is back,
// they succeed. What was answered with success is there; what is there was
// answered with success, or with an error that does not tell.
func TestRequestsWhileDatabaseIsAway(t *testing.T) {
	c := newDatabase(t)
	p := newProxy(t, c.DSN)
	through := c
	through.DSN = p.dsn()
	f := fixture{openStore(t, store.Options{Config: through, Quota: 1 << 30}), c, pgtest.Conn(t, c.DSN)}
	ids := f.addQueues(t, 5)
	const writers = 16
	var (
		running sync.WaitGroup
		mu      sync.Mutex
		answers = make(map[queue.MessageID]error)
	)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for w := range writers {
		running.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				m := newMessage(1_000_000*w+i, "body")
				_, err := f.WriteMessage(t.Context(), ids[(w+i)%len(ids)], m)
				if err != nil && store.CodeOf(err) != store.CodeStore {
					t.Errorf("code %s: %v", store.CodeOf(err), err)
				}
				mu.Lock()
				answers[m.ID] = err
				mu.Unlock()
			}
		})
	}
	successes := func() (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, err := range answers {
			if err == nil {
				n++
			}
		}
		return n
	}
	more := func() {
		n := successes()
		eventually(t, "the load goes on", func() bool { return successes() > n+100 })
	}
	more()
	for _, at := range []cutPoint{beforeCommit, afterCommit, beforeCommit, afterCommit} {
		<-p.cutNext(at, "insert into")
		more()
	}
	p.refuse()
	eventually(t, "the database answers again", func() bool {
		begin := time.Now()
		_, err := f.WriteMessage(t.Context(), ids[0], newMessage(999_999_999, "body"))
		return err != nil && time.Since(begin) < time.Second
	})
	p.restore(t)
	more()
	cancel()
	running.Wait()

	there := make(map[queue.MessageID]bool)
	for _, id := range ids {
		for _, m := range messages(t, f.conn, id) {
			if there[m.ID] {
				t.Errorf("message %s is there twice", m.ID)
			}
			there[m.ID] = true
		}
	}
	for id, err := range answers {
		switch {
		case err == nil && !there[id]:
			t.Errorf("message %s is lost", id)
		case err != nil && there[id] && store.Certain(err):
			t.Errorf("message %s is there, in spite of %v", id, err)
		}
	}
}

// A database that does not answer makes nobody wait for long, be the request under
// way or not. Then all goes on.
func TestRequestsWhileDatabaseHangs(t *testing.T) {
	t.Parallel() // it waits for time to pass
	c := newDatabase(t)
	p := newProxy(t, c.DSN)
	through := c
	through.DSN = p.dsn()
	f := fixture{openStore(t, store.Options{Config: through, Connections: 4}), c, pgtest.Conn(t, c.DSN)}
	ids := f.addQueues(t, 3)
	f.write(t, ids[0], newMessage(0, "body"))
	p.hang()
	begin := time.Now()
	var calls calls
	for i, id := range ids {
		calls.start(t, f, i, fmt.Sprint(i), func() error { return second(f.WriteMessage(t.Context(), id, newMessage(1, "body"))) })
		eventually(t, "one is under way", func() bool { return f.Lines() == f.Waiting()+1 })
	}
	calls.running.Wait()
	if d := time.Since(begin); d > 20*time.Second {
		t.Errorf("the answers took %s", d)
	}
	uncertain := 0
	for i := range ids {
		err, _ := calls.err(fmt.Sprint(i))
		if store.CodeOf(err) != store.CodeStore {
			t.Errorf("%d: %v", i, err)
		}
		if !store.Certain(err) {
			uncertain++
		}
	}
	if uncertain > 1 { // the others never got their turn
		t.Errorf("of %d calls, %d do not know what became of them", len(ids), uncertain)
	}
	p.restore(t)
	eventually(t, "the database answers again", func() bool {
		_, err := f.WriteMessage(t.Context(), ids[1], newMessage(2, "body"))
		return err == nil
	})
}

// A call that has the store for itself takes one round trip, and no time besides.
func TestSingleRequestGoesAtOnce(t *testing.T) {
	c := newDatabase(t)
	p := newProxy(t, c.DSN)
	through := c
	through.DSN = p.dsn()
	f := fixture{openStore(t, store.Options{Config: through}), c, pgtest.Conn(t, c.DSN)}
	id := f.addQueues(t, 1)[0]
	calls := []func(i int) error{
		func(i int) error { return second(f.WriteMessage(t.Context(), id, newMessage(i, "body"))) },
		func(i int) error { return third(f.DeletePeekMessage(t.Context(), id, messageID(i))) },
		func(int) error { return second(f.PeekMessage(t.Context(), id)) },
		func(int) error { return second(f.PeekMessages(t.Context(), []queue.RecipientID{id})) },
		func(int) error { return second(f.ExpireQueue(t.Context(), id, 1)) },
		func(i int) error { return second(f.WriteMessage(t.Context(), id, newMessage(i, "body"))) },
		func(i int) error { return second(f.DeleteMessage(t.Context(), id, messageID(i))) },
	}
	for round := range 2 { // the first one prepares the statements
		before := p.transactions.Load()
		for i, call := range calls {
			if err := call(i); err != nil {
				t.Fatal(err)
			}
		}
		if n := p.transactions.Load() - before; round > 0 && n != int64(len(calls)) {
			t.Errorf("%d calls took %d round trips", len(calls), n)
		}
	}
}
