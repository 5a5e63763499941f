package router_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

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
	wrong, err := smp.ParsePassword("wrong")
	if err != nil {
		t.Fatal(err)
	}
	relay := start(t, st)
	proxy := start(t, st)
	guarded := start(t, st, func(o *router.Options) { o.Password = password })
	closed := start(t, st, func(o *router.Options) { o.Proxy.Disabled = true })
	eachVersion(t, 8, func(t *testing.T, v smp.Version) {
		alice, bob := relay.dial(t, v), proxy.dial(t, v)
		ask := prxy(relay.address)
		for _, p := range []smp.Password{{}, wrong} {
			ask.Password = p
			guarded.dial(t, v).refused(smp.ErrProxyPassword, smp.EntityID{}, none(), ask)
		}
		ask.Password = password
		must[*smp.PKEY](guarded.dial(t, v), smp.EntityID{}, none(), ask)
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

// conformance: 144, 147, 148, 149
func TestProxyErrors(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	proxy := start(t, st)
	old := start(t, st, func(o *router.Options) { o.Versions.Max = 7 })
	other := *start(t, st).address
	other.Fingerprint = proxy.Identity()
	relay := routertest.Start(t, routertest.Options{})
	eachVersion(t, smp.VersionProxy, func(t *testing.T, v smp.Version) {
		bob := proxy.dial(t, v)
		bob.refused(smp.ErrNoSession, smp.NewEntityID("nobody"), none(), &smp.PFWD{Version: 18, Key: newKey(t, smp.X25519).Public(), Encrypted: make([]byte, 16242)})
		bob.refused(smp.ErrTransportVersion, smp.EntityID{}, none(), prxy(old.address))
		bob.refused(smp.ProxyBrokerError{Kind: smp.BrokerNetwork}, smp.EntityID{}, none(), prxy(&other))

		through, err := bob.Relay(t.Context(), relay.Address(), smp.Password{})
		if err != nil {
			t.Fatal(err)
		}
		request := client.Request{Entity: smp.NewEntityID("nobody"), Command: &smp.SEND{}}
		if _, err := through.Do(t.Context(), request); !errors.Is(err, smp.ErrAuth) {
			t.Errorf("SEND to nobody: %v", err)
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
			t.Errorf("SEND to nobody, in another session: %v", err)
		}
		through, err = bob.Relay(t.Context(), proxy.address, smp.Password{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []smp.Command{&smp.PING{}, &smp.SUB{}, &smp.DEL{}} {
			r := client.Request{Command: c}
			if _, ping := c.(*smp.PING); !ping {
				r.Entity, r.Key = smp.NewEntityID("nobody"), newKey(t, smp.Ed25519)
			}
			if _, err := through.Do(t.Context(), r); !errors.Is(err, smp.ErrProhibited) {
				t.Errorf("%T, forwarded: %v", c, err)
			}
		}
	})
	if c := &proxy.Counters().PRelays; c.ErrorsCompat.Load() == 0 || c.ErrorsConnect.Load() == 0 || c.Successes.Load() == 0 {
		t.Errorf("%d relays of old versions, %d that cannot be reached, %d that can", c.ErrorsCompat.Load(), c.ErrorsConnect.Load(), c.Successes.Load())
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
	eachVersion(t, smp.VersionProxy, func(t *testing.T, v smp.Version) {
		w := r.wire(t, v, asProxy)
		if w.conn.Session().Encrypted || v >= smp.VersionBlockEncryption && !r.wire(t, v).conn.Session().Encrypted {
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
	})
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
