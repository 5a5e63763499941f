package web_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/config"
	"github.com/smpq/smpq/internal/web"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// timeout is when a test fails in which something does not come.
const timeout = 30 * time.Second

// The certificate for HTTPS in tests, of router.example, made by OpenSSL:
//
//	openssl req -x509 -newkey rsa:4096 -nodes -keyout web.key -out web.crt \
//	  -days 36500 -subj /CN=router.example -addext subjectAltName=DNS:router.example
const (
	certFile = "testdata/web.crt"
	keyFile  = "testdata/web.key"
	host     = "router.example"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// parse returns the configuration of a router that an INI file describes.
func parse(t testing.TB, ini string) *config.Router {
	t.Helper()
	f, err := config.Parse("t.ini", strings.NewReader("[TRANSPORT]\nport = 5223\nwebsockets = off\nhost = router.example,"+onion+"\n"+ini))
	must(t, err)
	c, warnings, err := config.Sources{File: f}.Router()
	must(t, err)
	for _, w := range warnings {
		t.Log(w)
	}
	return &c
}

const onion = "jjbyvoemxysm7qxap7m5d5m35jzv5qq6gnlv7s4rsn7tdwwmuqciwpid.onion"

var discard = slog.New(slog.DiscardHandler)

// A site is what a server serves in a test, over HTTP and HTTPS.
type site struct {
	*web.Server
	folder      string
	http, https string // host and port
}

// start starts a server on free ports, until the end of the test.
func start(t *testing.T, c *config.Router) *site {
	t.Helper()
	c.Web.StaticPath = filepath.Join(t.TempDir(), "www")
	if c.Web.Cert == "" {
		c.Web.Cert, c.Web.Key = certFile, keyFile
	}
	const attempts = 10 // another process may take a port that was free
	for range attempts {
		c.Web.HTTP, c.Web.HTTPS = freePort(t), freePort(t)
		s, err := web.New(c, web.Build{Version: "v1.2.3", Commit: "0123456789abcdef"}, discard)
		must(t, err)
		_, err = s.Start(t.Context(), nil)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		must(t, err)
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			defer cancel()
			if err := s.Shutdown(ctx); err != nil {
				t.Error(err)
			}
		})
		return &site{s, c.Web.StaticPath, fmt.Sprintf("127.0.0.1:%d", c.Web.HTTP), fmt.Sprintf("127.0.0.1:%d", c.Web.HTTPS)}
	}
	t.Fatal("there are no free ports")
	return nil
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", ":0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// A browser asks a site for pages, in one of the ways there are.
type browser struct {
	name   string
	client *http.Client
	url    string
}

// browsers returns one for each way. They compress only where a test says so.
func (s *site) browsers(t *testing.T) []browser {
	t.Helper()
	pem, err := os.ReadFile(certFile)
	must(t, err)
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(pem)
	with := func(protocols http.Protocols, address string) *http.Client {
		transport := &http.Transport{
			Protocols: &protocols, DisableCompression: true,
			TLSClientConfig: &tls.Config{RootCAs: trusted, ClientSessionCache: tls.NewLRUClientSessionCache(1)},
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, address)
			},
		}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport, Timeout: timeout}
	}
	var h1, h2 http.Protocols
	h1.SetHTTP1(true)
	h2.SetHTTP2(true)
	return []browser{
		{"HTTP", with(h1, s.http), "http://" + host},
		{"HTTPS, HTTP/1.1", with(h1, s.https), "https://" + host},
		{"HTTPS, HTTP/2", with(h2, s.https), "https://" + host},
	}
}

// ask returns the answer to a request, with its body.
func (b browser) ask(t *testing.T, method, path string, header http.Header) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, b.url+path, http.NoBody)
	must(t, err)
	maps.Copy(request.Header, header)
	response, err := b.client.Do(request)
	if err != nil {
		t.Fatalf("%s: %s: %v", b.name, path, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	must(t, err)
	return response, string(body)
}
