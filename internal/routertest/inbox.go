package routertest

import (
	"bytes"
	"crypto/rand"
	"crypto/sha3"
	"encoding/json"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/smp"
)

// An inbox is a queue.
type inbox struct {
	recipient smp.Short
	sender    smp.Short
	link      smp.Short     // empty: none
	data      *smp.LinkData // of the link; nil: none
	keys      []smp.PublicKey
	secret    smp.DHSecret
	senderKey smp.PublicKey // zero: not secured
	mode      smp.QueueMode
	suspended bool

	messages []message
	full     bool // takes no messages until it is empty

	subscriber *session // in an ordinary session
	service    *service // the associated one, or nil
	notifier   *notifier
}

// A message is one in a queue.
type message struct {
	id smp.Short
	auth.Message
}

// newID returns a new id of 24 random bytes.
func newID() smp.Short {
	b := make([]byte, smp.NonceSize)
	rand.Read(b) // never fails
	id, err := smp.NewShort(b)
	if err != nil {
		panic(err) // 24 bytes
	}
	return id
}

// agree makes the router's half of a secret.
func agree(peer smp.PublicKey) (own smp.PublicKey, secret smp.DHSecret, err error) {
	k, err := auth.GenerateKey(smp.X25519)
	if err != nil {
		return own, secret, err
	}
	secret, err = k.Agree(peer)
	return k.Public(), secret, err
}

func (r *Router) create(rq *request, c *smp.NEW) (smp.Response, error) {
	s := rq.session
	switch p := r.options.Password; {
	case !p.IsZero() && !p.Equal(c.Password):
		return nil, smp.ErrAuth
	case s.service != nil && !c.Subscribe:
		return nil, smp.ErrProhibited
	}
	q := &inbox{recipient: newID(), sender: newID(), keys: []smp.PublicKey{c.RecipientKey}, mode: c.Mode}
	if l := c.Link; l != nil {
		// A client can choose an id, but none that it wants to find out about.
		sum := sha3.Sum384(rq.transmission.CorrID.Bytes())
		if !bytes.Equal(l.SenderID.Bytes(), sum[:smp.NonceSize]) {
			return nil, smp.ErrProhibited
		}
		q.sender, q.link, q.data = l.SenderID, l.LinkID, &l.Data
		if c.Mode == smp.ModeMessaging {
			q.link = newID()
		}
		if r.senders[q.sender.ID()] != nil || r.links[q.link.ID()] != nil {
			return nil, smp.ErrAuth
		}
	}
	answer := &smp.IDS{RecipientID: q.recipient, SenderID: q.sender, Mode: q.mode, LinkID: q.link}
	var err error
	if answer.DHKey, q.secret, err = agree(c.DHKey); err != nil {
		return nil, err
	}
	if c.Notifier != nil {
		n, id, err := newNotifier(*c.Notifier)
		if err != nil {
			return nil, err
		}
		q.notifier, answer.Notifier = n, id
		r.notifiers[n.id.ID()] = q
	}
	r.recipients[q.recipient.ID()] = q
	r.senders[q.sender.ID()] = q
	if q.data != nil {
		r.links[q.link.ID()] = q
	}
	answer.ServiceID = s.serviceID()
	if c.Subscribe {
		r.attach(s, q)
	}
	return answer, nil
}

// subscribed returns the session to which messages of q are pushed, or nil.
func (q *inbox) subscribed() *session {
	if q.service != nil {
		return q.service.subscriber
	}
	return q.subscriber
}

// attach makes s the subscriber of q, in place of whoever is. A session of a
// service associates the queue with that; an ordinary one ends that.
func (r *Router) attach(s *session, q *inbox) *entry {
	if old := q.subscribed(); old != nil && old != s && (s.service == nil || q.service != s.service) {
		old.event(q.recipient, &smp.END{})
		delete(old.entries, q)
	}
	q.subscriber = s
	if s.service != nil {
		r.adopt(s)
		q.subscriber = nil
	}
	q.service = s.service
	e := &entry{}
	s.entries[q] = e
	return e
}

