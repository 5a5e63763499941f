package router_test

import (
	"context"
	"crypto/rand"
	"crypto/sha3"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
)

// messagesVariable sets how many messages tests exchange that do so many times, such as
// the apps in each version: 10000 takes a minute or two.
const messagesVariable = "SMPQ_TEST_MESSAGES"

// messages returns how many messages to exchange.
func messages(t *testing.T, otherwise int) int {
	t.Helper()
	text := os.Getenv(messagesVariable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", messagesVariable, err)
	}
	return n
}

// cuttable makes connections that can be cut, as by a network that fails: the other end
// sees a reset.
type cuttable struct {
	mu   sync.Mutex // guards what follows
	last *net.TCPConn
}

func (n *cuttable) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if tcp, ok := c.(*net.TCPConn); ok {
		n.mu.Lock()
		n.last = tcp
		n.mu.Unlock()
	}
	return c, err
}

func (n *cuttable) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	_ = n.last.SetLinger(0)
	_ = n.last.Close()
}

// An app is one end of a conversation, with a router of its own. It reconnects when its
// connection is cut, and sends again what was not answered.
type app struct {
	t       *testing.T
	home    *server // where its queue is
	version smp.Version
	network cuttable
	box     *box      // its queue
	to      *box      // the queue of the other, with the key for it
	other   *server   // where that is
	private bool      // it sends by way of its own router
	resent  *sync.Map // numbers of messages to it that may have come twice
	telling *sync.Map // of those that it sent
	lastCut int       // by its receiver: the number of the message

	mu    sync.Mutex // guards what follows
	conn  *client.Client
	relay *client.Relay
}

// current returns the connection. If that is broken, as the caller has found, there is
// another one, on which the app is subscribed.
func (a *app) current(ctx context.Context, broken *client.Client) (*client.Client, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conn != nil && a.conn != broken {
		return a.conn, nil
	}
	if a.conn != nil {
		a.conn.Close()
	}
	var err error
	a.relay = nil
	a.conn, err = client.Dial(ctx, a.home.address, client.Options{Versions: upTo(a.version), Network: &a.network})
	return a.conn, err
}

// deliver sends a command to the queue of the other, once. The error is
// [client.ErrClosed] if nobody knows whether it arrived.
func (a *app) deliver(ctx context.Context, c *client.Client, r client.Request) error {
	if !a.private {
		_, err := c.Do(ctx, r)
		return err
	}
	a.mu.Lock()
	relay := a.relay
	a.mu.Unlock()
	if relay == nil {
		var err error
		if relay, err = c.Relay(ctx, a.other.address, smp.Password{}); err != nil {
			return err
		}
		a.mu.Lock()
		if a.conn == c {
			a.relay = relay
		}
		a.mu.Unlock()
	}
	_, err := relay.Do(ctx, r)
	return err
}

// cutEvery is how many messages of n an app sends, or almost so many that it receives,
// before its connection is cut.
func cutEvery(n int) int { return min(n/3+5, 250) }

// send sends n messages with their numbers.
func (a *app) send(ctx context.Context, n int) error {
	retry := time.NewTicker(10 * time.Millisecond)
	defer retry.Stop()
	c, err := a.current(ctx, nil)
	for i := 0; i < n && err == nil; {
		err = a.deliver(ctx, c, client.Request{Entity: a.to.sender, Key: a.to.senderKey, Command: &smp.SEND{Body: fmt.Append(nil, i)}})
		switch {
		case err == nil:
			if i++; i%cutEvery(n) == 0 {
				a.network.cut()
			}
		case errors.Is(err, smp.ErrQuota):
			err = nil
			select {
			case <-retry.C: // until the other has caught up
			case <-ctx.Done():
			}
		case errors.Is(err, client.ErrClosed):
			a.telling.Store(i, true)
			c, err = a.current(ctx, c)
		}
	}
	return err
}

// receive receives n messages, which come in the order of their numbers.
func (a *app) receive(ctx context.Context, n int) error {
	acknowledged := make(map[string]bool)
	next := 0
	c, err := a.current(ctx, nil)
	for err == nil && next < n {
		if err = a.receiveOn(ctx, c, acknowledged, &next, n); errors.Is(err, client.ErrClosed) {
			c, err = a.current(ctx, c)
		}
	}
	return err
}

