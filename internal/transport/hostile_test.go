package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/smp"
)

// plainTLS is no TLS at all: what is under test comes after it.
type plainTLS struct {
	session smp.Short
	peer    [][]byte
}

func (p plainTLS) Client(_ context.Context, conn net.Conn, protocol string, _ *Credentials, verify func([][]byte) error) (*Channel, error) {
	if err := verify(p.peer); err != nil {
		return nil, err
	}
	return &Channel{Conn: conn, SessionID: p.session, PeerChain: p.peer, TLSInfo: TLSInfo{Protocol: protocol}}, nil
}

func (p plainTLS) Server(_ context.Context, conn net.Conn, protocols []string, _ *Credentials, _ func([][]byte) error) (*Channel, error) {
	return &Channel{Conn: conn, SessionID: p.session, PeerChain: p.peer, TLSInfo: TLSInfo{Protocol: protocols[0]}}, nil
}

// plainEnds returns both ends without TLS.
func plainEnds(t testing.TB) (*Acceptor, *Dialer) {
	t.Helper()
	id := short(t, bytes.Repeat([]byte{9}, 32))
	a := newAcceptor(t, func(c *AcceptorConfig) { c.TLS = plainTLS{session: id} })
	d := newDialer(a)
	d.TLS = plainTLS{session: id, peer: a.config.Credentials.Chain}
	return a, d
}

// A cutter is a connection that is closed after so many bytes were written.
type cutter struct {
	net.Conn

	mu      sync.Mutex
	left    int // negative: never
	written int
}

func (c *cutter) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left >= 0 && len(p) >= c.left {
		n, _ := c.Conn.Write(p[:c.left])
		c.left = 0
		_ = c.Conn.Close()
		return n, io.ErrClosedPipe
	}
	n, err := c.Conn.Write(p)
	c.written += n
	if c.left >= 0 {
		c.left -= n
	}
	return n, err
}

// pipes connects both ends through cutters, and returns what they came to and how
// many bytes each wrote.
func pipes(t testing.TB, a *Acceptor, d *Dialer, clientLeft, routerLeft int) (router, client result, fromClient, fromRouter int) {
	t.Helper()
	ours, theirs := net.Pipe()
	c, r := &cutter{Conn: ours, left: clientLeft}, &cutter{Conn: theirs, left: routerLeft}
	accepted := make(chan result, 1)
	go func() {
		conn, err := a.Accept(context.Background(), r)
		accepted <- result{conn, err}
	}()
	dialed := false
	conn, err := d.Dial(t.Context(), func(context.Context) (net.Conn, error) {
		if dialed {
			return nil, io.ErrClosedPipe
		}
		dialed = true
		return c, nil
	})
	if err != nil {
		_ = c.Close()
	}
	router, client = <-accepted, result{conn, err}
	_ = ours.Close()
	_ = theirs.Close()
	return router, client, c.written, r.written
}

// A connection that is closed after any number of bytes, by either end, is an
// error at the other.
func TestEarlyClose(t *testing.T) {
	a := newAcceptor(t)
	plainA, plainD := plainEnds(t)
	for _, c := range []struct {
		name           string
		a              *Acceptor
		d              *Dialer
		client, router int // bytes until the padding of the last block
	}{
		{"TLS", a, newDialer(a), 600, 1300},
		{"hellos", plainA, plainD, 100, 800},
	} {
		router, client, fromClient, fromRouter := pipes(t, c.a, c.d, -1, -1)
		if router.err != nil || client.err != nil {
			t.Fatalf("%s: router: %v; client: %v", c.name, router.err, client.err)
		}
		t.Run(c.name+", client closes", func(t *testing.T) {
			t.Parallel()
			for n := range cuts(c.client, fromClient) {
				if router, client, _, _ := pipes(t, c.a, c.d, n, -1); router.err == nil || client.err == nil {
					t.Fatalf("after %d of %d bytes: router: %v; client: %v", n, fromClient, router.err, client.err)
				}
			}
		})
		t.Run(c.name+", router closes", func(t *testing.T) {
			t.Parallel()
			for n := range cuts(c.router, fromRouter) {
				if router, client, _, _ := pipes(t, c.a, c.d, -1, n); router.err == nil || client.err == nil {
					t.Fatalf("after %d of %d bytes: router: %v; client: %v", n, fromRouter, router.err, client.err)
				}
			}
		})
	}
}

