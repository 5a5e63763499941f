package router_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/transport"
)

// A transcriptEvent is a line of a transcript between the real client and the real
// router; see testdata/README.md.
type transcriptEvent struct {
	N       int      `json:"n"`
	Kind    string   `json:"ev"`
	Conn    string   `json:"conn"`
	Role    string   `json:"role"`
	Session hexBytes `json:"session"`

	Options string `json:"options"` // of connect

	Version smp.Version       `json:"version"`
	Service transcriptService `json:"service"`

	Plain hexBytes `json:"plain"`

	CorrID     hexBytes `json:"corr_id"`
	PrivateKey hexBytes `json:"private_key_pkcs8"`

	RecipientID    hexBytes `json:"recipient_id"`
	Secret         hexBytes `json:"rcv_dh_secret"`
	NotifierID     hexBytes `json:"notifier_id"`
	NotifierSecret hexBytes `json:"rcv_ntf_dh_secret"`

	SenderID  hexBytes `json:"sender_id"`
	SenderKey hexBytes `json:"sender_private_key_pkcs8"`
	LinkID    hexBytes `json:"link_id"`

	Signed           hexBytes    `json:"signed"`
	Response         string      `json:"response"`
	Nonce            hexBytes    `json:"nonce"`
	InnerPlain       hexBytes    `json:"inner_plain"`
	ForwardedVersion smp.Version `json:"forwarded_version"`

	Certificates []hexBytes `json:"certs"`
	LeafKey      hexBytes   `json:"leaf_private_key_pkcs8"`
}

// A transcriptService is the name of a service, or what a session says of one.
type transcriptService struct {
	Name string
	ID   hexBytes `json:"service_id"`
}

func (s *transcriptService) UnmarshalJSON(text []byte) error {
	if !bytes.HasPrefix(text, []byte("{")) {
		return json.Unmarshal(text, &s.Name)
	}
	type plain transcriptService
	return json.Unmarshal(text, (*plain)(s))
}

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

func readTranscript(t *testing.T, name string) (events []transcriptEvent) {
	t.Helper()
	in, err := os.Open(filepath.Join("..", "..", "testdata", "smp-server-6.5.5", "7-wire", name+".jsonl.gz"))
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
		var e transcriptEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return events
}

// A transcript is what the real router was sent, what it answered, and what it made at
// random for that.
type transcript struct {
	t      *testing.T
	events []transcriptEvent
	replay router.Replay

	versions map[string]smp.Version        // of sessions
	conns    map[string]string             // the connections of sessions
	commands map[string]smp.Command        // by correlation id
	answers  map[string]smp.Response       // to them
	keys     map[string]auth.PrivateKey    // of commands
	times    map[string]int64              // of commands that made a message
	senders  map[smp.EntityID]smp.EntityID // of queues, by recipient
	services map[string]transport.ServiceCredentials
}

func newTranscript(t *testing.T, name string) *transcript {
	t.Helper()
	r := &transcript{
		t: t, events: readTranscript(t, name),
		replay:   router.Replay{IDs: make(map[string][]smp.EntityID), Keys: make(map[smp.PublicKey]router.Agreed), Nonces: make(map[smp.EntityID]auth.Nonce)},
		versions: make(map[string]smp.Version), conns: make(map[string]string),
		commands: make(map[string]smp.Command), answers: make(map[string]smp.Response),
		keys: make(map[string]auth.PrivateKey), times: make(map[string]int64),
		senders: make(map[smp.EntityID]smp.EntityID), services: make(map[string]transport.ServiceCredentials),
	}
	r.learn()
	return r
}

// split returns the transmissions in a block of a session; none if it is none.
func (r *transcript) split(e *transcriptEvent) (all []smp.Transmission) {
	v, ok := r.versions[string(e.Session)]
	if !ok || len(e.Plain) == 0 {
		return nil
	}
	parts, err := smp.SplitContent(nil, e.Plain)
	if err != nil {
		return nil
	}
	for _, part := range parts {
		tr, err := smp.ParseTransmission(part, v)
		if err != nil {
			return nil
		}
		all = append(all, tr)
	}
	return all
}

