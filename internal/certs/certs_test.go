package certs_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/atomicfile"
	"github.com/smpq/smpq/internal/certs"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/transport"
)

const realData = "../../testdata/smp-server-6.5.5/5-operator/init"

// now is when the certificates of the real data are valid.
var now = time.Date(2026, 12, 24, 18, 0, 0, 123456000, time.UTC)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newRouter makes the files of a new router.
func newRouter(t testing.TB) (folder string, identity smp.Fingerprint) {
	t.Helper()
	folder = t.TempDir()
	files, identity, err := certs.New(folder, "smp.example.com", now)
	must(t, err)
	must(t, atomicfile.PlaceAll(files))
	return folder, identity
}

// realRouter copies the files of a router that smp-server made.
func realRouter(t testing.TB, name string) (folder string) {
	t.Helper()
	folder = t.TempDir()
	must(t, os.CopyFS(folder, os.DirFS(filepath.Join(realData, name))))
	for _, key := range []string{certs.KeyFile, certs.CAKeyFile} {
		must(t, os.Chmod(filepath.Join(folder, key), 0o600)) // as smp-server makes it
	}
	return folder
}

func read(t testing.TB, folder, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, name))
	must(t, err)
	return string(text)
}

func write(t testing.TB, folder, name, text string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600))
}

// contents returns the files of a folder with their mode and content.
func contents(t testing.TB, folder string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	entries, err := os.ReadDir(folder)
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		all[e.Name()] = fmt.Sprintf("%04o %s", info.Mode().Perm(), read(t, folder, e.Name()))
	}
	return all
}

// openssl runs OpenSSL in a folder and returns what it prints.
func openssl(t testing.TB, folder string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "openssl", args...)
	cmd.Dir = folder
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// changing matches what differs from one certificate to the other.
var changing = regexp.MustCompile(`[0-9a-fA-F]{2}(:[0-9a-fA-F]{2})+:?`)

// described returns what OpenSSL says of a certificate, without numbers and keys.
func described(t testing.TB, folder, name string) string {
	t.Helper()
	text := changing.ReplaceAllString(openssl(t, folder, "x509", "-in", name, "-noout", "-text", "-certopt", "no_validity"), "…")
	return regexp.MustCompile(`\n( *…)+(\n *…)*`).ReplaceAllString(text, "\n…")
}

// acceptedByOpenSSL checks certificates as OpenSSL does, also in a TLS connection
// to a router that has them.
func acceptedByOpenSSL(t testing.TB, folder string) {
	t.Helper()
	attime := strconv.FormatInt(now.Unix(), 10)
	if out := openssl(t, folder, "verify", "-attime", attime, "-purpose", "sslserver", "-CAfile", certs.CAFile, certs.CertificateFile); out != "server.crt: OK\n" {
		t.Errorf("openssl verify: %s", out)
	}
	loaded, err := certs.Load(folder, now)
	must(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var served sync.WaitGroup
	served.Go(func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		channel, err := transport.StandardTLS{}.Server(t.Context(), conn, []string{"smp/1"}, &loaded.Credentials, func([][]byte) error { return nil })
		if err != nil {
			t.Errorf("TLS of the router: %v", err)
			return
		}
		_ = channel.Close()
	})
	out := openssl(t, folder, "s_client", "-connect", listener.Addr().String(), "-alpn", "smp/1",
		"-attime", attime, "-CAfile", certs.CAFile, "-verify", "3", "-verify_return_error", "-noservername")
	must(t, listener.Close())
	served.Wait()
	if !strings.Contains(out, "Verification: OK\n") || !strings.Contains(strings.ToLower(out), "peer signature type: ed25519") {
		t.Errorf("openssl s_client: %s", out)
	}
}

