package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// A router serves its pages on the port on which clients connect, and does not start
// with a certificate of another kind than it needs.
//
// conformance: 1, 2, 171
func TestServePages(t *testing.T) {
	data := filepath.Join(openTempDir(t), "data")
	www := filepath.Join(t.TempDir(), "www")
	cert, err := filepath.Abs("../../internal/web/testdata/web.crt")
	must(t, err)
	key := strings.TrimSuffix(cert, "crt") + "key"
	free, err := freePort(t.Context())
	must(t, err)
	port := strconv.Itoa(free)
	args := []string{
		"serve", "--data", data, "--set", "TRANSPORT.port=" + port, "--set", "TRANSPORT.host=127.0.0.1", "--set", "AUTH.create_password=secret",
		"--set", "WEB.static_path=" + www, "--set", "WEB.https=" + port, "--set", "WEB.cert=" + cert, "--set", "WEB.key=" + key,
	}
	cmd := exec.CommandContext(t.Context(), "smpq", args...)
	out, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	var log strings.Builder
	lines := bufio.NewScanner(io.TeeReader(out, &log))
	serving := regexp.MustCompile(`msg=serving address=.*:([0-9]+) identity="?([^"\n]+)`)
	var found []string
	for found == nil && lines.Scan() {
		found = serving.FindStringSubmatch(lines.Text())
	}
	if found == nil {
		t.Fatalf("it does not serve: %v\n%s", cmd.Wait(), log.String())
	}
	smpq(t, "probe", "smp://"+found[2]+":secret@127.0.0.1:"+port).expect(t, 0, "\nacknowledge", "\ndelete")
	browser := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{ServerName: "router.example", InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+port)
		},
	}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://router.example/", http.NoBody)
	must(t, err)
	response, err := browser.Do(request)
	must(t, err)
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	must(t, err)
	if !strings.Contains(string(page), "21 days") {
		t.Errorf("%s: %s", response.Status, page)
	}
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	for lines.Scan() {
		continue
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v\n%s", err, log.String())
	}
	if _, err := os.Stat(filepath.Join(www, "a", "index.html")); err != nil {
		t.Error(err)
	}

	weak := t.TempDir()
	openssl := exec.CommandContext(t.Context(), "openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc",
		"-keyout", filepath.Join(weak, "web.key"), "-out", filepath.Join(weak, "web.crt"), "-subj", "/CN=router.example")
	if out, err := openssl.CombinedOutput(); err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	weakly := slices.Concat(args, []string{"--set", "WEB.cert=" + filepath.Join(weak, "web.crt"), "--set", "WEB.key=" + filepath.Join(weak, "web.key")})
	smpq(t, weakly...).expect(t, 1, "RSA key of at least 4096 bits", "certbot")
	smpq(t, append(weakly, "--check")...).expect(t, 1, "RSA key of at least 4096 bits", "certbot")
	smpq(t, append(args, "--set", "WEB.cert=/nosuch/web.crt")...).expect(t, 1, "/nosuch/web.crt")
}
