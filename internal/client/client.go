package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/transport"
)

var (
	// ErrClosed is why calls fail when the connection is no more. It comes with the
	// reason, as [Client.Err] has it.
	ErrClosed = errors.New("the connection is closed")
	// ErrUnexpected says that a router answered what no router should have.
	ErrUnexpected = errors.New("unexpected response")

	errOwnEnd = errors.New("by this end")
)

// A Client is a connection to a router. Its methods may be called by many
// goroutines at the same time. It must be closed.
type Client struct {
	conn       *transport.Conn
	session    *transport.Session
	maxVersion smp.Version // that this end speaks

	signing sync.Mutex // guards signer
	signer  *auth.Signer

	blocks chan []*smp.Batch // to be sent, together and in turn
	events chan Event
	ended  chan struct{} // closed with the connection
	tasks  sync.WaitGroup

	mu      sync.Mutex
	waiting map[string]*Call // by the ids of their commands
	cause   error            // why the connection is over; nil: it is not
}

// eventBuffer is how many events may wait for whoever receives them, by default.
const eventBuffer = 16

// An Event is what a router sends without having been asked: mostly a message.
type Event struct {
	Entity   smp.EntityID // the queue for the receiving party, or a service; zero if nothing
	Response smp.Response
	Err      error // the event is not understood, and Response is nil
}

// newClient takes the connection over.
func newClient(conn *transport.Conn, maxVersion smp.Version, o *Options) *Client {
	s := conn.Session()
	events := o.EventQueue
	if events == 0 {
		events = eventBuffer
	}
	c := &Client{
		conn: conn, session: s, maxVersion: maxVersion, signer: s.Signer(),
		blocks:  make(chan []*smp.Batch, o.SendQueue),
		events:  make(chan Event, events),
		ended:   make(chan struct{}),
		waiting: make(map[string]*Call),
	}
	c.tasks.Go(c.send)
	c.tasks.Go(c.receive)
	return c
}

// Session returns what client and router agreed on. It must not be changed.
func (c *Client) Session() *transport.Session { return c.session }

// RemoteAddr returns the network address of the router.
func (c *Client) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// Events returns where events come in. It is closed after the last one, when the
// connection is over.
//
// Somebody has to receive them: as long as events wait for that, nothing more is
// read, not even the results of commands. So who receives events does not wait for
// a command in between, but for its [Call] in another goroutine or later.
func (c *Client) Events() <-chan Event { return c.events }

// Done returns a channel that is closed when the connection is over.
func (c *Client) Done() <-chan struct{} { return c.ended }

// Err returns why the connection is over, nil if it is not. It wraps [io.EOF] if the
// router closed it, [ErrClosed] after Close.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// Close ends the connection. Calls that are under way fail with [ErrClosed].
func (c *Client) Close() {
	c.end(fmt.Errorf("%w %w", ErrClosed, errOwnEnd))
	c.tasks.Wait()
}

// end ends the connection for the first cause that there is.
func (c *Client) end(cause error) {
	c.mu.Lock()
	first := c.cause == nil
	if first {
		c.cause = cause
	}
	lost, waiting := c.lost(), c.waiting
	c.waiting = nil
	c.mu.Unlock()
	for _, call := range waiting {
		call.answer(nil, lost)
	}
	if first {
		close(c.ended)
		_ = c.conn.Close() // it is over in any case
	}
}

// lost returns the error of calls, for callers that hold the mutex.
func (c *Client) lost() error {
	if errors.Is(c.cause, ErrClosed) {
		return c.cause
	}
	return fmt.Errorf("%w: %w", ErrClosed, c.cause)
}

// A Request is a command to be sent.
type Request struct {
	// Entity is what the command is about: the id of a queue for the sending party,
	// of a service; zero for commands without.
	Entity  smp.EntityID
	Command smp.Command
	// Key authorizes the command; zero for those that need no authorization, or
	// only that of the service.
	Key auth.PrivateKey
}

// A Result is what came of a [Request].
type Result struct {
	Response smp.Response
	Err      error
}

// Do sends a command and waits for its result. If the router answers with an error,
// that is the error: an [smp.Error].
func (c *Client) Do(ctx context.Context, r Request) (smp.Response, error) {
	return c.Start(ctx, r)[0].Wait(ctx)
}

