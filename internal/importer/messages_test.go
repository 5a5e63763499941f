package importer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/dumptest"
	"github.com/smpq/smpq/internal/exporter"
	"github.com/smpq/smpq/internal/journal"
	"github.com/smpq/smpq/internal/msglog"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

const (
	messageData = realData + "/3-messages"
	journalData = realData + "/4-journal"
	allMessages = "select * from messages order by message_id"
)

func importMessages(t testing.TB, conn *pgx.Conn, name string, o Options) (MessageResult, error) {
	t.Helper()
	f, err := msglog.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return MessageLog(t.Context(), conn, f, o)
}

func importJournal(t testing.TB, conn *pgx.Conn, folder string, o Options) (MessageResult, error) {
	t.Helper()
	tree, err := journal.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	return Journal(t.Context(), conn, tree, o)
}

// withQueues returns a connection to a database with the queues of a store log.
func withQueues(t testing.TB, log string) *pgx.Conn {
	t.Helper()
	conn := connect(t, pgtest.DSN(t))
	o := options()
	o.MaxRejects = -1
	if _, err := importFile(t, conn, log, o); err != nil {
		t.Fatal(err)
	}
	return conn
}

// exportMessages returns the message log of the database.
func exportMessages(t testing.TB, conn *pgx.Conn, o exporter.Options) string {
	t.Helper()
	s, err := store.OpenSchema(t.Context(), conn, "smp_server")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := exporter.MessageLog(t.Context(), conn, s, &b, o); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// allTables returns the rows of all tables.
func allTables(t testing.TB, conn *pgx.Conn) string {
	t.Helper()
	return tables(t, conn) + csv(t, conn, allMessages)
}

// The tables hold, row by row, what smp-server made of the same logs, and the
// export of them is byte for byte that of smp-server.
func TestMessagesLikeSmpServer(t *testing.T) {
	variants, err := filepath.Glob(filepath.Join(messageData, "variants/*"))
	if err != nil || len(variants) < 26 {
		t.Fatalf("%d variants: %v", len(variants), err)
	}
	conn := connect(t, pgtest.DSN(t))
	o := options()
	o.Version, o.MaxRejects = schema.StoreMessages, -1
	if _, err := importFile(t, conn, filepath.Join(variants[0], "smp-server-store.log"), o); err != nil {
		t.Fatal(err)
	}
	for _, dir := range variants {
		name := filepath.Base(dir)
		if name == "09-unknown-queue" || name == "10-empty-body" {
			continue // see TestOrphans, TestEmptyBody
		}
		t.Run(name, func(t *testing.T) {
			// All variants have the same queues. Their counts are set right.
			pgtest.Exec(t, conn, "truncate messages")
			log := filepath.Join(dir, "smp-server-messages.log")
			res, err := importMessages(t, conn, log, o)
			if err != nil {
				t.Fatal(err)
			}
			rows := len(dumptest.Rows(t, filepath.Join(dir, "messages.csv"))) - 1
			if !res.Verified || res.Orphans != 0 || res.Messages != int64(rows) || res.Added != res.Messages {
				t.Errorf("result %+v", res)
			}
			likeSmpServer(t, conn, dir)
			// Once more: nothing happens.
			res, err = importMessages(t, conn, log, o)
			if want := rows > 0; err != nil || res.Unchanged != want || want && res.Present != int64(rows) {
				t.Errorf("second import: %+v, %v", res, err)
			}
		})
	}
}

// likeSmpServer compares queues and messages, and the export of the messages,
// with what smp-server left in a folder.
func likeSmpServer(t testing.TB, conn *pgx.Conn, dir string) {
	t.Helper()
	for file, query := range map[string]string{"messages.csv": allMessages, "msg_queues.csv": allQueues} {
		if diff := cmp.Diff(read(t, dir, file), csv(t, conn, query)); diff != "" {
			t.Errorf("%s (-smp-server +smpq):\n%s", file, diff)
		}
	}
	if diff := cmp.Diff(read(t, dir, "exported-messages.log"), exportMessages(t, conn, exporter.Options{})); diff != "" {
		t.Errorf("export (-smp-server +smpq):\n%s", diff)
	}
	state, err := schema.Adopt(t.Context(), conn, "smp_server")
	if err := errors.Join(err, state.Err()); err != nil {
		t.Errorf("the schema is not what it should be: %v", err)
	}
}

// byQueue sorts the lines of a message log by queue, and leaves those of a queue
// in their order.
func byQueue(log string) []string {
	lines := slices.Collect(strings.Lines(log))
	slices.SortStableFunc(lines, func(a, b string) int { return strings.Compare(a[:35], b[:35]) })
	return lines
}

// Journals, stopped in whatever moment, come into the database as smp-server
// exports them, with the queues that are over quota; and what smpq exports as a
// journal is what smp-server makes of its own export.
func TestJournalsLikeSmpServer(t *testing.T) {
	for _, c := range []struct {
		moment string
		notes  int64
	}{
		{"2-after-kill9", 0},
		{"3-torn-message-kill9", 1},
		{"5-torn-state-kill9", 2},
		{"7-after-stop", 0},
	} {
		t.Run(c.moment, func(t *testing.T) {
			dir := filepath.Join(journalData, c.moment)
			conn := withQueues(t, filepath.Join(dir, "smp-server-store.log"))
			tree := dumptest.Unpack(t, filepath.Join(dir, "messages.tar.gz"))
			o := options()
			o.MaxRejects = 0
			res, err := importJournal(t, conn, tree, o)
			if err != nil || !res.Verified || res.Notes != c.notes || res.OverQuota != 2 || res.Oversize != 0 {
				t.Fatalf("%+v, %v", res, err)
			}
			exported := read(t, dir, "exported-messages.log")
			if diff := cmp.Diff(byQueue(exported), byQueue(exportMessages(t, conn, exporter.Options{}))); diff != "" {
				t.Errorf("messages (-smp-server +smpq):\n%s", diff)
			}
			if res, err := importJournal(t, conn, tree, o); err != nil || !res.Unchanged {
				t.Errorf("second import: %+v, %v", res, err)
			}
			s, err := store.OpenSchema(t.Context(), conn, "smp_server")
			if err != nil {
				t.Fatal(err)
			}
			again := filepath.Join(t.TempDir(), "messages")
			if _, err := exporter.Journal(t.Context(), conn, s, again, exporter.Options{}); err != nil {
				t.Fatal(err)
			}
			want := dumptest.Unpack(t, filepath.Join(dir, "reimported-messages.tar.gz"))
			if diff := cmp.Diff(anonymous(t, want), anonymous(t, again)); diff != "" {
				t.Errorf("journal (-smp-server +smpq):\n%s", diff)
			}
		})
	}
}

// Of all message logs and journals, also those of which there is no export of
// smp-server, the messages go in and come out the same, in either form.
func TestRoundTrip(t *testing.T) {
	var sources []string
	for _, pattern := range []string{"3-messages/memory/*/smp-server-messages.log", "3-messages/journal/*/messages.tar.gz", "4-journal/*/messages.tar.gz"} {
		names, err := filepath.Glob(filepath.Join(realData, pattern))
		if err != nil || len(names) < 3 {
			t.Fatalf("%s: %q, %v", pattern, names, err)
		}
		sources = append(sources, names...)
	}
	conn := connect(t, pgtest.DSN(t))
	o := options()
	o.Merge, o.MaxRejects = true, -1 // the same queues as of several days
	for _, name := range sources {
		if _, err := importFile(t, conn, filepath.Join(filepath.Dir(name), "smp-server-store.log"), o); err != nil {
			t.Fatal(err)
		}
	}
	o = options()
	for _, name := range sources {
		pgtest.Exec(t, conn, "truncate messages")
		log := name
		if filepath.Base(name) == "messages.tar.gz" {
			tree := dumptest.Unpack(t, name)
			res, err := importJournal(t, conn, tree, o)
			if err != nil || res.Messages == 0 || !res.Verified {
				t.Fatalf("%s: %+v, %v", name, res, err)
			}
			log = write(t, exportMessages(t, conn, exporter.Options{}))
			if res, err := importJournal(t, conn, tree, o); err != nil || !res.Unchanged {
				t.Errorf("%s, once more: %+v, %v", name, res, err)
			}
			pgtest.Exec(t, conn, "truncate messages")
		}
		if res, err := importMessages(t, conn, log, o); err != nil || res.Messages == 0 || !res.Verified {
			t.Fatalf("%s: %+v, %v", name, res, err)
		}
		if diff := cmp.Diff(byQueue(read(t, log)), byQueue(exportMessages(t, conn, exporter.Options{}))); diff != "" {
			t.Errorf("%s (-log +export):\n%s", name, diff)
		}
		s, err := store.OpenSchema(t.Context(), conn, "smp_server")
		if err != nil {
			t.Fatal(err)
		}
		again := filepath.Join(t.TempDir(), "messages")
		if _, err := exporter.Journal(t.Context(), conn, s, again, exporter.Options{}); err != nil {
			t.Fatal(err)
		}
		if res, err := importJournal(t, conn, again, o); err != nil || !res.Unchanged {
			t.Errorf("%s, as a journal: %+v, %v", name, res, err)
		}
	}
}

// anonymous returns names and contents of the files of a journal, without the
// names of the message files, which are random.
func anonymous(t testing.TB, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	random := regexp.MustCompile(`(messages\.|write=|read=)[A-Za-z0-9_-]{16}`)
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		files[random.ReplaceAllString(name, "$1")] = random.ReplaceAllString(read(t, path), "$1")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Messages of queues that are not there, or not any more, are rejected with their
// place, and by default stop the import.
func TestOrphans(t *testing.T) {
	dir := filepath.Join(messageData, "variants/09-unknown-queue")
	log := filepath.Join(dir, "smp-server-messages.log")
	conn := withQueues(t, filepath.Join(dir, "smp-server-store.log"))
	before := allTables(t, conn)
	_, err := importMessages(t, conn, log, options())
	if _, ok := errors.AsType[*RejectedError](err); !ok || !strings.Contains(err.Error(), "smp-server-messages.log: line 2: queue YaguXSYICmE5wEfmSe3zI8apxizo8-13: the queue is not in the schema") {
		t.Errorf("by default: %v", err)
	}
	if allTables(t, conn) != before {
		t.Error("something was left behind")
	}
	var rejects bytes.Buffer
	o := options()
	o.MaxRejects, o.Rejects = 1, &rejects
	o.DryRun = true
	if res, err := importMessages(t, conn, log, o); err != nil || res.Orphans != 1 || res.Messages != 2 || allTables(t, conn) != before {
		t.Errorf("dry run: %+v, %v", res, err)
	}
	o.DryRun = false
	rejects.Reset()
	res, err := importMessages(t, conn, log, o)
	if err != nil || res.Orphans != 1 || res.Rejected != 1 || res.Messages != 2 || !res.Verified {
		t.Errorf("%+v, %v", res, err)
	}
	lines := slices.Collect(strings.Lines(read(t, log)))
	want := "# line 2: queue YaguXSYICmE5wEfmSe3zI8apxizo8-13: the queue is not in the schema\n" + lines[1]
	if rejects.String() != want {
		t.Errorf("rejects %q, want %q", &rejects, want)
	}
	if got := exportMessages(t, conn, exporter.Options{}); got != lines[0]+lines[2] {
		t.Errorf("imported:\n%s", got)
	}

	// A queue that was deleted.
	conn = withQueues(t, filepath.Join(dir, "smp-server-store.log"))
	pgtest.Exec(t, conn, "update msg_queues set deleted_at = 86400")
	if _, err := importMessages(t, conn, log, options()); err == nil || !strings.Contains(err.Error(), ": line 1: queue AJL2YKX7trxKg-Q3o_3T-78DR_664N8H: the queue was deleted in the database") {
		t.Errorf("deleted queue: %v", err)
	}
}

// A message with an empty body, which smp-server takes from senders but reads
// from no file, is imported and exported; on request it is left out.
func TestEmptyBody(t *testing.T) {
	for _, dir := range []string{"variants/10-empty-body", "empty-body/memory/2-after-stop"} {
		conn := withQueues(t, filepath.Join(messageData, dir, "smp-server-store.log"))
		log := read(t, messageData, dir, "smp-server-messages.log")
		if _, err := importMessages(t, conn, filepath.Join(messageData, dir, "smp-server-messages.log"), options()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(byQueue(log), byQueue(exportMessages(t, conn, exporter.Options{}))); diff != "" {
			t.Errorf("%s (-log +export):\n%s", dir, diff)
		}
		without := regexp.MustCompile("(?m)^.* flags=[TF] \n").ReplaceAllString(log, "")
		if diff := cmp.Diff(byQueue(without), byQueue(exportMessages(t, conn, exporter.Options{SkipEmpty: true}))); diff != "" || without == log {
			t.Errorf("%s (-log without +export):\n%s", dir, diff)
		}
	}
	dir := filepath.Join(messageData, "empty-body/journal")
	conn := withQueues(t, filepath.Join(dir, "2-after-stop/smp-server-store.log"))
	tree := dumptest.Unpack(t, filepath.Join(dir, "2-after-stop/messages.tar.gz"))
	if res, err := importJournal(t, conn, tree, options()); err != nil || res.Messages != 4 {
		t.Fatalf("%+v, %v", res, err)
	}
	if diff := cmp.Diff(byQueue(read(t, dir, "exported-messages.log")), byQueue(exportMessages(t, conn, exporter.Options{SkipEmpty: true}))); diff != "" {
		t.Errorf("journal (-smp-server, which skips them +smpq without them):\n%s", diff)
	}
}

// base is a log of two queues, with three messages in the first and one in the
// second; in the store log there is a third queue.
func base(t testing.TB) (storeLog string, lines []string) {
	t.Helper()
	dir := filepath.Join(messageData, "variants/20-interleaved-order")
	lines = slices.Collect(strings.Lines(read(t, dir, "smp-server-messages.log")))
	return filepath.Join(dir, "smp-server-store.log"), lines
}

// Into a schema with messages, messages come only when asked for, and only for
// queues that have none; others are conflicts.
func TestMergeMessages(t *testing.T) {
	for _, version := range []schema.Version{schema.StoreMessages, schema.QueueIDsHash} {
		t.Run(string(version), func(t *testing.T) {
			storeLog, lines := base(t) // queues A, B, A, B
			conn := connect(t, pgtest.DSN(t))
			o := options()
			o.Version = version
			if _, err := importFile(t, conn, storeLog, o); err != nil {
				t.Fatal(err)
			}
			first, second := lines[0]+lines[2], lines[1]+lines[3]
			if _, err := importMessages(t, conn, write(t, first), o); err != nil {
				t.Fatal(err)
			}
			before := allTables(t, conn)
			if _, err := importMessages(t, conn, write(t, second), o); !errors.Is(err, schema.ErrExists) || !strings.Contains(err.Error(), "--into-existing") {
				t.Errorf("not asked for: %v", err)
			}
			// The part of a log is not the log.
			if _, err := importMessages(t, conn, write(t, lines[0]), o); !errors.Is(err, schema.ErrExists) {
				t.Errorf("a part: %v", err)
			}
			o.Merge = true
			if res, err := importMessages(t, conn, write(t, first), o); err != nil || !res.Unchanged || res.Present != 2 {
				t.Errorf("the same: %+v, %v", res, err)
			}
			for name, log := range map[string]string{"fewer": lines[0] + second, "more": first + second + strings.Replace(lines[0], " 17", " 16", 1), "other order": lines[2] + lines[0] + second} {
				var rejects bytes.Buffer
				o := o
				if _, err := importMessages(t, conn, write(t, log), o); err == nil || !strings.Contains(err.Error(), "queue AJL2YKX7trxKg-Q3o_3T-78DR_664N8H: the database has other messages of the queue") {
					t.Errorf("%s: %v", name, err)
				}
				o.MaxRejects, o.Rejects, o.DryRun = -1, &rejects, true
				res, err := importMessages(t, conn, write(t, log), o)
				if n := int64(strings.Count(log, lines[0][:30])); err != nil || res.Conflicts != n || res.Rejected != n || res.Added != 2 || strings.Count(rejects.String(), "\nv3 ") != int(n) {
					t.Errorf("%s: %+v, %v, rejects:\n%s", name, res, err, &rejects)
				}
			}
			if allTables(t, conn) != before {
				t.Error("the tables were changed")
			}
			res, err := importMessages(t, conn, write(t, second+first), o)
			if err != nil || res.Added != 2 || res.Present != 2 || res.Queues != 1 || !res.Verified {
				t.Errorf("merge: %+v, %v", res, err)
			}
			if diff := cmp.Diff([]string{lines[0], lines[2], lines[1], lines[3]}, slices.Collect(strings.Lines(exportMessages(t, conn, exporter.Options{})))); diff != "" {
				t.Errorf("messages (-want +got):\n%s", diff)
			}
			want := "msg_can_write,msg_queue_expire,msg_queue_size\nt,t,2\nt,t,2\nt,f,0\n"
			if got := csv(t, conn, "select msg_can_write, msg_queue_expire, msg_queue_size from msg_queues order by recipient_id"); got != want {
				t.Errorf("queues:\n%s", got)
			}
			// What a router writes next comes after them.
			pgtest.Exec(t, conn, "select * from write_message((select recipient_id from msg_queues order by 1 limit 1), 'id', 1, false, false, 'body', 128)")
			if got := exportMessages(t, conn, exporter.Options{}); !strings.HasPrefix(got, lines[0]+lines[2]+lines[0][:36]+"aWQ= 1 flags=F Ym9keQ==\n") {
				t.Errorf("after another message:\n%s", got)
			}
			state, err := schema.Adopt(t.Context(), conn, "smp_server")
			if err := errors.Join(err, state.Err()); err != nil {
				t.Errorf("the schema is not what it was: %v", err)
			}
		})
	}
}

// Messages are numbered from 1 after an import into a table that was emptied, and
// a message that a router writes next gets the next number. Queues that count
// messages that they do not have are set right.
func TestNumbersAndCounts(t *testing.T) {
	storeLog, lines := base(t)
	conn := withQueues(t, storeLog)
	pgtest.Exec(t, conn, `
		select * from write_message((select recipient_id from msg_queues order by 1 desc limit 1), 'id', 1, false, false, 'body', 128);
		delete from messages`)
	if _, err := importMessages(t, conn, write(t, strings.Join(lines, "")), options()); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, conn, "select * from write_message((select recipient_id from msg_queues order by 1 desc limit 1), 'id', 1, false, false, 'body', 128)")
	if got := csv(t, conn, "select message_id from messages order by 1"); got != "message_id\n1\n2\n3\n4\n5\n" {
		t.Errorf("numbers:\n%s", got)
	}
	if got := csv(t, conn, "select msg_queue_size from msg_queues order by recipient_id"); got != "msg_queue_size\n2\n2\n1\n" {
		t.Errorf("sizes:\n%s", got)
	}
	if got := csv(t, conn, "select count(*) from pg_trigger where tgrelid = 'msg_queues'::regclass and not tgisinternal and tgenabled = 'O'"); got != "count\n3\n" {
		t.Errorf("triggers:\n%s", got)
	}
}

// Expired messages are left out on request, quota markers never.
func TestExpired(t *testing.T) {
	storeLog, _ := base(t)
	log := read(t, messageData, "variants/15-old-and-negative-time/smp-server-messages.log") +
		read(t, messageData, "variants/16-quota-only/smp-server-messages.log")
	conn := withQueues(t, storeLog)
	o := options()
	o.Before = 1795306811
	res, err := importMessages(t, conn, write(t, log), o)
	if err != nil || res.Expired != 2 || res.Messages != 3 || res.Rejected != 0 || res.OverQuota != 1 {
		t.Errorf("%+v, %v", res, err)
	}
	conn = withQueues(t, storeLog)
	o.Before = 1795306812
	if res, err := importMessages(t, conn, write(t, log), o); err != nil || res.Expired != 3 || res.Messages != 2 {
		t.Errorf("a second later: %+v, %v", res, err)
	}
}

// Queues with more messages than a router would store are imported and counted.
func TestOversize(t *testing.T) {
	for variant, want := range map[string]int64{"21-129-messages": 0, "22-131-messages-and-quota": 1} {
		dir := filepath.Join(messageData, "variants", variant)
		conn := withQueues(t, filepath.Join(dir, "smp-server-store.log"))
		o := options()
		o.Quota = 128
		res, err := importMessages(t, conn, filepath.Join(dir, "smp-server-messages.log"), o)
		if err != nil || res.Oversize != want {
			t.Errorf("%s: %+v, %v", variant, res, err)
		}
	}
}

// What a crash, or a file cut short, has left is found; by default it stops the
// import, and nothing is left of it.
func TestDamagedMessages(t *testing.T) {
	storeLog, lines := base(t)
	whole := strings.Join(lines, "")
	conn := withQueues(t, storeLog)
	before := allTables(t, conn)
	for _, c := range []struct{ name, log, want string }{
		{"truncated", whole[:len(whole)-30], ": line 4, column "},
		{"garbage", lines[0] + "garbage\n" + lines[1], ": line 2, column 1: not a message"},
		{"long line", lines[0] + strings.Repeat("A", 3<<20) + "\n", ": line 2: line of 3145728 bytes"},
		{"binary", whole + "\x00\n", ": line 5, column 1: not a message"},
	} {
		name := write(t, c.log)
		if _, err := importMessages(t, conn, name, options()); err == nil || !strings.Contains(err.Error(), name+c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
		if allTables(t, conn) != before || read(t, name) != c.log {
			t.Errorf("%s: something was changed", c.name)
		}
	}
	if res, err := importMessages(t, conn, write(t, strings.TrimSuffix(whole, "\n")), options()); err != nil || res.Notes != 1 || res.Messages != 4 {
		t.Errorf("without the last LF: %+v, %v", res, err)
	}
}

// A journal with a missing file: by default it stops the import; else the loss is
// in the rejects.
func TestDamagedJournal(t *testing.T) {
	dir := filepath.Join(journalData, "7-after-stop")
	conn := withQueues(t, filepath.Join(dir, "smp-server-store.log"))
	tree := dumptest.Unpack(t, filepath.Join(dir, "messages.tar.gz"))
	const file = "jv/GB/Qi/lM/gkfoonxohcWNTqZIwSz9QhYv/messages.N9JDacSZqbeRy974.log"
	if err := os.Remove(filepath.Join(tree, file)); err != nil {
		t.Fatal(err)
	}
	if _, err := importJournal(t, conn, tree, options()); err == nil || !strings.Contains(err.Error(), tree+": "+file+": the file is missing, and with it 56 messages") {
		t.Errorf("by default: %v", err)
	}
	var rejects bytes.Buffer
	o := options()
	o.MaxRejects, o.Rejects = 1, &rejects
	res, err := importJournal(t, conn, tree, o)
	if err != nil || res.Rejected != 1 || res.Messages != 363-56 {
		t.Errorf("%+v, %v", res, err)
	}
	if want := "# " + file + ": the file is missing, and with it 56 messages\n"; rejects.String() != want {
		t.Errorf("rejects %q", &rejects)
	}
	// Folders of queues that are not in the schema.
	conn = withQueues(t, filepath.Join(messageData, "variants/00-base/smp-server-store.log"))
	o.MaxRejects = -1
	if res, err := importJournal(t, conn, tree, o); err != nil || res.Orphans != 363-56 || res.Messages != 0 {
		t.Errorf("orphans: %+v, %v", res, err)
	}
}

// A queue that is over quota stays so, even if no quota marker is among its
// messages.
func TestFullWithoutMarker(t *testing.T) {
	dir := filepath.Join(journalData, "7-after-stop")
	conn := withQueues(t, filepath.Join(dir, "smp-server-store.log"))
	tree := dumptest.Unpack(t, filepath.Join(dir, "messages.tar.gz"))
	state := filepath.Join(tree, "DZ/SM/pQ/TQ/H8m_BqTeeU00uq4c1b2DV9Va/queue_state.DZSMpQTQH8m_BqTeeU00uq4c1b2DV9Va.log")
	if err := os.WriteFile(state, []byte(strings.ReplaceAll(read(t, state), "canWrite=T", "canWrite=F")), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int64{3, 1} { // into an empty table, then beside other messages
		o := options()
		o.Merge = true
		res, err := importJournal(t, conn, tree, o)
		if err != nil || res.Unchanged || res.OverQuota != want || !res.Verified {
			t.Errorf("%+v, %v", res, err)
		}
		const full = `select count(*) from msg_queues where not msg_can_write and recipient_id = '\x0d948ca504d01fc9bf06a4de794d34baae1cd5bd8357d55a'`
		if got := csv(t, conn, full); got != "count\n1\n" {
			t.Errorf("full: %s", got)
		}
		pgtest.Exec(t, conn, "delete from messages where recipient_id <> (select recipient_id from messages order by message_id desc limit 1)")
		pgtest.Exec(t, conn, "update msg_queues set msg_can_write = true")
		tree = only(t, tree, "DZ")
	}
}

// only returns a journal that has just the queues below a folder of another.
func only(t testing.TB, tree, below string) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Rename(filepath.Join(tree, below), filepath.Join(root, below)); err != nil {
		t.Fatal(err)
	}
	return root
}

// Schemas that are not there, or have no place for messages.
func TestNoPlaceForMessages(t *testing.T) {
	storeLog, lines := base(t)
	conn := connect(t, pgtest.DSN(t))
	log := write(t, lines[0])
	if _, err := importMessages(t, conn, log, options()); !errors.Is(err, schema.ErrMissing) {
		t.Errorf("no schema: %v", err)
	}
	o := options()
	o.Version = schema.ServiceCerts
	if _, err := importFile(t, conn, storeLog, o); err != nil {
		t.Fatal(err)
	}
	if _, err := importMessages(t, conn, log, options()); !errors.Is(err, store.ErrNoMessages) {
		t.Errorf("old schema: %v", err)
	}
}

// Whatever interrupts an import of messages, the database is as it was.
func TestInterruptedMessages(t *testing.T) {
	storeLog, lines := base(t)
	log := write(t, lines[1]+lines[3])
	other := withQueues(t, storeLog)
	dsn := other.Config().ConnString()
	for _, c := range []struct {
		phase string
		merge bool
	}{
		{"copying messages", false},
		{"building indexes", false},
		{"counting", false},
		{"verifying", false},
		{"copying messages", true},
		{"comparing with the database", true},
		{"merging", true},
		{"counting", true},
	} {
		for _, how := range []string{"cancelled", "server gone"} {
			t.Run(fmt.Sprintf("%s, merge %v, %s", c.phase, c.merge, how), func(t *testing.T) {
				conn := connect(t, dsn)
				pgtest.Exec(t, other, "truncate messages")
				o := options()
				o.Merge = c.merge
				first := "" // without messages, all queues have none
				if c.merge {
					first = lines[0] + lines[2]
				}
				if _, err := importMessages(t, other, write(t, first), options()); err != nil {
					t.Fatal(err)
				}
				before := allTables(t, other)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				pid := conn.PgConn().PID()
				o.Progress = atPhase{c.phase, cancel}
				if how == "server gone" {
					o.Progress = atPhase{c.phase, func() {
						pgtest.Exec(t, other, fmt.Sprintf("select pg_terminate_backend(%d, 10000)", pid))
					}}
				}
				f, err := msglog.Open(log)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if _, err := MessageLog(ctx, conn, f, o); err == nil || how == "cancelled" && !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
				if diff := cmp.Diff(before, allTables(t, other)); diff != "" {
					t.Errorf("the tables were changed:\n%s", diff)
				}
				o.Progress = noProgress{}
				if res, err := importMessages(t, other, log, o); err != nil || res.Added != 2 {
					t.Errorf("the next import: %+v, %v", res, err)
				}
			})
		}
	}
}

// A change on the way into the tables is found before the commit.
func TestMessageVerificationFails(t *testing.T) {
	storeLog, lines := base(t)
	for _, c := range []struct{ name, tag, change string }{
		{"body", "CREATE INDEX", `update smp_server.messages set msg_body = '\x00' where message_id = 1`},
		{"missing", "CREATE INDEX", `delete from smp_server.messages where message_id = 1`},
		{"order", "CREATE INDEX", `update smp_server.messages m
			set (msg_id, msg_ts, msg_body) = (select msg_id, msg_ts, msg_body from smp_server.messages o where o.message_id = 3 - m.message_id)
			where (select msg_ts from smp_server.messages where message_id = 1) = 1795306851`},
		{"queue", "CREATE INDEX", `update smp_server.messages set recipient_id = (select recipient_id from smp_server.msg_queues order by 1 limit 1) where message_id = 1`},
		{"counts", "ALTER TABLE", `update smp_server.msg_queues set msg_queue_size = 7 where msg_queue_size = 2`},
		{"merge", "ALTER TABLE", `update smp_server.messages set msg_ntf_flag = true where not msg_ntf_flag`},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := withQueues(t, storeLog)
			o := options()
			log := write(t, lines[1]+lines[3])
			if c.name == "merge" {
				o.Merge = true
				if _, err := importMessages(t, conn, write(t, lines[0]+lines[2]), o); err != nil {
					t.Fatal(err)
				}
			}
			before := allTables(t, conn)
			pgtest.Exec(t, conn, fmt.Sprintf(`
				create function public.spoil() returns event_trigger language plpgsql as $$
				begin execute %s; end $$;
				create event trigger spoil on ddl_command_end when tag in ('%s') execute function public.spoil()`,
				"'"+strings.ReplaceAll(c.change, "'", "''")+"'", c.tag))
			res, err := importMessages(t, conn, log, o)
			if !errors.Is(err, ErrDifferent) || res.Verified {
				t.Errorf("got %v, verified %v", err, res.Verified)
			}
			pgtest.Exec(t, conn, "drop event trigger spoil")
			if allTables(t, conn) != before {
				t.Error("the tables were changed")
			}
		})
	}
}

// A full disk under the rejects file is an error, not a lost message.
func TestMessageRejectsNotWritten(t *testing.T) {
	storeLog, _ := base(t)
	conn := withQueues(t, storeLog)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	o := options()
	o.MaxRejects, o.Rejects = -1, full
	if _, err := importMessages(t, conn, write(t, "garbage\n"), o); err == nil || !strings.Contains(err.Error(), "write rejected records") {
		t.Errorf("got %v", err)
	}
}

// More messages than fit in a chunk arrive complete, in their order, and with
// bodies of the greatest length.
func TestManyMessages(t *testing.T) {
	storeLog, lines := base(t)
	conn := withQueues(t, storeLog)
	_, large, _ := strings.Cut(read(t, messageData, "variants/13-large-16088/smp-server-messages.log"), "flags=F ")
	var log strings.Builder
	for i := range 2*chunkItems + 100 {
		text := lines[i%2]
		if i%100 == 0 {
			head, _, _ := strings.Cut(text, "flags=F ")
			text = head + "flags=F " + large
		}
		log.WriteString(text)
	}
	o := options()
	o.Quota = 1 << 40
	res, err := importMessages(t, conn, write(t, log.String()), o)
	if err != nil || res.Messages != 2*chunkItems+100 || !res.Verified || res.Oversize != 0 {
		t.Errorf("%+v, %v", res, err)
	}
	if got := exportMessages(t, conn, exporter.Options{}); !slices.Equal(byQueue(got), byQueue(log.String())) {
		t.Error("the export is not what was imported")
	}
}
