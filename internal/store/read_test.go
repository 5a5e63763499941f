package store_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/dumptest"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

// live is the dump of a router with queues and messages in the database.
const live = dumptest.Root + "/database-mode-live"

// schemaName needs quotes.
const schemaName = `Router "7"`

// loadDump returns a connection to a database with a dump, and its schema.
func loadDump(t testing.TB, dir string) (*pgx.Conn, store.Schema) {
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

// migrate brings the schema to a version, whatever is lost.
func migrate(t testing.TB, conn *pgx.Conn, to schema.Version) store.Schema {
	t.Helper()
	o := schema.Options{Approve: func(schema.Plan) error { return nil }}
	if _, err := schema.Migrate(t.Context(), conn, schemaName, to, o); err != nil {
		t.Fatal(err)
	}
	return openSchema(t, conn)
}

// update changes msg_queues.
func update(t testing.TB, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	pgtest.Exec(t, conn, "update "+schema.Quote(schemaName)+".msg_queues "+sql, args...)
}

func readAll(t testing.TB, conn *pgx.Conn, s store.Schema, o store.ReadOptions) []*store.Row {
	t.Helper()
	var rows []*store.Row
	for row, err := range store.Queues(t.Context(), conn, s, o) {
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row)
	}
	return rows
}

// letter renders a boolean as PostgreSQL writes it to CSV.
func letter(b bool) string { return map[bool]string{true: "t", false: "f"}[b] }

// csvRow renders a row as PostgreSQL writes it to CSV.
func csvRow(r *store.Row) []string {
	bytea := func(b []byte) string {
		if len(b) == 0 {
			return ""
		}
		return `\x` + hex.EncodeToString(b)
	}
	date := func(d queue.Date) string {
		if !d.Known {
			return ""
		}
		return fmt.Sprint(d.Seconds)
	}
	var n queue.Notifier
	if r.Notifier != nil {
		n = *r.Notifier
	}
	var l queue.Link
	if r.Link != nil {
		l = *r.Link
	}
	mode := ""
	if r.Mode != queue.ModeUnknown {
		mode = string(rune(r.Mode))
	}
	return []string{
		bytea(r.RecipientID.Bytes()), bytea(queue.AppendBinaryKeys(nil, r.RecipientKeys)), bytea(r.RcvDHSecret.Append(nil)),
		bytea(r.SenderID.Bytes()), bytea(r.SenderKey.Append(nil)),
		bytea(n.ID.Bytes()), bytea(n.Key.Append(nil)), bytea(n.DHSecret.Append(nil)),
		r.Status.String(), date(r.UpdatedAt), date(r.DeletedAt), mode,
		bytea(l.ID.Bytes()), bytea(l.Data.Fixed), bytea(l.Data.User), bytea(r.RcvService.Bytes()), bytea(n.Service.Bytes()),
		letter(r.Messages.CanWrite), letter(r.Messages.Expire), fmt.Sprint(r.Messages.Size),
	}
}

// Every row of every dump is read as PostgreSQL wrote it, in the order of
// recipient ids.
func TestQueuesOfDumps(t *testing.T) {
	conn := pgtest.Conn(t, pgtest.DSN(t))
	for _, dir := range dumptest.Dirs(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			dumptest.Load(t, conn, schemaName, dir)
			var got [][]string
			for _, row := range readAll(t, conn, openSchema(t, conn), store.ReadOptions{}) {
				fields := csvRow(row)
				if row.Damage.Notice {
					fields[8] = strings.ReplaceAll(fields[8], `"`, "")
				}
				got = append(got, fields)
			}
			want := dumptest.Rows(t, filepath.Join(dir, "msg_queues.csv"))[1:]
			if diff := cmp.Diff(want, got, cmpEmpty); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
		})
	}
}

// unexported compares all fields.
var unexported = cmp.Exporter(func(reflect.Type) bool { return true })

// cmpEmpty makes no rows equal to no rows.
var cmpEmpty = cmp.Transformer("rows", func(rows [][]string) []string {
	lines := []string{}
	for _, r := range rows {
		lines = append(lines, strings.Join(r, ","))
	}
	return lines
})

