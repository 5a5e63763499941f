package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
)

// A MessageRow is a message as the table messages has it.
type MessageRow struct {
	Number  int64 // orders the messages of a queue
	Queue   queue.RecipientID
	Message queue.Message
}

// A Load brings many messages into a schema, in one transaction. Where the schema
// has no messages yet, they go straight into the table, which the caller may
// strip of its indexes meanwhile; otherwise into a temporary table first, and from
// there, with a few statements over all of them, those of queues that have none.
//
// The order of the calls is: Copy, as often as needed, Close of full queues, then
// Checksum; Compare and Insert, unless Direct; and Count.
type Load struct {
	tx     pgx.Tx
	s      Schema
	target Target
	direct bool
	rows   rowWriter[MessageRow]
}

// The temporary tables of a load. They are dropped with the transaction.
const (
	stagedMessages = "pg_temp.smpq_staged_messages"
	// loadedQueues lists the queues that messages were copied for, with what
	// their rows are to say of them, and why they cannot be added, if so.
	loadedQueues = "pg_temp.smpq_loaded_queues"
	// fullQueues lists the queues whose senders have to wait until they are
	// drained, whatever their messages say.
	fullQueues = "pg_temp.smpq_full_queues"
)

// ErrNoMessages reports a schema of a version that has no place for messages.
var ErrNoMessages = fmt.Errorf("the schema has no place for messages: migrate it to version %s or newer", schema.StoreMessages)

// NewLoad prepares a load. If it is to be Direct, nobody else can use the messages
// of the schema until the end of the transaction.
func NewLoad(ctx context.Context, tx pgx.Tx, s Schema) (*Load, error) {
	if !s.HasMessages() {
		return nil, fmt.Errorf("schema %s, version %s: %w", schema.Quote(s.Name), s.Version, ErrNoMessages)
	}
	l := &Load{tx: tx, s: s, rows: rowWriter[MessageRow]{columns: messageRowColumns}}
	messages := s.table("messages")
	empty := "select not exists (select from " + messages + ")"
	if err := tx.QueryRow(ctx, empty).Scan(&l.direct); err != nil {
		return nil, fmt.Errorf("prepare load: %w", err)
	}
	if l.direct {
		if err := l.exec(ctx, "lock messages", "lock table "+messages+" in access exclusive mode"); err != nil {
			return nil, err
		}
		if err := tx.QueryRow(ctx, empty).Scan(&l.direct); err != nil {
			return nil, fmt.Errorf("prepare load: %w", err)
		}
	}
	statements := []string{"create temporary table " + unqualified(fullQueues) + " (recipient_id bytea) on commit drop"}
	if l.direct {
		l.target = Target{table: messages}
		// The numbers of messages that are gone mean nothing.
		statements = append(statements, "alter table "+messages+" alter column message_id restart with 1")
	} else {
		l.target = Target{table: stagedMessages}
		statements = append(statements, "create temporary table "+unqualified(stagedMessages)+" (like "+messages+") on commit drop")
	}
	return l, l.exec(ctx, "prepare load", statements...)
}

// Direct reports whether the messages go straight into the table.
func (l *Load) Direct() bool { return l.direct }

