package router_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/transport"
)

// tcp connects to the router, until the end of the test, or until nothing comes for
// too long.
func (s *server) tcp(t testing.TB) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", net.JoinHostPort(s.address.Hosts[0].String(), strconv.Itoa(int(s.address.Port))))
	if err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(timeout, func() { _ = conn.Close() })
	t.Cleanup(func() {
		late.Stop()
		_ = conn.Close()
	})
	return conn
}

// secure performs the TLS handshake, as a client that names the protocols and does not
// look at certificates. A refusal may come with what is read first.
func (s *server) secure(t testing.TB, change ...func(*tls.Config)) (*tls.Conn, error) {
	t.Helper()
	c := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"smp/1"}}
	for _, f := range change {
		f(c)
	}
	conn := tls.Client(s.tcp(t), c)
	return conn, conn.HandshakeContext(t.Context())
}

// readBlock returns the content of a block that is not encrypted.
func readBlock(conn net.Conn) ([]byte, error) {
	block := make([]byte, smp.BlockSize)
	if _, err := io.ReadFull(conn, block); err != nil {
		return nil, err
	}
	return smp.Unpad(block)
}

func writeBlock(t testing.TB, conn net.Conn, content []byte) {
	t.Helper()
	block, err := smp.AppendPadded(nil, content, smp.BlockSize)
	if err == nil {
		_, err = conn.Write(block)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A hello is what the router says first.
type hello struct {
	min, max smp.Version
	session  smp.Short
}

func readHello(t testing.TB, conn net.Conn) hello {
	t.Helper()
	content, err := readBlock(conn)
	if err != nil {
		t.Fatalf("no hello: %v", err)
	}
	session, err := smp.NewShort(content[5 : 5+content[4]])
	if err != nil {
		t.Fatal(err)
	}
	return hello{smp.Version(binary.BigEndian.Uint16(content)), smp.Version(binary.BigEndian.Uint16(content[2:])), session}
}

// answer returns the client's hello: without a key, so that blocks are not encrypted.
func answer(v smp.Version, router smp.Fingerprint) []byte {
	b := smp.AppendUint16(nil, uint16(v))
	b = append(append(b, byte(len(router.Bytes()))), router.Bytes()...)
	if v >= smp.VersionProxyFlag {
		b = append(b, 'F')
	}
	if v >= smp.VersionServices {
		b = append(b, '0')
	}
	return b
}

// ping checks that the router answers PING.
func ping(t testing.TB, conn net.Conn, v smp.Version, session smp.Short) {
	t.Helper()
	var block smp.Batch
	if added, err := block.Add((&smp.Transmission{SessionID: session, CorrID: corrID(0), Command: []byte("PING")}).Append(nil, v)); !added {
		t.Fatal(err)
	}
	writeBlock(t, conn, block.Content())
	content, err := readBlock(conn)
	if err != nil || !bytes.Contains(content, []byte("PONG")) {
		t.Errorf("PING is answered with %q, %v", content, err)
	}
}

// closed checks that the router closes the connection without another word.
func closed(t testing.TB, conn net.Conn) {
	t.Helper()
	n, err := io.Copy(io.Discard, conn)
	if n > 0 || errors.Is(err, net.ErrClosed) {
		t.Errorf("the connection is not closed, but %d bytes come, and %v", n, err)
	}
}

// What a client offers in TLS decides which versions it is offered. Of names that are
// not known, release 6.5.5 has seen to it that TLS fails.
//
// conformance: 3, 5, 6; 4 as that release behaves, which ends TLS with an alert
func TestProtocolNames(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	for _, maxTLS := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
		for _, c := range []struct {
			offered []string
			want    string
			max     smp.Version
		}{
			{[]string{"smp/1"}, "smp/1", smp.MaxVersion},
			{[]string{"xmpp-client", "smp/1"}, "smp/1", smp.MaxVersion},
			{[]string{"http/1.1"}, "http/1.1", smp.MaxVersion},
			{[]string{"h2"}, "h2", smp.MaxVersion},
			{nil, "", smp.MinVersion},
		} {
			conn, err := r.secure(t, func(o *tls.Config) { o.NextProtos, o.MaxVersion = c.offered, maxTLS })
			if err != nil {
				t.Fatalf("%q: %v", c.offered, err)
			}
			h := readHello(t, conn)
			if got := conn.ConnectionState().NegotiatedProtocol; got != c.want || h.min != smp.MinVersion || h.max != c.max {
				t.Errorf("%q: protocol %q, versions %d-%d", c.offered, got, h.min, h.max)
			}
			writeBlock(t, conn, answer(c.max, r.Identity()))
			ping(t, conn, c.max, h.session)
		}
		conn, err := r.secure(t, func(o *tls.Config) { o.NextProtos, o.MaxVersion = []string{"xmpp-client"}, maxTLS })
		if err == nil || !strings.Contains(err.Error(), "no application protocol") {
			t.Errorf("an unknown protocol: %v", err)
		}
		_ = conn.Close()
	}
}

// An authority issues certificates.
type authority struct {
	template *x509.Certificate
	chain    [][]byte // its own certificate first
	key      ed25519.PrivateKey
}

// issue returns a certificate and its key; a nil authority issues one that is its own.
func (a *authority) issue(t testing.TB, change ...func(*x509.Certificate)) *authority {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "by " + strconv.Itoa(int(time.Now().UnixNano()))},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, IsCA: true,
	}
	for _, f := range change {
		f(template)
	}
	issuer, signer, rest := template, key, [][]byte(nil)
	if a != nil {
		issuer, signer, rest = a.template, a.key, a.chain
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, issuer, public, signer)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{template, append([][]byte{cert}, rest...), key}
}

