package store_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/storelog"
)

// writes returns how many transactions that write the store began while work ran.
func (f fixture) writes(t testing.TB, work func()) int64 {
	t.Helper()
	const xid = "select pg_current_xact_id()::text::bigint" // takes one itself
	before := f.number(t, xid)
	work()
	return f.number(t, xid) - before - 1
}

// Each change shows in the record, in the row and in the log.
//
// contract: QS-18
func TestChanges(t *testing.T) {
	key, keys := randomKey(), []smp.PublicKey{randomKey(), randomKey()}
	notifier, other, link := randomNotifier(), randomNotifier(), randomLink()
	link2 := queue.Link{ID: link.ID, Data: queue.LinkData{Fixed: link.Data.Fixed, User: []byte("new")}}
	blocking := queue.Blocking{Reason: "content", HasNotice: true, Notice: queue.Notice{TTL: 60, HasTTL: true}}
	steps := []struct {
		name   string
		change func(ctx context.Context, f fixture, q *store.Queue) error
		want   func(r *queue.Record)
		log    string
	}{
		{"secure", func(ctx context.Context, f fixture, q *store.Queue) error { return f.SecureQueue(ctx, q, key) }, func(r *queue.Record) { r.SenderKey = key }, "SECURE"},
		{"keys", func(ctx context.Context, f fixture, q *store.Queue) error { return f.SetRecipientKeys(ctx, q, keys...) }, func(r *queue.Record) { r.RecipientKeys = keys }, "KEYS"},
		{"link", func(ctx context.Context, f fixture, q *store.Queue) error { return f.SetLink(ctx, q, link) }, func(r *queue.Record) { r.Link = &link }, "LINK"},
		{"user data", func(ctx context.Context, f fixture, q *store.Queue) error { return f.SetLink(ctx, q, link2) }, func(r *queue.Record) { r.Link = &link2 }, "LINK"},
		{"notifier", func(ctx context.Context, f fixture, q *store.Queue) error {
			old, err := f.AddNotifier(ctx, q, notifier)
			if old != (queue.Notifier{}) {
				return errors.New("there was none")
			}
			return err
		}, func(r *queue.Record) { r.Notifier = &notifier }, "NOTIFIER"},
		{"another notifier", func(ctx context.Context, f fixture, q *store.Queue) error {
			old, err := f.AddNotifier(ctx, q, other)
			if old != notifier {
				return errors.New("not the old one")
			}
			return err
		}, func(r *queue.Record) { r.Notifier = &other }, "NOTIFIER"},
		{"suspend", func(ctx context.Context, f fixture, q *store.Queue) error { return f.SuspendQueue(ctx, q) }, func(r *queue.Record) { r.Status = queue.Status{State: queue.Off} }, "SUSPEND"},
		{"block", func(ctx context.Context, f fixture, q *store.Queue) error { return f.BlockQueue(ctx, q, blocking) }, func(r *queue.Record) { r.Status = queue.Status{State: queue.Blocked, Blocking: blocking} }, "BLOCK"},
		{"unblock", func(ctx context.Context, f fixture, q *store.Queue) error { return f.UnblockQueue(ctx, q) }, func(r *queue.Record) { r.Status = queue.Status{} }, "UNBLOCK"},
		{"time", func(ctx context.Context, f fixture, q *store.Queue) error { return f.SetUpdatedAt(ctx, q, 86400) }, func(r *queue.Record) { r.UpdatedAt = queue.DateOf(86400) }, "TIME"},
		{"delete link", func(ctx context.Context, f fixture, q *store.Queue) error { return f.DeleteLink(ctx, q) }, func(r *queue.Record) { r.Link = nil }, "LDELETE"},
		{"delete notifier", func(ctx context.Context, f fixture, q *store.Queue) error {
			old, err := f.DeleteNotifier(ctx, q)
			if old != other {
				return errors.New("not the old one")
			}
			return err
		}, func(r *queue.Record) { r.Notifier = nil }, "NDELETE"},
	}
	for name, bytes := range map[string]int64{"cache off": 0, "cache tiny": 1, "cache": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			log := filepath.Join(t.TempDir(), "store.log")
			f := newFixture(t, 0)
			f.Store = openStore(t, store.Options{Config: f.config, CacheSize: bytes, StoreLog: log})
			want := newRecord()
			q := f.add(t, want)
			tags := []string{"CREATE"}
			for _, step := range steps {
				if err := step.change(t.Context(), f, q); err != nil {
					t.Fatalf("%s: %v", step.name, err)
				}
				step.want(want)
				tags = append(tags, step.log)
				wantView(t, q, want)
				stored, err := f.stored(t, q.ID())
				if err != nil {
					t.Fatalf("%s: %v", step.name, err)
				}
				if diff := cmp.Diff(want, stored, cmp.Comparer(func(a, b queue.RecipientID) bool { return a == b }), compareOpaque); diff != "" {
					t.Errorf("%s: row (-want +got):\n%s", step.name, diff)
				}
				f.wantFound(t, want)
			}
			was, err := f.DeleteQueue(t.Context(), q)
			if err != nil || was.RecipientID != want.RecipientID || was.SenderKey != key {
				t.Errorf("deleted: %+v, %v", was, err)
			}
			f.wantAbsent(t, want)
			if got := logTags(t, log); !slices.Equal(got, append(tags, "DELETE")) {
				t.Errorf("store log has %v, want %v", got, append(tags, "DELETE"))
			}
		})
	}
}

