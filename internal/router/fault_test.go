package router_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/pglocal"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

// A cable is a network between clients and a server that can fail. Its methods may be
// called at any time.
type cable struct {
	network, server string // where the server is
	pumps           sync.WaitGroup

	mu       sync.Mutex // guards the rest
	address  string
	listener net.Listener // nil: nobody can connect
	ends     map[net.Conn]struct{}
	open     chan struct{} // closed while bytes pass
}

// newCable returns a cable to a server, until the end of the test.
func newCable(t testing.TB, network, server string) *cable {
	t.Helper()
	c := &cable{network: network, server: server, address: "127.0.0.1:0", ends: make(map[net.Conn]struct{}), open: make(chan struct{})}
	close(c.open)
	c.mend(t)
	t.Cleanup(func() {
		c.unplug()
		c.mu.Lock()
		c.pass()
		c.mu.Unlock()
		c.pumps.Wait()
	})
	return c
}

// at returns the host and the port of the near end.
func (c *cable) at(t testing.TB) (host string, port uint16) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	host, text, err := net.SplitHostPort(c.address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return host, uint16(n)
}

// cut ends all connections at once.
func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for end := range c.ends {
		_ = end.Close()
	}
}

// unplug is cut, and keeps others from connecting until mend.
func (c *cable) unplug() {
	c.mu.Lock()
	if c.listener != nil {
		_ = c.listener.Close()
		c.listener = nil
	}
	c.mu.Unlock()
	c.cut()
}

// hold holds back all that is sent until mend, both ways. Connections stay open, new
// ones are accepted.
func (c *cable) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flows() {
		c.open = make(chan struct{})
	}
}

// mend ends unplug and hold. What was held back is sent.
func (c *cable) mend(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pass()
	if c.listener != nil {
		return
	}
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", c.address)
	if err != nil {
		t.Fatal(err)
	}
	c.listener, c.address = l, l.Addr().String()
	c.pumps.Go(func() { c.accept(l) })
}

// flows reports whether bytes pass. The mutex must be held, as for pass.
func (c *cable) flows() bool {
	select {
	case <-c.open:
		return true
	default:
		return false
	}
}

func (c *cable) pass() {
	if !c.flows() {
		close(c.open)
	}
}

func (c *cable) accept(l net.Listener) {
	for {
		near, err := l.Accept()
		if err != nil {
			return // unplugged
		}
		far, err := new(net.Dialer).DialContext(context.Background(), c.network, c.server)
		if err != nil {
			_ = near.Close() // the server is away, so this connection is as well
			continue
		}
		c.mu.Lock()
		c.ends[near], c.ends[far] = struct{}{}, struct{}{}
		if c.listener != l {
			_, _ = near.Close(), far.Close() // unplugged meanwhile
		}
		c.mu.Unlock()
		c.pumps.Go(func() { c.pump(near, far) })
		c.pumps.Go(func() { c.pump(far, near) })
	}
}

// pump sends on what comes until the connection ends, and ends the other one.
func (c *cable) pump(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		c.mu.Lock()
		open := c.open
		c.mu.Unlock()
		<-open
		if n > 0 && err == nil {
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			break
		}
	}
	_, _ = from.Close(), to.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.ends, from)
}

// A harmedServer is a PostgreSQL of its own, that a test may harm.
type harmedServer struct {
	dir     string
	cluster *pglocal.Cluster
}

