package router_test

import (
	"fmt"
	"sync/atomic"
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

// Notifications expire; younger ones stay.
//
// conformance: 111
func TestNotificationsExpire(t *testing.T) {
	t.Parallel()
	var later atomic.Int64
	r := start(t, newSite(t).openStore(t, 0), func(o *router.Options) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
		o.NotificationExpireInterval = 10 * time.Millisecond
	})
	p, notifier := r.dial(t, 19), r.dial(t, 19)
	b := p.newQueue(createOnly)
	p.addNotifier(b)
	p.sendNotifying(b, "old")
	later.Store(int64(23 * time.Hour))
	p.sendNotifying(b, "young")
	later.Store(int64(25 * time.Hour))
	eventually(t, "that the old one expires", func() bool { return r.Counters().MsgNtfExpired.Load() == 1 })
	subscribed(notifier, b.notifier, b.notifierKey, &smp.NSUB{})
	young := notifier.notified(b)
	p.subscribe(b)
	if next := p.ackNext(b, p.receive(b, "old"), "young"); !young.Equal(next) {
		t.Error("the notification is about another message")
	}
	if n := r.Counters().NtfCount.Load(); n != 0 {
		t.Errorf("%d notifications are left", n)
	}
}

// When there are too many, the oldest go; who has none gets none, if others have all
// the room.
func TestTooManyNotifications(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	for name, tc := range map[string]struct {
		limit     func(*router.Options)
		lost      int64
		otherGets bool
	}{
		"for a notifier": {func(o *router.Options) { o.MaxNotifications = 3 }, 2, true},
		"for all":        {func(o *router.Options) { o.MaxAllNotifications = 3 }, 3, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, st, tc.limit)
			p, notifier := r.dial(t, 19), r.dial(t, 19)
			b, other := p.newQueue(), p.newQueue(createOnly)
			p.addNotifier(b)
			p.addNotifier(other)
			for i := range 5 {
				p.sendNotifying(b, fmt.Sprint(i))
			}
			p.sendNotifying(other, "other")
			if c := r.Counters(); c.MsgNtfLost.Load() != tc.lost {
				t.Errorf("%d notifications are lost, not %d", c.MsgNtfLost.Load(), tc.lost)
			}
			ids := []smp.Short{p.receive(b, "0")}
			for i := 1; i < 5; i++ {
				ids = append(ids, p.ackNext(b, ids[i-1], fmt.Sprint(i)))
			}
			subscribed(notifier, b.notifier, b.notifierKey, &smp.NSUB{})
			for _, want := range ids[2:] {
				if got := notifier.notified(b); !got.Equal(want) {
					t.Error("the notification is about another message")
				}
			}
			if tc.otherGets {
				subscribed(notifier, other.notifier, other.notifierKey, &smp.NSUB{})
				notifier.notified(other)
			}
			p.sendNotifying(b, "later") // there is room again
			notifier.notified(b)
			eventually(t, "that all are delivered", func() bool { return r.Counters().NtfCount.Load() == 0 })
			notifier.quiet()
		})
	}
}
