package store

import (
	"context"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/smpq/smpq/internal/queue"
)

// ChecksumQueues returns the checksum of the live queues, computed by the
// database over all columns that a log has.
func ChecksumQueues(ctx context.Context, q Querier, s Schema) (Checksum, error) {
	return queryChecksum(ctx, q, checksumSQL(queueColumns, s.table("msg_queues"), " where deleted_at is null"))
}

// ChecksumServices returns the checksum of the services, computed by the
// database over all columns that a log has.
func ChecksumServices(ctx context.Context, q Querier, s Schema) (Checksum, error) {
	return queryChecksum(ctx, q, checksumSQL(serviceColumns, s.table("services"), ""))
}

func queryChecksum(ctx context.Context, q Querier, sql string) (Checksum, error) {
	var c Checksum
	var hash pgtype.Bits // NULL for no rows
	if err := q.QueryRow(ctx, sql).Scan(&c.Rows, &hash); err != nil {
		return Checksum{}, fmt.Errorf("compute a checksum in the database: %w", err)
	}
	copy(c.Hash[:], hash.Bytes)
	return c, nil
}

// ChecksumOfQueues returns the checksum that the given queues have as rows.
func ChecksumOfQueues(queues iter.Seq2[*queue.Record, error]) (Checksum, error) {
	w := rowWriter[queue.Record]{columns: queueColumns}
	var row []byte
	for q, err := range queues {
		if err != nil {
			return Checksum{}, err
		}
		row = w.append(row[:0], q)
	}
	return w.sum, nil
}

// ChecksumOfServices returns the checksum that the given services have as rows.
func ChecksumOfServices(services []queue.Service) (Checksum, error) {
	w := rowWriter[serviceRow]{columns: serviceColumns}
	for _, s := range services {
		row, err := newServiceRow(s)
		if err != nil {
			return Checksum{}, err
		}
		w.append(nil, &row)
	}
	return w.sum, nil
}
