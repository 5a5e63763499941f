package store_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/store"
)

// All reads every live queue once, in the order of ids, over several pages.
func TestAll(t *testing.T) {
	f := newFixture(t, 0)
	f.exec(t, `
		insert into msg_queues (recipient_id, recipient_keys, rcv_dh_secret, sender_id, status, deleted_at)
		select sha256(n::text::bytea), $1, $2, sha256((-n)::text::bytea), 'active', case when n % 10 = 0 then 0 end
		  from generate_series(1, 1000) n`, queue.AppendBinaryKeys(nil, newRecord().RecipientKeys), randomSecret())
	full := fullRecord()
	f.add(t, full)
	var last queue.RecipientID
	seen := 0
	for row, err := range f.All(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if row.RecipientID.Compare(last.EntityID) <= 0 {
			t.Fatalf("%s after %s", row.RecipientID, last)
		}
		if row.RecipientID == full.RecipientID {
			if diff := cmp.Diff(full, &row.Record, compareOpaque); diff != "" {
				t.Error(diff)
			}
		}
		last = row.RecipientID
		seen++
	}
	if seen != 901 {
		t.Errorf("%d queues, want 901", seen)
	}
	for _, err := range f.All(t.Context()) {
		if err != nil {
			t.Error(err)
		}
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for row, err := range f.All(ctx) {
		if err == nil {
			t.Errorf("cancelled, but got %v", row)
		}
	}
}

// contract: QS-10
func TestPurgeDeleted(t *testing.T) {
	f := newFixture(t, 1<<20)
	live := f.add(t, newRecord())
	f.exec(t, `
		insert into msg_queues (recipient_id, recipient_keys, rcv_dh_secret, sender_id, status, deleted_at)
		select sha256(n::text::bytea), $1, $2, sha256((-n)::text::bytea), 'active', n
		  from generate_series(1, 2500) n`, queue.AppendBinaryKeys(nil, newRecord().RecipientKeys), randomSecret())
	f.exec(t, `
		insert into messages (recipient_id, msg_id, msg_ts, msg_quota, msg_ntf_flag, msg_body)
		select recipient_id, '\x01', 1, false, false, 'body' from msg_queues`)
	removed, err := f.PurgeDeleted(t.Context(), 2301)
	if err != nil || removed.Queues != 2300 || removed.Messages != 2300 {
		t.Errorf("%+v, %v", removed, err)
	}
	if n := f.number(t, "select count(*) from messages"); n != 201 {
		t.Errorf("%d messages are left, want 201", n)
	}
	if _, err := f.QueueByRecipient(t.Context(), live.ID()); err != nil {
		t.Error(err)
	}
}

// wantCounted checks the numbers that a store keeps against those of the database.
func (f fixture) wantCounted(t testing.TB, step string) {
	t.Helper()
	s, err := store.OpenSchema(t.Context(), f.conn, f.config.Schema)
	if err != nil {
		t.Fatal(err)
	}
	counted, err := store.CountEntities(t.Context(), f.conn, s)
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.Entities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(counted, got); diff != "" {
		t.Errorf("%s (-counted +kept):\n%s", step, diff)
	}
}

// A notifier that lacks a part is none, for whoever counts.
func TestEntitiesOfDamagedNotifier(t *testing.T) {
	f := newFixture(t, 1<<20)
	r := fullRecord()
	f.add(t, r)
	f.exec(t, "update msg_queues set notifier_key = null")
	f.Store = openStore(t, store.Options{Config: f.config, CacheSize: 1 << 20})
	f.wantCounted(t, "a notifier without a key")
	q, err := f.QueueByRecipient(t.Context(), r.RecipientID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.DeleteQueue(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	f.wantCounted(t, "deleted")
}

// The numbers that the store keeps up to date are those of a count.
func TestEntities(t *testing.T) {
	f := newFixture(t, 1<<20)
	want := func(step string) {
		t.Helper()
		f.wantCounted(t, step)
	}
	for range 3 {
		f.add(t, fullRecord())
	}
	want("first count")
	q := f.add(t, fullRecord())
	changes := f.changes(q)
	service := f.addService(t, queue.RoleMessaging)
	want("add")
	for _, err := range f.SetServices(t.Context(), []*store.Queue{q}, queue.PartyRecipient, service) {
		if err != nil {
			t.Fatal(err)
		}
	}
	want("set services")
	for _, name := range []string{"unblock", "block", "delete link", "link", "notifier", "delete notifier", "suspend", "service", "delete"} {
		if err := changes[name](t.Context()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want(name)
	}
	// Not even a lock of the whole table is in the way.
	f.exec(t, "begin")
	f.exec(t, "lock table msg_queues in access exclusive mode")
	if _, err := f.Entities(t.Context()); err != nil {
		t.Error(err)
	}
	f.exec(t, "rollback")
}

// A caller that gives up while entities begin to be counted does not wait for the
// changes of others.
func TestCountingDelaysNobody(t *testing.T) {
	f := newFixture(t, 1<<20)
	slow, other := f.add(t, newRecord()), f.add(t, newRecord())
	f.exec(t, "begin")
	f.exec(t, "select 1 from msg_queues where recipient_id = $1 for update", slow.ID())
	var wg sync.WaitGroup
	wg.Go(func() { _ = f.SuspendQueue(t.Context(), slow) })
	f.waitForLocks(t, 1)
	wg.Go(func() { _, _ = f.Entities(t.Context()) })
	watching := fixture{conn: pgtest.Conn(t, f.config.DSN)}
	eventually(t, "the count begins", func() bool {
		return watching.number(t, "select count(*) from pg_stat_activity where datname = current_database() and state = 'idle in transaction' and query like 'begin isolation%'") == 1
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	err := f.SuspendQueue(ctx, other)
	if took := time.Since(begin); took > 1500*time.Millisecond {
		t.Errorf("it took %s: %v", took, err)
	}
	f.exec(t, "commit")
	wg.Wait()
}
