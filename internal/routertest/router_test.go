package routertest_test

import (
	"crypto/sha3"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
)

// A queue lives from NEW to DEL in versions with different encodings, with keys
// of all kinds.
func TestQueue(t *testing.T) {
	r := routertest.Start(t, routertest.Options{})
	for _, v := range []smp.Version{6, 9, 11, 15, 19} {
		for _, a := range []smp.Algorithm{smp.Ed25519, smp.Ed448, smp.X25519} {
			if v == 6 && a == smp.X25519 {
				continue // there are no authenticators
			}
			t.Run(fmt.Sprintf("version %d with %v", v, a), func(t *testing.T) {
				recipient, sender := connect(t, r, v, nil), connect(t, r, v, nil)
				m := recipient.create(a)
				key := newKey(t, a)
				must[*smp.OK](sender, m.put("first", auth.PrivateKey{}))
				ack := m.open(event[*smp.MSG](recipient, m.RecipientID), "first")
				if v < smp.VersionSenderSecures {
					must[*smp.OK](recipient, m.do(&smp.KEY{SenderKey: key.Public()}))
				} else {
					must[*smp.OK](sender, command{Command: &smp.SKEY{SenderKey: key.Public()}, entity: m.SenderID, key: key})
				}
				sender.refused(m.put("unsigned", auth.PrivateKey{}), smp.ErrAuth)
				sender.refused(m.put("of somebody else", newKey(t, a)), smp.ErrAuth)
				must[*smp.OK](sender, m.put("second", key))
				recipient.refused(m.do(&smp.ACK{MsgID: random(t)}), smp.ErrNoMsg)
				recipient.refused(m.do(&smp.GET{}), smp.ErrProhibited)

				// The next message comes with the answer; another connection takes over.
				m.open(must[*smp.MSG](recipient, ack), "second")
				other := connect(t, r, v, nil)
				if v < smp.VersionServices {
					must[*smp.OK](other, m.do(&smp.SUB{}))
				} else {
					must[*smp.SOK](other, m.do(&smp.SUB{}))
				}
				ack = m.open(event[*smp.MSG](other, m.RecipientID), "second")
				if other.blocks != 1 {
					t.Errorf("answer and message came in %d blocks", other.blocks)
				}
				event[*smp.END](recipient, m.RecipientID)
				recipient.refused(ack, smp.ErrNoMsg)
				must[*smp.OK](other, ack)

				must[*smp.OK](recipient, m.do(&smp.OFF{}))
				sender.refused(m.put("late", key), smp.ErrAuth)
				must[*smp.OK](recipient, m.do(&smp.DEL{}))
				if v < smp.VersionDeleted {
					event[*smp.END](other, m.RecipientID)
				} else {
					event[*smp.DELD](other, m.RecipientID)
				}
				recipient.refused(m.do(&smp.SUB{}), smp.ErrAuth)
				must[*smp.PONG](recipient, command{Command: &smp.PING{}})
			})
		}
	}
}

func TestQuota(t *testing.T) {
	r := routertest.Start(t, routertest.Options{Quota: 2})
	c := connect(t, r, smp.MaxVersion, nil)
	m := c.create(smp.Ed25519, func(_ *command, n *smp.NEW) { n.Subscribe = false })
	none := auth.PrivateKey{}
	must[*smp.OK](c, m.put("1", none))
	must[*smp.OK](c, m.put("2", none))
	c.refused(m.put("3", none), smp.ErrQuota)
	must[*smp.SOK](c, m.do(&smp.SUB{}))
	ack := m.open(event[*smp.MSG](c, m.RecipientID), "1")
	ack = m.open(must[*smp.MSG](c, ack), "2")
	c.refused(m.put("4", none), smp.ErrQuota)
	ack = m.open(must[*smp.MSG](c, ack), "")
	c.refused(m.put("5", none), smp.ErrQuota)
	must[*smp.OK](c, ack)
	// To itself, it sends the message before the answer.
	c.send(m.put("6", none))
	m.open(event[*smp.MSG](c, m.RecipientID), "6")
	if _, answer := c.receive(); text(answer) != `"OK"` {
		t.Errorf("got %s, want OK", text(answer))
	}
	c.refused(m.put(strings.Repeat("x", smp.MaxVersion.MaxMessage()+1), none), smp.ErrLargeMsg)
	must[*smp.OK](c, m.put(strings.Repeat("x", smp.MaxVersion.MaxMessage()), none))
}

