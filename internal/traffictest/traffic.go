// Package traffictest is for tests only: clients that send and acknowledge messages
// while a router, its database or the network fails, and that see whether anything that
// was acknowledged is lost or comes again.
//
// Each queue has a sender, who sends one numbered message after another, and a
// recipient, who acknowledges one after another. Both connect again whenever a
// connection ends. What is checked does not depend on time:
//
//   - a message that was answered with OK is delivered;
//   - of two such messages of a queue, the first one is delivered first;
//   - a message whose ACK was answered does not come again, and no message does once
//     another one has come;
//   - each message is there once;
//   - errors are those that the protocol has for what happened: STORE, and QUOTA.
package traffictest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/smp"
)

// Options say what the clients do.
type Options struct {
	// Address returns where the router is, for each connection that is made.
	Address func() *smp.RouterAddress
	// Versions has one for each queue: the newest that its clients speak.
	Versions []smp.Version
	// AnswerTime is how long a client waits for an answer before it connects again.
	AnswerTime time.Duration
	// BodySize is the least size of messages, in bytes.
	BodySize int
}

const (
	// patience is when a test fails in which something does not come.
	patience = 60 * time.Second
	// connectTime is how long a client waits for a connection.
	connectTime = 10 * time.Second
	// pause is how long a client waits before it tries again what has failed.
	pause = 20 * time.Millisecond
)

// Traffic is what the clients do.
type Traffic struct {
	t      testing.TB
	o      Options
	queues []*queue

	ctx         context.Context // of the recipients
	cancel      context.CancelFunc
	sending     context.Context // of the senders
	stopSending context.CancelFunc
	senders     sync.WaitGroup
	recipients  sync.WaitGroup
}

// A queue is one with both of its parties, and what they have seen.
type queue struct {
	*Traffic
	version           smp.Version
	recipient, sender smp.EntityID
	key               auth.PrivateKey
	secret            smp.DHSecret

	mu           sync.Mutex // guards what follows
	answered     []int      // the numbers of the messages that were answered with OK
	received     []message  // in the order in which they came
	seen         map[smp.EntityID]bool
	acknowledged map[smp.EntityID]bool
	counts       Counts
}

// A message is one that was delivered.
type message struct {
	number int // 0: a quota marker
	id     smp.EntityID
}

// Counts say what has happened.
type Counts struct {
	Answered     int // messages that were answered with OK
	Unknown      int // messages that may have been stored or not
	Delivered    int // messages that have come
	Again        int // messages that came again because their ACK was not answered
	Acknowledged int // messages whose ACK was answered
	StoreErrors  int // answers STORE
	Connections  int // connections that were made
	Ends         int // subscriptions that an earlier connection of the same client took over
}

// Start makes the queues and starts the clients. They work until [Traffic.Finish], or
// the end of the test.
func Start(t testing.TB, o Options) *Traffic {
	t.Helper()
	w := &Traffic{t: t, o: o}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.sending, w.stopSending = context.WithCancel(w.ctx)
	t.Cleanup(w.stop)
	for _, v := range o.Versions {
		q := &queue{Traffic: w, version: v, seen: make(map[smp.EntityID]bool), acknowledged: make(map[smp.EntityID]bool)}
		if err := q.create(); err != nil {
			t.Fatalf("create a queue: %v", err)
		}
		w.queues = append(w.queues, q)
	}
	for _, q := range w.queues {
		w.senders.Go(func() { q.connected(w.sending, q.send) })
		w.recipients.Go(func() { q.connected(w.ctx, q.receive) })
	}
	return w
}

// stop ends all clients.
func (w *Traffic) stop() {
	w.cancel()
	w.senders.Wait()
	w.recipients.Wait()
}

// fail fails the test and ends all clients.
func (w *Traffic) fail(format string, args ...any) {
	w.t.Errorf(format, args...)
	w.cancel()
}

// Await waits until in each queue so many messages have been sent, delivered and
// acknowledged that were not when it was called: the router works.
func (w *Traffic) Await(n int) {
	w.t.Helper()
	answered, acknowledged := make([]int, len(w.queues)), make([]int, len(w.queues))
	for i, q := range w.queues {
		c := q.count()
		answered[i], acknowledged[i] = c.Answered+n, c.Acknowledged+n
	}
	w.until("the router works", func() bool {
		for i, q := range w.queues {
			if c := q.count(); c.Answered < answered[i] || c.Acknowledged < acknowledged[i] {
				return false
			}
		}
		return true
	})
}

// AwaitFailures waits until so many more commands were answered with STORE, or ended
// with their connection.
func (w *Traffic) AwaitFailures(n int) {
	w.t.Helper()
	failures := func() int {
		c := w.Counts()
		return c.StoreErrors + c.Connections
	}
	before := failures()
	w.until("the clients notice", func() bool { return failures() >= before+n })
}