// compareOpaque compares the opaque values of records.
var compareOpaque = cmp.Options{
	cmp.Comparer(func(a, b smp.PublicKey) bool { return a == b }),
	cmp.Comparer(func(a, b smp.DHSecret) bool { return a == b }),
	cmp.Comparer(func(a, b smp.EntityID) bool { return a == b }),
}

// logTags returns the tags of the lines of a store log, all of which can be read.
func logTags(t testing.TB, name string) []string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var tags []string
	for line := range strings.Lines(string(data)) {
		r, err := storelog.Parse([]byte(strings.TrimSuffix(line, "\n")))
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		tags = append(tags, storelog.Tag(r))
	}
	return tags
}

// A store log that cannot be written stops nobody, and is counted.
//
// contract: QS-18
func TestLogFails(t *testing.T) {
	f := newFixture(t, 0)
	f.Store = openStore(t, store.Options{Config: f.config, StoreLog: "/dev/full"})
	r := newRecord()
	q := f.add(t, r)
	if err := f.SuspendQueue(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	if n := f.LogFailures(); n != 2 {
		t.Errorf("%d failures counted, want 2", n)
	}
	r.Status = queue.Status{State: queue.Off}
	wantView(t, f.wantFound(t, r), r)
}

// contract: QS-12
func TestSecureAgain(t *testing.T) {
	eachCache(t, func(t *testing.T, f fixture) {
		r := newRecord()
		q := f.add(t, r)
		key := randomKey()
		if err := f.SecureQueue(t.Context(), q, key); err != nil {
			t.Fatal(err)
		}
		wrote := f.writes(t, func() {
			if err := f.SecureQueue(t.Context(), q, key); err != nil {
				t.Error(err)
			}
		})
		if wrote != 0 {
			t.Errorf("the same key again: %d transactions", wrote)
		}
		wantError(t, f.SecureQueue(t.Context(), q, randomKey()), store.CodeAuth, store.ErrRefused)
		r.SenderKey = key
		wantView(t, f.wantFound(t, r), r)
	})
}

// contract: QS-09, QS-10, QS-11, QS-23
func TestDeletedQueue(t *testing.T) {
	eachCache(t, func(t *testing.T, f fixture) {
		r := fullRecord()
		q := f.add(t, r)
		if _, err := f.DeleteQueue(t.Context(), q); err != nil {
			t.Fatal(err)
		}
		f.wantAbsent(t, r)
		if n := f.number(t, "select deleted_at from msg_queues"); n != store.Today() {
			t.Errorf("deleted_at is %d, want %d", n, store.Today())
		}
		_, err := q.View()
		wantError(t, err, store.CodeAuth, store.ErrDeleted)
		wrote := f.writes(t, func() {
			for name, change := range f.changes(q) {
				t.Log(name)
				wantError(t, change(t.Context()), store.CodeAuth, store.ErrDeleted)
			}
		})
		if wrote != 0 {
			t.Errorf("changes of a deleted queue: %d transactions", wrote)
		}
		if removed, err := f.PurgeDeleted(t.Context(), store.Today()); err != nil || removed.Queues != 0 {
			t.Errorf("purged before its time: %+v, %v", removed, err)
		}
		if removed, err := f.PurgeDeleted(t.Context(), store.Today()+1); err != nil || removed.Queues != 1 {
			t.Errorf("purged: %+v, %v", removed, err)
		}
		// Then its ids are free, and the old object stays what it is.
		if again := f.add(t, r); again == q {
			t.Error("the object of a deleted queue is used again")
		}
		wantView(t, f.wantFound(t, r), r)
	})
}

// changes are all changes of a queue.
func (f fixture) changes(q *store.Queue) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"secure":          func(ctx context.Context) error { return f.SecureQueue(ctx, q, randomKey()) },
		"keys":            func(ctx context.Context) error { return f.SetRecipientKeys(ctx, q, randomKey()) },
		"link":            func(ctx context.Context) error { return f.SetLink(ctx, q, randomLink()) },
		"delete link":     func(ctx context.Context) error { return f.DeleteLink(ctx, q) },
		"notifier":        func(ctx context.Context) error { _, err := f.AddNotifier(ctx, q, randomNotifier()); return err },
		"delete notifier": func(ctx context.Context) error { _, err := f.DeleteNotifier(ctx, q); return err },
		"suspend":         func(ctx context.Context) error { return f.SuspendQueue(ctx, q) },
		"block":           func(ctx context.Context) error { return f.BlockQueue(ctx, q, queue.Blocking{Reason: "spam"}) },
		"unblock":         func(ctx context.Context) error { return f.UnblockQueue(ctx, q) },
		"time":            func(ctx context.Context) error { return f.SetUpdatedAt(ctx, q, 1) },
		"service":         func(ctx context.Context) error { return f.SetService(ctx, q, queue.PartyRecipient, queue.ServiceID{}) },
		"delete":          func(ctx context.Context) error { _, err := f.DeleteQueue(ctx, q); return err },
	}
}

