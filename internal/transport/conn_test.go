package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// Clients and routers of all versions find to each other, and understand each
// other's blocks.
func TestVersions(t *testing.T) {
	own := credentials(t, "router")
	for v := smp.MinVersion; v <= smp.MaxVersion; v++ {
		for _, end := range []string{"router", "client"} {
			t.Run(fmt.Sprintf("%s of version %d", end, v), func(t *testing.T) {
				a := newAcceptor(t, func(c *AcceptorConfig) {
					c.Credentials = own
					if end == "router" {
						c.Versions.Max = v
					}
				})
				d := newDialer(a)
				if end == "client" {
					d.Versions.Max = v
				}
				router, client := established(t, a, d)
				checkSession(t, router, client, v)
				if got, want := client.Session().Encrypted, v >= 11; got != want {
					t.Errorf("encrypted: %t, want %t", got, want)
				}
				exchange(t, router, client)
				authorize(t, router, client)
			})
		}
	}
}

func checkSession(t *testing.T, router, client *Conn, v smp.Version) {
	t.Helper()
	r, c := router.Session(), client.Session()
	if r.Version != v || c.Version != v {
		t.Errorf("the router speaks version %d, the client %d, want %d", r.Version, c.Version, v)
	}
	if !r.ID.Equal(c.ID) || r.ID.Len() != 32 {
		t.Errorf("the router has the session %s, the client %s", r.ID, c.ID)
	}
	if r.Encrypted != c.Encrypted || r.Proxy != c.Proxy && v >= smp.VersionProxyFlag {
		t.Errorf("the router has %+v, the client %+v", r, c)
	}
	if !bytes.Equal(r.Secret.Append(nil), c.Secret.Append(nil)) || c.Secret.IsZero() != (v < 7) {
		t.Error("the secrets differ")
	}
	if !c.Secret.IsZero() && (r.PeerKey != c.Key.Public() || c.PeerKey != r.Key.Public()) {
		t.Error("the keys differ")
	}
}

