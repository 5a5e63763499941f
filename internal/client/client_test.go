package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func dial(t testing.TB, r *routertest.Router, o client.Options) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), r.Address(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func newKey(t testing.TB, a smp.Algorithm) auth.PrivateKey {
	t.Helper()
	k, err := auth.GenerateKey(a)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A mailbox is a queue with the keys of both its parties.
type mailbox struct {
	recipient, sender       smp.EntityID
	recipientKey, senderKey auth.PrivateKey
	secret                  smp.DHSecret
}

// create makes a queue.
func create(t testing.TB, c *client.Client, keys smp.Algorithm, change ...func(*smp.NEW)) mailbox {
	t.Helper()
	m := mailbox{recipientKey: newKey(t, keys), senderKey: newKey(t, keys)}
	dh := newKey(t, smp.X25519)
	command := smp.NEW{RecipientKey: m.recipientKey.Public(), DHKey: dh.Public(), Subscribe: true, Mode: smp.ModeMessaging}
	for _, f := range change {
		f(&command)
	}
	ids, err := client.As[*smp.IDS](c.Do(t.Context(), client.Request{Command: &command, Key: m.recipientKey}))
	if err != nil {
		t.Fatal(err)
	}
	m.recipient, m.sender = ids.RecipientID.ID(), ids.SenderID.ID()
	if m.secret, err = dh.Agree(ids.DHKey); err != nil {
		t.Fatal(err)
	}
	return m
}

// received returns the next event, which must be of a certain type.
func received[R smp.Response](t testing.TB, c *client.Client, entity smp.EntityID) R {
	t.Helper()
	e, open := <-c.Events()
	if !open {
		t.Fatalf("no more events: %v", c.Err())
	}
	r, err := client.As[R](e.Response, e.Err)
	if err != nil || e.Entity != entity {
		t.Fatalf("event %T for %s, %v", e.Response, e.Entity, err)
	}
	return r
}

func (m *mailbox) open(t testing.TB, msg *smp.MSG) string {
	t.Helper()
	message, err := auth.OpenMessage(m.secret, auth.NonceOf(msg.MsgID.Bytes()), msg.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(message.Body)
}

// doer is a client or a relay.
type doer interface {
	Do(context.Context, client.Request) (smp.Response, error)
}

// ok sends a command whose result is OK.
func ok(t testing.TB, c doer, r client.Request) {
	t.Helper()
	if _, err := client.As[*smp.OK](c.Do(t.Context(), r)); err != nil {
		t.Fatal(err)
	}
}

func eachVersion(t *testing.T, test func(t *testing.T, v smp.Version)) {
	t.Helper()
	for v := smp.MinVersion; v <= smp.MaxVersion; v++ {
		t.Run(fmt.Sprintf("version %d", v), func(t *testing.T) { test(t, v) })
	}
}

func only(v smp.Version) smp.VersionRange { return smp.VersionRange{Min: v, Max: v} }

// In each version a message goes through a queue, with all that belongs to it.
func TestMessage(t *testing.T) {
	eachVersion(t, func(t *testing.T, v smp.Version) {
		r := routertest.Start(t, routertest.Options{})
		recipient, sender := dial(t, r, client.Options{Versions: only(v)}), dial(t, r, client.Options{Versions: only(v)})
		if s := recipient.Session(); s.Version != v || s.Encrypted != (v >= smp.VersionBlockEncryption) {
			t.Errorf("session of version %d, encrypted: %t", s.Version, s.Encrypted)
		}
		keys := smp.Ed25519
		if v >= smp.VersionSessionKeys {
			keys = smp.X25519
		}
		m := create(t, recipient, keys)
		ok(t, sender, client.Request{Entity: m.sender, Command: &smp.SEND{Body: []byte("hello")}})
		msg := received[*smp.MSG](t, recipient, m.recipient)
		if body := m.open(t, msg); body != "hello" {
			t.Errorf("body %q", body)
		}
		if v < smp.VersionSenderSecures {
			ok(t, recipient, client.Request{Entity: m.recipient, Command: &smp.KEY{SenderKey: m.senderKey.Public()}, Key: m.recipientKey})
		} else {
			ok(t, sender, client.Request{Entity: m.sender, Command: &smp.SKEY{SenderKey: m.senderKey.Public()}, Key: m.senderKey})
		}
		if _, err := sender.Do(t.Context(), client.Request{Entity: m.sender, Command: &smp.SEND{Body: []byte("by anybody")}}); !errors.Is(err, smp.ErrAuth) || !strings.HasPrefix(err.Error(), "SEND: ") {
			t.Errorf("message that is not authorized: %v", err)
		}
		large := bytes.Repeat([]byte("x"), v.MaxMessage())
		ok(t, sender, client.Request{Entity: m.sender, Command: &smp.SEND{Body: large}, Key: m.senderKey})
		next, err := client.As[*smp.MSG](recipient.Do(t.Context(), client.Request{Entity: m.recipient, Command: &smp.ACK{MsgID: msg.MsgID}, Key: m.recipientKey}))
		if err != nil || m.open(t, next) != string(large) {
			t.Errorf("the second message: %v", err)
		}
		ok(t, recipient, client.Request{Entity: m.recipient, Command: &smp.ACK{MsgID: next.MsgID}, Key: m.recipientKey})
		ok(t, recipient, client.Request{Entity: m.recipient, Command: &smp.OFF{}, Key: m.recipientKey})
		ok(t, recipient, client.Request{Entity: m.recipient, Command: &smp.DEL{}, Key: m.recipientKey})
		if _, err := client.As[*smp.PONG](sender.Do(t.Context(), client.Request{Command: &smp.PING{}})); err != nil {
			t.Error(err)
		}
	})
}

// Through a proxy a message arrives as without; neither learns too much, and errors
// say whose they are.
func TestProxy(t *testing.T) {
	for v := smp.VersionProxy; v <= smp.MaxVersion; v++ {
		t.Run(fmt.Sprintf("version %d", v), func(t *testing.T) {
			password, err := smp.ParsePassword("secret")
			if err != nil {
				t.Fatal(err)
			}
			destination := routertest.Start(t, routertest.Options{Versions: smp.VersionRange{Min: smp.MinVersion, Max: v}, Quota: 1})
			proxy := routertest.Start(t, routertest.Options{Password: password})
			recipient, sender := dial(t, destination, client.Options{}), dial(t, proxy, client.Options{})
			if _, err := sender.Relay(t.Context(), destination.Address(), smp.Password{}); !errors.Is(err, smp.ErrProxyPassword) {
				t.Errorf("without the password: %v", err)
			}
			relay, err := sender.Relay(t.Context(), destination.Address(), password)
			if err != nil {
				t.Fatal(err)
			}
			m := create(t, recipient, smp.Ed25519)
			if v >= smp.VersionSenderSecures {
				ok(t, relay, client.Request{Entity: m.sender, Command: &smp.SKEY{SenderKey: m.senderKey.Public()}, Key: m.senderKey})
			} else {
				m.senderKey = auth.PrivateKey{}
			}
			body := strings.Repeat("x", relay.Version().MaxMessage())
			ok(t, relay, client.Request{Entity: m.sender, Command: &smp.SEND{Body: []byte(body)}, Key: m.senderKey})
			if got := m.open(t, received[*smp.MSG](t, recipient, m.recipient)); got != body {
				t.Errorf("body of %d bytes", len(got))
			}
			if _, err := relay.Do(t.Context(), client.Request{Entity: m.sender, Command: &smp.SEND{}, Key: m.senderKey}); !errors.Is(err, smp.ErrQuota) {
				t.Errorf("message to a full queue: %v", err)
			}
			if _, err := relay.Do(t.Context(), client.Request{Entity: m.recipient, Command: &smp.SUB{}, Key: m.recipientKey}); !errors.Is(err, smp.ErrProhibited) {
				t.Errorf("a command that is not forwarded: %v", err)
			}
			other := *destination.Address()
			other.Fingerprint = proxy.Address().Fingerprint
			if _, err := sender.Relay(t.Context(), &other, password); err == nil {
				t.Error("another router than that of the address was taken")
			}
			destination.Disconnect()
			_, err = relay.Do(t.Context(), client.Request{Entity: m.sender, Command: &smp.SEND{}, Key: m.senderKey})
			for err != nil && !errors.Is(err, smp.ErrNoSession) {
				if _, broken := errors.AsType[smp.ProxyBrokerError](err); !broken {
					t.Fatalf("after the session was lost: %v", err)
				}
				_, err = relay.Do(t.Context(), client.Request{Entity: m.sender, Command: &smp.SEND{}, Key: m.senderKey})
			}
			if err == nil {
				t.Error("the session was not lost")
			}
		})
	}
}

// Commands that are started together share blocks, and each gets its own result.
func TestBatch(t *testing.T) {
	eachVersion(t, func(t *testing.T, v smp.Version) {
		r := routertest.Start(t, routertest.Options{})
		c := dial(t, r, client.Options{Versions: only(v)})
		m := create(t, c, smp.Ed25519)
		requests := make([]client.Request, 150)
		for i := range requests {
			requests[i] = client.Request{Entity: m.recipient, Command: &smp.SUB{}, Key: m.recipientKey}
			if i%3 == 0 {
				requests[i].Entity = m.sender // no queue has it for its recipient
			}
		}
		for i, result := range c.DoAll(t.Context(), requests) {
			if wrong := errors.Is(result.Err, smp.ErrAuth); wrong != (i%3 == 0) || !wrong && result.Err != nil {
				t.Errorf("result %d: %v", i, result.Err)
			}
		}
	})
}

// Many callers at once get their own results.
func TestConcurrentCalls(t *testing.T) {
	r := routertest.Start(t, routertest.Options{})
	c := dial(t, r, client.Options{})
	const callers = 20
	errs := make(chan error, callers)
	for range callers {
		go func() {
			errs <- func() error {
				for range 20 {
					m := mailbox{}
					if _, err := c.Do(t.Context(), client.Request{Entity: m.sender, Command: &smp.PING{}}); err != nil {
						return err
					}
				}
				return nil
			}()
		}()
	}
	for range callers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// A full queue refuses messages until the recipient has taken them all.
func TestQuota(t *testing.T) {
	r := routertest.Start(t, routertest.Options{Quota: 2})
	c := dial(t, r, client.Options{})
	m := create(t, c, smp.Ed25519)
	send := client.Request{Entity: m.sender, Command: &smp.SEND{Body: []byte("message")}}
	ok(t, c, send)
	ok(t, c, send)
	for range 2 {
		if _, err := c.Do(t.Context(), send); !errors.Is(err, smp.ErrQuota) {
			t.Errorf("%v", err)
		}
	}
	msg := received[*smp.MSG](t, c, m.recipient)
	for n := 1; ; n++ {
		response, err := c.Do(t.Context(), client.Request{Entity: m.recipient, Command: &smp.ACK{MsgID: msg.MsgID}, Key: m.recipientKey})
		if err != nil {
			t.Fatal(err)
		}
		next, more := response.(*smp.MSG)
		if !more {
			if n != 3 {
				t.Errorf("%d messages, with the marker", n)
			}
			break
		}
		msg = next
	}
	ok(t, c, send)
}

// A service subscribes to all its queues at once, and is told of another connection
// of it.
func TestService(t *testing.T) {
	r := routertest.Start(t, routertest.Options{})
	credentials := routertest.NewServiceCredentials(t, queue.RoleMessaging)
	first := dial(t, r, client.Options{Service: &credentials})
	id := first.Session().Service.ID
	var boxes []mailbox
	subscribed := smp.Subscribed{Count: 3}
	for range 3 {
		m := create(t, first, smp.Ed25519)
		boxes = append(boxes, m)
		subscribed.Hash = subscribed.Hash.Toggle(m.recipient)
	}
	sender := dial(t, r, client.Options{})
	ok(t, sender, client.Request{Entity: boxes[1].sender, Command: &smp.SEND{Body: []byte("hello")}})
	received[*smp.MSG](t, first, boxes[1].recipient)

	second := dial(t, r, client.Options{Service: &credentials})
	if second.Session().Service.ID != id {
		t.Fatal("it got another id")
	}
	soks, err := client.As[*smp.SOKS](second.Do(t.Context(), client.Request{Entity: id, Command: &smp.SUBS{Subscribed: subscribed}}))
	if err != nil || soks.Subscribed != subscribed {
		t.Errorf("%+v, %v; want %+v", soks, err, subscribed)
	}
	if got := boxes[1].open(t, received[*smp.MSG](t, second, boxes[1].recipient)); got != "hello" {
		t.Errorf("body %q", got)
	}
	received[*smp.ALLS](t, second, smp.EntityID{})
	if _, err := sender.Do(t.Context(), client.Request{Entity: id, Command: &smp.SUBS{}}); !errors.Is(err, auth.ErrService) {
		t.Errorf("as no service: %v", err)
	}
}

// Notifications come for messages that ask for them.
func TestNotifications(t *testing.T) {
	r := routertest.Start(t, routertest.Options{})
	recipient, notifier := dial(t, r, client.Options{}), dial(t, r, client.Options{})
	m := create(t, recipient, smp.Ed25519)
	key, dh := newKey(t, smp.Ed25519), newKey(t, smp.X25519)
	nid, err := client.As[*smp.NID](recipient.Do(t.Context(), client.Request{
		Entity: m.recipient, Key: m.recipientKey, Command: &smp.NKEY{NotifierKeys: smp.NotifierKeys{Key: key.Public(), DHKey: dh.Public()}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := dh.Agree(nid.DHKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.As[*smp.SOK](notifier.Do(t.Context(), client.Request{Entity: nid.NotifierID.ID(), Command: &smp.NSUB{}, Key: key})); err != nil {
		t.Fatal(err)
	}
	ok(t, recipient, client.Request{Entity: m.sender, Command: &smp.SEND{Body: []byte("quiet")}})
	first := received[*smp.MSG](t, recipient, m.recipient)
	ok(t, recipient, client.Request{Entity: m.recipient, Command: &smp.ACK{MsgID: first.MsgID}, Key: m.recipientKey})
	ok(t, recipient, client.Request{Entity: m.sender, Command: &smp.SEND{Notify: true, Body: []byte("loud")}})
	msg := received[*smp.MSG](t, recipient, m.recipient)
	n := received[*smp.NMSG](t, notifier, nid.NotifierID.ID())
	meta, err := auth.OpenMeta(secret, auth.Nonce(n.Nonce), n.Meta.Bytes())
	if err != nil || !meta.MsgID.Equal(msg.MsgID) {
		t.Errorf("notification of %s, %v; want %s", meta.MsgID, err, msg.MsgID)
	}
}

// When the router closes the connection, whoever waits is told.
func TestDisconnect(t *testing.T) {
	block := make(chan struct{})
	r := routertest.Start(t, routertest.Options{Answer: func(c smp.Command, _ *smp.Transmission) (smp.Response, bool) {
		if _, ping := c.(*smp.PING); ping {
			close(block)
			return nil, true
		}
		return nil, false
	}})
	c := dial(t, r, client.Options{})
	call := c.Start(t.Context(), client.Request{Command: &smp.PING{}})[0]
	<-block
	r.Disconnect()
	if _, err := call.Wait(t.Context()); !errors.Is(err, client.ErrClosed) {
		t.Errorf("call: %v", err)
	}
	if _, open := <-c.Events(); open {
		t.Error("there is an event")
	}
	<-c.Done()
	if err := c.Err(); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
	if _, err := c.Do(t.Context(), client.Request{Command: &smp.PING{}}); !errors.Is(err, client.ErrClosed) || !errors.Is(err, io.EOF) {
		t.Errorf("afterwards: %v", err)
	}
}

// A call can be given up; the response that comes then bothers nobody.
func TestGiveUp(t *testing.T) {
	late := make(chan struct{})
	r := routertest.Start(t, routertest.Options{Answer: func(c smp.Command, _ *smp.Transmission) (smp.Response, bool) {
		if _, ping := c.(*smp.PING); ping {
			<-late
		}
		return nil, false
	}})
	c := dial(t, r, client.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	call := c.Start(ctx, client.Request{Command: &smp.PING{}})[0]
	cancel()
	if _, err := call.Wait(ctx); !errors.Is(err, context.Canceled) || !strings.HasPrefix(err.Error(), "PING: ") {
		t.Errorf("%v", err)
	}
	close(late)
	m := create(t, c, smp.Ed25519)
	ok(t, c, client.Request{Entity: m.recipient, Command: &smp.DEL{}, Key: m.recipientKey})
}

// Events wait for who receives them, and so does the router; closing ends it all.
func TestBackPressure(t *testing.T) {
	r := routertest.Start(t, routertest.Options{})
	slow, sender := dial(t, r, client.Options{}), dial(t, r, client.Options{})
	var boxes []mailbox
	for range 80 {
		boxes = append(boxes, create(t, slow, smp.Ed25519))
	}
	for _, m := range boxes {
		ok(t, sender, client.Request{Entity: m.sender, Command: &smp.SEND{Body: []byte(m.sender.String())}})
	}
	ping := slow.Start(t.Context(), client.Request{Command: &smp.PING{}})[0]
	if n := len(slow.Events()); n > cap(slow.Events()) || cap(slow.Events()) > 64 {
		t.Errorf("%d events of %d wait in memory", n, cap(slow.Events()))
	}
	for _, m := range boxes[:60] {
		if got := m.open(t, received[*smp.MSG](t, slow, m.recipient)); got != m.sender.String() {
			t.Errorf("body %q", got)
		}
	}
	select {
	case <-ping.Done():
		t.Error("the response overtook events")
	default:
	}
	slow.Close()
	if _, err := ping.Wait(t.Context()); !errors.Is(err, client.ErrClosed) {
		t.Errorf("%v", err)
	}
}

// The hosts of an address are tried one after another; the router must be that of
// the address.
func TestDial(t *testing.T) {
	r := routertest.Start(t, routertest.Options{})
	closed, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	a := *r.Address()
	unreachable, err := smp.ParseHost("127.0.0.2")
	if err != nil {
		t.Fatal(err)
	}
	a.Hosts = append([]smp.Host{unreachable}, a.Hosts...)
	c, err := client.Dial(t.Context(), &a, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()

	other := *r.Address()
	other.Fingerprint = routertest.Start(t, routertest.Options{}).Address().Fingerprint
	if _, err := client.Dial(t.Context(), &other, client.Options{}); !errors.Is(err, smp.ErrHandshakeIdentity) {
		t.Errorf("another router: %v", err)
	}
	if _, err := client.Dial(t.Context(), r.Address(), client.Options{Versions: only(5)}); !errors.Is(err, smp.ErrTransportVersion) {
		t.Errorf("no common version: %v", err)
	}
	if _, err := client.Dial(t.Context(), &smp.RouterAddress{Fingerprint: a.Fingerprint}, client.Options{}); err == nil {
		t.Error("without a host")
	}
}

// Onion hosts are reached through a SOCKS server, by their names.
func TestOnion(t *testing.T) {
	r := routertest.Start(t, routertest.Options{})
	onion := strings.Repeat("a", 56) + ".onion"
	host, err := smp.ParseHost(onion)
	if err != nil {
		t.Fatal(err)
	}
	a := *r.Address()
	target := net.JoinHostPort(a.Hosts[0].String(), fmt.Sprint(a.PortOrDefault()))
	a.Hosts = []smp.Host{host}
	if _, err := client.Dial(t.Context(), &a, client.Options{}); !errors.Is(err, client.ErrOnion) {
		t.Errorf("without a SOCKS server: %v", err)
	}
	socks := routertest.StartSOCKS(t, target)
	c, err := client.Dial(t.Context(), &a, client.Options{Socks: socks.Address()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := client.As[*smp.PONG](c.Do(t.Context(), client.Request{Command: &smp.PING{}})); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(socks.Asked(), []routertest.Asked{{Host: onion}}); diff != "" {
		t.Errorf("it asked for (-got +want):\n%s", diff)
	}
}

// A host that does not answer leaves time for the others.
func TestDialSharesTime(t *testing.T) {
	t.Parallel() // it waits for time to pass
	r := routertest.Start(t, routertest.Options{})
	silent, err := net.Listen("tcp", "127.0.0.3:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	a := *r.Address()
	quiet, err := smp.ParseHost("127.0.0.3")
	if err != nil {
		t.Fatal(err)
	}
	target := net.JoinHostPort(a.Hosts[0].String(), fmt.Sprint(a.PortOrDefault()))
	a.Hosts = append([]smp.Host{quiet}, a.Hosts...)
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, &a, client.Options{Network: dialFunc(func(ctx context.Context, kind, address string) (net.Conn, error) {
		if address != target {
			address = silent.Addr().String()
		}
		return new(net.Dialer).DialContext(ctx, kind, address)
	})})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

type dialFunc func(ctx context.Context, kind, address string) (net.Conn, error)

func (f dialFunc) DialContext(ctx context.Context, kind, address string) (net.Conn, error) {
	return f(ctx, kind, address)
}
