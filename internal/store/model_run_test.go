package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

const (
	modelWorkers     = 16 // in each process
	modelQueues      = 6  // of a worker
	modelApplication = "smpq model"
)

// A tally counts what happened.
type tally struct {
	mu sync.Mutex
	n  map[string]int64
}

func (c *tally) get(name string) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[name]
}

func (c *tally) add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[string]int64)
	}
	c.n[name]++
}

// A modelProcess is one of the processes that use the database.
type modelProcess struct {
	t        testing.TB
	store    *store.Store
	services map[queue.Party][]queue.ServiceID
	shared   []queue.RecipientID
	letters  letters
	workers  []*modelWorker
	counts   tally
	calm     bool // there are no faults: operations fail only when they are cancelled

	left   atomic.Int64    // operations to do
	faults chan struct{}   // one is due after each interval of operations; nil: never
	every  int64           // the interval
	admin  func(adminCall) // lets the other process change a queue; nil: there is none
	failed atomic.Bool

	direct store.Config // to the server, without faults of connections
	using  sync.Mutex   // guards conn
	conn   *pgx.Conn    // nil: there is none now

	mu     sync.Mutex // guards queues
	queues []*modelQueue
}

// An adminCall asks for a change of a queue by another process.
type adminCall struct {
	ID     string
	Status string      // the new one; empty: deleted
	done   chan string // gets the reason for which it failed: empty, "gone" or "failed"
}

// A modelWorker does one operation after another.
type modelWorker struct {
	p      *modelProcess
	rng    *rand.Rand
	queues []*modelQueue
	keys   []smp.PublicKey
	number int     // of its last message
	heads  []heads // of the shared queues
}

// nextNumber returns the number of a new message.
func (w *modelWorker) nextNumber() int {
	w.number++
	return w.number
}

// writerOf returns a number that each writer has for itself.
func writerOf(message int) int { return message >> 32 }

func newModelProcess(t testing.TB, s *store.Store, direct store.Config, number int, seed uint64, shared []queue.RecipientID) *modelProcess {
	t.Helper()
	p := &modelProcess{t: t, store: s, direct: direct, shared: shared, services: make(map[queue.Party][]queue.ServiceID)}
	t.Cleanup(p.disconnect)
	for party, role := range map[queue.Party]queue.Role{queue.PartyRecipient: queue.RoleMessaging, queue.PartyNotifier: queue.RoleNotifier} {
		for range 3 {
			p.services[party] = append(p.services[party], fixture{Store: s}.addService(t, role))
		}
	}
	for i := range modelWorkers {
		n := number*modelWorkers + i
		w := &modelWorker{
			p: p, rng: rand.New(rand.NewPCG(seed, uint64(n))), keys: []smp.PublicKey{randomKey(), randomKey(), randomKey()},
			number: (n + 1) << 32, heads: make([]heads, len(shared)),
		}
		for range modelQueues {
			w.queues = append(w.queues, p.newQueue())
		}
		p.workers = append(p.workers, w)
	}
	return p
}

func (p *modelProcess) disconnect() {
	if p.conn != nil {
		_ = p.conn.Close(context.Background()) // nothing depends on how it ends
		p.conn = nil
	}
}

// stored returns what the database has of a queue. While the database is away, it
// waits.
func (p *modelProcess) stored(ctx context.Context, id queue.RecipientID) (s modelState, err error) {
	p.using.Lock()
	defer p.using.Unlock()
	for {
		if p.conn == nil {
			p.conn, err = store.Connect(ctx, p.direct)
		}
		if err == nil {
			s, err = storedState(ctx, p.conn, id)
		}
		if err == nil || ctx.Err() != nil || p.conn != nil && !p.conn.IsClosed() {
			return s, err
		}
		p.disconnect()
		pause(ctx)
	}
}

func (p *modelProcess) newQueue() *modelQueue {
	r := newRecord()
	if rand.IntN(2) == 0 {
		n, l := randomNotifier(), randomLink()
		r.Notifier, r.Link = &n, &l
	}
	q := newModelQueue(*r)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queues = append(p.queues, q)
	return q
}

