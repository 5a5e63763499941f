package transport

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"path/filepath"
	"testing"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// The vectors were computed by another implementation from these.
const (
	vectorSession   = "101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f"
	vectorIdentity  = "076aa96faa21d368b02e61aa5e730cf5b57e6e76a00e8f9f76235ba0760a0132"
	vectorClientKey = "302a300506032b656e032100358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254"
	vectorCA        = "3081dd308190a003020102020101300506032b6570300d310b300906035504030c0243413020170d3235303130313030303030305a180f32313235303130313030303030305a300d310b300906035504030c024341302a300506032b657003210079b5562e8fe654f94078b112e8a98ba7901f853ae695bed7e0e3910bad049664a3133011300f0603551d130101ff040530030101ff300506032b657003410086527344d6c115cfc37c43317bb71a8ec012eb1e346651bb8772647824b009d6b64db87a683f930a78ca2cc2f9dbdabee0af9b38f6f9de77d6f945d5d28e480a"
	vectorLeaf      = "3081e1308194a003020102020101300506032b6570300d310b300906035504030c0243413020170d3235303130313030303030305a180f32313235303130313030303030305a30143112301006035504030c096c6f63616c686f7374302a300506032b657003210013d9908a70925992ed546007d27f50da68ba7217ef62ac3cca784529ff10471ca310300e300c0603551d130101ff04023000300506032b6570034100cfa64372f5ba9524ccfed2048d90134354b34d44a15ba3a61cc19066433a985973dd7328ae115b1a662e9e57f0c813114c15515714616e64e045a0230fc3880a"
	vectorSigned    = "3078302c302a300506032b656e0321008f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f300506032b6570034100158a944521e521ee76276f649b8b708ecc9e126bfd5085605a6d1a4c7d62efeabf30c3c0bbdc6801934003c166ae2803dcf0868df78d8944d3e14bb9b3b9ea09"
	vectorService   = "3078302c302a300506032b6570032100dde3bccec7f3a66a1115f45d720f4dc135c3ae7c4e22dca38fdb1efd6a495ff8300506032b6570034100747216ab38e40028a160c37dea955f4153c7fd15bcda4a0e41585ba17c35368c23fd2cd9fc4f8bab8aeebbb01acdad9b8f13f92b13091ec913d51ec7a5c59709"
)

func vectorChain(t testing.TB) [][]byte {
	t.Helper()
	return [][]byte{unhex(t, vectorLeaf), unhex(t, vectorCA)}
}

func TestRouterHelloVectors(t *testing.T) {
	key := smp.SignedKey{Chain: vectorChain(t), Key: unhex(t, vectorSigned)}
	for _, c := range []struct {
		hello routerHello
		want  string
		block string // its SHA-256
	}{
		{
			routerHello{versions: smp.VersionRange{Min: 6, Max: 19}, session: short(t, unhex(t, vectorSession)), key: &key},
			"0006001320" + vectorSession + "02" + "00e4" + vectorLeaf + "00e0" + vectorCA + "007a" + vectorSigned,
			"bbbfb6a3885c0b439a0b676835c7b3bc5e504ea4e424f9638198f861c22467c4",
		},
		{
			routerHello{versions: smp.VersionRange{Min: 6, Max: 6}, session: short(t, unhex(t, vectorSession))},
			"0006000620" + vectorSession,
			"d880be0f3857d86e4d6211d0da8295e955f5e0bf66b3403ea3cb5667d2c60165",
		},
	} {
		got := c.hello.encode()
		if hex.EncodeToString(got) != c.want {
			t.Errorf("versions %s: got\n%x, want\n%s", c.hello.versions, got, c.want)
		}
		ours, theirs := loopback(t)
		if err := sendBlock(ours, nil, got, BlockTimeout); err != nil {
			t.Fatal(err)
		}
		block := make([]byte, smp.BlockSize)
		if _, err := io.ReadFull(theirs, block); err != nil {
			t.Fatal(err)
		}
		_ = ours.Close()
		_ = theirs.Close()
		if sum := sha256.Sum256(block); hex.EncodeToString(sum[:]) != c.block {
			t.Errorf("versions %s: got a block with the hash %x, want %s", c.hello.versions, sum, c.block)
		}
	}
}

