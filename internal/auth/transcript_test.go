package auth

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/smp"
)

// An event is a line of a transcript between the real client and the real
// router, with the keys of both; see testdata/README.md.
type event struct {
	N    int    `json:"n"`
	Kind string `json:"ev"`
	Role string `json:"role"`

	Session          hexBytes   `json:"session"`
	SessionKey       hexBytes   `json:"session_private_key_pkcs8"`
	PeerKey          hexBytes   `json:"peer_session_public_key_spki"`
	SessionDH        hexBytes   `json:"session_dh_secret"`
	ChainToClient    hexBytes   `json:"initial_chain_key_1_server_to_client"`
	ChainToRouter    hexBytes   `json:"initial_chain_key_2_client_to_server"`
	PeerCertificates []hexBytes `json:"peer_certs"`
	Service          service    `json:"service"`

	Plain      hexBytes `json:"plain"`
	PlainCut   hexBytes `json:"plain_prefix"` // of long ones in one transcript
	Key        hexBytes `json:"key"`
	Nonce      hexBytes `json:"nonce"`
	WireSHA256 hexBytes `json:"wire_sha256"`

	Command          string   `json:"command"`
	Signed           hexBytes `json:"signed"`
	SignedLen        int      `json:"signed_len"`
	PrivateKey       hexBytes `json:"private_key_pkcs8"`
	Auth             hexBytes `json:"auth"`
	ServiceCertHash  hexBytes `json:"service_cert_hash_prefix_of_entity_signed"`
	ServiceSignature hexBytes `json:"service_signature"`

	RecipientDH     hexBytes `json:"recipient_dh_private_key_pkcs8"`
	RouterDH        hexBytes `json:"server_dh_public_key_spki"`
	RecipientSecret hexBytes `json:"rcv_dh_secret"`
	SenderID        hexBytes `json:"sender_id"`
	SenderKey       hexBytes `json:"sender_private_key_pkcs8"`
	NotifierID      hexBytes `json:"notifier_id"`
	NotifierSecret  hexBytes `json:"rcv_ntf_dh_secret"`

	MsgID         hexBytes `json:"msg_id"`
	PlainUnpadded hexBytes `json:"plain_unpadded"`
	BodyLen       int      `json:"body_len"`

	RelaySession       hexBytes `json:"relay_session"`
	ForwardedVersion   uint16   `json:"forwarded_version"`
	RelayKey           hexBytes `json:"relay_session_public_key"`
	CommandKey         hexBytes `json:"command_private_key_pkcs8"`
	CommandSecret      hexBytes `json:"command_dh_secret"`
	InnerPlain         hexBytes `json:"inner_plain"`
	EncryptedSHA256    hexBytes `json:"encrypted_sha256"`
	FwdPlainSHA256     hexBytes `json:"fwd_transmission_plain_sha256"`
	FwdRespPlainSHA256 hexBytes `json:"fwd_response_plain_sha256"`
	ResponseNonce      hexBytes `json:"response_nonce"`
}

// A service is what a session event says of one, zero in other events.
type service struct {
	CertHash hexBytes `json:"service_cert_hash"`
	Key      hexBytes `json:"service_session_private_key"`
}

func (s *service) UnmarshalJSON(text []byte) error {
	if !bytes.HasPrefix(text, []byte("{")) {
		return nil // the name of a service
	}
	type plain service
	return json.Unmarshal(text, (*plain)(s))
}

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

const transcripts = "../../testdata/smp-server-6.5.5/7-wire"

// eachTranscript runs f for the events of each transcript.
func eachTranscript(t *testing.T, f func(*testing.T, []event)) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(transcripts, "*.jsonl.gz"))
	if err != nil || len(files) == 0 {
		t.Fatalf("found no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".jsonl.gz"), func(t *testing.T) {
			f(t, readTranscript(t, file))
		})
	}
}

func readTranscript(t testing.TB, file string) (events []event) {
	t.Helper()
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		events = append(events, e)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return events
}

