package importer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/storelog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.M{M: m}) }

// realData holds files made by smp-server 6.5.5; see its README.
const realData = "../../testdata/smp-server-6.5.5"

type noProgress struct{}

func (noProgress) Phase(string, int64, string) {}
func (noProgress) Add(int64)                   {}

func options() Options {
	return Options{
		Schema:   "smp_server",
		Version:  schema.Newest,
		Quota:    128,
		Progress: noProgress{},
		Log:      slog.New(slog.DiscardHandler),
	}
}

func connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := store.Connect(t.Context(), store.Config{DSN: dsn, Schema: "smp_server", Application: "smpq test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func importFile(t testing.TB, conn *pgx.Conn, name string, o Options) (Result, error) {
	t.Helper()
	f, err := storelog.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	o.TempDir = t.TempDir()
	return StoreLog(t.Context(), conn, f, o)
}

func write(t testing.TB, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "store.log")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// csv returns a table as COPY gives it.
func csv(t testing.TB, conn *pgx.Conn, query string) string {
	t.Helper()
	var b bytes.Buffer
	_, err := conn.PgConn().CopyTo(t.Context(), &b, "copy ("+query+") to stdout with (format csv, header)")
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func read(t testing.TB, elem ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

const (
	allQueues   = "select * from msg_queues order by recipient_id"
	allServices = "select * from services order by service_id"
)

// tables returns the rows of queues and services.
func tables(t testing.TB, conn *pgx.Conn) string {
	t.Helper()
	return csv(t, conn, allQueues) + csv(t, conn, allServices)
}

func exists(t testing.TB, conn *pgx.Conn) bool {
	t.Helper()
	state, err := schema.Inspect(t.Context(), conn, "smp_server")
	if err != nil {
		t.Fatal(err)
	}
	return state.Exists
}

// brokenNotice finds notices as imports of smp-server store them, without their
// quotes.
var brokenNotice = regexp.MustCompile(`"?(blocked,reason=[a-z]+,notice=)\{ttl:([0-9]+)\}"?`)

// contract: QS-17
//
// The tables hold, row by row, what smp-server made of the same log.
func TestTablesLikeSmpServer(t *testing.T) {
	type pair struct{ name, log, dump string }
	var pairs []pair
	for _, kind := range []string{"memory", "journal"} {
		for _, log := range []string{"1-raw", "3-after-kill9", "5-torn"} {
			pairs = append(pairs, pair{kind + "/" + log, filepath.Join(realData, "1-storelog", kind, log+".log"), filepath.Join(realData, "2-import", kind+"-"+log)})
		}
		for compacted, raw := range map[string]string{"2-compacted": "1-raw", "4-compacted": "3-after-kill9", "6-compacted-after-torn": "5-torn"} {
			pairs = append(pairs, pair{kind + "/" + compacted, filepath.Join(realData, "1-storelog", kind, compacted+".log"), filepath.Join(realData, "2-import", kind+"-"+raw)})
		}
	}
	variants, err := filepath.Glob(filepath.Join(realData, "2-import/variants/[0-9]*"))
	if err != nil || len(variants) < 40 {
		t.Fatalf("%d variants: %v", len(variants), err)
	}
	for _, v := range variants {
		switch filepath.Base(v) {
		case "13-service-other-id-used-by-queue", "17-service-unknown-in-rsrv", "19-notifier-nsrv", "33-link-records":
			// Imports that smp-server aborts; see TestImportsWhatSmpServerAborts.
			continue
		}
		pairs = append(pairs, pair{filepath.Base(v), filepath.Join(v, "input.log"), v})
	}
	conn := connect(t, pgtest.DSN(t))
	for _, p := range pairs {
		t.Run(p.name, func(t *testing.T) {
			pgtest.Exec(t, conn, "set client_min_messages = error; drop schema if exists smp_server cascade")
			o := options()
			o.Version, o.MaxRejects = schema.StoreMessages, -1
			res, err := importFile(t, conn, p.log, o)
			if err != nil {
				t.Fatal(err)
			}
			if !res.Verified {
				t.Error("not verified")
			}
			want := read(t, p.dump, "msg_queues.csv")
			want = brokenNotice.ReplaceAllString(want, `"$1{""ttl"":$2}"`)
			switch p.name {
			case "36-blocked-notice-and-rsrv":
				// A queue that smp-server loses by writing a line which it cannot read.
				want = insertRow(t, want, csv(t, conn, allQueues), `\x0dee419e`)
			case "39-numbers":
				// A number that smp-server lets overflow is refused.
				want = deleteRow(t, want, "7766279631452241919")
			}
			if diff := cmp.Diff(want, csv(t, conn, allQueues)); diff != "" {
				t.Errorf("queues (-smp-server +smpq):\n%s", diff)
			}
			if diff := cmp.Diff(read(t, p.dump, "services.csv"), csv(t, conn, allServices)); diff != "" {
				t.Errorf("services (-smp-server +smpq):\n%s", diff)
			}
		})
	}
}

// insertRow takes the row with the given start over from one table to another.
func insertRow(t testing.TB, to, from, start string) string {
	t.Helper()
	rows := slices.Collect(strings.Lines(to))
	for row := range strings.Lines(from) {
		if strings.HasPrefix(row, start) {
			rows = append(rows, row)
			slices.Sort(rows[1:])
			return strings.Join(rows, "")
		}
	}
	t.Fatalf("no row %s in\n%s", start, from)
	return ""
}

func deleteRow(t testing.TB, from, with string) string {
	t.Helper()
	rows := slices.Collect(strings.Lines(from))
	left := slices.DeleteFunc(slices.Clone(rows), func(r string) bool { return strings.Contains(r, with) })
	if len(left) != len(rows)-1 {
		t.Fatalf("%d rows with %s", len(rows)-len(left), with)
	}
	return strings.Join(left, "")
}

// The rows are the same in every version of the schema that imports can make,
// and the newest one has right aggregates.
func TestVersions(t *testing.T) {
	log := filepath.Join(realData, "1-storelog/memory/1-raw.log")
	for _, v := range []schema.Version{schema.ServiceCerts, schema.StoreMessages, schema.QueueIDsHash} {
		t.Run(string(v), func(t *testing.T) {
			conn := connect(t, pgtest.DSN(t))
			o := options()
			o.Version = v
			res, err := importFile(t, conn, log, o)
			if err != nil {
				t.Fatal(err)
			}
			if res.Queues != 19 || res.Added != 19 || res.Services != 2 || res.Rejected != 0 || res.Version != string(v) {
				t.Errorf("result %+v", res)
			}
			state, err := schema.Adopt(t.Context(), conn, "smp_server")
			if err := errors.Join(err, state.Err()); err != nil {
				t.Errorf("the schema is not what it should be: %v", err)
			}
			want := read(t, realData, "2-import/memory-1-raw/msg_queues.csv")
			columns := "recipient_id, recipient_keys, rcv_dh_secret, sender_id, sender_key, notifier_id, notifier_key, rcv_ntf_dh_secret, status, updated_at, deleted_at, queue_mode, link_id, fixed_data, user_data, rcv_service_id, ntf_service_id"
			if v == schema.ServiceCerts {
				want = strings.ReplaceAll(want, ",t,f,0\n", "\n")
				want = strings.Replace(want, ",msg_can_write,msg_queue_expire,msg_queue_size", "", 1)
			} else {
				columns = "*"
			}
			if diff := cmp.Diff(want, csv(t, conn, "select "+columns+" from msg_queues order by recipient_id")); diff != "" {
				t.Errorf("queues (-smp-server +smpq):\n%s", diff)
			}
		})
	}
}

// Logs that smp-server's import aborts on, leaving a half-made schema: here they
// stop with the reason and leave nothing, or come in without the part that does
// not fit.
func TestImportsWhatSmpServerAborts(t *testing.T) {
	for _, c := range []struct {
		variant  string
		rejected int64
		queues   int64
		lost     []string
	}{
		{"13-service-other-id-used-by-queue", 2, 2, []string{"NEW_SERVICE service_id=", "QUEUE_SERVICE "}},
		{"17-service-unknown-in-rsrv", 1, 2, []string{"QUEUE_SERVICE "}},
		{"19-notifier-nsrv", 2, 4, []string{"NOTIFIER ", "QUEUE_SERVICE "}},
		{"33-link-records", 4, 4, []string{"LINK ", "LINK ", "LINK ", "LINK "}},
	} {
		t.Run(c.variant, func(t *testing.T) {
			log := filepath.Join(realData, "2-import/variants", c.variant, "input.log")
			conn := connect(t, pgtest.DSN(t))
			_, err := importFile(t, conn, log, options())
			var rejected *RejectedError
			if !errors.As(err, &rejected) || !strings.Contains(err.Error(), "input.log: line ") {
				t.Errorf("by default: %v", err)
			}
			if exists(t, conn) {
				t.Error("a schema was left behind")
			}

			var rejects bytes.Buffer
			o := options()
			o.MaxRejects, o.Rejects = c.rejected, &rejects
			res, err := importFile(t, conn, log, o)
			if err != nil {
				t.Fatal(err)
			}
			if res.Rejected != c.rejected || res.Queues != c.queues || !res.Verified {
				t.Errorf("result %+v", res)
			}
			var lost []string
			for line := range strings.Lines(rejects.String()) {
				if !strings.HasPrefix(line, "#") {
					lost = append(lost, line)
				}
			}
			slices.Sort(lost)
			for i, prefix := range c.lost {
				if i >= len(lost) || !strings.HasPrefix(lost[i], prefix) {
					t.Fatalf("rejects:\n%s\nwant records %q", &rejects, c.lost)
				}
			}
		})
	}
}

// The first bad line stops the import, with file, line, column and reason, and
// nothing is left behind.
func TestBadLineStops(t *testing.T) {
	good := read(t, realData, "2-import/variants/00-base/input.log")
	lines := slices.Collect(strings.Lines(good))
	conn := connect(t, pgtest.DSN(t))
	for _, c := range []struct{ name, log, want string }{
		{"garbage", lines[0] + "garbage\n", ": line 2, column 1: unknown record"},
		{"binary", lines[0] + lines[1] + "\x00\xff\xfe\n", ": line 3, column 1: unknown record"},
		{"CRLF", strings.ReplaceAll(good, "\n", "\r\n"), ": carriage return at the end of the line"},
		{"blank line", lines[0] + "\n" + lines[1], ": line 2, column 1: unknown record"},
		{"truncated", good + lines[3][:100], ": line 5, column "},
		{"long line", lines[0] + strings.Repeat("A", 3<<20) + "\n", ": line 2: line of 3145728 bytes"},
		{"duplicate", good + lines[3], ": line 5: CREATE: queue "},
		{"unknown queue", good + "SUSPEND AAAA\n", ": line 5: SUSPEND: queue AAAA was never created"},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := write(t, c.log)
			_, err := importFile(t, conn, name, options())
			if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s%s", err, name, c.want)
			}
			if exists(t, conn) {
				t.Error("a schema was left behind")
			}
			if got := read(t, name); got != c.log {
				t.Error("the file was changed")
			}
			o := options()
			o.DryRun = true
			if _, err := importFile(t, conn, name, o); err == nil {
				t.Error("a dry run did not find it")
			}
		})
	}
}

