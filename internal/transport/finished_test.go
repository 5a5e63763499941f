package transport

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	_ "unsafe" // for linkname

	"golang.org/x/crypto/chacha20poly1305"
)

// Records of the client's side of real handshakes with OpenSSL, of all three
// suites.
func TestClientFinishedVectors(t *testing.T) {
	for _, c := range []struct {
		name          string
		suite         uint16
		secret        string
		first, second string // records
		want          string
	}{
		{
			"TLS_CHACHA20_POLY1305_SHA256", tls.TLS_CHACHA20_POLY1305_SHA256,
			"c84ffef396afdb905c73f3890d85db5cc1e403435d6790833fb634935b76a6c7",
			"550aed5b2d4f143b4b31dd8fe0e0bdbb8fc6352d98e904ef80",
			"c941de2e18b8b27dfac43a7a0479da441c5796c1a390e7e11f5ead7cac4dc92b7cbd30f7a40b57e9af0a3e127c8f20b88010f9482c",
			"60344072a25f1e9a00bb22cf508aae9da0dd3e5a25f9240477debc42779dfb3c",
		},
		{
			"TLS_AES_128_GCM_SHA256", tls.TLS_AES_128_GCM_SHA256,
			"f1af3abeade647e6c413e8beaa73b4c7090060deec2724a5b073a630b15f3d5a", "",
			"43f812240ace089b61e038e56f483cf40593b5fd627c760e3fb2f521e9543b4c4ee235676cfcd1891b0b5686a267acb7cb11d23f56",
			"4406db68596b579941a38fab709dc488cfeda05d6578140bf03cce503f51d95d",
		},
		{
			"TLS_AES_256_GCM_SHA384", tls.TLS_AES_256_GCM_SHA384,
			"fd9bc0718ae366b4cc140930dedb8fc9e9e45ff751827a5f2fab9a096fd971f71ad9c89435c2db3e7ee7ccab0a41df0f", "",
			"bb4eff16a913266bd798dbec4e707ed929c19847127ab26c3787282d22e56d07a3226c36b87e5dcf136510d84bb7e503fa15a1a4536e2a15c0eb5007616fd7f3732380c725",
			"7dad747c22fdb7d67d93ab82b0e149b1c6cb367da662eb055f21b0dbdc1dd6b211dbca9f162776ae623d4e33092e1d65",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			secret := unhex(t, c.secret)
			first := unhex(t, c.first)
			if c.first == "" {
				// The first record was not kept: an empty Certificate message.
				first = sealRecord(t, c.suite, secret, 0, unhex(t, "0b00000400000000"))
			} else if again := sealRecord(t, c.suite, secret, 0, unhex(t, "0b00000400000000")); !bytes.Equal(again, first) {
				t.Errorf("the first record was sealed again as %x", again)
			}
			flight := slices.Concat(
				record(22, unhex(t, "010000")), record(20, []byte{1}), record(22, unhex(t, "010000")),
				record(23, first), record(23, unhex(t, c.second)), record(23, []byte("application data")),
			)
			got, err := clientFinished(c.suite, secret, flight)
			if err != nil || !bytes.Equal(got, unhex(t, c.want)) {
				t.Errorf("got %x, %v, want %s", got, err, c.want)
			}
			end := bytes.Index(flight, []byte("application data")) - recordHeader
			for n := range end {
				if got, err := clientFinished(c.suite, secret, flight[:n]); err == nil {
					t.Fatalf("cut to %d of %d bytes: got %x", n, end, got)
				}
			}
		})
	}
	if _, err := clientFinished(0x1305, nil, nil); err == nil {
		t.Error("an unknown suite was accepted")
	}
}

func record(kind byte, body []byte) []byte {
	return append([]byte{kind, 3, 3, byte(len(body) >> 8), byte(len(body))}, body...)
}

func sealRecord(t testing.TB, suite uint16, secret []byte, seq byte, message []byte) []byte {
	t.Helper()
	aead, iv, err := recordKeys(suite, secret)
	if err != nil {
		t.Fatal(err)
	}
	nonce := bytes.Clone(iv)
	nonce[len(nonce)-1] ^= seq
	plain := append(bytes.Clone(message), recordHandshake)
	size := len(plain) + aead.Overhead()
	return aead.Seal(nil, nonce, plain, []byte{23, 3, 3, byte(size >> 8), byte(size)})
}

