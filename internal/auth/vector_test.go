package auth

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/smpq/smpq/internal/smp"
)

// The vectors were computed by another implementation from the keys and ids
// below.

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// seq returns n bytes that count up from first.
func seq(first byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

func seqKey(t testing.TB, a smp.Algorithm, first byte) PrivateKey {
	t.Helper()
	size := 32
	if a == smp.Ed448 {
		size = 57
	}
	k, err := newPrivateKey(a, seq(first, size))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func agree(t testing.TB, k PrivateKey, peer smp.PublicKey) smp.DHSecret {
	t.Helper()
	s, err := k.Agree(peer)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// checkHex compares got with hexadecimal digits or, if they are long, with their
// number of bytes and the SHA-256 hash.
func checkHex(t testing.TB, what string, got []byte, want string) {
	t.Helper()
	if n, sum, ok := strings.Cut(want, ":"); ok {
		hash := sha256.Sum256(got)
		if fmt.Sprint(len(got)) != n || hex.EncodeToString(hash[:]) != sum {
			t.Errorf("%s: got %d bytes with the hash %x, want %s with %s", what, len(got), hash, n, sum)
		}
		return
	}
	if hex.EncodeToString(got) != want {
		t.Errorf("%s: got\n%x, want\n%s", what, got, want)
	}
}

var (
	sessionID   = seq(0x10, 32)
	corrID      = seq(0x30, 24)
	recipientID = seq(0x50, 24)
	senderID    = seq(0x70, 24)
	messageID   = seq(0x90, 24)
	serviceID   = seq(0xd0, 24)
)

const vectorTime = 1750000000

func TestKeyVectors(t *testing.T) {
	for _, c := range []struct {
		algorithm smp.Algorithm
		first     byte
		want      string
	}{
		{smp.X25519, 0x00, "302a300506032b656e0321008f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f"},
		{smp.X25519, 0x20, "302a300506032b656e032100358072d6365880d1aeea329adf9121383851ed21a28e3b75e965d0d2cd166254"},
		{smp.Ed25519, 0xa0, "302a300506032b65700321004fd099ccd47d7893dfe9ec24414ecb0d9b5420232aad30d91c465be33cbe65c4"},
		{smp.Ed25519, 0xc0, "302a300506032b6570032100dde3bccec7f3a66a1115f45d720f4dc135c3ae7c4e22dca38fdb1efd6a495ff8"},
	} {
		checkHex(t, fmt.Sprintf("%v key of %#x", c.algorithm, c.first), seqKey(t, c.algorithm, c.first).Public().Append(nil), c.want)
	}
}

// The first example of the NaCl distribution: a box, step by step the same.
func TestBoxVector(t *testing.T) {
	dh := secret(t, unhex(t, "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"))
	box := NewBox(dh)
	checkHex(t, "key", box.key[:], "1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
	nonce := NonceOf(unhex(t, "69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37"))
	sealed := box.Seal(nil, nonce, unhex(t, "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffc"+
		"e5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce314adb31"+
		"0e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde"+
		"048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f93776384864"+
		"5e0705"))
	checkHex(t, "box", sealed, "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce"+
		"48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b4da7f011ec48c972"+
		"71d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae"+
		"90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b3"+
		"7973f622a43d14a6599b1f654cb45a74e355a5")
	sealed[20] ^= 1
	if _, err := box.Open(nil, nonce, sealed); !errors.Is(err, ErrOpen) {
		t.Errorf("opening a changed box: got %v, want %v", err, ErrOpen)
	}
}

func TestNonce(t *testing.T) {
	if got, want := NonceOf("abcde"), (Nonce{'a', 'b', 'c', 'd', 'e'}); got != want {
		t.Errorf("nonce of a short id: got %x, want %x", got, want)
	}
	if got, want := NonceOf(seq(1, 30)), Nonce(seq(1, 24)); got != want {
		t.Errorf("nonce of a long id: got %x, want %x", got, want)
	}
	if got := NonceOf(corrID).Reply(); got[0] != 0x47 || got[23] != 0x30 {
		t.Errorf("got the reply nonce %x", got)
	}
}

func TestBlockVectors(t *testing.T) {
	dh := agree(t, seqKey(t, smp.X25519, 0x20), seqKey(t, smp.X25519, 0x00).Public())
	checkHex(t, "secret", dh.Append(nil), "9663aa1da97e848a914a436d04163dfbb89178f107f1b5b77ed3854203382854")
	toClient, toRouter := NewBlockChains(short(t, sessionID), dh)
	checkHex(t, "chains", append(toClient.next[:], toRouter.next[:]...), "539eba71ada821dd8d365ae59acbc4f870734efa7a5c311ccde57dd0020cc61422bb45208dc48ce44c772c9e33460f278d49da7ce47a56f00ef00cd50297aada")
	for _, want := range []struct{ next, key, nonce string }{
		{"6afc5616e6a919e092ed50bc407629f23f4518886adb6e54e9e1cc0d1f5d27eb", "fccadb7ad01bfa22f1e95f21c6be4cce0f55bc20a17e66f6fd40c11154d9ca32", "0f064fcbcb80c47e6337fc97b70667090cf872c6388bfc37"},
		{"c71a675b0fd53f43e38e4a5d75f830d77d94b84366991cb090a2f541b67bc60f", "f618a90ed29d3e7103a5ca6f264c2b41481e8bba417aae58c44875f08aa3f065", "18dca02f34dc94eb692725a357fae4ef808aa44ac136754d"},
	} {
		box, nonce := toClient.step()
		checkHex(t, "next", toClient.next[:], want.next)
		if wantBox := newBox((*[32]byte)(unhex(t, want.key))); *box != *wantBox {
			t.Errorf("got another key than that of %s", want.key)
		}
		checkHex(t, "nonce", nonce[:], want.nonce)
	}
	checkHex(t, "a block to the router", toRouter.Seal(nil, pad(t, batchContent(t), smp.BlockSize-BoxOverhead)),
		"16384:917eadbfaf24bb4f938892b6ec2b2de2a42c972a595b87202f2ae18ef47ba597")
}

// batchContent is a block content of a SUB and a PING.
func batchContent(t testing.TB) []byte {
	t.Helper()
	return unhex(t, "020077407534e7d55eb8341de1b353584be6afc04423862ea782d14989d104cc28f964912b583d138e2271a42327bef29802809ec93d186c334139e7467cc72c7cab08003018303132333435363738393a3b3c3d3e3f404142434445464718505152535455565758595a5b5c5d5e5f6061626364656667535542001f0018303132333435363738393a3b3c3d3e3f40414243444546470050494e47")
}

func pad(t testing.TB, content []byte, size int) []byte {
	t.Helper()
	b, err := smp.AppendPadded(nil, content, size)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// identityHash is the fingerprint of the vectors' certificate authority.
const identityHash = "076aa96faa21d368b02e61aa5e730cf5b57e6e76a00e8f9f76235ba0760a0132"

func TestAuthorizationVectors(t *testing.T) {
	router := seqKey(t, smp.X25519, 0x00)
	certHash := fingerprint(t, unhex(t, identityHash))
	service := ServiceSigner{CertHash: certHash, Key: seqKey(t, smp.Ed25519, 0xc0)}
	sub := smp.Transmission{CorrID: short(t, corrID), EntityID: short(t, recipientID), Command: []byte("SUB")}
	for _, c := range []struct {
		name           string
		transmission   smp.Transmission
		rule           Rule
		key            PrivateKey
		service        *ServiceSigner
		auth, service2 string
	}{
		{
			name: "signature", transmission: sub, rule: ByPartyAndService, key: seqKey(t, smp.Ed25519, 0xa0),
			auth: "7534e7d55eb8341de1b353584be6afc04423862ea782d14989d104cc28f964912b583d138e2271a42327bef29802809ec93d186c334139e7467cc72c7cab0800",
		},
		{
			name: "authenticator", rule: ByParty, key: seqKey(t, smp.X25519, 0x80),
			transmission: smp.Transmission{CorrID: short(t, corrID), EntityID: short(t, senderID), Command: []byte("SEND T hello")},
			auth:         "7199930b64b826cfe5e49034eda4faa7832f90f62df6c29b77d269abaeb93f29982c122cad532d842ad7b834e6f70889711fc5ae40fff31ddb864424c15723205c75361cab62e9a60831b12e7aeea934",
		},
		{
			name: "party and service", transmission: sub, rule: ByPartyAndService, key: seqKey(t, smp.Ed25519, 0xa0), service: &service,
			auth:     "0c125387f1912b7851fd0d480f94c57e402f614508fe5d7eacafffd4197051d0ea927a3ccab81dd7e32c07cbcea4fe3e57098147bb2dedbe93f9aa4613f3d006",
			service2: "0fd4161bc42f465736cae6d17c3b70f5915b883f6dad06704834928d081d7743417836a3b982d9f7789b8b4609338b0bff3df38cdfc082bc2f1ed71b9cdd4408",
		},
		{
			name: "service", rule: ByService, service: &service,
			transmission: smp.Transmission{CorrID: short(t, corrID), EntityID: short(t, serviceID), Command: unhex(t, "535542532000000000000000021084c6f563356795a6a3e84f189cb61000")},
			auth:         "a882ad3d4b49a97007410eee38f7faf0b43f1324f1fd87eb0969a47747dbb7e88b4c7cc935bee2b22383dde1f091199db6e1f29a7841b4ff0245e5c7694ec706",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := c.transmission
			signer := Signer{Session: short(t, sessionID), Router: router.Public(), Service: c.service}
			if err := signer.Authorize(&tr, c.rule, c.key); err != nil {
				t.Fatal(err)
			}
			checkHex(t, "authorization", tr.Auth.Bytes(), c.auth)
			checkHex(t, "service's signature", tr.ServiceAuth.Bytes(), c.service2)

			var identity *ServiceIdentity
			if c.service != nil {
				identity = &ServiceIdentity{CertHash: c.service.CertHash, Key: c.service.Key.Public()}
			}
			v := NewVerifier(short(t, sessionID), router, identity)
			if err := v.Verify(&tr, c.rule, c.key.Public()); err != nil {
				t.Errorf("verify: %v", err)
			}
		})
	}
}

func TestMessageVectors(t *testing.T) {
	dh := agree(t, seqKey(t, smp.X25519, 0x40), seqKey(t, smp.X25519, 0x60).Public())
	checkHex(t, "secret", dh.Append(nil), "d6fb939511b2381bc8599b4b8edc5968829450dfd7a87aebe78a703cd04cd54e")
	for _, c := range []struct {
		message     Message
		plain, want string
	}{
		{
			Message{Time: vectorTime, Notify: true, Body: []byte("hello")},
			"00000000684ee180542068656c6c6f",
			"16122:23d479354974e4709e4a667eeaedddef469083d50dfc0433d81213c94c7424ee",
		},
		{
			Message{Time: vectorTime, Quota: true},
			"51554f54412000000000684ee180",
			"16122:e4c01ed90b2f6a59af844d3a9a60ceae3d79163f2c4ade539e1c7860d5604a9e",
		},
	} {
		checkHex(t, "plain", c.message.append(nil), c.plain)
		sealed, err := SealMessage(nil, dh, NonceOf(messageID), c.message)
		if err != nil {
			t.Fatal(err)
		}
		checkHex(t, "message", sealed, c.want)
	}
	meta := Meta{MsgID: short(t, messageID), Time: vectorTime}
	nonce := NonceOf(unhex(t, "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff0001020304050607"))
	sealed, err := SealMeta(nil, dh, nonce, meta)
	if err != nil {
		t.Fatal(err)
	}
	checkHex(t, "notification", sealed, "ba3d34d69af61c4a3bbbd836ef84091d7ccd7e2b1b0a410ca3f8b4c9c29c27c2a19234678af9de21c21f617d720d4f81c6877c7c5ad4e4655c15a808e0ded3b60d1e713169de6478feca41afd551c117a03aff5ad377a75302e617ad0e2e0f9373c8e07c4591b765d6edf20d2290a0fc3e94c7f931c4efbb53ff793779e09ee7f32686094f72535942a922f961af65c5")
}

func TestForwardingVectors(t *testing.T) {
	router := seqKey(t, smp.X25519, 0x00)
	command, proxy := seqKey(t, smp.X25519, 0xc1), seqKey(t, smp.X25519, 0x45)
	clientSecret, proxySecret := agree(t, command, router.Public()), agree(t, proxy, router.Public())
	checkHex(t, "client's secret", clientSecret.Append(nil), "8a0378067cb280a4cb37897e6f84db4ce66a0ad914b700f49b2d70c1da320a39")
	checkHex(t, "proxy's secret", proxySecret.Append(nil), "d4579d246ac7fe6490d0e39ff9ef75400c457a69604923f8c1f79218aba21828")
	fwdID, proxyID := seq(0x05, 24), seq(0x25, 24)

	inner := unhex(t, "0100804086ee3b7576413d432d19db31e44201b3ee6902c27c1794c9c4f0e11f4f005f76ae33520489376490524bfda0ae438d0a489bfb601799c7c7185b7aec5ddf1e06301805060708090a0b0c0d0e0f101112131415161718191a1b1c18707172737475767778797a7b7c7d7e7f808182838485868753454e4420542068656c6c6f")
	sealed, err := SealCommand(nil, clientSecret, NonceOf(fwdID), inner)
	if err != nil {
		t.Fatal(err)
	}
	checkHex(t, "command", sealed, "16242:0676c404d2f8714335d6516225f8eb57d6b100f805136f0bd4a546e9f5adb115")
	f := Forwarded{CorrID: short(t, fwdID), Version: 18, Key: command.Public(), Sealed: sealed}
	checkHex(t, "RFWD", append([]byte("RFWD "), f.Seal(nil, proxySecret, NonceOf(proxyID))...),
		"16335:0687f1d1f3fee6d8d858a82ed49da1d94cdbf76bb8098a7a6a7d016d57f031b8")

	answer := unhex(t, "010035001805060708090a0b0c0d0e0f101112131415161718191a1b1c18707172737475767778797a7b7c7d7e7f80818283848586874f4b")
	sealed, err = SealCommand(nil, clientSecret, NonceOf(fwdID).Reply(), answer)
	if err != nil {
		t.Fatal(err)
	}
	checkHex(t, "response", sealed, "16242:46c89babf4718592529ea3687b9b705e86cb6ecdcbb98ec4b3302817c46c781a")
	r := ForwardedResponse{CorrID: short(t, fwdID), Sealed: sealed}
	checkHex(t, "RRES", append([]byte("RRES "), r.Seal(nil, proxySecret, NonceOf(proxyID).Reply())...),
		"16288:00f64a5aaa7dc2ce997bd7040bc38ab691bf614fa62ed0b54877b238ad06273c")

	if _, err := SealCommand(nil, clientSecret, NonceOf(fwdID), make([]byte, 16225)); err == nil {
		t.Error("a command of 16,225 bytes was sealed")
	}
}

const (
	caCert   = "3081dd308190a003020102020101300506032b6570300d310b300906035504030c0243413020170d3235303130313030303030305a180f32313235303130313030303030305a300d310b300906035504030c024341302a300506032b657003210079b5562e8fe654f94078b112e8a98ba7901f853ae695bed7e0e3910bad049664a3133011300f0603551d130101ff040530030101ff300506032b657003410086527344d6c115cfc37c43317bb71a8ec012eb1e346651bb8772647824b009d6b64db87a683f930a78ca2cc2f9dbdabee0af9b38f6f9de77d6f945d5d28e480a"
	leafCert = "3081e1308194a003020102020101300506032b6570300d310b300906035504030c0243413020170d3235303130313030303030305a180f32313235303130313030303030305a30143112301006035504030c096c6f63616c686f7374302a300506032b657003210013d9908a70925992ed546007d27f50da68ba7217ef62ac3cca784529ff10471ca310300e300c0603551d130101ff04023000300506032b6570034100cfa64372f5ba9524ccfed2048d90134354b34d44a15ba3a61cc19066433a985973dd7328ae115b1a662e9e57f0c813114c15515714616e64e045a0230fc3880a"
	// signedKey is the router's session key, signed with the key of leafCert.
	signedKey = "3078302c302a300506032b656e0321008f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f300506032b6570034100158a944521e521ee76276f649b8b708ecc9e126bfd5085605a6d1a4c7d62efeabf30c3c0bbdc6801934003c166ae2803dcf0868df78d8944d3e14bb9b3b9ea09"
)

func TestSignedKeyVector(t *testing.T) {
	leaf, session := seqKey(t, smp.Ed25519, 0xe0), seqKey(t, smp.X25519, 0x00)
	signed, err := SignKey(leaf, session.Public())
	if err != nil {
		t.Fatal(err)
	}
	checkHex(t, "signed key", signed, signedKey)

	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	chain, err := VerifyRouterChain([][]byte{unhex(t, leafCert), unhex(t, caCert)}, now)
	if err != nil {
		t.Fatal(err)
	}
	if want := fingerprint(t, unhex(t, identityHash)); chain.Identity != want {
		t.Errorf("got the identity %s, want %s", chain.Identity, want)
	}
	got, err := chain.SessionKey(signed)
	if err != nil || got != session.Public() {
		t.Errorf("got the key %s, %v, want %s", got, err, session.Public())
	}
	for i := range signed {
		changed := bytes.Clone(signed)
		changed[i] ^= 1
		if got, err := chain.SessionKey(changed); !errors.Is(err, ErrSignedKey) {
			t.Errorf("byte %d changed: got %s, %v", i, got, err)
		}
	}
}

func TestBoxRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key")
		nonce := NonceOf(rapid.SliceOfN(rapid.Byte(), 0, 30).Draw(t, "nonce"))
		plain := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "plain")
		dh, err := smp.ParseDHSecret(key)
		if err != nil {
			t.Fatal(err)
		}
		box := NewBox(dh)
		sealed := box.Seal([]byte("before"), nonce, plain)
		if len(sealed) != 6+BoxOverhead+len(plain) {
			t.Fatalf("%d bytes were sealed as %d", len(plain), len(sealed)-6)
		}
		got, err := box.Open(nil, nonce, sealed[6:])
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("got %x, %v, want %x", got, err, plain)
		}
		i := rapid.IntRange(6, len(sealed)-1).Draw(t, "changed byte")
		sealed[i] ^= 0x40
		if _, err := box.Open(nil, nonce, sealed[6:]); !errors.Is(err, ErrOpen) {
			t.Fatalf("a changed box: got %v", err)
		}
	})
}
