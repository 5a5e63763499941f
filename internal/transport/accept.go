package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// An Acceptor is the router's end of the handshake. It may be used by many
// goroutines at the same time.
type Acceptor struct {
	config      AcceptorConfig // but for the credentials
	credentials atomic.Pointer[Credentials]
	identity    smp.Fingerprint
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

	// TLSTimeout is how long the TLS handshake of a client may take; 0 for
	// [TLSTimeout].
	TLSTimeout time.Duration
	// HandshakeTimeout is how long the handshake of the protocol may take then; 0 for
	// [HandshakeTimeout].
	HandshakeTimeout time.Duration
	// BlockTimeout is how long a client may take to send the rest of a block, or to
	// take one; 0 for [BlockTimeout].
	BlockTimeout time.Duration
	// CloseTimeout is how long a client may take to close its end after
	// [Conn.CloseWrite]; 0 for [CloseTimeout].
	CloseTimeout time.Duration
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
	identity, err := config.Credentials.check()
	if err != nil {
		return nil, err
	}
	if config.TLS == nil {
		config.TLS = StandardTLS{}
	}
	orElse(&config.TLSTimeout, TLSTimeout)
	orElse(&config.HandshakeTimeout, HandshakeTimeout)
	orElse(&config.BlockTimeout, BlockTimeout)
	orElse(&config.CloseTimeout, CloseTimeout)
	a := &Acceptor{config: config, identity: identity}
	a.credentials.Store(&config.Credentials)
	return a, nil
}

func orElse(d *time.Duration, otherwise time.Duration) {
	if *d == 0 {
		*d = otherwise
	}
}

// check checks what clients check, and returns the fingerprint of the authority.
func (c *Credentials) check() (smp.Fingerprint, error) {
	chain, err := auth.VerifyRouterChain(c.Chain, time.Now())
	if err != nil {
		return smp.Fingerprint{}, fmt.Errorf("router certificate: %w", err)
	}
	if chain.Leaf != c.Key.Public() {
		return smp.Fingerprint{}, errors.New("router certificate: it does not go with the private key")
	}
	return chain.Identity, nil
}

// Identity returns the fingerprint by which addresses name the router.
func (a *Acceptor) Identity() smp.Fingerprint { return a.identity }

// SetCredentials replaces the certificates and the key. Connections that are already
// being accepted go on with those they began with. It fails, and changes nothing, if
// clients would refuse the certificates, or they are those of another router: its
// clients would no longer find this one.
func (a *Acceptor) SetCredentials(c Credentials) error {
	identity, err := c.check()
	if err != nil {
		return err
	}
	if identity != a.identity {
		return fmt.Errorf("router certificate: %w: of %s, not of %s", smp.ErrHandshakeIdentity, identity, a.identity)
	}
	a.credentials.Store(&c)
	return nil
}

// Accept performs the handshakes with a client. It takes conn over, and closes it
// if it fails: clients are not told why, except services. It waits no longer than
// the timeouts of the configuration.
//
// Errors are [ErrTLS], [auth.ErrChain], [context.DeadlineExceeded], and
// [smp.TransportError]: ErrHandshakeParse, ErrHandshakeIdentity for who wants another
// router, ErrTransportVersion, ErrHandshakeBadAuth, ErrHandshakeBadService; and
// [ErrTakenOver], which is no failure.
func (a *Acceptor) Accept(ctx context.Context, conn net.Conn) (*Conn, error) {
	c, err := a.accept(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("accept connection: %w", err)
	}
	return c, nil
}

func (a *Acceptor) accept(ctx context.Context, conn net.Conn) (*Conn, error) {
	credentials := a.credentials.Load() // the same ones in both handshakes
	tlsCtx, cancel := context.WithTimeout(ctx, a.config.TLSTimeout)
	channel, err := a.config.TLS.Server(tlsCtx, conn, protocols, credentials, func(der [][]byte) error {
		_, err := auth.VerifyServiceChain(der, time.Now())
		return err
	})
	cancel()
	if err != nil {
		return nil, err
	}
	ctx, cancel = context.WithTimeout(ctx, a.config.HandshakeTimeout)
	defer cancel()
	stop := closeAfter(ctx, conn)
	c, err := a.handshake(ctx, channel, credentials)
	if err = stop(err); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

func (a *Acceptor) handshake(ctx context.Context, channel *Channel, credentials *Credentials) (*Conn, error) {
	s := Session{ID: channel.SessionID, PeerChain: channel.PeerChain, TLS: channel.TLSInfo}
	offer, key, err := a.offer(channel, credentials)
	if err != nil {
		return nil, fmt.Errorf("router's hello: %w", err)
	}
	if err := sendBlock(channel, nil, offer.encode(), a.config.BlockTimeout); err != nil {
		return nil, fmt.Errorf("router's hello: %w", err)
	}
	content, err := receiveHello(channel, a.config.BlockTimeout)
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
	c := &Conn{conn: channel, blockTimeout: a.config.BlockTimeout, closeTimeout: a.config.CloseTimeout}
	c.out, c.in = s.encrypt()
	c.session = s
	return c, nil
}

// offer returns the router's hello and the private half of the key in it. A
// client that offers no protocol by ALPN is one of version 6.
func (a *Acceptor) offer(channel *Channel, credentials *Credentials) (h routerHello, key auth.PrivateKey, err error) {
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
	signed, err := auth.SignKey(credentials.Key, key.Public())
	if err != nil {
		return h, key, err
	}
	h.key = &smp.SignedKey{Chain: credentials.Chain, Key: signed}
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
	if sendErr := sendBlock(channel, nil, reply.encode(), a.config.BlockTimeout); err == nil {
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
