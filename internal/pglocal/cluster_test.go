package pglocal_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/pglocal"
)

func TestStartAndStop(t *testing.T) {
	home := newHome(t)
	if s := inspect(t, home); s != (pglocal.Status{State: pglocal.NotMade}) {
		t.Errorf("before: %+v, want not made", s)
	}
	// Nothing in the environment may lead elsewhere.
	t.Setenv("PGPORT", "1")
	t.Setenv("PGHOST", "elsewhere.invalid")
	t.Setenv("PGSSLMODE", "require")
	t.Setenv("PGDATA", "/elsewhere")
	t.Setenv("PGDATABASE", "elsewhere")
	c := startOptions(t, pglocal.Options{Dir: home})
	s := running(t, home)

	for _, tc := range []struct{ sql, want string }{
		{"show listen_addresses", ""},
		{"show fsync", "on"},
		{"show data_checksums", "on"},
		{"show server_encoding", "UTF8"},
		{"show lc_collate", "C"},
		{"show wal_level", "minimal"},
		{"show max_wal_size", "2GB"},
		{"select current_database()", "smpq"},
		{"select rolname::text from pg_roles where rolsuper", "smpq"},
		{"select type || ' ' || auth_method from pg_hba_file_rules where database = '{all}' and type = 'local'", "local trust"},
	} {
		if got := query[string](t, c.DSN(""), tc.sql); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.sql, got, tc.want)
		}
	}
	if n := query[int](t, c.DSN("postgres"), "select count(*) from pg_hba_file_rules where type <> 'local' and auth_method <> 'reject'"); n != 0 {
		t.Errorf("%d ways in by the network, want none", n)
	}
	if got := query[string](t, c.DSN("postgres"), "select current_database()"); got != "postgres" {
		t.Errorf("connected to %s, want postgres", got)
	}
	psql := exec.CommandContext(t.Context(), filepath.Join(c.BinDir(), "psql"), "-XAtc", "select 'psql'", c.DSN(""))
	if out, err := psql.CombinedOutput(); err != nil || string(out) != "psql\n" {
		t.Errorf("psql: %s, %v", out, err)
	}

	homeMode := fs.FileMode(0o700)
	if os.Geteuid() == 0 {
		homeMode = 0o710 // the server's user must pass
	}
	socket := filepath.Join(home, "run", ".s.PGSQL.5432")
	for path, want := range map[string]fs.FileMode{
		home:                               fs.ModeDir | homeMode,
		filepath.Join(home, "data"):        fs.ModeDir | 0o700,
		filepath.Join(home, "run"):         fs.ModeDir | 0o700,
		socket:                             fs.ModeSocket | 0o700,
		filepath.Join(home, "server.conf"): 0o600,
		filepath.Join(home, "server.log"):  0o600,
	} {
		fi, err := os.Lstat(path)
		if err != nil {
			t.Error(err)
		} else if fi.Mode() != want {
			t.Errorf("%s has mode %v, want %v", path, fi.Mode(), want)
		}
	}
	if want := filepath.Join(home, "run"); s.SocketDir != want {
		t.Errorf("socket in %s, want %s", s.SocketDir, want)
	}

	execute(t, c.DSN(""), "create table kept as select 'yes' as it")
	leave(t, c)
	stopped(t, home)
	if err := syscall.Kill(s.PID, 0); err == nil && !zombie(t, s.PID) {
		t.Errorf("process %d of the server is there after the stop", s.PID)
	}
	if exists(t, filepath.Join(home, "run")) {
		t.Error("the socket's folder is there after the stop")
	}
	if err := c.Close(t.Context()); err != nil {
		t.Errorf("second Close: %v", err)
	}

	c = start(t, home)
	if got := query[string](t, c.DSN(""), "select it from kept"); got != "yes" {
		t.Errorf("after the second start: %q", got)
	}
	if got := query[string](t, c.DSN(""), "show fsync"); got != "off" {
		t.Errorf("fsync is %s, want what Settings say", got)
	}
}

// zombie reports whether a process has ended and was not waited for: in
// a container often nobody waits for orphans.
func zombie(t *testing.T, pid int) bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	return err != nil || strings.HasPrefix(string(out), "Z")
}

