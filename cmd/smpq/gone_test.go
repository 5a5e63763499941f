package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/smpq/smpq/internal/pglocal"
	"github.com/smpq/smpq/internal/pgtest"
)

// A tap is a way to a database on which something happens at a certain moment:
// when the program first sends a text.
type tap struct {
	dsn     string
	text    []byte
	trigger func()    // what happens
	then    afterText // what becomes of the text, and of the connection
	once    sync.Once
}

type afterText int

const (
	goOn       afterText = iota // the server gets it
	swallow                     // the server does not get it, and so does not answer
	cut                         // the connection breaks before the server gets it
	loseAnswer                  // the connection breaks when the server has answered it
)

// errCut ends a relay.
var errCut = errors.New("cut")

// newTap returns a tap on the database of dsn. The trigger may be nil.
func newTap(t testing.TB, dsn, text string, then afterText, trigger func()) *tap {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	must(t, err)
	network, address := pgconn.NetworkAddress(config.Host, config.Port)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	host, port, err := net.SplitHostPort(listener.Addr().String())
	must(t, err)
	p := &tap{
		dsn:  fmt.Sprintf("host=%s port=%s user=%s dbname=%s sslmode=disable", host, port, config.User, config.Database),
		text: []byte(text), then: then, trigger: trigger,
	}
	var relays sync.WaitGroup
	relays.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // closed
			}
			relays.Go(func() { p.relay(client, network, address) })
		}
	})
	t.Cleanup(func() {
		must(t, listener.Close())
		relays.Wait()
	})
	return p
}

// relay relays one connection until one of its ends has gone.
func (p *tap) relay(client net.Conn, network, address string) {
	defer client.Close()
	server, err := net.Dial(network, address)
	if err != nil {
		return
	}
	defer server.Close()
	var lose atomic.Bool
	answers := make(chan struct{})
	go func() {
		defer close(answers)
		defer client.Close()
		eachChunk(server, func(chunk []byte) error {
			if lose.Load() {
				return errCut
			}
			_, err := client.Write(chunk)
			return err
		})
	}()
	eachChunk(client, func(chunk []byte) error {
		now := false
		if bytes.Contains(chunk, p.text) {
			p.once.Do(func() { now = true })
		}
		if now {
			if p.trigger != nil {
				p.trigger()
			}
			switch p.then {
			case swallow:
				return nil
			case cut:
				return errCut
			case loseAnswer:
				lose.Store(true)
			case goOn:
			}
		}
		_, err := server.Write(chunk)
		return err
	})
	_ = client.Close()
	if !lose.Load() {
		_ = server.Close() // otherwise it has to answer first
	}
	<-answers
}

// eachChunk calls a function with all that comes, until one of them fails.
func eachChunk(from net.Conn, do func(chunk []byte) error) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && do(buf[:n]) != nil || err != nil {
			return
		}
	}
}

// realLog returns the name of a log of smp-server, with 19 queues.
func realLog(t testing.TB, kind string) string {
	t.Helper()
	name, err := filepath.Abs(filepath.Join("..", "..", "testdata", "smp-server-6.5.5", "1-storelog", kind, "1-raw.log"))
	must(t, err)
	return name
}

// An operation is a command that works on a database for some time.
type operation struct {
	name    string
	prepare string   // SQL, on a schema into which the log was imported; empty: there is none
	args    string   // the command
	points  []string // what it sends to the server, in this order
	state   string   // a query
	before  string   // what it returns before, and if the command was stopped
	after   string   // and what when it is done
}

// commitSQL is a whole statement. The word is in functions too.
const commitSQL = "commit\x00"

const schemaThere = "select count(*) from pg_namespace where nspname = 'smp_server'"

