package smp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	testFingerprint = "LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI="
	onion           = "jjbyvoemxysm7qxap7m5d5m35jzv5qq6gnlv7s4rsn7tdwwmuqciwpid.onion"
	testDH          = "MCowBQYDK2VuAyEAfCnLkvfg7C-4XaAa2FLbWytCWzd2rXaek0MAwrz7knA="
	testSender      = "uJgJ9zP9OjVp1Cwvsu8EnJqcsv2jrNTT"
	testE2E         = "v%3D2-3%26x3dh%3DMEIwBQYDK2VvAzkAUuoOz2O9WGqgPdDHPwlEIK6vT87Axz9u9K2h5M2cF5rCRhoRlZr5iwxPeLRVKfSW8aPbFZRFP6o%3D%2CMEIwBQYDK2VvAzkALblGwpZh-wE-KYlfg1wvOjZQaLYMh69OuxLRx6KYiKXE5s3O69nass25LA_HKxAoE-6kG8hRZwI%3D"
	linkKey         = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"
	linkID24        = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"
)

// addresses are valid ones. Those without canonical text are it themselves. The
// links of 127.0.0.1 were made by the real agent.
var addresses = []struct{ name, text, canonical string }{
	{"router", "smp://" + testFingerprint + "@127.0.0.1:7301", ""},
	{"router, no port", "smp://" + testFingerprint + "@smp.example.org", ""},
	{"router, password, onion", "smp://" + testFingerprint + ":pass-word@smp.example.org," + onion + ":443", ""},
	{"router, unpadded", "smp://" + strings.TrimRight(testFingerprint, "=") + "@smp.example.org", "smp://" + testFingerprint + "@smp.example.org"},
	{"router, IPv6", "smp://" + testFingerprint + "@[2001:db8::1]", ""},
	{"router, IPv6, port", "smp://" + testFingerprint + "@[2001:db8::1]:5223", ""},
	{"router, IPv6 without brackets", "smp://" + testFingerprint + "@2001:db8::1", "smp://" + testFingerprint + "@[2001:db8::1]"},
	{"router, hosts of all kinds", "smp://" + testFingerprint + "@smp.example.org,192.0.2.1,[::1]," + onion, ""},

	{"queue", "smp://" + testFingerprint + "@127.0.0.1:7301/" + testSender + "#/?v=1-4&dh=" + testDH[:len(testDH)-1] + "%3D&q=m&k=s", ""},
	{"queue, short fingerprint", "smp://1234-w==@smp.simplex.im," + onion + ":5223/3456-w==#/?v=2-4&dh=" + testDH[:len(testDH)-1] + "%3D&q=m&k=s", ""},
	{"queue, contact", "smp://" + testFingerprint + "@a.example/AAAA#/?v=4&dh=" + testDH[:len(testDH)-1] + "%3D&q=c", ""},
	{"queue, hosts in a parameter", "smp://" + testFingerprint + "@a.example:1/AAAA#/?v=1-4&dh=" + testDH[:len(testDH)-1] + "%3D&srv=b.example%2C" + onion, ""},
	{
		"queue, other order and form", "smp://" + testFingerprint + "@a.example/AAAA/#/?new=1&k=s&dh=" + testDH + "&v=2-2",
		"smp://" + testFingerprint + "@a.example/AAAA#/?v=2&dh=" + testDH[:len(testDH)-1] + "%3D&q=m&k=s",
	},
	{
		"queue, oldest form", "smp://" + testFingerprint + "@a.example/AAAA#" + testDH,
		"smp://" + testFingerprint + "@a.example/AAAA#/?v=1&dh=" + testDH[:len(testDH)-1] + "%3D",
	},

	{"invitation", "simplex:/invitation#/?v=2-7&smp=smp%3A%2F%2FLcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI%3D%40127.0.0.1%3A7301%2FuJgJ9zP9OjVp1Cwvsu8EnJqcsv2jrNTT%23%2F%3Fv%3D1-4%26dh%3DMCowBQYDK2VuAyEAfCnLkvfg7C-4XaAa2FLbWytCWzd2rXaek0MAwrz7knA%253D%26q%3Dm%26k%3Ds&e2e=" + testE2E, ""},
	{"contact", "simplex:/contact#/?v=2-7&smp=smp%3A%2F%2FLcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI%3D%40127.0.0.1%3A7301%2FYD9Ft2onPmAE4VKlXCKpEDlJ2PO5HQjv%23%2F%3Fv%3D1-4%26dh%3DMCowBQYDK2VuAyEAGL7vZ_MipAp67MQA9Le0CP4aPb0-vypwRrj5zUVpngA%253D%26q%3Dc", ""},
	{
		"contact, web", "https://simplex.chat/contact/#/?v=2-7&smp=smp%3A%2F%2FLcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI%3D%40127.0.0.1%3A7301%2FGlBvolLUy77197qnHJvh26MlKi1kA7wf%23%2F%3Fv%3D1-4%26dh%3DMCowBQYDK2VuAyEAEEQV8A6Goc_htx5DQmPU0MDkwv0Q1U4zh4OSNSrCcFI%253D%26q%3Dc",
		"https://simplex.chat/contact#/?v=2-7&smp=smp%3A%2F%2FLcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI%3D%40127.0.0.1%3A7301%2FGlBvolLUy77197qnHJvh26MlKi1kA7wf%23%2F%3Fv%3D1-4%26dh%3DMCowBQYDK2VuAyEAEEQV8A6Goc_htx5DQmPU0MDkwv0Q1U4zh4OSNSrCcFI%253D%26q%3Dc",
	},
	{"contact, two queues, data", "simplex:/contact#/?v=2-7&smp=smp%3A%2F%2F1234-w%3D%3D%40a.example%2FAAAA%23%2F%3Fv%3D4%26dh%3DMCowBQYDK2VuAyEAGL7vZ_MipAp67MQA9Le0CP4aPb0-vypwRrj5zUVpngA%253D%3Bsmp%3A%2F%2F1234-w%3D%3D%40b.example%2FAAAA%23%2F%3Fv%3D4%26dh%3DMCowBQYDK2VuAyEAGL7vZ_MipAp67MQA9Le0CP4aPb0-vypwRrj5zUVpngA%253D&data=%7B%22groupLinkId%22%3A1%7D", ""},

	{"short invitation of an agent", "https://127.0.0.1/i#pqdb-jHnMG_vGHAsu2_mTITRAslKS0_e/N4gJRsU5kx2bqRy1MerrGmfQSEx4N8gTxm_HxTKKZz0?p=7301&c=LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI", ""},
	{"short contact of an agent", "https://127.0.0.1/a#KTcOMOEgpw3pqbPtpd8bt6uEYXTP_Gmol5r6un8fBZ8?p=7301&c=LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI", ""},
	{"short contact", "https://smp.simplex.im/a#" + linkKey + "?h=" + onion + "&p=5223&c=1234-w", ""},
	{"short invitation", "simplex:/i#" + linkID24 + "/" + linkKey + "?h=smp.simplex.im", ""},
	{"short group of a known router", "https://smp.simplex.im/g#" + linkKey, ""},
	{"short channel without hosts", "simplex:/c#" + linkKey, ""},
	{"short relay, capital, slash, padding", "https://smp.simplex.im/R/#" + linkKey + "=", "https://smp.simplex.im/r#" + linkKey},
}

