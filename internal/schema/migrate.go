package schema

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// defaultLockTimeout is how long a step waits for a table that others use. While
// it waits, they wait behind it, so it is short.
const defaultLockTimeout = 5 * time.Second

// Options are how a migration is done.
type Options struct {
	// LockTimeout is how long a step waits for a table that others use before it
	// gives up with a *BusyError. Zero means 5 seconds.
	LockTimeout time.Duration

	// Approve is shown the plan before anything is changed, and stops the
	// migration with an error. Without it, a plan that deletes data is refused
	// with ErrLoss. Plan does not use it.
	Approve func(Plan) error
}

// lockTimeout is LockTimeout or its default.
func (o Options) lockTimeout() time.Duration {
	if o.LockTimeout > 0 {
		return o.LockTimeout
	}
	return defaultLockTimeout
}

// A Plan is what a migration does.
type Plan struct {
	Schema   string
	Create   bool // the schema does not exist and is created
	From, To Version
	Steps    []Step // none: the schema is at To already
	Losses   []Loss // the data that the steps delete
}

// SQL is everything that the migration executes, one transaction per step.
func (p Plan) SQL() string {
	parts := make([]string, len(p.Steps))
	for i, s := range p.Steps {
		direction := "up"
		if s.Down {
			direction = "down"
		}
		parts[i] = fmt.Sprintf("-- %s %s\n\n%s", s.Migration, direction, s.SQL())
	}
	return strings.Join(parts, "\n")
}

// A Loss is data that reverting a migration deletes.
type Loss struct {
	Migration Version
	What      string // one of it: "message", for example
	Rows      int64  // how many there are, at least 1
}

// String is, for example, "399 messages".
func (l Loss) String() string {
	if l.Rows == 1 {
		return "1 " + l.What
	}
	return fmt.Sprintf("%d %ss", l.Rows, l.What)
}

// losses are the queries that count what reverting a migration deletes. %s is
// the schema.
func losses(v Version) []struct{ what, count string } {
	switch v {
	case Initial:
		return []struct{ what, count string }{
			{"queue", "select count(*) from %s.msg_queues"},
		}
	case ShortLinks:
		return []struct{ what, count string }{
			{"link data record", "select count(*) from %s.msg_queues where link_id is not null"},
			{"contact mode", "select count(*) from %s.msg_queues where queue_mode <> 'M'"},
		}
	case ServiceCerts:
		return []struct{ what, count string }{
			{"service", "select count(*) from %s.services"},
			{"service association", "select count(rcv_service_id) + count(ntf_service_id) from %s.msg_queues"},
		}
	case StoreMessages:
		return []struct{ what, count string }{
			{"message", "select count(*) from %s.messages"},
		}
	case None, UpdatedIndex, QueueIDsHash:
	}
	return nil
}

// NewPlan works out how to bring the schema to a version, without changing it. It
// refuses a schema that Inspect finds a problem with, that the database user may
// not change, or that has queues for which the older version has no place.
func NewPlan(ctx context.Context, q Querier, schema string, to Version, o Options) (Plan, error) {
	p := Plan{Schema: schema, To: to}
	if to != None && !slices.Contains(All(), to) {
		return p, fmt.Errorf("schema version %q is not known", to)
	}
	state, err := Inspect(ctx, q, schema)
	if err != nil {
		return p, err
	}
	if err := state.Err(); err != nil {
		return p, err
	}
	p.Create, p.From = !state.Exists, state.Version
	if state.Exists && p.From != p.To {
		if err := checkOwner(ctx, q, schema); err != nil {
			return p, err
		}
	}
	d := driver{
		schema: schema, create: p.Create, wait: o.lockTimeout(), at: p.From,
		apply: func(s Step) error {
			p.Steps = append(p.Steps, s)
			return nil
		},
	}
	if err := d.walk(to); err != nil {
		return p, fmt.Errorf("plan migration of schema %s: %w", Quote(schema), err)
	}
	p.Losses, err = countLosses(ctx, q, schema, p.Steps)
	return p, err
}

