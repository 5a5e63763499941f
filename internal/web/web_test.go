package web_test

import (
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/web"
)

const (
	html  = "text/html; charset=utf-8"
	jsonT = "application/json"
)

// The files of the site are served in all ways, compressed for who wants it.
//
// conformance: 183, 185
func TestFiles(t *testing.T) {
	s := start(t, parse(t, ""))
	must(t, os.WriteFile(filepath.Join(s.folder, "own.txt"), []byte("of the operator"), 0o600))
	files := []struct{ path, file, contentType string }{
		{"/", "index.html", html},
		{"/index.html", "index.html", html},
		{"/info.json", "info.json", jsonT},
		{"/media/style.css", "media/style.css", "text/css; charset=utf-8"},
		{"/media/link.js", "media/link.js", "application/javascript"},
		{"/media/qr.js", "media/qr.js", "application/javascript"},
		{"/media/icon.svg", "media/icon.svg", "image/svg+xml"},
		{"/.well-known/apple-app-site-association", "well-known/apple-app-site-association", jsonT},
		{"/.well-known/assetlinks.json", "well-known/assetlinks.json", jsonT},
		{"/own.txt", "own.txt", "application/octet-stream"},
	}
	for _, name := range []string{"contact", "invitation", "a", "c", "g", "r", "i"} {
		files = append(files, struct{ path, file, contentType string }{"/" + name, "contact/index.html", html},
			struct{ path, file, contentType string }{"/" + name + "/", "contact/index.html", html})
	}
	for _, b := range s.browsers(t) {
		for _, f := range files {
			want, err := os.ReadFile(filepath.Join(s.folder, f.file))
			must(t, err)
			response, body := b.ask(t, http.MethodGet, f.path, nil)
			h := response.Header
			if response.StatusCode != http.StatusOK || h.Get("Content-Type") != f.contentType || h.Get("Content-Encoding") != "" || body != string(want) {
				t.Errorf("%s: %s: %s, %s, %d bytes; want %s, %d bytes", b.name, f.path, response.Status, h.Get("Content-Type"), len(body), f.contentType, len(want))
			}
			if h.Get("Content-Security-Policy") == "" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" {
				t.Errorf("%s: %s: headers %v", b.name, f.path, h)
			}
			response, body = b.ask(t, http.MethodGet, f.path, http.Header{"Accept-Encoding": {"br, gzip;q=0.8"}})
			if f.file == "own.txt" {
				if response.Header.Get("Content-Encoding") != "" || body != string(want) {
					t.Errorf("%s: %s is compressed", b.name, f.path)
				}
				continue
			}
			if h := response.Header; h.Get("Content-Encoding") != "gzip" || h.Get("Vary") != "Accept-Encoding" || h.Get("Content-Type") != f.contentType {
				t.Errorf("%s: %s compressed: %s, %v", b.name, f.path, response.Status, h)
				continue
			}
			if got := unzip(t, body); got != string(want) {
				t.Errorf("%s: %s compressed: %d bytes, want %d", b.name, f.path, len(got), len(want))
			}
		}
	}
}

func unzip(t *testing.T, body string) string {
	t.Helper()
	z, err := gzip.NewReader(strings.NewReader(body))
	must(t, err)
	plain, err := io.ReadAll(z)
	must(t, err)
	return string(plain)
}

// What is not of the site is not there: whatever is outside of its folder, by
// whatever path, folders, and files that are none of its business.
//
// conformance: 183
func TestNotFound(t *testing.T) {
	s := start(t, parse(t, ""))
	secret := filepath.Join(filepath.Dir(s.folder), "secret.html")
	must(t, os.WriteFile(secret, []byte("secret"), 0o600))
	must(t, os.Symlink(secret, filepath.Join(s.folder, "link.html")))
	must(t, os.Symlink("..", filepath.Join(s.folder, "up")))
	must(t, os.Symlink("index.html", filepath.Join(s.folder, "inside.html")))
	must(t, os.Mkdir(filepath.Join(s.folder, "empty"), 0o700))
	for _, name := range []string{".env", "index.html.smpq-tmp", "empty/.git"} {
		must(t, os.WriteFile(filepath.Join(s.folder, name), []byte("secret"), 0o600))
	}
	for _, b := range s.browsers(t) {
		for _, path := range []string{
			"/nosuch", "/../secret.html", "/a/../../secret.html", "/%2e%2e/secret.html", "/..%2fsecret.html", "/a/..%2f..%2fsecret.html",
			"/..%5csecret.html", "//secret.html", "/link.html", "/up/secret.html", "/up", "/media", "/media/", "/empty", "/./index.html", "/a/../index.html",
			"/.env", "/empty/.git", "/index.html.smpq-tmp", "/.well-known", "/.well-known/", "/.well-known/../secret.html", "/.well-known/nosuch",
			"/index.html%00", "/index.html/x", "/" + strings.Repeat("a", 5000),
		} {
			if response, body := b.ask(t, http.MethodGet, path, nil); response.StatusCode != http.StatusNotFound || body != "not found\n" {
				t.Errorf("%s: %.40s: %s, %.100q", b.name, path, response.Status, body)
			}
		}
		if response, _ := b.ask(t, http.MethodGet, "/inside.html", nil); response.StatusCode != http.StatusOK {
			t.Errorf("%s: a link within the folder: %s", b.name, response.Status)
		}
		if response, _ := b.ask(t, http.MethodPost, "/", nil); response.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s: POST: %s", b.name, response.Status)
		}
	}
}