// receiveOn receives messages until the connection breaks.
func (a *app) receiveOn(ctx context.Context, c *client.Client, acknowledged map[string]bool, next *int, n int) error {
	request := func(command smp.Command) client.Request {
		return client.Request{Entity: a.box.recipient, Key: a.box.recipientKey, Command: command}
	}
	if _, err := c.Do(ctx, request(&smp.SUB{})); err != nil {
		return err
	}
	for *next < n {
		var e client.Event
		var open bool
		select {
		case e, open = <-c.Events():
		case <-ctx.Done():
			return ctx.Err()
		}
		if !open {
			return client.ErrClosed
		}
		m, isMessage := e.Response.(*smp.MSG)
		if e.Err != nil || e.Entity != a.box.recipient || !isMessage {
			return fmt.Errorf("the event is %T, %w", e.Response, e.Err)
		}
		for isMessage {
			if err := a.check(m, acknowledged, next); err != nil {
				return err
			}
			call := c.Start(ctx, request(&smp.ACK{MsgID: m.MsgID}))[0]
			if *next%(cutEvery(n)-2) == 0 && *next != a.lastCut {
				a.lastCut = *next
				a.network.cut() // before the answer, or not
			}
			answer, err := call.Wait(ctx)
			if err != nil {
				return err
			}
			acknowledged[string(m.MsgID.Bytes())] = true
			m, isMessage = answer.(*smp.MSG)
		}
	}
	return nil
}

// check checks that a message is the next one, or one that is known and came again for a
// reason.
func (a *app) check(m *smp.MSG, acknowledged map[string]bool, next *int) error {
	opened, err := auth.OpenMessage(a.box.secret, auth.NonceOf(m.MsgID.Bytes()), m.Body)
	switch {
	case err != nil:
		return err
	case acknowledged[string(m.MsgID.Bytes())]:
		return fmt.Errorf("message %s comes again, although it was acknowledged", opened.Body)
	case opened.Quota:
		return nil
	}
	number, err := strconv.Atoi(string(opened.Body))
	if err != nil {
		return err
	}
	_, resent := a.resent.Load(number)
	switch {
	case number == *next:
		*next++
	case number == *next-1: // sent again, or not known to be acknowledged
	case number < *next && resent:
	default:
		return fmt.Errorf("message %d comes instead of %d", number, *next)
	}
	return nil
}

// A pair is two apps that have connected with each other.
func newPair(t *testing.T, one, two *server, v smp.Version, private bool) [2]*app {
	t.Helper()
	var sent [2]sync.Map
	alice := &app{t: t, home: one, other: two, version: v, private: private, resent: &sent[0], telling: &sent[1]}
	bob := &app{t: t, home: two, other: one, version: v, private: private, resent: &sent[1], telling: &sent[0]}
	connect := func(a *app) *peer {
		c, err := a.current(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if a.conn != nil {
				a.conn.Close()
			}
		})
		return &peer{c, t}
	}
	a, b := connect(alice), connect(bob)
	for _, p := range []*peer{a, b} {
		if got := p.Session(); got.Version != v || !got.Encrypted {
			t.Fatalf("a session of version %d, with encrypted blocks %t", got.Version, got.Encrypted)
		}
	}
	// Alice invites Bob, who secures her queue and tells her of his, which she secures.
	alice.box, bob.box = a.newQueue(), b.newQueue()
	alice.to, bob.to = bob.box, alice.box
	secure := func(from *app, p *peer, text string) {
		for _, r := range []client.Request{
			{Entity: from.to.sender, Key: from.to.senderKey, Command: &smp.SKEY{SenderKey: from.to.senderKey.Public()}},
			{Entity: from.to.sender, Key: from.to.senderKey, Command: &smp.SEND{Body: []byte(text)}},
		} {
			if err := from.deliver(t.Context(), p.Client, r); err != nil {
				t.Fatalf("%T: %v", r.Command, err)
			}
		}
	}
	secure(bob, b, "confirmation")
	a.ack(alice.box, a.receive(alice.box, "confirmation"))
	secure(alice, a, "hello")
	b.ack(bob.box, b.receive(bob.box, "hello"))
	for _, a := range []*app{alice, bob} { // from now on, each connection subscribes once
		a.conn.Close()
		a.conn, a.relay = nil, nil
	}
	return [2]*app{alice, bob}
}

