package control_test

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/control"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/stats"
	"github.com/smpq/smpq/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.M{M: m}) }

// timeout is when a test fails in which something does not come.
const timeout = 30 * time.Second

// A site is a router that serves, with its database, statistics and control port.
type site struct {
	conn    *pgx.Conn
	store   *store.Store
	router  *router.Router
	stats   *stats.Statistics
	address *smp.RouterAddress
	control string // address of the control port
	folder  string // of its files
	ahead   atomic.Int64
	log     journal
}

// now is the clock of the router, which a test puts forward.
func (s *site) now() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }

func (s *site) putForward(by time.Duration) { s.ahead.Add(int64(by)) }

// A journal is what was logged.
type journal struct {
	mu   sync.Mutex // guards what follows
	text strings.Builder
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func password(t testing.TB, text string) smp.Password {
	t.Helper()
	p, err := smp.ParsePassword(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// start starts a router until the end of the test, in an empty database. Its clock
// says that it is noon, so that no day ends by itself.
func start(t testing.TB, change ...func(*control.Options)) *site {
	t.Helper()
	s := &site{folder: t.TempDir()}
	s.putForward(time.Until(time.Now().UTC().Truncate(24 * time.Hour).Add(12 * time.Hour)))
	config := store.Config{DSN: pgtest.DSN(t), Schema: "smp_server", Application: "smpq test"}
	s.conn = pgtest.Conn(t, config.DSN)
	if _, err := schema.Migrate(t.Context(), s.conn, config.Schema, schema.Newest, schema.Options{}); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.store, err = store.Open(t.Context(), store.Options{Config: config, CacheSize: 16 << 20}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.store.Close)
	s.router, err = router.New(router.Options{
		Store: s.store, Credentials: routertest.NewCredentials(t), Now: s.now,
		EndInterval: 20 * time.Millisecond, NotifyInterval: 20 * time.Millisecond,
		NotificationLog: s.folder + "/smp-server-ntfs.log", SaveInterval: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := s.router.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	host, err := smp.ParseHost(at.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s.address = &smp.RouterAddress{Fingerprint: s.router.Identity(), Hosts: []smp.Host{host}, Port: at.Port()}
	beside(t, func(ctx context.Context) error { return s.router.Serve(ctx, l) })
	s.stats, err = stats.New(t.Context(), stats.Options{Router: s.router, Store: s.store, Folder: s.folder, Daily: true, Now: s.now, Tick: 2 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	beside(t, func(ctx context.Context) error {
		s.stats.Run(ctx)
		return nil
	})
	o := control.Options{
		Router: s.router, Audit: s.store, Statistics: s.stats, Now: s.now,
		Admin: password(t, "admin-pw"), User: password(t, "user-pw"), Log: slog.New(slog.NewTextHandler(&s.log, nil)),
		Save: func(ctx context.Context) error { return errors.Join(s.router.Save(), s.stats.Save(ctx)) },
	}
	for _, f := range change {
		f(&o)
	}
	port, err := control.Listen(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	s.control = port.Addr().String()
	server := control.New(o)
	beside(t, func(ctx context.Context) error { return server.Serve(ctx, port) })
	return s
}

// beside runs something until the end of the test.
func beside(t testing.TB, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A console is a session of the control port.
type console struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
}

// open opens a session, which gets a role by a password unless that is empty.
func (s *site) open(t testing.TB, password string) *console {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", s.control)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		t.Fatal(err)
	}
	c := &console{t: t, conn: conn, in: bufio.NewReader(conn)}
	for _, want := range []string{"SMP server control port", "'help' for supported commands"} {
		if got := c.line(); got != want {
			t.Fatalf("the session begins with %q, not %q", got, want)
		}
	}
	if password != "" {
		c.ask("auth " + password)
	}
	return c
}

func (c *console) line() string {
	c.t.Helper()
	line, err := c.in.ReadString('\n')
	if err != nil {
		c.t.Fatalf("%q, %v", line, err)
	}
	return strings.TrimSuffix(line, "\n")
}

func (c *console) write(text string) {
	c.t.Helper()
	if _, err := c.conn.Write([]byte(text)); err != nil {
		c.t.Fatal(err)
	}
}

// close ends the session.
func (c *console) close() {
	c.t.Helper()
	c.write("quit\n")
	if b, err := c.in.ReadByte(); err == nil {
		c.t.Errorf("behind the end there is %q", b)
	}
}

// ask sends a line and returns the lines of the answer.
func (c *console) ask(line string) (answer []string) {
	c.t.Helper()
	c.write(line + "\nhelp\n") // whose answer is the end of that to the line
	for {
		got := c.line()
		if strings.HasPrefix(got, "commands: ") {
			return answer
		}
		answer = append(answer, got)
	}
}

// want sends a line that is answered with one line.
func (c *console) want(line, want string) {
	c.t.Helper()
	if got := strings.Join(c.ask(line), "\n"); got != want {
		c.t.Errorf("%s: the answer is %q, not %q", line, got, want)
	}
}

// A peer is a client.
type peer struct {
	*client.Client
	t testing.TB
}

func (s *site) dial(t testing.TB, change ...func(*client.Options)) *peer {
	t.Helper()
	var o client.Options
	for _, f := range change {
		f(&o)
	}
	c, err := client.Dial(t.Context(), s.address, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &peer{c, t}
}

func asService(t testing.TB, role queue.Role) func(*client.Options) {
	t.Helper()
	c := routertest.NewServiceCredentials(t, role)
	return func(o *client.Options) { o.Service = &c }
}

// A box is a queue.
type box struct {
	recipient, sender, link smp.EntityID
	key                     auth.PrivateKey
}

func newKey(t testing.TB, a smp.Algorithm) auth.PrivateKey {
	t.Helper()
	k, err := auth.GenerateKey(a)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// newQueue makes a queue and subscribes to it.
func (p *peer) newQueue() *box {
	p.t.Helper()
	b := &box{key: newKey(p.t, smp.Ed25519)}
	ids := must[*smp.IDS](p, smp.EntityID{}, b.key, &smp.NEW{
		RecipientKey: b.key.Public(), DHKey: newKey(p.t, smp.X25519).Public(), Subscribe: true, Mode: smp.ModeContact,
	})
	b.recipient, b.sender = ids.RecipientID.ID(), ids.SenderID.ID()
	return b
}

// addLink gives a queue a short link.
func (p *peer) addLink(b *box, id string) {
	p.t.Helper()
	b.link = smp.NewEntityID(id)
	short, err := b.link.Short()
	if err != nil {
		p.t.Fatal(err)
	}
	must[*smp.OK](p, b.recipient, b.key, &smp.LSET{LinkID: short, Data: smp.LinkData{Fixed: []byte("fixed"), User: []byte("user")}})
}

func (p *peer) do(entity smp.EntityID, key auth.PrivateKey, c smp.Command) (smp.Response, error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), timeout)
	defer cancel()
	return p.Do(ctx, client.Request{Entity: entity, Key: key, Command: c})
}

// must sends a command that is answered with a response of a certain type.
func must[R smp.Response](p *peer, entity smp.EntityID, key auth.PrivateKey, c smp.Command) R {
	p.t.Helper()
	r, err := client.As[R](p.do(entity, key, c))
	if err != nil {
		p.t.Fatalf("%T: %v", c, err)
	}
	return r
}

func (p *peer) send(b *box) {
	p.t.Helper()
	must[*smp.OK](p, b.sender, auth.PrivateKey{}, &smp.SEND{Body: []byte("text")})
}

// expect returns the next event, which must be of a certain type and about entity.
func expect[R smp.Response](p *peer, entity smp.EntityID) (r R) {
	p.t.Helper()
	select {
	case e := <-p.Events():
		var is bool
		if r, is = e.Response.(R); !is || e.Entity != entity {
			p.t.Fatalf("the event is %T about %s", e.Response, e.Entity)
		}
	case <-time.After(timeout):
		p.t.Fatal("no event comes")
	}
	return r
}

// eventually waits until something is so.
func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	deadline := time.After(timeout)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s does not happen", what)
		}
	}
}
