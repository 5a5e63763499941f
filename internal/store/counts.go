package store

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/smpq/smpq/internal/queue"
)

// Entities are the numbers of what a router has, those that it reports. Queues are
// live ones.
type Entities struct {
	Queues           int64 `json:"queues"`
	Notifiers        int64 `json:"notifiers"`                // queues with a notifier
	RcvServices      int64 `json:"receiving_services"`       // services of role M
	NtfServices      int64 `json:"notifier_services"`        // services of role N
	ProxyServices    int64 `json:"proxy_services"`           // services of role P
	RcvServiceQueues int64 `json:"receiving_service_queues"` // queues with a receiving service
	NtfServiceQueues int64 `json:"notifier_service_queues"`  // queues with a notifier service
}

// QueueCounts are entities, and of what kinds the live queues are.
type QueueCounts struct {
	Entities
	Secured int64        `json:"secured"` // queues with a sender key
	Links   int64        `json:"links"`   // queues with a short link
	Mode    ModeCounts   `json:"mode"`
	Status  StatusCounts `json:"status"`
}

// ModeCounts are numbers of queues by mode.
type ModeCounts struct {
	Messaging int64 `json:"messaging"`
	Contact   int64 `json:"contact"`
	Unknown   int64 `json:"unknown"` // made before there were modes
}

// StatusCounts are numbers of queues by status.
type StatusCounts struct {
	Active     int64 `json:"active"`
	Off        int64 `json:"off"`
	Blocked    int64 `json:"blocked"`
	Spam       int64 `json:"blocked_spam"`    // of the blocked ones, those blocked as spam
	Content    int64 `json:"blocked_content"` // of the blocked ones, those blocked for their content
	Notice     int64 `json:"blocked_notice"`  // of the blocked ones, those with a notice
	Unreadable int64 `json:"unreadable"`      // a status that is none
}

// AddService counts services with a role.
func (e *Entities) AddService(role queue.Role, n int64) {
	switch role {
	case queue.RoleMessaging:
		e.RcvServices += n
	case queue.RoleNotifier:
		e.NtfServices += n
	case queue.RoleProxy:
		e.ProxyServices += n
	}
}

// add counts n live queues like v.
func (e *Entities) add(v *View, n int64) {
	e.Queues += n
	if v.HasNotifier() {
		e.Notifiers += n
	}
	if !v.RcvService.IsZero() {
		e.RcvServiceQueues += n
	}
	if !v.Notifier.Service.IsZero() {
		e.NtfServiceQueues += n
	}
}

// AddQueue counts a live queue.
func (c *QueueCounts) AddQueue(q *queue.Record) {
	v := viewOf(q)
	c.add(&v, 1)
	if !v.SenderKey.IsZero() {
		c.Secured++
	}
	if !v.LinkID.IsZero() {
		c.Links++
	}
	c.Mode.add(v.Mode, 1)
	c.Status.add(v.Status, 1)
}

func (c *ModeCounts) add(m queue.Mode, n int64) {
	switch m {
	case queue.ModeMessaging:
		c.Messaging += n
	case queue.ModeContact:
		c.Contact += n
	case queue.ModeUnknown:
		c.Unknown += n
	}
}

func (c *StatusCounts) add(s queue.Status, n int64) {
	switch s.State {
	case queue.Active:
		c.Active += n
	case queue.Off:
		c.Off += n
	case queue.Blocked:
		c.Blocked += n
		switch s.Blocking.Reason {
		case "spam":
			c.Spam += n
		case "content":
			c.Content += n
		}
		if s.Blocking.HasNotice {
			c.Notice += n
		}
	}
}

// Counts are the numbers of what the tables of a schema hold.
type Counts struct {
	QueueCounts
	SoftDeleted    int64          `json:"soft_deleted"`       // queues that compaction will remove
	DamagedNotices int64          `json:"damaged_notices"`    // queues, also soft-deleted, whose notice lost its quotes
	Messages       *MessageCounts `json:"messages,omitempty"` // nil: the schema has no messages
	Estimated      bool           `json:"estimated"`          // from the statistics of PostgreSQL
}

