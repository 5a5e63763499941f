package store

import (
	"cmp"
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/storelog"
)

// AddQueue adds a queue. If one of its ids is in use, or was until its queue was
// deleted, the error is ErrTaken, and the caller may try again with other ids.
func (s *Store) AddQueue(ctx context.Context, r *queue.Record) (*Queue, error) {
	const op = "add queue"
	since := s.cache.snapshot()
	counted, err := s.counts.begin(ctx)
	if err != nil {
		return nil, s.failed(op, err, r.RecipientID)
	}
	defer counted.end()
	err = s.work.write(ctx, func(b *pgx.Batch) {
		b.Queue("insert into "+s.schema.table("msg_queues")+" ("+names(queueColumns, "")+") values ("+placeholders(len(queueColumns))+")",
			arguments(queueColumns, r)...)
		s.announce(ctx, b, "add", r.RecipientID)
	})
	if err != nil {
		counted.failed(err)
		return nil, s.failed(op, taken(err), r.RecipientID)
	}
	v := viewOf(r)
	v.RecipientKeys = NewKeys(r.RecipientKeys...)
	counted.moved(nil, &v)
	s.appendLog(&storelog.Create{Record: *r})
	if q := s.cache.adopt(&v, &since, true); q != nil {
		return q, nil
	}
	q, err := s.findStored(context.WithoutCancel(ctx), lookup{ByRecipient, r.RecipientID.EntityID})
	return q, s.failed(op, err, r.RecipientID)
}

// A change is a change of a queue that its record allows.
type change struct {
	set   string          // columns and their values; $1 is the recipient id
	args  []any           // from $2 on
	log   storelog.Record // for the store log
	where string          // what else has to be so in the row; may be empty
	op    string          // in the log of administrative changes; empty: that of the caller
}

// sql returns the statement of a change.
func (c *change) sql(s Schema) string {
	sql := "update " + s.table("msg_queues") + " set " + c.set + " where recipient_id = $1 and deleted_at is null"
	if c.where != "" {
		sql += " and " + c.where
	}
	return sql
}

// change changes a queue under its lock: it decides by the present record,
// changes the row, then the record, then appends to the store log. A caller that
// gives up before the row is changed changes nothing; after that, it all happens.
//
// Decide changes the view into what it will be. It returns nil if there is nothing
// to do. Where a row may refuse to be changed although it is as expected, refused
// is the error for it.
func (s *Store) change(ctx context.Context, op string, q *Queue, refused error, decide func(*View) (*change, error)) error {
	h, err := s.lock(ctx, q)
	if err == nil {
		defer h.unlock()
		err = h.change(ctx, op, refused, decide)
	}
	return s.failed(op, err, q.id)
}

func (h held) change(ctx context.Context, op string, refused error, decide func(*View) (*change, error)) error {
	s, q := h.s, h.queues[0]
	if err := h.reload(ctx); err != nil {
		return err
	}
	v, err := q.View()
	if err != nil {
		return ErrDeleted
	}
	was := v
	c, err := decide(&v)
	if c == nil || err != nil {
		return err
	}
	if err := s.prepareAudit(ctx); err != nil {
		return err
	}
	counted, err := s.counts.begin(ctx)
	if err != nil {
		return err
	}
	defer counted.end()
	var rows int64
	err = s.work.write(ctx, func(b *pgx.Batch) {
		b.Queue(c.sql(s.schema), append([]any{q.id}, c.args...)...).Exec(func(tag pgconn.CommandTag) error {
			rows = tag.RowsAffected()
			return nil
		})
		s.announce(ctx, b, cmp.Or(c.op, op), q.id)
	})
	if err != nil {
		counted.failed(err)
		if !certain(err) {
			s.uncertain(q)
		}
		return taken(err)
	}
	if rows == 0 {
		return h.unchanged(ctx, refused)
	}
	now := &v
	if _, gone := c.log.(*storelog.Delete); gone {
		now = nil
	}
	s.cache.publish(q, now)
	counted.moved(&was, now)
	s.appendLog(c.log)
	return nil
}

