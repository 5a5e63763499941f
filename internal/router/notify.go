package router

import (
	"context"
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
	saving sync.Mutex // held while they are saved

	mu    sync.Mutex // guards what follows
	lists map[queue.NotifierID][]notification
	count int  // of all of them
	dirty bool // any came or went since they were last saved
	// Those that may be delivered: there is something new, or somebody has
	// subscribed, since it was last tried.
	ready map[queue.NotifierID]struct{}
}

// A notification tells of a message.
type notification struct {
	at      int64 // Unix seconds
	message queue.MessageID
	event   *smp.NMSG
}

// notify keeps a notification of a message for the notifier of a queue.
func (r *Router) notify(v *store.View, m *queue.Message) error {
	event := &smp.NMSG{Nonce: r.o.chance.nonce(m.ID)}
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
	if r.keep(v.Notifier.ID, notification{m.Time, m.ID, event}) {
		n.markReady(v.Notifier.ID)
	}
	return nil
}

// keep adds a notification to those for a notifier. If there are too many, the oldest
// of them goes; if there is none, because others have all the room, it reports false.
// The mutex must be held.
func (r *Router) keep(id queue.NotifierID, one notification) bool {
	n := &r.notifications
	if n.lists == nil {
		n.lists = make(map[queue.NotifierID][]notification)
	}
	list := n.lists[id]
	if len(list) < r.o.MaxNotifications && n.count < r.o.MaxAllNotifications {
		n.count++
		r.counters.NtfCount.Add(1)
	} else {
		r.counters.MsgNtfLost.Add(1)
		if len(list) == 0 {
			return false
		}
		list = list[1:] // not in place: it may be about to be saved
	}
	n.lists[id] = append(list, one)
	n.dirty = true
	return true
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
	r.remove(id, len(n.lists[id]))
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
	if count == 0 {
		return
	}
	n.count -= count
	n.dirty = true
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
	// maxNotify is how many are offered to a session at once.
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

// notifySession sends notifications for some notifiers, the oldest first for each, as
// long as there is room.
func (r *Router) notifySession(s *session, ids []queue.NotifierID) {
	for len(ids) > 0 {
		sent, ok := r.notifySome(s, ids)
		if !ok {
			r.log.LogAttrs(r.ctx, slog.LevelDebug, "notifications are delivered later: there is no room in the output", slog.Int64("client", s.number))
			r.retryNotifications(ids...)
			return
		}
		ids = ids[sent:]
	}
}

// notifySome sends maxNotify notifications at most, and returns for how many of the
// notifiers it has sent all. It reports false if there is no room.
func (r *Router) notifySome(s *session, ids []queue.NotifierID) (all int, ok bool) {
	n := &r.notifications
	n.mu.Lock()
	defer n.mu.Unlock()
	var g group
	counts := make(map[queue.NotifierID]int)
	for _, id := range ids {
		list := n.lists[id]
		some := list[:min(len(list), maxNotify-len(g))]
		for _, one := range some {
			g = append(g, s.encodeEvent(event{id.EntityID, one.event}))
		}
		counts[id] = len(some)
		if len(some) < len(list) {
			break
		}
		all++
	}
	if len(g) == 0 {
		return all, true
	}
	if !s.offer(g) {
		return 0, false
	}
	for id, count := range counts {
		r.remove(id, count)
	}
	r.counters.MsgNtfs.Add(int64(len(g)))
	r.counters.MsgNtfsB.Add(int64(len(g)/notificationsPerBlock + 1))
	return all, true
}