func TestJoinAcrossProcesses(t *testing.T) {
	t.Parallel()
	home := newHome(t)
	c := start(t, home)
	server := running(t, home).PID
	other := startProcess(t, home)
	if got := other.joined(t); got != server {
		t.Errorf("the other process is on server %d, want %d", got, server)
	}
	leave(t, c)
	if got := running(t, home).PID; got != server {
		t.Errorf("server %d runs after the first left, want %d", got, server)
	}
	err := pglocal.Stop(t.Context(), home)
	if !errors.Is(err, pglocal.ErrInUse) {
		t.Errorf("stop while in use: %v, want ErrInUse", err)
	} else if want := "process " + strconv.Itoa(other.cmd.Process.Pid); exists(t, "/proc/locks") && !strings.Contains(err.Error(), want) {
		t.Errorf("stop while in use: %v, want it to name %s", err, want)
	}
	running(t, home)
	other.leave(t)
	stopped(t, home)
}

func TestUserKilled(t *testing.T) {
	t.Parallel()
	home := newHome(t)
	p := startProcess(t, home)
	server := p.joined(t)
	p.kill(t)
	if got := running(t, home).PID; got != server {
		t.Fatalf("server %d runs after the kill, want %d", got, server)
	}

	c := start(t, home)
	if got := running(t, home).PID; got != server {
		t.Errorf("joined server %d, want %d", got, server)
	}
	leave(t, c)
	stopped(t, home)

	p = startProcess(t, home)
	p.joined(t)
	p.kill(t)
	running(t, home)
	for range 2 { // the second time there is nothing to stop
		if err := pglocal.Stop(t.Context(), home); err != nil {
			t.Error(err)
		}
		stopped(t, home)
	}
}

func TestServerKilled(t *testing.T) {
	t.Parallel()
	home := newHome(t)
	first := start(t, home)
	server := running(t, home).PID
	conn, err := pgx.Connect(t.Context(), first.DSN(""))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background()) // the server is killed
	if _, err := conn.Exec(t.Context(), "create table kept as select 'yes' as it"); err != nil {
		t.Fatal(err)
	}
	// A process of the server that does not notice at once that it is alone.
	if _, err := conn.Exec(t.Context(), "select pg_advisory_lock(1)"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(server, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}

	second := start(t, home)
	if got := running(t, home).PID; got == server {
		t.Errorf("server %d runs, which was killed", got)
	}
	// The first user's connection string is good again.
	for _, c := range []*pglocal.Cluster{first, second} {
		if got := query[string](t, c.DSN(""), "select it from kept"); got != "yes" {
			t.Errorf("after the kill: %q", got)
		}
	}
	leave(t, second)
	running(t, home)
	leave(t, first)
	stopped(t, home)
}

func TestNumberOfDeadServerReused(t *testing.T) {
	t.Parallel()
	home := newHome(t)
	leave(t, start(t, home))
	pidFile := filepath.Join(home, "data", "postmaster.pid")
	fi, err := os.Stat(filepath.Dir(pidFile))
	if err != nil {
		t.Fatal(err)
	}
	uid, gid := fi.Sys().(*syscall.Stat_t).Uid, fi.Sys().(*syscall.Stat_t).Gid

	// A process of the same user, which is what PostgreSQL itself trips over.
	cat := exec.CommandContext(t.Context(), "cat")
	if os.Geteuid() == 0 {
		cat.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	}
	cat.Dir = "/"
	stdin, err := cat.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cat.Wait() }() // it is only there to be there
	defer stdin.Close()

	for _, text := range []string{
		fmt.Sprintf("%d\n%s\n1700000000\n5432\n%s\n\n  1234567  12345\nready   \n", cat.Process.Pid, filepath.Dir(pidFile), filepath.Join(home, "run")),
		"",
		"garbage\n",
	} {
		if err := os.WriteFile(pidFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(pidFile, int(uid), int(gid)); err != nil {
			t.Fatal(err)
		}
		stopped(t, home)
		c := start(t, home)
		if got := running(t, home).PID; got == cat.Process.Pid {
			t.Errorf("took process %d for the server", got)
		}
		leave(t, c)
	}
}

