// Package routertest is a router in memory, for the tests of clients.
//
// It speaks all versions of the protocol and answers as a router must, so that
// clients can be tested against it over real connections. It is not a router to
// be used: one lock guards everything, nothing is stored, nothing expires, queues
// are never blocked, and memory has no limits. What real routers collect for
// seconds (END, ENDS, DELD, NMSG) it sends at once.
package routertest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/transport"
)

// Options say what a router is like. With the zero Options it speaks all versions
// and serves everybody.
type Options struct {
	// Versions are those that it speaks; a zero bound is [smp.MinVersion] or
	// [smp.MaxVersion].
	Versions smp.VersionRange
	// Password is needed to create queues, and to use the router as a proxy; zero:
	// none.
	Password smp.Password
	// Quota is the number of messages that a queue has room for; 0: 128.
	Quota int
	// NoProxy says that it forwards nothing to other routers.
	NoProxy bool
	// NoServices says that it takes no services.
	NoServices bool
	// Credentials are its certificates; zero: new ones.
	Credentials transport.Credentials
	// Answer, if it is not nil, is called with each command before the router
	// handles any command of the same block, also with those in RFWD. A response is
	// sent instead of the router's own; with drop, nothing is. It runs in the
	// goroutine of the connection, thus for several connections at the same time.
	Answer func(smp.Command, *smp.Transmission) (r smp.Response, drop bool)
}

// A Router is a router in memory.
type Router struct {
	// Set by New, then read-only.
	options  Options
	acceptor *transport.Acceptor
	listener net.Listener
	ctx      context.Context // ends with the router
	cancel   context.CancelFunc

	work sync.WaitGroup // all goroutines

	mu         sync.Mutex // guards what follows
	sessions   map[*session]struct{}
	recipients map[smp.EntityID]*inbox
	senders    map[smp.EntityID]*inbox
	links      map[smp.EntityID]*inbox
	notifiers  map[smp.EntityID]*inbox
	services   map[smp.Fingerprint]*service
	relays     map[string]*relay
}

// stopTimeout is how long a router may take to stop.
const stopTimeout = 10 * time.Second

// Start is [New] for a test, at the end of which the router is stopped; the test
// fails if it does not start or stop.
func Start(t testing.TB, o Options) *Router {
	t.Helper()
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// New starts a router on a free port of 127.0.0.1. It must be closed.
func New(o Options) (*Router, error) {
	if o.Versions.Min == 0 {
		o.Versions.Min = smp.MinVersion
	}
	if o.Versions.Max == 0 {
		o.Versions.Max = smp.MaxVersion
	}
	if o.Quota == 0 {
		o.Quota = 128
	}
	if o.Credentials.Chain == nil {
		var err error
		if o.Credentials, err = newCredentials(); err != nil {
			return nil, fmt.Errorf("start router: %w", err)
		}
	}
	r := &Router{
		options:    o,
		sessions:   make(map[*session]struct{}),
		recipients: make(map[smp.EntityID]*inbox),
		senders:    make(map[smp.EntityID]*inbox),
		links:      make(map[smp.EntityID]*inbox),
		notifiers:  make(map[smp.EntityID]*inbox),
		services:   make(map[smp.Fingerprint]*service),
		relays:     make(map[string]*relay),
	}
	config := transport.AcceptorConfig{Credentials: o.Credentials, Versions: o.Versions}
	if !o.NoServices {
		config.Service = r.takeService
	}
	var err error
	if r.acceptor, err = transport.NewAcceptor(config); err != nil {
		return nil, fmt.Errorf("start router: %w", err)
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	var lc net.ListenConfig
	if r.listener, err = lc.Listen(r.ctx, "tcp", "127.0.0.1:0"); err != nil {
		r.cancel()
		return nil, fmt.Errorf("start router: %w", err)
	}
	r.work.Go(r.accept)
	return r, nil
}

// Close stops the router, and fails if it does not stop.
func (r *Router) Close() error {
	r.cancel()
	_ = r.listener.Close()
	r.Disconnect()
	r.disconnectRelays()
	stopped := make(chan struct{})
	go func() {
		r.work.Wait()
		close(stopped)
	}()
	select {
	case <-stopped:
		return nil
	case <-time.After(stopTimeout):
		return errors.New("the router does not stop; is a call of Answer stuck?")
	}
}

// Address returns the address of the router, with its password if it has one.
func (r *Router) Address() *smp.RouterAddress {
	at := netip.MustParseAddrPort(r.listener.Addr().String())
	host, err := smp.ParseHost(at.Addr().String())
	if err != nil {
		panic(err) // an IP address is a host
	}
	return &smp.RouterAddress{
		Fingerprint: r.acceptor.Identity(),
		Password:    r.options.Password,
		Hosts:       []smp.Host{host},
		Port:        at.Port(),
	}
}

// Credentials returns the certificates of the router and its key.
func (r *Router) Credentials() transport.Credentials { return r.options.Credentials }

// Disconnect closes all connections of clients, of proxies among them. They hold
// no subscriptions any more when it returns.
func (r *Router) Disconnect() {
	r.mu.Lock()
	var left []*session
	for s := range r.sessions {
		r.leave(s)
		left = append(left, s)
	}
	r.mu.Unlock()
	for _, s := range left {
		_ = s.conn.Close()
	}
}

// Connections returns the number of connections whose handshake is done.
func (r *Router) Connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sessions)
}

func (r *Router) accept() {
	for {
		conn, err := r.listener.Accept()
		if err != nil {
			return // stopped
		}
		r.work.Go(func() { r.serve(conn) })
	}
}

func (r *Router) serve(raw net.Conn) {
	conn, err := r.acceptor.Accept(r.ctx, raw)
	if err != nil {
		return // the client knows, and its test
	}
	defer conn.Close() //nolint:errcheck // the client may have closed it
	s := newSession(r, conn)
	if !r.join(s) {
		return
	}
	r.work.Go(s.write)
	s.read()
	r.mu.Lock()
	r.leave(s)
	r.mu.Unlock()
}

// join adds a session, unless the router has stopped.
func (r *Router) join(s *session) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return false
	}
	if by := s.conn.Session().Service; by != nil {
		s.service = r.services[by.Identity]
	}
	r.sessions[s] = struct{}{}
	return true
}

// leave ends a session and its subscriptions, if that has not happened yet.
// Router.mu must be held.
func (r *Router) leave(s *session) {
	if _, ok := r.sessions[s]; !ok {
		return
	}
	delete(r.sessions, s)
	close(s.done)
	for _, q := range r.recipients {
		if q.subscriber == s {
			q.subscriber = nil
		}
		if q.notifier != nil && q.notifier.subscriber == s {
			q.notifier.subscriber = nil
		}
	}
	if s.service != nil && s.service.subscriber == s {
		s.service.subscriber = nil
	}
}
