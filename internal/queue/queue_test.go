package queue

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/smpq/smpq/internal/smp"
)

const (
	key1 = "302a300506032b65700321008a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"
	key2 = "302a300506032b65700321008139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustKey(t testing.TB, s string) smp.PublicKey {
	t.Helper()
	k, err := smp.ParsePublicKey(unhex(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestBinaryKeys(t *testing.T) {
	one, two := mustKey(t, key1), mustKey(t, key2)
	for _, c := range []struct {
		keys []smp.PublicKey
		want string
	}{
		{[]smp.PublicKey{one}, "012c" + key1},
		{[]smp.PublicKey{one, two}, "022c" + key1 + "2c" + key2},
	} {
		got := AppendBinaryKeys(nil, c.keys)
		if hex.EncodeToString(got) != c.want {
			t.Errorf("got %x, want %s", got, c.want)
		}
		back, err := ParseBinaryKeys(got)
		if err != nil || !cmp.Equal(back, c.keys, cmp.Comparer(func(a, b smp.PublicKey) bool { return a == b })) {
			t.Errorf("%x came back as %v, %v", got, back, err)
		}
	}
	for _, bad := range []string{"", "00", "01", "012c", "012c" + key1 + "00", "022c" + key1, "0102abcd"} {
		if keys, err := ParseBinaryKeys(unhex(t, bad)); err == nil {
			t.Errorf("%s: got %v, want an error", bad, keys)
		}
	}
}

func FuzzParseBinaryKeys(f *testing.F) {
	f.Add(unhex(f, "012c"+key1))
	f.Add(unhex(f, "022c"+key1+"2c"+key2))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, in []byte) {
		keys, err := ParseBinaryKeys(in)
		if err != nil {
			return
		}
		if out := AppendBinaryKeys(nil, keys); !bytes.Equal(out, in) {
			t.Errorf("%x was encoded as %x", in, out)
		}
	})
}

func FuzzParseBinaryCertChain(f *testing.F) {
	f.Add([]byte("\x01\x00\x03abc"))
	f.Add([]byte("\x02\x00\x01a\x00\x01b"))
	f.Fuzz(func(t *testing.T, in []byte) {
		chain, err := ParseBinaryCertChain(in)
		if err != nil {
			return
		}
		out, err := chain.AppendBinary(nil)
		if err != nil || !bytes.Equal(out, in) {
			t.Errorf("%x was encoded as %x, %v", in, out, err)
		}
	})
}

func TestCertChain(t *testing.T) {
	for _, c := range []CertChain{nil, make(CertChain, 256), {make([]byte, 65536)}} {
		if _, err := c.AppendBinary(nil); !errors.Is(err, ErrCertChain) {
			t.Errorf("a chain of %d: got %v", len(c), err)
		}
	}
	a, b := []byte("a"), []byte("b")
	if one, two := (CertChain{a}).IdentityHash(), (CertChain{b, a}).IdentityHash(); one == nil || !bytes.Equal(one, two) {
		t.Errorf("the identity of a chain is its only or its second certificate: %x, %x", one, two)
	}
	if (CertChain{}).IdentityHash() != nil || make(CertChain, 5).IdentityHash() != nil {
		t.Error("chains of no or of five certificates have no identity")
	}
}

func TestStatusText(t *testing.T) {
	for _, c := range []struct {
		text string
		want Status
	}{
		{"active", Status{}},
		{"off", Status{State: Off}},
		{"blocked,reason=spam", Status{Blocked, Blocking{Reason: "spam"}}},
		{"blocked,reason=content,notice={}", Status{Blocked, Blocking{Reason: "content", HasNotice: true}}},
		{`blocked,reason=spam,notice={"ttl":86400}`, Status{Blocked, Blocking{Reason: "spam", HasNotice: true, Notice: Notice{TTL: 86400, HasTTL: true}}}},
		{`blocked,reason=spam,notice={"ttl":-1}`, Status{Blocked, Blocking{Reason: "spam", HasNotice: true, Notice: Notice{TTL: -1, HasTTL: true}}}},
	} {
		got, err := ParseStatus(c.text)
		if err != nil || got != c.want {
			t.Errorf("%s: got %+v, %v", c.text, got, err)
		}
		if got.String() != c.text {
			t.Errorf("%s came back as %s", c.text, got)
		}
	}
	for _, bad := range []string{"", "Active", "active ", "blocked", "blocked,", "blocked,reason=other", "blocked,reason=spam,notice=", "blocked,reason=spam,notice={ttl:1}", `blocked,reason=spam,notice={"ttl":1.5}`, `blocked,reason=spam,notice={"ttl":1} x`} {
		if s, err := ParseStatus(bad); err == nil {
			t.Errorf("%q: got %+v, want an error", bad, s)
		}
	}
}

// What imports of smp-server made of a notice is understood.
func TestRepairStatus(t *testing.T) {
	s, repaired, err := RepairStatus("blocked,reason=spam,notice={ttl:86400}")
	if err != nil || !repaired || s.String() != `blocked,reason=spam,notice={"ttl":86400}` {
		t.Errorf("got %s, %v, %v", s, repaired, err)
	}
	s, repaired, err = RepairStatus("blocked,reason=spam,notice={}")
	if err != nil || repaired || !s.Blocking.HasNotice {
		t.Errorf("got %s, %v, %v", s, repaired, err)
	}
	if _, _, err := RepairStatus("blocked,reason=spam,notice={ttl:x}"); err == nil {
		t.Error("nonsense was repaired")
	}
}

// A status that can be read is written in a form that is read as the same.
func FuzzRepairStatus(f *testing.F) {
	for _, s := range []string{"active", "off", "blocked,reason=spam", "blocked,reason=content,notice={}", `blocked,reason=spam,notice={"ttl":86400} `, "blocked,reason=spam,notice={ttl:86400}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, _, err := RepairStatus(text)
		if err != nil {
			return
		}
		if again, err := ParseStatus(s.String()); err != nil || again != s {
			t.Errorf("%q was written as %q and read as %+v, %v", text, s, again, err)
		}
	})
}