// until waits for something.
func (w *Traffic) until(what string, so func() bool) {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(patience)
	defer late.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.FailNow() // it was said why
		case <-late.C:
			w.t.Fatalf("%s: not within %s: %+v", what, patience, w.Counts())
		}
	}
}

// Counts returns what has happened so far, in all queues.
func (w *Traffic) Counts() Counts {
	var sum Counts
	for _, q := range w.queues {
		c := q.count()
		sum.Answered += c.Answered
		sum.Unknown += c.Unknown
		sum.Delivered += c.Delivered
		sum.Again += c.Again
		sum.Acknowledged += c.Acknowledged
		sum.StoreErrors += c.StoreErrors
		sum.Connections += c.Connections
		sum.Ends += c.Ends
	}
	return sum
}

func (q *queue) count() Counts {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.counts
}

// Finish ends the sending, waits until all that was answered has been delivered, and
// checks all. The router must be there.
func (w *Traffic) Finish() {
	w.t.Helper()
	w.stopSending()
	w.senders.Wait()
	w.until("everything is delivered", func() bool {
		for _, q := range w.queues {
			if !q.drained() {
				return false
			}
		}
		return true
	})
	w.stop()
	for _, q := range w.queues {
		q.check()
	}
	w.t.Logf("%+v", w.Counts())
}

// drained reports whether all messages that were answered are delivered.
func (q *queue) drained() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	delivered := make(map[int]bool)
	for _, m := range q.received {
		delivered[m.number] = true
	}
	for _, n := range q.answered {
		if !delivered[n] {
			return false
		}
	}
	return true
}

// check looks at the end whether the order is kept, and whether something is left in
// the queue that was acknowledged.
func (q *queue) check() {
	q.t.Helper()
	at, ids := make(map[int]int), make(map[int]smp.EntityID)
	for i, m := range q.received {
		if other, twice := ids[m.number]; twice && m.number != 0 && other != m.id {
			q.t.Errorf("message %d is there twice", m.number)
		}
		at[m.number], ids[m.number] = i, m.id
	}
	for i := 1; i < len(q.answered); i++ {
		if first, next := q.answered[i-1], q.answered[i]; at[first] > at[next] {
			q.t.Errorf("message %d has come after message %d", first, next)
		}
	}
	ctx, cancel := context.WithTimeout(q.t.Context(), patience)
	defer cancel()
	c, err := q.dial(ctx)
	if err != nil {
		q.t.Errorf("connect at the end: %v", err)
		return
	}
	defer c.Close()
	for _, command := range []smp.Command{&smp.SUB{}, &smp.PING{}} { // what there is comes before PONG
		r := client.Request{Entity: q.recipient, Key: q.key, Command: command}
		if _, ping := command.(*smp.PING); ping {
			r = client.Request{Command: command}
		}
		if _, err := c.Do(ctx, r); err != nil {
			q.t.Errorf("at the end: %v", err)
			return
		}
	}
	select {
	case e := <-c.Events():
		if m, ok := e.Response.(*smp.MSG); ok && q.acknowledged[m.MsgID.ID()] {
			q.t.Error("a message was acknowledged, and comes again at the end")
		}
	default:
	}
}

func (q *queue) dial(ctx context.Context) (*client.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	return client.Dial(ctx, q.o.Address(), client.Options{Versions: smp.VersionRange{Min: smp.MinVersion, Max: q.version}})
}

func (q *queue) create() error {
	var err error
	if q.key, err = auth.GenerateKey(smp.Ed25519); err != nil {
		return err
	}
	dh, err := auth.GenerateKey(smp.X25519)
	if err != nil {
		return err
	}
	c, err := q.dial(q.ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(q.ctx, patience)
	defer cancel()
	ids, err := client.As[*smp.IDS](c.Do(ctx, client.Request{
		Key: q.key, Command: &smp.NEW{RecipientKey: q.key.Public(), DHKey: dh.Public()},
	}))
	if err != nil {
		return err
	}
	q.recipient, q.sender = ids.RecipientID.ID(), ids.SenderID.ID()
	q.secret, err = dh.Agree(ids.DHKey)
	return err
}

// connected does something with one connection after another until ctx ends.
func (q *queue) connected(ctx context.Context, do func(context.Context, *client.Client)) {
	for ctx.Err() == nil {
		c, err := q.dial(ctx)
		if err != nil {
			rest(ctx)
			continue
		}
		q.note(func(n *Counts) { n.Connections++ })
		do(ctx, c)
		c.Close()
	}
}

// note changes the counts.
func (q *queue) note(change func(*Counts)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	change(&q.counts)
}

// rest waits for a moment.
func rest(ctx context.Context) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// An outcome is what a client knows of a command.
type outcome int

const (
	done    outcome = iota
	refused         // by the store, or for want of room: it may be tried again
	noMessage
	lost // nothing is known, and the connection is over
)

// do sends a command. What is begun is brought to its end.
func (q *queue) do(ctx context.Context, c *client.Client, r client.Request) (smp.Response, outcome) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), q.o.AnswerTime)
	defer cancel()
	response, err := c.Do(ctx, r)
	if err == nil {
		return response, done
	}
	answer, ok := errors.AsType[smp.Error](err)
	if !ok {
		return nil, lost
	}
	if _, ok := answer.(smp.StoreError); ok {
		q.note(func(n *Counts) { n.StoreErrors++ })
		return nil, refused
	}
	switch answer {
	case smp.ErrQuota:
		return nil, refused
	case smp.ErrNoMsg:
		return nil, noMessage
	}
	q.fail("%v", err)
	return nil, lost
}

