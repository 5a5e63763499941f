package schema

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// A State is what a schema was found to be.
type State struct {
	Schema string `json:"schema"`
	Exists bool   `json:"exists"`          // there is a schema of this name
	Owner  string `json:"owner,omitempty"` // the database role that owns it

	// Version is the newest migration applied. It is None if there is none, and
	// if the names in the table migrations are not those of a version.
	Version Version   `json:"version,omitempty"`
	Applied []Applied `json:"applied,omitempty"` // the rows of the table migrations, by name

	// Problems are reasons to leave the schema alone.
	Problems []Problem `json:"problems,omitempty"`
	// Differences are the objects that make the problem ErrStructure.
	Differences []Difference `json:"differences,omitempty"`
	// Notes are observations that do no harm here.
	Notes []string `json:"notes,omitempty"`

	empty bool // no table, no function
}

// Applied is a row of the table migrations.
type Applied struct {
	Name       string    `json:"name"`
	At         time.Time `json:"at"`         // UTC
	Reversible bool      `json:"reversible"` // the way back is stored with it
}

// A Problem is one reason to refuse a schema.
type Problem struct {
	Kind   error  `json:"-"` // ErrForeign, ErrNewer, ErrHalfMigrated, ErrStructure or ErrAccess
	Detail string `json:"detail"`
}

// A RefusedError says why a schema cannot be used. errors.Is finds the kind of
// each problem.
type RefusedError struct {
	Schema   string
	Problems []Problem
}

// Error names the schema and each problem.
func (e *RefusedError) Error() string {
	details := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		details[i] = p.Detail
	}
	return fmt.Sprintf("schema %s: %s", Quote(e.Schema), strings.Join(details, "; "))
}

// Unwrap returns the kinds of the problems.
func (e *RefusedError) Unwrap() []error {
	kinds := make([]error, len(e.Problems))
	for i, p := range e.Problems {
		kinds[i] = p.Kind
	}
	return kinds
}

// Err returns a *RefusedError if there are problems, otherwise nil. A schema
// that does not exist, or is empty, has none.
func (s *State) Err() error {
	if len(s.Problems) == 0 {
		return nil
	}
	return &RefusedError{Schema: s.Schema, Problems: s.Problems}
}

// problem adds a problem.
func (s *State) problem(kind error, format string, args ...any) {
	s.Problems = append(s.Problems, Problem{Kind: kind, Detail: fmt.Sprintf(format, args...)})
}

// Inspect finds out what the schema is. It only reads, and it needs no more than
// the right to use the schema and to read its table migrations.
func Inspect(ctx context.Context, q Querier, schema string) (State, error) {
	s := State{Schema: schema}
	if err := checkName(schema); err != nil {
		return s, err
	}
	var user string
	var usable, quoted bool
	err := q.QueryRow(ctx, `
		select pg_get_userbyid(nspowner), current_user,
		       has_schema_privilege(oid, 'usage'), quote_ident(nspname) <> nspname
		  from pg_catalog.pg_namespace
		 where nspname = $1`, schema,
	).Scan(&s.Owner, &user, &usable, &quoted)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("inspect schema %s: %w", Quote(schema), err)
	}
	s.Exists = true
	if quoted {
		s.Notes = append(s.Notes, fmt.Sprintf(
			"smp-server cannot use a schema named %s: it takes only names that need no quotes", Quote(schema)))
	}
	if !usable {
		s.problem(ErrAccess, "belongs to %q, and %q may not use it: connect as %q, or grant usage on the schema and select on its tables",
			s.Owner, user, s.Owner)
		return s, nil
	}

	found, err := describe(ctx, q, schema)
	if err != nil {
		return s, err
	}
	if len(found) == 0 {
		s.empty = true
		return s, nil
	}
	if !found.recordsMigrations() {
		s.problem(ErrForeign, "has tables or functions, but no table migrations of a router: choose another schema")
		return s, nil
	}
	if err := s.readApplied(ctx, q, user); err != nil {
		return s, err
	}
	if len(s.Problems) > 0 {
		return s, nil
	}
	if err := s.classify(found); err != nil {
		return s, err
	}
	return s, s.checkDigest(ctx, q)
}

// recordsMigrations reports whether there is a table migrations that has the
// columns it must have.
func (s structure) recordsMigrations() bool {
	return s.hasTable("migrations") &&
		s["column migrations.name"] == "text not null" &&
		s["column migrations.ts"] == "timestamp without time zone not null" &&
		s["column migrations.down"] == "text"
}

// readApplied reads the table migrations.
func (s *State) readApplied(ctx context.Context, q Querier, user string) error {
	table := pgx.Identifier{s.Schema, "migrations"}.Sanitize()
	var readable bool
	err := q.QueryRow(ctx, "select has_table_privilege($1, 'select')", table).Scan(&readable)
	if err != nil {
		return fmt.Errorf("inspect %s: %w", table, err)
	}
	if !readable {
		s.problem(ErrAccess, "%q may not read the table migrations, which belongs to %q", user, s.Owner)
		return nil
	}
	s.Applied, err = applied(ctx, q, s.Schema)
	return err
}

// applied returns the rows of the table migrations in the order of their names,
// which is the order in which smp-server applies migrations.
func applied(ctx context.Context, q Querier, schema string) ([]Applied, error) {
	table := pgx.Identifier{schema, "migrations"}.Sanitize()
	rows, err := q.Query(ctx, `
		select name, ts at time zone 'utc', down is not null
		  from `+table+`
		 order by name collate "C"`)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", table, err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (a Applied, err error) {
		err = row.Scan(&a.Name, &a.At, &a.Reversible)
		a.At = a.At.UTC()
		return a, err
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", table, err)
	}
	return list, nil
}

