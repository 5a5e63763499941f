package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// numberedView returns the view of an average queue: three of ten have a
// notifier, one a link.
func numberedView(n int) View {
	id := func(kind byte) smp.EntityID {
		b := make([]byte, smp.IDSize)
		b[0] = kind
		binary.BigEndian.PutUint64(b[16:], uint64(n))
		return smp.NewEntityID(b)
	}
	v := View{
		RecipientID: queue.RecipientID{EntityID: id('r')}, RecipientKeys: NewKeys(testKey), RcvDHSecret: testSecret,
		SenderID: queue.SenderID{EntityID: id('s')}, SenderKey: testKey, Mode: queue.ModeMessaging, UpdatedAt: queue.DateOf(86400),
	}
	if n%10 < 3 {
		v.Notifier = queue.Notifier{ID: queue.NotifierID{EntityID: id('n')}, Key: testKey, DHSecret: testSecret}
	}
	if n%10 == 3 {
		v.LinkID = queue.LinkID{EntityID: id('l')}
	}
	return v
}

var (
	testKey    = must(smp.ParsePublicKey("\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00" + fmt.Sprintf("%032d", 1)))
	testSecret = must(smp.ParseDHSecret(fmt.Sprintf("%032d", 2)))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// adopted adds a queue to a cache.
func (c *cache) adopted(t testing.TB, v View) *Queue {
	t.Helper()
	since := c.snapshot()
	q := c.adopt(&v, &since, true)
	if q == nil {
		t.Fatal("not adopted")
	}
	return q
}

// A view is the same after it was packed.
func TestPackRoundTrip(t *testing.T) {
	id := rapid.Custom(func(t *rapid.T) smp.EntityID {
		return smp.NewEntityID(rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "id"))
	})
	key := rapid.Custom(func(t *rapid.T) smp.PublicKey {
		form := rapid.SampledFrom([]struct {
			prefix string
			size   int
		}{
			{"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00", 32},
			{"\x30\x43\x30\x05\x06\x03\x2b\x65\x71\x03\x3a\x00", 57},
			{"\x30\x2a\x30\x05\x06\x03\x2b\x65\x6e\x03\x21\x00", 32},
		}).Draw(t, "form")
		return must(smp.ParsePublicKey(form.prefix + string(rapid.SliceOfN(rapid.Byte(), form.size, form.size).Draw(t, "key"))))
	})
	secret := rapid.Custom(func(t *rapid.T) smp.DHSecret {
		return must(smp.ParseDHSecret(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "secret")))
	})
	status := rapid.SampledFrom([]queue.Status{
		{},
		{State: queue.Off},
		{State: queue.Blocked, Blocking: queue.Blocking{Reason: "spam"}},
		{State: queue.Blocked, Blocking: queue.Blocking{Reason: "content", HasNotice: true}},
		{State: queue.Blocked, Blocking: queue.Blocking{Reason: "spam", HasNotice: true, Notice: queue.Notice{TTL: 7, HasTTL: true}}},
	})
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOfN(key, 1, 255).Draw(t, "keys")
		v := View{
			RecipientID: queue.RecipientID{EntityID: id.Draw(t, "recipient")}, RecipientKeys: NewKeys(keys...),
			RcvDHSecret: secret.Draw(t, "secret"), SenderID: queue.SenderID{EntityID: id.Draw(t, "sender")},
			Mode: rapid.SampledFrom([]queue.Mode{queue.ModeUnknown, queue.ModeMessaging, queue.ModeContact}).Draw(t, "mode"), Status: status.Draw(t, "status"),
		}
		if rapid.Bool().Draw(t, "more") {
			v.SenderKey = key.Draw(t, "sender key")
			v.LinkID = queue.LinkID{EntityID: id.Draw(t, "link")}
			v.RcvService = queue.ServiceID{EntityID: id.Draw(t, "service")}
			v.UpdatedAt = queue.DateOf(rapid.Int64().Draw(t, "time"))
			v.Notifier = queue.Notifier{ID: queue.NotifierID{EntityID: id.Draw(t, "notifier")}, Key: key.Draw(t, "key"), DHSecret: secret.Draw(t, "secret")}
			if rapid.Bool().Draw(t, "notifier service") {
				v.Notifier.Service = queue.ServiceID{EntityID: id.Draw(t, "notifier service")}
			}
		}
		if got := pack(&v).view(v.RecipientID); got != v {
			t.Errorf("packed %+v, unpacked %+v", v, got)
		}
		if got := slices.Collect(v.RecipientKeys.All()); !slices.Equal(got, keys) {
			t.Errorf("keys %v, want %v", got, keys)
		}
	})
}

