package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/smpq/smpq/internal/pglocal"
	"github.com/smpq/smpq/internal/pgtest"
)

// A line of 100 MB is refused by its place, in little memory, and can be left
// out.
func TestLongLine(t *testing.T) {
	const length = 100 << 20
	dir := t.TempDir()
	log := filepath.Join(dir, "store.log")
	f, err := os.Create(log)
	must(t, err)
	good, err := os.ReadFile("../../testdata/smp-server-6.5.5/2-import/variants/00-base/input.log")
	must(t, err)
	_, err = f.Write(append(good, "CREATE rid="...))
	must(t, err)
	_, err = f.Seek(length, io.SeekCurrent) // a hole, which reads as zeros
	must(t, err)
	_, err = io.WriteString(f, "\nSUSPEND lCyXokdml55WEnjFH9KOy00Qxn8q0Kxj\n")
	must(t, errors.Join(err, f.Close()))

	dsn := pgtest.DSN(t)
	problem := fmt.Sprintf("line 5: line of %d bytes: no record has 1048576 or more (only its start is kept)", length+len("CREATE rid="))
	rejects := filepath.Join(dir, "rejects")
	for _, tc := range []struct {
		args   []string
		status int
		texts  []string
	}{
		{[]string{"import", "storelog", log, "--dsn", dsn}, 1, []string{"smpq: " + log + ": " + problem}},
		{[]string{"compact", "storelog", log}, 1, []string{"smpq: compact store log: " + log + ": " + problem}},
		{[]string{"inspect", "log", log}, 3, []string{"malformed                   1, rejected", "queues                      2\n"}},
		{[]string{"import", "storelog", log, "--dsn", dsn, "--max-rejects", "1", "--rejects", rejects}, 3, []string{"queues added    2\n"}},
	} {
		r := smpq(t, tc.args...)
		r.expect(t, tc.status, tc.texts...)
		if r.memory > 300<<20 {
			t.Errorf("%v: %d MiB of memory", tc.args, r.memory>>20)
		}
	}
	left, err := os.ReadFile(rejects)
	must(t, err)
	if want := "# " + problem + "\nCREATE rid=\x00"; !strings.HasPrefix(string(left), want) || len(left) > 4096 {
		t.Errorf("rejects of %d bytes: %.200q", len(left), left)
	}
}

// limited returns a command whose files, and those of what it starts, cannot
// grow beyond a number of KiB: for the program the disk is full.
func limited(t testing.TB, kib int, args ...string) *exec.Cmd {
	t.Helper()
	script := fmt.Sprintf(`ulimit -f %d && exec smpq "$@"`, 2*kib)
	return exec.CommandContext(t.Context(), "sh", append([]string{"-c", script, "sh"}, args...)...)
}