// A row that another program removed behind the store's back is AUTH, once as
// what it is, and then the store knows.
//
// contract: QS-09, QS-23
func TestStaleRecord(t *testing.T) {
	eachCache(t, func(t *testing.T, f fixture) {
		r := fullRecord()
		q := f.add(t, r)
		f.exec(t, "update msg_queues set deleted_at = 0")
		wantError(t, f.SuspendQueue(t.Context(), q), store.CodeAuth, store.ErrStale)
		wantError(t, f.SuspendQueue(t.Context(), q), store.CodeAuth, store.ErrDeleted)
		f.wantAbsent(t, r)
	})
}

// contract: QS-13
func TestNotifierTaken(t *testing.T) {
	f := newFixture(t, 1<<20)
	r := fullRecord()
	q := f.add(t, r)
	second := f.add(t, newRecord())
	_, err := f.AddNotifier(t.Context(), second, *r.Notifier)
	wantError(t, err, store.CodeDuplicate, store.ErrTaken)
	_, err = f.AddNotifier(t.Context(), q, *r.Notifier)
	wantError(t, err, store.CodeDuplicate, store.ErrTaken)

	other := openStore(t, store.Options{Config: f.config, CacheSize: 1 << 20})
	third, err := other.QueueByRecipient(t.Context(), second.ID())
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.AddNotifier(t.Context(), third, *r.Notifier)
	wantError(t, err, store.CodeAuth, store.ErrTaken)
	if v := view(t, third); v.HasNotifier() {
		t.Error("the refused notifier shows")
	}
}