// exchange sends blocks of all sizes both ways.
func exchange(t *testing.T, router, client *Conn) {
	t.Helper()
	for _, ends := range [][2]*Conn{{router, client}, {client, router}} {
		from, to := ends[0], ends[1]
		for _, size := range []int{0, 1, 100, smp.MaxContent, from.MaxContent()} {
			content := bytes.Repeat([]byte{7}, size)
			sent := make(chan error, 1)
			go func() { sent <- from.Send(content) }()
			got, err := to.Receive([]byte("before"))
			if err != nil || !bytes.Equal(got, append([]byte("before"), content...)) {
				t.Errorf("%d bytes arrived as %d, %v", size, len(got)-6, err)
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
		}
		if err := from.Send(make([]byte, from.MaxContent()+1)); !errors.Is(err, smp.ErrTransportLargeMsg) {
			t.Errorf("too large a block: got %v", err)
		}
	}
}

// authorize lets the client authorize a command and the router check it.
func authorize(t *testing.T, router, client *Conn) {
	t.Helper()
	for _, algorithm := range []smp.Algorithm{smp.Ed25519, smp.X25519} {
		if algorithm == smp.X25519 && client.Session().Version < smp.VersionSessionKeys {
			continue
		}
		key, err := auth.GenerateKey(algorithm)
		if err != nil {
			t.Fatal(err)
		}
		tr := smp.Transmission{CorrID: short(t, bytes.Repeat([]byte{1}, 24)), EntityID: short(t, []byte("queue")), Command: []byte("SUB")}
		if err := client.Session().Signer().Authorize(&tr, auth.ByPartyAndService, key); err != nil {
			t.Fatal(err)
		}
		if err := router.Session().Verifier().Verify(&tr, auth.ByPartyAndService, key.Public()); err != nil {
			t.Errorf("%v: %v", algorithm, err)
		}
	}
}

func TestProxies(t *testing.T) {
	for _, c := range []struct{ router, proxy, want smp.Version }{
		{7, 19, 7},
		{8, 19, 8},
		{10, 19, 10},
		{11, 19, 10},
		{13, 19, 10},
		{14, 19, 14},
		{18, 19, 18},
		{19, 7, 7},
		{19, 11, 10},
		{19, 13, 10},
		{19, 14, 14},
		{19, 19, 19},
	} {
		t.Run(fmt.Sprintf("router %d, proxy %d", c.router, c.proxy), func(t *testing.T) {
			a := newAcceptor(t, func(a *AcceptorConfig) { a.Versions.Max = c.router })
			d := newDialer(a)
			d.Proxy = true
			d.Versions.Max = c.proxy
			router, client := established(t, a, d)
			checkSession(t, router, client, c.want)
			if client.Session().Encrypted || router.Session().Encrypted {
				t.Error("blocks are encrypted")
			}
			if k := client.Session().RouterKey; k == nil || smp.FingerprintOf(k.Chain[1]) != a.Identity() {
				t.Error("the router's key is not there to be passed on")
			}
			exchange(t, router, client)
		})
	}
}

func TestServices(t *testing.T) {
	refuse := errors.New("registered for another role")
	for _, c := range []struct {
		name    string
		own     Credentials
		role    queue.Role
		version smp.Version
		refuse  func(context.Context, ServiceOffer) (smp.EntityID, error)
		service bool
	}{
		{name: "notifier", own: selfSigned(t), role: queue.RoleNotifier, version: 16, service: true},
		{name: "with an authority", own: credentials(t, "service"), role: queue.RoleNotifier, version: 18, service: true},
		{name: "proxy", own: selfSigned(t), role: queue.RoleProxy, version: 19, service: true},
		{name: "messaging", own: selfSigned(t), role: queue.RoleMessaging, version: 19, service: true},
		{name: "messaging before its time", own: selfSigned(t), role: queue.RoleMessaging, version: 18},
		{name: "before its time", own: selfSigned(t), role: queue.RoleNotifier, version: 15},
		{
			name: "refused", own: selfSigned(t), role: queue.RoleNotifier, version: 19,
			refuse: func(context.Context, ServiceOffer) (smp.EntityID, error) { return smp.EntityID{}, refuse },
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAcceptor(t, func(a *AcceptorConfig) {
				if c.refuse != nil {
					a.Service = c.refuse
				}
			})
			d := newDialer(a)
			d.Versions.Max = c.version
			d.Service = &ServiceCredentials{Credentials: c.own, Role: c.role}
			if c.refuse != nil {
				router, client := connect(t, a, d)
				if !errors.Is(router.err, smp.ErrHandshakeBadService) || !errors.Is(router.err, refuse) || !errors.Is(client.err, smp.ErrHandshakeBadService) {
					t.Errorf("router: %v; client: %v", router.err, client.err)
				}
				return
			}
			router, client := established(t, a, d)
			checkSession(t, router, client, c.version)
			r, s := router.Session().Service, client.Session().Service
			if (r != nil) != c.service || (s != nil) != c.service {
				t.Fatalf("the router has the service %+v, the client %+v", r, s)
			}
			if c.service && (r.ID != s.ID || r.ID.Len() != 24 || r.Role != c.role || r.Identity != s.Identity || r.Key != s.Key) {
				t.Errorf("the router has the service %+v, the client %+v", r, s)
			}
			exchange(t, router, client)
			authorize(t, router, client)
		})
	}
}

// A customTLS is the standard TLS, but for the client's or the router's part.
type customTLS struct {
	StandardTLS

	change func(*tls.Config)
}

func (c customTLS) Client(ctx context.Context, conn net.Conn, _ string, own *Credentials, verify func([][]byte) error) (*Channel, error) {
	cfg := config()
	cfg.InsecureSkipVerify = true
	if err := setCredentials(cfg, own); err != nil {
		return nil, err
	}
	c.change(cfg)
	return clientTLS(ctx, conn, cfg, verify)
}