// What is new is like what smp-server makes: files, permissions, certificates.
func TestNew(t *testing.T) {
	folder, identity := newRouter(t)
	acceptedByOpenSSL(t, folder)
	theirs := filepath.Join(realData, "fqdn-no-password", "cert")
	modes := make(map[string]string)
	for name, text := range contents(t, folder) {
		modes[name] = text[:4]
		if want := read(t, theirs, name); strings.Count(text, "\n") != strings.Count(want, "\n") {
			t.Errorf("%s has other lines than\n%s", name, want)
		}
	}
	if diff := cmp.Diff(map[string]string{"ca.key": "0600", "ca.crt": "0644", "server.key": "0600", "server.crt": "0644", "fingerprint": "0644"}, modes); diff != "" {
		t.Errorf("modes (-want +got):\n%s", diff)
	}
	for _, name := range []string{certs.CAFile, certs.CertificateFile} {
		if diff := cmp.Diff(described(t, theirs, name), described(t, folder, name)); diff != "" {
			t.Errorf("%s (-smp-server +smpq):\n%s", name, diff)
		}
		want := "notBefore=Dec 24 18:00:00 2026 GMT\nnotAfter=Nov 19 18:00:00 4764 GMT\n"
		if got := openssl(t, folder, "x509", "-in", name, "-noout", "-dates"); got != want {
			t.Errorf("%s is valid\n%s", name, got)
		}
	}
	if got := read(t, folder, certs.FingerprintFile); got != identity.String()+"\n" {
		t.Errorf("the fingerprint is %s, want %s", got, identity)
	}
	loaded, err := certs.Load(folder, now)
	must(t, err)
	if loaded.Identity != identity {
		t.Errorf("loaded %s, want %s", loaded.Identity, identity)
	}
	other, _ := newRouter(t)
	for name, text := range contents(t, other) {
		if text == contents(t, folder)[name] {
			t.Errorf("two routers have the same %s", name)
		}
	}
	for _, name := range []string{"", strings.Repeat("a", 65), "\xff"} {
		if _, _, err := certs.New(folder, name, now); err == nil {
			t.Errorf("the name %q is taken", name)
		}
	}
}

// A router that is there is not touched.
func TestNewExists(t *testing.T) {
	folder, _ := newRouter(t)
	before := contents(t, folder)
	files, _, err := certs.New(folder, "smp.example.com", now)
	must(t, err)
	if err := atomicfile.PlaceAll(files); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(before, contents(t, folder)); diff != "" {
		t.Errorf("-before +after:\n%s", diff)
	}
}

// The certificates of smp-server are loaded; an Ed448 one for connections is not.
func TestLoadReal(t *testing.T) {
	for _, name := range []string{"cert", "cert-after-cert-command"} {
		folder := realRouter(t, "fqdn-no-password/"+name)
		loaded, err := certs.Load(folder, now)
		must(t, err)
		if got := loaded.Identity.String(); got != "t6PYN6Ug1a4caNQwZJ9r3MtvXVF-FSJyzJvWM3szHUY=" {
			t.Errorf("identity %s", got)
		}
		want := []string{filepath.Join(folder, "ca.key") + " is on this machine: who gets it can pretend to be this router. Store it safely elsewhere, and delete it here"}
		if diff := cmp.Diff(want, loaded.Warnings); diff != "" {
			t.Errorf("warnings (-want +got):\n%s", diff)
		}
		acceptedByOpenSSL(t, folder)
		must(t, os.Remove(filepath.Join(folder, certs.CAKeyFile)))
		if loaded, err := certs.Load(folder, now); err != nil || loaded.Warnings != nil {
			t.Errorf("without ca.key: warnings %q, %v", loaded.Warnings, err)
		}
		_, err = transport.NewAcceptor(transport.AcceptorConfig{Credentials: loaded.Credentials})
		must(t, err)
	}
	_, err := certs.Load(realRouter(t, "ed448/cert"), now)
	const want = "load certificates: the certificate for connections cannot be used: it has an Ed448 key, which this program's TLS does not know"
	if !errors.Is(err, certs.ErrOnline) || err.Error() != want {
		t.Errorf("error %v", err)
	}
}