// checkOwner refuses a schema with objects that the database user may not alter.
func checkOwner(ctx context.Context, q Querier, schema string) error {
	var user string
	var creates bool
	var owners []string
	err := q.QueryRow(ctx, `
		select current_user, has_schema_privilege(n.oid, 'create'), array(
		  select distinct pg_get_userbyid(o.owner)
		    from (
		      select relowner from pg_catalog.pg_class where relnamespace = n.oid
		      union
		      select proowner from pg_catalog.pg_proc where pronamespace = n.oid
		    ) o (owner)
		   where not pg_has_role(o.owner, 'usage')
		   order by 1)
		  from pg_catalog.pg_namespace n
		 where n.nspname = $1`, schema,
	).Scan(&user, &creates, &owners)
	if err != nil {
		return fmt.Errorf("check owner of schema %s: %w", Quote(schema), err)
	}
	switch {
	case len(owners) > 0:
		return fmt.Errorf("%w: schema %s has objects of %s, which %q may not change: connect as their owner",
			ErrAccess, Quote(schema), strings.Join(owners, ", "), user)
	case !creates:
		return fmt.Errorf("%w: %q may not create objects in schema %s: connect as its owner", ErrAccess, user, Quote(schema))
	}
	return nil
}

// countLosses finds out what steps delete, and whether they can be done.
func countLosses(ctx context.Context, q Querier, schema string, steps []Step) ([]Loss, error) {
	var found []Loss
	for _, s := range steps {
		if !s.Down {
			continue
		}
		for _, l := range losses(s.Migration) {
			var n int64
			if err := q.QueryRow(ctx, fmt.Sprintf(l.count, Quote(schema))).Scan(&n); err != nil {
				return nil, fmt.Errorf("count %ss: %w", l.what, err)
			}
			if n > 0 {
				found = append(found, Loss{Migration: s.Migration, What: l.what, Rows: n})
			}
		}
		if s.Migration == ShortLinks {
			if err := checkKeys(ctx, q, schema); err != nil {
				return nil, err
			}
		}
	}
	return found, nil
}

// checkKeys refuses queues that do not have exactly one recipient key: the
// versions before ShortLinks have no place for more.
func checkKeys(ctx context.Context, q Querier, schema string) error {
	var n int64
	var first []byte
	err := q.QueryRow(ctx, `
		select count(*), (array_agg(recipient_id order by recipient_id))[1]
		  from `+Quote(schema)+`.msg_queues
		 where length(recipient_keys) < 2
		    or get_byte(recipient_keys, 0) <> 1
		    or get_byte(recipient_keys, 1) <> length(recipient_keys) - 2`,
	).Scan(&n, &first)
	if err != nil {
		return fmt.Errorf("check recipient keys: %w", err)
	}
	if n > 0 {
		return fmt.Errorf("%w: %s has no place for them, and schema %s has %d, the first %s",
			ErrSeveralKeys, ShortLinks.before(), Quote(schema), n, base64.URLEncoding.EncodeToString(first))
	}
	return nil
}

// Migrate brings the schema to a version, up or down, and returns what it has
// done. It holds the schema's lock (see Lock), so the connection must be a
// session of its own, and in no transaction. A schema that does not exist is
// created.
//
// Each step is one transaction. It begins by locking the tables, gives up with a
// *BusyError if others use them for longer than the lock timeout, and ends with a
// check that the tables are now those of the version. A migration that fails, or
// dies, leaves the schema at the version of its last complete step.
//
// A router that is running waits while a step rewrites a table or builds indexes,
// and what it makes of tables that it does not know is another matter: it should
// be stopped.
func Migrate(ctx context.Context, conn *pgx.Conn, schema string, to Version, o Options) (plan Plan, err error) {
	if status := conn.PgConn().TxStatus(); status != 'I' {
		return Plan{}, fmt.Errorf("migrate schema %s: the connection is in a transaction", Quote(schema))
	}
	unlock, err := Lock(ctx, conn, schema, "migrate")
	if err != nil {
		return Plan{}, err
	}
	defer func() {
		if !conn.IsClosed() {
			err = errors.Join(err, unlock(context.WithoutCancel(ctx)))
		}
	}()

	plan, err = NewPlan(ctx, conn, schema, to, o)
	if err != nil || len(plan.Steps) == 0 {
		return plan, err
	}
	if err := plan.approve(o.Approve); err != nil {
		return plan, err
	}
	// From here on the plan is what has been done.
	plan.Steps, plan.To = nil, plan.From
	d := driver{
		schema: schema, create: plan.Create, wait: o.lockTimeout(), at: plan.From,
		apply: func(s Step) error {
			if err := applyStep(ctx, conn, schema, s); err != nil {
				return err
			}
			plan.Steps, plan.To = append(plan.Steps, s), s.To
			return nil
		},
	}
	if err := d.walk(to); err != nil {
		return plan, fmt.Errorf("migrate schema %s: %w", Quote(schema), err)
	}
	return plan, nil
}