func TestGet(t *testing.T) {
	r := routertest.Start(t, routertest.Options{})
	c := connect(t, r, smp.MaxVersion, nil)
	m := c.create(smp.X25519, func(_ *command, n *smp.NEW) { n.Subscribe = false })
	must[*smp.OK](c, m.do(&smp.GET{}))
	c.refused(m.do(&smp.SUB{}), smp.ErrProhibited)
	must[*smp.OK](c, m.put("1", auth.PrivateKey{}))
	must[*smp.OK](c, m.put("2", auth.PrivateKey{}))
	ack := m.open(must[*smp.MSG](c, m.do(&smp.GET{})), "1")
	var info smp.QueueInfo
	if err := json.Unmarshal(must[*smp.INFO](c, m.do(&smp.QUE{})).JSON, &info); err != nil {
		t.Fatal(err)
	}
	if info.Size != 2 || info.Secured || info.Subscription == nil || info.Subscription.Thread != smp.ThreadProhibited ||
		len(info.Subscription.Delivered) != smp.NonceSize || info.Message == nil || info.Message.Type != smp.MessageNormal {
		t.Errorf("got %+v", info)
	}
	must[*smp.OK](c, ack)
	m.open(must[*smp.MSG](c, m.do(&smp.GET{})), "2")
}

// The answers to a block come in their order and in as few blocks as possible,
// the waiting messages behind them.
func TestBatch(t *testing.T) {
	r := routertest.Start(t, routertest.Options{})
	c := connect(t, r, smp.MaxVersion, nil)
	var boxes []*mailbox
	var commands []command
	for range 40 {
		m := c.create(smp.Ed25519, func(_ *command, n *smp.NEW) { n.Subscribe = false })
		boxes, commands = append(boxes, m), append(commands, m.do(&smp.SUB{}))
	}
	must[*smp.OK](c, boxes[1].put("one", auth.PrivateKey{}))
	must[*smp.OK](c, boxes[3].put("three", auth.PrivateKey{}))
	commands[2].key = newKey(t, smp.Ed25519)
	before := c.blocks
	for i, sent := range c.send(commands...) {
		got, answer := c.receive()
		if _, ok := answer.(*smp.SOK); ok == (i == 2) || !got.CorrID.Equal(sent.CorrID) {
			t.Errorf("command %d: got %s", i, text(answer))
		}
	}
	boxes[1].open(event[*smp.MSG](c, boxes[1].RecipientID), "one")
	boxes[3].open(event[*smp.MSG](c, boxes[3].RecipientID), "three")
	if c.blocks-before != 3 {
		t.Errorf("got %d blocks", c.blocks-before)
	}
}

func TestNotifier(t *testing.T) {
	r := routertest.Start(t, routertest.Options{})
	for _, v := range []smp.Version{6, 16, 19} {
		t.Run(fmt.Sprintf("version %d", v), func(t *testing.T) {
			c, phone := connect(t, r, v, nil), connect(t, r, v, nil)
			key, dh := newKey(t, smp.Ed25519), newKey(t, smp.X25519)
			keys := smp.NotifierKeys{Key: key.Public(), DHKey: dh.Public()}
			m := c.create(smp.Ed25519, func(_ *command, n *smp.NEW) { n.Notifier, n.Subscribe = &keys, false })
			id := m.Notifier
			if v < smp.VersionNotifierInNew {
				id = &must[*smp.NID](c, m.do(&smp.NKEY{NotifierKeys: keys})).NewNotifierID
			}
			must[*smp.OK](c, m.put("before", auth.PrivateKey{}))
			subscribe := command{Command: &smp.NSUB{}, entity: id.NotifierID, key: key, rule: auth.ByPartyAndService}
			phone.call(subscribe)
			must[*smp.OK](c, m.put("after", auth.PrivateKey{}))
			secret, err := dh.Agree(id.DHKey)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				e := event[*smp.NMSG](phone, id.NotifierID)
				if _, err := auth.OpenMeta(secret, e.Nonce, e.Meta.Bytes()); err != nil {
					t.Error(err)
				}
			}
			other := connect(t, r, v, nil)
			other.call(subscribe)
			event[*smp.END](phone, id.NotifierID)
			must[*smp.OK](c, m.do(&smp.NDEL{}))
			if v < smp.VersionDeleted {
				event[*smp.END](other, id.NotifierID)
			} else {
				event[*smp.DELD](other, id.NotifierID)
			}
			other.refused(subscribe, smp.ErrAuth)
		})
	}
}

