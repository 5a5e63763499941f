package pglocal_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/pglocal"
)

// userVariable makes the test binary a process that uses the cluster in the
// folder that it names.
const userVariable = "SMPQ_TEST_USE_CLUSTER"

// binVariable names the folder of the programs for such a process.
const binVariable = "SMPQ_TEST_BIN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(userVariable); dir != "" {
		if err := use(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// use joins the cluster, says so with the server's process on the standard
// output, and leaves it when the standard input ends.
func use(dir string) error {
	ctx := context.Background()
	c, err := pglocal.Start(ctx, pglocal.Options{Dir: dir, BinDir: os.Getenv(binVariable), Settings: fast})
	if err != nil {
		return err
	}
	s, err := pglocal.Inspect(ctx, dir)
	if err != nil {
		return err
	}
	fmt.Println(s.PID)
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return c.Close(ctx)
}

// fast settings save the tests the waiting for the disk.
var fast = map[string]string{"fsync": "off"}

// newDir returns a folder that every user can pass, for a home in it.
func newDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{filepath.Dir(dir), dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// newHome returns the name of a new home, whose server is stopped at the end of
// the test if the test did not.
func newHome(t *testing.T) string {
	t.Helper()
	home := filepath.Join(newDir(t), "home")
	stopAtEnd(t, home)
	return home
}

func stopAtEnd(t *testing.T, home string) {
	t.Helper()
	t.Cleanup(func() {
		if err := pglocal.Stop(context.Background(), home); err != nil {
			t.Errorf("the test left a server: %v", err)
		}
	})
}

func startOptions(t *testing.T, o pglocal.Options) *pglocal.Cluster {
	t.Helper()
	c, err := pglocal.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return c
}

func start(t *testing.T, home string) *pglocal.Cluster {
	t.Helper()
	return startOptions(t, pglocal.Options{Dir: home, Settings: fast})
}

func leave(t *testing.T, c *pglocal.Cluster) {
	t.Helper()
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func inspect(t *testing.T, home string) pglocal.Status {
	t.Helper()
	s, err := pglocal.Inspect(t.Context(), home)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// running returns the status of a server that must run.
func running(t *testing.T, home string) pglocal.Status {
	t.Helper()
	s := inspect(t, home)
	if s.State != pglocal.Running {
		t.Fatalf("the cluster is %v, want running", s.State)
	}
	return s
}

// stopped checks that there is a cluster without a server.
func stopped(t *testing.T, home string) {
	t.Helper()
	if s := inspect(t, home); s.State != pglocal.Stopped {
		t.Fatalf("the cluster is %v, want stopped", s.State)
	}
}

func execute(t *testing.T, dsn, sql string) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context()) // the statement counts
	if _, err := c.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// query returns the one value that a query has.
func query[T any](t *testing.T, dsn, sql string) T {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context()) // the query counts
	rows, err := c.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// process is another process that uses a cluster.
type process struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stdout *bufio.Reader
	stderr *strings.Builder
}

// startProcess starts a process that joins the cluster.
func startProcess(t *testing.T, home string, change ...func(*exec.Cmd)) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.CommandContext(t.Context(), self), stderr: new(strings.Builder)}
	p.cmd.Env = append(os.Environ(), userVariable+"="+home)
	p.cmd.Stderr = p.stderr
	p.cmd.WaitDelay = time.Minute
	for _, f := range change {
		f(p.cmd)
	}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdout = bufio.NewReader(stdout)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// with makes a process use the programs in a folder.
func with(bin string) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, binVariable+"="+bin) }
}

// joined waits until the process has joined and returns the server's process.
func (p *process) joined(t *testing.T) int {
	t.Helper()
	line, err := p.stdout.ReadString('\n')
	if err != nil {
		t.Fatalf("the other process did not join: %v", errors.Join(err, p.cmd.Wait(), errors.New(p.stderr.String())))
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// leave makes the process leave the cluster and end.
func (p *process) leave(t *testing.T) {
	t.Helper()
	if err := p.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("the other process: %v: %s", err, p.stderr)
	}
}

// killed waits for the end of a process that is killed.
func (p *process) killed(t *testing.T) {
	t.Helper()
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the other process was not killed: %v: %s", err, p.stderr)
	}
}

func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.killed(t)
}

// wrap returns a folder with the machine's programs, of which some are replaced
// by shell scripts. In those, $bin is the folder of the real ones.
func wrap(t *testing.T, scripts map[string]string) string {
	t.Helper()
	bin, machine := newDir(t), realBin(t)
	for _, name := range []string{"initdb", "pg_ctl", "postgres"} {
		script, ok := scripts[name]
		if !ok {
			script = `exec "$bin/` + name + `" "$@"`
		}
		text := fmt.Sprintf("#!/bin/sh\nbin='%s'\n%s\n", machine, script)
		if err := os.WriteFile(filepath.Join(bin, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return bin
}

// realBin returns the folder of the machine's programs.
func realBin(t *testing.T) string {
	t.Helper()
	server, err := exec.LookPath("postgres")
	if err != nil {
		found, globErr := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
		if globErr != nil || len(found) == 0 {
			t.Fatal("no PostgreSQL on this machine")
		}
		server = found[len(found)-1]
	}
	if server, err = filepath.EvalSymlinks(server); err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(server)
}

// A halt is a point where a script stands still.
type halt struct{ dir string }

func newHalt(t *testing.T) halt {
	t.Helper()
	h := halt{newDir(t)}
	for _, name := range []string{"here", "on"} {
		path := filepath.Join(h.dir, name)
		if err := errors.Join(syscall.Mkfifo(path, 0o666), os.Chmod(path, 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// in defines the command "halt" for scripts.
func (h halt) in(scripts map[string]string) map[string]string {
	defined := make(map[string]string, len(scripts))
	for name, script := range scripts {
		defined[name] = fmt.Sprintf("halt() { echo >'%[1]s/here'; read -r _ <'%[1]s/on'; exit 1; }\n%[2]s", h.dir, script)
	}
	return defined
}

// wait waits until a script is at the point, where it stays until the end of
// the test.
func (h halt) wait(t *testing.T) {
	t.Helper()
	open := func(name string) *os.File {
		// Open for both, a fifo waits for nobody at its other end.
		f, err := os.OpenFile(filepath.Join(h.dir, name), os.O_RDWR|syscall.O_NONBLOCK, 0)
		if err != nil {
			t.Error(err)
			return nil
		}
		return f
	}
	here, on := open("here"), open("on")
	if here == nil || on == nil {
		return
	}
	t.Cleanup(func() {
		if _, err := on.WriteString("\n"); err != nil {
			t.Error(err)
		}
		if err := on.Close(); err != nil {
			t.Error(err)
		}
	})
	defer here.Close() // only read
	if err := here.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Error(err)
	}
	if _, err := here.Read(make([]byte, 1)); err != nil {
		t.Errorf("no script halts: %v", err)
	}
}

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}
