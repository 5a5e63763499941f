package router_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.M{M: m}) }

// timeout is when a test fails in which something does not come.
const timeout = 30 * time.Second

// Intervals of routers in tests.
const (
	endInterval    = 100 * time.Millisecond
	notifyInterval = 50 * time.Millisecond
)

// A site is a database, and what a test needs to look at it.
type site struct {
	config store.Config
	conn   *pgx.Conn
}

func newSite(t testing.TB) *site {
	t.Helper()
	c := store.Config{DSN: pgtest.DSN(t), Schema: "smp_server", Application: "smpq test"}
	conn := pgtest.Conn(t, c.DSN)
	if _, err := schema.Migrate(t.Context(), conn, c.Schema, schema.Newest, schema.Options{}); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, conn, "set search_path to smp_server")
	return &site{c, conn}
}

// number returns the result of a query for a number.
func (s *site) number(t testing.TB, sql string, args ...any) int64 {
	t.Helper()
	var n int64
	if err := s.conn.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// openStore opens the store until the end of the test.
func (s *site) openStore(t testing.TB, quota int) *store.Store {
	t.Helper()
	st, err := store.Open(t.Context(), store.Options{Config: s.config, CacheSize: 16 << 20, Quota: quota})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Close)
	return st
}

// A server is a router that serves on a port of this machine.
type server struct {
	*router.Router
	address *smp.RouterAddress
	store   *store.Store
	options router.Options
}

// start starts a router on a store, until the end of the test.
func start(t testing.TB, st *store.Store, change ...func(*router.Options)) *server {
	t.Helper()
	o := router.Options{Store: st, EndInterval: endInterval, NotifyInterval: notifyInterval}
	for _, f := range change {
		f(&o)
	}
	if o.Credentials.Chain == nil {
		o.Credentials = routertest.NewCredentials(t)
	}
	r, err := router.New(o)
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	served := make(chan error, 1)
	go func() { served <- r.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := r.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return &server{Router: r, address: addressOf(t, r.Identity(), l), store: st, options: o}
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return smallBuffers{l}
}

// smallBuffers makes connections hold little that their client does not read.
type smallBuffers struct{ net.Listener }

func (l smallBuffers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(32 << 10)
	}
	return c, err
}

// smallWindow makes connections that hold little that is not read.
type smallWindow struct{}

func (smallWindow) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetReadBuffer(32 << 10)
	}
	return c, err
}

// slow is for clients that are to be slow.
func slow(o *client.Options) { o.Network = smallWindow{} }

func addressOf(t testing.TB, identity smp.Fingerprint, l net.Listener) *smp.RouterAddress {
	t.Helper()
	at := netip.MustParseAddrPort(l.Addr().String())
	host, err := smp.ParseHost(at.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return &smp.RouterAddress{Fingerprint: identity, Hosts: []smp.Host{host}, Port: at.Port()}
}

// eachVersion runs a test in each version from one on, in a router each of which has
// its own connections to the same store.
func eachVersion(t *testing.T, from smp.Version, test func(t *testing.T, v smp.Version)) {
	t.Helper()
	for v := from; v <= smp.MaxVersion; v++ {
		t.Run(fmt.Sprintf("v%d", v), func(t *testing.T) { test(t, v) })
	}
}

func upTo(v smp.Version) smp.VersionRange { return smp.VersionRange{Min: smp.MinVersion, Max: v} }

// A peer is a client in a test.
type peer struct {
	*client.Client
	t testing.TB
}

func (s *server) dial(t testing.TB, v smp.Version, change ...func(*client.Options)) *peer {
	t.Helper()
	o := client.Options{Versions: upTo(v)}
	for _, f := range change {
		f(&o)
	}
	c, err := client.Dial(t.Context(), s.address, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return &peer{c, t}
}

func asService(c transport.ServiceCredentials) func(*client.Options) {
	return func(o *client.Options) { o.Service = &c }
}

// do sends a command and returns its result.
func (p *peer) do(entity smp.EntityID, key auth.PrivateKey, c smp.Command) (smp.Response, error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), timeout)
	defer cancel()
	r, err := p.Do(ctx, client.Request{Entity: entity, Key: key, Command: c})
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, client.ErrClosed) {
		p.t.Fatalf("%T: %v", c, err)
	}
	return r, err
}

