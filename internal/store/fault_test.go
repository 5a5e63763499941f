package store_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

// A load is the work of the model test, by one process, while a test makes
// something fail.
type load struct {
	fixture
	p    *modelProcess
	done chan struct{} // closed at the end of the work
	wg   sync.WaitGroup
}

// newLoad prepares work on a database, which the store reaches by a connection
// string of its own.
func newLoad(t testing.TB, direct store.Config, dsn string) *load {
	t.Helper()
	config := direct
	config.DSN = dsn
	s := openStore(t, store.Options{Config: config, CacheSize: 64 << 20, Quota: modelQuota})
	f := fixture{Store: s, config: direct}
	shared := f.addQueues(t, 3)
	seed := modelSetting(t, seedVariable, rand.Uint64()>>1)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s=%d chooses the same operations again", seedVariable, seed)
		}
	})
	l := &load{fixture: f, p: newModelProcess(t, s, direct, 0, seed, shared), done: make(chan struct{})}
	t.Cleanup(l.end)
	return l
}

// start begins the work. A fault is due after so many operations each time.
func (l *load) start(operations, every int64) {
	l.p.faults, l.p.every = make(chan struct{}), every
	l.wg.Go(func() {
		defer close(l.done)
		l.p.run(operations)
	})
}

// fault waits until a fault is due: there is work before and after it.
func (l *load) fault(t testing.TB) {
	t.Helper()
	select {
	case <-l.p.faults:
	case <-l.done:
		t.Fatal("the work has ended before the fault")
	}
}

// end ends the work.
func (l *load) end() {
	l.p.left.Store(0)
	l.wg.Wait()
}

// endless is the number of operations for work that goes on until check.
const endless = 1 << 40

// check ends the work and checks that nothing that was
// acknowledged is lost, and nothing is there twice.
func (l *load) check(t testing.TB) {
	t.Helper()
	l.end()
	l.p.verify()
	l.conn = l.connect(t)
	report := l.p.report()
	checkShared(t, l.conn, l.p.shared, report)
	l.wantSound(t, len(l.p.shared)+len(report.Live))
	l.wantEntities(t, "after the faults")
	t.Log(countsText(report.Counts))
	if l.p.counts.get("operations") < 100 {
		t.Error("there was no work")
	}
}

// victimDatabase returns the database of a server that a test may harm, with an empty
// schema of the newest version.
func victimDatabase(t testing.TB, v *pgtest.Victim) store.Config {
	t.Helper()
	c := store.Config{DSN: v.DSN(), Schema: schemaName, Application: "smpq test"}
	conn := fixture{config: c}.connect(t)
	if _, err := schema.Migrate(t.Context(), conn, c.Schema, schema.Newest, schema.Options{}); err != nil {
		t.Fatal(err)
	}
	return c
}

// The server is killed and started again while everything is in use. Meanwhile
// calls fail at once.
func TestServerIsKilled(t *testing.T) {
	server := pgtest.NewVictim(t, pgtest.Folder(t), nil)
	config := victimDatabase(t, server)
	l := newLoad(t, config, config.DSN)
	l.start(endless, 600)
	for range 3 {
		l.fault(t)
		server.Kill(t)
		began := time.Now()
		const calls = 100
		for n := range calls {
			_, err := l.QueueByRecipient(t.Context(), queue.RecipientID{EntityID: randomID()})
			if n%2 == 1 {
				_, err = l.WriteMessage(t.Context(), l.p.shared[0], newMessage(n, ""))
			}
			if store.CodeOf(err) != store.CodeStore {
				t.Errorf("while there is no server: %v", err)
			}
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%d calls took %s while there is no server", calls, took)
		}
		server.Start(t)
	}
	l.fault(t) // the work goes on
	l.check(t)
	for _, outcome := range []string{"database away", "outcome not known"} {
		if l.p.counts.get(outcome) == 0 {
			t.Errorf("never: %s", outcome)
		}
	}
}

// Connections are cut again and again while changes, messages and deletes are
// about to be committed, or have been.
func TestConnectionsAreCutAtCommits(t *testing.T) {
	direct := newDatabase(t)
	network := newProxy(t, direct.DSN)
	l := newLoad(t, direct, network.dsn())
	l.start(3000, 12)
	cuts := 0
	for {
		select {
		case <-l.p.faults:
			at := []cutPoint{beforeCommit, afterCommit}[cuts%2]
			network.cutNext(at, []string{"for update", "update ", "insert into"}[cuts/2%3])
			cuts++
			continue
		case <-l.done:
		}
		break
	}
	network.forget()
	l.check(t)
	for _, outcome := range []string{"was carried out after all", "was not carried out"} {
		if n := l.p.counts.get(outcome); n < 10 {
			t.Errorf("%s: %d times, of %d cuts", outcome, n, cuts)
		}
	}
}

// forget gives up the cuts that were not made yet.
func (p *proxy) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts = nil
}

