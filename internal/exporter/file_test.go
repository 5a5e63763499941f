package exporter_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/smpq/smpq/internal/dumptest"
	"github.com/smpq/smpq/internal/exporter"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/store"
)

const temp = "store.log.smpq-tmp"

func TestStoreLogFile(t *testing.T) {
	conn, s := load(t, liveDump)
	dir := t.TempDir()
	name := filepath.Join(dir, "store.log")
	want := string(readFile(t, liveDump+"/exported-store.log"))
	check := func(what string, sum exporter.Summary, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got := string(readFile(t, name)); got != want {
			t.Errorf("%s:\n%s", what, cmp.Diff(want, got))
		}
		info, err := os.Stat(name)
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: mode %v, %v", what, info.Mode(), err)
		}
		if sum.File != name || sum.Queues != 29 || sum.Services != 2 || sum.Bytes != int64(len(want)) {
			t.Errorf("%s: summary %+v", what, sum)
		}
	}
	sum, err := exporter.StoreLogFile(t.Context(), conn, s, name, exporter.Options{})
	check("new file", sum, err)

	_, err = exporter.StoreLogFile(t.Context(), conn, s, name, exporter.Options{})
	if !errors.Is(err, exporter.ErrExists) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "--force") {
		t.Errorf("export over a file: %v", err)
	}
	writeFile(t, name, "the old one")
	sum, err = exporter.StoreLogFile(t.Context(), conn, s, name, exporter.Options{Force: true})
	check("replaced file", sum, err)
	if !sum.Replaced {
		t.Errorf("summary: %+v", sum)
	}
	if got := folder(t, dir); !slices.Equal(got, []string{"store.log"}) {
		t.Errorf("the folder has %v", got)
	}
}

func writeFile(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Whatever stops an export, it says which file and why, and leaves the folder as
// it was.
func TestStoreLogFileRefused(t *testing.T) {
	conn, s := load(t, dumptest.Root+"/variants/00-base")
	for _, tc := range []struct {
		what    string
		prepare func(t *testing.T, dir string)
		name    string
		force   bool
		want    string
		is      error
	}{
		{what: "no folder", name: "no/store.log", want: "no such file or directory", is: fs.ErrNotExist},
		{what: "empty name", name: "", want: "the name of the file is empty"},
		{what: "a folder", name: ".", want: "it is a folder"},
		{what: "a folder, forced", name: ".", force: true, want: "it is a folder"},
		{
			what: "a pipe", name: "pipe", force: true, want: "not a regular file",
			prepare: func(t *testing.T, dir string) { must(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600)) },
		},
		{
			what: "a link to nowhere", name: "link", want: "file exists", is: exporter.ErrExists,
			prepare: func(t *testing.T, dir string) { must(t, os.Symlink("nowhere", filepath.Join(dir, "link"))) },
		},
		{
			what: "a compaction that smp-server did not finish", name: "store.log", want: "store.log.start", is: exporter.ErrExists,
			prepare: func(t *testing.T, dir string) { writeFile(t, filepath.Join(dir, "store.log.start"), "") },
		},
		{
			what: "a folder in the place of the temporary file", name: "store.log", want: "store.log.smpq-tmp is in the way",
			prepare: func(t *testing.T, dir string) { must(t, os.Mkdir(filepath.Join(dir, temp), 0o700)) },
		},
		{
			what: "a link in the place of the temporary file", name: "store.log", want: "in the way",
			prepare: func(t *testing.T, dir string) { must(t, os.Symlink("precious", filepath.Join(dir, temp))) },
		},
		{
			what: "a pipe in the place of the temporary file", name: "store.log", want: "in the way",
			prepare: func(t *testing.T, dir string) { must(t, unix.Mkfifo(filepath.Join(dir, temp), 0o600)) },
		},
	} {
		t.Run(tc.what, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, "precious"), "precious")
			if tc.prepare != nil {
				tc.prepare(t, dir)
			}
			before := folder(t, dir)
			t.Chdir(dir)
			_, err := exporter.StoreLogFile(t.Context(), conn, s, tc.name, exporter.Options{Force: tc.force})
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.HasPrefix(err.Error(), "export to "+tc.name+": ") {
				t.Errorf("error: %v, want %q", err, tc.want)
			}
			if tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("error %v is not %v", err, tc.is)
			}
			if after := folder(t, dir); !slices.Equal(before, after) {
				t.Errorf("the folder had %v, and has %v", before, after)
			}
			if got := string(readFile(t, filepath.Join(dir, "precious"))); got != "precious" {
				t.Errorf("another file has become %q", got)
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A folder that cannot be written to is refused before anything is read.
func TestStoreLogFileNoPermission(t *testing.T) {
	conn, s := load(t, dumptest.Root+"/variants/00-base")
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o500))
	if os.Geteuid() == 0 {
		// To this thread alone, files look as to nobody.
		must(t, os.Chown(dir, 65534, 65534))
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		must(t, unix.Setfsuid(65534))
		defer func() { must(t, unix.Setfsuid(0)) }()
	}
	_, err := exporter.StoreLogFile(t.Context(), conn, s, filepath.Join(dir, "store.log"), exporter.Options{})
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("error: %v", err)
	}
}