// cuts yields where to cut: at every byte up to dense and at the end, and at some
// in between.
func cuts(dense, end int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for n := 0; n < end && yield(n); {
			if n < dense || n >= end-5 {
				n++
			} else {
				n = min(n+1021, end-5)
			}
		}
	}
}

// feed lets an end read what a hostile one sends, and returns how it ended.
func feed(t testing.TB, in []byte, end func(net.Conn) error) error {
	t.Helper()
	ours, theirs := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(io.Discard, ours)
	})
	wg.Go(func() {
		_, _ = ours.Write(in)
		_ = ours.Close()
	})
	err := end(theirs)
	_ = theirs.Close()
	wg.Wait()
	return err
}

func accepting(a *Acceptor) func(net.Conn) error {
	return func(conn net.Conn) error {
		_, err := a.Accept(context.Background(), conn)
		return err
	}
}

func dialing(d *Dialer) func(net.Conn) error {
	return func(conn net.Conn) error {
		dialed := false
		_, err := d.Dial(context.Background(), func(context.Context) (net.Conn, error) {
			if dialed {
				return nil, io.ErrClosedPipe
			}
			dialed = true
			return conn, nil
		})
		return err
	}
}

func TestNonsense(t *testing.T) {
	a := newAcceptor(t)
	plainA, plainD := plainEnds(t)
	ends := map[string]func(net.Conn) error{
		"router": accepting(a), "client": dialing(newDialer(a)),
		"router without TLS": accepting(plainA), "client without TLS": dialing(plainD),
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		in := make([]byte, random.IntN(3*smp.BlockSize))
		for i := range in {
			in[i] = byte(random.Uint32())
		}
		if random.IntN(2) == 0 && len(in) > 10 { // begin like a TLS record, or a block
			copy(in, []byte{22, 3, 1, byte(random.IntN(65)), byte(random.Uint32()), 1, 0})
		}
		for name, end := range ends {
			if err := feed(t, in, end); err == nil {
				t.Errorf("%s: took %d random bytes", name, len(in))
			}
		}
	}
}

// A TLS handshake that does not end in a block's size is given up, whatever
// lengths it announces.
func TestOversizedTLS(t *testing.T) {
	a := newAcceptor(t)
	for _, kind := range []byte{1, 2, 11} {
		message := append([]byte{kind, 0, 0xff, 0xff}, make([]byte, 4*smp.BlockSize)...)
		var in []byte
		for chunk := range slices.Chunk(message, 1000) {
			in = append(in, record(recordHandshake, chunk)...)
		}
		if err := feed(t, in, accepting(a)); !errors.Is(err, errHandshakeSize) {
			t.Errorf("router, message %d: got %v", kind, err)
		}
		if err := feed(t, in, dialing(newDialer(a))); !errors.Is(err, errHandshakeSize) {
			t.Errorf("client, message %d: got %v", kind, err)
		}
	}
}

