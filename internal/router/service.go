package router

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/transport"
)

// takeService returns the id of a service that has proved itself, always the same.
func (r *Router) takeService(ctx context.Context, offer transport.ServiceOffer) (smp.EntityID, error) {
	id, err := r.store.Service(ctx, queue.Service{
		ID: queue.ServiceID{EntityID: r.o.chance.id(smp.Short{})}, Role: offer.Role, CertChain: offer.Chain,
		CertHash: offer.Identity.Bytes(), CreatedAt: r.today(),
	})
	return id.EntityID, err
}

// services say which session is that of which service, for the services of one role.
type services struct {
	party    queue.Party
	role     queue.Role
	counters *ServiceCounters

	mu       sync.Mutex // guards what follows, and session.serving
	sessions map[smp.EntityID]*session
}

// serving is what a session knows of the queues of its service. Unless all is set, it
// counts those only that the session has named itself.
type serving struct {
	smp.Subscribed

	all  bool
	stop context.CancelFunc // ends the walk through the queues; nil: there is none
}

// add counts a queue, remove no more.
func (v *serving) add(id smp.EntityID) {
	v.Count++
	v.Hash = v.Hash.Toggle(id)
}

func (v *serving) remove(id smp.EntityID) {
	if v.Count--; v.Count <= 0 {
		v.Subscribed = smp.Subscribed{}
		return
	}
	v.Hash = v.Hash.Toggle(id)
}

func newServices(party queue.Party, role queue.Role, c *ServiceCounters) *services {
	return &services{party: party, role: role, counters: c, sessions: make(map[smp.EntityID]*session)}
}

// servicesOf returns the services of a role; nil for a role in which nothing is
// subscribed to.
func (r *Router) servicesOf(role queue.Role) *services {
	switch role {
	case queue.RoleMessaging:
		return r.rcvServices
	case queue.RoleNotifier:
		return r.ntfServices
	case queue.RoleProxy:
	}
	return nil
}

// registryOf returns the registry of the queues of services.
func (r *Router) registryOf(v *services) *registry {
	if v == r.ntfServices {
		return r.notifiers
	}
	return r.recipients
}

// session returns the session of a service, nil if it has none.
func (v *services) session(id smp.EntityID) *session {
	if v == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.sessions[id]
}

// none reports whether no service is connected.
func (v *services) none() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.sessions) == 0
}

// adopt makes s the session of its service. Another one learns that it is not any
// more, and loses all that it was subscribed to.
func (r *Router) adopt(s *session) {
	v, id := s.parties, s.service.ID
	v.mu.Lock()
	old := v.sessions[id]
	if old == s {
		v.mu.Unlock()
		return
	}
	v.sessions[id] = s
	s.setDisplaced(false)
	var lost serving
	if old != nil {
		old.setDisplaced(true)
		lost, old.serving = old.serving, serving{}
	}
	v.mu.Unlock()
	if old == nil {
		return
	}
	if lost.stop != nil {
		lost.stop()
	}
	r.registryOf(v).leave(old)
	old.tell(id, &smp.ENDS{Subscribed: lost.Subscribed})
}

func (s *session) setDisplaced(displaced bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.displaced = displaced
}

// resign is for the session of a service that has ended.
func (r *Router) resign(s *session) {
	v := s.parties
	if v == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.sessions[s.service.ID] == s {
		delete(v.sessions, s.service.ID)
	}
}

