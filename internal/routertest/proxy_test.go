package routertest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
)

// proxy returns the command that asks for a session with a router.
func proxy(to *routertest.Router) command {
	a := to.Address()
	return command{Command: &smp.PRXY{Hosts: a.Hosts, Port: a.Port, Fingerprint: a.Fingerprint}}
}

// A relay is a session with another router by way of a proxy.
type relay struct {
	*client

	id      smp.Short
	version smp.Version
	key     smp.PublicKey
}

func (c *client) relay(to *routertest.Router) *relay {
	c.t.Helper()
	got := must[*smp.PKEY](c, proxy(to))
	chain, err := auth.VerifyRouterChain(got.Key.Chain, time.Now())
	if err != nil {
		c.t.Fatal(err)
	}
	if chain.Identity != to.Address().Fingerprint {
		c.t.Error("the certificates are those of another router")
	}
	key, err := chain.SessionKey(got.Key.Key)
	if err != nil {
		c.t.Fatal(err)
	}
	return &relay{client: c, id: got.SessionID, version: got.Versions.Max, key: key}
}

// forward sends commands to the other router, and returns what it answers.
func (r *relay) forward(commands ...command) (smp.Transmission, smp.Response) {
	r.t.Helper()
	own := newKey(r.t, smp.X25519)
	secret, err := own.Agree(r.key)
	if err != nil {
		r.t.Fatal(err)
	}
	corrID := random(r.t)
	nonce := auth.NonceOf(corrID.Bytes())
	var block smp.Batch
	signer := &auth.Signer{Session: r.id, Router: r.key}
	for _, cmd := range commands {
		t := smp.Transmission{CorrID: corrID, EntityID: cmd.entity, Command: cmd.Append(nil, r.version)}
		if !cmd.key.IsZero() {
			if err := signer.Authorize(&t, cmd.rule, cmd.key); err != nil {
				r.t.Fatal(err)
			}
		}
		if _, err := block.Add(t.Append(nil, r.version)); err != nil {
			r.t.Fatal(err)
		}
	}
	sealed, err := auth.SealCommand(nil, secret, nonce, block.Content())
	if err != nil {
		r.t.Fatal(err)
	}
	pfwd := command{Command: &smp.PFWD{Version: r.version, Key: own.Public(), Encrypted: sealed}, entity: r.id, corrID: corrID}
	answer := r.call(pfwd)
	pres, ok := answer.(*smp.PRES)
	if !ok {
		return smp.Transmission{}, answer
	}
	content, err := auth.OpenCommand(secret, nonce.Reply(), pres.Encrypted)
	if err != nil {
		r.t.Fatal(err)
	}
	in, err := smp.SplitContent(nil, content)
	if err != nil || len(in) != 1 {
		r.t.Fatalf("got %d transmissions: %v", len(in), err)
	}
	t, err := smp.ParseTransmission(in[0], r.version)
	if err != nil {
		r.t.Fatal(err)
	}
	if answer, err = smp.ParseResponse(t.Command, r.version); err != nil {
		r.t.Fatal(err)
	}
	if !t.CorrID.Equal(corrID) {
		r.t.Errorf("got an answer to %s, want %s", t.CorrID, corrID)
	}
	return t, answer
}

func (r *relay) wants(want smp.Response, commands ...command) {
	r.t.Helper()
	if _, got := r.forward(commands...); text(got) != text(want) {
		r.t.Errorf("%T: got %s, want %s", commands[0].Command, text(got), text(want))
	}
}

func failed(err smp.Error) smp.Response { return &smp.ERR{Err: err} }