func TestLinks(t *testing.T) {
	r := routertest.Start(t, routertest.Options{})
	c, guest := connect(t, r, smp.MaxVersion, nil), connect(t, r, smp.MaxVersion, nil)
	data := smp.LinkData{Fixed: []byte("fixed"), User: []byte("user")}
	link := func(mode smp.QueueMode) func(*command, *smp.NEW) {
		return func(cmd *command, n *smp.NEW) {
			cmd.corrID = random(t)
			sum := sha3.Sum384(cmd.corrID.Bytes())
			n.Mode, n.Link = mode, &smp.NewLink{SenderID: short(t, sum[:24]), Data: data}
			if mode == smp.ModeContact {
				n.Link.LinkID = random(t)
			}
		}
	}
	key := newKey(t, smp.Ed25519)

	contact := c.create(smp.Ed25519, link(smp.ModeContact))
	open := command{Command: &smp.LGET{}, entity: contact.LinkID}
	if got := must[*smp.LNK](guest, open); string(got.Data.User) != "user" || !got.SenderID.Equal(contact.SenderID) {
		t.Errorf("got %s", text(got))
	}
	data.User = []byte("user 2")
	must[*smp.OK](c, contact.do(&smp.LSET{LinkID: contact.LinkID, Data: data}))
	c.refused(contact.do(&smp.LSET{LinkID: random(t), Data: data}), smp.ErrAuth)
	if got := must[*smp.LNK](guest, open); string(got.Data.User) != "user 2" {
		t.Errorf("got %s", text(got))
	}
	guest.refused(command{Command: &smp.LKEY{SenderKey: key.Public()}, entity: contact.LinkID, key: key}, smp.ErrAuth)
	second := newKey(t, smp.Ed25519)
	must[*smp.OK](c, contact.do(&smp.RKEY{RecipientKeys: []smp.PublicKey{contact.key.Public(), second.Public()}}))
	contact.key = second
	must[*smp.OK](c, contact.do(&smp.LDEL{}))
	guest.refused(open, smp.ErrAuth)

	invitation := c.create(smp.Ed25519, link(smp.ModeMessaging))
	guest.refused(command{Command: &smp.LGET{}, entity: invitation.LinkID}, smp.ErrAuth)
	secure := command{Command: &smp.LKEY{SenderKey: key.Public()}, entity: invitation.LinkID, key: key}
	must[*smp.LNK](guest, secure)
	must[*smp.LNK](guest, secure)
	c.refused(invitation.do(&smp.LSET{LinkID: invitation.LinkID, Data: data}), smp.ErrAuth)
	c.refused(invitation.do(&smp.RKEY{RecipientKeys: []smp.PublicKey{key.Public()}}), smp.ErrAuth)
	must[*smp.OK](guest, invitation.put("hello", key))
	event[*smp.MSG](c, invitation.RecipientID)
	guest.refused(secure, smp.ErrAuth) // the link is used up

	n := &smp.NEW{RecipientKey: key.Public(), DHKey: newKey(t, smp.X25519).Public()}
	cmd := command{Command: n, key: key}
	link(smp.ModeMessaging)(&cmd, n)
	n.Link.SenderID = random(t)
	c.refused(cmd, smp.ErrProhibited)
}

func TestPassword(t *testing.T) {
	p, err := smp.ParsePassword("letmein")
	if err != nil {
		t.Fatal(err)
	}
	r := routertest.Start(t, routertest.Options{Password: p})
	if !r.Address().Password.Equal(p) {
		t.Error("the address does not have the password")
	}
	for _, v := range []smp.Version{6, 9, 15} {
		c := connect(t, r, v, nil)
		key := newKey(t, smp.Ed25519)
		n := &smp.NEW{RecipientKey: key.Public(), DHKey: newKey(t, smp.X25519).Public()}
		c.refused(command{Command: n, key: key}, smp.ErrAuth)
		n.Password = p
		must[*smp.IDS](c, command{Command: n, key: key})
		c.refused(proxy(r), smp.ErrProxyPassword)
	}
}

