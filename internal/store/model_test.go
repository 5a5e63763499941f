package store_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

// modelQuota is the quota of queues in the model test: small, so that queues are
// full now and then.
const modelQuota = 6

// A life says whether there is a queue.
type life byte

const (
	isAbsent  life = iota // its ids are free
	isDeleted             // softly: its ids are not free yet
	isLive
)

// A modelState is all that a queue can be. States are comparable.
type modelState struct {
	life     life
	view     store.View // the rest is zero if there is no queue
	fixed    string     // data of the link
	user     string
	messages modelMessages
	full     bool // takes no message until it is empty
}

// modelMessages are the messages of a queue: the number and the kind of each.
type modelMessages string

// What kind of message it is.
const (
	young  = 'y'
	old    = 'o' // it has expired
	marker = 'q' // of the quota
)

const (
	oldTime, expiry, youngTime = 1000, 2000, 3000
	modelMessageSize           = 9 // of a message in modelMessages
)

// newModelMessage returns what stands for a message.
func newModelMessage(n int, kind byte) modelMessages {
	return modelMessages(append(binary.BigEndian.AppendUint64(nil, uint64(n)), kind))
}

func (m modelMessages) size() int { return len(m) / modelMessageSize }

func (m modelMessages) empty() bool { return m == "" }

// head returns the first message, none if there is none.
func (m modelMessages) head() modelMessages { return m[:min(len(m), modelMessageSize)] }

func (m modelMessages) tail() modelMessages { return m[min(len(m), modelMessageSize):] }

// number returns the number of the first message.
func (m modelMessages) number() int { return int(binary.BigEndian.Uint64([]byte(m))) }

func (m modelMessages) kind() byte { return m[modelMessageSize-1] }

// message returns the message to write for the first one.
func (m modelMessages) message() queue.Message {
	message := queue.Message{ID: messageID(m.number()), Time: youngTime, QuotaMarker: m.kind() == marker}
	if m.kind() == old {
		message.Time = oldTime
	}
	if m.kind() != marker {
		message.Body = modelBody(m.number())
	}
	return message
}

func modelBody(n int) []byte { return []byte(strings.Repeat("message "+fmt.Sprint(n)+" ", n%5)) }

// readModelMessage returns what stands for a message that was read, none for nil.
// The message must be as it was written.
func readModelMessage(m *queue.Message) (modelMessages, error) {
	if m == nil {
		return "", nil
	}
	if m.ID.Len() != smp.IDSize {
		return "", fmt.Errorf("message %s: an id that nobody wrote", m.ID)
	}
	n := int(binary.BigEndian.Uint64(m.ID.Bytes()))
	body, kind := string(modelBody(n)), byte(young)
	switch {
	case m.QuotaMarker:
		body, kind = "", marker
	case m.Time == oldTime:
		kind = old
	}
	if string(m.Body) != body {
		return "", fmt.Errorf("message %d has another body than it was written with", n)
	}
	return newModelMessage(n, kind), nil
}

// An answer is what an operation returns: a value, or one of the reasons below.
type answer any

// errGone is the reason of all operations on a queue that is not there.
var errGone = errors.New("the queue is gone")

// reasonOf returns the reason for which an operation was refused, nil if it
// failed.
func reasonOf(err error) error {
	for _, gone := range []error{store.ErrNotFound, store.ErrDeleted, store.ErrStale} {
		if errors.Is(err, gone) {
			return errGone
		}
	}
	for _, reason := range []error{store.ErrTaken, store.ErrRefused, store.ErrNotSet, store.ErrQuota} {
		if errors.Is(err, reason) {
			return reason
		}
	}
	return nil
}

// A modelOp is an operation on a queue: what it is to do, and how to do it.
type modelOp struct {
	name  string
	apply func(modelState) (modelState, answer)
	call  func(context.Context) (answer, error)
	// vague says that an error never tells that nothing was written.
	vague bool
}

// onLive returns what an operation is to do that only live queues allow.
func onLive(apply func(*modelState) answer) func(modelState) (modelState, answer) {
	return func(s modelState) (modelState, answer) {
		if s.life != isLive {
			return s, errGone
		}
		next := s
		a := apply(&next)
		if reason, refused := a.(error); refused && !errors.Is(reason, store.ErrQuota) {
			next = s
		}
		return next, a
	}
}

// A modelQueue is a queue and what it may be like. One worker changes it; others
// watch.
type modelQueue struct {
	// Those of the worker.
	states  []modelState                // one, unless an operation ended without an answer
	doubt   *doubt                      // nil: no such operation
	handle  *store.Queue                // nil: not looked up
	admin   func(modelState) modelState // what another process is about to do; nil: nothing
	tries   int                         // to add it
	history []string                    // the last operations with their outcomes

	mu     sync.Mutex // guards the rest
	record queue.Record
	ids    map[store.By][]smp.EntityID // that it has or had
	sights []sight
	since  int // the first of sights that may be seen now
}