// A router with an Ed448 authority gets an Ed25519 certificate and stays who it is.
func TestRotate(t *testing.T) {
	for _, name := range []string{"ed448/cert", "ed448/cert-after-cert-command", "fqdn-no-password/cert"} {
		t.Run(name, func(t *testing.T) {
			folder := realRouter(t, name)
			identity := strings.TrimSpace(read(t, folder, certs.FingerprintFile))
			before := contents(t, folder)
			must(t, os.Chmod(filepath.Join(folder, certs.KeyFile), 0o640)) // somebody let a group read it
			rotated, err := certs.Rotate(folder, certs.RotateOptions{Now: now})
			must(t, err)
			if rotated.Identity.String() != identity || rotated.Name != "smp.example.com" {
				t.Errorf("rotated %+v, want the identity %s", rotated, identity)
			}
			acceptedByOpenSSL(t, folder)
			after := contents(t, folder)
			const suffix = ".2026-12-24T18:00:00.123456Z.bak"
			if want := []string{filepath.Join(folder, certs.KeyFile+suffix), filepath.Join(folder, certs.CertificateFile+suffix)}; !slices.Equal(rotated.Kept, want) {
				t.Errorf("kept %q, want %q", rotated.Kept, want)
			}
			if got, want := after[certs.KeyFile][:4], "0640"; got != want {
				t.Errorf("the mode of the new key is %s, want %s", got, want)
			}
			if after[certs.KeyFile+suffix][4:] != before[certs.KeyFile][4:] || after[certs.CertificateFile+suffix] != before[certs.CertificateFile] {
				t.Error("the old files are not kept as they were")
			}
			for _, same := range []string{certs.CAFile, certs.CAKeyFile, certs.FingerprintFile} {
				if before[same] != after[same] {
					t.Errorf("%s has changed", same)
				}
			}
			if len(after) != len(before)+2 || after[certs.KeyFile] == before[certs.KeyFile] || after[certs.CertificateFile] == before[certs.CertificateFile] {
				t.Errorf("there are %d files where there were %d", len(after), len(before))
			}
			serial := strings.TrimSpace(openssl(t, folder, "x509", "-in", certs.CertificateFile, "-noout", "-serial"))
			if want := fmt.Sprintf("%X", rotated.Serial); strings.TrimLeft(strings.TrimPrefix(serial, "serial="), "0") != want {
				t.Errorf("%s, want %s", serial, want)
			}
			// The online certificate is like that of an Ed25519 router but for its issuer.
			want := described(t, filepath.Join(realData, "fqdn-no-password", "cert"), certs.CertificateFile)
			got := described(t, folder, certs.CertificateFile)
			if strings.HasPrefix(name, "ed448") {
				got = strings.ReplaceAll(got, "Signature Algorithm: ED448", "Signature Algorithm: ED25519")
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-smp-server +smpq:\n%s", diff)
			}
		})
	}
}

// The authority may be another program's, its key elsewhere, the certificate new.
func TestRotateOpenSSLAuthority(t *testing.T) {
	folder, away := t.TempDir(), filepath.Join(t.TempDir(), "stick.key")
	openssl(t, folder, "req", "-x509", "-newkey", "ed448", "-noenc", "-keyout", away, "-out", certs.CAFile, "-days", "3650",
		"-subj", "/O=Somebody/CN=An authority", "-addext", "keyUsage=critical,keyCertSign")
	_, err := certs.Rotate(folder, certs.RotateOptions{CAKey: away, Now: now})
	if !errors.Is(err, certs.ErrName) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a name: %v", err)
	}
	clock := time.Now() // OpenSSL's certificate begins now
	rotated, err := certs.Rotate(folder, certs.RotateOptions{CAKey: away, Name: "other.example.com", Now: clock})
	must(t, err)
	if len(rotated.Kept) > 0 || len(contents(t, folder)) != 3 {
		t.Errorf("kept %q of nothing", rotated.Kept)
	}
	if got := contents(t, folder)[certs.KeyFile][:4]; got != "0600" {
		t.Errorf("the mode of the key is %s", got)
	}
	if out := openssl(t, folder, "verify", "-x509_strict", "-CAfile", certs.CAFile, certs.CertificateFile); out != "server.crt: OK\n" {
		t.Errorf("openssl verify: %s", out)
	}
	if got := openssl(t, folder, "x509", "-in", certs.CertificateFile, "-noout", "-subject"); !strings.Contains(got, "CN = other.example.com") && !strings.Contains(got, "CN=other.example.com") {
		t.Error(got)
	}
	write(t, folder, certs.FingerprintFile, rotated.Identity.String())
	_, err = certs.Load(folder, clock)
	must(t, err)
}

