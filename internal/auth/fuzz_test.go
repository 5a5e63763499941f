package auth

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/smpq/smpq/internal/smp"
)

// What parses is re-encoded to the same bytes, except for flags that follow T or
// F and for bytes behind the time of a quota marker: of neither anything is known.
func FuzzMessage(f *testing.F) {
	for _, name := range []string{"v18-notifications", "v18-service-recipient"} {
		for _, e := range readTranscript(f, filepath.Join(transcripts, name+".jsonl.gz")) {
			if e.Kind == "msg_decrypted" {
				f.Add([]byte(e.PlainUnpadded))
			}
		}
	}
	f.Add(unhex(f, "51554f54412000000000684ee180"))
	f.Add([]byte("QUOTA 12F body"))
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := parseMessage(in)
		if err != nil {
			return
		}
		out := m.append(nil)
		switch {
		case bytes.Equal(out, in), m.Quota && bytes.HasPrefix(in, out):
		case !m.Quota && bytes.HasPrefix(in, out[:9]) && bytes.HasSuffix(in, out[9:]):
		default:
			t.Errorf("%x re-encoded as %x", in, out)
		}
	})
}

// What parses is re-encoded to the same bytes.
func FuzzForwarded(f *testing.F) {
	for _, e := range readTranscript(f, filepath.Join(transcripts, "proxy-v18.jsonl.gz")) {
		if e.Kind == "proxy_client_command" {
			fwd := Forwarded{CorrID: short(f, e.Nonce), Version: 17, Key: privateKey(f, e.CommandKey).Public(), Sealed: e.InnerPlain}
			f.Add(fwd.append(nil))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		fwd, err := parseForwarded(in)
		if err != nil {
			return
		}
		if out := fwd.append(nil); !bytes.Equal(out, in) {
			t.Errorf("%x re-encoded as %x", in, out)
		}
	})
}

// What is a signed key is made of its parts again, and nothing but a signature
// by the owner of the certificate is.
func FuzzSignedKey(f *testing.F) {
	leaf := seqKey(f, smp.Ed25519, 0xe0)
	f.Add(unhex(f, signedKey))
	f.Fuzz(func(t *testing.T, in []byte) {
		key, err := Chain{Leaf: leaf.Public()}.SessionKey(in)
		if err != nil {
			return
		}
		out, err := SignKey(leaf, key)
		if err != nil || !bytes.Equal(out, in) {
			t.Errorf("%x re-encoded as %x, %v", in, out, err)
		}
	})
}

// Whatever is said to be a private key, finding out ends.
func FuzzPrivateKey(f *testing.F) {
	for _, form := range privateForms {
		f.Add(append([]byte(form.prefix), make([]byte, form.size)...))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if k, err := ParsePrivateKey(in); err == nil && k.Public().Algorithm() == 0 {
			t.Errorf("%x was taken for a key without an algorithm", in)
		}
	})
}