// converse has both ends send so many messages, and receive those of the other.
func converse(t *testing.T, pairs [][2]*app, each int) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var running sync.WaitGroup
	start := func(what string, i int, do func(context.Context, int) error) {
		running.Go(func() {
			if err := do(ctx, each); err != nil && context.Cause(ctx) == nil {
				cancel(fmt.Errorf("app %d %s: %w", i, what, err))
			}
		})
	}
	for _, pair := range pairs {
		for i, a := range pair {
			start("sends", i, a.send)
			start("receives", i, a.receive)
		}
	}
	running.Wait()
	if err := context.Cause(ctx); err != nil {
		t.Fatal(err)
	}
}

// Two apps exchange messages, and their connections are cut again and again: nothing is
// lost, and nothing comes again that was acknowledged.
//
// conformance: 53, 69, 99
func TestApps(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	for _, v := range []smp.Version{11, 15, 18} {
		t.Run(fmt.Sprint(v), func(t *testing.T) {
			converse(t, [][2]*app{newPair(t, r, r, v, false)}, messages(t, 300)/2)
		})
	}
}

// Apps whose queues are on two routers send by way of their own one.
//
// conformance: 143, 145, 152
func TestPrivateRouting(t *testing.T) {
	t.Parallel()
	one, two := start(t, newSite(t).openStore(t, 0)), start(t, newSite(t).openStore(t, 0))
	var pairs [][2]*app
	for _, v := range []smp.Version{11, 15, 18, 19} {
		pairs = append(pairs, newPair(t, one, two, v, true))
	}
	converse(t, pairs, messages(t, 60)/2)
	if c := &one.Counters().PMsgFwds; c.ErrorsOther.Load()+c.ErrorsCompat.Load() > 0 {
		t.Errorf("%d commands could not be forwarded", c.ErrorsOther.Load()+c.ErrorsCompat.Load())
	}
}

