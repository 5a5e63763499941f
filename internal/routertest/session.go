package routertest

import (
	"errors"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/transport"
)

// A session is the connection of one client. One goroutine reads and handles
// commands, one writes.
type session struct {
	// Set before the goroutines start, then read-only.
	router   *Router
	conn     *transport.Conn
	version  smp.Version
	verifier *auth.Verifier // of the goroutine that reads
	service  *service       // nil in ordinary sessions
	wake     chan struct{}  // tells write that there is something to send
	done     chan struct{}  // closed when the session ends

	// Guarded by Router.mu.
	out     [][]byte          // transmissions to be sent
	later   [][]byte          // to be sent after the answers to the present block
	entries map[*inbox]*entry // the queues of which messages are delivered here
	all     bool              // subscribed with SUBS or NSUBS
}

// An entry says how messages of a queue are delivered to a session.
type entry struct {
	get      bool         // by GET; otherwise by subscription
	inFlight smp.EntityID // the message that is not yet acknowledged, or zero
}

func newSession(r *Router, conn *transport.Conn) *session {
	return &session{
		router:   r,
		conn:     conn,
		version:  conn.Session().Version,
		verifier: conn.Session().Verifier(),
		wake:     make(chan struct{}, 1),
		done:     make(chan struct{}),
		entries:  make(map[*inbox]*entry),
	}
}

// A request is a transmission that was received.
type request struct {
	session      *session
	version      smp.Version
	verifier     *auth.Verifier
	service      *service // whose command it is, or nil
	transmission smp.Transmission
	command      smp.Command
	answer       smp.Response // if the command needs no handling any more
	drop         bool         // there shall be no answer
	forwarded    *forwarded   // what is in RFWD
}

// read handles what the client sends until the connection ends.
func (s *session) read() {
	for {
		content, err := s.conn.Receive(nil) // what is parsed aliases it
		var requests []*request
		switch {
		case err == nil:
			requests = s.split(content)
		case errors.Is(err, smp.ErrTransportBlock):
			requests = []*request{{session: s, version: s.version, answer: failure(smp.ErrBlock)}}
		default:
			return
		}
		if !s.router.handle(s, requests) {
			return
		}
	}
}

func (s *session) split(content []byte) []*request {
	transmissions, err := smp.SplitContent(nil, content)
	if err != nil {
		return []*request{{session: s, version: s.version, answer: failure(smp.ErrBlock)}}
	}
	var requests []*request
	for _, in := range transmissions {
		rq := &request{session: s, version: s.version, verifier: s.verifier, service: s.service}
		rq.parse(in)
		if c, ok := rq.command.(*smp.RFWD); ok && rq.answer == nil && !rq.drop {
			if err := rq.open(c); err != nil {
				rq.answer = failure(err)
			}
		}
		requests = append(requests, rq)
	}
	return requests
}

// parse sets what is in a transmission, and the answer if that is an error or
// one of the test.
func (rq *request) parse(in []byte) {
	err := rq.parseCommand(in)
	if err != nil {
		rq.answer = failure(err)
		return
	}
	if answer := rq.session.router.options.Answer; answer != nil {
		rq.answer, rq.drop = answer(rq.command, &rq.transmission)
	}
}

func (rq *request) parseCommand(in []byte) error {
	t, err := smp.ParseTransmission(in, rq.version)
	if err != nil {
		return smp.ErrBlock
	}
	rq.transmission.CorrID = t.CorrID
	if rq.version < smp.VersionSessionKeys && !t.SessionID.Equal(rq.session.conn.Session().ID) {
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

// handle answers the requests of a block in their order. It reports whether the
// session goes on.
func (r *Router) handle(s *session, requests []*request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.sessions[s]; !ok {
		return false
	}
	for _, rq := range requests {
		if answer := r.respond(rq); answer != nil {
			s.respond(rq, answer)
		}
	}
	s.out = append(s.out, s.later...)
	s.later = nil
	return true
}

// respond returns the answer to a request; nil if there is none, or not yet.
func (r *Router) respond(rq *request) smp.Response {
	switch {
	case rq.drop:
		return nil
	case rq.answer != nil:
		return rq.answer
	}
	answer, err := r.execute(rq)
	if err != nil {
		return failure(err)
	}
	return answer
}

func failure(err error) *smp.ERR {
	if e, ok := errors.AsType[smp.Error](err); ok {
		return &smp.ERR{Err: e}
	}
	switch {
	case errors.Is(err, auth.ErrAuth):
		return &smp.ERR{Err: smp.ErrAuth}
	case errors.Is(err, auth.ErrService):
		return &smp.ERR{Err: smp.ErrService}
	}
	return &smp.ERR{Err: smp.ErrInternal}
}

// needs refuses what services with another role must not do.
func (rq *request) needs(role queue.Role) error {
	if rq.service != nil && rq.service.role != role {
		return smp.ErrProhibited
	}
	return nil
}

func (rq *request) verify(rule auth.Rule, keys ...smp.PublicKey) error {
	return rq.verifier.Verify(&rq.transmission, rule, keys...)
}

// respond sends the answer to a request. Router.mu must be held, as in the next
// methods.
func (s *session) respond(rq *request, answer smp.Response) {
	s.out = append(s.out, rq.encode(answer))
	s.alert()
}

// event sends what nobody asked for.
func (s *session) event(entity smp.Short, event smp.Response) {
	s.out = append(s.out, s.encode(entity, event))
	s.alert()
}

// eventLater is event behind the answers to the block whose commands are handled.
func (s *session) eventLater(entity smp.Short, event smp.Response) {
	s.later = append(s.later, s.encode(entity, event))
}

func (s *session) encode(entity smp.Short, event smp.Response) []byte {
	rq := request{session: s, version: s.version, transmission: smp.Transmission{EntityID: entity}}
	return rq.encode(event)
}

// encode returns the transmission that answers rq.
func (rq *request) encode(answer smp.Response) []byte {
	t := smp.Transmission{
		SessionID: rq.session.conn.Session().ID,
		CorrID:    rq.transmission.CorrID,
		EntityID:  rq.transmission.EntityID,
		Command:   answer.Append(nil, rq.version),
	}
	return t.Append(nil, rq.version)
}

func (s *session) alert() {
	select {
	case s.wake <- struct{}{}:
	default: // it is awake
	}
}

// write sends what there is to send, in as few blocks as have room for it.
func (s *session) write() {
	for {
		select {
		case <-s.done:
			return
		case <-s.wake:
		}
		s.router.mu.Lock()
		out := s.out
		s.out = nil
		s.router.mu.Unlock()
		if err := s.send(out); err != nil {
			_ = s.conn.Close()
			return
		}
	}
}

func (s *session) send(transmissions [][]byte) error {
	var block smp.Batch
	for _, t := range transmissions {
		if added, err := block.Add(t); added || err != nil {
			continue // what is too large for a block is not sent, as real routers do
		}
		if err := s.conn.Send(block.Content()); err != nil {
			return err
		}
		block.Reset()
		_, _ = block.Add(t) // there is room
	}
	if block.Len() == 0 {
		return nil
	}
	return s.conn.Send(block.Content())
}