// A capture is what went over the network in a connection of the real client to
// the real router.
type capture struct {
	Chunks []struct {
		Direction string `json:"dir"`
		Hex       string `json:"hex"`
	} `json:"chunks"`
}

const transcripts = "../../testdata/smp-server-6.5.5/7-wire"

// The recorded bytes of real connections give the session identifiers that both
// real ends computed.
func TestCapturedSessionIDs(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(transcripts, "*.raw.json.gz"))
	if err != nil || len(files) < 4 {
		t.Fatalf("found %d captures, %v", len(files), err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".raw.json.gz")
		t.Run(name, func(t *testing.T) {
			var c capture
			if err := json.NewDecoder(gunzip(t, file)).Decode(&c); err != nil {
				t.Fatal(err)
			}
			var fromClient, fromRouter []byte
			for _, chunk := range c.Chunks {
				b := unhex(t, chunk.Hex)
				if chunk.Direction == "client_to_server" {
					fromClient = append(fromClient, b...)
				} else {
					fromRouter = append(fromRouter, b...)
				}
			}
			var keys keyLog
			var masterSecret, want []byte
			for _, e := range readEvents(t, filepath.Join(transcripts, name+".jsonl.gz")) {
				switch e.Kind {
				case "tls_keylog":
					if _, err := keys.Write([]byte(e.Line)); err != nil {
						t.Fatal(err)
					}
					if f := strings.Fields(e.Line); f[0] == "CLIENT_RANDOM" {
						masterSecret = unhex(t, f[2])
					}
				case "tls_connected":
					want = e.Session
				}
			}
			var got []byte
			if masterSecret != nil {
				got = clientFinishedTLS12(t, masterSecret, fromClient, fromRouter)
			} else if got, err = clientFinished(tls.TLS_CHACHA20_POLY1305_SHA256, keys.secret, fromClient); err != nil {
				t.Fatal(err)
			}
			if len(want) == 0 || !bytes.Equal(got, want) {
				t.Errorf("got the session identifier %x, want %x", got, want)
			}
		})
	}
}

// clientFinishedTLS12 is clientFinished for TLS 1.2, which the standard library
// makes superfluous outside of tests.
func clientFinishedTLS12(t *testing.T, masterSecret, fromClient, fromRouter []byte) []byte {
	t.Helper()
	random := func(flight []byte) []byte { return flight[recordHeader+handshakeMessage+2:][:32] }
	seed := slices.Concat([]byte("key expansion"), random(fromRouter), random(fromClient))
	hash := func(parts ...[]byte) []byte {
		h := hmac.New(sha256.New, masterSecret)
		h.Write(slices.Concat(parts...))
		return h.Sum(nil)
	}
	var block []byte // RFC 5246, 5 and 6.3: both keys, then both IVs
	for a := seed; len(block) < 88; {
		a = hash(a)
		block = append(block, hash(a, seed)...)
	}
	aead, err := chacha20poly1305.New(block[:32])
	if err != nil {
		t.Fatal(err)
	}
	changed := false
	for len(fromClient) > 0 {
		size := int(fromClient[3])<<8 | int(fromClient[4])
		kind, body := fromClient[0], fromClient[recordHeader:recordHeader+size]
		fromClient = fromClient[recordHeader+size:]
		if kind == 20 {
			changed = true
		} else if changed {
			header := append(make([]byte, 8), kind, 3, 3, 0, byte(size-aead.Overhead()))
			plain, err := aead.Open(nil, block[64:76], body, header)
			if err != nil {
				t.Fatal(err)
			}
			return plain[handshakeMessage:]
		}
	}
	t.Fatal("no Finished message")
	return nil
}

func gunzip(t testing.TB, file string) *gzip.Reader {
	t.Helper()
	in, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// An event is a line of a transcript; see testdata/README.md.
type event struct {
	N       int      `json:"n"`
	Kind    string   `json:"ev"`
	Role    string   `json:"role"`
	Line    string   `json:"line"`
	Session hexBytes `json:"session"`
	Plain   hexBytes `json:"plain"`
	Wire    hexBytes `json:"wire"`

	Version    uint16     `json:"version"`
	SessionKey hexBytes   `json:"session_private_key_pkcs8"`
	PeerChain  []hexBytes `json:"peer_certs"`
}

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) error {
	*h = make([]byte, len(text)/2)
	_, err := hex.Decode(*h, text)
	return err
}

