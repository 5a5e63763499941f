package store

import (
	"context"
	"iter"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// The methods for messages do what the stored functions of the schema do, and go
// together with those: another program may call the functions on the same queues.
// They do not look at the cache. For queues that are deleted, or never were there,
// the error is ErrNotFound.
//
// Messages that are written or deleted at the same time share a round trip and a
// commit. While a call waits for its turn, its context can cancel it; from then on
// it waits for the answer. An error with CodeStore may leave open whether the message
// was written or deleted.

// Written says what a queue was like when it took a message.
type Written struct {
	WasEmpty bool // there was no message in front of it
}

// WriteMessage appends a message to a queue.
//
// ErrQuota: the queue is full. If it took messages until now, it has got a quota
// marker with the id and the time of this one, so that the recipient learns of it;
// then it takes none until it is empty. A message that is a quota marker is stored
// as such, whether the queue is full or not, and is ErrQuota as well.
func (s *Store) WriteMessage(ctx context.Context, id queue.RecipientID, m queue.Message) (Written, error) {
	r := request{kind: writeRequest, message: m}
	if err := s.writes.do(ctx, id, &r); err != nil {
		return Written{}, s.failed("write a message to queue", err, id)
	}
	return Written{WasEmpty: r.wasEmpty}, nil
}

// DeleteMessage deletes the oldest message of a queue if it is the given one, and
// returns it: nil if it is not.
func (s *Store) DeleteMessage(ctx context.Context, id queue.RecipientID, m queue.MessageID) (*queue.Message, error) {
	r := request{kind: deleteRequest, message: queue.Message{ID: m}}
	if err := s.writes.do(ctx, id, &r); err != nil {
		return nil, s.failed("delete a message of queue", err, id)
	}
	return r.deleted, nil
}

// DeletePeekMessage is DeleteMessage that also returns the message that is the
// oldest one then, nil if there is none.
func (s *Store) DeletePeekMessage(ctx context.Context, id queue.RecipientID, m queue.MessageID) (deleted, next *queue.Message, err error) {
	r := request{kind: deletePeekRequest, message: queue.Message{ID: m}}
	if err := s.writes.do(ctx, id, &r); err != nil {
		return nil, nil, s.failed("delete a message of queue", err, id)
	}
	return r.deleted, r.next, nil
}

// PeekMessage returns the oldest message of a queue, nil if there is none.
func (s *Store) PeekMessage(ctx context.Context, id queue.RecipientID) (*queue.Message, error) {
	found, err := s.peek(ctx, s.work, []queue.RecipientID{id})
	if err == nil && len(found) == 0 {
		err = ErrNotFound
	}
	if err != nil {
		return nil, s.failed("read a message of queue", err, id)
	}
	return found[0].Message, nil
}

// PeekMessages returns the oldest messages of queues in one round trip. For a queue
// without messages the map has nil; queues that do not exist are not in it.
func (s *Store) PeekMessages(ctx context.Context, ids []queue.RecipientID) (map[queue.RecipientID]*queue.Message, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	found, err := s.peek(ctx, s.work, ids)
	if err != nil {
		return nil, s.failed("read messages of queues", err)
	}
	messages := make(map[queue.RecipientID]*queue.Message, len(found))
	for _, m := range found {
		messages[m.Queue] = m.Message
	}
	return messages, nil
}

// A QueueMessage is a queue with its oldest message.
type QueueMessage struct {
	Queue   queue.RecipientID
	Message *queue.Message // nil: the queue is empty
}

// peek returns those of the queues that exist, in the order of their ids.
func (s *Store) peek(ctx context.Context, l *lane, ids []queue.RecipientID) ([]QueueMessage, error) {
	sql := `
		select q.recipient_id, ` + messageColumns + `
		  from ` + s.schema.table("msg_queues") + ` q
		  left join lateral (
		       select * from ` + s.schema.table("messages") + ` m where m.recipient_id = q.recipient_id order by m.message_id limit 1
		  ) m on true
		 where q.recipient_id = any ($1) and q.deleted_at is null
		 order by q.recipient_id`
	var found []QueueMessage
	err := l.read(ctx, query(sql, []any{ids}, func(rows pgx.Rows) error {
		found = found[:0]
		var id queue.RecipientID
		var m messageRow
		_, err := pgx.ForEachRow(rows, append([]any{&id}, m.targets()...), func() error {
			found = append(found, QueueMessage{id, m.message()})
			return nil
		})
		return err
	}))
	return found, err
}

// QueueSize returns the number of messages of a queue, a quota marker included.
func (s *Store) QueueSize(ctx context.Context, id queue.RecipientID) (int64, error) {
	size := int64(-1)
	sql := "select msg_queue_size from " + s.schema.table("msg_queues") + " where recipient_id = $1 and deleted_at is null"
	err := s.work.read(ctx, query(sql, []any{id}, func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&size}, func() error { return nil })
		return err
	}))
	if err == nil && size < 0 {
		err = ErrNotFound
	}
	if err != nil {
		return 0, s.failed("read the size of queue", err, id)
	}
	return size, nil
}