func block(t testing.TB, content []byte) []byte {
	t.Helper()
	b, err := smp.AppendPadded(nil, content, smp.BlockSize)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// signedKey returns a new key that the owner of certificates has signed.
func signedKey(t testing.TB, c Credentials, a smp.Algorithm) []byte {
	t.Helper()
	key, err := auth.GenerateKey(a)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := auth.SignKey(c.Key, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// Hellos that lie.
func TestHostileHellos(t *testing.T) {
	a, d := plainEnds(t)
	other := newAcceptor(t)
	hello := clientHello{version: 19, router: a.Identity().Bytes()}
	version, router, service := hello, hello, hello
	version.version = 20
	router.router = other.Identity().Bytes()
	own := selfSigned(t)
	service.service = &serviceHello{role: 'N', key: smp.SignedKey{Chain: own.Chain, Key: []byte("key")}}
	for name, c := range map[string]struct {
		in   []byte
		want error
	}{
		"unknown version": {block(t, version.encode()), smp.ErrTransportVersion},
		"another router":  {block(t, router.encode()), smp.ErrHandshakeIdentity},
		"empty":           {block(t, nil), smp.ErrHandshakeParse},
		"too long":        {append([]byte{0xff, 0xff}, make([]byte, smp.BlockSize)...), smp.ErrTransportBlock},
		"half a block":    {block(t, hello.encode())[:smp.BlockSize/2], io.ErrUnexpectedEOF},
		"unproven":        {block(t, service.encode()), smp.ErrHandshakeBadAuth},
		"a bad role":      {block(t, append(hello.encode()[:36], "1Xabc"...)), smp.ErrHandshakeParse},
	} {
		if err := feed(t, c.in, accepting(a)); !errors.Is(err, c.want) {
			t.Errorf("client's hello, %s: got %v, want %v", name, err, c.want)
		}
	}

	// What a service says of itself must be what it proved in TLS.
	proven := newAcceptor(t, func(c *AcceptorConfig) {
		c.TLS = plainTLS{session: short(t, bytes.Repeat([]byte{9}, 32)), peer: own.Chain}
	})
	stranger := selfSigned(t)
	for name, c := range map[string]struct {
		says, signs Credentials
		algorithm   smp.Algorithm
		want        error
	}{
		"as proven":          {own, own, smp.Ed25519, nil},
		"of another":         {stranger, stranger, smp.Ed25519, smp.ErrHandshakeBadAuth},
		"under another name": {stranger, own, smp.Ed25519, smp.ErrHandshakeBadAuth},
		"of another kind":    {own, own, smp.X25519, smp.ErrHandshakeBadAuth},
	} {
		service := hello
		service.router = proven.Identity().Bytes()
		service.service = &serviceHello{role: 'N', key: smp.SignedKey{Chain: c.says.Chain, Key: signedKey(t, c.signs, c.algorithm)}}
		err := feed(t, block(t, service.encode()), accepting(proven))
		if errors.Is(err, io.ErrClosedPipe) {
			err = nil // nobody was there any more to take the reply
		}
		if !errors.Is(err, c.want) {
			t.Errorf("service, %s: got %v, want %v", name, err, c.want)
		}
	}

	channel := &Channel{SessionID: short(t, bytes.Repeat([]byte{9}, 32)), TLSInfo: TLSInfo{Protocol: "smp/1"}}
	good, _, err := a.offer(channel, a.credentials.Load())
	if err != nil {
		t.Fatal(err)
	}
	forged, _, err := other.offer(channel, other.credentials.Load())
	if err != nil {
		t.Fatal(err)
	}
	session, stolen, unsigned, kind, versions := good, good, good, good, good
	kind.key = &smp.SignedKey{Chain: good.key.Chain, Key: signedKey(t, a.config.Credentials, smp.Ed25519)}
	session.session = short(t, []byte("another one"))
	stolen.key = forged.key
	unsigned.key = &smp.SignedKey{Chain: good.key.Chain, Key: forged.key.Key}
	versions.versions = smp.VersionRange{Min: 20, Max: 30}
	for name, c := range map[string]struct {
		in   []byte
		want error
	}{
		"another session":        {block(t, session.encode()), smp.ErrTransportSession},
		"another router":         {block(t, stolen.encode()), smp.ErrHandshakeIdentity},
		"another router's key":   {block(t, unsigned.encode()), smp.ErrHandshakeBadAuth},
		"a key of another kind":  {block(t, kind.encode()), smp.ErrHandshakeBadAuth},
		"unknown versions":       {block(t, versions.encode()), smp.ErrTransportVersion},
		"versions the wrong way": {block(t, []byte{0, 9, 0, 6, 0}), smp.ErrHandshakeParse},
		"a cut key":              {block(t, good.encode()[:60]), smp.ErrHandshakeParse},
	} {
		if err := feed(t, c.in, dialing(d)); !errors.Is(err, c.want) {
			t.Errorf("router's hello, %s: got %v, want %v", name, err, c.want)
		}
	}
}

// A block that was sent before, or changed, is no block; and after it, nothing
// that is sent out of order is.
func TestReplay(t *testing.T) {
	a := newAcceptor(t)
	router, client := established(t, a, newDialer(a))
	replayed := *client.out
	sealed := replayed.Seal(nil, block(t, []byte("once"))[:smp.BlockSize-16])
	for i, want := range []error{nil, smp.ErrTransportBlock, smp.ErrTransportBlock} {
		if _, err := client.conn.Write(sealed); err != nil {
			t.Fatal(err)
		}
		if got, err := router.Receive(nil); !errors.Is(err, want) || want == nil && string(got) != "once" {
			t.Errorf("time %d: got %q, %v, want %v", i+1, got, err, want)
		}
	}
	// The router has counted three blocks. Had the client sent as many, the next
	// one would be good.
	client.out = &replayed
	for range 2 {
		replayed.Seal(nil, nil)
	}
	if err := client.Send([]byte("again")); err != nil {
		t.Fatal(err)
	}
	if got, err := router.Receive(nil); err != nil || string(got) != "again" {
		t.Errorf("got %q, %v", got, err)
	}
}

// Nobody waits for ever for who is slow.
//
// conformance: 10, 11
func TestSlowPeers(t *testing.T) {
	drip := func(t *testing.T, conn net.Conn, in []byte, pause time.Duration) *sync.WaitGroup {
		t.Helper()
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(io.Discard, conn) })
		wg.Go(func() {
			if len(in) == 0 {
				return
			}
			pace := time.NewTicker(pause)
			defer pace.Stop()
			for _, b := range in {
				<-pace.C
				if _, err := conn.Write([]byte{b}); err != nil {
					return
				}
			}
		})
		return &wg
	}
	secure := newAcceptor(t)
	plain, _ := plainEnds(t)
	hasty := newAcceptor(t, func(c *AcceptorConfig) { c.TLSTimeout = time.Second })
	hastier := newAcceptor(t, func(c *AcceptorConfig) { c.TLS, c.HandshakeTimeout = plain.config.TLS, time.Second })
	helloBlock := block(t, clientHello{version: 19, router: plain.Identity().Bytes()}.encode())
	clientRecord := record(recordHandshake, make([]byte, 4000))
	for _, c := range []struct {
		name  string
		a     *Acceptor
		in    []byte
		pause time.Duration
		want  time.Duration
	}{
		{"silent in TLS", secure, nil, 0, time.Minute},
		{"slow in TLS", secure, clientRecord, time.Second, time.Minute},
		{"silent in TLS, with less time", hasty, nil, 0, time.Second},
		{"silent", plain, nil, 0, 2 * time.Minute},
		{"slow", plain, helloBlock, time.Second, 2 * time.Minute},
		{"silent, with less time", hastier, nil, 0, time.Second},
		{"slow, but not too slow", plain, helloBlock, 7 * time.Millisecond, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ours, theirs := net.Pipe()
				wg := drip(t, ours, c.in, c.pause)
				start := time.Now()
				conn, err := c.a.Accept(t.Context(), theirs)
				if c.want == 0 {
					if err != nil {
						t.Errorf("got %v", err)
					}
				} else if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != c.want {
					t.Errorf("got %v after %s, want %s", err, took, c.want)
				}
				if conn != nil {
					_ = conn.Close()
				}
				_ = theirs.Close()
				_ = ours.Close()
				wg.Wait()
			})
		})
	}

	t.Run("half a block", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ours, theirs := net.Pipe()
			defer ours.Close()
			defer theirs.Close()
			const limit = 10 * time.Second
			c := &Conn{conn: &Channel{Conn: theirs}, blockTimeout: limit}
			time.AfterFunc(1000*time.Hour, func() { // no limit before the first byte
				_, _ = ours.Write(make([]byte, 100))
			})
			start := time.Now()
			_, err := c.Receive(nil)
			if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took != 1000*time.Hour+limit {
				t.Errorf("received after %s: %v", took, err)
			}
			start = time.Now()
			if err := c.Send(nil); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != limit {
				t.Errorf("sent after %s: %v", time.Since(start), err)
			}
		})
	})

	t.Run("silent router", func(t *testing.T) {
		for name, layer := range map[string]TLS{"TLS": nil, "hello": plainTLS{session: short(t, []byte("session")), peer: secure.config.Credentials.Chain}} {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
				defer cancel()
				ours, theirs := net.Pipe()
				defer theirs.Close()
				wg := drip(t, theirs, nil, 0)
				d := newDialer(secure)
				d.TLS = layer
				start := time.Now()
				_, err := d.Dial(ctx, func(context.Context) (net.Conn, error) { return ours, nil })
				if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != 15*time.Second {
					t.Errorf("%s: got %v after %s", name, err, took)
				}
				_ = ours.Close()
				wg.Wait()
			})
		}
	})
}