// Wherever there is no more room, the command says which file it was, and leaves
// nothing of it.
func TestFullDisk(t *testing.T) {
	f := newLogFolder(t, largeLog())
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	dsn := pgtest.DSN(t)
	conn := pgtest.Conn(t, dsn)
	sortFile := "write a temporary file for sorting in " + temp + ": write " + temp + "/smpq-sort-"
	const tooLarge = ": file too large"
	for _, tc := range []struct {
		what  string
		args  []string
		texts []string
	}{
		{"import", []string{"import", "storelog", f.log, "--dsn", dsn}, []string{"smpq: " + f.log + ": " + sortFile, tooLarge}},
		{"inspection", []string{"inspect", "log", f.log}, []string{sortFile, tooLarge}},
		{"compaction, sorting", []string{"compact", "storelog", f.log}, []string{sortFile, tooLarge}},
	} {
		t.Run(tc.what, func(t *testing.T) {
			finish(t, limited(t, 1024, tc.args...)).expect(t, 1, tc.texts...)
			f.unchanged(t)
			noSchema(t, conn)
		})
	}
	if left, _ := filepath.Glob(filepath.Join(temp, "*")); len(left) > 0 {
		t.Errorf("left behind %s", strings.Join(left, ", "))
	}

	little := newLogFolder(t, queueLog(4000, 15))
	t.Run("compaction, writing", func(t *testing.T) {
		r := finish(t, limited(t, 512, "compact", "storelog", little.log))
		r.expect(t, 1, "smpq: compact store log: write the new log: write "+little.log+".smpq-tmp"+tooLarge)
		little.unchanged(t)
	})
	smpq(t, "import", "storelog", little.log, "--dsn", dsn).expect(t, 0)
	t.Run("export", func(t *testing.T) {
		name := filepath.Join(little.dir, "exported.log")
		r := finish(t, limited(t, 512, "export", "storelog", name, "--dsn", dsn))
		r.expect(t, 1, "smpq: export to "+name+": write store log: write "+name+".smpq-tmp"+tooLarge)
		little.unchanged(t)
	})
	t.Run("standard output", func(t *testing.T) {
		for _, args := range []string{"export storelog -", "inspect counts", "inspect schema -o csv", "compact --dry-run", "migrate status -o yaml"} {
			cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-c", `exec smpq "$@" > /dev/full`, "sh", "--dsn", dsn}, strings.Fields(args)...)...)
			r := finish(t, cmd)
			r.expect(t, 1, "write /dev/stdout: no space left on device")
			if n := strings.Count(r.stderr, "\n"); n != 1 {
				t.Errorf("%s: %d lines", args, n)
			}
		}
	})
	t.Run("rejects", func(t *testing.T) {
		bad := filepath.Join(t.TempDir(), "bad.log")
		must(t, os.WriteFile(bad, []byte(strings.Repeat("nonsense "+strings.Repeat("x", 1000)+"\n", 2000)), 0o600))
		for _, args := range [][]string{{"import", "storelog", bad, "--dsn", dsn, "--schema", "rejects"}, {"compact", "storelog", bad}} {
			r := finish(t, limited(t, 256, append(args, "--max-rejects", "-1", "--rejects", bad+".rejects")...))
			r.expect(t, 1, "write rejected records: write "+bad+".rejects.smpq-tmp"+tooLarge)
			if left, _ := filepath.Glob(bad + ".*"); len(left) > 0 {
				t.Errorf("left behind %s", strings.Join(left, ", "))
			}
		}
		if n := len(schemas(t, conn)); n != 1 {
			t.Errorf("%d schemas", n)
		}
	})
}

// The disk of the database is full: its own words are shown, and nothing stays.
func TestFullDatabase(t *testing.T) {
	f := newLogFolder(t, queueLog(2000, 13_000))
	dir := openTempDir(t)
	// The limit must leave room for a segment of the write-ahead log, 16 MiB.
	stop := serve(t, limited(t, 20<<10, "local", "run", "--data", dir, "--", "sh", "-c", "echo up; cat"))
	r := smpq(t, "import", "storelog", f.log, "--data", dir)
	r.expect(t, 1, "smpq: copy queues: ERROR: could not extend file ", "The database server's hint: Check free disk space.")
	smpq(t, "inspect", "counts", "--data", dir).expect(t, 1, `there is no schema "smp_server"`)
	f.unchanged(t)
	stop()
	smpq(t, "import", "storelog", f.log, "--data", dir).expect(t, 0, "result          imported")
}

// openTempDir returns a temporary folder that other users can enter: root's
// private server does not run as root.
func openTempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "smpq-test-") //nolint:usetesting // that of the test is for its own user only
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

// serve starts a command that starts a server, says so in a line, and ends at the
// end of its input.
func serve(t testing.TB, cmd *exec.Cmd) (stop func()) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = t.Output()
	must(t, cmd.Start())
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatalf("%q, %v: %v", line, err, cmd.Wait())
	}
	return func() { must(t, errors.Join(stdin.Close(), cmd.Wait())) }
}