// A doubt is an operation of which it is not known whether it was carried out.
type doubt struct {
	name          string
	before, after []modelState
}

// A sight is what may be seen of a queue in a process.
type sight struct {
	life   life
	view   store.View
	handle *store.Queue // nil: any
}

func newModelQueue(r queue.Record) *modelQueue {
	q := &modelQueue{record: r, states: []modelState{{}}, ids: map[store.By][]smp.EntityID{
		store.ByRecipient: {r.RecipientID.EntityID}, store.BySender: {r.SenderID.EntityID},
	}}
	q.settle(q.states)
	return q
}

// is reports whether the queue is known to be in a state of which that is true.
func (q *modelQueue) is(what func(*modelState) bool) bool {
	return len(q.states) == 1 && q.admin == nil && what(&q.states[0])
}

func (q *modelQueue) lives() bool { return q.is(func(s *modelState) bool { return s.life == isLive }) }

func (q *modelQueue) gone() bool {
	return !slices.ContainsFunc(q.states, func(s modelState) bool { return s.life == isLive })
}

// begin notes what an operation may make of the queue, for those who watch.
func (q *modelQueue) begin(op *modelOp) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range q.states {
		next, _ := op.apply(s)
		q.show(next, nil)
	}
}

// show notes what may be seen from now on. The mutex is held.
func (q *modelQueue) show(s modelState, handle *store.Queue) {
	seen := sight{s.life, s.view, handle}
	if s.life != isLive {
		seen = sight{}
	}
	if slices.Contains(q.sights[q.since:], seen) {
		return
	}
	q.sights = append(q.sights, seen)
	for _, by := range store.Bys() {
		id := idOf(&s.view, by)
		if !id.IsZero() && !slices.Contains(q.ids[by], id) {
			q.ids[by] = append(q.ids[by], id)
		}
	}
}

