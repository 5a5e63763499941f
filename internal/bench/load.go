package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/smp"
)

// Options say what load there is.
type Options struct {
	// Router is the address of the router, with its password if it has one.
	Router *smp.RouterAddress
	// Connections is how many connections there are.
	Connections int
	// Queues is how many queues each connection has.
	Queues int
	// Size is the length of messages in bytes; 0: [FullMessage].
	Size int
	// Rate is how many messages are due in a second, over all connections. 0: a
	// closed loop.
	Rate float64
	// Progress is told how far it is.
	Progress Progress
}

// FullMessage is the size of the messages of clients, which pad all of them, in
// bytes.
const FullMessage = 16000

// A Progress is told what is being done, and how far it is.
type Progress interface {
	Phase(name string, total int64, unit string)
	Add(n int64)
}

// A Load is connections to a router, and the queues that they have made there. It must
// be closed.
type Load struct {
	o    Options
	body []byte

	conns    []*connection
	ctx      context.Context // ends with all that waits for the router
	cancel   context.CancelFunc
	readers  sync.WaitGroup
	senders  sync.WaitGroup
	stopping context.Context // ends the sending; set by Start, as is stop
	stop     context.CancelFunc
	origin   time.Time
	alive    atomic.Int64  // connections that are not lost
	lost     chan struct{} // closed when all are

	mu     sync.Mutex // guards what follows
	taken  time.Time  // when figures was begun
	figure *Figures
}

// setupConcurrency is how many connections are made, or busy with queues, at a time.
const setupConcurrency = 32

// Limits of time, such that a slow router under load does not reach them.
const (
	setupTimeout = time.Minute     // for a batch of commands
	closeTimeout = 2 * time.Minute // for the deletion of all queues
)

