package router

import (
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// A Client is a connection as the operator sees it.
type Client struct {
	Number        int64     // in the order in which clients have connected, from 0 on
	Session       smp.Short // the identifier of the session
	Port          int       // of the router's listener
	Created       time.Time
	Received      time.Time // when the client last sent something; zero: never
	Sent          time.Time // when something was last sent to the client; zero: never
	Subscriptions int       // queues from which it receives, also by GET
}

// Clients returns the clients, in the order in which they have connected.
func (r *Router) Clients() []Client {
	sessions := r.allSessions()
	clients := make([]Client, len(sessions))
	for i, s := range sessions {
		clients[i] = s.client()
	}
	slices.SortFunc(clients, func(a, b Client) int { return int(a.Number - b.Number) })
	return clients
}

func (r *Router) allSessions() []*session {
	r.mu.Lock()
	defer r.mu.Unlock()
	sessions := make([]*session, 0, len(r.sessions))
	for s := range r.sessions {
		sessions = append(sessions, s)
	}
	return sessions
}

func (s *session) client() Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Client{
		Number: s.number, Session: s.id, Port: s.port, Created: s.since,
		Received: unixTime(s.received.Load()), Sent: unixTime(s.sentAt.Load()),
		Subscriptions: s.lists[recipientSide].n + len(s.gets),
	}
}

// unixTime returns the time for Unix seconds, zero for 0.
func unixTime(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// Sockets are the connections that a listener has accepted.
type Sockets struct {
	Port             int
	Accepted, Closed int64
}

// Active returns how many of them are open.
func (s Sockets) Active() int64 { return s.Accepted - s.Closed }

// sockets count the connections of a port.
type sockets struct {
	port             int
	accepted, closed atomic.Int64
}

// socketsOf returns the counters for a listener.
func (r *Router) socketsOf(l net.Listener) *sockets {
	port := 0
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		port = a.Port
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sockets {
		if s.port == port {
			return s
		}
	}
	s := &sockets{port: port}
	r.sockets = append(r.sockets, s)
	return s
}

// Subscriptions say who is subscribed in one of the registries.
type Subscriptions struct {
	Queues        int64   // of clients that are no services
	Clients       []int64 // numbers of those
	AllClients    []int64 // numbers of these and of services
	Services      int64   // with a session that is subscribed
	ServiceQueues int64   // of these services

	// What sessions know: subscriptions, also of services, and how many sessions have
	// any.
	Entries, Holders int64
	Unsent           int64 // groups of transmissions that wait in the output of these
}

// Pending are messages that were delivered and are not acknowledged.
type Pending struct {
	Messages int64
	Clients  int64            // that have any of them
	Ages     [AgeGroups]int64 // of the messages, see [AgeGroup]
	Oldest   int64            // the greatest age, in seconds
}

// AgeGroups is how many groups of ages there are.
const AgeGroups = len(ageLimits) + 1

// ageLimits are the greatest ages in the groups but the last, in seconds.
var ageLimits = [...]int64{60, 300, 1200, 3600}

// AgeGroup returns the number of the group of ages to which an age in seconds belongs:
// up to 60, 300, 1200 and 3600, and more.
func AgeGroup(seconds int64) int {
	i, _ := slices.BinarySearch(ageLimits[:], seconds)
	return i
}

// A State is how much a router is doing at one moment.
type State struct {
	Clients   int64
	Unsent    int64 // groups of transmissions that wait in their outputs
	Sockets   []Sockets
	Recipient Subscriptions // to messages
	Notifier  Subscriptions // to notifications
	Gets      int64         // queues that clients use with GET
	Waiting   int64         // queues with messages that wait for room in an output
	Pending   Pending
}

// State looks at all subscriptions, some at a time.
func (r *Router) State() State {
	var st State
	r.mu.Lock()
	for _, s := range r.sockets {
		closed := s.closed.Load() // before accepted, which is never less
		st.Sockets = append(st.Sockets, Sockets{Port: s.port, Accepted: s.accepted.Load(), Closed: closed})
	}
	r.mu.Unlock()
	now := r.o.Now().Unix()
	holding := make(map[*session]struct{})
	for _, s := range r.allSessions() {
		st.Clients++
		s.addTo(&st, holding, now)
	}
	for _, subs := range []*Subscriptions{&st.Recipient, &st.Notifier} {
		slices.Sort(subs.Clients)
		slices.Sort(subs.AllClients)
	}
	r.recipients.addTo(&st.Pending, holding, now)
	st.Pending.Clients = int64(len(holding))
	return st
}

// addTo adds what a session is subscribed to. Holding gets those with messages that are
// not acknowledged.
func (s *session) addTo(st *State, holding map[*session]struct{}, now int64) {
	var ofService int64
	current := s.service != nil && s.parties.session(s.service.ID) == s
	if current {
		s.parties.mu.Lock()
		ofService = s.serving.Count
		s.parties.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Unsent += int64(len(s.out))
	for i, subs := range [sides]*Subscriptions{recipientSide: &st.Recipient, notifierSide: &st.Notifier} {
		n := int64(s.lists[i].n)
		subs.Entries += n
		if n > 0 {
			subs.Holders++
			subs.Unsent += int64(len(s.out))
		}
		switch {
		case current && s.parties.side() == side(i):
			subs.Services++
			subs.ServiceQueues += ofService
		case s.service == nil && n > 0:
			subs.Queues += n
			subs.Clients = append(subs.Clients, s.number)
		default:
			continue
		}
		subs.AllClients = append(subs.AllClients, s.number)
	}
	st.Waiting += int64(len(s.waiting))
	st.Gets += int64(len(s.gets))
	for _, e := range s.gets {
		if !e.inFlight.IsZero() {
			st.Pending.add(now - e.since)
			holding[s] = struct{}{}
		}
	}
}

// side returns in which registry the queues of the services are.
func (v *services) side() side {
	if v.role == queue.RoleNotifier {
		return notifierSide
	}
	return recipientSide
}

func (g *registry) addTo(p *Pending, holding map[*session]struct{}, now int64) {
	for i := range g.shards {
		h := &g.shards[i]
		h.mu.Lock()
		for _, sub := range h.subs {
			if !sub.inFlight.IsZero() {
				p.add(now - sub.since)
				holding[sub.session] = struct{}{}
			}
		}
		h.mu.Unlock()
	}
}

func (p *Pending) add(age int64) {
	age = max(age, 0) // the clock was put back
	p.Messages++
	p.Ages[AgeGroup(age)]++
	p.Oldest = max(p.Oldest, age)
}
