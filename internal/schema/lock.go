package schema

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// lockClass marks smpq's advisory locks in pg_locks, in the column classid.
const lockClass = 0x534d5051 // "SMPQ"

// A Session is a connection to the database, as the server shows it. To a user
// without the right to see more, an other user's session has only a PID, a user
// and an application.
type Session struct {
	PID         int32
	Application string
	User        string
	Client      string    // address, or "local" for a Unix socket; empty: not shown
	Since       time.Time // when it connected; zero: not shown
}

// String is, for example, "smpq import (pid 4711, user smp, local, since 2026-11-22T01:02:03Z)".
func (s Session) String() string {
	name := s.Application
	if name == "" {
		name = "another session"
	}
	facts := []string{fmt.Sprintf("pid %d", s.PID)}
	if s.User != "" {
		facts = append(facts, "user "+s.User)
	}
	if s.Client != "" {
		facts = append(facts, s.Client)
	}
	if !s.Since.IsZero() {
		facts = append(facts, "since "+s.Since.UTC().Format(time.RFC3339))
	}
	return name + " (" + strings.Join(facts, ", ") + ")"
}

// A LockedError says who works on a schema.
type LockedError struct {
	Schema string
	Holder Session
}

// Error names the schema and the holder.
func (e *LockedError) Error() string {
	return fmt.Sprintf("schema %s is locked by %s: wait until it has finished", Quote(e.Schema), e.Holder)
}

// attempts is how often Lock tries when the holder vanishes before it is named.
const attempts = 3

// lockWait is how long Lock waits. A server notices within a second that a client
// is gone, see session.
const lockWait = "2500ms"

// Lock takes the lock under which one smpq at a time changes a schema, or fails
// with a *LockedError. It waits for a moment, as the lock of a program that was
// killed just now still goes on; not so in a transaction. The lock belongs to the connection's session: it
// ends with unlock or with the session, whatever happens, and the same session
// may take it again. It needs a session of its own, so it does not work through a
// pooler in transaction mode. It does not keep smp-server away, which knows
// nothing of it.
//
// While the lock is held, the session's application_name is "smpq " and the
// purpose, which is what others are told. Where the server can (on Linux it does),
// it also looks every second whether the client is still there, even in the
// middle of a statement, so that the lock of a program that was killed does not
// outlive it for long.
func Lock(ctx context.Context, conn *pgx.Conn, schema, purpose string) (unlock func(context.Context) error, err error) {
	if err := checkName(schema); err != nil {
		return nil, err
	}
	key := lockKey(schema)
	for range attempts {
		var ok bool
		var before session
		err := conn.QueryRow(ctx, `
			select pg_try_advisory_lock($1, $2),
			       current_setting('application_name'), current_setting('client_connection_check_interval')`,
			int32(lockClass), key,
		).Scan(&ok, &before.name, &before.check)
		if err != nil {
			return nil, fmt.Errorf("lock schema %s: %w", Quote(schema), err)
		}
		if !ok && conn.PgConn().TxStatus() == 'I' {
			if ok, err = waitLock(ctx, conn, key); err != nil {
				return nil, fmt.Errorf("lock schema %s: %w", Quote(schema), err)
			}
		}
		if ok {
			unlock := func(ctx context.Context) error { return unlockSession(ctx, conn, schema, before) }
			if err := (session{name: "smpq " + purpose, check: "1s"}).set(ctx, conn); err != nil {
				return nil, errors.Join(fmt.Errorf("lock schema %s: %w", Quote(schema), err), unlock(ctx))
			}
			return unlock, nil
		}
		holder, err := lockHolder(ctx, conn, key)
		if errors.Is(err, pgx.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("find who locks schema %s: %w", Quote(schema), err)
		}
		return nil, &LockedError{Schema: schema, Holder: holder}
	}
	return nil, fmt.Errorf("lock schema %s: others take and release it all the time: try again", Quote(schema))
}

// waitLock waits for the lock, longer than a server takes to notice that the
// client which had it is gone.
func waitLock(ctx context.Context, conn *pgx.Conn, key int32) (ok bool, err error) {
	var before string
	err = conn.QueryRow(ctx, "select current_setting('lock_timeout')").Scan(&before)
	if err != nil {
		return false, err
	}
	set := func(ctx context.Context, timeout string) error {
		_, err := conn.Exec(ctx, "select set_config('lock_timeout', $1, false)", timeout)
		return err
	}
	if err := set(ctx, lockWait); err != nil {
		return false, err
	}
	_, err = conn.Exec(ctx, "select pg_advisory_lock($1, $2)", int32(lockClass), key)
	if code(err) == lockNotAvailable {
		return false, set(ctx, before)
	}
	if err != nil {
		return false, err
	}
	return true, set(ctx, before)
}

