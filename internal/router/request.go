package router

import (
	"context"
	"errors"
	"sync"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/transport"
)

// A request is a transmission that a client has sent, or that a proxy has forwarded.
type request struct {
	session      *session
	transmission smp.Transmission
	command      smp.Command
	version      smp.Version
	verifier     *auth.Verifier
	service      *transport.Service // whose command it is; nil: of an ordinary client
	forwarded    *forwarded         // it came in RFWD; nil: it did not

	queue    *store.Queue // what it is about; nil: nothing, or failed says why
	notFound error
	view     store.View // of the queue when the command was authorized
	refused  bool       // who sent it may not use the queue, which exists

	answer smp.Response // nil: not yet
	event  []byte       // MSG, to be sent after the answers; its size is reserved
}

// handle carries out what is in a block.
func (s *session) handle(content []byte) {
	requests := s.parse(content)
	s.lookUp(requests)
	s.countBatch(requests)
	for waiting := requests; len(waiting) > 0; {
		var wave []*request
		wave, waiting = nextWave(waiting)
		s.carryOut(wave)
	}
	s.hideExistence(requests)
	s.respond(requests)
}

// hideExistence makes who is refused a queue that exists wait for the database, as who
// asks for one that does not.
func (s *session) hideExistence(requests []*request) {
	refused := false
	for _, rq := range requests {
		if rq.notFound != nil {
			return // it has been waited for
		}
		refused = refused || rq.refused
	}
	if refused {
		_, _ = s.router.store.QueueBySender(s.router.ctx, queue.SenderID{EntityID: newID()})
	}
}

// messageWithAnswers is how many answers to a block may have a message behind them
// in the same block.
const messageWithAnswers = 4

// respond sends the answers to a block, then the messages that subscriptions in it
// have brought.
func (s *session) respond(requests []*request) {
	var answers group
	var messages [][]byte
	for _, rq := range requests {
		if rq.answer != nil {
			answers = append(answers, rq.encode())
		}
		if rq.event != nil {
			messages = append(messages, rq.event)
		}
	}
	reserved := 0
	if len(messages) > 0 && len(answers) <= messageWithAnswers {
		answers = append(answers, messages[0])
		reserved = len(messages[0])
		messages = messages[1:]
	}
	if len(answers) > 0 {
		s.putReserved(answers, reserved)
	}
	for _, m := range messages {
		s.putReserved(group{m}, len(m))
	}
}

// parse returns the requests in the content of a block. What is wrong with one is
// its answer.
func (s *session) parse(content []byte) []*request {
	transmissions, err := smp.SplitContent(nil, content)
	if err != nil {
		return []*request{{session: s, version: s.version, answer: failure(smp.ErrBlock)}}
	}
	requests := make([]*request, len(transmissions))
	for i, in := range transmissions {
		rq := &request{session: s, version: s.version, verifier: s.verifier, service: s.service}
		rq.parse(in)
		if c, ok := rq.command.(*smp.RFWD); ok && rq.answer == nil {
			rq = rq.open(c)
		}
		requests[i] = rq
	}
	return requests
}

// parse sets what is in a transmission, or the answer if it cannot be read.
func (rq *request) parse(in []byte) {
	if err := rq.read(in); err != nil {
		rq.answer = failure(err)
	}
}

func (rq *request) read(in []byte) error {
	t, err := smp.ParseTransmission(in, rq.version)
	if err != nil {
		return smp.ErrBlock
	}
	rq.transmission.CorrID = t.CorrID
	if rq.version < smp.VersionSessionKeys && !t.SessionID.Equal(rq.session.id) {
		return smp.ErrSession
	}
	if _, err := auth.Algorithm(t.Auth); err != nil {
		return smp.ErrBlock
	}
	rq.transmission = t
	if rq.command, err = smp.ParseCommand(t.Command, rq.version); err != nil {
		return err
	}
	return t.CheckCredentials(rq.command)
}

// encode returns the transmission that answers the request.
func (rq *request) encode() []byte {
	if rq.forwarded != nil {
		return rq.forwarded.encode(rq)
	}
	return rq.encodeAnswer()
}

func (rq *request) encodeAnswer() []byte {
	t := smp.Transmission{
		SessionID: rq.session.id, CorrID: rq.transmission.CorrID, EntityID: rq.transmission.EntityID,
	}
	return rq.answer.Append(t.Append(nil, rq.version), rq.version) // a response is the end of it
}

func (rq *request) entity() smp.EntityID { return rq.transmission.EntityID.ID() }

// fail sets the answer if there is an error, and reports whether there is.
func (rq *request) fail(err error) bool {
	if err != nil {
		rq.answer = failure(err)
	}
	return err != nil
}

