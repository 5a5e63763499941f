package compact_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/compact"
	"github.com/smpq/smpq/internal/gen"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

// victimVariable makes the test binary a process that compacts the database or,
// if it is a path, the store log that it names, until it is killed. With
// fullPrefix before the path the disk is full when it comes to write the log.
const (
	victimVariable = "SMPQ_TEST_COMPACT"
	fullPrefix     = "full:"
)

// victimBatch is the number of queues that the victim removes at a time.
const victimBatch = 10

// victim compacts and writes a line when it begins and after each batch.
func victim(what string) int {
	fmt.Println("begin")
	compactWhat := victimDatabase
	switch {
	case filepath.IsAbs(what):
		compactWhat = victimLog
	case strings.HasPrefix(what, fullPrefix):
		compactWhat = victimOnFullDisk
	}
	if err := compactWhat(what); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func victimDatabase(dsn string) error {
	ctx := context.Background()
	conn, err := store.Connect(ctx, store.Config{DSN: dsn, Schema: name, Application: "smpq test victim"})
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	o := options()
	o.Batch = victimBatch
	o.Progress = afterBatch{func() { fmt.Println("batch") }}
	_, err = compact.Queues(ctx, conn, name, o)
	return err
}

func victimLog(log string) error {
	o := logOptions()
	o.Now = time.Now()
	done := 0
	o.Progress = afterBatch{func() {
		if done++; done%100 == 0 {
			fmt.Println("100 more")
		}
	}}
	_, err := compact.StoreLog(context.Background(), log, o)
	return err
}

// victimOnFullDisk compacts a log when no file may become larger than 5000 bytes.
func victimOnFullDisk(what string) error {
	o := logOptions()
	o.Progress = phases{func(name string) {
		if name != "write log" {
			return
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 5000, Max: 5000}); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}}
	_, err := compact.StoreLog(context.Background(), strings.TrimPrefix(what, fullPrefix), o)
	return err
}

// startVictim starts a victim and waits for so many lines.
func startVictim(t *testing.T, dsn string, lines int) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), victimVariable+"="+dsn)
	cmd.Stderr = new(strings.Builder)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for scanner := bufio.NewScanner(out); lines > 0 && scanner.Scan(); lines-- {
	}
	return cmd
}

// kill kills a victim.
func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Log(err) // it had finished
	}
	_ = cmd.Wait() // it was killed
}

// awaitEnd waits until the server has noticed that the victim is gone.
func awaitEnd(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		var sessions int
		err := conn.QueryRow(t.Context(), `
			select count(*) from pg_stat_activity, pg_sleep(0.01)
			 where datname = current_database() and pid <> pg_backend_pid() and application_name like 'smpq %' and application_name <> 'smpq test'`,
		).Scan(&sessions)
		if err != nil {
			t.Fatal(err)
		}
		if sessions == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the session of a killed process does not end")
		}
	}
}

// Wherever a compaction is killed, each batch is there in whole or not at all,
// and the next compaction does the rest.
func TestQueuesKilled(t *testing.T) {
	const queues, messages, batches = 120, 3, 120 / victimBatch
	dsn, conn := newDatabase(t, schema.Newest)
	check := func(when string) int64 {
		t.Helper()
		got := groups(t, conn, messages)
		if got["damaged"] != 0 || got["live"] != 5 || got["gone"]%victimBatch != 0 {
			t.Errorf("%s: queues %v", when, got)
		}
		return got["gone"]
	}
	finish := func(when string, left int64) {
		t.Helper()
		r, err := compact.Queues(t.Context(), conn, name, options())
		if err != nil || r.Queues != left || r.Messages != left*messages {
			t.Errorf("%s: next run: %+v, %v; %d queues were left", when, r, err, left)
		}
	}
	addQueues(t, conn, "live", 5, -1, messages)

	// Between batches and at moments of chance in them.
	points := map[int64]bool{}
	for lines := range batches + 1 {
		addQueues(t, conn, "gone", queues, 30, messages)
		cmd := startVictim(t, dsn, lines)
		kill(t, cmd)
		awaitEnd(t, conn)
		when := fmt.Sprintf("killed after line %d", lines)
		left := check(when)
		points[left] = true
		finish(when, left)
	}
	if len(points) < batches/2 {
		t.Errorf("killed at %d different points only", len(points))
	}

	// In the middle of a batch: it waits at the gate, and is undone.
	for _, id := range []string{"gone-1", "gone-55", "gone-120"} {
		addQueues(t, conn, "gone", queues, 30, messages)
		gate := newGate(t, dsn, id)
		cmd := startVictim(t, dsn, 1)
		gate.reached(t)
		kill(t, cmd)
		gate.open(t)
		awaitEnd(t, conn)
		when := "killed when it removed " + id
		left := check(when)
		var there bool
		if err := conn.QueryRow(t.Context(), "select exists (select from msg_queues where recipient_id = $1)", []byte(id)).Scan(&there); err != nil || !there {
			t.Errorf("%s: the queue is gone: %v", when, err)
		}
		finish(when, left)
	}
}