// credentials returns what a router has that owns the certificate.
func (a *authority) credentials(t testing.TB) transport.Credentials {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		t.Fatal(err)
	}
	key, err := auth.ParsePrivateKey(der)
	if err != nil {
		t.Fatal(err)
	}
	return transport.Credentials{Chain: a.chain, Key: key}
}

// conformance: 7, 8
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	chain := func(n int, change ...func(*x509.Certificate)) *authority {
		var a *authority
		for range n - 1 {
			a = a.issue(t)
		}
		return a.issue(t, change...)
	}
	expired := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = c.NotBefore.AddDate(-1, 0, 0), c.NotAfter.AddDate(-1, 0, 0)
	}
	for _, maxTLS := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
		for _, c := range []struct {
			name  string
			owner *authority
			taken bool
		}{
			{"none", nil, true},
			{"one", chain(1), true},
			{"two", chain(2), true},
			{"four", chain(4), true},
			{"five", chain(5), false},
			{"one that has expired", chain(1, expired), false},
			{"two, of which one has expired", chain(2, expired), false},
		} {
			failed := r.Counters().FailedTLS.Load()
			conn, err := r.secure(t, func(o *tls.Config) {
				o.MaxVersion = maxTLS
				o.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					if c.owner == nil {
						return &tls.Certificate{}, nil
					}
					return &tls.Certificate{Certificate: c.owner.chain, PrivateKey: c.owner.key}, nil
				}
			})
			if err == nil {
				_, err = readBlock(conn)
			}
			if c.taken {
				if err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
				continue
			}
			if err == nil || !strings.Contains(err.Error(), "remote error: tls") {
				t.Errorf("%s: %v", c.name, err)
			}
			eventually(t, "that the failure is counted", func() bool { return r.Counters().FailedTLS.Load() == failed+1 })
		}
	}
}

// tickets is a cache of TLS sessions that counts what it is given.
type tickets struct {
	tls.ClientSessionCache
	put atomic.Int64
}

func (c *tickets) Put(key string, state *tls.ClientSessionState) {
	c.put.Add(1)
	c.ClientSessionCache.Put(key, state)
}