func (r *Router) subscribe(s *session, q *inbox) (smp.Response, error) {
	if e := s.entries[q]; e != nil && e.get {
		return nil, smp.ErrProhibited
	}
	if m := q.deliver(r.attach(s, q)); m != nil {
		s.eventLater(q.recipient, m)
	}
	return &smp.SOK{ServiceID: s.serviceID()}, nil
}

// deliver returns the first message of q, which then is in flight; nil if there is
// none.
func (q *inbox) deliver(e *entry) *smp.MSG {
	e.inFlight = smp.EntityID{}
	if len(q.messages) == 0 {
		return nil
	}
	m := q.messages[0]
	e.inFlight = m.id.ID()
	body, err := auth.SealMessage(nil, q.secret, auth.NonceOf(m.id.Bytes()), m.Message)
	if err != nil {
		panic(err) // SEND checks the size
	}
	return &smp.MSG{MsgID: m.id, Body: body}
}

func (r *Router) get(s *session, q *inbox) (smp.Response, error) {
	e := s.entries[q]
	if e == nil {
		e = &entry{get: true}
		s.entries[q] = e
	}
	if !e.get {
		return nil, smp.ErrProhibited
	}
	if m := q.deliver(e); m != nil {
		return m, nil
	}
	return &smp.OK{}, nil
}

func (r *Router) acknowledge(s *session, q *inbox, id smp.Short) (smp.Response, error) {
	e := s.entries[q]
	if e == nil || e.inFlight.IsZero() || !id.IsEmpty() && id.ID() != e.inFlight {
		return nil, smp.ErrNoMsg
	}
	e.inFlight = smp.EntityID{}
	if len(q.messages) > 0 && q.messages[0].id.Equal(id) {
		q.messages = q.messages[1:]
		q.full = q.full && len(q.messages) > 0
	}
	if !e.get {
		if m := q.deliver(e); m != nil {
			return m, nil
		}
	}
	return &smp.OK{}, nil
}

// send takes a message; q is nil if there is no such queue.
func (r *Router) send(rq *request, q *inbox, c *smp.SEND) (smp.Response, error) {
	if err := rq.verifySender(q); err != nil {
		return nil, err
	}
	switch {
	case len(c.Body) > rq.version.MaxMessage():
		return nil, smp.ErrLargeMsg
	case q.suspended:
		return nil, smp.ErrAuth
	}
	if !q.senderKey.IsZero() && q.mode != smp.ModeContact {
		r.unlink(q)
	}
	if q.full {
		return nil, smp.ErrQuota
	}
	m := message{id: newID(), Message: auth.Message{Time: time.Now().Unix(), Notify: c.Notify, Body: c.Body}}
	if len(q.messages) == r.options.Quota {
		m.Message = auth.Message{Time: m.Time, Quota: true}
		q.messages = append(q.messages, m)
		q.full = true
		return nil, smp.ErrQuota
	}
	q.messages = append(q.messages, m)
	if len(q.messages) == 1 {
		q.push()
	}
	if c.Notify && q.notifier != nil {
		if err := q.notifier.notify(m); err != nil {
			return nil, err
		}
	}
	return &smp.OK{}, nil
}

// push sends the first message to the subscriber, unless there is none or it has
// not yet acknowledged another one.
func (q *inbox) push() {
	s := q.subscribed()
	if s == nil {
		return
	}
	e := s.entries[q]
	if e == nil && q.service != nil {
		e = &entry{}
		s.entries[q] = e
	}
	if e == nil || e.get || !e.inFlight.IsZero() {
		return
	}
	s.event(q.recipient, q.deliver(e))
}

// verifySender checks the authorization of SEND: a queue that is not secured takes
// only what has none.
func (rq *request) verifySender(q *inbox) error {
	if q == nil {
		return rq.verify(auth.ByParty)
	}
	if err := rq.needs(messaging); err != nil {
		return err
	}
	switch {
	case !q.senderKey.IsZero():
		return rq.verify(auth.ByParty, q.senderKey)
	case !rq.transmission.Auth.IsEmpty():
		return smp.ErrAuth
	}
	return nil
}