func operations(t testing.TB) []operation {
	t.Helper()
	return []operation{
		{
			name: "import", args: "import storelog " + realLog(t, "memory"),
			points: []string{`copy "`, "CREATE UNIQUE INDEX msg_queues_pkey", "analyze ", "sha256(record_send", commitSQL},
			state:  schemaThere, before: "0", after: "1",
		},
		{
			name: "merge", prepare: "select 1", args: "import storelog --into-existing " + realLog(t, "journal"),
			points: []string{"copy ", "insert into", commitSQL},
			state:  "select count(*) from smp_server.msg_queues", before: "19", after: "38",
		},
		{
			name: "compaction", prepare: "set search_path = smp_server; update msg_queues set deleted_at = 0 where sender_key is null", args: "compact",
			points: []string{"declare smpq_purge", "fetch", "delete from", commitSQL},
			state:  "select count(*) from smp_server.msg_queues", before: "19", after: "6",
		},
		{
			name: "migration down", prepare: "select 1", args: "migrate down --yes",
			points: []string{"pg_try_advisory_lock", "drop trigger", commitSQL},
			state:  "select count(*) from smp_server.migrations", before: "6", after: "5",
		},
		{
			name: "migration up", args: "migrate up",
			points: []string{"create table", commitSQL},
			state:  schemaThere, before: "0", after: "1",
		},
		{
			name: "export", prepare: "select 1", args: "export storelog exported.log",
			points: []string{"repeatable read", "select count(*)", "select service_id", "select recipient_id"},
			state:  "select count(*) from smp_server.msg_queues", before: "19", after: "19",
		},
		{
			name: "counting", prepare: "select 1", args: "inspect counts",
			points: []string{"count(*)"},
			state:  "select count(*) from smp_server.msg_queues", before: "19", after: "19",
		},
	}
}

// A site is where operations are stopped: a database, and a folder.
type site struct {
	dsn   string
	conn  *pgx.Conn
	admin *pgx.Conn // in another database
	dir   string
}

func newSite(t testing.TB) *site {
	t.Helper()
	dsn := pgtest.DSN(t)
	return &site{dsn: dsn, conn: pgtest.Conn(t, dsn), admin: pgtest.Conn(t, pgtest.DSN(t)), dir: t.TempDir()}
}

// command returns the command of an operation, by way of a tap.
func (s *site) command(t testing.TB, op operation, dsn string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "smpq", append(strings.Fields(op.args), "--dsn", dsn)...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "TMPDIR="+s.dir)
	return cmd
}

// reset makes the state from which an operation starts.
func (s *site) reset(t testing.TB, op operation) {
	t.Helper()
	pgtest.Exec(t, s.conn, "set client_min_messages = error; drop schema if exists smp_server cascade")
	if op.prepare != "" {
		smpq(t, "import", "storelog", realLog(t, "memory"), "--dsn", s.dsn).expect(t, 0)
		pgtest.Exec(t, s.conn, op.prepare)
	}
	must(t, os.RemoveAll(filepath.Join(s.dir, "exported.log")))
}

// check checks that nothing has become of an operation that was stopped, and
// that it can be done then.
func (s *site) check(t testing.TB, op operation, want string) {
	t.Helper()
	waitForOthers(t, s.conn)
	s.expectState(t, op, want)
	if files, err := os.ReadDir(s.dir); err != nil || len(files) > 0 {
		t.Errorf("the folder has %v, %v", files, err)
	}
	finish(t, s.command(t, op, s.dsn)).expect(t, 0)
	s.expectState(t, op, op.after)
}

func (s *site) expectState(t testing.TB, op operation, want string) {
	t.Helper()
	var got string
	must(t, s.conn.QueryRow(t.Context(), op.state, pgx.QueryExecModeSimpleProtocol).Scan(&got))
	if got != want {
		t.Errorf("%s: %s, want %s", op.state, got, want)
	}
}

// When the server goes, at whatever moment, the command says so, ends with the
// status for it, and nothing was done, or all; the next one works.
func TestServerGone(t *testing.T) {
	for _, op := range operations(t) {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			for _, point := range op.points {
				t.Run("cut at "+point, func(t *testing.T) {
					s.reset(t, op)
					finish(t, s.command(t, op, newTap(t, s.dsn, point, cut, nil).dsn)).expect(t, 5, "smpq: ", goneHint)
					s.check(t, op, op.before)
				})
			}
			t.Run("terminated", func(t *testing.T) { s.terminated(t, op) })
			if op.points[len(op.points)-1] == commitSQL {
				t.Run("done unawares", func(t *testing.T) { s.doneUnawares(t, op) })
			}
		})
	}
}

const goneHint = "\nThe database server has ended the connection or is gone; its log may say why.\n"