func TestConcurrentStarts(t *testing.T) {
	t.Parallel()
	home := newHome(t)
	others := []*process{startProcess(t, home), startProcess(t, home)}
	var wg sync.WaitGroup
	clusters := make([]*pglocal.Cluster, 3)
	errs := make([]error, len(clusters))
	for i := range clusters {
		wg.Go(func() {
			clusters[i], errs[i] = pglocal.Start(t.Context(), pglocal.Options{Dir: home, Settings: fast})
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	server := running(t, home).PID
	for _, p := range others {
		if got := p.joined(t); got != server {
			t.Errorf("another process is on server %d, want %d", got, server)
		}
	}
	if exists(t, filepath.Join(home, "server.log.1")) {
		t.Error("the server was started twice")
	}
	for _, p := range others {
		wg.Go(func() { p.leave(t) })
	}
	for i, c := range clusters {
		wg.Go(func() { errs[i] = c.Close(t.Context()) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	stopped(t, home)
}

// TestKilledWhileStarting kills the starting process at points that scripts in
// place of the programs choose: there they run the command "halt".
func TestKilledWhileStarting(t *testing.T) {
	t.Parallel()
	for name, scripts := range map[string]map[string]string{
		"before initdb":       {"initdb": `halt`},
		"in initdb":           {"initdb": `mkdir "$2/base"; echo 15 >"$2/PG_VERSION"; halt`},
		"after initdb":        {"initdb": `"$bin/initdb" "$@"; halt`},
		"making the database": {"postgres": `case "$1" in --single) halt;; *) exec "$bin/postgres" "$@";; esac`},
		"before the start":    {"pg_ctl": `halt`},
		"in the start":        {"pg_ctl": `"$bin/pg_ctl" "$@" -W; halt`},
		"after the start":     {"pg_ctl": `"$bin/pg_ctl" "$@"; halt`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home := newHome(t)
			halt := newHalt(t)
			p := startProcess(t, home, with(wrap(t, halt.in(scripts))))
			halt.wait(t)
			p.kill(t)
			c := start(t, home)
			if got := query[string](t, c.DSN(""), "select current_user::text"); got != "smpq" {
				t.Errorf("user %q", got)
			}
			if left, err := filepath.Glob(filepath.Join(home, "data.new*")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			leave(t, c)
			stopped(t, home)
		})
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	for name, scripts := range map[string]map[string]string{
		"in initdb":       {"initdb": `halt`},
		"after the start": {"pg_ctl": `"$bin/pg_ctl" "$@"; halt`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home := newHome(t)
			halt := newHalt(t)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				halt.wait(t)
				cancel()
			})
			_, err := pglocal.Start(ctx, pglocal.Options{Dir: home, Settings: fast, BinDir: wrap(t, halt.in(scripts))})
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("start: %v, want %v", err, context.Canceled)
			}
			if s := inspect(t, home); s.State == pglocal.Running {
				t.Error("the server runs")
			}
			if left, err := filepath.Glob(filepath.Join(home, "data.new*")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			leave(t, start(t, home))
		})
	}
}

func TestCancelledWhileAnotherStarts(t *testing.T) {
	t.Parallel()
	home := newHome(t)
	halt := newHalt(t)
	p := startProcess(t, home, with(wrap(t, halt.in(map[string]string{"initdb": `halt`}))))
	halt.wait(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := pglocal.Start(ctx, pglocal.Options{Dir: home})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("start: %v, want %v", err, context.Canceled)
	}
	p.kill(t)
}

func TestSocketLost(t *testing.T) {
	t.Parallel()
	home := newHome(t)
	c := start(t, home)
	if err := os.Remove(filepath.Join(home, "run", ".s.PGSQL.5432")); err != nil {
		t.Fatal(err)
	}
	if _, err := pglocal.Start(t.Context(), pglocal.Options{Dir: home}); !errors.Is(err, pglocal.ErrInUse) {
		t.Errorf("start while another uses the server: %v, want ErrInUse", err)
	}
	running(t, home)
	leave(t, c)

	p := startProcess(t, home)
	server := p.joined(t)
	p.kill(t)
	if err := os.Remove(filepath.Join(home, "run", ".s.PGSQL.5432")); err != nil {
		t.Fatal(err)
	}
	c = start(t, home)
	if got := running(t, home).PID; got == server {
		t.Error("joined a server without a socket")
	}
	query[int](t, c.DSN(""), "select 1")
}

func TestUnusualNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"-D 'quoted\" $HOME;`id`\\\\ 100% +größe&port=1", "comma,comma"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home := filepath.Join(newDir(t), name)
			stopAtEnd(t, home)
			c := start(t, home)
			if got := query[int](t, c.DSN(""), "select 1"); got != 1 {
				t.Errorf("got %d", got)
			}
			leave(t, c)
			stopped(t, home)
		})
	}
}

