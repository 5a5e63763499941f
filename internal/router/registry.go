package router

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/smpq/smpq/internal/smp"
)

// A side says which registry a subscription is in.
type side int

const (
	recipientSide side = iota
	notifierSide
	sides // how many there are
)

// A registry says who is subscribed to which queue. It is divided by the ids of
// queues, so that deliveries do not wait for each other.
type registry struct {
	side   side
	now    func() time.Time
	seed   maphash.Seed
	shards [128]shard
}

type shard struct {
	mu   sync.Mutex
	subs map[smp.EntityID]*subscription
}

// A subscription says to whom messages of a queue are delivered, and how far that
// has got. It is guarded by the mutex of its shard, but for the links.
//
// It is claimed while somebody reads the first message of the queue. Then no message
// is in flight. It is never claimed, or waiting, and in flight at the same time.
type subscription struct {
	id      smp.EntityID
	session *session // nil: it has ended, but somebody has claimed it
	// What is in flight, and since when, in Unix seconds; zero: nothing.
	inFlight smp.EntityID
	since    int64
	claimed  bool
	again    bool // there may be something in the queue that nobody has looked at
	waiting  bool // the session will look when it has room
	counted  bool // in the running count of the session, which is a service's

	prev, next *subscription // those of the session; guarded by its mutex
}

// A list is the subscriptions of a session in a registry.
type list struct {
	first *subscription
	n     int
}

func newRegistry(side side, now func() time.Time) *registry {
	g := &registry{side: side, now: now, seed: maphash.MakeSeed()}
	for i := range g.shards {
		g.shards[i].subs = make(map[smp.EntityID]*subscription)
	}
	return g
}

func (g *registry) shard(id smp.EntityID) *shard {
	return &g.shards[id.Hash(g.seed)%uint64(len(g.shards))]
}

// link adds a subscription to those of s. It fails if s has ended or, being of a
// service, was displaced. The mutex of the shard must be held, as in the next
// methods.
func (g *registry) link(s *session, sub *subscription) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.displaced {
		return false
	}
	l := &s.lists[g.side]
	sub.prev, sub.next = nil, l.first
	if l.first != nil {
		l.first.prev = sub
	}
	l.first = sub
	l.n++
	sub.session = s
	return true
}

func (g *registry) unlink(sub *subscription) {
	s := sub.session
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.lists[g.side]
	if sub.prev == nil {
		l.first = sub.next
	} else {
		sub.prev.next = sub.next
	}
	if sub.next != nil {
		sub.next.prev = sub.prev
	}
	l.n--
	sub.prev, sub.next, sub.session = nil, nil, nil
	sub.inFlight, sub.waiting, sub.counted = smp.EntityID{}, false, false
}

// drop ends a subscription.
func (h *shard) drop(g *registry, sub *subscription) {
	g.unlink(sub)
	if !sub.claimed {
		delete(h.subs, sub.id)
	}
}

// An attached is what comes of making a session a subscriber.
type attached struct {
	sub     *subscription // nil: the session has ended
	claimed bool          // by the caller, who has to settle it
	first   bool          // the session was not subscribed to this queue
	old     *session      // whose subscription has ended; nil: nobody's
	counted bool          // in the running count of old
}

// attach makes s the subscriber of a queue. If claim is set, what was in flight is
// not any more, and the caller is to read the first message, unless somebody else
// will.
func (g *registry) attach(id smp.EntityID, s *session, claim bool) (a attached) {
	h := g.shard(id)
	h.mu.Lock()
	defer h.mu.Unlock()
	sub := h.subs[id]
	if sub == nil {
		sub = &subscription{id: id}
		h.subs[id] = sub
	}
	a.sub = sub
	if sub.session != s {
		a.first = true
		if a.old = sub.session; a.old != nil {
			a.counted = sub.counted
			g.unlink(sub)
		}
		if !g.link(s, sub) {
			a.sub = nil
			if !sub.claimed {
				delete(h.subs, id)
			}
			return a
		}
	}
	if !claim {
		return a
	}
	sub.inFlight = smp.EntityID{}
	switch {
	case sub.claimed:
		sub.again = true
	case !sub.waiting:
		sub.claimed, sub.again, a.claimed = true, false, true
	}
	return a
}

// claim claims the subscription of a queue to push a message that was just written.
// If s is not nil, it is the session of the service that the queue is associated
// with, which is subscribed in any case. It returns nil if nobody is subscribed, or
// the message has to wait for its turn.
func (g *registry) claim(id smp.EntityID, s *session) (sub *subscription, of *session) {
	h := g.shard(id)
	h.mu.Lock()
	defer h.mu.Unlock()
	if s != nil {
		h.subscribe(g, id, s)
	}
	sub = h.subs[id]
	switch {
	case sub == nil:
		return nil, nil
	case sub.claimed, !sub.inFlight.IsZero():
		sub.again = true
		return nil, nil
	case sub.waiting:
		return nil, nil
	}
	sub.claimed, sub.again = true, false
	return sub, sub.session
}

// subscribe makes s, which is a service's, the subscriber of a queue that has none.
func (h *shard) subscribe(g *registry, id smp.EntityID, s *session) (fresh bool) {
	sub := h.subs[id]
	switch {
	case sub == nil:
		sub = &subscription{id: id}
	case sub.session != nil:
		return false
	}
	if !g.link(s, sub) {
		return false
	}
	h.subs[id] = sub
	return true
}