func TestClientHelloVectors(t *testing.T) {
	key, err := smp.ParsePublicKey(unhex(t, vectorClientKey))
	if err != nil {
		t.Fatal(err)
	}
	service := &serviceHello{role: queue.RoleNotifier, key: smp.SignedKey{Chain: vectorChain(t), Key: unhex(t, vectorService)}}
	for _, c := range []struct {
		hello clientHello
		want  string
	}{
		{clientHello{version: 6}, "0006" + "20" + vectorIdentity},
		{clientHello{version: 7, key: key}, "0007" + "20" + vectorIdentity + "2c" + vectorClientKey},
		{clientHello{version: 7}, "0007" + "20" + vectorIdentity},
		{clientHello{version: 11, key: key}, "000b" + "20" + vectorIdentity + "2c" + vectorClientKey},
		{clientHello{version: 14, key: key}, "000e" + "20" + vectorIdentity + "2c" + vectorClientKey + "46"},
		{clientHello{version: 14, key: key, proxy: true}, "000e" + "20" + vectorIdentity + "2c" + vectorClientKey + "54"},
		{clientHello{version: 15}, "000f" + "20" + vectorIdentity + "46"},
		{clientHello{version: 16, key: key}, "0010" + "20" + vectorIdentity + "2c" + vectorClientKey + "46" + "30"},
		{clientHello{version: 19, key: key}, "0013" + "20" + vectorIdentity + "2c" + vectorClientKey + "46" + "30"},
		{
			clientHello{version: 19, key: key, service: service},
			"0013" + "20" + vectorIdentity + "2c" + vectorClientKey + "46" + "31" + "4e" + "02" + "00e4" + vectorLeaf + "00e0" + vectorCA + "007a" + vectorService,
		},
	} {
		c.hello.router = unhex(t, vectorIdentity)
		got := c.hello.encode()
		if hex.EncodeToString(got) != c.want {
			t.Errorf("version %d: got\n%x, want\n%s", c.hello.version, got, c.want)
		}
		parsed, err := parseClientHello(append(got, "of the future"...))
		if err != nil || !bytes.Equal(parsed.encode(), got) {
			t.Errorf("version %d: parsed as %+v, %v", c.hello.version, parsed, err)
		}
	}
	sum := sha256.Sum256((&clientHello{version: 19, router: unhex(t, vectorIdentity), key: key, service: service}).encode())
	if want := "31ff94c7e204d117ca3c279e4e1cc3e805737f0303f83ba2f981a09fc0faad76"; hex.EncodeToString(sum[:]) != want {
		t.Errorf("service: got the hash %x, want %s", sum, want)
	}
}

func TestServiceReplyVectors(t *testing.T) {
	for _, c := range []struct {
		reply serviceReply
		want  string
	}{
		{serviceReply{id: short(t, unhex(t, "d0d1d2d3d4d5d6d7d8d9dadbdcdddedfe0e1e2e3e4e5e6e7"))}, "5218d0d1d2d3d4d5d6d7d8d9dadbdcdddedfe0e1e2e3e4e5e6e7"},
		{serviceReply{refused: smp.ErrHandshakeBadService}, "4548414e445348414b45204241445f53455256494345"},
	} {
		got := c.reply.encode()
		if hex.EncodeToString(got) != c.want {
			t.Errorf("got %x, want %s", got, c.want)
		}
		parsed, err := parseServiceReply(got)
		if err != nil || !parsed.id.Equal(c.reply.id) || !errors.Is(parsed.refused, c.reply.refused) {
			t.Errorf("%x: parsed as %+v, %v", got, parsed, err)
		}
	}
}

