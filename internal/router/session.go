package router

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/transport"
)

// A session is the connection of one client. One goroutine reads and has commands
// carried out, one writes; for what is left in queues for want of room, or walked
// through for a service, there is one more each, as long as it is needed, and one for
// each command that is answered later.
type session struct {
	// Set by newSession, then read-only.
	router   *Router
	conn     *transport.Conn
	id       smp.Short
	version  smp.Version
	verifier *auth.Verifier     // of the goroutine that reads
	service  *transport.Service // nil in ordinary sessions
	parties  *services          // of the role of the service; nil in ordinary sessions
	number   int64              // of the client
	port     int                // of the listener
	since    time.Time          // connected

	ctx      context.Context // ends with the session
	cancel   context.CancelFunc
	tasks    sync.WaitGroup
	lastUsed atomic.Int64  // Unix seconds
	received atomic.Int64  // when, in Unix seconds; 0: never
	sentAt   atomic.Int64  // as above
	slots    chan struct{} // one for each command that is answered later

	mu        sync.Mutex // guards what follows, and the links of its subscriptions
	changed   sync.Cond  // told when any of it changes that somebody waits for
	out       []group    // what is to be sent
	size      int        // bytes of it, of what is being sent, and of what is reserved
	busy      bool       // a block is being carried out
	deferred  int        // commands that are answered later
	draining  bool       // no other block shall be
	finished  bool       // all is sent, and the client is to close the connection
	ended     bool
	lists     [sides]list
	displaced bool            // another session of the service has taken its place
	fetching  bool            // see fetch
	waiting   []*subscription // those with messages that were left in their queues
	later     []event         // until the next flush
	gets      map[smp.EntityID]*got

	// Guarded by the mutex of parties.
	serving serving

	// Guarded by the mutex of the limiter.
	created bucket // queues
}

// A group is encoded transmissions that share blocks with no others.
type group [][]byte

func (g group) size() (n int) {
	for _, t := range g {
		n += len(t)
	}
	return n
}

// An event is what a client is told without having asked.
type event struct {
	entity   smp.EntityID
	response smp.Response
}

func newSession(r *Router, conn *transport.Conn) *session {
	about := conn.Session()
	s := &session{
		router: r, conn: conn, id: about.ID, version: about.Version,
		verifier: about.Verifier(), service: about.Service,
		slots:  make(chan struct{}, r.o.Proxy.Concurrency),
		number: r.numbers.Add(1) - 1, since: r.o.Now(),
	}
	if s.service != nil {
		s.parties = r.servicesOf(s.service.Role)
	}
	s.changed.L = &s.mu
	s.ctx, s.cancel = context.WithCancel(r.ctx)
	s.used()
	return s
}

// run serves the client until the connection ends.
func (s *session) run() {
	s.tasks.Go(s.write)
	s.read()
	s.cancel()
	s.mu.Lock()
	s.ended = true
	s.changed.Broadcast()
	s.mu.Unlock()
	_ = s.conn.Close() // a write that is under way ends
	s.tasks.Wait()
}

func (s *session) used() { s.lastUsed.Store(s.router.o.Now().Unix()) }

// read carries out what the client sends until the connection ends. What comes after
// the session was told to end is thrown away.
func (s *session) read() {
	for s.hasRoom() {
		content, err := s.conn.Receive(nil) // what is parsed aliases it
		s.used()
		s.received.Store(s.lastUsed.Load())
		if err != nil && !errors.Is(err, smp.ErrTransportBlock) {
			if !errors.Is(err, io.EOF) {
				s.router.log.LogAttrs(s.ctx, slog.LevelDebug, "a connection ended", slog.Any("error", err))
			}
			return
		}
		if !s.begin() {
			continue // until the answers to earlier blocks are sent, and the client has seen it
		}
		if err != nil {
			s.put(group{s.encode(smp.Short{}, smp.Short{}, failure(smp.ErrBlock))})
		} else {
			s.aside(func() { s.handle(content) })
		}
		s.finish()
	}
}

// aside does something in a goroutine of its own, and waits for it. What a goroutine
// once needed of its stack it keeps for long; those that read are idle most of the time.
func (*session) aside(do func()) {
	var done sync.WaitGroup
	done.Go(do)
	done.Wait()
}

// begin reports whether another block may be carried out.
func (s *session) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = !s.draining
	return s.busy
}

// finish is for the end of what begin has begun.
func (s *session) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = false
	s.changed.Broadcast()
}

// drain lets the session end when it has answered what it is carrying out, and the
// client has taken note.
func (s *session) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	s.changed.Broadcast()
}

// write sends what there is to be sent until the connection ends, or the session was
// told to.
func (s *session) write() {
	for {
		g, ok := s.next()
		if !ok {
			_ = s.conn.CloseWrite() // if it has not ended: the client is to close it
			return
		}
		if err := s.send(g); err != nil {
			s.router.log.LogAttrs(s.ctx, slog.LevelDebug, "a block cannot be sent", slog.Any("error", err))
			_ = s.conn.Close() // it is of no more use
			s.cancel()
			s.mu.Lock()
			s.changed.Broadcast() // nobody has to wait for room any more
			s.mu.Unlock()
			return
		}
		s.used()
		s.sentAt.Store(s.lastUsed.Load())
		s.sent(g.size())
	}
}

