package router_test

import (
	"bytes"
	"context"
	"crypto/sha3"
	"errors"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/smp"
)

// conformance: 19, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 128
func TestSyntaxAndCredentials(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	eachVersion(t, 6, func(t *testing.T, v smp.Version) {
		p := r.dial(t, v)
		b := p.newQueue(createOnly, contact)
		w := r.wire(t, v)
		id, key, keyText := b.recipient, b.recipientKey, string(b.senderKey.Public().Append([]byte{byte(b.senderKey.Public().Size())}))
		missing := smp.NewEntityID(bytes.Repeat([]byte("x"), 24))
		for _, c := range []struct {
			since smp.Version
			line  line
			want  string
		}{
			{6, line{text: "NOPE"}, "CMD UNKNOWN"},
			{6, line{text: "OK"}, "CMD UNKNOWN"},
			{6, line{text: ""}, "CMD UNKNOWN"},
			{6, line{key: key, text: "NEW"}, "CMD SYNTAX"},
			{6, line{Command: &smp.NEW{RecipientKey: key.Public(), DHKey: newKey(t, smp.X25519).Public()}}, "CMD NO_AUTH"},
			{6, line{entity: id, key: key, Command: &smp.NEW{RecipientKey: key.Public(), DHKey: newKey(t, smp.X25519).Public()}}, "CMD HAS_AUTH"},
			{6, line{key: key, text: "KEY " + keyText}, "CMD NO_AUTH"},
			{6, line{entity: id, text: "KEY " + keyText}, "CMD NO_AUTH"},
			{6, line{entity: id, key: key, text: "KEY"}, "CMD SYNTAX"},
			{6, line{entity: id, key: key, text: "SUB="}, "CMD UNKNOWN"},
			{6, line{entity: id, key: key, text: "OFF="}, "CMD UNKNOWN"},
			{6, line{entity: id, key: key, text: "DEL="}, "CMD UNKNOWN"},
			{6, line{entity: id, text: "SUB"}, "CMD NO_AUTH"},
			{6, line{key: key, text: "SUB"}, "CMD NO_AUTH"},
			{6, line{entity: id, text: "OFF"}, "CMD NO_AUTH"},
			{6, line{key: key, text: "OFF"}, "CMD NO_AUTH"},
			{6, line{entity: id, text: "DEL"}, "CMD NO_AUTH"},
			{6, line{key: key, text: "DEL"}, "CMD NO_AUTH"},
			{6, line{Command: &smp.SEND{Body: []byte("x")}}, "CMD NO_ENTITY"},
			{6, line{entity: b.sender, text: "SEND"}, "CMD SYNTAX"},
			{6, line{entity: id, Command: &smp.ACK{MsgID: corrID(1)}}, "CMD NO_AUTH"},
			{6, line{key: key, Command: &smp.ACK{MsgID: corrID(1)}}, "CMD NO_AUTH"},
			{6, line{key: key, text: "PING"}, "CMD HAS_AUTH"},
			{6, line{entity: id, text: "PING"}, "CMD HAS_AUTH"},
			{15, line{entity: id, key: key, text: "LGET"}, "CMD HAS_AUTH"},
			{15, line{entity: id, text: "LKEY " + keyText}, "CMD NO_AUTH"},
			{19, line{key: key, Command: &smp.SUBS{}}, "CMD NO_AUTH"},
			{16, line{entity: id, key: key, Command: &smp.SUBS{}}, "SERVICE"},
			{16, line{entity: id, key: key, Command: &smp.NSUBS{}}, "SERVICE"},
			{6, line{entity: missing, key: key, text: "SUB"}, "AUTH"},
			{6, line{entity: b.sender, key: key, text: "SUB"}, "AUTH"},
			{6, line{entity: id, Command: &smp.SEND{Body: []byte("x")}}, "AUTH"},
			{6, line{entity: id, key: b.senderKey, text: "SKEY " + keyText}, "AUTH"},
		} {
			if v < c.since {
				continue
			}
			w.send(c.line)
			got := w.want("ERR " + c.want)[0]
			if got.CorrID != string(corrID(0).Bytes()) || got.Entity != string(c.line.entity.Bytes()) {
				t.Errorf("%s has the ids %q, %q", c.want, got.CorrID, got.Entity)
			}
		}
		if v == 6 {
			other := r.wire(t, v)
			var block smp.Batch
			_, _ = block.Add(other.encode(line{text: "PING"}, 0))
			if err := w.conn.Send(block.Content()); err != nil {
				t.Fatal(err)
			}
			w.want("ERR SESSION")
		}
		w.send(line{text: "PING"})
		w.want("PONG")
	})
}