func TestErrors(t *testing.T) {
	r := routertest.Start(t, routertest.Options{NoServices: true})
	for _, v := range []smp.Version{6, 7, 19} {
		c := connect(t, r, v, nil)
		key := newKey(t, smp.Ed25519)
		c.refused(command{Command: &smp.PING{}, entity: random(t)}, smp.ErrHasAuth)
		c.refused(command{Command: &smp.SUB{}, entity: random(t)}, smp.ErrNoAuth)
		c.refused(command{Command: &smp.SEND{}}, smp.ErrNoEntity)
		c.refused(command{Command: &smp.LGET{}, entity: random(t), key: key}, smp.ErrHasAuth)
		for _, cmd := range []smp.Command{&smp.SUB{}, &smp.NSUB{}, &smp.SEND{}, &smp.SKEY{SenderKey: key.Public()}} {
			c.refused(command{Command: cmd, entity: random(t), key: key}, smp.ErrAuth)
		}
		m := c.create(smp.Ed25519)
		if v >= smp.VersionServices {
			c.signer.Service = &auth.ServiceSigner{Key: key}
			c.refused(m.do(&smp.SUB{}), smp.ErrService)
			c.refused(command{Command: &smp.SUBS{}, entity: random(t), rule: auth.ByService}, smp.ErrService)
		}
		content := []byte{1, 0, 2, 'x', 'y'}
		if err := c.conn.Send(content); err != nil {
			t.Fatal(err)
		}
		got, answer := c.receive()
		if e, ok := answer.(*smp.ERR); !ok || e.Err != smp.ErrBlock || !got.CorrID.IsEmpty() || !got.EntityID.IsEmpty() {
			t.Errorf("got %s", text(answer))
		}
	}
	old := connect(t, r, 6, nil)
	corrID := random(t)
	wrong := smp.Transmission{SessionID: random(t), CorrID: corrID, Command: []byte("PING")}
	var block smp.Batch
	if _, err := block.Add(wrong.Append(nil, 6)); err != nil {
		t.Fatal(err)
	}
	if err := old.conn.Send(block.Content()); err != nil {
		t.Fatal(err)
	}
	got, answer := old.receive()
	if e, ok := answer.(*smp.ERR); !ok || e.Err != smp.ErrSession || !got.CorrID.Equal(corrID) {
		t.Errorf("got %s", text(answer))
	}
}

func TestAnswer(t *testing.T) {
	r := routertest.Start(t, routertest.Options{
		Versions: smp.VersionRange{Max: 16},
		Answer: func(c smp.Command, _ *smp.Transmission) (smp.Response, bool) {
			switch c.(type) {
			case *smp.LGET:
				return &smp.ERR{Err: smp.ErrInternal}, false
			case *smp.QUE:
				return nil, true
			}
			return nil, false
		},
	})
	c := connect(t, r, smp.MaxVersion, nil)
	if c.version != 16 {
		t.Errorf("got version %d", c.version)
	}
	c.refused(command{Command: &smp.LGET{}, entity: random(t)}, smp.ErrInternal)
	m := c.create(smp.Ed25519)
	c.send(m.do(&smp.QUE{}))
	must[*smp.PONG](c, command{Command: &smp.PING{}})
}

// Whoever is disconnected is subscribed to nothing any more.
func TestDisconnect(t *testing.T) {
	r := routertest.Start(t, routertest.Options{})
	c := connect(t, r, smp.MaxVersion, nil)
	m := c.create(smp.Ed25519)
	if n := r.Connections(); n != 1 {
		t.Errorf("got %d connections", n)
	}
	r.Disconnect()
	if n := r.Connections(); n != 0 {
		t.Errorf("got %d connections", n)
	}
	c.closed()
	c = connect(t, r, smp.MaxVersion, nil)
	must[*smp.OK](c, m.put("meanwhile", auth.PrivateKey{}))
	must[*smp.SOK](c, m.do(&smp.SUB{}))
	m.open(event[*smp.MSG](c, m.RecipientID), "meanwhile")
}

