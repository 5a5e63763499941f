package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/smpq/smpq/internal/queue"
)

// Removed is what hard deletes removed, or would remove.
type Removed struct {
	Queues   int64 `json:"queues"`
	Messages int64 `json:"messages"`
	// Bytes is the size of the values of all these rows as they are stored,
	// compressed where they are. Tables and indexes take more.
	Bytes int64 `json:"bytes"`
}

// Add adds more to r.
func (r *Removed) Add(more Removed) {
	r.Queues += more.Queues
	r.Messages += more.Messages
	r.Bytes += more.Bytes
}

// CountDeleted returns what there is of queues whose deleted_at is before the
// given Unix time, with their messages. It reads all of them.
func CountDeleted(ctx context.Context, q Querier, s Schema, before int64) (Removed, error) {
	var r Removed
	err := q.QueryRow(ctx, "select count(*), coalesce(sum("+s.queueSize()+"), 0)::bigint from "+s.table("msg_queues")+
		" where deleted_at < $1", before,
	).Scan(&r.Queues, &r.Bytes)
	if err != nil {
		return Removed{}, fmt.Errorf("count deleted queues: %w", err)
	}
	if !s.HasMessages() {
		return r, nil
	}
	var bytes int64
	err = q.QueryRow(ctx, "select count(*), coalesce(sum("+messageSize+"), 0)::bigint from "+s.table("messages")+
		" where recipient_id in (select recipient_id from "+s.table("msg_queues")+" where deleted_at < $1)", before,
	).Scan(&r.Messages, &bytes)
	if err != nil {
		return Removed{}, fmt.Errorf("count messages of deleted queues: %w", err)
	}
	r.Bytes += bytes
	return r, nil
}

// queueSize is an expression for the stored size of a row of msg_queues.
func (s Schema) queueSize() string {
	columns := newRowScanner(s).names
	sizes := make([]string, len(columns))
	for i, c := range columns {
		sizes[i] = "coalesce(pg_column_size(" + c + "), 0)"
	}
	return strings.Join(sizes, " + ")
}

// messageSize is an expression for the stored size of a row of messages.
const messageSize = "pg_column_size(message_id) + pg_column_size(recipient_id) + pg_column_size(msg_id) + pg_column_size(msg_ts)" +
	" + pg_column_size(msg_quota) + pg_column_size(msg_ntf_flag) + pg_column_size(msg_body)"

// A Purge removes soft-deleted queues for good, in batches.
//
// What it removes is listed once, at its start, by the server, which keeps the
// list until the purge or the session ends. So no batch looks at what others
// have removed, and rows that VACUUM has not cleaned up yet do not slow it down.
type Purge struct {
	conn   *pgx.Conn
	schema Schema
	before int64
	limits Limits
	total  int64
}

// Limits are how long a batch may take.
type Limits struct {
	Lock      time.Duration // waiting for a table that is being altered
	Statement time.Duration // in all
}

// NewPurge lists the queues whose deleted_at is before the given Unix time, the
// longest deleted ones first. It needs a session of its own.
func NewPurge(ctx context.Context, conn *pgx.Conn, s Schema, before int64, l Limits) (*Purge, error) {
	p := &Purge{conn: conn, schema: s, before: before, limits: l}
	// Outside of a transaction the list is complete when this has returned: it
	// holds no snapshot that would keep VACUUM from its work.
	_, err := conn.Exec(ctx, "declare "+purgeCursor+" scroll cursor with hold for select recipient_id from "+s.table("msg_queues")+
		fmt.Sprintf(" where deleted_at < %d order by deleted_at", before))
	if err != nil {
		return nil, fmt.Errorf("list deleted queues: %w", err)
	}
	moved, err := conn.Exec(ctx, "move forward all in "+purgeCursor)
	if err == nil {
		_, err = conn.Exec(ctx, "move absolute 0 in "+purgeCursor)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("count deleted queues: %w", err), p.Close(ctx))
	}
	p.total = moved.RowsAffected()
	return p, nil
}

