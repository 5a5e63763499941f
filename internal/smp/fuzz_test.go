package smp

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What parses is encoded to the same bytes, except for what the lists of
// exceptions name; and what was encoded has the same meaning when it is parsed
// again.

// An exception is a form that is read, but not written.
type exception[T any] struct {
	name   string
	covers func(in []byte, parsed T) bool
}

var commandExceptions = []exception[Command]{
	{"SEND has further flags behind that for notifications, of which nothing is known", func(in []byte, c Command) bool {
		_, ok := c.(*SEND)
		return ok && in[len("SEND T")] != ' '
	}},
	{"PRXY has an IPv6 address in brackets", func(in []byte, c Command) bool {
		_, ok := c.(*PRXY)
		return ok && bytes.ContainsRune(in, '[')
	}},
}

var responseExceptions = []exception[Response]{
	{"CMD NO_QUEUE is an older name of CMD NO_ENTITY", func(in []byte, _ Response) bool {
		return bytes.HasSuffix(in, []byte("CMD NO_QUEUE"))
	}},
	{"the notice of BLOCKED is JSON with other spelling, members or white space", func(in []byte, r Response) bool {
		e, ok := r.(*ERR)
		return ok && strings.Contains(e.Err.Error(), "notice") && bytes.Contains(in, []byte(",notice="))
	}},
}

func checkFuzzed[T encoded](t *testing.T, in []byte, v Version, parse func([]byte, Version) (T, error), exceptions []exception[T]) {
	t.Helper()
	parsed, err := parse(in, v)
	if err != nil {
		return
	}
	out := parsed.Append(nil, v)
	if bytes.Equal(out, in) {
		return
	}
	for _, e := range exceptions {
		if !e.covers(in, parsed) {
			continue
		}
		again, err := parse(out, v)
		if err != nil {
			t.Fatalf("%q was encoded as %q: %v", in, out, err)
		}
		if diff := cmp.Diff(parsed, again, sameMeaning); diff != "" {
			t.Fatalf("%q was encoded as %q, which means something else:\n%s", in, out, diff)
		}
		return
	}
	t.Errorf("%q was encoded as %q", in, out)
}

// maxSeed keeps large messages out of the seeds.
const maxSeed = 600

// addTransmissions adds transmissions of real clients or real routers to the
// seeds, one of each command or response in each version.
func addTransmissions(f *testing.F, toRouter bool, add func(*Transmission, block)) {
	f.Helper()
	all, err := allTranscripts()
	if err != nil {
		f.Fatal(err)
	}
	type form struct {
		tag     string
		version Version
	}
	seen := map[form]bool{}
	for _, events := range all {
		for _, b := range blocks(f, events) {
			parts, err := SplitContent(nil, b.content)
			if err != nil || b.toRouter != toRouter || b.handshake {
				continue
			}
			for _, part := range parts {
				tr, err := ParseTransmission(part, b.version)
				tag, _, _ := bytes.Cut(tr.Command, []byte(" "))
				if err != nil || len(tr.Command) > maxSeed || seen[form{string(tag), b.version}] {
					continue
				}
				seen[form{string(tag), b.version}] = true
				add(&tr, b)
			}
		}
	}
}

func FuzzCommand(f *testing.F) {
	addTransmissions(f, true, func(tr *Transmission, b block) { f.Add(tr.Command, uint16(b.version)) })
	for _, c := range readGolden(f, "testdata/commands.txt") {
		f.Add(c.wire, uint16(c.versions.Max))
	}
	f.Add([]byte("SEND Tnew body"), uint16(18))
	f.Add([]byte("PRXY \x01\x05[::1]\x03443\x00\x30"), uint16(18))
	f.Fuzz(func(t *testing.T, in []byte, v uint16) {
		checkFuzzed(t, in, Version(v), ParseCommand, commandExceptions)
	})
}

func FuzzResponse(f *testing.F) {
	addTransmissions(f, false, func(tr *Transmission, b block) { f.Add(tr.Command, uint16(b.version)) })
	for _, c := range readGolden(f, "testdata/responses.txt") {
		f.Add(c.wire, uint16(c.versions.Max))
	}
	f.Add([]byte("ERR PROXY PROTOCOL CMD NO_QUEUE"), uint16(18))
	f.Add([]byte(`ERR BLOCKED reason=spam,notice={ "ttl": 1, "more": [] } `), uint16(18))
	f.Fuzz(func(t *testing.T, in []byte, v uint16) {
		checkFuzzed(t, in, Version(v), ParseResponse, responseExceptions)
	})
}

