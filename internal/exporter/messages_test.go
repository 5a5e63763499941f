package exporter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/smpq/smpq/internal/dumptest"
	"github.com/smpq/smpq/internal/exporter"
	"github.com/smpq/smpq/internal/journal"
	"github.com/smpq/smpq/internal/msglog"
	"github.com/smpq/smpq/internal/pgtest"
)

// Of a database that a router worked with, smpq exports what smp-server exported,
// byte for byte; but without the messages of deleted queues, unless told
// otherwise.
func TestMessageLogLikeSmpServer(t *testing.T) {
	conn, s := load(t, liveDump)
	want := readFile(t, filepath.Join(liveDump, "exported-messages.log"))
	var b bytes.Buffer
	sum, err := exporter.MessageLog(t.Context(), conn, s, &b, exporter.Options{WithDeleted: true})
	if err != nil || !bytes.Equal(b.Bytes(), want) {
		t.Errorf("%v, export (-smp-server +smpq):\n%s", err, cmp.Diff(string(want), b.String()))
	}
	if sum.Messages != 400 || sum.Bytes != int64(len(want)) || sum.Differences != nil {
		t.Errorf("summary %+v", sum)
	}
	b.Reset()
	sum, err = exporter.MessageLog(t.Context(), conn, s, &b, exporter.Options{})
	if err != nil || sum.Messages != 399 || len(sum.Differences) != 1 || sum.Differences[0].Kind.Lossy() {
		t.Fatalf("%v, summary %+v", err, sum)
	}
	d := sum.Differences[0]
	if d.Kind != exporter.DeletedQueue || d.Queues != 1 || d.Messages != 1 {
		t.Errorf("differences %+v", d)
	}
	var left []string
	for line := range strings.Lines(string(want)) {
		if !strings.HasPrefix(line, "v3 "+d.First[0].String()) {
			left = append(left, line)
		}
	}
	if got := slices.Collect(strings.Lines(b.String())); !slices.Equal(got, left) {
		t.Errorf("export without deleted queues:\n%s", cmp.Diff(left, got))
	}
}

// insert adds messages to the n-th queue: some with an empty body, and at the
// end a quota marker, if so.
func insert(t testing.TB, conn *pgx.Conn, n, messages, empty int, marker bool) {
	t.Helper()
	pgtest.Exec(t, conn, fmt.Sprintf(`
		with q as (select recipient_id from %[1]s.msg_queues where deleted_at is null order by 1 offset %[2]d limit 1)
		insert into %[1]s.messages (recipient_id, msg_id, msg_ts, msg_quota, msg_ntf_flag, msg_body)
		select recipient_id, decode(lpad(i::text, 48, '0'), 'hex'), 1757930000 + i, i = %[5]d, false,
		       case when i <= %[4]d or i = %[5]d then '' else decode(lpad(i::text, 200, '7'), 'hex') end
		  from q, generate_series(1, %[3]d) i order by i`,
		schemaName, n, messages, empty, map[bool]int{true: messages}[marker]))
	pgtest.Exec(t, conn, fmt.Sprintf(`
		update %[1]s.msg_queues q set msg_queue_size = m.n, msg_can_write = not m.marker
		  from (select recipient_id, count(*) n, bool_or(msg_quota) marker from %[1]s.messages group by 1) m
		 where m.recipient_id = q.recipient_id`, schemaName))
}