func readEvents(t testing.TB, file string) (events []event) {
	t.Helper()
	lines := bufio.NewScanner(gunzip(t, file))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return events
}

// The standard library lets nobody choose among the suites of TLS 1.3. These are
// its own lists, under its own lock of nothing: no other handshake may go on.
//
//go:linkname tls13Suites crypto/tls.defaultCipherSuitesTLS13
var tls13Suites []uint16

//go:linkname tls13SuitesNoAES crypto/tls.defaultCipherSuitesTLS13NoAES
var tls13SuitesNoAES []uint16

// Both ends have the same session identifier, however they came together, and
// the router's records show that the client decrypts its own.
func TestSessionID(t *testing.T) {
	own, service := credentials(t, "router"), credentials(t, "service")
	for _, suite := range []uint16{tls.TLS_CHACHA20_POLY1305_SHA256, tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256} {
		for _, retry := range []bool{false, true} {
			for _, clientCert := range []*Credentials{nil, &service} {
				name := tls.CipherSuiteName(suite)
				if retry {
					name += ",retry"
				}
				if clientCert != nil {
					name += ",certificate"
				}
				t.Run(name, func(t *testing.T) { testSessionID(t, suite, retry, &own, clientCert) })
			}
		}
	}
}

func testSessionID(t *testing.T, suite uint16, retry bool, own, clientCert *Credentials) {
	client, server := config(), config()
	client.InsecureSkipVerify = true
	server.ClientAuth = tls.RequestClientCert
	client.NextProtos, server.NextProtos = protocols[:1], protocols
	if retry {
		// The client sends a share of its first group, the router wants the other.
		client.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256}
		server.CurvePreferences = []tls.CurveID{tls.CurveP256}
	}
	wantSize := map[uint16]int{tls.TLS_AES_256_GCM_SHA384: 48, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: 12}[suite]
	if wantSize == 12 {
		client.MaxVersion = tls.VersionTLS12
	} else {
		defer func(a, b []uint16) { tls13Suites, tls13SuitesNoAES = a, b }(tls13Suites, tls13SuitesNoAES)
		tls13Suites, tls13SuitesNoAES = []uint16{suite}, []uint16{suite}
	}
	if wantSize == 0 {
		wantSize = 32
	}
	for c, cred := range map[*tls.Config]*Credentials{client: clientCert, server: own} {
		if err := setCredentials(c, cred); err != nil {
			t.Fatal(err)
		}
	}

	ours, theirs := loopback(t)
	type end struct {
		*Channel
		err error
	}
	accepted := make(chan end, 1)
	go func() {
		ch, err := serverTLS(context.Background(), theirs, server, func([][]byte) error { return nil })
		accepted <- end{ch, err}
	}()
	var seen [][]byte
	c, err := clientTLS(t.Context(), ours, client, func(chain [][]byte) error { seen = chain; return nil })
	s := <-accepted
	if err != nil || s.err != nil {
		t.Fatalf("client: %v; router: %v", err, s.err)
	}
	defer ours.Close()
	defer theirs.Close()
	if !c.SessionID.Equal(s.SessionID) || c.SessionID.Len() != wantSize {
		t.Errorf("the client has the session identifier %x, the router %x; want %d bytes", c.SessionID.Bytes(), s.SessionID.Bytes(), wantSize)
	}
	if c.CipherSuite != suite || c.Protocol != "smp/1" || c.TLSInfo != s.TLSInfo {
		t.Errorf("the client has %+v, the router %+v", c.TLSInfo, s.TLSInfo)
	}
	if retry != (c.Group == tls.CurveP256) {
		t.Errorf("got the group %v", c.Group)
	}
	if !slices.EqualFunc(seen, own.Chain, bytes.Equal) || !slices.EqualFunc(c.PeerChain, own.Chain, bytes.Equal) {
		t.Error("the client has not seen the router's certificates")
	}
	var want [][]byte
	if clientCert != nil {
		want = clientCert.Chain
	}
	if !slices.EqualFunc(s.PeerChain, want, bytes.Equal) {
		t.Errorf("the router has seen %d certificates of the client", len(s.PeerChain))
	}
}