// learn finds out what the router made at random.
func (r *transcript) learn() {
	r.t.Helper()
	secrets := make(map[smp.EntityID]smp.DHSecret) // of recipients and notifiers
	sent := make(map[smp.EntityID][]string)        // correlation ids of the messages that were taken, by sender
	var order []string                             // of commands
	entities := make(map[string]smp.EntityID)
	var events []*smp.MSG
	var about []smp.EntityID
	var notifications []*smp.NMSG
	var notified []smp.EntityID
	var connecting string
	for i := range r.events {
		e := &r.events[i]
		switch e.Kind {
		case "service_credentials":
			r.services[e.Service.Name] = r.credentials(e)
		case "connect":
			connecting = e.Conn
		case "session":
			if len(e.Service.ID) > 0 && len(r.replay.IDs[""]) == 0 {
				r.replay.IDs[""] = []smp.EntityID{smp.NewEntityID([]byte(e.Service.ID))}
			}
			r.versions[string(e.Session)] = e.Version
			r.conns[string(e.Session)] = connecting
		case "command":
			if len(e.PrivateKey) > 0 {
				r.keys[string(e.CorrID)] = r.privateKey(e.PrivateKey)
			}
		case "queue_keys":
			secrets[smp.NewEntityID([]byte(e.RecipientID))] = r.secret(e.Secret)
			if len(e.NotifierSecret) > 0 {
				secrets[smp.NewEntityID([]byte(e.NotifierID))] = r.secret(e.NotifierSecret)
			}
		case "put":
			for _, tr := range r.split(e) {
				id := corrOf(&tr)
				if c, err := smp.ParseCommand(tr.Command, r.versions[string(e.Session)]); err == nil {
					r.commands[id], entities[id] = c, tr.EntityID.ID()
					order = append(order, id)
				}
			}
		case "get":
			for _, tr := range r.split(e) {
				answer, err := smp.ParseResponse(tr.Command, r.versions[string(e.Session)])
				if err != nil {
					r.t.Fatalf("event %d: %v", e.N, err)
				}
				if !tr.CorrID.IsEmpty() {
					r.answers[string(tr.CorrID.Bytes())] = answer
				}
				switch m := answer.(type) {
				case *smp.MSG:
					events, about = append(events, m), append(about, tr.EntityID.ID())
				case *smp.NMSG:
					notifications, notified = append(notifications, m), append(notified, tr.EntityID.ID())
				}
			}
		}
	}
	for _, id := range order {
		switch c := r.commands[id].(type) {
		case *smp.NEW:
			if ids, ok := r.answers[id].(*smp.IDS); ok {
				r.created(id, c, ids, secrets)
			}
		case *smp.NKEY:
			if nid, ok := r.answers[id].(*smp.NID); ok {
				r.replay.IDs[id] = []smp.EntityID{nid.NotifierID.ID()}
				r.replay.Keys[c.DHKey] = router.Agreed{Own: nid.DHKey, Secret: secrets[nid.NotifierID.ID()]}
			}
		case *smp.SEND:
			if _, ok := r.answers[id].(*smp.OK); ok {
				sent[entities[id]] = append(sent[entities[id]], id)
			}
		}
	}
	seen := make(map[string]bool)
	for i, m := range events {
		if seen[string(m.MsgID.Bytes())] {
			continue
		}
		seen[string(m.MsgID.Bytes())] = true
		sender := r.senders[about[i]]
		if len(sent[sender]) == 0 {
			r.t.Fatalf("message %s was not sent", m.MsgID)
		}
		command := sent[sender][0]
		sent[sender] = sent[sender][1:]
		opened, err := auth.OpenMessage(secrets[about[i]], auth.NonceOf(m.MsgID.Bytes()), m.Body)
		if err != nil {
			r.t.Fatal(err)
		}
		r.replay.IDs[command] = []smp.EntityID{m.MsgID.ID()}
		r.times[command] = opened.Time
	}
	for i, n := range notifications {
		meta, err := auth.OpenMeta(secrets[notified[i]], n.Nonce, n.Meta.Bytes())
		if err != nil {
			r.t.Fatal(err)
		}
		r.replay.Nonces[meta.MsgID.ID()] = n.Nonce
	}
}

