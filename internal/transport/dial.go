package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// A Dialer is the client's end of the handshake. It may be used by many
// goroutines at the same time.
type Dialer struct {
	// Router is the fingerprint of the router; no other is accepted.
	Router smp.Fingerprint
	// Versions are those that the client speaks.
	Versions smp.VersionRange
	// Proxy says that the client is a router that forwards commands.
	Proxy bool
	// Service is for services; nil for other clients.
	Service *ServiceCredentials
	// Protocol is what to offer by ALPN; empty for "smp/1". Applications offer
	// "http/1.1" on port 443, to look like any other.
	Protocol string
	// TLS makes the TLS connection; nil for [StandardTLS].
	TLS TLS
}

// ServiceCredentials are what a service proves itself with.
type ServiceCredentials struct {
	Credentials

	Role queue.Role
}

// Dial connects to the router and performs the handshakes. It has all of the time
// that ctx has.
//
// The connections are made by connect: usually one. If TLS fails, a second one
// serves to find out whether the router has an Ed448 certificate: [ErrEd448].
// Other errors are those of connect; [ErrTLS]; [auth.ErrChain] and
// [auth.ErrSignedKey]; and [smp.TransportError]: ErrHandshakeIdentity for another
// router, ErrTransportVersion, ErrTransportSession, ErrHandshakeParse, and for services
// what the router answers.
func (d *Dialer) Dial(ctx context.Context, connect func(context.Context) (net.Conn, error)) (*Conn, error) {
	c, err := d.dial(ctx, connect)
	if err != nil && errors.Is(err, ErrTLS) && ctx.Err() == nil && d.hasEd448(ctx, connect) {
		err = fmt.Errorf("%w: %w", ErrEd448, err)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to router: %w", err)
	}
	return c, nil
}

func (d *Dialer) dial(ctx context.Context, connect func(context.Context) (net.Conn, error)) (*Conn, error) {
	conn, err := connect(ctx)
	if err != nil {
		return nil, err
	}
	layer, protocol := d.TLS, d.Protocol
	if layer == nil {
		layer = StandardTLS{}
	}
	if protocol == "" {
		protocol = protocols[0]
	}
	var own *Credentials
	if d.Service != nil {
		own = &d.Service.Credentials
	}
	var chain auth.Chain
	channel, err := layer.Client(ctx, conn, protocol, own, func(der [][]byte) (err error) {
		chain, err = d.verify(der)
		return err
	})
	if err != nil {
		return nil, err
	}
	stop := closeAfter(ctx, conn)
	c, err := d.handshake(channel, chain)
	if err = stop(err); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return c, nil
}

// verify checks that the certificates are those of the router.
func (d *Dialer) verify(der [][]byte) (auth.Chain, error) {
	chain, err := auth.VerifyRouterChain(der, time.Now())
	if err != nil {
		return auth.Chain{}, err
	}
	if chain.Identity != d.Router {
		return auth.Chain{}, fmt.Errorf("%w: its fingerprint is %s, not %s", smp.ErrHandshakeIdentity, chain.Identity, d.Router)
	}
	return chain, nil
}