// conformance: 9
func TestNoResumption(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	for _, maxTLS := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
		cache := &tickets{ClientSessionCache: tls.NewLRUClientSessionCache(4)}
		for range 3 {
			conn, err := r.secure(t, func(o *tls.Config) { o.MaxVersion, o.ClientSessionCache = maxTLS, cache })
			if err != nil {
				t.Fatal(err)
			}
			readHello(t, conn) // a ticket would come before it
			if conn.ConnectionState().DidResume {
				t.Error("the session is resumed")
			}
		}
		if n := cache.put.Load(); n > 0 {
			t.Errorf("the router has given %d tickets", n)
		}
	}
}

// A client that does nothing is cut off, without a word, in TLS and after it. How long
// the router waits by default is tested with package transport.
//
// conformance: 10, 11
func TestSilentClients(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	const short = 100 * time.Millisecond
	hasty := start(t, st, func(o *router.Options) { o.TLSTimeout = short })
	closed(t, hasty.tcp(t))
	conn := hasty.tcp(t)
	if _, err := conn.Write([]byte{22, 3, 1}); err != nil { // the beginning of a record
		t.Fatal(err)
	}
	closed(t, conn)
	eventually(t, "that the failures are counted", func() bool { return hasty.Counters().FailedTLS.Load() == 2 })

	patient := start(t, st, func(o *router.Options) { o.HandshakeTimeout = 10 * short })
	secure, err := patient.secure(t)
	if err != nil {
		t.Fatal(err)
	}
	readHello(t, secure)
	closed(t, secure)
	eventually(t, "that the failure is counted", func() bool { return patient.Counters().FailedHandshake.Load() == 1 })
}

// conformance: 12, 13
func TestHellosRefused(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	r := start(t, st)
	old := start(t, st, func(o *router.Options) { o.Versions = smp.VersionRange{Min: 8, Max: 10} })
	other := routertest.NewCredentials(t)
	eachVersion(t, 6, func(t *testing.T, v smp.Version) {
		try := func(s *server, reply []byte) (*tls.Conn, hello) {
			conn, err := s.secure(t)
			if err != nil {
				t.Fatal(err)
			}
			h := readHello(t, conn)
			writeBlock(t, conn, reply)
			return conn, h
		}
		conn, h := try(r, answer(v, r.Identity()))
		ping(t, conn, v, h.session)
		conn, _ = try(r, answer(v, smp.FingerprintOf(other.Chain[1])))
		closed(t, conn)
		if conn, h = try(old, answer(v, old.Identity())); 8 <= v && v <= 10 {
			ping(t, conn, v, h.session)
		} else {
			closed(t, conn)
		}
	})
	for _, v := range []smp.Version{0, smp.MinVersion - 1, smp.MaxVersion + 1, 65535} {
		conn, err := r.secure(t)
		if err != nil {
			t.Fatal(err)
		}
		readHello(t, conn)
		writeBlock(t, conn, answer(v, r.Identity()))
		closed(t, conn)
	}
}

// changedTLS is the standard TLS, but for the client's certificates, and with a look
// at what goes over the connection.
type changedTLS struct {
	transport.StandardTLS
	own *transport.Credentials
	tap *tap
}

func (c changedTLS) Client(ctx context.Context, conn net.Conn, protocol string, own *transport.Credentials, verify func([][]byte) error) (*transport.Channel, error) {
	if c.own != nil {
		own = c.own
	}
	channel, err := c.StandardTLS.Client(ctx, conn, protocol, own, verify)
	if err == nil && c.tap != nil {
		c.tap.Conn = channel.Conn
		channel.Conn = c.tap
	}
	return channel, err
}

// A tap is a connection that keeps what is read, and loses what it is told to.
type tap struct {
	net.Conn
	read bytes.Buffer
	lose bool
}

func (c *tap) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Write(p[:n])
	return n, err
}