// created learns from the answer to NEW.
func (r *transcript) created(id string, c *smp.NEW, ids *smp.IDS, secrets map[smp.EntityID]smp.DHSecret) {
	made := []smp.EntityID{ids.RecipientID.ID()}
	if c.Link == nil {
		made = append(made, ids.SenderID.ID())
	} else if c.Mode == smp.ModeMessaging {
		made = append(made, ids.LinkID.ID())
	}
	r.senders[ids.RecipientID.ID()] = ids.SenderID.ID()
	r.replay.Keys[c.DHKey] = router.Agreed{Own: ids.DHKey, Secret: secrets[ids.RecipientID.ID()]}
	if c.Notifier != nil {
		made = append(made, ids.Notifier.NotifierID.ID())
		r.replay.Keys[c.Notifier.DHKey] = router.Agreed{Own: ids.Notifier.DHKey, Secret: secrets[ids.Notifier.NotifierID.ID()]}
	}
	r.replay.IDs[id] = made
}

func (r *transcript) secret(raw []byte) smp.DHSecret {
	r.t.Helper()
	s, err := smp.ParseDHSecret(raw)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *transcript) privateKey(pkcs8 []byte) auth.PrivateKey {
	r.t.Helper()
	k, err := auth.ParsePrivateKey(pkcs8)
	if err != nil {
		r.t.Fatal(err)
	}
	return k
}

func (r *transcript) credentials(e *transcriptEvent) transport.ServiceCredentials {
	c := transport.ServiceCredentials{Role: queue.RoleNotifier}
	c.Key = r.privateKey(e.LeafKey)
	for _, der := range e.Certificates {
		c.Chain = append(c.Chain, der)
	}
	return c
}

// dialer returns what connects as the client in the transcript did.
func (r *transcript) dialer(s *server, options string) transport.Dialer {
	r.t.Helper()
	d := transport.Dialer{Router: s.address.Fingerprint, Versions: smp.VersionRange{Min: smp.MinVersion}}
	for word := range strings.FieldsSeq(options) {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "v", "vmin":
			n, err := strconv.ParseUint(value, 10, 16)
			if err != nil {
				r.t.Fatal(err)
			}
			if name == "v" {
				d.Versions.Max = smp.Version(n)
			} else {
				d.Versions.Min = smp.Version(n)
			}
		case "svc":
			name, role, _ := strings.Cut(value, ":")
			credentials := r.services[name]
			if role != "N" {
				credentials.Role = queue.RoleProxy // clients of ours say M from version 19 on only
			}
			d.Service = &credentials
		case "noalpn":
			// What this end sends there always names a protocol; version 6 is the same.
			d.Versions.Max = min(d.Versions.Max, smp.MinVersion)
			if d.Versions.Min > d.Versions.Max {
				d.Versions.Max = d.Versions.Min
				d.Protocol = "none"
			}
		case "agree", "tls12", "sni": // which do not matter here
		default:
			r.t.Fatalf("connected with %s", word)
		}
	}
	return d
}

// corrOf returns the correlation id of a transmission, as maps have it.
func corrOf(tr *smp.Transmission) string { return string(tr.CorrID.Bytes()) }

// content returns what a client sends in a block, authorized for the session that it has
// here.
func (r *transcript) content(e *transcriptEvent, w *wire) []byte {
	r.t.Helper()
	transmissions := r.split(e)
	if transmissions == nil {
		return e.Plain // whatever it is
	}
	var block smp.Batch
	for _, tr := range transmissions {
		id := corrOf(&tr)
		if key, ok := r.keys[id]; ok && !tr.Auth.IsEmpty() {
			rule := auth.ByParty
			switch r.commands[id].(type) {
			case *smp.NEW, *smp.SUB, *smp.NSUB:
				rule = auth.ByPartyAndService
			case *smp.SUBS, *smp.NSUBS:
				rule, key = auth.ByService, auth.PrivateKey{}
			}
			if err := w.signer.Authorize(&tr, rule, key); err != nil {
				r.t.Fatalf("event %d: %v", e.N, err)
			}
		}
		tr.SessionID = w.conn.Session().ID
		if added, err := block.Add(tr.Append(nil, w.v)); !added {
			r.t.Fatalf("event %d: %v", e.N, err)
		}
	}
	return block.Content()
}