// purgeCursor is the name of the list in the session.
const purgeCursor = "smpq_purge"

// Total returns the number of queues in the list.
func (p *Purge) Total() int64 { return p.total }

// Batch removes the next n queues of the list with their messages, in one
// transaction. It returns how many were left of them in the list, 0 at its end,
// and what was removed: less if others have removed queues meanwhile, or are
// about to.
//
// A Batch whose context ends may or may not have removed its queues.
func (p *Purge) Batch(ctx context.Context, n int) (listed int64, r Removed, err error) {
	rows, err := p.conn.Query(ctx, fmt.Sprintf("fetch %d from %s", n, purgeCursor))
	if err != nil {
		return 0, r, fmt.Errorf("read the list of deleted queues: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[queue.RecipientID])
	if err != nil {
		return 0, r, fmt.Errorf("read the list of deleted queues: %w", err)
	}
	if len(ids) == 0 {
		return 0, r, nil
	}
	err = pgx.BeginFunc(ctx, p.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, p.settings()); err != nil {
			return err
		}
		return tx.QueryRow(ctx, p.schema.removeSQL(), ids, p.before).Scan(&r.Queues, &r.Messages, &r.Bytes)
	})
	if code := sqlState(err); code == queryCanceled && ctx.Err() == nil {
		return 0, Removed{}, fmt.Errorf("remove %d deleted queues: it took longer than %s: take fewer at a time: %w", len(ids), p.limits.Statement, err)
	}
	if err != nil {
		return 0, Removed{}, fmt.Errorf("remove deleted queues: %w", err)
	}
	return int64(len(ids)), r, nil
}

// sqlState returns the SQLSTATE of an error, empty if it has none.
func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// settings are the statements that begin a batch.
func (p *Purge) settings() string {
	return fmt.Sprintf("set local lock_timeout = %d; set local statement_timeout = %d",
		p.limits.Lock.Milliseconds(), p.limits.Statement.Milliseconds())
}

// removeSQL returns the statement that removes the queues $1 with their messages
// and counts them. It does not wait for rows that others have locked, such as a
// router that removes deleted queues as well.
func (s Schema) removeSQL() string {
	const (
		locked       = "any (array(select recipient_id from locked))"
		noMessages   = "gone_messages as (select 0 as size where false)"
		someMessages = "gone_messages as (delete from %s where recipient_id = " + locked + " returning " + messageSize + " as size)"
	)
	messages := noMessages
	if s.HasMessages() {
		messages = fmt.Sprintf(someMessages, s.table("messages"))
	}
	return `
		with locked as materialized (
		  select recipient_id from ` + s.table("msg_queues") + `
		   where recipient_id = any ($1) and deleted_at < $2
		     for update skip locked
		), ` + messages + `, gone_queues as (
		  delete from ` + s.table("msg_queues") + ` where recipient_id = ` + locked + ` returning ` + s.queueSize() + ` as size
		)
		select queues.n, messages.n, (queues.size + messages.size)::bigint
		  from (select count(*) as n, coalesce(sum(size), 0) as size from gone_queues) queues,
		       (select count(*) as n, coalesce(sum(size), 0) as size from gone_messages) messages`
}

// Close drops the list. It does nothing if the session has ended.
func (p *Purge) Close(ctx context.Context) error {
	if p.conn.IsClosed() {
		return nil
	}
	if _, err := p.conn.Exec(ctx, "close "+purgeCursor); err != nil {
		return fmt.Errorf("drop the list of deleted queues: %w", err)
	}
	return nil
}

// Vacuum frees the room of removed queues and messages for new ones and renews
// the statistics of the tables. The tables stay in use meanwhile.
func Vacuum(ctx context.Context, conn *pgx.Conn, s Schema) error {
	tables := s.table("msg_queues")
	if s.HasMessages() {
		tables += ", " + s.table("messages")
	}
	if _, err := conn.Exec(ctx, "vacuum (analyze) "+tables); err != nil {
		return fmt.Errorf("vacuum: %w", err)
	}
	return nil
}