// versionOf returns the version that has exactly the given migrations.
func versionOf(list []Applied) (v Version, ok bool) {
	all := All()
	if len(list) > len(all) {
		return None, false
	}
	for i, a := range list {
		if a.Name != string(all[i]) {
			return None, false
		}
		v = all[i]
	}
	return v, true
}

// classify derives the version from the names of the migrations, and compares
// what was found with it.
func (s *State) classify(found structure) error {
	v, ok := versionOf(s.Applied)
	if !ok {
		s.explainNames()
		return nil
	}
	if v == None {
		if s.empty = found.onlyMigrations(); !s.empty {
			s.problem(ErrForeign, "has tables or functions, but its table migrations is empty: choose another schema")
		}
		return nil
	}
	s.Version = v
	for i, a := range s.Applied {
		if i > 0 && !a.Reversible {
			s.Notes = append(s.Notes, fmt.Sprintf("migration %s has no way back in the table migrations: smp-server cannot undo it", a.Name))
		}
	}
	differences, additions, err := found.compare(v)
	if err != nil {
		return err
	}
	if len(differences) > 0 {
		s.Differences = differences
		return s.explainDifferences(found)
	}
	for _, object := range additions {
		s.Notes = append(s.Notes, object+" is not the router's")
	}
	return nil
}

// explainDifferences adds the problem that the differences make: the tables may
// be just those of another version.
func (s *State) explainDifferences(found structure) error {
	for _, v := range All() {
		differences, _, err := found.compare(v)
		if err != nil {
			return err
		}
		if len(differences) == 0 {
			s.problem(ErrStructure, "is %s by its table migrations, but its tables are those of %s", s.Version, v)
			return nil
		}
	}
	s.problem(ErrStructure, "differs from %s in %d objects, the first: %s", s.Version, len(s.Differences), s.Differences[0])
	return nil
}

// onlyMigrations reports whether s is the table migrations and nothing else.
func (s structure) onlyMigrations() bool {
	for object, definition := range s {
		if object != "table migrations" && !strings.Contains(object, " migrations.") && !strings.HasPrefix(definition, "migrations ") {
			return false
		}
	}
	return true
}

// explainNames adds the problem that the names of the migrations make.
func (s *State) explainNames() {
	var known, unknown, newer, missing []string
	for _, a := range s.Applied {
		switch {
		case slices.Contains(All(), Version(a.Name)):
			known = append(known, a.Name)
		case a.Name > string(Newest):
			newer = append(newer, a.Name)
		default:
			unknown = append(unknown, a.Name)
		}
	}
	last := s.Applied[len(s.Applied)-1].Name
	for _, v := range All() {
		if string(v) < last && !slices.Contains(known, string(v)) {
			missing = append(missing, string(v))
		}
	}
	list := func(names ...string) string { return strings.Join(names, ", ") }
	switch {
	case len(known) == 0:
		s.problem(ErrForeign, "belongs to another program: its migrations are %s", list(slices.Concat(unknown, newer)...))
	case len(missing) == 0 && len(unknown) == 0:
		s.problem(ErrNewer, "has migrations newer than %s: %s; use a newer smpq, or let the router that made them take them back",
			Newest, list(newer...))
	default:
		var parts []string
		if len(missing) > 0 {
			parts = append(parts, "without "+list(missing...))
		}
		if more := slices.Concat(unknown, newer); len(more) > 0 {
			parts = append(parts, "with the unknown "+list(more...))
		}
		s.problem(ErrHalfMigrated, "has migrations up to %s, %s: restore it from a backup, or repair it by hand",
			last, list(parts...))
	}
}

// checkDigest looks for functions that call pgcrypto where it is not installed,
// as happens to smp-server's own functions after a restore without it.
func (s *State) checkDigest(ctx context.Context, q Querier) error {
	if s.Version < QueueIDsHash {
		return nil
	}
	var broken bool
	err := q.QueryRow(ctx, `
		select to_regprocedure('public.digest(bytea,text)') is null
		   and exists (
		     select from pg_catalog.pg_proc p
		       join pg_catalog.pg_namespace n on n.oid = p.pronamespace
		      where n.nspname = $1 and p.prosrc ~* 'public\.digest')`, s.Schema,
	).Scan(&broken)
	if err != nil {
		return fmt.Errorf("inspect functions of schema %s: %w", Quote(s.Schema), err)
	}
	if broken {
		s.problem(ErrStructure, "has functions that need the extension pgcrypto in schema public, where it is not: create extension pgcrypto schema public")
	}
	return nil
}

// Adopt checks whether the schema is one that smp-server 6.4, 6.5 or 7.0 (or this
// package) made and that can be worked on as it is. It changes nothing: there is
// nothing to convert. The state is returned with the error too, with every
// difference.
func Adopt(ctx context.Context, q Querier, schema string) (State, error) {
	s, err := Inspect(ctx, q, schema)
	if err != nil {
		return s, err
	}
	if err := s.Err(); err != nil {
		return s, err
	}
	switch {
	case !s.Exists:
		return s, fmt.Errorf("%w: there is no schema %s", ErrMissing, Quote(schema))
	case s.Version == None:
		return s, fmt.Errorf("%w: schema %s is empty", ErrMissing, Quote(schema))
	case len(s.Version.Releases()) == 0:
		return s, fmt.Errorf("%w: schema %s is at %s, and %s is the first that is adopted: migrate it up first",
			ErrTooOld, Quote(schema), s.Version, ServiceCerts)
	}
	return s, nil
}
