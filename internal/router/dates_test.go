package router_test

import (
	"testing"
	"time"

	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
)

// The date of last use is written by those commands that use a queue, once a day.
//
// conformance: 156
func TestDateOfLastUse(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var at clock
	r := start(t, s.openStore(t, 0), func(o *router.Options) { o.Now = at.now })
	p := r.dial(t, smp.MaxVersion)
	w := r.wire(t, smp.MaxVersion)
	service := r.dial(t, smp.MaxVersion, asService(routertest.NewServiceCredentials(t, queue.RoleMessaging)))
	number := 0
	for _, c := range []struct {
		name    string
		mode    smp.QueueMode
		command func(*box)
		uses    bool
	}{
		{"SUB", smp.ModeMessaging, func(b *box) { p.subscribe(b) }, true},
		{"GET", smp.ModeMessaging, func(b *box) { p.ok(b.recipient, b.recipientKey, &smp.GET{}) }, true},
		{"ACK", smp.ModeMessaging, func(b *box) { p.refused(smp.ErrNoMsg, b.recipient, b.recipientKey, &smp.ACK{MsgID: corrID(1)}) }, true},
		{"KEY", smp.ModeMessaging, func(b *box) { p.ok(b.recipient, b.recipientKey, &smp.KEY{SenderKey: b.senderKey.Public()}) }, true},
		{"RKEY", smp.ModeContact, func(b *box) {
			p.ok(b.recipient, b.recipientKey, &smp.RKEY{RecipientKeys: []smp.PublicKey{b.recipientKey.Public()}})
		}, true},
		{"LSET", smp.ModeContact, func(b *box) {
			p.ok(b.recipient, b.recipientKey, &smp.LSET{LinkID: short(t, b.link.Bytes()), Data: linkData("new")})
		}, true},
		{"LDEL", smp.ModeContact, func(b *box) { p.ok(b.recipient, b.recipientKey, &smp.LDEL{}) }, true},
		{"NKEY", smp.ModeMessaging, func(b *box) { b.notifierKey = newKey(t, smp.Ed25519); p.addNotifier(b) }, true},
		{"NDEL", smp.ModeMessaging, func(b *box) { p.ok(b.recipient, b.recipientKey, &smp.NDEL{}) }, true},
		{"QUE", smp.ModeMessaging, func(b *box) { must[*smp.INFO](p, b.recipient, b.recipientKey, &smp.QUE{}) }, true},
		{"SEND", smp.ModeMessaging, func(b *box) { p.send(b, "x") }, true},
		{"SKEY", smp.ModeMessaging, func(b *box) { p.ok(b.sender, b.senderKey, &smp.SKEY{SenderKey: b.senderKey.Public()}) }, true},
		{"LKEY", smp.ModeMessaging, func(b *box) {
			must[*smp.LNK](p, b.link, b.senderKey, &smp.LKEY{SenderKey: b.senderKey.Public()})
		}, true},
		{"LGET", smp.ModeContact, func(b *box) { must[*smp.LNK](p, b.link, none(), &smp.LGET{}) }, true},
		{"SUB by a service", smp.ModeMessaging, func(b *box) { subscribed(service, b.recipient, b.recipientKey, &smp.SUB{}) }, true},
		{"OFF", smp.ModeMessaging, func(b *box) { p.ok(b.recipient, b.recipientKey, &smp.OFF{}) }, false},
		{"DEL", smp.ModeMessaging, func(b *box) { p.ok(b.recipient, b.recipientKey, &smp.DEL{}) }, false},
		{"NSUB", smp.ModeMessaging, func(b *box) {
			b.notifierKey = newKey(t, smp.Ed25519)
			p.addNotifier(b)
			r.age(t, b)
			subscribed(p, b.notifier, b.notifierKey, &smp.NSUB{})
		}, false},
		{"SUBS", smp.ModeMessaging, func(b *box) {
			subscribed(service, b.recipient, b.recipientKey, &smp.SUB{})
			r.age(t, b)
			must[*smp.SOKS](service, service.serviceID(), none(), &smp.SUBS{})
		}, false},
		{"another key", smp.ModeMessaging, func(b *box) { p.refused(smp.ErrAuth, b.recipient, b.senderKey, &smp.QUE{}) }, false},
	} {
		number++
		b := w.linked(number, c.mode)
		r.age(t, b)
		c.command(b)
		if got := s.date(t, b); (got != longAgo) != c.uses || c.uses && got != today(at.now()) {
			t.Errorf("after %s, the date of last use is %d", c.name, got)
		}
	}

	// It is written once a day. What a row is changed by is its xmin.
	b := p.newQueue()
	version := func() int64 {
		return s.number(t, "select xmin::text::bigint from msg_queues where recipient_id = $1", b.recipient)
	}
	use := func() { must[*smp.INFO](p, b.recipient, b.recipientKey, &smp.QUE{}) }
	use()
	first := version()
	use()
	if version() != first {
		t.Error("the date is written twice a day")
	}
	at.advance(24 * time.Hour)
	use()
	if got := s.date(t, b); got != today(at.now()) {
		t.Errorf("the date of the next day is %d", got)
	}
}

// longAgo is a day on which nobody used a queue.
const longAgo = queue.SecondsPerDay

func today(at time.Time) int64 { return at.Unix() / queue.SecondsPerDay * queue.SecondsPerDay }

func (s *site) date(t testing.TB, b *box) int64 {
	t.Helper()
	return s.number(t, "select updated_at from msg_queues where recipient_id = $1", b.recipient)
}

// age makes a queue not used for long.
func (s *server) age(t testing.TB, b *box) {
	t.Helper()
	q, err := s.store.QueueByRecipient(t.Context(), queue.RecipientID{EntityID: b.recipient})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.store.SetUpdatedAt(t.Context(), q, longAgo); err != nil {
		t.Fatal(err)
	}
}

// When all messages of a full queue have expired, the marker is left, and the sender is
// refused until that is acknowledged.
//
// conformance: 77
func TestExpiredFullQueue(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	r := start(t, s.openStore(t, 2), func(o *router.Options) { o.ExpireInterval = 20 * time.Millisecond })
	eachVersion(t, 6, func(t *testing.T, v smp.Version) {
		alice, bob := r.dial(t, v), r.dial(t, v)
		b := alice.newQueue(createOnly)
		full := func() { bob.refused(smp.ErrQuota, b.sender, none(), &smp.SEND{Body: []byte("no")}) }
		bob.send(b, "1")
		bob.send(b, "2")
		full()
		pgtest.Exec(t, s.conn, "update messages set msg_ts = 0 where recipient_id = $1", b.recipient)
		eventually(t, "that the messages expire", func() bool {
			return s.number(t, "select count(*) from messages where recipient_id = $1", b.recipient) == 1
		})
		full()
		alice.subscribe(b)
		id := alice.receive(b, "")
		full()
		alice.ack(b, id)
		bob.send(b, "3")
		alice.ack(b, alice.receive(b, "3"))
	})
}