// must sends a command that is answered with a response of a certain type.
func must[R smp.Response](p *peer, entity smp.EntityID, key auth.PrivateKey, c smp.Command) R {
	p.t.Helper()
	r, err := client.As[R](p.do(entity, key, c))
	if err != nil {
		p.t.Fatalf("%T: %v", c, err)
	}
	return r
}

func (p *peer) ok(entity smp.EntityID, key auth.PrivateKey, c smp.Command) {
	p.t.Helper()
	must[*smp.OK](p, entity, key, c)
}

// refused sends a command that is answered with an error.
func (p *peer) refused(want error, entity smp.EntityID, key auth.PrivateKey, c smp.Command) {
	p.t.Helper()
	if r, err := p.do(entity, key, c); !errors.Is(err, want) {
		p.t.Errorf("%T is answered with %T, %v, not %v", c, r, err, want)
	}
}

// event returns the next event.
func (p *peer) event() client.Event {
	p.t.Helper()
	select {
	case e, ok := <-p.Events():
		if !ok {
			p.t.Fatalf("the connection is over: %v", p.Err())
		}
		if e.Err != nil {
			p.t.Fatal(e.Err)
		}
		return e
	case <-time.After(timeout):
		p.t.Fatal("no event comes")
		return client.Event{}
	}
}

// expect returns the next event, which must be of a certain type and about entity.
func expect[R smp.Response](p *peer, entity smp.EntityID) R {
	p.t.Helper()
	e := p.event()
	r, ok := e.Response.(R)
	if !ok || e.Entity != entity {
		var want R
		p.t.Fatalf("the event is %T about %s, not %T about %s", e.Response, e.Entity, want, entity)
	}
	return r
}

// quiet fails if there is an event. What the router has sent before a PING comes before
// its answer.
func (p *peer) quiet() {
	p.t.Helper()
	must[*smp.PONG](p, smp.EntityID{}, auth.PrivateKey{}, &smp.PING{})
	select {
	case e := <-p.Events():
		p.t.Fatalf("there is an event: %T about %s", e.Response, e.Entity)
	default:
	}
}