// Requests are answered as HTTP has it.
func TestRequests(t *testing.T) {
	s := start(t, parse(t, ""))
	want, err := os.ReadFile(filepath.Join(s.folder, "index.html"))
	must(t, err)
	for _, b := range s.browsers(t) {
		response, _ := b.ask(t, http.MethodGet, "/", nil)
		modified := response.Header.Get("Last-Modified")
		for _, zipped := range []string{"gzip", "gzip;q=0"} {
			header := http.Header{"Accept-Encoding": {zipped}, "If-Modified-Since": {modified}}
			if response, body := b.ask(t, http.MethodGet, "/", header); response.StatusCode != http.StatusNotModified || body != "" {
				t.Errorf("%s: not modified: %s, %d bytes", b.name, response.Status, len(body))
			}
			if response, body := b.ask(t, http.MethodHead, "/", http.Header{"Accept-Encoding": {zipped}}); response.StatusCode != http.StatusOK || body != "" {
				t.Errorf("%s: HEAD: %s, %d bytes", b.name, response.Status, len(body))
			}
		}
		if response, body := b.ask(t, http.MethodGet, "/", http.Header{"Range": {"bytes=1-4"}}); response.StatusCode != http.StatusPartialContent || body != string(want[1:5]) {
			t.Errorf("%s: a range: %s, %q", b.name, response.Status, body)
		}
		if response, body := b.ask(t, http.MethodGet, "/", http.Header{"Range": {"bytes=1-4"}, "Accept-Encoding": {"gzip"}}); response.StatusCode != http.StatusOK || unzip(t, body) != string(want) {
			t.Errorf("%s: a compressed range: %s", b.name, response.Status)
		}
		for accept, compressed := range map[string]bool{
			"": false, "gzip": true, "deflate, gzip;q=1.0, *;q=0.5": true, "gzip;q=0": false, "gzip;q=0.000": false, "br": false, "GZIP": true, "gzip;q=x": false, "x-gzip, ;": false,
		} {
			response, body := b.ask(t, http.MethodGet, "/", http.Header{"Accept-Encoding": {accept}})
			if got := response.Header.Get("Content-Encoding") == "gzip"; got != compressed {
				t.Errorf("%s: Accept-Encoding %q: compressed %t", b.name, accept, got)
			} else if got && unzip(t, body) != string(want) || !got && body != string(want) {
				t.Errorf("%s: Accept-Encoding %q: another body", b.name, accept)
			}
		}
	}
}

// row matches a row of the page.
var row = regexp.MustCompile(`<dt>(.*?)</dt><dd>(.*?)</dd>`)

// rows returns what a page says.
func rows(page string) map[string]string {
	found := make(map[string]string)
	for _, m := range row.FindAllStringSubmatch(strings.ReplaceAll(page, "\n", ""), -1) {
		found[m[1]] = m[2]
	}
	return found
}

const address = "https://router.example/a#MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"

var informationINI = `[INFORMATION]
source_code = https://code.example/smpq
usage_conditions = https://router.example/terms
condition_amendments = https://router.example/more
server_country = se
operator = Example <& Co>
operator_country = de
website = javascript:alert(1)
admin_simplex = ` + address + `
admin_email = admin@router.example
admin_pgp = https://router.example/key
admin_pgp_fingerprint = 0123 4567
complaints_simplex = javascript:alert(2)
complaints_pgp = https://router.example/key
hosting = Racks
hosting_country = fi
hosting_type = dedicated
`