func TestRotateRefuses(t *testing.T) {
	other, _ := newRouter(t)
	for _, tt := range []struct {
		name   string
		spoil  func(folder string)
		reason string
	}{
		{"no key of the authority", func(f string) { must(t, os.Remove(filepath.Join(f, certs.CAKeyFile))) }, "no such file or directory: without the key of the authority there is no new certificate for this identity"},
		{"key of another authority", func(f string) { write(t, f, certs.CAKeyFile, read(t, other, certs.CAKeyFile)) }, "ca.key is not the key of"},
		{"another authority", func(f string) { write(t, f, certs.CAFile, read(t, other, certs.CAFile)) }, "the file fingerprint is of another router"},
		{"no authority", func(f string) { must(t, os.Remove(filepath.Join(f, certs.CAFile))) }, "no such file or directory"},
		{"two authorities", func(f string) { write(t, f, certs.CAFile, read(t, f, certs.CAFile)+read(t, other, certs.CAFile)) }, "ca.crt: it has 2 certificates, want one"},
		{"key in place of a certificate", func(f string) { write(t, f, certs.CAFile, read(t, f, certs.CAKeyFile)) }, `ca.crt: it has a "PRIVATE KEY", want a "CERTIFICATE" only`},
		{"chain in place of the certificate", func(f string) {
			write(t, f, certs.CertificateFile, read(t, f, certs.CertificateFile)+read(t, f, certs.CAFile))
		}, "server.crt: it has 2 certificates, want one"},
		{"nonsense", func(f string) { write(t, f, certs.CAKeyFile, "hunter2") }, `ca.key: not a PEM file with a "PRIVATE KEY"`},
		{"huge", func(f string) { write(t, f, certs.CAFile, strings.Repeat("\n", 1<<17)) }, "ca.crt: not a file of at most 65536 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			folder, _ := newRouter(t)
			tt.spoil(folder)
			before := contents(t, folder)
			_, err := certs.Rotate(folder, certs.RotateOptions{Now: now})
			if err == nil || !strings.Contains(err.Error(), tt.reason) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error %v\nwant %s", err, tt.reason)
			}
			if diff := cmp.Diff(before, contents(t, folder)); diff != "" {
				t.Errorf("-before +after:\n%s", diff)
			}
		})
	}
}

// What cannot be done leaves everything as it was.
func TestRotateFails(t *testing.T) {
	const suffix = ".2026-12-24T18:00:00.123456Z.bak"
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, folder string)
		want  error
	}{
		{"name for the old key is taken", func(t *testing.T, f string) { t.Helper(); write(t, f, certs.KeyFile+suffix, "x") }, fs.ErrExist},
		{"name for the old certificate is taken", func(t *testing.T, f string) { t.Helper(); write(t, f, certs.CertificateFile+suffix, "x") }, fs.ErrExist},
		{"another one works", func(t *testing.T, f string) {
			t.Helper()
			file, err := atomicfile.Create(filepath.Join(f, certs.CertificateFile))
			must(t, err)
			t.Cleanup(func() { must(t, file.Close()) })
		}, atomicfile.ErrLocked},
	} {
		t.Run(tt.name, func(t *testing.T) {
			folder, _ := newRouter(t)
			tt.spoil(t, folder)
			before := contents(t, folder)
			if _, err := certs.Rotate(folder, certs.RotateOptions{Now: now}); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if diff := cmp.Diff(before, contents(t, folder)); diff != "" {
				t.Errorf("-before +after:\n%s", diff)
			}
		})
	}
}

// A key that was replaced, although the certificate was not, is mended by the next
// one.
func TestRotateHalf(t *testing.T) {
	folder, identity := newRouter(t)
	other, _ := newRouter(t)
	write(t, folder, certs.KeyFile, read(t, other, certs.KeyFile))
	if _, err := certs.Load(folder, now); !errors.Is(err, certs.ErrOnline) || !strings.Contains(err.Error(), "server.key is not its key") {
		t.Errorf("error %v", err)
	}
	_, err := certs.Rotate(folder, certs.RotateOptions{Now: now})
	must(t, err)
	if loaded, err := certs.Load(folder, now); err != nil || loaded.Identity != identity {
		t.Errorf("loaded %s, %v", loaded.Identity, err)
	}
}

