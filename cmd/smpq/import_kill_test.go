package main

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/gen"
	"github.com/smpq/smpq/internal/pgtest"
)

// An import that is killed at any moment leaves nothing, or is complete; the
// next one works.
func TestKilledImport(t *testing.T) {
	const queues = 8_000
	log := filepath.Join(t.TempDir(), "store.log")
	f, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	stats, err := gen.Write(f, gen.Options{Queues: queues, LinkBytes: 90})
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	temp := t.TempDir()
	importLog := func(dsn string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "smpq", append([]string{"import", "storelog", log, "--dsn", dsn, "--temp-dir", temp}, args...)...)
		return cmd
	}

	dsn := pgtest.DSN(t)
	conn := pgtest.Conn(t, dsn)
	start := time.Now()
	if out, err := importLog(dsn).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	whole := time.Since(start)
	pgtest.Exec(t, conn, "drop schema smp_server cascade")

	const points = 25
	complete := 0
	for i := range points {
		cmd := importLog(dsn)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(whole*time.Duration(i)/points, func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		timer.Stop()
		if i%5 == 4 { // the next import works at once: it does nothing or all
			if out, err := importLog(dsn).CombinedOutput(); err != nil {
				t.Errorf("kill %d: the next import: %v\n%s", i, err, out)
			}
			checkImport(t, conn, stats.Queues)
			pgtest.Exec(t, conn, "drop schema if exists smp_server cascade")
			continue
		}
		waitForOthers(t, conn)

		var n int64
		query := "select count(*) from pg_namespace where nspname = 'smp_server'"
		if err := conn.QueryRow(t.Context(), query).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if n == 1 {
			complete++
			checkImport(t, conn, stats.Queues)
			pgtest.Exec(t, conn, "drop schema smp_server cascade")
		} else if err == nil {
			t.Errorf("kill %d: the import succeeded without a schema", i)
		}
		if left, _ := filepath.Glob(filepath.Join(temp, "*")); len(left) > 0 {
			t.Errorf("kill %d: left behind %s", i, strings.Join(left, ", "))
		}
	}
	t.Logf("%d of %d imports were complete when they were killed", complete, points)
	if out, err := importLog(dsn).CombinedOutput(); err != nil {
		t.Fatalf("the next import: %v\n%s", err, out)
	}
	checkImport(t, conn, stats.Queues)
}

func checkImport(t *testing.T, conn *pgx.Conn, queues int64) {
	t.Helper()
	var n, indexes, triggers int64
	err := conn.QueryRow(t.Context(), `
		select (select count(*) from smp_server.msg_queues),
		       (select count(*) from pg_indexes where schemaname = 'smp_server' and tablename = 'msg_queues'),
		       (select count(*) from pg_trigger where tgrelid = 'smp_server.msg_queues'::regclass and not tgisinternal and tgenabled = 'O')`).
		Scan(&n, &indexes, &triggers)
	if err != nil || n != queues || indexes != 7 || triggers != 3 {
		t.Errorf("%d queues of %d, %d indexes, %d triggers: %v", n, queues, indexes, triggers, err)
	}
}

// waitForOthers waits until this is the only session of the database: a server
// process goes on for a while after its client was killed.
func waitForOthers(t testing.TB, conn *pgx.Conn) {
	t.Helper()
	waitFor(t, conn, "select not exists (select from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend')")
}

// waitFor waits until a query returns true.
func waitFor(t testing.TB, conn *pgx.Conn, query string) {
	t.Helper()
	ticks := time.NewTicker(10 * time.Millisecond)
	defer ticks.Stop()
	for range ticks.C {
		var done bool
		pgtest.Exec(t, conn, "select pg_stat_clear_snapshot()") // a transaction would see the same again
		must(t, conn.QueryRow(t.Context(), query).Scan(&done))
		if done {
			return
		}
	}
}

// schemas returns the names of the schemas of the database, except those that
// each database has.
func schemas(t testing.TB, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), "select nspname from pg_namespace where nspname !~ '^(pg_.*|information_schema|public)$' order by 1")
	must(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	return names
}

// noSchema checks that nothing was left in the database.
func noSchema(t testing.TB, conn *pgx.Conn) {
	t.Helper()
	if names := schemas(t, conn); len(names) > 0 {
		t.Errorf("schemas left behind: %q", names)
	}
}

// An interrupt ends an import at once, with its own exit status, and leaves
// nothing.
func TestInterruptedImport(t *testing.T) {
	for _, what := range []string{"storelog", "messages"} {
		t.Run(what, func(t *testing.T) {
			dsn := pgtest.DSN(t)
			conn := pgtest.Conn(t, dsn)
			left := 0
			if what == "messages" {
				queues := newLogFolder(t, queueLog(1, 10))
				if out, err := exec.CommandContext(t.Context(), "smpq", "import", "storelog", queues.log, "--dsn", dsn).CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				left = 1
			}
			log := filepath.Join(t.TempDir(), "fifo.log")
			if out, err := exec.CommandContext(t.Context(), "mkfifo", log).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			cmd := exec.CommandContext(t.Context(), "smpq", "import", what, log, "--dsn", dsn, "-v")
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			fifo, err := os.OpenFile(log, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer fifo.Close()
			// The first line of the log comes once the database is chosen; the fifo
			// then keeps the import waiting.
			lines := bufio.NewReader(stderr)
			if _, err := lines.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			rest, _ := lines.ReadString('\x00')
			var exit *exec.ExitError
			if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 130 || !strings.Contains(rest, "smpq: interrupted") {
				t.Errorf("got %v, want exit status 130\n%s", err, rest)
			}
			waitForOthers(t, conn)
			if n := len(schemas(t, conn)); n != left {
				t.Errorf("%d schemas, want %d", n, left)
			}
		})
	}
}
