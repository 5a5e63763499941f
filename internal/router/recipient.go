package router

import (
	"context"
	"crypto/sha3"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

// create answers NEW.
func (rq *request) create(ctx context.Context, c *smp.NEW) (smp.Response, error) {
	r := rq.session.router
	switch {
	case r.o.NoNewQueues, !r.o.Password.IsZero() && !r.o.Password.Equal(c.Password):
		return nil, smp.ErrAuth
	case rq.service != nil && !c.Subscribe:
		return nil, smp.ErrProhibited
	}
	if err := r.limits.newQueue(rq.session, r.o.Now()); err != nil {
		return nil, err
	}
	q := &queue.Record{
		RecipientKeys: []smp.PublicKey{c.RecipientKey}, Mode: c.Mode, UpdatedAt: queue.DateOf(r.today()),
	}
	ids := &smp.IDS{Mode: c.Mode}
	var err error
	if ids.DHKey, q.RcvDHSecret, err = r.o.chance.agree(c.DHKey); err != nil {
		return nil, err
	}
	if rq.service != nil {
		q.RcvService.EntityID = rq.service.ID
		ids.ServiceID, _ = rq.service.ID.Short() // it came in a block
	}
	if c.Link != nil {
		if q.Link, err = rq.newLink(c.Link); err != nil {
			return nil, err
		}
		q.SenderID.EntityID = c.Link.SenderID.ID()
	}
	if c.Notifier != nil {
		q.Notifier = &queue.Notifier{Key: c.Notifier.Key}
		ids.Notifier = &smp.NewNotifierID{}
		if ids.Notifier.DHKey, q.Notifier.DHSecret, err = r.o.chance.agree(c.Notifier.DHKey); err != nil {
			return nil, err
		}
	}
	if err := rq.add(ctx, q, c); err != nil {
		return nil, err
	}
	r.counters.QCreated.Add(1)
	ids.RecipientID, _ = q.RecipientID.Short() // as all ids of new queues
	ids.SenderID, _ = q.SenderID.Short()
	if q.Link != nil {
		ids.LinkID, _ = q.Link.ID.Short()
	}
	if q.Notifier != nil {
		ids.Notifier.NotifierID, _ = q.Notifier.ID.Short()
		r.counters.NtfNewCreated.Add(1)
	}
	return ids, nil
}

// newLink returns the link that a queue is created with. A client may choose ids, but
// none to find out whether it exists.
func (rq *request) newLink(l *smp.NewLink) (*queue.Link, error) {
	sum := sha3.Sum384(rq.transmission.CorrID.Bytes())
	if !slices.Equal(l.SenderID.Bytes(), sum[:smp.IDSize]) {
		return nil, smp.ErrProhibited
	}
	return &queue.Link{ID: queue.LinkID{EntityID: l.LinkID.ID()}, Data: queue.LinkData(l.Data)}, nil
}

// add stores a new queue with new ids, and subscribes to it if the client wants that.
func (rq *request) add(ctx context.Context, q *queue.Record, c *smp.NEW) error {
	r := rq.session.router
	for attempt := 1; ; attempt++ {
		q.RecipientID.EntityID = r.o.chance.id(rq.transmission.CorrID)
		if c.Link == nil {
			q.SenderID.EntityID = r.o.chance.id(rq.transmission.CorrID)
		}
		if c.Link != nil && c.Mode == queue.ModeMessaging {
			q.Link.ID.EntityID = r.o.chance.id(rq.transmission.CorrID)
		}
		if q.Notifier != nil {
			q.Notifier.ID.EntityID = r.o.chance.id(rq.transmission.CorrID)
		}
		err := rq.addSubscribed(ctx, q, c.Subscribe)
		switch {
		case !errors.Is(err, store.ErrTaken) || c.Link != nil:
			return err
		case attempt == r.o.IDAttempts:
			return smp.ErrInternal
		}
	}
}

// addSubscribed stores a queue. The subscription is there first, so that it misses
// no message.
func (rq *request) addSubscribed(ctx context.Context, q *queue.Record, subscribe bool) error {
	s, r := rq.session, rq.session.router
	if !subscribe {
		_, err := r.store.AddQueue(ctx, q)
		return err
	}
	id := q.RecipientID.EntityID
	if rq.service != nil {
		r.adopt(s)
	}
	a := r.recipients.attach(id, s, true)
	if _, err := r.store.AddQueue(ctx, q); err != nil {
		r.recipients.remove(id)
		if a.claimed {
			r.recipients.settle(a.sub, s, smp.EntityID{}, nil)
		}
		return err
	}
	if a.sub != nil && rq.service != nil {
		r.count(s, id, smp.EntityID{}, a.sub)
	}
	if a.claimed {
		r.recipients.settle(a.sub, s, smp.EntityID{}, nil)
	}
	return nil
}

// subscribeAll answers SUB, for several queues at a time.
func (s *session) subscribeAll(ctx context.Context, requests []*request) {
	r := s.router
	together(requests, func(rq *request) { rq.fail(rq.admit(ctx)) })
	requests = slices.DeleteFunc(requests, func(rq *request) bool {
		if rq.answer == nil && s.usesGet(rq.view.RecipientID.EntityID) {
			rq.answer = failure(smp.ErrProhibited)
			r.counters.QSubProhibited.Add(1)
		}
		return rq.answer != nil
	})
	if len(requests) == 0 {
		return
	}
	attachments := s.attachAll(ctx, requests)
	var ids []queue.RecipientID
	for i, rq := range requests {
		if attachments[i].claimed {
			ids = append(ids, rq.view.RecipientID)
		}
	}
	messages, err := r.store.PeekMessages(ctx, ids)
	for i, rq := range requests {
		a := &attachments[i]
		switch {
		case rq.answer != nil:
			continue
		case err != nil && a.claimed:
			r.recipients.postpone(a.sub)
			rq.fail(err)
			continue
		case a.claimed:
			s.settleSub(rq, a, messages[rq.view.RecipientID])
		}
		if !a.first {
			r.counters.QSubDuplicate.Add(1)
		}
		rq.answer = &smp.SOK{ServiceID: s.serviceID()}
	}
}

// settleSub delivers the first message of a queue that was subscribed to.
func (s *session) settleSub(rq *request, a *attached, m *queue.Message) {
	g := s.router.recipients
	if m == nil {
		g.settle(a.sub, s, smp.EntityID{}, nil)
		return
	}
	encoded := s.encodeMessage(&rq.view, m)
	if g.settle(a.sub, s, m.ID.EntityID, func() bool { return s.reserve(len(encoded)) }) {
		rq.event = encoded
		if a.first {
			s.router.counters.QSub.Add(1)
		}
	}
}

func (s *session) serviceID() smp.Short {
	if s.service == nil {
		return smp.Short{}
	}
	id, _ := s.service.ID.Short() // it came in a block
	return id
}

// attachAll makes s the subscriber of queues, and associates them with its service, or
// with none. Requests that fail get their answer.
func (s *session) attachAll(ctx context.Context, requests []*request) []attached {
	r, g := s.router, s.router.recipients
	ids := make([]smp.EntityID, len(requests))
	for i, rq := range requests {
		ids[i] = rq.view.RecipientID.EntityID
	}
	if s.service != nil {
		r.adopt(s)
	}
	defer r.associations.lock(g, ids)()
	was := s.associate(ctx, requests, queue.PartyRecipient)
	attachments := make([]attached, len(requests))
	for i, rq := range requests {
		if rq.answer != nil {
			continue
		}
		a := g.attach(ids[i], s, true)
		attachments[i] = a
		r.tellEnd(s, a, was[i], ids[i], r.rcvServices)
	}
	return attachments
}

// associate associates queues with the service of s, or with none, and returns the
// services that they had before.
func (s *session) associate(ctx context.Context, requests []*request, by queue.Party) []smp.EntityID {
	was := make([]smp.EntityID, len(requests))
	var own queue.ServiceID
	if s.service != nil {
		own.EntityID = s.service.ID
	}
	var changed []*request
	var queues []*store.Queue
	for i, rq := range requests {
		v, err := rq.queue.View()
		if err != nil {
			rq.answer = failure(smp.ErrAuth) // it was deleted
			continue
		}
		service := v.RcvService
		if by == queue.PartyNotifier {
			service = v.Notifier.Service
		}
		if was[i] = service.EntityID; service != own {
			changed = append(changed, rq)
			queues = append(queues, rq.queue)
		}
	}
	if len(queues) > 0 {
		for i, err := range s.router.store.SetServices(ctx, queues, by, own) {
			changed[i].fail(err)
		}
	}
	return was
}

// tellEnd tells those whose subscription to a queue has ended because s has
// subscribed, and keeps the counts of services. Was is the service that the queue had.
func (r *Router) tellEnd(s *session, a attached, was, id smp.EntityID, v *services) {
	var of *session // the service that has lost the queue
	if s.service == nil || was != s.service.ID {
		of = v.discount(was, id, a.counted)
	}
	if of != nil && of != s {
		of.tell(id, &smp.END{})
	}
	if a.old != nil && a.old != of {
		a.old.tell(id, &smp.END{})
	}
	switch {
	case s.service != nil && a.sub != nil:
		r.count(s, id, was, a.sub)
	case s.service == nil && !was.IsZero():
		v.counters.AssocRemoved.Add(1)
	}
}

// A got says that GET was used for a queue in a session, and what it has delivered.
type got struct {
	inFlight smp.EntityID
	since    int64 // in Unix seconds
}

func (s *session) usesGet(id smp.EntityID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gets[id] != nil
}

// get answers GET. Only one command of a session about a queue is carried out at a
// time.
func (rq *request) get(ctx context.Context) (smp.Response, error) {
	s, r, id := rq.session, rq.session.router, rq.view.RecipientID
	if _, _, subscribed := r.recipients.state(id.EntityID, s); subscribed {
		r.counters.MsgGetProhibited.Add(1)
		return nil, smp.ErrProhibited
	}
	again := s.takeGot(id.EntityID)
	m, err := r.store.PeekMessage(ctx, id)
	if err != nil {
		return nil, err
	}
	if m == nil {
		r.counters.MsgGetNoMsg.Add(1)
		return &smp.OK{}, nil
	}
	s.setGot(id.EntityID, m.ID.EntityID, r.o.Now().Unix())
	if again {
		r.counters.MsgGetDuplicate.Add(1)
	} else {
		r.counters.MsgGet.Add(1)
	}
	return message(&rq.view, m), nil
}

// takeGot notes that GET is used for a queue, and reports whether a message was in
// flight, which is not any more.
func (s *session) takeGot(id smp.EntityID) (delivered bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gets == nil {
		s.gets = make(map[smp.EntityID]*got)
	}
	if s.gets[id] == nil {
		s.gets[id] = &got{}
	}
	delivered = !s.gets[id].inFlight.IsZero()
	s.gets[id].inFlight = smp.EntityID{}
	return delivered
}

func (s *session) setGot(id, m smp.EntityID, since int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.gets[id]; e != nil {
		e.inFlight, e.since = m, since
	}
}

// acknowledge answers ACK.
func (rq *request) acknowledge(ctx context.Context, m smp.EntityID) (smp.Response, error) {
	s, r, id := rq.session, rq.session.router, rq.view.RecipientID
	d, subscribed, ok := r.recipients.acknowledge(id.EntityID, s, m)
	switch {
	case !subscribed:
		return rq.acknowledgeGot(ctx, m)
	case !ok:
		return nil, smp.ErrNoMsg
	}
	var deleted, next *queue.Message
	var err error
	if m.IsZero() { // it deletes nothing
		next, err = r.store.PeekMessage(ctx, id)
	} else {
		deleted, next, err = r.store.DeletePeekMessage(ctx, id, queue.MessageID{EntityID: m})
	}
	if err != nil {
		r.recipients.restore(d, s)
		return nil, err
	}
	r.acknowledged(id, deleted, d.since, false)
	var answer smp.Response = &smp.OK{}
	if next == nil {
		r.recipients.settle(d.sub, s, smp.EntityID{}, nil)
	} else if delivered := message(&rq.view, next); r.recipients.settle(d.sub, s, next.ID.EntityID, nil) {
		answer = delivered
	}
	return answer, nil
}

// acknowledgeGot acknowledges what GET has delivered.
func (rq *request) acknowledgeGot(ctx context.Context, m smp.EntityID) (smp.Response, error) {
	s, id := rq.session, rq.view.RecipientID
	s.mu.Lock()
	e := s.gets[id.EntityID]
	if e == nil || e.inFlight.IsZero() || !m.IsZero() && e.inFlight != m {
		s.mu.Unlock()
		return nil, smp.ErrNoMsg
	}
	was := *e
	e.inFlight = smp.EntityID{}
	s.mu.Unlock()
	if m.IsZero() {
		return &smp.OK{}, nil
	}
	deleted, err := s.router.store.DeleteMessage(ctx, id, queue.MessageID{EntityID: m})
	if err != nil {
		s.setGot(id.EntityID, was.inFlight, was.since) // the client may try again
		return nil, err
	}
	s.router.acknowledged(id, deleted, was.since, true)
	return &smp.OK{}, nil
}

// acknowledged counts a message that was deleted because it was acknowledged, having
// been delivered at a Unix time.
func (r *Router) acknowledged(id queue.RecipientID, m *queue.Message, since int64, byGet bool) {
	if m == nil || m.QuotaMarker {
		return
	}
	r.counters.MsgRecv.Add(1)
	r.counters.AckTimes.add(r.o.Now().Unix() - since)
	r.counters.ActiveQueues.add(id.EntityID, m.Notify)
	if byGet {
		r.counters.MsgRecvGet.Add(1)
	}
	if m.Notify {
		r.counters.MsgRecvNtf.Add(1)
	}
}

// secure answers KEY and SKEY.
func (rq *request) secure(ctx context.Context, key smp.PublicKey) (smp.Response, error) {
	if err := rq.session.router.store.SecureQueue(ctx, rq.queue, key); err != nil {
		return nil, err
	}
	rq.session.router.counters.QSecured.Add(1)
	return &smp.OK{}, nil
}

// replaceKeys answers RKEY.
func (rq *request) replaceKeys(ctx context.Context, keys []smp.PublicKey) (smp.Response, error) {
	if rq.view.Mode != queue.ModeContact {
		return nil, smp.ErrAuth
	}
	return &smp.OK{}, rq.session.router.store.SetRecipientKeys(ctx, rq.queue, keys...)
}

// setLink answers LSET.
func (rq *request) setLink(ctx context.Context, c *smp.LSET) (smp.Response, error) {
	v := &rq.view
	if c.LinkID.IsEmpty() || v.Mode != queue.ModeContact && !v.SenderKey.IsZero() {
		return nil, smp.ErrAuth
	}
	link := queue.Link{ID: queue.LinkID{EntityID: c.LinkID.ID()}, Data: queue.LinkData(c.Data)}
	return &smp.OK{}, rq.session.router.store.SetLink(ctx, rq.queue, link)
}

// deleteLink answers LDEL.
func (rq *request) deleteLink(ctx context.Context) (smp.Response, error) {
	err := rq.session.router.store.DeleteLink(ctx, rq.queue)
	if errors.Is(err, store.ErrNotSet) {
		err = nil
	}
	return &smp.OK{}, err
}

// addNotifier answers NKEY.
func (rq *request) addNotifier(ctx context.Context, keys smp.NotifierKeys) (smp.Response, error) {
	r := rq.session.router
	n := queue.Notifier{Key: keys.Key}
	id := &smp.NID{}
	var err error
	if id.DHKey, n.DHSecret, err = r.o.chance.agree(keys.DHKey); err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		n.ID.EntityID = r.o.chance.id(rq.transmission.CorrID)
		old, err := r.store.AddNotifier(ctx, rq.queue, n)
		switch {
		case err == nil:
			id.NotifierID, _ = n.ID.Short() // it is new
			r.counters.NtfCreated.Add(1)
			r.notifierGone(rq.session, old)
			return id, nil
		case !errors.Is(err, store.ErrTaken):
			return nil, err
		case attempt == r.o.IDAttempts:
			return nil, smp.ErrInternal
		}
	}
}

