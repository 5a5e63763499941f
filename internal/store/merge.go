package store

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
)

// A Merge adds queues and services to a schema that has some. The queues are
// first copied into a temporary table; what fits is then moved with a few
// statements over all of them.
type Merge struct {
	tx pgx.Tx
	s  Schema
}

// The temporary tables of a merge. They are dropped with the transaction.
const (
	stagedQueues = "pg_temp.smpq_staged_queues"
	// skippedQueues lists the staged queues that are not added: those that are
	// there already, with conflict NULL, and the others.
	skippedQueues = "pg_temp.smpq_skipped_queues"
)

// A Conflict is a staged queue that cannot be added.
type Conflict struct {
	Queue  queue.Record
	Reason string
}

// NewMerge prepares a merge in a transaction.
func NewMerge(ctx context.Context, tx pgx.Tx, s Schema) (*Merge, error) {
	m := &Merge{tx: tx, s: s}
	return m, m.exec(ctx, "prepare merge",
		"create temporary table "+unqualified(stagedQueues)+" (like "+s.table("msg_queues")+" including defaults) on commit drop",
		"create temporary table "+unqualified(skippedQueues)+" (recipient_id bytea primary key, conflict text, rival bytea) on commit drop",
	)
}

func unqualified(table string) string { return strings.TrimPrefix(table, "pg_temp.") }

// Target is the table into which the queues are copied.
func (m *Merge) Target() Target { return Target{table: stagedQueues} }

// Checksum returns the checksum of the staged queues, computed by the database.
func (m *Merge) Checksum(ctx context.Context) (Checksum, error) {
	return queryChecksum(ctx, m.tx, checksumSQL(queueColumns, stagedQueues, ""))
}

// A ServiceMatch says what becomes of a service of the log.
type ServiceMatch struct {
	Service queue.Service
	Known   queue.ServiceID // the id under which the schema has it, or zero
	Refused string          // why it cannot be added, or ""
	Queues  int64           // associations that were left out because of that
}

// Services adds the services that the schema does not have. A service is known
// by its certificate: if the schema has it under another id, the staged queues
// get that id. Associations with services that cannot be added are left out.
func (m *Merge) Services(ctx context.Context, services []queue.Service) ([]ServiceMatch, error) {
	matches := make([]ServiceMatch, 0, len(services))
	var from, to [][]byte
	for _, sv := range services {
		match, err := m.service(ctx, sv)
		if err != nil {
			return nil, fmt.Errorf("merge service %s: %w", sv.ID, err)
		}
		if match.Refused != "" || !match.Known.IsZero() && match.Known != sv.ID {
			known, _ := match.Known.BytesValue()
			from, to = append(from, sv.ID.Bytes()), append(to, known)
		}
		matches = append(matches, match)
	}
	replaced, err := m.replaceServices(ctx, from, to)
	if err != nil {
		return nil, fmt.Errorf("merge services: %w", err)
	}
	for i := range matches {
		if matches[i].Refused != "" {
			matches[i].Queues = replaced[matches[i].Service.ID]
		}
	}
	return matches, nil
}

// service adds a service, unless the schema has it or refuses it.
func (m *Merge) service(ctx context.Context, sv queue.Service) (ServiceMatch, error) {
	match := ServiceMatch{Service: sv}
	rows, err := m.tx.Query(ctx, `
		select service_id, service_role, service_cert_hash
		  from `+m.s.table("services")+` where service_id = $1 or service_cert_hash = $2`, sv.ID, sv.CertHash)
	if err != nil {
		return match, err
	}
	defer rows.Close()
	var id queue.ServiceID
	var role string
	var hash []byte
	for rows.Next() {
		if err := rows.Scan(&id, &role, &hash); err != nil {
			return match, err
		}
		switch {
		case !bytes.Equal(hash, sv.CertHash):
			match.Refused = "the schema has another service under this id"
		case role != string(rune(sv.Role)):
			match.Refused = fmt.Sprintf("the schema has it with role %s", role)
		default:
			match.Known = id
		}
	}
	if err := rows.Err(); err != nil {
		return match, err
	}
	switch {
	case !match.Known.IsZero():
		match.Refused = ""
	case match.Refused == "":
		row, err := newServiceRow(sv)
		if err != nil {
			return match, err
		}
		_, err = m.tx.Exec(ctx, "insert into "+m.s.table("services")+" ("+names(serviceColumns, "")+") values ($1, $2, $3, $4, $5)",
			sv.ID, string(rune(sv.Role)), row.cert, sv.CertHash, sv.CreatedAt)
		return match, err
	}
	return match, nil
}

