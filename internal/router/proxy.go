package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	// PreferOnion says that, of a router with several hosts, an onion host is chosen,
	// if there is a SOCKS server; otherwise it is a public one.
	PreferOnion bool
	// RequirePreferred says that other hosts are not chosen.
	RequirePreferred bool
	// OwnDomains are the domains of routers that are counted apart.
	OwnDomains []string
	// Network makes the connections; nil for those of the system.
	Network proxy.ContextDialer
}

func (o *ProxyOptions) setDefaults() {
	orElse(&o.Concurrency, 32)
	orElse(&o.ConnectTimeout, 45*time.Second)
	orElse(&o.ResponseTimeout, 30*time.Second)
	orElse(&o.ErrorMemory, 30*time.Second)
}

// relays are the connections to other routers. All clients share them.
type relays struct {
	tasks sync.WaitGroup // one goroutine for each

	mu        sync.Mutex // guards what follows
	byAddress map[string]*relay
	bySession map[smp.EntityID]*relay
}

// A relay is a router that commands are forwarded to.
type relay struct {
	name string
	own  bool
	done chan struct{} // closed when what follows is set

	client *client.Client
	answer smp.Response // PKEY, or the error; it holds until then, in Unix nanoseconds
	until  int64

	timeouts atomic.Int64 // in succession
	heard    atomic.Int64 // Unix seconds of the last response
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
	to := r.relay(c)
	r.counters.proxied(to.own, &r.counters.PRelays, &r.counters.PRelaysOwn, func(c *ProxyCounters) { c.Requests.Add(1) })
	answer := func() smp.Response {
		r.counters.proxied(to.own, &r.counters.PRelays, &r.counters.PRelaysOwn, func(c *ProxyCounters) { c.count(to.answer) })
		return to.answer
	}
	select {
	case <-to.done:
		return answer(), nil
	default:
	}
	return nil, s.answerLater(rq, func(ctx context.Context) (smp.Response, error) {
		select {
		case <-to.done:
			return answer(), nil
		case <-ctx.Done():
			return nil, errRelayNetwork
		}
	})
}

// relay returns the connection to a router, or the attempt at it, which it begins if
// there is none.
func (r *Router) relay(c *smp.PRXY) *relay {
	address := &smp.RouterAddress{Fingerprint: c.Fingerprint, Hosts: c.Hosts, Port: c.Port}
	name := fmt.Sprint(c.Fingerprint, c.Hosts, address.PortOrDefault())
	now := r.o.Now().UnixNano()
	p := &r.relays
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, to := range p.byAddress {
		if to.failed(now) {
			delete(p.byAddress, name)
		}
	}
	to := p.byAddress[name]
	if to == nil {
		to = &relay{name: name, own: r.isOwn(c.Hosts[0].String()), done: make(chan struct{})}
		if p.byAddress == nil {
			p.byAddress, p.bySession = make(map[string]*relay), make(map[smp.EntityID]*relay)
		}
		p.byAddress[name] = to
		p.tasks.Go(func() { r.serveRelay(to, address) })
	}
	return to
}

// failed reports whether an attempt has failed so long ago that another may be made.
func (to *relay) failed(now int64) bool {
	select {
	case <-to.done:
		return to.client == nil && to.until <= now
	default:
		return false
	}
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
	c, answer, err := r.dialRelay(address)
	if err != nil {
		r.log.LogAttrs(r.ctx, slog.LevelDebug, "another router cannot be reached", slog.Any("error", err))
		to.answer = failure(relayError(err))
		to.until = r.o.Now().Add(r.o.Proxy.ErrorMemory).UnixNano()
		close(to.done)
		return
	}
	defer c.Close()
	defer context.AfterFunc(r.ctx, c.Close)()
	session := c.Session().ID.ID()
	to.client, to.answer = c, answer
	to.heard.Store(r.o.Now().Unix())
	p := &r.relays
	p.mu.Lock()
	p.bySession[session] = to
	p.mu.Unlock()
	close(to.done)
	for range c.Events() { // there should be none; it is closed at the end
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.bySession, session)
	if p.byAddress[to.name] == to {
		delete(p.byAddress, to.name)
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
	c, err := client.Dial(ctx, &at, client.Options{Versions: r.o.Versions, Proxy: true, Socks: o.Socks, TLS: r.o.TLS, Network: o.Network})
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
	case errors.Is(err, client.ErrOnion):
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

const (
	// relayTimeouts and relaySilence are when a connection is given up: after so many
	// requests without response, if nothing was heard for so many seconds.
	relayTimeouts = 3
	relaySilence  = 15 * 60
)

// exchange forwards a command, and returns PRES or an error.
func (r *Router) exchange(ctx context.Context, to *relay, f auth.Forwarded) smp.Response {
	ctx, cancel := context.WithTimeout(ctx, r.o.Proxy.ResponseTimeout)
	defer cancel()
	sealed, err := to.client.Forward(ctx, f)
	now := r.o.Now().Unix()
	if errors.Is(err, context.DeadlineExceeded) {
		if to.timeouts.Add(1) >= relayTimeouts && now-to.heard.Load() >= relaySilence {
			to.client.Close()
		}
		return failure(errRelayTimeout)
	}
	to.timeouts.Store(0)
	to.heard.Store(now)
	if err == nil {
		return &smp.PRES{Encrypted: sealed}
	}
	if e, ok := errors.AsType[smp.Error](err); ok {
		return failure(smp.ProxyProtocolError{Err: e})
	}
	switch {
	case errors.Is(err, auth.ErrOpen):
		return failure(smp.ErrCrypto)
	case errors.Is(err, client.ErrUnexpected):
		return failure(smp.ProxyBrokerError{Kind: smp.BrokerUnexpected})
	}
	return failure(errRelayNetwork)
}
