package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// Limits of time, where an [AcceptorConfig] has no others.
const (
	// TLSTimeout is how long a router waits for the TLS handshake of a client.
	TLSTimeout = time.Minute
	// HandshakeTimeout is how long a router then waits for the handshake of the
	// protocol.
	HandshakeTimeout = 2 * time.Minute
	// BlockTimeout is how long the rest of a block may take after its first byte,
	// either way. It is enough for 150 bytes a second.
	BlockTimeout = 2 * time.Minute
	// CloseTimeout is how long the other end may take to close a connection.
	CloseTimeout = 5 * time.Second
)

// A Session is what the ends of a connection agreed on.
type Session struct {
	// ID identifies the session.
	ID smp.Short
	// Version is the version of the protocol that both speak.
	Version smp.Version
	// Versions are those that both could speak, up to Version; at the router's
	// end all of its own up to Version.
	Versions smp.VersionRange
	// Offered are the versions that the router speaks.
	Offered smp.VersionRange
	// Encrypted reports whether blocks are encrypted, other than by TLS.
	Encrypted bool
	// Proxy reports whether the client is a proxy. Routers are told from version 14
	// on.
	Proxy bool
	// Key is this end's X25519 key; zero if it sent none to the other.
	Key auth.PrivateKey
	// PeerKey is the other end's; zero if it sent none.
	PeerKey smp.PublicKey
	// Secret is what the two agree on; zero if one of them is missing.
	Secret smp.DHSecret
	// RouterKey is the router's key as it signed it; nil if it sent none. A proxy
	// passes it on.
	RouterKey *smp.SignedKey
	// PeerChain are the other end's certificates, DER, the leaf first.
	PeerChain [][]byte
	// Service is the service on the client's end; nil in ordinary sessions.
	Service *Service
	// TLS is how the connection below is made.
	TLS TLSInfo
}

// A Service is the service in whose session commands are sent.
type Service struct {
	ID   smp.EntityID // by which the router knows it
	Role queue.Role
	// Identity is the fingerprint of its identity certificate.
	Identity smp.Fingerprint
	// Key is its Ed25519 key for the session.
	Key smp.PublicKey

	private auth.PrivateKey // at the client's end
}

// Signer returns what authorizes commands at the client's end of s.
func (s *Session) Signer() *auth.Signer {
	signer := &auth.Signer{Session: s.ID, Router: s.PeerKey}
	if s.Service != nil {
		signer.Service = &auth.ServiceSigner{CertHash: s.Service.Identity, Key: s.Service.private}
	}
	return signer
}

// Verifier returns what checks authorizations at the router's end of s.
func (s *Session) Verifier() *auth.Verifier {
	var service *auth.ServiceIdentity
	if s.Service != nil {
		service = &auth.ServiceIdentity{CertHash: s.Service.Identity, Key: s.Service.Key}
	}
	return auth.NewVerifier(s.ID, s.Key, service)
}

// A Conn is one end of a connection after the handshake. One goroutine may send
// while another receives.
type Conn struct {
	conn         *Channel
	session      Session
	out          *auth.BlockChain // nil: not encrypted; Send's own
	in           *auth.BlockChain // nil: not encrypted; Receive's own
	blockTimeout time.Duration
	closeTimeout time.Duration
	closing      atomic.Pointer[time.Timer] // set by CloseWrite
}

// Session returns what the ends agreed on. It must not be changed.
func (c *Conn) Session() *Session { return &c.session }

// RemoteAddr returns the network address of the other end.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// Close closes the connection; what waits in Send and Receive ends with an
// error.
func (c *Conn) Close() error {
	if limit := c.closing.Load(); limit != nil {
		limit.Stop()
	}
	return c.conn.Close()
}

// CloseWrite tells the other end that no more will be sent; Send must not be called
// any more. What the other end still sends should be received until it closes its
// end as well: a system that throws away what was received may throw away with it
// what was sent. After the time to close, the connection is closed in any case.
func (c *Conn) CloseWrite() error {
	c.closing.Store(time.AfterFunc(c.closeTimeout, func() { _ = c.conn.Close() }))
	if err := c.conn.CloseWrite(); err != nil {
		_ = c.Close()
		return fmt.Errorf("close connection: %w", err)
	}
	return nil
}

// MaxContent returns the size of the largest content that c can send, in bytes.
func (c *Conn) MaxContent() int { return maxContent(c.out) }

func maxContent(chain *auth.BlockChain) int {
	if chain != nil {
		return smp.BlockSize - auth.BoxOverhead - 2
	}
	return smp.BlockSize - 2
}

// Send sends a block. A content that does not fit is [smp.ErrTransportLargeMsg], and
// nothing is sent; after any other error the connection is of no more use. The
// block must be taken within [BlockTimeout], or what the configuration says.
func (c *Conn) Send(content []byte) error {
	return sendBlock(c.conn, c.out, content, c.blockTimeout)
}

