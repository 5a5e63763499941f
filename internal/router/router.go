package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/transport"
)

// A Router serves clients of the protocol. It must be stopped with
// [Router.Shutdown].
type Router struct {
	// Set by New, then read-only.
	o        Options
	store    Store
	log      *slog.Logger
	acceptor *transport.Acceptor

	counters      Counters
	recipients    *registry // who is subscribed to messages
	notifiers     *registry // who is subscribed to notifications
	associations  stripes   // held while it is settled which service a queue has
	rcvServices   *services
	ntfServices   *services
	notifications notifications
	relays        relays
	limits        *limiter
	changes       changes
	numbers       atomic.Int64 // of clients

	// Two contexts: that of what may be given up when the router stops, and that of
	// commands, which are carried out to the end if the time suffices.
	stopping context.Context
	stop     context.CancelFunc
	ctx      context.Context
	abort    context.CancelCauseFunc

	loops       sync.WaitGroup // goroutines of the router itself
	connections sync.WaitGroup // one goroutine for each connection

	mu       sync.Mutex // guards what follows
	sessions map[*session]struct{}
	ending   map[*session]struct{} // those to be told of an end
	sockets  []*sockets
}

var (
	// ErrStopped is why a router that is being stopped accepts nothing more.
	ErrStopped = errors.New("the router is stopped")

	errNoTime = errors.New("the router had no more time to stop")
)

// New returns a router that serves nobody yet. It fails if clients would refuse its
// certificates, or the notification log cannot be read; single lines of that which
// cannot be read are logged and left out.
func New(o Options) (*Router, error) {
	o.setDefaults()
	r := &Router{
		o: o, store: o.Store, log: o.Log,
		recipients: newRegistry(recipientSide, o.Now), notifiers: newRegistry(notifierSide, o.Now),
		sessions: make(map[*session]struct{}), ending: make(map[*session]struct{}),
		limits:  newLimiter(o.Limits),
		changes: changes{news: make(chan struct{}, 1)},
	}
	r.rcvServices = newServices(queue.PartyRecipient, queue.RoleMessaging, &r.counters.RcvServices)
	r.ntfServices = newServices(queue.PartyNotifier, queue.RoleNotifier, &r.counters.NtfServices)
	config := transport.AcceptorConfig{
		Credentials: o.Credentials, Versions: o.Versions, TLS: o.TLS,
		TLSTimeout: o.TLSTimeout, HandshakeTimeout: o.HandshakeTimeout, BlockTimeout: o.BlockTimeout, CloseTimeout: o.CloseTimeout,
	}
	if !o.NoServices {
		config.Service = r.takeService
	}
	var err error
	if r.acceptor, err = transport.NewAcceptor(config); err != nil {
		return nil, fmt.Errorf("router: %w", err)
	}
	if err := r.restoreNotifications(); err != nil {
		return nil, fmt.Errorf("router: restore notifications: %w", err)
	}
	r.stopping, r.stop = context.WithCancel(context.Background())
	r.ctx, r.abort = context.WithCancelCause(context.Background())
	r.loops.Go(r.followChanges)
	o.Store.OnChange(r.changed)
	r.every(failureInterval, (&failures{router: r}).log)
	r.every(o.EndInterval, r.flushEnds)
	r.every(o.NotifyInterval, r.deliverNotifications)
	r.every(min(o.NotificationExpireInterval, o.NotificationTTL), r.expireNotifications)
	if o.NotificationLog != "" {
		r.every(o.SaveInterval, r.saveNotifications)
	}
	if o.ExpireOnStart {
		r.loops.Go(r.expire)
	}
	r.every(o.ExpireInterval, r.expire)
	r.every(o.Proxy.CheckInterval, r.checkRelays)
	if o.InactiveTTL > 0 {
		r.every(o.InactiveCheck, r.closeInactive)
	}
	return r, nil
}

// every does something again and again until the router stops.
func (r *Router) every(interval time.Duration, do func()) {
	r.loops.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				do()
			case <-r.stopping.Done():
				return
			}
		}
	})
}