// The page says what the configuration does.
//
// conformance: 184
func TestIndex(t *testing.T) {
	none := map[string]string{
		"Version": "v1.2.3, commit 0123456", "Source code": "Not given. If you run this router, please set <code>source_code</code> in <code>smp-server.ini</code>.",
		"Kept across restarts": "Queues and messages", "Messages expire after": "21 days",
		"Statistics enabled": "No", "New queues allowed": "Yes", "Password for new queues": "No",
	}
	change := func(pairs ...string) map[string]string {
		changed := maps.Clone(none)
		for i := 0; i < len(pairs); i += 2 {
			changed[pairs[i]] = pairs[i+1]
		}
		return changed
	}
	link := func(to, text string) string { return `<a href="` + to + `" rel="noreferrer">` + text + `</a>` }
	for _, c := range []struct {
		name, ini string
		want      map[string]string
	}{
		{"nothing given", "", none},
		{"information without the source code", "[INFORMATION]\noperator = Example\n", none},
		{"no new queues", "[AUTH]\nnew_queues = off\n[STORE_LOG]\nlog_stats = on\n", change("New queues allowed", "No", "Statistics enabled", "Yes")},
		{"a password", "[AUTH]\ncreate_password = secret-password\n", change("Password for new queues", "Yes")},
		{"a week", "[STORE_LOG]\nexpire_messages_days = 7\n", change("Messages expire after", "1 week")},
		{"two weeks", "[STORE_LOG]\nexpire_messages_days = 14\n", change("Messages expire after", "2 weeks")},
		{"three weeks", "[STORE_LOG]\nexpire_messages_days = 3w\n", none},
		{"a month", "[STORE_LOG]\nexpire_messages_days = 30\n", change("Messages expire after", "1 month")},
		{"months and days", "[STORE_LOG]\nexpire_messages_days = 61\n", change("Messages expire after", "2 months 1 day")},
		{"hours and less", "[STORE_LOG]\nexpire_messages_days = 36h1m5s\n", change("Messages expire after", "1 day 12 hours 1 min 5 sec")},
		{"everything", informationINI, change(
			"Version", "v1.2.3, commit "+link("https://code.example/smpq/commit/0123456789abcdef", "0123456"),
			"Source code", link("https://code.example/smpq", "https://code.example/smpq"),
			"Web site", "javascript:alert(1)",
			"Conditions of use", link("https://router.example/terms", "https://router.example/terms"),
			"Amendments", link("https://router.example/more", "https://router.example/more"),
			"Operator", "Example &lt;&amp; Co&gt; (DE)",
			"Administrator", "<span>"+link(address, "SimpleX address")+`</span><span><a href="mailto:admin@router.example">admin@router.example</a></span>`+
				"<span>PGP key: "+link("https://router.example/key", "0123 4567")+"</span>",
			"Complaints", "<span>javascript:alert(2)</span>",
			"Hosting provider", "Racks (FI)", "Hosting type", "Dedicated", "Country of the router", "SE",
		)},
	} {
		s := start(t, parse(t, c.ini))
		_, page := s.browsers(t)[0].ask(t, http.MethodGet, "/", nil)
		if diff := cmp.Diff(c.want, rows(page)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if !strings.Contains(page, `<meta http-equiv="onion-location" content="http://`+onion+`">`) {
			t.Errorf("%s: the onion address is not named", c.name)
		}
		if strings.Contains(page, "secret-password") {
			t.Errorf("%s: the password is on the page", c.name)
		}
	}
}

// The same is there as JSON.
func TestInformation(t *testing.T) {
	for ini, want := range map[string]string{
		"": `{"version":"v1.2.3","commit":"0123456789abcdef","config":{"persistence":"messages","messageExpiration":1814400,"statsEnabled":false,"newQueuesAllowed":true,"basicAuthEnabled":false}}`,
		informationINI: `{"version":"v1.2.3","commit":"0123456789abcdef","config":{"persistence":"messages","messageExpiration":1814400,"statsEnabled":false,"newQueuesAllowed":true,"basicAuthEnabled":false},` +
			`"information":{"sourceCode":"https://code.example/smpq","usageConditions":{"conditions":"https://router.example/terms","amendments":"https://router.example/more"},` +
			`"operator":{"name":"Example <& Co>","country":"DE"},"website":"javascript:alert(1)",` +
			`"adminContacts":{"simplex":"` + address + `","email":"admin@router.example","pgp":{"pkURI":"https://router.example/key","pkFingerprint":"0123 4567"}},` +
			`"complaintsContacts":{"simplex":"javascript:alert(2)"},"hosting":{"name":"Racks","country":"FI"},"hostingType":"dedicated","serverCountry":"SE"}}`,
	} {
		_, got := start(t, parse(t, ini)).browsers(t)[0].ask(t, http.MethodGet, "/info.json", nil)
		var a, b any
		must(t, errors.Join(json.Unmarshal([]byte(got), &a), json.Unmarshal([]byte(want), &b)))
		if diff := cmp.Diff(b, a); diff != "" {
			t.Errorf("info.json (-want +got):\n%s", diff)
		}
	}
}

// Pages load nothing from elsewhere, and have no scripts and styles in them: the
// policy forbids both.
func TestSelfContained(t *testing.T) {
	s := start(t, parse(t, informationINI))
	loads := regexp.MustCompile(`<(?:script|img|link|iframe|source|object|embed)\b[^>]*?(?:src|href|data)="([^"]*)"`)
	b := s.browsers(t)[0]
	for _, path := range []string{"/", "/a"} {
		_, page := b.ask(t, http.MethodGet, path, nil)
		found := loads.FindAllStringSubmatch(page, -1)
		if len(found) < 3 {
			t.Errorf("%s loads %v only", path, found)
		}
		for _, m := range found {
			if response, _ := b.ask(t, http.MethodGet, m[1], nil); response.StatusCode != http.StatusOK {
				t.Errorf("%s loads %s: %s", path, m[1], response.Status)
			}
		}
		if regexp.MustCompile(`<style|\bstyle=|<script>|\bon[a-z]+="|(?i)javascript:a[^l]`).MatchString(page) {
			t.Errorf("%s has styles or scripts in it", path)
		}
	}
	must(t, filepath.WalkDir(filepath.Join(s.folder, "media"), func(name string, _ fs.DirEntry, err error) error {
		text, _ := os.ReadFile(name)
		if regexp.MustCompile(`fetch\(|XMLHttpRequest|sendBeacon|url\(|@import|import\(|WebSocket`).Match(text) {
			t.Errorf("%s could send something", name)
		}
		return err
	}))
}

// A start writes the files that others may serve as well. Those that are the same
// are left alone, others are replaced.
func TestWrite(t *testing.T) {
	s := start(t, parse(t, ""))
	old := time.Now().Add(-time.Hour).Truncate(time.Second)
	for _, name := range []string{"index.html", "a/index.html"} {
		must(t, os.Chtimes(filepath.Join(s.folder, name), old, old))
	}
	must(t, os.WriteFile(filepath.Join(s.folder, "index.html"), []byte("old"), 0o600))
	c := parse(t, "")
	c.Web.StaticPath = s.folder
	again, err := web.New(c, web.Build{Version: "v2"}, discard)
	must(t, err)
	_, err = again.Start(t.Context(), nil)
	must(t, err)
	must(t, again.Shutdown(t.Context()))
	page, err := os.ReadFile(filepath.Join(s.folder, "index.html"))
	must(t, err)
	if !strings.Contains(string(page), "<dd>v2</dd>") {
		t.Errorf("index.html is %s", page)
	}
	info, err := os.Stat(filepath.Join(s.folder, "a/index.html"))
	must(t, err)
	if !info.ModTime().Equal(old) || info.Mode().Perm() != 0o644 {
		t.Errorf("a/index.html: %v, %v", info.ModTime(), info.Mode())
	}
	var names []string
	must(t, filepath.WalkDir(s.folder, func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(s.folder, name)
			names = append(names, rel)
		}
		return err
	}))
	if diff := cmp.Diff([]string{
		"a/index.html", "c/index.html", "contact/index.html", "g/index.html", "i/index.html", "index.html", "info.json", "invitation/index.html",
		"media/address.js", "media/icon.svg", "media/link.js", "media/qr.js", "media/style.css", "r/index.html",
		"well-known/apple-app-site-association", "well-known/assetlinks.json",
	}, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	c.Web.StaticPath = filepath.Join(s.folder, "index.html")
	broken, err := web.New(c, web.Build{}, discard)
	must(t, err)
	if _, err := broken.Start(t.Context(), nil); err == nil || !strings.Contains(err.Error(), c.Web.StaticPath) {
		t.Errorf("a file in the place of the folder: %v", err)
	}
}