func TestMessagingService(t *testing.T) {
	r := routertest.Start(t, routertest.Options{})
	own := routertest.NewServiceCredentials(t, queue.RoleMessaging)
	s, plain := connect(t, r, smp.MaxVersion, &own), connect(t, r, smp.MaxVersion, nil)
	id := shortOf(t, s.conn.Session().Service.ID)
	subscribe := command{Command: &smp.SUBS{}, entity: id, rule: auth.ByService}

	// Nothing is associated yet.
	if got := must[*smp.SOKS](s, subscribe); got.Subscribed != (smp.Subscribed{}) {
		t.Errorf("got %+v", got.Subscribed)
	}
	event[*smp.ALLS](s, smp.Short{})

	first := s.create(smp.Ed25519)
	if !first.ServiceID.Equal(id) {
		t.Errorf("got the service %s, want %s", first.ServiceID, id)
	}
	second := plain.create(smp.Ed25519)
	if got := must[*smp.SOK](s, second.do(&smp.SUB{})); !got.ServiceID.Equal(id) {
		t.Errorf("got the service %s, want %s", got.ServiceID, id)
	}
	event[*smp.END](plain, second.RecipientID)
	must[*smp.OK](plain, first.put("1", auth.PrivateKey{}))
	first.open(event[*smp.MSG](s, first.RecipientID), "1")

	// Another connection takes all of them, and what waits.
	both := smp.Subscribed{Count: 2, Hash: smp.IDsHash{}.Toggle(first.RecipientID.ID()).Toggle(second.RecipientID.ID())}
	other := connect(t, r, smp.MaxVersion, &own)
	if got := must[*smp.SOKS](other, subscribe); got.Subscribed != both {
		t.Errorf("got %+v, want %+v", got.Subscribed, both)
	}
	ack := first.open(event[*smp.MSG](other, first.RecipientID), "1")
	event[*smp.ALLS](other, smp.Short{})
	if got := event[*smp.ENDS](s, id); got.Subscribed != both {
		t.Errorf("got %+v, want %+v", got.Subscribed, both)
	}
	s.refused(ack, smp.ErrNoMsg)
	must[*smp.OK](other, ack)
	must[*smp.OK](plain, second.put("2", auth.PrivateKey{}))
	second.open(event[*smp.MSG](other, second.RecipientID), "2")
	must[*smp.SOKS](other, subscribe)

	// An ordinary session ends the association.
	must[*smp.SOK](plain, second.do(&smp.SUB{}))
	event[*smp.MSG](plain, second.RecipientID)
	event[*smp.END](other, second.RecipientID)
	if got := must[*smp.SOKS](other, subscribe); got.Count != 1 {
		t.Errorf("got %+v", got.Subscribed)
	}
	other.refused(command{Command: &smp.NSUBS{}, entity: id, rule: auth.ByService}, smp.ErrProhibited)
	signed := first.do(&smp.SUB{})
	signed.rule = auth.ByParty
	other.refused(signed, smp.ErrService)
}

func TestNotifierService(t *testing.T) {
	r := routertest.Start(t, routertest.Options{})
	own := routertest.NewServiceCredentials(t, queue.RoleNotifier)
	for _, v := range []smp.Version{16, 19} {
		plain, s := connect(t, r, v, nil), connect(t, r, v, &own)
		id := shortOf(t, s.conn.Session().Service.ID)
		m := plain.create(smp.Ed25519)
		key, dh := newKey(t, smp.Ed25519), newKey(t, smp.X25519)
		ntf := must[*smp.NID](plain, m.do(&smp.NKEY{NotifierKeys: smp.NotifierKeys{Key: key.Public(), DHKey: dh.Public()}}))
		sok := must[*smp.SOK](s, command{Command: &smp.NSUB{}, entity: ntf.NotifierID, key: key, rule: auth.ByPartyAndService})
		if !sok.ServiceID.Equal(id) {
			t.Errorf("got the service %s, want %s", sok.ServiceID, id)
		}
		other := connect(t, r, v, &own)
		all := must[*smp.SOKS](other, command{Command: &smp.NSUBS{}, entity: id, rule: auth.ByService})
		if ends := event[*smp.ENDS](s, id); all.Count != ends.Count || all.Hash != ends.Hash {
			t.Errorf("got %+v and %+v", all, ends)
		}
		sender := connect(t, r, v, nil)
		must[*smp.OK](sender, m.put("1", auth.PrivateKey{}))
		event[*smp.NMSG](other, ntf.NotifierID)
		other.refused(m.do(&smp.SUB{}), smp.ErrProhibited)
		must[*smp.PONG](other, command{Command: &smp.PING{}})
		event[*smp.MSG](plain, m.RecipientID)
		must[*smp.OK](plain, m.do(&smp.DEL{}))
		event[*smp.DELD](other, ntf.NotifierID)
	}
}

func shortOf(t *testing.T, id smp.EntityID) smp.Short {
	t.Helper()
	return short(t, id.Bytes())
}
