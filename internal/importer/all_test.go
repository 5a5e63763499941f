package importer

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/dumptest"
	"github.com/smpq/smpq/internal/exporter"
	"github.com/smpq/smpq/internal/journal"
	"github.com/smpq/smpq/internal/msglog"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/storelog"
)

// routerFiles opens what is named; "" for what there is not.
func routerFiles(t testing.TB, storeLog, messageLog, tree string) Files {
	t.Helper()
	var f Files
	var err error
	if storeLog != "" {
		if f.StoreLog, err = storelog.Open(storeLog); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.StoreLog.Close() })
	}
	if messageLog != "" {
		if f.MessageLog, err = msglog.Open(messageLog); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.MessageLog.Close() })
	}
	if tree != "" {
		if f.Journal, err = journal.Open(tree); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func importAll(t testing.TB, conn *pgx.Conn, f Files, o Options) (AllResult, error) {
	t.Helper()
	o.TempDir = t.TempDir()
	return All(t.Context(), conn, f, o)
}

// Queues and messages of a router come in together, as smp-server's own import of
// both brings them in; a dry run changes nothing, and a second import neither.
func TestAllLikeSmpServer(t *testing.T) {
	dumps, dir := filepath.Join(messageData, "import-all"), filepath.Join(messageData, "memory/3-after-stop")
	conn := connect(t, pgtest.DSN(t))
	f := routerFiles(t, filepath.Join(dir, "smp-server-store.log"), filepath.Join(dir, "smp-server-messages.log"), "")
	o := options()
	o.Version, o.DryRun = schema.StoreMessages, true
	res, err := importAll(t, conn, f, o)
	if err != nil || res.Messages.Messages != 399 || res.StoreLog.Added != 13 || exists(t, conn) {
		t.Errorf("dry run: %+v, %+v, %v", res.StoreLog, res.Messages, err)
	}
	o.DryRun = false
	for _, unchanged := range []bool{false, true} {
		res, err := importAll(t, conn, f, o)
		if err != nil || res.Unchanged() != unchanged || res.Rejected() != 0 || !res.StoreLog.Verified || !res.Messages.Verified {
			t.Errorf("%+v, %+v, %v", res.StoreLog, res.Messages, err)
		}
		likeSmpServer(t, conn, dumps)
	}
}

// A journal comes in with a store log, or into a database that has the queues.
func TestAllWithJournal(t *testing.T) {
	dir := filepath.Join(journalData, "7-after-stop")
	storeLog, tree := filepath.Join(dir, "smp-server-store.log"), dumptest.Unpack(t, filepath.Join(dir, "messages.tar.gz"))
	for _, f := range []Files{routerFiles(t, storeLog, "", tree), routerFiles(t, "", "", tree)} {
		conn := connect(t, pgtest.DSN(t))
		if f.StoreLog == nil {
			conn = withQueues(t, storeLog)
		}
		if res, err := importAll(t, conn, f, options()); err != nil || res.Messages.Messages != 363 {
			t.Errorf("%+v, %v", res, err)
		}
		if diff := cmp.Diff(byQueue(read(t, dir, "exported-messages.log")), byQueue(exportMessages(t, conn, exporter.Options{}))); diff != "" {
			t.Errorf("messages (-smp-server +smpq):\n%s", diff)
		}
	}
}

// All or nothing: what goes wrong with the messages takes the queues with it, and
// the limit of rejects is for both.
func TestAllOrNothing(t *testing.T) {
	storeLog, lines := base(t)
	f := routerFiles(t, write(t, read(t, storeLog)+"garbage\n"), write(t, lines[0]+"garbage\n"+lines[1]+"garbage\n"), "")
	conn := connect(t, pgtest.DSN(t))
	o := options()
	o.MaxRejects = 2
	_, err := importAll(t, conn, f, o)
	if rejected, ok := errors.AsType[*RejectedError](err); !ok || !strings.Contains(rejected.Error(), ": line 4, column 1: not a message") {
		t.Errorf("got %v", err)
	}
	if exists(t, conn) {
		t.Error("a schema was left behind")
	}
	o.MaxRejects = 3
	if res, err := importAll(t, conn, f, o); err != nil || res.Rejected() != 3 || res.StoreLog.Rejected != 1 {
		t.Errorf("%+v, %v", res, err)
	}
	for _, phase := range []string{"copying messages", "verifying"} {
		conn := connect(t, pgtest.DSN(t))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		o.TempDir = t.TempDir()
		o.Progress = atPhase{phase, cancel}
		if _, err := All(ctx, conn, f, o); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", phase, err)
		}
		if exists(t, connect(t, conn.Config().ConnString())) {
			t.Errorf("%s: a schema was left behind", phase)
		}
	}
}