// The cache stays within its budget. A queue that somebody uses is the same
// object however many others came after it.
func TestBudget(t *testing.T) {
	const budget = 1 << 20
	c := newCache(budget)
	used := c.adopted(t, numberedView(0))
	for i := 1; i < 20_000; i++ {
		c.adopted(t, numberedView(i))
	}
	s := c.stats()
	if s.Bytes > budget || s.Bytes < budget/2 {
		t.Errorf("%d bytes are kept, the budget is %d", s.Bytes, budget)
	}
	if s.Evictions != 20_000-s.Queues {
		t.Errorf("%d evictions, but %d queues are kept", s.Evictions, s.Queues)
	}
	if q := c.get(BySender, numberedView(0).SenderID.EntityID); q != nil {
		t.Error("a queue that was given up is still found by its sender")
	}
	if q := c.adopted(t, numberedView(0)); q != used {
		t.Error("a queue in use became two")
	}
	if q := c.get(BySender, numberedView(0).SenderID.EntityID); q != used {
		t.Error("a queue that is kept again is not found by its sender")
	}
	for _, x := range []*index{&c.senders, &c.notifiers, &c.links} {
		n := int64(0)
		for i := range x {
			n += int64(len(x[i].queues))
		}
		if n > s.Queues+1 {
			t.Errorf("an index has %d entries for %d queues", n, s.Queues)
		}
	}
	runtime.KeepAlive(used)
}

// Queues that were used stay longer.
func TestUsedStay(t *testing.T) {
	c := newCache(1 << 20)
	hot := numberedView(0)
	c.adopted(t, hot).used.Store(true)
	for i := 1; i < 20_000; i++ {
		c.adopted(t, numberedView(i))
		if q := c.get(BySender, hot.SenderID.EntityID); q == nil {
			t.Fatalf("given up after %d others", i)
		} else {
			q.used.Store(true)
		}
	}
}

// Nothing is left of queues that nobody uses.
func TestUnusedGone(t *testing.T) {
	for name, budget := range map[string]int64{"off": 0, "tiny": 1} {
		t.Run(name, func(t *testing.T) {
			c := newCache(budget)
			for i := range 10_000 {
				c.adopted(t, numberedView(i))
			}
			ticks := time.NewTicker(5 * time.Millisecond)
			defer ticks.Stop()
			for alive := 1; alive > 0; {
				runtime.GC()
				alive = 0
				for i := range c.shards {
					c.shards[i].mu.RLock()
					alive += len(c.shards[i].alive)
					c.shards[i].mu.RUnlock()
				}
				select {
				case <-ticks.C:
				case <-t.Context().Done():
					t.Fatalf("%d are left", alive)
				}
			}
		})
	}
}

// A row that was read before a change is not taken for the present one.
func TestAdoptLate(t *testing.T) {
	v := numberedView(0)
	for name, change := range map[string]func(c *cache){
		"changed":         func(c *cache) { c.publish(c.adopted(t, v), &v) },
		"changed by some": func(c *cache) { c.invalidate(v.RecipientID) },
		"changed by all":  func(c *cache) { c.invalidateAll() },
		"deleted":         func(c *cache) { c.publish(c.adopted(t, v), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCache(0)
			since := c.snapshot()
			change(c)
			runtime.GC()
			runtime.GC()
			if q := c.adopt(&v, &since, true); q != nil && c.fresh(q) && name != "changed" {
				t.Error("adopted")
			}
		})
	}
}

// Where nothing is kept, a queue that is in use does not pass for read when its row
// was read while others of its shard were changed.
func TestAdoptLateWithoutBudget(t *testing.T) {
	c := newCache(0)
	v := numberedView(1)
	since := c.snapshot()
	q := c.adopt(&v, &since, true)
	c.shardOf(v.RecipientID).changes.Add(1)
	v.Status = queue.Status{State: queue.Off}
	again := c.adopt(&v, &since, true)
	now, err := again.View()
	if again != q || err != nil || c.fresh(again) && now.Status != v.Status {
		t.Errorf("status %s passes for what was read, %s: %v", now.Status, v.Status, err)
	}
}

