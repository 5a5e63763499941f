package store

import (
	"context"
	"iter"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
)

const (
	// foldPage is the number of rows that are read at a time: of those with link
	// data, some megabytes.
	foldPage = 200
	// purgeBatch is the number of queues that are removed at a time.
	purgeBatch = 1000
)

// All iterates over the live queues with their link data, in the order of their
// recipient ids. It reads one page after another, so that memory does not depend
// on their number and no transaction lasts long: what is added or deleted
// meanwhile may be seen or not, but nothing else is missed, or comes twice.
func (s *Store) All(ctx context.Context) iter.Seq2[*Row, error] {
	return func(yield func(*Row, error) bool) {
		after := []byte{}
		for {
			var page []*Row
			err := s.bulk.read(ctx, func(b *pgx.Batch) {
				page = page[:0]
				r := newRowScanner(s.schema)
				b.Queue("select "+r.columns()+" from "+s.schema.table("msg_queues")+
					" where recipient_id > $1 and deleted_at is null order by recipient_id limit $2", after, foldPage).
					Query(func(rows pgx.Rows) error {
						for rows.Next() {
							row, err := r.scan(rows)
							if err != nil {
								return err
							}
							page = append(page, row)
						}
						return rows.Err()
					})
			})
			if err != nil {
				yield(nil, s.failed("read all queues", err))
				return
			}
			for _, row := range page {
				if !yield(row, nil) {
					return
				}
			}
			if len(page) < foldPage {
				return
			}
			after = page[len(page)-1].RecipientID.Bytes()
		}
	}
}

// PurgeDeleted removes the queues whose deleted_at is before the given Unix time
// for good, with their messages, in batches. What was removed when it fails or
// ctx ends stays removed. It does not wait for rows that others have locked.
func (s *Store) PurgeDeleted(ctx context.Context, before int64) (Removed, error) {
	const op = "remove deleted queues"
	var all Removed
	for {
		if err := ctx.Err(); err != nil {
			return all, s.failed(op, err)
		}
		var ids []queue.RecipientID
		err := s.bulk.read(ctx, query("select recipient_id from "+s.schema.table("msg_queues")+" where deleted_at < $1 order by deleted_at limit $2",
			[]any{before, purgeBatch}, func(rows pgx.Rows) (err error) {
				ids, err = pgx.CollectRows(rows, pgx.RowTo[queue.RecipientID])
				return err
			}))
		if err != nil || len(ids) == 0 {
			return all, s.failed(op, err)
		}
		var r Removed
		err = s.bulk.write(ctx, func(b *pgx.Batch) {
			b.Queue(s.schema.removeSQL(), ids, before).QueryRow(func(row pgx.Row) error { return row.Scan(&r.Queues, &r.Messages, &r.Bytes) })
		})
		if err != nil {
			return all, s.failed(op, err)
		}
		all.Add(r)
		if r.Queues == 0 || len(ids) < purgeBatch {
			return all, nil // what is left, others are about to remove
		}
	}
}