func TestUnterminatedLine(t *testing.T) {
	good := read(t, realData, "2-import/variants/00-base/input.log")
	var warnings bytes.Buffer
	o := options()
	o.Log = slog.New(slog.NewTextHandler(&warnings, nil))
	conn := connect(t, pgtest.DSN(t))
	res, err := importFile(t, conn, write(t, strings.TrimSuffix(good, "\n")), o)
	if err != nil || res.Queues != 2 || res.Rejected != 0 {
		t.Errorf("result %+v, %v", res, err)
	}
	if !strings.Contains(warnings.String(), "taken as the CREATE record") || !strings.Contains(warnings.String(), "line=4") {
		t.Errorf("warnings: %s", &warnings)
	}
}

func TestEmptyLog(t *testing.T) {
	conn := connect(t, pgtest.DSN(t))
	res, err := importFile(t, conn, write(t, ""), options())
	if err != nil || res.Queues != 0 || !res.Verified || !exists(t, conn) {
		t.Errorf("result %+v, %v", res, err)
	}
}

// A second import of the same log changes nothing and says so; another log is
// not mixed into the schema without being asked for.
func TestSecondImport(t *testing.T) {
	conn := connect(t, pgtest.DSN(t))
	log := filepath.Join(realData, "1-storelog/memory/1-raw.log")
	if _, err := importFile(t, conn, log, options()); err != nil {
		t.Fatal(err)
	}
	before := tables(t, conn)
	for _, name := range []string{log, filepath.Join(realData, "1-storelog/memory/2-compacted.log")} {
		for _, merge := range []bool{false, true} {
			o := options()
			o.Merge = merge
			res, err := importFile(t, conn, name, o)
			if err != nil || !res.Unchanged || res.Added != 0 || res.Present != 19 || !res.Verified {
				t.Errorf("%s, merge %v: result %+v, %v", name, merge, res, err)
			}
		}
	}
	_, err := importFile(t, conn, filepath.Join(realData, "1-storelog/journal/1-raw.log"), options())
	if !errors.Is(err, schema.ErrExists) || !strings.Contains(err.Error(), "--into-existing") {
		t.Errorf("another log: %v", err)
	}
	if tables(t, conn) != before {
		t.Error("the tables were changed")
	}
}

