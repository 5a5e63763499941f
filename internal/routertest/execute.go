package routertest

import (
	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/smp"
)

// execute does what a command says, if who sends it may say so. Answer and error
// are nil if the answer comes later. Router.mu must be held.
func (r *Router) execute(rq *request) (smp.Response, error) {
	s := rq.session
	switch c := rq.command.(type) {
	case *smp.NEW:
		if err := rq.needs(messaging); err != nil {
			return nil, err
		}
		if err := rq.verify(auth.ByPartyAndService, c.RecipientKey); err != nil {
			return nil, err
		}
		return r.create(rq, c)
	case *smp.SUB:
		return r.asRecipient(rq, auth.ByPartyAndService, func(q *inbox) (smp.Response, error) { return r.subscribe(s, q) })
	case *smp.KEY:
		return r.asRecipient(rq, auth.ByParty, func(q *inbox) (smp.Response, error) { return q.secure(c.SenderKey) })
	case *smp.RKEY:
		return r.asRecipient(rq, auth.ByParty, func(q *inbox) (smp.Response, error) { return q.replaceKeys(c.RecipientKeys) })
	case *smp.LSET:
		return r.asRecipient(rq, auth.ByParty, func(q *inbox) (smp.Response, error) { return r.setLink(q, c) })
	case *smp.LDEL:
		return r.asRecipient(rq, auth.ByParty, func(q *inbox) (smp.Response, error) {
			r.unlink(q)
			return &smp.OK{}, nil
		})
	case *smp.NKEY:
		return r.asRecipient(rq, auth.ByParty, func(q *inbox) (smp.Response, error) { return r.setNotifier(s, q, c.NotifierKeys) })
	case *smp.NDEL:
		return r.asRecipient(rq, auth.ByParty, func(q *inbox) (smp.Response, error) {
			r.removeNotifier(s, q)
			return &smp.OK{}, nil
		})
	case *smp.GET:
		return r.asRecipient(rq, auth.ByParty, func(q *inbox) (smp.Response, error) { return r.get(s, q) })
	case *smp.ACK:
		return r.asRecipient(rq, auth.ByParty, func(q *inbox) (smp.Response, error) { return r.acknowledge(s, q, c.MsgID) })
	case *smp.OFF:
		return r.asRecipient(rq, auth.ByParty, func(q *inbox) (smp.Response, error) {
			q.suspended = true
			return &smp.OK{}, nil
		})
	case *smp.DEL:
		return r.asRecipient(rq, auth.ByParty, func(q *inbox) (smp.Response, error) { return r.delete(s, q) })
	case *smp.QUE:
		return r.asRecipient(rq, auth.ByParty, func(q *inbox) (smp.Response, error) { return q.info(s) })
	case *smp.SEND:
		return r.send(rq, r.senders[rq.entity()], c)
	case *smp.SKEY:
		return &smp.OK{}, rq.secureAsSender(r.senders[rq.entity()], c.SenderKey)
	case *smp.LKEY:
		q := r.links[rq.entity()]
		if err := rq.secureAsSender(q, c.SenderKey); err != nil {
			return nil, err
		}
		return q.linked(), nil
	case *smp.LGET:
		return rq.openLink(r.links[rq.entity()])
	case *smp.NSUB:
		return r.asNotifier(rq, func(n *notifier) (smp.Response, error) { return r.subscribeNotifier(s, n) })
	case *smp.SUBS:
		return r.subscribeService(rq, messaging)
	case *smp.NSUBS:
		return r.subscribeService(rq, notifying)
	case *smp.PING:
		return &smp.PONG{}, nil
	case *smp.PRXY:
		return nil, r.connectRelay(rq, c)
	case *smp.PFWD:
		return nil, r.forward(rq, c)
	case *smp.RFWD:
		return r.answerForwarded(rq)
	}
	return nil, smp.ErrUnknown
}

func (rq *request) entity() smp.EntityID { return rq.transmission.EntityID.ID() }

// asRecipient does something with a queue for its recipient.
func (r *Router) asRecipient(rq *request, rule auth.Rule, do func(*inbox) (smp.Response, error)) (smp.Response, error) {
	q := r.recipients[rq.entity()]
	if q == nil {
		return nil, rq.verify(rule)
	}
	if err := rq.needs(messaging); err != nil {
		return nil, err
	}
	if err := rq.verify(rule, q.keys...); err != nil {
		return nil, err
	}
	return do(q)
}

// asNotifier does something with a notifier.
func (r *Router) asNotifier(rq *request, do func(*notifier) (smp.Response, error)) (smp.Response, error) {
	q := r.notifiers[rq.entity()]
	if q == nil {
		return nil, rq.verify(auth.ByPartyAndService)
	}
	if err := rq.needs(notifying); err != nil {
		return nil, err
	}
	if err := rq.verify(auth.ByPartyAndService, q.notifier.key); err != nil {
		return nil, err
	}
	return do(q.notifier)
}