// A file that is longer than allowed is like a full disk.
func TestStoreLogFileWriteFails(t *testing.T) {
	conn, s := load(t, dumptest.Root+"/variants/00-base")
	fill(t, conn, 300)
	dir := t.TempDir()
	name := filepath.Join(dir, "store.log")
	writeFile(t, name, "the old one")

	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &limit))
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 20, Max: limit.Max}))
	_, err := exporter.StoreLogFile(t.Context(), conn, s, name, exporter.Options{Force: true})
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &limit))

	if !errors.Is(err, syscall.EFBIG) || !strings.Contains(err.Error(), temp) {
		t.Errorf("error: %v", err)
	}
	if got := folder(t, dir); !slices.Equal(got, []string{"store.log"}) {
		t.Errorf("the folder has %v", got)
	}
	if got := string(readFile(t, name)); got != "the old one" {
		t.Errorf("the old file has become %.100q", got)
	}
}

func TestStoreLogFileCancelled(t *testing.T) {
	conn, s := load(t, liveDump)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	p := progress{add: func() {
		if n++; n == 5 {
			if got := folder(t, dir); !slices.Equal(got, []string{temp}) {
				t.Errorf("during the export the folder has %v", got)
			}
			cancel()
		}
	}}
	_, err := exporter.StoreLogFile(ctx, conn, s, filepath.Join(dir, "store.log"), exporter.Options{Progress: p})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error: %v", err)
	}
	if got := folder(t, dir); len(got) > 0 {
		t.Errorf("the folder has %v", got)
	}
}

// Of two exports to one file, one works and the other says so.
func TestStoreLogFileBusy(t *testing.T) {
	dsn := pgtest.DSN(t)
	conn, other := pgtest.Conn(t, dsn), pgtest.Conn(t, dsn)
	dumptest.Load(t, conn, schemaName, liveDump)
	s := openSchema(t, conn)
	dir := t.TempDir()
	name := filepath.Join(dir, "store.log")
	tried := false
	p := progress{phase: func() {
		tried = true
		if _, err := exporter.StoreLogFile(t.Context(), other, s, name, exporter.Options{Force: true}); !errors.Is(err, exporter.ErrBusy) {
			t.Errorf("a second export: %v", err)
		}
	}}
	sum, err := exporter.StoreLogFile(t.Context(), conn, s, name, exporter.Options{Progress: p})
	if err != nil || !tried || sum.Removed != "" {
		t.Errorf("%+v, %v", sum, err)
	}
	if got := folder(t, dir); !slices.Equal(got, []string{"store.log"}) {
		t.Errorf("the folder has %v", got)
	}
}

// A file that somebody makes during the export is not replaced.
func TestStoreLogFileMadeMeanwhile(t *testing.T) {
	conn, s := load(t, liveDump)
	dir := t.TempDir()
	name := filepath.Join(dir, "store.log")
	p := progress{phase: func() { writeFile(t, name, "somebody's") }}
	_, err := exporter.StoreLogFile(t.Context(), conn, s, name, exporter.Options{Progress: p})
	if !errors.Is(err, exporter.ErrExists) {
		t.Errorf("error: %v", err)
	}
	if got := folder(t, dir); !slices.Equal(got, []string{"store.log"}) || string(readFile(t, name)) != "somebody's" {
		t.Errorf("the folder has %v, with %.100q", got, readFile(t, name))
	}
}

// With force, what a link leads to is replaced, and keeps its owner.
func TestStoreLogFileForce(t *testing.T) {
	conn, s := load(t, dumptest.Root+"/variants/00-base")
	dir, other := t.TempDir(), t.TempDir()
	target, link := filepath.Join(other, "target.log"), filepath.Join(dir, "store.log")
	writeFile(t, target, "the old one")
	must(t, os.Symlink(target, link))
	writeFile(t, target+".start", "")
	owner := uint32(os.Geteuid())
	if owner == 0 {
		owner = 65534
		must(t, os.Chown(target, int(owner), int(owner)))
	}
	sum, err := exporter.StoreLogFile(t.Context(), conn, s, link, exporter.Options{Force: true})
	if err != nil {
		t.Fatal(err)
	}
	if sum.File != target || !sum.Replaced || sum.Shadow != target+".start" {
		t.Errorf("summary: %+v", sum)
	}
	if to, err := os.Readlink(link); err != nil || to != target {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	info, err := os.Stat(target)
	if err != nil || info.Size() != sum.Bytes || info.Mode() != 0o600 || info.Sys().(*syscall.Stat_t).Uid != owner {
		t.Errorf("the file is %+v, %v", info, err)
	}
}

// The variables that make the test binary an export, and name the database, the
// file, and the number of reports of progress after which it kills itself.
const (
	childDSN     = "SMPQ_TEST_EXPORT_DSN"
	childFile    = "SMPQ_TEST_EXPORT_FILE"
	childReports = "SMPQ_TEST_EXPORT_REPORTS"
)

// exportAsChild exports, in a process of its own.
func exportAsChild(dsn, name, reports string) error {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	s, err := store.OpenSchema(ctx, conn, schemaName)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(reports)
	if err != nil {
		return err
	}
	report := func() {
		if n--; n == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	_, err = exporter.StoreLogFile(ctx, conn, s, name, exporter.Options{
		Force:    strings.HasSuffix(name, ".force"),
		Progress: progress{phase: report, add: report},
	})
	return err
}

// startChild starts an export in a process of its own.
func startChild(t testing.TB, dsn, name string, reports int) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), childDSN+"="+dsn, childFile+"="+name, childReports+"="+strconv.Itoa(reports))
	cmd.Stderr = t.Output()
	must(t, cmd.Start())
	return cmd
}