// replaceServices changes the services of staged queues, all at once, as an id
// can be both an old and a new one. It returns the number of associations by old
// id.
func (m *Merge) replaceServices(ctx context.Context, from, to [][]byte) (map[queue.ServiceID]int64, error) {
	replaced := make(map[queue.ServiceID]int64)
	if len(from) == 0 {
		return replaced, nil
	}
	for _, column := range [...]string{"rcv_service_id", "ntf_service_id"} {
		rows, err := m.tx.Query(ctx, `
			with changed as (
			  update `+stagedQueues+` set `+column+` = r.new_id
			    from unnest($1::bytea[], $2::bytea[]) as r(old_id, new_id)
			   where `+column+` = r.old_id
			  returning r.old_id)
			select old_id, count(*) from changed group by old_id`, from, to)
		if err != nil {
			return nil, err
		}
		var id queue.ServiceID
		var n int64
		_, err = pgx.ForEachRow(rows, []any{&id, &n}, func() error {
			replaced[id] += n
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return replaced, nil
}

// Compare finds the staged queues that the schema has already, and returns how
// many of them are the same in all fields. The others, and those of which an id
// is in use, are conflicts, reported in the order of recipient ids. They are
// not added.
func (m *Merge) Compare(ctx context.Context, report func(Conflict) error) (present int64, err error) {
	queues := m.s.table("msg_queues")
	different := make([]string, 0, len(queueColumns))
	for _, c := range queueColumns[1:] {
		different = append(different, "case when q."+c.name+" is distinct from s."+c.name+" then '"+c.name+"' end")
	}
	statements := []string{
		"create unique index on " + stagedQueues + " (recipient_id)",
		"analyze " + stagedQueues,
		`insert into ` + skippedQueues + `
			select recipient_id,
			       case when q.deleted_at is not null then 'the queue was deleted in the database'
			            when row(` + names(queueColumns, "q.") + `) is not distinct from row(` + names(queueColumns, "s.") + `) then null
			            else 'the database has the queue with other values of ' || concat_ws(', ', ` + strings.Join(different, ", ") + `) end
			  from ` + stagedQueues + ` s join ` + queues + ` q using (recipient_id)`,
	}
	for _, id := range [...]string{"sender", "notifier", "link"} {
		column := id + "_id"
		statements = append(statements, `insert into `+skippedQueues+`
			select s.recipient_id, 'its `+id+` id is in use by', q.recipient_id
			  from `+stagedQueues+` s join `+queues+` q on q.`+column+` = s.`+column+` and q.recipient_id <> s.recipient_id
			    on conflict do nothing`)
	}
	if err := m.exec(ctx, "compare with the schema", statements...); err != nil {
		return 0, err
	}
	if err := m.tx.QueryRow(ctx, "select count(*) from "+skippedQueues+" where conflict is null").Scan(&present); err != nil {
		return 0, fmt.Errorf("count queues that are there already: %w", err)
	}
	return present, m.conflicts(ctx, report)
}

func (m *Merge) conflicts(ctx context.Context, report func(Conflict) error) error {
	var reason string
	var rival queue.RecipientID
	r := newRowScanner(m.s)
	r.names = append(r.names, "conflict", "rival")
	r.targets = append(r.targets, &reason, &rival)
	rows, err := m.tx.Query(ctx, `
		select `+r.columns()+`
		  from `+skippedQueues+` join `+stagedQueues+` using (recipient_id)
		 where conflict is not null order by recipient_id`)
	if err != nil {
		return fmt.Errorf("read conflicts: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		row, err := r.scan(rows)
		if err != nil {
			return err
		}
		if !rival.IsZero() {
			reason += " queue " + rival.String()
		}
		if err := report(Conflict{Queue: row.Record, Reason: reason}); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read conflicts: %w", err)
	}
	return nil
}

// Insert adds the staged queues that are neither present nor in conflict, and
// returns their number. If there are any, writers to the schema wait from here to
// the end of the transaction.
func (m *Merge) Insert(ctx context.Context) (int64, error) {
	var n int64
	err := m.tx.QueryRow(ctx, "select (select count(*) from "+stagedQueues+") - (select count(*) from "+skippedQueues+")").Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count queues to insert: %w", err)
	}
	if n == 0 {
		return 0, nil
	}
	queues := m.s.table("msg_queues")
	if m.s.HasAggregates() {
		if err := m.exec(ctx, "disable triggers", "alter table "+queues+" disable trigger user"); err != nil {
			return 0, err
		}
	}
	tag, err := m.tx.Exec(ctx, `
		insert into `+queues+` (`+names(queueColumns, "")+`)
		select `+names(queueColumns, "s.")+`
		  from `+stagedQueues+` s
		 where not exists (select from `+skippedQueues+` k where k.recipient_id = s.recipient_id)
		 order by recipient_id`)
	if err != nil {
		return 0, fmt.Errorf("insert queues: %w", err)
	}
	if m.s.HasAggregates() {
		if err := m.exec(ctx, "enable triggers", "alter table "+queues+" enable trigger user"); err != nil {
			return 0, err
		}
	}
	return tag.RowsAffected(), RecomputeAggregates(ctx, m.tx, m.s)
}

// Missing returns how many staged queues without a conflict are not in the
// schema with the same values. After Insert it is 0.
func (m *Merge) Missing(ctx context.Context) (n int64, err error) {
	err = m.tx.QueryRow(ctx, `
		select count(*)
		  from `+stagedQueues+` s
		  left join `+skippedQueues+` k using (recipient_id)
		  left join `+m.s.table("msg_queues")+` q using (recipient_id)
		 where k.conflict is null
		   and (q.deleted_at is not null or row(`+names(queueColumns, "q.")+`) is distinct from row(`+names(queueColumns, "s.")+`))`).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("compare the schema with the log: %w", err)
	}
	return n, nil
}

func (m *Merge) exec(ctx context.Context, what string, statements ...string) error {
	return execAll(ctx, m.tx, what, statements...)
}

func execAll(ctx context.Context, q Querier, what string, statements ...string) error {
	for _, sql := range statements {
		if _, err := q.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}