func secret(t testing.TB, raw []byte) smp.DHSecret {
	t.Helper()
	s, err := smp.ParseDHSecret(raw)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func privateKey(t testing.TB, pkcs8 []byte) PrivateKey {
	t.Helper()
	k, err := ParsePrivateKey(pkcs8)
	if err != nil {
		t.Fatalf("%x: %v", pkcs8, err)
	}
	return k
}

func parsePublic(t testing.TB, der []byte) smp.PublicKey {
	t.Helper()
	k, err := smp.ParsePublicKey(der)
	if err != nil {
		t.Fatalf("%x: %v", der, err)
	}
	return k
}

func short(t testing.TB, b []byte) smp.Short {
	t.Helper()
	s, err := smp.NewShort(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func fingerprint(t testing.TB, sum []byte) smp.Fingerprint {
	t.Helper()
	f, err := smp.ParseFingerprint(string(smp.AppendBase64(nil, sum)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// parseSigned takes apart what is authorized.
func parseSigned(t testing.TB, signed []byte) (session smp.Short, tr smp.Transmission) {
	t.Helper()
	r := smp.NewBinaryReader(signed)
	session = smp.ReadShort(r)
	tr = smp.Transmission{CorrID: smp.ReadShort(r), EntityID: smp.ReadShort(r), Command: r.Rest()}
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	return session, tr
}

// Signer makes the authorizations of the real client, and Verifier takes them.
func TestTranscriptAuthorizations(t *testing.T) {
	eachTranscript(t, func(t *testing.T, events []event) {
		sessions := make(map[string]event)
		senders := make(map[string]PrivateKey)
		for _, e := range events {
			if len(e.SenderKey) > 0 {
				senders[string(e.SenderID)] = privateKey(t, e.SenderKey)
			}
		}
		for _, e := range events {
			switch e.Kind {
			case "session":
				sessions[string(e.Session)] = e
			case "proxy_client_command":
				checkForwardedAuthorization(t, e, senders)
			case "command":
				if len(e.Auth) == 0 || e.SignedLen != len(e.Signed) {
					continue // not authorized; or cut short in the transcript
				}
				checkAuthorization(t, e, sessions[string(e.Session)])
			}
		}
	})
}

func checkAuthorization(t *testing.T, e, session event) {
	t.Helper()
	id, tr := parseSigned(t, e.Signed)
	key := privateKey(t, e.PrivateKey)
	rule := ByParty
	signer := Signer{Session: id}
	var identity *ServiceIdentity
	if len(session.PeerKey) > 0 {
		signer.Router = parsePublic(t, session.PeerKey)
	}
	if len(session.Service.Key) > 0 {
		s := ServiceSigner{CertHash: fingerprint(t, session.Service.CertHash), Key: privateKey(t, session.Service.Key)}
		signer.Service = &s
		identity = &ServiceIdentity{CertHash: s.CertHash, Key: s.Key.Public()}
	}
	switch e.Command {
	case "NEW", "SUB", "NSUB":
		rule = ByPartyAndService
	case "SUBS", "NSUBS":
		rule = ByService
	}
	if err := signer.Authorize(&tr, rule, key); err != nil {
		t.Errorf("event %d: %v", e.N, err)
		return
	}
	if got := tr.Auth.Bytes(); !bytes.Equal(got, e.Auth) {
		t.Errorf("event %d, %s: got the authorization\n%x, want\n%x", e.N, e.Command, got, e.Auth)
	}
	if got := tr.ServiceAuth.Bytes(); !bytes.Equal(got, e.ServiceSignature) {
		t.Errorf("event %d, %s: got the service's signature\n%x, want\n%x", e.N, e.Command, got, e.ServiceSignature)
	}

	// The private key of the router is not known. For an authenticator, the two
	// ends are alike: either private key with the other's public key will do.
	verifier, queueKey := NewVerifier(id, PrivateKey{}, identity), key.Public()
	if key.Public().Algorithm() == smp.X25519 {
		verifier, queueKey = NewVerifier(id, key, identity), signer.Router
	}
	if err := verifier.Verify(&tr, rule, queueKey); err != nil {
		t.Errorf("event %d, %s: %v", e.N, e.Command, err)
	}
	tr.Command = append(bytes.Clone(tr.Command), ' ')
	if err := verifier.Verify(&tr, rule, queueKey); err == nil {
		t.Errorf("event %d, %s: a changed command was accepted", e.N, e.Command)
	}
}

// checkForwardedAuthorization checks the command inside a proxied one, which is
// authorized for the session between proxy and destination router.
func checkForwardedAuthorization(t *testing.T, e event, senders map[string]PrivateKey) {
	t.Helper()
	parts, err := smp.SplitContent(nil, e.InnerPlain)
	if err != nil || len(parts) != 1 {
		t.Fatalf("event %d: %d transmissions, %v", e.N, len(parts), err)
	}
	tr, err := smp.ParseTransmission(parts[0], smp.Version(e.ForwardedVersion))
	if err != nil {
		t.Fatalf("event %d: %v", e.N, err)
	}
	if tr.Auth.IsEmpty() {
		return
	}
	want := bytes.Clone(tr.Auth.Bytes())
	signer := Signer{Session: short(t, e.RelaySession), Router: parsePublic(t, e.RelayKey)}
	if err := signer.Authorize(&tr, ByParty, senders[string(tr.EntityID.Bytes())]); err != nil {
		t.Fatalf("event %d: %v", e.N, err)
	}
	if got := tr.Auth.Bytes(); !bytes.Equal(got, want) {
		t.Errorf("event %d: got the authorization\n%x, want\n%x", e.N, got, want)
	}
}

// The keys of the handshake agree on the secrets, and from these on the keys, in
// the transcripts; all blocks come out as they were sent.
func TestTranscriptBlocks(t *testing.T) {
	eachTranscript(t, func(t *testing.T, events []event) {
		type chains struct{ put, get *BlockChain }
		sessions := make(map[string]chains)
		for _, e := range events {
			switch {
			case e.Kind == "session" && len(e.SessionDH) > 0:
				dh, err := privateKey(t, e.SessionKey).Agree(parsePublic(t, e.PeerKey))
				if err != nil {
					t.Fatal(err)
				}
				if got := dh.Append(nil); !bytes.Equal(got, e.SessionDH) {
					t.Errorf("event %d: got the secret %x, want %x", e.N, got, e.SessionDH)
				}
				toClient, toRouter := NewBlockChains(short(t, e.Session), dh)
				if len(e.ChainToClient) > 0 && (!bytes.Equal(toClient.next[:], e.ChainToClient) || !bytes.Equal(toRouter.next[:], e.ChainToRouter)) {
					t.Errorf("event %d: got the chains %x and %x, want %x and %x", e.N, toClient.next, toRouter.next, e.ChainToClient, e.ChainToRouter)
				}
				if e.Role == "server" {
					toClient, toRouter = toRouter, toClient
				}
				sessions[e.Role+string(e.Session)] = chains{put: toRouter, get: toClient}
			case (e.Kind == "put" || e.Kind == "get") && len(e.Key) > 0:
				c := sessions[e.Role+string(e.Session)]
				chain := c.put
				if e.Kind == "get" {
					chain = c.get
				}
				checkBlock(t, e, chain)
			}
		}
	})
}

func checkBlock(t *testing.T, e event, chain *BlockChain) {
	t.Helper()
	before := *chain
	if len(e.Plain) == 0 { // kept as a hash
		chain.step()
		return
	}
	padded, err := smp.AppendPadded(nil, e.Plain, smp.BlockSize-BoxOverhead)
	if err != nil {
		t.Fatal(err)
	}
	sealed := chain.Seal(nil, padded)
	if got := sha256.Sum256(sealed); !bytes.Equal(got[:], e.WireSHA256) {
		t.Errorf("event %d: got a block with the hash %x, want %x", e.N, got, e.WireSHA256)
	}
	opened, err := before.Open(nil, sealed)
	if err != nil || !bytes.Equal(opened, padded) {
		t.Errorf("event %d: the block does not open: %v", e.N, err)
	}
}

// Messages and notifications are what the real router sent.
func TestTranscriptMessages(t *testing.T) {
	eachTranscript(t, func(t *testing.T, events []event) {
		notifiers := make(map[string]smp.DHSecret)
		for _, e := range events {
			switch e.Kind {
			case "queue_keys":
				dh, err := privateKey(t, e.RecipientDH).Agree(parsePublic(t, e.RouterDH))
				if err != nil {
					t.Fatal(err)
				}
				if got := dh.Append(nil); !bytes.Equal(got, e.RecipientSecret) {
					t.Errorf("event %d: got the secret %x, want %x", e.N, got, e.RecipientSecret)
				}
				if len(e.NotifierSecret) > 0 {
					notifiers[string(e.NotifierID)] = secret(t, e.NotifierSecret)
				}
			case "msg_decrypted":
				checkMessage(t, e, events)
			}
		}
		checkNotifications(t, events, notifiers)
	})
}

// checkMessage seals what a recipient decrypted and looks for it in the blocks.
func checkMessage(t *testing.T, e event, events []event) {
	t.Helper()
	m, err := parseMessage(e.PlainUnpadded)
	if err != nil {
		t.Fatalf("event %d: %v", e.N, err)
	}
	if len(m.Body) != e.BodyLen {
		return // cut short in the transcript
	}
	if got := m.append(nil); !bytes.Equal(got, e.PlainUnpadded) {
		t.Errorf("event %d: %x re-encoded as %x", e.N, e.PlainUnpadded, got)
	}
	id := NonceOf(e.MsgID)
	sealed, err := SealMessage(nil, secret(t, e.RecipientSecret), id, m)
	if err != nil || len(sealed) != SealedMessageSize {
		t.Fatalf("event %d: %d bytes, %v", e.N, len(sealed), err)
	}
	opened, err := OpenMessage(secret(t, e.RecipientSecret), id, sealed)
	if diff := cmp.Diff(m, opened); err != nil || diff != "" {
		t.Errorf("event %d: %v (-want +got)\n%s", e.N, err, diff)
	}
	blocks := 0
	for _, b := range events {
		if b.Kind == "get" && len(b.Plain) > 0 {
			blocks++
		}
		if bytes.Contains(b.Plain, sealed) || len(b.PlainCut) > 0 && bytes.Contains(b.PlainCut, sealed[:BoxOverhead]) {
			return
		}
	}
	if blocks > 0 {
		t.Errorf("event %d: no block has the message as it was sealed here", e.N)
	}
}

// checkNotifications opens the notifications in the blocks and seals them again.
func checkNotifications(t *testing.T, events []event, notifiers map[string]smp.DHSecret) {
	t.Helper()
	for _, e := range events {
		if e.Kind != "get" || len(e.Plain) == 0 || e.Plain[0] == 0 { // 0: a handshake
			continue
		}
		parts, err := smp.SplitContent(nil, e.Plain)
		if err != nil {
			continue // the version of services; or a handshake
		}
		for _, p := range parts {
			tr, err := smp.ParseTransmission(p, smp.MaxVersion)
			body, ok := bytes.CutPrefix(tr.Command, []byte("NMSG "))
			if err != nil || !ok {
				continue
			}
			key, ok := notifiers[string(tr.EntityID.Bytes())]
			if !ok {
				t.Errorf("event %d: a notification of an unknown queue", e.N)
				continue
			}
			nonce, sealed := NonceOf(body), body[NonceSize+1:]
			meta, err := OpenMeta(key, nonce, sealed)
			if err != nil || meta.Time < 1_700_000_000 || meta.MsgID.Len() != NonceSize {
				t.Errorf("event %d: %+v, %v", e.N, meta, err)
				continue
			}
			again, err := SealMeta(nil, key, nonce, meta)
			if err != nil || len(again) != SealedMetaSize || !bytes.Equal(again, sealed) {
				t.Errorf("event %d: %x sealed again as %x, %v", e.N, sealed, again, err)
			}
		}
	}
}

// What goes through a proxy is what the real client, proxy and router sent.
func TestTranscriptForwarding(t *testing.T) {
	events := readTranscript(t, filepath.Join(transcripts, "proxy-v18.jsonl.gz"))
	var forwarded Forwarded
	var command, session smp.DHSecret
	checked := 0
	check := func(e event, what string, got []byte, want hexBytes) {
		t.Helper()
		checked++
		if sum := sha256.Sum256(got); !bytes.Equal(sum[:], want) {
			t.Errorf("event %d: got %s with the hash %x, want %x", e.N, what, sum, want)
		}
	}
	var response event
	for _, e := range events {
		switch e.Kind {
		case "proxy_client_command":
			key := privateKey(t, e.CommandKey)
			var err error
			if command, err = key.Agree(parsePublic(t, e.RelayKey)); err != nil || !bytes.Equal(command.Append(nil), e.CommandSecret) {
				t.Errorf("event %d: got the secret %x, want %x, %v", e.N, command.Append(nil), e.CommandSecret, err)
			}
			sealed, err := SealCommand(nil, command, NonceOf(e.Nonce), e.InnerPlain)
			if err != nil {
				t.Fatal(err)
			}
			check(e, "a command", sealed, e.EncryptedSHA256)
			forwarded = Forwarded{CorrID: short(t, e.Nonce), Version: smp.Version(e.ForwardedVersion), Key: key.Public(), Sealed: sealed}
		case "proxy_forward":
			check(e, "the content of RFWD", forwarded.append(nil), e.FwdPlainSHA256)
			session = secret(t, e.SessionDH)
			sealed := forwarded.Seal(nil, session, NonceOf(e.Nonce))
			check(e, "RFWD", sealed, e.EncryptedSHA256)
			opened, err := OpenForwarded(session, NonceOf(e.Nonce), sealed)
			if err != nil || opened.Version != forwarded.Version || opened.Key != forwarded.Key || !opened.CorrID.Equal(forwarded.CorrID) || !bytes.Equal(opened.Sealed, forwarded.Sealed) {
				t.Errorf("event %d: RFWD does not open as it was: %v", e.N, err)
			}
		case "proxy_forward_response":
			response = e
		case "proxy_client_response":
			if got := NonceOf(e.Nonce).Reply(); !bytes.Equal(got[:], e.ResponseNonce) {
				t.Errorf("event %d: got the nonce %x, want %x", e.N, got, e.ResponseNonce)
			}
			sealed, err := SealCommand(nil, command, NonceOf(e.Nonce).Reply(), e.InnerPlain)
			if err != nil {
				t.Fatal(err)
			}
			check(e, "a response", sealed, e.EncryptedSHA256)
			f := ForwardedResponse{CorrID: short(t, e.Nonce), Sealed: sealed}
			answer := f.Seal(nil, session, NonceOf(response.Nonce).Reply())
			check(response, "RRES", answer, response.EncryptedSHA256)
			opened, err := OpenForwardedResponse(session, NonceOf(response.Nonce).Reply(), answer)
			if err != nil || !opened.CorrID.Equal(f.CorrID) || !bytes.Equal(opened.Sealed, f.Sealed) {
				t.Errorf("event %d: RRES does not open as it was: %v", e.N, err)
			}
			content, err := OpenCommand(command, NonceOf(e.ResponseNonce), opened.Sealed)
			if err != nil || !bytes.Equal(content, e.InnerPlain) {
				t.Errorf("event %d: got the response %x, %v", e.N, content, err)
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d parts of proxied commands were compared", checked)
	}
}

// The certificates of the real router and of real services hold, and signed the
// session keys in the handshakes.
func TestTranscriptCertificates(t *testing.T) {
	now := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	eachTranscript(t, func(t *testing.T, events []event) {
		handshakes := make(map[string]Chain)
		for _, e := range events {
			switch {
			case e.Kind == "tls_connected" && len(e.PeerCertificates) > 0:
				var der [][]byte
				for _, c := range e.PeerCertificates {
					der = append(der, c)
				}
				chain, err := VerifyRouterChain(der, now)
				if err != nil {
					t.Fatalf("event %d: %v", e.N, err)
				}
				handshakes[string(e.Session)] = chain
			case e.Kind == "get" && e.Role == "client":
				chain, ok := handshakes[string(e.Session)]
				if !ok {
					continue
				}
				delete(handshakes, string(e.Session))
				r := smp.NewBinaryReader(e.Plain)
				if smp.ReadVersionRange(r).Max < smp.VersionSessionKeys {
					continue
				}
				smp.ReadShort(r)
				signed := smp.ReadSignedKey(r)
				if err := r.Err(); err != nil {
					t.Fatalf("event %d: %v", e.N, err)
				}
				if _, err := chain.SessionKey(signed.Key); err != nil {
					t.Errorf("event %d: %v", e.N, err)
				}
			}
		}
	})
}
