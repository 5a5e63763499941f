package store_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

// purgeSchema is the schema of the tests of purges.
var purgeSchema = store.Schema{Name: "router", Version: schema.Newest}

// newPurge lists ten deleted queues in a new database.
func newPurge(t *testing.T, l store.Limits) (dsn string, conn *pgx.Conn, p *store.Purge) {
	t.Helper()
	dsn = pgtest.DSN(t)
	conn, err := store.Connect(t.Context(), store.Config{DSN: dsn, Schema: purgeSchema.Name, Application: "smpq test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if _, err := schema.Migrate(t.Context(), conn, purgeSchema.Name, purgeSchema.Version, schema.Options{}); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, conn, `
		insert into msg_queues (recipient_id, recipient_keys, rcv_dh_secret, sender_id, status, deleted_at)
		select convert_to(n::text, 'utf8'), '\x01', '\x02', convert_to(n::text, 'utf8'), 'active', 100 - n from generate_series(1, 10) n`)
	p, err = store.NewPurge(t.Context(), conn, purgeSchema, 100, l)
	if err != nil {
		t.Fatal(err)
	}
	return dsn, conn, p
}

// A purge goes through its list, the longest deleted queues first, to the end.
func TestPurge(t *testing.T) {
	_, conn, p := newPurge(t, store.Limits{})
	if p.Total() != 10 {
		t.Errorf("total %d, want 10", p.Total())
	}
	for _, want := range []int64{3, 3, 3, 1, 0, 0} {
		var oldest int64
		if err := conn.QueryRow(t.Context(), "select coalesce(min(deleted_at), 0) from msg_queues").Scan(&oldest); err != nil {
			t.Fatal(err)
		}
		listed, removed, err := p.Batch(t.Context(), 3)
		if err != nil || listed != want || removed.Queues != want || removed.Messages != 0 || (removed.Bytes == 0) != (want == 0) {
			t.Errorf("batch of %d: %d, %+v, %v", want, listed, removed, err)
		}
		var left int64
		if err := conn.QueryRow(t.Context(), "select count(*) from msg_queues where deleted_at < $1", oldest+want).Scan(&left); err != nil || left > 0 {
			t.Errorf("%d of the longest deleted queues are left: %v", left, err)
		}
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// A batch does not wait for ever, and what it has begun is undone.
func TestPurgeLimits(t *testing.T) {
	for _, tc := range []struct {
		name, other string
		limits      store.Limits
		want        string
	}{
		{
			"table", "begin; lock table router.msg_queues in share mode",
			store.Limits{Lock: 50 * time.Millisecond, Statement: time.Minute},
			"lock timeout",
		},
		{
			"row", "begin; select from router.messages for update",
			store.Limits{Lock: time.Minute, Statement: 50 * time.Millisecond},
			"remove 10 deleted queues: it took longer than 50ms: take fewer at a time",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dsn, conn, p := newPurge(t, tc.limits)
			pgtest.Exec(t, conn, "insert into messages (recipient_id, msg_id, msg_ts, msg_quota, msg_ntf_flag, msg_body) values ('5', '', 0, false, false, '')")
			other := pgtest.Conn(t, dsn)
			pgtest.Exec(t, other, tc.other)
			_, removed, err := p.Batch(t.Context(), 10)
			if err == nil || !strings.Contains(err.Error(), tc.want) || removed != (store.Removed{}) {
				t.Errorf("%+v, %v", removed, err)
			}
			pgtest.Exec(t, other, "rollback")
			r, err := store.CountDeleted(t.Context(), conn, purgeSchema, 100)
			if err != nil || r.Queues != 10 || r.Messages != 1 {
				t.Errorf("afterwards there are %+v, %v", r, err)
			}
			var settings string
			err = conn.QueryRow(t.Context(), "select current_setting('lock_timeout') || current_setting('statement_timeout')").Scan(&settings)
			if err != nil || settings != "00" {
				t.Errorf("the session's timeouts are %s, %v", settings, err)
			}
		})
	}
}

// Removing is as quick at the end of a long list as at its start, although
// nothing cleans up in between.
func TestPurgeDoesNotRescan(t *testing.T) {
	_, conn, p := newPurge(t, store.Limits{})
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, conn, `
		insert into msg_queues (recipient_id, recipient_keys, rcv_dh_secret, sender_id, status, deleted_at)
		select convert_to('x' || n, 'utf8'), '\x01', '\x02', convert_to('x' || n, 'utf8'), 'active', 50 from generate_series(1, 3000) n;
		analyze`)
	p, err := store.NewPurge(t.Context(), conn, purgeSchema, 100, store.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	read := func() int64 {
		t.Helper()
		var blocks int64
		pgtest.Exec(t, conn, "select pg_stat_force_next_flush()")
		err := conn.QueryRow(t.Context(), `
			select sum(heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit)::bigint
			  from pg_statio_user_tables where schemaname = 'router'`).Scan(&blocks)
		if err != nil {
			t.Fatal(err)
		}
		return blocks
	}
	var cost []int64
	for range 30 {
		before := read()
		if listed, _, err := p.Batch(t.Context(), 100); err != nil || listed != 100 {
			t.Fatalf("%d, %v", listed, err)
		}
		cost = append(cost, read()-before)
	}
	if first, last := cost[1], cost[len(cost)-1]; last > 2*first {
		t.Errorf("blocks that batches touched: %v", cost)
	}
}
