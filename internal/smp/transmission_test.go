package smp

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// Transmissions of the test vectors, computed independently: their ids count
// upwards from 0x30 (correlation id), 0x50 (recipient), 0x70 (sender) and 0xd0
// (service), the session's from 0x10.
const (
	subSigned    = "20101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f18303132333435363738393a3b3c3d3e3f404142434445464718505152535455565758595a5b5c5d5e5f6061626364656667535542"
	subSignature = "7534e7d55eb8341de1b353584be6afc04423862ea782d14989d104cc28f964912b583d138e2271a42327bef29802809ec93d186c334139e7467cc72c7cab0800"
	sendSigned   = "20101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f18303132333435363738393a3b3c3d3e3f404142434445464718707172737475767778797a7b7c7d7e7f808182838485868753454e4420542068656c6c6f"
	authSend     = "7199930b64b826cfe5e49034eda4faa7832f90f62df6c29b77d269abaeb93f29982c122cad532d842ad7b834e6f70889711fc5ae40fff31ddb864424c15723205c75361cab62e9a60831b12e7aeea934"
	subParty     = "0c125387f1912b7851fd0d480f94c57e402f614508fe5d7eacafffd4197051d0ea927a3ccab81dd7e32c07cbcea4fe3e57098147bb2dedbe93f9aa4613f3d006"
	subService   = "0fd4161bc42f465736cae6d17c3b70f5915b883f6dad06704834928d081d7743417836a3b982d9f7789b8b4609338b0bff3df38cdfc082bc2f1ed71b9cdd4408"
	pingV7       = "0018303132333435363738393a3b3c3d3e3f40414243444546470050494e47"
	subV16       = "407534e7d55eb8341de1b353584be6afc04423862ea782d14989d104cc28f964912b583d138e2271a42327bef29802809ec93d186c334139e7467cc72c7cab08003018303132333435363738393a3b3c3d3e3f404142434445464718505152535455565758595a5b5c5d5e5f6061626364656667535542"
	twoContent   = "020077407534e7d55eb8341de1b353584be6afc04423862ea782d14989d104cc28f964912b583d138e2271a42327bef29802809ec93d186c334139e7467cc72c7cab08003018303132333435363738393a3b3c3d3e3f404142434445464718505152535455565758595a5b5c5d5e5f6061626364656667535542001f0018303132333435363738393a3b3c3d3e3f40414243444546470050494e47"
	ids30        = "18303132333435363738393a3b3c3d3e3f4041424344454647"
	ids50        = "18505152535455565758595a5b5c5d5e5f6061626364656667"
	ids70        = "18707172737475767778797a7b7c7d7e7f8081828384858687"
	session32    = "20101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f"
)

func TestGoldenTransmissions(t *testing.T) {
	session, corr := seqShort(t, 0x10, 32), seqShort(t, 0x30, 24)
	recipient, sender := seqShort(t, 0x50, 24), seqShort(t, 0x70, 24)
	signature := short(t, unhex(t, subSignature))
	sub := Transmission{Auth: signature, CorrID: corr, EntityID: recipient, Command: (&SUB{}).Append(nil, MaxVersion)}
	subV6 := sub
	subV6.SessionID = session
	both := sub
	both.Auth, both.ServiceAuth = short(t, unhex(t, subParty)), short(t, unhex(t, subService))
	ping := Transmission{CorrID: corr, Command: (&PING{}).Append(nil, MaxVersion)}
	send := Transmission{
		Auth: short(t, unhex(t, authSend)), CorrID: corr, EntityID: sender,
		Command: (&SEND{Notify: true, Body: []byte("hello")}).Append(nil, MaxVersion),
	}
	for _, c := range []struct {
		name     string
		versions VersionRange
		value    Transmission
		wire     string
	}{
		{"SUB", VersionRange{6, 6}, subV6, "40" + subSignature + session32 + ids30 + ids50 + "535542"},
		{"SUB", VersionRange{7, 15}, sub, "40" + subSignature + ids30 + ids50 + "535542"},
		{"SUB", VersionRange{16, 19}, sub, subV16},
		{"SUB of a service", VersionRange{16, 19}, both, "40" + subParty + "3140" + subService + ids30 + ids50 + "535542"},
		{"PING", VersionRange{7, 19}, ping, pingV7},
		{"SEND", VersionRange{7, 15}, send, "50" + authSend + ids30 + ids70 + "53454e4420542068656c6c6f"},
		{"SEND", VersionRange{16, 19}, send, "50" + authSend + "30" + ids30 + ids70 + "53454e4420542068656c6c6f"},
	} {
		for v := c.versions.Min; v <= c.versions.Max; v++ {
			if got := hex.EncodeToString(c.value.Append(nil, v)); got != c.wire {
				t.Errorf("%s, version %d: got %s, want %s", c.name, v, got, c.wire)
			}
			got, err := ParseTransmission(unhex(t, c.wire), v)
			if err != nil {
				t.Errorf("%s, version %d: %v", c.name, v, err)
			}
			if diff := cmp.Diff(c.value, got, sameMeaning); diff != "" {
				t.Errorf("%s, version %d (-want +got):\n%s", c.name, v, diff)
			}
		}
	}
	for _, c := range []struct {
		value Transmission
		want  string
	}{{sub, subSigned}, {subV6, subSigned}, {both, subSigned}, {send, sendSigned}} {
		if got := hex.EncodeToString(c.value.AppendSigned(nil, session)); got != c.want {
			t.Errorf("signed: got %s, want %s", got, c.want)
		}
	}
	for _, wire := range []string{
		"",
		"00",
		"0000",
		"40" + subSignature,
		"40" + subSignature + "31",
		"40" + subSignature + "3100" + ids30 + ids50, // an empty signature of the service
		"40" + subSignature + "32" + ids30 + ids50,
	} {
		if got, err := ParseTransmission(unhex(t, wire), MaxVersion); err == nil {
			t.Errorf("%s was taken for %+v", wire, got)
		}
	}
}

