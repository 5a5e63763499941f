package smp

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// A golden is a line of testdata/commands.txt or responses.txt.
type golden struct {
	name     string
	versions VersionRange
	wire     []byte
}

func readGolden(t testing.TB, file string) (cases []golden) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string][]byte{}
	for i, line := range strings.Split(string(text), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		if name, value, ok := strings.Cut(line, " = "); ok && !strings.Contains(name, "|") {
			names[strings.TrimSpace(name)] = readEncoding(t, names, value)
			continue
		}
		fields := strings.SplitN(line, "|", 3)
		if len(fields) != 3 {
			t.Fatalf("%s:%d: not a case", file, i+1)
		}
		low, high, isRange := strings.Cut(strings.TrimSpace(fields[1]), "-")
		if !isRange {
			high = low
		}
		c := golden{name: strings.TrimSpace(fields[0]), wire: readEncoding(t, names, fields[2])}
		if _, err := fmt.Sscan(low+" "+high, &c.versions.Min, &c.versions.Max); err != nil {
			t.Fatalf("%s:%d: %v", file, i+1, err)
		}
		cases = append(cases, c)
	}
	return cases
}

// readEncoding reads hex, quoted text, in which ' stands for ", and names.
func readEncoding(t testing.TB, names map[string][]byte, text string) (out []byte) {
	t.Helper()
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		if rest, ok := strings.CutPrefix(text, `"`); ok {
			var quoted string
			quoted, text, _ = strings.Cut(rest, `"`)
			out = append(out, strings.ReplaceAll(quoted, "'", `"`)...)
			continue
		}
		var word string
		word, text, _ = strings.Cut(text, " ")
		if named, ok := names[word]; ok {
			out = append(out, named...)
			continue
		}
		out = append(out, unhex(t, word)...)
	}
	return out
}

// sameMeaning compares what was parsed: nil and empty are the same.
var sameMeaning = cmp.Options{
	cmpopts.EquateEmpty(),
	cmp.Exporter(func(reflect.Type) bool { return true }),
}