// DoAll sends commands in as few blocks as possible and waits for all results, which
// are in the order of the requests. Routers may carry out the commands of a block in
// any order.
func (c *Client) DoAll(ctx context.Context, requests []Request) []Result {
	results := make([]Result, len(requests))
	for i, call := range c.Start(ctx, requests...) {
		results[i].Response, results[i].Err = call.Wait(ctx)
	}
	return results
}

// Start sends commands as DoAll does, and does not wait for the results. Commands
// that are started one after another are sent in this order, in blocks of their own.
//
// Beyond [Options.SendQueue], it waits while what was started before is being sent,
// which takes as long as the router likes, up to [transport.BlockTimeout] for a block. That wait is what ctx
// ends; calls whose commands could not be sent then fail.
func (c *Client) Start(ctx context.Context, requests ...Request) []*Call {
	calls := make([]*Call, len(requests))
	var batches []*smp.Batch
	for i := range requests {
		calls[i], batches = c.prepare(batches, newID(), &requests[i])
	}
	c.dispatch(ctx, batches, calls...)
	return calls
}

// startWith starts a command with an id of the caller's.
func (c *Client) startWith(ctx context.Context, id smp.Short, r Request) *Call {
	call, batches := c.prepare(nil, id, &r)
	c.dispatch(ctx, batches, call)
	return call
}

// prepare adds a command to what is to be sent. From then on a response can be taken.
func (c *Client) prepare(batches []*smp.Batch, id smp.Short, r *Request) (*Call, []*smp.Batch) {
	call := &Call{client: c, entity: r.Entity, done: make(chan struct{})}
	t := smp.Transmission{CorrID: id}
	encoded, err := c.encode(&t, r)
	word, _, _ := bytes.Cut(t.Command, []byte(" "))
	call.tag = string(word)
	if err == nil {
		batches, err = appendBatch(batches, encoded)
	}
	if err == nil {
		err = c.await(call, string(id.Bytes()))
	}
	if err != nil {
		call.answer(nil, err)
	}
	return call, batches
}

// dispatch hands batches over to be sent, or else ends the calls.
func (c *Client) dispatch(ctx context.Context, batches []*smp.Batch, calls ...*Call) {
	if len(batches) == 0 {
		return
	}
	select {
	case c.blocks <- batches:
	case <-c.ended: // the calls know
	case <-ctx.Done():
		for _, call := range calls {
			c.forget(call, ctx.Err())
		}
	}
}

// encode completes the transmission of a request, and returns its encoding.
func (c *Client) encode(t *smp.Transmission, r *Request) (encoded []byte, err error) {
	s := c.session
	t.SessionID = s.ID
	t.Command = r.Command.Append(nil, s.Version)
	if t.EntityID, err = smp.NewShort(r.Entity.Bytes()); err != nil {
		return nil, err
	}
	if rule := ruleOf(r.Command); rule == auth.ByService || !r.Key.IsZero() {
		c.signing.Lock()
		err = c.signer.Authorize(t, rule, r.Key)
		c.signing.Unlock()
		if err != nil {
			return nil, err
		}
	}
	return t.Append(nil, s.Version), nil
}

// ruleOf returns whose authorization a command needs.
func ruleOf(c smp.Command) auth.Rule {
	switch c.(type) {
	case *smp.NEW, *smp.SUB, *smp.NSUB:
		return auth.ByPartyAndService
	case *smp.SUBS, *smp.NSUBS:
		return auth.ByService
	case *smp.KEY, *smp.RKEY, *smp.LSET, *smp.LDEL, *smp.NKEY, *smp.NDEL, *smp.GET, *smp.ACK, *smp.OFF, *smp.DEL, *smp.QUE,
		*smp.SEND, *smp.SKEY, *smp.LKEY, *smp.LGET, *smp.PING, *smp.PRXY, *smp.PFWD, *smp.RFWD:
	}
	return auth.ByParty
}

// appendBatch adds a transmission to the last of some batches, or another one.
func appendBatch(batches []*smp.Batch, encoded []byte) ([]*smp.Batch, error) {
	if n := len(batches); n > 0 {
		if added, err := batches[n-1].Add(encoded); added || err != nil {
			return batches, err
		}
	}
	b := new(smp.Batch)
	if _, err := b.Add(encoded); err != nil {
		return batches, err
	}
	return append(batches, b), nil
}