// An export that is killed leaves the file as it was, or complete. The next one
// works, and removes and names what the first has left.
func TestStoreLogFileKilled(t *testing.T) {
	dsn := pgtest.DSN(t)
	conn := pgtest.Conn(t, dsn)
	dumptest.Load(t, conn, schemaName, liveDump)
	fill(t, conn, 300) // 2.1 MB: nine writes
	lines, sum := export(t, conn)
	for _, base := range []string{"store.log", "store.log.force"} {
		k := killTest{conn: conn, dsn: dsn, base: base, want: strings.Join(lines, "")}
		// At the start, while it writes, and when it has read all.
		for _, reports := range []int{1, 2, 40, 80, 120, 160, 200, 240, 280, 320, int(sum.Queues) + 1} {
			t.Run(fmt.Sprintf("%s after %d reports", base, reports), func(t *testing.T) {
				k.run(t, func(t *testing.T, _, name string) bool {
					must(t, ignoreExit(startChild(t, dsn, name, reports).Wait()))
					return true
				})
				if !k.left {
					t.Error("the killed export left no temporary file")
				}
			})
		}
		// While it gives the file its name, among other moments.
		for events, killed := 1, true; killed; events++ {
			t.Run(fmt.Sprintf("%s after %d events", base, events), func(t *testing.T) {
				killed = k.run(t, func(t *testing.T, dir, name string) bool { return killAfter(t, dir, events, dsn, name) })
			})
			if t.Failed() {
				break
			}
		}
		if !k.complete {
			t.Errorf("%s: the export that was not killed is not complete", base)
		}
	}
}

// ignoreExit drops an error that only says that a process has failed.
func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

// A killTest looks at what killed exports have left.
type killTest struct {
	conn *pgx.Conn
	dsn  string
	base string // name of the file
	want string // the log

	left, complete bool // what the last export has left: a temporary file, the log
}

// run lets an export be killed, checks what it has left, and exports once more.
func (k *killTest) run(t *testing.T, kill func(t *testing.T, dir, name string) bool) (killed bool) {
	dir := t.TempDir()
	name := filepath.Join(dir, k.base)
	const old = "the old one"
	force := strings.HasSuffix(name, ".force")
	if force {
		writeFile(t, name, old)
	}
	killed = kill(t, dir, name)
	got := folder(t, dir)
	k.left = slices.Contains(got, k.base+".smpq-tmp")
	k.complete = slices.Contains(got, k.base) && string(readFile(t, name)) == k.want
	untouched := !force && !slices.Contains(got, k.base) || force && slices.Contains(got, k.base) && string(readFile(t, name)) == old
	if !k.complete && !untouched {
		t.Errorf("the folder has %v, and the file is neither untouched nor complete", got)
	}
	sum, err := exporter.StoreLogFile(t.Context(), k.conn, openSchema(t, k.conn), name, exporter.Options{Force: true})
	if err != nil || k.left != (sum.Removed == name+".smpq-tmp") {
		t.Fatalf("the next export: %+v, %v", sum, err)
	}
	if got := folder(t, dir); !slices.Equal(got, []string{k.base}) || string(readFile(t, name)) != k.want {
		t.Errorf("after the next export the folder has %v", got)
	}
	return killed
}

// killAfter kills an export after so many changes in its folder, and reports
// whether there were as many.
func killAfter(t testing.TB, dir string, events int, dsn, name string) bool {
	t.Helper()
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	must(t, err)
	changes := os.NewFile(uintptr(watch), "inotify")
	defer changes.Close()
	_, err = unix.InotifyAddWatch(watch, dir, unix.IN_CREATE|unix.IN_MODIFY|unix.IN_MOVED_TO|unix.IN_DELETE|unix.IN_CLOSE_WRITE)
	must(t, err)
	cmd := startChild(t, dsn, name, 0)
	for n := 0; n < events; {
		var buf [4096]byte
		size, err := changes.Read(buf[:])
		must(t, err)
		for at := 0; at+unix.SizeofInotifyEvent <= size; n++ {
			mask := binary.NativeEndian.Uint32(buf[at+4:])
			at += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[at+12:]))
			if mask&unix.IN_CLOSE_WRITE != 0 {
				return cmd.Wait() != nil // it is over
			}
		}
	}
	must(t, cmd.Process.Kill())
	return cmd.Wait() != nil
}