// discount takes a queue out of what a session of a service counts, and returns the
// session, nil if there is none. Counted says that the session itself had named the
// queue.
func (v *services) discount(service, id smp.EntityID, counted bool) *session {
	if service.IsZero() {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.sessions[service]
	if s != nil && (s.serving.all || counted) {
		s.serving.remove(id)
	}
	return s
}

// count takes a queue that s has subscribed to into what it counts.
func (r *Router) count(s *session, id smp.EntityID, was smp.EntityID, sub *subscription) {
	v := s.parties
	fresh := r.registryOf(v).mark(sub, s)
	v.mu.Lock()
	defer v.mu.Unlock()
	none := s.serving.Count == 0
	switch {
	case was == s.service.ID:
		v.counters.AssocDuplicate.Add(1)
		if s.serving.all || !fresh {
			return
		}
	case was.IsZero():
		v.counters.AssocNew.Add(1)
	default:
		v.counters.AssocUpdated.Add(1)
	}
	s.serving.add(id)
	v.counters.SubQueues.Add(1)
	if none {
		v.counters.SubCount.Add(1)
	}
}

// stripes are locks for queues. They are held while the service of a queue is set
// and who is subscribed to it, so that the two agree.
type stripes [64]sync.Mutex

// lock locks what belongs to some queues.
func (l *stripes) lock(r *registry, ids []smp.EntityID) (unlock func()) {
	var used [len(stripes{})]bool
	for _, id := range ids {
		used[id.Hash(r.seed)%uint64(len(used))] = true
	}
	for i := range used {
		if used[i] {
			l[i].Lock()
		}
	}
	return func() {
		for i := range used {
			if used[i] {
				l[i].Unlock()
			}
		}
	}
}

// subscribeService answers SUBS and NSUBS. What waits for the recipient is sent,
// the first time; a notifier gets it with the next notifications.
func (s *session) subscribeService(ctx context.Context, told smp.Subscribed) (smp.Response, error) { //nolint:contextcheck // the walk outlives the command
	r, v := s.router, s.parties
	r.adopt(s)
	v.mu.Lock()
	known := s.serving
	v.mu.Unlock()
	if known.all {
		return &smp.SOKS{Subscribed: known.Subscribed}, nil
	}
	a, err := r.store.ServiceQueues(ctx, queue.ServiceID{EntityID: s.service.ID}, v.party)
	if err != nil && store.CodeOf(err) != store.CodeAuth { // it has no queues
		return nil, err
	}
	sum := smp.Subscribed{Count: a.Count, Hash: a.IDsHash}
	v.counters.compare(told, sum)
	v.mu.Lock()
	if v.sessions[s.service.ID] == s {
		s.serving = serving{Subscribed: sum, all: true}
		if v.role == queue.RoleMessaging {
			var walking context.Context
			walking, s.serving.stop = context.WithCancel(s.ctx)
			s.tasks.Go(func() { s.walk(walking) })
		} else {
			r.notifications.readyAll()
		}
	}
	v.mu.Unlock()
	r.log.LogAttrs(ctx, slog.LevelInfo, "a service has subscribed", slog.String("role", v.role.String()), slog.Int64("queues", sum.Count))
	return &smp.SOKS{Subscribed: sum}, nil
}

// compare counts how what the service says of its queues differs from what the store
// has.
func (c *ServiceCounters) compare(told, stored smp.Subscribed) {
	c.SubCount.Add(1)
	c.SubQueues.Add(stored.Count)
	switch cmp.Compare(stored.Count, told.Count) {
	case 0:
		if told.Hash != stored.Hash {
			c.SubDiff.Add(1)
			return
		}
		c.SubOk.Add(1)
	case 1:
		if told.Count == smp.NotChecked {
			c.SubOk.Add(1)
			return
		}
		c.SubMore.Add(1)
		c.SubMoreTotal.Add(stored.Count - told.Count)
	case -1:
		c.SubFewer.Add(1)
		c.SubFewerTotal.Add(told.Count - stored.Count)
	}
}

// walk sends the first message of each queue of the service, then ALLS. It waits for
// room; while it does, it holds no connection to the database. If that fails, it begins
// again: queues that it has been to are subscribed to.
func (s *session) walk(ctx context.Context) {
	defer context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})()
	for {
		failed, err := s.walkOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			failed = append(failed, s.encodeEvent(event{response: &smp.ALLS{}}))
			s.put(slices.Clip(failed))
			return
		}
		s.router.log.LogAttrs(ctx, slog.LevelWarn, "the messages of a service are read again from the start", slog.Any("error", withoutIDs(err)))
		retry := time.NewTimer(fetchRetry)
		select {
		case <-retry.C:
		case <-ctx.Done():
			retry.Stop()
			return
		}
	}
}

// walkOnce goes through the queues of the service. It returns what is to be said of
// those that cannot be read.
func (s *session) walkOnce(ctx context.Context) (failed group, err error) {
	var ids []queue.RecipientID
	for m, err := range s.router.store.ServiceMessages(ctx, queue.ServiceID{EntityID: s.service.ID}) {
		if err != nil {
			return nil, err
		}
		if m.Message == nil {
			continue
		}
		if ids = append(ids, m.Queue); len(ids) < fetchMax {
			continue
		}
		of, err := s.sendHeads(ctx, ids)
		if err != nil {
			return nil, err
		}
		failed, ids = append(failed, of...), ids[:0]
	}
	of, err := s.sendHeads(ctx, ids)
	return append(failed, of...), err
}

// sendHeads sends the first messages of some queues of the service. They were there a
// moment ago, but what counts is what is there once the subscription is claimed.
func (s *session) sendHeads(ctx context.Context, ids []queue.RecipientID) (failed group, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	r, g := s.router, s.router.recipients
	lookups, err := r.store.QueuesByRecipient(ctx, ids)
	if err != nil {
		return nil, err
	}
	var claimed []*subscription
	var views []store.View
	var of []queue.RecipientID
	for i, l := range lookups {
		var view store.View
		err := l.Err
		if err == nil {
			view, err = l.Queue.View()
		}
		switch {
		case err != nil && store.CodeOf(err) == store.CodeAuth:
			continue // it was deleted meanwhile
		case err != nil:
			failed = append(failed, s.encodeEvent(event{ids[i].EntityID, failure(err)}))
			continue
		case view.RcvService.EntityID != s.service.ID:
			continue // it has left the service meanwhile
		}
		sub := g.claimNew(ids[i].EntityID, s)
		if sub == nil {
			r.counters.RcvServicesSubDuplicate.Add(1)
			continue
		}
		claimed, views, of = append(claimed, sub), append(views, view), append(of, ids[i])
	}
	messages, err := r.store.PeekMessages(ctx, of)
	for i, sub := range claimed {
		m := messages[of[i]]
		switch {
		case err != nil:
			g.postpone(sub)
			continue
		case m == nil:
			g.settle(sub, s, smp.EntityID{}, nil)
			continue
		}
		encoded := s.encodeMessage(&views[i], m)
		s.awaitRoom(ctx)
		if g.settle(sub, s, m.ID.EntityID, func() bool {
			if ctx.Err() != nil {
				return false
			}
			s.put(group{encoded})
			return true
		}) {
			r.counters.RcvServicesSubMsg.Add(1)
		}
	}
	return failed, err
}

// awaitRoom waits until there is room in the output, or ctx ends.
func (s *session) awaitRoom(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.full() && ctx.Err() == nil {
		s.changed.Wait()
	}
}