// newID returns an id that nobody has used or can guess.
func newID() smp.Short {
	b := make([]byte, smp.IDSize)
	_, _ = rand.Read(b)      // it never fails
	id, _ := smp.NewShort(b) // it is short
	return id
}

// A Call is a command that is under way.
type Call struct {
	client *Client
	tag    string
	entity smp.EntityID
	id     string
	done   chan struct{}

	// The answer. It is the caller's when done is closed.
	response smp.Response
	err      error
}

// Done returns a channel that is closed when there is an answer.
func (c *Call) Done() <-chan struct{} { return c.done }

// Wait waits for the result of the command, as [Client.Do] does. When ctx ends that,
// the command may still be carried out.
func (c *Call) Wait(ctx context.Context) (smp.Response, error) {
	select {
	case <-c.done:
	case <-ctx.Done():
		c.client.forget(c, ctx.Err())
		<-c.done
	}
	if c.err != nil {
		return nil, fmt.Errorf("%s: %w", c.tag, c.err)
	}
	return c.response, nil
}

// answer ends the call. Only who took it from those that wait may do so.
func (c *Call) answer(r smp.Response, err error) {
	if e, ok := r.(*smp.ERR); ok && err == nil {
		err = e.Err
	}
	c.response, c.err = r, err
	close(c.done)
}

// await makes call wait for the response to the command with an id.
func (c *Client) await(call *Call, id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return c.lost()
	}
	call.id = id
	c.waiting[id] = call
	return nil
}

// take returns the call that waits for the response with an id, nil if none does.
func (c *Client) take(id string) *Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	call := c.waiting[id]
	delete(c.waiting, id)
	return call
}

// forget ends a call for which nobody waits any longer, if there is no answer.
func (c *Client) forget(call *Call, err error) {
	if c.take(call.id) == call {
		call.answer(nil, err)
	}
}

// send sends blocks until the connection is over.
func (c *Client) send() {
	for {
		select {
		case batches := <-c.blocks:
			for _, b := range batches {
				if err := c.conn.Send(b.Content()); err != nil {
					c.end(err)
					return
				}
			}
		case <-c.ended:
			return
		}
	}
}

// receive hands out what the router sends until the connection is over.
func (c *Client) receive() {
	defer close(c.events)
	var content []byte
	var transmissions [][]byte
	for {
		var err error
		if content, err = c.conn.Receive(content[:0]); err == nil {
			transmissions, err = smp.SplitContent(transmissions[:0], content)
		}
		for i := 0; err == nil && i < len(transmissions); i++ {
			err = c.handOut(transmissions[i])
		}
		if err != nil {
			c.end(err)
			return
		}
	}
}

// handOut gives a transmission to the call that waits for it, or out as event.
func (c *Client) handOut(encoded []byte) error {
	t, err := smp.ParseTransmission(bytes.Clone(encoded), c.session.Version)
	if err != nil {
		return err
	}
	r, err := smp.ParseResponse(t.Command, c.session.Version)
	if err == nil {
		err = t.CheckEntity(r)
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrUnexpected, err)
	}
	if !t.CorrID.IsEmpty() {
		if call := c.take(string(t.CorrID.Bytes())); call != nil {
			if err == nil {
				err = call.check(&t)
			}
			call.answer(r, err)
		}
		return nil // nobody waits for it any longer
	}
	e := Event{Entity: t.EntityID.ID(), Response: r, Err: err}
	if err != nil {
		e.Response = nil
	}
	select {
	case c.events <- e:
		return nil
	case <-c.ended:
		return ErrClosed
	}
}

// check refuses the response to another command. A router that cannot tell what a
// command is about answers with an error without an entity id.
func (c *Call) check(t *smp.Transmission) error {
	if t.EntityID.ID() == c.entity || t.EntityID.IsEmpty() {
		return nil
	}
	return fmt.Errorf("%w: it is about %s, not %s", ErrUnexpected, t.EntityID, c.entity)
}

// As turns the results of [Client.Do] into those of a certain type. Another response
// is [ErrUnexpected].
func As[R smp.Response](r smp.Response, err error) (R, error) {
	want, ok := r.(R)
	if err == nil && !ok {
		err = fmt.Errorf("%w: %T", ErrUnexpected, r)
	}
	return want, err
}