// secureAsSender sets the sender's key at the sender's wish; q is nil if there is
// no such queue.
func (rq *request) secureAsSender(q *inbox, key smp.PublicKey) error {
	if q == nil {
		return rq.verify(auth.ByParty)
	}
	if err := rq.needs(messaging); err != nil {
		return err
	}
	if q.mode != smp.ModeMessaging || !q.senderKey.IsZero() && q.senderKey != key {
		return rq.verify(auth.ByParty)
	}
	if err := rq.verify(auth.ByParty, key); err != nil {
		return err
	}
	q.senderKey = key
	return nil
}

// secure sets the sender's key at the recipient's wish.
func (q *inbox) secure(key smp.PublicKey) (smp.Response, error) {
	if !q.senderKey.IsZero() && q.senderKey != key {
		return nil, smp.ErrAuth
	}
	q.senderKey = key
	return &smp.OK{}, nil
}

func (q *inbox) replaceKeys(keys []smp.PublicKey) (smp.Response, error) {
	if q.mode != smp.ModeContact {
		return nil, smp.ErrAuth
	}
	q.keys = keys
	return &smp.OK{}, nil
}

func (r *Router) setLink(q *inbox, c *smp.LSET) (smp.Response, error) {
	switch {
	case q.mode != smp.ModeContact && !q.senderKey.IsZero(),
		q.data != nil && (!q.link.Equal(c.LinkID) || !bytes.Equal(q.data.Fixed, c.Data.Fixed)),
		q.data == nil && r.links[c.LinkID.ID()] != nil:
		return nil, smp.ErrAuth
	}
	q.link, q.data = c.LinkID, &c.Data
	r.links[q.link.ID()] = q
	return &smp.OK{}, nil
}

func (r *Router) unlink(q *inbox) {
	if q.data != nil {
		delete(r.links, q.link.ID())
	}
	q.link, q.data = smp.Short{}, nil
}

// openLink answers LGET: it is for contact queues, and for those of which nobody
// knows that they are none; q is nil if there is no such link.
func (rq *request) openLink(q *inbox) (smp.Response, error) {
	if q == nil {
		return nil, smp.ErrAuth
	}
	if err := rq.needs(messaging); err != nil {
		return nil, err
	}
	if q.mode == smp.ModeMessaging || q.mode == smp.ModeUnknown && !q.senderKey.IsZero() {
		return nil, smp.ErrAuth
	}
	return q.linked(), nil
}

func (q *inbox) linked() *smp.LNK { return &smp.LNK{SenderID: q.sender, Data: *q.data} }

func (r *Router) delete(s *session, q *inbox) (smp.Response, error) {
	if old := q.subscribed(); old != nil && old != s {
		old.event(q.recipient, &smp.DELD{})
	}
	r.removeNotifier(s, q)
	r.unlink(q)
	delete(r.senders, q.sender.ID())
	delete(r.recipients, q.recipient.ID())
	for s := range r.sessions {
		delete(s.entries, q)
	}
	return &smp.OK{}, nil
}

func (q *inbox) info(s *session) (smp.Response, error) {
	info := smp.QueueInfo{Secured: !q.senderKey.IsZero(), HasNotifier: q.notifier != nil, Size: int64(len(q.messages))}
	if e := s.entries[q]; e != nil {
		info.Subscription = &smp.SubscriptionInfo{Thread: smp.NoThread, Delivered: e.inFlight.Bytes()}
		if e.get {
			info.Subscription.Thread = smp.ThreadProhibited
		}
	}
	if len(q.messages) > 0 {
		m := q.messages[0]
		info.Message = &smp.MessageInfo{ID: m.id.Bytes(), Time: time.Unix(m.Time, 0).UTC(), Type: smp.MessageNormal}
		if m.Quota {
			info.Message.Type = smp.MessageQuota
		}
	}
	text, err := json.Marshal(info)
	return &smp.INFO{JSON: text}, err
}
