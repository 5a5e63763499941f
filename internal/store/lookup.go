package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// QueueByRecipient returns the queue with the given recipient id, or ErrNotFound.
func (s *Store) QueueByRecipient(ctx context.Context, id queue.RecipientID) (*Queue, error) {
	return s.find(ctx, ByRecipient, id.EntityID)
}

// QueueBySender returns the queue with the given sender id, or ErrNotFound.
func (s *Store) QueueBySender(ctx context.Context, id queue.SenderID) (*Queue, error) {
	return s.find(ctx, BySender, id.EntityID)
}

// QueueByNotifier returns the queue with the given notifier id, or ErrNotFound. A
// queue that is not in memory does not stay there for it.
func (s *Store) QueueByNotifier(ctx context.Context, id queue.NotifierID) (*Queue, error) {
	return s.find(ctx, ByNotifier, id.EntityID)
}

// QueueByLink returns the queue with the given link id, or ErrNotFound.
func (s *Store) QueueByLink(ctx context.Context, id queue.LinkID) (*Queue, error) {
	return s.find(ctx, ByLink, id.EntityID)
}

// find looks a queue up in memory, else in the database. Look-ups of the same id
// join each other.
func (s *Store) find(ctx context.Context, by By, id smp.EntityID) (*Queue, error) {
	if q := s.cache.get(by, id); q != nil && s.cache.trusts(q) {
		q.touch()
		s.cache.shards[s.cache.shard(id)].hits.Add(1)
		return q, nil
	}
	q, err := s.findStored(ctx, lookup{by, id})
	if err != nil {
		return nil, s.failed(fmt.Sprintf("look up queue by %s id", by), err, id)
	}
	return q, nil
}

// A lookup is what to look for.
type lookup struct {
	by By
	id smp.EntityID
}

// findStored is find for queues that are not in memory or may have changed.
func (s *Store) findStored(ctx context.Context, l lookup) (*Queue, error) {
	s.cache.shards[s.cache.shard(l.id)].misses.Add(1)
	for {
		first, load := s.loads.join(l)
		if first {
			load.queue, load.err = s.load(ctx, l)
			load.left = load.err != nil && ctx.Err() != nil
			s.loads.finish(l, load)
			return load.queue, load.err
		}
		s.cache.loadsJoined.Add(1)
		select {
		case <-load.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if !load.left {
			return load.queue, load.err
		}
		// It was the other caller who gave up.
	}
}

// loads are the look-ups that are under way.
type loads struct {
	mu sync.Mutex
	m  map[lookup]*load
}

// A load is a look-up that others wait for. Its result is set before done is
// closed.
type load struct {
	done  chan struct{}
	queue *Queue
	err   error
	left  bool // who made it gave up
}

// join returns the load of l, and whether the caller is the one who has to make
// it.
func (s *loads) join(l lookup) (first bool, _ *load) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.m[l]; have != nil {
		return false, have
	}
	if s.m == nil {
		s.m = make(map[lookup]*load)
	}
	s.m[l] = &load{done: make(chan struct{})}
	return true, s.m[l]
}

func (s *loads) finish(l lookup, done *load) {
	s.mu.Lock()
	delete(s.m, l)
	s.mu.Unlock()
	close(done.done)
}

// load reads the queue of a look-up.
func (s *Store) load(ctx context.Context, l lookup) (*Queue, error) {
	for {
		since := s.cache.snapshot()
		var view *View
		err := s.work.read(ctx, query("select "+viewColumns+" from "+s.schema.table("msg_queues")+
			" where "+string(l.by)+"_id = $1 and deleted_at is null", []any{l.id}, func(rows pgx.Rows) error {
			return eachView(rows, func(v View) error { view = &v; return nil })
		}))
		switch {
		case err != nil:
			return nil, err
		case view == nil:
			return nil, ErrNotFound
		}
		q := s.cache.adopt(view, &since, l.by != ByNotifier)
		if q == nil {
			continue // rows changed meanwhile, perhaps this one
		}
		if s.cache.fresh(q) && q.has(l.by, l.id) {
			return q, nil
		}
		// Either the queue was stale, or it is being changed just now. After the
		// change, its record tells.
		if err := s.refresh(ctx, q); err != nil {
			return nil, err
		}
		if q.has(l.by, l.id) {
			return q, nil
		}
		if q.record.Load() != nil {
			return nil, ErrNotFound
		}
		// It was deleted; the id may have gone to another queue.
	}
}

// A Lookup is the result of one look-up of several.
type Lookup struct {
	Queue *Queue
	Err   error // in an [*Error]: ErrNotFound, or why the row cannot be read
}

// QueuesByRecipient looks up many queues in one round trip at most. The results
// are in the order of the ids. It fails as a whole only if the database does.
func (s *Store) QueuesByRecipient(ctx context.Context, ids []queue.RecipientID) ([]Lookup, error) {
	return findAll(ctx, s, ByRecipient, ids, func(id queue.RecipientID) smp.EntityID { return id.EntityID })
}