// contract: QS-10
//
// Soft-deleted queues are not among the live ones, and look-ups mark them.
func TestSoftDeleted(t *testing.T) {
	conn, s := loadDump(t, live)
	var wantLive, wantDeleted []queue.RecipientID
	for _, row := range readAll(t, conn, s, store.ReadOptions{}) {
		if row.Deleted() {
			wantDeleted = append(wantDeleted, row.RecipientID)
		} else {
			wantLive = append(wantLive, row.RecipientID)
		}
	}
	if len(wantLive) != 29 || len(wantDeleted) == 0 {
		t.Fatalf("the dump has %d live and %d soft-deleted queues", len(wantLive), len(wantDeleted))
	}
	var got []queue.RecipientID
	for _, row := range readAll(t, conn, s, store.ReadOptions{Live: true}) {
		got = append(got, row.RecipientID)
	}
	if !slices.Equal(got, wantLive) {
		t.Errorf("live queues: %v, want %v", got, wantLive)
	}
	for _, id := range wantDeleted {
		found, err := store.FindQueue(t.Context(), conn, s, id.Bytes())
		if err != nil || len(found) != 1 || !found[0].Row.Deleted() {
			t.Errorf("queue %s: %v, %v", id, found, err)
		}
	}
	counts, err := store.CountAll(t.Context(), conn, s)
	if err != nil || counts.Queues != int64(len(wantLive)) || counts.SoftDeleted != int64(len(wantDeleted)) {
		t.Errorf("counts: %+v, %v", counts, err)
	}
}

// Each version that is read gives the same queues.
func TestQueuesOfVersions(t *testing.T) {
	conn, s := loadDump(t, live)
	want := readAll(t, conn, s, store.ReadOptions{})
	for _, version := range []schema.Version{schema.QueueIDsHash, schema.ServiceCerts} {
		s := migrate(t, conn, version)
		if version == schema.ServiceCerts {
			for _, row := range want {
				row.Messages = store.MessageState{}
			}
		}
		got := readAll(t, conn, s, store.ReadOptions{})
		if diff := cmp.Diff(want, got, unexported); diff != "" {
			t.Errorf("%s (-want +got):\n%s", version, diff)
		}
	}
	if got := slices.Collect(func(yield func(*queue.Message) bool) {
		for m, err := range store.Messages(t.Context(), conn, openSchema(t, conn), want[0].RecipientID) {
			if err != nil || !yield(m) {
				return
			}
		}
	}); got != nil {
		t.Errorf("messages of a schema without messages: %v", got)
	}
}

// What routers cannot read, or must not, is told apart from what is absent.
func TestDamagedRows(t *testing.T) {
	conn, s := loadDump(t, dumptest.Root+"/memory-1-raw")
	rows := readAll(t, conn, s, store.ReadOptions{})
	with := func(has func(*store.Row) bool) *store.Row { return rows[slices.IndexFunc(rows, has)] }
	linked := with(func(r *store.Row) bool { return r.Link != nil })
	notified := with(func(r *store.Row) bool { return r.Notifier != nil })
	plain := with(func(r *store.Row) bool { return r.Link == nil && r.Notifier == nil && r.Status == queue.Status{} })

	update(t, conn, "set user_data = '' where recipient_id = $1", linked.RecipientID)
	update(t, conn, "set notifier_key = null where recipient_id = $1", notified.RecipientID)
	update(t, conn, "set status = 'blocked,reason=spam,notice={ttl:86400}' where recipient_id = $1", plain.RecipientID)

	got := make(map[queue.RecipientID]*store.Row)
	for _, row := range readAll(t, conn, s, store.ReadOptions{}) {
		got[row.RecipientID] = row
	}
	if r := got[linked.RecipientID]; r.Link != nil || r.Damage.Link == nil || r.Damage.Link.ID != linked.Link.ID ||
		!bytes.Equal(r.Damage.Link.Data.Fixed, linked.Link.Data.Fixed) || len(r.Damage.Link.Data.User) != 0 {
		t.Errorf("a link without user data was read as %+v, %+v", r.Link, r.Damage.Link)
	}
	if r := got[notified.RecipientID]; r.Notifier != nil || r.Damage.Notifier == nil || r.Damage.Notifier.ID != notified.Notifier.ID {
		t.Errorf("a notifier without a key was read as %+v, %+v", r.Notifier, r.Damage.Notifier)
	}
	if r := got[plain.RecipientID]; !r.Damage.Notice || r.Status.String() != `blocked,reason=spam,notice={"ttl":86400}` {
		t.Errorf("a notice without quotes was read as %s, %+v", r.Status, r.Damage)
	}
	for by, id := range map[store.By][]byte{store.ByLink: linked.Link.ID.Bytes(), store.ByNotifier: notified.Notifier.ID.Bytes()} {
		found, err := store.FindQueue(t.Context(), conn, s, id)
		if err != nil || len(found) != 1 || !slices.Equal(found[0].By, []store.By{by}) {
			t.Errorf("look-up of a damaged queue by %s id: %v, %v", by, found, err)
		}
	}
	counts, err := store.CountAll(t.Context(), conn, s)
	if err != nil || counts.DamagedNotices != 1 || counts.Status.Notice != 2 {
		t.Errorf("counts: %+v, %v", counts, err)
	}
}