// Before a client is known, it costs no more than a block, whatever it announces and
// sends: while TLS is at work, and while its hello is read, of which a record of TLS
// can hold all.
func TestMemoryBeforeHandshake(t *testing.T) {
	const connections = 100
	secure := newAcceptor(t)
	plain, _ := plainEnds(t)
	handshake := func(size, announced int) []byte {
		return append([]byte{1, byte(announced >> 16), byte(announced >> 8), byte(announced)}, make([]byte, size-4)...)
	}
	chunks := func(message []byte, size int) (in []byte) {
		for chunk := range slices.Chunk(message, size) {
			in = append(in, record(recordHandshake, chunk)...)
		}
		return in
	}
	cut := func(in []byte) []byte { return in[:len(in)-1] }
	largest := maxHandshake - recordHeader
	for _, c := range []struct {
		name string
		a    *Acceptor
		in   []byte
	}{
		{"nothing", secure, nil},
		{"the largest record, but for its end", secure, cut(record(recordHandshake, handshake(largest, largest-4)))},
		{"a record of a message that is not complete", secure, record(recordHandshake, handshake(largest, 0xffff))},
		{"small records", secure, cut(chunks(handshake(3000, 0xffff), 100))},
		{"half a hello", plain, make([]byte, smp.BlockSize/2)},
		{"a hello, but for its end", plain, cut(append([]byte{0x10, 0}, make([]byte, smp.BlockSize-2)...))},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var ends []net.Conn
			var wg sync.WaitGroup
			var read atomic.Int64
			before := heap()
			for range connections {
				ours, theirs := loopback(t)
				ends = append(ends, ours, theirs)
				wg.Go(func() { _, _ = c.a.Accept(ctx, countedConn{theirs, &read}) })
				if _, err := ours.Write(c.in); err != nil {
					t.Fatal(err)
				}
			}
			for read.Load() < int64(connections*len(c.in)) {
				runtime.Gosched()
			}
			each := int64(heap()-before) / connections
			t.Logf("%d bytes", each)
			cancel()
			for _, c := range ends {
				_ = c.Close()
			}
			wg.Wait()
			const connection = 4 << 10 // what the connections themselves take, of both ends
			if each > smp.BlockSize+connection || c.a == plain && each > maxHandshake+connection {
				t.Errorf("a connection takes %d bytes", each)
			}
		})
	}
}

// A countedConn counts what is read.
type countedConn struct {
	net.Conn
	read *atomic.Int64
}

func (c countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
