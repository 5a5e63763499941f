package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

// operations are what a worker does with a queue of its own, and how often. They
// return nil where there is nothing to do.
var operations = []struct {
	weight int
	make   func(*modelWorker, *modelQueue) *modelOp
}{
	{8, (*modelWorker).look},
	{3, (*modelWorker).secure},
	{2, (*modelWorker).setKeys},
	{4, (*modelWorker).setLink},
	{2, (*modelWorker).deleteLink},
	{3, (*modelWorker).readLink},
	{4, (*modelWorker).addNotifier},
	{2, (*modelWorker).deleteNotifier},
	{2, (*modelWorker).readNotifierService},
	{4, (*modelWorker).setStatus},
	{2, (*modelWorker).setTime},
	{3, (*modelWorker).setService},
	{1, (*modelWorker).remove},
	{10, (*modelWorker).write},
	{6, (*modelWorker).removeMessage},
	{6, (*modelWorker).removePeekMessage},
	{3, (*modelWorker).peek},
	{2, (*modelWorker).size},
	{1, (*modelWorker).expire},
}

// add adds the queue, which may be there already, or may have been.
func (w *modelWorker) add(q *modelQueue) *modelOp {
	record := q.record
	return &modelOp{
		name: "add",
		apply: func(s modelState) (modelState, answer) {
			if s.life != isAbsent {
				return s, store.ErrTaken
			}
			return newState(&record), nil
		},
		call: func(ctx context.Context) (answer, error) {
			handle, err := w.p.store.AddQueue(ctx, &record)
			if err == nil {
				q.handle = handle
			}
			return nil, err
		},
		vague: true, // it can fail after the queue was added
	}
}

// look looks the queue up by one of its ids, or by one that it had.
func (w *modelWorker) look(q *modelQueue) *modelOp {
	bys := store.Bys()
	by := bys[w.rng.IntN(len(bys))]
	if len(q.ids[by]) == 0 {
		by = store.ByRecipient
	}
	ids := q.ids[by]
	return w.lookFor(q, by, ids[len(ids)-1-w.rng.IntN(min(len(ids), 2))])
}

func (w *modelWorker) lookFor(q *modelQueue, by store.By, id smp.EntityID) *modelOp {
	return &modelOp{
		name: "look up by " + string(by),
		apply: onLive(func(s *modelState) answer {
			if idOf(&s.view, by) != id {
				return errGone
			}
			return s.view
		}),
		call: func(ctx context.Context) (answer, error) {
			handle, err := w.p.find(ctx, by, id)
			if err != nil {
				return nil, err
			}
			if q.handle != nil && q.handle != handle {
				return "another object for the same queue", nil
			}
			q.handle = handle
			v, err := handle.View()
			return v, err
		},
	}
}

// change is an operation on the record.
func (w *modelWorker) change(q *modelQueue, name string, apply func(*modelState) answer, call func(context.Context, *store.Queue) (answer, error)) *modelOp {
	handle := q.handle
	if handle == nil {
		return w.lookFor(q, store.ByRecipient, q.record.RecipientID.EntityID)
	}
	return &modelOp{
		name: name, apply: onLive(apply),
		call: func(ctx context.Context) (answer, error) { return call(ctx, handle) },
	}
}

func (w *modelWorker) secure(q *modelQueue) *modelOp {
	key := w.keys[w.rng.IntN(2)]
	return w.change(q, "secure", func(s *modelState) answer {
		switch s.view.SenderKey {
		case key:
			return nil
		case smp.PublicKey{}:
			s.view.SenderKey = key
			return nil
		}
		return store.ErrRefused
	}, func(ctx context.Context, handle *store.Queue) (answer, error) {
		return nil, w.p.store.SecureQueue(ctx, handle, key)
	})
}

func (w *modelWorker) setKeys(q *modelQueue) *modelOp {
	keys := w.keys[:1+w.rng.IntN(len(w.keys))]
	return w.change(q, "set keys", func(s *modelState) answer {
		s.view.RecipientKeys = store.NewKeys(keys...)
		return nil
	}, func(ctx context.Context, handle *store.Queue) (answer, error) {
		return nil, w.p.store.SetRecipientKeys(ctx, handle, keys...)
	})
}

