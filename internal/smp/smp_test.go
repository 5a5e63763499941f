package smp

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var (
	_ encoding.TextMarshaler = EntityID{}
	_ encoding.TextMarshaler = PublicKey{}
	_ encoding.TextMarshaler = DHSecret{}
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBase64(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"aWprbA==", "ijkl"},
		{"aWprbA", "ijkl"},
		{"aWpr", "ijk"},
		{"-_-_", "\xfb\xff\xbf"},
	} {
		got, err := DecodeBase64([]byte(c.text))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: got %q, %v, want %q", c.text, got, err, c.want)
		}
	}
	for _, text := range []string{"", "=", "A", "ABCDE", "AB", "aWprbA=", "aWprbA===", "+/==", "aW pr", "aWpr\n", "aWpr====", "aWp=r"} {
		if got, err := DecodeBase64([]byte(text)); err == nil {
			t.Errorf("%q: got %q, want an error", text, got)
		}
	}
}

func TestBase64RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "bytes")
		text := AppendBase64(nil, b)
		if string(text) != base64.URLEncoding.EncodeToString(b) {
			t.Fatalf("%x was encoded as %s", b, text)
		}
		for _, form := range [][]byte{text, bytes.TrimRight(text, "=")} {
			got, err := DecodeBase64(form)
			if err != nil || !bytes.Equal(got, b) {
				t.Fatalf("%s: got %x, %v, want %x", form, got, err, b)
			}
		}
	})
}

// What decodes is the only decoding of its bytes, padding aside.
func FuzzDecodeBase64(f *testing.F) {
	for _, s := range []string{"aWprbA==", "AB", "aWprbA=", "-_-_", "+/"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := DecodeBase64(text)
		if err != nil {
			return
		}
		want := AppendBase64(nil, b)
		if !bytes.Equal(text, want) && !bytes.Equal(text, bytes.TrimRight(want, "=")) {
			t.Errorf("%q decodes to %x, which is %s", text, b, want)
		}
	})
}

func TestPublicKeys(t *testing.T) {
	for _, c := range []struct {
		algorithm Algorithm
		der       string
		text      string
	}{
		{Ed25519, "302a300506032b65700321008a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c", "MCowBQYDK2VwAyEAiojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w="},
		{X25519, "302a300506032b656e0321005dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3ef22", "MCowBQYDK2VuAyEAXf7dO2vUf2-ijuFdlp1bsOpTd01Ii9r53xxuASSz7yI="},
		{Ed448, "3043300506032b6571033a00f4c0eecfc7f17d960823180420fb8074d882317a39a719480d3ba6e7f565fc518a4ff54ef7dca5df5de9bb3740384c84ecac265c81398c3400", "MEMwBQYDK2VxAzoA9MDuz8fxfZYIIxgEIPuAdNiCMXo5pxlIDTum5_Vl_FGKT_VO99yl313puzdAOEyE7KwmXIE5jDQA"},
		{X448, "3042300506032b656f033900" + strings.Repeat("07", 56), ""},
	} {
		der := unhex(t, c.der)
		k, err := ParsePublicKey(der)
		if err != nil {
			t.Errorf("%s: %v", c.algorithm, err)
			continue
		}
		if k.Algorithm() != c.algorithm || !bytes.Equal(k.Append(nil), der) || k.Size() != len(der) {
			t.Errorf("%s: got %s, %x", c.algorithm, k.Algorithm(), k.Append(nil))
		}
		if c.text != "" && k.String() != c.text {
			t.Errorf("%s: got %s, want %s", c.algorithm, k, c.text)
		}
		if _, err := ParseAuthKey(der); (err != nil) != (c.algorithm == X448) {
			t.Errorf("%s as a key that authorizes: %v", c.algorithm, err)
		}
		for name, bad := range map[string][]byte{"trailing byte": append(bytes.Clone(der), 0), "cut": der[:len(der)-1], "other OID": bytes.Replace(der, []byte{0x2b, 0x65}, []byte{0x2b, 0x66}, 1)} {
			if _, err := ParsePublicKey(bad); err == nil {
				t.Errorf("%s with %s was taken", c.algorithm, name)
			}
		}
	}
}

