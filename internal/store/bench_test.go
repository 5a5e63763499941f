package store_test

import (
	"os"
	"strconv"
	"testing"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/store"
)

// benchRows returns the number of queues in the tables of benchmarks.
func benchRows(b *testing.B) int {
	b.Helper()
	text := os.Getenv("SMPQ_BENCH_QUEUES")
	if text == "" {
		return 100_000
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		b.Fatalf("SMPQ_BENCH_QUEUES: %v", err)
	}
	return n
}

// filled returns a store on a table with n queues, and the ids of some of them.
func filled(b *testing.B, n int, cacheSize int64) (fixture, []queue.RecipientID) {
	b.Helper()
	f := newFixture(b, cacheSize)
	r := newRecord()
	f.exec(b, "set session_replication_role = replica") // no triggers
	f.exec(b, `
		insert into msg_queues (recipient_id, recipient_keys, rcv_dh_secret, sender_id, sender_key, queue_mode, status, updated_at,
		                        notifier_id, notifier_key, rcv_ntf_dh_secret)
		select substr(sha256(n::text::bytea), 1, 24), $1, $2, substr(sha256(('s' || n)::bytea), 1, 24),
		       case when n % 3 > 0 then $3::bytea end, 'M', 'active', 86400,
		       case when n % 10 < 3 then substr(sha256(('n' || n)::bytea), 1, 24) end,
		       case when n % 10 < 3 then $3::bytea end, case when n % 10 < 3 then $2::bytea end
		  from generate_series(1, $4::int) n`, queue.AppendBinaryKeys(nil, r.RecipientKeys), r.RcvDHSecret, randomKey(), n)
	f.exec(b, "vacuum analyze msg_queues")
	rows, err := f.conn.Query(b.Context(), "select recipient_id from msg_queues tablesample system (1) limit 10000")
	if err != nil {
		b.Fatal(err)
	}
	var ids []queue.RecipientID
	for rows.Next() {
		var id queue.RecipientID
		if err := rows.Scan(&id); err != nil {
			b.Fatal(err)
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		b.Fatal(err)
	}
	return f, ids
}

// Looking up 135 queues that are not in memory, as many as a block of
// subscriptions has: at once, and one after another.
func BenchmarkLookUp135(b *testing.B) {
	const n = 135
	f, ids := filled(b, benchRows(b), 0)
	at := 0
	next := func() []queue.RecipientID {
		if at+n > len(ids) {
			at = 0
		}
		at += n
		return ids[at-n : at]
	}
	b.Run("batch", func(b *testing.B) {
		for b.Loop() {
			found, err := f.QueuesByRecipient(b.Context(), next())
			if err != nil || found[0].Err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("single", func(b *testing.B) {
		for b.Loop() {
			for _, id := range next() {
				if _, err := f.QueueByRecipient(b.Context(), id); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}

// Counting entities: in one pass, each by itself, and as a store keeps the numbers.
// Counting all that [store.CountAll] does takes another pass.
func BenchmarkEntities(b *testing.B) {
	f, _ := filled(b, benchRows(b), 0)
	s, err := store.OpenSchema(b.Context(), f.conn, f.config.Schema)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("one pass", func(b *testing.B) {
		for b.Loop() {
			if _, err := store.CountEntities(b.Context(), f.conn, s); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("six counts", func(b *testing.B) {
		for b.Loop() {
			for _, what := range []string{
				"msg_queues where deleted_at is null",
				"msg_queues where deleted_at is null and notifier_id is not null",
				"services where service_role = 'M'", "services where service_role = 'N'",
				"msg_queues where deleted_at is null and rcv_service_id is not null",
				"msg_queues where deleted_at is null and ntf_service_id is not null",
			} {
				f.number(b, "select count(*) from "+what)
			}
		}
	})
	b.Run("all in one pass", func(b *testing.B) {
		for b.Loop() {
			if _, err := store.CountAll(b.Context(), f.conn, s); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("kept", func(b *testing.B) {
		if _, err := f.Entities(b.Context()); err != nil { // counts them
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := f.Entities(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