func TestLongName(t *testing.T) {
	t.Parallel()
	home := filepath.Join(newDir(t), strings.Repeat("long", 40))
	stopAtEnd(t, home)
	first := start(t, home)
	s := running(t, home)
	fi, err := os.Lstat(s.SocketDir)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode() != fs.ModeDir|0o700 {
		t.Errorf("%s has mode %v", s.SocketDir, fi.Mode())
	}
	if link, err := os.Readlink(filepath.Join(home, "run")); err != nil || link != s.SocketDir {
		t.Errorf("run leads to %q, %v, want %s", link, err, s.SocketDir)
	}
	query[int](t, first.DSN(""), "select 1")

	// The folder stays the same over a crash.
	if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second := start(t, home)
	query[int](t, first.DSN(""), "select 1")
	leave(t, first)
	leave(t, second)
	stopped(t, home)
	if exists(t, s.SocketDir) {
		t.Errorf("%s is there after the stop", s.SocketDir)
	}

	// A link that leads to a place of others is not followed.
	elsewhere := newDir(t)
	if err := os.Symlink(elsewhere, filepath.Join(home, "run")); err != nil {
		t.Fatal(err)
	}
	leave(t, start(t, home))
	if !exists(t, elsewhere) {
		t.Errorf("%s is gone", elsewhere)
	}
}

func TestLog(t *testing.T) {
	t.Parallel()
	home := newHome(t)
	var text strings.Builder
	c := startOptions(t, pglocal.Options{Dir: home, Settings: fast, Log: slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	leave(t, c)
	var got []string
	for line := range strings.Lines(text.String()) {
		_, line, _ = strings.Cut(strings.TrimSpace(line), "msg=")
		got = append(got, strings.ReplaceAll(line, home, "HOME"))
	}
	want := []string{
		`"making a local PostgreSQL cluster" dir=HOME release=` + strconv.Itoa(inspect(t, home).Version),
		`"started local PostgreSQL" dir=HOME`,
		`"stopped local PostgreSQL" dir=HOME`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, home string)
		options pglocal.Options
		want    string
		is      error
	}{
		"no programs": {
			options: pglocal.Options{BinDir: t.TempDir()},
			want:    "`apt install postgresql`",
			is:      pglocal.ErrNotInstalled,
		},
		"programs of another release": {
			prepare: func(t *testing.T, home string) {
				t.Helper()
				leave(t, start(t, home))
				replace(t, filepath.Join(home, "data", "PG_VERSION"), "12\n")
			},
			want: "`apt install postgresql-12`",
			is:   pglocal.ErrNotInstalled,
		},
		"a folder with other things": {
			prepare: func(t *testing.T, home string) {
				t.Helper()
				makeFolder(t, filepath.Join(home, "photos"))
			},
			want: "holds other things (such as photos)",
		},
		"a file": {
			prepare: func(t *testing.T, home string) {
				t.Helper()
				replace(t, home, "text")
			},
			want: "is not a folder",
		},
		"a wrong setting": {
			options: pglocal.Options{Settings: map[string]string{"fsync": "off", "nonsense": "1"}},
			want:    "server.conf\" contains errors (see ",
		},
		"a line break": {
			options: pglocal.Options{Dir: "/tmp/a\nb"},
			want:    "line break",
		},
		"a damaged cluster": {
			prepare: func(t *testing.T, home string) {
				t.Helper()
				leave(t, start(t, home))
				if err := os.Remove(filepath.Join(home, "data", "global", "pg_control")); err != nil {
					t.Fatal(err)
				}
			},
			want: "server.log",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home := filepath.Join(newDir(t), "home")
			if tc.prepare != nil {
				tc.prepare(t, home)
			}
			o := tc.options
			if o.Dir == "" {
				o.Dir = home
			}
			c, err := pglocal.Start(t.Context(), o)
			if err == nil {
				leave(t, c)
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tc.want) || (tc.is != nil && !errors.Is(err, tc.is)) {
				t.Errorf("error %q, want %q", err, tc.want)
			}
			if tc.prepare == nil && name != "a wrong setting" && exists(t, home) {
				t.Error("made a folder nevertheless")
			}
		})
	}
}

