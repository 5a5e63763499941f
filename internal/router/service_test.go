package router_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/transport"
)

func (p *peer) serviceID() smp.EntityID { return p.Session().Service.ID }

// hashOf returns what a service knows of some queues.
func hashOf(ids ...smp.EntityID) smp.Subscribed {
	s := smp.Subscribed{Count: int64(len(ids))}
	for _, id := range ids {
		s.Hash = s.Hash.Toggle(id)
	}
	return s
}

// subs sends SUBS and checks the answer, as the version has it.
func (p *peer) subs(want ...smp.EntityID) {
	p.t.Helper()
	got := must[*smp.SOKS](p, p.serviceID(), none(), &smp.SUBS{Subscribed: hashOf(want...)})
	if got.Subscribed != hashOf(want...) {
		p.t.Errorf("SOKS %d %s, not %d %s", got.Count, got.Hash, len(want), hashOf(want...).Hash)
	}
}

// nsubs is subs for notifiers.
func (p *peer) nsubs(want ...smp.EntityID) {
	p.t.Helper()
	sum := hashOf(want...)
	if p.Session().Version < smp.VersionServiceHashes {
		sum.Hash = smp.IDsHash{}
	}
	got := must[*smp.SOKS](p, p.serviceID(), none(), &smp.NSUBS{Subscribed: hashOf(want...)})
	if got.Subscribed != sum {
		p.t.Errorf("SOKS %d %s, not %d %s", got.Count, got.Hash, sum.Count, sum.Hash)
	}
}

// ends checks the next event: the service is that of another connection now.
func (p *peer) ends(want ...smp.EntityID) {
	p.t.Helper()
	sum := hashOf(want...)
	if p.Session().Version < smp.VersionServiceHashes {
		sum.Hash = smp.IDsHash{}
	}
	if got := expect[*smp.ENDS](p, p.serviceID()); got.Subscribed != sum {
		p.t.Errorf("ENDS %d %s, not %d %s", got.Count, got.Hash, sum.Count, sum.Hash)
	}
}

// conformance: 14, 16
func TestServiceHandshake(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	r := start(t, st)
	again := start(t, st)
	for v := smp.VersionServices; v <= smp.MaxVersion; v++ {
		service := routertest.NewServiceCredentials(t, queue.RoleNotifier)
		id := r.dial(t, v, asService(service)).serviceID()
		if id.Len() != 24 || r.dial(t, v, asService(service)).serviceID() != id || again.dial(t, v, asService(service)).serviceID() != id {
			t.Errorf("the service has several ids, or one of %d bytes", id.Len())
		}
		service.Role = queue.RoleProxy
		if _, err := client.Dial(t.Context(), r.address, client.Options{Versions: upTo(v), Service: &service}); !errors.Is(err, smp.ErrHandshakeBadService) {
			t.Errorf("another role: %v", err)
		}
	}
	closed := start(t, st, func(o *router.Options) { o.NoServices = true })
	service := routertest.NewServiceCredentials(t, queue.RoleNotifier)
	if _, err := client.Dial(t.Context(), closed.address, client.Options{Service: &service}); !errors.Is(err, smp.ErrHandshakeBadService) {
		t.Errorf("a router without services: %v", err)
	}
}

// conformance: 49, 51, 119, 120, 121, 122, 123, 124, 126, 127, 132, 134
func TestMessageService(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	service := routertest.NewServiceCredentials(t, queue.RoleMessaging)
	one, bob := r.dial(t, 19, asService(service)), r.dial(t, 19)
	must[*smp.PONG](one, smp.EntityID{}, none(), &smp.PING{})
	one.subs()
	expect[*smp.ALLS](one, smp.EntityID{})

	key := newKey(t, smp.Ed25519)
	command := func() *smp.NEW {
		return &smp.NEW{RecipientKey: key.Public(), DHKey: newKey(t, smp.X25519).Public(), Subscribe: true}
	}
	c := command()
	c.Subscribe = false
	one.refused(smp.ErrProhibited, smp.EntityID{}, key, c)
	if ids := must[*smp.IDS](bob, smp.EntityID{}, key, command()); !ids.ServiceID.IsEmpty() {
		t.Error("a service id for an ordinary client")
	}
	if ids := must[*smp.IDS](one, smp.EntityID{}, key, command()); ids.ServiceID.ID() != one.serviceID() {
		t.Error("no service id for a service")
	} else {
		one.ok(ids.RecipientID.ID(), key, &smp.DEL{})
	}
	one.subs()
	b := one.newQueue()
	bob.send(b, "1")
	one.ack(b, one.receive(b, "1"))
	bob.send(b, "2")
	id := one.receive(b, "2")
	one.subs(b.recipient)
	one.quiet()

	two := r.dial(t, 19, asService(service))
	two.subs(b.recipient)
	if got := two.receive(b, "2"); !got.Equal(id) {
		t.Error("another message")
	}
	expect[*smp.ALLS](two, smp.EntityID{})
	one.ends(b.recipient)
	one.refused(smp.ErrNoMsg, b.recipient, b.recipientKey, &smp.ACK{MsgID: id})
	two.ack(b, id)
	bob.send(b, "3")
	two.ack(b, two.receive(b, "3"))

	d := two.newQueue()
	bob.send(d, "x")
	two.ack(d, two.receive(d, "x"))
	two.subs(b.recipient, d.recipient)
	two.ok(b.recipient, b.recipientKey, &smp.DEL{})
	two.subs(d.recipient)
	one.subs(d.recipient)
	two.ends(d.recipient)
	expect[*smp.ALLS](one, smp.EntityID{})
	one.quiet()

	one.refused(smp.ErrProhibited, d.recipient, d.recipientKey, &smp.NSUBS{})
	one.refused(smp.ErrService, d.recipient, none(), &smp.SUBS{})
}

