package compact_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/compact"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

// contract: QS-10
//
// Soft-deleted queues stay until the deleted TTL is over; then compaction removes
// them with their messages. Live queues and fresher ones it never touches.
func TestQueues(t *testing.T) {
	for _, version := range []schema.Version{schema.ServiceCerts, schema.StoreMessages, schema.QueueIDsHash} {
		t.Run(string(version), func(t *testing.T) {
			_, conn := newDatabase(t, version)
			messages := 3
			if version == schema.ServiceCerts {
				messages = 0
			}
			for group, days := range map[string]int{"live": -1, "today": 0, "fresh": 20, "due": 21, "old": 22, "ancient": 1000} {
				addQueues(t, conn, group, 10, days, messages)
			}
			all := map[string]int64{"live": 10, "today": 10, "fresh": 10, "due": 10, "old": 10, "ancient": 10}

			// At midnight the queues of 21 days ago have not been deleted for
			// longer than that; a second later they have.
			early := options()
			early.Now, early.DryRun = now.Add(-time.Second), true
			if r, err := compact.Queues(t.Context(), conn, name, early); err != nil || r.Queues != 20 {
				t.Errorf("at midnight: %+v, %v", r, err)
			}

			o := options()
			o.Batch, o.DryRun = 7, true
			dry, err := compact.Queues(t.Context(), conn, name, o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(all, groups(t, conn, messages)); diff != "" {
				t.Errorf("queues after a dry run (-want +got):\n%s", diff)
			}
			want := store.Removed{Queues: 30, Messages: int64(30 * messages), Bytes: dry.Bytes}
			if diff := cmp.Diff(want, dry.Removed); diff != "" || dry.Bytes < int64(30*messages*100) {
				t.Errorf("dry run: %+v", dry)
			}

			o.DryRun = false
			r, err := compact.Queues(t.Context(), conn, name, o)
			if err != nil {
				t.Fatal(err)
			}
			r.Seconds = 0
			wantResult := compact.QueueResult{Schema: name, DeletedBefore: now.AddDate(0, 0, -21), Removed: want, Batches: 5}
			if diff := cmp.Diff(wantResult, r); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			left := map[string]int64{"live": 10, "today": 10, "fresh": 10}
			if diff := cmp.Diff(left, groups(t, conn, messages)); diff != "" {
				t.Errorf("queues afterwards (-want +got):\n%s", diff)
			}

			o.Vacuum = true
			if r, err := compact.Queues(t.Context(), conn, name, o); err != nil || r.Queues != 0 || r.Batches != 0 || !r.Vacuumed {
				t.Errorf("again: %+v, %v", r, err)
			}
			var tuples int64
			err = conn.QueryRow(t.Context(), "select reltuples::bigint from pg_class where oid = 'msg_queues'::regclass").Scan(&tuples)
			if err != nil || tuples != 30 {
				t.Errorf("%d rows are known after VACUUM (ANALYZE): %v", tuples, err)
			}
		})
	}
}

// contract: QS-10
//
// The soft delete has taken the queue out of its service's count and hash; the
// removal of the row must not do it again.
func TestQueuesOfServices(t *testing.T) {
	_, conn := newDatabase(t, schema.QueueIDsHash)
	pgtest.Exec(t, conn, `
		insert into services (service_id, service_role, service_cert, service_cert_hash, created_at)
		values ('\x4d', 'M', '\x01', '\x4d', 0), ('\x4e', 'N', '\x01', '\x4e', 0)`)
	addQueues(t, conn, "live", 5, -1, 0)
	addQueues(t, conn, "gone", 5, -1, 0)
	pgtest.Exec(t, conn, `
		update msg_queues set rcv_service_id = '\x4d', ntf_service_id = '\x4e', notifier_id = recipient_id,
		       notifier_key = '\x01', rcv_ntf_dh_secret = '\x01'`)
	pgtest.Exec(t, conn, `update msg_queues set deleted_at = 0 where convert_from(recipient_id, 'utf8') like 'gone-%'`)
	const aggregates = `select array_agg(row(service_id, queue_count, queue_ids_hash)::text order by service_id) from services`
	read := func() (rows []string) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), aggregates).Scan(&rows); err != nil {
			t.Fatal(err)
		}
		return rows
	}
	before := read()
	if r, err := compact.Queues(t.Context(), conn, name, options()); err != nil || r.Queues != 5 {
		t.Fatalf("%+v, %v", r, err)
	}
	if diff := cmp.Diff(before, read()); diff != "" {
		t.Errorf("services (-before +after):\n%s", diff)
	}
	s, err := store.OpenSchema(t.Context(), conn, name)
	if err != nil {
		t.Fatal(err)
	}
	if wrong, err := store.WrongAggregates(t.Context(), conn, s); err != nil || len(wrong) > 0 {
		t.Errorf("services with wrong aggregates: %v, %v", wrong, err)
	}
}