func TestProxy(t *testing.T) {
	for _, v := range []smp.Version{8, 10, 12, 14, 19} {
		t.Run(fmt.Sprintf("destination of version %d", v), func(t *testing.T) {
			by := routertest.Start(t, routertest.Options{})
			to := routertest.Start(t, routertest.Options{Versions: versions(v), Quota: 1})
			recipient, c := connect(t, to, v, nil), connect(t, by, smp.MaxVersion, nil)
			r := c.relay(to)
			m := recipient.create(smp.Ed25519)
			key := newKey(t, smp.X25519)
			if v < smp.VersionSenderSecures {
				must[*smp.OK](recipient, m.do(&smp.KEY{SenderKey: key.Public()}))
			} else {
				r.wants(&smp.OK{}, command{Command: &smp.SKEY{SenderKey: key.Public()}, entity: m.SenderID, key: key})
			}
			r.wants(failed(smp.ErrAuth), m.put("unsigned", auth.PrivateKey{}))
			body := string(make([]byte, r.version.MaxMessage()))
			r.wants(&smp.OK{}, m.put(body, key))
			m.open(event[*smp.MSG](recipient, m.RecipientID), body)
			r.wants(failed(smp.ErrQuota), m.put("too many", key))
			r.wants(failed(smp.ErrLargeMsg), m.put(body+"x", key))
		})
	}
}

func TestProxyErrors(t *testing.T) {
	by := routertest.Start(t, routertest.Options{})
	drop := make(chan struct{}, 1)
	to := routertest.Start(t, routertest.Options{Answer: func(c smp.Command, _ *smp.Transmission) (smp.Response, bool) {
		if _, ok := c.(*smp.LGET); ok {
			drop <- struct{}{}
			return nil, true
		}
		return nil, false
	}})
	c := connect(t, by, smp.MaxVersion, nil)
	r := c.relay(to)
	if again := c.relay(to); !again.id.Equal(r.id) {
		t.Errorf("got the sessions %s and %s with the same router", r.id, again.id)
	}
	key := newKey(t, smp.Ed25519)
	ping, send := command{Command: &smp.PING{}}, command{Command: &smp.SEND{}, entity: random(t)}
	r.wants(failed(smp.ErrProhibited), ping)
	r.wants(failed(smp.ErrProhibited), command{Command: &smp.SUB{}, entity: random(t), key: key})
	r.wants(failed(smp.ErrAuth), send)
	r.wants(failed(smp.ErrNoEntity), command{Command: &smp.SEND{}})
	r.wants(failed(smp.ProxyProtocolError{Err: smp.ErrBlock}), send, send)
	garbage := command{Command: &smp.PFWD{Version: 18, Key: newKey(t, smp.X25519).Public(), Encrypted: []byte("garbage")}, entity: r.id}
	c.refused(garbage, smp.ProxyProtocolError{Err: smp.ErrCrypto})
	c.refused(command{Command: &smp.RFWD{Encrypted: []byte("garbage")}}, smp.ErrCrypto)
	connect(t, by, 6, nil).refused(command{Command: &smp.RFWD{}},
		smp.ProxyBrokerError{Kind: smp.BrokerTransport, Transport: smp.ErrTransportNoAuth})

	// Whoever waits for an answer learns that the connection is lost.
	go func() {
		<-drop
		to.Disconnect()
	}()
	r.wants(failed(smp.ProxyBrokerError{Kind: smp.BrokerNetwork}), command{Command: &smp.LGET{}, entity: random(t)})
	r.wants(failed(smp.ErrNoSession), send)
	c.relay(to).wants(failed(smp.ErrAuth), send)

	wrong := proxy(to)
	wrong.Command.(*smp.PRXY).Fingerprint = by.Address().Fingerprint
	c.refused(wrong, smp.ProxyBrokerError{Kind: smp.BrokerNetwork})
	old := routertest.Start(t, routertest.Options{Versions: versions(7)})
	c.refused(proxy(old), smp.ProxyBrokerError{Kind: smp.BrokerTransport, Transport: smp.ErrTransportVersion})
	no := routertest.Start(t, routertest.Options{NoProxy: true})
	connect(t, no, smp.MaxVersion, nil).refused(proxy(to), smp.ErrProxyPassword)
	// A router can be its own proxy.
	c.relay(by).wants(failed(smp.ErrAuth), send)
}
