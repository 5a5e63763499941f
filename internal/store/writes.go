package store

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/smpq/smpq/internal/queue"
)

// A request is a message to be written to a queue, or deleted from it.
type request struct {
	kind    requestKind
	message queue.Message // only its ID counts for what is to be deleted

	left error // why the caller does not wait any longer; nil: it does

	// The answer. It is the caller's when done is closed.
	answered bool
	wasEmpty bool
	deleted  *queue.Message
	next     *queue.Message
	err      error
	done     chan struct{}
}

type requestKind uint8

const (
	writeRequest requestKind = iota
	deleteRequest
	deletePeekRequest
)

// A batcher joins requests that come at the same time: one round trip and one
// commit for many. A request that comes while there is little to do goes at once.
//
// The requests of a queue are carried out one after another, in the order in which
// they came; those of different queues in any order. A request never fails because
// of another one: if requests fail together, each is tried by itself. Queues that
// others have locked are left out, and then waited for, each by itself.
type batcher struct {
	lane    *lane
	sql     requestSQL
	quota   int
	maxRuns int

	mu     sync.Mutex
	lines  map[queue.RecipientID]*line // those with requests that wait or are under way
	ready  []*line                     // those of which no request is under way
	lone   []*line                     // the same, whose next requests go by themselves
	runs   int                         // series of round trips that are under way
	single int                         // of these, those that have one of lone
	turn   bool                        // the last round trip was of lone
	count  int                         // of requests that wait
	bytes  int                         // of the bodies of these
	closed bool

	running sync.WaitGroup
}

// A line is the requests of a queue that wait for their turn.
type line struct {
	id      queue.RecipientID
	waiting []*request
	alone   int  // how many of these, from the first, go one by one
	locked  bool // somebody had the queue locked, or it is not there
}

// lonely reports whether the next requests go by themselves.
func (l *line) lonely() bool { return l.locked || l.alone > 0 }

// A portion is the requests of one queue in a round trip.
type portion struct {
	line     *line
	requests []*request
}

// A roundTrip is what goes together.
type roundTrip struct {
	portions []portion
	single   bool // of one queue, for the lock of which it waits
}

const (
	// maxWaiting and maxWaitingBytes bound what waits for a slow database.
	maxWaiting      = 8192
	maxWaitingBytes = 64 << 20
	// maxBatch and maxBatchBytes bound a round trip. A request is taken even if
	// it exceeds the latter by itself. As long as there may be another round trip
	// at the same time, one takes no more than fairBatch or half of what waits.
	maxBatch      = 128
	maxBatchBytes = 1 << 20
	fairBatch     = 32
	// requestTimeout bounds how long a request waits for its turn.
	requestTimeout = interactiveTimeout
)

var (
	errClosed = errors.New("the store is closed")
	errBusy   = errors.New("too many requests are waiting for the database")
	errSlow   = errors.New("it was not its turn within " + requestTimeout.String())
)

// newBatcher returns a batcher that has up to maxRuns round trips under way.
func newBatcher(l *lane, s Schema, quota, maxRuns int) *batcher {
	return &batcher{
		lane: l, sql: newRequestSQL(s), quota: quota, maxRuns: maxRuns,
		lines: make(map[queue.RecipientID]*line),
	}
}

// do carries out a request. As long as it waits for its turn, ctx can cancel it.
func (b *batcher) do(ctx context.Context, id queue.RecipientID, r *request) error {
	if err := ctx.Err(); err != nil {
		return &unsentError{err}
	}
	r.done = make(chan struct{})
	if err := b.add(id, r); err != nil {
		return &unsentError{err}
	}
	timer := time.NewTimer(requestTimeout)
	defer timer.Stop()
	var err error
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = errSlow
	}
	if b.leave(id, r, err) {
		return &unsentError{err}
	}
	<-r.done
	return r.err
}

// add appends a request to the line of its queue.
func (b *batcher) add(id queue.RecipientID, r *request) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return errClosed
	case b.count >= maxWaiting, b.bytes+len(r.message.Body) > maxWaitingBytes:
		return errBusy
	}
	b.count++
	b.bytes += len(r.message.Body)
	l := b.lines[id]
	if l == nil {
		l = &line{id: id}
		b.lines[id] = l
		b.ready = append(b.ready, l)
	}
	l.waiting = append(l.waiting, r)
	b.start()
	return nil
}

