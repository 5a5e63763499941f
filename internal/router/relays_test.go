package router_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
)

// A clock can be moved.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.ahead.Load())) }

func (c *clock) set(to time.Time) { c.ahead.Store(int64(time.Until(to))) }

func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

// A dialer connects as a function does.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// DialContext implements [proxy.ContextDialer].
func (d dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d(ctx, network, address)
}

var errDead = errors.New("nobody is there")

// nobody returns the address of a router that is not there.
func nobody(t testing.TB, identity smp.Fingerprint, n int) *smp.RouterAddress {
	t.Helper()
	host, err := smp.ParseHost(fmt.Sprintf("router%d.example.com", n))
	if err != nil {
		t.Fatal(err)
	}
	return &smp.RouterAddress{Fingerprint: identity, Hosts: []smp.Host{host}}
}

// A router that cannot be reached is not tried again before its time.
//
// conformance: 146
func TestRememberedErrors(t *testing.T) {
	t.Parallel()
	var dials atomic.Int64
	var at clock
	var said lockedBuffer
	r := start(t, newSite(t).openStore(t, 0), func(o *router.Options) {
		o.Log = slog.New(slog.NewTextHandler(&said, nil))
		o.Now, o.Proxy.ErrorMemory, o.Proxy.MaxRelays = at.now, time.Hour, 20
		o.Proxy.Network = dialer(func(context.Context, string, string) (net.Conn, error) {
			dials.Add(1)
			return nil, errDead
		})
	})
	network := smp.ProxyBrokerError{Kind: smp.BrokerNetwork}
	eachVersion(t, smp.VersionProxy, func(t *testing.T, v smp.Version) {
		p, dead := r.dial(t, v), nobody(t, r.Identity(), int(v))
		n := 100
		if v == smp.MaxVersion {
			n = 1000
		}
		requests := make([]client.Request, n)
		for i := range requests {
			requests[i].Command = prxy(dead)
		}
		before := dials.Load()
		for _, result := range p.DoAll(t.Context(), requests) {
			if !errors.Is(result.Err, network) {
				t.Fatal(result.Err)
			}
		}
		if n := dials.Load() - before; n != 1 {
			t.Errorf("%d attempts to connect", n)
		}
		at.advance(time.Hour)
		p.refused(network, smp.EntityID{}, none(), prxy(dead))
		if n := dials.Load() - before; n != 2 {
			t.Errorf("%d attempts to connect, with one more after the time", n)
		}
		if n := strings.Count(said.String(), `level=WARN msg="another router cannot be reached" host=`+dead.Hosts[0].String()+" "); n != 2 {
			t.Errorf("the log says %d times that it cannot be reached", n)
		}
	})

	// There is no room for any number of them: the oldest is forgotten.
	p := r.dial(t, smp.MaxVersion)
	before := dials.Load()
	ask := func(n int, dialled int64) {
		t.Helper()
		p.refused(network, smp.EntityID{}, none(), prxy(nobody(t, r.Identity(), n)))
		if got := dials.Load() - before; got != dialled {
			t.Errorf("%d attempts to connect, not %d", got, dialled)
		}
	}
	at.advance(time.Hour)
	for n := range 21 {
		ask(100+n, int64(n+1))
	}
	ask(101, 21)
	ask(100, 22)
}

// There are no more connections to other routers than allowed.
func TestTooManyRelays(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	r := start(t, st, func(o *router.Options) { o.Proxy.MaxRelays = 2 })
	relays := []*server{start(t, st), start(t, st), start(t, st)}
	p := r.dial(t, smp.MaxVersion)
	for _, to := range relays[:2] {
		must[*smp.PKEY](p, smp.EntityID{}, none(), prxy(to.address))
	}
	p.refused(smp.ProxyBrokerError{Kind: smp.BrokerNetwork}, smp.EntityID{}, none(), prxy(relays[2].address))
	must[*smp.PKEY](p, smp.EntityID{}, none(), prxy(relays[0].address))
}