func (p *modelProcess) dropQueue(q *modelQueue) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queues = slices.DeleteFunc(p.queues, func(other *modelQueue) bool { return other == q })
}

func (p *modelProcess) anyQueue(rng *rand.Rand) *modelQueue {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.queues)
	if rng.IntN(2) == 0 {
		n = min(n, 4) // many look at the same
	}
	return p.queues[rng.IntN(n)]
}

// anyID returns an id that the queue has or had, if any.
func (q *modelQueue) anyID(by store.By, rng *rand.Rand) smp.EntityID {
	q.mu.Lock()
	defer q.mu.Unlock()
	if ids := q.ids[by]; len(ids) > 0 {
		return ids[len(ids)-1-rng.IntN(min(len(ids), 2))]
	}
	return smp.EntityID{}
}

func (p *modelProcess) find(ctx context.Context, by store.By, id smp.EntityID) (*store.Queue, error) {
	switch by {
	case store.BySender:
		return p.store.QueueBySender(ctx, queue.SenderID{EntityID: id})
	case store.ByNotifier:
		return p.store.QueueByNotifier(ctx, queue.NotifierID{EntityID: id})
	case store.ByLink:
		return p.store.QueueByLink(ctx, queue.LinkID{EntityID: id})
	case store.ByRecipient:
	}
	return p.store.QueueByRecipient(ctx, queue.RecipientID{EntityID: id})
}

// run does a number of operations.
func (p *modelProcess) run(operations int64) {
	p.left.Store(operations)
	var workers sync.WaitGroup
	for _, w := range p.workers {
		workers.Go(func() {
			for p.left.Add(-1) >= 0 && !p.failed.Load() {
				w.step()
			}
		})
	}
	workers.Wait()
}

// verify checks that the store and the database have what the model has.
func (p *modelProcess) verify() {
	for _, w := range p.workers {
		for _, q := range w.queues {
			w.verify(p.t.Context(), q)
		}
	}
}

// other returns another queue of the worker that is known to be alive and as
// wanted.
func (w *modelWorker) other(q *modelQueue, wanted func(*modelState) bool) *modelQueue {
	for _, other := range w.queues {
		if other != q && other.is(func(s *modelState) bool { return s.life == isLive && wanted(s) }) {
			return other
		}
	}
	return nil
}

// fail ends the test: what follows from a contradiction says nothing new.
func (w *modelWorker) fail(format string, args ...any) {
	if !w.p.failed.Swap(true) {
		w.p.t.Errorf(format, args...)
	}
}

// context returns the context of an operation: some are cancelled at any moment.
func (w *modelWorker) context() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(w.p.t.Context())
	switch w.rng.IntN(20) {
	case 0:
		cancel()
	case 1, 2:
		timer := time.AfterFunc(time.Duration(w.rng.IntN(2000))*time.Microsecond, cancel)
		return ctx, func() { timer.Stop(); cancel() }
	}
	return ctx, cancel
}

// step does an operation.
func (w *modelWorker) step() {
	if w.p.faults != nil && w.p.left.Load()%w.p.every == 0 {
		select {
		case w.p.faults <- struct{}{}:
		default:
		}
	}
	ctx, cancel := w.context()
	defer cancel()
	switch w.rng.IntN(40) {
	case 0:
		w.note("look up many", w.watchMany(ctx))
	case 1:
		w.many(ctx)
	case 2:
		if w.rng.IntN(8) == 0 {
			w.note("sweep", w.sweep(ctx))
			break
		}
		w.administer()
	case 3, 4, 5, 6, 7, 8:
		w.note("look up", w.watch(ctx))
	case 9, 10, 11, 12, 13, 14, 15, 16:
		w.note("use a shared queue", w.useShared(ctx))
	default:
		w.use(ctx, w.queues[w.rng.IntN(len(w.queues))])
	}
}