// leave takes a request from its line, if it is still there. If it is under way, it
// gets an answer when that has come to its end. A line that becomes empty stays until
// its turn.
func (b *batcher) leave(id queue.RecipientID, r *request, err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	r.left = err
	l := b.lines[id]
	if l == nil {
		return false
	}
	i := slices.Index(l.waiting, r)
	if i < 0 {
		return false
	}
	l.waiting = slices.Delete(l.waiting, i, i+1)
	if i < l.alone {
		l.alone--
	}
	b.forget(r)
	return true
}

// forget takes a request out of account. The mutex is held.
func (b *batcher) forget(r *request) {
	b.count--
	b.bytes -= len(r.message.Body)
}

// start begins another series of round trips if something waits, and there may be
// one. The mutex is held.
func (b *batcher) start() {
	if len(b.ready)+len(b.lone) > 0 && b.runs < b.maxRuns {
		b.runs++
		b.running.Go(b.run)
	}
}

// run does one round trip after another as long as there is something to do.
func (b *batcher) run() {
	for {
		// Callers that can go on, such as those that just got their answers, may
		// have more to do, which then goes together.
		runtime.Gosched()
		b.mu.Lock()
		next := b.take()
		if next.portions == nil {
			b.runs--
			b.mu.Unlock()
			return
		}
		b.start()
		b.mu.Unlock()
		err := b.carryOut(next)
		b.mu.Lock()
		b.finish(next, err)
		b.mu.Unlock()
	}
}

// take returns the requests of the next round trip, if there are any. The mutex is
// held.
func (b *batcher) take() roundTrip {
	if l := b.takeLone(); l != nil {
		b.single++
		b.turn = true
		count := maxBatch
		if l.alone > 0 {
			count = 1
		}
		return roundTrip{[]portion{b.portion(l, count, maxBatchBytes)}, true}
	}
	b.turn = false
	limit := maxBatch
	if b.runs < b.maxRuns {
		limit = min(limit, max(fairBatch, (b.count+1)/2))
	}
	var next roundTrip
	count, bytes := 0, 0
	for len(b.ready) > 0 && count < limit && bytes < maxBatchBytes {
		l := b.ready[0]
		b.ready[0] = nil
		b.ready = b.ready[1:]
		if len(l.waiting) == 0 {
			delete(b.lines, l.id)
			continue
		}
		p := b.portion(l, limit-count, maxBatchBytes-bytes)
		for _, r := range p.requests {
			bytes += len(r.message.Body)
		}
		count += len(p.requests)
		next.portions = append(next.portions, p)
	}
	return next
}

// takeLone returns a line whose requests go by themselves now, if there is one.
//
// These may wait long for the lock of their queue. So that others go on, there are
// fewer of them at a time than there may be round trips, or they take turns.
func (b *batcher) takeLone() *line {
	for len(b.lone) > 0 {
		l := b.lone[0]
		lonely := l.lonely() && len(l.waiting) > 0
		if lonely && (b.single >= max(b.maxRuns-1, 1) || b.maxRuns == 1 && b.turn && len(b.ready) > 0) {
			return nil
		}
		b.lone[0] = nil
		b.lone = b.lone[1:]
		if lonely {
			return l
		}
		l.locked = false
		b.ready = append(b.ready, l) // who was to go by itself has left
	}
	return nil
}

// portion takes the next requests from a line. The mutex is held.
func (b *batcher) portion(l *line, count, bytes int) portion {
	p := portion{l, l.take(count, bytes)}
	for _, r := range p.requests {
		b.forget(r)
	}
	return p
}

// take takes the next requests from a line that can be carried out at once:
// messages to be written, of which a quota marker is the last, or one to be
// deleted.
func (l *line) take(count, bytes int) []*request {
	n := 0
	for _, r := range l.waiting {
		if n > 0 && (l.alone > 0 || r.kind != writeRequest || n == count || bytes <= 0) {
			break
		}
		n++
		bytes -= len(r.message.Body)
		if r.kind != writeRequest || r.message.QuotaMarker {
			break
		}
	}
	l.alone, l.locked = max(l.alone-n, 0), false
	taken := slices.Clone(l.waiting[:n])
	l.waiting = slices.Delete(l.waiting, 0, n)
	return taken
}