// deleteNotifier answers NDEL.
func (rq *request) deleteNotifier(ctx context.Context) (smp.Response, error) {
	r := rq.session.router
	old, err := r.store.DeleteNotifier(ctx, rq.queue)
	if err != nil {
		return nil, err
	}
	if !old.ID.IsZero() {
		r.counters.NtfDeleted.Add(1)
		r.notifierGone(rq.session, old)
	}
	return &smp.OK{}, nil
}

// notifierGone is for a notifier that by has removed; the zero one never was there.
func (r *Router) notifierGone(by *session, n queue.Notifier) {
	if n.ID.IsZero() {
		return
	}
	r.gone(by, n.ID.EntityID, n.Service.EntityID, r.notifiers, r.ntfServices)
	r.forget(n.ID)
}

// gone ends the subscription to something that by has removed, and tells who had it.
func (r *Router) gone(by *session, id, service smp.EntityID, g *registry, v *services) {
	// Who is subscribing just now has seen that it was there.
	defer r.associations.lock(g, []smp.EntityID{id})()
	old, counted := g.remove(id)
	of := v.discount(service, id, counted)
	for _, s := range [...]*session{old, of} {
		if s != nil && s != by {
			s.tell(id, &smp.DELD{})
		}
		if old == of {
			break
		}
	}
}