// Commands are answered while a proxy waits for another router, and of a client's
// commands that wait for one, only so many are under way.
//
// conformance: 153, 154
func TestProxyWaits(t *testing.T) {
	t.Parallel()
	const limit, n = 2, 30
	var now, most atomic.Int64
	entered, leave := make(chan struct{}), make(chan struct{})
	r := start(t, newSite(t).openStore(t, 0), func(o *router.Options) {
		o.Proxy.Concurrency = limit
		o.Proxy.Network = dialer(func(ctx context.Context, _, _ string) (net.Conn, error) {
			if running := now.Add(1); running > most.Load() {
				most.Store(running)
			}
			defer now.Add(-1)
			for _, c := range []chan struct{}{entered, leave} {
				select {
				case c <- struct{}{}:
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			return nil, errDead
		})
	})
	eachVersion(t, smp.VersionProxy, func(t *testing.T, v smp.Version) {
		p := r.dial(t, v)
		wait := func(c <-chan struct{}) {
			t.Helper()
			select {
			case <-c:
			case <-time.After(timeout):
				t.Fatal("no attempt to connect")
			}
		}
		pending := p.Start(t.Context(), client.Request{Command: prxy(nobody(t, r.Identity(), 100*int(v)))})[0]
		wait(entered)
		p.quiet()
		p.refused(smp.ErrAuth, smp.NewEntityID("nobody"), none(), &smp.SEND{})
		select {
		case <-pending.Done():
			t.Error("PRXY is answered already")
		default:
		}
		var requests []client.Request
		for i := range n {
			requests = append(requests, client.Request{Command: prxy(nobody(t, r.Identity(), 100*int(v)+i+1))})
		}
		calls := append(p.Start(t.Context(), requests...), pending)
		for i := range n + 1 {
			if i < n {
				wait(entered)
			}
			wait(leave)
		}
		for _, call := range calls {
			if _, err := call.Wait(t.Context()); !errors.Is(err, smp.ProxyBrokerError{Kind: smp.BrokerNetwork}) {
				t.Error(err)
			}
		}
	})
	if most.Load() != limit {
		t.Errorf("%d attempts to connect were under way at the same time, not %d", most.Load(), limit)
	}
}

// mutable makes connections that can be made to swallow what comes in.
type mutable struct{ muted atomic.Bool }

func (m *mutable) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	return &mutableConn{c, m}, err
}

type mutableConn struct {
	net.Conn
	m *mutable
}

func (c *mutableConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.m.muted.Load() {
			return n, err
		}
	}
}