// carryOut does a round trip. Requests that it leaves without an answer are to be
// tried by themselves, and err is why; nil: their queues are locked, or not there.
func (b *batcher) carryOut(t roundTrip) (err error) {
	// The callers wait for the answers, whatever becomes of their contexts.
	err = b.lane.write(context.Background(), func(p *pgx.Batch) { b.sql.queue(p, t, b.quota) })
	several := len(t.portions) > 1 || len(t.portions[0].requests) > 1
	for _, p := range t.portions {
		for _, r := range p.requests {
			switch {
			case err == nil && r.answered:
			case err == nil && !t.single, several && separable(err) && !lockTimedOut(err):
				r.answered = false
			case err == nil:
				r.answered, r.err = true, ErrNotFound
			default:
				r.answered, r.err = true, err
			}
		}
	}
	return err
}

// separable reports whether an error of several requests is certain, and may be
// that of one of them. The others are of the connection or the whole server, such
// as a full disk.
func separable(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || !certain(err) {
		return false
	}
	switch e.Code[:2] {
	case "25", "53", "57", "58":
		return false
	}
	return true
}

// lockTimedOut reports whether a lock was waited for in vain: of the only queue, or of
// a table, which all need.
func lockTimedOut(err error) bool {
	const lockNotAvailable = "55P03"
	return sqlState(err) == lockNotAvailable
}

// finish hands out the answers of a round trip, and puts requests without one back
// to the front of their lines, if anybody still waits for them. The mutex is held.
func (b *batcher) finish(t roundTrip, err error) {
	if t.single {
		b.single--
	}
	for _, p := range t.portions {
		l := p.line
		again := slices.DeleteFunc(p.requests, func(r *request) bool {
			if !r.answered && r.left != nil {
				r.answered, r.err = true, &unsentError{r.left}
			}
			if r.answered {
				close(r.done)
			}
			return r.answered
		})
		for _, r := range again {
			b.count++
			b.bytes += len(r.message.Body)
		}
		l.waiting = slices.Insert(l.waiting, 0, again...)
		if err == nil {
			l.locked = len(again) > 0
		} else {
			l.alone += len(again)
		}
		switch {
		case l.lonely():
			b.lone = append(b.lone, l)
		case len(l.waiting) > 0:
			b.ready = append(b.ready, l)
		default:
			delete(b.lines, l.id)
		}
	}
}

// close waits for all requests. More are refused.
func (b *batcher) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.running.Wait()
}

// A requestSQL is the statements of a round trip.
//
// In a transaction at READ COMMITTED each statement sees what was committed when
// it began, but for rows that it locks, which it sees as they are then. So messages
// are appended by one statement. One that locked queues and read their messages
// would not see messages that were written while it waited for the locks: before
// messages are deleted, another statement locks the queues, and hands their ids on
// by a setting of the transaction.
type requestSQL struct {
	write, writeFree, lock, lockFree, remove string
}

// locked is the condition for rows q of queues that the transaction has locked. The
// sub-select makes the server read the setting once.
const locked = "q.recipient_id = any ((select current_setting('smpq.locked')::bytea[])::bytea[])"

// lockSQL returns the statement that locks those of the queues $1 that are there,
// always in the same order, lest two sessions wait for each other.
func lockSQL(s Schema, mode string) string {
	return `
		select set_config('smpq.locked', coalesce(array_agg(recipient_id), '{}')::text, true)
		  from (select recipient_id from ` + s.table("msg_queues") + `
		         where recipient_id = any ($1) and deleted_at is null
		         order by recipient_id ` + mode + `) locked`
}

const (
	waitForLocks = "for update"
	skipLocked   = "for update skip locked"
)

