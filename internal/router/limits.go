package router

import (
	linked "container/list"
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/smpq/smpq/internal/smp"
)

// Limits protect a router from those who use too much of it. What is zero has no
// limit, as in the reference implementation, which knows none of these.
//
// An address is an IPv4 address or an IPv6 network of 64 bits, which is what a
// subscriber has. The limits of an address do not count for this machine's own:
// an onion service, or a proxy in front of the router, connects from there on behalf
// of everybody.
type Limits struct {
	// Connections is how many there may be at a time, those included that are still in
	// their handshakes. Others are closed at once.
	Connections int
	// ConnectionsPerAddress is how many there may be at a time from one address.
	// Others are closed at once.
	ConnectionsPerAddress int
	// Handshakes is how often a handshake may begin. Other connections wait, and
	// behind them those that the system has not yet handed over.
	Handshakes Rate
	// HandshakesPerAddress is how often one may begin with the same address. Other
	// connections are closed at once.
	HandshakesPerAddress Rate
	// NewQueues is how often a queue may be created. Clients are told that the store
	// failed: so they try again later.
	NewQueues Rate
	// NewQueuesPerClient is how often one connection may create a queue.
	NewQueuesPerClient Rate
	// Commands is how many commands are carried out at a time, those of a block that
	// subscribe counting as one. Others wait.
	Commands int
}

// A Rate is how often something may happen: as often as it says at once, and then
// again as often in each period, evenly spread. The zero Rate is no limit.
type Rate struct {
	Count  int
	Period time.Duration
}

// A bucket says how much of a [Rate] is used up: all that is not, when the moment has
// come that it holds.
type bucket struct{ until time.Time }

// next returns how long to wait until b can be used once more, and what it is then.
func (b *bucket) next(r Rate, now time.Time) (wait time.Duration, after bucket) {
	if r.Count == 0 {
		return 0, *b
	}
	after.until = now
	if b.until.After(now) {
		after.until = b.until
	}
	after.until = after.until.Add(r.Period / time.Duration(r.Count))
	return after.until.Sub(now) - r.Period, after
}

// take uses b once more, if it need not wait.
func (b *bucket) take(r Rate, now time.Time) bool {
	wait, after := b.next(r, now)
	if wait > 0 {
		return false
	}
	*b = after
	return true
}

// reserve uses b once more, and returns how long to wait before.
func (b *bucket) reserve(r Rate, now time.Time) time.Duration {
	wait, after := b.next(r, now)
	*b = after
	return max(wait, 0)
}

// A limiter keeps account of what [Limits] limit.
type limiter struct {
	Limits

	commands chan struct{} // one for each that is carried out; nil: no limit

	mu         sync.Mutex // guards what follows, and what is created by sessions
	open       int        // connections
	handshakes bucket
	newQueues  bucket
	addresses  map[netip.Prefix]*address
	unused     linked.List // those addresses without connections, in the order in which they became so
}

// An address is what is known of one as long as it matters.
type address struct {
	network    netip.Prefix
	open       int
	handshakes bucket
	unused     *linked.Element // in the list of such; nil: there are connections
}

// maxUnused is how many addresses without connections are remembered: beyond, the
// first ones are forgotten, and may connect as if they had not before. It takes some
// 20 MB.
const maxUnused = 1 << 16

func newLimiter(l Limits) *limiter {
	k := &limiter{Limits: l, addresses: make(map[netip.Prefix]*address)}
	if l.Commands > 0 {
		k.commands = make(chan struct{}, l.Commands)
	}
	return k
}

// admit takes account of a new connection, and reports whether it is within the
// limits. If it is, release must be called when it has ended.
func (l *limiter) admit(from net.Addr, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(now)
	if l.Connections > 0 && l.open >= l.Connections {
		return false
	}
	if a := l.address(from); a != nil {
		if l.ConnectionsPerAddress > 0 && a.open >= l.ConnectionsPerAddress || !a.handshakes.take(l.HandshakesPerAddress, now) {
			return false
		}
		if a.unused != nil {
			l.unused.Remove(a.unused)
			a.unused = nil
		}
		a.open++
	}
	l.open++
	return true
}

// release is for the end of a connection that was admitted.
func (l *limiter) release(from net.Addr, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if a := l.address(from); a != nil {
		if a.open--; a.open == 0 {
			a.unused = l.unused.PushBack(a)
		}
	}
	l.forget(now)
}

// address returns what is known of an address, nil if that does not matter. What was
// not known is neither open nor among the unused, so one of both has to follow. The
// mutex must be held, as in forget.
func (l *limiter) address(from net.Addr) *address {
	if l.ConnectionsPerAddress == 0 && l.HandshakesPerAddress.Count == 0 {
		return nil
	}
	network, ok := networkOf(from)
	if !ok {
		return nil
	}
	a := l.addresses[network]
	if a == nil {
		a = &address{network: network}
		l.addresses[network] = a
	}
	return a
}

// forget removes addresses of which nothing has to be remembered any more. One may
// stay for the sake of another before it, but no longer than a period.
func (l *limiter) forget(now time.Time) {
	for first := l.unused.Front(); first != nil; first = l.unused.Front() {
		a, ok := first.Value.(*address)
		if ok && l.unused.Len() <= maxUnused && a.handshakes.until.After(now) {
			return
		}
		l.unused.Remove(first)
		if ok {
			delete(l.addresses, a.network)
		}
	}
}

// networkOf returns what counts as one address, ok being false if nothing does.
func networkOf(from net.Addr) (network netip.Prefix, ok bool) {
	tcp, ok := from.(*net.TCPAddr)
	if !ok {
		return network, false
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	if !ip.IsValid() || ip.IsLoopback() {
		return network, false
	}
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	network, err := ip.Prefix(bits)
	return network, err == nil
}

// handshake takes account of a handshake, and returns how long to wait before.
func (l *limiter) handshake(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.handshakes.reserve(l.Handshakes, now)
}

// errNewQueues is what clients are told when there are too many new queues. It lets
// them try again later, unlike AUTH.
var errNewQueues = smp.StoreError{Text: "too many new queues, try again later"}

// newQueue takes account of a queue that a session creates, if it is within the
// limits.
func (l *limiter) newQueue(s *session, now time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	wait, after := s.created.next(l.NewQueuesPerClient, now)
	if wait > 0 || !l.newQueues.take(l.NewQueues, now) {
		return errNewQueues
	}
	s.created = after
	return nil
}

// begin waits until a command may be carried out, at the end of which end must be
// called.
func (l *limiter) begin(ctx context.Context) error {
	if l.commands == nil {
		return nil
	}
	select {
	case l.commands <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *limiter) end() {
	if l.commands != nil {
		<-l.commands
	}
}
