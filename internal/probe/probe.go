// Package probe looks at a router from outside: what it is, whether it is the right
// one, and whether a message gets through it, and how fast.
package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/transport"
)

// Options say what to probe.
type Options struct {
	Router *smp.RouterAddress
	// Proxy is the router through which to send; nil: none.
	Proxy *smp.RouterAddress
	// Socks is the SOCKS server for onion hosts; empty: none.
	Socks string
	// Timeout bounds each step; 0: none.
	Timeout time.Duration
}

// The steps, in order. Those of the proxy are there only with one.
const (
	Resolve      = "resolve"
	Connect      = "connect"
	Handshake    = "handshake"
	ConnectProxy = "connect to proxy"
	Create       = "create"
	Forward      = "reach through proxy"
	Secure       = "secure"
	Send         = "send"
	Receive      = "receive"
	Acknowledge  = "acknowledge"
	Delete       = "delete"
)

// A Report is what a probe found.
type Report struct {
	At           time.Time     `json:"at"`                // when it began
	Router       string        `json:"router"`            // the address, without a password
	Proxy        string        `json:"proxy,omitempty"`   // the same of the proxy
	Addresses    []string      `json:"addresses"`         // of the network, of the hosts that were looked up
	Remote       string        `json:"remote,omitempty"`  // the one connected to, with the port
	Session      *Session      `json:"session,omitempty"` // nil: there was none
	Certificates []Certificate `json:"certificates"`      // the router's, that of the connection first
	Steps        []Step        `json:"steps"`             // as far as it came
	Seconds      float64       `json:"seconds"`           // of all steps
	Failure      *Failure      `json:"failure,omitempty"` // nil: all went well
}

// A Session is what client and router agreed on.
type Session struct {
	Version     int    `json:"version"`
	Versions    string `json:"versions"` // that the router speaks
	Encrypted   bool   `json:"encrypted_blocks"`
	TLS         string `json:"tls"`
	CipherSuite string `json:"cipher_suite"`
	Group       string `json:"group"`
	ALPN        string `json:"alpn"`
}

// A Certificate is one of a router's.
type Certificate struct {
	Subject   string    `json:"subject"`
	Key       string    `json:"key"` // algorithm
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// A Step is something that a client does.
type Step struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// A Failure is why a probe did not come to its end.
type Failure struct {
	Step   string `json:"step"`
	Kind   Kind   `json:"kind"`
	Reason string `json:"reason"`
}

// A Kind says where the fault is.
type Kind string

// The kinds of failures.
const (
	Network        Kind = "network"       // name, route, port
	Timeout        Kind = "timeout"       // it takes too long
	TLS            Kind = "tls"           // no TLS, or no TLS that this program has
	Identity       Kind = "identity"      // another router than that of the address
	BadCertificate Kind = "certificate"   // certificates that do not hold, such as expired ones
	Version        Kind = "version"       // no common version of the protocol
	Authorization  Kind = "authorization" // a wrong or missing password
	Quota          Kind = "quota"         // full
	Blocked        Kind = "blocked"       // by the operator
	ProxyFault     Kind = "proxy"         // the proxy does not reach the router, or refuses to
	Protocol       Kind = "protocol"      // what came is none of the protocol, or not what was sent
)

// Run probes a router once. The report says whether it failed. The queue that it
// creates is deleted also if something fails, as long as there is a connection.
func Run(ctx context.Context, o Options) Report {
	p := probe{o: o, report: Report{
		At: time.Now().UTC(), Router: o.Router.String(), Addresses: []string{}, Certificates: []Certificate{}, Steps: []Step{},
	}}
	if o.Proxy != nil {
		p.report.Proxy = o.Proxy.String()
	}
	p.run(ctx)
	for _, s := range p.report.Steps {
		p.report.Seconds += s.Seconds
	}
	return p.report
}

type probe struct {
	o      Options
	report Report
	queue  queue
}

// queue is the one that a probe makes.
type queue struct {
	recipient, sender       smp.EntityID
	recipientKey, senderKey auth.PrivateKey
	secret                  smp.DHSecret // of recipient and router
}

// step carries out a step, and reports whether it went well.
func (p *probe) step(ctx context.Context, name string, do func(context.Context) error) bool {
	if p.o.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, p.o.Timeout, errTooSlow)
		defer cancel()
	}
	began := time.Now()
	err := do(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	p.report.Steps = append(p.report.Steps, Step{name, time.Since(began).Seconds()})
	if err != nil && p.report.Failure == nil {
		p.report.Failure = &Failure{Step: name, Kind: kindOf(err), Reason: err.Error()}
	}
	return err == nil
}

var errTooSlow = errors.New("no result in time")