// conformance: 40, 44, 52, 53, 54, 57
func TestKeys(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	eachVersion(t, 6, func(t *testing.T, v smp.Version) {
		p := r.dial(t, v)
		p.refused(smp.ErrAuth, smp.EntityID{}, newKey(t, smp.Ed25519), &smp.NEW{RecipientKey: newKey(t, smp.Ed25519).Public(), DHKey: newKey(t, smp.X25519).Public()})
		algorithms := []smp.Algorithm{smp.Ed25519, smp.Ed448}
		if v >= 7 {
			algorithms = append(algorithms, smp.X25519)
		}
		for _, a := range algorithms {
			b := p.newQueue(createOnly, contact)
			key, other := newKey(t, a), newKey(t, a)
			p.refused(smp.ErrAuth, b.sender, key, &smp.SEND{})
			p.send(b, "x")
			p.ok(b.recipient, b.recipientKey, &smp.KEY{SenderKey: key.Public()})
			p.ok(b.recipient, b.recipientKey, &smp.KEY{SenderKey: key.Public()})
			p.refused(smp.ErrAuth, b.recipient, b.recipientKey, &smp.KEY{SenderKey: other.Public()})
			p.refused(smp.ErrAuth, b.sender, none(), &smp.SEND{})
			p.refused(smp.ErrAuth, b.sender, other, &smp.SEND{})
			for _, wrong := range algorithms {
				p.refused(smp.ErrAuth, b.sender, newKey(t, wrong), &smp.SEND{})
			}
			p.ok(b.sender, key, &smp.SEND{})
			if v < smp.VersionSenderSecures {
				continue
			}
			p.refused(smp.ErrAuth, b.sender, key, &smp.SKEY{SenderKey: key.Public()}) // a contact queue
			b = p.newQueue()
			p.refused(smp.ErrAuth, b.sender, other, &smp.SKEY{SenderKey: key.Public()})
			p.ok(b.sender, key, &smp.SKEY{SenderKey: key.Public()})
			p.ok(b.sender, key, &smp.SKEY{SenderKey: key.Public()})
			p.refused(smp.ErrAuth, b.sender, other, &smp.SKEY{SenderKey: other.Public()})
			p.ok(b.sender, key, &smp.SEND{Body: []byte("x")})
			p.ack(b, p.receive(b, "x"))
		}
	})
}

// conformance: 41, 42
func TestCreationPolicy(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	password, err := smp.ParsePassword("secret")
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := smp.ParsePassword("wrong")
	if err != nil {
		t.Fatal(err)
	}
	closed := start(t, st, func(o *router.Options) { o.NoNewQueues = true })
	guarded := start(t, st, func(o *router.Options) { o.Password = password })
	open := start(t, st)
	eachVersion(t, 6, func(t *testing.T, v smp.Version) {
		key := newKey(t, smp.Ed25519)
		with := func(p smp.Password) *smp.NEW {
			return &smp.NEW{RecipientKey: key.Public(), DHKey: newKey(t, smp.X25519).Public(), Password: p}
		}
		closed.dial(t, v).refused(smp.ErrAuth, smp.EntityID{}, key, with(smp.Password{}))
		p := guarded.dial(t, v)
		p.refused(smp.ErrAuth, smp.EntityID{}, key, with(smp.Password{}))
		p.refused(smp.ErrAuth, smp.EntityID{}, key, with(wrong))
		must[*smp.IDS](p, smp.EntityID{}, key, with(password))
		must[*smp.IDS](open.dial(t, v), smp.EntityID{}, key, with(wrong))
	})
}

// create sends NEW with a link, and a correlation id that goes with it.
func (w *wire) create(b *box, i int, link smp.NewLink, mode smp.QueueMode) reply {
	w.t.Helper()
	var block smp.Batch
	_, _ = block.Add(w.encode(line{key: b.recipientKey, Command: &smp.NEW{
		RecipientKey: b.recipientKey.Public(), DHKey: newKey(w.t, smp.X25519).Public(), Mode: mode, Link: &link,
	}}, i))
	if err := w.conn.Send(block.Content()); err != nil {
		w.t.Fatal(err)
	}
	return w.receive()[0]
}