// is reports whether a request has a command of a certain type.
func is[C smp.Command](rq *request) bool {
	_, ok := rq.command.(C)
	return ok
}

// A party is who sends a command.
type party int

const (
	nobody    party = iota // of a queue
	recipient              // by the recipient id of a queue
	sender
	linker // by the id of its link
	notifier
)

// party returns who sends a command about a queue.
func (rq *request) party() party {
	switch rq.command.(type) {
	case *smp.SUB, *smp.KEY, *smp.RKEY, *smp.LSET, *smp.LDEL, *smp.NKEY, *smp.NDEL, *smp.GET, *smp.ACK, *smp.OFF, *smp.DEL, *smp.QUE:
		return recipient
	case *smp.SEND, *smp.SKEY:
		return sender
	case *smp.LKEY, *smp.LGET:
		return linker
	case *smp.NSUB:
		return notifier
	case *smp.NEW, *smp.SUBS, *smp.NSUBS, *smp.PING, *smp.PRXY, *smp.PFWD, *smp.RFWD:
	}
	return nobody
}

// lookUp finds the queues of the requests: those of recipients and those of notifiers
// in one round trip each, the others at the same time.
func (s *session) lookUp(requests []*request) {
	ctx, st := s.router.ctx, s.router.store
	var recipients, notifiers, others []*request
	for _, rq := range requests {
		if rq.answer != nil {
			continue
		}
		switch rq.party() {
		case recipient:
			recipients = append(recipients, rq)
		case notifier:
			notifiers = append(notifiers, rq)
		case sender, linker:
			others = append(others, rq)
		case nobody:
		}
	}
	find(recipients, func(ids []queue.RecipientID) ([]store.Lookup, error) { return st.QueuesByRecipient(ctx, ids) },
		func(id smp.EntityID) queue.RecipientID { return queue.RecipientID{EntityID: id} })
	find(notifiers, func(ids []queue.NotifierID) ([]store.Lookup, error) { return st.QueuesByNotifier(ctx, ids) },
		func(id smp.EntityID) queue.NotifierID { return queue.NotifierID{EntityID: id} })
	together(others, func(rq *request) {
		if rq.party() == sender {
			rq.queue, rq.notFound = st.QueueBySender(ctx, queue.SenderID{EntityID: rq.entity()})
		} else {
			rq.queue, rq.notFound = st.QueueByLink(ctx, queue.LinkID{EntityID: rq.entity()})
		}
	})
}

// find looks up the queues of requests, each id once.
func find[ID comparable](requests []*request, lookUp func([]ID) ([]store.Lookup, error), as func(smp.EntityID) ID) {
	if len(requests) == 0 {
		return
	}
	at := make(map[ID]int, len(requests))
	var ids []ID
	for _, rq := range requests {
		id := as(rq.entity())
		if _, ok := at[id]; !ok {
			at[id] = len(ids)
			ids = append(ids, id)
		}
	}
	lookups, err := lookUp(ids)
	for _, rq := range requests {
		if err != nil {
			rq.notFound = err
			continue
		}
		l := lookups[at[as(rq.entity())]]
		rq.queue, rq.notFound = l.Queue, l.Err
	}
}

// concurrency is how many commands of a block are carried out at the same time.
const concurrency = 32

// together does something with several requests at the same time.
func together(requests []*request, do func(*request)) {
	if len(requests) == 0 {
		return
	}
	var running sync.WaitGroup
	slots := make(chan struct{}, concurrency)
	last := len(requests) - 1
	for _, rq := range requests[:last] {
		slots <- struct{}{}
		running.Go(func() {
			do(rq)
			<-slots
		})
	}
	do(requests[last]) // a single one needs no goroutine
	running.Wait()
}

// countBatch counts blocks with several commands of one party, by the first.
func (s *session) countBatch(requests []*request) {
	if len(requests) < 2 {
		return
	}
	by := requests[0].party()
	for _, rq := range requests {
		if rq.answer == nil && rq.party() != by {
			return
		}
	}
	c := &s.router.counters
	switch first := requests[0]; {
	case is[*smp.SUB](first):
		c.QSubAllB.Add(1)
	case is[*smp.DEL](first):
		c.QDeletedAllB.Add(1)
	case is[*smp.NDEL](first):
		c.NtfDeletedB.Add(1)
	case is[*smp.NSUB](first):
		c.NtfSubB.Add(1)
	}
}