// Receive waits for a block, for as long as it takes, and appends its content to
// dst. The block must be complete within [BlockTimeout], or what the
// configuration says, after its first byte.
//
// A block that cannot be decrypted or unpadded is [smp.ErrTransportBlock]; the next
// one can be received. After any other error the connection is of no more use:
// [io.EOF] if the other end closed it between blocks, [io.ErrUnexpectedEOF] if
// within one.
func (c *Conn) Receive(dst []byte) ([]byte, error) {
	return receiveBlock(c.conn, c.in, dst, c.blockTimeout)
}

// blocks has memory for blocks. Connections keep none of their own, as most of
// them are idle most of the time.
var blocks sync.Pool

func getBlock() *[smp.BlockSize]byte {
	if b, ok := blocks.Get().(*[smp.BlockSize]byte); ok {
		return b
	}
	return new([smp.BlockSize]byte)
}

func sendBlock(conn net.Conn, chain *auth.BlockChain, content []byte, limit time.Duration) error {
	if len(content) > maxContent(chain) {
		return fmt.Errorf("send block: %w: %d bytes of content", smp.ErrTransportLargeMsg, len(content))
	}
	mem := getBlock()
	defer blocks.Put(mem)
	block, err := smp.AppendPadded(mem[:0], content, maxContent(chain)+2)
	if err != nil {
		return fmt.Errorf("send block: %w", err)
	}
	if chain != nil {
		sealed := getBlock()
		defer blocks.Put(sealed)
		block = chain.Seal(sealed[:0], block)
	}
	if err := conn.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return fmt.Errorf("send block: %w", err)
	}
	if _, err := conn.Write(block); err != nil {
		return fmt.Errorf("send block: %w", err)
	}
	return nil
}

func receiveBlock(conn net.Conn, chain *auth.BlockChain, dst []byte, limit time.Duration) ([]byte, error) {
	first, err := beginBlock(conn, limit)
	if err != nil {
		return dst, err
	}
	mem := getBlock()
	defer blocks.Put(mem)
	mem[0] = first
	if err := restOfBlock(conn, mem[1:]); err != nil {
		return dst, err
	}
	padded := mem[:]
	if chain != nil {
		opened := getBlock()
		defer blocks.Put(opened)
		if padded, err = chain.Open(opened[:0], padded); err != nil {
			return dst, fmt.Errorf("receive block: %w: %w", smp.ErrTransportBlock, err)
		}
	}
	content, err := smp.Unpad(padded)
	if err != nil {
		return dst, fmt.Errorf("receive block: %w: %w", smp.ErrTransportBlock, err)
	}
	return append(dst, content...), nil
}

// receiveHello waits for a block of the handshake and returns its content, without
// keeping the padding: as long as the other end is not known, it costs no more memory
// than it needs.
func receiveHello(conn net.Conn, limit time.Duration) ([]byte, error) {
	first, err := beginBlock(conn, limit)
	if err != nil {
		return nil, err
	}
	head := [2]byte{first}
	if err := restOfBlock(conn, head[1:]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint16(head[:]))
	if size > maxHandshake {
		return nil, fmt.Errorf("receive block: %w: %d bytes of content where a handshake needs no more than %d", smp.ErrTransportBlock, size, maxHandshake)
	}
	content := make([]byte, size)
	if err := restOfBlock(conn, content); err != nil {
		return nil, err
	}
	var padding [512]byte
	for left := smp.BlockSize - len(head) - size; left > 0; {
		n := min(left, len(padding))
		if err := restOfBlock(conn, padding[:n]); err != nil {
			return nil, err
		}
		left -= n
	}
	return content, nil
}

// beginBlock waits for the first byte of a block, for as long as it takes. The rest
// must come within the limit.
func beginBlock(conn net.Conn, limit time.Duration) (byte, error) {
	var first [1]byte
	err := conn.SetReadDeadline(time.Time{})
	if err == nil {
		_, err = io.ReadFull(conn, first[:])
	}
	if err == nil {
		err = conn.SetReadDeadline(time.Now().Add(limit))
	}
	if err != nil {
		return 0, fmt.Errorf("receive block: %w", err)
	}
	return first[0], nil
}

// restOfBlock fills p with more of a block.
func restOfBlock(conn net.Conn, p []byte) error {
	_, err := io.ReadFull(conn, p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("receive block: %w", err)
	}
	return nil
}

// closeAfter closes conn when ctx ends, until stop is called. What waits for conn
// then fails; stop says why.
func closeAfter(ctx context.Context, conn net.Conn) (stop func(error) error) {
	end := context.AfterFunc(ctx, func() { _ = conn.Close() })
	return func(err error) error {
		switch {
		case end():
			return err
		case err == nil:
			return context.Cause(ctx)
		}
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
}