// A certificate for HTTPS has an RSA key of at least 4096 bits, and the key is there.
//
// conformance: 171
func TestCertificate(t *testing.T) {
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	weakCert, weakKey := certificate(t, rsa2048, &rsa2048.PublicKey)
	curveCert, curveKey := certificate(t, p256, &p256.PublicKey)
	garbage := filepath.Join(t.TempDir(), "garbage")
	must(t, os.WriteFile(garbage, []byte("SECRET"), 0o600))
	for _, c := range []struct {
		name, cert, key, want string
		is                    error
	}{
		{"RSA, 4096 bits", certFile, keyFile, "", nil},
		{"RSA, 2048 bits", weakCert, weakKey, "certbot", web.ErrKey},
		{"ECDSA", curveCert, curveKey, "certbot", web.ErrKey},
		{"no certificate", "nosuch.crt", keyFile, "nosuch.crt", fs.ErrNotExist},
		{"no key", certFile, "nosuch.key", "nosuch.key", fs.ErrNotExist},
		{"neither", "nosuch.crt", "nosuch.key", "nosuch.crt: no such file or directory\nstat nosuch.key", fs.ErrNotExist},
		{"another key", certFile, weakKey, weakKey, nil},
		{"not a certificate", garbage, keyFile, garbage, nil},
		{"not a key", certFile, garbage, garbage, nil},
	} {
		r := parse(t, "")
		r.Web.StaticPath, r.Web.HTTPS, r.Web.Cert, r.Web.Key = filepath.Join(t.TempDir(), "www"), 443, c.cert, c.key
		_, err := web.New(r, web.Build{}, discard)
		switch {
		case c.want == "" && c.is == nil:
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		case err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "SECRET"):
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A certificate that was renewed is used from the moment in which it is read. If it
// is no good, the one before stays.
func TestReload(t *testing.T) {
	private, err := tls.LoadX509KeyPair(certFile, keyFile)
	must(t, err)
	key, ok := private.PrivateKey.(*rsa.PrivateKey)
	if !ok {
		t.Fatalf("the key is a %T", private.PrivateKey)
	}
	cert, keyName := certificate(t, key, &key.PublicKey)
	c := parse(t, "")
	c.Web.Cert, c.Web.Key = cert, keyName
	s := start(t, c)
	serial := func() int64 {
		d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, ServerName: host}}
		conn, err := d.DialContext(t.Context(), "tcp", s.https)
		must(t, err)
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	before := serial()
	renewed, _ := certificate(t, key, &key.PublicKey)
	must(t, os.Rename(renewed, cert))
	if got := serial(); got != before {
		t.Errorf("the certificate is %d before it was read again, was %d", got, before)
	}
	must(t, s.Reload())
	after := serial()
	if after == before {
		t.Error("the certificate is the old one")
	}
	must(t, os.WriteFile(cert, []byte("garbage"), 0o600))
	if err := s.Reload(); err == nil || !strings.Contains(err.Error(), cert) {
		t.Errorf("garbage: %v", err)
	}
	if got := serial(); got != after {
		t.Errorf("the certificate is %d, was %d", got, after)
	}
}

// certificate makes the files of a certificate.
func certificate(t *testing.T, key, public any) (certName, keyName string) {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(t, err)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	folder := t.TempDir()
	certName, keyName = filepath.Join(folder, "web.crt"), filepath.Join(folder, "web.key")
	must(t, os.WriteFile(certName, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(t, os.WriteFile(keyName, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	return certName, keyName
}

// Without a folder there are no pages, and no certificate is needed.
func TestNone(t *testing.T) {
	c := parse(t, "")
	c.Web.HTTPS, c.Web.Cert, c.Web.Key = 443, "nosuch.crt", "nosuch.key"
	s, err := web.New(c, web.Build{}, discard)
	must(t, err)
	must(t, s.Reload())
	listeners, err := s.Start(t.Context(), nil)
	if err != nil || len(listeners) > 0 {
		t.Errorf("Start: %v, %v", listeners, err)
	}
	must(t, s.Shutdown(t.Context()))
}

// The server ends TLS as browsers do it: with any protocol or none by ALPN.
func TestProtocols(t *testing.T) {
	s := start(t, parse(t, ""))
	for _, c := range []struct {
		offer []string
		want  string
	}{
		{nil, ""},
		{[]string{"h2", "http/1.1"}, "h2"},
		{[]string{"http/1.1"}, "http/1.1"},
		{[]string{"smp/1"}, ""},
		{[]string{"smp/1", "http/1.1"}, "http/1.1"},
		{[]string{"other"}, ""},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, ServerName: host, NextProtos: c.offer, MaxVersion: version}}
			conn, err := d.DialContext(t.Context(), "tcp", s.https)
			if err != nil {
				t.Errorf("offering %v: %v", c.offer, err)
				continue
			}
			if got := conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; got != c.want {
				t.Errorf("offering %v: %q, want %q", c.offer, got, c.want)
			}
			must(t, conn.Close())
		}
	}
	names := []string{}
	for _, b := range s.browsers(t) {
		response, _ := b.ask(t, http.MethodGet, "/", nil)
		names = append(names, response.Proto)
	}
	if !slices.Equal(names, []string{"HTTP/1.1", "HTTP/1.1", "HTTP/2.0"}) {
		t.Errorf("the browsers use %v", names)
	}
}