// QueuesByNotifier is [Store.QueuesByRecipient] by notifier ids. Queues that are
// not in memory do not stay there for it.
func (s *Store) QueuesByNotifier(ctx context.Context, ids []queue.NotifierID) ([]Lookup, error) {
	return findAll(ctx, s, ByNotifier, ids, func(id queue.NotifierID) smp.EntityID { return id.EntityID })
}

func findAll[ID any](ctx context.Context, s *Store, by By, ids []ID, entity func(ID) smp.EntityID) ([]Lookup, error) {
	op := fmt.Sprintf("look up %d queues by %s id", len(ids), by)
	found := make(map[smp.EntityID]*Queue, len(ids))
	unreadable := make(map[smp.EntityID]error)
	var missing []smp.EntityID
	for _, id := range ids {
		id := entity(id)
		if _, ok := found[id]; ok {
			continue
		}
		q := s.cache.get(by, id)
		if q == nil || !s.cache.trusts(q) {
			missing = append(missing, id)
			s.cache.shards[s.cache.shard(id)].misses.Add(1)
			q = nil
		} else {
			q.touch()
			s.cache.shards[s.cache.shard(id)].hits.Add(1)
		}
		found[id] = q
	}
	if len(missing) > 0 {
		if err := s.loadAll(ctx, by, missing, found, unreadable); err != nil {
			return nil, s.failed(op, err)
		}
	}
	results := make([]Lookup, len(ids))
	for i, id := range ids {
		if q := found[entity(id)]; q != nil {
			results[i].Queue = q
		} else {
			results[i].Err = s.failed(op, cmp.Or(unreadable[entity(id)], ErrNotFound))
		}
	}
	return results, nil
}

// loadAll reads the queues with the given ids, which differ from each other, and
// adds those that are there to found, and those that cannot be read to unreadable.
// To find out which they are takes a few more round trips.
func (s *Store) loadAll(ctx context.Context, by By, ids []smp.EntityID, found map[smp.EntityID]*Queue, unreadable map[smp.EntityID]error) error {
	since := s.cache.snapshot()
	var views []View
	err := s.work.read(ctx, func(b *pgx.Batch) {
		views = views[:0]
		b.Queue("select "+viewColumns+" from "+s.schema.table("msg_queues")+" where "+string(by)+"_id = any ($1) and deleted_at is null", ids).
			Query(func(rows pgx.Rows) error {
				return eachView(rows, func(v View) error { views = append(views, v); return nil })
			})
	})
	if _, one := errors.AsType[*unreadableError](err); one {
		if len(ids) == 1 {
			unreadable[ids[0]] = err
			return nil
		}
		half := len(ids) / 2
		if err := s.loadAll(ctx, by, ids[:half], found, unreadable); err != nil {
			return err
		}
		return s.loadAll(ctx, by, ids[half:], found, unreadable)
	}
	if err != nil {
		return err
	}
	var doubtful []*Queue
	for i := range views {
		v := &views[i]
		q := s.cache.adopt(v, &since, by != ByNotifier)
		switch id := v.id(by); {
		case q == nil: // rows changed meanwhile, perhaps this one
			q, err := s.findStored(ctx, lookup{by, id})
			if err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
			found[id] = q
		case s.cache.fresh(q) && q.has(by, id):
			found[id] = q
		default:
			doubtful = append(doubtful, q)
		}
	}
	if len(doubtful) == 0 {
		return nil
	}
	if err := s.refresh(ctx, doubtful...); err != nil {
		return err
	}
	wanted := make(map[smp.EntityID]bool, len(ids))
	for _, id := range ids {
		wanted[id] = true
	}
	for _, q := range doubtful {
		if v, err := q.View(); err == nil && wanted[v.id(by)] {
			found[v.id(by)] = q
		}
	}
	return nil
}

// refresh reads the rows of queues anew, in one round trip, after changes that are
// under way.
func (s *Store) refresh(ctx context.Context, queues ...*Queue) error {
	held, err := s.lock(ctx, queues...)
	if err != nil {
		return err
	}
	defer held.unlock()
	return held.reload(ctx)
}

// held are queues whose locks the caller has. Whatever needs a lock is a method
// of it, and there is no other way to get one than [Store.lock].
type held struct {
	s      *Store
	queues []*Queue // each once, in the order of their ids
}

// lock waits for the locks of queues. They are taken in the order of ids, so that
// callers do not wait for each other.
func (s *Store) lock(ctx context.Context, queues ...*Queue) (held, error) {
	h := held{s: s, queues: queues}
	if len(queues) > 1 {
		h.queues = slices.Clone(queues)
		slices.SortFunc(h.queues, func(a, b *Queue) int { return a.id.Compare(b.id.EntityID) })
		h.queues = slices.Compact(h.queues)
	}
	for i, q := range h.queues {
		if err := s.cache.lock(ctx, q); err != nil {
			held{s, h.queues[:i]}.unlock()
			return held{}, fmt.Errorf("wait for the lock of queue %s: %w", q.id, err)
		}
	}
	return h, nil
}