func newKey(t testing.TB, a smp.Algorithm) auth.PrivateKey {
	t.Helper()
	k, err := auth.GenerateKey(a)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A box is a queue with the keys of all its parties.
type box struct {
	recipient, sender, notifier          smp.EntityID
	link                                 smp.EntityID
	recipientKey, senderKey, notifierKey auth.PrivateKey
	secret, notifierSecret               smp.DHSecret
	mode                                 smp.QueueMode
}

// newQueue makes a queue, to which its creator is subscribed unless change says
// otherwise.
func (p *peer) newQueue(change ...func(*smp.NEW)) *box {
	p.t.Helper()
	b := &box{recipientKey: newKey(p.t, smp.Ed25519), senderKey: newKey(p.t, smp.Ed25519), notifierKey: newKey(p.t, smp.Ed25519)}
	dh := newKey(p.t, smp.X25519)
	c := &smp.NEW{RecipientKey: b.recipientKey.Public(), DHKey: dh.Public(), Subscribe: true, Mode: smp.ModeMessaging}
	for _, f := range change {
		f(c)
	}
	ids := must[*smp.IDS](p, smp.EntityID{}, b.recipientKey, c)
	b.recipient, b.sender, b.link, b.mode = ids.RecipientID.ID(), ids.SenderID.ID(), ids.LinkID.ID(), ids.Mode
	var err error
	if b.secret, err = dh.Agree(ids.DHKey); err != nil {
		p.t.Fatal(err)
	}
	return b
}

// newQueues makes queues, all at once.
func (p *peer) newQueues(n int, change ...func(*smp.NEW)) []*box {
	p.t.Helper()
	boxes := make([]*box, n)
	secrets := make([]auth.PrivateKey, n)
	requests := make([]client.Request, n)
	for i := range boxes {
		b := &box{recipientKey: newKey(p.t, smp.Ed25519), senderKey: newKey(p.t, smp.Ed25519), notifierKey: newKey(p.t, smp.Ed25519)}
		boxes[i], secrets[i] = b, newKey(p.t, smp.X25519)
		c := &smp.NEW{RecipientKey: b.recipientKey.Public(), DHKey: secrets[i].Public(), Subscribe: true, Mode: smp.ModeMessaging}
		for _, f := range change {
			f(c)
		}
		requests[i] = client.Request{Key: b.recipientKey, Command: c}
	}
	for i, result := range p.DoAll(p.t.Context(), requests) {
		ids, err := client.As[*smp.IDS](result.Response, result.Err)
		if err != nil {
			p.t.Fatal(err)
		}
		boxes[i].recipient, boxes[i].sender = ids.RecipientID.ID(), ids.SenderID.ID()
		if boxes[i].secret, err = secrets[i].Agree(ids.DHKey); err != nil {
			p.t.Fatal(err)
		}
	}
	return boxes
}

func createOnly(c *smp.NEW) { c.Subscribe = false }

func contact(c *smp.NEW) { c.Mode = smp.ModeContact }

func none() auth.PrivateKey { return auth.PrivateKey{} }

// send sends a message to a queue that is not secured.
func (p *peer) send(b *box, text string) {
	p.t.Helper()
	p.ok(b.sender, none(), &smp.SEND{Body: []byte(text)})
}

// subscribe subscribes to a queue.
func (p *peer) subscribe(b *box) {
	p.t.Helper()
	if id := subscribed(p, b.recipient, b.recipientKey, &smp.SUB{}); !id.IsZero() {
		p.t.Errorf("SOK has the service %s", id)
	}
}

// subscribed sends SUB or NSUB and checks the answer of the version.
func subscribed(p *peer, entity smp.EntityID, key auth.PrivateKey, c smp.Command) smp.EntityID {
	p.t.Helper()
	if p.Session().Version < smp.VersionServices {
		p.ok(entity, key, c)
		return smp.EntityID{}
	}
	return must[*smp.SOK](p, entity, key, c).ServiceID.ID()
}

// open decrypts a message.
func (b *box) open(t testing.TB, m *smp.MSG) auth.Message {
	t.Helper()
	opened, err := auth.OpenMessage(b.secret, auth.NonceOf(m.MsgID.Bytes()), m.Body)
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

// receive returns the id of the next event, which must be a message with a text.
func (p *peer) receive(b *box, text string) smp.Short {
	p.t.Helper()
	m := expect[*smp.MSG](p, b.recipient)
	b.check(p.t, m, text)
	return m.MsgID
}

// check checks the text of a message; "" is a quota marker.
func (b *box) check(t testing.TB, m *smp.MSG, text string) {
	t.Helper()
	opened := b.open(t, m)
	if got := string(opened.Body); got != text || opened.Quota != (text == "") {
		t.Errorf("the message is %.40q (quota %t), not %.40q", got, opened.Quota, text)
	}
	if m.MsgID.Len() != smp.IDSize {
		t.Errorf("a message id of %d bytes", m.MsgID.Len())
	}
}

// ack acknowledges the last message.
func (p *peer) ack(b *box, id smp.Short) {
	p.t.Helper()
	p.ok(b.recipient, b.recipientKey, &smp.ACK{MsgID: id})
}

// ackNext acknowledges a message, and returns the id of the next one, which has a text.
func (p *peer) ackNext(b *box, id smp.Short, text string) smp.Short {
	p.t.Helper()
	m := must[*smp.MSG](p, b.recipient, b.recipientKey, &smp.ACK{MsgID: id})
	b.check(p.t, m, text)
	return m.MsgID
}

// A wire is a client that sees blocks and sends what it likes.
type wire struct {
	t      testing.TB
	conn   *transport.Conn
	signer *auth.Signer
	v      smp.Version
}

func (s *server) wire(t testing.TB, v smp.Version, change ...func(*transport.Dialer)) *wire {
	t.Helper()
	d := transport.Dialer{Router: s.address.Fingerprint, Versions: upTo(v)}
	for _, f := range change {
		f(&d)
	}
	conn, err := d.Dial(t.Context(), func(ctx context.Context) (net.Conn, error) {
		return smallWindow{}.DialContext(ctx, "tcp", net.JoinHostPort(s.address.Hosts[0].String(), strconv.Itoa(int(s.address.Port))))
	})
	if err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(timeout, func() { conn.Close() })
	t.Cleanup(func() {
		late.Stop()
		conn.Close()
	})
	return &wire{t, conn, conn.Session().Signer(), conn.Session().Version}
}

// A line is a transmission to be sent.
type line struct {
	entity smp.EntityID
	key    auth.PrivateKey
	rule   auth.Rule
	text   string // instead of command
	smp.Command
}

func corrID(i int) smp.Short {
	id, _ := smp.NewShort([]byte(fmt.Sprintf("%024d", i)))
	return id
}

// encode returns the transmission, with i as correlation id.
func (w *wire) encode(l line, i int) []byte {
	w.t.Helper()
	entity, err := l.entity.Short()
	if err != nil {
		w.t.Fatal(err)
	}
	t := smp.Transmission{SessionID: w.conn.Session().ID, CorrID: corrID(i), EntityID: entity, Command: []byte(l.text)}
	if l.Command != nil {
		t.Command = l.Append(nil, w.v)
	}
	if !l.key.IsZero() {
		if err := w.signer.Authorize(&t, l.rule, l.key); err != nil {
			w.t.Fatal(err)
		}
	}
	return t.Append(nil, w.v)
}

// send sends transmissions in one block; their correlation ids count from 0.
func (w *wire) send(lines ...line) {
	w.t.Helper()
	var b smp.Batch
	for i, l := range lines {
		if added, err := b.Add(w.encode(l, i)); !added {
			w.t.Fatalf("a block has no room for %d transmissions: %v", len(lines), err)
		}
	}
	if err := w.conn.Send(b.Content()); err != nil {
		w.t.Fatal(err)
	}
}

// A reply is a transmission that was received.
type reply struct {
	CorrID, Entity string
	Text           string // the tag, or all of an error
	smp.Response
}

// receive returns what is in the next block.
func (w *wire) receive() []reply {
	w.t.Helper()
	content, err := w.conn.Receive(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	transmissions, err := smp.SplitContent(nil, content)
	if err != nil {
		w.t.Fatal(err)
	}
	var replies []reply
	for _, in := range transmissions {
		t, err := smp.ParseTransmission(in, w.v)
		if err != nil {
			w.t.Fatal(err)
		}
		r, err := smp.ParseResponse(t.Command, w.v)
		if err == nil {
			err = t.CheckEntity(r)
		}
		if err != nil {
			w.t.Fatal(err)
		}
		replies = append(replies, reply{string(t.CorrID.Bytes()), string(t.EntityID.Bytes()), textOf(r), r})
	}
	return replies
}

// textOf returns the tag of a response, or all of an error.
func textOf(r smp.Response) string {
	if e, ok := r.(*smp.ERR); ok {
		return "ERR " + e.Err.Error()
	}
	return fmt.Sprintf("%T", r)[len("*smp."):]
}

// sok is the answer to SUB in a version.
func sok(v smp.Version) string {
	if v < smp.VersionServices {
		return "OK"
	}
	return "SOK"
}

// texts returns what is in a block.
func texts(replies []reply) (all []string) {
	for _, r := range replies {
		all = append(all, r.Text)
	}
	return all
}

// want checks the texts of the next block.
func (w *wire) want(texts1 ...string) []reply {
	w.t.Helper()
	got := w.receive()
	if diff := cmp.Diff(texts(got), texts1); diff != "" {
		w.t.Fatalf("the block has (-got +want):\n%s", diff)
	}
	return got
}

// eventually waits until something is so.
func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	deadline := time.After(timeout)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s does not happen", what)
		}
	}
}