// approve asks whether the plan may be carried out.
func (p Plan) approve(ask func(Plan) error) error {
	if ask != nil {
		return ask(p)
	}
	if len(p.Losses) == 0 {
		return nil
	}
	what := make([]string, len(p.Losses))
	for i, l := range p.Losses {
		what[i] = l.String()
	}
	return fmt.Errorf("%w: from schema %s, %s", ErrLoss, Quote(p.Schema), strings.Join(what, ", "))
}

// applyStep executes a step in its own transaction.
func applyStep(ctx context.Context, conn *pgx.Conn, schema string, s Step) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return runStep(ctx, tx, schema, s) })
	if code(err) != lockNotAvailable {
		return err
	}
	users, lookup := tableUsers(ctx, conn, schema)
	return errors.Join(&BusyError{Schema: schema, Users: users, err: err}, lookup)
}

// runStep executes a step in the caller's transaction.
func runStep(ctx context.Context, tx pgx.Tx, schema string, s Step) error {
	from := s.Migration.before()
	if s.Down {
		from = s.Migration
	}
	if _, err := tx.Exec(ctx, s.prepare); err != nil {
		return fmt.Errorf("lock table migrations: %w", err)
	}
	list, err := applied(ctx, tx, schema)
	if err != nil {
		return err
	}
	if v, ok := versionOf(list); !ok || v != from {
		return fmt.Errorf("%s: another program has migrated the schema meanwhile", s.Migration)
	}
	if _, err := tx.Exec(ctx, s.change); err != nil {
		return fmt.Errorf("%s: %w", s.Migration, err)
	}
	return checkResult(ctx, tx, schema, s)
}

// checkResult compares what a step has made with what it should make.
func checkResult(ctx context.Context, tx pgx.Tx, schema string, s Step) error {
	if s.To == None {
		return nil
	}
	found, err := describe(ctx, tx, schema)
	if err != nil {
		return err
	}
	differences, _, err := found.compare(s.To)
	if err != nil {
		return err
	}
	if len(differences) > 0 {
		return fmt.Errorf("%s: %w: %s", s.Migration, ErrStructure, differences[0])
	}
	return nil
}

// Create makes a new schema of the given version in the caller's transaction,
// whose settings it leaves as they are. It returns ErrExists if there is one with
// anything in it; an existing empty schema is filled, since the right to make
// schemas is not everybody's.
func Create(ctx context.Context, tx pgx.Tx, schema string, to Version) error {
	state, err := Inspect(ctx, tx, schema)
	if err != nil {
		return err
	}
	switch refused := state.Err(); {
	case errors.Is(refused, ErrAccess):
		return refused
	case state.Exists && !state.empty:
		return fmt.Errorf("%w: %s", ErrExists, Quote(schema))
	case !slices.Contains(All(), to):
		return fmt.Errorf("schema version %q is not known", to)
	}
	before, err := currentSettings(ctx, tx)
	if err != nil {
		return err
	}
	d := driver{
		schema: schema, create: !state.Exists, wait: defaultLockTimeout,
		apply: func(s Step) error { return runStep(ctx, tx, schema, s) },
	}
	if err := d.walk(to); err != nil {
		if c := code(err); c == duplicateSchema || c == uniqueViolation {
			return fmt.Errorf("%w: %s, made by another session just now: %w", ErrExists, Quote(schema), err)
		}
		return fmt.Errorf("create schema %s: %w", Quote(schema), err)
	}
	return before.restore(ctx, tx)
}

// SQLSTATE codes that are told apart.
const (
	lockNotAvailable = "55P03"
	duplicateSchema  = "42P06"
	uniqueViolation  = "23505"
	invalidParameter = "22023"
)

// code is the SQLSTATE of an error, empty if it has none.
func code(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}
