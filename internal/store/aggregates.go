package store

import (
	"context"
	"crypto/md5" //nolint:gosec // the schema's hash of queue ids, not a protection
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
)

// An Aggregate stands for a set of queues, as the columns queue_count and
// queue_ids_hash of a service do: how many there are, and the XOR of the MD5
// digests of their ids. These are the recipient ids, or the notifier ids for a
// service of role N.
type Aggregate struct {
	Count   int64
	IDsHash [md5.Size]byte
}

func (a *Aggregate) add(id []byte) {
	h := md5.Sum(id) //nolint:gosec // as above
	for i := range h {
		a.IDsHash[i] ^= h[i]
	}
	a.Count++
}

// ServiceAggregates are the aggregates of services in one role.
type ServiceAggregates map[queue.ServiceID]*Aggregate

func (s ServiceAggregates) add(service queue.ServiceID, id []byte) {
	a := s[service]
	if a == nil {
		a = new(Aggregate)
		s[service] = a
	}
	a.add(id)
}

// WrongAggregates returns the ids of services whose number or hash of queues
// differs from their queues. It is empty for schemas without aggregates.
func WrongAggregates(ctx context.Context, q Querier, s Schema) ([]queue.ServiceID, error) {
	if !s.HasAggregates() {
		return nil, nil
	}
	rows, err := q.Query(ctx, "select service_id from ("+s.aggregatesSQL()+") a join "+s.table("services")+" using (service_id) where "+wrongAggregates)
	if err != nil {
		return nil, fmt.Errorf("check the aggregates of services: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[queue.ServiceID])
	if err != nil {
		return nil, fmt.Errorf("check the aggregates of services: %w", err)
	}
	return ids, nil
}

// RecomputeAggregates sets the number and the hash of queues of all services of
// which they are wrong. It does nothing in schemas without aggregates.
//
// It is for bulk changes with triggers disabled: the trigger changes the row of
// the service once for each queue, which is quadratic in one transaction.
func RecomputeAggregates(ctx context.Context, q Querier, s Schema) error {
	if !s.HasAggregates() {
		return nil
	}
	services := s.table("services")
	_, err := q.Exec(ctx, "update "+services+" set queue_count = a.n, queue_ids_hash = a.hash from ("+s.aggregatesSQL()+") a where "+
		services+".service_id = a.service_id and "+wrongAggregates)
	if err != nil {
		return fmt.Errorf("recompute the aggregates of services: %w", err)
	}
	return nil
}

const wrongAggregates = "(queue_count <> a.n or queue_ids_hash <> a.hash)"

// aggregatesSQL returns a query for the number n and the hash of the live queues
// of each service in its role.
func (s Schema) aggregatesSQL() string {
	// The XOR of many hashes is quick for bit strings only. Halves of a bit
	// string go back to bytes through numbers.
	half := func(from int) string {
		return fmt.Sprintf("lpad(to_hex(substring(hash from %d for 64)::bit(64)::bigint), 16, '0')", from)
	}
	active := func(service, id, role string) string {
		return `
			select ` + service + ` as service_id, count(*) as n, bit_xor(('x' || md5(` + id + `))::bit(128)) as hash
			  from ` + s.table("msg_queues") + ` join ` + s.table("services") + ` on service_id = ` + service + `
			 where deleted_at is null and ` + id + ` is not null and service_role = '` + role + `'
			 group by 1`
	}
	return `
		select service_id, coalesce(n, 0) as n,
		       coalesce(decode(` + half(1) + ` || ` + half(65) + `, 'hex'), decode(repeat('00', 16), 'hex')) as hash
		  from ` + s.table("services") + `
		  left join (` + active("rcv_service_id", "recipient_id", "M") + ` union all ` + active("ntf_service_id", "notifier_id", "N") + `) totals using (service_id)`
}