// A row that cannot be read is an error that names the queue and the column, in
// reads and in look-ups.
func TestUnreadableRows(t *testing.T) {
	conn, s := loadDump(t, dumptest.Root+"/variants/00-base")
	row := readAll(t, conn, s, store.ReadOptions{})[0]
	for _, tc := range []struct{ column, value, want string }{
		{"recipient_keys", `''`, "recipient keys: byte 0: the value ends early"},
		{"recipient_keys", `'\x00'`, "a queue has at least one recipient key"},
		{"recipient_keys", `'\x0103aabbcc'`, "recipient key 1: not a public key"},
		{"rcv_dh_secret", `'\xaabb'`, "a DH secret has 32 bytes, not 2"},
		{"sender_id", `''`, "id is empty"},
		{"sender_key", `''`, "not a public key"},
		{"status", `''`, `unknown queue status`},
		{"status", `'Active'`, `unknown queue status`},
		{"status", `'blocked,reason=spam,notice={"ttl":"long"}'`, `notice has a ttl that is not a whole number`},
		{"queue_mode", `'X'`, `unknown queue mode "X"`},
		{"link_id", `''`, "id is empty"},
	} {
		t.Run(tc.column+" "+tc.value, func(t *testing.T) {
			pgtest.Exec(t, conn, "begin")
			defer pgtest.Exec(t, conn, "rollback")
			update(t, conn, "set "+tc.column+" = "+tc.value+" where recipient_id = $1", row.RecipientID)
			for r, err := range store.Queues(t.Context(), conn, s, store.ReadOptions{}) {
				checkUnreadable(t, err, row.RecipientID, tc.column, tc.want)
				if r != nil {
					t.Errorf("an error with the row %v", r)
				}
			}
			_, err := store.FindQueue(t.Context(), conn, s, row.RecipientID.Bytes(), store.ByRecipient)
			checkUnreadable(t, err, row.RecipientID, tc.column, tc.want)
		})
	}
}