// CountMessages returns the number of all messages, those of soft-deleted queues
// and quota markers included. It counts them one by one.
func (s *Store) CountMessages(ctx context.Context) (n int64, err error) {
	err = s.bulk.read(ctx, query("select count(*) from "+s.schema.table("messages"), nil, func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&n}, func() error { return nil })
		return err
	}))
	return n, s.failed("count messages", err)
}

// CountLiveMessages returns the number of messages of live queues, without quota
// markers. It reads all queues, which know how many they have, but no messages.
func (s *Store) CountLiveMessages(ctx context.Context) (n int64, err error) {
	sql := "select coalesce(sum(msg_queue_size - case when msg_can_write then 0 else 1 end), 0)::bigint from " +
		s.schema.table("msg_queues") + " where deleted_at is null and msg_queue_size > 0"
	err = s.bulk.read(ctx, query(sql, nil, func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, []any{&n}, func() error { return nil })
		return err
	}))
	return n, s.failed("count messages of live queues", err)
}

const (
	// servicePage is how many ids of queues are read at once. The server sorts
	// those of the service for each page.
	servicePage = 5000
	// serviceMessages is for how many of them messages are read at once.
	serviceMessages = 100
)

// ServiceMessages iterates over the queues from which a service receives, in the
// order of their ids, each with its oldest message. However many there are, a few
// are in memory. There is no snapshot: what changes meanwhile is there or not. An
// error is the end.
func (s *Store) ServiceMessages(ctx context.Context, service queue.ServiceID) iter.Seq2[QueueMessage, error] {
	return func(yield func(QueueMessage, error) bool) {
		for ids, err := range s.serviceQueues(ctx, service) {
			var found []QueueMessage
			if err == nil {
				found, err = s.peek(ctx, s.bulk, ids)
			}
			if err != nil {
				yield(QueueMessage{}, s.failed("read messages of service", err, service))
				return
			}
			for _, m := range found {
				if !yield(m, nil) {
					return
				}
			}
		}
	}
}

// serviceQueues iterates over the ids of the queues from which a service receives,
// serviceMessages of them at a time.
func (s *Store) serviceQueues(ctx context.Context, service queue.ServiceID) iter.Seq2[[]queue.RecipientID, error] {
	sql := `
		select recipient_id from ` + s.schema.table("msg_queues") + `
		 where rcv_service_id = $1 and deleted_at is null and recipient_id > $2
		 order by recipient_id
		 limit $3`
	return func(yield func([]queue.RecipientID, error) bool) {
		after := []byte{}
		for {
			page, err := s.readIDs(ctx, sql, service, after, servicePage)
			if err != nil {
				yield(nil, err)
				return
			}
			for ids := range slices.Chunk(page, serviceMessages) {
				if !yield(ids, nil) {
					return
				}
			}
			if len(page) < servicePage {
				return
			}
			after = page[len(page)-1].Bytes()
		}
	}
}

// readIDs returns the ids that a statement for the bulk lane selects.
func (s *Store) readIDs(ctx context.Context, sql string, args ...any) (ids []queue.RecipientID, err error) {
	err = s.bulk.read(ctx, query(sql, args, func(rows pgx.Rows) error {
		ids, err = pgx.CollectRows(rows, pgx.RowTo[queue.RecipientID])
		return err
	}))
	return ids, err
}

// messageColumns are the columns that a messageRow reads.
const messageColumns = "m.msg_id, m.msg_ts, m.msg_quota, m.msg_ntf_flag, m.msg_body"

// A messageRow reads the columns of a message, or NULLs where there is none. It
// takes any values, so that a message that somebody has damaged does not get in
// the way of others.
type messageRow struct {
	id     []byte
	time   pgtype.Int8
	marker pgtype.Bool
	notify pgtype.Bool
	body   []byte
}

func (r *messageRow) targets() []any { return []any{&r.id, &r.time, &r.marker, &r.notify, &r.body} }

// message returns the message of the present row, nil if there is none.
func (r *messageRow) message() *queue.Message {
	if r.id == nil {
		return nil
	}
	return &queue.Message{
		ID:          queue.MessageID{EntityID: smp.NewEntityID(r.id)},
		Time:        r.time.Int64,
		QuotaMarker: r.marker.Bool,
		Notify:      r.notify.Bool,
		Body:        r.body,
	}
}
