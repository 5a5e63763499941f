package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/smp"
)

// A pace says when a connection sends.
type pace struct {
	origin   time.Time
	interval time.Duration // 0: as soon as it can
	n        int64         // messages so far
}

// next waits for the next message to be due, and returns when it was due; the zero time
// if that does not matter.
func (p *pace) next(ctx context.Context) (time.Time, error) {
	if p.interval == 0 {
		return time.Time{}, ctx.Err()
	}
	due := p.origin.Add(time.Duration(p.n) * p.interval)
	p.n++
	if wait := time.Until(due); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return due, ctx.Err()
}

// behind returns how many messages are due by now beyond those that were sent.
func (p *pace) behind(sent int64) int64 {
	if p.interval == 0 {
		return 0
	}
	now := time.Since(p.origin)
	if now < 0 {
		return 0
	}
	return max(int64(now/p.interval)+1-sent, 0)
}

// A mailbox is a queue.
type mailbox struct {
	recipient, sender       smp.EntityID
	recipientKey, senderKey auth.PrivateKey

	// idle has an element while no message is under way.
	idle chan struct{}
	// due is when the message that is under way was due, since the origin of the load.
	due atomic.Int64
	// expected says that it is not delivered yet.
	expected atomic.Bool
}

// A connection sends to the queues of the next one, and receives from its own.
type connection struct {
	load   *Load
	client *client.Client
	next   *connection
	inbox  []*mailbox // its queues; not changed after the start of the load
}

// batch is how many commands are sent at once.
const batch = 50

// create makes n queues. What is begun is finished when ctx ends, as otherwise nobody
// would know which queues there are.
func (c *connection) create(ctx context.Context, n int, subscribe bool) error {
	for ; n > 0; n -= batch {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.createBatch(context.WithoutCancel(ctx), min(n, batch), subscribe); err != nil {
			return err
		}
	}
	return nil
}

func (c *connection) createBatch(ctx context.Context, n int, subscribe bool) error {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	made := make([]*mailbox, n)
	requests := make([]client.Request, n)
	for i := range made {
		q, dh, err := newMailbox()
		if err != nil {
			return err
		}
		made[i] = q
		requests[i] = client.Request{Key: q.recipientKey, Command: &smp.NEW{
			RecipientKey: q.recipientKey.Public(), DHKey: dh, Password: c.load.o.Router.Password, Subscribe: subscribe, Mode: smp.ModeMessaging,
		}}
	}
	var failed error
	for i, r := range c.client.DoAll(ctx, requests) {
		ids, err := client.As[*smp.IDS](r.Response, r.Err)
		if err != nil {
			failed = err
			continue
		}
		q := made[i]
		q.recipient, q.sender = ids.RecipientID.ID(), ids.SenderID.ID()
		c.inbox = append(c.inbox, q)
	}
	if failed != nil {
		return failed
	}
	for i, q := range made {
		if c.client.Session().Version < smp.VersionSenderSecures {
			requests[i] = client.Request{Entity: q.recipient, Key: q.recipientKey, Command: &smp.KEY{SenderKey: q.senderKey.Public()}}
		} else {
			requests[i] = client.Request{Entity: q.sender, Key: q.senderKey, Command: &smp.SKEY{SenderKey: q.senderKey.Public()}}
		}
	}
	for _, r := range c.client.DoAll(ctx, requests) {
		if _, err := client.As[*smp.OK](r.Response, r.Err); err != nil {
			return err
		}
	}
	c.load.o.Progress.Add(int64(n))
	return nil
}

// newMailbox returns a queue with its keys, and the key by which its messages would be
// opened.
func newMailbox() (*mailbox, smp.PublicKey, error) {
	q := &mailbox{idle: make(chan struct{}, 1)}
	q.idle <- struct{}{}
	var dh auth.PrivateKey
	for _, k := range []struct {
		key       *auth.PrivateKey
		algorithm smp.Algorithm
	}{{&q.recipientKey, smp.Ed25519}, {&q.senderKey, smp.Ed25519}, {&dh, smp.X25519}} {
		var err error
		if *k.key, err = auth.GenerateKey(k.algorithm); err != nil {
			return nil, smp.PublicKey{}, err
		}
	}
	return q, dh.Public(), nil
}

// clear deletes the queues, by another connection if this one is lost.
func (c *connection) clear(ctx context.Context) error {
	if len(c.inbox) > 0 && c.client.Err() != nil {
		again, err := client.Dial(ctx, c.load.o.Router, client.Options{})
		if err != nil {
			return err
		}
		defer again.Close()
		return (&connection{load: c.load, client: again}).forAll(ctx, c.inbox, &smp.DEL{})
	}
	return c.forAll(ctx, c.inbox, &smp.DEL{})
}

