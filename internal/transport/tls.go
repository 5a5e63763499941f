package transport

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/smp"
)

// A TLS makes connections secure: the layer between the network and the
// handshake of the protocol. [StandardTLS] is that of the standard library. It
// knows neither Ed448 certificates nor X448, which some routers have; a TLS that
// does needs no change elsewhere.
//
// Both methods take conn over: they close it when they fail. They end when ctx
// does. They call verify with the DER certificates of the other end, the leaf
// first, before they tell the other end anything that depends on who it is, and
// fail with its error.
type TLS interface {
	// Client performs the handshake as a client that offers the protocol (ALPN)
	// and no server name. The credentials are nil if the client has none.
	Client(ctx context.Context, conn net.Conn, protocol string, own *Credentials, verify func([][]byte) error) (*Channel, error)
	// Server performs the handshake as a server that takes the protocols and asks
	// for a certificate; verify is called only if the client has one.
	Server(ctx context.Context, conn net.Conn, protocols []string, own *Credentials, verify func([][]byte) error) (*Channel, error)
}

// Credentials are a certificate chain and the private key of its first
// certificate. The key is never printed.
type Credentials struct {
	Chain [][]byte // DER, the leaf first
	Key   auth.PrivateKey
}

// A Channel is a TLS connection after its handshake.
type Channel struct {
	net.Conn

	// SessionID identifies the session: what the client's Finished message holds,
	// 32 bytes, or 48 with SHA-384, or 12 in TLS 1.2 (SMP protocol, transport
	// handshake).
	SessionID smp.Short
	// PeerChain are the certificates of the other end; nil if it sent none.
	PeerChain [][]byte
	TLSInfo
}

// CloseWrite tells the other end that nothing more will be sent. A connection without
// that notion is closed.
func (c *Channel) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Close()
}

// TLSInfo says how a TLS connection is made. The numbers are those of crypto/tls,
// which has names for them.
type TLSInfo struct {
	Version     uint16
	CipherSuite uint16
	Group       tls.CurveID
	Protocol    string // negotiated by ALPN; empty if the client offered none
}

// Protocols are what a router takes by ALPN. All of them stand for this
// protocol; the last ones are for connections that should look like any other.
var protocols = []string{"smp/1", "h2", "http/1.1"}

// ErrTLS says that a connection failed in its TLS handshake, other than by the
// certificates of the other end. The network may be the reason, or what the other
// end is; the wrapped error says which.
var ErrTLS = errors.New("TLS handshake")

// ErrEd448 says that a router has an Ed448 certificate.
var ErrEd448 = errors.New("the router has an Ed448 certificate, which this program's TLS cannot verify; " +
	"routers set up since 2024 have Ed25519 certificates")

// StandardTLS is [TLS] as the standard library has it, with the parameters of
// the reference implementation: TLS 1.3 and 1.2, X25519 and, as far as one may
// choose, ChaCha20-Poly1305. Sessions are never resumed. Certificates must have
// Ed25519 keys.
type StandardTLS struct{}

// config has what both ends have in common.
func config() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS12,
		CurvePreferences:            []tls.CurveID{tls.X25519},
		CipherSuites:                []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true, // a block is a record
	}
}

// Client implements [TLS].
func (StandardTLS) Client(ctx context.Context, conn net.Conn, protocol string, own *Credentials, verify func([][]byte) error) (*Channel, error) {
	c := config()
	// Any server name would lead to the web server on the same port. The
	// certificates are checked by verify.
	c.InsecureSkipVerify = true
	c.NextProtos = []string{protocol}
	if err := setCredentials(c, own); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return clientTLS(ctx, conn, c, verify)
}

// Server implements [TLS].
func (StandardTLS) Server(ctx context.Context, conn net.Conn, protocols []string, own *Credentials, verify func([][]byte) error) (*Channel, error) {
	c := config()
	c.ClientAuth = tls.RequestClientCert
	c.NextProtos = protocols
	if shared, ok := conn.(*sharedConn); ok {
		c.GetConfigForClient = shared.config
	}
	if err := setCredentials(c, own); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return serverTLS(ctx, conn, c, verify)
}

func setCredentials(c *tls.Config, own *Credentials) error {
	if own == nil {
		return nil
	}
	key, ok := own.Key.Ed25519()
	if !ok {
		return fmt.Errorf("%w: own certificate: not an Ed25519 key", ErrTLS)
	}
	cert := &tls.Certificate{Certificate: own.Chain, PrivateKey: key}
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }
	// Whatever the router says it takes: it asks without knowing of services.
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	return nil
}