// One app finds the other by a short link, and asks it for a connection, all of it by way
// of its own router.
//
// conformance: 47, 61, 143
func TestContactByLink(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	one, two := start(t, st), start(t, newSite(t).openStore(t, 0))
	eachVersion(t, 15, func(t *testing.T, v smp.Version) {
		var key [smp.LinkKeySize]byte
		if _, err := rand.Read(key[:]); err != nil {
			t.Fatal(err)
		}
		to := one.address
		text := fmt.Sprintf("simplex:/a#%s?h=%s&p=%d&c=%s", smp.AppendBase64(nil, key[:]), to.Hosts[0], to.Port, to.Fingerprint)
		address, err := smp.ParseAddress(text)
		if err != nil {
			t.Fatal(err)
		}
		link, ok := address.(*smp.ShortLink)
		if !ok {
			t.Fatalf("%s is a %T", text, address)
		}

		number := int(v)
		sum := sha3.Sum384(corrID(number).Bytes())
		contacts := &box{recipientKey: newKey(t, smp.Ed25519)}
		dh := newKey(t, smp.X25519)
		w := one.wire(t, v)
		var block smp.Batch
		_, _ = block.Add(w.encode(line{key: contacts.recipientKey, Command: &smp.NEW{
			RecipientKey: contacts.recipientKey.Public(), DHKey: dh.Public(), Mode: smp.ModeContact,
			Link: &smp.NewLink{SenderID: short(t, sum[:smp.IDSize]), LinkID: short(t, link.ID().Bytes()), Data: linkData("about me")},
		}}, number))
		if err := w.conn.Send(block.Content()); err != nil {
			t.Fatal(err)
		}
		ids, ok := w.want("IDS")[0].Response.(*smp.IDS)
		if !ok {
			t.Fatal("no ids")
		}
		contacts.recipient, contacts.sender = ids.RecipientID.ID(), ids.SenderID.ID()
		if contacts.secret, err = dh.Agree(ids.DHKey); err != nil {
			t.Fatal(err)
		}
		alice, bob := one.dial(t, v), two.dial(t, v)
		alice.subscribe(contacts)

		through, err := bob.Relay(t.Context(), &smp.RouterAddress{Hosts: link.Hosts, Port: link.Port, Fingerprint: link.Fingerprint}, smp.Password{})
		if err != nil {
			t.Fatal(err)
		}
		forward := func(r client.Request) (smp.Response, error) { return through.Do(t.Context(), r) }
		lnk, err := client.As[*smp.LNK](forward(client.Request{Entity: link.ID(), Command: &smp.LGET{}}))
		if err != nil || string(lnk.Data.User) != "about me" || lnk.SenderID.ID() != contacts.sender {
			t.Fatalf("LGET: %+v, %v", lnk, err)
		}
		if _, err := forward(client.Request{Entity: lnk.SenderID.ID(), Command: &smp.SEND{Body: []byte("let us talk")}}); err != nil {
			t.Fatal(err)
		}
		alice.ack(contacts, alice.receive(contacts, "let us talk"))

		invitation := bob.newQueue()
		back, err := alice.Relay(t.Context(), two.address, smp.Password{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []smp.Command{&smp.SKEY{SenderKey: invitation.senderKey.Public()}, &smp.SEND{Body: []byte("gladly")}} {
			if _, err := back.Do(t.Context(), client.Request{Entity: invitation.sender, Key: invitation.senderKey, Command: c}); err != nil {
				t.Fatalf("%T: %v", c, err)
			}
		}
		bob.ack(invitation, bob.receive(invitation, "gladly"))
	})
}

// A notifier service learns of messages for an app that is asleep, which then gets them
// one by one.
//
// conformance: 92, 107, 110, 114, 116
func TestNotifierOfApp(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	eachVersion(t, smp.VersionServices, func(t *testing.T, v smp.Version) {
		credentials := routertest.NewServiceCredentials(t, queue.RoleNotifier)
		service, alice, bob := r.dial(t, v, asService(credentials)), r.dial(t, v), r.dial(t, v)
		var boxes []*box
		var ids []smp.EntityID
		for range 3 {
			b := alice.newQueue()
			alice.addNotifier(b)
			bob.ok(b.sender, b.senderKey, &smp.SKEY{SenderKey: b.senderKey.Public()})
			subscribed(service, b.notifier, b.notifierKey, &smp.NSUB{})
			boxes, ids = append(boxes, b), append(ids, b.notifier)
		}
		alice.Close()
		notify := func(b *box, text string) {
			bob.ok(b.sender, b.senderKey, &smp.SEND{Notify: true, Body: []byte(text)})
		}
		told := func() (*box, smp.Short) {
			e := service.event()
			n, ok := e.Response.(*smp.NMSG)
			i := slices.Index(ids, e.Entity)
			if !ok || i < 0 {
				t.Fatalf("the event is %T about %s", e.Response, e.Entity)
			}
			meta, err := auth.OpenMeta(boxes[i].notifierSecret, n.Nonce, n.Meta.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			return boxes[i], meta.MsgID
		}
		fetch := func(b *box, id smp.Short, text string) {
			t.Helper()
			p := r.dial(t, v)
			defer p.Close()
			m := must[*smp.MSG](p, b.recipient, b.recipientKey, &smp.GET{})
			b.check(t, m, text)
			if !m.MsgID.Equal(id) {
				t.Error("the notification is about another message")
			}
			p.ack(b, m.MsgID)
		}
		for _, b := range boxes {
			notify(b, "1")
			got, id := told()
			if got != b {
				t.Error("the notification is about another queue")
			}
			fetch(b, id, "1")
		}
		// What comes while the service is away waits for it.
		service.Close()
		for _, b := range boxes {
			notify(b, "2")
		}
		service = r.dial(t, v, asService(credentials))
		service.nsubs(ids...)
		for range boxes {
			b, id := told()
			fetch(b, id, "2")
		}
		service.quiet()
	})
}