func (c *tap) Write(p []byte) (int, error) {
	if c.lose {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// A kept connection stays open at this end.
type kept struct{ net.Conn }

func (kept) Close() error { return nil }

// conformance: 15
func TestServiceOfAnother(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	for v := smp.VersionServices; v <= smp.MaxVersion; v++ {
		service, other := routertest.NewServiceCredentials(t, queue.RoleNotifier), routertest.NewServiceCredentials(t, queue.RoleNotifier)
		d := transport.Dialer{Router: r.Identity(), Versions: upTo(v), Service: &service, TLS: changedTLS{own: &other.Credentials}}
		conn := r.tcp(t)
		// The error is that of a block that the router has sent.
		if _, err := d.Dial(t.Context(), func(context.Context) (net.Conn, error) { return kept{conn}, nil }); !errors.Is(err, smp.ErrHandshakeBadAuth) {
			t.Errorf("version %d: %v", v, err)
		}
		_, _ = io.Copy(io.Discard, conn) // to the end: the alert of TLS
		if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("version %d: the connection is not closed: %v", v, err)
		}
	}
}

// conformance: 17
func TestBlockEncryption(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	eachVersion(t, 6, func(t *testing.T, v smp.Version) {
		for _, proxy := range []bool{false, true} {
			seen := new(tap)
			w := r.wire(t, v, func(d *transport.Dialer) { d.Proxy, d.TLS = proxy, changedTLS{tap: seen} })
			if w.v != v && !proxy { // a proxy that cannot say that it is one speaks version 10
				t.Fatalf("version %d", w.v)
			}
			w.send(line{text: "PING"})
			w.want("PONG")
			if encrypted := !bytes.Contains(seen.read.Bytes(), []byte("PONG")); encrypted != (v >= smp.VersionBlockEncryption && !proxy) {
				t.Errorf("version %d, a proxy: %t; encrypted: %t", w.v, proxy, encrypted)
			}
		}
		conn, err := r.secure(t)
		if err != nil {
			t.Fatal(err)
		}
		h := readHello(t, conn)
		writeBlock(t, conn, answer(v, r.Identity()))
		ping(t, conn, v, h.session) // neither end has a key, so neither encrypts
	})
}

// A block that is none costs the connection nothing.
//
// conformance: 18
func TestBlocksThatAreNone(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	eachVersion(t, 6, func(t *testing.T, v smp.Version) {
		seen := new(tap)
		w := r.wire(t, v, func(d *transport.Dialer) { d.TLS = changedTLS{tap: seen} })
		for range 3 {
			if _, err := seen.Conn.Write(bytes.Repeat([]byte{0xff}, smp.BlockSize)); err != nil {
				t.Fatal(err)
			}
			if got := w.want("ERR BLOCK")[0]; got.CorrID != "" || got.Entity != "" {
				t.Errorf("ERR BLOCK has ids: %+v", got)
			}
			seen.lose = true // the router has counted a block, and this end has to as well
			w.send(line{text: "PING"})
			seen.lose = false
			w.send(line{text: "PING"})
			w.want("PONG")
		}
	})
}

// gone checks that the router has closed a connection.
func (p *peer) gone() {
	p.t.Helper()
	select {
	case <-p.Done():
	case <-time.After(timeout):
		p.t.Fatal("the connection is not closed")
	}
}

// Connections of no use are closed when they have been silent for the time, and not
// before; others are not at all.
//
// conformance: 20, 21, 22, 23, 24
func TestInactiveClients(t *testing.T) {
	t.Parallel()
	const ttl = 6 * time.Hour
	var clock clock
	r := start(t, newSite(t).openStore(t, 0), func(o *router.Options) {
		o.Now, o.InactiveTTL, o.InactiveCheck = clock.now, ttl, 10*time.Millisecond
	})
	var gone, active, stay []*peer
	for v := smp.MinVersion; v <= smp.MaxVersion; v++ {
		idle, getting, pinging, listening, notified := r.dial(t, v), r.dial(t, v), r.dial(t, v), r.dial(t, v), r.dial(t, v)
		listening.newQueue()
		b := notified.newQueue(createOnly)
		nid := must[*smp.NID](notified, b.recipient, b.recipientKey, &smp.NKEY{NotifierKeys: smp.NotifierKeys{
			Key: b.notifierKey.Public(), DHKey: newKey(t, smp.X25519).Public(),
		}}).NotifierID.ID()
		subscribed(notified, nid, b.notifierKey, &smp.NSUB{})
		getting.ok(b.recipient, b.recipientKey, &smp.GET{})
		gone, active, stay = append(gone, idle, getting), append(active, pinging), append(stay, listening, notified)
	}
	// What the router has to do after it has answered, it does at the present time.
	eventually(t, "that the router has done with all clients", func() bool {
		clients := r.Clients()
		return len(clients) == len(gone)+len(active)+len(stay) &&
			!slices.ContainsFunc(clients, func(c router.Client) bool { return !c.Received.IsZero() && c.Sent.IsZero() })
	})
	clock.advance(ttl - time.Hour)
	for _, p := range active {
		must[*smp.PONG](p, smp.EntityID{}, none(), &smp.PING{})
	}
	clock.advance(2 * time.Hour)
	for _, p := range gone {
		p.gone()
	}
	for _, p := range append(active, stay...) {
		p.quiet()
	}
	eventually(t, "that the others are closed in the end", func() bool {
		clock.advance(time.Hour)
		return !slices.ContainsFunc(active, func(p *peer) bool { return p.Err() == nil })
	})
	for _, p := range stay {
		p.quiet()
	}
}

// conformance: 25
func TestManyConnections(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	r.dial(t, 19).newQueue()
	c := r.Counters()
	before := c.Active.Load()
	for i := range 150 {
		switch i % 10 {
		case 0: // neither TLS nor the protocol
			conn := r.tcp(t)
			if _, err := conn.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
				t.Fatal(err)
			}
			_ = conn.Close()
		case 1: // without an answer to the hello
			conn, err := r.secure(t)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.Close()
		default:
			w := r.wire(t, 6+smp.Version(i)%14)
			w.send(line{text: "PING"})
			w.want("PONG")
			_ = w.conn.Close()
		}
	}
	eventually(t, "that all connections are closed", func() bool { return c.Accepted.Load() == before+150 && c.Active.Load() == before })
	if leaked := c.Accepted.Load() - c.Closed.Load() - c.Active.Load(); leaked != 0 {
		t.Errorf("%d connections are neither open nor closed", leaked)
	}
	if c.Connected.Load() != before+120 || c.FailedTLS.Load() != 15 || c.FailedHandshake.Load() != 15 {
		t.Errorf("%d connected, %d failed in TLS, %d in the handshake", c.Connected.Load(), c.FailedTLS.Load(), c.FailedHandshake.Load())
	}
}

