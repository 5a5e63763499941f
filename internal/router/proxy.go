package router

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/proxy"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/smp"
)

// ProxyOptions say how a router forwards commands to others (SMP protocol, proxying
// sender commands). Times and numbers that are 0 are those of the reference
// implementation, which the comments name.
type ProxyOptions struct {
	// Disabled says that it forwards nothing.
	Disabled bool
	// Concurrency is how many commands of a client are under way at the same time;
	// others have to wait. 32.
	Concurrency int
	// ConnectTimeout is how long it tries to connect to a router. 45 s.
	ConnectTimeout time.Duration
	// ResponseTimeout is how long it waits for a response. 30 s.
	ResponseTimeout time.Duration
	// ErrorMemory is how long it does not try to connect again. 30 s.
	ErrorMemory time.Duration
	// Socks is the host and port of a SOCKS5 server for onion hosts; empty: none.
	Socks string
	// SocksAlways says that other hosts are reached by it too.
	SocksAlways bool
	// SocksUser and SocksPassword are what the router is known by to that server; empty:
	// nothing.
	SocksUser, SocksPassword string
	// SocksIsolate says that each connection has credentials of its own there, at
	// random, so that the server keeps them apart, as Tor does.
	SocksIsolate bool
	// PreferOnion says that, of a router with several hosts, an onion host is chosen,
	// if there is a SOCKS server; otherwise it is a public one.
	PreferOnion bool
	// RequirePreferred says that other hosts are not chosen.
	RequirePreferred bool
	// OwnDomains are the domains of routers that are counted apart.
	OwnDomains []string
	// Deny are networks with which the router does not connect; none if it is empty. Names
	// that are resolved by the SOCKS server are not looked at.
	Deny []netip.Prefix
	// MaxRelays is how many other routers there may be at a time, connected or remembered
	// with an error. 10,000; smp-server has no limit.
	MaxRelays int
	// SendQueue is how many commands for one router may be handed over before the others
	// have to wait. 64.
	SendQueue int
	// EventQueue is how many events of one router may wait. There should be none. 2048.
	EventQueue int
	// CheckInterval is how often connections are looked at that seem to be dead: of those
	// routers that have left MaxTimeouts commands in succession without a response, and
	// were not heard for MaxSilence. 10 minutes, 3, 15 minutes.
	CheckInterval time.Duration
	MaxTimeouts   int
	MaxSilence    time.Duration
	// KeepAlive says when TCP finds a connection to be dead. After 30 s, then each 15 s,
	// 4 times.
	KeepAlive net.KeepAliveConfig
	// Network makes the connections; nil for those of the system.
	Network proxy.ContextDialer
}

func (o *ProxyOptions) setDefaults() {
	orElse(&o.Concurrency, 32)
	orElse(&o.ConnectTimeout, 45*time.Second)
	orElse(&o.ResponseTimeout, 30*time.Second)
	orElse(&o.ErrorMemory, 30*time.Second)
	orElse(&o.MaxRelays, 10_000)
	orElse(&o.SendQueue, 64)
	orElse(&o.EventQueue, 2048)
	orElse(&o.CheckInterval, 10*time.Minute)
	orElse(&o.MaxTimeouts, 3)
	orElse(&o.MaxSilence, 15*time.Minute)
}

