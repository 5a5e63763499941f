package smp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// What a command says wrongly is refused as the router refuses it.
func TestWrongCommands(t *testing.T) {
	recipient := goldenCommands(t)["KEY, Ed25519"].Append(nil, MaxVersion)[len("KEY "):]
	dh := goldenCommands(t)["KEY, X25519"].Append(nil, MaxVersion)[len("KEY "):]
	x448 := append([]byte{68}, keyForms[X448-1].prefix+strings.Repeat("x", 56)...)
	for _, c := range []struct {
		name, in string
		version  Version
		want     CommandError
	}{
		{"nothing", "", 18, ErrUnknown},
		{"a response", "OK", 18, ErrUnknown},
		{"lower case", "sub", 18, ErrUnknown},
		{"no space", "SUB=", 18, ErrUnknown},
		{"a space before", " SUB", 18, ErrUnknown},
		{"a space after", "SUB ", 18, ErrSyntax},
		{"parameters of a command without", "PING x", 18, ErrSyntax},
		{"no parameters", "ACK", 18, ErrSyntax},
		{"no parameters, but a space", "ACK ", 18, ErrSyntax},
		{"a byte too much", "ACK \x01ab", 18, ErrSyntax},
		{"an X448 key", "KEY " + string(x448), 18, ErrSyntax},
		{"an authorization key for DH", "NKEY " + string(recipient) + string(recipient), 18, ErrSyntax},
		{"no keys", "RKEY \x00", 18, ErrSyntax},
		{"fewer keys than announced", "RKEY \xff" + string(recipient), 18, ErrSyntax},
		{"no flags", "SEND  body", 18, ErrSyntax},
		{"wrong flags", "SEND X body", 18, ErrSyntax},
		{"no space behind flags", "SEND T", 18, ErrSyntax},
		{"count in a version without", "SUBS \x00\x00\x00\x00\x00\x00\x00\x02\x10" + strings.Repeat("h", 16), 18, ErrSyntax},
		{"no count in a version with", "SUBS", 19, ErrSyntax},
		{"a short hash", "SUBS \x00\x00\x00\x00\x00\x00\x00\x02\x0f" + strings.Repeat("h", 15), 19, ErrSyntax},
		{"no hosts", "PRXY \x00\x00\x000", 18, ErrSyntax},
		{"a wrong host", "PRXY \x01\x03a b\x00\x000", 18, ErrSyntax},
		{"a wrong port", "PRXY \x01\x01a\x010\x000", 18, ErrSyntax},
		{"a key of another kind", "PFWD \x00\x12" + string(recipient), 18, ErrSyntax},
		{"NEW of version 9 in 8", "NEW " + string(recipient) + string(dh) + "0ST", 8, ErrSyntax},
		{"NEW of version 8 in 9", "NEW " + string(recipient) + string(dh) + "S", 9, ErrSyntax},
		{"NEW of version 17 in 16", "NEW " + string(recipient) + string(dh) + "0S1M00", 16, ErrSyntax},
		{"NEW of version 16 in 17", "NEW " + string(recipient) + string(dh) + "0S1M0", 17, ErrSyntax},
		{"NEW with a wrong password", "NEW " + string(recipient) + string(dh) + "1\x03a b" + "S00", 17, ErrSyntax},
		{"NEW with an empty password", "NEW " + string(recipient) + string(dh) + "1\x00S00", 17, ErrSyntax},
		{"NEW with an unknown mode", "NEW " + string(recipient) + string(dh) + "0S1X00", 17, ErrSyntax},
	} {
		got, err := ParseCommand([]byte(c.in), c.version)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %#v, %v, want %v", c.name, got, err, c.want)
		}
	}
}

// A parser of commands says what it made of unknown ones without repeating all of
// them.
func TestUnknownCommandIsShort(t *testing.T) {
	_, err := ParseCommand(bytes.Repeat([]byte{0x1b}, BlockSize), 18)
	if err == nil || len(err.Error()) > 120 || strings.ContainsRune(err.Error(), 0x1b) {
		t.Errorf("got %v", err)
	}
}

