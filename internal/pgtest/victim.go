package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/pglocal"
)

// Folder returns a folder until the end of the test. Unlike the test's own, other
// users can get there: servers do not run as root.
func Folder(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/tmp", "smpq-test-") //nolint:usetesting // see above
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// A Victim is a server of its own, which a test may harm.
type Victim struct {
	dir      string
	settings map[string]string
	cluster  *pglocal.Cluster
}

// NewVictim starts a server in a folder until the end of the test.
func NewVictim(tb testing.TB, dir string, settings map[string]string) *Victim {
	tb.Helper()
	v := &Victim{dir: dir, settings: map[string]string{"fsync": "off"}} // the machine goes on
	maps.Copy(v.settings, settings)
	v.Start(tb)
	tb.Cleanup(func() { v.Stop(tb) })
	return v
}

// Start starts the server again.
func (v *Victim) Start(tb testing.TB) {
	tb.Helper()
	var err error
	if v.cluster, err = pglocal.Start(tb.Context(), pglocal.Options{Dir: v.dir, Settings: v.settings}); err != nil {
		tb.Fatal(err)
	}
}

// Stop stops the server if it runs.
func (v *Victim) Stop(tb testing.TB) {
	tb.Helper()
	if v.cluster == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), timeout)
	defer cancel()
	if err := v.cluster.Close(ctx); err != nil {
		tb.Error(err)
	}
}

// DSN returns the connection string of the server's database, always the same.
func (v *Victim) DSN() string { return v.cluster.DSN("") }

// Kill kills all processes of the server at once: its next start has to mend the data.
func (v *Victim) Kill(tb testing.TB) {
	tb.Helper()
	for i, pid := range v.freeze(tb) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && (i == 0 || !errors.Is(err, syscall.ESRCH)) {
			tb.Fatal(err)
		}
	}
	v.Stop(tb)
}

// LimitFiles lets the files of the server grow no more, until FreeFiles. That of the
// messages of a schema, in which there is a queue, is made the largest; the log of what
// is committed is in files of 16 MiB.
func (v *Victim) LimitFiles(tb testing.TB, schema string) {
	tb.Helper()
	c, err := pgx.Connect(tb.Context(), v.DSN())
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close(tb.Context()) //nolint:errcheck // it has done its work
	table := func(name string) string { return pgx.Identifier{schema, name}.Sanitize() }
	Exec(tb, c, `begin;
		insert into `+table("messages")+` (recipient_id, msg_id, msg_ts, msg_quota, msg_ntf_flag, msg_body)
		select (select recipient_id from `+table("msg_queues")+` limit 1), 'ballast', 0, false, false, decode(repeat('00', 1900), 'hex')
		  from generate_series(1, 10000);
		rollback`)
	var size int64
	if err := c.QueryRow(tb.Context(), "select pg_relation_size($1::text::regclass)", table("messages")).Scan(&size); err != nil {
		tb.Fatal(err)
	}
	v.limit(tb, strconv.FormatInt(size, 10))
}

// FreeFiles undoes LimitFiles.
func (v *Victim) FreeFiles(tb testing.TB) {
	tb.Helper()
	v.limit(tb, "unlimited")
}

// limit sets the size of files for all processes of the server.
func (v *Victim) limit(tb testing.TB, size string) {
	tb.Helper()
	processes := v.freeze(tb)
	defer func() {
		if err := syscall.Kill(processes[0], syscall.SIGCONT); err != nil {
			tb.Error(err)
		}
	}()
	for i, pid := range processes {
		cmd := exec.CommandContext(tb.Context(), "prlimit", "--pid", strconv.Itoa(pid), "--fsize="+size+":") //nolint:gosec // numbers
		if os.Geteuid() == 0 {
			// Even root may have to be who runs the server.
			data, err := os.Stat(filepath.Join(v.dir, "data"))
			if err != nil {
				tb.Fatal(err)
			}
			owner, ok := data.Sys().(*syscall.Stat_t)
			if !ok {
				tb.Fatal("it is not known who runs the server")
			}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
		}
		out, err := cmd.CombinedOutput()
		if err != nil && (i == 0 || syscall.Kill(pid, 0) == nil) { // else it has ended meanwhile
			tb.Fatalf("limit the files of process %d: %v: %s", pid, err, out)
		}
	}
}

// freeze returns the processes of the server, that of the postmaster first. It stops
// that one from starting more until it gets SIGCONT.
func (v *Victim) freeze(tb testing.TB) []int {
	tb.Helper()
	status, err := pglocal.Inspect(tb.Context(), v.dir)
	if err != nil || status.PID == 0 {
		tb.Fatalf("the server does not run: %+v, %v", status, err)
	}
	if err := syscall.Kill(status.PID, syscall.SIGSTOP); err != nil {
		tb.Fatal(err)
	}
	awaitStop(tb, status.PID)
	all := []int{status.PID}
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		tb.Fatal(err)
	}
	for _, file := range files {
		if _, parent := processState(tb, file); parent == strconv.Itoa(status.PID) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				tb.Fatal(err)
			}
			all = append(all, pid)
		}
	}
	return all
}

// awaitStop waits until a process stands still.
func awaitStop(tb testing.TB, pid int) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), timeout)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if state, _ := processState(tb, fmt.Sprintf("/proc/%d/stat", pid)); state == "T" {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			tb.Fatal("the server does not stand still")
		}
	}
}

// processState reads from a file of /proc what a process does and who started it:
// nothing if it has ended.
func processState(tb testing.TB, file string) (state, parent string) {
	tb.Helper()
	stat, err := os.ReadFile(file) //nolint:gosec // as above
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
		tb.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return "", ""
	}
	return fields[0], fields[1]
}