// texts returns what is in a block, in words.
func (r *transcript) texts(content []byte, w *wire) (all []string) {
	parts, err := smp.SplitContent(nil, content)
	if err != nil {
		return []string{fmt.Sprintf("%x", content)}
	}
	for _, part := range parts {
		tr, err := smp.ParseTransmission(part, w.v)
		if err != nil {
			all = append(all, err.Error())
			continue
		}
		all = append(all, fmt.Sprintf("%s %s %.150q", tr.CorrID, tr.EntityID, tr.Command))
	}
	return all
}

// expected returns the content of a block as it has to be in the session that there is here.
func (r *transcript) expected(e *transcriptEvent, w *wire) []byte {
	transmissions := r.split(e)
	if w.v >= smp.VersionSessionKeys || transmissions == nil {
		return e.Plain
	}
	var block smp.Batch
	for _, tr := range transmissions {
		tr.SessionID = w.conn.Session().ID
		_, _ = block.Add(tr.Append(nil, w.v))
	}
	return block.Content()
}

// run plays the part of the client.
func (r *transcript) run(s *server, at *clock) {
	t := r.t
	blocked := make(map[smp.EntityID]bool)
	wires, started := make(map[string]*wire), make(map[string]bool)
	early := make(map[string]bool) // ends that came with others, and their connections
	for i := range r.events {
		e := &r.events[i]
		switch e.Kind {
		case "connect":
			d := r.dialer(s, e.Options)
			failed := slices.ContainsFunc(r.events[i:], func(f transcriptEvent) bool { return f.Kind == "connect_failed" && f.Conn == e.Conn })
			w, err := s.connect(t, &d)
			if (err != nil) != failed {
				t.Fatalf("event %d: connected with %q: %v", e.N, e.Options, err)
			}
			wires[e.Conn] = w
		case "disconnected":
			wires[e.Conn].conn.Close()
		case "session":
			if w := wires[r.conns[string(e.Session)]]; w.v != e.Version {
				t.Fatalf("event %d: the session has version %d, not %d", e.N, w.v, e.Version)
			}
			started[string(e.Session)] = true
		case "put":
			if !started[string(e.Session)] {
				continue // its hello
			}
			w := wires[r.conns[string(e.Session)]]
			r.prepare(e, s, at, blocked)
			if err := w.conn.Send(r.content(e, w)); err != nil {
				t.Fatalf("event %d: %v", e.N, err)
			}
		case "get":
			if !started[string(e.Session)] {
				continue
			}
			w := wires[r.conns[string(e.Session)]]
			ends := r.ends(e.Plain, w.v)
			if len(ends) > 0 && !slices.ContainsFunc(ends, func(end string) bool { return !early[string(e.Session)+end] }) {
				continue // they came with others
			}
			r.provoke(e, s, blocked)
			got, err := w.conn.Receive(nil)
			if err != nil {
				t.Fatalf("event %d: %v", e.N, err)
			}
			if other := r.sameTime(i, got); other != nil {
				other.Plain, e.Plain = e.Plain, other.Plain
				continue
			}
			if all := r.ends(got, w.v); len(ends) > 0 && slices.Contains(all, ends[0]) {
				for _, end := range all {
					early[string(e.Session)+end] = true
				}
				continue
			}
			if want := r.expected(e, w); !bytes.Equal(got, want) {
				t.Fatalf("event %d: the block differs (-want +got)\n%s", e.N, cmp.Diff(r.texts(want, w), r.texts(got, w)))
			}
		}
	}
}