// Wherever the compaction of a store log is killed, the log is what it was before
// or compact, and the next compaction leaves nothing behind.
func TestStoreLogKilled(t *testing.T) {
	log := generated(t, gen.Options{Queues: 1500})
	name := newLog(t, log)
	before := state(t, name)
	compacted := 0
	for lines := range 17 {
		writeFile(t, name, log)
		cmd := startVictim(t, name, lines)
		kill(t, cmd)
		if got := readFile(t, name); string(got) != string(log) {
			compacted++
		}
		if diff := cmp.Diff(before, state(t, name)); diff != "" {
			t.Fatalf("killed after line %d: state (-before +after):\n%s", lines, diff)
		}
		o := logOptions()
		o.Now = time.Now()
		if _, err := compact.StoreLog(t.Context(), name, o); err != nil {
			t.Fatalf("killed after line %d: %v", lines, err)
		}
		for suffix, content := range folder(t, name) {
			if suffix != "" && (!canonicalTime.MatchString(suffix) || content != string(log)) {
				t.Errorf("killed after line %d: there is %s%s", lines, name, suffix)
			}
			if suffix != "" {
				if err := os.Remove(name + suffix); err != nil {
					t.Fatal(err)
				}
			}
		}
		if diff := cmp.Diff(before, state(t, name)); diff != "" {
			t.Fatalf("killed after line %d, and compacted again: state (-before +after):\n%s", lines, diff)
		}
	}
	if compacted > 12 {
		t.Errorf("%d of 17 compactions were complete when they were killed", compacted)
	}
}

// A full disk leaves everything as it was.
func TestStoreLogFullDisk(t *testing.T) {
	name := newLog(t, generated(t, gen.Options{Queues: 100}))
	before := folder(t, name)
	cmd := startVictim(t, fullPrefix+name, 1)
	if err := cmd.Wait(); err == nil {
		t.Error("the compaction succeeded")
	}
	if got := fmt.Sprint(cmd.Stderr); !strings.Contains(got, "write the new log: write "+name+".smpq-tmp: file too large") {
		t.Errorf("error %q", got)
	}
	if diff := cmp.Diff(before, folder(t, name)); diff != "" {
		t.Errorf("files (-before +after):\n%s", diff)
	}
}

// A gate stops whoever removes a certain queue: it has locked the queue's
// messages.
type gate struct{ conn *pgx.Conn }

func newGate(t *testing.T, dsn, id string) gate {
	t.Helper()
	g := gate{connect(t, dsn)}
	pgtest.Exec(t, g.conn, "begin; select from messages where recipient_id = '"+id+"' for update")
	return g
}

// reached waits until somebody waits at the gate.
func (g gate) reached(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		var waits bool
		err := g.conn.QueryRow(t.Context(), `
			select exists (select from pg_locks where not granted and transactionid = pg_current_xact_id()::xid)
			  from pg_sleep(0.01)`,
		).Scan(&waits)
		switch {
		case err != nil:
			t.Fatal(err)
		case waits:
			return
		case time.Now().After(deadline):
			t.Fatal("nobody comes to the gate")
		}
	}
}

// open lets everybody through.
func (g gate) open(t *testing.T) {
	t.Helper()
	pgtest.Exec(t, g.conn, "rollback")
}
