package router

import (
	"context"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// subscribeNotifiers answers NSUB, for several notifiers at a time. Notifications that
// wait are sent with the next ones.
func (s *session) subscribeNotifiers(ctx context.Context, requests []*request) {
	if len(requests) == 0 {
		return
	}
	r, g := s.router, s.router.notifiers
	ids := make([]smp.EntityID, len(requests))
	for i, rq := range requests {
		ids[i] = rq.view.Notifier.ID.EntityID
	}
	if s.service != nil {
		r.adopt(s)
	}
	defer r.associations.lock(g, ids)()
	was := s.associate(ctx, requests, queue.PartyNotifier)
	for i, rq := range requests {
		if rq.answer != nil {
			continue
		}
		a := g.attach(ids[i], s, false)
		r.tellEnd(s, a, was[i], ids[i], r.ntfServices)
		if s.service == nil {
			if a.first {
				r.counters.NtfSub.Add(1)
			} else {
				r.counters.NtfSubDuplicate.Add(1)
			}
		}
		r.notifications.readyFor(queue.NotifierID{EntityID: ids[i]})
		rq.answer = &smp.SOK{ServiceID: s.serviceID()}
	}
}
