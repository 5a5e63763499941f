package transport

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// The handshake (SMP protocol, transport handshake). Each message is the content
// of a block. Readers ignore what follows the fields that they know.

// A routerHello is the router's offer.
type routerHello struct {
	versions smp.VersionRange
	session  smp.Short
	key      *smp.SignedKey // nil if only versions before 7 are offered
}

func (h routerHello) encode() []byte {
	b := h.versions.Append(nil)
	b = h.session.Append(b)
	if h.key != nil {
		b = h.key.Append(b)
	}
	return b
}

func parseRouterHello(in []byte) (routerHello, error) {
	r := smp.NewBinaryReader(in)
	h := routerHello{versions: smp.ReadVersionRange(r), session: smp.ReadShort(r)}
	if h.versions.Max >= smp.VersionSessionKeys && r.Err() == nil {
		key := smp.ReadSignedKey(r)
		h.key = &key
	}
	if err := r.Err(); err != nil {
		return routerHello{}, fmt.Errorf("%w: router's hello: %w", smp.ErrHandshakeParse, err)
	}
	return h, nil
}

// A clientHello is the client's choice.
type clientHello struct {
	version smp.Version
	router  []byte        // fingerprint of the router that the client wants
	key     smp.PublicKey // X25519; zero if the client has none
	proxy   bool          // the client is a proxy; from version 14 on
	service *serviceHello // from version 16 on
}

// A serviceHello is a service's part of a clientHello.
type serviceHello struct {
	role queue.Role
	key  smp.SignedKey // with the Ed25519 session key of the service
}

func (h clientHello) encode() []byte {
	b := smp.AppendUint16(nil, uint16(h.version))
	b = append(append(b, byte(len(h.router))), h.router...) //nolint:gosec // a fingerprint, 32 bytes
	if h.version >= smp.VersionSessionKeys && !h.key.IsZero() {
		b = h.key.Append(append(b, byte(h.key.Size()))) //nolint:gosec // 44
	}
	if h.version >= smp.VersionProxyFlag {
		flag := byte('F')
		if h.proxy {
			flag = 'T'
		}
		b = append(b, flag)
	}
	if h.version >= smp.VersionServices {
		if h.service == nil {
			return append(b, '0')
		}
		b = append(b, '1', byte(h.service.role))
		b = h.service.key.Append(b)
	}
	return b
}

var errRole = errors.New("unknown role of a service")

func parseClientHello(in []byte) (clientHello, error) {
	r := smp.NewBinaryReader(in)
	h := clientHello{version: smp.Version(r.Uint16()), router: r.Short()}
	if r.Err() == nil && h.version >= smp.VersionSessionKeys {
		// Nothing tells the absence of a key but that there is none.
		rest := in[2+1+len(h.router):]
		peek := smp.NewBinaryReader(rest)
		if key, err := smp.ParsePublicKey(peek.Short()); err == nil && key.Algorithm() == smp.X25519 {
			h.key = key
			r.Short()
		}
	}
	if h.version >= smp.VersionProxyFlag {
		h.proxy = r.Bool()
	}
	var err error
	if h.version >= smp.VersionServices && r.Present() {
		h.service = &serviceHello{role: queue.Role(r.Byte()), key: smp.ReadSignedKey(r)}
		switch h.service.role {
		case queue.RoleMessaging, queue.RoleNotifier, queue.RoleProxy:
		default:
			err = errRole
		}
	}
	if r.Err() != nil {
		err = r.Err()
	}
	if err != nil {
		return clientHello{}, fmt.Errorf("%w: client's hello: %w", smp.ErrHandshakeParse, err)
	}
	return h, nil
}

// A serviceReply is the router's answer to a service: its id or why it is
// refused.
type serviceReply struct {
	id      smp.Short
	refused error // a smp.TransportError, or nil
}

func (s serviceReply) encode() []byte {
	if s.refused != nil {
		return append([]byte{'E'}, s.refused.Error()...)
	}
	return s.id.Append([]byte{'R'})
}

func parseServiceReply(in []byte) (serviceReply, error) {
	r := smp.NewBinaryReader(in)
	kind := r.Byte()
	var err error
	switch {
	case r.Err() != nil:
	case kind == 'R':
		if id := smp.ReadShort(r); r.Err() == nil {
			return serviceReply{id: id}, nil
		}
	case kind == 'E':
		var refused smp.TransportError
		if refused, err = smp.ParseTransportError(bytes.Clone(r.Rest())); err == nil {
			return serviceReply{refused: refused}, nil
		}
	default:
		r.Fail("expected R or E")
	}
	if err == nil {
		err = r.Err()
	}
	return serviceReply{}, fmt.Errorf("%w: reply to the service: %w", smp.ErrHandshakeParse, err)
}
