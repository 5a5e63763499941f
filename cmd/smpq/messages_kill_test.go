package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/pgtest"
)

// messageLog returns a log with so many messages in each of so many queues of
// queueLog.
func messageLog(queues, messages int) []byte {
	var b strings.Builder
	for i := range queues {
		for n := range messages {
			fmt.Fprintf(&b, "v3 AAAAAAAAAAAAAAAAAAAAAAAA%08d bW1tbW1tbW1tbW1tbW1tbW1tbW1t%04d %d flags=F %s\n", i, n, 1_757_930_000+n, strings.Repeat("Ym9k", 50))
		}
	}
	return []byte(b.String())
}

// An import of queues and messages, and an export of them, that are killed at any
// moment leave nothing, or are complete; the next ones work.
func TestKilledMessages(t *testing.T) {
	const queues, messages = 200, 40
	state := t.TempDir()
	must(t, os.WriteFile(filepath.Join(state, storeLogName), queueLog(queues, 90), 0o600))
	must(t, os.WriteFile(filepath.Join(state, messageLogName), messageLog(queues, messages), 0o600))
	dsn := pgtest.DSN(t)
	ini := filepath.Join(state, "smp-server.ini")
	must(t, os.WriteFile(ini, []byte("[STORE_LOG]\nenable = on\nstore_queues = memory\nstore_messages = memory\ndb_connection = "+dsn+"\n"), 0o600))
	conn := pgtest.Conn(t, dsn)
	smpq := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "smpq", append(args, "--config", ini)...)
		cmd.Env = append(os.Environ(), "SMP_SERVER_LOG_PATH="+state)
		return cmd
	}
	mustRun := func(cmd *exec.Cmd) time.Duration {
		t.Helper()
		start := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return time.Since(start)
	}
	const points = 6
	kill := func(cmd *exec.Cmd, after time.Duration) {
		t.Helper()
		must(t, cmd.Start())
		timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // killed, or done before
		timer.Stop()
	}

	whole := mustRun(smpq("import", "all"))
	for i := range points {
		pgtest.Exec(t, conn, "drop schema smp_server cascade")
		kill(smpq("import", "all"), whole*time.Duration(i)/points)
		waitForOthers(t, conn)
		if len(schemas(t, conn)) > 0 {
			checkMessages(t, conn, queues, messages)
		}
		mustRun(smpq("import", "all"))
		checkMessages(t, conn, queues, messages)
	}

	// The same of messages alone, into a schema that has the queues.
	for i := range points {
		pgtest.Exec(t, conn, "truncate smp_server.messages; update smp_server.msg_queues set msg_queue_size = 0, msg_queue_expire = false")
		log := filepath.Join(state, messageLogName)
		kill(smpq("import", "messages", log), whole*time.Duration(i)/points)
		waitForOthers(t, conn)
		var n int64
		must(t, conn.QueryRow(t.Context(), "select count(*) from smp_server.messages").Scan(&n))
		if n > 0 {
			checkMessages(t, conn, queues, messages)
		}
		mustRun(smpq("import", "messages", log))
		checkMessages(t, conn, queues, messages)
	}

	out := t.TempDir()
	whole = mustRun(smpq("export", "all", out, "--journal"))
	for i := range points {
		must(t, os.RemoveAll(out))
		must(t, os.Mkdir(out, 0o700))
		kill(smpq("export", "all", out, "--journal"), whole*time.Duration(i)/points)
		left, err := os.ReadDir(out)
		must(t, err)
		for _, e := range left {
			if name := e.Name(); name == journalName || name == storeLogName {
				must(t, os.RemoveAll(filepath.Join(out, name))) // complete, with or without the other
			}
		}
		mustRun(smpq("export", "all", out, "--journal"))
		if left, err := filepath.Glob(filepath.Join(out, "*.smpq-tmp")); err != nil || len(left) > 0 {
			t.Errorf("left behind %q, %v", left, err)
		}
	}
	mustRun(smpq("import", "journal", filepath.Join(out, journalName))) // the same messages
}

// checkMessages checks that all messages are there, and all that belongs to them.
func checkMessages(t *testing.T, conn *pgx.Conn, queues, messages int64) {
	t.Helper()
	var n, counted, indexes, keys int64
	must(t, conn.QueryRow(t.Context(), `
		select (select count(*) from smp_server.messages),
		       (select count(*) from smp_server.msg_queues where msg_queue_size = $1 and msg_queue_expire and msg_can_write),
		       (select count(*) from pg_indexes where schemaname = 'smp_server' and tablename = 'messages'),
		       (select count(*) from pg_constraint where conrelid = 'smp_server.messages'::regclass and contype in ('p', 'f'))`, messages).
		Scan(&n, &counted, &indexes, &keys))
	if n != queues*messages || counted != queues || indexes != 4 || keys != 2 {
		t.Errorf("%d messages of %d, %d queues of %d that count %d, %d indexes, %d keys", n, queues*messages, counted, queues, messages, indexes, keys)
	}
}