// uncertain is for a queue whose row may have been changed or not: the next caller
// sees which it was. Sessions of a pooler cannot be ended: there, the change may be
// made later, until the server's limit of time ends it.
func (s *Store) uncertain(q *Queue) {
	s.cache.doubt(q)
	if s.o.Pooled {
		time.AfterFunc(serverLimit(interactiveTimeout), func() { s.invalidate(q.id) })
	}
}

// unchanged finds out why a row was not changed: it was refused, or the record
// was not what the row is. The caller's context does not matter any more.
func (h held) unchanged(ctx context.Context, refused error) error {
	q := h.queues[0]
	before := q.record.Load()
	h.s.cache.doubt(q)
	if err := h.reload(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	if after := q.record.Load(); refused != nil && after != nil && *after == *before {
		return refused
	}
	h.s.counts.doubt() // it was counted for what it was not
	return ErrStale
}

// SecureQueue gives a queue its sender key. The same key again changes nothing;
// another one is ErrRefused.
func (s *Store) SecureQueue(ctx context.Context, q *Queue, key smp.PublicKey) error {
	return s.change(ctx, "secure", q, ErrRefused, func(v *View) (*change, error) {
		switch v.SenderKey {
		case key:
			return nil, nil
		case smp.PublicKey{}:
			v.SenderKey = key
			return &change{set: "sender_key = $2", where: "(sender_key is null or sender_key = $2)", args: []any{key}, log: &storelog.Secure{ID: q.id, Key: key}}, nil
		}
		return nil, ErrRefused
	})
}

// SetRecipientKeys replaces the keys that authorize the recipient.
func (s *Store) SetRecipientKeys(ctx context.Context, q *Queue, keys ...smp.PublicKey) error {
	return s.change(ctx, "set recipient keys", q, nil, func(v *View) (*change, error) {
		binary := queue.AppendBinaryKeys(nil, keys)
		if v.RecipientKeys.binary == string(binary) {
			return nil, nil
		}
		v.RecipientKeys = Keys{string(binary)}
		return &change{set: "recipient_keys = $2", args: []any{binary}, log: &storelog.Keys{ID: q.id, Keys: keys}}, nil
	})
}

// SetLink gives a queue its short link, or the link that it has other user data.
// Another link, or other fixed data, is ErrRefused; a link id of another queue is
// ErrTaken.
func (s *Store) SetLink(ctx context.Context, q *Queue, l queue.Link) error {
	return s.change(ctx, "set link", q, ErrRefused, func(v *View) (*change, error) {
		c := &change{log: &storelog.Link{ID: q.id, Link: l}, args: []any{l.ID, l.Data.Fixed, l.Data.User}}
		switch v.LinkID {
		case l.ID:
			c.set, c.where = "fixed_data = $3, user_data = $4", "link_id = $2 and (fixed_data is null or fixed_data = $3)"
		case queue.LinkID{}:
			c.set, c.where = "link_id = $2, fixed_data = $3, user_data = $4", "link_id is null"
			v.LinkID = l.ID
		default:
			return nil, ErrRefused
		}
		return c, nil
	})
}

// DeleteLink removes the link of a queue. ErrNotSet: it has none.
func (s *Store) DeleteLink(ctx context.Context, q *Queue) error {
	return s.change(ctx, "delete link", q, nil, func(v *View) (*change, error) {
		if v.LinkID.IsZero() {
			return nil, ErrNotSet
		}
		v.LinkID = queue.LinkID{}
		return &change{set: "link_id = null, fixed_data = null, user_data = null", log: &storelog.DeleteLink{ID: q.id}}, nil
	})
}

// AddNotifier gives a queue its notifier, without a service, in place of the one
// that it had, which it returns. An id that this process knows is CodeDuplicate;
// one that only the database knows is ErrTaken.
func (s *Store) AddNotifier(ctx context.Context, q *Queue, n queue.Notifier) (old queue.Notifier, err error) {
	n.Service = queue.ServiceID{}
	err = s.change(ctx, "add notifier", q, nil, func(v *View) (*change, error) {
		if v.Notifier.ID == n.ID || s.cache.knows(ByNotifier, n.ID.EntityID) {
			return nil, &Error{Code: CodeDuplicate, Op: "add notifier " + q.id.String(), Err: ErrTaken}
		}
		old, v.Notifier = v.Notifier, n
		return &change{
			set:  "notifier_id = $2, notifier_key = $3, rcv_ntf_dh_secret = $4, ntf_service_id = null",
			args: []any{n.ID, n.Key, n.DHSecret},
			log:  &storelog.AddNotifier{ID: q.id, Notifier: &n},
		}, nil
	})
	if err != nil {
		return queue.Notifier{}, err
	}
	return old, nil
}

// DeleteNotifier removes the notifier of a queue and returns it: the zero Notifier
// if there was none.
func (s *Store) DeleteNotifier(ctx context.Context, q *Queue) (old queue.Notifier, err error) {
	err = s.change(ctx, "delete notifier", q, nil, func(v *View) (*change, error) {
		if !v.HasNotifier() {
			return nil, nil
		}
		old, v.Notifier = v.Notifier, queue.Notifier{}
		return &change{
			set: "notifier_id = null, notifier_key = null, rcv_ntf_dh_secret = null, ntf_service_id = null",
			log: &storelog.DeleteNotifier{ID: q.id},
		}, nil
	})
	if err != nil {
		return queue.Notifier{}, err
	}
	return old, nil
}

// SuspendQueue makes a queue refuse messages, whatever its status was.
func (s *Store) SuspendQueue(ctx context.Context, q *Queue) error {
	return s.setStatus(ctx, "suspend", q, queue.Status{State: queue.Off}, &storelog.Suspend{ID: q.id})
}

// BlockQueue blocks a queue, whatever its status was.
func (s *Store) BlockQueue(ctx context.Context, q *Queue, b queue.Blocking) error {
	return s.setStatus(ctx, "block", q, queue.Status{State: queue.Blocked, Blocking: b}, &storelog.Block{ID: q.id, Blocking: b})
}

// UnblockQueue makes a queue active, whatever its status was.
func (s *Store) UnblockQueue(ctx context.Context, q *Queue) error {
	return s.setStatus(ctx, "unblock", q, queue.Status{}, &storelog.Unblock{ID: q.id})
}

func (s *Store) setStatus(ctx context.Context, op string, q *Queue, status queue.Status, log storelog.Record) error {
	return s.change(ctx, op, q, nil, func(v *View) (*change, error) {
		if v.Status == status {
			return nil, nil
		}
		c := &change{set: "status = $2", args: []any{status.String()}, log: log}
		if status.State == queue.Blocked && v.Status.State != queue.Active {
			c.op = "block inactive" // it took no messages before; this is not one more that takes none
		}
		v.Status = status
		return c, nil
	})
}

// SetUpdatedAt sets the day of the last use, which may be an earlier one.
func (s *Store) SetUpdatedAt(ctx context.Context, q *Queue, seconds int64) error {
	return s.change(ctx, "set time", q, nil, func(v *View) (*change, error) {
		if v.UpdatedAt == queue.DateOf(seconds) {
			return nil, nil
		}
		v.UpdatedAt = queue.DateOf(seconds)
		return &change{set: "updated_at = $2", args: []any{seconds}, log: &storelog.Touch{ID: q.id, Seconds: seconds}}, nil
	})
}

// DeleteQueue deletes a queue softly: its row and its messages stay until they are
// purged, but no look-up finds it. It returns the queue as it was.
func (s *Store) DeleteQueue(ctx context.Context, q *Queue) (was View, err error) {
	err = s.change(ctx, "delete", q, nil, func(v *View) (*change, error) {
		was = *v
		return &change{set: "deleted_at = $2", args: []any{Today()}, log: &storelog.Delete{ID: q.id}}, nil
	})
	if err != nil {
		return View{}, err
	}
	return was, nil
}

// Today returns the present day as routers write it: in Unix seconds, rounded
// down.
func Today() int64 { return time.Now().Unix() / queue.SecondsPerDay * queue.SecondsPerDay }