// The disk of the server is full for a while.
func TestFullDisk(t *testing.T) {
	for name, newDisk := range disks() {
		t.Run(name, func(t *testing.T) {
			disk := newDisk(t)
			server := pgtest.NewVictim(t, disk.folder(), map[string]string{
				"autovacuum":     "off", // which would make room in tables
				"shared_buffers": "4MB", "min_wal_size": "80MB", "max_wal_size": "80MB",
			})
			config := victimDatabase(t, server)
			l := newLoad(t, config, config.DSN)
			conn := l.connect(t)
			// There is always room for the log of what is committed: without it the
			// server would stop, which is another test.
			for range 4 {
				if _, err := conn.Exec(t.Context(), "create table t (); drop table t; select pg_switch_wal(); checkpoint", pgx.QueryExecModeSimpleProtocol); err != nil {
					t.Fatal(err)
				}
			}
			probe := l.add(t, newRecord())
			large := func() error {
				head, err := l.PeekMessage(t.Context(), probe.ID())
				if err == nil && head != nil {
					_, err = l.DeleteMessage(t.Context(), probe.ID(), head.ID)
				}
				if err == nil {
					m := queue.Message{ID: queue.MessageID{EntityID: randomID()}, Body: randomBytes(1900)}
					_, err = l.WriteMessage(t.Context(), probe.ID(), m)
				}
				return err
			}
			l.start(endless, 800)
			for range 2 {
				l.fault(t)
				disk.fill(t, server)
				eventually(t, "there is no room", func() bool {
					err := large()
					if err != nil && store.CodeOf(err) != store.CodeStore {
						t.Fatal(err)
					}
					return err != nil
				})
				disk.free(t, server)
				eventually(t, "there is room again", func() bool { return large() == nil })
			}
			l.fault(t) // the work goes on
			l.end()
			if _, err := l.DeleteQueue(t.Context(), probe); err != nil {
				t.Fatal(err)
			}
			l.check(t)
		})
	}
}

// A disk is where a server keeps its data, and can be full.
type disk interface {
	folder() string
	fill(testing.TB, *pgtest.Victim)
	free(testing.TB, *pgtest.Victim)
}

// disks returns the kinds of disks that a test can make: only root can mount one.
func disks() map[string]func(testing.TB) disk {
	all := map[string]func(testing.TB) disk{"files do not grow": newFileLimit}
	if os.Geteuid() == 0 {
		all["no space left"] = newSmallDisk
	}
	return all
}

// A smallDisk is a file system of its own.
type smallDisk struct{ dir string }

func newSmallDisk(t testing.TB) disk {
	t.Helper()
	d := smallDisk{pgtest.Folder(t)}
	if err := syscall.Mount("tmpfs", d.dir, "tmpfs", 0, "size=256m,mode=755"); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		// A process of the server may not have ended quite.
		if err := syscall.Unmount(d.dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (d smallDisk) folder() string  { return filepath.Join(d.dir, "home") }
func (d smallDisk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill leaves a few pages.
func (d smallDisk) fill(t testing.TB, _ *pgtest.Victim) {
	t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &s); err != nil {
		t.Fatal(err)
	}
	const left = 8
	err := os.WriteFile(d.ballast(), make([]byte, (int64(s.Bavail)-left)*s.Bsize), 0o600)
	if err != nil && !errors.Is(err, syscall.ENOSPC) { // the server may have been quicker
		t.Fatal(err)
	}
}

func (d smallDisk) free(t testing.TB, _ *pgtest.Victim) {
	t.Helper()
	if err := os.Remove(d.ballast()); err != nil {
		t.Fatal(err)
	}
}

// A fileLimit lets the files of a server grow no more.
type fileLimit struct{ dir string }

func newFileLimit(t testing.TB) disk {
	t.Helper()
	return fileLimit{pgtest.Folder(t)}
}

func (d fileLimit) folder() string { return d.dir }

func (fileLimit) fill(t testing.TB, v *pgtest.Victim) {
	t.Helper()
	v.LimitFiles(t, schemaName)
}

func (fileLimit) free(t testing.TB, v *pgtest.Victim) {
	t.Helper()
	v.FreeFiles(t)
}

// A session of the server can outlive its connection: what it was told to write, it
// may write later than anybody has looked. The next who looks waits until it has,
// or never will.
//
// contract: QS-02
func TestWriteOfALostConnection(t *testing.T) {
	for name, size := range map[string]int64{"cache off": 0, "cache": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			direct := newDatabase(t)
			network := newProxy(t, direct.DSN)
			c := direct
			c.DSN = network.dsn()
			f := fixture{openStore(t, store.Options{Config: c, CacheSize: size}), direct, pgtest.Conn(t, direct.DSN)}
			q := f.add(t, newRecord())
			if _, err := f.WriteMessage(t.Context(), q.ID(), newModelMessage(1, young).message()); err != nil {
				t.Fatal(err)
			}
			other := f.connect(t)
			pgtest.Exec(t, other, "begin")
			pgtest.Exec(t, other, "select from msg_queues where recipient_id = $1 for update", q.ID())
			errs := make(chan error)
			go func() { errs <- f.SuspendQueue(t.Context(), q) }()
			go func() { errs <- second(f.DeleteMessage(t.Context(), q.ID(), messageID(1))) }()
			f.waitForLocks(t, 2)
			network.refuse() // so that nobody can tell the server to stop
			for range 2 {
				if err := <-errs; store.CodeOf(err) != store.CodeStore || store.Certain(err) {
					t.Fatalf("the connection was cut: %v", err)
				}
			}
			network.restore(t)
			var seen store.View
			eventually(t, "the store works again", func() bool {
				q, err := f.QueueByRecipient(t.Context(), q.ID())
				if err == nil {
					seen = view(t, q)
				}
				return err == nil
			})
			size, err := f.QueueSize(t.Context(), q.ID())
			if err != nil {
				t.Fatal(err)
			}
			pgtest.Exec(t, other, "commit")
			f.await(t, "select count(*) from pg_stat_activity where datname = current_database() and state = 'active'", 1) // this one
			stored, err := storedState(t.Context(), f.conn, q.ID())
			if err != nil {
				t.Fatal(err)
			}
			if stored.view != seen || stored.messages.size() != int(size) {
				t.Errorf("seen were %d messages and\n%+v\nafterwards there are %d and\n%+v", size, seen, stored.messages.size(), stored.view)
			}
		})
	}
}
