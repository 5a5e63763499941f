package main

import (
	"crypto/x509"
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
)

// probeAddress returns the address of a router, with its password.
func probeAddress(r *routertest.Router) string { return string(r.Address().AppendReveal(nil)) }

// What a probe found is printed, without secrets.
func TestProbe(t *testing.T) {
	password, err := smp.ParsePassword("secret-word")
	must(t, err)
	router, proxy := routertest.Start(t, routertest.Options{Password: password}), routertest.Start(t, routertest.Options{Password: password})
	r := smpq(t, "probe", probeAddress(router), "--proxy", probeAddress(proxy))
	r.expect(t, 0, "\nprotocol", "version 19 (the router speaks 6-19)", "TLS 1.3, TLS_", "\nreach through proxy", "\ndelete")
	for line := range strings.Lines(r.stdout) {
		if strings.Contains(line, "secret-word") {
			t.Errorf("it shows the password: %s", line)
		}
	}
	r = smpq(t, "probe", "-o", "json", "--count", "3", "--interval", "1ms", probeAddress(router))
	r.expect(t, 0, "probe n=3 time=")
	var result probeResult
	must(t, json.Unmarshal([]byte(r.stdout), &result))
	if len(result.Probes) != 3 || result.Failed != 0 || result.Times == nil || result.Times.Min > result.Times.Median || result.Times.Median > result.Times.Max || result.Times.Max == 0 {
		t.Errorf("result %+v", result)
	}
}

// A failure says at which step, and what kind it is.
func TestProbeFails(t *testing.T) {
	router := routertest.Start(t, routertest.Options{Answer: func(c smp.Command, _ *smp.Transmission) (smp.Response, bool) {
		if _, send := c.(*smp.SEND); send {
			return &smp.ERR{Err: smp.ErrQuota}, false
		}
		return nil, false
	}})
	smpq(t, "probe", probeAddress(router)).expect(t, 1, "failed (quota)\n", "smpq: send failed (quota): SEND: QUOTA\n", "\ndelete ")
	smpq(t, "probe", "--count", "2", "--interval", "0s", probeAddress(router)).expect(t, 1, "smpq: 2 of 2 probes failed, the last: send failed (quota): SEND: QUOTA\n")
	a := *router.Address()
	a.Fingerprint = smp.FingerprintOf([]byte("another"))
	smpq(t, "probe", a.String()).expect(t, 1, "smpq: handshake failed (identity): ")
}

func TestProbeUsage(t *testing.T) {
	address := probeAddress(routertest.Start(t, routertest.Options{}))
	for _, c := range []struct {
		says string
		args []string
	}{
		{"ADDRESS: router address: an address starts with smp://", []string{"simplex.chat"}},
		{"--proxy: router address: ", []string{address, "--proxy", "smp://x"}},
		{"--count 0: want 1 to 10000", []string{address, "--count", "0"}},
		{"--interval -1s: must not be negative", []string{address, "--interval", "-1s"}},
		{"--timeout 0s: must be positive", []string{address, "--timeout", "0s"}},
		{"--warning 6s is above --critical 5s", []string{address, "--warning", "6s"}},
		{"--cert-warning 1d is below --cert-critical 7d", []string{address, "--cert-warning", "1d"}},
		{"--check has a form of its own", []string{address, "--check", "-o", "json"}},
	} {
		smpq(t, append([]string{"probe"}, c.args...)...).expect(t, 2, c.says)
	}
}

// With --check, one line says what monitoring systems want, and so does the status.
func TestProbeCheck(t *testing.T) {
	router := routertest.Start(t, routertest.Options{})
	address := probeAddress(router)
	old := probeAddress(routertest.Start(t, routertest.Options{Credentials: routertest.NewCredentials(t, func(leaf *x509.Certificate) {
		leaf.NotAfter = time.Now().AddDate(0, 0, 10)
	})}))
	line := regexp.MustCompile(`^SMP [A-Z]+ - [^|\n]+ \| total=[0-9.]+s;[0-9.]+;[0-9.]+( '[a-z ]+'=[0-9.]+s)+( certificate=[0-9]+s;[0-9]+:;[0-9]+:)?\n$`)
	for _, c := range []struct {
		state  string
		status int
		args   []string
	}{
		{"OK", 0, []string{address, "--warning", "50s", "--critical", "60s"}},
		{"OK", 0, []string{old, "--warning", "50s", "--critical", "60s", "--cert-warning", "9d"}},
		{"WARNING", 1, []string{address, "--warning", "0s", "--critical", "60s"}},
		{"CRITICAL", 2, []string{address, "--warning", "0s", "--critical", "0s", "--count", "2", "--interval", "0s"}},
		{"WARNING", 1, []string{old, "--warning", "50s", "--critical", "60s"}},
		{"CRITICAL", 2, []string{old, "--cert-critical", "20d"}},
		{"CRITICAL", 2, []string{strings.Replace(address, "127.0.0.1", "127.0.0.9", 1)}},
	} {
		r := smpq(t, append([]string{"probe", "--check"}, c.args...)...)
		if r.status != c.status || !strings.HasPrefix(r.stdout, "SMP "+c.state+" - ") || !line.MatchString(r.stdout) || r.stderr != "" && len(c.args) < 6 {
			t.Errorf("%q: status %d, %q, %q", c.args[1:], r.status, r.stdout, r.stderr)
		}
	}
}

// Certificates for centuries are none that expire soon.
func TestProbeOldAge(t *testing.T) {
	router := routertest.Start(t, routertest.Options{})
	smpq(t, "probe", "--check", "--critical", "60s", "--warning", "50s", probeAddress(router)).expect(t, 0, "certificate expires in 35")
}

// An interrupt ends the probes; what is complete is printed, and no queue is left.
func TestProbeInterrupted(t *testing.T) {
	var made, deleted int
	second := make(chan struct{})
	router := routertest.Start(t, routertest.Options{Answer: func(c smp.Command, _ *smp.Transmission) (smp.Response, bool) {
		switch c.(type) {
		case *smp.NEW:
			made++
		case *smp.DEL:
			deleted++
		case *smp.SEND:
			if made == 2 {
				close(second)
				return nil, true
			}
		}
		return nil, false
	}})
	cmd := exec.CommandContext(t.Context(), "smpq", "probe", "--count", "5", "--interval", "0s", "-o", "json", probeAddress(router))
	start(t, cmd)
	<-second
	must(t, cmd.Process.Signal(os.Interrupt))
	r := finish(t, cmd)
	r.expect(t, 130, "interrupted")
	var result probeResult
	must(t, json.Unmarshal([]byte(r.stdout), &result))
	if diff := cmp.Diff([]int{1, 2, 2}, []int{len(result.Probes), made, deleted}); diff != "" {
		t.Errorf("probes, queues made and deleted (-want +got):\n%s", diff)
	}
}