// A secret does not get into logs, errors or JSON by itself.
func TestSecretHidesItself(t *testing.T) {
	raw := bytes.Repeat([]byte{0x5a}, DHSecretSize)
	s, err := ParseDHSecret(raw)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).LogAttrs(t.Context(), slog.LevelInfo, "x", slog.Any("secret", s))
	text, _ := s.MarshalText()
	for _, got := range []string{fmt.Sprint(s), fmt.Sprintf("%s %v %+v %#v %q", s, s, s, s, s), log.String(), string(text)} {
		if strings.Contains(got, "ZZZZ") || strings.Contains(got, "WlpaW") || !strings.Contains(got, "secret") {
			t.Errorf("the secret shows itself: %s", got)
		}
	}
	if s.Reveal() != base64.URLEncoding.EncodeToString(raw) {
		t.Errorf("revealed as %s", s.Reveal())
	}
	for _, n := range []int{0, 31, 33, 56} {
		if _, err := ParseDHSecret(make([]byte, n)); err == nil {
			t.Errorf("%d bytes were taken for a secret", n)
		}
	}
}

func TestDatabaseValues(t *testing.T) {
	var id EntityID
	if err := id.ScanBytes([]byte{1, 2}); err != nil || id != NewEntityID([]byte{1, 2}) {
		t.Errorf("got %v, %v", id, err)
	}
	if err := id.ScanBytes(nil); err != nil || !id.IsZero() {
		t.Errorf("NULL became %v, %v", id, err)
	}
	if err := id.ScanBytes([]byte{}); err == nil {
		t.Error("an empty id was taken")
	}
	if b, err := id.BytesValue(); err != nil || b != nil {
		t.Errorf("no id became %x, %v", b, err)
	}
	var k PublicKey
	if err := k.ScanBytes([]byte("no key")); err == nil {
		t.Error("a wrong key was taken")
	}
	if err := k.ScanBytes(nil); err != nil || !k.IsZero() {
		t.Errorf("NULL became %v, %v", k, err)
	}
	var s DHSecret
	if err := s.ScanBytes(make([]byte, 31)); err == nil {
		t.Error("a short secret was taken")
	}
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct {
		text string
		want int64
		ok   bool
	}{
		{"0", 0, true},
		{"-0", 0, true},
		{"+17", 17, true},
		{"007", 7, true},
		{"9223372036854775807", math.MaxInt64, true},
		{"-9223372036854775808", math.MinInt64, true},
		{"9223372036854775808", 0, false},
		{"-9223372036854775809", 0, false},
		{"18446744073709551617", 0, false},
		{"99999999999999999999", 0, false},
		{"", 0, false},
		{"-", 0, false},
		{"+-1", 0, false},
	} {
		r := NewTextReader([]byte(c.text))
		got := r.Int64()
		r.End()
		if (r.Err() == nil) != c.ok || c.ok && got != c.want {
			t.Errorf("%q: got %d, %v", c.text, got, r.Err())
		}
	}
}

// After the first error nothing is read, and the error stays.
func TestTextReaderKeepsFirstError(t *testing.T) {
	r := NewTextReader([]byte("x 12 AAAA"))
	r.Expect("y")
	first := r.Err()
	r.Expect("x")
	r.Space()
	if r.Int64() != 0 || r.Bytes() != nil || r.Word() != nil || r.Rest() != nil || !r.ID().IsZero() || r.Skip("x") || r.Offset() != 0 {
		t.Error("something was read after an error")
	}
	r.End()
	if first == nil || !errors.Is(r.Err(), first) {
		t.Errorf("got %v, then %v", first, r.Err())
	}
}

func TestBinaryReader(t *testing.T) {
	r := NewBinaryReader([]byte("\x02ab\x00\x03cdeX\x00"))
	got := []string{string(r.Short()), string(r.Large()), string(r.Byte()), string(r.Short())}
	r.End()
	if diff := cmp.Diff([]string{"ab", "cde", "X", ""}, got); diff != "" || r.Err() != nil {
		t.Errorf("%v (-want +got):\n%s", r.Err(), diff)
	}
	for _, in := range []string{"", "\x02a", "\x00"} {
		r := NewBinaryReader([]byte(in))
		r.Large()
		if r.Err() == nil {
			t.Errorf("%q: no error", in)
		}
	}
	r = NewBinaryReader([]byte("\x00\x00"))
	r.Short()
	r.End()
	if r.Err() == nil {
		t.Error("left-over byte: no error")
	}
}

func BenchmarkDecodeBase64(b *testing.B) {
	for _, n := range []int{24, 44, 13824} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			text := AppendBase64(nil, make([]byte, n))
			buf := make([]byte, 0, n+16)
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, _, err := decodeBase64(buf, text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The number of certificates is limited before there is memory for them.
func TestTooManyCertificates(t *testing.T) {
	for n, ok := range map[byte]bool{0: false, 1: true, 4: true, 5: false, 255: false} {
		in := append([]byte{n}, make([]byte, 2*int(n)+2)...)
		r := NewBinaryReader(in)
		if ReadSignedKey(r); (r.Err() == nil) != ok {
			t.Errorf("%d certificates: %v", n, r.Err())
		}
	}
}
