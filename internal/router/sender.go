package router

import (
	"context"
	"errors"
	"log/slog"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

// send answers SEND.
func (rq *request) send(ctx context.Context, c *smp.SEND) (smp.Response, error) {
	r, v := rq.session.router, &rq.view
	switch {
	case len(c.Body) > rq.version.MaxMessage():
		r.counters.MsgSentLarge.Add(1)
		return nil, smp.ErrLargeMsg
	case v.Status.State == queue.Off:
		r.counters.MsgSentAuth.Add(1)
		return nil, smp.ErrAuth
	case v.Status.State == queue.Blocked:
		r.counters.MsgSentBlock.Add(1)
		return nil, smp.BlockedError{Blocking: v.Status.Blocking}
	}
	if !v.LinkID.IsZero() && !v.SenderKey.IsZero() && v.Mode != queue.ModeContact {
		if err := r.store.DeleteLink(ctx, rq.queue); err != nil && !errors.Is(err, store.ErrNotSet) {
			return nil, err
		}
	}
	now := r.o.Now()
	if r.o.ExpireOnSend {
		n, err := r.store.ExpireQueue(ctx, v.RecipientID, now.Add(-r.o.MessageTTL).Unix())
		if err != nil {
			return nil, err
		}
		r.counters.MsgExpired.Add(n)
	}
	m := &queue.Message{ID: queue.MessageID{EntityID: r.o.chance.id(rq.transmission.CorrID)}, Time: now.Unix(), Notify: c.Notify, Body: c.Body}
	written, err := r.store.WriteMessage(ctx, v.RecipientID, *m)
	if err != nil {
		switch store.CodeOf(err) {
		case store.CodeQuota:
			r.counters.MsgSentQuota.Add(1)
		case store.CodeStore:
			r.look(v) // it may be there all the same
		case store.CodeAuth, store.CodeDuplicate, store.CodeNoMessage, store.CodeService, store.CodeInternal:
		}
		return nil, err
	}
	r.counters.MsgSent.Add(1)
	r.counters.ActiveQueues.add(v.RecipientID.EntityID, m.Notify)
	if m.Notify {
		r.counters.MsgSentNtf.Add(1)
	}
	// The queue may have got another service, or notifier, meanwhile.
	if now, err := rq.queue.View(); err == nil {
		v = &now
	}
	if written.WasEmpty {
		r.push(v, m)
	}
	if m.Notify && v.HasNotifier() {
		if err := r.notify(v, m); err != nil {
			r.log.LogAttrs(ctx, slog.LevelError, "a notification cannot be made", slog.Any("error", err))
		}
		if now, err := rq.queue.View(); err != nil || now.Notifier.ID != v.Notifier.ID {
			r.forget(v.Notifier.ID) // who removed the notifier may not have seen the notification
		}
	}
	return &smp.OK{}, nil
}

// push delivers a message that has just become the first of its queue, if somebody
// is subscribed.
func (r *Router) push(v *store.View, m *queue.Message) {
	sub, to := r.claim(v)
	if sub == nil {
		return
	}
	encoded := to.encodeMessage(v, m)
	r.recipients.settle(sub, to, m.ID.EntityID, func() bool { return to.offer(group{encoded}) })
}

// look has the first message of a queue read for whoever is subscribed, as soon as the
// database allows, unless one is in flight. It is for a message of which nobody knows
// whether it was written: if it was, the next one does not find the queue empty, and
// nobody would be told of either.
func (r *Router) look(v *store.View) {
	if sub, _ := r.claim(v); sub != nil {
		r.recipients.postpone(sub)
	}
}

// claim claims the subscription of a queue: see [registry.claim].
func (r *Router) claim(v *store.View) (*subscription, *session) {
	var of *session
	if !v.RcvService.IsZero() {
		of = r.rcvServices.session(v.RcvService.EntityID)
	}
	return r.recipients.claim(v.RecipientID.EntityID, of)
}

// link answers LGET, and LKEY when the queue is secured.
func (rq *request) link(ctx context.Context) (smp.Response, error) {
	v := &rq.view
	data, err := rq.session.router.store.LinkData(ctx, rq.queue, v.LinkID)
	if err != nil {
		return nil, err
	}
	id, err := v.SenderID.Short()
	if err != nil {
		return nil, err
	}
	return &smp.LNK{SenderID: id, Data: smp.LinkData(data)}, nil
}
