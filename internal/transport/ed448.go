package transport

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"

	"golang.org/x/crypto/cryptobyte"

	"github.com/smpq/smpq/internal/smp"
)

// A router with an Ed448 certificate answers a client that does not know Ed448
// with "handshake failure", which can mean anything. To tell what it means, the
// router is asked once more: by a ClientHello of TLS 1.2 that claims to know
// Ed448. The certificate comes unencrypted then, and there the connection ends.

// hasEd448 reports whether the router has an Ed448 certificate. It does not report
// what goes wrong: what went wrong before matters.
func (d *Dialer) hasEd448(ctx context.Context, connect func(context.Context) (net.Conn, error)) bool {
	conn, err := connect(ctx)
	if err != nil {
		return false
	}
	defer conn.Close() //nolint:errcheck // nothing more is expected of it
	stop := closeAfter(ctx, conn)
	key, err := leafKey(conn)
	return stop(err) == nil && key.Algorithm() == smp.Ed448
}

var errNoCertificate = errors.New("no certificate in the answer to the ClientHello")

// leafKey asks a TLS server for its certificate and returns the key in it, zero
// if it is of a kind that the protocol does not use.
func leafKey(conn net.Conn) (smp.PublicKey, error) {
	hello, err := clientHelloTLS12()
	if err != nil {
		return smp.PublicKey{}, err
	}
	if _, err := conn.Write(hello); err != nil {
		return smp.PublicKey{}, err
	}
	in := io.LimitReader(conn, smp.BlockSize)
	var messages cryptobyte.String
	for {
		var header [recordHeader]byte
		if _, err := io.ReadFull(in, header[:]); err != nil {
			return smp.PublicKey{}, err
		}
		if header[0] != recordHandshake {
			return smp.PublicKey{}, errNoCertificate
		}
		record, err := io.ReadAll(io.LimitReader(in, int64(binary.BigEndian.Uint16(header[3:]))))
		if err != nil {
			return smp.PublicKey{}, err
		}
		if len(record) == 0 {
			return smp.PublicKey{}, errNoCertificate
		}
		messages = append(messages, record...)
		if cert, ok := leafCertificate(messages); ok {
			parsed, err := x509.ParseCertificate(cert)
			if err != nil {
				return smp.PublicKey{}, err
			}
			return smp.ParsePublicKey(parsed.RawSubjectPublicKeyInfo)
		}
	}
}

// leafCertificate returns the first certificate in handshake messages of TLS 1.2
// (RFC 5246, 7.4.2); ok is false if it is not complete.
func leafCertificate(messages cryptobyte.String) (cert cryptobyte.String, ok bool) {
	const messageCertificate = 11
	for {
		var kind uint8
		var body, list cryptobyte.String
		if !messages.ReadUint8(&kind) || !messages.ReadUint24LengthPrefixed(&body) {
			return nil, false
		}
		if kind == messageCertificate {
			return cert, body.ReadUint24LengthPrefixed(&list) && list.ReadUint24LengthPrefixed(&cert)
		}
	}
}

// clientHelloTLS12 returns the record with a ClientHello (RFC 5246, 7.4.1.2) with
// the parameters of the reference implementation. The random number is none:
// nothing is kept secret with it.
func clientHelloTLS12() ([]byte, error) {
	const (
		helloMessage = 1
		version12    = 0x0303

		extGroups       = 10
		extPointFormats = 11
		extSignatures   = 13
		extALPN         = 16
		extSecret       = 23 // extended master secret
	)
	var b cryptobyte.Builder
	extension := func(b *cryptobyte.Builder, kind uint16, content cryptobyte.BuilderContinuation) {
		b.AddUint16(kind)
		b.AddUint16LengthPrefixed(content)
	}
	list := func(values ...uint16) cryptobyte.BuilderContinuation {
		return func(b *cryptobyte.Builder) {
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
				for _, v := range values {
					b.AddUint16(v)
				}
			})
		}
	}
	b.AddUint8(recordHandshake)
	b.AddUint16(0x0301)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		b.AddUint8(helloMessage)
		b.AddUint24LengthPrefixed(func(b *cryptobyte.Builder) {
			b.AddUint16(version12)
			b.AddBytes(make([]byte, 32)) // random
			b.AddUint8(0)                // no session
			list(0xcca9)(b)              // ECDHE-ECDSA-CHACHA20-POLY1305
			b.AddUint8(1)
			b.AddUint8(0) // no compression
			b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
				extension(b, extGroups, list(0x001e, 0x001d)) // X448, X25519
				extension(b, extPointFormats, func(b *cryptobyte.Builder) { b.AddBytes([]byte{1, 0}) })
				extension(b, extSignatures, list(0x0808, 0x0807)) // Ed448, Ed25519
				extension(b, extSecret, func(*cryptobyte.Builder) {})
				extension(b, extALPN, func(b *cryptobyte.Builder) {
					b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
						b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(protocols[0])) })
					})
				})
			})
		})
	})
	return b.Bytes()
}