func (p *probe) run(ctx context.Context) {
	if !p.step(ctx, Resolve, p.resolve) {
		return
	}
	c, ok := p.connect(ctx)
	if !ok {
		return
	}
	defer c.Close()
	sender := func(ctx context.Context, r client.Request) (smp.Response, error) { return c.Do(ctx, r) }
	var proxy *client.Client
	if p.o.Proxy != nil {
		if !p.step(ctx, ConnectProxy, func(ctx context.Context) (err error) {
			proxy, err = client.Dial(ctx, p.o.Proxy, client.Options{Socks: p.o.Socks})
			return err
		}) {
			return
		}
		defer proxy.Close()
	}
	if !p.step(ctx, Create, func(ctx context.Context) error { return p.create(ctx, c) }) {
		return
	}
	defer func() {
		// The queue goes whatever happened.
		p.step(context.WithoutCancel(ctx), Delete, func(ctx context.Context) error {
			return p.acknowledged(c.Do(ctx, client.Request{Entity: p.queue.recipient, Command: &smp.DEL{}, Key: p.queue.recipientKey}))
		})
	}()
	if proxy != nil {
		if !p.step(ctx, Forward, func(ctx context.Context) error {
			relay, err := proxy.Relay(ctx, p.o.Router, p.o.Proxy.Password)
			if err == nil {
				sender = relay.Do
			}
			return err
		}) {
			return
		}
	}
	p.exchange(ctx, c, sender)
}

// exchange sends a message through the queue.
func (p *probe) exchange(ctx context.Context, c *client.Client, sender func(context.Context, client.Request) (smp.Response, error)) {
	q := &p.queue
	body := make([]byte, 64)
	_, _ = rand.Read(body) // it never fails
	var id smp.Short
	_ = p.step(ctx, Secure, func(ctx context.Context) error {
		if c.Session().Version < smp.VersionSenderSecures {
			return p.acknowledged(c.Do(ctx, client.Request{Entity: q.recipient, Command: &smp.KEY{SenderKey: q.senderKey.Public()}, Key: q.recipientKey}))
		}
		return p.acknowledged(sender(ctx, client.Request{Entity: q.sender, Command: &smp.SKEY{SenderKey: q.senderKey.Public()}, Key: q.senderKey}))
	}) && p.step(ctx, Send, func(ctx context.Context) error {
		return p.acknowledged(sender(ctx, client.Request{Entity: q.sender, Command: &smp.SEND{Body: body}, Key: q.senderKey}))
	}) && p.step(ctx, Receive, func(ctx context.Context) (err error) {
		id, err = p.receive(ctx, c, body)
		return err
	}) && p.step(ctx, Acknowledge, func(ctx context.Context) error {
		return p.acknowledged(c.Do(ctx, client.Request{Entity: q.recipient, Command: &smp.ACK{MsgID: id}, Key: q.recipientKey}))
	})
}

// acknowledged returns the error of a command whose result is OK.
func (p *probe) acknowledged(r smp.Response, err error) error {
	_, err = client.As[*smp.OK](r, err)
	return err
}

// resolve looks up the hosts that are names.
func (p *probe) resolve(ctx context.Context) error {
	var failed []error
	for _, host := range p.o.Router.Hosts {
		switch host.Kind() {
		case smp.HostOnion:
			continue
		case smp.HostIPv4, smp.HostIPv6:
			p.report.Addresses = append(p.report.Addresses, host.String())
			continue
		case smp.HostName:
		}
		found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host.String())
		if err != nil {
			failed = append(failed, err)
		}
		for _, ip := range found {
			p.report.Addresses = append(p.report.Addresses, netip.Addr.Unmap(ip).String())
		}
	}
	if len(p.report.Addresses) > 0 {
		return nil // one of them will do
	}
	return errors.Join(failed...)
}

// connect connects to the router, in two steps.
func (p *probe) connect(ctx context.Context) (*client.Client, bool) {
	network := &stopwatch{began: time.Now()}
	var c *client.Client
	ok := p.step(ctx, Handshake, func(ctx context.Context) (err error) {
		c, err = client.Dial(ctx, p.o.Router, client.Options{Socks: p.o.Socks, Network: network})
		return err
	})
	p.splitHandshake(network)
	if !ok {
		return nil, false
	}
	s := c.Session()
	p.report.Remote = c.RemoteAddr().String()
	p.report.Session = &Session{
		Version: int(s.Version), Versions: s.Offered.String(), Encrypted: s.Encrypted,
		TLS: tls.VersionName(s.TLS.Version), CipherSuite: tls.CipherSuiteName(s.TLS.CipherSuite), Group: s.TLS.Group.String(), ALPN: s.TLS.Protocol,
	}
	for _, der := range s.PeerChain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			continue // it was looked at in the handshake
		}
		key, _ := smp.ParsePublicKey(cert.RawSubjectPublicKeyInfo)
		p.report.Certificates = append(p.report.Certificates, Certificate{
			Subject: cert.Subject.String(), Key: key.Algorithm().String(), NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(),
		})
	}
	return c, true
}

