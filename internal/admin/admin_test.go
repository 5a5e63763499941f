package admin_test

import (
	"context"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/admin"
	"github.com/smpq/smpq/internal/dumptest"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.M{M: m}) }

// A site is a database that a router made, and a connection to it.
type site struct {
	config store.Config
	schema store.Schema
	conn   *pgx.Conn
}

func newSite(t testing.TB) site {
	t.Helper()
	s := site{config: store.Config{DSN: pgtest.DSN(t), Schema: "smp_server", Application: "smpq test"}}
	s.conn = pgtest.Conn(t, s.config.DSN)
	dumptest.Load(t, s.conn, s.config.Schema, dumptest.Root+"/database-mode-live")
	var err error
	if s.schema, err = store.OpenSchema(t.Context(), s.conn, s.config.Schema); err != nil {
		t.Fatal(err)
	}
	return s
}

// active returns the ids of some active queues.
func (s site) active(t testing.TB, n int) []smp.EntityID {
	t.Helper()
	var ids []smp.EntityID
	for row, err := range store.Queues(t.Context(), s.conn, s.schema, store.ReadOptions{Live: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if row.Status.State == queue.Active && len(ids) < n {
			ids = append(ids, row.RecipientID.EntityID)
		}
	}
	if len(ids) < n {
		t.Fatalf("there are %d active queues only", len(ids))
	}
	return ids
}

func (s site) change(ctx context.Context, subjects iter.Seq2[admin.Subject, error], o admin.Options) (admin.Result, error) {
	o.Who = "tester@here"
	return admin.Change(ctx, s.conn, s.config, s.schema, subjects, o)
}

var spam = admin.Options{Operation: admin.Block, Blocking: queue.Blocking{Reason: "spam"}}

// A router that has queues in memory hears at once of what is done to them.
func TestRouterHearsOfChanges(t *testing.T) {
	s := newSite(t)
	router, err := store.Open(t.Context(), store.Options{Config: s.config, CacheSize: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer router.Close()
	id := s.active(t, 1)[0]
	q, err := router.QueueByRecipient(t.Context(), queue.RecipientID{EntityID: id})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		o    admin.Options
		want string
	}{
		{spam, "blocked,reason=spam"},
		{admin.Options{Operation: admin.Unblock}, "active"},
		{admin.Options{Operation: admin.Delete}, "deleted"},
	} {
		// Whatever the router has read before the change counts for nothing.
		state(t, router, q.ID())
		r, err := s.change(t.Context(), admin.Subjects([]smp.EntityID{id}), step.o)
		if err != nil || r.Changed != 1 {
			t.Fatalf("%s: %+v, %v", step.o.Operation, r, err)
		}
		eventually(t, func() bool { return state(t, router, q.ID()) == step.want })
	}
}

// state returns what the router takes the queue for.
func state(t testing.TB, router *store.Store, id queue.RecipientID) string {
	t.Helper()
	q, err := router.QueueByRecipient(t.Context(), id)
	if errors.Is(err, store.ErrNotFound) {
		return "deleted"
	}
	if err != nil {
		t.Fatal(err)
	}
	v, err := q.View()
	if err != nil {
		return "deleted"
	}
	return v.Status.String()
}

// eventually waits for a condition.
func eventually(t testing.TB, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ticks := time.NewTicker(5 * time.Millisecond)
	defer ticks.Stop()
	for !holds() {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			t.Fatal("it never came about")
		}
	}
}

// What somebody else does to a queue between two looks at it is respected.
func TestOthersChangeQueues(t *testing.T) {
	s := newSite(t)
	ids := s.active(t, 3)
	other := pgtest.Conn(t, s.config.DSN)
	for _, c := range []struct {
		name string
		sql  string
		o    admin.Options
		want string
	}{
		{"deleted", "deleted_at = 1", spam, "rejected: the queue is deleted"},
		{"deleted, too", "deleted_at = 1", admin.Options{Operation: admin.Delete}, "unchanged: deleted before"},
		{"suspended", "status = 'off'", spam, "blocked: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			pgtest.Exec(t, s.conn, "update smp_server.msg_queues set deleted_at = null, status = 'active'")
			// A lock of the second queue's row holds the change up after the look-up.
			tx, err := other.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(t.Context(), "update smp_server.msg_queues set "+c.sql+" where recipient_id = $1", ids[1]); err != nil {
				t.Fatal(err)
			}
			type done struct {
				r   admin.Result
				err error
			}
			result := make(chan done, 1)
			go func() {
				r, err := s.change(t.Context(), admin.Subjects(ids), c.o)
				result <- done{r, err}
			}()
			eventually(t, func() bool {
				var waits bool
				err := tx.QueryRow(t.Context(), "select exists (select from pg_locks where not granted)").Scan(&waits)
				return err == nil && waits
			})
			if err := tx.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			d := <-result
			if d.err != nil || len(d.r.Queues) != 3 {
				t.Fatalf("%+v, %v", d.r, d.err)
			}
			if got := d.r.Queues[1].Result + ": " + d.r.Queues[1].Reason; got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if d.r.Queues[2].Result == admin.Rejected {
				t.Errorf("the next one: %+v", d.r.Queues[2])
			}
		})
	}
}