func TestProtocols(t *testing.T) {
	for _, c := range []struct {
		name      string
		protocols []string
		maxTLS    uint16
		want      smp.Version
		idSize    int
	}{
		{"none", nil, 0, 6, 32},
		{"none, TLS 1.2", nil, tls.VersionTLS12, 6, 12},
		{"TLS 1.2", []string{"smp/1"}, tls.VersionTLS12, 19, 12},
		{"http/1.1", []string{"http/1.1"}, 0, 19, 32},
		{"h2", []string{"xmpp", "h2"}, 0, 19, 32},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAcceptor(t)
			d := newDialer(a)
			d.TLS = customTLS{change: func(cfg *tls.Config) { cfg.NextProtos, cfg.MaxVersion = c.protocols, c.maxTLS }}
			router, client := established(t, a, d)
			if got := client.Session(); got.Version != c.want || got.ID.Len() != c.idSize || !got.ID.Equal(router.Session().ID) {
				t.Errorf("version %d, session %s; want version %d and %d bytes", got.Version, got.ID, c.want, c.idSize)
			}
			exchange(t, router, client)
		})
	}
	a := newAcceptor(t)
	d := newDialer(a)
	d.Protocol = "xmpp-client"
	if router, client := connect(t, a, d); !errors.Is(router.err, ErrTLS) || !errors.Is(client.err, ErrTLS) {
		t.Errorf("an unknown protocol: router: %v; client: %v", router.err, client.err)
	}
}

func TestRefusals(t *testing.T) {
	other := newAcceptor(t)
	for _, c := range []struct {
		name           string
		router         func(*AcceptorConfig)
		client         func(*Dialer)
		atRouter, want error
	}{
		{name: "another router", client: func(d *Dialer) { d.Router = other.Identity() }, atRouter: ErrTLS, want: smp.ErrHandshakeIdentity},
		{name: "no common version", router: func(a *AcceptorConfig) { a.Versions.Min = 8 }, client: func(d *Dialer) { d.Versions.Max = 7 }, atRouter: io.EOF, want: smp.ErrTransportVersion},
		{name: "no router of today", router: func(a *AcceptorConfig) { a.Versions.Max = 7 }, client: func(d *Dialer) { d.Versions.Min = 8 }, atRouter: io.EOF, want: smp.ErrTransportVersion},
		{
			name: "no services", router: func(a *AcceptorConfig) { a.Service = nil },
			client:   func(d *Dialer) { d.Service = serviceOf(t, queue.RoleNotifier, selfSigned(t)) },
			atRouter: smp.ErrHandshakeBadService, want: smp.ErrHandshakeBadService,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var changes []func(*AcceptorConfig)
			if c.router != nil {
				changes = append(changes, c.router)
			}
			a := newAcceptor(t, changes...)
			d := newDialer(a)
			if c.client != nil {
				c.client(d)
			}
			router, client := connect(t, a, d)
			if !errors.Is(router.err, c.atRouter) || !errors.Is(client.err, c.want) || errors.Is(client.err, ErrTLS) {
				t.Errorf("router: %v; client: %v; want %v and %v", router.err, client.err, c.atRouter, c.want)
			}
		})
	}
}