// delete answers DEL.
func (rq *request) delete(ctx context.Context) (smp.Response, error) {
	s, r := rq.session, rq.session.router
	was, err := r.deleteQueue(ctx, rq.queue, s)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	delete(s.gets, was.RecipientID.EntityID)
	s.mu.Unlock()
	return &smp.OK{}, nil
}

// info answers QUE.
func (rq *request) info(ctx context.Context) (smp.Response, error) {
	r, v := rq.session.router, &rq.view
	size, err := r.store.QueueSize(ctx, v.RecipientID)
	if err != nil {
		return nil, err
	}
	m, err := r.store.PeekMessage(ctx, v.RecipientID)
	if err != nil {
		return nil, err
	}
	info := smp.QueueInfo{
		Secured: !v.SenderKey.IsZero(), HasNotifier: v.HasNotifier(), Size: size,
		Subscription: rq.session.subscription(v.RecipientID.EntityID),
	}
	if m != nil {
		info.Message = &smp.MessageInfo{ID: m.ID.Bytes(), Time: time.Unix(m.Time, 0).UTC(), Type: smp.MessageNormal}
		if m.QuotaMarker {
			info.Message.Type = smp.MessageQuota
		}
	}
	text, err := json.Marshal(info)
	return &smp.INFO{JSON: text}, err
}

// subscription returns how messages of a queue are delivered to s; nil if they are
// not.
func (s *session) subscription(id smp.EntityID) *smp.SubscriptionInfo {
	if inFlight, waiting, ok := s.router.recipients.state(id, s); ok {
		info := &smp.SubscriptionInfo{Thread: smp.NoThread, Delivered: inFlight.Bytes()}
		if waiting {
			info.Thread = smp.ThreadRunning
		}
		return info
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.gets[id]; e != nil {
		return &smp.SubscriptionInfo{Thread: smp.ThreadProhibited, Delivered: e.inFlight.Bytes()}
	}
	return nil
}
