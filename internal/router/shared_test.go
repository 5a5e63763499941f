package router_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/smpq/smpq/internal/config"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/web"
)

// What the web server has in these tests: a certificate of router.example.
const (
	webCert = "../web/testdata/web.crt"
	webKey  = "../web/testdata/web.key"
	webHost = "router.example"
)

// share makes a router serve on one more port, which it shares with a web server. It
// returns the host and the port.
func (s *server) share(t *testing.T) string {
	t.Helper()
	l := listen(t)
	c := &config.Router{Web: config.Web{
		StaticPath: filepath.Join(t.TempDir(), "www"), HTTPS: l.Addr().(*net.TCPAddr).AddrPort().Port(), Cert: webCert, Key: webKey,
	}}
	pages, err := web.New(c, web.Build{Version: "v1"}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	listeners, err := pages.Start(t.Context(), []net.Listener{l})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { served <- s.Serve(ctx, listeners[0]) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := pages.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown of the web server: %v", err)
		}
	})
	return l.Addr().String()
}

// handshake connects by TLS, and reports whether a certificate was asked for.
func handshake(t *testing.T, address string, version uint16, name string, protocols []string) (conn *tls.Conn, asked bool) {
	t.Helper()
	d := tls.Dialer{Config: &tls.Config{
		InsecureSkipVerify: true, ServerName: name, NextProtos: protocols, MaxVersion: version,
		ClientSessionCache: tls.NewLRUClientSessionCache(1), // as browsers have it
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked = true
			return new(tls.Certificate), nil
		},
	}}
	c, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatalf("TLS with name %q, ALPN %q: %v", name, protocols, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*tls.Conn), asked
}

// eachTLS runs a test with each version of TLS and each kind of ALPN.
func eachTLS(t *testing.T, test func(t *testing.T, version uint16, protocols []string)) {
	t.Helper()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, protocols := range [][]string{nil, {"smp/1"}, {"http/1.1"}, {"h2", "http/1.1"}} {
			t.Run(fmt.Sprintf("%s, %v", tls.VersionName(version), protocols), func(t *testing.T) { test(t, version, protocols) })
		}
	}
}

// Who names no server, on a port that is shared, comes to the router, also where it
// pretends to be a browser by ALPN.
//
// conformance: 1, 6
func TestSharedPortRouter(t *testing.T) {
	s := start(t, newSite(t).openStore(t, 0))
	address := s.share(t)
	eachTLS(t, func(t *testing.T, version uint16, protocols []string) {
		conn, asked := handshake(t, address, version, "", protocols)
		var chain [][]byte
		for _, cert := range conn.ConnectionState().PeerCertificates {
			chain = append(chain, cert.Raw)
		}
		if !slices.EqualFunc(chain, s.options.Credentials.Chain, slices.Equal[[]byte]) {
			t.Errorf("the chain has %d certificates, which are not those of the router", len(chain))
		}
		if !asked {
			t.Error("the client is not asked for a certificate")
		}
		block := make([]byte, smp.BlockSize)
		if _, err := io.ReadFull(conn, block); err != nil {
			t.Fatal(err)
		}
		hello := block[2:]
		got := smp.VersionRange{Min: smp.Version(binary.BigEndian.Uint16(hello)), Max: smp.Version(binary.BigEndian.Uint16(hello[2:]))}
		want := smp.VersionRange{Min: smp.MinVersion, Max: smp.MaxVersion}
		if protocols == nil {
			want.Max = smp.MinVersion
		}
		if got != want {
			t.Errorf("versions %v are offered, want %v", got, want)
		}
	})
	l, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s.address.Port = l.AddrPort().Port()
	eachVersion(t, smp.MinVersion, func(t *testing.T, v smp.Version) {
		p := s.dial(t, v)
		b := p.newQueue()
		p.ok(b.recipient, b.recipientKey, &smp.OFF{})
	})
}

// Who names a server, on a port that is shared, comes to the web server, whatever it
// offers by ALPN. It is not asked for a certificate. The router's other ports are not
// shared.
//
// conformance: 2
func TestSharedPortWeb(t *testing.T) {
	s := start(t, newSite(t).openStore(t, 0))
	address := s.share(t)
	text, err := os.ReadFile(webCert)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := pem.Decode(text)
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(text)
	eachTLS(t, func(t *testing.T, version uint16, protocols []string) {
		conn, asked := handshake(t, address, version, webHost, protocols)
		if got := conn.ConnectionState().PeerCertificates; len(got) != 1 || !slices.Equal(got[0].Raw, want.Bytes) {
			t.Errorf("there are %d certificates, not that of the web server", len(got))
		}
		if asked {
			t.Error("the browser is asked for a certificate")
		}
		if conn.ConnectionState().NegotiatedProtocol == "h2" {
			return // see below
		}
		if _, err := io.WriteString(conn, "GET /a HTTP/1.1\r\nHost: "+webHost+"\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		expectPage(t, response, "HTTP/1.1")
	})
	browser := &http.Client{Timeout: timeout, Transport: &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: trusted},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}
	defer browser.CloseIdleConnections()
	for range 2 { // both by way of the same connection
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+webHost+"/a", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := browser.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		expectPage(t, response, "HTTP/2.0")
	}
	if n := s.Counters().FailedTLS.Load(); n != 0 {
		t.Errorf("%d handshakes are counted as failed", n)
	}
	own := net.JoinHostPort(s.address.Hosts[0].String(), fmt.Sprint(s.address.Port))
	conn, _ := handshake(t, own, tls.VersionTLS13, webHost, []string{"smp/1"})
	if got := conn.ConnectionState().PeerCertificates; !slices.Equal(got[0].Raw, s.options.Credentials.Chain[0]) {
		t.Error("a port that is not shared has the certificate of the web server")
	}
}

func expectPage(t *testing.T, response *http.Response, protocol string) {
	t.Helper()
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK || response.Proto != protocol || !strings.Contains(string(body), "A link for the app") {
		t.Errorf("%s %s, %d bytes, want a page by %s", response.Proto, response.Status, len(body), protocol)
	}
}