func TestGoldenBlock(t *testing.T) {
	sub, ping := unhex(t, subV16), unhex(t, pingV7)
	var b Batch
	for _, part := range [][]byte{sub, ping} {
		if added, err := b.Add(part); !added || err != nil {
			t.Fatalf("not added: %v", err)
		}
	}
	if got := hex.EncodeToString(b.Content()); got != twoContent || b.Len() != 2 {
		t.Errorf("got %s, want %s", got, twoContent)
	}
	parts, err := SplitContent(nil, b.Content())
	if diff := cmp.Diff([][]byte{sub, ping}, parts); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	block, err := AppendPadded(nil, b.Content(), BlockSize)
	sum := sha256.Sum256(block)
	if got := hex.EncodeToString(sum[:]); err != nil || got != "3003b6e40c2f077e14c24eda6b6883c0c23ec9de5b1ec14a114a4eb621162787" {
		t.Errorf("the block has the hash %s, %v", got, err)
	}
	b.Reset()
	if b.Len() != 0 || len(b.Content()) != 0 {
		t.Errorf("%d transmissions are left", b.Len())
	}
	for _, wire := range []string{"", "00", "01", "0100", "010001", "0100026162ff", "020001610002", "0200016100"} {
		if parts, err := SplitContent(nil, unhex(t, wire)); err == nil {
			t.Errorf("%s was split into %x", wire, parts)
		}
	}
}

// How many transmissions of known sizes a block holds, with what the router
// packs into one.
func TestBatchLimits(t *testing.T) {
	for _, c := range []struct {
		name       string
		size, want int
	}{
		{"SUB in version 6", 153, 106},
		{"SUB in version 15", 120, 136},
		{"SUB in version 16", 121, 135},
		{"SUB of a service", 186, 87},
		{"END", 32, 255},
		{"NMSG", 203, 80},
		{"MSG", 16180, 1},
		{"the smallest", 2, 255},
		{"the largest", 16365, 1},
	} {
		var b Batch
		part := make([]byte, c.size-2)
		n := 0
		for ; n < 1000; n++ {
			added, err := b.Add(part)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			if !added {
				break
			}
		}
		if n != c.want || b.Len() != c.want || len(b.Content()) > MaxContent {
			t.Errorf("%s: a block holds %d in %d bytes, want %d", c.name, b.Len(), len(b.Content()), c.want)
		}
	}
	var b Batch
	if added, err := b.Add(make([]byte, 16364)); added || !errors.Is(err, ErrTooLarge) {
		t.Errorf("a transmission that is too large: %t, %v", added, err)
	}
	if len(b.Content()) != 0 {
		t.Errorf("content %x without transmissions", b.Content())
	}
}