// lockKey is the part of the lock's key that stands for the schema. Two schemas
// may share it, and then exclude each other without need.
func lockKey(schema string) int32 {
	h := fnv.New32a()
	h.Write([]byte(schema))
	return int32(h.Sum32()) //nolint:gosec // all 32 bits are wanted, whatever their sign
}

// unlockSession gives the lock and the session's former parameters back.
func unlockSession(ctx context.Context, conn *pgx.Conn, schema string, before session) error {
	if conn.IsClosed() {
		return nil // the lock ended with the session
	}
	var held bool
	err := conn.QueryRow(ctx, "select pg_advisory_unlock($1, $2)", int32(lockClass), lockKey(schema)).Scan(&held)
	if err != nil {
		return fmt.Errorf("unlock schema %s: %w", Quote(schema), err)
	}
	if !held {
		return fmt.Errorf("unlock schema %s: the session did not hold the lock", Quote(schema))
	}
	return before.set(ctx, conn)
}

// A session is the parameters that a session has while it holds the lock.
type session struct {
	name  string // application_name
	check string // client_connection_check_interval
}

// set sets the parameters. In a transaction it leaves the check alone: a server
// on a system that cannot check refuses it, and would end the transaction.
func (s session) set(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, "select set_config('application_name', $1, false)", s.name); err != nil {
		return fmt.Errorf("set application_name: %w", err)
	}
	if conn.PgConn().TxStatus() != 'I' {
		return nil
	}
	_, err := conn.Exec(ctx, "select set_config('client_connection_check_interval', $1, false)", s.check)
	if err != nil && code(err) != invalidParameter {
		return fmt.Errorf("set client_connection_check_interval: %w", err)
	}
	return nil
}

// sessionColumns are the columns of pg_stat_activity that make a Session.
const sessionColumns = `
	a.pid, coalesce(a.application_name, ''), coalesce(a.usename, ''),
	coalesce(host(a.client_addr), case when a.client_port = -1 then 'local' end, ''),
	a.backend_start`

// scanSession reads a Session.
func scanSession(row pgx.CollectableRow) (Session, error) {
	var s Session
	var since *time.Time
	if err := row.Scan(&s.PID, &s.Application, &s.User, &s.Client, &since); err != nil {
		return Session{}, err
	}
	if since != nil {
		s.Since = *since
	}
	return s, nil
}

// lockHolder finds the session that holds the lock with the given key.
func lockHolder(ctx context.Context, q Querier, key int32) (Session, error) {
	rows, err := q.Query(ctx, `
		select `+sessionColumns+`
		  from pg_catalog.pg_locks l
		  join pg_catalog.pg_stat_activity a on a.pid = l.pid
		 where l.locktype = 'advisory'
		   and l.database = (select oid from pg_catalog.pg_database where datname = current_database())
		   and l.classid = $1 and l.objid = $2 and l.objsubid = 2 and l.granted`,
		uint32(lockClass), uint32(key)) //nolint:gosec // pg_locks shows the two halves unsigned
	if err != nil {
		return Session{}, err
	}
	return pgx.CollectExactlyOneRow(rows, scanSession)
}

// A BusyError says that a migration gave up waiting for tables that others use.
type BusyError struct {
	Schema string
	Users  []Session // who had locks on them; empty: nobody any more
	err    error
}

// Error names the schema and the users.
func (e *BusyError) Error() string {
	by := "other sessions"
	if len(e.Users) > 0 {
		names := make([]string, len(e.Users))
		for i, u := range e.Users {
			names[i] = u.String()
		}
		by = strings.Join(names, ", ")
	}
	return fmt.Sprintf("tables of schema %s are in use by %s: nothing was changed; stop the router, or try again at a quieter time",
		Quote(e.Schema), by)
}

// Unwrap returns the server's error.
func (e *BusyError) Unwrap() error { return e.err }

// tableUsers finds the other sessions that have locks on tables of the schema.
func tableUsers(ctx context.Context, q Querier, schema string) ([]Session, error) {
	rows, err := q.Query(ctx, `
		select `+sessionColumns+`
		  from pg_catalog.pg_stat_activity a
		 where a.pid <> pg_backend_pid()
		   and exists (
		     select from pg_catalog.pg_locks l
		       join pg_catalog.pg_class c on c.oid = l.relation
		       join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		      where l.pid = a.pid and l.granted and n.nspname = $1
		        and l.database = (select oid from pg_catalog.pg_database where datname = current_database()))
		 order by a.pid`, schema)
	if err != nil {
		return nil, fmt.Errorf("find who uses schema %s: %w", Quote(schema), err)
	}
	users, err := pgx.CollectRows(rows, scanSession)
	if err != nil {
		return nil, fmt.Errorf("find who uses schema %s: %w", Quote(schema), err)
	}
	return users, nil
}
