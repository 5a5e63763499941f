package router

import (
	"context"
	"crypto/rand"
	"log/slog"
	"slices"
	"sync"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

// notifications are those that wait for their notifiers, in memory.
type notifications struct {
	mu    sync.Mutex // guards what follows
	lists map[queue.NotifierID][]notification
	// Those that may be delivered: there is something new, or somebody has
	// subscribed, since it was last tried.
	ready map[queue.NotifierID]struct{}
}

// A notification tells of a message.
type notification struct {
	at    int64 // Unix seconds
	event *smp.NMSG
}

// notify keeps a notification of a message for the notifier of a queue.
func (r *Router) notify(v *store.View, m *queue.Message) error {
	event := &smp.NMSG{}
	_, _ = rand.Read(event.Nonce[:]) // it never fails
	id, err := m.ID.Short()
	if err != nil {
		return err
	}
	meta, err := auth.SealMeta(nil, v.Notifier.DHSecret, event.Nonce, auth.Meta{MsgID: id, Time: m.Time})
	if err != nil {
		return err
	}
	if event.Meta, err = smp.NewShort(meta); err != nil {
		return err
	}
	n := &r.notifications
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lists == nil {
		n.lists = make(map[queue.NotifierID][]notification)
	}
	list := n.lists[v.Notifier.ID]
	list = append(list, notification{m.Time, event})
	if len(list) > r.o.MaxNotifications {
		list = slices.Delete(list, 0, 1)
		r.counters.MsgNtfLost.Add(1)
	} else {
		r.counters.NtfCount.Add(1)
	}
	n.lists[v.Notifier.ID] = list
	n.markReady(v.Notifier.ID)
	return nil
}

// markReady has the notifications for a notifier delivered if somebody is subscribed.
// The mutex must be held.
func (n *notifications) markReady(id queue.NotifierID) {
	if n.ready == nil {
		n.ready = make(map[queue.NotifierID]struct{})
	}
	n.ready[id] = struct{}{}
}

// readyFor is for a notifier who has subscribed.
func (n *notifications) readyFor(id queue.NotifierID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.lists[id]) > 0 {
		n.markReady(id)
	}
}

// readyAll is for a service that has subscribed.
func (n *notifications) readyAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id := range n.lists {
		n.markReady(id)
	}
}

// forget drops the notifications for a notifier that is no more.
func (r *Router) forget(id queue.NotifierID) {
	n := &r.notifications
	n.mu.Lock()
	defer n.mu.Unlock()
	r.counters.NtfCount.Add(-int64(len(n.lists[id])))
	delete(n.lists, id)
	delete(n.ready, id)
}

// expireNotifications drops notifications that are too old.
func (r *Router) expireNotifications() {
	before := r.o.Now().Add(-r.o.NotificationTTL).Unix()
	n := &r.notifications
	n.mu.Lock()
	defer n.mu.Unlock()
	for id, list := range n.lists {
		old := 0
		for old < len(list) && list[old].at < before {
			old++
		}
		r.remove(id, old)
		r.counters.MsgNtfExpired.Add(int64(old))
	}
}

// remove removes the first notifications for a notifier. The mutex must be held.
func (r *Router) remove(id queue.NotifierID, count int) {
	n := &r.notifications
	r.counters.NtfCount.Add(-int64(count))
	if list := n.lists[id][count:]; len(list) > 0 {
		n.lists[id] = slices.Clone(list)
	} else {
		delete(n.lists, id)
	}
}

const (
	// notificationsPerBlock is how many fit into a block, for statistics.
	notificationsPerBlock = 80
	// maxNotify is how many a session gets at a time.
	maxNotify = 10 * notificationsPerBlock
)

// deliverNotifications sends to notifiers what waits for them. What does not fit stays
// for the next time.
func (r *Router) deliverNotifications() {
	n := &r.notifications
	n.mu.Lock()
	ready := n.ready
	n.ready = nil
	n.mu.Unlock()
	sessions := make(map[*session][]queue.NotifierID)
	var others []queue.NotifierID
	for id := range ready {
		if s := r.notifiers.session(id.EntityID); s != nil {
			sessions[s] = append(sessions[s], id)
		} else {
			others = append(others, id)
		}
	}
	if len(others) > 0 && !r.ntfServices.none() {
		if err := r.findNotifierServices(sessions, others); err != nil {
			r.log.LogAttrs(r.ctx, slog.LevelWarn, "notifications of services are delivered later", slog.Any("error", err))
			r.retryNotifications(others...)
		}
	}
	for s, ids := range sessions {
		r.notifySession(s, ids)
	}
}

// findNotifierServices adds to sessions those of the services that have notifiers.
func (r *Router) findNotifierServices(sessions map[*session][]queue.NotifierID, ids []queue.NotifierID) error {
	ctx, cancel := context.WithTimeout(r.stopping, r.o.NotifyInterval+storeTimeout)
	defer cancel()
	byService, unknown, err := r.store.NotifierServices(ctx, ids)
	if err != nil {
		return err
	}
	for _, id := range unknown {
		r.forget(id)
	}
	for service, ids := range byService {
		if s := r.ntfServices.session(service.EntityID); s != nil {
			sessions[s] = append(sessions[s], ids...)
		}
	}
	return nil
}

func (r *Router) retryNotifications(ids ...queue.NotifierID) {
	n := &r.notifications
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, id := range ids {
		if len(n.lists[id]) > 0 {
			n.markReady(id)
		}
	}
}

// notifySession sends notifications for some notifiers, the oldest first for each.
func (r *Router) notifySession(s *session, ids []queue.NotifierID) {
	n := &r.notifications
	n.mu.Lock()
	defer n.mu.Unlock()
	var g group
	counts := make(map[queue.NotifierID]int)
	for _, id := range ids {
		for _, one := range n.lists[id] {
			if len(g) == maxNotify {
				n.markReady(id)
				break
			}
			g = append(g, s.encodeEvent(event{id.EntityID, one.event}))
			counts[id]++
		}
	}
	if len(g) == 0 {
		return
	}
	if !s.offer(g) {
		r.log.LogAttrs(r.ctx, slog.LevelDebug, "notifications are delivered later: there is no room in the output")
		for id := range counts {
			n.markReady(id)
		}
		return
	}
	for id, count := range counts {
		r.remove(id, count)
	}
	r.counters.MsgNtfs.Add(int64(len(g)))
	r.counters.MsgNtfsB.Add(int64(len(g)/notificationsPerBlock + 1))
}