// The handshakes of real clients and routers parse, come out as they were, and
// their keys are signed.
func TestTranscriptHandshakes(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(transcripts, "*.jsonl.gz"))
	if err != nil || len(files) == 0 {
		t.Fatalf("found no transcripts: %v", err)
	}
	services := 0
	for _, file := range files {
		step := make(map[string]int)
		for _, e := range readEvents(t, file) {
			name := filepath.Base(file)
			if e.Kind != "get" && e.Kind != "put" {
				continue
			}
			session := e.Role + string(e.Session)
			step[session]++
			switch step[session] {
			case 1:
				h, err := parseRouterHello(e.Plain)
				if err != nil || !bytes.Equal(h.encode(), e.Plain) || !h.session.Equal(short(t, e.Session)) {
					t.Errorf("%s, event %d: %+v, %v", name, e.N, h, err)
				}
			case 2:
				h, err := parseClientHello(e.Plain)
				if err != nil || !bytes.Equal(h.encode(), e.Plain) {
					t.Errorf("%s, event %d: %+v, %v", name, e.N, h, err)
				}
				if h.service == nil {
					delete(step, session)
					step[session] = 3
				}
			case 3:
				services++
				h, err := parseServiceReply(e.Plain)
				if err != nil || !bytes.Equal(h.encode(), e.Plain) {
					t.Errorf("%s, event %d: %+v, %v", name, e.N, h, err)
				}
			}
		}
	}
	if services < 3 {
		t.Errorf("only %d replies to services", services)
	}
}

func seeds(f *testing.F) {
	f.Helper()
	for _, name := range []string{"tls13-raw", "tls13-raw-service", "tls13-raw-sni", "v18-service-wrong-role"} {
		n := 0
		for _, e := range readEvents(f, filepath.Join(transcripts, name+".jsonl.gz")) {
			if e.Kind == "get" || e.Kind == "put" {
				f.Add([]byte(e.Plain))
				if n++; n == 9 {
					break
				}
			}
		}
	}
}

// What parses comes out as it went in, up to what follows the known fields.
func FuzzRouterHello(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := parseRouterHello(in)
		if err != nil {
			return
		}
		if out := h.encode(); !bytes.HasPrefix(in, out) {
			t.Errorf("%x re-encoded as %x", in, out)
		}
	})
}

// What parses comes out as it went in, up to what follows the known fields.
func FuzzClientHello(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := parseClientHello(in)
		if err != nil {
			return
		}
		if out := h.encode(); !bytes.HasPrefix(in, out) {
			t.Errorf("%x re-encoded as %x", in, out)
		}
	})
}

// What parses comes out as it went in, up to what follows the known fields.
func FuzzServiceReply(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := parseServiceReply(in)
		if err != nil {
			return
		}
		if out := h.encode(); !bytes.HasPrefix(in, out) {
			t.Errorf("%x re-encoded as %x", in, out)
		}
	})
}

// Whatever a client sends, finding its Finished message ends.
func FuzzClientFinished(f *testing.F) {
	secret := make([]byte, 32)
	f.Add([]byte{22, 3, 3, 0, 1, 0, 23, 3, 3, 0, 1, 0}, []byte("\x14\x00\x00\x04abcd"))
	f.Add([]byte{20, 3, 3, 0, 1, 1}, []byte("\x0b\x00\x00\x04\x00\x00\x00\x00\x14\x00\x00\x01a"))
	f.Fuzz(func(t *testing.T, before, messages []byte) {
		_, _ = clientFinished(0x1303, secret, before)
		if len(messages) > smp.BlockSize {
			return
		}
		sealed := record(recordEncrypted, sealRecord(t, 0x1303, secret, 0, messages))
		got, err := clientFinished(0x1303, secret, sealed)
		if err == nil && !bytes.Contains(messages, got) {
			t.Errorf("%x: got %x", messages, got)
		}
	})
}

// Whatever a router answers, looking for its certificate ends.
func FuzzLeafCertificate(f *testing.F) {
	f.Add(serverFlight(f)[recordHeader:])
	f.Fuzz(func(t *testing.T, in []byte) {
		cert, ok := leafCertificate(in)
		if ok && !bytes.Contains(in, cert) {
			t.Errorf("%x: got %x", in, cert)
		}
	})
}