func short(t testing.TB, b []byte) smp.Short {
	t.Helper()
	s, err := smp.NewShort(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func linkData(user string) smp.LinkData {
	return smp.LinkData{Fixed: []byte("fixed"), User: []byte(user)}
}

// shortLinks is the first version with links.
const shortLinks smp.Version = 15

// linked makes a queue with a link, by a command with a number as correlation id.
func (w *wire) linked(number int, mode smp.QueueMode) *box {
	w.t.Helper()
	b := &box{recipientKey: newKey(w.t, smp.Ed25519), senderKey: newKey(w.t, smp.Ed25519)}
	sum := sha3.Sum384(corrID(number).Bytes())
	link := smp.NewLink{SenderID: short(w.t, sum[:smp.IDSize]), Data: linkData("one")}
	if mode == smp.ModeContact {
		link.LinkID = corrID(number)
	}
	ids, ok := w.create(b, number, link, mode).Response.(*smp.IDS)
	if !ok {
		w.t.Fatal("no ids")
	}
	b.recipient, b.sender, b.link = ids.RecipientID.ID(), ids.SenderID.ID(), ids.LinkID.ID()
	return b
}

// conformance: 45, 46, 47, 48, 55, 56, 59, 60, 61, 62, 63, 64, 65, 66, 67
func TestLinks(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	eachVersion(t, 15, func(t *testing.T, v smp.Version) {
		p, w := r.dial(t, v), r.wire(t, v)
		newBox := func() *box {
			return &box{recipientKey: newKey(t, smp.Ed25519), senderKey: newKey(t, smp.Ed25519)}
		}
		const first = 1000
		number := first * int(v)
		senderID := func() smp.Short {
			sum := sha3.Sum384(corrID(number).Bytes())
			return short(t, sum[:24])
		}
		b := newBox()
		link := smp.NewLink{SenderID: corrID(1), Data: linkData("one")}
		if got := w.create(b, number, link, smp.ModeMessaging); got.Text != "ERR CMD PROHIBITED" {
			t.Errorf("NEW with a foreign sender id: %s", got.Text)
		}
		link.SenderID = senderID()
		ids, ok := w.create(b, number, link, smp.ModeMessaging).Response.(*smp.IDS)
		if !ok || !ids.SenderID.Equal(link.SenderID) || ids.Mode != smp.ModeMessaging || ids.LinkID.Len() != 24 {
			t.Fatalf("NEW with a link: %+v", ids)
		}
		if got := w.create(b, number, link, smp.ModeMessaging); got.Text != "ERR AUTH" {
			t.Errorf("NEW once more: %s", got.Text)
		}
		b.recipient, b.sender, b.link = ids.RecipientID.ID(), ids.SenderID.ID(), ids.LinkID.ID()
		p.refused(smp.ErrAuth, b.link, none(), &smp.LGET{})
		p.refused(smp.ErrAuth, b.recipient, b.recipientKey, &smp.RKEY{RecipientKeys: []smp.PublicKey{b.recipientKey.Public()}})
		p.ok(b.recipient, b.recipientKey, &smp.LSET{LinkID: short(t, b.link.Bytes()), Data: linkData("two")})
		for range 2 {
			lnk := must[*smp.LNK](p, b.link, b.senderKey, &smp.LKEY{SenderKey: b.senderKey.Public()})
			if lnk.SenderID.ID() != b.sender || string(lnk.Data.User) != "two" || string(lnk.Data.Fixed) != "fixed" {
				t.Errorf("LKEY: %+v", lnk)
			}
		}
		other := newKey(t, smp.Ed25519)
		p.refused(smp.ErrAuth, b.link, other, &smp.LKEY{SenderKey: other.Public()})
		p.refused(smp.ErrAuth, b.recipient, b.recipientKey, &smp.LSET{LinkID: short(t, b.link.Bytes()), Data: linkData("three")})
		p.ok(b.sender, b.senderKey, &smp.SEND{Body: []byte("x")})
		p.refused(smp.ErrAuth, b.link, b.senderKey, &smp.LKEY{SenderKey: b.senderKey.Public()})

		number++
		c := newBox()
		link = smp.NewLink{SenderID: senderID(), LinkID: corrID(number), Data: linkData("one")}
		ids, ok = w.create(c, number, link, smp.ModeContact).Response.(*smp.IDS)
		if !ok || !ids.SenderID.Equal(link.SenderID) || !ids.LinkID.Equal(link.LinkID) || ids.Mode != smp.ModeContact {
			t.Fatalf("NEW of a contact with a link: %+v", ids)
		}
		c.recipient, c.sender, c.link = ids.RecipientID.ID(), ids.SenderID.ID(), ids.LinkID.ID()
		set := func(id smp.Short, d smp.LinkData) *smp.LSET { return &smp.LSET{LinkID: id, Data: d} }
		p.refused(smp.ErrAuth, c.link, c.senderKey, &smp.LKEY{SenderKey: c.senderKey.Public()})
		p.refused(smp.ErrAuth, c.recipient, none(), &smp.LGET{})
		p.ok(c.recipient, c.recipientKey, set(link.LinkID, linkData("new")))
		for range 2 {
			if lnk := must[*smp.LNK](p, c.link, none(), &smp.LGET{}); string(lnk.Data.User) != "new" {
				t.Errorf("LGET: %+v", lnk)
			}
		}
		p.refused(smp.ErrAuth, c.recipient, c.recipientKey, set(corrID(3), linkData("new")))
		p.refused(smp.ErrAuth, c.recipient, c.recipientKey, set(link.LinkID, smp.LinkData{Fixed: []byte("other"), User: []byte("new")}))
		d := p.newQueue(contact, createOnly)
		p.refused(smp.ErrAuth, d.recipient, d.recipientKey, set(link.LinkID, linkData("stolen")))
		p.ok(c.recipient, c.recipientKey, &smp.LDEL{})
		p.ok(c.recipient, c.recipientKey, &smp.LDEL{})
		p.refused(smp.ErrAuth, c.link, none(), &smp.LGET{})

		one, two := newKey(t, smp.Ed25519), newKey(t, smp.X25519)
		p.ok(d.recipient, d.recipientKey, &smp.RKEY{RecipientKeys: []smp.PublicKey{one.Public(), two.Public()}})
		p.refused(smp.ErrAuth, d.recipient, d.recipientKey, &smp.QUE{})
		must[*smp.INFO](p, d.recipient, two, &smp.QUE{})
		p.ok(d.recipient, one, &smp.RKEY{RecipientKeys: []smp.PublicKey{two.Public()}})
		p.refused(smp.ErrAuth, d.recipient, one, &smp.QUE{})
	})
}

// conformance: 100, 101, 102, 103, 104; 156 as far as queues are blocked
func TestBlocked(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	st := s.openStore(t, 0)
	r := start(t, st)
	eachVersion(t, 6, func(t *testing.T, v smp.Version) {
		p := r.dial(t, v)
		b := p.newQueue(createOnly)
		nid := must[*smp.NID](p, b.recipient, b.recipientKey, &smp.NKEY{NotifierKeys: smp.NotifierKeys{
			Key: b.notifierKey.Public(), DHKey: newKey(t, smp.X25519).Public(),
		}}).NotifierID.ID()
		id := queue.RecipientID{EntityID: b.recipient}
		q, err := st.QueueByRecipient(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		blocking := queue.Blocking{Reason: "spam", HasNotice: true, Notice: queue.Notice{TTL: 60, HasTTL: true}}
		if err := st.BlockQueue(t.Context(), q, blocking); err != nil {
			t.Fatal(err)
		}
		const yesterday = 86400
		if err := st.SetUpdatedAt(t.Context(), q, yesterday); err != nil {
			t.Fatal(err)
		}
		date := func() int64 {
			return s.number(t, "select updated_at from msg_queues where recipient_id = $1", b.recipient)
		}
		want := error(smp.ErrAuth)
		switch {
		case v >= smp.VersionBlockingNotice:
			want = smp.BlockedError{Blocking: blocking}
		case v >= smp.VersionBlocked:
			want = smp.BlockedError{Blocking: queue.Blocking{Reason: "spam"}}
		}
		for _, c := range []smp.Command{
			&smp.KEY{SenderKey: b.senderKey.Public()}, &smp.SUB{}, &smp.GET{}, &smp.ACK{MsgID: corrID(1)}, &smp.QUE{}, &smp.NDEL{}, &smp.LDEL{},
			&smp.NKEY{NotifierKeys: smp.NotifierKeys{Key: b.notifierKey.Public(), DHKey: newKey(t, smp.X25519).Public()}},
		} {
			p.refused(want, b.recipient, b.recipientKey, c)
		}
		subscribed(p, nid, b.notifierKey, &smp.NSUB{})
		if v >= shortLinks {
			for _, mode := range []smp.QueueMode{smp.ModeMessaging, smp.ModeContact} {
				l := r.wire(t, v).linked(1000*int(v)+int(mode), mode)
				q, err := st.QueueByRecipient(t.Context(), queue.RecipientID{EntityID: l.recipient})
				if err != nil {
					t.Fatal(err)
				}
				if err := st.BlockQueue(t.Context(), q, blocking); err != nil {
					t.Fatal(err)
				}
				if mode == smp.ModeContact {
					p.refused(want, l.link, none(), &smp.LGET{})
					p.refused(want, l.recipient, l.recipientKey, &smp.RKEY{RecipientKeys: []smp.PublicKey{l.recipientKey.Public()}})
				} else {
					p.refused(want, l.link, l.senderKey, &smp.LKEY{SenderKey: l.senderKey.Public()})
				}
				p.refused(want, l.recipient, l.recipientKey, &smp.LSET{LinkID: short(t, l.link.Bytes()), Data: linkData("new")})
			}
		}
		if v >= smp.VersionSenderSecures {
			p.refused(want, b.sender, b.senderKey, &smp.SKEY{SenderKey: b.senderKey.Public()})
		}
		if got := date(); got != yesterday {
			t.Errorf("the date of last use is %d", got)
		}
		p.refused(want, b.sender, none(), &smp.SEND{Body: []byte("x")})
		if got := date(); got == yesterday {
			t.Error("SEND has not changed the date of last use")
		}
		p.refused(smp.ErrLargeMsg, b.sender, none(), &smp.SEND{Body: bytes.Repeat([]byte("x"), 16100)})
		p.ok(b.recipient, b.recipientKey, &smp.OFF{})
		p.ok(b.recipient, b.recipientKey, &smp.DEL{})
	})
}

// conformance: 158; 157 as far as sending goes
func TestExpireOnSend(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	st := s.openStore(t, 0)
	keeping := start(t, st)
	expiring := start(t, st, func(o *router.Options) { o.ExpireOnSend, o.MessageTTL = true, time.Hour })
	alice := keeping.dial(t, 19)
	b := alice.newQueue(createOnly)
	alice.send(b, "old")
	pgtest.Exec(t, s.conn, "update messages set msg_ts = msg_ts - 7200")
	alice.send(b, "new")
	expiring.dial(t, 19).send(b, "newer")
	alice.subscribe(b)
	alice.ack(b, alice.ackNext(b, alice.receive(b, "new"), "newer"))
}

// What was answered is stored, and what is stored was answered.
//
// conformance: 159, 160 as far as what was answered is stored
func TestShutdown(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	st := s.openStore(t, 0)
	o := router.Options{Store: st, EndInterval: endInterval, NotifyInterval: notifyInterval}
	first := start(t, st)
	o.Credentials = first.options.Credentials
	r, err := router.New(o)
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t)
	served := make(chan error, 1)
	go func() { served <- r.Serve(t.Context(), l) }()
	stopping := &server{Router: r, address: addressOf(t, r.Identity(), l), store: st, options: o}
	bob := stopping.dial(t, 18)
	boxes := bob.newQueues(50, createOnly)
	var sends []client.Request
	for _, b := range boxes {
		sends = append(sends, client.Request{Entity: b.sender, Command: &smp.SEND{Body: []byte("x")}})
	}
	calls := bob.Start(t.Context(), sends...)
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	if err := r.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	answered := int64(0)
	for _, call := range calls {
		if _, err := call.Wait(t.Context()); err == nil {
			answered++
		} else if !errors.Is(err, client.ErrClosed) {
			t.Error(err)
		}
	}
	if stored := s.number(t, "select count(*) from messages"); stored != answered {
		t.Errorf("%d messages are stored, %d were answered", stored, answered)
	}
	if _, err := client.Dial(t.Context(), stopping.address, client.Options{}); err == nil {
		t.Error("a router that is stopped accepts connections")
	}
}

// What a key of any kind authorizes for an id of another party, or of nobody, is
// AUTH.
//
// conformance: 37, 38, 57
func TestForeignIDs(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	p := r.dial(t, 19)
	b := p.newQueue(createOnly)
	for _, a := range []smp.Algorithm{smp.Ed25519, smp.Ed448, smp.X25519} {
		for _, id := range []smp.EntityID{b.recipient, b.sender, smp.NewEntityID("nobody")} {
			p.refused(smp.ErrAuth, id, newKey(t, a), &smp.QUE{})
		}
	}
}
