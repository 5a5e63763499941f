package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/storelog"
)

// Service returns the id of the service with the certificate of sv, which is
// added if there is none. However many callers add it, they get the same id.
// ErrRole: the service has another role.
func (s *Store) Service(ctx context.Context, sv queue.Service) (queue.ServiceID, error) {
	const op = "find or add service"
	row, err := newServiceRow(sv)
	if err != nil {
		return queue.ServiceID{}, s.failed(op, err, sv.ID)
	}
	var (
		id   queue.ServiceID
		role string
	)
	find := func(b *pgx.Batch) {
		b.Queue("select service_id, service_role from "+s.schema.table("services")+" where service_cert_hash = $1", sv.CertHash).
			QueryRow(func(row pgx.Row) error { return row.Scan(&id, &role) })
	}
	err = s.work.read(ctx, find)
	if errors.Is(err, pgx.ErrNoRows) {
		var counted counting
		if counted, err = s.counts.begin(ctx); err != nil {
			return queue.ServiceID{}, s.failed(op, err, sv.ID)
		}
		defer counted.end()
		err = s.work.write(ctx, func(b *pgx.Batch) {
			b.Queue("insert into "+s.schema.table("services")+" ("+names(serviceColumns, "")+") values ("+placeholders(len(serviceColumns))+
				") on conflict (service_cert_hash) do nothing", arguments(serviceColumns, &row)...)
			find(b)
		})
		counted.failed(err)
		if err == nil && id == sv.ID {
			counted.added(sv.Role)
			s.appendLog(&storelog.NewService{Service: sv})
		}
	}
	switch {
	case err != nil:
		return queue.ServiceID{}, s.failed(op, taken(err), sv.ID)
	case role != string(rune(sv.Role)):
		return queue.ServiceID{}, s.failed(op, ErrRole, sv.ID)
	}
	return id, nil
}

// SetService associates a queue with a service of a party, or with none if id is
// zero. ErrNotSet: the party is the notifier, and the queue has none.
func (s *Store) SetService(ctx context.Context, q *Queue, party queue.Party, id queue.ServiceID) error {
	return s.change(ctx, "set service", q, nil, func(v *View) (*change, error) {
		service := v.service(party)
		switch {
		case service == nil:
			return nil, ErrNotSet
		case *service == id:
			return nil, nil
		}
		*service = id
		column, where := serviceColumn(party)
		return &change{
			set: column + " = $2", where: where, args: []any{id},
			log: &storelog.SetService{ID: q.id, Party: party, Service: id},
		}, nil
	})
}

// service returns where the service of a party is, nil for a notifier that is not
// there.
func (v *View) service(party queue.Party) *queue.ServiceID {
	switch {
	case party == queue.PartyRecipient:
		return &v.RcvService
	case v.HasNotifier():
		return &v.Notifier.Service
	}
	return nil
}

// serviceColumn returns the column of the service of a party, and which rows can
// have one.
func serviceColumn(party queue.Party) (column, where string) {
	if party == queue.PartyRecipient {
		return "rcv_service_id", "true"
	}
	return "ntf_service_id", "notifier_id is not null"
}

// SetServices is [Store.SetService] for many queues, in one statement. The errors
// are in the order of the queues, nil for those that are associated now.
func (s *Store) SetServices(ctx context.Context, queues []*Queue, party queue.Party, id queue.ServiceID) []error {
	op := fmt.Sprintf("set the service of %d queues", len(queues))
	results := make(map[*Queue]error, len(queues))
	err := s.setServices(ctx, queues, party, id, results)
	errs := make([]error, len(queues))
	for i, q := range queues {
		e, ok := results[q]
		if !ok {
			e = err
		}
		errs[i] = s.failed(op, e)
	}
	return errs
}