func short(t testing.TB, b []byte) Short {
	t.Helper()
	s, err := NewShort(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// seq returns n bytes that count upwards, as the test vectors have them.
func seq(first byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

func seqShort(t testing.TB, first byte, n int) Short {
	t.Helper()
	return short(t, seq(first, n))
}

func key(t testing.TB, a Algorithm, raw string) PublicKey {
	t.Helper()
	k, err := ParsePublicKey([]byte(keyForms[a-1].prefix + string(unhex(t, raw))))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// goldenCommands are the commands of testdata/commands.txt.
func goldenCommands(t testing.TB) map[string]Command {
	t.Helper()
	recipient := key(t, Ed25519, "4fd099ccd47d7893dfe9ec24414ecb0d9b5420232aad30d91c465be33cbe65c4")
	recipientDH := key(t, X25519, "79a631eede1bf9c98f12032cdeadd0e7a079398fc786b88cc846ec89af85a51a")
	sender := key(t, Ed25519, "e7f162a10bec559afea195e4dce84b69568d5d2cb0963eb446c0685e2b17f2f0")
	senderX := key(t, X25519, "493e82fc74464a59268817623d2053c5eb8e2cc4a988b4fee179ec6b010d531d")
	ed448 := key(t, Ed448, "f4c0eecfc7f17d960823180420fb8074d882317a39a719480d3ba6e7f565fc518a4ff54ef7dca5df5de9bb3740384c84ecac265c81398c3400")
	command := key(t, X25519, "3a553d74792d727efa9b9a4cde3da1ad93f1a2d0c09cb639b1a3c0fda14cbe24")
	fingerprint := Fingerprint{string(unhex(t, "076aa96faa21d368b02e61aa5e730cf5b57e6e76a00e8f9f76235ba0760a0132"))}
	password := Password{"pwd"}
	data := LinkData{Fixed: []byte("fixed"), User: []byte("user")}
	senderID := short(t, unhex(t, "30195dcc8969a3d020b2060b636820e1fbf7c447a408059a"))
	linkID := seqShort(t, 0xb0, 24)
	link, contactLink := &NewLink{SenderID: senderID, Data: data}, &NewLink{LinkID: linkID, SenderID: senderID, Data: data}
	notifier := NotifierKeys{Key: sender, DHKey: recipientDH}
	two := Subscribed{Count: 2}
	for _, id := range []Short{seqShort(t, 0x50, 24), seqShort(t, 0x70, 24)} {
		two.Hash = two.Hash.Toggle(id.ID())
	}
	host := func(text string) Host {
		h, err := ParseHost(text)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	return map[string]Command{
		"NEW, create only":                &NEW{RecipientKey: recipient, DHKey: recipientDH},
		"NEW, subscribe":                  &NEW{RecipientKey: recipient, DHKey: recipientDH, Subscribe: true},
		"NEW, password, create only":      &NEW{RecipientKey: recipient, DHKey: recipientDH, Password: password},
		"NEW, messaging, subscribe":       &NEW{RecipientKey: recipient, DHKey: recipientDH, Subscribe: true, Mode: ModeMessaging},
		"NEW, contact, password":          &NEW{RecipientKey: recipient, DHKey: recipientDH, Password: password, Mode: ModeContact},
		"NEW, contact, password, no link": &NEW{RecipientKey: recipient, DHKey: recipientDH, Password: password, Mode: ModeContact},
		"NEW, messaging, link":            &NEW{RecipientKey: recipient, DHKey: recipientDH, Subscribe: true, Mode: ModeMessaging, Link: link},
		"NEW, contact, link":              &NEW{RecipientKey: recipient, DHKey: recipientDH, Subscribe: true, Mode: ModeContact, Link: contactLink},
		"NEW, messaging, notifier":        &NEW{RecipientKey: recipient, DHKey: recipientDH, Subscribe: true, Mode: ModeMessaging, Notifier: &notifier},
		"SUB":                             &SUB{},
		"KEY, Ed25519":                    &KEY{sender},
		"KEY, X25519":                     &KEY{senderX},
		"KEY, Ed448":                      &KEY{ed448},
		"RKEY, one key":                   &RKEY{[]PublicKey{recipient}},
		"RKEY, two keys":                  &RKEY{[]PublicKey{recipient, ed448}},
		"LSET":                            &LSET{LinkID: linkID, Data: data},
		"LDEL":                            &LDEL{},
		"NKEY":                            &NKEY{notifier},
		"NDEL":                            &NDEL{},
		"GET":                             &GET{},
		"ACK":                             &ACK{MsgID: seqShort(t, 0x90, 24)},
		"ACK, of any message":             &ACK{},
		"OFF":                             &OFF{},
		"DEL":                             &DEL{},
		"QUE":                             &QUE{},
		"SKEY":                            &SKEY{sender},
		"SEND, notify":                    &SEND{Notify: true, Body: []byte("hello")},
		"SEND, silent":                    &SEND{Body: []byte("hello")},
		"SEND, empty":                     &SEND{},
		"LKEY":                            &LKEY{sender},
		"LGET":                            &LGET{},
		"PING":                            &PING{},
		"NSUB":                            &NSUB{},
		"SUBS, not checked":               &SUBS{Subscribed{Count: NotChecked}},
		"SUBS, two queues":                &SUBS{two},
		"NSUBS, not checked":              &NSUBS{Subscribed{Count: NotChecked}},
		"NSUBS, two queues":               &NSUBS{two},
		"NSUBS, no queues":                &NSUBS{},
		"PRXY":                            &PRXY{Hosts: []Host{host("smp.example.org"), host("abc.onion")}, Port: 5223, Fingerprint: fingerprint},
		"PRXY, password, default port":    &PRXY{Hosts: []Host{host("127.0.0.1")}, Fingerprint: fingerprint, Password: password},
		"PRXY, IPv6":                      &PRXY{Hosts: []Host{host("::1")}, Port: 443, Fingerprint: fingerprint},
		"PFWD":                            &PFWD{Version: 18, Key: command, Encrypted: []byte("encrypted")},
		"RFWD":                            &RFWD{Encrypted: []byte("encrypted")},
	}
}

// goldenResponses are the responses of testdata/responses.txt, without those
// whose name is the text of an error.
func goldenResponses(t testing.TB) map[string]Response {
	t.Helper()
	routerDH := key(t, X25519, "675dd574ed7789310b3d2e7681f3790b466c773b1521fecf36577958371ea52f")
	notifierDH := key(t, X25519, "8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f")
	recipientID, senderID, messageID := seqShort(t, 0x50, 24), seqShort(t, 0x70, 24), seqShort(t, 0x90, 24)
	linkID, serviceID := seqShort(t, 0xb0, 24), seqShort(t, 0xd0, 24)
	notifier := NewNotifierID{NotifierID: seqShort(t, 1, 24), DHKey: notifierDH}
	encrypted := []byte("encrypted")
	two := Subscribed{Count: 2}
	for _, id := range []Short{recipientID, senderID} {
		two.Hash = two.Hash.Toggle(id.ID())
	}
	ids := IDS{RecipientID: recipientID, SenderID: senderID, DHKey: routerDH}
	with := func(change func(*IDS)) *IDS {
		r := ids
		change(&r)
		return &r
	}
	hour := Blocking{Reason: "spam", HasNotice: true, Notice: Notice{TTL: 3600, HasTTL: true}}
	responses := map[string]Response{
		"IDS":                         &ids,
		"IDS, messaging":              with(func(r *IDS) { r.Mode = ModeMessaging }),
		"IDS, contact":                with(func(r *IDS) { r.Mode = ModeContact }),
		"IDS, contact, link":          with(func(r *IDS) { r.Mode, r.LinkID = ModeContact, linkID }),
		"IDS, contact, link, service": with(func(r *IDS) { r.Mode, r.LinkID, r.ServiceID = ModeContact, linkID, serviceID }),
		"IDS, contact, link, service, notifier": with(func(r *IDS) {
			r.Mode, r.LinkID, r.ServiceID, r.Notifier = ModeContact, linkID, serviceID, &notifier
		}),
		"LNK":          &LNK{SenderID: senderID, Data: LinkData{Fixed: []byte("fixed"), User: []byte("user")}},
		"SOK":          &SOK{},
		"SOK, service": &SOK{ServiceID: serviceID},
		"SOKS":         &SOKS{Subscribed{Count: 2}},
		"SOKS, hash":   &SOKS{two},
		"NID":          &NID{notifier},
		"PKEY": &PKEY{SessionID: seqShort(t, 0x10, 32), Versions: VersionRange{8, 18}, Key: SignedKey{
			Chain: [][]byte{[]byte("leaf"), []byte("CA")}, Key: []byte("key"),
		}},
		"RRES":       &RRES{encrypted},
		"PRES":       &PRES{encrypted},
		"INFO":       &INFO{JSON: []byte(`{"qiSnd":false,"qiNtf":false,"qiSize":0}`)},
		"OK":         &OK{},
		"PONG":       &PONG{},
		"MSG":        &MSG{MsgID: messageID, Body: encrypted},
		"ALLS":       &ALLS{},
		"NMSG":       &NMSG{Nonce: [24]byte(seq(0xf0, 24)), Meta: short(t, encrypted)},
		"END":        &END{},
		"ENDS":       &ENDS{Subscribed{Count: 2}},
		"ENDS, hash": &ENDS{two},
		"DELD":       &DELD{},

		"ERR STORE":                          &ERR{StoreError{"disk full"}},
		"ERR BLOCKED":                        &ERR{BlockedError{Blocking{Reason: "content"}}},
		"ERR BLOCKED, notice":                &ERR{BlockedError{hour}},
		"ERR BLOCKED, notice for ever":       &ERR{BlockedError{Blocking{Reason: "spam", HasNotice: true}}},
		"ERR PROXY BASIC_AUTH":               &ERR{ErrProxyPassword},
		"ERR PROXY NO_SESSION":               &ERR{ErrNoSession},
		"ERR PROXY PROTOCOL":                 &ERR{ProxyProtocolError{ErrSyntax}},
		"ERR PROXY PROTOCOL BLOCKED, notice": &ERR{ProxyProtocolError{BlockedError{hour}}},
		"ERR PROXY BROKER RESPONSE":          &ERR{ProxyBrokerError{Kind: BrokerResponse, Text: "what"}},
		"ERR PROXY BROKER UNEXPECTED":        &ERR{ProxyBrokerError{Kind: BrokerUnexpected, Text: "PONG"}},
		"ERR PROXY BROKER NETWORK":           &ERR{ProxyBrokerError{Kind: BrokerNetwork}},
		"ERR PROXY BROKER NETWORK CONNECT":   &ERR{ProxyBrokerError{Kind: BrokerNetwork, Network: NetworkError{NetworkConnect, "refused"}}},
		"ERR PROXY BROKER NETWORK TLS":       &ERR{ProxyBrokerError{Kind: BrokerNetwork, Network: NetworkError{NetworkTLS, "alert"}}},
		"ERR PROXY BROKER NETWORK UNKNOWNCA": &ERR{ProxyBrokerError{Kind: BrokerNetwork, Network: NetworkError{Kind: NetworkUnknownCA}}},
		"ERR PROXY BROKER NETWORK FAILED":    &ERR{ProxyBrokerError{Kind: BrokerNetwork, Network: NetworkError{Kind: NetworkFailed}}},
		"ERR PROXY BROKER NETWORK TIMEOUT":   &ERR{ProxyBrokerError{Kind: BrokerNetwork, Network: NetworkError{Kind: NetworkTimeout}}},
		"ERR PROXY BROKER NETWORK SUBSCRIBE": &ERR{ProxyBrokerError{Kind: BrokerNetwork, Network: NetworkError{NetworkSubscribe, "why"}}},
		"ERR PROXY BROKER TIMEOUT":           &ERR{ProxyBrokerError{Kind: BrokerTimeout}},
		"ERR PROXY BROKER HOST":              &ERR{ProxyBrokerError{Kind: BrokerHost}},
		"ERR PROXY BROKER NO_SERVICE":        &ERR{ProxyBrokerError{Kind: BrokerNoService}},
	}
	for _, e := range []Error{
		ErrBlock, ErrSession, ErrAuth, ErrService, ErrCrypto, ErrQuota, ErrExpired, ErrNoMsg, ErrLargeMsg, ErrInternal,
		ErrUnknown, ErrSyntax, ErrProhibited, ErrNoAuth, ErrHasAuth, ErrNoEntity,
	} {
		responses["ERR "+e.Error()] = &ERR{e}
	}
	for _, e := range []TransportError{
		ErrTransportBlock, ErrTransportVersion, ErrTransportLargeMsg, ErrTransportSession, ErrTransportNoAuth,
		ErrHandshakeParse, ErrHandshakeIdentity, ErrHandshakeBadAuth, ErrHandshakeBadService,
	} {
		responses["ERR PROXY BROKER TRANSPORT "+e.Error()] = &ERR{ProxyBrokerError{Kind: BrokerTransport, Transport: e}}
	}
	return responses
}

// Every command has its golden bytes in every version.
func TestGoldenCommands(t *testing.T) {
	checkGolden(t, "testdata/commands.txt", goldenCommands(t), ParseCommand, map[string]Version{})
}

// Every response has its golden bytes in every version that has it.
func TestGoldenResponses(t *testing.T) {
	checkGolden(t, "testdata/responses.txt", goldenResponses(t), ParseResponse,
		map[string]Version{"SOK": VersionServices, "DELD": VersionDeleted})
}

type encoded interface {
	Append(b []byte, v Version) []byte
}

func checkGolden[T encoded](t *testing.T, file string, values map[string]T, parse func([]byte, Version) (T, error), since map[string]Version) {
	t.Helper()
	versions := map[string]map[Version]bool{} // by type
	unused := maps.Clone(values)
	for _, c := range readGolden(t, file) {
		want, ok := values[c.name]
		if !ok {
			t.Errorf("%s: no value", c.name)
			continue
		}
		delete(unused, c.name)
		kind := reflect.TypeOf(want).Elem().Name()
		if versions[kind] == nil {
			versions[kind] = map[Version]bool{}
		}
		for v := c.versions.Min; v <= c.versions.Max; v++ {
			versions[kind][v] = true
			if got := want.Append(nil, v); !bytes.Equal(got, c.wire) {
				t.Errorf("%s, version %d: encoded as\n%s, want\n%s", c.name, v, hex.Dump(got), hex.Dump(c.wire))
			}
			got, err := parse(c.wire, v)
			if err != nil {
				t.Errorf("%s, version %d: %v", c.name, v, err)
				continue
			}
			if diff := cmp.Diff(want, got, sameMeaning); diff != "" {
				t.Errorf("%s, version %d (-want +got):\n%s", c.name, v, diff)
			}
			checkTruncated(t, c, v, parse)
		}
	}
	if len(unused) > 0 {
		t.Errorf("values without a case: %v", slices.Sorted(maps.Keys(unused)))
	}
	for kind, have := range versions {
		for v := max(MinVersion, since[kind]); v <= MaxVersion; v++ {
			if !have[v] {
				t.Errorf("%s has no case in version %d", kind, v)
			}
		}
	}
}

// checkTruncated checks that what is cut off, or has a byte more, is either
// refused or means something else.
func checkTruncated[T encoded](t *testing.T, c golden, v Version, parse func([]byte, Version) (T, error)) {
	t.Helper()
	variants := [][]byte{append(bytes.Clone(c.wire), 'x')}
	for n := range c.wire {
		variants = append(variants, c.wire[:n])
	}
	for _, in := range variants {
		if got, err := parse(in, v); err == nil && !bytes.Equal(got.Append(nil, v), in) {
			t.Errorf("%s, version %d: %q is taken for %q", c.name, v, in, got.Append(nil, v))
		}
	}
}

// What a version has no form for is sent in the form of before.
func TestOlderForms(t *testing.T) {
	notice := Blocking{Reason: "spam", HasNotice: true, Notice: Notice{TTL: 3600, HasTTL: true}}
	for _, c := range []struct {
		response Response
		version  Version
		want     string
	}{
		{&SOK{}, 15, "OK"},
		{&SOK{ServiceID: seqShort(t, 1, 24)}, 6, "OK"},
		{&DELD{}, 9, "END"},
		{&ERR{BlockedError{notice}}, 11, "ERR AUTH"},
		{&ERR{BlockedError{notice}}, 12, "ERR BLOCKED reason=spam"},
		{&ERR{BlockedError{notice}}, 17, "ERR BLOCKED reason=spam"},
		{&ERR{BlockedError{notice}}, 18, `ERR BLOCKED reason=spam,notice={"ttl":3600}`},
		{&ERR{ProxyProtocolError{BlockedError{notice}}}, 11, `ERR PROXY PROTOCOL BLOCKED reason=spam,notice={"ttl":3600}`},
	} {
		if got := string(c.response.Append(nil, c.version)); got != c.want {
			t.Errorf("%#v in version %d: got %s, want %s", c.response, c.version, got, c.want)
		}
	}
	for _, c := range []struct {
		text    string
		version Version
	}{
		{"SOK 0", 15},
		{"DELD", 9},
		{"ERR BLOCKED reason=spam", 11},
		{`ERR BLOCKED reason=spam,notice={}`, 17},
	} {
		if r, err := ParseResponse([]byte(c.text), c.version); err == nil {
			t.Errorf("%s in version %d was taken for %#v", c.text, c.version, r)
		}
	}
}