// Messages with an empty body, at which smp-server stops, are written and named,
// or left out.
func TestEmptyBodies(t *testing.T) {
	conn, s := load(t, dumptest.Root+"/memory-1-raw")
	insert(t, conn, 0, 5, 2, true)
	insert(t, conn, 1, 3, 1, false)
	for _, skip := range []bool{false, true} {
		var b bytes.Buffer
		sum, err := exporter.MessageLog(t.Context(), conn, s, &b, exporter.Options{SkipEmpty: skip})
		if err != nil || len(sum.Differences) != 1 {
			t.Fatalf("%+v, %v", sum, err)
		}
		d, lines := sum.Differences[0], int64(bytes.Count(b.Bytes(), []byte("\n")))
		want, kind := int64(8), exporter.EmptyBody
		if skip {
			want, kind = 5, exporter.EmptyBodyLeftOut
		}
		if d.Kind != kind || d.Kind.Lossy() != skip || d.Queues != 2 || d.Messages != 3 || len(d.First) != 2 || sum.Messages != want || lines != want || sum.Queues != 2 {
			t.Errorf("skip %v: %+v, %d lines", skip, sum, lines)
		}
	}
}

// What is exported as a journal is read as the same messages, with as many
// message files as smp-server would make, and the queues that are full.
func TestJournal(t *testing.T) {
	conn, s := load(t, dumptest.Root+"/memory-1-raw")
	sizes := []int{1, 129, 256, 257, 600}
	for n, size := range sizes {
		insert(t, conn, n, size, 0, size == 129)
	}
	var b bytes.Buffer
	if _, err := exporter.MessageLog(t.Context(), conn, s, &b, exporter.Options{}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	root := filepath.Join(dir, "messages")
	sum, err := exporter.Journal(t.Context(), conn, s, root, exporter.Options{})
	if err != nil || sum.File != root || sum.Queues != int64(len(sizes)) || sum.Messages != 1243 {
		t.Errorf("%+v, %v", sum, err)
	}
	tree, err := journal.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	o := journal.Options{OnProblem: func(p journal.Problem) error { return errors.New(p.String()) }}
	byQueue := map[string]string{}
	for q, err := range tree.Queues(t.Context(), o) {
		if err != nil {
			t.Fatal(err)
		}
		var lines []byte
		n := 0
		for m, err := range q.Messages(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			lines = msglog.Append(lines, q.ID, m)
			n++
		}
		byQueue[q.ID.String()] = string(lines)
		if q.CanWrite != (n != 129) {
			t.Errorf("queue with %d messages: can write: %v", n, q.CanWrite)
		}
		files, err := filepath.Glob(filepath.Join(root, journal.Folder(q.ID), "messages.*.log"))
		if want := min(1+n/257, 2); err != nil || len(files) != want {
			t.Errorf("%d messages are in %d files, %v", n, len(files), err)
		}
	}
	for line := range strings.Lines(b.String()) {
		id := strings.Fields(line)[1]
		rest, ok := strings.CutPrefix(byQueue[id], line)
		if !ok {
			t.Fatalf("queue %s: not in the journal, or not in order: %s", id, line)
		}
		byQueue[id] = rest
	}
	for id, rest := range byQueue {
		if rest != "" {
			t.Errorf("queue %s has more messages: %s", id, rest)
		}
	}
	if _, err := exporter.Journal(t.Context(), conn, s, root, exporter.Options{Force: true}); !errors.Is(err, exporter.ErrExists) {
		t.Errorf("a journal is there: %v", err)
	}
	if _, err := exporter.Journal(t.Context(), conn, s, filepath.Join(dir, "no/messages"), exporter.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	if got := folder(t, dir); !slices.Equal(got, []string{"messages"}) {
		t.Errorf("left behind: %q", got)
	}
}

// exports are the exports to files, which must leave nothing behind when they
// fail.
func exports(t testing.TB, conn *pgx.Conn) map[string]func(ctx context.Context, dir string, o exporter.Options) error {
	t.Helper()
	s := openSchema(t, conn)
	return map[string]func(ctx context.Context, dir string, o exporter.Options) error{
		"message log": func(ctx context.Context, dir string, o exporter.Options) error {
			_, err := exporter.MessageLogFile(ctx, conn, s, filepath.Join(dir, "messages.log"), o)
			return err
		},
		"journal": func(ctx context.Context, dir string, o exporter.Options) error {
			_, err := exporter.Journal(ctx, conn, s, filepath.Join(dir, "messages"), o)
			return err
		},
		"all": func(ctx context.Context, dir string, o exporter.Options) error {
			_, err := exporter.All(ctx, conn, s, exporter.Paths{StoreLog: filepath.Join(dir, "store.log"), MessageLog: filepath.Join(dir, "messages.log")}, o)
			return err
		},
		"all with journal": func(ctx context.Context, dir string, o exporter.Options) error {
			_, err := exporter.All(ctx, conn, s, exporter.Paths{StoreLog: filepath.Join(dir, "store.log"), Journal: filepath.Join(dir, "messages")}, o)
			return err
		},
	}
}

// Whatever stops an export, nothing is left of it.
func TestMessageExportsStopped(t *testing.T) {
	conn, _ := load(t, dumptest.Root+"/memory-1-raw")
	dsn := conn.Config().ConnString()
	insert(t, conn, 0, 20_000, 0, false)
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	for name := range exports(t, conn) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			export := exports(t, pgtest.Conn(t, dsn))[name]
			n := 0
			p := progress{add: func() {
				if n++; n == 10_000 {
					cancel()
				}
			}}
			if err := export(ctx, dir, exporter.Options{Progress: p}); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
			if got := folder(t, dir); len(got) > 0 {
				t.Errorf("cancelled: left behind %q", got)
			}
			// A file that is longer than allowed is like a full disk.
			export = exports(t, pgtest.Conn(t, dsn))[name]
			var limit unix.Rlimit
			must(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &limit))
			must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 18, Max: limit.Max}))
			err := export(t.Context(), dir, exporter.Options{})
			must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &limit))
			if !errors.Is(err, syscall.EFBIG) {
				t.Errorf("full disk: %v", err)
			}
			if got := folder(t, dir); len(got) > 0 {
				t.Errorf("full disk: left behind %q", got)
			}
		})
	}
}