// newHarmedServer starts a server until the end of the test.
func newHarmedServer(t *testing.T) *harmedServer {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "smpq-test-") //nolint:usetesting // who runs the server must get there
	if err != nil {
		t.Fatal(err)
	}
	s := &harmedServer{dir: dir}
	t.Cleanup(func() {
		s.stop(t)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s.start(t)
	return s
}

func (s *harmedServer) start(t *testing.T) {
	t.Helper()
	var err error
	s.cluster, err = pglocal.Start(t.Context(), pglocal.Options{Dir: s.dir, Settings: map[string]string{
		"fsync":      "off", // the machine goes on
		"autovacuum": "off", // it makes room in tables
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// stop stops the server if it runs.
func (s *harmedServer) stop(t *testing.T) {
	t.Helper()
	if s.cluster == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	if err := s.cluster.Close(ctx); err != nil {
		t.Error(err)
	}
}

// crash ends the server without order: the next start has to mend its data.
func (s *harmedServer) crash(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(s.pid(t), syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	s.stop(t)
}

func (s *harmedServer) pid(t *testing.T) int {
	t.Helper()
	status, err := pglocal.Inspect(t.Context(), s.dir)
	if err != nil || status.PID == 0 {
		t.Fatalf("the server does not run: %+v, %v", status, err)
	}
	return status.PID
}

// site returns the server's database.
func (s *harmedServer) site(t *testing.T) *site {
	t.Helper()
	at := &site{config: store.Config{DSN: s.cluster.DSN(""), Schema: "smp_server", Application: "smpq test"}}
	conn := s.connect(t)
	defer conn.Close(t.Context())
	if _, err := schema.Migrate(t.Context(), conn, at.config.Schema, schema.Newest, schema.Options{}); err != nil {
		t.Fatal(err)
	}
	return at
}

func (s *harmedServer) connect(t *testing.T) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.cluster.DSN(""))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// fillDisk lets the files of the server grow no more: that of the messages is made the
// largest. The log of what is committed is in files of 16 MiB.
func (s *harmedServer) fillDisk(t *testing.T) {
	t.Helper()
	conn := s.connect(t)
	defer conn.Close(t.Context())
	_, err := conn.Exec(t.Context(), `begin;
		insert into smp_server.messages (recipient_id, msg_id, msg_ts, msg_quota, msg_ntf_flag, msg_body)
		select (select recipient_id from smp_server.msg_queues limit 1), 'ballast', 0, false, false, decode(repeat('00', 1900), 'hex')
		  from generate_series(1, 10000);
		rollback`, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	if err := conn.QueryRow(t.Context(), "select pg_relation_size('smp_server.messages')").Scan(&size); err != nil {
		t.Fatal(err)
	}
	s.limitFiles(t, strconv.FormatInt(size, 10))
}

// freeDisk undoes fillDisk.
func (s *harmedServer) freeDisk(t *testing.T) {
	t.Helper()
	s.limitFiles(t, "unlimited")
}

// limitFiles sets the size of files for all processes of the server. That which starts
// others stands still meanwhile.
func (s *harmedServer) limitFiles(t *testing.T, size string) {
	t.Helper()
	postmaster := s.pid(t)
	if err := syscall.Kill(postmaster, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Kill(postmaster, syscall.SIGCONT); err != nil {
			t.Error(err)
		}
	}()
	eventually(t, "that the server stands still", func() bool { return processState(t, postmaster) == "T" })
	children, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(postmaster), "task", strconv.Itoa(postmaster), "children"))
	if err != nil {
		t.Fatal(err)
	}
	for i, pid := range append([]string{strconv.Itoa(postmaster)}, strings.Fields(string(children))...) {
		cmd := exec.CommandContext(t.Context(), "prlimit", "--pid", pid, "--fsize="+size+":")
		if os.Geteuid() == 0 {
			// Even root may have to be who runs the server.
			data, err := os.Stat(filepath.Join(s.dir, "data"))
			if err != nil {
				t.Fatal(err)
			}
			owner := data.Sys().(*syscall.Stat_t)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			if _, gone := os.Stat("/proc/" + pid); i == 0 || gone == nil {
				t.Fatalf("limit the files of process %s: %v: %s", pid, err, out)
			}
		}
	}
}

// processState returns the letter that says what a process does.
func processState(t *testing.T, pid int) string {
	t.Helper()
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return rest[:1]
}