// MessageCounts are the numbers of messages, those of soft-deleted queues
// included.
type MessageCounts struct {
	Stored       int64 `json:"stored"`        // rows of messages, quota markers included
	QuotaMarkers int64 `json:"quota_markers"` // of these
	OverQuota    int64 `json:"over_quota"`    // queues, also soft-deleted, that senders cannot write to

	// QueueSizes is the sum of the sizes that the queues know of themselves. In
	// a sound database it equals Stored. It is nil in an estimate.
	QueueSizes *int64 `json:"queue_sizes,omitempty"`
}

// A queue has a notifier if none of the notifier's columns is NULL.
const (
	hasNotifier      = "notifier_id is not null and notifier_key is not null and rcv_ntf_dh_secret is not null"
	countNotifiers   = "count(*) filter (where " + hasNotifier + ")"
	countNtfServices = "count(ntf_service_id) filter (where " + hasNotifier + ")"
)

// CountEntities counts the entities that a schema holds, in one pass over the
// queues. The numbers agree with each other if q is a [Snapshot].
func CountEntities(ctx context.Context, q Querier, s Schema) (Entities, error) {
	var e Entities
	if err := e.countServices(ctx, q, s); err != nil {
		return Entities{}, err
	}
	err := q.QueryRow(ctx, "select count(*), "+countNotifiers+", count(rcv_service_id), "+countNtfServices+
		" from "+s.table("msg_queues")+" where deleted_at is null").
		Scan(&e.Queues, &e.Notifiers, &e.RcvServiceQueues, &e.NtfServiceQueues)
	if err != nil {
		return Entities{}, fmt.Errorf("count queues: %w", err)
	}
	return e, nil
}

// CountAll counts what a schema holds, in one pass over each table. The numbers
// agree with each other if q is a [Snapshot].
func CountAll(ctx context.Context, q Querier, s Schema) (Counts, error) {
	c := Counts{Messages: newMessageCounts(s)}
	if err := c.countServices(ctx, q, s); err != nil {
		return Counts{}, err
	}
	if err := c.countQueues(ctx, q, s); err != nil {
		return Counts{}, err
	}
	if c.Messages == nil {
		return c, nil
	}
	err := q.QueryRow(ctx, "select count(*), count(*) filter (where msg_quota) from "+s.table("messages")).
		Scan(&c.Messages.Stored, &c.Messages.QuotaMarkers)
	if err != nil {
		return Counts{}, fmt.Errorf("count messages: %w", err)
	}
	return c, nil
}

func newMessageCounts(s Schema) *MessageCounts {
	if !s.HasMessages() {
		return nil
	}
	return new(MessageCounts)
}

// countServices counts the rows of services, of which there are few.
func (e *Entities) countServices(ctx context.Context, q Querier, s Schema) error {
	rows, err := q.Query(ctx, "select service_role, count(*) from "+s.table("services")+" group by service_role")
	if err != nil {
		return fmt.Errorf("count services: %w", err)
	}
	var text string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&text, &n}, func() error {
		role, err := queue.ParseRole(text)
		e.AddService(role, n)
		return err
	})
	if err != nil {
		return fmt.Errorf("count services: %w", err)
	}
	return nil
}