// contract: QS-22
func TestFixedDataStays(t *testing.T) {
	eachCache(t, func(t *testing.T, f fixture) {
		r := fullRecord()
		q := f.add(t, r)
		same := queue.Link{ID: r.Link.ID, Data: queue.LinkData{Fixed: r.Link.Data.Fixed, User: []byte("new")}}
		if err := f.SetLink(t.Context(), q, same); err != nil {
			t.Fatal(err)
		}
		fixed := same
		fixed.Data.Fixed = []byte("other")
		wantError(t, f.SetLink(t.Context(), q, fixed), store.CodeAuth, store.ErrRefused)
		wantError(t, f.SetLink(t.Context(), q, randomLink()), store.CodeAuth, store.ErrRefused)
		second := f.add(t, newRecord())
		wantError(t, f.SetLink(t.Context(), second, same), store.CodeAuth, store.ErrTaken)
		data, err := f.LinkData(t.Context(), q, r.Link.ID)
		if err != nil || string(data.Fixed) != string(r.Link.Data.Fixed) || string(data.User) != "new" {
			t.Errorf("%q, %v", data, err)
		}
		wantError(t, f.DeleteLink(t.Context(), second), store.CodeAuth, store.ErrNotSet)
	})
}

// Changes of one queue wait for each other, and who waits can leave.
//
// contract: QS-09, QS-21
func TestChangesInTurn(t *testing.T) {
	eachCache(t, func(t *testing.T, f fixture) {
		r := newRecord()
		q := f.add(t, r)
		f.exec(t, "begin")
		f.exec(t, "select 1 from msg_queues for update")
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := f.SuspendQueue(t.Context(), q); err != nil {
				t.Error(err)
			}
		})
		f.waitForLocks(t, 1)
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			if err := f.SecureQueue(ctx, q, randomKey()); store.CodeOf(err) != store.CodeStore || !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled while it waited: %v", err)
			}
		})
		eventually(t, "it waits for its turn", func() bool { return f.LockWaiters(q) == 1 })
		cancel()
		eventually(t, "it has left", func() bool { return f.LockWaiters(q) == 0 })
		key := randomKey()
		wg.Go(func() {
			if err := f.SecureQueue(t.Context(), q, key); err != nil {
				t.Error(err)
			}
		})
		eventually(t, "another one waits", func() bool { return f.LockWaiters(q) == 1 })
		wantView(t, q, r)
		f.exec(t, "commit")
		wg.Wait()
		r.Status = queue.Status{State: queue.Off}
		r.SenderKey = key
		wantView(t, f.wantFound(t, r), r)
	})
}

// Transactions are READ COMMITTED, whatever the server's default is. Behind a pooler,
// where that cannot be set, the store says what to do.
//
// contract: QS-08
func TestIsolation(t *testing.T) {
	f := newFixture(t, 1<<20)
	f.exec(t, "do $$ begin execute format('alter database %I set default_transaction_isolation = serializable', current_database()); end $$")
	f.Store = openStore(t, store.Options{Config: f.config})
	f.exec(t, `
		create table seen (level text);
		create function see() returns trigger language plpgsql as $$ begin
		  insert into seen values (current_setting('transaction_isolation')); return null; end $$;
		create trigger see after insert or update on msg_queues for each statement execute function see()`)
	q := f.add(t, newRecord())
	if err := f.SuspendQueue(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	f.write(t, q.ID(), newMessage(1, "body"))
	if n := f.number(t, "select count(*) from seen where level = 'read committed'"); n != 3 {
		t.Errorf("%d of 3 changes were READ COMMITTED", n)
	}
	s, err := store.Open(t.Context(), store.Options{Config: f.config, Pooled: true})
	if err == nil {
		s.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "default_transaction_isolation is serializable: set it to 'read committed'") {
		t.Errorf("%v", err)
	}
}

// What fails is logged with the operation, and with ids only where details are logged;
// a client is told no more than STORE.
//
// contract: QS-08
func TestDatabaseError(t *testing.T) {
	eachCache(t, func(t *testing.T, f fixture) {
		var log bytes.Buffer
		level := new(slog.LevelVar)
		f.Store = openStore(t, store.Options{Config: f.config, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: level}))})
		q := f.add(t, newRecord())
		f.exec(t, "alter table msg_queues rename to elsewhere")
		err := f.SuspendQueue(t.Context(), q)
		if store.CodeOf(err) != store.CodeStore || !strings.HasPrefix(err.Error(), "suspend "+q.ID().String()+": ") || !strings.Contains(err.Error(), "relation") {
			t.Errorf("%v", err)
		}
		if text := log.String(); !strings.Contains(text, `operation=suspend `) || !strings.Contains(text, "relation") || strings.Contains(text, q.ID().String()) {
			t.Errorf("log:\n%s", text)
		}
		level.Set(slog.LevelDebug)
		_ = f.SuspendQueue(t.Context(), q)
		if text := log.String(); !strings.Contains(text, `operation="suspend `+q.ID().String()) {
			t.Errorf("log with details:\n%s", text)
		}
		level.Set(slog.LevelInfo)
		for range 100 {
			_, err = f.QueueByRecipient(t.Context(), queue.RecipientID{EntityID: randomID()})
			if store.CodeOf(err) != store.CodeStore {
				t.Errorf("%v", err)
			}
		}
		if n := strings.Count(log.String(), "\n"); n > 50 {
			t.Errorf("%d lines for 101 failures", n)
		}
	})
}