func (d *Dialer) handshake(channel *Channel, chain auth.Chain) (*Conn, error) {
	content, err := receiveHello(channel, BlockTimeout)
	if err != nil {
		return nil, fmt.Errorf("router's hello: %w", err)
	}
	offer, err := parseRouterHello(content)
	if err != nil {
		return nil, err
	}
	s := Session{ID: channel.SessionID, Proxy: d.Proxy, RouterKey: offer.key, PeerChain: channel.PeerChain, TLS: channel.TLSInfo}
	if !offer.session.Equal(s.ID) {
		return nil, fmt.Errorf("router's hello: %w: %s, not %s", smp.ErrTransportSession, offer.session, s.ID)
	}
	s.Offered = offer.versions
	if s.Versions, err = d.agree(offer.versions); err != nil {
		return nil, err
	}
	s.Version = s.Versions.Max
	hello := clientHello{version: s.Version, router: d.Router.Bytes(), proxy: d.Proxy}
	if offer.key != nil {
		if s.PeerKey, err = d.routerKey(*offer.key, chain); err != nil {
			return nil, fmt.Errorf("router's hello: %w", err)
		}
	}
	if !s.PeerKey.IsZero() && s.Version >= smp.VersionSessionKeys {
		if s.Key, err = auth.GenerateKey(smp.X25519); err != nil {
			return nil, err
		}
		if s.Secret, err = s.Key.Agree(s.PeerKey); err != nil {
			return nil, fmt.Errorf("router's hello: %w", err)
		}
		hello.key = s.Key.Public()
	}
	if hello.service, s.Service, err = d.service(s.Version); err != nil {
		return nil, err
	}
	if err := sendBlock(channel, nil, hello.encode(), BlockTimeout); err != nil {
		return nil, fmt.Errorf("client's hello: %w", err)
	}
	if s.Service != nil {
		if content, err = receiveHello(channel, BlockTimeout); err != nil {
			return nil, fmt.Errorf("reply to the service: %w", err)
		}
		reply, err := parseServiceReply(content)
		if err != nil {
			return nil, err
		}
		if reply.refused != nil {
			return nil, fmt.Errorf("service refused by the router: %w", reply.refused)
		}
		s.Service.ID = reply.id.ID()
	}
	c := &Conn{conn: channel, blockTimeout: BlockTimeout, closeTimeout: CloseTimeout}
	c.in, c.out = s.encrypt()
	c.session = s
	return c, nil
}

// agree returns the versions that both ends speak; the highest is that of the
// session.
func (d *Dialer) agree(offered smp.VersionRange) (smp.VersionRange, error) {
	own := d.Versions
	if d.Proxy && min(own.Max, offered.Max) < smp.VersionProxyFlag {
		// From version 11 on, the router would encrypt blocks, not knowing that
		// this is a proxy.
		own.Max = min(own.Max, smp.VersionDeleted)
	}
	both, ok := own.Intersect(offered)
	if !ok {
		return both, fmt.Errorf("%w: the router offers %s, this end %s", smp.ErrTransportVersion, offered, own)
	}
	return both, nil
}

// routerKey checks the router's session key. The certificates that come with it
// are not looked at: it must be signed with those of the TLS connection.
func (d *Dialer) routerKey(signed smp.SignedKey, chain auth.Chain) (smp.PublicKey, error) {
	if len(signed.Chain) < 2 || smp.FingerprintOf(signed.Chain[1]) != d.Router {
		return smp.PublicKey{}, fmt.Errorf("%w: with the certificates of another router", smp.ErrHandshakeIdentity)
	}
	key, err := chain.SessionKey(signed.Key)
	if err != nil {
		return smp.PublicKey{}, fmt.Errorf("%w: %w", smp.ErrHandshakeBadAuth, err)
	}
	if key.Algorithm() != smp.X25519 {
		return smp.PublicKey{}, fmt.Errorf("%w: a session key for %v", smp.ErrHandshakeBadAuth, key.Algorithm())
	}
	return key, nil
}

// service returns what a service says in its hello, if there is one and if the
// version has room for it. Recipients' services exist from version 19 on.
func (d *Dialer) service(v smp.Version) (*serviceHello, *Service, error) {
	if d.Service == nil || v < smp.VersionServices || d.Service.Role == queue.RoleMessaging && v < smp.VersionServiceHashes {
		return nil, nil, nil
	}
	chain, err := auth.VerifyServiceChain(d.Service.Chain, time.Now())
	if err != nil {
		return nil, nil, fmt.Errorf("own certificate: %w", err)
	}
	private, err := auth.GenerateKey(smp.Ed25519)
	if err != nil {
		return nil, nil, err
	}
	signed, err := auth.SignKey(d.Service.Key, private.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("own certificate: %w", err)
	}
	hello := &serviceHello{role: d.Service.Role, key: smp.SignedKey{Chain: d.Service.Chain, Key: signed}}
	return hello, &Service{Role: d.Service.Role, Identity: chain.Identity, Key: private.Public(), private: private}, nil
}

// encrypt sets whether blocks are encrypted, and returns the chains to the client
// and to the router; nil if not.
func (s *Session) encrypt() (toClient, toRouter *auth.BlockChain) {
	s.Encrypted = s.Version >= smp.VersionBlockEncryption && !s.Secret.IsZero() && !s.Proxy
	if !s.Encrypted {
		return nil, nil
	}
	return auth.NewBlockChains(s.ID, s.Secret)
}
