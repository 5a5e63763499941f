package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// An Acceptor is the router's end of the handshake. It may be used by many
// goroutines at the same time.
type Acceptor struct {
	config   AcceptorConfig
	identity smp.Fingerprint
}

// AcceptorConfig says how a router accepts connections.
type AcceptorConfig struct {
	// Credentials are the router's certificates, two to four with that of the
	// authority last, and the key of the first.
	Credentials Credentials
	// Versions are those that the router speaks.
	Versions smp.VersionRange
	// Service returns the id of a service, or an error if the router does not take
	// it. If nil, it takes none.
	Service func(context.Context, ServiceOffer) (smp.EntityID, error)
	// TLS makes the TLS connections; nil for [StandardTLS].
	TLS TLS
}

// A ServiceOffer is what a service proved.
type ServiceOffer struct {
	Role     queue.Role
	Chain    queue.CertChain
	Identity smp.Fingerprint
}

// NewAcceptor returns an Acceptor. It fails if the certificates would be refused
// by clients, or do not go with the key.
func NewAcceptor(config AcceptorConfig) (*Acceptor, error) {
	chain, err := auth.VerifyRouterChain(config.Credentials.Chain, time.Now())
	if err != nil {
		return nil, fmt.Errorf("router certificate: %w", err)
	}
	if chain.Leaf != config.Credentials.Key.Public() {
		return nil, errors.New("router certificate: it does not go with the private key")
	}
	if config.TLS == nil {
		config.TLS = StandardTLS{}
	}
	return &Acceptor{config: config, identity: chain.Identity}, nil
}

// Identity returns the fingerprint by which addresses name the router.
func (a *Acceptor) Identity() smp.Fingerprint { return a.identity }

// Accept performs the handshakes with a client. It takes conn over, and closes it
// if it fails: clients are not told why, except services. It waits no longer than
// [TLSTimeout] and [HandshakeTimeout].
//
// Errors are [ErrTLS], [auth.ErrChain], [context.DeadlineExceeded], and
// [smp.TransportError]: ErrHandshakeParse, ErrHandshakeIdentity for who wants another
// router, ErrTransportVersion, ErrHandshakeBadAuth, ErrHandshakeBadService.
func (a *Acceptor) Accept(ctx context.Context, conn net.Conn) (*Conn, error) {
	c, err := a.accept(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("accept connection: %w", err)
	}
	return c, nil
}

