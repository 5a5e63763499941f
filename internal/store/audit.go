package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// The log of administrative changes is a table of our own, outside of the schemas
// of routers, which smp-server expects to be as it made them.
const auditTable = "smpq.audit"

// auditMissing is a condition: the table is not there.
const auditMissing = "to_regclass('" + auditTable + "') is null"

// createAudit creates the table. The column xact is the transaction of the line,
// by which those who read the log again and again find what is new.
//
// The lock makes others wait who create the table as well: without it, one of
// them would fail.
var createAudit = [...]string{
	"select pg_advisory_xact_lock(hashtextextended('" + auditTable + "', 0))",
	"create schema if not exists smpq",
	`create table if not exists ` + auditTable + ` (
		id bigint generated always as identity primary key,
		at timestamptz not null default now(),
		xact bigint not null default pg_current_xact_id()::text::bigint,
		who text not null,
		schema_name text not null,
		operation text not null,
		recipient_id bytea not null,
		details text not null
	)`,
	"create index if not exists audit_xact on " + auditTable + " (schema_name, xact)",
	"create index if not exists audit_operation on " + auditTable + " (schema_name, operation, at)",
}

// An AuditLine is an administrative change of a queue.
type AuditLine struct {
	ID          int64 // in the order in which changes began
	At          time.Time
	Who         string // Options.Admin of the Store that made the change
	Operation   string
	RecipientID queue.RecipientID
	Details     string // the status that the queue had after the change
}

// openAudit creates the log of administrative changes if it is not there.
func (s *Store) openAudit(ctx context.Context) error {
	var missing bool
	err := s.work.read(ctx, func(b *pgx.Batch) {
		b.Queue("select " + auditMissing).QueryRow(func(row pgx.Row) error { return row.Scan(&missing) })
	})
	if err == nil && missing {
		err = s.work.write(ctx, func(b *pgx.Batch) {
			for _, sql := range createAudit {
				b.Queue(sql)
			}
		})
	}
	if err != nil {
		return fmt.Errorf("create %s, the log of administrative changes: %w", auditTable, err)
	}
	return nil
}

// admin is the key of a context that says who makes an administrative change.
type admin struct{}

// ByAdmin returns a context for an administrative change that the router itself
// makes: who asked for it. The change is in the log of administrative changes, but
// not announced, as this Store knows of it.
func ByAdmin(ctx context.Context, who string) context.Context {
	return context.WithValue(ctx, admin{}, who)
}

// prepareAudit creates the log of administrative changes if the change to come is
// the first one that this Store has to log.
func (s *Store) prepareAudit(ctx context.Context) error {
	if who, _ := ctx.Value(admin{}).(string); who == "" || s.audited.Load() {
		return nil
	}
	if err := s.openAudit(ctx); err != nil {
		return err
	}
	s.audited.Store(true)
	return nil
}

// announce queues, after the change of queues, what others have to know of it: a
// line in the log for each queue that the transaction has changed, and
// notifications for routers. What the router does for its clients is neither.
func (s *Store) announce(ctx context.Context, b *pgx.Batch, op string, ids ...queue.RecipientID) {
	who, _ := ctx.Value(admin{}).(string)
	if who == "" {
		who = s.o.Admin
	}
	if who == "" || len(ids) == 0 {
		return
	}
	// Rows whose xmin is this transaction are those that it wrote: a queue that
	// turned out to be deleted, or not as expected, gets no line.
	b.Queue("insert into "+auditTable+" (who, schema_name, operation, recipient_id, details)"+
		" select $1, $2, $3, recipient_id, status from "+s.schema.table("msg_queues")+
		" where recipient_id = any ($4) and xmin = pg_current_xact_id()::xid",
		who, s.schema.Name, op, ids)
	if s.o.Admin != "" {
		b.Queue("select pg_notify($1, payload) from unnest($2::text[]) payload", channel(s.schema.Name), payloads(ids))
	}
}

// Audit returns the latest administrative changes of queues of a schema, the
// latest first, limit at most.
func Audit(ctx context.Context, q Querier, s Schema, limit int) ([]AuditLine, error) {
	rows, err := q.Query(ctx, "select id, at, who, operation, recipient_id, details from "+auditTable+
		" where schema_name = $1 order by id desc limit $2", s.Name, limit)
	var lines []AuditLine
	if err == nil {
		lines, err = pgx.CollectRows(rows, pgx.RowToStructByPos[AuditLine])
	}
	switch {
	case absent(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read the log of administrative changes: %w", err)
	}
	return lines, nil
}

// AuditedSince returns how often administrators have changed queues of a schema by
// an operation since a time.
func AuditedSince(ctx context.Context, q Querier, s Schema, op string, since time.Time) (n int64, err error) {
	err = q.QueryRow(ctx, auditedSince, s.Name, op, since).Scan(&n)
	switch {
	case absent(err):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("count administrative changes: %w", err)
	}
	return n, nil
}

// AuditedSince returns how often administrators have changed queues of the schema by
// an operation since a time.
func (s *Store) AuditedSince(ctx context.Context, op string, since time.Time) (n int64, err error) {
	var missing bool
	err = s.work.read(ctx, func(b *pgx.Batch) {
		// To read what is not there would be an error in the server's log.
		b.Queue("select " + auditMissing).QueryRow(func(row pgx.Row) error { return row.Scan(&missing) })
	})
	if err == nil && !missing {
		err = s.work.read(ctx, func(b *pgx.Batch) {
			b.Queue(auditedSince, s.schema.Name, op, since).QueryRow(func(row pgx.Row) error { return row.Scan(&n) })
		})
	}
	return n, s.failed("count administrative changes", err)
}

const auditedSince = "select count(*) from " + auditTable + " where schema_name = $1 and operation = $2 and at >= $3"

// absent reports whether an error says that there is no log: there was no
// administrative change then.
func absent(err error) bool {
	const undefinedTable = "42P01"
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == undefinedTable
}

// channel returns the name of the channel on which changes of a schema's queues
// are announced.
func channel(schemaName string) string {
	const (
		prefix  = "smpq_queues_"
		maxName = 63 // bytes of an identifier
	)
	if len(prefix)+len(schemaName) <= maxName {
		return prefix + schemaName
	}
	hash := sha256.Sum256([]byte(schemaName))
	return prefix + hex.EncodeToString(hash[:16])
}

// maxPayload is the length in bytes of the longest payload of a notification.
const maxPayload = 7999

// payloads returns the payloads that announce changes of queues: ids in base64url,
// with spaces in between.
func payloads(ids []queue.RecipientID) []string {
	var all []string
	var b []byte
	for _, id := range ids {
		text := id.String()
		if len(b) > 0 && len(b)+1+len(text) > maxPayload {
			all, b = append(all, string(b)), b[:0]
		}
		if len(b) > 0 {
			b = append(b, ' ')
		}
		b = append(b, text...)
	}
	if len(b) > 0 {
		all = append(all, string(b))
	}
	return all
}

// parsePayload returns the ids of a payload. Another program may have sent it.
func parsePayload(payload string) ([]queue.RecipientID, error) {
	words := strings.Fields(payload)
	if len(words) == 0 {
		return nil, errors.New("there is no id")
	}
	ids := make([]queue.RecipientID, len(words))
	for i, word := range words {
		id, err := smp.ParseEntityID(word)
		if err != nil {
			return nil, err
		}
		ids[i] = queue.RecipientID{EntityID: id}
	}
	return ids, nil
}
