package exporter_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/dumptest"
	"github.com/smpq/smpq/internal/exporter"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/storelog"
)

func TestMain(m *testing.M) {
	if dsn := os.Getenv(childDSN); dsn != "" {
		if err := exportAsChild(dsn, os.Getenv(childFile), os.Getenv(childReports)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(pgtest.M{M: m})
}

const (
	schemaName = "smp_server"
	liveDump   = dumptest.Root + "/database-mode-live"
)

// load returns a connection to a database with a dump, and its schema.
func load(t testing.TB, dir string) (*pgx.Conn, store.Schema) {
	t.Helper()
	conn := pgtest.Conn(t, pgtest.DSN(t))
	dumptest.Load(t, conn, schemaName, dir)
	return conn, openSchema(t, conn)
}

func openSchema(t testing.TB, conn *pgx.Conn) store.Schema {
	t.Helper()
	s, err := store.OpenSchema(t.Context(), conn, schemaName)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// folder lists what is in a folder.
func folder(t testing.TB, name string) []string {
	t.Helper()
	entries, err := os.ReadDir(name)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Of every dump, smpq exports what smp-server exported, byte for byte. Of variants
// 35 and 36, smp-server could export nothing, as its import had damaged a notice:
// there smpq exports what the log of a memory-mode start has, but in a form that
// smp-server can read.
func TestStoreLogLikeSmpServer(t *testing.T) {
	conn := pgtest.Conn(t, pgtest.DSN(t))
	for _, dir := range dumptest.Dirs(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			dumptest.Load(t, conn, schemaName, dir)
			got, sum := export(t, conn)
			var differences []string
			for _, d := range sum.Differences {
				differences = append(differences, fmt.Sprintf("%s %d", d.Kind, d.Queues))
			}
			var want []string
			switch name, _, _ := strings.Cut(filepath.Base(dir), "-"); name {
			case "35":
				want = []string{"damaged_notice 1"}
			case "36":
				want = []string{"damaged_notice 2", "notice_and_service 1"}
			default:
				log := readFile(t, filepath.Join(dir, "exported-store.log"))
				if diff := cmp.Diff(strings.SplitAfter(string(log), "\n"), got); diff != "" {
					t.Errorf("export (-smp-server +smpq):\n%s", diff)
				}
			}
			if diff := cmp.Diff(want, differences); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
			if want != nil {
				slices.Sort(got)
				if diff := cmp.Diff(readable(t, filepath.Join(dir, "memory-start-compacted.log")), got); diff != "" {
					t.Errorf("export (-log of a memory-mode start +export):\n%s", diff)
				}
			}
		})
	}
}

// export returns the lines of an export.
func export(t testing.TB, conn *pgx.Conn) ([]string, exporter.Summary) {
	t.Helper()
	var b bytes.Buffer
	sum, err := exporter.StoreLog(t.Context(), conn, openSchema(t, conn), &b, exporter.Options{})
	if err != nil {
		t.Fatal(err)
	}
	checkSummary(t, sum, b.Bytes())
	return strings.SplitAfter(b.String(), "\n"), sum
}

// readable returns the lines of a compacted log, sorted, those that smp-server
// cannot read in a form that it can.
func readable(t testing.TB, name string) []string {
	t.Helper()
	var b []byte
	for line := range bytes.Lines(readFile(t, name)) {
		rec, err := storelog.Parse(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			t.Fatal(err)
		}
		if c, ok := rec.(*storelog.Create); ok {
			b = storelog.AppendQueue(b, &c.Record)
		} else {
			b = storelog.Append(b, rec)
		}
	}
	lines := strings.SplitAfter(string(b), "\n")
	slices.Sort(lines)
	return lines
}

// checkSummary compares a summary with what was written.
func checkSummary(t testing.TB, sum exporter.Summary, data []byte) {
	t.Helper()
	services := int64(bytes.Count(data, []byte("NEW_SERVICE ")))
	queues := int64(bytes.Count(data, []byte("CREATE ")))
	if sum.Services != services || sum.Queues != queues || sum.Bytes != int64(len(data)) {
		t.Errorf("summary %+v, but there are %d services, %d queues, %d bytes", sum, services, queues, len(data))
	}
}

// Schemas of each version that is read give the same log.
func TestStoreLogOfVersions(t *testing.T) {
	conn, _ := load(t, liveDump)
	want, _ := export(t, conn)
	for _, version := range []schema.Version{schema.QueueIDsHash, schema.ServiceCerts} {
		o := schema.Options{Approve: func(schema.Plan) error { return nil }}
		if _, err := schema.Migrate(t.Context(), conn, schemaName, version, o); err != nil {
			t.Fatal(err)
		}
		got, _ := export(t, conn)
		if version == schema.QueueIDsHash {
			// The migration has stored some services anew, at the end.
			slices.Sort(got[:2])
			slices.Sort(want[:2])
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-%s +this):\n%s", version, schema.StoreMessages, diff)
		}
	}
}

// What smp-server could not read back is written so that it can, and nothing else
// of the queue is lost.
func TestStoreLogDifferences(t *testing.T) {
	conn, s := load(t, dumptest.Root+"/memory-1-raw")
	var linked, notified, plain *store.Row
	for row, err := range store.Queues(t.Context(), conn, s, store.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case row.Link != nil:
			linked = row
		case row.Notifier != nil:
			notified = row
		case row.Status == queue.Status{}:
			plain = row
		}
	}
	before, sum := export(t, conn)
	if sum.Differences != nil {
		t.Fatalf("differences of sound data: %+v", sum.Differences)
	}
	service := dumptest.Services(t, dumptest.Root+"/memory-1-raw")[0].ID
	pgtest.Exec(t, conn, "update smp_server.msg_queues set user_data = null where recipient_id = $1", linked.RecipientID)
	pgtest.Exec(t, conn, "update smp_server.msg_queues set notifier_key = null where recipient_id = $1", notified.RecipientID)
	pgtest.Exec(t, conn, `update smp_server.msg_queues set status = 'blocked,reason=spam,notice={ttl:5}', rcv_service_id = $2 where recipient_id = $1`, plain.RecipientID, service)

	linked.Link, notified.Notifier = nil, nil
	plain.Status = queue.Status{State: queue.Blocked, Blocking: queue.Blocking{Reason: "spam", HasNotice: true, Notice: queue.Notice{TTL: 5, HasTTL: true}}}
	plain.RcvService = service
	want := make([]string, 0, len(before)+1)
	for _, line := range before {
		changed := false
		for _, row := range []*store.Row{linked, notified, plain} {
			if strings.HasPrefix(line, "CREATE rid="+row.RecipientID.String()) {
				changed = true
				want = append(want, slices.Collect(strings.Lines(string(storelog.AppendQueue(nil, &row.Record))))...)
			}
		}
		if !changed {
			want = append(want, line)
		}
	}
	got, sum := export(t, conn)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("export (-want +got):\n%s", diff)
	}
	slices.SortFunc(sum.Differences, func(a, b exporter.Difference) int { return strings.Compare(string(a.Kind), string(b.Kind)) })
	wantDifferences := []exporter.Difference{
		{Kind: exporter.DamagedNotice, Queues: 1, First: []queue.RecipientID{plain.RecipientID}},
		{Kind: exporter.LinkWithoutData, Queues: 1, First: []queue.RecipientID{linked.RecipientID}},
		{Kind: exporter.NoticeAndService, Queues: 1, First: []queue.RecipientID{plain.RecipientID}},
		{Kind: exporter.PartialNotifier, Queues: 1, First: []queue.RecipientID{notified.RecipientID}},
	}
	if diff := cmp.Diff(wantDifferences, sum.Differences, cmp.Exporter(func(reflect.Type) bool { return true })); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}

	pgtest.Exec(t, conn, "update smp_server.msg_queues set status = 'blocked,reason=spam,notice={ttl:5}'")
	_, sum = export(t, conn)
	for _, d := range sum.Differences {
		if d.Kind == exporter.DamagedNotice && (d.Queues != 19 || len(d.First) != exporter.MaxFirst) {
			t.Errorf("%d queues, of which %d are named", d.Queues, len(d.First))
		}
	}
}