// ends returns the transmissions in a block if all of them tell of the end of something.
// The real router gathers those for as long as it likes.
func (r *transcript) ends(content []byte, v smp.Version) (all []string) {
	parts, err := smp.SplitContent(nil, content)
	if err != nil {
		return nil
	}
	for _, part := range parts {
		tr, err := smp.ParseTransmission(part, v)
		if err != nil || !tr.CorrID.IsEmpty() {
			return nil
		}
		answer, _ := smp.ParseResponse(tr.Command, v) // nil if it is none
		switch answer.(type) {
		case *smp.END, *smp.ENDS, *smp.DELD:
			all = append(all, tr.EntityID.String()+string(tr.Command))
		default:
			return nil
		}
	}
	return all
}

// sameTime returns the event with a certain block that the real router sent later than
// the one with a message, or the same. It carries out the commands of a block from the last
// to the first, and so the messages that they bring come in another order.
func (r *transcript) sameTime(i int, content []byte) *transcriptEvent {
	for j := range r.events[i:] {
		e := &r.events[i+j]
		if e.Kind != "get" || !bytes.Equal(e.Session, r.events[i].Session) {
			continue
		}
		transmissions := r.split(e)
		if j == 0 && (len(transmissions) != 1 || !transmissions[0].CorrID.IsEmpty()) {
			return nil
		}
		if bytes.Equal(e.Plain, content) {
			return e
		}
	}
	return nil
}

// prepare sets the time as it was, and does what the operator did.
func (r *transcript) prepare(e *transcriptEvent, s *server, at *clock, blocked map[smp.EntityID]bool) {
	for _, tr := range r.split(e) {
		id := corrOf(&tr)
		if then, ok := r.times[id]; ok {
			at.set(time.Unix(then, 0))
		}
		if _, ok := r.answers[id].(*smp.OK); ok && blocked[tr.EntityID.ID()] {
			delete(blocked, tr.EntityID.ID())
			if _, err := s.Unblock(r.t.Context(), tr.EntityID.ID()); err != nil {
				r.t.Fatal(err)
			}
		}
	}
}

// provoke makes the router send what it has gathered, and does what the operator did.
func (r *transcript) provoke(e *transcriptEvent, s *server, blocked map[smp.EntityID]bool) {
	for _, tr := range r.split(e) {
		if !tr.CorrID.IsEmpty() {
			continue
		}
		answer, err := smp.ParseResponse(tr.Command, r.versions[string(e.Session)])
		if err != nil {
			r.t.Fatal(err)
		}
		switch m := answer.(type) {
		case *smp.END, *smp.ENDS, *smp.DELD:
			s.FlushEnds()
		case *smp.NMSG:
			s.DeliverNotifications()
		case *smp.ERR:
			b, ok := errors.AsType[smp.BlockedError](m.Err)
			if !ok {
				continue
			}
			sender := r.senders[tr.EntityID.ID()]
			blocked[sender] = true
			if _, err := s.Block(r.t.Context(), sender, b.Blocking); err != nil {
				r.t.Fatal(err)
			}
		}
	}
}

func (s *server) connect(t *testing.T, d *transport.Dialer) (*wire, error) {
	t.Helper()
	address := net.JoinHostPort(s.address.Hosts[0].String(), strconv.Itoa(int(s.address.Port)))
	conn, err := d.Dial(t.Context(), func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	})
	if err != nil {
		return nil, err
	}
	late := time.AfterFunc(timeout, func() { conn.Close() })
	t.Cleanup(func() {
		late.Stop()
		conn.Close()
	})
	return &wire{t, conn, conn.Session().Signer(), conn.Session().Version}, nil
}