func TestPadding(t *testing.T) {
	got, err := AppendPadded([]byte("x"), []byte("abc"), 5)
	if want := "x\x00\x03abc"; string(got) != want || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	got, err = AppendPadded(nil, []byte("abc"), 9)
	if want := "\x00\x03abc####"; string(got) != want || err != nil {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for _, c := range []struct{ content, size int }{{4, 5}, {0, 1}, {0, 0}, {65536, 100000}, {BlockSize - 1, BlockSize}} {
		if _, err := AppendPadded(nil, make([]byte, c.content), c.size); err == nil {
			t.Errorf("%d bytes were padded to %d", c.content, c.size)
		}
	}
	for _, padded := range []string{"", "\x00", "\x00\x01", "\xff\xff#"} {
		if content, err := Unpad([]byte(padded)); err == nil {
			t.Errorf("%q has content %q", padded, content)
		}
	}
}

func TestVersionRanges(t *testing.T) {
	for _, c := range []struct {
		a, b, want VersionRange
		ok         bool
	}{
		{VersionRange{6, 19}, VersionRange{6, 18}, VersionRange{6, 18}, true},
		{VersionRange{6, 6}, VersionRange{6, 19}, VersionRange{6, 6}, true},
		{VersionRange{8, 10}, VersionRange{10, 12}, VersionRange{10, 10}, true},
		{VersionRange{6, 7}, VersionRange{8, 19}, VersionRange{}, false},
	} {
		for _, pair := range [][2]VersionRange{{c.a, c.b}, {c.b, c.a}} {
			if got, ok := pair[0].Intersect(pair[1]); ok != c.ok || ok && got != c.want {
				t.Errorf("%s and %s: got %s, %t, want %s", pair[0], pair[1], got, ok, c.want)
			}
		}
	}
	if r := (VersionRange{8, 18}); r.Contains(7) || !r.Contains(8) || !r.Contains(18) || r.Contains(19) || r.String() != "8-18" {
		t.Errorf("%s", r)
	}
}

// What a transmission must come with (the first violation counts).
func TestCredentials(t *testing.T) {
	for _, c := range []struct {
		command  Command
		auth, id bool
		want     CommandError
		ok       bool
	}{
		{command: &NEW{}, want: ErrNoAuth},
		{command: &NEW{}, id: true, want: ErrNoAuth},
		{command: &NEW{}, auth: true, id: true, want: ErrHasAuth},
		{command: &SEND{}, want: ErrNoEntity},
		{command: &SEND{}, auth: true, want: ErrNoEntity},
		{command: &LGET{}, want: ErrNoEntity},
		{command: &LGET{}, auth: true, id: true, want: ErrHasAuth},
		{command: &PFWD{}, auth: true, want: ErrNoEntity},
		{command: &PFWD{}, auth: true, id: true, want: ErrHasAuth},
		{command: &PING{}, id: true, want: ErrHasAuth},
		{command: &PRXY{}, auth: true, want: ErrHasAuth},
		{command: &RFWD{}, auth: true, id: true, want: ErrHasAuth},
		{command: &SUB{}, want: ErrNoAuth},
		{command: &SUB{}, id: true, want: ErrNoAuth},
		{command: &SUBS{}, auth: true, want: ErrNoAuth},
		{command: &LKEY{}, id: true, want: ErrNoAuth},
		{command: &NEW{}, auth: true, ok: true},
		{command: &SEND{}, id: true, ok: true},
		{command: &SEND{}, auth: true, id: true, ok: true},
		{command: &LGET{}, id: true, ok: true},
		{command: &PFWD{}, id: true, ok: true},
		{command: &PING{}, ok: true},
		{command: &NSUBS{}, auth: true, id: true, ok: true},
	} {
		var tr Transmission
		if c.auth {
			tr.Auth = seqShort(t, 0, 64)
		}
		if c.id {
			tr.EntityID = seqShort(t, 0, 24)
		}
		err := tr.CheckCredentials(c.command)
		if c.ok != (err == nil) || err != nil && !errors.Is(err, c.want) {
			t.Errorf("%T with authorization %t, id %t: got %v", c.command, c.auth, c.id, err)
		}
	}
}

func TestEntityOfResponses(t *testing.T) {
	with, without := Transmission{EntityID: seqShort(t, 0, 24)}, Transmission{}
	for _, c := range []struct {
		response          Response
		okWith, okWithout bool
	}{
		{&PONG{}, false, true},
		{&PKEY{}, false, true},
		{&RRES{}, false, true},
		{&ALLS{}, false, true},
		{&IDS{}, true, true},
		{&ERR{ErrAuth}, true, true},
		{&OK{}, true, false},
		{&MSG{}, true, false},
		{&PRES{}, true, false},
	} {
		if err := with.CheckEntity(c.response); (err == nil) != c.okWith {
			t.Errorf("%T with an id: %v", c.response, err)
		}
		if err := without.CheckEntity(c.response); (err == nil) != c.okWithout {
			t.Errorf("%T without an id: %v", c.response, err)
		}
	}
}

func drawShort(t *rapid.T, name string) Short {
	return Short{rapid.SliceOfN(rapid.Byte(), 0, MaxShort).Draw(t, name)}
}

func TestTransmissionRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := Version(rapid.Uint16Range(uint16(MinVersion), uint16(MaxVersion)).Draw(t, "version"))
		want := Transmission{
			Auth: drawShort(t, "auth"), CorrID: drawShort(t, "corr"), EntityID: drawShort(t, "entity"),
			Command: rapid.SliceOf(rapid.Byte()).Draw(t, "command"),
		}
		if v >= VersionServices && !want.Auth.IsEmpty() {
			want.ServiceAuth = drawShort(t, "service")
		}
		if v < VersionSessionKeys {
			want.SessionID = drawShort(t, "session")
		}
		got, err := ParseTransmission(want.Append(nil, v), v)
		if diff := cmp.Diff(want, got, sameMeaning); diff != "" || err != nil {
			t.Fatalf("version %d: %v (-want +got):\n%s", v, err, diff)
		}
	})
}

func TestBatchRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 300), 1, MaxTransmissions).Draw(t, "transmissions")
		var b Batch
		for i, part := range want {
			added, err := b.Add(part)
			if err != nil {
				t.Fatal(err)
			}
			if !added {
				want = want[:i]
				break
			}
		}
		got, err := SplitContent(nil, b.Content())
		if err != nil || !slices.EqualFunc(want, got, bytes.Equal) {
			t.Fatalf("%v: got %x, want %x", err, got, want)
		}
	})
}