// A change whose connection broke may still be made by its session, which waits
// for a lock. Whoever looks next sees what becomes of it, not what was before.
//
// contract: QS-02
func TestLateCommit(t *testing.T) {
	for name, see := range map[string]func(s fixture, id queue.RecipientID) (queue.Status, error){
		"look-up": func(s fixture, id queue.RecipientID) (queue.Status, error) {
			q, err := s.QueueByRecipient(context.Background(), id)
			if err != nil {
				return queue.Status{}, err
			}
			v, err := q.View()
			return v.Status, err
		},
		"bulk": func(s fixture, _ queue.RecipientID) (status queue.Status, err error) {
			for row, err := range s.All(context.Background()) {
				if err != nil {
					return status, err
				}
				status = row.Status
			}
			return status, nil
		},
	} {
		t.Run(name, func(t *testing.T) { testLateCommit(t, see) })
	}
}

func testLateCommit(t *testing.T, see func(s fixture, id queue.RecipientID) (queue.Status, error)) {
	t.Helper()
	f := newFixture(t, 0)
	p := newProxy(t, f.config.DSN)
	through := f.config
	through.DSN = p.dsn()
	s := fixture{Store: openStore(t, store.Options{Config: through, CacheSize: 1 << 20})}
	r := newRecord()
	q := s.add(t, r)
	f.exec(t, "begin")
	f.exec(t, "select 1 from msg_queues for update")
	answer := make(chan error)
	go func() { answer <- s.SuspendQueue(t.Context(), q) }()
	f.waitForLocks(t, 1)
	p.refuse() // nor does a request to cancel it get through
	if err := <-answer; store.CodeOf(err) != store.CodeStore || store.Certain(err) {
		t.Fatalf("a broken connection: %v", err)
	}
	f.waitForLocks(t, 1) // still
	p.restore(t)
	var was queue.Status
	eventually(t, "the database is back", func() bool {
		var err error
		was, err = see(s, r.RecipientID)
		return err == nil
	})
	f.exec(t, "commit")
	eventually(t, "nobody is at work any more", func() bool {
		return f.number(t, "select count(*) from pg_stat_activity where datname = current_database() and state = 'active'") == 1
	})
	stored, err := f.stored(t, r.RecipientID)
	if err != nil {
		t.Fatal(err)
	}
	if was != stored.Status {
		t.Errorf("seen: %s, then in the database: %s", was, stored.Status)
	}
}

// A queue that another process has secured keeps its key, even if this one has not
// heard of it.
//
// contract: QS-12
func TestSecuredElsewhere(t *testing.T) {
	eachCache(t, func(t *testing.T, f fixture) {
		r := newRecord()
		q := f.add(t, r)
		r.SenderKey = randomKey()
		f.exec(t, "update msg_queues set sender_key = $1", r.SenderKey)
		wantError(t, f.SecureQueue(t.Context(), q, randomKey()), store.CodeAuth, store.ErrStale)
		wantView(t, f.wantFound(t, r), r)
		if err := f.SecureQueue(t.Context(), q, r.SenderKey); err != nil {
			t.Error(err)
		}
	})
}