// A merge adds what is new, keeps what is there, and reports what does not fit.
func TestMerge(t *testing.T) {
	for _, version := range []schema.Version{schema.ServiceCerts, schema.StoreMessages, schema.QueueIDsHash} {
		t.Run(string(version), func(t *testing.T) {
			conn := connect(t, pgtest.DSN(t))
			o := options()
			o.Version = version
			if _, err := importFile(t, conn, filepath.Join(realData, "1-storelog/memory/1-raw.log"), o); err != nil {
				t.Fatal(err)
			}
			o.Merge = true
			other := filepath.Join(realData, "1-storelog/journal/1-raw.log")
			before := tables(t, conn)
			o.DryRun = true
			res, err := importFile(t, conn, other, o)
			if err != nil || res.Added != 19 || tables(t, conn) != before {
				t.Errorf("dry run: %+v, %v", res, err)
			}
			o.DryRun = false
			res, err = importFile(t, conn, other, o)
			if err != nil || res.Added != 19 || res.Present != 0 || res.Conflicts != 0 || res.Services != 2 || !res.Verified {
				t.Errorf("merge: %+v, %v", res, err)
			}
			if got := csv(t, conn, "select count(*) from msg_queues"); got != "count\n38\n" {
				t.Errorf("queues: %s", got)
			}
			state, err := schema.Adopt(t.Context(), conn, "smp_server")
			if err := errors.Join(err, state.Err()); err != nil {
				t.Errorf("the schema is not what it was: %v", err)
			}

			// The log of a later day has some of the same queues, changed.
			later := filepath.Join(realData, "1-storelog/memory/3-after-kill9.log")
			before = tables(t, conn)
			_, err = importFile(t, conn, later, o)
			var rejected *RejectedError
			if !errors.As(err, &rejected) || !strings.Contains(err.Error(), "queue ") {
				t.Errorf("conflicts by default: %v", err)
			}
			if tables(t, conn) != before {
				t.Error("a stopped merge changed the tables")
			}
			var rejects bytes.Buffer
			o.MaxRejects, o.Rejects = -1, &rejects
			res, err = importFile(t, conn, later, o)
			if err != nil || res.Conflicts == 0 || res.Added == 0 || res.Added+res.Present+res.Conflicts != res.Queues {
				t.Errorf("merge with conflicts: %+v, %v\n%s", res, err, &rejects)
			}
			if n := strings.Count(rejects.String(), "\nCREATE ") + strings.Count(rejects.String(), "\n# queue "); n == 0 {
				t.Errorf("rejects:\n%s", &rejects)
			}
		})
	}
}