// An interrupt ends the work after the queue that is under way, also where it waits
// for more ids. What was done is told.
func TestInterrupted(t *testing.T) {
	s := newSite(t)
	ids := s.active(t, 2)
	name := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	if _, err := pipe.WriteString(ids[0].String() + "\n"); err != nil {
		t.Fatal(err)
	}
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	o := spam
	o.Progress = progress(func() { cancel(stopped) })
	r, err := s.change(ctx, admin.ReadSubjects(ctx, name), o)
	if !errors.Is(err, stopped) || r.Changed != 1 || len(r.Queues) != 1 {
		t.Errorf("while it reads: %+v, %v", r, err)
	}

	ctx, cancel = context.WithCancelCause(t.Context())
	defer cancel(nil)
	o = admin.Options{Operation: admin.Delete, Progress: progress(func() { cancel(stopped) })}
	r, err = s.change(ctx, admin.Subjects(ids), o)
	if !errors.Is(err, stopped) || r.Changed != 1 || len(r.Queues) != 1 {
		t.Errorf("while it changes: %+v, %v", r, err)
	}
}

// progress is called for each queue that is done.
type progress func()

func (p progress) Add(int64) { p() }

// When the database goes, what was done is told, and nothing more is tried.
func TestDatabaseGone(t *testing.T) {
	s := newSite(t)
	other := pgtest.Conn(t, s.config.DSN)
	o := spam
	o.Progress = progress(func() {
		pgtest.Exec(t, other, "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
	})
	r, err := s.change(t.Context(), admin.Subjects(s.active(t, 3)), o)
	if err == nil || len(r.Queues) != 1 || r.Changed != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestReadSubjects(t *testing.T) {
	id := smp.NewEntityID([]byte("\xfb\xef\xbe"))
	for _, c := range []struct {
		name, text string
		want       []admin.Subject
	}{
		{"empty", "", nil},
		{"blanks and comments", "\n# --\n \t\n  # x", nil},
		{"ids", "----\n\n ---- \r\n", []admin.Subject{{Text: "----", Line: 1, ID: id}, {Text: "----", Line: 3, ID: id}}},
		{"no end of line", "#\n----", []admin.Subject{{Text: "----", Line: 2, ID: id}}},
		{"no ids", "-\n----", []admin.Subject{
			{Text: "-", Line: 1, Reason: "line 1 is neither an id in base64url nor an address: "},
			{Text: "----", Line: 2, ID: id},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "ids")
			if err := os.WriteFile(name, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			var got []admin.Subject
			for s, err := range admin.ReadSubjects(t.Context(), name) {
				if err != nil {
					t.Fatal(err)
				}
				s.Reason = s.Reason[:min(len(s.Reason), len("line 1 is neither an id in base64url nor an address: "))]
				got = append(got, s)
			}
			same := cmp.Comparer(func(a, b smp.EntityID) bool { return a == b })
			if diff := cmp.Diff(c.want, got, same); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// Statuses come in the order of the ids.
func TestStatuses(t *testing.T) {
	s := newSite(t)
	ids := s.active(t, 5)
	slices.Reverse(ids)
	r, err := admin.Statuses(t.Context(), s.conn, s.schema, admin.Subjects(ids), nil)
	if err != nil || len(r.Queues) != len(ids) || r.Rejected != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	for i, q := range r.Queues {
		if q.RecipientID.EntityID != ids[i] || q.Status != "active" {
			t.Errorf("%d: %+v", i, q)
		}
	}
}