// send sends messages. Those that have failed are not sent again: nobody knows whether
// they are there.
func (q *queue) send(ctx context.Context, c *client.Client) {
	for ctx.Err() == nil {
		q.mu.Lock()
		number := q.counts.Answered + q.counts.Unknown + 1
		q.mu.Unlock()
		body := fmt.Appendf(nil, "%-*d", q.o.BodySize, number)
		_, outcome := q.do(ctx, c, client.Request{Entity: q.sender, Command: &smp.SEND{Body: body}})
		q.mu.Lock()
		if outcome == done {
			q.answered = append(q.answered, number)
			q.counts.Answered++
		} else {
			q.counts.Unknown++
		}
		q.mu.Unlock()
		switch outcome {
		case done:
		case refused:
			rest(ctx)
		case lost, noMessage:
			return
		}
	}
}

// receive subscribes to the queue and acknowledges what comes.
func (q *queue) receive(ctx context.Context, c *client.Client) {
	if !q.subscribe(ctx, c) {
		return
	}
	for {
		var e client.Event
		var open bool
		select {
		case e, open = <-c.Events():
		case <-ctx.Done():
			return
		}
		if !open || !q.handle(ctx, c, e) {
			return
		}
	}
}

// handle reports whether the connection is still of use after an event.
func (q *queue) handle(ctx context.Context, c *client.Client, e client.Event) bool {
	if m, ok := e.Response.(*smp.MSG); ok {
		return q.take(ctx, c, m)
	}
	if _, ok := e.Response.(*smp.END); ok {
		// A SUB of an earlier connection, which was waiting for the database, was
		// carried out after that of this one.
		q.note(func(n *Counts) { n.Ends++ })
		return q.subscribe(ctx, c)
	}
	q.fail("an event: %T: %v", e.Response, e.Err)
	return false
}

func (q *queue) subscribe(ctx context.Context, c *client.Client) bool {
	for ctx.Err() == nil {
		switch _, outcome := q.do(ctx, c, client.Request{Entity: q.recipient, Key: q.key, Command: &smp.SUB{}}); outcome {
		case done:
			return true
		case refused:
			rest(ctx)
		case lost, noMessage:
			return false
		}
	}
	return false
}

// take acknowledges a message, and those that come with the answers.
func (q *queue) take(ctx context.Context, c *client.Client, m *smp.MSG) bool {
	for {
		if err := q.see(m); err != nil {
			q.fail("%v", err)
			return false
		}
		var response smp.Response
		result := refused
		for result == refused {
			if ctx.Err() != nil {
				return false
			}
			if response, result = q.do(ctx, c, client.Request{Entity: q.recipient, Key: q.key, Command: &smp.ACK{MsgID: m.MsgID}}); result == refused {
				rest(ctx)
			}
		}
		if result != done {
			return false // SUB brings what there is
		}
		q.mu.Lock()
		q.acknowledged[m.MsgID.ID()] = true
		q.counts.Acknowledged++
		q.mu.Unlock()
		next, ok := response.(*smp.MSG)
		if !ok {
			return true
		}
		m = next
	}
}

// see notes a message that has come, and says what is wrong with that.
func (q *queue) see(m *smp.MSG) error {
	opened, err := auth.OpenMessage(q.secret, auth.NonceOf(m.MsgID.Bytes()), m.Body)
	if err != nil {
		return err
	}
	number := 0
	if !opened.Quota {
		if number, err = strconv.Atoi(strings.TrimRight(string(opened.Body), " ")); err != nil {
			return fmt.Errorf("a message that nobody has sent: %w", err)
		}
	}
	id := m.MsgID.ID()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.acknowledged[id] {
		return fmt.Errorf("message %d was acknowledged, and comes again", number)
	}
	if q.seen[id] {
		if last := q.received[len(q.received)-1]; last.id != id {
			return fmt.Errorf("message %d comes again after message %d", number, last.number)
		}
		q.counts.Again++
		return nil
	}
	q.seen[id] = true
	q.received = append(q.received, message{number, id})
	q.counts.Delivered++
	return nil
}