// next waits for something to be sent. It reports false if nothing will be.
func (s *session) next() (group, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.out) == 0 && !s.ended && (!s.draining || s.busy || s.deferred > 0) {
		s.changed.Wait()
	}
	if len(s.out) == 0 || s.ended {
		s.finished = true
		s.changed.Broadcast()
		return nil, false
	}
	g := s.out[0]
	if s.out = s.out[1:]; len(s.out) == 0 {
		s.out = nil
	}
	return g, true
}

// batches has memory for blocks in the making. Sessions have none of their own, as
// most of them are idle most of the time.
var batches = sync.Pool{New: func() any { return new(smp.Batch) }}

// send sends the transmissions of a group in as few blocks as have room for them.
func (s *session) send(g group) error {
	batch, _ := batches.Get().(*smp.Batch)
	defer batches.Put(batch)
	batch.Reset()
	for _, t := range g {
		added, err := batch.Add(t)
		if err == nil && !added {
			if err := s.conn.Send(batch.Content()); err != nil {
				return err
			}
			batch.Reset()
			_, err = batch.Add(t)
		}
		if err != nil {
			s.router.log.LogAttrs(s.ctx, slog.LevelWarn, "an answer does not fit into a block", slog.Int("bytes", len(t)))
		}
	}
	if batch.Len() == 0 {
		return nil
	}
	return s.conn.Send(batch.Content())
}

func (s *session) sent(size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size -= size
	s.fetchIfRoom()
	s.changed.Broadcast()
}

// hasRoom waits until there is room in the output. It reports false when the session
// has ended.
func (s *session) hasRoom() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.full() && !s.finished && s.ctx.Err() == nil {
		s.changed.Wait()
	}
	return s.ctx.Err() == nil
}

// full reports whether the output takes nothing more for the time being. The mutex
// must be held, as in the next methods.
func (s *session) full() bool { return s.finished || s.size >= s.router.o.Output }

func (s *session) putLocked(g group, reserved int) {
	s.out = append(s.out, g)
	s.size += g.size() - reserved
	s.changed.Broadcast()
}

// fits reports whether there is room for a number of bytes. In an empty output there
// always is.
func (s *session) fits(size int) bool {
	return !s.finished && (s.size == 0 || s.size+size <= s.router.o.Output)
}

// put sends a group, whether there is room or not.
func (s *session) put(g group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.putLocked(g, 0)
}

// putReserved sends a group for a part of which there is a reservation.
func (s *session) putReserved(g group, reserved int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.putLocked(g, reserved)
}

// offer sends a group if there is room.
func (s *session) offer(g group) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.fits(g.size()) {
		return false
	}
	s.putLocked(g, 0)
	return true
}

// reserve is offer for what is put later.
func (s *session) reserve(size int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.fits(size) {
		return false
	}
	s.size += size
	return true
}

// encode returns a transmission for the client.
func (s *session) encode(corrID, entity smp.Short, r smp.Response) []byte {
	t := smp.Transmission{SessionID: s.id, CorrID: corrID, EntityID: entity}
	return r.Append(t.Append(nil, s.version), s.version) // a response is the end of it
}

// encodeEvent is encode for events.
func (s *session) encodeEvent(e event) []byte {
	entity, _ := e.entity.Short() // it came in a block, or this router made it
	return s.encode(smp.Short{}, entity, e.response)
}

// tell gathers an event for the next flush.
func (s *session) tell(entity smp.EntityID, r smp.Response) {
	s.mu.Lock()
	s.later = append(s.later, event{entity, r})
	s.mu.Unlock()
	s.router.mu.Lock()
	defer s.router.mu.Unlock()
	if _, open := s.router.sessions[s]; open {
		s.router.ending[s] = struct{}{}
	}
}

// flushEnds sends what [session.tell] has gathered. What does not fit stays for the
// next time.
func (r *Router) flushEnds() {
	r.mu.Lock()
	ending := r.ending
	r.ending = make(map[*session]struct{})
	r.mu.Unlock()
	for s := range ending {
		if !s.flush() {
			r.mu.Lock()
			if _, open := r.sessions[s]; open {
				r.ending[s] = struct{}{}
			}
			r.mu.Unlock()
		}
	}
}

func (s *session) flush() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.full() {
		return len(s.later) == 0
	}
	n := int64(len(s.later))
	g := make(group, n)
	for i, e := range s.later {
		g[i] = s.encodeEvent(e)
	}
	s.later = nil
	if n > 0 {
		s.putLocked(g, 0)
		s.router.counters.QSubEnd.Add(n)
		s.router.counters.QSubEndB.Add(n/smp.MaxTransmissions + 1)
	}
	return true
}

// inactive reports whether the session is of no use since a Unix time.
func (s *session) inactive(since int64) bool {
	s.mu.Lock()
	idle := !s.busy && s.deferred == 0 && s.size == 0
	s.mu.Unlock()
	return idle && s.lastUsed.Load() < since && !s.subscribed()
}

// subscribed reports whether anything is delivered to the session.
func (s *session) subscribed() bool {
	s.mu.Lock()
	subscribed := s.lists[recipientSide].n > 0 || s.lists[notifierSide].n > 0
	s.mu.Unlock()
	return subscribed || s.service != nil && s.parties.session(s.service.ID) == s
}
