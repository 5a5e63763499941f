package router_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/transport"
)

// prxy returns PRXY for a router.
func prxy(to *smp.RouterAddress) *smp.PRXY {
	return &smp.PRXY{Hosts: to.Hosts, Port: to.Port, Fingerprint: to.Fingerprint}
}

// conformance: 140, 141, 142, 143, 145, 152
func TestProxy(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 2)
	password, err := smp.ParsePassword("secret")
	if err != nil {
		t.Fatal(err)
	}
	relay := start(t, st)
	proxy := start(t, st)
	guarded := start(t, st, func(o *router.Options) { o.Password = password })
	closed := start(t, st, func(o *router.Options) { o.Proxy.Disabled = true })
	eachVersion(t, 8, func(t *testing.T, v smp.Version) {
		alice, bob := relay.dial(t, v), proxy.dial(t, v)
		guarded.dial(t, v).refused(smp.ErrProxyPassword, smp.EntityID{}, none(), prxy(relay.address))
		closed.dial(t, v).refused(smp.ErrProxyPassword, smp.EntityID{}, none(), prxy(relay.address))
		first := must[*smp.PKEY](bob, smp.EntityID{}, none(), prxy(relay.address))
		again := must[*smp.PKEY](proxy.dial(t, v), smp.EntityID{}, none(), prxy(relay.address))
		if !first.SessionID.Equal(again.SessionID) || first.Versions != (smp.VersionRange{Min: 8, Max: 18}) {
			t.Errorf("sessions %s and %s, versions %s", first.SessionID, again.SessionID, first.Versions)
		}
		for _, to := range []*server{relay, proxy} { // the proxy may be the relay
			through, err := bob.Relay(t.Context(), to.address, smp.Password{})
			if err != nil {
				t.Fatal(err)
			}
			algorithms := []smp.Algorithm{smp.Ed25519, smp.Ed448, smp.X25519}
			if to == proxy {
				algorithms = algorithms[:1]
			}
			for _, a := range algorithms {
				b := alice.newQueue()
				if to == proxy {
					alice = proxy.dial(t, v)
					alice.subscribe(b)
				}
				do := func(want error, key auth.PrivateKey, entity smp.EntityID, c smp.Command) {
					t.Helper()
					if _, err := through.Do(t.Context(), client.Request{Entity: entity, Key: key, Command: c}); !errors.Is(err, want) {
						t.Errorf("%T: %v, not %v", c, err, want)
					}
				}
				do(nil, none(), b.sender, &smp.SEND{Body: []byte("open")})
				id := alice.receive(b, "open")
				key := newKey(t, a)
				if v >= smp.VersionSenderSecures {
					do(nil, key, b.sender, &smp.SKEY{SenderKey: key.Public()})
				} else {
					alice.ok(b.recipient, b.recipientKey, &smp.KEY{SenderKey: key.Public()})
				}
				do(smp.ErrAuth, none(), b.sender, &smp.SEND{Body: []byte("x")})
				long := strings.Repeat("x", 16048)
				do(nil, key, b.sender, &smp.SEND{Body: []byte(long)})
				do(smp.ErrQuota, key, b.sender, &smp.SEND{Body: []byte("x")})
				alice.ackNext(b, id, long)
			}
		}
	})
}