func TestWrongResponses(t *testing.T) {
	for _, c := range []struct {
		in      string
		version Version
	}{
		{"", 18},
		{"SUB", 18},
		{"OK ", 18},
		{"MSG", 18},
		{"INFO", 18},
		{"PRES", 18},
		{"ERR", 18},
		{"ERR ", 18},
		{"ERR auth", 18},
		{"ERR AUTH ", 18},
		{"ERR CMD", 18},
		{"ERR CMD ", 18},
		{"ERR CMD AUTH", 18},
		{"ERR STORE", 18},
		{"ERR PROXY", 18},
		{"ERR PROXY AUTH", 18},
		{"ERR PROXY BROKER", 18},
		{"ERR PROXY BROKER AUTH", 18},
		{"ERR PROXY BROKER RESPONSE", 18},
		{"ERR PROXY BROKER TRANSPORT HANDSHAKE", 18},
		{"ERR PROXY BROKER TRANSPORT HANDSHAKE  PARSE", 18},
		{"ERR PROXY BROKER NETWORK ", 18},
		{"ERR PROXY BROKER NETWORK OTHER", 18},
		{"ERR " + strings.Repeat("PROXY PROTOCOL ", 5) + "AUTH", 18},
		{"ERR " + strings.Repeat("PROXY PROTOCOL ", 1000) + "AUTH", 18},
		{"ERR BLOCKED reason=other", 18},
		{"ERR BLOCKED reason=spam,", 18},
		{"ERR BLOCKED reason=spam,notice=[]", 18},
		{"ERR BLOCKED reason=spam,notice={} x", 18},
		{"SOK 2", 18},
		{"SOK 1\x00", 18},
		{"NMSG " + strings.Repeat("n", 23), 18},
		{"PKEY \x00\x00\x12\x00\x08\x01\x00\x01c\x00\x01k", 18},
		{"PKEY \x00\x00\x08\x00\x12\x00\x00\x01k", 18},
		{"PKEY \x00\x00\x08\x00\x12\x05\x00\x01k", 18},
	} {
		if got, err := ParseResponse([]byte(c.in), c.version); err == nil {
			t.Errorf("%q was taken for %#v", c.in, got)
		}
	}
	if _, err := ParseResponse([]byte("ERR "+strings.Repeat("PROXY PROTOCOL ", 4)+"AUTH"), 18); err != nil {
		t.Error(err)
	}
}