// conformance: 113, 114, 118, 120, 121, 128
func TestServiceSignatures(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	messaging := routertest.NewServiceCredentials(t, queue.RoleMessaging)
	notifying := routertest.NewServiceCredentials(t, queue.RoleNotifier)
	p := r.dial(t, 19)
	b := p.newQueue(createOnly)
	p.addNotifier(b)
	m := r.wire(t, 19, func(d *transport.Dialer) { d.Service = &messaging })
	n := r.wire(t, 19, func(d *transport.Dialer) { d.Service = &notifying })
	create := &smp.NEW{RecipientKey: b.recipientKey.Public(), DHKey: newKey(t, smp.X25519).Public(), Subscribe: true}
	for _, c := range []struct {
		w    *wire
		line line
		want string
	}{
		{m, line{key: b.recipientKey, Command: create}, "ERR SERVICE"},
		{m, line{entity: b.recipient, key: b.recipientKey, Command: &smp.SUB{}}, "ERR SERVICE"},
		{m, line{entity: b.recipient, key: b.recipientKey, rule: auth.ByPartyAndService, Command: &smp.QUE{}}, "ERR SERVICE"},
		{m, line{entity: b.recipient, key: b.recipientKey, rule: auth.ByPartyAndService, Command: &smp.ACK{MsgID: corrID(1)}}, "ERR SERVICE"},
		{m, line{entity: b.recipient, key: b.recipientKey, Command: &smp.QUE{}}, "INFO"},
		{m, line{entity: b.recipient, key: newKey(t, smp.Ed25519), rule: auth.ByPartyAndService, Command: &smp.SUB{}}, "ERR AUTH"},
		{m, line{entity: b.sender, key: b.recipientKey, Command: &smp.SUB{}}, "ERR AUTH"},
		{m, line{entity: b.notifier, key: b.notifierKey, rule: auth.ByPartyAndService, Command: &smp.NSUB{}}, "ERR CMD PROHIBITED"},
		{n, line{entity: b.recipient, key: b.recipientKey, rule: auth.ByPartyAndService, Command: &smp.SUB{}}, "ERR CMD PROHIBITED"},
		{n, line{key: b.recipientKey, rule: auth.ByPartyAndService, Command: create}, "ERR CMD PROHIBITED"},
		{n, line{entity: b.sender, Command: &smp.SEND{Body: []byte("x")}}, "ERR CMD PROHIBITED"},
		{n, line{entity: b.notifier, key: b.notifierKey, Command: &smp.NSUB{}}, "ERR SERVICE"},
		{n, line{entity: b.notifier, key: b.notifierKey, rule: auth.ByPartyAndService, Command: &smp.NSUB{}}, "SOK"},
		{n, line{entity: b.notifier, key: b.notifierKey, rule: auth.ByPartyAndService, Command: &smp.NSUB{}}, "SOK"},
		{n, line{text: "PING"}, "PONG"},
		{m, line{text: "PING"}, "PONG"},
	} {
		c.w.send(c.line)
		if got := c.w.receive()[0].Text; got != c.want {
			t.Errorf("%T: %s, not %s", c.line.Command, got, c.want)
		}
	}

	// On an ordinary connection, a second signature is one too much.
	w := r.wire(t, 19)
	key := newKey(t, smp.Ed25519)
	w.signer.Service = &auth.ServiceSigner{Key: key}
	for _, l := range []line{
		{entity: b.notifier, key: b.notifierKey, rule: auth.ByPartyAndService, Command: &smp.NSUB{}},
		{entity: b.recipient, key: b.recipientKey, rule: auth.ByPartyAndService, Command: &smp.SUB{}},
		{entity: b.recipient, key: key, rule: auth.ByService, Command: &smp.SUBS{}},
	} {
		w.send(l)
		if got := w.receive()[0].Text; got != "ERR SERVICE" {
			t.Errorf("%T: %s", l.Command, got)
		}
	}
}