// A client that takes nothing any more is disconnected, although it is subscribed.
func TestStalledClient(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0), func(o *router.Options) { o.BlockTimeout = 2 * time.Second })
	bob := r.dial(t, 19)
	boxes := bob.newQueues(20, createOnly)
	for _, b := range boxes {
		bob.send(b, strings.Repeat("x", 16000))
	}
	w := r.wire(t, 19)
	before := r.Counters().Active.Load()
	for _, b := range boxes {
		w.send(line{entity: b.recipient, key: b.recipientKey, Command: &smp.SUB{}}) // and no answer is read
	}
	eventually(t, "that the client is disconnected", func() bool { return r.Counters().Active.Load() == before-1 })
	alice := r.dial(t, 19)
	for _, b := range boxes {
		alice.subscribe(b)
		alice.ack(b, alice.receive(b, strings.Repeat("x", 16000)))
	}
}

// A client that does not close its end keeps the router from stopping for the time to
// close, and no longer.
func TestShutdownOfSilentClient(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	r, err := router.New(router.Options{Store: st, Credentials: routertest.NewCredentials(t), CloseTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	served := make(chan error, 1)
	go func() { served <- r.Serve(context.Background(), l) }()
	w := (&server{Router: r, address: addressOf(t, r.Identity(), l), store: st}).wire(t, 19)
	w.send(line{text: "PING"})
	w.want("PONG")
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	if err := r.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := w.conn.Receive(nil); !errors.Is(err, io.EOF) {
		t.Errorf("the client sees %v", err)
	}
}

// Certificates can be replaced while the router serves: those who are connected do not
// notice.
func TestSetCredentials(t *testing.T) {
	t.Parallel()
	var nobody *authority
	ca := nobody.issue(t)
	leaf := func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature }
	first, second := ca.issue(t, leaf).credentials(t), ca.issue(t, leaf).credentials(t)
	r := start(t, newSite(t).openStore(t, 0), func(o *router.Options) { o.Credentials = first })
	identity := r.Identity()
	bob := r.dial(t, 19)
	b := bob.newQueue()
	if err := r.SetCredentials(routertest.NewCredentials(t)); !errors.Is(err, smp.ErrHandshakeIdentity) {
		t.Errorf("those of another router: %v", err)
	}
	if err := r.SetCredentials(transport.Credentials{Chain: second.Chain, Key: first.Key}); err == nil {
		t.Error("another key is taken")
	}
	if err := r.SetCredentials(second); err != nil {
		t.Fatal(err)
	}
	if r.Identity() != identity {
		t.Error("the router has become another one")
	}
	alice := r.dial(t, 19)
	if !bytes.Equal(alice.Session().PeerChain[0], second.Chain[0]) || !bytes.Equal(bob.Session().PeerChain[0], first.Chain[0]) {
		t.Error("new connections do not have the new certificate, or old ones not the old one")
	}
	alice.send(b, "x")
	bob.ack(b, bob.receive(b, "x"))
}

// A router listens on several ports, in IPv4 and IPv6, and says which port it cannot
// have.
func TestListen(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	listeners, err := router.Listen(t.Context(), []uint16{0, 0}, net.KeepAliveConfig{Enable: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	served := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { served <- r.Serve(ctx, l) }()
		at, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			t.Fatal(l.Addr())
		}
		hosts := []string{"127.0.0.1"}
		if at.IP.To4() == nil { // there is IPv6 on this machine
			hosts = append(hosts, "::1")
		}
		for _, name := range hosts {
			host, err := smp.ParseHost(name)
			if err != nil {
				t.Fatal(err)
			}
			address := &smp.RouterAddress{Fingerprint: r.Identity(), Hosts: []smp.Host{host}, Port: uint16(at.Port)}
			c, err := client.Dial(t.Context(), address, client.Options{})
			if err != nil {
				t.Errorf("%s: %v", address, err)
				continue
			}
			c.Close()
		}
		taken := uint16(at.Port)
		if more, err := router.Listen(t.Context(), []uint16{0, taken}, net.KeepAliveConfig{}); err == nil || !strings.Contains(err.Error(), fmt.Sprint("port ", taken)) {
			t.Errorf("a port that is taken: %v, %v", more, err)
		}
	}
	// One that is closed by others says which it is, and the other goes on.
	_ = listeners[0].Close()
	if err := <-served; !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), listeners[0].Addr().String()) {
		t.Errorf("a listener that was closed: %v", err)
	}
	r.dial(t, 19).quiet()
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// Failures in TLS are logged one by one if that is wanted, otherwise only to those
// who look for faults. Other failures always are so.
func TestLogOfFailures(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	for _, c := range []struct {
		wanted bool
		level  slog.Level
		tls    bool // is logged
		hello  bool
	}{
		{false, slog.LevelInfo, false, false},
		{true, slog.LevelInfo, true, false},
		{false, slog.LevelDebug, true, true},
	} {
		var out lockedBuffer
		r := start(t, st, func(o *router.Options) {
			o.LogTLSErrors = c.wanted
			o.Log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: c.level}))
		})
		logged := func() int { return strings.Count(out.String(), "the handshake failed") }
		conn := r.tcp(t)
		if _, err := conn.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		eventually(t, "that the connection is closed", func() bool { return r.Counters().Closed.Load() == 1 })
		if got := logged() > 0; got != c.tls {
			t.Errorf("wanted %t, level %s: logged\n%s", c.wanted, c.level, out.String())
		}
		before := logged()
		secure, err := r.secure(t)
		if err != nil {
			t.Fatal(err)
		}
		_ = secure.Close()
		eventually(t, "that the connection is closed", func() bool { return r.Counters().Closed.Load() == 2 })
		if got := logged() > before; got != c.hello {
			t.Errorf("wanted %t, level %s: logged\n%s", c.wanted, c.level, out.String())
		}
	}
}
