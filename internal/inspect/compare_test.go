package inspect

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/dumptest"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/storelog"
)

// exported returns the log that smp-server made of a dump, by lines.
func exported(t testing.TB, dir string) [][]byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "exported-store.log"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(bytes.Lines(data))
}

func compare(t testing.TB, conn *pgx.Conn, s store.Schema, log [][]byte) CompareReport {
	t.Helper()
	name := filepath.Join(t.TempDir(), "store.log")
	if err := os.WriteFile(name, bytes.Join(log, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Compare(t.Context(), conn, s, name, CompareOptions{TempDir: t.TempDir(), First: 100})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Whatever is missing or changed on one side is found, wherever it is in the order,
// and nothing else.
// contract: QS-18
func TestCompareFindsDifferences(t *testing.T) {
	dir := dumptest.Root + "/memory-1-raw"
	conn, s := load(t, dir)
	log := exported(t, dir)
	if r := compare(t, conn, s, log); !r.Equal || r.Queues.Log != 19 || r.Queues.Database != 19 || r.Services.Log != 2 {
		t.Fatalf("of the same: %+v", r)
	}
	for i, line := range log {
		rec, err := storelog.Parse(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			t.Fatal(err)
		}
		create, ok := rec.(*storelog.Create)
		if !ok {
			continue
		}
		id := create.Record.RecipientID
		want := func(in string) []Difference { return []Difference{{Kind: "queue", ID: id.String(), In: in}} }

		r := compare(t, conn, s, slices.Delete(slices.Clone(log), i, i+1))
		if diff := cmp.Diff(want("database"), r.Differences); diff != "" || r.Equal || r.Queues.OnlyInDatabase != 1 {
			t.Errorf("a queue that the log lacks: %+v\n%s", r.Queues, diff)
		}
		r = compare(t, conn, s, append(slices.Clone(log), storelog.Append(nil, &storelog.Touch{ID: id, Seconds: 0})))
		if diff := cmp.Diff(want("both"), r.Differences); diff != "" || r.Equal || r.Queues.Different != 1 {
			t.Errorf("a queue with another time: %+v\n%s", r.Queues, diff)
		}
		pgtest.Exec(t, conn, "update smp_server.msg_queues set deleted_at = 1 where recipient_id = $1", id)
		r = compare(t, conn, s, log)
		if diff := cmp.Diff(want("log"), r.Differences); diff != "" || r.Equal || r.Queues.OnlyInLog != 1 {
			t.Errorf("a queue that the database lacks: %+v\n%s", r.Queues, diff)
		}
		pgtest.Exec(t, conn, "update smp_server.msg_queues set deleted_at = null where recipient_id = $1", id)
	}
}

// Each column of a queue and a service counts.
func TestCompareColumns(t *testing.T) {
	dir := dumptest.Root + "/memory-1-raw"
	conn, s := load(t, dir)
	log := exported(t, dir)
	for _, set := range []string{
		"msg_queues set recipient_keys = set_byte(recipient_keys, length(recipient_keys) - 1, get_byte(recipient_keys, length(recipient_keys) - 1) # 1)",
		"msg_queues set rcv_dh_secret = sha256(rcv_dh_secret)",
		"msg_queues set sender_id = sha256(sender_id)",
		"msg_queues set sender_key = null where sender_key is not null",
		"msg_queues set notifier_id = sha256(notifier_id) where notifier_id is not null",
		"msg_queues set notifier_key = null where notifier_id is not null",
		"msg_queues set rcv_ntf_dh_secret = sha256(rcv_ntf_dh_secret) where notifier_id is not null",
		"msg_queues set status = 'blocked,reason=spam'",
		"msg_queues set updated_at = 1",
		"msg_queues set queue_mode = null where queue_mode is not null",
		"msg_queues set link_id = sha256(link_id) where link_id is not null",
		"msg_queues set fixed_data = '\\x01' where link_id is not null",
		"msg_queues set user_data = null where link_id is not null",
		"msg_queues set rcv_service_id = null where rcv_service_id is not null",
		"msg_queues set ntf_service_id = null where ntf_service_id is not null",
		"services set created_at = 1",
		"services set service_cert_hash = sha256(service_cert_hash)",
	} {
		pgtest.Exec(t, conn, "update smp_server."+set)
		r := compare(t, conn, s, log)
		if r.Equal || r.Queues.Different+r.Services.Different+r.Services.OnlyInLog == 0 {
			t.Errorf("%s: %+v", set, r)
		}
		dumptest.Load(t, conn, schemaName, dir)
		if r := compare(t, conn, s, log); !r.Equal {
			t.Fatalf("of the same: %+v", r)
		}
	}
}

// A service that only one side has is found.
func TestCompareServices(t *testing.T) {
	dir := dumptest.Root + "/memory-1-raw"
	conn, s := load(t, dir)
	log := exported(t, dir)
	id := dumptest.Services(t, dir)[0].ID
	pgtest.Exec(t, conn, "update smp_server.msg_queues set rcv_service_id = null, ntf_service_id = null")
	pgtest.Exec(t, conn, "update smp_server.services set service_id = '\\x01' where service_id = $1", id)
	want := []Difference{{"service", "AQ==", "database"}, {"service", id.String(), "log"}}
	r := compare(t, conn, s, log)
	if diff := cmp.Diff(want, r.Differences[:2]); diff != "" || r.Services.OnlyInDatabase != 1 || r.Services.OnlyInLog != 1 {
		t.Errorf("%+v\n%s", r.Services, diff)
	}
}

// What a compare of an empty side finds is all of the other.
func TestCompareEmpty(t *testing.T) {
	dir := dumptest.Root + "/memory-1-raw"
	conn, s := load(t, dir)
	r := compare(t, conn, s, nil)
	if r.Equal || r.Queues != (Comparison{Database: 19, OnlyInDatabase: 19}) || r.Services != (Comparison{Database: 2, OnlyInDatabase: 2}) {
		t.Errorf("an empty log: %+v", r)
	}
	log := exported(t, dir)
	pgtest.Exec(t, conn, "truncate smp_server.services cascade")
	r = compare(t, conn, s, log)
	if r.Equal || r.Queues != (Comparison{Log: 19, OnlyInLog: 19}) || r.Services != (Comparison{Log: 2, OnlyInLog: 2}) {
		t.Errorf("an empty database: %+v", r)
	}
}

// A notice that lost its quotes is not what the log has, though it can be read.
func TestCompareDamage(t *testing.T) {
	dir := dumptest.Root + "/memory-1-raw"
	conn, s := load(t, dir)
	log := exported(t, dir)
	var id queue.RecipientID
	for row, err := range store.Queues(t.Context(), conn, s, store.ReadOptions{Live: true}) {
		if err != nil {
			t.Fatal(err)
		}
		id = row.RecipientID
	}
	blocking := queue.Blocking{Reason: "spam", HasNotice: true, Notice: queue.Notice{TTL: 60, HasTTL: true}}
	log = append(log, storelog.Append(nil, &storelog.Block{ID: id, Blocking: blocking}))
	for _, c := range []struct {
		status string
		equal  bool
	}{
		{`blocked,reason=spam,notice={"ttl":60}`, true},
		{`blocked,reason=spam,notice={ttl:60}`, false},
	} {
		pgtest.Exec(t, conn, "update smp_server.msg_queues set status = $2 where recipient_id = $1", id, c.status)
		if r := compare(t, conn, s, log); r.Equal != c.equal {
			t.Errorf("%s: %+v", c.status, r)
		}
	}
}