func (w *modelWorker) setLink(q *modelQueue) *modelOp {
	link := randomLink()
	taken := false
	switch s := &q.states[0]; w.rng.IntN(6) {
	case 0, 1: // other user data
		if s.life == isLive {
			link.ID, link.Data.Fixed = s.view.LinkID, []byte(s.fixed)
		}
	case 2: // other fixed data
		link.ID = s.view.LinkID
	case 3: // the link of another queue
		other := w.other(q, func(s *modelState) bool { return !s.view.LinkID.IsZero() })
		if taken = other != nil; taken {
			link.ID = other.states[0].view.LinkID
		}
	}
	if link.ID.IsZero() {
		return nil
	}
	return w.change(q, "set link", func(s *modelState) answer {
		switch s.view.LinkID {
		case link.ID:
			if s.fixed != string(link.Data.Fixed) {
				return store.ErrRefused
			}
		case queue.LinkID{}:
			if taken {
				return store.ErrTaken
			}
		default:
			return store.ErrRefused
		}
		s.view.LinkID, s.fixed, s.user = link.ID, string(link.Data.Fixed), string(link.Data.User)
		return nil
	}, func(ctx context.Context, handle *store.Queue) (answer, error) {
		return nil, w.p.store.SetLink(ctx, handle, link)
	})
}

func (w *modelWorker) deleteLink(q *modelQueue) *modelOp {
	return w.change(q, "delete link", func(s *modelState) answer {
		if s.view.LinkID.IsZero() {
			return store.ErrNotSet
		}
		s.view.LinkID, s.fixed, s.user = queue.LinkID{}, "", ""
		return nil
	}, func(ctx context.Context, handle *store.Queue) (answer, error) {
		return nil, w.p.store.DeleteLink(ctx, handle)
	})
}

// readLink reads the data of the link that the queue has, or had.
func (w *modelWorker) readLink(q *modelQueue) *modelOp {
	ids := q.ids[store.ByLink]
	if len(ids) == 0 {
		return nil
	}
	id := queue.LinkID{EntityID: ids[len(ids)-1]}
	return &modelOp{
		name: "read link",
		apply: onLive(func(s *modelState) answer {
			if s.view.LinkID != id {
				return errGone
			}
			return [2]string{s.fixed, s.user}
		}),
		call: func(ctx context.Context) (answer, error) {
			handle, err := w.p.store.QueueByLink(ctx, id)
			if err != nil {
				return nil, err
			}
			data, err := w.p.store.LinkData(ctx, handle, id)
			return [2]string{string(data.Fixed), string(data.User)}, err
		},
	}
}

func (w *modelWorker) addNotifier(q *modelQueue) *modelOp {
	n := randomNotifier()
	taken := false
	switch w.rng.IntN(5) {
	case 0: // its own
		n.ID = q.states[0].view.Notifier.ID
	case 1: // that of another queue
		other := w.other(q, func(s *modelState) bool { return s.view.HasNotifier() })
		if taken = other != nil; taken {
			n.ID = other.states[0].view.Notifier.ID
		}
	}
	if n.ID.IsZero() {
		return nil
	}
	return w.change(q, "add notifier", func(s *modelState) answer {
		if taken || s.view.Notifier.ID == n.ID {
			return store.ErrTaken
		}
		was := s.view.Notifier
		s.view.Notifier = n
		return was
	}, func(ctx context.Context, handle *store.Queue) (answer, error) {
		was, err := w.p.store.AddNotifier(ctx, handle, n)
		return was, err
	})
}

func (w *modelWorker) deleteNotifier(q *modelQueue) *modelOp {
	return w.change(q, "delete notifier", func(s *modelState) answer {
		was := s.view.Notifier
		s.view.Notifier = queue.Notifier{}
		return was
	}, func(ctx context.Context, handle *store.Queue) (answer, error) {
		was, err := w.p.store.DeleteNotifier(ctx, handle)
		return was, err
	})
}