var wrongAddresses = []string{
	"",
	"smp:/",
	"smp://",
	"smp://" + testFingerprint,
	"smp://" + testFingerprint + "@",
	"smp://" + testFingerprint + "@:5223",
	"smp://" + testFingerprint + "@a.example:0",
	"smp://" + testFingerprint + "@a.example:05223",
	"smp://" + testFingerprint + "@a.example:65536",
	"smp://" + testFingerprint + "@a.example:",
	"smp://" + testFingerprint + "@a.example,,b.example",
	"smp://" + testFingerprint + "@a b",
	"smp://" + testFingerprint + "@[::1",
	"smp://" + testFingerprint + "@[a.example]",
	"smp://" + testFingerprint + "@fe80::1%eth0",
	"smp://" + testFingerprint + "@" + strings.Repeat("a,", 255) + "a",
	"smp://" + testFingerprint + "@" + strings.Repeat("a", 256),
	"smp://" + testFingerprint + ":@a.example",
	"smp://" + testFingerprint + ":a:b@a.example",
	"smp://" + testFingerprint + ":a\tb@a.example",
	"smp://@a.example",
	"smp://!!@a.example",
	"smp://" + testFingerprint + ":pwd@a.example/AAAA#" + testDH,
	"smp://" + testFingerprint + "@a.example/AAAA",
	"smp://" + testFingerprint + "@a.example/AAAA#",
	"smp://" + testFingerprint + "@a.example/#" + testDH,
	"smp://" + testFingerprint + "@a.example/AAAA#/?v=1",
	"smp://" + testFingerprint + "@a.example/AAAA#/?dh=" + testDH,
	"smp://" + testFingerprint + "@a.example/AAAA#/?v=3-2&dh=" + testDH,
	"smp://" + testFingerprint + "@a.example/AAAA#/?v=1-99999&dh=" + testDH,
	"smp://" + testFingerprint + "@a.example/AAAA#/?v=1&q=x&dh=" + testDH,
	"smp://" + testFingerprint + "@a.example/AAAA#/?v=1&srv=&dh=" + testDH,
	"smp://" + testFingerprint + "@a.example/AAAA#/?v=1&dh=%zz",
	"smp://" + testFingerprint + "@a.example/AAAA#MCowBQYDK2VwAyEAiojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=",
	"#a",
	"simplex:",
	"simplex:/",
	"simplex:/other#/?v=1",
	"simplex:/contact",
	"simplex:/contact#/?v=1",
	"simplex:/invitation#/?smp=x",
	"https://simplex.chat",
	"https:///a#" + linkKey,
	"https://a.example:443/a#" + linkKey,
	"https://a.example/x#" + linkKey,
	"https://a.example/I#" + linkID24 + "/" + linkKey,
	"https://a.example/i#" + linkKey,
	"https://a.example/i#/" + linkKey,
	"https://a.example/a#" + linkID24 + "/" + linkKey,
	"https://a.example/a#" + linkID24,
	"https://a.example/a#" + linkKey + "?p=x",
	"https://a.example/a#" + linkKey + "?h=",
	"https://a.example/a#" + linkKey + "?c=",
}

