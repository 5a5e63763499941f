package router_test

import (
	"errors"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

var (
	spam   = queue.Blocking{Reason: "spam"}
	notice = queue.Blocking{Reason: "content", HasNotice: true, Notice: queue.Notice{TTL: 3600, HasTTL: true}}
)

// blocked expects to be told that a queue was blocked, in the form of the version.
func (p *peer) blocked(b *box, why queue.Blocking) {
	p.t.Helper()
	var want error
	switch v := p.Session().Version; {
	case v < smp.VersionBlocked:
		want = smp.ErrAuth
	case v < smp.VersionBlockingNotice:
		want = smp.BlockedError{Blocking: queue.Blocking{Reason: why.Reason}}
	default:
		want = smp.BlockedError{Blocking: why}
	}
	if got := expect[*smp.ERR](p, b.recipient); !errors.Is(got.Err, want) {
		p.t.Errorf("the client is told %v, not %v", got.Err, want)
	}
}

// Who receives from a queue is told at once that it is blocked, whoever blocks it.
//
// conformance: 105
func TestBlockTellsRecipients(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	r := start(t, s.openStore(t, 0))
	operator := s.openAdmin(t)
	eachVersion(t, 6, func(t *testing.T, v smp.Version) {
		alice, bob := r.dial(t, v), r.dial(t, v)
		b := alice.newQueue()
		other := alice.newQueue()
		for _, why := range []queue.Blocking{spam, notice} {
			if _, err := r.Block(t.Context(), b.sender, why); err != nil {
				t.Fatal(err)
			}
			alice.blocked(b, why)
		}
		if was, err := r.Block(t.Context(), b.sender, notice); err != nil || was.Blocking != notice {
			t.Errorf("blocked again: %v, %v", was, err)
		}
		alice.quiet()
		if was, err := r.Unblock(t.Context(), b.sender); err != nil || was.Blocking != notice {
			t.Errorf("unblocked: %v, %v", was, err)
		}
		bob.send(b, "it takes messages again")
		alice.ack(b, alice.receive(b, "it takes messages again"))

		operator.block(t, b, notice)
		alice.blocked(b, notice)
		bob.send(other, "others never ceased to")
		alice.ack(other, alice.receive(other, "others never ceased to"))
	})
	if n := r.Counters().QBlocked.Load(); n != int64(smp.MaxVersion-6+1) {
		t.Errorf("%d queues were blocked by this process", n)
	}
}

// A service is told of a queue by name, and of one that came with all others.
//
// conformance: 105
func TestBlockTellsServices(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	r := start(t, s.openStore(t, 0))
	operator := s.openAdmin(t)
	credentials := routertest.NewServiceCredentials(t, queue.RoleMessaging)
	one := r.dial(t, 19, asService(credentials))
	boxes := one.newQueues(2)
	if _, err := r.Block(t.Context(), boxes[0].sender, spam); err != nil {
		t.Fatal(err)
	}
	one.blocked(boxes[0], spam)
	one.Close()

	one = r.dial(t, 19, asService(credentials))
	one.subs(boxes[0].recipient, boxes[1].recipient)
	expect[*smp.ALLS](one, smp.EntityID{})
	if _, err := r.Block(t.Context(), boxes[1].sender, notice); err != nil {
		t.Fatal(err)
	}
	one.blocked(boxes[1], notice)
	operator.block(t, boxes[1], spam)
	one.blocked(boxes[1], spam)
	one.quiet()
}

// A client that reads nothing does not keep the operator waiting.
func TestBlockDoesNotWait(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0), func(o *router.Options) { o.Output = 40 << 10 })
	alice, bob := r.dial(t, 19, slow), r.dial(t, 19)
	boxes := alice.newQueues(60)
	for _, b := range boxes {
		bob.send(b, "x")
	}
	for _, b := range boxes {
		if _, err := r.Block(t.Context(), b.sender, spam); err != nil {
			t.Fatal(err)
		}
	}
	told := 0
	for range 2 * len(boxes) {
		switch e := alice.event(); e.Response.(type) {
		case *smp.ERR:
			told++
		case *smp.MSG:
		default:
			t.Fatalf("the event is %T", e.Response)
		}
	}
	if told != len(boxes) {
		t.Errorf("of %d blocked queues, %d were told of", len(boxes), told)
	}
}

