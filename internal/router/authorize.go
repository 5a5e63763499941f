package router

import (
	"context"
	"slices"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

// authorize checks whether who sends a command may do so (SMP protocol, transmission
// authentication). Where the queue does not exist, the answer takes as long as where
// the authorization is wrong.
func (rq *request) authorize() error {
	err := rq.checkParty()
	if err == nil || protocolError(err) != smp.ErrAuth {
		return err
	}
	rq.refused = rq.queue != nil
	if rq.forwarded == nil {
		c := &rq.session.router.counters
		switch {
		case is[*smp.SEND](rq):
			c.MsgSentAuth.Add(1)
		case is[*smp.SUB](rq):
			c.QSubAuth.Add(1)
		case is[*smp.NSUB](rq):
			c.NtfSubAuth.Add(1)
		case is[*smp.GET](rq):
			c.MsgGetAuth.Add(1)
		}
	}
	return err
}

func (rq *request) checkParty() error {
	switch c := rq.command.(type) {
	case *smp.NEW:
		if err := rq.needs(queue.RoleMessaging); err != nil {
			return err
		}
		return rq.verify(auth.ByPartyAndService, c.RecipientKey)
	case *smp.SUBS:
		return rq.checkService(queue.RoleMessaging)
	case *smp.NSUBS:
		return rq.checkService(queue.RoleNotifier)
	case *smp.PRXY, *smp.PFWD:
		return rq.needs(queue.RoleMessaging)
	case *smp.PING, *smp.RFWD:
		return nil
	case *smp.SUB:
		return rq.checkQueue(auth.ByPartyAndService, queue.RoleMessaging)
	case *smp.NSUB:
		return rq.checkQueue(auth.ByPartyAndService, queue.RoleNotifier)
	case *smp.KEY, *smp.RKEY, *smp.LSET, *smp.LDEL, *smp.NKEY, *smp.NDEL, *smp.GET, *smp.ACK, *smp.OFF, *smp.DEL, *smp.QUE,
		*smp.SKEY, *smp.SEND, *smp.LKEY, *smp.LGET:
	}
	return rq.checkQueue(auth.ByParty, queue.RoleMessaging)
}

// needs refuses what services with another role must not do.
func (rq *request) needs(role queue.Role) error {
	if rq.service != nil && rq.service.Role != role {
		return smp.ErrProhibited
	}
	return nil
}

func (rq *request) verify(rule auth.Rule, keys ...smp.PublicKey) error {
	return rq.verifier.Verify(&rq.transmission, rule, keys...)
}

func (rq *request) checkService(role queue.Role) error {
	if err := rq.needs(role); err != nil {
		return err
	}
	if err := rq.verify(auth.ByService); err != nil {
		return err
	}
	if rq.service.ID != rq.entity() {
		return smp.ErrService
	}
	return nil
}

// checkQueue checks commands about a queue.
func (rq *request) checkQueue(rule auth.Rule, role queue.Role) error {
	found, err := rq.load()
	if err != nil {
		return err
	}
	if !found {
		_ = rq.verify(rule) // for as long as it takes
		return smp.ErrAuth
	}
	if err := rq.needs(role); err != nil {
		return err
	}
	v := &rq.view
	switch c := rq.command.(type) {
	case *smp.SEND:
		switch {
		case !v.SenderKey.IsZero():
			return rq.verify(rule, v.SenderKey)
		case !rq.transmission.Auth.IsEmpty():
			return rq.verify(rule)
		}
		return nil
	case *smp.SKEY:
		return rq.checkSender(c.SenderKey)
	case *smp.LKEY:
		return rq.checkSender(c.SenderKey)
	case *smp.LGET:
		if v.Mode == queue.ModeMessaging || v.Mode == queue.ModeUnknown && !v.SenderKey.IsZero() {
			return smp.ErrAuth
		}
		return nil
	case *smp.NSUB:
		return rq.verify(rule, v.Notifier.Key)
	case *smp.SUB, *smp.KEY, *smp.RKEY, *smp.LSET, *smp.LDEL, *smp.NKEY, *smp.NDEL, *smp.GET, *smp.ACK, *smp.OFF, *smp.DEL, *smp.QUE,
		*smp.NEW, *smp.SUBS, *smp.NSUBS, *smp.PING, *smp.PRXY, *smp.PFWD, *smp.RFWD: // the latter do not come here
	}
	return rq.verify(rule, slices.Collect(v.RecipientKeys.All())...)
}

// load sets the view of the queue, and reports whether it exists and has the id that
// the command names.
func (rq *request) load() (bool, error) {
	err := rq.notFound
	if err == nil {
		rq.view, err = rq.queue.View()
	}
	if err != nil {
		if store.CodeOf(err) == store.CodeAuth {
			return false, nil
		}
		return false, err
	}
	v, id := &rq.view, rq.entity()
	switch rq.party() { // they may have changed since the look-up
	case linker:
		return v.LinkID.EntityID == id, nil
	case notifier:
		return v.Notifier.ID.EntityID == id, nil
	case nobody, recipient, sender:
	}
	return true, nil
}

// checkSender checks commands by which a sender secures a queue with its key.
func (rq *request) checkSender(key smp.PublicKey) error {
	v := &rq.view
	if v.Mode != queue.ModeMessaging || !v.SenderKey.IsZero() && v.SenderKey != key {
		return rq.verify(auth.ByParty)
	}
	return rq.verify(auth.ByParty, key)
}

// admit refuses commands about blocked queues, and keeps the day of the last use of
// others.
func (rq *request) admit(ctx context.Context) error {
	v := &rq.view
	switch rq.command.(type) {
	case *smp.SUB, *smp.GET, *smp.ACK, *smp.KEY, *smp.RKEY, *smp.LSET, *smp.LDEL, *smp.NKEY, *smp.NDEL, *smp.QUE, *smp.SKEY, *smp.LKEY, *smp.LGET:
		if v.Status.State == queue.Blocked {
			return smp.BlockedError{Blocking: v.Status.Blocking}
		}
	case *smp.SEND:
	case *smp.OFF, *smp.DEL, *smp.NSUB, *smp.NEW, *smp.SUBS, *smp.NSUBS, *smp.PING, *smp.PRXY, *smp.PFWD, *smp.RFWD:
		return nil
	}
	today := rq.session.router.today()
	if v.UpdatedAt == queue.DateOf(today) {
		return nil
	}
	return rq.session.router.store.SetUpdatedAt(ctx, rq.queue, today)
}