func (a *Acceptor) accept(ctx context.Context, conn net.Conn) (*Conn, error) {
	tlsCtx, cancel := context.WithTimeout(ctx, TLSTimeout)
	channel, err := a.config.TLS.Server(tlsCtx, conn, protocols, &a.config.Credentials, func(der [][]byte) error {
		_, err := auth.VerifyServiceChain(der, time.Now())
		return err
	})
	cancel()
	if err != nil {
		return nil, err
	}
	ctx, cancel = context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	stop := closeAfter(ctx, conn)
	c, err := a.handshake(ctx, channel)
	if err = stop(err); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

func (a *Acceptor) handshake(ctx context.Context, channel *Channel) (*Conn, error) {
	s := Session{ID: channel.SessionID, PeerChain: channel.PeerChain, TLS: channel.TLSInfo}
	offer, key, err := a.offer(channel)
	if err != nil {
		return nil, fmt.Errorf("router's hello: %w", err)
	}
	if err := sendBlock(channel, nil, offer.encode()); err != nil {
		return nil, fmt.Errorf("router's hello: %w", err)
	}
	content, err := receiveHello(channel)
	if err != nil {
		return nil, fmt.Errorf("client's hello: %w", err)
	}
	hello, err := parseClientHello(content)
	if err != nil {
		return nil, err
	}
	switch {
	case !slices.Equal(hello.router, a.identity.Bytes()):
		return nil, fmt.Errorf("client's hello: %w", smp.ErrHandshakeIdentity)
	case !offer.versions.Contains(hello.version):
		return nil, fmt.Errorf("client's hello: %w: %d, not of %s", smp.ErrTransportVersion, hello.version, offer.versions)
	}
	s.Version = hello.version
	s.Offered = offer.versions
	s.Versions = smp.VersionRange{Min: offer.versions.Min, Max: hello.version}
	s.Proxy = hello.proxy
	s.Key, s.RouterKey = key, offer.key
	if !hello.key.IsZero() && !key.IsZero() {
		s.PeerKey = hello.key
		if s.Secret, err = key.Agree(hello.key); err != nil {
			return nil, fmt.Errorf("client's hello: %w: %w", smp.ErrHandshakeBadAuth, err)
		}
	}
	if hello.service != nil {
		if s.Service, err = a.service(ctx, channel, hello.service); err != nil {
			return nil, err
		}
	}
	c := &Conn{conn: channel}
	c.out, c.in = s.encrypt()
	c.session = s
	return c, nil
}

// offer returns the router's hello and the private half of the key in it. A
// client that offers no protocol by ALPN is one of version 6.
func (a *Acceptor) offer(channel *Channel) (h routerHello, key auth.PrivateKey, err error) {
	h = routerHello{versions: a.config.Versions, session: channel.SessionID}
	if channel.Protocol == "" {
		h.versions = smp.VersionRange{Min: smp.VersionBase, Max: smp.VersionBase}
	}
	if h.versions.Max < smp.VersionSessionKeys {
		return h, auth.PrivateKey{}, nil
	}
	if key, err = auth.GenerateKey(smp.X25519); err != nil {
		return h, key, err
	}
	signed, err := auth.SignKey(a.config.Credentials.Key, key.Public())
	if err != nil {
		return h, key, err
	}
	h.key = &smp.SignedKey{Chain: a.config.Credentials.Chain, Key: signed}
	return h, key, nil
}

// service checks what a service says of itself, asks whether the router takes it,
// and answers.
func (a *Acceptor) service(ctx context.Context, channel *Channel, hello *serviceHello) (*Service, error) {
	service, err := a.checkService(ctx, channel, hello)
	var reply serviceReply
	if err == nil {
		reply.id, err = smp.NewShort(service.ID.Bytes())
	}
	if err != nil {
		refused, ok := errors.AsType[smp.TransportError](err)
		if !ok {
			refused = smp.ErrHandshakeBadService
			err = fmt.Errorf("%w: %w", refused, err)
		}
		reply.refused = refused
	}
	if sendErr := sendBlock(channel, nil, reply.encode()); err == nil {
		err = sendErr
	}
	if err != nil {
		return nil, fmt.Errorf("service: %w", err)
	}
	return service, nil
}

var errNoServices = errors.New("this router takes no services")

func (a *Acceptor) checkService(ctx context.Context, channel *Channel, hello *serviceHello) (*Service, error) {
	if !slices.EqualFunc(hello.key.Chain, channel.PeerChain, slices.Equal[[]byte]) {
		return nil, fmt.Errorf("%w: not the certificates of the TLS connection", smp.ErrHandshakeBadAuth)
	}
	chain, err := auth.VerifyServiceChain(channel.PeerChain, time.Now())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", smp.ErrHandshakeBadAuth, err)
	}
	key, err := chain.SessionKey(hello.key.Key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", smp.ErrHandshakeBadAuth, err)
	}
	if key.Algorithm() != smp.Ed25519 {
		return nil, fmt.Errorf("%w: a session key for %v", smp.ErrHandshakeBadAuth, key.Algorithm())
	}
	if a.config.Service == nil {
		return nil, errNoServices
	}
	id, err := a.config.Service(ctx, ServiceOffer{Role: hello.role, Chain: channel.PeerChain, Identity: chain.Identity})
	if err != nil {
		return nil, err
	}
	return &Service{ID: id, Role: hello.role, Identity: chain.Identity, Key: key}, nil
}