// The operator deletes a queue as its recipient would.
func TestOperatorDeletes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	r := start(t, s.openStore(t, 0))
	operator := s.openAdmin(t)
	alice, bob, carol := r.dial(t, 19), r.dial(t, 19), r.dial(t, 19)
	b := alice.newQueue()
	alice.addNotifier(b)
	subscribed(carol, b.notifier, b.notifierKey, &smp.NSUB{})
	bob.send(b, "1")
	bob.send(b, "2")
	alice.receive(b, "1")
	if n, err := r.Delete(t.Context(), b.sender); n != 2 || err != nil {
		t.Errorf("%d messages deleted, %v", n, err)
	}
	expect[*smp.DELD](alice, b.recipient)
	expect[*smp.DELD](carol, b.notifier)
	bob.refused(smp.ErrAuth, b.sender, none(), &smp.SEND{Body: []byte("3")})
	if _, err := r.Delete(t.Context(), b.sender); !errors.Is(err, smp.ErrAuth) {
		t.Errorf("deleted again: %v", err)
	}
	if st := r.State(); st.Recipient.Queues != 0 || st.Notifier.Queues != 0 || st.Pending.Messages != 0 {
		t.Errorf("there are subscriptions still: %+v", st)
	}

	service := r.dial(t, 19, asService(routertest.NewServiceCredentials(t, queue.RoleMessaging)))
	boxes := service.newQueues(3)
	if _, err := r.Delete(t.Context(), boxes[0].sender); err != nil {
		t.Fatal(err)
	}
	expect[*smp.DELD](service, boxes[0].recipient)
	operator.delete(t, boxes[1])
	expect[*smp.DELD](service, boxes[1].recipient)
	c := alice.newQueue()
	operator.delete(t, c)
	expect[*smp.DELD](alice, c.recipient)
	service.subs(boxes[2].recipient)
	if c := r.Counters(); c.QDeletedAll.Load() != 2 || c.QDeletedNew.Load() != 2 || c.QDeletedSecured.Load() != 0 {
		t.Errorf("%d queues deleted, %d new, %d secured", c.QDeletedAll.Load(), c.QDeletedNew.Load(), c.QDeletedSecured.Load())
	}
}

// What the operator does by the router is in the log of administrative changes, and
// only what makes an active queue take no messages counts as blocking it.
func TestAuditOfRouter(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	st := s.openStore(t, 0)
	r := start(t, st)
	alice := r.dial(t, 19)
	b, off := alice.newQueue(contact), alice.newQueue()
	ctx := store.ByAdmin(t.Context(), "the operator")
	alice.ok(off.recipient, off.recipientKey, &smp.OFF{})
	for _, step := range []struct {
		q   *box
		why queue.Blocking
	}{{b, spam}, {b, spam}, {b, notice}, {off, spam}} {
		if _, err := r.Block(ctx, step.q.sender, step.why); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := st.AuditedSince(t.Context(), "block", time.Now().Add(-time.Hour)); n != 1 || err != nil {
		t.Errorf("%d queues were blocked, %v", n, err)
	}
	if n := s.number(t, "select count(*) from smpq.audit where who = 'the operator' and recipient_id = any ($1)", [][]byte{b.recipient.Bytes(), off.recipient.Bytes()}); n != 3 {
		t.Errorf("%d lines in the log", n)
	}
	// What clients do is none of its business.
	alice.ok(b.recipient, b.recipientKey, &smp.DEL{})
	if n := s.number(t, "select count(*) from smpq.audit"); n != 3 {
		t.Errorf("%d lines in the log", n)
	}
}

// An outsider is another process that administers the queues.
type outsider struct{ *store.Store }

func (s *site) openAdmin(t testing.TB) outsider {
	t.Helper()
	st, err := store.Open(t.Context(), store.Options{Config: s.config, Admin: "tester", Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(st.Close)
	return outsider{st}
}

func (o outsider) find(t testing.TB, b *box) *store.Queue {
	t.Helper()
	q, err := o.QueueByRecipient(t.Context(), queue.RecipientID{EntityID: b.recipient})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func (o outsider) block(t testing.TB, b *box, why queue.Blocking) {
	t.Helper()
	if err := o.BlockQueue(t.Context(), o.find(t, b), why); err != nil {
		t.Fatal(err)
	}
}

func (o outsider) delete(t testing.TB, b *box) {
	t.Helper()
	if _, err := o.DeleteQueue(t.Context(), o.find(t, b)); err != nil {
		t.Fatal(err)
	}
}
