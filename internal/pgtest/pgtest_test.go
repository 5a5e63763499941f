package pgtest_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.M{M: m}) }

func TestDatabasesAreSeparateAndEmpty(t *testing.T) {
	a, b := pgtest.Conn(t, pgtest.DSN(t)), pgtest.Conn(t, pgtest.DSN(t))
	pgtest.Exec(t, a, "create table t (x int); insert into t values (1)")
	pgtest.Exec(t, a, "insert into t values ($1)", 2)
	for _, tc := range []struct {
		sql  string
		a, b int
	}{
		{"select count(*) from pg_tables where schemaname = 'public'", 1, 0},
		{"select count(*) from pg_database where datname = current_database() and encoding = 6 and datcollate = 'C'", 1, 1},
	} {
		if x, y := number(t, a, tc.sql), number(t, b, tc.sql); x != tc.a || y != tc.b {
			t.Errorf("%s: %d and %d, want %d and %d", tc.sql, x, y, tc.a, tc.b)
		}
	}
}

func TestDatabaseIsDropped(t *testing.T) {
	var name string
	t.Run("test", func(t *testing.T) {
		dsn := pgtest.DSN(t)
		config, err := pgx.ParseConfig(dsn)
		if err != nil {
			t.Fatal(err)
		}
		name = config.Database
		pgtest.Conn(t, dsn)
	})
	c := pgtest.Conn(t, pgtest.DSN(t))
	if n := number(t, c, "select count(*) from pg_database where datname = '"+name+"'"); n != 0 {
		t.Errorf("database %s is there after its test", name)
	}
}

func TestGivenServer(t *testing.T) {
	dsn := pgtest.DSN(t)
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	for _, given := range []string{
		dsn,
		"host=" + config.Host + " user=" + config.User + " dbname=" + config.Database,
	} {
		t.Setenv("SMPQ_TEST_DATABASE", given)
		c := pgtest.Conn(t, pgtest.DSN(t))
		if c.Config().Host != config.Host || c.Config().Database == config.Database {
			t.Errorf("given %s: connected to %s on %s", given, c.Config().Database, c.Config().Host)
		}
	}
}

func TestBinDir(t *testing.T) {
	dsn := pgtest.DSN(t)
	dump := exec.CommandContext(t.Context(), filepath.Join(pgtest.BinDir(t), "pg_dump"), dsn)
	if out, err := dump.CombinedOutput(); err != nil {
		t.Errorf("pg_dump: %v: %s", err, out)
	}
}

// childVariable makes TestKilled the process that is killed.
const childVariable = "SMPQ_TEST_CHILD"

func TestKilled(t *testing.T) {
	if os.Getenv(childVariable) != "" {
		config, err := pgx.ParseConfig(pgtest.DSN(t))
		if err != nil {
			t.Fatal(err)
		}
		// Standard output may be the test framework's; file 3 is ours.
		if _, err := io.WriteString(os.NewFile(3, "pipe"), config.Host+"\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			t.Fatal(err)
		}
		return // not reached: killed before
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The child's server and guard inherit the pipe, so it ends with the last
	// of them.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() // only read
	child := exec.CommandContext(t.Context(), self, "-test.run=^TestKilled$")
	child.Env = append(os.Environ(), childVariable+"=1", "SMPQ_TEST_DATABASE=")
	child.ExtraFiles = []*os.File{w}
	if _, err := child.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out := bufio.NewReader(r)
	line, err := out.ReadString('\n')
	if err != nil {
		t.Fatalf("%v: %v", err, child.Wait())
	}
	socket := strings.TrimSpace(line)
	if _, err := os.Stat(socket); err != nil {
		t.Fatal(err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := child.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the child was not killed: %v", err)
	}
	if _, err := io.Copy(io.Discard, out); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{socket, filepath.Dir(socket)} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is there after the kill: %v", path, err)
		}
	}
}

func number(t *testing.T, c *pgx.Conn, sql string) int {
	t.Helper()
	var n int
	if err := c.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}