// The lock of a queue goes to those who wait in the order in which they came;
// those who leave are passed over.
func TestLockInTurn(t *testing.T) {
	c := newCache(0)
	q := c.adopted(t, numberedView(0))
	if err := c.lock(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	waiting := func(n int) {
		t.Helper()
		sh := c.shardOf(q.id)
		for have := -1; have != n; {
			sh.mu.RLock()
			have = len(q.lock.waiting)
			sh.mu.RUnlock()
			runtime.Gosched()
		}
	}
	var order []int
	var wg sync.WaitGroup
	leave, cancel := context.WithCancel(t.Context())
	for i := range 6 {
		ctx := t.Context()
		if i%2 == 1 {
			ctx = leave
		}
		wg.Go(func() {
			if err := c.lock(ctx, q); err != nil {
				if i%2 == 0 || !errors.Is(err, context.Canceled) {
					t.Errorf("%d: %v", i, err)
				}
				return
			}
			order = append(order, i)
			c.unlock(q)
		})
		waiting(i + 1)
	}
	cancel()
	waiting(3)
	c.unlock(q)
	wg.Wait()
	if !slices.Equal(order, []int{0, 2, 4}) {
		t.Errorf("order %v", order)
	}
	if q.lock != nil {
		t.Error("the lock is held by nobody, but not free")
	}
}

// Locks that are cancelled at the moment they are given are not lost.
func TestLockRace(t *testing.T) {
	c := newCache(0)
	q := c.adopted(t, numberedView(0))
	var holders, wg sync.WaitGroup
	n := 0
	for range 8 {
		wg.Go(func() {
			for range 500 {
				ctx, cancel := context.WithCancel(t.Context())
				holders.Go(cancel)
				if c.lock(ctx, q) == nil {
					n++ // the race detector tells if two are here
					c.unlock(q)
				}
			}
		})
	}
	wg.Wait()
	holders.Wait()
	if q.lock != nil {
		t.Errorf("still locked after %d turns", n)
	}
}

// cached returns a store without a database, with n queues in its cache.
func cached(b *testing.B, n int) *Store {
	b.Helper()
	s := &Store{cache: newCache(4 << 30)}
	for i := range n {
		s.cache.adopted(b, numberedView(i))
	}
	return s
}

// The cost of a look-up with its record hardly depends on the number of queues
// that are kept, as long as as many are in use: a thousand that were loaded one
// after the other, or that are scattered over the memory.
func BenchmarkCachedBySender(b *testing.B) {
	const inUse = 1000
	for _, n := range []int{10_000, 3_000_000} {
		s := cached(b, n)
		for _, use := range []struct {
			name string
			step int
		}{{"together", 1}, {"scattered", 7919}} {
			ids := make([]queue.SenderID, inUse)
			for i := range ids {
				ids[i] = numberedView(i * use.step % n).SenderID
			}
			runtime.GC()
			b.Run(fmt.Sprintf("%d/%s", n, use.name), func(b *testing.B) {
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					q, err := s.QueueBySender(b.Context(), ids[i%inUse])
					if err != nil {
						b.Fatal(err)
					}
					if _, err := q.View(); err != nil {
						b.Fatal(err)
					}
					i++
				}
			})
		}
	}
}

func BenchmarkView(b *testing.B) {
	v := numberedView(0)
	q := newCache(1).adopted(b, v)
	b.ReportAllocs()
	for b.Loop() {
		if got, err := q.View(); err != nil || got.SenderID != v.SenderID {
			b.Fatal(err)
		}
	}
}

// The memory of a queue that is kept, all in all.
func BenchmarkCachedMemory(b *testing.B) {
	const n = 1_000_000
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		s := cached(b, n)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/queue")
		b.ReportMetric(float64(s.cache.stats().Bytes)/n, "accounted-B/queue")
		runtime.KeepAlive(s)
	}
}

// A row that was read before the outcome of a change became doubtful is not taken
// for the present one.
func TestAdoptDoubtful(t *testing.T) {
	c := newCache(1 << 20)
	v := numberedView(0)
	q := c.adopted(t, v)
	since := c.snapshot()
	c.doubt(q)
	if c.adopt(&v, &since, false); c.fresh(q) {
		t.Error("adopted")
	}
}

// A changed or deleted queue leaves nothing under the ids that it had.
//
// contract: QS-11
func TestIndexesFollow(t *testing.T) {
	c := newCache(1 << 20)
	v := numberedView(0)
	q := c.adopted(t, v)
	entries := func(x *index) (n int) {
		for i := range x {
			n += len(x[i].queues)
		}
		return n
	}
	check := func(step string, senders, notifiers int) {
		t.Helper()
		if s, n := entries(&c.senders), entries(&c.notifiers); s != senders || n != notifiers {
			t.Errorf("%s: %d senders, %d notifiers, want %d, %d", step, s, n, senders, notifiers)
		}
	}
	check("added", 1, 1)
	changed := v
	changed.Notifier.ID = queue.NotifierID{EntityID: numberedView(1).Notifier.ID.EntityID}
	c.publish(q, &changed)
	check("another notifier", 1, 1)
	changed.Notifier = queue.Notifier{}
	c.publish(q, &changed)
	check("no notifier", 1, 0)
	c.publish(q, nil)
	check("deleted", 0, 0)
	if s := c.stats(); s.Queues != 0 || s.Bytes != 0 {
		t.Errorf("deleted: %+v", s)
	}
}