// Errors are found by what they are, also within others, and do not get text of
// others into logs unquoted.
func TestErrorValues(t *testing.T) {
	r, err := ParseResponse([]byte("ERR PROXY PROTOCOL CMD SYNTAX"), 18)
	if err != nil {
		t.Fatal(err)
	}
	e := fmt.Errorf("send: %w", r.(*ERR).Err)
	if !errors.Is(e, ErrSyntax) || errors.Is(e, ErrUnknown) || errors.Is(e, ErrAuth) {
		t.Errorf("%v is not CMD SYNTAX", e)
	}
	e = fmt.Errorf("send: %w", ProxyBrokerError{Kind: BrokerTransport, Transport: ErrHandshakeIdentity})
	if got, ok := errors.AsType[TransportError](e); !ok || got != ErrHandshakeIdentity {
		t.Errorf("%v is not the transport's error", e)
	}
	if errors.Is(ProxyBrokerError{Kind: BrokerTimeout}, ErrTransportBlock) {
		t.Error("a timeout is an error of the transport")
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{ErrNoMsg, "NO_MSG"},
		{ErrProhibited, "CMD PROHIBITED"},
		{ErrNoSession, "PROXY NO_SESSION"},
		{ProxyBrokerError{Kind: BrokerUnexpected, Text: "\x1b[31m"}, `PROXY BROKER UNEXPECTED "\x1b[31m"`},
		{ProxyBrokerError{Kind: BrokerNetwork}, "PROXY BROKER NETWORK"},
		{ProxyBrokerError{Kind: BrokerNetwork, Network: NetworkError{NetworkTLS, "\n"}}, `PROXY BROKER NETWORK TLS "\n"`},
		{StoreError{"\x1b[31m"}, `STORE "\x1b[31m"`},
		{ProxyProtocolError{StoreError{"\n"}}, `PROXY PROTOCOL STORE "\n"`},
		{BlockedError{Blocking{Reason: "spam"}}, "BLOCKED reason=spam"},
		{RouterError(200), "UNDEFINED_200"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
	long := &ERR{ProxyBrokerError{Kind: BrokerResponse, Text: strings.Repeat("x", 300)}}
	if r, err := ParseResponse(long.Append(nil, 18), 18); err != nil || r.(*ERR).Err.(ProxyBrokerError).Text != strings.Repeat("x", 255) {
		t.Errorf("a long text became %v, %v", r, err)
	}
}

func TestMaxMessage(t *testing.T) {
	want := map[Version]int{6: 16088, 7: 16088, 8: 16064, 10: 16064, 11: 16048, 19: 16048}
	for v, size := range want {
		if v.MaxMessage() != size {
			t.Errorf("version %d: got %d, want %d", v, v.MaxMessage(), size)
		}
	}
	// The largest message fits into a block, with the largest signature.
	for v := MinVersion; v <= MaxVersion; v++ {
		tr := Transmission{Auth: seqShort(t, 0, 114), CorrID: seqShort(t, 0, 24), EntityID: seqShort(t, 0, 24)}
		if v < VersionSessionKeys {
			tr.SessionID = seqShort(t, 0, 32)
		}
		tr.Command = (&SEND{Body: make([]byte, v.MaxMessage())}).Append(nil, v)
		var b Batch
		if added, err := b.Add(tr.Append(nil, v)); !added || err != nil {
			t.Errorf("version %d: %v", v, err)
		}
	}
}

// More members than a count can say are not sent.
func TestLongLists(t *testing.T) {
	keys := make([]PublicKey, 300)
	for i := range keys {
		keys[i] = key(t, Ed25519, strings.Repeat(fmt.Sprintf("%02x", i%256), 32))
	}
	c, err := ParseCommand((&RKEY{keys}).Append(nil, 18), 18)
	if err != nil || len(c.(*RKEY).RecipientKeys) != 255 {
		t.Errorf("got %d keys, %v", len(c.(*RKEY).RecipientKeys), err)
	}
	c, err = ParseCommand((&PRXY{Hosts: make([]Host, 300)}).Append(nil, 18), 18)
	if err == nil {
		t.Errorf("hosts without names were taken: %v", c)
	}
}

func TestQueueInfo(t *testing.T) {
	info := QueueInfo{
		Secured: true, Size: 129,
		Subscription: &SubscriptionInfo{Thread: ThreadRunning, Delivered: []byte("\xfb\xff\xbf")},
		Message:      &MessageInfo{ID: []byte("\x00"), Time: time.Unix(1750000000, 417242300).UTC(), Type: MessageQuota},
	}
	const want = `{"qiSnd":true,"qiNtf":false,"qiSub":{"qSubThread":"subThread","qDelivered":"+/+/"},"qiSize":129,"qiMsg":{"msgId":"AA==","msgTs":"2025-06-15T15:06:40.4172423Z","msgType":"quota"}}`
	got, err := json.Marshal(info)
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	var again QueueInfo
	if err := json.Unmarshal([]byte(want), &again); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(info, again); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Generators of what the golden tables have only examples of.

func drawVersion(t *rapid.T) Version {
	return Version(rapid.Uint16Range(uint16(MinVersion), uint16(MaxVersion)).Draw(t, "version"))
}

func drawBytes(t *rapid.T, name string, low, high int) []byte {
	return rapid.SliceOfN(rapid.Byte(), low, high).Draw(t, name)
}

func drawKey(t *rapid.T, algorithms ...Algorithm) PublicKey {
	form := keyForms[rapid.SampledFrom(algorithms).Draw(t, "algorithm")-1]
	k, err := ParsePublicKey(form.prefix + string(drawBytes(t, "key", form.size, form.size)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func drawAuthKey(t *rapid.T) PublicKey { return drawKey(t, Ed25519, Ed448, X25519) }

func drawPassword(t *rapid.T) Password {
	return Password{rapid.StringMatching(`([!-.0-9;-?A-~]{1,255})?`).Draw(t, "password")}
}

func drawLinkData(t *rapid.T) LinkData {
	return LinkData{Fixed: drawBytes(t, "fixed", 0, 2048), User: drawBytes(t, "user", 0, 1000)}
}

func drawNEW(t *rapid.T, v Version) *NEW {
	c := &NEW{
		RecipientKey: drawAuthKey(t), DHKey: drawKey(t, X25519),
		Password: drawPassword(t), Subscribe: rapid.Bool().Draw(t, "subscribe"),
	}
	switch {
	case v < VersionSenderSecures:
		return c
	case v < VersionLinks:
		c.Mode = rapid.SampledFrom([]QueueMode{ModeMessaging, ModeContact}).Draw(t, "mode")
		return c
	}
	c.Mode = rapid.SampledFrom([]QueueMode{ModeMessaging, ModeContact, ModeUnknown}).Draw(t, "mode")
	if c.Mode != ModeUnknown && rapid.Bool().Draw(t, "link") {
		c.Link = &NewLink{SenderID: drawShort(t, "sender"), Data: drawLinkData(t)}
		if c.Mode == ModeContact {
			c.Link.LinkID = drawShort(t, "link id")
		}
	}
	if v >= VersionNotifierInNew && rapid.Bool().Draw(t, "notifier") {
		c.Notifier = &NotifierKeys{Key: drawAuthKey(t), DHKey: drawKey(t, X25519)}
	}
	return c
}

func drawPRXY(t *rapid.T) *PRXY {
	c := &PRXY{
		Port:        rapid.Uint16().Draw(t, "port"),
		Fingerprint: Fingerprint{string(drawBytes(t, "fingerprint", 0, 255))},
		Password:    drawPassword(t),
	}
	for _, name := range rapid.SliceOfN(rapid.StringMatching(`[a-z0-9.-]{1,40}(\.onion)?`), 1, 5).Draw(t, "hosts") {
		h, err := ParseHost(name)
		if err != nil {
			t.Fatal(err)
		}
		c.Hosts = append(c.Hosts, h)
	}
	return c
}

func TestCommandRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := drawVersion(t)
		subscribed := Subscribed{Count: NotChecked}
		if v >= VersionServiceHashes {
			subscribed = Subscribed{Count: rapid.Int64().Draw(t, "count"), Hash: IDsHash(drawBytes(t, "hash", 16, 16))}
		}
		for _, want := range []Command{
			drawNEW(t, v),
			drawPRXY(t),
			&KEY{drawAuthKey(t)},
			&RKEY{[]PublicKey{drawAuthKey(t), drawAuthKey(t)}},
			&LSET{LinkID: drawShort(t, "link"), Data: drawLinkData(t)},
			&NKEY{NotifierKeys{drawAuthKey(t), drawKey(t, X25519)}},
			&ACK{drawShort(t, "message")},
			&SEND{Notify: rapid.Bool().Draw(t, "notify"), Body: drawBytes(t, "body", 0, 2000)},
			&SUBS{subscribed},
			&NSUBS{subscribed},
			&PFWD{Version: Version(rapid.Uint16().Draw(t, "forwarded version")), Key: drawKey(t, X25519), Encrypted: drawBytes(t, "encrypted", 0, 100)},
		} {
			got, err := ParseCommand(want.Append(nil, v), v)
			if diff := cmp.Diff(want, got, sameMeaning); diff != "" || err != nil {
				t.Fatalf("version %d: %v (-want +got):\n%s", v, err, diff)
			}
		}
	})
}

func TestResponseRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := drawVersion(t)
		ids := &IDS{RecipientID: drawShort(t, "recipient"), SenderID: drawShort(t, "sender"), DHKey: drawKey(t, X25519)}
		if v >= VersionSenderSecures {
			ids.Mode = rapid.SampledFrom([]QueueMode{ModeMessaging, ModeContact}).Draw(t, "mode")
		}
		if v >= VersionLinks {
			ids.LinkID = drawShort(t, "link")
		}
		if v >= VersionServices {
			ids.ServiceID = drawShort(t, "service")
		}
		if v >= VersionNotifierInNew && rapid.Bool().Draw(t, "notifier") {
			ids.Notifier = &NewNotifierID{NotifierID: drawShort(t, "notifier id"), DHKey: drawKey(t, X25519)}
		}
		counted := Subscribed{Count: rapid.Int64().Draw(t, "count")}
		if v >= VersionServiceHashes {
			counted.Hash = IDsHash(drawBytes(t, "hash", 16, 16))
		}
		chain := rapid.SliceOfN(rapid.SliceOf(rapid.Byte()), 1, MaxCertificates).Draw(t, "chain")
		low := rapid.Uint16().Draw(t, "min")
		for _, want := range []Response{
			ids,
			&LNK{SenderID: drawShort(t, "sender"), Data: drawLinkData(t)},
			&SOKS{counted},
			&ENDS{counted},
			&MSG{MsgID: drawShort(t, "message"), Body: drawBytes(t, "body", 0, 2000)},
			&NMSG{Nonce: [NonceSize]byte(drawBytes(t, "nonce", NonceSize, NonceSize)), Meta: drawShort(t, "meta")},
			&PKEY{
				SessionID: drawShort(t, "session"),
				Versions:  VersionRange{Version(low), Version(rapid.Uint16Min(low).Draw(t, "max"))},
				Key:       SignedKey{Chain: chain, Key: drawBytes(t, "key", 0, 300)},
			},
			&ERR{StoreError{rapid.String().Draw(t, "text")}},
		} {
			got, err := ParseResponse(want.Append(nil, v), v)
			if diff := cmp.Diff(want, got, sameMeaning); diff != "" || err != nil {
				t.Fatalf("version %d: %v (-want +got):\n%s", v, err, diff)
			}
		}
	})
}
