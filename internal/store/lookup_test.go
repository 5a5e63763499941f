package store_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/store"
)

// What was added is found by each of its ids, in this store and in another one.
func TestLookUp(t *testing.T) {
	eachCache(t, func(t *testing.T, f fixture) {
		other := fixture{Store: openStore(t, store.Options{Config: f.config, CacheSize: 1 << 20})}
		for _, r := range []*queue.Record{newRecord(), fullRecord()} {
			f.wantAbsent(t, r)
			q := f.add(t, r)
			wantView(t, q, r)
			if got := f.wantFound(t, r); got != q {
				t.Error("the look-up gave another object than the addition")
			}
			wantView(t, other.wantFound(t, r), r)
		}
	})
}

// contract: QS-01
func TestAddTakenID(t *testing.T) {
	eachCache(t, func(t *testing.T, f fixture) {
		have := fullRecord()
		q := f.add(t, have)
		taken := map[string]func(r *queue.Record){
			"recipient": func(r *queue.Record) { r.RecipientID = have.RecipientID },
			"sender":    func(r *queue.Record) { r.SenderID = have.SenderID },
			"notifier":  func(r *queue.Record) { r.Notifier.ID = have.Notifier.ID },
			"link":      func(r *queue.Record) { r.Link.ID = have.Link.ID },
		}
		try := func() {
			t.Helper()
			for name, take := range taken {
				r := fullRecord()
				take(r)
				_, err := f.AddQueue(t.Context(), r)
				t.Log(name)
				wantError(t, err, store.CodeAuth, store.ErrTaken)
			}
		}
		try()
		wantView(t, f.wantFound(t, have), have)
		if _, err := f.DeleteQueue(t.Context(), q); err != nil {
			t.Fatal(err)
		}
		try() // the ids of deleted queues stay taken
		if n := f.number(t, "select count(*) from msg_queues"); n != 1 {
			t.Errorf("%d rows, want 1", n)
		}
	})
}

// Readers see all of a new queue or nothing.
//
// contract: QS-02
func TestAddAtOnce(t *testing.T) {
	eachCache(t, func(t *testing.T, f fixture) {
		for range 30 {
			r := fullRecord()
			added := make(chan struct{})
			var wg sync.WaitGroup
			for _, find := range f.lookups(r) {
				wg.Go(func() {
					for done := false; ; {
						q, err := find(t.Context())
						if err == nil {
							wantView(t, q, r)
							return
						}
						if done || !errors.Is(err, store.ErrNotFound) {
							t.Errorf("look-up after the addition: %v", err)
							return
						}
						select {
						case <-added:
							done = true
						default:
						}
					}
				})
			}
			f.add(t, r)
			close(added)
			wg.Wait()
		}
	})
}

// However a caller gives up, the store finds what the database has.
//
// contract: QS-02
func TestCancelledCallers(t *testing.T) {
	eachCache(t, func(t *testing.T, f fixture) {
		for i := range 60 {
			r := fullRecord()
			ctx, cancel := context.WithCancel(t.Context())
			if i%3 == 0 {
				cancel()
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				q, err := f.AddQueue(ctx, r)
				if err == nil {
					_ = f.SuspendQueue(ctx, q)
					_, err = f.DeleteNotifier(ctx, q)
				}
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("cancelled: %v", err)
				}
			})
			wg.Go(cancel)
			wg.Wait()
			stored, err := f.stored(t, r.RecipientID)
			if err != nil {
				f.wantAbsent(t, r)
				continue
			}
			wantView(t, f.wantFound(t, stored), stored)
		}
	})
}

// stored returns a queue as the database has it, read without the store.
func (f fixture) stored(t testing.TB, id queue.RecipientID) (*queue.Record, error) {
	t.Helper()
	s, err := store.OpenSchema(t.Context(), f.conn, f.config.Schema)
	if err != nil {
		t.Fatal(err)
	}
	found, err := store.FindQueue(t.Context(), f.conn, s, id.Bytes(), store.ByRecipient)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) == 0 || found[0].Row.Deleted() {
		return nil, store.ErrNotFound
	}
	return &found[0].Row.Record, nil
}

// An entry of the notifier index serves one look-up, alone or in a batch.
//
// contract: QS-03
func TestNotifierFoundOnce(t *testing.T) {
	for name, find := range map[string]func(f fixture, id queue.NotifierID) (*store.Queue, error){
		"single": func(f fixture, id queue.NotifierID) (*store.Queue, error) {
			return f.QueueByNotifier(context.Background(), id)
		},
		"batch": func(f fixture, id queue.NotifierID) (*store.Queue, error) {
			found, err := f.QueuesByNotifier(context.Background(), []queue.NotifierID{id})
			if err != nil {
				return nil, err
			}
			return found[0].Queue, found[0].Err
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, 1<<20)
			r := fullRecord()
			q := f.add(t, r)
			before := f.CacheStats()
			for i := range 3 {
				got, err := find(f, r.Notifier.ID)
				if err != nil || got != q {
					t.Fatalf("look-up %d: %v, %v", i, got, err)
				}
			}
			after := f.CacheStats()
			if hits, misses := after.Hits-before.Hits, after.Misses-before.Misses; hits != 1 || misses != 2 {
				t.Errorf("%d hits and %d misses, want 1 and 2", hits, misses)
			}
			if after.Queues != before.Queues {
				t.Errorf("%d queues are kept, before %d", after.Queues, before.Queues)
			}
		})
	}
}