func TestMergeConflicts(t *testing.T) {
	base := read(t, realData, "2-import/variants/00-base/input.log")
	conn := connect(t, pgtest.DSN(t))
	if _, err := importFile(t, conn, write(t, base), options()); err != nil {
		t.Fatal(err)
	}
	line := slices.Collect(strings.Lines(base))[3]
	field := func(name string) string {
		_, rest, _ := strings.Cut(line, " "+name+"=")
		return strings.Fields(rest)[0]
	}
	sid := field("sid")
	_, rid, _ := strings.Cut(strings.Fields(line)[1], "=")
	for _, c := range []struct{ name, log, want string }{
		{"sender id", strings.Replace(line, rid, "AAAA", 1), "queue AAAA: its sender id is in use by queue " + rid},
		{"other values", strings.Replace(line, sid, "AAAA", 1), "queue " + rid + ": the database has the queue with other values of sender_id"},
	} {
		o := options()
		o.Merge = true
		if _, err := importFile(t, conn, write(t, c.log), o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
	pgtest.Exec(t, conn, fmt.Sprintf("update msg_queues set deleted_at = 86400 where recipient_id = decode('%s', 'base64')", strings.NewReplacer("-", "+", "_", "/").Replace(rid)))
	o := options()
	o.Merge = true
	if _, err := importFile(t, conn, write(t, line), o); err == nil || !strings.Contains(err.Error(), "deleted in the database") {
		t.Errorf("deleted queue: %v", err)
	}
}

// A file whose compaction was interrupted is read as the router would read it.
func TestUnfinishedCompaction(t *testing.T) {
	base := read(t, realData, "2-import/variants/00-base/input.log")
	name := write(t, strings.Join(slices.Collect(strings.Lines(base))[:3], ""))
	if err := os.WriteFile(name+".start", []byte(base), 0o600); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, pgtest.DSN(t))
	res, err := importFile(t, conn, name, options())
	if err != nil || res.Queues != 2 || !res.Unfinished || res.File != name+".start" {
		t.Errorf("result %+v, %v", res, err)
	}
}

// Whatever interrupts an import, the database is as it was.
func TestInterrupted(t *testing.T) {
	log := filepath.Join(realData, "1-storelog/memory/1-raw.log")
	for _, phase := range []string{"reading log", "copying queues", "building indexes", "verifying"} {
		t.Run(phase, func(t *testing.T) {
			dsn := pgtest.DSN(t)
			conn := connect(t, dsn)
			f, err := storelog.Open(log)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			o := options()
			o.TempDir = t.TempDir()
			o.Progress = atPhase{phase, cancel}
			if _, err := StoreLog(ctx, conn, f, o); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want cancelled", err)
			}
			if exists(t, connect(t, dsn)) {
				t.Error("a schema was left behind")
			}
		})
		t.Run(phase+", server gone", func(t *testing.T) {
			dsn := pgtest.DSN(t)
			conn, killer := connect(t, dsn), connect(t, dsn)
			o := options()
			pid := conn.PgConn().PID()
			o.Progress = atPhase{phase, func() {
				pgtest.Exec(t, killer, fmt.Sprintf("select pg_terminate_backend(%d, 10000)", pid))
			}}
			if _, err := importFile(t, conn, log, o); err == nil {
				t.Error("no error")
			}
			if exists(t, killer) {
				t.Error("a schema was left behind")
			}
			if _, err := importFile(t, connect(t, dsn), log, options()); err != nil {
				t.Errorf("the next import: %v", err)
			}
		})
	}
}

