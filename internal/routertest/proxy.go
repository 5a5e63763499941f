package routertest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/transport"
)

// relayTimeout is how long a proxy waits for the destination router.
const relayTimeout = 30 * time.Second

// A relay is a router that commands are forwarded to, and the connection to it.
type relay struct {
	connect sync.Once
	err     error      // set by connect
	sending sync.Mutex // held while a block is sent

	// Guarded by Router.mu.
	conn    *transport.Conn                    // nil: not connected yet
	waiting map[smp.EntityID]chan smp.Response // what is forwarded, by correlation id
}

var (
	errRelayNetwork = smp.ProxyBrokerError{Kind: smp.BrokerNetwork}
	errRelayVersion = smp.ProxyBrokerError{Kind: smp.BrokerTransport, Transport: smp.ErrTransportVersion}
	errRelayKey     = smp.ProxyBrokerError{Kind: smp.BrokerTransport, Transport: smp.ErrTransportNoAuth}
)

// answerLater sends the answer to a request when do has it.
func (r *Router) answerLater(rq *request, do func() (smp.Response, error)) {
	r.work.Go(func() {
		answer, err := do()
		if err != nil {
			answer = failure(err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		rq.session.respond(rq, answer)
	})
}

// connectRelay answers PRXY.
func (r *Router) connectRelay(rq *request, c *smp.PRXY) error {
	if err := rq.needs(messaging); err != nil {
		return err
	}
	if p := r.options.Password; r.options.NoProxy || !p.IsZero() && !p.Equal(c.Password) {
		return smp.ErrProxyPassword
	}
	name := fmt.Sprint(c.Fingerprint, c.Hosts, c.Port)
	to := r.relays[name]
	if to == nil {
		to = &relay{waiting: make(map[smp.EntityID]chan smp.Response)}
		r.relays[name] = to
	}
	r.answerLater(rq, func() (smp.Response, error) {
		to.connect.Do(func() { to.err = r.dialRelay(to, name, c) })
		if to.err != nil {
			return nil, to.err
		}
		s := to.conn.Session()
		versions, ok := s.Versions.Intersect(r.forwards())
		if !ok {
			return nil, errRelayVersion
		}
		return &smp.PKEY{SessionID: s.ID, Versions: versions, Key: *s.RouterKey}, nil
	})
	return nil
}

// forwards returns the versions in which clients may talk to other routers: not
// the newest one, which would tell clients apart.
func (r *Router) forwards() smp.VersionRange {
	return smp.VersionRange{Min: smp.VersionProxy, Max: max(smp.VersionProxy, r.options.Versions.Max-1)}
}

func (r *Router) dialRelay(to *relay, name string, c *smp.PRXY) error {
	ctx, cancel := context.WithTimeout(r.ctx, relayTimeout)
	defer cancel()
	at := smp.RouterAddress{Hosts: c.Hosts, Port: c.Port}
	address := net.JoinHostPort(at.Hosts[0].String(), strconv.Itoa(int(at.PortOrDefault())))
	d := transport.Dialer{Router: c.Fingerprint, Versions: r.options.Versions, Proxy: true}
	conn, err := d.Dial(ctx, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	})
	if err == nil {
		switch s := conn.Session(); {
		case s.Version < smp.VersionProxy:
			err = errRelayVersion
		case s.RouterKey == nil:
			err = errRelayKey
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		err = r.ctx.Err()
	}
	if err != nil {
		delete(r.relays, name)
		if conn != nil {
			_ = conn.Close()
		}
		return relayError(err)
	}
	to.conn = conn
	r.work.Go(func() { r.readRelay(to, name) })
	return nil
}

// relayError returns what a client is told if there is no connection.
func relayError(err error) smp.Error {
	if e, ok := errors.AsType[smp.ProxyBrokerError](err); ok {
		return e
	}
	if e, ok := errors.AsType[smp.TransportError](err); ok && e != smp.ErrHandshakeIdentity {
		return smp.ProxyBrokerError{Kind: smp.BrokerTransport, Transport: e}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return smp.ProxyBrokerError{Kind: smp.BrokerTimeout}
	}
	return errRelayNetwork
}

// readRelay hands responses to who waits for them, until the connection ends.
func (r *Router) readRelay(to *relay, name string) {
	defer to.conn.Close() //nolint:errcheck // the other end may have closed it
	for {
		content, err := to.conn.Receive(nil)
		if err != nil && !errors.Is(err, smp.ErrTransportBlock) {
			break
		}
		transmissions, err := smp.SplitContent(nil, content)
		if err != nil {
			continue
		}
		for _, in := range transmissions {
			r.receiveRelay(to, in)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.relays, name)
	for _, answer := range to.waiting {
		close(answer)
	}
}

// receiveRelay hands on a response; nil if it cannot be parsed.
func (r *Router) receiveRelay(to *relay, in []byte) {
	v := to.conn.Session().Version
	t, err := smp.ParseTransmission(in, v)
	if err != nil {
		return
	}
	response, err := smp.ParseResponse(t.Command, v)
	if err != nil {
		response = nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if answer, ok := to.waiting[t.CorrID.ID()]; ok {
		delete(to.waiting, t.CorrID.ID())
		answer <- response
	}
}

func (r *Router) disconnectRelays() {
	r.mu.Lock()
	var conns []*transport.Conn
	for _, to := range r.relays {
		if to.conn != nil {
			conns = append(conns, to.conn)
		}
	}
	r.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

// forward answers PFWD.
func (r *Router) forward(rq *request, c *smp.PFWD) error {
	if err := rq.needs(messaging); err != nil {
		return err
	}
	for _, to := range r.relays {
		if to.conn == nil || !to.conn.Session().ID.Equal(rq.transmission.EntityID) {
			continue
		}
		id := newID()
		answer := make(chan smp.Response, 1)
		to.waiting[id.ID()] = answer
		f := auth.Forwarded{CorrID: rq.transmission.CorrID, Version: c.Version, Key: c.Key, Sealed: c.Encrypted}
		r.answerLater(rq, func() (smp.Response, error) { return to.exchange(f, id, answer) })
		return nil
	}
	return smp.ErrNoSession
}

// exchange forwards a command and returns PRES.
func (to *relay) exchange(f auth.Forwarded, id smp.Short, answer <-chan smp.Response) (smp.Response, error) {
	s := to.conn.Session()
	nonce := auth.NonceOf(id.Bytes())
	c := &smp.RFWD{Encrypted: f.Seal(nil, s.Secret, nonce)}
	t := smp.Transmission{CorrID: id, Command: c.Append(nil, s.Version)}
	var block smp.Batch
	if _, err := block.Add(t.Append(nil, s.Version)); err != nil {
		return nil, smp.ProxyBrokerError{Kind: smp.BrokerTransport, Transport: smp.ErrTransportLargeMsg}
	}
	to.sending.Lock()
	err := to.conn.Send(block.Content())
	to.sending.Unlock()
	if err != nil {
		return nil, errRelayNetwork
	}
	select {
	case response, ok := <-answer:
		if !ok {
			return nil, errRelayNetwork
		}
		return openResponse(response, s.Secret, nonce.Reply())
	case <-time.After(relayTimeout):
		return nil, smp.ProxyBrokerError{Kind: smp.BrokerTimeout}
	}
}

func openResponse(response smp.Response, secret smp.DHSecret, nonce auth.Nonce) (smp.Response, error) {
	if response == nil {
		return nil, smp.ProxyBrokerError{Kind: smp.BrokerResponse}
	}
	if e, ok := response.(*smp.ERR); ok {
		return nil, smp.ProxyProtocolError{Err: e.Err}
	}
	result, ok := response.(*smp.RRES)
	if !ok {
		return nil, smp.ProxyBrokerError{Kind: smp.BrokerUnexpected}
	}
	f, err := auth.OpenForwardedResponse(secret, nonce, result.Encrypted)
	if err != nil {
		return nil, smp.ErrCrypto
	}
	return &smp.PRES{Encrypted: f.Sealed}, nil
}

// A forwarded is what a proxy forwards to this router, with what is needed to
// answer.
type forwarded struct {
	request *request
	corrID  smp.Short    // of PFWD
	secret  smp.DHSecret // shared with the client
}

// open sets what is in RFWD.
func (rq *request) open(c *smp.RFWD) error {
	if err := rq.needs(proxying); err != nil {
		return err
	}
	s := rq.session.conn.Session()
	if s.Secret.IsZero() {
		return errRelayKey
	}
	f, err := auth.OpenForwarded(s.Secret, auth.NonceOf(rq.transmission.CorrID.Bytes()), c.Encrypted)
	switch {
	case errors.Is(err, auth.ErrOpen):
		return smp.ErrCrypto
	case err != nil:
		return smp.ErrSyntax
	}
	secret, err := s.Key.Agree(f.Key)
	if err != nil {
		return smp.ErrCrypto
	}
	content, err := auth.OpenCommand(secret, auth.NonceOf(f.CorrID.Bytes()), f.Sealed)
	if err != nil {
		return smp.ErrCrypto
	}
	transmissions, err := smp.SplitContent(nil, content)
	if err == nil && len(transmissions) != 1 {
		return smp.ErrBlock
	}
	inner := &request{session: rq.session, version: f.Version, verifier: auth.NewVerifier(s.ID, s.Key, nil)}
	rq.forwarded = &forwarded{request: inner, corrID: f.CorrID, secret: secret}
	if err != nil {
		inner.answer = failure(smp.ErrBlock)
	} else {
		inner.parse(transmissions[0])
	}
	if inner.answer == nil && !forwardable(inner.command) {
		inner.answer = failure(smp.ErrProhibited)
	}
	return nil
}

// forwardable reports whether a proxy may forward c.
func forwardable(c smp.Command) bool {
	switch c.(type) {
	case *smp.SEND, *smp.SKEY, *smp.LKEY, *smp.LGET:
		return true
	case *smp.NEW, *smp.SUB, *smp.KEY, *smp.RKEY, *smp.LSET, *smp.LDEL, *smp.NKEY, *smp.NDEL, *smp.GET, *smp.ACK,
		*smp.OFF, *smp.DEL, *smp.QUE, *smp.NSUB, *smp.SUBS, *smp.NSUBS, *smp.PING, *smp.PRXY, *smp.PFWD, *smp.RFWD:
	}
	return false
}

// answerForwarded answers RFWD.
func (r *Router) answerForwarded(rq *request) (smp.Response, error) {
	f := rq.forwarded
	answer := r.respond(f.request)
	if answer == nil {
		return nil, nil //nolint:nilnil // the test wants no answer
	}
	var block smp.Batch
	if _, err := block.Add(f.request.encode(answer)); err != nil {
		return nil, smp.ErrBlock
	}
	nonce := auth.NonceOf(f.corrID.Bytes())
	sealed, err := auth.SealCommand(nil, f.secret, nonce.Reply(), block.Content())
	if err != nil {
		return nil, smp.ErrBlock
	}
	result := auth.ForwardedResponse{CorrID: f.corrID, Sealed: sealed}
	nonce = auth.NonceOf(rq.transmission.CorrID.Bytes())
	return &smp.RRES{Encrypted: result.Seal(nil, rq.session.conn.Session().Secret, nonce.Reply())}, nil
}
