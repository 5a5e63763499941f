package router_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/smp"
)

// addNotifier gives a queue a notifier.
func (p *peer) addNotifier(b *box) {
	p.t.Helper()
	dh := newKey(p.t, smp.X25519)
	id := must[*smp.NID](p, b.recipient, b.recipientKey, &smp.NKEY{NotifierKeys: smp.NotifierKeys{Key: b.notifierKey.Public(), DHKey: dh.Public()}})
	b.notifier = id.NotifierID.ID()
	var err error
	if b.notifierSecret, err = dh.Agree(id.DHKey); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) sendNotifying(b *box, text string) {
	p.t.Helper()
	p.ok(b.sender, none(), &smp.SEND{Notify: true, Body: []byte(text)})
}

// notified returns the id of the message of which the next event must tell.
func (p *peer) notified(b *box) smp.Short {
	p.t.Helper()
	n := expect[*smp.NMSG](p, b.notifier)
	meta, err := auth.OpenMeta(b.notifierSecret, n.Nonce, n.Meta.Bytes())
	if err != nil {
		p.t.Fatal(err)
	}
	return meta.MsgID
}

// conformance: 106, 107, 108, 109, 110
func TestNotifications(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	eachVersion(t, 6, func(t *testing.T, v smp.Version) {
		alice, bob := r.dial(t, v), r.dial(t, v)
		one, two := r.dial(t, v), r.dial(t, v)
		b := alice.newQueue()
		alice.addNotifier(b)
		old := b.notifier
		alice.addNotifier(b)
		one.refused(smp.ErrAuth, old, b.notifierKey, &smp.NSUB{})
		bob.sendNotifying(b, "stored")
		id := alice.receive(b, "stored")
		bob.sendNotifying(b, "too")
		next := alice.ackNext(b, id, "too")
		alice.ack(b, next)
		subscribed(one, b.notifier, b.notifierKey, &smp.NSUB{})
		for _, want := range []smp.Short{id, next} {
			if got := one.notified(b); !got.Equal(want) {
				t.Error("the notification is about another message")
			}
		}
		bob.send(b, "silent")
		alice.ack(b, alice.receive(b, "silent"))
		bob.sendNotifying(b, "x")
		one.notified(b)
		alice.ack(b, alice.receive(b, "x"))

		subscribed(two, b.notifier, b.notifierKey, &smp.NSUB{})
		subscribed(two, b.notifier, b.notifierKey, &smp.NSUB{})
		expect[*smp.END](one, b.notifier)
		bob.sendNotifying(b, "y")
		two.notified(b)
		alice.ack(b, alice.receive(b, "y"))
		one.quiet()

		alice.ok(b.recipient, b.recipientKey, &smp.NDEL{})
		if v < smp.VersionDeleted {
			expect[*smp.END](two, b.notifier)
		} else {
			expect[*smp.DELD](two, b.notifier)
		}
		bob.sendNotifying(b, "z")
		alice.ack(b, alice.receive(b, "z"))
		alice.ok(b.recipient, b.recipientKey, &smp.NDEL{})
		two.quiet()
		one.quiet()
	})
	if n := r.Counters().NtfCount.Load(); n != 0 {
		t.Errorf("%d notifications are left", n)
	}
}

// conformance: 50
func TestNotifierInNew(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	eachVersion(t, 17, func(t *testing.T, v smp.Version) {
		p := r.dial(t, v)
		key, notifierKey, dh := newKey(t, smp.Ed25519), newKey(t, smp.Ed25519), newKey(t, smp.X25519)
		ids := must[*smp.IDS](p, smp.EntityID{}, key, &smp.NEW{
			RecipientKey: key.Public(), DHKey: newKey(t, smp.X25519).Public(), Subscribe: true,
			Notifier: &smp.NotifierKeys{Key: notifierKey.Public(), DHKey: dh.Public()},
		})
		b := &box{sender: ids.SenderID.ID(), notifier: ids.Notifier.NotifierID.ID()}
		var err error
		if b.notifierSecret, err = dh.Agree(ids.Notifier.DHKey); err != nil {
			t.Fatal(err)
		}
		must[*smp.SOK](p, b.notifier, notifierKey, &smp.NSUB{})
		p.sendNotifying(b, "x")
		expect[*smp.MSG](p, ids.RecipientID.ID())
		p.notified(b)
	})
}

// Notifications expire, and the oldest go when there are too many.
//
// conformance: 111
func TestNotificationsExpire(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	r := start(t, st, func(o *router.Options) { o.NotificationTTL, o.NotifyInterval = 2*time.Second, time.Hour })
	p := r.dial(t, 19)
	b := p.newQueue(createOnly)
	p.addNotifier(b)
	p.sendNotifying(b, "x")
	eventually(t, "that the notification expires", func() bool { return r.Counters().MsgNtfExpired.Load() == 1 })

	few := start(t, st, func(o *router.Options) { o.MaxNotifications = 3 })
	p = few.dial(t, 19)
	for i := range 5 {
		p.sendNotifying(b, fmt.Sprint(i))
	}
	if c := few.Counters(); c.NtfCount.Load() != 3 || c.MsgNtfLost.Load() != 2 {
		t.Errorf("%d notifications wait, %d are lost", c.NtfCount.Load(), c.MsgNtfLost.Load())
	}
}