// An atPhase does something when a phase starts.
type atPhase struct {
	phase string
	do    func()
}

func (p atPhase) Phase(name string, _ int64, _ string) {
	if name == p.phase {
		p.do()
	}
}

func (p atPhase) Add(int64) {}

// One import at a time: the second one learns who is at it.
func TestLocked(t *testing.T) {
	dsn := pgtest.DSN(t)
	conn := connect(t, dsn)
	unlock, err := schema.Lock(t.Context(), connect(t, dsn), "smp_server", "import")
	if err != nil {
		t.Fatal(err)
	}
	_, err = importFile(t, conn, filepath.Join(realData, "1-storelog/memory/1-raw.log"), options())
	var locked *schema.LockedError
	if !errors.As(err, &locked) || !strings.Contains(err.Error(), "locked by smpq import (pid ") {
		t.Errorf("got %v", err)
	}
	if err := unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A full disk under the rejects file is an error, not a lost record.
func TestRejectsNotWritten(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	o := options()
	o.MaxRejects, o.Rejects = -1, io.Writer(full)
	conn := connect(t, pgtest.DSN(t))
	if _, err := importFile(t, conn, write(t, "garbage\n"), o); err == nil || !strings.Contains(err.Error(), "write rejected records") {
		t.Errorf("got %v", err)
	}
	if exists(t, conn) {
		t.Error("a schema was left behind")
	}
}

// What the tables hold is compared with the log before the commit: any change on
// the way there is found, and the import undone.
func TestVerificationFails(t *testing.T) {
	log := filepath.Join(realData, "1-storelog/memory/1-raw.log")
	for _, c := range []struct{ name, tag, change string }{
		{"queue", "CREATE INDEX", `update smp_server.msg_queues set rcv_dh_secret = decode(repeat('00', 32), 'hex') where ctid = '(0,1)'`},
		{"missing queue", "CREATE INDEX", `delete from smp_server.msg_queues where ctid = '(0,1)'`},
		{"service", "CREATE INDEX", `update smp_server.services set created_at = 1`},
		{"aggregates", "CREATE INDEX", `update smp_server.services set queue_count = 99`},
		{"merge", "ALTER TABLE", `update smp_server.msg_queues set status = 'off' where status = 'active'`},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := connect(t, pgtest.DSN(t))
			o := options()
			o.Merge = c.name == "merge"
			if o.Merge {
				if _, err := importFile(t, conn, filepath.Join(realData, "1-storelog/journal/1-raw.log"), o); err != nil {
					t.Fatal(err)
				}
			}
			var before string
			if o.Merge {
				before = tables(t, conn)
			}
			pgtest.Exec(t, conn, fmt.Sprintf(`
				create function public.spoil() returns event_trigger language plpgsql as $$
				begin
				  if exists (select from pg_attribute where attrelid = to_regclass('smp_server.services') and attname = 'queue_count') then
				    execute %s;
				  end if;
				end $$;
				create event trigger spoil on ddl_command_end when tag in ('%s') execute function public.spoil()`,
				"'"+strings.ReplaceAll(c.change, "'", "''")+"'", c.tag))
			res, err := importFile(t, conn, log, o)
			if !errors.Is(err, ErrDifferent) || res.Verified {
				t.Errorf("got %v, verified %v", err, res.Verified)
			}
			pgtest.Exec(t, conn, "drop event trigger spoil")
			if o.Merge {
				if tables(t, conn) != before {
					t.Error("the tables were changed")
				}
			} else if exists(t, conn) {
				t.Error("a schema was left behind")
			}
		})
	}
}