// writeSQL returns the statement that appends messages, given as arrays of their
// columns, to those of their queues that are there and can be locked. Of the
// messages of one queue, ahead is the number of those in front. A full queue takes
// one marker in place of the first message that it has no room for. The bodies come
// as one string, which both ends handle with less work than an array, and of which
// each is cut when it is stored.
func writeSQL(s Schema, mode string) string {
	queues := s.table("msg_queues")
	return `
		with locked as (
		  select recipient_id, msg_queue_size as size, msg_can_write or msg_queue_size = 0 as open
		    from ` + queues + `
		   where recipient_id = any ($1) and deleted_at is null
		   order by recipient_id ` + mode + `
		), placed as (
		  select m.*, q.size + m.ahead = 0 as first,
		         q.open and (m.ahead = 0 or q.size + m.ahead <= $8) as stored,
		         m.msg_quota or q.size + m.ahead >= $8 as marker
		    from unnest($2::bytea[], $3::int[], $4::bytea[], $5::bigint[], $6::boolean[], $7::boolean[], $9::int[], $10::int[])
		         with ordinality m (recipient_id, ahead, msg_id, msg_ts, msg_quota, msg_ntf_flag, start, length, n)
		    join locked q using (recipient_id)
		), inserted as (
		  insert into ` + s.table("messages") + ` (recipient_id, msg_id, msg_ts, msg_quota, msg_ntf_flag, msg_body)
		  select recipient_id, msg_id, msg_ts, marker, msg_ntf_flag and not marker,
		         case when marker then '' else substr($11::bytea, start, length) end
		    from (select * from placed where stored order by n offset 0) m
		), counted as (
		  update ` + queues + ` q
		     set msg_can_write = not p.marker, msg_queue_expire = true, msg_queue_size = q.msg_queue_size + p.stored
		    from (select recipient_id, count(*) as stored, bool_or(marker) as marker
		            from placed where stored group by recipient_id) p
		   where q.recipient_id = p.recipient_id
		)
		select n, stored and not marker, first from placed`
}

func newRequestSQL(s Schema) requestSQL {
	queues, messages := s.table("msg_queues"), s.table("messages")
	return requestSQL{
		lock:     lockSQL(s, waitForLocks),
		lockFree: lockSQL(s, skipLocked),

		write:     writeSQL(s, waitForLocks),
		writeFree: writeSQL(s, skipLocked),

		// Deletes the oldest messages of queues if they have the given ids, and
		// returns them and, where asked for, the ones that are then the oldest. A
		// queue that counts messages but has none is put right on the way.
		remove: `
			with head as (
			  select i.n, i.peek, q.recipient_id, q.msg_queue_size as size, m.msg_id = i.msg_id as same,
			         m.message_id, m.msg_id, m.msg_ts, m.msg_quota, m.msg_ntf_flag, m.msg_body
			    from ` + queues + ` q
			    join unnest($1::bytea[], $2::bytea[], $3::boolean[]) with ordinality i (recipient_id, msg_id, peek, n)
			   using (recipient_id)
			    left join lateral (
			         select * from ` + messages + ` m where m.recipient_id = q.recipient_id order by m.message_id limit 1
			    ) m on true
			   where ` + locked + `
			), gone as (
			  delete from ` + messages + ` m using head h where h.same and m.message_id = h.message_id returning m.recipient_id
			), following as (
			  select m.*
			    from head h,
			 lateral (select * from ` + messages + ` m
			           where m.recipient_id = h.recipient_id and m.message_id > h.message_id
			           order by m.message_id limit 1) m
			   where h.peek and h.same
			), counted as (
			  update ` + queues + ` q
			     set msg_can_write = e.empty or q.msg_can_write or q.msg_queue_size <= 1,
			         msg_queue_expire = not e.empty and q.msg_queue_size > 1,
			         msg_queue_size = case when e.empty then 0 else greatest(q.msg_queue_size - 1, 0) end
			    from head h
			    left join gone g using (recipient_id)
			    left join following f using (recipient_id),
			 lateral (select h.message_id is null or h.peek and f.message_id is null as empty) e
			   where q.recipient_id = h.recipient_id
			     and (g.recipient_id is not null or h.message_id is null and h.size <> 0)
			)
			select h.n, g.recipient_id is not null, h.msg_id, h.msg_ts, h.msg_quota, h.msg_ntf_flag, h.msg_body,
			       f.msg_id, f.msg_ts, f.msg_quota, f.msg_ntf_flag, f.msg_body
			  from head h
			  left join gone g using (recipient_id)
			  left join following f using (recipient_id)`,
	}
}

// queue queues the statements of a round trip. Only that of a single queue waits for
// its lock: else the requests for queues that others have locked are left without
// answers, like those for queues that are not there.
func (s *requestSQL) queue(p *pgx.Batch, t roundTrip, quota int) {
	var writes, removes []queue.RecipientID
	written, removed := columns(t)
	for _, part := range t.portions {
		if part.requests[0].kind == writeRequest {
			writes = append(writes, part.line.id)
		} else {
			removes = append(removes, part.line.id)
		}
		for i, r := range part.requests {
			r.answered = false // the last try to send the batch may have got that far
			if r.kind == writeRequest {
				written.add(part.line.id, i, r)
			} else {
				removed.add(part.line.id, r)
			}
		}
	}
	write, lock := s.writeFree, s.lockFree
	if t.single {
		write, lock = s.write, s.lock
	}
	if c := written; len(writes) > 0 {
		p.Queue(write, writes, c.queues, c.ahead, c.ids, c.times, c.markers, c.notify, quota, c.starts, c.lengths, c.bodies).Query(c.answer)
	}
	if c := removed; len(removes) > 0 {
		p.Queue(lock, removes)
		p.Queue(s.remove, c.queues, c.ids, c.peek).Query(c.answer)
	}
}