// Notifiers do not fill the cache; while somebody uses what one of them looked
// up, all others get the same object.
//
// contract: QS-04
func TestNotifierDoesNotCache(t *testing.T) {
	f := newFixture(t, 0)
	s := fixture{Store: openStore(t, store.Options{Config: f.config, CacheSize: 1 << 20})}
	for range 20 {
		r := fullRecord()
		f.add(t, r)
		kept := s.CacheStats().Queues
		queues := make([]*store.Queue, 8)
		var wg sync.WaitGroup
		for i := range queues {
			wg.Go(func() {
				var err error
				if i%2 == 0 {
					queues[i], err = s.QueueByNotifier(t.Context(), r.Notifier.ID)
				} else {
					var found []store.Lookup
					found, err = s.QueuesByNotifier(t.Context(), []queue.NotifierID{r.Notifier.ID})
					if err == nil {
						queues[i], err = found[0].Queue, found[0].Err
					}
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, q := range queues {
			if q != queues[0] {
				t.Fatal("two objects for one queue")
			}
		}
		if n := s.CacheStats().Queues; n != kept {
			t.Fatalf("%d queues are kept, before %d", n, kept)
		}
		if by := s.wantFound(t, r); by != queues[0] {
			t.Fatal("another object for the recipient")
		}
	}
}

// Concurrent look-ups of a queue, by whichever ids, end with one object.
//
// contract: QS-05
func TestOneObject(t *testing.T) {
	f := newFixture(t, 0)
	var records []*queue.Record
	for range 20 {
		r := fullRecord()
		f.add(t, r)
		records = append(records, r)
	}
	for name, bytes := range map[string]int64{"cache off": 0, "cache tiny": 1, "cache": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			s := fixture{Store: openStore(t, store.Options{Config: f.config, CacheSize: bytes})}
			for _, r := range records {
				var mu sync.Mutex
				objects := make(map[*store.Queue]bool)
				var wg sync.WaitGroup
				for _, find := range s.lookups(r) {
					for range 4 {
						wg.Go(func() {
							q, err := find(t.Context())
							if err != nil {
								t.Error(err)
							}
							mu.Lock()
							defer mu.Unlock()
							objects[q] = true
						})
					}
				}
				wg.Wait()
				if len(objects) != 1 {
					t.Errorf("%d objects for one queue", len(objects))
				}
			}
			if stats := s.CacheStats(); stats.LoadsJoined == 0 {
				t.Errorf("no look-up joined another: %+v", stats)
			}
		})
	}
}

// A batch gives the objects that are there, in the order of the ids.
//
// contract: QS-06, QS-07
func TestBatchLookUp(t *testing.T) {
	eachCache(t, func(t *testing.T, f fixture) {
		var ids []queue.RecipientID
		var notifiers []queue.NotifierID
		want := make(map[queue.RecipientID]*store.Queue)
		for i := range 40 {
			r := fullRecord()
			q := f.add(t, r)
			ids, notifiers = append(ids, r.RecipientID), append(notifiers, r.Notifier.ID)
			if i%2 == 0 { // the others may be forgotten
				want[r.RecipientID] = q
			}
		}
		unknown := queue.RecipientID{EntityID: randomID()}
		asked := slices.Concat(ids[20:], []queue.RecipientID{unknown}, ids, []queue.RecipientID{unknown, ids[0]})
		found, err := f.QueuesByRecipient(t.Context(), asked)
		if err != nil || len(found) != len(asked) {
			t.Fatalf("%d results, %v", len(found), err)
		}
		for i, id := range asked {
			l := found[i]
			switch {
			case id == unknown:
				wantError(t, l.Err, store.CodeAuth, store.ErrNotFound)
				continue
			case l.Err != nil || l.Queue.ID() != id:
				t.Fatalf("result %d: %v, %v", i, l.Queue, l.Err)
			case want[id] != nil && want[id] != l.Queue:
				t.Errorf("result %d is another object", i)
			}
			want[id] = l.Queue
		}
		byNotifier, err := f.QueuesByNotifier(t.Context(), notifiers)
		if err != nil {
			t.Fatal(err)
		}
		for i, l := range byNotifier {
			if l.Err != nil || l.Queue != want[ids[i]] {
				t.Errorf("notifier %d: %v, %v", i, l.Queue, l.Err)
			}
		}
		if found, err := f.QueuesByRecipient(t.Context(), nil); err != nil || len(found) != 0 {
			t.Errorf("of no ids: %v, %v", found, err)
		}
	})
}

// An unknown id is AUTH, whether the rest of the batch was in memory or not.
//
// contract: QS-07
func TestUnknownInBatch(t *testing.T) {
	eachCache(t, func(t *testing.T, f fixture) {
		r := newRecord()
		q := f.add(t, r)
		deleted := f.add(t, newRecord())
		if _, err := f.DeleteQueue(t.Context(), deleted); err != nil {
			t.Fatal(err)
		}
		for _, ids := range [][]queue.RecipientID{{q.ID(), deleted.ID()}, {deleted.ID()}, {q.ID(), {EntityID: randomID()}}} {
			found, err := f.QueuesByRecipient(t.Context(), ids)
			if err != nil {
				t.Fatal(err)
			}
			wantError(t, found[len(found)-1].Err, store.CodeAuth, store.ErrNotFound)
		}
	})
}

// contract: QS-15
func TestLinkDataOnDemand(t *testing.T) {
	eachCache(t, func(t *testing.T, f fixture) {
		r := fullRecord()
		q := f.add(t, r)
		data, err := f.LinkData(t.Context(), q, r.Link.ID)
		if err != nil || string(data.Fixed) != string(r.Link.Data.Fixed) || string(data.User) != string(r.Link.Data.User) {
			t.Errorf("%q, %v", data, err)
		}
		_, err = f.LinkData(t.Context(), q, queue.LinkID{EntityID: randomID()})
		wantError(t, err, store.CodeAuth, store.ErrNotFound)
		plain := f.add(t, newRecord())
		_, err = f.LinkData(t.Context(), plain, queue.LinkID{})
		wantError(t, err, store.CodeAuth, store.ErrNotFound)
		f.exec(t, "update msg_queues set fixed_data = null where recipient_id = $1", r.RecipientID)
		if _, err := f.LinkData(t.Context(), q, r.Link.ID); store.CodeOf(err) != store.CodeStore {
			t.Errorf("a link without data: %v", err)
		}
	})
}

// A row that cannot be read is the matter of whoever asked for it, not of others in
// the same batch.
//
// contract: QS-07
func TestUnreadableInBatch(t *testing.T) {
	f := newFixture(t, 0)
	var ids []queue.RecipientID
	var notifiers []queue.NotifierID
	for range 3 {
		r := fullRecord()
		f.add(t, r)
		ids, notifiers = append(ids, r.RecipientID), append(notifiers, r.Notifier.ID)
	}
	f.exec(t, "update msg_queues set status = 'asleep' where recipient_id = $1", ids[1])
	_, single := f.QueueByRecipient(t.Context(), ids[1])
	if store.CodeOf(single) != store.CodeStore {
		t.Errorf("single: %v", single)
	}
	check := func(found []store.Lookup, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("the batch failed: %v", err)
			return
		}
		for i, l := range found {
			if i == 1 && store.CodeOf(l.Err) != store.CodeStore || i != 1 && l.Err != nil {
				t.Errorf("%d: %v", i, l.Err)
			}
		}
	}
	check(f.QueuesByRecipient(t.Context(), ids))
	check(f.QueuesByNotifier(t.Context(), notifiers))
}

// Whoever joins the look-up of a caller with less time gets an answer all the same.
func TestJoinedLookUpOfHurriedCaller(t *testing.T) {
	f := newFixture(t, 0)
	r := newRecord()
	f.add(t, r)
	f.exec(t, "begin")
	f.exec(t, "lock table msg_queues in access exclusive mode")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	hurried := make(chan struct{})
	wg.Go(func() {
		defer close(hurried)
		if _, err := f.QueueBySender(ctx, r.SenderID); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("in a hurry: %v", err)
		}
	})
	f.waitForLocks(t, 1)
	joined := f.CacheStats().LoadsJoined
	wg.Go(func() {
		if _, err := f.QueueBySender(t.Context(), r.SenderID); err != nil {
			t.Errorf("with time: %v", err)
		}
	})
	eventually(t, "one look-up joins the other", func() bool { return f.CacheStats().LoadsJoined > joined })
	<-hurried
	f.exec(t, "commit")
	wg.Wait()
}

// Without a cache each look-up reads the row, also of a queue that is in use.
//
// contract: QS-19
func TestCacheOffReadsAnew(t *testing.T) {
	f := newFixture(t, 0)
	r := newRecord()
	q := f.add(t, r)
	f.exec(t, "update msg_queues set status = 'off'")
	r.Status = queue.Status{State: queue.Off}
	if found := f.wantFound(t, r); found != q {
		t.Error("another object")
	}
	wantView(t, q, r)
}

// A link whose fixed data was lost gets it again with the next change.
//
// contract: QS-22
func TestLostFixedData(t *testing.T) {
	f := newFixture(t, 1<<20)
	r := fullRecord()
	q := f.add(t, r)
	f.exec(t, "update msg_queues set fixed_data = null")
	if err := f.SetLink(t.Context(), q, *r.Link); err != nil {
		t.Fatal(err)
	}
	data, err := f.LinkData(t.Context(), q, r.Link.ID)
	if err != nil || string(data.Fixed) != string(r.Link.Data.Fixed) {
		t.Errorf("%q, %v", data, err)
	}
}
