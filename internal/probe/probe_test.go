package probe_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/probe"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func run(t *testing.T, o probe.Options) probe.Report {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = 20 * time.Second
	}
	return probe.Run(t.Context(), o)
}

// A probe of a sound router comes to its end, in all versions, and leaves no queue.
func TestProbe(t *testing.T) {
	for v := smp.MinVersion; v <= smp.MaxVersion; v++ {
		t.Run(fmt.Sprintf("version %d", v), func(t *testing.T) {
			var mu sync.Mutex
			deleted := 0
			r := routertest.Start(t, routertest.Options{Versions: smp.VersionRange{Min: v, Max: v}, Answer: func(c smp.Command, _ *smp.Transmission) (smp.Response, bool) {
				mu.Lock()
				defer mu.Unlock()
				if _, ok := c.(*smp.DEL); ok {
					deleted++
				}
				return nil, false
			}})
			report := run(t, probe.Options{Router: r.Address()})
			if report.Failure != nil {
				t.Fatalf("%+v", report.Failure)
			}
			var names []string
			sum := 0.0
			for _, s := range report.Steps {
				names = append(names, s.Name)
				sum += s.Seconds
			}
			if got := strings.Join(names, ", "); got != "resolve, connect, handshake, create, secure, send, receive, acknowledge, delete" {
				t.Errorf("steps: %s", got)
			}
			if s := report.Session; s.Versions != (smp.VersionRange{Min: v, Max: v}).String() || s.Version != int(v) || s.TLS != "TLS 1.3" || s.Encrypted != (v >= smp.VersionBlockEncryption) {
				t.Errorf("session: %+v", s)
			}
			if len(report.Certificates) != 2 || report.Certificates[0].Key != "Ed25519" {
				t.Errorf("certificates: %+v", report.Certificates)
			}
			if report.Seconds != sum || len(report.Addresses) != 1 || !strings.HasPrefix(report.Remote, report.Addresses[0]+":") || deleted != 1 {
				t.Errorf("%+v, %d deleted", report, deleted)
			}
		})
	}
}

// With a proxy the message goes through it.
func TestProbeWithProxy(t *testing.T) {
	password, err := smp.ParsePassword("secret")
	if err != nil {
		t.Fatal(err)
	}
	router, proxy := routertest.Start(t, routertest.Options{}), routertest.Start(t, routertest.Options{Password: password})
	report := run(t, probe.Options{Router: router.Address(), Proxy: proxy.Address()})
	if report.Failure != nil {
		t.Fatalf("%+v", report.Failure)
	}
	if n := len(report.Steps); n != 11 {
		t.Errorf("steps: %+v", report.Steps)
	}
	if strings.Contains(report.Proxy, "secret") {
		t.Error("the report has the password")
	}
	without := *proxy.Address()
	without.Password = smp.Password{}
	report = run(t, probe.Options{Router: router.Address(), Proxy: &without})
	wantFailure(t, report, probe.Forward, probe.Authorization)
}

func wantFailure(t *testing.T, r probe.Report, step string, kind probe.Kind) {
	t.Helper()
	if r.Failure == nil || r.Failure.Step != step || r.Failure.Kind != kind {
		t.Errorf("failure %+v, want %s (%s)", r.Failure, step, kind)
	}
}