func checkUnreadable(t *testing.T, err error, id queue.RecipientID, column, want string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range []string{"queue " + id.String() + ": ", "column " + column + ": ", want} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

func TestFindQueue(t *testing.T) {
	conn, s := loadDump(t, dumptest.Root+"/memory-1-raw")
	for _, want := range readAll(t, conn, s, store.ReadOptions{}) {
		ids := map[store.By][]byte{store.ByRecipient: want.RecipientID.Bytes(), store.BySender: want.SenderID.Bytes()}
		if want.Notifier != nil {
			ids[store.ByNotifier] = want.Notifier.ID.Bytes()
		}
		if want.Link != nil {
			ids[store.ByLink] = want.Link.ID.Bytes()
		}
		for by, id := range ids {
			found, err := store.FindQueue(t.Context(), conn, s, id)
			if err != nil || len(found) != 1 || found[0].Row.RecipientID != want.RecipientID || !slices.Equal(found[0].By, []store.By{by}) {
				t.Fatalf("look-up by %s id: %v, %v", by, found, err)
			}
			for _, only := range store.Bys() {
				found, err := store.FindQueue(t.Context(), conn, s, id, only)
				if err != nil || (len(found) == 1) != (only == by) {
					t.Errorf("look-up of a %s id by %s id: %v, %v", by, only, found, err)
				}
			}
		}
	}
	if found, err := store.FindQueue(t.Context(), conn, s, []byte("nobody")); err != nil || len(found) != 0 {
		t.Errorf("look-up of nobody: %v, %v", found, err)
	}
	// One id may name two queues to different parties.
	rows := readAll(t, conn, s, store.ReadOptions{})
	update(t, conn, "set sender_id = $1 where recipient_id = $2", rows[0].RecipientID, rows[1].RecipientID)
	found, err := store.FindQueue(t.Context(), conn, s, rows[0].RecipientID.Bytes())
	if err != nil || len(found) != 2 || !slices.Equal(found[0].By, []store.By{store.ByRecipient}) || !slices.Equal(found[1].By, []store.By{store.BySender}) {
		t.Errorf("look-up of an id of two queues: %v, %v", found, err)
	}
}

// A loop over queues can be left, and the connection goes on to work.
func TestQueuesBreak(t *testing.T) {
	conn, s := loadDump(t, live)
	n := 0
	for _, err := range store.Queues(t.Context(), conn, s, store.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 3 {
			break
		}
	}
	if got := len(readAll(t, conn, s, store.ReadOptions{Live: true})); got != 29 {
		t.Errorf("%d queues after a loop that was left", got)
	}
}

func TestSnapshot(t *testing.T) {
	dsn := pgtest.DSN(t)
	conn, other := pgtest.Conn(t, dsn), pgtest.Conn(t, dsn)
	dumptest.Load(t, conn, schemaName, live)
	s := openSchema(t, conn)
	err := store.Snapshot(t.Context(), conn, func(q store.Querier) error {
		before, err := store.CountLive(t.Context(), q, s)
		if err != nil {
			return err
		}
		pgtest.Exec(t, other, "delete from "+schema.Quote(schemaName)+".msg_queues")
		after, err := store.CountLive(t.Context(), q, s)
		if before != 29 || after != before {
			t.Errorf("%d queues, then %d", before, after)
		}
		if err == nil {
			_, err = q.Exec(t.Context(), "create table t ()")
		}
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "read-only transaction") {
		t.Errorf("a snapshot can be written to: %v", err)
	}
}

// Services come in the order in which smp-server exports them, with certificates
// and, where the schema keeps them, the aggregates.
func TestServices(t *testing.T) {
	conn, s := loadDump(t, live)
	services, err := store.Services(t.Context(), conn, s)
	if err != nil || len(services) != 2 {
		t.Fatalf("%v, %v", services, err)
	}
	log := dumptest.Services(t, live)
	counted, err := store.CountServiceQueues(t.Context(), conn, s)
	if err != nil {
		t.Fatal(err)
	}
	for i, sv := range services {
		if diff := cmp.Diff(log[i], sv.Service, unexported); diff != "" {
			t.Errorf("service %d (-log +table):\n%s", i, diff)
		}
		if sv.Queues != (store.Aggregate{}) {
			t.Errorf("an aggregate in a schema without them: %v", sv.Queues)
		}
	}
	s = migrate(t, conn, schema.QueueIDsHash)
	if services, err = store.Services(t.Context(), conn, s); err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for _, sv := range services {
		want := counted[sv.ID].Rcv
		if sv.Role == queue.RoleNotifier {
			want = counted[sv.ID].Ntf
		}
		if sv.Queues != want {
			t.Errorf("service %s: the migration counted %+v, CountServiceQueues %+v", sv.ID, sv.Queues, want)
		}
		total += sv.Queues.Count
	}
	if total == 0 {
		t.Error("no service has queues")
	}
}

func TestMessages(t *testing.T) {
	conn, s := loadDump(t, live)
	var got []string
	for _, row := range readAll(t, conn, s, store.ReadOptions{}) {
		var infos []store.MessageInfo
		for m, err := range store.MessageInfos(t.Context(), conn, s, row.RecipientID) {
			if err != nil {
				t.Fatal(err)
			}
			infos = append(infos, m)
		}
		n := int64(0)
		for m, err := range store.Messages(t.Context(), conn, s, row.RecipientID) {
			if err != nil {
				t.Fatal(err)
			}
			if want := (store.MessageInfo{ID: m.ID, Time: m.Time, QuotaMarker: m.QuotaMarker, Notify: m.Notify, Bytes: len(m.Body)}); infos[n] != want {
				t.Errorf("queue %s has %+v without its body, want %+v", row.RecipientID, infos[n], want)
			}
			n++
			got = append(got, fmt.Sprintf(`\x%x,\x%x,%d,%s,%s,\x%x`,
				row.RecipientID.Bytes(), m.ID.Bytes(), m.Time, letter(m.QuotaMarker), letter(m.Notify), m.Body))
		}
		if n != row.Messages.Size || n != int64(len(infos)) {
			t.Errorf("queue %s has %d messages and counts %d", row.RecipientID, n, row.Messages.Size)
		}
	}
	var want []string
	for _, fields := range dumptest.Rows(t, live+"/messages.csv")[1:] {
		want = append(want, strings.Join(fields[1:], ","))
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}