// Services that the schema has under other ids, even under each other's, are
// told apart by their certificates.
func TestMergeServicesSwapped(t *testing.T) {
	lines := slices.Collect(strings.Lines(read(t, realData, "2-import/variants/00-base/input.log")))
	id := func(line string) string {
		_, rest, _ := strings.Cut(line, "service_id=")
		return strings.Fields(rest)[0]
	}
	one, two := id(lines[0]), id(lines[1])
	swap := strings.NewReplacer(one, two, two, one)
	// Both services receive messages, and each has a queue.
	role := strings.NewReplacer("role=N", "role=M")
	services := role.Replace(lines[0] + lines[1])
	conn := connect(t, pgtest.DSN(t))
	if _, err := importFile(t, conn, write(t, services), options()); err != nil {
		t.Fatal(err)
	}
	queues := ""
	for i, service := range []string{one, two} {
		_, rid, _ := strings.Cut(strings.Fields(lines[2+i])[1], "=")
		queues += lines[2+i] + "QUEUE_SERVICE " + rid + " R " + service + "\n"
	}
	o := options()
	o.Merge = true
	if _, err := importFile(t, conn, write(t, swap.Replace(services+queues)), o); err != nil {
		t.Fatal(err)
	}
	want := connect(t, pgtest.DSN(t))
	if _, err := importFile(t, want, write(t, services+queues), options()); err != nil {
		t.Fatal(err)
	}
	const query = "select recipient_id, rcv_service_id from msg_queues order by 1"
	if diff := cmp.Diff(csv(t, want, query), csv(t, conn, query)); diff != "" {
		t.Errorf("services of queues (-want +got):\n%s", diff)
	}
}

