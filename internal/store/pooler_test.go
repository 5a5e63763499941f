package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

// poolSize is the number of sessions that the pooler has for all its clients.
const poolSize = 3

// poolerScript runs a program until standard input ends, however the test ends.
const poolerScript = `"$@" & cat >/dev/null; kill -TERM $!; wait $!`

// newPooler starts PgBouncer, in transaction mode, in front of a server, until the
// end of the test, and returns the connection string by which to reach it.
func newPooler(t testing.TB, p *proxy) (dsn string) {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer" // the folder is not in the path of everybody
	}
	dir := pgtest.Folder(t)
	host, port, err := net.SplitHostPort(p.address)
	if err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "pgbouncer.ini")
	password := ""
	if p.server.Password != "" {
		password = "password=" + p.server.Password
	}
	text := fmt.Sprintf(`
[databases]
* = host=%s port=%s user=%s %s
[pgbouncer]
pool_mode = transaction
default_pool_size = %d
listen_addr =
unix_socket_dir = %s
auth_type = any
server_login_retry = 1
query_wait_timeout = 1
log_connections = 0
log_disconnections = 0
`, host, port, p.server.User, password, poolSize, dir)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}

	cmd := exec.Command("/bin/sh", "-c", poolerScript, "sh", program, conf)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: nobody(t)}
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); t.Failed() {
			t.Logf("pgbouncer: %v\n%s", err, &log)
		}
	})
	dsn = fmt.Sprintf("host=%s port=6432 user=smpq dbname=%s sslmode=disable", dir, p.server.Database)
	eventually(t, "PgBouncer answers; is it installed?", func() bool {
		conn, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			return false
		}
		return conn.Close(t.Context()) == nil
	})
	return dsn
}

// nobody returns whom PgBouncer can run as if this is root: it refuses root.
func nobody(t testing.TB) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// A store works through PgBouncer in transaction mode, in which each transaction
// may get another session, one that other clients have left in disorder, and
// leaves none behind.
func TestPooler(t *testing.T) {
	direct := newDatabase(t)
	p := newProxy(t, direct.DSN)
	c := direct
	c.DSN = newPooler(t, p)
	f := fixture{openStore(t, store.Options{Config: c, CacheSize: 1, Pooled: true}), direct, pgtest.Conn(t, direct.DSN)}
	admin := openStore(t, store.Options{Config: c, Pooled: true, Admin: "tester"})

	// What other clients leave is lasting: the sessions stay the same.
	const disorder = "set search_path to nowhere"
	other := pgtest.Conn(t, c.DSN)
	var wg sync.WaitGroup
	for range 2 * poolSize {
		wg.Go(func() {
			conn, err := pgx.Connect(t.Context(), c.DSN)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close(context.WithoutCancel(t.Context()))
			if _, err := conn.Exec(t.Context(), disorder+"; select pg_sleep(0.2)", pgx.QueryExecModeSimpleProtocol); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()

	services := []queue.ServiceID{f.addService(t, queue.RoleMessaging), f.addService(t, queue.RoleMessaging)}
	for n := range 4 * poolSize {
		wg.Go(func() {
			r := fullRecord()
			q, err := f.AddQueue(t.Context(), r)
			if err != nil {
				t.Error(err)
				return
			}
			for i := range 10 {
				if err := pooledWork(t.Context(), f.Store, q, services[(n+i)%2]); err != nil {
					t.Error(err)
				}
			}
			r.Notifier = nil
			f.wantFound(t, r)
		})
	}
	wg.Wait()
	for _, id := range services {
		if a, err := f.ServiceQueues(t.Context(), id, queue.PartyRecipient); err != nil || a.Count != 2*poolSize {
			t.Errorf("service with %d queues, %v", a.Count, err)
		}
	}

	q := f.add(t, newRecord())
	block(t, admin, q.ID())
	eventually(t, "the router sees what an administrator did", func() bool { return blocked(t, f.Store, q.ID()) })

	for range 3 * poolSize {
		var path, limit string
		var prepared int
		err := other.QueryRow(t.Context(), "select current_setting('search_path'), current_setting('statement_timeout'),"+
			" (select count(*) from pg_prepared_statements where name <> '')", pgx.QueryExecModeExec).Scan(&path, &limit, &prepared)
		if err != nil || path != "nowhere" || limit != "0" || prepared != 0 {
			t.Errorf("a session has search_path %s, statement_timeout %s, %d prepared statements, %v", path, limit, prepared, err)
		}
	}
	// The router and the administrator are many connections, to the pooler.
	if n := f.number(t, "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'smpq test'"); n > poolSize {
		t.Errorf("%d sessions", n)
	}

	// The server goes, and comes back.
	p.refuse()
	if _, err := f.PeekMessage(t.Context(), q.ID()); store.CodeOf(err) != store.CodeStore {
		t.Errorf("while the server is away: %v", err)
	}
	p.restore(t)
	eventually(t, "it works again", func() bool {
		_, err := f.PeekMessage(t.Context(), q.ID())
		return err == nil
	})
}

// pooledWork changes a queue, which has no messages, in many ways.
func pooledWork(ctx context.Context, s *store.Store, q *store.Queue, service queue.ServiceID) error {
	message := queue.Message{ID: queue.MessageID{EntityID: randomID()}, Time: 1, Body: []byte("body")}
	_, err := s.WriteMessage(ctx, q.ID(), message)
	deleted, err1 := s.DeleteMessage(ctx, q.ID(), message.ID)
	if err1 == nil && deleted == nil {
		err1 = errors.New("the message is not there")
	}
	_, err2 := s.AddNotifier(ctx, q, randomNotifier())
	_, err3 := s.DeleteNotifier(ctx, q)
	return errors.Join(err, err1, err2, err3,
		s.SetRecipientKeys(ctx, q, []smp.PublicKey{randomKey()}...),
		s.SetService(ctx, q, queue.PartyRecipient, service))
}