func TestAddresses(t *testing.T) {
	for _, c := range addresses {
		want := c.canonical
		if want == "" {
			want = c.text
		}
		a, err := ParseAddress(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := string(a.AppendReveal(nil)); got != want {
			t.Errorf("%s: got\n%s, want\n%s", c.name, got, want)
		}
	}
	for _, text := range wrongAddresses {
		if a, err := ParseAddress(text); err == nil {
			t.Errorf("%s was taken for %#v", text, a)
		}
	}
}

func parseAddress[A Address](t *testing.T, text string) A {
	t.Helper()
	parsed, err := ParseAddress(text)
	if err != nil {
		t.Fatal(err)
	}
	a, ok := parsed.(A)
	if !ok {
		t.Fatalf("%s was taken for %T", text, parsed)
	}
	return a
}

func TestAddressParts(t *testing.T) {
	router := parseAddress[*RouterAddress](t, "smp://"+testFingerprint+":pass-word@smp.example.org,192.0.2.1,::1,"+onion+":443")
	kinds := map[string]HostKind{}
	for _, h := range router.Hosts {
		kinds[h.String()] = h.Kind()
	}
	if diff := cmp.Diff(map[string]HostKind{"smp.example.org": HostName, "192.0.2.1": HostIPv4, "::1": HostIPv6, onion: HostOnion}, kinds); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}
	if router.Fingerprint.String() != testFingerprint || router.Password.Reveal() != "pass-word" || router.Port != 443 || router.PortOrDefault() != 443 {
		t.Errorf("got %s, %s, %d", router.Fingerprint, router.Password.Reveal(), router.Port)
	}
	router, err := ParseRouterAddress("smp://" + testFingerprint + "@smp.example.org")
	if err != nil || router.PortOrDefault() != 5223 {
		t.Errorf("got %v, %v", router, err)
	}
	if router, err := ParseRouterAddress(addresses[8].text); err == nil {
		t.Errorf("the address of a queue was taken for %v", router)
	}

	queue := parseAddress[*QueueAddress](t, addresses[11].text)
	if len(queue.Router.Hosts) != 3 || queue.Router.Hosts[2].Kind() != HostOnion || queue.Versions != (ClientVersions{1, 4}) || queue.Mode != ModeUnknown {
		t.Errorf("got %+v", queue)
	}

	invitation := parseAddress[*ConnectionLink](t, addresses[14].text)
	q := invitation.Queues[0]
	if invitation.Kind != Invitation || q.SenderID.String() != testSender || q.DHKey.String() != testDH || q.Mode != ModeMessaging || q.Router.Port != 7301 {
		t.Errorf("got %+v, %+v", invitation, q)
	}
}

// The agent that made the link stored this id of it.
func TestShortLinkID(t *testing.T) {
	contact := parseAddress[*ShortLink](t, "https://127.0.0.1/a#KTcOMOEgpw3pqbPtpd8bt6uEYXTP_Gmol5r6un8fBZ8?p=7301&c=LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI")
	if got, want := contact.ID(), NewEntityID(unhex(t, "cee4eaa014a067807d1fefc6b29d72953f4d70569e456d90")); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	invitation := parseAddress[*ShortLink](t, "simplex:/i#"+linkID24+"/"+linkKey)
	if got := invitation.ID().String(); got != linkID24 {
		t.Errorf("got %s, want %s", got, linkID24)
	}
}