// What an operator may not read or write is named, and nothing else happens.
func TestNoPermission(t *testing.T) {
	dir := openTempDir(t)
	own, others := filepath.Join(dir, "own"), filepath.Join(dir, "others")
	for _, name := range []string{own, others} {
		must(t, os.Mkdir(name, 0o755))
	}
	copyFile(t, realLog(t, "memory"), filepath.Join(own, "good.log"), 0o644)
	copyFile(t, realLog(t, "memory"), filepath.Join(others, "readable.log"), 0o644)
	copyFile(t, realLog(t, "memory"), filepath.Join(others, "secret.log"), 0o000)
	copyFile(t, newLogFolder(t, largeLog()).log, filepath.Join(others, "large.log"), 0o644)
	must(t, os.Chmod(others, 0o555))
	defer func() { must(t, os.Chmod(others, 0o755)) }()
	before := (&logFolder{dir: own}).files(t)

	user := newUser(t, dir)
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"import", "storelog", "others/secret.log"}, "open store log: open others/secret.log: permission denied"},
		{[]string{"inspect", "log", "others/secret.log"}, "open store log: open others/secret.log: permission denied"},
		{[]string{"compact", "storelog", "others/secret.log"}, "compact store log: open store log: open others/secret.log: permission denied"},
		{[]string{"compact", "storelog", "others/readable.log"}, "compact store log: open others/readable.log.smpq-tmp: permission denied"},
		{[]string{"import", "storelog", "own/good.log", "--rejects", "others/rejects"}, "open the file for rejected records: open others/rejects.smpq-tmp: permission denied"},
		{[]string{"inspect", "counts", "--config", "others/secret.log"}, "read configuration: open others/secret.log: permission denied"},
		{[]string{"docs", "man", "others/man"}, "write man pages: mkdir others/man: permission denied"},
	} {
		r := user.smpq(t, tc.args...)
		r.expect(t, 1)
		if r.stderr != "smpq: "+tc.want+"\n" {
			t.Errorf("%v: got %s, want %s", tc.args, r.stderr, tc.want)
		}
	}

	// On a database of the operator's own.
	stop := serve(t, user.command(t, "local", "run", "--data", "own/data", "--", "sh", "-c", "echo up; cat"))
	defer stop()
	data := []string{"--data", "own/data"}
	user.smpq(t, append(data, "import", "storelog", "others/large.log", "--temp-dir", "others")...).
		expect(t, 1, "smpq: others/large.log: create a temporary file for sorting: open others/smpq-sort-", ": permission denied")
	user.smpq(t, append(data, "inspect", "counts")...).expect(t, 1, `there is no schema "smp_server"`)
	user.smpq(t, append(data, "import", "storelog", "own/good.log")...).expect(t, 0, "result          imported")
	for _, args := range []string{"export storelog others/new.log", "export storelog others/readable.log --force"} {
		user.smpq(t, append(data, strings.Fields(args)...)...).expect(t, 1, "smpq: export to others/", ".smpq-tmp: permission denied")
	}
	// The log comes in, and then cannot be renamed: both are said.
	user.smpq(t, append(data, "import", "storelog", "others/readable.log", "--schema", "second", "--archive")...).
		expect(t, 1, "result          imported", "smpq: others/readable.log was imported, but not renamed: rename others/readable.log others/readable.log.bak: permission denied")

	after := (&logFolder{dir: own}).files(t)
	if len(after) != len(before) || after["good.log"] != before["good.log"] {
		t.Errorf("the own folder has %d files, not %d", len(after), len(before))
	}
	if files, err := os.ReadDir(others); err != nil || len(files) != 3 {
		t.Errorf("the folder of others has %v, %v", files, err)
	}
}

func copyFile(t testing.TB, from, to string, mode os.FileMode) {
	t.Helper()
	content, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, content, mode))
	must(t, os.Chmod(to, mode))
}

// nobody is the number of the user, and the group, that owns nothing.
const nobody = 65534

// A user is somebody who is not root, in a folder.
type user struct {
	dir        string
	program    string
	credential *syscall.Credential // nil: the user of this process
}

// newUser returns the user of this process, or nobody if that is root, with a
// copy of the program that nobody can execute, and the folder own.
func newUser(t testing.TB, dir string) user {
	t.Helper()
	u := user{dir: dir, program: filepath.Join(dir, "smpq")}
	self, err := os.Executable()
	must(t, err)
	copyFile(t, self, u.program, 0o755)
	if os.Geteuid() == 0 {
		u.credential = &syscall.Credential{Uid: nobody, Gid: nobody}
		must(t, os.Chown(filepath.Join(dir, "own"), nobody, nobody))
	}
	return u
}