func (w *modelWorker) readNotifierService(q *modelQueue) *modelOp {
	ids := q.ids[store.ByNotifier]
	if len(ids) == 0 {
		return nil
	}
	id := queue.NotifierID{EntityID: ids[len(ids)-1]}
	return &modelOp{
		name: "read the service of a notifier",
		apply: onLive(func(s *modelState) answer {
			if s.view.Notifier.ID != id {
				return errGone
			}
			return s.view.Notifier.Service
		}),
		call: func(ctx context.Context) (answer, error) {
			services, unknown, err := w.p.store.NotifierServices(ctx, []queue.NotifierID{id})
			switch {
			case err != nil:
				return nil, err
			case len(unknown) == 1 && len(services) == 0:
				return errGone, nil
			case len(unknown) > 0 || len(services) != 1:
				return "more or less than one answer", nil
			}
			return slices.Collect(maps.Keys(services))[0], nil
		},
	}
}

func (w *modelWorker) setStatus(q *modelQueue) *modelOp {
	if q.admin != nil {
		return nil // an administrator does
	}
	status := queue.Status{State: queue.State(w.rng.IntN(3))}
	if status.State == queue.Blocked {
		status.Blocking = queue.Blocking{Reason: []string{"spam", "content"}[w.rng.IntN(2)], HasNotice: w.rng.IntN(2) == 0}
	}
	return w.change(q, "set status", func(s *modelState) answer {
		s.view.Status = status
		return nil
	}, func(ctx context.Context, handle *store.Queue) (answer, error) {
		switch status.State {
		case queue.Off:
			return nil, w.p.store.SuspendQueue(ctx, handle)
		case queue.Blocked:
			return nil, w.p.store.BlockQueue(ctx, handle, status.Blocking)
		case queue.Active:
		}
		return nil, w.p.store.UnblockQueue(ctx, handle)
	})
}

func (w *modelWorker) setTime(q *modelQueue) *modelOp {
	seconds := int64(1+w.rng.IntN(3)) * queue.SecondsPerDay
	return w.change(q, "set time", func(s *modelState) answer {
		s.view.UpdatedAt = queue.DateOf(seconds)
		return nil
	}, func(ctx context.Context, handle *store.Queue) (answer, error) {
		return nil, w.p.store.SetUpdatedAt(ctx, handle, seconds)
	})
}

// anyService returns a party and a service for it, or none.
func (w *modelWorker) anyService() (queue.Party, queue.ServiceID) {
	party := []queue.Party{queue.PartyRecipient, queue.PartyNotifier}[w.rng.IntN(2)]
	services := w.p.services[party]
	if i := w.rng.IntN(len(services) + 1); i < len(services) {
		return party, services[i]
	}
	return party, queue.ServiceID{}
}

// applyService sets the service of a party.
func applyService(party queue.Party, id queue.ServiceID) func(*modelState) answer {
	return func(s *modelState) answer {
		switch {
		case party == queue.PartyRecipient:
			s.view.RcvService = id
		case s.view.HasNotifier():
			s.view.Notifier.Service = id
		default:
			return store.ErrNotSet
		}
		return nil
	}
}

func (w *modelWorker) setService(q *modelQueue) *modelOp {
	party, id := w.anyService()
	return w.change(q, "set service", applyService(party, id), func(ctx context.Context, handle *store.Queue) (answer, error) {
		return nil, w.p.store.SetService(ctx, handle, party, id)
	})
}

func (w *modelWorker) remove(q *modelQueue) *modelOp {
	if q.admin != nil || w.rng.IntN(2) == 0 {
		return nil
	}
	return w.change(q, "delete", func(s *modelState) answer {
		was := s.view
		*s = modelState{life: isDeleted}
		return was
	}, func(ctx context.Context, handle *store.Queue) (answer, error) {
		was, err := w.p.store.DeleteQueue(ctx, handle)
		return was, err
	})
}