// nextWave divides requests into those that can be carried out at the same time and
// those that have to wait for them, because they are about the same queue. Commands
// of a service about all of its queues wait for all others.
func nextWave(requests []*request) (wave, later []*request) {
	queues := make(map[*store.Queue]struct{}, len(requests))
	for i, rq := range requests {
		if is[*smp.SUBS](rq) || is[*smp.NSUBS](rq) {
			if len(wave) == 0 && len(later) == 0 {
				return requests[i : i+1], requests[i+1:]
			}
			return wave, append(later, requests[i:]...)
		}
		if rq.answer != nil {
			continue
		}
		if rq.queue != nil {
			if _, used := queues[rq.queue]; used {
				later = append(later, rq)
				continue
			}
			queues[rq.queue] = struct{}{}
		}
		wave = append(wave, rq)
	}
	return wave, later
}

// carryOut carries out a wave.
func (s *session) carryOut(wave []*request) {
	ctx := s.router.ctx
	var subscribe, notify, others []*request
	for _, rq := range wave {
		if rq.answer != nil || rq.fail(rq.authorize()) {
			continue
		}
		switch {
		case is[*smp.SUB](rq):
			subscribe = append(subscribe, rq)
		case is[*smp.NSUB](rq):
			notify = append(notify, rq)
		default:
			others = append(others, rq)
		}
	}
	var running sync.WaitGroup
	if len(others) > 0 && len(subscribe)+len(notify) > 0 {
		running.Go(func() { together(others, func(rq *request) { rq.execute(ctx) }) })
	} else {
		together(others, func(rq *request) { rq.execute(ctx) })
	}
	s.inTurn(ctx, subscribe, s.subscribeAll)
	s.inTurn(ctx, notify, s.subscribeNotifiers)
	running.Wait()
}

// inTurn carries out requests that are one command to the limits, when its turn has
// come.
func (s *session) inTurn(ctx context.Context, requests []*request, carryOut func(context.Context, []*request)) {
	if len(requests) == 0 {
		return
	}
	if err := s.router.limits.begin(ctx); err != nil {
		for _, rq := range requests {
			rq.fail(err)
		}
		return
	}
	defer s.router.limits.end()
	carryOut(ctx, requests)
}

// authError returns the protocol's error for one of package auth.
func authError(err error) smp.Error {
	switch {
	case errors.Is(err, auth.ErrAuth):
		return smp.ErrAuth
	case errors.Is(err, auth.ErrService):
		return smp.ErrService
	case errors.Is(err, auth.ErrForm):
		return smp.ErrBlock
	}
	return smp.ErrInternal
}

// execute sets the answer to a command that is authorized, when its turn has come. What
// waits for another router has limits of its own.
func (rq *request) execute(ctx context.Context) {
	if !is[*smp.PRXY](rq) && !is[*smp.PFWD](rq) {
		if rq.fail(rq.session.router.limits.begin(ctx)) {
			return
		}
		defer rq.session.router.limits.end()
	}
	answer, err := rq.run(ctx)
	if !rq.fail(err) {
		rq.answer = answer
	}
}

// run carries a command out. Without answer and error, the answer comes later.
func (rq *request) run(ctx context.Context) (smp.Response, error) {
	s := rq.session
	if err := rq.admit(ctx); err != nil {
		return nil, err
	}
	switch c := rq.command.(type) {
	case *smp.NEW:
		return rq.create(ctx, c)
	case *smp.KEY:
		return rq.secure(ctx, c.SenderKey)
	case *smp.RKEY:
		return rq.replaceKeys(ctx, c.RecipientKeys)
	case *smp.LSET:
		return rq.setLink(ctx, c)
	case *smp.LDEL:
		return rq.deleteLink(ctx)
	case *smp.NKEY:
		return rq.addNotifier(ctx, c.NotifierKeys)
	case *smp.NDEL:
		return rq.deleteNotifier(ctx)
	case *smp.GET:
		return rq.get(ctx)
	case *smp.ACK:
		return rq.acknowledge(ctx, c.MsgID.ID())
	case *smp.OFF:
		return &smp.OK{}, s.router.store.SuspendQueue(ctx, rq.queue)
	case *smp.DEL:
		return rq.delete(ctx)
	case *smp.QUE:
		return rq.info(ctx)
	case *smp.SEND:
		return rq.send(ctx, c)
	case *smp.SKEY:
		return rq.secure(ctx, c.SenderKey)
	case *smp.LKEY:
		if _, err := rq.secure(ctx, c.SenderKey); err != nil {
			return nil, err
		}
		return rq.link(ctx)
	case *smp.LGET:
		return rq.link(ctx)
	case *smp.SUBS:
		return s.subscribeService(ctx, c.Subscribed)
	case *smp.NSUBS:
		return s.subscribeService(ctx, c.Subscribed)
	case *smp.PING:
		return &smp.PONG{}, nil
	case *smp.PRXY:
		return rq.connectRelay(c)
	case *smp.PFWD:
		return rq.forward(c)
	case *smp.SUB, *smp.NSUB, *smp.RFWD: // are carried out elsewhere
	}
	return nil, smp.ErrUnknown
}