// Queues and messages are exported together, as smp-server exports them, and
// nothing if one of the two is in the way.
func TestAll(t *testing.T) {
	conn, s := load(t, liveDump)
	dir := t.TempDir()
	p := exporter.Paths{StoreLog: filepath.Join(dir, "store.log"), MessageLog: filepath.Join(dir, "messages.log")}
	writeFile(t, p.MessageLog, "old")
	if _, err := exporter.All(t.Context(), conn, s, p, exporter.Options{}); !errors.Is(err, exporter.ErrExists) {
		t.Errorf("a message log is there: %v", err)
	}
	if got := folder(t, dir); !slices.Equal(got, []string{"messages.log"}) {
		t.Errorf("left behind: %q", got)
	}
	sum, err := exporter.All(t.Context(), conn, s, p, exporter.Options{Force: true, WithDeleted: true})
	if err != nil || !sum.Messages.Replaced || sum.StoreLog.Replaced || sum.StoreLog.File != p.StoreLog || sum.Messages.File != p.MessageLog {
		t.Errorf("%+v, %v", sum, err)
	}
	for name, want := range map[string]string{p.StoreLog: "exported-store.log", p.MessageLog: "exported-messages.log"} {
		if got := readFile(t, name); !bytes.Equal(got, readFile(t, filepath.Join(liveDump, want))) {
			t.Errorf("%s is not %s", name, want)
		}
	}
	p.Journal = filepath.Join(dir, "messages")
	if sum, err := exporter.All(t.Context(), conn, s, p, exporter.Options{Force: true}); err != nil || sum.Messages.File != p.Journal || sum.Messages.Messages != 399 {
		t.Errorf("%+v, %v", sum, err)
	}
	p.StoreLog = filepath.Join(dir, "other.log")
	if _, err := exporter.All(t.Context(), conn, s, p, exporter.Options{}); !errors.Is(err, exporter.ErrExists) {
		t.Errorf("a journal is there: %v", err)
	}
	if got := folder(t, dir); !slices.Equal(got, []string{"messages", "messages.log", "store.log"}) {
		t.Errorf("left behind: %q", got)
	}
}