func FuzzTransmission(f *testing.F) {
	add := func(tr *Transmission, b block) { f.Add(tr.Append(nil, b.version), uint16(b.version)) }
	addTransmissions(f, true, add)
	addTransmissions(f, false, add)
	f.Fuzz(func(t *testing.T, in []byte, v uint16) {
		tr, err := ParseTransmission(in, Version(v))
		if err != nil {
			return
		}
		if out := tr.Append(nil, Version(v)); !bytes.Equal(out, in) {
			t.Errorf("%x was encoded as %x", in, out)
		}
		session := short(t, seq(0x10, 32))
		signed := NewBinaryReader(tr.AppendSigned(nil, session))
		again := Transmission{Auth: tr.Auth, ServiceAuth: tr.ServiceAuth, SessionID: tr.SessionID}
		if got := ReadShort(signed); !got.Equal(session) {
			t.Errorf("%x is signed for session %x", in, got.Bytes())
		}
		again.CorrID, again.EntityID, again.Command = ReadShort(signed), ReadShort(signed), signed.Rest()
		if diff := cmp.Diff(tr, again, sameMeaning); diff != "" {
			t.Errorf("%x is signed as something else:\n%s", in, diff)
		}
	})
}

func FuzzContent(f *testing.F) {
	f.Add([]byte("\x01\x00\x01a"))
	f.Add([]byte("\x02\x00\x00\x00\x01a"))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		parts, err := SplitContent(nil, in)
		if err != nil {
			return
		}
		var b Batch
		for _, part := range parts {
			if added, err := b.Add(part); !added || err != nil {
				if len(in) <= MaxContent {
					t.Errorf("%x: no room for %d transmissions: %v", in, len(parts), err)
				}
				return
			}
		}
		if !bytes.Equal(b.Content(), in) || b.Len() != len(parts) {
			t.Errorf("%x was packed as %x", in, b.Content())
		}
	})
}

// Padding is not checked, so that only what was padded comes out the same.
func FuzzPadding(f *testing.F) {
	f.Add([]byte("\x00\x03abc#"))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		content, err := Unpad(in)
		if err != nil {
			return
		}
		out, err := AppendPadded(nil, content, len(in))
		if err != nil || len(out) != len(in) || !bytes.Equal(out[:2+len(content)], in[:2+len(content)]) {
			t.Errorf("%x was padded as %x, %v", in, out, err)
		}
		if again, err := Unpad(out); err != nil || !bytes.Equal(again, content) {
			t.Errorf("%x has content %x, then %x, %v", in, content, again, err)
		}
	})
}

func FuzzTransportError(f *testing.F) {
	f.Add([]byte("HANDSHAKE BAD_SERVICE"))
	f.Add([]byte("VERSION"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if e, err := ParseTransportError(in); err == nil && e.Error() != string(in) {
			t.Errorf("%q was taken for %s", in, e)
		}
	})
}

// Versions and keys as they stand in handshakes.
func FuzzSignedKey(f *testing.F) {
	f.Add([]byte("\x00\x06\x00\x12\x01\x00\x04cert\x00\x03key"))
	f.Add([]byte("\x00\x07\x00\x06"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := NewBinaryReader(in)
		versions, key := ReadVersionRange(r), ReadSignedKey(r)
		r.End()
		if r.Err() != nil {
			return
		}
		if out := key.Append(versions.Append(nil)); !bytes.Equal(out, in) {
			t.Errorf("%x was encoded as %x", in, out)
		}
	})
}

// Addresses have many spellings. Each means the same as its canonical one, which
// is its own canonical one; and no other text has secrets in it.
func FuzzAddress(f *testing.F) {
	for _, c := range addresses {
		f.Add(c.text)
	}
	for _, text := range wrongAddresses {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseAddress(text)
		if err != nil {
			return
		}
		canonical := string(a.AppendReveal(nil))
		again, err := ParseAddress(canonical)
		if err != nil {
			t.Fatalf("%q became %q: %v", text, canonical, err)
		}
		if diff := cmp.Diff(a, again, sameMeaning); diff != "" {
			t.Fatalf("%q became %q, which means something else:\n%s", text, canonical, diff)
		}
		if got := string(again.AppendReveal(nil)); got != canonical {
			t.Errorf("%q became %q, then %q", text, canonical, got)
		}
	})
}
