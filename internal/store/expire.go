package store

import (
	"context"
	"log/slog"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
)

// ExpireOptions say which messages expire.
type ExpireOptions struct {
	// Before is the Unix time: messages that are older expire, as long as there
	// is no younger one in front of them. Quota markers never expire.
	Before int64

	// After is the queue after which to go on, in the order of recipient ids:
	// the Last of an earlier call. The zero id begins with the first one.
	After queue.RecipientID

	// Batch is how many queues are locked at a time. 0: DefaultExpireBatch.
	Batch int
}

// DefaultExpireBatch is what 0 means for the batch of [ExpireOptions]. Senders and
// recipients of these queues wait for as long as a batch takes: tens of
// milliseconds if there is a lot to delete.
const DefaultExpireBatch = 50

// Expired is what [Store.ExpireMessages] did.
type Expired struct {
	Messages int64             // deleted
	Queues   int64             // of which messages were deleted
	Failed   int64             // queues that were left, each with a warning in the log
	Last     queue.RecipientID // where it got to; zero: nowhere
}

// ExpireMessages deletes old messages of all queues, batch by batch. Queues that
// others have locked are left for the next time.
//
// After an error, or when ctx is cancelled, what it did is done and returned with
// the error, and another call can go on from there.
func (s *Store) ExpireMessages(ctx context.Context, o ExpireOptions) (Expired, error) {
	done := Expired{Last: o.After}
	size := o.Batch
	if size == 0 {
		size = DefaultExpireBatch
	}
	for {
		ids, last, err := s.expirable(ctx, o.Before, done.Last)
		if err != nil {
			return done, s.failed("expire messages", err)
		}
		for batch := range slices.Chunk(ids, size) {
			if err := s.expireBatch(ctx, batch, o.Before, &done); err != nil {
				return done, s.failed("expire messages", err)
			}
		}
		if last.IsZero() {
			return done, nil
		}
		done.Last = last
	}
}

// expirePage is how many queues are looked at in one statement.
const expirePage = 2000

// expirable returns those of the next queues that have messages that are old enough,
// and the last that it looked at, zero at the end. Some may be behind younger ones.
//
// What a statement looks at is bounded, not what it finds: otherwise the server
// would read, or sort, all queues for each batch.
func (s *Store) expirable(ctx context.Context, before int64, after queue.RecipientID) (ids []queue.RecipientID, last queue.RecipientID, err error) {
	n := 0
	err = s.bulk.read(ctx, query(`
		select q.recipient_id,
		       (select true from `+s.schema.table("messages")+` m
		         where m.recipient_id = q.recipient_id and m.msg_ts < $1 and not m.msg_quota limit 1) is not null
		  from (select recipient_id from `+s.schema.table("msg_queues")+`
		         where deleted_at is null and msg_queue_expire and recipient_id > $2
		         order by recipient_id
		         limit $3) q
		 order by 1`, []any{before, after.Bytes(), expirePage}, func(rows pgx.Rows) error {
		var old bool
		ids, n = ids[:0], 0
		_, err := pgx.ForEachRow(rows, []any{&last, &old}, func() error {
			n++
			if old {
				ids = append(ids, last)
			}
			return nil
		})
		return err
	}))
	if n < expirePage {
		last = queue.RecipientID{}
	}
	return ids, last, err
}

// expireBatch expires messages of the given queues: of each by itself, if that of
// all of them fails.
func (s *Store) expireBatch(ctx context.Context, ids []queue.RecipientID, before int64, done *Expired) error {
	n, err := s.expire(ctx, s.bulk, ids, before)
	switch {
	case err == nil:
		done.Messages += n.messages
		done.Queues += n.queues
	case !separable(err):
		return err
	case len(ids) == 1:
		s.log.LogAttrs(ctx, slog.LevelWarn, "messages of a queue cannot be expired", slog.Any("error", err))
		s.log.LogAttrs(ctx, slog.LevelDebug, "the queue of which messages cannot be expired", slog.String("queue", ids[0].String()))
		done.Failed++
	default:
		for i := range ids {
			if err := s.expireBatch(ctx, ids[i:i+1], before, done); err != nil {
				return err
			}
		}
	}
	done.Last = ids[len(ids)-1]
	return nil
}

// ExpireQueue deletes messages of one queue that are older than the given Unix
// time, as [Store.ExpireMessages] does, and returns their number. It is 0 while
// another session has locked the queue.
func (s *Store) ExpireQueue(ctx context.Context, id queue.RecipientID, before int64) (int64, error) {
	n, err := s.expire(ctx, s.work, []queue.RecipientID{id}, before)
	return n.messages, s.failed("expire messages of queue", err, id)
}

// expiredCounts are how many messages were deleted, of how many queues.
type expiredCounts struct{ messages, queues int64 }

// expire expires messages of those of the queues that are not locked.
func (s *Store) expire(ctx context.Context, l *lane, ids []queue.RecipientID, before int64) (n expiredCounts, err error) {
	queues, messages := s.schema.table("msg_queues"), s.schema.table("messages")
	lock := lockSQL(s.schema, skipLocked)
	sql := `
		with young as (
		  select q.recipient_id,
		         (select min(m.message_id) from ` + messages + ` m
		           where m.recipient_id = q.recipient_id and not m.msg_quota and m.msg_ts >= $1) as first
		    from ` + queues + ` q
		   where ` + locked + ` and q.msg_queue_size <> 0
		), gone as (
		  delete from ` + messages + ` m using young y
		   where m.recipient_id = y.recipient_id and not m.msg_quota and (y.first is null or m.message_id < y.first)
		  returning m.recipient_id
		), expired as (
		  select recipient_id, count(*) as n from gone group by recipient_id
		), counted as (
		  update ` + queues + ` q
		     set msg_can_write = q.msg_can_write or q.msg_queue_size <= e.n,
		         msg_queue_expire = q.msg_queue_size > e.n and y.first is not null,
		         msg_queue_size = greatest(q.msg_queue_size - e.n, 0)
		    from expired e join young y using (recipient_id)
		   where q.recipient_id = e.recipient_id
		)
		select coalesce(sum(n), 0)::bigint, count(*) from expired`
	err = l.write(ctx, func(b *pgx.Batch) {
		b.Queue(lock, ids)
		b.Queue(sql, before).QueryRow(func(row pgx.Row) error { return row.Scan(&n.messages, &n.queues) })
	})
	return n, err
}