func (w *modelWorker) write(q *modelQueue) *modelOp {
	kind := byte(young)
	switch w.rng.IntN(8) {
	case 0, 1:
		kind = old
	case 2:
		if w.rng.IntN(4) == 0 {
			kind = marker
		}
	}
	m := newModelMessage(w.nextNumber(), kind)
	return &modelOp{
		name:  "write a message",
		apply: onLive(func(s *modelState) answer { return s.write(m) }),
		call: func(ctx context.Context) (answer, error) {
			written, err := w.p.store.WriteMessage(ctx, q.record.RecipientID, m.message())
			return written, err
		},
	}
}

// aMessage returns the number of the first message of a queue, seldom another.
func (w *modelWorker) aMessage(q *modelQueue) int {
	all := q.states[0].messages
	if all.empty() || w.rng.IntN(8) == 0 {
		return w.number
	}
	return all.number()
}

func (w *modelWorker) removeMessage(q *modelQueue) *modelOp {
	n := w.aMessage(q)
	return &modelOp{
		name:  "delete a message",
		apply: onLive(func(s *modelState) answer { return s.remove(n) }),
		call: func(ctx context.Context) (answer, error) {
			m, err := w.p.store.DeleteMessage(ctx, q.record.RecipientID, messageID(n))
			if err != nil {
				return nil, err
			}
			return readAnswer(m), nil
		},
	}
}

func (w *modelWorker) removePeekMessage(q *modelQueue) *modelOp {
	n := w.aMessage(q)
	return &modelOp{
		name: "delete and peek",
		apply: onLive(func(s *modelState) answer {
			gone := s.remove(n)
			return [2]answer{gone, s.messages.head()}
		}),
		call: func(ctx context.Context) (answer, error) {
			m, next, err := w.p.store.DeletePeekMessage(ctx, q.record.RecipientID, messageID(n))
			if err != nil {
				return nil, err
			}
			return [2]answer{readAnswer(m), readAnswer(next)}, nil
		},
	}
}

// readAnswer is a message as an answer.
func readAnswer(m *queue.Message) answer {
	read, err := readModelMessage(m)
	if err != nil {
		return err.Error()
	}
	return read
}

func (w *modelWorker) peek(q *modelQueue) *modelOp {
	return &modelOp{
		name:  "peek",
		apply: onLive(func(s *modelState) answer { return s.messages.head() }),
		call: func(ctx context.Context) (answer, error) {
			m, err := w.p.store.PeekMessage(ctx, q.record.RecipientID)
			if err != nil {
				return nil, err
			}
			return readAnswer(m), nil
		},
	}
}

func (w *modelWorker) size(q *modelQueue) *modelOp {
	return &modelOp{
		name:  "size",
		apply: onLive(func(s *modelState) answer { return int64(s.messages.size()) }),
		call: func(ctx context.Context) (answer, error) {
			n, err := w.p.store.QueueSize(ctx, q.record.RecipientID)
			return n, err
		},
	}
}

func (w *modelWorker) expire(q *modelQueue) *modelOp {
	if q.admin != nil || !q.lives() {
		return nil // it may be locked, and left for the next time
	}
	return &modelOp{
		name:  "expire",
		apply: onLive(func(s *modelState) answer { return s.expire() }),
		call: func(ctx context.Context) (answer, error) {
			n, err := w.p.store.ExpireQueue(ctx, q.record.RecipientID, expiry)
			return n, err
		},
	}
}