// use does an operation on a queue of the worker.
func (w *modelWorker) use(ctx context.Context, q *modelQueue) {
	switch {
	case q.gone() && w.rng.IntN(3) > 0:
		if q.tries++; q.tries > 2 && len(q.states) == 1 || q.tries > 4 && q.doubt == nil {
			w.p.dropQueue(q)
			q2 := w.p.newQueue()
			w.queues[slices.Index(w.queues, q)] = q2
			q = q2
		}
		w.carryOut(ctx, q, w.add(q))
		return
	case w.rng.IntN(10) == 0:
		q.handle = nil // it may be given up, if no watcher has it
		q.settle(q.states)
	}
	total := 0
	for _, o := range operations {
		total += o.weight
	}
	n := w.rng.IntN(total)
	for _, o := range operations {
		if n -= o.weight; n >= 0 {
			continue
		}
		if op := o.make(w, q); op != nil {
			w.carryOut(ctx, q, op)
		}
		return
	}
}

func (w *modelWorker) carryOut(ctx context.Context, q *modelQueue, op *modelOp) {
	q.begin(op)
	a, err := op.call(ctx)
	w.conclude(q, op, a, err)
	if q.doubt != nil && w.rng.IntN(4) > 0 {
		w.resolve(w.p.t.Context(), q)
	}
}

// conclude tells the model what an operation returned.
func (w *modelWorker) conclude(q *modelQueue, op *modelOp, a answer, err error) {
	was := q.doubt
	if err := q.conclude(op, a, err); err != nil {
		w.fail("%v", err)
		return
	}
	w.noteOutcome(err)
	if q.doubt != nil && q.doubt != was {
		w.p.counts.add("outcome not known")
	}
	if q.gone() {
		q.handle = nil
		q.settle(q.states)
	}
	w.checkDoubt(q)
}

func (w *modelWorker) checkDoubt(q *modelQueue) {
	if q.doubt == nil {
		return
	}
	switch known, carriedOut := q.resolved(); {
	case known && carriedOut:
		w.p.counts.add("was carried out after all")
	case known:
		w.p.counts.add("was not carried out")
	case len(q.states) > 1:
		return
	}
	q.doubt = nil
}

// resolve reads a queue until it is known what it is like, and compares that with
// the database.
func (w *modelWorker) resolve(ctx context.Context, q *modelQueue) {
	link := q.ids[store.ByLink]
	for i := 0; i < 4; {
		var op *modelOp
		switch i {
		case 0:
			op = w.lookFor(q, store.ByRecipient, q.record.RecipientID.EntityID)
		case 1:
			if op = w.readLink(q); len(link) == 0 || op == nil {
				i++
				continue
			}
		case 2:
			op = w.size(q)
		case 3:
			op = w.peek(q)
		}
		a, err := op.call(ctx)
		if w.conclude(q, op, a, err); w.p.failed.Load() {
			return
		}
		if err == nil || reasonOf(err) != nil {
			i++
			continue
		}
		pause(ctx)
	}
	s, err := w.p.stored(ctx, q.record.RecipientID)
	switch {
	case err != nil:
		w.fail("%v", err)
	case !slices.Contains(q.states, s):
		w.fail("%v", q.contradiction("stored is\n%+v, want one of\n%+v", s, q.states))
	default:
		q.settle([]modelState{s})
		w.checkDoubt(q)
	}
}

// note notes how an operation ended that has no queue of the worker's.
func (w *modelWorker) note(what string, err error) {
	if err != nil && reasonOf(err) == nil && (store.CodeOf(err) != store.CodeStore) {
		w.fail("%s: %v", what, err)
	}
	w.noteOutcome(err)
}

func (w *modelWorker) noteOutcome(err error) {
	c := &w.p.counts
	if errors.Is(err, store.ErrAway) && !w.p.calm {
		c.add("database away")
		w.p.left.Add(1) // it was none
		pause(w.p.t.Context())
		return
	}
	c.add("operations")
	switch {
	case err == nil:
	case reasonOf(err) != nil:
		c.add("refused")
	case errors.Is(err, context.Canceled):
		c.add("cancelled")
	default:
		c.add("failed")
	}
	if err != nil && reasonOf(err) == nil && w.p.calm && !errors.Is(err, context.Canceled) {
		w.fail("without a fault: %v", err)
	}
}