// A clock that is fast, here or in the database, removes nothing too early.
func TestQueuesWithFastClock(t *testing.T) {
	_, conn := newDatabase(t, schema.Newest)
	addQueues(t, conn, "fresh", 3, 1, 1)
	o := options()
	o.Now = now.AddDate(100, 0, 0)
	if r, err := compact.Queues(t.Context(), conn, name, o); err != nil || r.Queues != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// A compaction that runs out of time ends well and says what is left.
func TestQueuesMaxTime(t *testing.T) {
	_, conn := newDatabase(t, schema.Newest)
	addQueues(t, conn, "gone", 20, 30, 1)
	o := options()
	o.Batch, o.MaxTime = 5, time.Nanosecond
	if r, err := compact.Queues(t.Context(), conn, name, o); err != nil || r.Left != 20 || r.Queues != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	o.MaxTime = time.Hour
	if r, err := compact.Queues(t.Context(), conn, name, o); err != nil || r.Left != 0 || r.Queues != 20 {
		t.Errorf("%+v, %v", r, err)
	}
}

// afterBatch calls a function after each batch.
type afterBatch struct{ f func() }

func (afterBatch) Phase(string, int64, string) {}
func (p afterBatch) Add(int64)                 { p.f() }

// An interrupt lets the batch end, also in a pause; the result is right, and the
// next run does the rest.
func TestQueuesInterrupted(t *testing.T) {
	for _, pause := range []time.Duration{0, time.Hour} {
		_, conn := newDatabase(t, schema.Newest)
		addQueues(t, conn, "gone", 20, 30, 2)
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		cause := errors.New("enough")
		o := options()
		o.Batch, o.Pause = 6, pause
		o.Progress = afterBatch{func() { cancel(cause) }}
		r, err := compact.Queues(ctx, conn, name, o)
		if !errors.Is(err, cause) {
			t.Errorf("error %v", err)
		}
		if r.Batches != 1 || r.Queues != 6 || r.Messages != 12 || r.Left != 14 {
			t.Errorf("result %+v", r)
		}
		if diff := cmp.Diff(map[string]int64{"gone": 14}, groups(t, conn, 2)); diff != "" {
			t.Errorf("queues (-want +got):\n%s", diff)
		}
		o.Pause, o.Progress = 0, quiet{}
		if r, err := compact.Queues(t.Context(), conn, name, o); err != nil || r.Queues != 14 || r.Left != 0 {
			t.Errorf("next run: %+v, %v", r, err)
		}
	}
}

// There is one compaction at a time, and it says who the other one is.
func TestQueuesLocked(t *testing.T) {
	dsn, conn := newDatabase(t, schema.Newest)
	addQueues(t, conn, "gone", 3, 30, 1)
	other := connect(t, dsn)
	unlock, err := schema.Lock(t.Context(), other, name, "import")
	if err != nil {
		t.Fatal(err)
	}
	r, err := compact.Queues(t.Context(), conn, name, options())
	var locked *schema.LockedError
	if !errors.As(err, &locked) || locked.Holder.Application != "smpq import" || r.Queues != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if err := unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r, err := compact.Queues(t.Context(), conn, name, options()); err != nil || r.Queues != 3 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := schema.Lock(t.Context(), other, name, "import"); err != nil {
		t.Errorf("lock after the compaction: %v", err)
	}
}

// Queues that somebody else removes or has locked are left to him. A queue that
// has come back to life since it was listed stays.
func TestQueuesOfOthers(t *testing.T) {
	dsn, conn := newDatabase(t, schema.Newest)
	addQueues(t, conn, "gone", 20, 30, 1)
	other := connect(t, dsn)
	pgtest.Exec(t, other, `
		begin;
		select from msg_queues where recipient_id = 'gone-1' for update;
		delete from msg_queues where recipient_id = 'gone-2'`)
	third := connect(t, dsn)
	first := true
	o := options()
	o.Batch = 10
	o.Progress = afterBatch{func() {
		if first {
			const one = " where recipient_id = (select recipient_id from msg_queues where recipient_id not in ('gone-1', 'gone-2') limit 1)"
			pgtest.Exec(t, third, "delete from msg_queues"+one)
			pgtest.Exec(t, third, "update msg_queues set deleted_at = null"+one)
		}
		first = false
	}}
	r, err := compact.Queues(t.Context(), conn, name, o)
	if err != nil || r.Queues != 16 || r.Skipped != 4 || r.Left != 0 || r.Messages != 16 {
		t.Errorf("%+v, %v", r, err)
	}
	pgtest.Exec(t, other, "rollback")
	if diff := cmp.Diff(map[string]int64{"gone": 3}, groups(t, conn, 1)); diff != "" {
		t.Errorf("queues (-want +got):\n%s", diff)
	}
}

func TestQueuesRefusesSchema(t *testing.T) {
	_, conn := newDatabase(t, schema.ShortLinks)
	if _, err := compact.Queues(t.Context(), conn, name, options()); !errors.Is(err, schema.ErrTooOld) {
		t.Errorf("old schema: %v", err)
	}
	if _, err := compact.Queues(t.Context(), conn, "nosuch", options()); !errors.Is(err, schema.ErrMissing) {
		t.Errorf("no schema: %v", err)
	}
}

// A running router never waits for a compaction: while a batch is under way, all
// that it does with live queues goes on.
func TestQueuesBesideRouter(t *testing.T) {
	dsn, conn := newDatabase(t, schema.Newest)
	addQueues(t, conn, "live", 20, -1, 1)
	addQueues(t, conn, "gone", 20, 30, 1)
	gate := newGate(t, dsn, "gone-7")
	done := make(chan error, 1)
	go func() {
		o := options()
		o.Batch = 10
		_, err := compact.Queues(t.Context(), conn, name, o)
		done <- err
	}()
	gate.reached(t)

	router := connect(t, dsn)
	pgtest.Exec(t, router, "set lock_timeout = '1s'")
	for i := range 20 {
		id := fmt.Appendf(nil, "live-%d", i+1)
		pgtest.Exec(t, router, "select * from write_message($1, '\\x05', 1, false, false, '\\x06', 128)", id)
		pgtest.Exec(t, router, "select * from try_del_peek_msg($1, '\\x03')", id)
		pgtest.Exec(t, router, "update msg_queues set updated_at = 1, status = 'off' where recipient_id = $1 and deleted_at is null", id)
		if i%2 == 0 {
			pgtest.Exec(t, router, "update msg_queues set deleted_at = $2 where recipient_id = $1 and deleted_at is null", id, now.Unix())
		}
	}
	addQueues(t, router, "new", 20, -1, 1)

	gate.open(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]int64{"live": 20, "new": 20}, groups(t, conn, 1)); diff != "" {
		t.Errorf("queues (-want +got):\n%s", diff)
	}
}