// conformance: 144, 146, 147, 148, 149
func TestProxyErrors(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	proxy := start(t, st, func(o *router.Options) { o.Proxy.ErrorMemory = time.Hour })
	bob := proxy.dial(t, 19)
	bob.refused(smp.ErrNoSession, smp.NewEntityID("nobody"), none(), &smp.PFWD{Version: 18, Key: newKey(t, smp.X25519).Public(), Encrypted: make([]byte, 16242)})

	l := listen(t)
	dead := addressOf(t, proxy.Identity(), l)
	l.Close()
	for range 100 {
		bob.refused(smp.ProxyBrokerError{Kind: smp.BrokerNetwork}, smp.EntityID{}, none(), prxy(dead))
	}
	if c := &proxy.Counters().PRelays; c.Requests.Load() != 100 || c.ErrorsConnect.Load() != 100 {
		t.Errorf("%d requests, %d errors", c.Requests.Load(), c.ErrorsConnect.Load())
	}
	old := start(t, st, func(o *router.Options) { o.Versions.Max = 7 })
	bob.refused(smp.ErrTransportVersion, smp.EntityID{}, none(), prxy(old.address))
	other := *start(t, st).address
	other.Fingerprint = proxy.Identity()
	bob.refused(smp.ProxyBrokerError{Kind: smp.BrokerNetwork}, smp.EntityID{}, none(), prxy(&other))

	relay := routertest.Start(t, routertest.Options{})
	through, err := bob.Relay(t.Context(), relay.Address(), smp.Password{})
	if err != nil {
		t.Fatal(err)
	}
	request := client.Request{Entity: smp.NewEntityID("nobody"), Command: &smp.LGET{}}
	if _, err := through.Do(t.Context(), request); !errors.Is(err, smp.ErrAuth) {
		t.Errorf("LGET of nothing: %v", err)
	}
	relay.Disconnect()
	eventually(t, "that the session is forgotten", func() bool {
		_, err := through.Do(t.Context(), request)
		return errors.Is(err, smp.ErrNoSession)
	})
	if through, err = bob.Relay(t.Context(), relay.Address(), smp.Password{}); err != nil {
		t.Fatal(err)
	}
	if _, err := through.Do(t.Context(), request); !errors.Is(err, smp.ErrAuth) {
		t.Errorf("LGET of nothing, in another session: %v", err)
	}
	through, err = bob.Relay(t.Context(), proxy.address, smp.Password{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := through.Do(t.Context(), client.Request{Command: &smp.PING{}}); !errors.Is(err, smp.ErrProhibited) {
		t.Errorf("PING, forwarded: %v", err)
	}
}

// Commands are answered while a proxy waits for another router, but for those that are
// too many of the kind.
//
// conformance: 153, 154
func TestProxyWaits(t *testing.T) {
	t.Parallel()
	proxy := start(t, newSite(t).openStore(t, 0), func(o *router.Options) {
		o.Proxy.Concurrency, o.Proxy.ConnectTimeout = 1, 500*time.Millisecond
	})
	silent := listen(t)
	defer silent.Close()
	bob := proxy.dial(t, 19)
	call := bob.Start(t.Context(), client.Request{Command: prxy(addressOf(t, proxy.Identity(), silent))})[0]
	bob.quiet()
	select {
	case <-call.Done():
		t.Error("PRXY is answered already")
	default:
	}
	_, err := call.Wait(t.Context())
	if want := (smp.ProxyBrokerError{Kind: smp.BrokerTimeout}); !errors.Is(err, want) {
		t.Errorf("PRXY to a silent router: %v, not %v", err, want)
	}
}

// sealFor returns RFWD with some transmissions for the router at the end of w.
func (w *wire) sealFor(t *testing.T, id smp.Short, v smp.Version, content []byte) *smp.RFWD {
	t.Helper()
	s := w.conn.Session()
	key := newKey(t, smp.X25519)
	secret, err := key.Agree(s.PeerKey)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := auth.SealCommand(nil, secret, auth.NonceOf(corrID(5).Bytes()), content)
	if err != nil {
		t.Fatal(err)
	}
	f := auth.Forwarded{CorrID: corrID(5), Version: v, Key: key.Public(), Sealed: sealed}
	return &smp.RFWD{Encrypted: f.Seal(nil, s.Secret, auth.NonceOf(id.Bytes()))}
}

// conformance: 17, 150, 151
func TestRelay(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	asProxy := func(d *transport.Dialer) { d.Proxy = true }
	w := r.wire(t, 19, asProxy)
	if w.conn.Session().Encrypted || !r.wire(t, 19).conn.Session().Encrypted {
		t.Error("blocks of proxies are encrypted, or those of others are not")
	}
	var one, two smp.Batch
	ping := (&smp.Transmission{CorrID: corrID(5), Command: []byte("PING")}).Append(nil, 18)
	_, _ = one.Add(ping)
	_, _ = two.Add(ping)
	_, _ = two.Add(ping)
	id := corrID(0)
	for _, c := range []struct {
		command smp.Command
		want    string
	}{
		{w.sealFor(t, id, 18, one.Content()), "RRES"},
		{w.sealFor(t, id, 18, two.Content()), "ERR BLOCK"},
		{w.sealFor(t, id, 18, []byte{9}), "RRES"},
		{w.sealFor(t, id, 5, one.Content()), "RRES"},
		{w.sealFor(t, id, 65535, one.Content()), "RRES"},
		{w.sealFor(t, corrID(1), 18, one.Content()), "ERR CRYPTO"},
		{&smp.RFWD{Encrypted: []byte("x")}, "ERR CRYPTO"},
	} {
		w.send(line{Command: c.command})
		w.want(c.want)
	}
	old := r.wire(t, 6)
	old.send(line{Command: &smp.RFWD{Encrypted: []byte("x")}})
	old.want("ERR PROXY BROKER TRANSPORT NO_AUTH")
}

// conformance: 143
func TestProxyManyClients(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	relay, proxy := start(t, st), start(t, st)
	alice := relay.dial(t, 19)
	boxes := alice.newQueues(20)
	var sending sync.WaitGroup
	for _, some := range [][]*box{boxes[:10], boxes[10:]} {
		bob := proxy.dial(t, 18)
		sending.Go(func() {
			through, err := bob.Relay(context.Background(), relay.address, smp.Password{})
			if err != nil {
				t.Error(err)
				return
			}
			for _, b := range some {
				if _, err := through.Do(context.Background(), client.Request{Entity: b.sender, Command: &smp.SEND{Body: []byte("x")}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range boxes {
		if _, ok := alice.event().Response.(*smp.MSG); !ok {
			t.Error("not a message")
		}
	}
	sending.Wait()
}
