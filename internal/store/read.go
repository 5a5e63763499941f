package store

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"iter"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
)

// Snapshot runs f in a read-only transaction, in which all statements see the
// database as it was at the first one.
func Snapshot(ctx context.Context, conn *pgx.Conn, f func(Querier) error) error {
	o := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	return pgx.BeginTxFunc(ctx, conn, o, func(tx pgx.Tx) error { return f(tx) })
}

// ReadOptions say which queues to read.
type ReadOptions struct {
	Live bool // leave out soft-deleted queues
}

// Queues iterates over the queues of a schema, in the order of their recipient
// ids, as bytes. However many there are, one at a time is in memory. A row that
// cannot be read is an error that names it, and the end.
//
// All rows come from one snapshot; a caller who reads something else that has to
// agree with them uses [Snapshot]. The connection is busy until the end. A loop
// that is left early waits until the server has sent the rest, unless ctx is
// cancelled, which closes the connection.
func Queues(ctx context.Context, q Querier, s Schema, o ReadOptions) iter.Seq2[*Row, error] {
	return func(yield func(*Row, error) bool) {
		r := newRowScanner(s)
		where := ""
		if o.Live {
			where = " where deleted_at is null"
		}
		rows, err := q.Query(ctx, "select "+r.columns()+" from "+s.table("msg_queues")+where+" order by recipient_id")
		if err != nil {
			yield(nil, fmt.Errorf("read queues: %w", err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			row, err := r.scan(rows)
			if err != nil {
				err = fmt.Errorf("read queues: %w", err)
			}
			if !yield(row, err) || err != nil {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(nil, fmt.Errorf("read queues: %w", err))
		}
	}
}

// A By says by which of a queue's ids it is looked up.
type By string

// The ids by which queues are looked up.
const (
	ByRecipient By = "recipient"
	BySender    By = "sender"
	ByNotifier  By = "notifier"
	ByLink      By = "link"
)

// Bys returns the ids by which queues are looked up.
func Bys() []By { return []By{ByRecipient, BySender, ByNotifier, ByLink} }

// Found is a queue that a look-up found.
type Found struct {
	Row *Row
	By  []By // the ids of the queue that are the one that was looked for
}

// FindQueue looks up queues by the given ids of theirs, by all if by is empty.
// Soft-deleted queues are found as well. Usually there is one or none; more are
// possible, as an id of one party may be in use by another party too.
func FindQueue(ctx context.Context, q Querier, s Schema, id []byte, by ...By) ([]Found, error) {
	if len(by) == 0 {
		by = Bys()
	}
	conditions := make([]string, len(by))
	for i, b := range by {
		conditions[i] = string(b) + "_id = $1"
	}
	r := newRowScanner(s)
	name := base64.URLEncoding.EncodeToString(id)
	rows, err := q.Query(ctx, "select "+r.columns()+" from "+s.table("msg_queues")+
		" where "+strings.Join(conditions, " or ")+" order by recipient_id", id)
	if err != nil {
		return nil, fmt.Errorf("look up queue %s: %w", name, err)
	}
	found, err := pgx.CollectRows(rows, func(pgx.CollectableRow) (Found, error) {
		row, err := r.scan(rows)
		if err != nil {
			return Found{}, err
		}
		return Found{Row: row, By: row.matches(id, by)}, nil
	})
	if err != nil {
		return nil, fmt.Errorf("look up queue %s: %w", name, err)
	}
	return found, nil
}

// matches returns those of by under which r has the given id.
func (r *Row) matches(id []byte, by []By) []By {
	var matches []By
	for _, b := range by {
		if string(r.id(b)) == string(id) {
			matches = append(matches, b)
		}
	}
	return matches
}

// id returns one of the ids of the row, nil if it has none.
func (r *Row) id(by By) []byte {
	switch by {
	case ByRecipient:
		return r.RecipientID.Bytes()
	case BySender:
		return r.SenderID.Bytes()
	case ByNotifier:
		if n := cmp.Or(r.Notifier, r.Damage.Notifier); n != nil {
			return n.ID.Bytes()
		}
	case ByLink:
		if l := cmp.Or(r.Link, r.Damage.Link); l != nil {
			return l.ID.Bytes()
		}
	}
	return nil
}

// Messages iterates over the messages of a queue, oldest first, be the queue
// soft-deleted or not. A schema without messages has none.
func Messages(ctx context.Context, q Querier, s Schema, id queue.RecipientID) iter.Seq2[*queue.Message, error] {
	return func(yield func(*queue.Message, error) bool) {
		if !s.HasMessages() {
			return
		}
		rows, err := q.Query(ctx, "select msg_id, msg_ts, msg_quota, msg_ntf_flag, msg_body from "+s.table("messages")+
			" where recipient_id = $1 order by message_id", id)
		if err != nil {
			yield(nil, fmt.Errorf("read messages of queue %s: %w", id, err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			m := new(queue.Message)
			err := rows.Scan(&m.ID, &m.Time, &m.QuotaMarker, &m.Notify, &m.Body)
			if err != nil {
				err = fmt.Errorf("read messages of queue %s: %w", id, columnError(err))
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(nil, fmt.Errorf("read messages of queue %s: %w", id, err))
		}
	}
}

// A StoredMessage is a message with what the row of its queue says.
type StoredMessage struct {
	MessageRow
	CanWrite bool // false: the queue is over quota, until it is drained
	Deleted  bool // the queue is soft-deleted
}

// AllMessages iterates over the messages of all queues, by recipient id, as bytes,
// and oldest first. However many there are, one at a time is in memory; it is the
// caller's. What holds for [Queues] of snapshots and of loops that are left early
// holds here.
func AllMessages(ctx context.Context, q Querier, s Schema) iter.Seq2[*StoredMessage, error] {
	return func(yield func(*StoredMessage, error) bool) {
		if !s.HasMessages() {
			return
		}
		rows, err := q.Query(ctx, "select "+names(messageRowColumns, "m.")+", q.msg_can_write, q.deleted_at is not null"+
			" from "+s.table("messages")+" m join "+s.table("msg_queues")+" q using (recipient_id)"+
			" order by m.recipient_id, m.message_id")
		if err != nil {
			yield(nil, fmt.Errorf("read messages: %w", err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			m := new(StoredMessage)
			err := rows.Scan(append(m.targets(), &m.CanWrite, &m.Deleted)...)
			if err != nil {
				err = fmt.Errorf("read messages: queue %s: %w", m.Queue, columnError(err))
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(nil, fmt.Errorf("read messages: %w", err))
		}
	}
}

// CountMessages returns the number of messages of all queues.
func CountMessages(ctx context.Context, q Querier, s Schema) (n int64, err error) {
	if !s.HasMessages() {
		return 0, nil
	}
	if err := q.QueryRow(ctx, "select count(*) from "+s.table("messages")).Scan(&n); err != nil {
		return 0, fmt.Errorf("count messages: %w", err)
	}
	return n, nil
}

// MessageInfo is a message without its body.
type MessageInfo struct {
	ID          queue.MessageID
	Time        int64 // Unix seconds when the router took the message
	QuotaMarker bool
	Notify      bool
	Bytes       int // length of the body
}

// MessageInfos is [Messages] without the bodies, which the server does not send.
func MessageInfos(ctx context.Context, q Querier, s Schema, id queue.RecipientID) iter.Seq2[MessageInfo, error] {
	return func(yield func(MessageInfo, error) bool) {
		if !s.HasMessages() {
			return
		}
		rows, err := q.Query(ctx, "select msg_id, msg_ts, msg_quota, msg_ntf_flag, length(msg_body) from "+s.table("messages")+
			" where recipient_id = $1 order by message_id", id)
		if err != nil {
			yield(MessageInfo{}, fmt.Errorf("read messages of queue %s: %w", id, err))
			return
		}
		defer rows.Close()
		var m MessageInfo
		for rows.Next() {
			err := rows.Scan(&m.ID, &m.Time, &m.QuotaMarker, &m.Notify, &m.Bytes)
			if err != nil {
				err = fmt.Errorf("read messages of queue %s: %w", id, columnError(err))
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(MessageInfo{}, fmt.Errorf("read messages of queue %s: %w", id, err))
		}
	}
}

// A ServiceRow is a service as the table services has it.
type ServiceRow struct {
	queue.Service

	// Queues is what the table says of the queues of the service in its role.
	// It is the zero Aggregate if the schema keeps none.
	Queues Aggregate
}

// Services returns all services in the order in which they are stored, in which
// smp-server exports them.
func Services(ctx context.Context, q Querier, s Schema) ([]ServiceRow, error) {
	columns := "service_id, service_role, service_cert, service_cert_hash, created_at"
	if s.HasAggregates() {
		columns += ", queue_count, queue_ids_hash"
	}
	rows, err := q.Query(ctx, "select "+columns+" from "+s.table("services")+" order by ctid")
	if err != nil {
		return nil, fmt.Errorf("read services: %w", err)
	}
	services, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (ServiceRow, error) { return scanService(row, s) })
	if err != nil {
		return nil, fmt.Errorf("read services: %w", err)
	}
	return services, nil
}

// scanService reads a row of services.
func scanService(row pgx.CollectableRow, s Schema) (ServiceRow, error) {
	var (
		sv   ServiceRow
		role string
		cert []byte
		hash []byte
	)
	targets := []any{&sv.ID, &role, &cert, &sv.CertHash, &sv.CreatedAt}
	if s.HasAggregates() {
		targets = append(targets, &sv.Queues.Count, &hash)
	}
	if err := row.Scan(targets...); err != nil {
		return sv, fmt.Errorf("service %s: %w", sv.ID, columnError(err))
	}
	var err error
	if sv.Role, err = queue.ParseRole(role); err != nil {
		return sv, fmt.Errorf("service %s: column service_role: %w", sv.ID, err)
	}
	if sv.CertChain, err = queue.ParseBinaryCertChain(cert); err != nil {
		return sv, fmt.Errorf("service %s: column service_cert: %w", sv.ID, err)
	}
	if s.HasAggregates() {
		if len(hash) != len(sv.Queues.IDsHash) {
			return sv, fmt.Errorf("service %s: column queue_ids_hash: %d bytes, not %d", sv.ID, len(hash), len(sv.Queues.IDsHash))
		}
		copy(sv.Queues.IDsHash[:], hash)
	}
	return sv, nil
}