// conformance: 129, 130, 131, 137, 138
func TestAssociation(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	st := s.openStore(t, 0)
	r := start(t, st)
	credentials := routertest.NewServiceCredentials(t, queue.RoleMessaging)
	service, plain, bob := r.dial(t, 19, asService(credentials)), r.dial(t, 19), r.dial(t, 19)
	b := plain.newQueue()
	q, err := st.QueueByRecipient(t.Context(), queue.RecipientID{EntityID: b.recipient})
	if err != nil {
		t.Fatal(err)
	}
	// It is the first use on a new day.
	if err := st.SetUpdatedAt(t.Context(), q, 86400); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if id := subscribed(service, b.recipient, b.recipientKey, &smp.SUB{}); id != service.serviceID() {
			t.Error("SOK has no service id")
		}
	}
	expect[*smp.END](plain, b.recipient)
	bob.send(b, "1")
	service.ack(b, service.receive(b, "1"))
	service.subs(b.recipient)
	expect[*smp.ALLS](service, smp.EntityID{})

	if id := subscribed(plain, b.recipient, b.recipientKey, &smp.SUB{}); !id.IsZero() {
		t.Error("SOK has a service id")
	}
	expect[*smp.END](service, b.recipient)
	service.subs()
	bob.send(b, "2")
	plain.ack(b, plain.receive(b, "2"))

	// What is refused changes nothing.
	if err := st.BlockQueue(t.Context(), q, queue.Blocking{Reason: "spam"}); err != nil {
		t.Fatal(err)
	}
	service.refused(smp.BlockedError{Blocking: queue.Blocking{Reason: "spam"}}, b.recipient, b.recipientKey, &smp.SUB{})
	service.subs()
	if err := st.UnblockQueue(t.Context(), q); err != nil {
		t.Fatal(err)
	}

	// From one service to another.
	other := r.dial(t, 19, asService(routertest.NewServiceCredentials(t, queue.RoleMessaging)))
	subscribed(service, b.recipient, b.recipientKey, &smp.SUB{})
	expect[*smp.END](plain, b.recipient)
	subscribed(other, b.recipient, b.recipientKey, &smp.SUB{})
	expect[*smp.END](service, b.recipient)
	service.subs()
	bob.send(b, "3")
	other.ack(b, other.receive(b, "3"))
	c := &r.Counters().RcvServices
	if c.AssocNew.Load() != 2 || c.AssocRemoved.Load() != 1 || c.AssocUpdated.Load() != 1 || c.AssocDuplicate.Load() != 1 {
		t.Errorf("associations: %d new, %d removed, %d updated, %d the same", c.AssocNew.Load(), c.AssocRemoved.Load(), c.AssocUpdated.Load(), c.AssocDuplicate.Load())
	}
}

// A service gets what waits in all of its queues, with an output that has room for
// little; and what does not fit when it is sent comes afterwards.
//
// conformance: 125, 135, 136
func TestServiceBacklog(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0), func(o *router.Options) { o.Output = 40 << 10 })
	credentials := routertest.NewServiceCredentials(t, queue.RoleMessaging)
	one, bob := r.dial(t, 19, asService(credentials)), r.dial(t, 19)
	const n = 80
	boxes := one.newQueues(n)
	one.Close()
	byID := make(map[smp.EntityID]*box)
	var sends []client.Request
	for _, b := range boxes {
		byID[b.recipient] = b
		sends = append(sends, client.Request{Entity: b.sender, Command: &smp.SEND{Body: []byte("x")}})
	}
	for _, result := range bob.DoAll(t.Context(), sends[:n/2]) {
		if result.Err != nil {
			t.Fatal(result.Err)
		}
	}
	two := r.dial(t, 19, asService(credentials), slow)
	call := two.Start(t.Context(), client.Request{Entity: two.serviceID(), Command: &smp.SUBS{Subscribed: smp.Subscribed{Count: 7}}})[0]
	soks, err := client.As[*smp.SOKS](call.Wait(t.Context()))
	if err != nil || soks.Count != n {
		t.Fatalf("SUBS: %+v, %v", soks, err)
	}
	// While nothing is read, more is sent, and a queue is deleted.
	for _, result := range bob.DoAll(t.Context(), sends[n/2:]) {
		if result.Err != nil {
			t.Fatal(result.Err)
		}
	}
	gone := boxes[n-1]
	bob.ok(gone.recipient, gone.recipientKey, &smp.DEL{})
	seen, all := make(map[smp.EntityID]bool), false
	for ; len(seen) < n-1 || !all; delete(seen, gone.recipient) {
		e := two.event()
		switch m := e.Response.(type) {
		case *smp.MSG:
			if seen[e.Entity] {
				t.Fatal("a message came twice")
			}
			seen[e.Entity] = true
			byID[e.Entity].check(t, m, "x")
		case *smp.ALLS:
			all = true
		case *smp.DELD:
		default:
			t.Fatalf("the event is %T", m)
		}
	}
	if c := &r.Counters().RcvServices; c.SubMore.Load() != 1 || c.SubMoreTotal.Load() != n-7 {
		t.Errorf("%d services had more queues than they knew, %d more", c.SubMore.Load(), c.SubMoreTotal.Load())
	}
}