// settle notes in which states the queue may be after an operation.
func (q *modelQueue) settle(states []modelState) {
	q.states = q.states[:0:0]
	add := func(s modelState) {
		if !slices.Contains(q.states, s) {
			q.states = append(q.states, s)
		}
	}
	for _, s := range states {
		add(s)
		if q.admin != nil {
			add(q.admin(s))
		}
	}
	for _, s := range slices.Clone(q.states) {
		if s.life == isDeleted {
			add(modelState{}) // it may be removed for good at any time
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if slices.Equal(q.shown(), q.sights[q.since:]) {
		return
	}
	q.since = len(q.sights)
	for _, s := range q.states {
		q.show(s, q.handle)
	}
}

// shown returns what may be seen of the present states.
func (q *modelQueue) shown() []sight {
	var all []sight
	for _, s := range q.states {
		seen := sight{s.life, s.view, q.handle}
		if s.life != isLive {
			seen = sight{}
		}
		if !slices.Contains(all, seen) {
			all = append(all, seen)
		}
	}
	return all
}

// idOf returns one of the ids of a view.
func idOf(v *store.View, by store.By) smp.EntityID {
	switch by {
	case store.ByRecipient:
		return v.RecipientID.EntityID
	case store.BySender:
		return v.SenderID.EntityID
	case store.ByNotifier:
		return v.Notifier.ID.EntityID
	case store.ByLink:
		return v.LinkID.EntityID
	}
	return smp.EntityID{}
}

// historyLength is how many operations are remembered, to be told of when there is
// a contradiction.
const historyLength = 20

// remember notes an operation and what came of it.
func (q *modelQueue) remember(what string, a answer, err error) {
	if errors.Is(err, store.ErrAway) {
		return // nothing was sent
	}
	if len(q.history) == historyLength {
		q.history = slices.Delete(q.history, 0, 1)
	}
	line := time.Now().Format("15:04:05.000000 ") + what
	if err != nil {
		line += ": " + err.Error()
		if store.Certain(err) {
			line += " (certain)"
		}
	} else {
		line += fmt.Sprintf(": %x", a)
	}
	q.history = append(q.history, line)
}

// contradiction returns an error that tells what is wrong and how it came to it.
func (q *modelQueue) contradiction(format string, args ...any) error {
	return fmt.Errorf("queue %s: %s\n%s", q.record.RecipientID, fmt.Sprintf(format, args...), strings.Join(q.history, "\n"))
}

// conclude draws the conclusions from what an operation returned. The error is a
// contradiction to the model.
func (q *modelQueue) conclude(op *modelOp, a answer, err error) error {
	q.remember(op.name, a, err)
	cause := err
	if reason := reasonOf(err); reason != nil {
		a, err = reason, nil
	}
	switch {
	case err == nil:
		var possible []modelState
		var wanted []answer
		for _, s := range q.states {
			next, want := op.apply(s)
			if _, refused := want.(error); want == a || refused && errors.Is(cause, store.ErrStale) {
				possible = append(possible, next)
			}
			wanted = append(wanted, want)
		}
		if len(possible) == 0 {
			return q.contradiction("%s returned %+v, want one of %+v", op.name, a, wanted)
		}
		q.settle(possible)
	case store.CodeOf(err) != store.CodeStore:
		return q.contradiction("%s: code %s", op.name, store.CodeOf(err))
	case store.Certain(err) && !op.vague:
		q.settle(q.states)
	default:
		before := slices.Clone(q.states)
		after := slices.Clone(before)
		for i := range after {
			after[i], _ = op.apply(before[i])
		}
		if slices.Equal(before, after) {
			return nil // it reads
		}
		q.doubt = &doubt{op.name, before, after}
		q.settle(slices.Concat(before, after))
	}
	return nil
}

// resolved returns what became of the operation in doubt: nothing is known yet,
// or it was carried out, or it was not.
func (q *modelQueue) resolved() (known, carriedOut bool) {
	in := func(all []modelState) bool {
		return !slices.ContainsFunc(q.states, func(s modelState) bool { return s.life != isAbsent && !slices.Contains(all, s) })
	}
	before, after := in(q.doubt.before), in(q.doubt.after)
	return before != after, after
}

// mark returns since when a watcher watches the queue.
func (q *modelQueue) mark() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.since
}

// allows reports whether something may have been seen since a mark.
func (q *modelQueue) allows(mark int, seen func(sight) bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.ContainsFunc(q.sights[mark:], seen)
}

// describe returns what may have been seen since a mark.
func (q *modelQueue) describe(mark int) string {
	q.mu.Lock()
	defer q.mu.Unlock()
	var b strings.Builder
	for _, s := range q.sights[mark:] {
		fmt.Fprintf(&b, "\n%+v", s)
	}
	return b.String()
}

// storedState returns what the database has of a queue.
func storedState(ctx context.Context, conn *pgx.Conn, id queue.RecipientID) (s modelState, err error) {
	err = store.Snapshot(ctx, conn, func(tx store.Querier) error {
		database := store.Schema{Name: schemaName, Version: schema.Newest}
		found, err := store.FindQueue(ctx, tx, database, id.Bytes(), store.ByRecipient)
		if err != nil || len(found) == 0 {
			return err
		}
		row := found[0].Row
		if row.Deleted() {
			s.life = isDeleted
			return nil
		}
		s = newState(&row.Record)
		s.full = !row.Messages.CanWrite
		for m, err := range store.Messages(ctx, tx, database, id) {
			if err != nil {
				return err
			}
			one, err := readModelMessage(m)
			if err != nil {
				return err
			}
			s.messages += one
		}
		if s.messages.size() != int(row.Messages.Size) {
			return fmt.Errorf("queue %s: msg_queue_size is %d, but it has %d messages", id, row.Messages.Size, s.messages.size())
		}
		return nil
	})
	return s, err
}

// newState returns the state of a new queue.
func newState(r *queue.Record) modelState {
	s := modelState{life: isLive, view: store.View{
		RecipientID: r.RecipientID, RecipientKeys: store.NewKeys(r.RecipientKeys...), RcvDHSecret: r.RcvDHSecret,
		SenderID: r.SenderID, SenderKey: r.SenderKey, Mode: r.Mode, Status: r.Status, UpdatedAt: r.UpdatedAt, RcvService: r.RcvService,
	}}
	if r.Notifier != nil {
		s.view.Notifier = *r.Notifier
	}
	if r.Link != nil {
		s.view.LinkID, s.fixed, s.user = r.Link.ID, string(r.Link.Data.Fixed), string(r.Link.Data.User)
	}
	return s
}

// The rules of messages.
func (s *modelState) write(m modelMessages) answer {
	size := s.messages.size()
	if s.full && size > 0 {
		return store.ErrQuota
	}
	s.full = m.kind() == marker || size >= modelQuota
	if s.full {
		s.messages += newModelMessage(m.number(), marker)
		return store.ErrQuota
	}
	s.messages += m
	return store.Written{WasEmpty: size == 0}
}

// remove removes the first message if it has the number.
func (s *modelState) remove(n int) modelMessages {
	head := s.messages.head()
	if head.empty() || head.number() != n {
		return ""
	}
	s.messages = s.messages.tail()
	s.full = s.full && !s.messages.empty()
	return head
}

// expire removes old messages in front of the first young one, not markers.
func (s *modelState) expire() answer {
	var kept modelMessages
	rest := s.messages
	for !rest.empty() && rest.kind() != young {
		if rest.kind() == marker {
			kept += rest.head()
		}
		rest = rest.tail()
	}
	n := int64(s.messages.size() - kept.size() - rest.size())
	s.messages = kept + rest
	s.full = s.full && !s.messages.empty()
	return n
}