// terminated has an administrator end the session.
func (s *site) terminated(t *testing.T, op operation) {
	t.Helper()
	s.reset(t, op)
	terminate := func() {
		query := "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = $1 and application_name like 'smpq %'"
		// The tap waits for it, but not the program, and so not the test.
		if _, err := s.admin.Exec(context.WithoutCancel(t.Context()), query, s.conn.Config().Database); err != nil {
			t.Error(err)
		}
	}
	point := op.points[len(op.points)/2]
	r := finish(t, s.command(t, op, newTap(t, s.dsn, point, goOn, terminate).dsn))
	r.expect(t, 5, "terminating connection due to administrator command (SQLSTATE 57P01)", goneHint)
	s.check(t, op, op.before)
}

// doneUnawares loses the answer to the commit: it was done, and the command cannot
// know. Done once more, nothing is wrong.
func (s *site) doneUnawares(t *testing.T, op operation) {
	t.Helper()
	s.reset(t, op)
	r := finish(t, s.command(t, op, newTap(t, s.dsn, commitSQL, loseAnswer, nil).dsn))
	r.expect(t, 5, "smpq: ", goneHint)
	if strings.HasPrefix(op.args, "import") {
		r.expect(t, 5, "all or nothing was imported, and importing it again will tell")
	}
	if op.name == "migration down" {
		return // which would go down one more
	}
	s.check(t, op, op.after)
}

// An interrupt stops a command wherever it waits for the server, and leaves
// nothing of it; the next one works.
func TestInterrupted(t *testing.T) {
	notIgnored(t)
	for _, op := range operations(t) {
		if op.name == "compaction" {
			op.points = op.points[:1] // a batch is not interrupted; see the script compact
		}
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			for _, point := range op.points {
				t.Run("at "+point, func(t *testing.T) { s.interrupted(t, op, point) })
			}
		})
	}
}

// interrupted interrupts an operation while it waits for an answer.
func (s *site) interrupted(t *testing.T, op operation, point string) {
	t.Helper()
	s.reset(t, op)
	started := make(chan *os.Process, 1)
	interrupt := func() {
		if err := (<-started).Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
	}
	cmd := s.command(t, op, newTap(t, s.dsn, point, swallow, interrupt).dsn)
	start(t, cmd)
	started <- cmd.Process
	r := finish(t, cmd)
	r.expect(t, 130, "smpq: interrupted: ")
	if r.stdout != "" || strings.Count(r.stderr, "\n") != 1 || strings.Contains(r.stderr, "context") || strings.Contains(r.stderr, "closed") {
		t.Errorf("standard output:\n%s\nstandard error:\n%s", r.stdout, r.stderr)
	}
	s.check(t, op, op.before)
}

// notIgnored has programs that this one starts not ignore interrupts, as this one
// may, when it runs in the background.
func notIgnored(t testing.TB) {
	t.Helper()
	if signal.Ignored(os.Interrupt) {
		caught := make(chan os.Signal, 1)
		signal.Notify(caught, os.Interrupt)
		t.Cleanup(func() { signal.Stop(caught) })
	}
}

// A command that is interrupted while it waits for a lock does not go on waiting
// in the server.
func TestInterruptedWaiting(t *testing.T) {
	notIgnored(t)
	s := newSite(t)
	op := operations(t)[1]
	s.reset(t, op)
	pgtest.Exec(t, s.conn, "begin; lock table smp_server.msg_queues in access exclusive mode")
	cmd := s.command(t, op, s.dsn)
	start(t, cmd)
	waitFor(t, s.conn, "select exists (select from pg_stat_activity where application_name like 'smpq import%' and wait_event_type = 'Lock')")
	must(t, cmd.Process.Signal(os.Interrupt))
	finish(t, cmd).expect(t, 130, "smpq: interrupted: ")
	waitForOthers(t, s.conn) // with the lock still held
	pgtest.Exec(t, s.conn, "rollback")
	s.check(t, op, op.before)
}

// An interrupt stops a compaction of a log, which is as it was then.
func TestInterruptedStoreLog(t *testing.T) {
	notIgnored(t)
	log := append(queueLog(1500, 13_000), "SUSPEND AAAAAAAAAAAAAAAAAAAAAAAA00000000\n"...)
	f := newLogFolder(t, log)
	interrupted := false
	for range 10 { // it may be too late
		cmd := exec.CommandContext(t.Context(), "smpq", "compact", "storelog", f.log, "--temp-dir", f.dir)
		start(t, cmd)
		waitForOpen(t, cmd.Process.Pid, f.log)
		must(t, cmd.Process.Signal(os.Interrupt))
		if r := finish(t, cmd); r.status != 0 {
			r.expect(t, 130, "smpq: interrupted: compact store log")
			interrupted = true
			break
		}
		f = newLogFolder(t, log)
	}
	if !interrupted {
		t.Fatal("the compaction was never interrupted")
	}
	f.unchanged(t)
	smpq(t, "compact", "storelog", f.log).expect(t, 0, "result           compacted\n")
}

