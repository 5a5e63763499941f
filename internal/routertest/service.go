package routertest

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/transport"
)

// Roles of services.
const (
	messaging = queue.RoleMessaging
	notifying = queue.RoleNotifier
	proxying  = queue.RoleProxy
)

// A service is one that has connected at least once.
type service struct {
	id         smp.Short
	role       queue.Role
	subscriber *session // or nil
}

var errOtherRole = errors.New("the service has another role")

// takeService returns the id of a service, always the same.
func (r *Router) takeService(_ context.Context, offer transport.ServiceOffer) (smp.EntityID, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.services[offer.Identity]
	if s == nil {
		s = &service{id: newID(), role: offer.Role}
		r.services[offer.Identity] = s
	}
	if s.role != offer.Role {
		return smp.EntityID{}, errOtherRole
	}
	return s.id.ID(), nil
}

func (s *session) serviceID() smp.Short {
	if s.service == nil {
		return smp.Short{}
	}
	return s.service.id
}

// associated returns the queues that are associated with a service.
func (r *Router) associated(with *service) (queues []*inbox, sum smp.Subscribed) {
	for _, q := range r.recipients {
		var id smp.Short
		switch {
		case q.service == with:
			id = q.recipient
		case q.notifier != nil && q.notifier.service == with:
			id = q.notifier.id
		default:
			continue
		}
		queues = append(queues, q)
		sum.Count++
		sum.Hash = sum.Hash.Toggle(id.ID())
	}
	return queues, sum
}

// adopt makes s the subscriber of its service, in place of whoever is.
func (r *Router) adopt(s *session) {
	by := s.service
	if old := by.subscriber; old != nil && old != s {
		_, sum := r.associated(by)
		old.event(by.id, &smp.ENDS{Subscribed: sum})
		old.all = false
		maps.DeleteFunc(old.entries, func(q *inbox, _ *entry) bool { return q.service == by })
	}
	by.subscriber = s
}

// subscribeService answers SUBS and NSUBS. The service gets what waits for it, the
// first time.
func (r *Router) subscribeService(rq *request, role queue.Role) (smp.Response, error) {
	s := rq.session
	if err := rq.needs(role); err != nil {
		return nil, err
	}
	if err := rq.verify(auth.ByService); err != nil {
		return nil, err
	}
	if !s.service.id.Equal(rq.transmission.EntityID) {
		return nil, smp.ErrService
	}
	queues, sum := r.associated(s.service)
	if !s.all {
		r.adopt(s)
		s.all = true
		r.deliverAll(s, queues)
	}
	return &smp.SOKS{Subscribed: sum}, nil
}

func (r *Router) deliverAll(s *session, queues []*inbox) {
	for _, q := range queues {
		if s.service.role == notifying {
			q.notifier.flush(s.eventLater)
			continue
		}
		if s.entries[q] != nil || len(q.messages) == 0 {
			continue
		}
		e := &entry{}
		s.entries[q] = e
		s.eventLater(q.recipient, q.deliver(e))
	}
	if s.service.role == messaging {
		s.eventLater(smp.Short{}, &smp.ALLS{})
	}
}

// A notifier is who is told of messages in a queue.
type notifier struct {
	id         smp.Short
	key        smp.PublicKey
	secret     smp.DHSecret
	subscriber *session    // in an ordinary session
	service    *service    // the associated one, or nil
	waiting    []*smp.NMSG // while nobody is subscribed
}

func newNotifier(keys smp.NotifierKeys) (*notifier, *smp.NewNotifierID, error) {
	own, secret, err := agree(keys.DHKey)
	if err != nil {
		return nil, nil, err
	}
	n := &notifier{id: newID(), key: keys.Key, secret: secret}
	return n, &smp.NewNotifierID{NotifierID: n.id, DHKey: own}, nil
}

func (r *Router) setNotifier(s *session, q *inbox, keys smp.NotifierKeys) (smp.Response, error) {
	n, id, err := newNotifier(keys)
	if err != nil {
		return nil, err
	}
	r.removeNotifier(s, q)
	q.notifier = n
	r.notifiers[n.id.ID()] = q
	return &smp.NID{NewNotifierID: *id}, nil
}

// removeNotifier tells the notifier of q, unless it is s.
func (r *Router) removeNotifier(s *session, q *inbox) {
	n := q.notifier
	if n == nil {
		return
	}
	if old := n.subscribed(); old != nil && old != s {
		old.event(n.id, &smp.DELD{})
	}
	delete(r.notifiers, n.id.ID())
	q.notifier = nil
}

func (n *notifier) subscribed() *session {
	if n.service != nil {
		return n.service.subscriber
	}
	return n.subscriber
}

// subscribeNotifier is to notifiers what subscribe is to recipients.
func (r *Router) subscribeNotifier(s *session, n *notifier) (smp.Response, error) {
	if old := n.subscribed(); old != nil && old != s && (s.service == nil || n.service != s.service) {
		old.event(n.id, &smp.END{})
	}
	n.subscriber = s
	if s.service != nil {
		r.adopt(s)
		n.subscriber = nil
	}
	n.service = s.service
	n.flush(s.eventLater)
	return &smp.SOK{ServiceID: s.serviceID()}, nil
}

func (n *notifier) notify(m message) error {
	event := &smp.NMSG{}
	rand.Read(event.Nonce[:])
	meta, err := auth.SealMeta(nil, n.secret, event.Nonce, auth.Meta{MsgID: m.id, Time: m.Time})
	if err != nil {
		return err
	}
	if event.Meta, err = smp.NewShort(meta); err != nil {
		return err
	}
	n.waiting = append(n.waiting, event)
	if s := n.subscribed(); s != nil {
		n.flush(s.event)
	}
	return nil
}

func (n *notifier) flush(send func(smp.Short, smp.Response)) {
	for _, event := range n.waiting {
		send(n.id, event)
	}
	n.waiting = nil
}