// pause lets the database come back.
func pause(ctx context.Context) {
	timer := time.NewTimer(2 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// administer has the other process change a queue, which is used meanwhile, and
// waits until this process sees the change.
func (w *modelWorker) administer() {
	q := w.queues[w.rng.IntN(len(w.queues))]
	if w.p.admin == nil || !q.lives() {
		return
	}
	status := queue.Status{State: queue.Blocked, Blocking: queue.Blocking{Reason: "content"}}
	call := adminCall{ID: q.record.RecipientID.String(), Status: status.String(), done: make(chan string, 1)}
	switch w.rng.IntN(5) {
	case 0, 1:
		status = queue.Status{}
		call.Status = status.String()
	case 2:
		call.Status = ""
	}
	q.admin = func(s modelState) modelState {
		if s.life == isLive {
			if call.Status == "" {
				return modelState{life: isDeleted}
			}
			s.view.Status = status
		}
		return s
	}
	q.settle(q.states)
	w.p.admin(call)
	if call.Status != "" {
		for range w.rng.IntN(4) {
			w.use(w.p.t.Context(), q)
		}
	}
	var reason string
	select {
	case reason = <-call.done:
	case <-w.p.t.Context().Done():
		return
	}
	w.p.counts.add("administrative changes")
	q.remember("administrative change to "+call.Status, reason, nil)
	w.awaitAdmin(q, reason)
}

// awaitAdmin waits until this process sees what became of an administrative change.
func (w *modelWorker) awaitAdmin(q *modelQueue, reason string) {
	ctx, cancel := context.WithTimeout(w.p.t.Context(), patience)
	defer cancel()
	admin := q.admin
	for {
		stored, err := w.p.stored(w.p.t.Context(), q.record.RecipientID)
		if err != nil {
			w.fail("%v", err)
			return
		}
		if reason == "" && stored != admin(stored) {
			w.fail("%v", q.contradiction("an administrative change was reported, but not made:\n%+v", stored))
			return
		}
		handle, err := w.p.store.QueueByRecipient(ctx, q.record.RecipientID)
		var seen sight
		if err == nil {
			seen = sight{life: isLive}
			if seen.view, err = handle.View(); err != nil {
				seen = sight{}
			}
		}
		switch {
		case (err == nil || errors.Is(reasonOf(err), errGone)) && seen.view == stored.view:
			if !slices.Contains(q.states, stored) {
				w.fail("%v", q.contradiction("stored is\n%+v, want one of\n%+v", stored, q.states))
			}
			q.admin = nil
			q.settle([]modelState{stored})
			if q.gone() {
				q.handle = nil
			}
			w.checkDoubt(q)
			return
		case ctx.Err() != nil:
			w.fail("%v", q.contradiction("an administrative change is not seen: %v, %+v, but stored is\n%+v", err, seen, stored))
			return
		}
		w.p.counts.add("waits for an administrative change")
		pause(ctx)
	}
}

// letters are what happened to the messages of shared queues in a process.
type letters struct {
	mu sync.Mutex
	fates
}

// fates are what became of messages.
type fates struct {
	Written map[int]string // by number: stored, full, nothing or unknown
	Got     []int          // by those who deleted them
	Markers []int          // of these
	Lost    []int          // of which it is not known whether they were deleted
}

func (l *letters) wrote(n int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Written == nil {
		l.Written = make(map[int]string)
	}
	switch {
	case err == nil:
		l.Written[n] = "stored"
	case errors.Is(err, store.ErrQuota):
		l.Written[n] = "full"
	case store.Certain(err):
		l.Written[n] = "nothing"
	default:
		l.Written[n] = "unknown"
	}
}

func (l *letters) removed(m modelMessages, gone *queue.Message, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil && !store.Certain(err):
		l.Lost = append(l.Lost, m.number())
	case gone != nil:
		l.Got = append(l.Got, m.number())
		if gone.QuotaMarker {
			l.Markers = append(l.Markers, m.number())
		}
	}
}

// heads are the first messages of a queue as somebody saw them one after another.
type heads []int

func (h *heads) saw(n int) { *h = append(*h, n) }

// A modelReport is what a process has to say in the end.
type modelReport struct {
	Letters fates
	Heads   [][]heads // by worker, by shared queue
	Live    []string  // ids of queues
	Counts  map[string]int64
}

func (p *modelProcess) report() modelReport {
	r := modelReport{Counts: p.counts.n, Letters: p.letters.fates}
	for _, w := range p.workers {
		r.Heads = append(r.Heads, w.heads)
		for _, q := range w.queues {
			if q.lives() {
				r.Live = append(r.Live, q.record.RecipientID.String())
			}
		}
	}
	return r
}

// checkShared checks what happened to the messages of the shared queues.
func checkShared(t testing.TB, conn *pgx.Conn, shared []queue.RecipientID, reports ...modelReport) {
	t.Helper()
	written := make(map[int]string)
	lost, got := make(map[int]bool), make(map[int]int)
	for _, r := range reports {
		maps.Copy(written, r.Letters.Written)
		for _, n := range r.Letters.Lost {
			lost[n] = true
		}
		for _, n := range r.Letters.Got {
			got[n]++
		}
	}
	inOrder := func(numbers []int) bool {
		last := make(map[int]int)
		for _, n := range numbers {
			if written[n] == "unknown" {
				continue
			}
			if n < last[writerOf(n)] {
				return false
			}
			last[writerOf(n)] = n
		}
		return true
	}
	for _, r := range reports {
		for _, n := range r.Letters.Markers {
			if written[n] == "stored" {
				t.Errorf("message %x was acknowledged, but a quota marker", n)
			}
		}
		for _, worker := range r.Heads {
			for i, h := range worker {
				if !inOrder(h) {
					t.Errorf("messages of queue %d were seen in another order than they were written in", i)
				}
			}
		}
	}
	for _, id := range shared {
		var numbers []int
		for _, m := range messages(t, conn, id) {
			read, err := readModelMessage(&m)
			if err != nil {
				t.Error(err)
				continue
			}
			n := read.number()
			numbers = append(numbers, n)
			got[n]++
			if read.kind() == marker && written[n] == "stored" {
				t.Errorf("message %x was acknowledged, but is a quota marker", n)
			}
		}
		if !inOrder(numbers) {
			t.Errorf("messages of queue %s are not in the order in which they were written", id)
		}
	}
	for n, times := range got {
		switch {
		case times > 1:
			t.Errorf("message %x is there %d times", n, times)
		case written[n] == "" || written[n] == "nothing":
			t.Errorf("message %x is there, but was not written: %q", n, written[n])
		}
	}
	for n, outcome := range written {
		if outcome == "stored" && got[n] == 0 && !lost[n] {
			t.Errorf("message %x was acknowledged and is lost", n)
		}
	}
}

// modelChild is what the second process is told.
type modelChild struct {
	DSN, Direct string // through the proxy, and not
	Seed        uint64
	Operations  int64
	CacheSize   int64
	Shared      []string
}

// childVariable makes this process the second one of a model test.
const childVariable = "SMPQ_TEST_CHILD"

// numberVariable and seedVariable change what the model test does.
const (
	numberVariable = "SMPQ_MODEL_OPERATIONS"
	seedVariable   = "SMPQ_MODEL_SEED"
)

// modelSetting returns the value of a variable.
func modelSetting(t testing.TB, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// Random operations by many goroutines of two processes, with connections that
// break and callers that give up, do what a simple model says.
//
// contract: QS-02, QS-05, QS-06, QS-09, QS-11, QS-19
func TestModel(t *testing.T) {
	if os.Getenv(childVariable) != "" {
		runModelChild(t)
		return
	}
	operations := int64(modelSetting(t, numberVariable, 9000))
	seed := modelSetting(t, seedVariable, rand.Uint64()>>1)
	for i, c := range []struct {
		name string
		size int64
	}{{"cache off", 0}, {"cache tiny", 1}, {"cache", 64 << 20}} {
		t.Run(c.name, func(t *testing.T) {
			testModel(t, seed+uint64(i), operations/3, c.size)
			if t.Failed() {
				t.Logf("%s=%d chooses the same operations again", seedVariable, seed)
			}
		})
	}
}

func testModel(t *testing.T, seed uint64, operations, cacheSize int64) {
	began := time.Now()
	direct := newDatabase(t)
	network := newProxy(t, direct.DSN)
	config := direct
	config.DSN, config.Application = network.dsn(), modelApplication
	s := openStore(t, store.Options{Config: config, CacheSize: cacheSize, Quota: modelQuota})
	var shared []queue.RecipientID
	told := modelChild{DSN: config.DSN, Direct: direct.DSN, Seed: seed, CacheSize: cacheSize, Operations: operations * 9 / 20}
	for range 4 {
		shared = append(shared, fixture{Store: s}.add(t, newRecord()).ID())
		told.Shared = append(told.Shared, shared[len(shared)-1].String())
	}
	p := newModelProcess(t, s, direct, 0, seed, shared)
	second := startModelChild(t, told)

	second.await(t, "ready")

	faults := make(chan struct{}, 1)
	p.faults, p.every, p.admin = faults, 200, second.administer
	stop := injectFaults(t, direct.DSN, network, seed, faults, &p.counts)
	p.run(operations * 9 / 20)
	second.await(t, "done")
	stop()
	eventually(t, "the store works again", func() bool {
		_, err1 := s.QueueByRecipient(t.Context(), shared[0])
		_, err2 := s.CountMessages(t.Context())
		return err1 == nil && err2 == nil
	})

	// What is left of connections that were cut must have ended.
	conn := pgtest.Conn(t, direct.DSN)
	f := fixture{Store: s, config: direct, conn: conn}
	eventually(t, "nothing goes on", func() bool {
		return f.number(t, "select count(*) from pg_stat_activity where application_name = $1 and state <> 'idle'", modelApplication) == 0
	})
	p.faults, p.admin, p.calm = nil, nil, true
	second.tell(t, "verify")
	p.verify()
	theirs := second.report(t)
	second.close(t)

	// Without faults, and with nobody else, numbers are kept without counting.
	network.cutAll()
	eventually(t, "it listens again", func() bool {
		return f.number(t, "select count(*) from pg_stat_activity where application_name = $1 and query like 'listen %'", modelApplication) == 1
	})
	eventually(t, "numbers are kept", func() bool {
		before := network.transactions.Load()
		f.wantEntities(t, "after what other processes did")
		return network.transactions.Load() == before
	})
	// It may learn that it listens again after others can see that.
	eventually(t, "numbers are kept by counting along", func() bool {
		p.run(operations / 10)
		before := network.transactions.Load()
		f.wantEntities(t, "by counting along")
		return network.transactions.Load() == before
	})
	p.verify()
	ours := p.report()
	checkShared(t, conn, shared, ours, theirs)
	f.wantSound(t, len(shared)+len(ours.Live)+len(theirs.Live))

	total := maps.Clone(ours.Counts)
	for name, n := range theirs.Counts {
		total[name] += n
	}
	t.Logf("%s: %s; %+v", time.Since(began).Round(time.Millisecond), countsText(total), s.CacheStats())
}

// wantEntities checks the numbers of a store against those of the database, at
// once or after the store has heard that others changed something.
func (f fixture) wantEntities(t testing.TB, when string) {
	t.Helper()
	var got store.Entities
	var counted store.Entities
	eventually(t, "numbers "+when, func() bool {
		var err error
		counted, err = store.CountEntities(t.Context(), f.conn, store.Schema{Name: schemaName, Version: schema.Newest})
		if err != nil {
			t.Fatal(err)
		}
		got, err = f.Entities(t.Context())
		return err == nil && got == counted
	})
}

// wantSound checks that the tables of the database agree with each other.
func (f fixture) wantSound(t testing.TB, queues int) {
	t.Helper()
	if n := f.number(t, "select count(*) from msg_queues where deleted_at is null"); n != int64(queues) {
		t.Errorf("%d queues, want %d", n, queues)
	}
	wrong := f.number(t, `select count(*) from msg_queues q
		where msg_queue_size <> (select count(*) from messages m where m.recipient_id = q.recipient_id)`)
	if wrong != 0 {
		t.Errorf("%d queues have another number of messages than they say", wrong)
	}
	services, err := store.WrongAggregates(t.Context(), f.conn, store.Schema{Name: schemaName, Version: schema.Newest})
	if err != nil || len(services) > 0 {
		t.Errorf("services with wrong numbers or hashes: %v, %v", services, err)
	}
}

// injectFaults breaks connections whenever a fault is due, until stop.
func injectFaults(t testing.TB, dsn string, network *proxy, seed uint64, due <-chan struct{}, counts *tally) (stop func()) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1<<20))
	conn := pgtest.Conn(t, dsn)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-due:
			case <-ctx.Done():
				return
			}
			switch n := rng.IntN(10); n {
			case 0:
				counts.add("all connections cut")
				network.cutAll()
			case 1:
				counts.add("outages")
				network.refuse()
				timer := time.NewTimer(time.Duration(rng.IntN(20)) * time.Millisecond)
				select {
				case <-timer.C:
				case <-ctx.Done():
				}
				network.restore(t)
			case 2, 3, 4:
				at := []cutPoint{beforeCommit, afterCommit}[rng.IntN(2)]
				for _, sql := range []string{"for update", "update ", "insert into", "select recipient_id"}[rng.IntN(4):] {
					counts.add("connections cut at a commit")
					network.cutNext(at, sql)
				}
			default:
				counts.add("sessions killed")
				_, err := conn.Exec(ctx, `select pg_terminate_backend(pid) from (select pid from pg_stat_activity
					where datname = current_database() and application_name = $1 order by random() limit $2) p`, modelApplication, 1+rng.IntN(4))
				if err != nil && ctx.Err() == nil {
					t.Errorf("kill sessions: %v", err)
				}
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
		network.forget()
		network.restore(t)
	}
}