// waitForOpen waits until a process has opened a file, or has ended.
func waitForOpen(t testing.TB, pid int, name string) {
	t.Helper()
	ticks := time.NewTicker(time.Millisecond)
	defer ticks.Stop()
	for range ticks.C {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil || len(files) == 0 {
			return
		}
		for _, f := range files {
			if to, err := os.Readlink(f); err == nil && to == name {
				return
			}
		}
	}
}

// The private server is killed under an import: the import says that it has
// gone, and the next one starts it again and finds nothing of the first.
func TestPrivateServerKilled(t *testing.T) {
	dir := openTempDir(t)
	fifo := filepath.Join(dir, "log")
	must(t, syscall.Mkfifo(fifo, 0o600))
	cmd := exec.CommandContext(t.Context(), "smpq", "import", "storelog", fifo, "--data", dir)
	start(t, cmd)
	log, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	must(t, err)
	defer log.Close()
	pid, conn := waitForServer(t, dir)
	waitFor(t, conn, "select exists (select from pg_locks where locktype = 'advisory')")
	var backends []int
	must(t, conn.QueryRow(t.Context(), "select array_agg(pid) from pg_stat_activity where application_name like 'smpq %'").Scan(&backends))
	must(t, conn.Close(t.Context()))
	// A busy one would go on without the server, and could end what it has begun.
	for _, pid := range append([]int{pid}, backends...) {
		must(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	content, err := os.ReadFile(realLog(t, "memory"))
	must(t, err)
	_, err = log.Write(content)
	must(t, errors.Join(err, log.Close()))
	finish(t, cmd).expect(t, 5, "smpq: ", goneHint)

	smpq(t, "inspect", "counts", "--data", dir).expect(t, 1, `there is no schema "smp_server"`)
	smpq(t, "import", "storelog", realLog(t, "memory"), "--data", dir).expect(t, 0, "result          imported")
}

// waitForServer waits until a private server is up. It returns its process and a
// connection.
func waitForServer(t testing.TB, dir string) (pid int, conn *pgx.Conn) {
	t.Helper()
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	for {
		s, err := pglocal.Inspect(t.Context(), filepath.Join(dir, "postgres"))
		if err == nil && s.SocketDir != "" {
			conn, err = pgx.Connect(t.Context(), "user=smpq dbname=smpq host="+s.SocketDir)
			if err == nil {
				return s.PID, conn
			}
		}
		<-ticks.C
	}
}

// The private server stops with the last command that uses it, also when that
// ends early; a program on it ends with its own status, and has the last word.
func TestPrivateServerStops(t *testing.T) {
	dir := openTempDir(t)
	run := func(args ...string) result {
		t.Helper()
		return smpq(t, append(args, "--data", dir, "-q")...)
	}
	stopped := func() {
		t.Helper()
		smpq(t, "local", "status", "--data", dir).expect(t, 0, "state    stopped")
	}
	run("import", "storelog", realLog(t, "memory")).expect(t, 0)
	stopped()
	for script, status := range map[string]int{"exit 0": 0, "echo no >&2; exit 7": 7} {
		r := smpq(t, "local", "run", "--data", dir, "--", "sh", "-c", script)
		r.expect(t, status)
		if want := map[bool]string{true: "no\n"}[status != 0]; r.stderr != want {
			t.Errorf("%s: standard error %q, want %q", script, r.stderr, want)
		}
		stopped()
	}
	r, w, err := os.Pipe()
	must(t, errors.Join(err, r.Close()))
	cmd := exec.CommandContext(t.Context(), "smpq", "export", "storelog", "-", "--data", dir)
	cmd.Stdout = w
	must(t, errors.Join(cmd.Start(), w.Close()))
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 141 {
		t.Errorf("a reader that left: %v", err)
	}
	stopped()
}