// TestRoot covers what only root meets.
func TestRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("run as root for more")
		return
	}
	t.Run("a folder that the server's user cannot reach", func(t *testing.T) {
		closed := filepath.Join(newDir(t), "closed")
		if err := os.Mkdir(closed, 0o700); err != nil {
			t.Fatal(err)
		}
		home := filepath.Join(closed, "sub", "home")
		_, err := pglocal.Start(t.Context(), pglocal.Options{Dir: home})
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "may not enter "+closed+":") {
			t.Errorf("error %v, want one that names %s", err, closed)
		}
		if exists(t, filepath.Join(closed, "sub")) {
			t.Error("made a folder nevertheless")
		}
	})
	t.Run("a mask that shuts others out", func(t *testing.T) {
		defer syscall.Umask(syscall.Umask(0o077))
		home := filepath.Join(newHome(t), "sub", "home")
		stopAtEnd(t, home)
		leave(t, start(t, home))
	})
	t.Run("an empty folder", func(t *testing.T) {
		home := newHome(t)
		if err := os.Mkdir(home, 0o700); err != nil {
			t.Fatal(err)
		}
		leave(t, start(t, home))
	})
	t.Run("a folder of another user", func(t *testing.T) {
		home := newHome(t)
		makeFolder(t, home)
		if err := os.Chown(home, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		_, err := pglocal.Start(t.Context(), pglocal.Options{Dir: home})
		if err == nil || !strings.Contains(err.Error(), "belongs to the user with id 65534") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("as another user", func(t *testing.T) {
		// The test binary is in a folder that only root can enter.
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(self)
		if err != nil {
			t.Fatal(err)
		}
		dir := newDir(t)
		program := filepath.Join(dir, "program")
		if err := os.WriteFile(program, text, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
		home := filepath.Join(dir, "not", "yet", "home")
		p := startProcess(t, home, func(cmd *exec.Cmd) {
			cmd.Path, cmd.Dir = program, "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		})
		server := p.joined(t)
		for path, want := range map[string]fs.FileMode{
			filepath.Dir(home):          fs.ModeDir | 0o700,
			home:                        fs.ModeDir | 0o700,
			filepath.Join(home, "data"): fs.ModeDir | 0o700,
			filepath.Join(home, "run"):  fs.ModeDir | 0o700,
		} {
			fi, err := os.Lstat(path)
			if err != nil {
				t.Error(err)
			} else if fi.Mode() != want || fi.Sys().(*syscall.Stat_t).Uid != 65534 {
				t.Errorf("%s: mode %v of user %d, want %v", path, fi.Mode(), fi.Sys().(*syscall.Stat_t).Uid, want)
			}
		}
		if got := running(t, home).PID; got != server {
			t.Errorf("root sees server %d, want %d", got, server)
		}
		p.leave(t)
		stopped(t, home)
	})
}

func TestDefaultDir(t *testing.T) {
	got, err := pglocal.DefaultDir()
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if want := "/var/lib/smpq/postgres"; got != want {
			t.Errorf("root: %s, want %s", got, want)
		}
		return
	}
	t.Setenv("HOME", "/home/u")
	for _, tc := range []struct{ xdg, want string }{
		{"/x", "/x/smpq/postgres"},
		{"relative", "/home/u/.local/share/smpq/postgres"},
		{"", "/home/u/.local/share/smpq/postgres"},
	} {
		t.Setenv("XDG_DATA_HOME", tc.xdg)
		if got, err := pglocal.DefaultDir(); err != nil || got != tc.want {
			t.Errorf("XDG_DATA_HOME=%q: %s, %v, want %s", tc.xdg, got, err, tc.want)
		}
	}
}

func makeFolder(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

// replace changes the text of a file, which it makes if needed.
func replace(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