// splitHandshake makes two steps of connecting: what the network takes, and the rest.
func (p *probe) splitHandshake(network *stopwatch) {
	last := &p.report.Steps[len(p.report.Steps)-1]
	if !network.connected {
		last.Name = Connect
		if f := p.report.Failure; f != nil && f.Step == Handshake {
			f.Step = Connect
		}
		return
	}
	whole := last.Seconds
	*last = Step{Connect, network.took.Seconds()}
	p.report.Steps = append(p.report.Steps, Step{Handshake, whole - network.took.Seconds()})
}

// A stopwatch connects, and takes the time until the first connection is there.
type stopwatch struct {
	net.Dialer

	began     time.Time
	took      time.Duration
	connected bool
}

// DialContext connects.
func (s *stopwatch) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := s.Dialer.DialContext(ctx, network, address)
	if err == nil && !s.connected {
		s.took, s.connected = time.Since(s.began), true
	}
	return conn, err
}

// create makes a queue and subscribes to it.
func (p *probe) create(ctx context.Context, c *client.Client) error {
	q := &p.queue
	var dh auth.PrivateKey
	for _, k := range []struct {
		key       *auth.PrivateKey
		algorithm smp.Algorithm
	}{{&q.recipientKey, smp.Ed25519}, {&q.senderKey, smp.Ed25519}, {&dh, smp.X25519}} {
		var err error
		if *k.key, err = auth.GenerateKey(k.algorithm); err != nil {
			return err
		}
	}
	ids, err := client.As[*smp.IDS](c.Do(ctx, client.Request{Key: q.recipientKey, Command: &smp.NEW{
		RecipientKey: q.recipientKey.Public(), DHKey: dh.Public(), Password: p.o.Router.Password, Subscribe: true, Mode: smp.ModeMessaging,
	}}))
	if err != nil {
		return err
	}
	q.recipient, q.sender = ids.RecipientID.ID(), ids.SenderID.ID()
	q.secret, err = dh.Agree(ids.DHKey)
	return err
}

// receive waits for the message with a body, and returns its id.
func (p *probe) receive(ctx context.Context, c *client.Client, body []byte) (smp.Short, error) {
	for {
		var e client.Event
		var open bool
		select {
		case e, open = <-c.Events():
		case <-ctx.Done():
			return smp.Short{}, ctx.Err()
		}
		if !open {
			return smp.Short{}, c.Err()
		}
		if r, refused := e.Response.(*smp.ERR); refused {
			e.Err = r.Err
		}
		if e.Err != nil {
			return smp.Short{}, e.Err
		}
		if r, message := e.Response.(*smp.MSG); message {
			m, err := auth.OpenMessage(p.queue.secret, auth.NonceOf(r.MsgID.Bytes()), r.Body)
			if err == nil && !bytes.Equal(m.Body, body) {
				err = errOther
			}
			return r.MsgID, err
		}
	}
}

var errOther = errors.New("the message is not the one that was sent")

// kindOf tells what kind of failure an error is.
func kindOf(err error) Kind {
	if _, ok := errors.AsType[smp.ProxyBrokerError](err); ok {
		return ProxyFault
	}
	if _, ok := errors.AsType[smp.ProxyError](err); ok {
		if errors.Is(err, smp.ErrProxyPassword) {
			return Authorization
		}
		return ProxyFault
	}
	if _, ok := errors.AsType[smp.BlockedError](err); ok {
		return Blocked
	}
	for _, k := range []struct {
		is   error
		kind Kind
	}{
		{errTooSlow, Timeout},
		{context.DeadlineExceeded, Timeout},
		{smp.ErrHandshakeIdentity, Identity},
		{auth.ErrChain, BadCertificate},
		{smp.ErrHandshakeBadAuth, BadCertificate},
		{transport.ErrEd448, TLS},
		{transport.ErrTLS, TLS},
		{smp.ErrTransportVersion, Version},
		{smp.ErrAuth, Authorization},
		{smp.ErrQuota, Quota},
		{client.ErrOnion, Network},
	} {
		if errors.Is(err, k.is) {
			return k.kind
		}
	}
	if _, ok := errors.AsType[smp.Error](err); ok {
		return Protocol
	}
	if _, ok := errors.AsType[net.Error](err); ok || errors.Is(err, client.ErrClosed) {
		return Network
	}
	return Protocol
}