// A merge that adds nothing does not wait for a router's open transaction.
func TestMergeOfNothingDoesNotWait(t *testing.T) {
	dsn := pgtest.DSN(t)
	conn, router := connect(t, dsn), connect(t, dsn)
	log := filepath.Join(realData, "1-storelog/memory/1-raw.log")
	if _, err := importFile(t, conn, log, options()); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, router, "begin; update smp_server.msg_queues set updated_at = updated_at")
	o := options()
	o.Merge = true
	if res, err := importFile(t, conn, log, o); err != nil || !res.Unchanged {
		t.Errorf("result %+v, %v", res, err)
	}
}

// What has no place in the database is rejected with its line, not found by the
// database at the end.
func TestNoPlaceInDatabase(t *testing.T) {
	service := strings.SplitAfter(read(t, realData, "2-import/variants/00-base/input.log"), "\n")[0]
	_, rest, _ := strings.Cut(service, " cert=")
	cert := strings.Fields(rest)[0]
	leaf, _, _ := strings.Cut(cert, ",")
	long := strings.Repeat("AAAA", 1000)
	for _, c := range []struct{ name, log, want string }{
		{"no certificate", strings.Replace(service, cert, "", 1), "line 1: service "},
		{"256 certificates", strings.Replace(service, cert, strings.Repeat(leaf+",", 255)+leaf, 1), "line 1: service "},
		{"long id", "SUSPEND " + long + "\n", "line 1, column 9: id of 3000 bytes"},
		{"long hash", regexp.MustCompile("cert_hash=[^ ]*").ReplaceAllString(service, "cert_hash="+long), "line 1, column "},
	} {
		conn := connect(t, pgtest.DSN(t))
		if _, err := importFile(t, conn, write(t, c.log), options()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
		o := options()
		o.MaxRejects = -1
		if res, err := importFile(t, conn, write(t, c.log), o); err != nil || res.Rejected != 1 {
			t.Errorf("%s, rejected: %+v, %v", c.name, res, err)
		}
	}
}