// Absent returns those of the queues that the schema does not have, and why: they
// were deleted, or never there.
func (l *Load) Absent(ctx context.Context, ids []queue.RecipientID) (map[queue.RecipientID]string, error) {
	absent := make(map[queue.RecipientID]string)
	raw := make([][]byte, len(ids))
	for i, id := range ids {
		raw[i] = id.Bytes()
	}
	rows, err := l.tx.Query(ctx, `
		select i.id, q.recipient_id is not null
		  from unnest($1::bytea[]) as i(id)
		  left join `+l.s.table("msg_queues")+` q on q.recipient_id = i.id
		 where q.recipient_id is null or q.deleted_at is not null`, raw)
	if err != nil {
		return nil, fmt.Errorf("look up queues: %w", err)
	}
	var id queue.RecipientID
	var deleted bool
	_, err = pgx.ForEachRow(rows, []any{&id, &deleted}, func() error {
		absent[id] = "the queue is not in the schema"
		if deleted {
			absent[id] = "the queue was deleted in the database"
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up queues: %w", err)
	}
	return absent, nil
}

// Copy copies messages, which get their numbers: those of one queue in the order
// in which they come.
func (l *Load) Copy(ctx context.Context, messages []MessageRow, progress func(int64)) error {
	before := l.rows.sum.Rows
	records := func(yield func(*MessageRow, error) bool) {
		for i := range messages {
			messages[i].Number = l.rows.sum.Rows + 1
			if !yield(&messages[i], nil) {
				return
			}
		}
	}
	n, err := copyRows(ctx, l.tx, l.target.copySQL(names(messageRowColumns, "")), records, l.rows.append, progress)
	switch {
	case err != nil:
		return fmt.Errorf("copy messages: %w", err)
	case n != l.rows.sum.Rows-before:
		return fmt.Errorf("copy messages: sent %d rows, the database took %d", l.rows.sum.Rows-before, n)
	}
	return nil
}

// Close says of queues that their senders have to wait until they are drained,
// even if no quota marker is among their messages.
func (l *Load) Close(ctx context.Context, ids []queue.RecipientID) error {
	for chunk := range slices.Chunk(ids, 10_000) {
		raw := make([][]byte, len(chunk))
		for i, id := range chunk {
			raw[i] = id.Bytes()
		}
		if _, err := l.tx.Exec(ctx, "insert into "+fullQueues+" select unnest($1::bytea[])", raw); err != nil {
			return fmt.Errorf("note full queues: %w", err)
		}
	}
	return nil
}

// Copied returns the checksum of what was copied, with numbers from 1.
func (l *Load) Copied() Checksum { return l.rows.sum }

// Checksum returns the same as Copied, computed by the database of what the table
// has.
func (l *Load) Checksum(ctx context.Context) (Checksum, error) {
	return queryChecksum(ctx, l.tx, checksumSQL(messageRowColumns, l.target.table, ""))
}

// fingerprint is an aggregate that tells the messages of a queue from others, in
// their order.
const fingerprint = "sha256(string_agg(sha256(record_send(row(msg_id, msg_ts, msg_quota, msg_ntf_flag, msg_body))), ''::bytea order by message_id))"

// states is a query for what the rows of queues are to say of the messages of a
// table, as smp-server's own import has it.
func states(table, more string) string {
	return `
		select recipient_id, count(*) as size, bool_and(not msg_quota) as can_write, bool_or(not msg_quota) as expire` + more + `
		  from ` + table + ` group by recipient_id`
}

// Compared says what there is to add.
type Compared struct {
	Present int64 // messages of queues that have just these
	Added   int64 // messages of queues that have none
	Others  int64 // messages in queues of which none were copied
}

// Compare finds out for each queue that messages were copied for what the schema
// has. If it has others, all messages of the queue are reported as conflicts, and
// not added. Until the end of the transaction, nobody else can write messages.
func (l *Load) Compare(ctx context.Context, conflict func(MessageRow) error) (Compared, error) {
	var c Compared
	messages := l.s.table("messages")
	err := l.exec(ctx, "compare with the schema",
		"lock table "+messages+" in exclusive mode",
		"create temporary table "+unqualified(loadedQueues)+" on commit drop as "+states(stagedMessages, ", "+fingerprint+" as print, null::boolean as present"),
		"create unique index on "+loadedQueues+" (recipient_id)",
		"analyze "+loadedQueues,
		`update `+loadedQueues+` k set present = t.print = k.print
		   from (select recipient_id, `+fingerprint+` as print
		           from `+messages+` where recipient_id in (select recipient_id from `+loadedQueues+`)
		          group by recipient_id) t
		  where t.recipient_id = k.recipient_id`)
	if err != nil {
		return c, err
	}
	err = l.tx.QueryRow(ctx, `
		select coalesce(sum(size) filter (where present), 0)::bigint, coalesce(sum(size) filter (where present is null), 0)::bigint,
		       (select count(*) from `+messages+` m where not exists (select from `+loadedQueues+` k where k.recipient_id = m.recipient_id))
		  from `+loadedQueues).Scan(&c.Present, &c.Added, &c.Others)
	if err != nil {
		return c, fmt.Errorf("compare with the schema: %w", err)
	}
	rows, err := l.tx.Query(ctx, "select "+names(messageRowColumns, "")+" from "+stagedMessages+
		" where recipient_id in (select recipient_id from "+loadedQueues+" where not present) order by recipient_id, message_id")
	if err != nil {
		return c, fmt.Errorf("read conflicts: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var m MessageRow
		if err := rows.Scan(m.targets()...); err != nil {
			return c, fmt.Errorf("read conflicts: %w", columnError(err))
		}
		if err := conflict(m); err != nil {
			return c, err
		}
	}
	if err := rows.Err(); err != nil {
		return c, fmt.Errorf("read conflicts: %w", err)
	}
	return c, nil
}

// targets returns where the values of a row go.
func (m *MessageRow) targets() []any {
	return []any{&m.Number, &m.Queue, &m.Message.ID, &m.Message.Time, &m.Message.QuotaMarker, &m.Message.Notify, &m.Message.Body}
}

// Insert adds the messages of the queues that had none.
func (l *Load) Insert(ctx context.Context) error {
	columns := names(messageRowColumns[1:], "")
	err := l.exec(ctx, "insert messages", `
		insert into `+l.s.table("messages")+` (`+columns+`)
		select `+columns+` from `+stagedMessages+`
		 where recipient_id in (select recipient_id from `+loadedQueues+` where present is null)
		 order by message_id`,
		"delete from "+loadedQueues+" where present is not null")
	if err != nil {
		return err
	}
	return nil
}

// Counted is what the rows of queues say of their messages after a load.
type Counted struct {
	Queues    int64 // that got messages
	OverQuota int64 // of these, queues whose senders have to wait until they are drained
	Oversize  int64 // of these, queues with more messages than the quota and a quota marker
}

// Count makes the rows of the queues say what messages they have. If all messages
// of the schema come from the load, all other queues have none.
func (l *Load) Count(ctx context.Context, quota int64) (Counted, error) {
	var c Counted
	queues := l.s.table("msg_queues")
	var statements, after []string
	if l.direct {
		messages := l.s.table("messages")
		statements = append(statements,
			fmt.Sprintf("alter table %s alter column message_id restart with %d", messages, l.rows.sum.Rows+1),
			"create temporary table "+unqualified(loadedQueues)+" on commit drop as "+states(messages, ""),
			"create unique index on "+loadedQueues+" (recipient_id)",
			"analyze "+loadedQueues)
		after = append(after, `
			update `+queues+` q set msg_can_write = true, msg_queue_expire = false, msg_queue_size = 0
			 where (not msg_can_write or msg_queue_expire or msg_queue_size <> 0)
			   and not exists (select from `+loadedQueues+` k where k.recipient_id = q.recipient_id)`)
	}
	statements = append(statements, "update "+loadedQueues+" set can_write = false where recipient_id in (select recipient_id from "+fullQueues+")")
	if l.s.HasAggregates() {
		// They count queues, not messages: nothing changes for them.
		statements = append(statements, "alter table "+queues+" disable trigger user")
		after = append(after, "alter table "+queues+" enable trigger user")
	}
	statements = append(statements, `
		update `+queues+` q set msg_can_write = k.can_write, msg_queue_expire = k.expire, msg_queue_size = k.size
		  from `+loadedQueues+` k where q.recipient_id = k.recipient_id`)
	if err := l.exec(ctx, "count messages", append(statements, after...)...); err != nil {
		return c, err
	}
	err := l.tx.QueryRow(ctx, "select count(*), count(*) filter (where not can_write), count(*) filter (where size > $1) from "+loadedQueues, quota+1).
		Scan(&c.Queues, &c.OverQuota, &c.Oversize)
	if err != nil {
		return c, fmt.Errorf("count messages: %w", err)
	}
	return c, nil
}

// Missing returns for how many of the queues that got messages the schema has
// others now. After Insert it is 0.
func (l *Load) Missing(ctx context.Context) (n int64, err error) {
	err = l.tx.QueryRow(ctx, `
		select count(*)
		  from `+loadedQueues+` k
		  left join (select recipient_id, `+fingerprint+` as print
		               from `+l.s.table("messages")+` where recipient_id in (select recipient_id from `+loadedQueues+`)
		              group by recipient_id) t using (recipient_id)
		 where t.print is distinct from k.print`).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("compare the schema with the messages: %w", err)
	}
	return n, nil
}

// WrongCounts returns of how many of the queues that got messages the rows do not
// say what messages they have.
func (l *Load) WrongCounts(ctx context.Context) (n int64, err error) {
	err = l.tx.QueryRow(ctx, `
		select count(*)
		  from `+loadedQueues+` k
		  join `+l.s.table("msg_queues")+` q using (recipient_id)
		  left join (`+states(l.s.table("messages"), "")+`) m using (recipient_id)
		  left join (select distinct recipient_id as id from `+fullQueues+`) f on f.id = recipient_id
		 where (q.msg_queue_size, q.msg_queue_expire, q.msg_can_write) is distinct from (m.size, m.expire, m.can_write and f.id is null)`).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count the messages of queues: %w", err)
	}
	return n, nil
}

func (l *Load) exec(ctx context.Context, what string, statements ...string) error {
	return execAll(ctx, l.tx, what, statements...)
}