// A connection to a router that has left three commands without response, and was not
// heard for long, is given up, and not before.
//
// conformance: 148
func TestDeadRelay(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	relay := start(t, st)
	eachVersion(t, smp.VersionProxy, func(t *testing.T, v smp.Version) {
		t.Parallel()
		var at clock
		var network mutable
		r := start(t, st, func(o *router.Options) {
			o.Now, o.Proxy.Network = at.now, &network
			o.Proxy.ResponseTimeout, o.Proxy.CheckInterval = 100*time.Millisecond, 10*time.Millisecond
		})
		p := r.dial(t, v)
		through, err := p.Relay(t.Context(), relay.address, smp.Password{})
		if err != nil {
			t.Fatal(err)
		}
		ask := func() error {
			_, err := through.Do(t.Context(), client.Request{Entity: smp.NewEntityID("nobody"), Command: &smp.SEND{}})
			return err
		}
		// That the router is slow is no harm.
		eventually(t, "that the router answers", func() bool { return errors.Is(ask(), smp.ErrAuth) })
		network.muted.Store(true)
		silent := smp.ProxyBrokerError{Kind: smp.BrokerTimeout}
		for range 4 {
			if err := ask(); !errors.Is(err, silent) {
				t.Errorf("a router that is silent: %v", err)
			}
		}
		at.advance(15 * time.Minute)
		eventually(t, "that the session is forgotten", func() bool { return errors.Is(ask(), smp.ErrNoSession) })

		// Silence alone, or two commands, are not enough.
		network.muted.Store(false)
		if through, err = p.Relay(t.Context(), relay.address, smp.Password{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "that the router answers", func() bool { return errors.Is(ask(), smp.ErrAuth) })
		network.muted.Store(true)
		at.advance(time.Hour)
		for range 3 {
			if err := ask(); !errors.Is(err, silent) {
				t.Errorf("a router that has just become silent: %v", err)
			}
		}
		eventually(t, "that the session is forgotten", func() bool { return errors.Is(ask(), smp.ErrNoSession) })
	})
}

// A router does not connect with networks that it is told not to, whatever their names
// are.
func TestDeniedNetworks(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	relay := start(t, st)
	named := *relay.address
	host, err := smp.ParseHost("localhost")
	if err != nil {
		t.Fatal(err)
	}
	named.Hosts = []smp.Host{host}
	open := start(t, st).dial(t, smp.MaxVersion)
	closed := start(t, st, func(o *router.Options) {
		o.Proxy.Deny = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	}).dial(t, smp.MaxVersion)
	other := start(t, st, func(o *router.Options) {
		o.Proxy.Deny = []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}
	}).dial(t, smp.MaxVersion)
	for _, to := range []*smp.RouterAddress{relay.address, &named} {
		must[*smp.PKEY](open, smp.EntityID{}, none(), prxy(to))
		must[*smp.PKEY](other, smp.EntityID{}, none(), prxy(to))
		closed.refused(smp.ProxyBrokerError{Kind: smp.BrokerHost}, smp.EntityID{}, none(), prxy(to))
	}
	mapped := *relay.address
	if mapped.Hosts[0], err = smp.ParseHost("::ffff:127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	closed.refused(smp.ProxyBrokerError{Kind: smp.BrokerHost}, smp.EntityID{}, none(), prxy(&mapped))
}

var _ proxy.ContextDialer = dialer(nil)

func TestSocks(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	relay := start(t, st)
	hosts := func(names ...string) *smp.RouterAddress {
		to := *relay.address
		to.Hosts = nil
		for _, name := range names {
			h, err := smp.ParseHost(name)
			if err != nil {
				t.Fatal(err)
			}
			to.Hosts = append(to.Hosts, h)
		}
		return &to
	}
	const onion = "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad.onion"
	type options = router.ProxyOptions
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	nobody := []routertest.Asked{{}, {}}
	for _, c := range []struct {
		name   string
		change func(*options)
		to     *smp.RouterAddress
		asked  []string           // the hosts that the SOCKS server is asked for, by two routers
		as     []routertest.Asked // with these credentials; nil: with some that differ
		err    error
	}{
		{"onion", func(*options) {}, hosts(onion), []string{onion, onion}, nobody, nil},
		{"public", func(*options) {}, hosts("127.0.0.1"), nil, nil, nil},
		{"public preferred", func(*options) {}, hosts(onion, "127.0.0.1"), nil, nil, nil},
		{"onion preferred", func(o *options) { o.PreferOnion = true }, hosts("127.0.0.1", onion), []string{onion, onion}, nobody, nil},
		{"public required", func(o *options) { o.RequirePreferred = true }, hosts(onion), nil, nil, smp.ProxyBrokerError{Kind: smp.BrokerHost}},
		{"onion required", func(o *options) { o.PreferOnion, o.RequirePreferred = true, true }, hosts("127.0.0.1"), nil, nil, smp.ProxyBrokerError{Kind: smp.BrokerHost}},
		{"no server", func(o *options) { o.Socks, o.PreferOnion = "", true }, hosts(onion), nil, nil, smp.ProxyBrokerError{Kind: smp.BrokerHost}},
		{"no server, onion preferred", func(o *options) { o.Socks, o.PreferOnion = "", true }, hosts(onion, "127.0.0.1"), nil, nil, nil},
		{"always", func(o *options) { o.SocksAlways = true }, hosts("router.example.com"), []string{"router.example.com", "router.example.com"}, nobody, nil},
		{"always, by number", func(o *options) { o.SocksAlways = true }, hosts("127.0.0.1"), []string{"127.0.0.1", "127.0.0.1"}, nobody, nil},
		{"isolated", func(o *options) { o.SocksIsolate = true }, hosts(onion), []string{onion, onion}, nil, nil},
		{"credentials", func(o *options) { o.SocksUser, o.SocksPassword = "me", "secret" }, hosts(onion), []string{onion, onion}, []routertest.Asked{{User: "me", Password: "secret"}, {User: "me", Password: "secret"}}, nil},
		{"the server's network is denied", func(o *options) { o.Deny = loopback }, hosts(onion), []string{onion, onion}, nobody, nil},
		{"the router's network is denied", func(o *options) { o.Deny, o.SocksAlways = loopback, true }, hosts("127.0.0.1"), nil, nil, smp.ProxyBrokerError{Kind: smp.BrokerHost}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := routertest.StartSOCKS(t, net.JoinHostPort(relay.address.Hosts[0].String(), strconv.Itoa(int(relay.address.Port))))
			for range 2 {
				p := start(t, st, func(o *router.Options) {
					o.Proxy.Socks = server.Address()
					c.change(&o.Proxy)
				}).dial(t, smp.MaxVersion)
				if c.err != nil {
					p.refused(c.err, smp.EntityID{}, none(), prxy(c.to))
				} else {
					must[*smp.PKEY](p, smp.EntityID{}, none(), prxy(c.to))
				}
			}
			asked := server.Asked()
			if len(asked) != len(c.asked) {
				t.Fatalf("the SOCKS server is asked for %v", asked)
			}
			for i, got := range asked {
				if got.Host != c.asked[i] {
					t.Errorf("the SOCKS server is asked for %s, not %s", got.Host, c.asked[i])
				}
				switch {
				case c.as != nil && (got.User != c.as[i].User || got.Password != c.as[i].Password):
					t.Errorf("the SOCKS server is told %q and %q", got.User, got.Password)
				case c.as == nil && (len(got.User) < 16 || len(got.Password) < 16 || i > 0 && got.User == asked[0].User):
					t.Error("connections are not isolated")
				}
			}
		})
	}
}
