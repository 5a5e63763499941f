// Package schema makes, checks and migrates the database schema of an SMP
// router: a PostgreSQL schema of any name with the tables msg_queues, services
// and messages, their functions, and the table migrations, which says what has
// been applied.
//
// The table migrations is smp-server's own: one row per migration, with its
// name, the time in UTC, and the SQL of the way back. It is the only record of
// the version; each step changes it in the transaction that changes the tables.
// So smp-server accepts what this package leaves, and this package works on what
// smp-server has made.
//
// Names in that table say nothing about the tables themselves. Every check here
// therefore compares the tables too, with a description of each version that is
// part of the package.
package schema

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// A Querier runs statements that read: *pgx.Conn, pgx.Tx and *pgxpool.Pool do.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Why a schema is refused.
var (
	// ErrMissing: there is no schema of this name, or it is empty.
	ErrMissing = errors.New("no router schema")
	// ErrExists: a new schema was asked for and there is one already.
	ErrExists = errors.New("schema exists")
	// ErrForeign: the schema belongs to another program.
	ErrForeign = errors.New("not a router schema")
	// ErrNewer: the schema has migrations that came after Newest.
	ErrNewer = errors.New("schema is newer than known")
	// ErrTooOld: the schema is older than any that is adopted.
	ErrTooOld = errors.New("schema is too old")
	// ErrHalfMigrated: migrations are missing in the middle or not known.
	ErrHalfMigrated = errors.New("schema is half-migrated")
	// ErrStructure: tables or functions are not what the migrations make.
	ErrStructure = errors.New("schema differs from its version")
	// ErrAccess: the database user may not do this to the schema.
	ErrAccess = errors.New("no permission")
	// ErrSeveralKeys: a queue's recipient keys do not fit an older version.
	ErrSeveralKeys = errors.New("queues with several recipient keys")
	// ErrLoss: the migration would delete data and nobody approved it.
	ErrLoss = errors.New("migration deletes data")
)

// Quote returns the name of a schema as an SQL identifier.
func Quote(schema string) string {
	return pgx.Identifier{schema}.Sanitize()
}

// maxName is the longest name of a schema, in bytes. PostgreSQL cuts a longer one.
const maxName = 63

// checkName refuses the names that PostgreSQL would not keep as they are.
func checkName(schema string) error {
	switch {
	case schema == "":
		return errors.New("schema name is empty")
	case len(schema) > maxName:
		return fmt.Errorf("schema name %q is longer than %d bytes", schema, maxName)
	case !utf8.ValidString(schema) || strings.ContainsRune(schema, 0):
		return fmt.Errorf("schema name %q is not valid text", schema)
	}
	return nil
}

// settings are the parameters of a transaction that a step sets for itself.
type settings struct {
	path, messages, lockTimeout string
}

// currentSettings reads the parameters, so that they can be put back.
func currentSettings(ctx context.Context, q Querier) (settings, error) {
	var s settings
	err := q.QueryRow(ctx, `
		select current_setting('search_path'),
		       current_setting('client_min_messages'),
		       current_setting('lock_timeout')`,
	).Scan(&s.path, &s.messages, &s.lockTimeout)
	if err != nil {
		return settings{}, fmt.Errorf("read settings: %w", err)
	}
	return s, nil
}

// restore sets the parameters for the rest of the transaction.
func (s settings) restore(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, `
		select set_config('search_path', $1, true),
		       set_config('client_min_messages', $2, true),
		       set_config('lock_timeout', $3, true)`,
		s.path, s.messages, s.lockTimeout)
	if err != nil {
		return fmt.Errorf("restore settings: %w", err)
	}
	return nil
}