// conformance: 114, 115, 116, 117, 133
func TestNotifierService(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	r := start(t, st)
	for v := smp.VersionServices; v <= smp.MaxVersion; v++ {
		t.Run(fmt.Sprint(v), func(t *testing.T) {
			credentials := routertest.NewServiceCredentials(t, queue.RoleNotifier)
			one, alice := r.dial(t, v, asService(credentials)), r.dial(t, v)
			b := alice.newQueue(createOnly)
			alice.addNotifier(b)
			for range 2 {
				if id := subscribed(one, b.notifier, b.notifierKey, &smp.NSUB{}); id != one.serviceID() {
					t.Error("SOK has no service id")
				}
			}
			alice.sendNotifying(b, "1")
			one.notified(b)
			two := r.dial(t, v, asService(credentials))
			subscribed(two, b.notifier, b.notifierKey, &smp.NSUB{})
			one.ends(b.notifier)
			one.nsubs(b.notifier)
			two.ends(b.notifier)
			alice.sendNotifying(b, "2")
			one.notified(b)

			// An ordinary client takes the notifier over.
			subscribed(alice, b.notifier, b.notifierKey, &smp.NSUB{})
			expect[*smp.END](one, b.notifier)
			one.nsubs()
			alice.sendNotifying(b, "3")
			alice.notified(b)
			subscribed(one, b.notifier, b.notifierKey, &smp.NSUB{})
			expect[*smp.END](alice, b.notifier)
			alice.quiet()

			// What was stored before is delivered by another router, as after a restart.
			one.Close()
			two.Close()
			restarted := start(t, st)
			p := restarted.dial(t, v)
			p.sendNotifying(b, "4")
			one = restarted.dial(t, v, asService(credentials))
			one.nsubs(b.notifier)
			one.notified(b)
			one.quiet()
		})
	}
}

// A deletingStore has a queue deleted when it has just got a service.
type deletingStore struct {
	*store.Store
	remove  func()
	deleted chan struct{}
}

func (s *deletingStore) SetServices(ctx context.Context, queues []*store.Queue, by queue.Party, id queue.ServiceID) []error {
	errs := s.Store.SetServices(ctx, queues, by, id)
	s.remove()
	<-s.deleted
	return errs
}

func (s *deletingStore) DeleteQueue(ctx context.Context, q *store.Queue) (store.View, error) {
	defer close(s.deleted)
	return s.Store.DeleteQueue(ctx, q)
}

// Nobody stays subscribed to a queue that is deleted meanwhile.
func TestDeletedWhileSubscribing(t *testing.T) {
	t.Parallel()
	st := &deletingStore{Store: newSite(t).openStore(t, 0), deleted: make(chan struct{})}
	r := start(t, st.Store, func(o *router.Options) { o.Store, o.EndInterval = st, 20*time.Millisecond })
	service := r.dial(t, 19, asService(routertest.NewServiceCredentials(t, queue.RoleMessaging)))
	alice := r.dial(t, 19)
	b := alice.newQueue(createOnly)
	var deleting sync.WaitGroup
	st.remove = func() {
		deleting.Go(func() { alice.ok(b.recipient, b.recipientKey, &smp.DEL{}) })
	}
	if id := subscribed(service, b.recipient, b.recipientKey, &smp.SUB{}); id != service.serviceID() {
		t.Errorf("SOK has the service %s", id)
	}
	deleting.Wait()
	expect[*smp.DELD](service, b.recipient)
	if n := r.State().Recipient.Entries; n != 0 {
		t.Errorf("%d subscriptions are left", n)
	}
	service.subs()
}
