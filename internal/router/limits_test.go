package router_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

// A crowd is a listener whose clients seem to come from elsewhere.
type crowd struct {
	net.Listener
	from atomic.Pointer[net.TCPAddr]
}

func (l *crowd) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &stranger{c, l.from.Load()}, err
}

type stranger struct {
	net.Conn
	from *net.TCPAddr
}

func (c *stranger) RemoteAddr() net.Addr { return c.from }

// startCrowded starts a router whose clients come from where the test says.
func startCrowded(t *testing.T, change func(*router.Options)) (*server, func(ip string) (*client.Client, error)) {
	t.Helper()
	s := start(t, newSite(t).openStore(t, 0), change)
	l := &crowd{Listener: listen(t)}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	address := addressOf(t, s.Identity(), l)
	return s, func(ip string) (*client.Client, error) {
		l.from.Store(net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 1)))
		c, err := client.Dial(t.Context(), address, client.Options{})
		if err == nil {
			t.Cleanup(c.Close)
		}
		return c, err
	}
}

func TestConnectionsPerAddress(t *testing.T) {
	t.Parallel()
	s, dial := startCrowded(t, func(o *router.Options) {
		o.Limits = router.Limits{Connections: 9, ConnectionsPerAddress: 2}
	})
	var first *client.Client
	for _, c := range []struct {
		ip    string
		taken bool
	}{
		{"192.0.2.1", true},
		{"192.0.2.1", true},
		{"192.0.2.1", false},
		{"192.0.2.2", true},
		{"2001:db8::1", true},
		{"2001:db8::ffff:1", true},
		{"2001:db8::2", false},
		{"2001:db8:0:1::2", true},
		{"127.0.0.1", true}, // whom an onion service brings
		{"127.0.0.1", true},
		{"::1", true},
		{"192.0.2.3", false}, // there are nine
	} {
		p, err := dial(c.ip)
		if (err == nil) != c.taken {
			t.Errorf("%s: %v", c.ip, err)
		}
		if first == nil {
			first = p
		}
	}
	if n := s.Counters().Refused.Load(); n != 2*3 { // each client looks a second time what the matter is
		t.Errorf("%d connections are counted as refused", n)
	}
	first.Close()
	eventually(t, "that the connection is closed", func() bool { return s.Counters().Active.Load() == 8 })
	if _, err := dial("192.0.2.1"); err != nil {
		t.Errorf("after another one was closed: %v", err)
	}
}

func TestHandshakesPerAddress(t *testing.T) {
	t.Parallel()
	var clock clock
	start := time.Now()
	_, dial := startCrowded(t, func(o *router.Options) {
		o.Now = func() time.Time { return start.Add(time.Duration(clock.ahead.Load())) }
		o.Limits.HandshakesPerAddress = router.Rate{Count: 2, Period: time.Minute}
	})
	try := func(ip string, taken bool) {
		t.Helper()
		c, err := dial(ip)
		if (err == nil) != taken {
			t.Errorf("%s: %v", ip, err)
		}
		if err == nil {
			c.Close()
		}
	}
	for range 2 {
		try("192.0.2.1", true)
		try("2001:db8::1", true)
		try("127.0.0.1", true)
	}
	try("192.0.2.1", false)
	try("2001:db8::ffff:1", false)
	try("192.0.2.2", true)
	try("127.0.0.1", true)
	clock.advance(30 * time.Second)
	try("192.0.2.1", true)
	try("192.0.2.1", false)
	clock.advance(time.Hour)
	for i := range 3 {
		try("192.0.2.1", i < 2)
	}
}

// Who comes too fast has to wait, and is served then.
func TestHandshakeRate(t *testing.T) {
	t.Parallel()
	const each = 50 * time.Millisecond
	s := start(t, newSite(t).openStore(t, 0), func(o *router.Options) {
		o.Limits.Handshakes = router.Rate{Count: 2, Period: 2 * each}
	})
	begin := time.Now()
	for range 6 {
		s.dial(t, 19).quiet()
	}
	if took := time.Since(begin); took < 4*each {
		t.Errorf("six connections take %s, with two at once and another each %s", took, each)
	}
}

func TestNewQueueRates(t *testing.T) {
	t.Parallel()
	var clock clock
	now := time.Now()
	s := start(t, newSite(t).openStore(t, 0), func(o *router.Options) {
		o.Now = func() time.Time { return now.Add(time.Duration(clock.ahead.Load())) }
		o.Limits.NewQueues = router.Rate{Count: 5, Period: time.Hour}
		o.Limits.NewQueuesPerClient = router.Rate{Count: 3, Period: time.Hour}
	})
	eachVersion(t, 6, func(t *testing.T, v smp.Version) {
		clock.advance(2 * time.Hour)
		create := func(p *peer) error {
			key := newKey(t, smp.Ed25519)
			_, err := p.do(smp.EntityID{}, key, &smp.NEW{RecipientKey: key.Public(), DHKey: newKey(t, smp.X25519).Public()})
			return err
		}
		refused := func(p *peer) {
			t.Helper()
			if e, ok := errors.AsType[smp.StoreError](create(p)); !ok || !strings.Contains(e.Text, "too many new queues") {
				t.Errorf("a queue too many: %v", e)
			}
		}
		one, two := s.dial(t, v), s.dial(t, v)
		for range 3 {
			if err := create(one); err != nil {
				t.Fatal(err)
			}
		}
		refused(one)
		for range 2 {
			if err := create(two); err != nil {
				t.Fatal(err)
			}
		}
		refused(two) // although it has created two only
		clock.advance(20 * time.Minute)
		if err := create(one); err != nil {
			t.Errorf("after a while: %v", err)
		}
	})
}

// A busyStore counts how many messages are written at the same time, and takes its
// time.
type busyStore struct {
	*store.Store
	release chan struct{} // one for each that may go on

	mu        sync.Mutex
	now, most int
}

func (s *busyStore) WriteMessage(ctx context.Context, id queue.RecipientID, m queue.Message) (store.Written, error) {
	s.mu.Lock()
	s.now++
	s.most = max(s.most, s.now)
	s.mu.Unlock()
	select {
	case <-s.release:
	case <-time.After(timeout):
	}
	s.mu.Lock()
	s.now--
	s.mu.Unlock()
	return s.Store.WriteMessage(ctx, id, m)
}

// No more commands are carried out at a time than allowed, and all of them in the end.
func TestCommandsInFlight(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	busy := &busyStore{Store: st, release: make(chan struct{})}
	s := start(t, st, func(o *router.Options) { o.Store, o.Limits.Commands = busy, 3 })
	peers, sends := make([]*peer, 4), make([][]client.Request, 4)
	for i := range peers {
		peers[i] = s.dial(t, 19)
		for _, b := range peers[i].newQueues(5) {
			sends[i] = append(sends[i], client.Request{Entity: b.sender, Command: &smp.SEND{Body: []byte("x")}})
		}
	}
	var calls []*client.Call
	for i, p := range peers {
		calls = append(calls, p.Start(t.Context(), sends[i]...)...)
	}
	eventually(t, "that as many are carried out as may be", func() bool {
		busy.mu.Lock()
		defer busy.mu.Unlock()
		return busy.now == 3
	})
	for range calls {
		select {
		case busy.release <- struct{}{}:
		case <-time.After(timeout):
			t.Fatal("not all commands are carried out")
		}
	}
	for _, call := range calls {
		if _, err := call.Wait(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if busy.most != 3 {
		t.Errorf("%d commands were carried out at a time", busy.most)
	}
}