func (s *Store) setServices(ctx context.Context, queues []*Queue, party queue.Party, id queue.ServiceID, results map[*Queue]error) error {
	h, err := s.lock(ctx, queues...)
	if err != nil {
		return err
	}
	defer h.unlock()
	if err := h.reload(ctx); err != nil {
		return err
	}
	views := make(map[queue.RecipientID]*View)
	var ids []queue.RecipientID
	for _, q := range h.queues {
		v, err := q.View()
		if err != nil {
			results[q] = ErrDeleted
			continue
		}
		switch service := v.service(party); {
		case service == nil:
			results[q] = ErrNotSet
		case *service == id:
			results[q] = nil
		default:
			*service = id
			views[q.id] = &v
			ids = append(ids, q.id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	column, where := serviceColumn(party)
	counted, err := s.counts.begin(ctx)
	if err != nil {
		return err
	}
	defer counted.end()
	var set []queue.RecipientID
	err = s.work.write(ctx, func(b *pgx.Batch) {
		b.Queue("update "+s.schema.table("msg_queues")+" set "+column+" = $2 where recipient_id = any ($1) and deleted_at is null and "+where+
			" returning recipient_id", ids, id).
			Query(func(rows pgx.Rows) (err error) {
				set, err = pgx.CollectRows(rows, pgx.RowTo[queue.RecipientID])
				return err
			})
		s.announce(ctx, b, "set service", ids...)
	})
	counted.failed(err)
	if err != nil && certain(err) {
		return err
	}
	done := make(map[queue.RecipientID]bool, len(set))
	for _, id := range set {
		done[id] = true
	}
	for _, q := range h.queues {
		switch v := views[q.id]; {
		case v == nil:
		case err != nil, !done[q.id]:
			if err != nil {
				s.uncertain(q)
				continue
			}
			s.cache.doubt(q)
			s.counts.doubt()
			results[q] = ErrStale
		default:
			was, _ := q.View()
			s.cache.publish(q, v)
			counted.moved(&was, v)
			s.appendLog(&storelog.SetService{ID: q.id, Party: party, Service: id})
			results[q] = nil
		}
	}
	return err
}

// NotifierServices returns which services have the notifiers with the given ids,
// under the zero ServiceID those that have none. Notifiers that do not exist are
// returned apart.
func (s *Store) NotifierServices(ctx context.Context, ids []queue.NotifierID) (byService map[queue.ServiceID][]queue.NotifierID, unknown []queue.NotifierID, err error) {
	services := make(map[queue.NotifierID]queue.ServiceID, len(ids))
	if len(ids) > 0 {
		err = s.work.read(ctx, query("select notifier_id, ntf_service_id from "+s.schema.table("msg_queues")+
			" where notifier_id = any ($1) and deleted_at is null", []any{ids}, func(rows pgx.Rows) error {
			var notifier queue.NotifierID
			var service queue.ServiceID
			_, err := pgx.ForEachRow(rows, []any{&notifier, &service}, func() error {
				services[notifier] = service
				return nil
			})
			return err
		}))
	}
	if err != nil {
		return nil, nil, s.failed(fmt.Sprintf("find the services of %d notifiers", len(ids)), err)
	}
	byService = make(map[queue.ServiceID][]queue.NotifierID)
	for _, id := range ids {
		if service, ok := services[id]; ok {
			byService[service] = append(byService[service], id)
		} else {
			unknown = append(unknown, id)
		}
	}
	return byService, unknown, nil
}

// ServiceQueues returns the number and the hash of the queues of a service in the
// role that fits a party. ErrNoService: there is no such service in that role;
// routers tell clients that it has no queues.
func (s *Store) ServiceQueues(ctx context.Context, id queue.ServiceID, party queue.Party) (a Aggregate, err error) {
	role := queue.RoleMessaging
	if party == queue.PartyNotifier {
		role = queue.RoleNotifier
	}
	sql := "select queue_count, queue_ids_hash from " + s.schema.table("services")
	if !s.schema.HasAggregates() {
		sql = "select n, hash from (" + s.schema.aggregatesSQL() + ") a join " + s.schema.table("services") + " using (service_id)"
	}
	var hash []byte
	err = s.work.read(ctx, func(b *pgx.Batch) {
		b.Queue(sql+" where service_id = $1 and service_role = $2", id, string(rune(role))).
			QueryRow(func(row pgx.Row) error { return row.Scan(&a.Count, &hash) })
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		err = ErrNoService
	case err == nil && len(hash) != len(a.IDsHash):
		err = fmt.Errorf("column queue_ids_hash: %d bytes, not %d", len(hash), len(a.IDsHash))
	}
	if err != nil {
		return Aggregate{}, s.failed("read the queues of service", err, id)
	}
	copy(a.IDsHash[:], hash)
	return a, nil
}