const (
	msgID = "oKGio6SlpqeoqaqrrK2ur7CxsrO0tba3"
)

func readMessage(text string) (Message, error) {
	r := smp.NewTextReader([]byte(text))
	m := ReadMessage(r)
	r.End()
	return m, r.Err()
}

func TestMessageText(t *testing.T) {
	full := msgID + " 1757930000 flags=F " + string(smp.AppendBase64(nil, make([]byte, MaxMessageBody)))
	for _, c := range []struct{ text, want string }{
		{msgID + " 1757930000 flags=T bWVzc2FnZSAx", ""},
		{msgID + " 1757930001 quota", ""},
		{msgID + " -5 flags=F bWVzc2FnZSAx", ""},
		{full, ""},
		{msgID + " 1757930000 flags=F ", ""}, // an empty body, which smp-server cannot read
		{msgID + " 1757930000 bWVzc2FnZSAx", msgID + " 1757930000 flags=F bWVzc2FnZSAx"},
		{msgID + " 1757930000 flags=TFFF bWVzc2FnZSAx", msgID + " 1757930000 flags=T bWVzc2FnZSAx"},
	} {
		m, err := readMessage(c.text)
		if err != nil {
			t.Errorf("%.80s: %v", c.text, err)
			continue
		}
		want := c.want
		if want == "" {
			want = c.text
		}
		if got, _ := m.AppendText(nil); string(got) != want {
			t.Errorf("got  %.80s\nwant %.80s", got, want)
		}
	}
	tooLong := msgID + " 1757930000 flags=F " + string(smp.AppendBase64(nil, make([]byte, MaxMessageBody+1)))
	for _, bad := range []string{"", msgID, msgID + " 1757930000", msgID + " 1757930000 flags=X AAAA", msgID + " 1757930000 quotaAAA", msgID + " 1757930000 flags=F AAAA\r", tooLong} {
		if m, err := readMessage(bad); err == nil {
			t.Errorf("%.80s: got %+v, want an error", bad, m)
		}
	}
}

func FuzzReadMessage(f *testing.F) {
	for _, s := range []string{" 1757930000 flags=T bWVzc2FnZSAx", " 1757930001 quota", " 1757930000 bWVzc2FnZSAx", " 1 flags=F "} {
		f.Add(msgID + s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := readMessage(text)
		if err != nil {
			return
		}
		out, _ := m.AppendText(nil)
		again, err := readMessage(string(out))
		if err != nil {
			t.Fatalf("%q was written as %q: %v", text, out, err)
		}
		if second, _ := again.AppendText(nil); !bytes.Equal(second, out) {
			t.Errorf("%q was written as %q and then as %q", text, out, second)
		}
	})
}

// Messages come back from their text, whatever is in them.
func TestMessageRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := Message{
			ID:          MessageID{smp.NewEntityID(rapid.SliceOfN(rapid.Byte(), 1, 30).Draw(t, "id"))},
			Time:        rapid.Int64().Draw(t, "time"),
			QuotaMarker: rapid.Bool().Draw(t, "quota"),
		}
		if !m.QuotaMarker {
			m.Notify = rapid.Bool().Draw(t, "notify")
			m.Body = rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "body")
		}
		text, _ := m.AppendText(nil)
		got, err := readMessage(string(text))
		if err != nil || got.ID != m.ID || got.Time != m.Time || got.QuotaMarker != m.QuotaMarker || got.Notify != m.Notify || !bytes.Equal(got.Body, m.Body) {
			t.Fatalf("%+v came back from %s as %+v, %v", m, text, got, err)
		}
	})
}

func TestNames(t *testing.T) {
	for want, got := range map[string]string{
		"messaging": ModeMessaging.String(), "contact": ModeContact.String(), "unknown": ModeUnknown.String(),
		"notifier": RoleNotifier.String(), "proxy": RoleProxy.String(), "blocked": Blocked.String(),
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if _, err := ParseMode("X"); err == nil || !strings.Contains(err.Error(), "M or C") {
		t.Errorf("mode X: %v", err)
	}
	if _, err := ParseRole("R"); err == nil {
		t.Error("R is a party, not a role")
	}
}