// A modelSecond is the second process, as the first one sees it.
type modelSecond struct {
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	replies chan modelReply

	mu    sync.Mutex // guards the rest
	out   *json.Encoder
	last  int
	calls map[int]adminCall
}

// A modelRequest is what the first process says to the second one.
type modelRequest struct {
	Number int
	Verb   string
	Admin  adminCall
}

// A modelReply is what the second process says to the first one.
type modelReply struct {
	Number int
	Verb   string // ready, done, report or admin
	Reason string
	Report modelReport
}

// startModelChild starts the second process.
func startModelChild(t testing.TB, told modelChild) *modelSecond {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := &modelSecond{replies: make(chan modelReply, 1), calls: make(map[int]adminCall)}
	c.cmd = exec.CommandContext(t.Context(), self, "-test.run=^TestModel$", "-test.timeout=0")
	c.cmd.Env = append(os.Environ(), childVariable+"=1")
	c.cmd.ExtraFiles = []*os.File{w}
	c.cmd.Stdout, c.cmd.Stderr = t.Output(), t.Output()
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close() // the child has it
	c.out = json.NewEncoder(c.stdin)
	if err := c.out.Encode(told); err != nil {
		t.Fatal(err)
	}
	var reader sync.WaitGroup
	reader.Go(func() {
		defer r.Close()
		defer close(c.replies)
		in := json.NewDecoder(r)
		for {
			var reply modelReply
			if in.Decode(&reply) != nil {
				return
			}
			if reply.Verb != "admin" {
				c.replies <- reply
				continue
			}
			c.mu.Lock()
			call := c.calls[reply.Number]
			delete(c.calls, reply.Number)
			c.mu.Unlock()
			call.done <- reply.Reason
		}
	})
	t.Cleanup(func() {
		_ = c.stdin.Close() // its end
		for range c.replies {
			continue
		}
		reader.Wait()
		_ = c.cmd.Wait() // close has told of an error
	})
	return c
}