// claimNew claims a subscription that there was not, for a service. It returns nil if
// there was, or the session is that of the service no more.
func (g *registry) claimNew(id smp.EntityID, s *session) *subscription {
	h := g.shard(id)
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.subscribe(g, id, s) {
		return nil
	}
	sub := h.subs[id]
	if sub.claimed {
		sub.again = true // by somebody whose session has ended; s will look when that is done
		return nil
	}
	sub.claimed, sub.again = true, false
	return sub
}

// claimWaiting claims a subscription that waits for room in s.
func (g *registry) claimWaiting(sub *subscription, s *session) bool {
	h := g.shard(sub.id)
	h.mu.Lock()
	defer h.mu.Unlock()
	if sub.session != s || !sub.waiting {
		return false
	}
	sub.waiting = false
	sub.claimed = true
	return true
}

// settle ends a claim on behalf of s, for which the first message of the queue was
// read: m is its id, zero if there was none. It reports whether the message is in
// flight now, which is the case if s still is subscribed and send, unless it is nil,
// has sent it. Otherwise somebody else will look for what there is, if need be.
func (g *registry) settle(sub *subscription, s *session, m smp.EntityID, send func() bool) bool {
	h := g.shard(sub.id)
	h.mu.Lock()
	defer h.mu.Unlock()
	sub.claimed = false
	switch {
	case sub.session == nil:
		delete(h.subs, sub.id)
		return false
	case sub.session == s && m.IsZero() && !sub.again:
		return false
	case sub.session == s && !m.IsZero() && (send == nil || send()):
		sub.inFlight, sub.since, sub.again = m, g.now().Unix(), false
		return true
	}
	sub.again = false
	sub.wait()
	return false
}

// postpone ends a claim of somebody who could not read the queue.
func (g *registry) postpone(sub *subscription) {
	h := g.shard(sub.id)
	h.mu.Lock()
	defer h.mu.Unlock()
	sub.claimed = false
	if sub.session == nil {
		delete(h.subs, sub.id)
		return
	}
	sub.again = false
	sub.wait()
}

// wait has the session look for messages when it has room.
func (sub *subscription) wait() {
	s := sub.session
	s.mu.Lock()
	defer s.mu.Unlock()
	sub.waiting = true
	s.waiting = append(s.waiting, sub)
	s.fetchIfRoom()
}

// A delivery is a message that is being acknowledged.
type delivery struct {
	sub     *subscription
	message smp.EntityID
	since   int64
}

// acknowledge claims the subscription of s to a queue if the given message is in
// flight, or any message if the id is zero.
func (g *registry) acknowledge(id smp.EntityID, s *session, m smp.EntityID) (d delivery, subscribed, ok bool) {
	h := g.shard(id)
	h.mu.Lock()
	defer h.mu.Unlock()
	sub := h.subs[id]
	if sub == nil || sub.session != s {
		return delivery{}, false, false
	}
	if sub.inFlight.IsZero() || !m.IsZero() && sub.inFlight != m {
		return delivery{}, true, false
	}
	d = delivery{sub, sub.inFlight, sub.since}
	sub.claimed, sub.again, sub.inFlight = true, false, smp.EntityID{}
	return d, true, true
}

// restore undoes acknowledge: the client may try again.
func (g *registry) restore(d delivery, s *session) {
	h := g.shard(d.sub.id)
	h.mu.Lock()
	sub := d.sub
	if sub.session == s && s != nil {
		sub.claimed, sub.inFlight, sub.since = false, d.message, d.since
		h.mu.Unlock()
		return
	}
	h.mu.Unlock()
	g.postpone(sub)
}

// state returns what s knows of the subscription to a queue, ok being false if it
// has none.
func (g *registry) state(id smp.EntityID, s *session) (inFlight smp.EntityID, waiting, ok bool) {
	h := g.shard(id)
	h.mu.Lock()
	defer h.mu.Unlock()
	sub := h.subs[id]
	if sub == nil || sub.session != s {
		return smp.EntityID{}, false, false
	}
	return sub.inFlight, sub.waiting, true
}

// session returns who is subscribed to a queue, nil if nobody is.
func (g *registry) session(id smp.EntityID) *session {
	h := g.shard(id)
	h.mu.Lock()
	defer h.mu.Unlock()
	if sub := h.subs[id]; sub != nil {
		return sub.session
	}
	return nil
}

// mark sets counted for the subscription of s, and reports whether it was not set.
func (g *registry) mark(sub *subscription, s *session) bool {
	h := g.shard(sub.id)
	h.mu.Lock()
	defer h.mu.Unlock()
	if sub.session != s || sub.counted {
		return false
	}
	sub.counted = true
	return true
}

// remove ends the subscription to a queue, and returns whose it was.
func (g *registry) remove(id smp.EntityID) (old *session, counted bool) {
	h := g.shard(id)
	h.mu.Lock()
	defer h.mu.Unlock()
	sub := h.subs[id]
	if sub == nil || sub.session == nil {
		return nil, false
	}
	old, counted = sub.session, sub.counted
	h.drop(g, sub)
	return old, counted
}

// leave ends all subscriptions of a session that has ended or was displaced, so that
// it gets no others.
func (g *registry) leave(s *session) {
	for {
		s.mu.Lock()
		sub := s.lists[g.side].first
		s.mu.Unlock()
		if sub == nil {
			return
		}
		h := g.shard(sub.id)
		h.mu.Lock()
		if sub.session == s {
			h.drop(g, sub)
		}
		h.mu.Unlock()
	}
}
