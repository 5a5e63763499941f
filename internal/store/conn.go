package store

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/smpq/smpq/internal/schema"
)

// A Config says which database and schema to use.
type Config struct {
	DSN         string // connection string of libpq: a URL or keywords and values
	Schema      string // not quoted
	Application string // application_name, by which other sessions know this one
}

// Connect opens a connection. Its search_path is the schema alone: functions and
// triggers that smp-server made name tables without their schema. Time limits
// that the server has for a router's statements do not hold for it.
func Connect(ctx context.Context, c Config) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(c.DSN)
	if err != nil {
		return nil, fmt.Errorf("connection string: %w", parseCause(err))
	}
	cfg.RuntimeParams["application_name"] = c.Application
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, &connectError{err}
	}
	if err := prepareSession(ctx, conn, c.Schema, 0, 0); err != nil {
		return nil, errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
	}
	return conn, nil
}

// isolation is what all transactions have that do not ask for another one.
const isolation = "read committed"

// prepareSession sets what a session needs. The limits for a statement, and for its
// waiting for a lock, are 0 for none. They are not among the parameters of the
// start: poolers refuse those that they do not know.
func prepareSession(ctx context.Context, conn *pgx.Conn, name string, statement, lock time.Duration) error {
	_, err := conn.Exec(ctx, `
		select set_config('search_path', $1, false),
		       set_config('client_min_messages', 'warning', false),
		       set_config('default_transaction_isolation', '`+isolation+`', false),
		       set_config('statement_timeout', $2, false),
		       set_config('lock_timeout', $3, false),
		       set_config('idle_in_transaction_session_timeout', '0', false)`,
		schema.Quote(name), milliseconds(statement), milliseconds(lock))
	if err != nil {
		return fmt.Errorf("set up the database session: %w", err)
	}
	return nil
}

// milliseconds returns a limit of time as the settings of PostgreSQL have it.
func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// parseCause returns what is wrong with a connection string. The error of pgx can
// quote the string, with its password.
func parseCause(err error) error {
	e, ok := errors.AsType[*pgconn.ParseConfigError](err)
	if !ok {
		return errors.New("not understood")
	}
	if cause := errors.Unwrap(e); cause != nil {
		return cause
	}
	const endOfQuote = "`: "
	text := e.Error()
	end := strings.LastIndex(text, endOfQuote)
	if end < 0 {
		return errors.New("not understood")
	}
	return errors.New(text[end+len(endOfQuote):])
}

// A connectError says why a connection failed. The text of pgx's own error names
// database and user again, and each cause as often as it was tried, with TLS and
// without.
type connectError struct{ err error }

func (e *connectError) Error() string {
	return "connect: " + strings.Join(causes(nil, e.err), "; ")
}

func (e *connectError) Unwrap() error { return e.err }

// causes adds the texts of the innermost errors that say enough, each once.
func causes(texts []string, err error) []string {
	switch e := err.(type) { //nolint:errorlint // goes through the errors one by one
	case interface{ Unwrap() []error }:
		for _, one := range e.Unwrap() {
			texts = causes(texts, one)
		}
		return texts
	case *pgconn.PgError, *net.OpError, *net.DNSError:
	default:
		if inner := errors.Unwrap(err); inner != nil {
			return causes(texts, inner)
		}
	}
	if text := err.Error(); !slices.Contains(texts, text) {
		texts = append(texts, text)
	}
	return texts
}

// A Querier runs statements: *pgx.Conn and pgx.Tx do.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// A Schema is a schema of a router that this package can read and write.
type Schema struct {
	Name    string // not quoted
	Version schema.Version
}

// OpenSchema finds the schema with the given name and its version. Schemas that
// are absent, of another program, damaged, newer than known or too old to read
// are errors of package schema.
func OpenSchema(ctx context.Context, q Querier, name string) (Schema, error) {
	state, err := schema.Inspect(ctx, q, name)
	if err != nil {
		return Schema{}, err
	}
	if err := state.Err(); err != nil {
		return Schema{}, err
	}
	switch {
	case !state.Exists:
		return Schema{}, fmt.Errorf("%w: there is no schema %s", schema.ErrMissing, schema.Quote(name))
	case state.Version == schema.None:
		return Schema{}, fmt.Errorf("%w: schema %s is empty", schema.ErrMissing, schema.Quote(name))
	}
	s := Schema{Name: name, Version: state.Version}
	if !s.at(schema.ServiceCerts) {
		return Schema{}, fmt.Errorf("%w: %s has version %s; run smpq migrate up first", schema.ErrTooOld, schema.Quote(name), s.Version)
	}
	return s, nil
}

// HasMessages reports whether the schema has the table messages.
func (s Schema) HasMessages() bool { return s.at(schema.StoreMessages) }

// HasAggregates reports whether the schema keeps the count and the hash of the
// queues of each service.
func (s Schema) HasAggregates() bool { return s.at(schema.QueueIDsHash) }

func (s Schema) at(v schema.Version) bool {
	all := schema.All()
	return slices.Index(all, s.Version) >= slices.Index(all, v)
}

// table returns the quoted, qualified name of a table.
func (s Schema) table(name string) string { return schema.Quote(s.Name) + "." + name }