// sweep is one of the operations that concern more than single queues.
func (w *modelWorker) sweep(ctx context.Context) error {
	switch w.rng.IntN(5) {
	case 0:
		_, err := w.p.store.Entities(ctx)
		return err
	case 1:
		_, err := w.p.store.PurgeDeleted(ctx, store.Today()+queue.SecondsPerDay)
		return err
	case 2:
		party, id := w.anyService()
		if id.IsZero() {
			return nil
		}
		_, err := w.p.store.ServiceQueues(ctx, id, party)
		return err
	case 3:
		last := queue.RecipientID{}
		for row, err := range w.p.store.All(ctx) {
			if err != nil {
				return err
			}
			if row.RecipientID.Compare(last.EntityID) <= 0 {
				return fmt.Errorf("all queues: %s comes after %s", row.RecipientID, last)
			}
			last = row.RecipientID
		}
		return nil
	}
	last := queue.RecipientID{}
	for m, err := range w.p.store.ServiceMessages(ctx, w.p.services[queue.PartyRecipient][0]) {
		if err != nil {
			return err
		}
		if m.Queue.Compare(last.EntityID) <= 0 {
			return fmt.Errorf("queues of a service: %s comes after %s", m.Queue, last)
		}
		last = m.Queue
		if _, err := readModelMessage(m.Message); err != nil {
			return err
		}
	}
	return nil
}

// many is an operation on several queues of the worker: it sets their service or
// peeks.
func (w *modelWorker) many(ctx context.Context) {
	var queues []*modelQueue
	for _, q := range w.queues {
		if q.handle != nil && q.admin == nil && w.rng.IntN(3) > 0 {
			queues = append(queues, q)
		}
	}
	if len(queues) == 0 {
		return
	}
	var op *modelOp
	var answers []answer
	var errs []error
	if w.rng.IntN(2) == 0 {
		party, id := w.anyService()
		op = &modelOp{name: "set services", apply: onLive(applyService(party, id))}
		var handles []*store.Queue
		for _, q := range queues {
			q.begin(op)
			handles = append(handles, q.handle)
		}
		errs = w.p.store.SetServices(ctx, handles, party, id)
		answers = slices.Repeat([]answer{nil}, len(queues))
	} else {
		op = w.peek(queues[0])
		op.name = "peek several"
		var ids []queue.RecipientID
		for _, q := range queues {
			ids = append(ids, q.record.RecipientID)
		}
		found, err := w.p.store.PeekMessages(ctx, ids)
		for _, id := range ids {
			m, ok := found[id]
			a := readAnswer(m)
			if !ok {
				a = errGone
			}
			answers, errs = append(answers, a), append(errs, err)
		}
	}
	for i, q := range queues {
		w.conclude(q, op, answers[i], errs[i])
	}
}

// watch looks up a queue of another worker by an id that it has or had.
func (w *modelWorker) watch(ctx context.Context) error {
	q := w.p.anyQueue(w.rng)
	bys := store.Bys()
	by := bys[w.rng.IntN(len(bys))]
	id := q.anyID(by, w.rng)
	if id.IsZero() {
		return nil
	}
	mark := q.mark()
	handle, err := w.p.find(ctx, by, id)
	return q.watched(by, id, mark, handle, err)
}

// watched checks what a watcher found. It returns errors of the store as well.
func (q *modelQueue) watched(by store.By, id smp.EntityID, mark int, handle *store.Queue, err error) error {
	if err != nil {
		if errors.Is(reasonOf(err), errGone) && q.allows(mark, func(s sight) bool { return s.life != isLive || idOf(&s.view, by) != id }) {
			return nil
		}
		if errors.Is(reasonOf(err), errGone) {
			return fmt.Errorf("not found by %s id %s, but it was there: %s", by, id, q.describe(mark))
		}
		return err
	}
	v, err := handle.View()
	switch {
	case handle.ID() != q.record.RecipientID:
		return fmt.Errorf("queue %s found by %s id %s of queue %s", handle.ID(), by, id, q.record.RecipientID)
	case !q.allows(mark, func(s sight) bool {
		return s.life == isLive && idOf(&s.view, by) == id && (s.handle == nil || s.handle == handle)
	}):
		return fmt.Errorf("found by %s id %s as %p, but never was there: %s", by, id, handle, q.describe(mark))
	case err == nil && !q.allows(mark, func(s sight) bool { return s.view == v }):
		return fmt.Errorf("found by %s id %s:\n%+v, but it never was so: %s", by, id, v, q.describe(mark))
	case err != nil && !q.allows(mark, func(s sight) bool { return s.life != isLive }):
		return fmt.Errorf("found by %s id %s, but deleted: %s", by, id, q.describe(mark))
	}
	return nil
}

