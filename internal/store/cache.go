package store

import (
	"context"
	"hash/maphash"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// A Queue stands for a queue of the router. However many callers use a queue, all
// have the same *Queue: that is what its lock and the record rest on.
type Queue struct {
	id     queue.RecipientID
	record atomic.Pointer[record] // nil: the queue is deleted
	epoch  atomic.Uint32          // that of the cache when record was read; see stale
	used   atomic.Bool            // since the cache last looked for what to give up

	// Guarded by the mutex of the shard.
	slot    int32      // where it is in the ring, or notCached
	watched bool       // it is in shard.alive
	lock    *queueLock // nil: not locked
}

const notCached = -1

// Values of Queue.epoch that no epoch of a cache has.
const (
	stale   = 0              // the row may have changed since
	reading = math.MaxUint32 // the row is being read
)

// ID returns the recipient id of the queue.
func (q *Queue) ID() queue.RecipientID { return q.id }

// View returns the record of the queue, or ErrDeleted. The record is at least as
// new as the look-up that gave q, and has all changes made through this Store.
func (q *Queue) View() (View, error) {
	r := q.record.Load()
	if r == nil {
		return View{}, &Error{Code: CodeAuth, Op: "read queue " + q.id.String(), Err: ErrDeleted}
	}
	return r.view(q.id), nil
}

// has reports whether an id of the queue is the given one.
func (q *Queue) has(by By, id smp.EntityID) bool {
	r := q.record.Load()
	if r == nil {
		return false
	}
	if by == ByRecipient {
		return q.id.EntityID == id
	}
	return r.id(by) == id
}

// touch notes that q is in use.
func (q *Queue) touch() {
	if !q.used.Load() { // most are read only
		q.used.Store(true)
	}
}

// A cache holds the queues of this process.
//
// Every Queue that anybody uses can be found by its recipient id: there are never
// two for one queue. Those that were used lately are kept when nobody uses them,
// within a budget, and can be found by their other ids as well. An entry under
// another id only says where to look: what counts is the record of the queue. So
// a change shows all of a queue's ids at once.
type cache struct {
	budget int64 // bytes for each shard; 0: nothing is kept
	seed   maphash.Seed
	epoch  atomic.Uint32 // all records read in an earlier one are stale
	shards [shards]shard

	senders, notifiers, links index

	loadsJoined atomic.Int64
}

const shards = 64

// A shard holds the queues whose recipient ids have the same hash.
type shard struct {
	mu      sync.RWMutex
	queues  map[queue.RecipientID]*Queue              // those that are kept
	alive   map[queue.RecipientID]weak.Pointer[Queue] // others that may be in use
	ring    []*Queue                                  // those that are kept, in the order in which to give them up
	hand    int                                       // the next to give up, if it was not used
	bytes   int64
	changes atomic.Uint32 // counts changes of rows; see snapshot

	hits, misses, evictions atomic.Int64
}

// An index finds queues that are kept by another id: by its hash, which takes
// less room and time. Of two ids with the same hash, only one is found; the queue
// of the other one is looked up in the database, and then found by its recipient
// id.
type index [shards]struct {
	mu     sync.RWMutex
	queues map[uint64]*Queue
}

// newCache returns a cache that keeps queues of so many bytes.
func newCache(budget int64) *cache {
	c := &cache{budget: budget / shards, seed: maphash.MakeSeed()}
	if budget > 0 {
		c.budget = max(c.budget, 1) // one queue for each shard
	}
	c.epoch.Store(1)
	for i := range c.shards {
		c.shards[i].queues = make(map[queue.RecipientID]*Queue)
		c.shards[i].alive = make(map[queue.RecipientID]weak.Pointer[Queue])
	}
	for _, x := range []*index{&c.senders, &c.notifiers, &c.links} {
		for i := range x {
			x[i].queues = make(map[uint64]*Queue)
		}
	}
	return c
}

// CacheStats are what a cache has done since it was made, and what it holds.
type CacheStats struct {
	Hits        int64 // look-ups that needed no database
	Misses      int64 // look-ups that did
	LoadsJoined int64 // of the misses, those that took the result of another one
	Evictions   int64 // queues given up for others
	Queues      int64 // that are kept now
	Bytes       int64 // that these take, about
}

func (c *cache) stats() CacheStats {
	s := CacheStats{LoadsJoined: c.loadsJoined.Load()}
	for i := range c.shards {
		sh := &c.shards[i]
		s.Hits += sh.hits.Load()
		s.Misses += sh.misses.Load()
		s.Evictions += sh.evictions.Load()
		sh.mu.RLock()
		s.Queues += int64(len(sh.queues))
		s.Bytes += sh.bytes
		sh.mu.RUnlock()
	}
	return s
}

// shard returns the number of the shard of an id.
func (c *cache) shard(id smp.EntityID) int { return int(id.Hash(c.seed) % shards) }

func (c *cache) shardOf(id queue.RecipientID) *shard { return &c.shards[c.shard(id.EntityID)] }

// index returns the index of a kind of id, nil for recipient ids.
func (c *cache) index(by By) *index {
	switch by {
	case BySender:
		return &c.senders
	case ByNotifier:
		return &c.notifiers
	case ByLink:
		return &c.links
	case ByRecipient:
	}
	return nil
}

// get returns the queue with the given id if it is here, whether its record is
// stale or not.
//
// A notifier id is found once: notifiers look a queue up seldom, and what they
// have looked up leaves the index.
func (c *cache) get(by By, id smp.EntityID) *Queue {
	if by == ByRecipient {
		return c.live(queue.RecipientID{EntityID: id})
	}
	hash := id.Hash(c.seed)
	x := &c.index(by)[hash%shards]
	x.mu.RLock()
	q := x.queues[hash]
	x.mu.RUnlock()
	switch {
	case q == nil || !q.has(by, id):
		return nil
	case by == ByNotifier:
		c.forget(q, by, id)
	}
	return q
}

// knows reports whether some queue that is kept has the given id.
func (c *cache) knows(by By, id smp.EntityID) bool {
	hash := id.Hash(c.seed)
	x := &c.index(by)[hash%shards]
	x.mu.RLock()
	defer x.mu.RUnlock()
	q := x.queues[hash]
	return q != nil && q.has(by, id)
}

// live returns the queue with the given recipient id if anybody has it.
func (c *cache) live(id queue.RecipientID) *Queue {
	sh := c.shardOf(id)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.find(id)
}

// find is live for callers that hold the mutex. Queues that are deleted are as
// good as gone: their ids may come back one day.
func (sh *shard) find(id queue.RecipientID) *Queue {
	q := sh.queues[id]
	if q == nil {
		if q = sh.alive[id].Value(); q == nil || q.record.Load() == nil {
			return nil
		}
	}
	return q
}

// fresh reports whether the record of q is what the database has, as far as this
// process knows.
func (c *cache) fresh(q *Queue) bool { return q.epoch.Load() == c.epoch.Load() }

// A snapshot tells, later, whether a row that is read now may be out of date.
type snapshot struct {
	epoch   uint32
	changes [shards]uint32
}

func (c *cache) snapshot() snapshot {
	s := snapshot{epoch: c.epoch.Load()}
	for i := range c.shards {
		s.changes[i] = c.shards[i].changes.Load()
	}
	return s
}

// trusts reports whether the record of q will do for a look-up. Where nothing is
// kept, each look-up reads the row.
func (c *cache) trusts(q *Queue) bool { return c.budget > 0 && c.fresh(q) }

// adopt returns the queue of a row that was read after the snapshot. If rows
// changed meanwhile so that this one may be out of date, there is none, and the row
// has to be read again. A queue that is here already gets the row for its record
// if it is not known to have that or a newer one; while it is being changed, it
// stays as it is.
func (c *cache) adopt(v *View, since *snapshot, keep bool) *Queue {
	h := c.shard(v.RecipientID.EntityID)
	sh := &c.shards[h]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	late := sh.changes.Load() != since.changes[h] || c.epoch.Load() != since.epoch
	q := sh.find(v.RecipientID)
	switch {
	case q != nil && c.trusts(q):
	case q != nil && !late && q.lock == nil:
		c.replace(sh, q, v)
		q.epoch.Store(since.epoch)
	case q != nil:
		if c.budget == 0 {
			q.epoch.Store(stale) // what it has is older than this look-up
		}
	case late:
		return nil
	default:
		q = newQueue(v)
		q.epoch.Store(since.epoch)
		if !keep || c.budget == 0 {
			sh.watch(q)
		}
	}
	if keep && c.budget > 0 && q.slot == notCached {
		c.keep(sh, q)
	}
	return q
}

// newQueue returns a queue that nobody knows yet. It has its first record beside
// it: what is used together is found together, which is what most of a look-up
// takes its time for.
func newQueue(v *View) *Queue {
	q := &struct {
		Queue
		first record
	}{Queue: Queue{id: v.RecipientID, slot: notCached}}
	q.first.set(v)
	q.record.Store(&q.first)
	return &q.Queue
}

// watch makes q one that can be found as long as somebody uses it.
func (sh *shard) watch(q *Queue) {
	if q.watched {
		return
	}
	q.watched = true
	pointer := weak.Make(q)
	sh.alive[q.id] = pointer
	runtime.AddCleanup(q, func(id queue.RecipientID) {
		sh.mu.Lock()
		defer sh.mu.Unlock()
		if sh.alive[id] == pointer {
			delete(sh.alive, id)
		}
	}, q.id)
}

// keep adds q to those that are kept, and gives up others for it.
func (c *cache) keep(sh *shard, q *Queue) {
	sh.queues[q.id] = q
	q.slot = int32(len(sh.ring)) //nolint:gosec // far fewer
	sh.ring = append(sh.ring, q)
	r := q.record.Load()
	sh.bytes += r.cost()
	for _, by := range otherBys {
		c.remember(q, by, r.id(by))
	}
	// Twice around: the first time, queues that were used are let off.
	for range 2 * len(sh.ring) {
		if sh.bytes <= c.budget || len(sh.ring) == 1 {
			break
		}
		sh.hand %= len(sh.ring)
		switch other := sh.ring[sh.hand]; {
		case other == q, other.lock != nil, other.used.Swap(false):
			sh.hand++
		default:
			sh.watch(other)
			c.release(sh, other)
			sh.evictions.Add(1)
		}
	}
}

// otherBys are the ids of a queue that have an index.
var otherBys = [...]By{BySender, ByLink, ByNotifier}

// release takes q from those that are kept.
func (c *cache) release(sh *shard, q *Queue) {
	if q.slot == notCached {
		return
	}
	r := q.record.Load()
	for _, by := range otherBys {
		c.forget(q, by, r.id(by))
	}
	sh.bytes -= r.cost()
	last := sh.ring[len(sh.ring)-1]
	sh.ring[q.slot], last.slot = last, q.slot
	sh.ring[len(sh.ring)-1] = nil
	sh.ring = sh.ring[:len(sh.ring)-1]
	q.slot = notCached
	delete(sh.queues, q.id)
}

// cost returns about how many bytes a queue with this record takes while it is
// kept: itself, its record, its place in the ring and its entries in the maps.
func (r *record) cost() int64 {
	const (
		structs = 48 + 48 + 24  // Queue, record, id
		entries = 8 + 2*(24+16) // in the ring, in the maps by recipient and by sender
		slack   = 30            // of maps that are never full, and of size classes
		another = (16 + 10)     // in another index
	)
	n := int64(structs + entries + slack + len(r.fields))
	for _, by := range []By{ByNotifier, ByLink} {
		if !r.id(by).IsZero() {
			n += another
		}
	}
	return n
}

func (c *cache) remember(q *Queue, by By, id smp.EntityID) {
	if id.IsZero() {
		return
	}
	hash := id.Hash(c.seed)
	x := &c.index(by)[hash%shards]
	x.mu.Lock()
	x.queues[hash] = q
	x.mu.Unlock()
}

func (c *cache) forget(q *Queue, by By, id smp.EntityID) {
	if id.IsZero() {
		return
	}
	hash := id.Hash(c.seed)
	x := &c.index(by)[hash%shards]
	x.mu.Lock()
	if x.queues[hash] == q {
		delete(x.queues, hash)
	}
	x.mu.Unlock()
}

// publish gives q, which the caller has locked, a new record, or nil when it is
// deleted.
func (c *cache) publish(q *Queue, v *View) {
	sh := c.shardOf(q.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	defer sh.changes.Add(1)
	if v == nil {
		if q.record.Load() != nil {
			c.release(sh, q)
			q.record.Store(nil)
		}
		return
	}
	c.replace(sh, q, v)
}

// replace gives q a new record, for callers that hold the mutex.
func (c *cache) replace(sh *shard, q *Queue, v *View) {
	old, r := q.record.Load(), pack(v)
	if q.slot == notCached {
		q.record.Store(r)
		return
	}
	for _, by := range otherBys {
		if id := r.id(by); id != old.id(by) {
			c.remember(q, by, id)
		}
	}
	q.record.Store(r)
	for _, by := range otherBys {
		if id := old.id(by); id != r.id(by) {
			c.forget(q, by, id)
		}
	}
	sh.bytes += r.cost() - old.cost()
}

// invalidate makes the record of a queue stale: another process has changed the
// row.
func (c *cache) invalidate(id queue.RecipientID) {
	sh := c.shardOf(id)
	sh.changes.Add(1)
	if q := c.live(id); q != nil {
		q.epoch.Store(stale)
	}
}

// doubt is invalidate for a queue that need not be in memory by its id any more:
// what was read of it until now may be out of date.
func (c *cache) doubt(q *Queue) {
	sh := c.shardOf(q.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.changes.Add(1)
	q.epoch.Store(stale)
}

// invalidateAll makes all records stale: other processes may have changed any
// row.
func (c *cache) invalidateAll() { c.epoch.Add(1) }

// A queueLock is the lock of a queue that somebody has.
type queueLock struct {
	waiting []chan struct{} // in the order in which they came
}

// lock waits for the lock of a queue, in turn.
func (c *cache) lock(ctx context.Context, q *Queue) error {
	sh := c.shardOf(q.id)
	sh.mu.Lock()
	if q.lock == nil {
		q.lock = new(queueLock)
		sh.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	q.lock.waiting = append(q.lock.waiting, turn)
	sh.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	sh.mu.Lock()
	i := slices.Index(q.lock.waiting, turn)
	if i >= 0 {
		q.lock.waiting = slices.Delete(q.lock.waiting, i, i+1)
	}
	sh.mu.Unlock()
	if i < 0 { // its turn came at the same moment
		c.unlock(q)
	}
	return ctx.Err()
}

// unlock hands the lock to whoever waits for it.
func (c *cache) unlock(q *Queue) {
	sh := c.shardOf(q.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if len(q.lock.waiting) == 0 {
		q.lock = nil
		return
	}
	close(q.lock.waiting[0])
	q.lock.waiting = q.lock.waiting[1:]
}