// The log shows one moment, whatever a router changes meanwhile.
func TestStoreLogSnapshot(t *testing.T) {
	dsn := pgtest.DSN(t)
	conn, router := pgtest.Conn(t, dsn), pgtest.Conn(t, dsn)
	dumptest.Load(t, conn, schemaName, liveDump)
	var b bytes.Buffer
	changed := false
	p := progress{phase: func() {
		if !changed {
			changed = true
			pgtest.Exec(t, router, "delete from smp_server.msg_queues; delete from smp_server.services")
		}
	}}
	if _, err := exporter.StoreLog(t.Context(), conn, openSchema(t, conn), &b, exporter.Options{Progress: p}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(readFile(t, liveDump+"/exported-store.log")), b.String()); diff != "" || !changed {
		t.Errorf("export (-before +got):\n%s", diff)
	}
}

// progress calls functions when it is told something.
type progress struct{ phase, add func() }

func (p progress) Phase(string, int64, string) {
	if p.phase != nil {
		p.phase()
	}
}

func (p progress) Add(int64) {
	if p.add != nil {
		p.add()
	}
}

// fill adds n queues to a schema, with valid keys and 5000 bytes of link data.
func fill(t testing.TB, conn *pgx.Conn, n int) {
	t.Helper()
	pgtest.Exec(t, conn, `
		insert into smp_server.msg_queues (recipient_id, recipient_keys, rcv_dh_secret, sender_id, status, link_id, fixed_data, user_data)
		select sha224(i), '\x012c302a300506032b6570032100'::bytea || sha256(i), sha256(i), sha224('s' || i), 'active', sha224('l' || i), i, decode(repeat('ab', 5000), 'hex')
		  from (select convert_to(g::text, 'UTF8') from generate_series(1, $1::int) g) as g (i)`, n)
}

// A stream that fails ends the export at once, with its error.
func TestStoreLogFullDisk(t *testing.T) {
	conn, s := load(t, dumptest.Root+"/variants/00-base")
	fill(t, conn, 500)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	_, err = exporter.StoreLog(t.Context(), conn, s, full, exporter.Options{})
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("export to a full disk: %v", err)
	}
}