// A fingerprint is the hash of the whole certificate.
func TestFingerprint(t *testing.T) {
	ca := unhex(t, "3081dd308190a003020102020101300506032b6570300d310b300906035504030c0243413020170d3235303130313030303030305a180f32313235303130313030303030305a300d310b300906035504030c024341302a300506032b657003210079b5562e8fe654f94078b112e8a98ba7901f853ae695bed7e0e3910bad049664a3133011300f0603551d130101ff040530030101ff300506032b657003410086527344d6c115cfc37c43317bb71a8ec012eb1e346651bb8772647824b009d6b64db87a683f930a78ca2cc2f9dbdabee0af9b38f6f9de77d6f945d5d28e480a")
	if got, want := FingerprintOf(ca).String(), "B2qpb6oh02iwLmGqXnMM9bV-bnagDo-fdiNboHYKATI="; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Passwords and keys of links do not get into logs, errors or JSON by themselves.
func TestAddressesHideSecrets(t *testing.T) {
	router := parseAddress[*RouterAddress](t, "smp://"+testFingerprint+":hunter2@smp.example.org")
	link := parseAddress[*ShortLink](t, "https://smp.simplex.im/a#"+linkKey)
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).LogAttrs(t.Context(), slog.LevelInfo, "x",
		slog.Any("password", router.Password), slog.Any("key", link.Key), slog.Any("router", router), slog.Any("link", link))
	text, err := json.Marshal([]any{router, link, router.Password, link.Key})
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []string{
		log.String(), string(text),
		router.String(), link.String(),
		fmt.Sprintf("%s %v %+v %#v %q", router.Password, router.Password, router.Password, router.Password, router.Password),
		fmt.Sprintf("%s %v %+v %#v %q", link.Key, link.Key, link.Key, link.Key, link.Key),
		fmt.Sprintf("%v %+v %#v", *router, *router, router),
		fmt.Sprintf("%v %+v %#v", *link, *link, link),
	} {
		for _, secret := range []string{"hunter2", linkKey, "0123456789abcdef", "30313233"} {
			if strings.Contains(got, secret) {
				t.Errorf("a secret shows itself: %s", got)
			}
		}
	}
	if link.Key.Reveal() != linkKey+"=" || !bytes.Contains(router.AppendReveal(nil), []byte(":hunter2@")) {
		t.Error("secrets were not revealed where asked for")
	}
}

func TestPasswords(t *testing.T) {
	for _, text := range []string{"", "a b", "a@b", "a:b", "a/b", "a\n", "\x7f", "\x80", "\xa0", "\xad", strings.Repeat("x", 256)} {
		if _, err := ParsePassword(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
	for _, text := range []string{"a", "!\"#$%&'()*+,-.", "\xa1\xff", strings.Repeat("x", 255)} {
		p, err := ParsePassword(text)
		if err != nil || p.Reveal() != text {
			t.Errorf("%q: got %q, %v", text, p.Reveal(), err)
		}
	}
	a := Password{"abc"}
	if !a.Equal(Password{"abc"}) || a.Equal(Password{"abd"}) || a.Equal(Password{}) {
		t.Error("passwords are compared wrongly")
	}
}

// The id of a queue is found in all addresses of queues.
func TestParseQueueID(t *testing.T) {
	queueAddress := "smp://" + testFingerprint + "@127.0.0.1:7301/" + testSender + "#/?v=1-4&dh=" + testDH[:len(testDH)-1] + "%3D"
	for _, c := range []struct{ text, want string }{
		{testSender, testSender},
		{queueAddress, testSender},
		{"simplex:/i#" + linkID24 + "/" + linkKey + "?h=smp.simplex.im", linkID24},
		{addressNamed(t, "contact"), "YD9Ft2onPmAE4VKlXCKpEDlJ2PO5HQjv"},
	} {
		id, err := ParseQueueID(c.text)
		if err != nil || id.String() != c.want {
			t.Errorf("%s: %s, %v; want %s", c.text, id, err, c.want)
		}
	}
	contact := addressNamed(t, "short contact")
	a, err := ParseAddress(contact)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := ParseQueueID(contact); err != nil || id != a.(*ShortLink).ID() {
		t.Errorf("%s, %v", id, err)
	}
	for text, want := range map[string]string{
		"!": "base64url",
		"smp://" + testFingerprint + "@127.0.0.1:7301": "that of a router",
		addressNamed(t, "contact, two queues, data"):   "2 queues",
		"https://example.org/a#" + linkKey[1:]:         "short link",
	} {
		_, err := ParseQueueID(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), linkKey[1:]) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func addressNamed(t *testing.T, name string) string {
	t.Helper()
	for _, a := range addresses {
		if a.name == name {
			return a.text
		}
	}
	t.Fatalf("no address named %q", name)
	return ""
}
