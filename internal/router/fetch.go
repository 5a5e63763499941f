package router

import (
	"context"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

const (
	// fetchMax is how many queues are looked into at once for messages that had to
	// wait for room.
	fetchMax = 32
	// fetchRetry is how soon that is tried again when the store fails.
	fetchRetry = time.Second
)

// fetchIfRoom starts fetching messages that wait, if there is room for them. The
// mutex must be held.
func (s *session) fetchIfRoom() {
	if len(s.waiting) == 0 || s.fetching || s.full() || s.ended || s.draining {
		return
	}
	s.fetching = true
	s.tasks.Go(s.fetch)
}

// fetch reads messages that were left in their queues for want of room, as long as
// there is room.
func (s *session) fetch() {
	for {
		subs := s.takeWaiting()
		if len(subs) == 0 {
			return
		}
		if err := s.fetchFrom(subs); err != nil {
			retry := time.NewTimer(fetchRetry)
			select {
			case <-retry.C:
			case <-s.ctx.Done():
				retry.Stop()
			}
		}
	}
}

// takeWaiting returns subscriptions that wait, as many as there is room for their
// messages, and one at least. It returns none if that ends the fetching.
func (s *session) takeWaiting() []*subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) == 0 || s.full() || s.ended || s.draining || s.ctx.Err() != nil {
		s.fetching = false
		return nil
	}
	n := min(max(1, (s.router.o.Output-s.size)/auth.SealedMessageSize), fetchMax, len(s.waiting))
	subs := s.waiting[:n:n]
	if s.waiting = s.waiting[n:]; len(s.waiting) == 0 {
		s.waiting = nil
	}
	return subs
}

func (s *session) fetchFrom(subs []*subscription) error {
	g := s.router.recipients
	var claimed []*subscription
	var ids []queue.RecipientID
	for _, sub := range subs {
		if g.claimWaiting(sub, s) {
			claimed = append(claimed, sub)
			ids = append(ids, queue.RecipientID{EntityID: sub.id})
		}
	}
	lookups, messages, err := s.router.heads(s.ctx, ids)
	for i, sub := range claimed {
		if err != nil {
			g.postpone(sub)
			continue
		}
		m := messages[ids[i]]
		if m == nil || lookups[i].Err != nil {
			g.settle(sub, s, smp.EntityID{}, nil)
			continue
		}
		view, gone := lookups[i].Queue.View()
		if gone != nil {
			g.settle(sub, s, smp.EntityID{}, nil)
			continue
		}
		encoded := s.encodeMessage(&view, m)
		g.settle(sub, s, m.ID.EntityID, func() bool { return s.offer(group{encoded}) })
	}
	return err
}

// heads looks queues up and reads their first messages.
func (r *Router) heads(ctx context.Context, ids []queue.RecipientID) ([]store.Lookup, map[queue.RecipientID]*queue.Message, error) {
	if len(ids) == 0 {
		return nil, nil, nil
	}
	lookups, err := r.store.QueuesByRecipient(ctx, ids)
	if err != nil {
		return nil, nil, err
	}
	messages, err := r.store.PeekMessages(ctx, ids)
	return lookups, messages, err
}

// encodeMessage returns MSG as an event.
func (s *session) encodeMessage(v *store.View, m *queue.Message) []byte {
	return s.encodeEvent(event{v.RecipientID.EntityID, message(v, m)})
}

// message returns a message as its recipient gets it: the same bytes, however often.
func message(v *store.View, m *queue.Message) *smp.MSG {
	id := m.ID.Bytes()
	short, _ := smp.NewShort(id) // routers make ids of 24 bytes
	body, _ := auth.SealMessage(make([]byte, 0, auth.SealedMessageSize), v.RcvDHSecret, auth.NonceOf(id), auth.Message{
		Time: m.Time, Quota: m.QuotaMarker, Notify: m.Notify, Body: m.Body,
	}) // the store has no larger ones than fit
	return &smp.MSG{MsgID: short, Body: body}
}