// countQueues counts the rows of msg_queues. The server gathers those with the
// same status and mode, of which there are few kinds, and Go tells what they
// mean.
func (c *Counts) countQueues(ctx context.Context, q Querier, s Schema) error {
	sql := `
		select deleted_at is not null, status, queue_mode, count(*),
		       count(sender_key), count(link_id), ` + countNotifiers + `, count(rcv_service_id), ` + countNtfServices
	if s.HasMessages() {
		sql += `, count(*) filter (where not msg_can_write), sum(msg_queue_size)::bigint`
	}
	sql += `
		  from ` + s.table("msg_queues") + `
		 group by 1, 2, 3`
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return fmt.Errorf("count queues: %w", err)
	}
	var (
		deleted                                     bool
		status                                      string
		mode                                        pgtype.Text
		queues, secured, links, notifiers, rcv, ntf int64
		overQuota, sizes, sumOfSizes                int64
	)
	targets := []any{&deleted, &status, &mode, &queues, &secured, &links, &notifiers, &rcv, &ntf}
	if s.HasMessages() {
		targets = append(targets, &overQuota, &sizes)
	}
	_, err = pgx.ForEachRow(rows, targets, func() error {
		sumOfSizes += sizes
		if c.Messages != nil {
			c.Messages.OverQuota += overQuota
		}
		parsed, damaged, statusErr := queue.RepairStatus(status)
		if damaged {
			c.DamagedNotices += queues
		}
		if deleted {
			c.SoftDeleted += queues
			return nil
		}
		c.Queues += queues
		c.Secured += secured
		c.Links += links
		c.Notifiers += notifiers
		c.RcvServiceQueues += rcv
		c.NtfServiceQueues += ntf
		m, _ := queue.ParseMode(mode.String) // what is no mode is unknown
		c.Mode.add(m, queues)
		if statusErr != nil {
			c.Status.Unreadable += queues
		} else {
			c.Status.add(parsed, queues)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("count queues: %w", err)
	}
	if c.Messages != nil {
		c.Messages.QueueSizes = &sumOfSizes
	}
	return nil
}

// ErrNoStatistics reports a table of which PostgreSQL has no statistics yet.
var ErrNoStatistics = errors.New("no statistics")

// EstimateAll is [CountAll] by the statistics that PostgreSQL keeps for
// its planner: it takes no longer for large tables, and is as good as the last
// ANALYZE. Services are counted. A table that was never analyzed is
// ErrNoStatistics.
func EstimateAll(ctx context.Context, q Querier, s Schema) (Counts, error) {
	c := Counts{Messages: newMessageCounts(s), Estimated: true}
	if err := c.countServices(ctx, q, s); err != nil {
		return Counts{}, err
	}
	queues, err := readStatistics(ctx, q, s, "msg_queues")
	if err != nil {
		return Counts{}, err
	}
	rows := func(share float64) int64 { return int64(math.Round(queues.rows * share)) }
	live := queues.columns["deleted_at"].nulls
	with := func(column string) int64 { return rows(live * (1 - queues.columns[column].nulls)) }
	c.Queues = rows(live)
	c.SoftDeleted = rows(1 - live)
	c.Secured = with("sender_key")
	c.Links = with("link_id")
	c.Notifiers = with("notifier_id")
	c.RcvServiceQueues = with("rcv_service_id")
	c.NtfServiceQueues = with("ntf_service_id")
	for text, share := range queues.columns["queue_mode"].common {
		mode, _ := queue.ParseMode(text)
		c.Mode.add(mode, rows(live*share))
	}
	c.Mode.add(queue.ModeUnknown, rows(live*queues.columns["queue_mode"].nulls))
	for text, share := range queues.columns["status"].common {
		status, damaged, err := queue.RepairStatus(text)
		if damaged {
			c.DamagedNotices += rows(share)
		}
		if err != nil {
			c.Status.Unreadable += rows(live * share)
		} else {
			c.Status.add(status, rows(live*share))
		}
	}
	if c.Messages == nil {
		return c, nil
	}
	c.Messages.OverQuota = rows(queues.columns["msg_can_write"].common["f"])
	messages, err := readStatistics(ctx, q, s, "messages")
	if err != nil {
		return Counts{}, err
	}
	c.Messages.Stored = int64(math.Round(messages.rows))
	c.Messages.QuotaMarkers = int64(math.Round(messages.rows * messages.columns["msg_quota"].common["t"]))
	return c, nil
}

// statistics are the planner's statistics of a table.
type statistics struct {
	rows    float64
	columns map[string]columnStatistics
}

// columnStatistics are shares of the rows of a table.
type columnStatistics struct {
	nulls  float64
	common map[string]float64 // rows with a value that many rows have
}

// statisticsColumns are the columns whose statistics are read.
var statisticsColumns = []string{
	"deleted_at", "sender_key", "link_id", "notifier_id", "rcv_service_id", "ntf_service_id",
	"queue_mode", "status", "msg_can_write", "msg_quota",
}

func readStatistics(ctx context.Context, q Querier, s Schema, table string) (statistics, error) {
	st := statistics{columns: make(map[string]columnStatistics)}
	// Like the planner, assume that the table has as many rows per page as it had
	// when it was analyzed.
	var analyzed, empty bool
	err := q.QueryRow(ctx, `
		select c.reltuples >= 0, size = 0,
		       greatest(c.reltuples, 0) * size / current_setting('block_size')::float8 / greatest(c.relpages, 1)
		  from pg_catalog.pg_class c, pg_relation_size(c.oid) size
		 where c.oid = to_regclass($1)`, s.table(table),
	).Scan(&analyzed, &empty, &st.rows)
	if err != nil {
		return st, fmt.Errorf("read statistics of %s: %w", table, err)
	}
	if empty {
		return st, nil
	}
	rows, err := q.Query(ctx, `
		select attname, null_frac, coalesce(most_common_vals::text::text[], '{}'), coalesce(most_common_freqs, '{}')
		  from pg_catalog.pg_stats
		 where schemaname = $1 and tablename = $2 and not inherited and attname = any ($3)`,
		s.Name, table, statisticsColumns)
	if err != nil {
		return st, fmt.Errorf("read statistics of %s: %w", table, err)
	}
	var name string
	var nulls float64
	var values []string
	var shares []float64
	_, err = pgx.ForEachRow(rows, []any{&name, &nulls, &values, &shares}, func() error {
		column := columnStatistics{nulls: nulls, common: make(map[string]float64, len(values))}
		for i, v := range values {
			column.common[v] = shares[i]
		}
		st.columns[name] = column
		return nil
	})
	if err != nil {
		return st, fmt.Errorf("read statistics of %s: %w", table, err)
	}
	if !analyzed || len(st.columns) == 0 {
		return st, fmt.Errorf("%w of table %s yet: run analyze %s, or count without an estimate", ErrNoStatistics, table, s.table(table))
	}
	return st, nil
}

// ServiceQueues are the live queues that are associated with a service.
type ServiceQueues struct {
	Rcv Aggregate // as their receiving service, by recipient id
	Ntf Aggregate // as their notifier service, by notifier id
}

// CountServiceQueues counts the queues of all services in one pass over
// msg_queues. Services without queues are not in the map.
func CountServiceQueues(ctx context.Context, q Querier, s Schema) (map[queue.ServiceID]ServiceQueues, error) {
	rows, err := q.Query(ctx, `
		select grouping(ntf_service_id) = 1, coalesce(rcv_service_id, ntf_service_id),
		       count(*), bit_xor(('x' || md5(recipient_id))::bit(128)),
		       count(notifier_id), bit_xor(('x' || md5(notifier_id))::bit(128))
		  from `+s.table("msg_queues")+`
		 where deleted_at is null and (rcv_service_id is not null or ntf_service_id is not null)
		 group by grouping sets ((rcv_service_id), (ntf_service_id))
		having coalesce(rcv_service_id, ntf_service_id) is not null`)
	if err != nil {
		return nil, fmt.Errorf("count queues of services: %w", err)
	}
	sets := make(map[queue.ServiceID]ServiceQueues)
	var (
		receiving                   bool
		id                          queue.ServiceID
		recipients, notifiers       int64
		recipientHash, notifierHash pgtype.Bits
	)
	targets := []any{&receiving, &id, &recipients, &recipientHash, &notifiers, &notifierHash}
	_, err = pgx.ForEachRow(rows, targets, func() error {
		set := sets[id]
		if receiving {
			set.Rcv.Count = recipients
			copy(set.Rcv.IDsHash[:], recipientHash.Bytes)
		} else {
			set.Ntf.Count = notifiers
			copy(set.Ntf.IDsHash[:], notifierHash.Bytes)
		}
		sets[id] = set
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("count queues of services: %w", err)
	}
	return sets, nil
}

// CountLive counts the live queues.
func CountLive(ctx context.Context, q Querier, s Schema) (int64, error) {
	var n int64
	err := q.QueryRow(ctx, "select count(*) from "+s.table("msg_queues")+" where deleted_at is null").Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count queues: %w", err)
	}
	return n, nil
}