// administer asks for a change.
func (c *modelSecond) administer(call adminCall) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	c.calls[c.last] = call
	_ = c.out.Encode(modelRequest{Number: c.last, Verb: "admin", Admin: call}) // without the process there is no reply
}

func (c *modelSecond) tell(t testing.TB, verb string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.out.Encode(modelRequest{Verb: verb}); err != nil {
		t.Fatalf("tell the second process to %s: %v", verb, err)
	}
}

func (c *modelSecond) await(t testing.TB, verb string) modelReply {
	t.Helper()
	reply, ok := <-c.replies
	if !ok || reply.Verb != verb {
		t.Fatalf("the second process ended, or said %q and not %q", reply.Verb, verb)
	}
	return reply
}

func (c *modelSecond) report(t testing.TB) modelReport {
	t.Helper()
	return c.await(t, "report").Report
}

// close waits for the end of the process, which fails if its test does.
func (c *modelSecond) close(t testing.TB) {
	t.Helper()
	_ = c.stdin.Close()
	for range c.replies {
		t.Error("the second process says something after its report")
	}
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("the second process: %v", err)
	}
}

// runModelChild is the second process.
func runModelChild(t *testing.T) {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.NewFile(3, "replies"))
	var told modelChild
	if err := in.Decode(&told); err != nil {
		t.Fatal(err)
	}
	config := store.Config{DSN: told.DSN, Schema: schemaName, Application: modelApplication}
	var shared []queue.RecipientID
	for _, text := range told.Shared {
		id, err := smp.ParseEntityID(text)
		if err != nil {
			t.Fatal(err)
		}
		shared = append(shared, queue.RecipientID{EntityID: id})
	}
	s := openStore(t, store.Options{Config: config, CacheSize: told.CacheSize, Quota: modelQuota})
	admin := openStore(t, store.Options{Config: config, Admin: "model"})
	direct := config
	direct.DSN, direct.Application = told.Direct, "smpq test"
	p := newModelProcess(t, s, direct, 1, told.Seed, shared)
	var sending sync.Mutex
	reply := func(r modelReply) {
		sending.Lock()
		defer sending.Unlock()
		if err := out.Encode(r); err != nil {
			t.Errorf("reply: %v", err)
		}
	}
	reply(modelReply{Verb: "ready"})
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() {
		p.run(told.Operations)
		reply(modelReply{Verb: "done"})
	})
	for {
		var r modelRequest
		if err := in.Decode(&r); err != nil {
			return // the end
		}
		switch r.Verb {
		case "admin":
			tasks.Go(func() { reply(modelReply{Number: r.Number, Verb: "admin", Reason: changeAsAdmin(t, admin, r.Admin)}) })
		case "verify":
			p.verify()
			reply(modelReply{Verb: "report", Report: p.report()})
		}
	}
}