// Open connects to a router and makes the queues, to which it is subscribed. If that
// fails, or ctx ends, nothing is left of it.
func Open(ctx context.Context, o Options) (*Load, error) {
	l, err := dial(ctx, o)
	if err == nil {
		if err = l.create(ctx, o.Queues, true); err != nil {
			err = errors.Join(err, l.Close(ctx))
		}
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

// dial makes the connections.
func dial(ctx context.Context, o Options) (*Load, error) {
	if o.Size == 0 {
		o.Size = FullMessage
	}
	l := &Load{o: o, body: make([]byte, o.Size), conns: make([]*connection, o.Connections), origin: time.Now(), lost: make(chan struct{}), figure: newFigures()}
	_, _ = rand.Read(l.body) // it never fails
	l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	o.Progress.Phase("connecting", int64(o.Connections), "connections")
	err := parallel(len(l.conns), func(i int) error {
		c, err := client.Dial(ctx, o.Router, client.Options{})
		if err != nil {
			return err
		}
		l.conns[i] = &connection{load: l, client: c}
		o.Progress.Add(1)
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect: %w", err), l.Close(ctx))
	}
	for i, c := range l.conns {
		c.next = l.conns[(i+1)%len(l.conns)]
	}
	return l, nil
}

// create makes n more queues for each connection.
func (l *Load) create(ctx context.Context, n int, subscribe bool) error {
	l.o.Progress.Phase("creating queues", int64(n*len(l.conns)), "queues")
	err := parallel(len(l.conns), func(i int) error { return l.conns[i].create(ctx, n, subscribe) })
	if err != nil {
		return fmt.Errorf("create queues: %w", err)
	}
	return nil
}

// subscribe subscribes each connection to all of its queues.
func (l *Load) subscribe(ctx context.Context) error {
	l.o.Progress.Phase("subscribing", int64(len(l.conns)), "connections")
	err := parallel(len(l.conns), func(i int) error {
		l.o.Progress.Add(1)
		return l.conns[i].forAll(ctx, l.conns[i].inbox, &smp.SUB{})
	})
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	return nil
}

// Start begins to send. It may be called once.
func (l *Load) Start() { l.start(0) }

// sendOne sends one message from each connection, in place of Start and Stop.
func (l *Load) sendOne(ctx context.Context) error {
	l.start(1)
	defer context.AfterFunc(ctx, l.cancel)()
	l.senders.Wait()
	if n := l.Stop(ctx); n > 0 {
		return fmt.Errorf("%d messages were not delivered and acknowledged: %w", n, context.Cause(ctx))
	}
	return nil
}

// start begins to send, as many messages from each connection; 0: any number.
func (l *Load) start(messages int64) {
	l.stopping, l.stop = context.WithCancel(l.ctx)
	l.alive.Store(int64(len(l.conns)))
	for _, c := range l.conns {
		queues := make(map[smp.EntityID]*mailbox, len(c.inbox))
		for _, q := range c.inbox {
			queues[q.recipient] = q
		}
		arrived := make(chan arrival, len(queues)) // one of each, so that no event has to wait
		l.readers.Go(func() { c.receive(queues, arrived) })
		l.readers.Go(func() { c.acknowledge(arrived) })
	}
	l.origin = time.Now()
	l.Take()
	for i, c := range l.conns {
		p := pace{origin: l.origin}
		if l.o.Rate > 0 {
			second := float64(time.Second)
			p.interval = time.Duration(second * float64(len(l.conns)) / l.o.Rate)
			p.origin = l.origin.Add(time.Duration(second * float64(i) / l.o.Rate))
		}
		l.senders.Go(func() { c.send(p, messages) })
	}
}

// Take returns what was measured since the last call, or since Start.
func (l *Load) Take() *Figures {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	taken := l.figure
	taken.Time = now.Sub(l.taken)
	l.taken, l.figure = now, newFigures()
	return taken
}

// Stop stops sending, and waits until all messages are delivered and acknowledged, but
// not for those of connections that are lost, or until ctx ends. It returns how many
// are not.
func (l *Load) Stop(ctx context.Context) (unfinished int) {
	l.stop()
	defer context.AfterFunc(ctx, l.cancel)()
	l.senders.Wait()
	for _, c := range l.conns {
		for _, q := range c.inbox {
			select {
			case <-q.idle:
				continue
			case <-c.client.Done():
			case <-l.ctx.Done():
			}
			select {
			case <-q.idle:
			default:
				unfinished++
			}
		}
	}
	return unfinished
}

// Close deletes all queues, also after the end of ctx, and closes the connections. It
// fails if queues may be left.
func (l *Load) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	var queues int64
	for _, c := range l.conns {
		if c != nil {
			queues += int64(len(c.inbox))
		}
	}
	l.o.Progress.Phase("deleting queues", queues, "queues")
	left := make([]error, len(l.conns))
	_ = parallel(len(l.conns), func(i int) error {
		if c := l.conns[i]; c != nil {
			l.o.Progress.Add(int64(len(c.inbox)))
			left[i] = c.clear(ctx)
		}
		return nil // the others go on
	})
	l.cancel()
	for _, c := range l.conns {
		if c != nil {
			c.client.Close()
		}
	}
	l.readers.Wait()
	for _, err := range left {
		if err != nil {
			return fmt.Errorf("delete the queues: %w", err)
		}
	}
	return nil
}

// parallel does something n times, several at a time. It begins no other after an
// error, and returns the first.
func parallel(n int, do func(i int) error) error {
	var next atomic.Int64
	var failed atomic.Bool
	var running sync.WaitGroup
	var first error
	var once sync.Once
	for range min(n, setupConcurrency) {
		running.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && !failed.Load(); i = int(next.Add(1)) - 1 {
				if err := do(i); err != nil {
					failed.Store(true)
					once.Do(func() { first = err })
				}
			}
		})
	}
	running.Wait()
	return first
}

// A step is a part of a message's way.
type step int

const (
	sending       step = iota // from when it is due until the router has accepted it
	delivery                  // from when it is due until the recipient has it
	acknowledging             // of the message, until the router confirms that
	steps                     // how many there are
)

// Figures are what was measured in some time.
type Figures struct {
	Time   time.Duration
	Steps  [steps]Histogram
	Errors map[string]int64 // how often what went wrong
	Behind int64            // messages that were due, in an open loop, and not sent
}

func newFigures() *Figures { return &Figures{Errors: make(map[string]int64)} }

// Merge adds what was measured in some other time.
func (f *Figures) Merge(o *Figures) {
	f.Time += o.Time
	for i := range f.Steps {
		f.Steps[i].Merge(&o.Steps[i])
	}
	for what, n := range o.Errors {
		f.Errors[what] += n
	}
	f.Behind += o.Behind
}

func (l *Load) record(s step, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.figure.Steps[s].Add(d)
}

// maxErrors is how many kinds of errors are told apart.
const maxErrors = 20

// fail counts an error.
func (l *Load) fail(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.figure.Errors[what]; !known && len(l.figure.Errors) >= maxErrors {
		what = "other errors"
	}
	l.figure.Errors[what]++
}

// failed counts the error of a command. Lost connections are counted where they end,
// and what is given up in the end is unfinished.
func (l *Load) failed(err error) {
	if !errors.Is(err, client.ErrClosed) && l.ctx.Err() == nil {
		l.fail(err.Error())
	}
}