func (h held) unlock() {
	for _, q := range h.queues {
		h.s.cache.unlock(q)
	}
}

// reload reads the rows of those queues whose records are stale.
func (h held) reload(ctx context.Context) error {
	c := h.s.cache
	for {
		epoch := c.epoch.Load()
		unread := make(map[queue.RecipientID]*Queue)
		var ids []queue.RecipientID
		for _, q := range h.queues {
			if q.record.Load() == nil || c.fresh(q) {
				continue
			}
			q.epoch.Store(reading)
			unread[q.id] = q
			ids = append(ids, q.id)
		}
		if len(ids) == 0 {
			return nil
		}
		var views []View
		err := h.s.work.read(ctx, func(b *pgx.Batch) {
			views = views[:0]
			b.Queue("select "+viewColumns+" from "+h.s.schema.table("msg_queues")+" where recipient_id = any ($1) and deleted_at is null", ids).
				Query(func(rows pgx.Rows) error {
					return eachView(rows, func(v View) error { views = append(views, v); return nil })
				})
		})
		if err != nil {
			for _, q := range unread {
				q.epoch.Store(stale)
			}
			return err
		}
		for i := range views {
			q := unread[views[i].RecipientID]
			delete(unread, q.id)
			c.publish(q, &views[i])
			q.epoch.CompareAndSwap(reading, epoch) // unless it went stale again
		}
		for _, q := range unread {
			c.publish(q, nil)
		}
	}
}

// viewColumns are the columns of a View.
const viewColumns = "recipient_id, recipient_keys, rcv_dh_secret, sender_id, sender_key, queue_mode, link_id, " +
	"notifier_id, notifier_key, rcv_ntf_dh_secret, ntf_service_id, status, updated_at, rcv_service_id"

// An unreadableError is why a row cannot be read, which others may be.
type unreadableError struct{ err error }

func (e *unreadableError) Error() string { return e.err.Error() }
func (e *unreadableError) Unwrap() error { return e.err }

// eachView reads rows of viewColumns.
func eachView(rows pgx.Rows, each func(View) error) error {
	var (
		v         View
		keys      recipientKeys
		mode      pgtype.Text
		status    string
		updatedAt pgtype.Int8
	)
	targets := []any{
		&v.RecipientID, &keys, &v.RcvDHSecret, &v.SenderID, &v.SenderKey, &mode, &v.LinkID,
		&v.Notifier.ID, &v.Notifier.Key, &v.Notifier.DHSecret, &v.Notifier.Service, &status, &updatedAt, &v.RcvService,
	}
	for rows.Next() {
		v.RecipientID = queue.RecipientID{}
		if err := rows.Scan(targets...); err != nil {
			return &unreadableError{fmt.Errorf("queue %s: %w", v.RecipientID, columnError(err))}
		}
		v.RecipientKeys = NewKeys(keys...)
		v.UpdatedAt = queue.Date{Seconds: updatedAt.Int64, Known: updatedAt.Valid}
		var err error
		if v.Status, _, err = queue.RepairStatus(status); err != nil {
			return &unreadableError{fmt.Errorf("queue %s: column status: %w", v.RecipientID, err)}
		}
		v.Mode = queue.ModeUnknown
		if mode.Valid {
			if v.Mode, err = queue.ParseMode(mode.String); err != nil {
				return &unreadableError{fmt.Errorf("queue %s: column queue_mode: %w", v.RecipientID, err)}
			}
		}
		if n := v.Notifier; n.ID.IsZero() || n.Key.IsZero() || n.DHSecret.IsZero() {
			v.Notifier = queue.Notifier{} // to routers there is none
		}
		if err := each(v); err != nil {
			return err
		}
	}
	return rows.Err()
}

// LinkData reads the data of the link of a queue. ErrNotFound: the queue has no
// link, or another one.
func (s *Store) LinkData(ctx context.Context, q *Queue, id queue.LinkID) (queue.LinkData, error) {
	const op = "read link"
	v, err := q.View()
	if err != nil {
		return queue.LinkData{}, err
	}
	if id.IsZero() || v.LinkID != id {
		return queue.LinkData{}, s.failed(op, ErrNotFound, id)
	}
	var data *queue.LinkData
	err = s.work.read(ctx, query("select fixed_data, user_data from "+s.schema.table("msg_queues")+
		" where recipient_id = $1 and link_id = $2 and deleted_at is null", []any{q.id, id}, func(rows pgx.Rows) error {
		d, err := pgx.CollectRows(rows, pgx.RowToStructByPos[queue.LinkData])
		if len(d) > 0 {
			data = &d[0]
		}
		return err
	}))
	switch {
	case err != nil:
		return queue.LinkData{}, s.failed(op, err, id)
	case data == nil:
		s.cache.doubt(q)
		return queue.LinkData{}, s.failed(op, fmt.Errorf("%w: %w", ErrNotFound, ErrStale), id)
	case len(data.Fixed) == 0 || len(data.User) == 0:
		return queue.LinkData{}, s.failed(op, errors.New("the link has no data"), id)
	}
	return *data, nil
}