func TestInspect(t *testing.T) {
	for _, tt := range []struct {
		name     string
		spoil    func(t *testing.T, folder string)
		problems []string // regular expressions
		warnings []string // beside that of ca.key
		rotate   bool
	}{
		{name: "sound"},
		{
			name: "no certificates", rotate: true,
			spoil: func(t *testing.T, f string) {
				t.Helper()
				for _, name := range []string{certs.CAFile, certs.CertificateFile, certs.KeyFile, certs.FingerprintFile} {
					must(t, os.Remove(filepath.Join(f, name)))
				}
			},
			problems: []string{"ca.crt: no such file", "server.crt: no such file", "server.key: no such file"},
		},
		{
			name:     "no fingerprint",
			spoil:    func(t *testing.T, f string) { t.Helper(); must(t, os.Remove(filepath.Join(f, certs.FingerprintFile))) },
			problems: []string{"fingerprint: no such file"},
		},
		{
			name:     "wrong fingerprint",
			spoil:    func(t *testing.T, f string) { t.Helper(); write(t, f, certs.FingerprintFile, "AAAA\n") },
			problems: []string{"^the file fingerprint is of another router: ca.crt has been replaced: it is AAAA, of ca.crt it is "},
		},
		{
			name: "another authority", rotate: true,
			spoil: func(t *testing.T, f string) {
				t.Helper()
				other, identity := newRouter(t)
				write(t, f, certs.CAFile, read(t, other, certs.CAFile))
				write(t, f, certs.FingerprintFile, identity.String())
			},
			problems: []string{`^the certificate for connections cannot be used: the certificate chain does not hold: certificate 1 \(CN=smp.example.com\): x509: Ed25519 verification failure$`},
		},
		{
			name: "expired", rotate: true,
			spoil:    func(t *testing.T, f string) { t.Helper(); renew(t, f, now.AddDate(0, 0, -10), now.AddDate(0, 0, -1)) },
			problems: []string{`certificate 1 \(CN=smp.example.com\): expired on 2026-12-23 18:00:00$`},
		},
		{
			name:     "expires soon",
			spoil:    func(t *testing.T, f string) { t.Helper(); renew(t, f, now.AddDate(0, 0, -10), now.AddDate(0, 0, 20)) },
			warnings: []string{"^the certificate for connections expires on 2027-01-13 18:00:00: renew it with smpq cert rotate$"},
		},
		{
			name: "RSA", rotate: true,
			spoil: func(t *testing.T, f string) {
				t.Helper()
				openssl(t, f, "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-keyout", "rsa.key", "-out", certs.CertificateFile, "-subj", "/CN=rsa.example.com")
			},
			problems: []string{"it has an RSA key, want Ed25519$", "does not hold"},
		},
		{
			name: "open keys",
			spoil: func(t *testing.T, f string) {
				t.Helper()
				must(t, os.Chmod(filepath.Join(f, certs.KeyFile), 0o644))
				must(t, os.Chmod(filepath.Join(f, certs.CAKeyFile), 0o604))
			},
			warnings: []string{`ca.key is open to all users of this machine \(mode 0604\): chmod o= `, `server.key is open to all users of this machine \(mode 0644\): chmod o= `},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			folder, _ := newRouter(t)
			if tt.spoil != nil {
				tt.spoil(t, folder)
			}
			r, err := certs.Inspect(folder, now)
			match(t, "problems", r.Problems, tt.problems)
			match(t, "warnings", r.Warnings, append([]string{"ca.key is on this machine"}, tt.warnings...))
			if (err != nil) != (tt.problems != nil) || errors.Is(err, certs.ErrOnline) != tt.rotate || !r.CAKey || r.Folder != folder {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

func match(t *testing.T, what string, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %q, want %q", what, got, want)
	}
	for i, text := range got {
		if !regexp.MustCompile(want[i]).MatchString(text) {
			t.Errorf("%s: %s\nwant %s", what, text, want[i])
		}
	}
}

// renew gives a router a certificate that is valid at other times, made by the
// standard library.
func renew(t *testing.T, folder string, from, to time.Time) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(folder, certs.CAFile), filepath.Join(folder, certs.CAKeyFile))
	must(t, err)
	key, err := tls.LoadX509KeyPair(filepath.Join(folder, certs.CertificateFile), filepath.Join(folder, certs.KeyFile))
	must(t, err)
	cert := *key.Leaf
	cert.NotBefore, cert.NotAfter = from, to
	der, err := x509.CreateCertificate(nil, &cert, pair.Leaf, key.Leaf.PublicKey, pair.PrivateKey)
	must(t, err)
	var b bytes.Buffer
	must(t, pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, folder, certs.CertificateFile, b.String())
}