// forAll sends a command of the recipient about all queues.
func (c *connection) forAll(ctx context.Context, queues []*mailbox, command smp.Command) error {
	for len(queues) > 0 {
		n := min(len(queues), batch)
		requests := make([]client.Request, n)
		for i, q := range queues[:n] {
			requests[i] = client.Request{Entity: q.recipient, Key: q.recipientKey, Command: command}
		}
		for _, r := range c.client.DoAll(ctx, requests) {
			if r.Err != nil {
				return r.Err
			}
		}
		queues = queues[n:]
	}
	return nil
}

// send sends messages to the queues of the next connection, in turn; no more than most,
// unless that is 0.
func (c *connection) send(p pace, most int64) {
	l, inbox := c.load, c.next.inbox
	var sent int64
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.figure.Behind += p.behind(sent)
	}()
	for ; most == 0 || sent < most; sent++ {
		due, err := p.next(l.stopping)
		if err != nil {
			return
		}
		q := inbox[sent%int64(len(inbox))]
		select {
		case <-q.idle:
		case <-l.stopping.Done():
			return
		}
		if due.IsZero() {
			due = time.Now()
		}
		q.due.Store(int64(due.Sub(l.origin)))
		q.expected.Store(true)
		r, err := c.client.Do(l.ctx, client.Request{Entity: q.sender, Key: q.senderKey, Command: &smp.SEND{Body: l.body}})
		if _, err = client.As[*smp.OK](r, err); err == nil {
			l.record(sending, time.Since(due))
			continue
		}
		l.failed(err)
		if errors.Is(err, client.ErrClosed) || l.ctx.Err() != nil {
			return // it may come all the same
		}
		if q.expected.CompareAndSwap(true, false) {
			q.idle <- struct{}{}
		}
	}
}

// receive takes messages and has them acknowledged until the connection ends.
func (c *connection) receive(queues map[smp.EntityID]*mailbox, arrived chan<- arrival) {
	l := c.load
	defer close(arrived)
	for e := range c.client.Events() {
		m, ok := e.Response.(*smp.MSG)
		if !ok {
			l.fail(unexpected(e))
			continue
		}
		q := queues[e.Entity]
		if q == nil || !q.expected.CompareAndSwap(true, false) {
			l.fail("a message came that was not sent, or came again")
			continue
		}
		l.record(delivery, time.Since(l.origin)-time.Duration(q.due.Load()))
		arrived <- arrival{q, m.MsgID}
	}
	if err := c.client.Err(); l.ctx.Err() == nil && !errors.Is(err, client.ErrClosed) {
		l.fail("a connection was lost: " + reason(err))
	}
	if l.alive.Add(-1) == 0 {
		close(l.lost)
	}
}

// unexpected says what an event is that no router should send here.
func unexpected(e client.Event) string {
	if r, refused := e.Response.(*smp.ERR); refused {
		e.Err = r.Err
	}
	if e.Err != nil {
		return "event: " + e.Err.Error()
	}
	return fmt.Sprintf("event: %T", e.Response)
}

// reason returns the innermost error, without addresses, which differ each time.
func reason(err error) string {
	for {
		var inner error
		switch e := err.(type) { //nolint:errorlint // each layer is looked at
		case interface{ Unwrap() error }:
			inner = e.Unwrap()
		case interface{ Unwrap() []error }:
			if all := e.Unwrap(); len(all) > 0 {
				inner = all[len(all)-1]
			}
		}
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}

// An arrival is a message that is to be acknowledged.
type arrival struct {
	queue *mailbox
	id    smp.Short
}

// acknowledge acknowledges messages, all those that are there together.
func (c *connection) acknowledge(arrived <-chan arrival) {
	l := c.load
	var together []arrival
	for first := range arrived {
		together = append(together[:0], first)
		for more := true; more && len(together) < batch; {
			select {
			case a, open := <-arrived:
				if more = open; open {
					together = append(together, a)
				}
			default:
				more = false
			}
		}
		requests := make([]client.Request, len(together))
		for i, a := range together {
			requests[i] = client.Request{Entity: a.queue.recipient, Key: a.queue.recipientKey, Command: &smp.ACK{MsgID: a.id}}
		}
		began := time.Now()
		for i, call := range c.client.Start(l.ctx, requests...) {
			r, err := call.Wait(l.ctx)
			if _, err = client.As[*smp.OK](r, err); err == nil {
				l.record(acknowledging, time.Since(began))
				together[i].queue.idle <- struct{}{}
			} else {
				l.failed(err)
			}
		}
	}
}