// watchMany looks up many queues of any worker, some twice, and some that never
// were there.
func (w *modelWorker) watchMany(ctx context.Context) error {
	by := []store.By{store.ByRecipient, store.ByNotifier}[w.rng.IntN(2)]
	var queues []*modelQueue
	var ids []smp.EntityID
	var marks []int
	for range 1 + w.rng.IntN(12) {
		q := w.p.anyQueue(w.rng)
		id := q.anyID(by, w.rng)
		if w.rng.IntN(8) == 0 {
			q, id = nil, randomID()
		}
		if id.IsZero() {
			continue
		}
		mark := 0
		if q != nil {
			mark = q.mark()
		}
		queues, ids, marks = append(queues, q), append(ids, id), append(marks, mark)
	}
	var found []store.Lookup
	var err error
	if by == store.ByRecipient {
		found, err = w.p.store.QueuesByRecipient(ctx, wrap(ids, func(id smp.EntityID) queue.RecipientID { return queue.RecipientID{EntityID: id} }))
	} else {
		found, err = w.p.store.QueuesByNotifier(ctx, wrap(ids, func(id smp.EntityID) queue.NotifierID { return queue.NotifierID{EntityID: id} }))
	}
	if err != nil {
		return err
	}
	if len(found) != len(ids) {
		return fmt.Errorf("%d results for %d ids", len(found), len(ids))
	}
	for i, f := range found {
		if q := queues[i]; q != nil {
			err = q.watched(by, ids[i], marks[i], f.Queue, f.Err)
		} else if !errors.Is(reasonOf(f.Err), errGone) {
			err = fmt.Errorf("by an id that no queue has: %v, %w", f.Queue, f.Err)
		}
		if err != nil {
			return fmt.Errorf("result %d of %d: %w", i, len(ids), err)
		}
	}
	return nil
}

func wrap[T any](ids []smp.EntityID, f func(smp.EntityID) T) []T {
	all := make([]T, len(ids))
	for i, id := range ids {
		all[i] = f(id)
	}
	return all
}

// useShared writes to, or reads from, a queue that all workers of both processes
// use.
func (w *modelWorker) useShared(ctx context.Context) error {
	i := w.rng.IntN(len(w.p.shared))
	id, log := w.p.shared[i], w.heads[i]
	if w.rng.IntN(2) == 0 {
		m := newModelMessage(w.nextNumber(), young)
		_, err := w.p.store.WriteMessage(ctx, id, m.message())
		w.p.letters.wrote(m.number(), err)
		return err
	}
	m, err := w.p.store.PeekMessage(ctx, id)
	for n := 0; err == nil && m != nil && n < 4; n++ {
		var read modelMessages
		if read, err = readModelMessage(m); err != nil {
			break
		}
		log.saw(read.number())
		var gone *queue.Message
		if w.rng.IntN(2) == 0 {
			gone, err = w.p.store.DeleteMessage(ctx, id, m.ID)
			m = nil
		} else {
			gone, m, err = w.p.store.DeletePeekMessage(ctx, id, m.ID)
		}
		w.p.letters.removed(read, gone, err)
	}
	return err
}

// verify checks that the store and the database have what the model has of a
// queue.
func (w *modelWorker) verify(ctx context.Context, q *modelQueue) {
	if q.admin != nil {
		w.fail("queue %s: an administrative change has not ended", q.record.RecipientID)
		return
	}
	w.resolve(ctx, q)
	v := q.states[0].view
	for _, by := range store.Bys() {
		if id := idOf(&v, by); !id.IsZero() {
			w.carryOut(ctx, q, w.lookFor(q, by, id))
		}
	}
}

// countsText returns what there is of each, for a line of a log.
func countsText(counts map[string]int64) string {
	var all []string
	for name, n := range counts {
		all = append(all, fmt.Sprintf("%s %d", name, n))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
