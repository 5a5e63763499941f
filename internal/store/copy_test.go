package store

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/gen"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/storelog"
)

// replayed returns what a synthetic log of n queues ends with.
func replayed(t *testing.T, n int64) *storelog.State {
	t.Helper()
	name := filepath.Join(t.TempDir(), "store.log")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gen.Write(f, gen.Options{Queues: n, LinkBytes: 900}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	log, err := storelog.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s, err := storelog.Replay(t.Context(), log, storelog.Options{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// loaded makes a schema of the newest version that holds the state of a log.
func loaded(t *testing.T, log *storelog.State) (*pgx.Conn, Schema, Copied, Checksum) {
	t.Helper()
	conn, err := Connect(t.Context(), Config{DSN: pgtest.DSN(t), Schema: "smp_server"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	s := Schema{Name: "smp_server", Version: schema.Newest}
	var copied Copied
	var services Checksum
	err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		if err := schema.Create(t.Context(), tx, s.Name, s.Version); err != nil {
			return err
		}
		detached, err := schema.Detach(t.Context(), tx, s.Name, "msg_queues", "services")
		if err != nil {
			return err
		}
		if copied, err = CopyQueues(t.Context(), tx, s.Fresh(), log.Queues(t.Context()), nil); err != nil {
			return err
		}
		if services, err = CopyServices(t.Context(), tx, s, log.Services(), copied); err != nil {
			return err
		}
		return detached.Restore(t.Context(), tx, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	return conn, s, copied, services
}

// contract: QS-17
//
// What COPY has written is what was meant: read back it is the same, and the
// database computes the same checksums and aggregates.
func TestCopyReadsBack(t *testing.T) {
	log := replayed(t, 3000)
	conn, s, copied, services := loaded(t, log)

	var want, got []string
	for q, err := range log.Queues(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, string(storelog.AppendQueue(nil, q)))
	}
	for row, err := range Queues(t.Context(), conn, s, ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(storelog.AppendQueue(nil, &row.Record)))
	}
	if !slices.Equal(got, want) {
		t.Errorf("queues (-written +read):\n%s", cmp.Diff(want, got))
	}
	if int64(len(want)) != copied.Rows {
		t.Errorf("%d rows for %d queues", copied.Rows, len(want))
	}
	if sum, err := ChecksumQueues(t.Context(), conn, s); err != nil || sum != copied.Checksum {
		t.Errorf("queues: %s, %v, want %s", sum, err, copied.Checksum)
	}
	if sum, err := ChecksumServices(t.Context(), conn, s); err != nil || sum != services {
		t.Errorf("services: %s, %v, want %s", sum, err, services)
	}
	if sum, err := ChecksumOfQueues(log.Queues(t.Context())); err != nil || sum != copied.Checksum {
		t.Errorf("without a database: %s, %v, want %s", sum, err, copied.Checksum)
	}
	if wrong, err := WrongAggregates(t.Context(), conn, s); err != nil || len(wrong) > 0 {
		t.Errorf("wrong aggregates of %v, %v", wrong, err)
	}
}

// The checksum notices a change of one value in any column.
func TestChecksumNoticesChanges(t *testing.T) {
	conn, s, copied, services := loaded(t, replayed(t, 500))
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	pgtest.Exec(t, conn, "alter table smp_server.msg_queues disable trigger user; alter table smp_server.msg_queues drop constraint msg_queues_rcv_service_id_fkey, drop constraint msg_queues_ntf_service_id_fkey")
	change := func(table, column string, typ columnType, want Checksum, sum func(context.Context, Querier, Schema) (Checksum, error)) {
		t.Helper()
		to := "'changed'"
		switch typ {
		case typeBytea:
			to = column + ` || '\x00'::bytea`
		case typeInt8:
			to = column + " + 1"
		case typeText:
		}
		for _, value := range []string{to, "null"} {
			pgtest.Exec(t, conn, "savepoint change")
			if value == "null" {
				pgtest.Exec(t, conn, "alter table "+table+" drop constraint if exists msg_queues_pkey cascade, drop constraint if exists services_pkey cascade; alter table "+table+" alter "+column+" drop not null")
			}
			pgtest.Exec(t, conn, "update "+table+" set "+column+" = "+value+" where ctid = (select ctid from "+table+" where "+column+" is not null limit 1)")
			if got, err := sum(t.Context(), conn, s); err != nil || got == want {
				t.Errorf("%s.%s = %s: %s, %v", table, column, value, got, err)
			}
			pgtest.Exec(t, conn, "rollback to savepoint change")
		}
	}
	for _, c := range queueColumns {
		change("smp_server.msg_queues", c.name, c.typ, copied.Checksum, ChecksumQueues)
	}
	for _, c := range serviceColumns {
		change("smp_server.services", c.name, c.typ, services, ChecksumServices)
	}
	pgtest.Exec(t, conn, "delete from smp_server.msg_queues where ctid = (select ctid from smp_server.msg_queues limit 1)")
	if got, err := ChecksumQueues(t.Context(), conn, s); err != nil || got == copied.Checksum {
		t.Errorf("a queue less: %s, %v", got, err)
	}
}

// Aggregates that drifted are found and put right.
func TestRecomputeAggregates(t *testing.T) {
	conn, s, _, _ := loaded(t, replayed(t, 500))
	pgtest.Exec(t, conn, `
		update smp_server.services set queue_count = queue_count + 1 where service_id = (select service_id from smp_server.services order by 1 limit 1);
		update smp_server.services set queue_ids_hash = decode(repeat('ff', 16), 'hex') where service_id = (select service_id from smp_server.services order by 1 desc limit 1)`)
	wrong, err := WrongAggregates(t.Context(), conn, s)
	if err != nil || len(wrong) != 2 {
		t.Errorf("wrong aggregates of %v, %v", wrong, err)
	}
	if err := RecomputeAggregates(t.Context(), conn, s); err != nil {
		t.Fatal(err)
	}
	if wrong, err := WrongAggregates(t.Context(), conn, s); err != nil || len(wrong) > 0 {
		t.Errorf("afterwards: wrong aggregates of %v, %v", wrong, err)
	}
}

// An error in the middle of the queues ends the COPY, and is the one returned.
func TestCopyStops(t *testing.T) {
	conn := pgtest.Conn(t, pgtest.DSN(t))
	broken := os.ErrInvalid
	err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		if err := schema.Create(t.Context(), tx, "s", schema.Newest); err != nil {
			return err
		}
		queues := func(yield func(*queue.Record, error) bool) { yield(nil, broken) }
		_, err := CopyQueues(t.Context(), tx, Schema{"s", schema.Newest}.Fresh(), queues, nil)
		return err
	})
	if !cmp.Equal(err.Error(), "copy queues: "+broken.Error()) {
		t.Errorf("got %v", err)
	}
}

func BenchmarkCSV(b *testing.B) {
	rec, err := storelog.Parse([]byte("CREATE rid=AAECAwQFBgcICQoLDA0ODxAREhMUFRYX rk=MCowBQYDK2VwAyEAiojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w= rdh=QOR6P1Jb3KxJHUGJeNfbWvYjrHr-diPG14pdT86dD2M= sid=ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3 sk=MCowBQYDK2VuAyEArAGyIJ6GNU-4UyN7XeD0-rE8f8v0M6YcAZNpYX_s8Qs= queue_mode=M updated_at=1757894400"))
	if err != nil {
		b.Fatal(err)
	}
	q := &rec.(*storelog.Create).Record
	w := rowWriter[queue.Record]{columns: queueColumns}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = w.append(buf[:0], q)
	}
	b.SetBytes(int64(len(buf)))
}
