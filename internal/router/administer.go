package router

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

// What follows is for the operator, who names a queue by the id of its sender or its
// link. The errors are the protocol's: AUTH if there is no such queue.

// Queue returns a queue as it is.
func (r *Router) Queue(ctx context.Context, id smp.EntityID) (store.View, error) {
	_, v, err := r.named(ctx, id)
	return v, err
}

// Block blocks a queue, whatever its status was, and tells who receives from it. It
// returns the status that the queue had.
func (r *Router) Block(ctx context.Context, id smp.EntityID, b queue.Blocking) (was queue.Status, err error) {
	q, v, err := r.named(ctx, id)
	if err != nil {
		return was, err
	}
	was, v.Status = v.Status, queue.Status{State: queue.Blocked, Blocking: b}
	if was == v.Status {
		return was, nil
	}
	if err := r.store.BlockQueue(ctx, q, b); err != nil {
		return was, protocolError(err)
	}
	if was.State == queue.Active {
		r.counters.QBlocked.Add(1)
	}
	r.tellBlocked(&v)
	return was, nil
}

// Unblock makes a blocked queue active again. It does nothing to others, and returns
// the status that the queue had.
func (r *Router) Unblock(ctx context.Context, id smp.EntityID) (was queue.Status, err error) {
	q, v, err := r.named(ctx, id)
	if err == nil && v.Status.State == queue.Blocked {
		if err = r.store.UnblockQueue(ctx, q); err != nil {
			err = protocolError(err)
		}
	}
	return v.Status, err
}

// Delete deletes a queue as its recipient would do, and tells who receives from it and
// who is notified of it. It returns how many messages were in the queue.
func (r *Router) Delete(ctx context.Context, id smp.EntityID) (messages int64, err error) {
	q, v, err := r.named(ctx, id)
	if err != nil {
		return 0, err
	}
	messages, err = r.store.QueueSize(ctx, v.RecipientID)
	if err == nil {
		_, err = r.deleteQueue(ctx, q, nil)
	}
	if err != nil {
		return 0, protocolError(err)
	}
	return messages, nil
}

// Save saves what the router keeps in memory only: the notifications, if they are to be
// kept at all. Clients do not notice.
func (r *Router) Save() error {
	if r.o.NotificationLog == "" {
		return nil
	}
	if err := r.writeNotifications(); err != nil {
		return fmt.Errorf("save notifications: %w", err)
	}
	return nil
}

// named returns the queue with an id of its sender or its link.
func (r *Router) named(ctx context.Context, id smp.EntityID) (*store.Queue, store.View, error) {
	q, err := r.store.QueueBySender(ctx, queue.SenderID{EntityID: id})
	if err != nil && store.CodeOf(err) == store.CodeAuth {
		q, err = r.store.QueueByLink(ctx, queue.LinkID{EntityID: id})
	}
	var v store.View
	if err == nil {
		v, err = q.View()
	}
	if err != nil {
		return nil, store.View{}, protocolError(err)
	}
	return q, v, nil
}

// tellBlocked tells the subscriber of a queue that it is blocked, and the session of its
// service. It waits for nobody.
func (r *Router) tellBlocked(v *store.View) {
	id := v.RecipientID.EntityID
	e := event{id, failure(smp.BlockedError{Blocking: v.Status.Blocking})}
	subscriber := r.recipients.session(id)
	if subscriber != nil {
		subscriber.put(group{subscriber.encodeEvent(e)})
	}
	if of := r.rcvServices.session(v.RcvService.EntityID); of != nil && of != subscriber {
		of.put(group{of.encodeEvent(e)})
	}
}

// deleteQueue deletes a queue for a session, or for the operator if by is nil.
func (r *Router) deleteQueue(ctx context.Context, q *store.Queue, by *session) (was store.View, err error) {
	if was, err = r.store.DeleteQueue(ctx, q); err != nil {
		return was, err
	}
	r.counters.QDeletedAll.Add(1)
	if was.SenderKey.IsZero() {
		r.counters.QDeletedNew.Add(1)
	} else {
		r.counters.QDeletedSecured.Add(1)
	}
	r.gone(by, was.RecipientID.EntityID, was.RcvService.EntityID, r.recipients, r.rcvServices)
	r.notifierGone(by, was.Notifier)
	return was, nil
}

const (
	// maxChanged is how many changes by other processes may wait to be looked at.
	maxChanged = 1 << 16
	// changedAtOnce is how many queues of these are looked up at once.
	changedAtOnce = 500
)

// changes are queues of which it was announced that another process, an operator's, has
// changed them.
type changes struct {
	news chan struct{} // its capacity is 1: it has an element when there may be ids

	mu  sync.Mutex // guards what follows
	ids map[queue.RecipientID]struct{}
}

// changed notes that another process has changed a queue, if somebody may have to be
// told.
func (r *Router) changed(id queue.RecipientID) {
	if r.recipients.session(id.EntityID) == nil && r.rcvServices.none() {
		return
	}
	c := &r.changes
	c.mu.Lock()
	if c.ids == nil {
		c.ids = make(map[queue.RecipientID]struct{})
	}
	full := len(c.ids) >= maxChanged
	if !full {
		c.ids[id] = struct{}{}
	}
	c.mu.Unlock()
	if full {
		r.log.LogAttrs(r.ctx, slog.LevelDebug, "a recipient is not told of a change: there are too many", slog.String("queue", id.String()))
	}
	select {
	case c.news <- struct{}{}:
	default:
	}
}

// followChanges tells recipients what other processes do to their queues, until the
// router stops.
func (r *Router) followChanges() {
	c := &r.changes
	for {
		select {
		case <-c.news:
		case <-r.stopping.Done():
			return
		}
		c.mu.Lock()
		ids := make([]queue.RecipientID, 0, len(c.ids))
		for id := range c.ids {
			ids = append(ids, id)
		}
		c.ids = nil
		c.mu.Unlock()
		for some := range slices.Chunk(ids, changedAtOnce) {
			r.tellChanged(some)
		}
	}
}

// tellChanged tells recipients that their queues were blocked or deleted.
func (r *Router) tellChanged(ids []queue.RecipientID) {
	lookups, err := r.store.QueuesByRecipient(r.stopping, ids)
	if err != nil {
		r.log.LogAttrs(r.ctx, slog.LevelWarn, "recipients are not told of changes", slog.Any("error", err))
		return
	}
	for i, l := range lookups {
		var v store.View
		err := l.Err
		if err == nil {
			v, err = l.Queue.View()
		}
		switch {
		case err != nil && store.CodeOf(err) == store.CodeAuth:
			r.deletedElsewhere(ids[i])
		case err == nil && v.Status.State == queue.Blocked:
			r.tellBlocked(&v)
		}
	}
}

// deletedElsewhere is for a queue that another process has deleted. Of a service, the
// session that is subscribed to the queue learns of it.
func (r *Router) deletedElsewhere(id queue.RecipientID) {
	var service smp.EntityID
	if s := r.recipients.session(id.EntityID); s != nil && s.service != nil {
		service = s.service.ID
	}
	r.gone(nil, id.EntityID, service, r.recipients, r.rcvServices)
}