// changeAsAdmin changes a queue, and returns why it failed.
func changeAsAdmin(t testing.TB, s *store.Store, call adminCall) (reason string) {
	t.Helper()
	id, err := smp.ParseEntityID(call.ID)
	if err != nil {
		t.Error(err)
	}
	q, err := s.QueueByRecipient(t.Context(), queue.RecipientID{EntityID: id})
	if err == nil {
		switch status, _ := queue.ParseStatus(call.Status); {
		case call.Status == "":
			_, err = s.DeleteQueue(t.Context(), q)
		case status.State == queue.Blocked:
			err = s.BlockQueue(t.Context(), q, status.Blocking)
		default:
			err = s.UnblockQueue(t.Context(), q)
		}
	}
	switch {
	case err == nil:
		return ""
	case errors.Is(reasonOf(err), errGone):
		return "gone"
	case store.CodeOf(err) != store.CodeStore:
		return fmt.Sprint("a wrong error: ", err)
	}
	// Once a later call of the same store gets through, nothing comes of it any more.
	for !store.Certain(err) {
		_, again := s.QueueByRecipient(t.Context(), queue.RecipientID{EntityID: id})
		if again == nil || errors.Is(reasonOf(again), errGone) || t.Context().Err() != nil {
			break
		}
		pause(t.Context())
	}
	return "failed"
}
