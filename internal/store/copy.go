package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
)

// Copied is what [CopyQueues] has written.
type Copied struct {
	Checksum

	// What the queues add to the services of role M and N.
	Recipients, Notifiers ServiceAggregates
}

// Target says how rows are written into a table.
type Target struct {
	table  string
	freeze bool
}

// Fresh is the table of queues in a schema that was made in the same
// transaction. Its rows are written as if they were old already, which spares
// the database a second pass over them.
func (s Schema) Fresh() Target { return Target{table: s.table("msg_queues"), freeze: true} }

func (t Target) copySQL(columns string) string {
	options := "format csv"
	if t.freeze {
		options += ", freeze"
	}
	return "copy " + t.table + " (" + columns + ") from stdin with (" + options + ")"
}

// CopyQueues writes queues by COPY in CSV format and returns the checksum of
// what it wrote. It calls progress, if not nil, with numbers of queues. Memory
// does not depend on the number of queues.
func CopyQueues(ctx context.Context, tx pgx.Tx, to Target, queues iter.Seq2[*queue.Record, error], progress func(int64)) (Copied, error) {
	c := Copied{Recipients: make(ServiceAggregates), Notifiers: make(ServiceAggregates)}
	w := rowWriter[queue.Record]{columns: queueColumns}
	var id []byte
	rows := func(b []byte, q *queue.Record) []byte {
		if !q.RcvService.IsZero() {
			id = q.RecipientID.Append(id[:0])
			c.Recipients.add(q.RcvService, id)
		}
		if q.Notifier != nil && !q.Notifier.Service.IsZero() {
			id = q.Notifier.ID.Append(id[:0])
			c.Notifiers.add(q.Notifier.Service, id)
		}
		return w.append(b, q)
	}
	n, err := copyRows(ctx, tx, to.copySQL(names(queueColumns, "")), queues, rows, progress)
	c.Checksum = w.sum
	switch {
	case err != nil:
		return Copied{}, fmt.Errorf("copy queues: %w", err)
	case n != c.Rows:
		return Copied{}, fmt.Errorf("copy queues: sent %d rows, the database took %d", c.Rows, n)
	}
	return c, nil
}

// copyRows streams CSV rows made by row to the database and returns the number
// of rows that it took. The rows are made in another goroutine while earlier
// ones are on their way.
func copyRows[T any](ctx context.Context, tx pgx.Tx, sql string, records iter.Seq2[T, error], row func([]byte, T) []byte, progress func(int64)) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	p := rowPipe{
		full: make(chan []byte),
		free: make(chan []byte, rowBuffers),
	}
	for range rowBuffers {
		p.free <- nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(p.full)
		p.err = fill(ctx, &p, records, row, progress)
	}()
	tag, err := tx.Conn().PgConn().CopyFrom(ctx, &p, sql)
	cancel()
	<-done
	if p.err != nil && !errors.Is(p.err, context.Canceled) {
		return 0, p.err // the cause of the other one
	}
	if err != nil {
		return 0, err
	}
	return tag.RowsAffected(), nil
}

// A rowPipe hands buffers of rows from the goroutine that makes them to the one
// that sends them. It is the io.Reader of the latter.
type rowPipe struct {
	full chan []byte
	free chan []byte
	err  error // set before full is closed

	cur, rest []byte
}

const (
	rowBuffers = 3
	rowBuffer  = 256 << 10 // bytes after which a buffer is sent
)

// Read implements [io.Reader].
func (p *rowPipe) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.cur != nil {
			p.free <- p.cur
			p.cur = nil
		}
		var ok bool
		if p.cur, ok = <-p.full; !ok {
			if p.err != nil {
				return 0, p.err
			}
			return 0, io.EOF
		}
		p.rest = p.cur
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func fill[T any](ctx context.Context, p *rowPipe, records iter.Seq2[T, error], row func([]byte, T) []byte, progress func(int64)) error {
	var buf []byte
	rows := int64(0)
	send := func() error {
		if len(buf) == 0 {
			return nil
		}
		select {
		case p.full <- buf:
		case <-ctx.Done():
			return ctx.Err()
		}
		if progress != nil {
			progress(rows)
		}
		rows = 0
		select {
		case buf = <-p.free:
			buf = buf[:0]
		case <-ctx.Done():
			return ctx.Err()
		}
		return nil
	}
	for r, err := range records {
		if err != nil {
			return err
		}
		buf = row(buf, r)
		rows++
		if len(buf) >= rowBuffer {
			if err := send(); err != nil {
				return err
			}
		}
	}
	return send()
}

// CopyServices writes services into a schema made in the same transaction, in
// the order given, and returns the checksum of what it wrote. In schemas with
// aggregates the services get those of their role.
func CopyServices(ctx context.Context, tx pgx.Tx, s Schema, services []queue.Service, c Copied) (Checksum, error) {
	w := rowWriter[serviceRow]{columns: serviceColumns}
	columns := names(serviceColumns, "")
	if s.HasAggregates() {
		columns += ", queue_count, queue_ids_hash"
	}
	rows := func(yield func(*serviceRow, error) bool) {
		for _, sv := range services {
			row, err := newServiceRow(sv)
			if !yield(&row, err) || err != nil {
				return
			}
		}
	}
	row := func(b []byte, r *serviceRow) []byte {
		b = w.append(b, r)
		if !s.HasAggregates() {
			return b
		}
		a := c.of(r.Service)
		b = append(b[:len(b)-1], ',')
		b = csvInt(b, a.Count)
		b = csvBytes(append(b, ','), a.IDsHash[:])
		return append(b, '\n')
	}
	to := Target{table: s.table("services"), freeze: true}
	n, err := copyRows(ctx, tx, to.copySQL(columns), rows, row, nil)
	switch {
	case err != nil:
		return Checksum{}, fmt.Errorf("copy services: %w", err)
	case n != w.sum.Rows:
		return Checksum{}, fmt.Errorf("copy services: sent %d rows, the database took %d", w.sum.Rows, n)
	}
	return w.sum, nil
}

// of returns the aggregate of a service in its role.
func (c Copied) of(s queue.Service) Aggregate {
	var a *Aggregate
	switch s.Role {
	case queue.RoleMessaging:
		a = c.Recipients[s.ID]
	case queue.RoleNotifier:
		a = c.Notifiers[s.ID]
	case queue.RoleProxy:
	}
	if a == nil {
		return Aggregate{}
	}
	return *a
}

// Analyze collects the statistics of all tables.
func Analyze(ctx context.Context, q Querier, s Schema) error {
	tables := s.table("msg_queues") + ", " + s.table("services")
	if s.HasMessages() {
		tables += ", " + s.table("messages")
	}
	if _, err := q.Exec(ctx, "analyze "+tables); err != nil {
		return fmt.Errorf("analyze: %w", err)
	}
	return nil
}