func TestNewAcceptor(t *testing.T) {
	good, other := credentials(t, "router"), credentials(t, "other")
	for name, c := range map[string]Credentials{
		"another key":       {Chain: good.Chain, Key: other.Key},
		"another authority": {Chain: [][]byte{good.Chain[0], other.Chain[1]}, Key: good.Key},
		"a single one":      {Chain: good.Chain[:1], Key: good.Key},
		"none":              {},
	} {
		if _, err := NewAcceptor(AcceptorConfig{Credentials: c, Versions: allVersions}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// New certificates of the same router are those of new connections; others are
// refused, and change nothing.
func TestSetCredentials(t *testing.T) {
	authority := newAuthority(t, "router")
	first, second := authority.issue(t), authority.issue(t)
	a := newAcceptor(t, func(c *AcceptorConfig) { c.Credentials = first })
	d := newDialer(a)
	before, client := established(t, a, d)
	for name, wrong := range map[string]Credentials{
		"another router": credentials(t, "router"),
		"another key":    {Chain: second.Chain, Key: first.Key},
		"none":           {},
	} {
		if err := a.SetCredentials(wrong); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if err := a.SetCredentials(credentials(t, "router")); !errors.Is(err, smp.ErrHandshakeIdentity) {
		t.Errorf("another router: %v", err)
	}
	if _, client := established(t, a, d); !bytes.Equal(client.Session().PeerChain[0], first.Chain[0]) {
		t.Error("the certificate has changed")
	}
	if err := a.SetCredentials(second); err != nil {
		t.Fatal(err)
	}
	if _, client := established(t, a, d); !bytes.Equal(client.Session().PeerChain[0], second.Chain[0]) {
		t.Error("the certificate has not changed")
	}
	exchange(t, before, client)
}

// Who says that no more comes still takes what does, but not for ever.
func TestCloseWrite(t *testing.T) {
	t.Run("the other end closes", func(t *testing.T) {
		a := newAcceptor(t)
		router, client := established(t, a, newDialer(a))
		if err := router.Send([]byte("last")); err != nil {
			t.Fatal(err)
		}
		if err := router.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := client.Send([]byte("late")); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			end  *Conn
			want string
		}{{client, "last"}, {router, "late"}} {
			if got, err := c.end.Receive(nil); err != nil || string(got) != c.want {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
			if _, err := c.end.Receive(nil); !errors.Is(err, io.EOF) {
				t.Errorf("after %q: %v", c.want, err)
			}
			_ = c.end.Close()
		}
	})
	t.Run("the other end is silent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ours, theirs := net.Pipe()
			defer ours.Close()
			c := &Conn{conn: &Channel{Conn: halfCloser{theirs}}, closeTimeout: 5 * time.Second}
			start := time.Now()
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Receive(nil); !errors.Is(err, io.ErrClosedPipe) || time.Since(start) != 5*time.Second {
				t.Errorf("closed after %s: %v", time.Since(start), err)
			}
		})
	})
}

// A halfCloser has no more to send.
type halfCloser struct{ net.Conn }

func (halfCloser) CloseWrite() error { return nil }

// serverFlight is what OpenSSL, with an Ed448 certificate, answers to the
// ClientHello of leafKey.
func serverFlight(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/ed448-server-flight.hex")
	if err != nil {
		t.Fatal(err)
	}
	return unhex(t, strings.ReplaceAll(string(text), "\n", ""))
}

// A client that meets a router with an Ed448 certificate says so.
func TestEd448(t *testing.T) {
	handshakeFailure := []byte{21, 3, 3, 0, 2, 2, 40}
	for _, c := range []struct {
		name   string
		second []byte
		want   bool
	}{
		{"Ed448", serverFlight(t), true},
		{"no answer", nil, false},
		{"failure again", handshakeFailure, false},
		{"nonsense", []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), false},
		{"empty records", bytes.Repeat([]byte{22, 3, 3, 0, 0}, 5000), false},
		{"a long message", append([]byte{22, 3, 3, 0x40, 0, 2, 0xff, 0xff, 0xff}, make([]byte, 30000)...), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			answers := [][]byte{handshakeFailure, c.second}
			done := make(chan error, len(answers))
			dial := func(context.Context) (net.Conn, error) {
				ours, theirs := net.Pipe()
				answer := answers[0]
				answers = answers[1:]
				go func() {
					defer theirs.Close()
					_, err := theirs.Read(make([]byte, smp.BlockSize))
					if err == nil {
						_, _ = theirs.Write(answer)
					}
					done <- err
				}()
				return ours, nil
			}
			d := &Dialer{Versions: allVersions}
			_, err := d.Dial(t.Context(), dial)
			if got := errors.Is(err, ErrEd448); got != c.want || !errors.Is(err, ErrTLS) {
				t.Errorf("got %v", err)
			}
			for range 2 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// A client names no server: names lead to the web server on the same port.
func TestNoServerName(t *testing.T) {
	ours, theirs := loopback(t)
	asked := make(chan *tls.ClientHelloInfo, 1)
	var serving sync.WaitGroup
	serving.Go(func() {
		_ = tls.Server(theirs, &tls.Config{
			MinVersion: tls.VersionTLS13,
			GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
				asked <- hello
				return nil, errors.New("that is all")
			},
		}).Handshake()
		_ = theirs.Close()
	})
	_, err := StandardTLS{}.Client(t.Context(), ours, "smp/1", nil, func([][]byte) error { return nil })
	if !errors.Is(err, ErrTLS) {
		t.Errorf("%v", err)
	}
	serving.Wait()
	if hello := <-asked; hello.ServerName != "" || !slices.Equal(hello.SupportedProtos, []string{"smp/1"}) {
		t.Errorf("it asks for %q, %q", hello.ServerName, hello.SupportedProtos)
	}
}