// What the real client sent is answered as the real router answered, in the same blocks.
//
// What is sent is the same but for what depends on the session: its identifier, which is
// in commands of version 6, and the signatures and authenticators, which are made with the
// keys of the transcript. The same ids, keys, secrets, nonces and times are given to the
// router.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	files, err := filepath.Glob("../../testdata/smp-server-6.5.5/7-wire/*.jsonl.gz")
	if err != nil || len(files) == 0 {
		t.Fatalf("found no transcripts: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".jsonl.gz")
		if notReplayed[name] != "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			r := newTranscript(t, name)
			password, err := smp.ParsePassword("pass-word")
			if err != nil {
				t.Fatal(err)
			}
			var at clock
			s := start(t, st, func(o *router.Options) {
				o.Now, o.Password, o.Versions.Max = at.now, password, 18
				o.EndInterval, o.NotifyInterval = time.Hour, time.Hour
				o.Replay(&r.replay)
			})
			r.events = slices.DeleteFunc(r.events, func(e transcriptEvent) bool { return name == "v18-batches" && e.N >= outOfOrder })
			r.run(s, &at)
		})
	}
}

// outOfOrder is an event of v18-batches, with the answers to commands about one queue in one
// block. The real router carries these out from the last to the first.
const outOfOrder = 193

// notReplayed says why transcripts are not replayed.
var notReplayed = map[string]string{
	"identity-mismatch":     "it ends within TLS: the client finds another router than it expects",
	"proxy-v18":             "it has no blocks; see TestProxyTranscripts",
	"proxy-v8":              "it has the first of its blocks only, those of a proxy among them; see TestProxyTranscripts",
	"v18-service-recipient": "it is of a service for messages in version 18, where smpq has none: there they begin with version 19",
}

// forwardRaw forwards a command as a proxy does, and returns what is in the answer.
func (w *wire) forwardRaw(id smp.Short, v smp.Version, content []byte) []byte {
	w.t.Helper()
	s := w.conn.Session()
	key := newKey(w.t, smp.X25519)
	secret, err := key.Agree(s.PeerKey)
	if err != nil {
		w.t.Fatal(err)
	}
	sealed, err := auth.SealCommand(nil, secret, auth.NonceOf(id.Bytes()), content)
	if err != nil {
		w.t.Fatal(err)
	}
	f := auth.Forwarded{CorrID: id, Version: v, Key: key.Public(), Sealed: sealed}
	nonce := auth.NonceOf(corrID(0).Bytes())
	w.send(line{Command: &smp.RFWD{Encrypted: f.Seal(nil, s.Secret, nonce)}})
	rres, ok := w.want("RRES")[0].Response.(*smp.RRES)
	if !ok {
		w.t.Fatal("no RRES")
	}
	answer, err := auth.OpenForwardedResponse(s.Secret, nonce.Reply(), rres.Encrypted)
	if err != nil {
		w.t.Fatal(err)
	}
	opened, err := auth.OpenCommand(secret, auth.NonceOf(id.Bytes()).Reply(), answer.Sealed)
	if err != nil {
		w.t.Fatal(err)
	}
	return opened
}

// What a real client had forwarded is answered as the real router answered the proxy: the
// content of what both have encrypted is the same.
//
// conformance: 143, 152
func TestProxyTranscripts(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"proxy-v8", "proxy-v18"} {
		t.Run(name, func(t *testing.T) { replayForwarded(t, &transcript{t: t, events: readTranscript(t, name)}) })
	}
}

// signed returns the command in an event, which is not in a block.
func (r *transcript) signed(e *transcriptEvent) smp.Transmission {
	r.t.Helper()
	in := smp.NewBinaryReader(e.Signed)
	smp.ReadShort(in) // the session
	tr := smp.Transmission{CorrID: smp.ReadShort(in), EntityID: smp.ReadShort(in), Command: in.Rest()}
	if err := in.Err(); err != nil {
		r.t.Fatalf("event %d: %v", e.N, err)
	}
	return tr
}

// acknowledgedNext returns the id of the message that a forwarded command made, which is
// acknowledged before the next one is forwarded, if it made any.
func (r *transcript) acknowledgedNext(i int) (smp.EntityID, bool) {
	for j := range r.events[i+1:] {
		e := &r.events[i+1+j]
		if e.Kind == "proxy_client_command" {
			break
		}
		if e.Kind != "command" || e.Conn != "r" {
			continue
		}
		c, err := smp.ParseCommand(r.signed(e).Command, 18)
		if ack, ok := c.(*smp.ACK); ok && err == nil {
			return ack.MsgID.ID(), true
		}
	}
	return smp.EntityID{}, false
}