// Each kind of failure is told apart.
func TestFailures(t *testing.T) {
	answer := func(what smp.Command, r smp.Response) func(smp.Command, *smp.Transmission) (smp.Response, bool) {
		return func(c smp.Command, _ *smp.Transmission) (smp.Response, bool) {
			if fmt.Sprintf("%T", c) == fmt.Sprintf("%T", what) {
				return r, r == nil
			}
			return nil, false
		}
	}
	password, err := smp.ParsePassword("secret")
	if err != nil {
		t.Fatal(err)
	}
	blocked := smp.BlockedError{Blocking: smp.Blocking{Reason: "spam"}}
	for _, c := range []struct {
		name string
		o    routertest.Options
		step string
		kind probe.Kind
		left int // steps
	}{
		{"version", routertest.Options{Versions: smp.VersionRange{Min: 20, Max: 21}}, probe.Handshake, probe.Version, 3},
		{"authorization", routertest.Options{Answer: answer(&smp.NEW{}, &smp.ERR{Err: smp.ErrAuth})}, probe.Create, probe.Authorization, 4},
		{"quota", routertest.Options{Answer: answer(&smp.SEND{}, &smp.ERR{Err: smp.ErrQuota})}, probe.Send, probe.Quota, 7},
		{"blocked", routertest.Options{Answer: answer(&smp.SEND{}, &smp.ERR{Err: blocked})}, probe.Send, probe.Blocked, 7},
		{"protocol", routertest.Options{Answer: answer(&smp.ACK{}, &smp.PONG{})}, probe.Acknowledge, probe.Protocol, 9},
		{"internal", routertest.Options{Answer: answer(&smp.SKEY{}, &smp.ERR{Err: smp.ErrInternal})}, probe.Secure, probe.Protocol, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			report := run(t, probe.Options{Router: routertest.Start(t, c.o).Address()})
			wantFailure(t, report, c.step, c.kind)
			if len(report.Steps) != c.left {
				t.Errorf("steps: %+v", report.Steps)
			}
		})
	}
	t.Run("password", func(t *testing.T) {
		a := *routertest.Start(t, routertest.Options{Password: password}).Address()
		if f := run(t, probe.Options{Router: &a}).Failure; f != nil {
			t.Errorf("with the password: %+v", f)
		}
		a.Password = smp.Password{}
		wantFailure(t, run(t, probe.Options{Router: &a}), probe.Create, probe.Authorization)
	})
	t.Run("timeout", func(t *testing.T) {
		t.Parallel() // it waits for time to pass
		r := routertest.Start(t, routertest.Options{Answer: answer(&smp.SEND{}, nil)})
		wantFailure(t, run(t, probe.Options{Router: r.Address(), Timeout: 5 * time.Second}), probe.Send, probe.Timeout)
	})
	t.Run("identity", func(t *testing.T) {
		a := *routertest.Start(t, routertest.Options{}).Address()
		a.Fingerprint = smp.FingerprintOf([]byte("another"))
		wantFailure(t, run(t, probe.Options{Router: &a}), probe.Handshake, probe.Identity)
	})
	t.Run("network", func(t *testing.T) {
		a := *routertest.Start(t, routertest.Options{}).Address()
		nobody, err := smp.ParseHost("127.0.0.9")
		if err != nil {
			t.Fatal(err)
		}
		a.Hosts = []smp.Host{nobody}
		wantFailure(t, run(t, probe.Options{Router: &a}), probe.Connect, probe.Network)
	})
	t.Run("name", func(t *testing.T) {
		a := *routertest.Start(t, routertest.Options{}).Address()
		nowhere, err := smp.ParseHost("nowhere.invalid")
		if err != nil {
			t.Fatal(err)
		}
		a.Hosts = []smp.Host{nowhere}
		wantFailure(t, run(t, probe.Options{Router: &a}), probe.Resolve, probe.Network)
	})
	t.Run("certificate", func(t *testing.T) {
		expired := routertest.NewCredentials(t, func(leaf *x509.Certificate) {
			leaf.NotBefore, leaf.NotAfter = time.Now().AddDate(-1, 0, 0), time.Now().AddDate(0, 0, -1)
		})
		key, _ := expired.Key.Ed25519()
		a := listen(t, func(conn net.Conn) {
			_ = tls.Server(conn, &tls.Config{
				MinVersion: tls.VersionTLS13, NextProtos: []string{"smp/1"},
				Certificates: []tls.Certificate{{Certificate: expired.Chain, PrivateKey: key}},
			}).Handshake()
		})
		a.Fingerprint = smp.FingerprintOf(expired.Chain[1])
		wantFailure(t, run(t, probe.Options{Router: a}), probe.Handshake, probe.BadCertificate)
	})
	t.Run("no TLS", func(t *testing.T) {
		wantFailure(t, run(t, probe.Options{Router: listen(t, func(conn net.Conn) {
			_, _ = io.WriteString(conn, "220 mail.example.org ESMTP\r\n")
		})}), probe.Handshake, probe.TLS)
	})
}

// listen returns the address of somebody who answers and hangs up.
func listen(t *testing.T, answer func(net.Conn)) *smp.RouterAddress {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(func() { _ = l.Close() })
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			answer(conn)
			_ = conn.Close()
		}
	})
	host, err := smp.ParseHost("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	return &smp.RouterAddress{Fingerprint: smp.FingerprintOf(nil), Hosts: []smp.Host{host}, Port: uint16(port)}
}