// columns returns the columns for the requests of a round trip, empty.
func columns(t roundTrip) (*writeColumns, *removeColumns) {
	writes, removes, bytes := 0, 0, 0
	for _, part := range t.portions {
		for _, r := range part.requests {
			if r.kind != writeRequest {
				removes++
				continue
			}
			writes++
			bytes += len(r.message.Body)
		}
	}
	return newWriteColumns(writes, bytes), newRemoveColumns(removes)
}

// writeColumns are messages to be written, column by column.
type writeColumns struct {
	requests []*request
	queues   []queue.RecipientID
	ahead    []int32 // messages of the same queue in front
	ids      []queue.MessageID
	times    []int64
	markers  []bool
	notify   []bool
	starts   []int32 // of the bodies in the string of all, from 1
	lengths  []int32
	bodies   []byte
}

func newWriteColumns(n, bytes int) *writeColumns {
	return &writeColumns{
		requests: make([]*request, 0, n),
		queues:   make([]queue.RecipientID, 0, n),
		ahead:    make([]int32, 0, n),
		ids:      make([]queue.MessageID, 0, n),
		times:    make([]int64, 0, n),
		markers:  make([]bool, 0, n),
		notify:   make([]bool, 0, n),
		starts:   make([]int32, 0, n),
		lengths:  make([]int32, 0, n),
		bodies:   make([]byte, 0, bytes),
	}
}

func (c *writeColumns) add(id queue.RecipientID, ahead int, r *request) {
	m := &r.message
	c.requests = append(c.requests, r)
	c.queues = append(c.queues, id)
	c.ahead = append(c.ahead, int32(ahead)) //nolint:gosec // less than maxBatch
	c.ids = append(c.ids, m.ID)
	c.times = append(c.times, m.Time)
	c.markers = append(c.markers, m.QuotaMarker)
	c.notify = append(c.notify, m.Notify)
	c.starts = append(c.starts, int32(len(c.bodies)+1)) //nolint:gosec // maxBatchBytes and one body
	c.lengths = append(c.lengths, int32(len(m.Body)))   //nolint:gosec // the same
	c.bodies = append(c.bodies, m.Body...)
}

// answer reads the answers to the requests.
func (c *writeColumns) answer(rows pgx.Rows) error {
	var n int
	var stored, wasEmpty bool
	_, err := pgx.ForEachRow(rows, []any{&n, &stored, &wasEmpty}, func() error {
		r := c.requests[n-1]
		r.answered, r.err, r.wasEmpty = true, nil, wasEmpty
		if !stored {
			r.err = ErrQuota
		}
		return nil
	})
	return err
}

// removeColumns are messages to be deleted, column by column.
type removeColumns struct {
	requests []*request
	queues   []queue.RecipientID
	ids      []queue.MessageID
	peek     []bool
}

func newRemoveColumns(n int) *removeColumns {
	return &removeColumns{
		requests: make([]*request, 0, n),
		queues:   make([]queue.RecipientID, 0, n),
		ids:      make([]queue.MessageID, 0, n),
		peek:     make([]bool, 0, n),
	}
}

func (c *removeColumns) add(id queue.RecipientID, r *request) {
	c.requests = append(c.requests, r)
	c.queues = append(c.queues, id)
	c.ids = append(c.ids, r.message.ID)
	c.peek = append(c.peek, r.kind == deletePeekRequest)
}

// answer reads the answers to the requests.
func (c *removeColumns) answer(rows pgx.Rows) error {
	var (
		n              int
		gone           bool
		head, follower messageRow
	)
	_, err := pgx.ForEachRow(rows, slices.Concat([]any{&n, &gone}, head.targets(), follower.targets()), func() error {
		r := c.requests[n-1]
		r.answered, r.err, r.deleted, r.next = true, nil, nil, nil
		if gone {
			r.deleted, r.next = head.message(), follower.message()
		} else if r.kind == deletePeekRequest {
			r.next = head.message()
		}
		return nil
	})
	return err
}