// Identity returns the fingerprint by which addresses name the router.
func (r *Router) Identity() smp.Fingerprint { return r.acceptor.Identity() }

// SetCredentials replaces the certificates and the key while the router serves.
// Connections that there are go on with those that they began with. It fails, and
// changes nothing, if clients would refuse the certificates, or if they are those of
// another router.
func (r *Router) SetCredentials(c transport.Credentials) error {
	if err := r.acceptor.SetCredentials(c); err != nil {
		return fmt.Errorf("router: %w", err)
	}
	return nil
}

// Counters returns the counters of the router.
func (r *Router) Counters() *Counters { return &r.counters }

// storeTimeout is how long the router itself waits for the store.
const storeTimeout = 10 * time.Second

// join adds a session, unless the router stops.
func (r *Router) join(s *session) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping.Err() != nil {
		return false
	}
	r.sessions[s] = struct{}{}
	return true
}

// leave removes a session that has ended, and its subscriptions.
func (r *Router) leave(s *session) {
	r.recipients.leave(s)
	r.notifiers.leave(s)
	r.resign(s)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sessions, s)
	delete(r.ending, s)
}

// Shutdown stops the router: it accepts nothing more, finishes the commands that it
// has received, sends the answers and closes the connections. It returns the error
// of ctx if that ends before, with all connections closed all the same. At last, it
// saves the notifications.
func (r *Router) Shutdown(ctx context.Context) error {
	r.mu.Lock()
	r.stop()
	for s := range r.sessions {
		s.drain()
	}
	r.mu.Unlock()
	done := make(chan struct{})
	go func() {
		r.connections.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = fmt.Errorf("stop the router: %w", context.Cause(ctx))
		r.abort(errNoTime)
		var closing sync.WaitGroup // each may take a while
		r.mu.Lock()
		for s := range r.sessions {
			closing.Go(func() { _ = s.conn.Close() })
		}
		r.mu.Unlock()
		closing.Wait()
		<-done
	}
	r.abort(ErrStopped)
	r.relays.tasks.Wait()
	r.loops.Wait()
	r.store.OnChange(nil)
	if r.o.NotificationLog != "" {
		if saving := r.writeNotifications(); saving != nil {
			err = errors.Join(err, fmt.Errorf("save notifications: %w", saving))
		}
	}
	return err
}

// closeInactive closes connections that are of no use.
func (r *Router) closeInactive() {
	before := r.o.Now().Add(-r.o.InactiveTTL).Unix()
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.sessions {
		if s.inactive(before) {
			s.drain()
		}
	}
}

// today returns the present day as queues have it.
func (r *Router) today() int64 {
	return r.o.Now().Unix() / queue.SecondsPerDay * queue.SecondsPerDay
}

// failure returns the answer for an error. What is the matter with the store stays
// in its log.
func failure(err error) *smp.ERR { return &smp.ERR{Err: protocolError(err)} }

// errStore is what clients are told when the database fails.
var errStore = smp.StoreError{Text: "the store failed"}

// withoutIDs returns an error for the log without what it was about: that has ids, which
// are logged at debug only.
func withoutIDs(err error) error {
	if e, ok := errors.AsType[*store.Error](err); ok {
		return e.Err
	}
	return err
}

func protocolError(err error) smp.Error {
	if e, ok := errors.AsType[smp.Error](err); ok {
		return e
	}
	if err, ok := errors.AsType[*store.Error](err); ok {
		switch err.Code {
		case store.CodeAuth, store.CodeDuplicate:
			return smp.ErrAuth
		case store.CodeNoMessage:
			return smp.ErrNoMsg
		case store.CodeQuota:
			return smp.ErrQuota
		case store.CodeService:
			return smp.ErrService
		case store.CodeStore:
			return errStore
		case store.CodeInternal:
		}
		return smp.ErrInternal
	}
	return authError(err)
}