// clientTLS performs the handshake of a client. It takes c over.
func clientTLS(ctx context.Context, conn net.Conn, c *tls.Config, verify func([][]byte) error) (*Channel, error) {
	rec := &recorder{Conn: conn, sent: true, budget: maxHandshake}
	return handshakeTLS(ctx, rec, c, tls.Client, verify)
}

// serverTLS performs the handshake of a server. It takes c over.
func serverTLS(ctx context.Context, conn net.Conn, c *tls.Config, verify func([][]byte) error) (*Channel, error) {
	rec := &recorder{Conn: conn, budget: maxHandshake}
	return handshakeTLS(ctx, rec, c, tls.Server, verify)
}

func handshakeTLS(ctx context.Context, rec *recorder, c *tls.Config, end func(net.Conn, *tls.Config) *tls.Conn, verify func([][]byte) error) (*Channel, error) {
	var keys keyLog
	c.KeyLogWriter = &keys
	var chain [][]byte
	var refused error
	c.VerifyConnection = func(state tls.ConnectionState) error {
		for _, cert := range state.PeerCertificates {
			chain = append(chain, cert.Raw)
		}
		if chain != nil {
			refused = verify(chain)
		}
		return refused
	}
	conn := end(rec, c)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = rec.Conn.Close()
		if refused != nil {
			return nil, refused
		}
		return nil, fmt.Errorf("%w: %w", ErrTLS, err)
	}
	if shared, ok := rec.Conn.(*sharedConn); ok && conn.ConnectionState().ServerName != "" {
		rec.stop()
		shared.web.TakeOver(conn)
		return nil, ErrTakenOver
	}
	state := conn.ConnectionState()
	id := state.TLSUnique
	if state.Version == tls.VersionTLS13 {
		var err error
		if id, err = clientFinished(state.CipherSuite, keys.secret, rec.flight); err != nil {
			_ = rec.Conn.Close()
			return nil, fmt.Errorf("%w: session identifier: %w", ErrTLS, err)
		}
	}
	rec.stop()
	sessionID, err := smp.NewShort(slices.Clone(id))
	if err != nil || sessionID.IsEmpty() {
		_ = rec.Conn.Close()
		return nil, fmt.Errorf("%w: no session identifier", ErrTLS)
	}
	return &Channel{
		Conn:      conn,
		SessionID: sessionID,
		PeerChain: chain,
		TLSInfo:   TLSInfo{Version: state.Version, CipherSuite: state.CipherSuite, Group: state.CurveID, Protocol: state.NegotiatedProtocol},
	}, nil
}

// maxHandshake is how many bytes the other end may send in its TLS handshake. A
// client's first message has some 300, with the keys of browsers 2,000; the
// certificates of routers and services some 500 each. What comes is kept three times:
// as record, as message, and recorded.
const maxHandshake = 4096

// A recorder is a connection during its TLS handshake. It keeps what the client
// sends, and limits what the other end may send.
type recorder struct {
	net.Conn
	sent bool // this end is the client

	// Until stop is called, used by the handshake alone; then read-only.
	budget  int    // bytes of records that the other end may still begin
	record  int    // bytes of the present record that are still to come
	header  []byte // of the next record, as far as it is there
	flight  []byte
	stopped bool
}

var errHandshakeSize = errors.New("the other end sends more than a handshake needs")

// Read reads no further than to the end of a record: what follows the last one of
// the handshake is under no limit.
func (r *recorder) Read(p []byte) (int, error) {
	if r.stopped {
		return r.Conn.Read(p)
	}
	next := r.record
	if next == 0 {
		next = recordHeader - len(r.header)
	}
	n, err := r.Conn.Read(p[:min(len(p), next)])
	if !r.follow(p[:n]) {
		// TLS must not see it: it makes room for all of a record as soon as it knows
		// the length.
		return 0, errHandshakeSize
	}
	if !r.sent {
		r.flight = append(r.flight, p[:n]...)
	}
	return n, err
}

// follow takes account of what was read, a part of a record's header or of the rest,
// and reports whether the record is within the budget.
func (r *recorder) follow(in []byte) bool {
	if r.record > 0 {
		r.record -= len(in)
		return true
	}
	if r.header = append(r.header, in...); len(r.header) < recordHeader {
		return true
	}
	r.record = int(binary.BigEndian.Uint16(r.header[3:]))
	r.header = r.header[:0]
	r.budget -= recordHeader + r.record
	return r.budget >= 0
}

func (r *recorder) Write(p []byte) (int, error) {
	if !r.stopped && r.sent {
		r.flight = append(r.flight, p...)
	}
	return r.Conn.Write(p)
}

// stop ends the recording and lifts the limit.
func (r *recorder) stop() { r.flight, r.header, r.stopped = nil, nil, true }