func (u user) command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), u.program, args...)
	cmd.Dir = u.dir
	cmd.Env = append(os.Environ(), "HOME="+filepath.Join(u.dir, "own"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: u.credential}
	return cmd
}

func (u user) smpq(t testing.TB, args ...string) result {
	t.Helper()
	return finish(t, u.command(t, args...))
}

// A wrong password, or none, is a matter of the database, with a hint.
func TestWrongPassword(t *testing.T) {
	dir := openTempDir(t)
	hba := filepath.Join(dir, "hba.conf")
	must(t, os.WriteFile(hba, []byte("local all guest scram-sha-256\nlocal all all trust\n"), 0o644))
	server, err := pglocal.Start(t.Context(), pglocal.Options{
		Dir:      filepath.Join(dir, "postgres"),
		Settings: map[string]string{"fsync": "off", "hba_file": hba},
	})
	must(t, err)
	defer func() { must(t, server.Close(t.Context())) }()
	conn := pgtest.Conn(t, server.DSN(""))
	pgtest.Exec(t, conn, "create role guest login password 'hunter2'; grant create on database smpq to guest")
	log := filepath.Join("..", "..", "testdata", "smp-server-6.5.5", "1-storelog", "memory", "1-raw.log")
	dsn := fmt.Sprintf("host=%s user=guest dbname=smpq", conn.Config().Host)
	const hint = "\nA password can be given with --password, PGPASSWORD or ~/.pgpass.\n"
	for _, args := range []string{"import storelog " + log, "export storelog exported.log", "inspect counts", "compact", "migrate up", "migrate status"} {
		args := strings.Fields(args)
		r := smpq(t, append(args, "--dsn", dsn+" password=hunter3")...)
		r.expect(t, 5, `smpq: database "smpq" on `, ` as "guest" (--dsn): connect: FATAL: password authentication failed for user "guest" (SQLSTATE 28P01)`, hint)
		if strings.Contains(r.stderr, "hunter") || strings.Count(r.stderr, "\n") != 2 {
			t.Errorf("%v: %s", args, r.stderr)
		}
		r = smpq(t, append(args, "--dsn", dsn)...)
		r.expect(t, 5, `as "guest" (--dsn): connect: `, hint)
	}
	config := filepath.Join(dir, configName)
	smpq(t, "init", "--host", "localhost", "--config", config, "--yes").expect(t, 0)
	for _, check := range []string{"--check", "--check=false"} {
		r := smpq(t, "serve", check, "--config", config, "--set", "TRANSPORT.port=0", "--dsn", dsn+" password=hunter3")
		r.expect(t, 5, `as "guest" (--dsn): connect: FATAL: password authentication failed`, hint)
		if strings.Contains(r.stderr, "hunter") {
			t.Errorf("serve %s: %s", check, r.stderr)
		}
	}
	t.Setenv("PGPASSWORD", "hunter2")
	smpq(t, "import", "storelog", log, "--dsn", dsn).expect(t, 0, "result          imported")
}

// A machine without the server's programs: one error that says what to install.
// That none are found at all is a matter of package pglocal; here the cluster
// needs others than there are.
func TestNoServerPrograms(t *testing.T) {
	data := filepath.Join(openTempDir(t), "postgres", "data")
	must(t, os.MkdirAll(data, 0o700))
	must(t, os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("99\n"), 0o600))
	if os.Geteuid() == 0 {
		must(t, os.Chown(data, nobody, nobody))
	}
	r := smpq(t, "inspect", "counts", "--data", filepath.Dir(filepath.Dir(data)))
	r.expect(t, 5, "PostgreSQL's server programs are not installed: needed is release 99, which made the cluster; found ", "install it with `apt install postgresql-99` (Debian, Ubuntu)")
	if strings.Count(r.stderr, "\n") != 1 {
		t.Errorf("standard error:\n%s", r.stderr)
	}
}