// denies reports whether an address is in a network with which the router does not
// connect.
func (o *ProxyOptions) denies(ip netip.Addr) bool {
	return slices.ContainsFunc(o.Deny, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// socksAuth returns what a connection is known by to the SOCKS server.
func (o *ProxyOptions) socksAuth() *proxy.Auth {
	switch {
	case o.SocksIsolate:
		return &proxy.Auth{User: rand.Text(), Password: rand.Text()}
	case o.SocksUser != "":
		return &proxy.Auth{User: o.SocksUser, Password: o.SocksPassword}
	}
	return nil
}

// relays are the connections to other routers. All clients share them.
type relays struct {
	tasks sync.WaitGroup // one goroutine for each

	mu        sync.Mutex // guards what follows
	byAddress map[string]*relay
	bySession map[smp.EntityID]*relay
	failed    []*relay // those of byAddress that cannot be reached, in the order of until
}

// A relay is a router that commands are forwarded to.
type relay struct {
	name string
	own  bool
	done chan struct{} // closed when what follows is set

	client *client.Client
	answer smp.Response // PKEY, or the error
	until  time.Time    // when an error is forgotten

	timeouts atomic.Int64 // in succession
	heard    atomic.Int64 // when the last response came, in nanoseconds after connected
	since    time.Time    // when it was connected
}

var (
	errRelayNetwork = smp.ProxyBrokerError{Kind: smp.BrokerNetwork}
	errRelayTimeout = smp.ProxyBrokerError{Kind: smp.BrokerTimeout}
	errRelayHost    = smp.ProxyBrokerError{Kind: smp.BrokerHost}
	errRelayVersion = smp.ProxyBrokerError{Kind: smp.BrokerTransport, Transport: smp.ErrTransportVersion}
)

// answerLater answers a request when do has the answer. It waits for the client's other
// requests of this kind if there are too many.
func (s *session) answerLater(rq *request, do func(context.Context) (smp.Response, error)) error {
	select {
	case s.slots <- struct{}{}:
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
	s.mu.Lock()
	s.deferred++
	s.mu.Unlock()
	later := *rq // the caller has no more to do with it
	s.tasks.Go(func() {
		answer, err := do(s.ctx)
		if later.answer = answer; err != nil {
			later.answer = failure(err)
		}
		s.put(group{later.encode()})
		s.mu.Lock()
		s.deferred--
		s.changed.Broadcast()
		s.mu.Unlock()
		<-s.slots
	})
	return nil
}

// connectRelay answers PRXY: at once if it is known what to answer.
func (rq *request) connectRelay(c *smp.PRXY) (smp.Response, error) {
	s, r := rq.session, rq.session.router
	if r.o.Proxy.Disabled || !r.o.Password.IsZero() && !r.o.Password.Equal(c.Password) {
		return nil, smp.ErrProxyPassword
	}
	own := r.isOwn(c.Hosts[0].String())
	count := func(f func(*ProxyCounters)) { r.counters.proxied(own, &r.counters.PRelays, &r.counters.PRelaysOwn, f) }
	count(func(c *ProxyCounters) { c.Requests.Add(1) })
	if to := r.knownRelay(c); to != nil {
		count(func(c *ProxyCounters) { c.count(to.answer) })
		return to.answer, nil
	}
	return nil, s.answerLater(rq, func(ctx context.Context) (smp.Response, error) {
		answer := smp.Response(failure(errRelayNetwork))
		to := r.relay(c) //nolint:contextcheck // other clients wait for the connection as well
		if to != nil {   // else there are too many
			select {
			case <-to.done:
				answer = to.answer
			case <-ctx.Done(): // the client is gone
			}
		}
		count(func(c *ProxyCounters) { c.count(answer) })
		return answer, nil
	})
}

// relayName returns what tells one router from another.
func relayName(c *smp.PRXY) string {
	port := (&smp.RouterAddress{Port: c.Port}).PortOrDefault()
	return fmt.Sprint(c.Fingerprint, c.Hosts, port)
}

// knownRelay returns the connection to a router, also if that failed not long ago; nil if
// there is none, or not yet.
func (r *Router) knownRelay(c *smp.PRXY) *relay {
	p := &r.relays
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetFailed(r.o.Now())
	if to := p.byAddress[relayName(c)]; to != nil {
		select {
		case <-to.done:
			return to
		default:
		}
	}
	return nil
}

// relay returns the connection to a router, or the attempt at it, which it begins if
// there is none; nil if there are too many routers.
func (r *Router) relay(c *smp.PRXY) *relay {
	address := &smp.RouterAddress{Fingerprint: c.Fingerprint, Hosts: c.Hosts, Port: c.Port}
	name := relayName(c)
	p := &r.relays
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgetFailed(r.o.Now())
	to := p.byAddress[name]
	if to != nil {
		return to
	}
	if len(p.byAddress) >= r.o.Proxy.MaxRelays {
		if len(p.failed) == 0 {
			return nil
		}
		p.forgetFirst()
	}
	to = &relay{name: name, own: r.isOwn(c.Hosts[0].String()), done: make(chan struct{})}
	if p.byAddress == nil {
		p.byAddress, p.bySession = make(map[string]*relay), make(map[smp.EntityID]*relay)
	}
	p.byAddress[name] = to
	p.tasks.Go(func() { r.serveRelay(to, address) })
	return to
}

// forgetFailed forgets those that failed so long ago that another attempt may be made.
func (p *relays) forgetFailed(now time.Time) {
	for len(p.failed) > 0 && !now.Before(p.failed[0].until) {
		p.forgetFirst()
	}
}

// forgetFirst forgets the first of those that failed.
func (p *relays) forgetFirst() {
	delete(p.byAddress, p.failed[0].name)
	p.failed = p.failed[1:]
}

// isOwn reports whether a host is in one of the operator's own domains.
func (r *Router) isOwn(host string) bool {
	for _, domain := range r.o.Proxy.OwnDomains {
		if host == domain || strings.HasSuffix(host, "."+domain) {
			return true
		}
	}
	return false
}

// serveRelay connects to a router and keeps the connection until it ends.
func (r *Router) serveRelay(to *relay, address *smp.RouterAddress) {
	p := &r.relays
	c, answer, err := r.dialRelay(address)
	if err != nil {
		r.log.LogAttrs(r.ctx, slog.LevelWarn, "another router cannot be reached", slog.String("host", address.Hosts[0].String()), slog.Any("error", err))
		p.mu.Lock()
		to.answer = failure(relayError(err))
		to.until = r.o.Now().Add(r.o.Proxy.ErrorMemory)
		p.failed = append(p.failed, to)
		p.mu.Unlock()
		close(to.done)
		return
	}
	defer c.Close()
	defer context.AfterFunc(r.ctx, c.Close)()
	session := c.Session().ID.ID()
	to.client, to.answer, to.since = c, answer, r.o.Now()
	p.mu.Lock()
	p.bySession[session] = to
	p.mu.Unlock()
	close(to.done)
	for range c.Events() { // there should be none; it is closed at the end
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.bySession, session)
	delete(p.byAddress, to.name)
}

// checkRelays gives up connections that seem to be dead.
func (r *Router) checkRelays() {
	p, o, now := &r.relays, &r.o.Proxy, r.o.Now()
	var dead []*relay
	p.mu.Lock()
	for _, to := range p.bySession {
		silence := now.Sub(to.since) - time.Duration(to.heard.Load())
		if to.timeouts.Load() >= int64(o.MaxTimeouts) && silence >= o.MaxSilence {
			dead = append(dead, to)
		}
	}
	p.mu.Unlock()
	for _, to := range dead {
		r.log.LogAttrs(r.ctx, slog.LevelDebug, "another router does not answer any more")
		to.client.Close()
	}
}

// dialRelay connects to a router, and returns what a client is to be told of it.
func (r *Router) dialRelay(address *smp.RouterAddress) (*client.Client, *smp.PKEY, error) {
	o := &r.o.Proxy
	host, ok := o.choose(address.Hosts)
	if !ok {
		return nil, nil, errRelayHost
	}
	at := *address
	at.Hosts = []smp.Host{host}
	ctx, cancel := context.WithTimeout(r.ctx, o.ConnectTimeout)
	defer cancel()
	c, err := client.Dial(ctx, &at, client.Options{
		Versions: r.o.Versions, Proxy: true, TLS: r.o.TLS,
		Socks: o.Socks, SocksAlways: o.SocksAlways, SocksAuth: o.socksAuth(),
		Refuse: o.denies, KeepAlive: o.KeepAlive, SendQueue: o.SendQueue, EventQueue: o.EventQueue, Network: o.Network,
	})
	if err != nil {
		return nil, nil, err
	}
	s := c.Session()
	// Not the newest version, which would tell clients apart.
	forwarded := smp.VersionRange{Min: smp.VersionProxy, Max: smp.MaxVersion - 1}
	versions, ok := s.Versions.Intersect(forwarded)
	switch {
	case !ok:
		err = errRelayVersion
	case s.RouterKey == nil, s.Secret.IsZero():
		err = errNoSessionSecret
	}
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, &smp.PKEY{SessionID: s.ID, Versions: versions, Key: *s.RouterKey}, nil
}

// choose returns the host by which to connect to a router.
func (o *ProxyOptions) choose(hosts []smp.Host) (smp.Host, bool) {
	onion := o.PreferOnion && o.Socks != ""
	for _, h := range hosts {
		if (h.Kind() == smp.HostOnion) == onion {
			return h, true
		}
	}
	return hosts[0], !o.RequirePreferred
}

// relayError returns what a client is told if another router cannot be reached.
func relayError(err error) smp.Error {
	if e, ok := errors.AsType[smp.ProxyBrokerError](err); ok {
		return e
	}
	if e, ok := errors.AsType[smp.TransportError](err); ok && e != smp.ErrHandshakeIdentity {
		return smp.ProxyBrokerError{Kind: smp.BrokerTransport, Transport: e}
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return errRelayTimeout
	case errors.Is(err, client.ErrOnion), errors.Is(err, client.ErrRefused):
		return errRelayHost
	}
	return errRelayNetwork
}

// forward answers PFWD.
func (rq *request) forward(c *smp.PFWD) (smp.Response, error) {
	s, r := rq.session, rq.session.router
	p := &r.relays
	p.mu.Lock()
	to := p.bySession[rq.entity()]
	p.mu.Unlock()
	if to == nil {
		r.counters.PMsgFwds.Requests.Add(1)
		r.counters.PMsgFwds.ErrorsConnect.Add(1)
		return nil, smp.ErrNoSession
	}
	r.counters.proxied(to.own, &r.counters.PMsgFwds, &r.counters.PMsgFwdsOwn, func(c *ProxyCounters) { c.Requests.Add(1) })
	f := auth.Forwarded{CorrID: rq.transmission.CorrID, Version: c.Version, Key: c.Key, Sealed: c.Encrypted}
	return nil, s.answerLater(rq, func(ctx context.Context) (smp.Response, error) {
		response := r.exchange(ctx, to, f)
		r.counters.proxied(to.own, &r.counters.PMsgFwds, &r.counters.PMsgFwdsOwn, func(c *ProxyCounters) { c.count(response) })
		return response, nil
	})
}

// exchange forwards a command, and returns PRES or an error.
func (r *Router) exchange(ctx context.Context, to *relay, f auth.Forwarded) smp.Response {
	ctx, cancel := context.WithTimeout(ctx, r.o.Proxy.ResponseTimeout)
	defer cancel()
	sealed, err := to.client.Forward(ctx, f)
	e, answered := errors.AsType[smp.Error](err)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		to.timeouts.Add(1)
		return failure(errRelayTimeout)
	case errors.Is(err, context.Canceled), errors.Is(err, client.ErrClosed):
		return failure(errRelayNetwork) // the client is gone, or the other router
	}
	to.timeouts.Store(0)
	to.heard.Store(int64(r.o.Now().Sub(to.since)))
	switch {
	case err == nil:
		return &smp.PRES{Encrypted: sealed}
	case answered:
		return failure(smp.ProxyProtocolError{Err: e})
	case errors.Is(err, auth.ErrOpen):
		return failure(smp.ErrCrypto)
	}
	return failure(smp.ProxyBrokerError{Kind: smp.BrokerUnexpected, Text: "not RRES"})
}