func replayForwarded(t *testing.T, r *transcript) {
	t.Helper()
	r.replay.IDs = make(map[string][]smp.EntityID)
	keys := make(map[string]auth.PrivateKey) // of senders, by the id of the queue
	var created []*transcriptEvent
	known := make(map[string]bool)
	for i := range r.events {
		e := &r.events[i]
		if e.Kind == "queue_keys" && len(e.SenderKey) > 0 {
			keys[string(e.SenderID)] = r.privateKey(e.SenderKey)
		}
		if e.Kind == "queue_keys" && !known[string(e.RecipientID)] {
			known[string(e.RecipientID)] = true
			created = append(created, e)
		}
	}
	password, err := smp.ParsePassword("pass-word")
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, newSite(t).openStore(t, 0), func(o *router.Options) {
		o.Password, o.Versions.Max = password, 18
		o.Replay(&r.replay)
	})
	client := s.wire(t, 18)
	proxy := s.wire(t, 18, func(d *transport.Dialer) { d.Proxy = true })
	answers := make(map[string][]byte)
	var received []reply
	for i := range r.events {
		e := &r.events[i]
		switch {
		case e.Kind == "command" && e.Conn == "r":
			tr := r.signed(e)
			tr.SessionID = client.conn.Session().ID
			if bytes.HasPrefix(tr.Command, []byte("NEW ")) {
				q := created[0]
				created = created[1:]
				ids := []smp.EntityID{smp.NewEntityID([]byte(q.RecipientID))}
				if len(q.LinkID) == 0 {
					ids = append(ids, smp.NewEntityID([]byte(q.SenderID)))
				}
				r.replay.IDs[string(tr.CorrID.Bytes())] = ids
			}
			if err := client.signer.Authorize(&tr, auth.ByPartyAndService, r.privateKey(e.PrivateKey)); err != nil {
				t.Fatal(err)
			}
			var block smp.Batch
			_, _ = block.Add(tr.Append(nil, client.v))
			if err := client.conn.Send(block.Content()); err != nil {
				t.Fatal(err)
			}
		case e.Kind == "response" && e.Conn == "r":
			if len(received) == 0 {
				received = client.receive()
			}
			want, _, _ := strings.Cut(e.Response, " ")
			if got := received[0]; got.Text != want || got.CorrID != string(e.CorrID) {
				t.Errorf("event %d: got %s, not %s", e.N, got.Text, want)
			}
			received = received[1:]
		case e.Kind == "proxy_client_command":
			parts, err := smp.SplitContent(nil, e.InnerPlain)
			if err != nil || len(parts) != 1 {
				t.Fatalf("event %d: %v", e.N, err)
			}
			tr, err := smp.ParseTransmission(parts[0], e.ForwardedVersion)
			if err != nil {
				t.Fatalf("event %d: %v", e.N, err)
			}
			if !tr.Auth.IsEmpty() {
				signer := auth.Signer{Session: proxy.conn.Session().ID, Router: proxy.conn.Session().PeerKey}
				if err := signer.Authorize(&tr, auth.ByParty, keys[string(tr.EntityID.Bytes())]); err != nil {
					t.Fatalf("event %d: %v", e.N, err)
				}
			}
			if id, ok := r.acknowledgedNext(i); ok {
				r.replay.IDs[string(tr.CorrID.Bytes())] = []smp.EntityID{id}
			}
			var block smp.Batch
			_, _ = block.Add(tr.Append(nil, e.ForwardedVersion))
			answers[string(e.Nonce)] = proxy.forwardRaw(tr.CorrID, e.ForwardedVersion, block.Content())
		case e.Kind == "proxy_client_response":
			if got := answers[string(e.Nonce)]; !bytes.Equal(got, e.InnerPlain) {
				t.Errorf("event %d: the answer is %q, not %q", e.N, got, []byte(e.InnerPlain))
			}
		}
	}
	if len(answers) < 7 {
		t.Errorf("only %d commands were forwarded", len(answers))
	}
}
