package schema

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/pgtest"
)

// TestInspectAndAdopt brings schemas into all kinds of states, each in a
// transaction of its own that starts with a good schema x of the newest version.
func TestInspectAndAdopt(t *testing.T) {
	const (
		forget = "delete from x.migrations where name = "
		insert = "insert into x.migrations (name, ts, down) values "
	)
	tests := []struct {
		name    string
		change  string
		version Version
		inspect error  // the kind of the problem, nil for none
		adopt   error  // if other than the problem
		detail  string // part of the problem's detail, or of the error
		notes   []string
	}{
		{name: "good", version: Newest},
		{name: "missing", change: "drop schema x cascade", adopt: ErrMissing, detail: `there is no schema "x"`},
		{name: "empty", change: "drop schema x cascade; create schema x", adopt: ErrMissing, detail: `schema "x" is empty`},
		{
			name:   "nothing but an empty table migrations",
			change: "drop schema x cascade; create schema x; create table x.migrations (name text primary key, ts timestamp not null, down text)",
			adopt:  ErrMissing, detail: `schema "x" is empty`,
		},
		{
			name: "no table migrations", change: "drop table x.migrations",
			inspect: ErrForeign, detail: "no table migrations",
		},
		{
			name: "another program's table migrations", change: "alter table x.migrations drop column down",
			inspect: ErrForeign, detail: "no table migrations",
		},
		{
			name: "empty table migrations", change: "delete from x.migrations",
			inspect: ErrForeign, detail: "its table migrations is empty",
		},
		{
			name: "another program", change: "update x.migrations set name = '20250101_' || name",
			inspect: ErrForeign, detail: "belongs to another program: its migrations are 20250101_20250207_initial, ",
		},
		{
			name: "newer", change: insert + "('20260101_next', now(), 'x'), ('20260102_after', now(), null)",
			inspect: ErrNewer, detail: "newer than 20250915_queue_ids_hash: 20260101_next, 20260102_after; use a newer smpq",
		},
		{
			name: "newer without the newest known", change: forget + "'20250915_queue_ids_hash'; " + insert + "('20260101_next', now(), 'x')",
			inspect: ErrHalfMigrated, detail: "up to 20260101_next, without 20250915_queue_ids_hash, with the unknown 20260101_next: ",
		},
		{
			name: "gap", change: forget + "'20250320_short_links'",
			inspect: ErrHalfMigrated, detail: "up to 20250915_queue_ids_hash, without 20250320_short_links: ",
		},
		{
			name: "no beginning", change: forget + "'20250207_initial'",
			inspect: ErrHalfMigrated, detail: "without 20250207_initial: ",
		},
		{
			name: "unknown in the middle", change: insert + "('20250910_other', now(), null)",
			inspect: ErrHalfMigrated, detail: "up to 20250915_queue_ids_hash, with the unknown 20250910_other: ",
		},
		{
			name: "unknown at the end", change: forget + "'20250915_queue_ids_hash'; " + insert + "('20250910_other', now(), null)",
			inspect: ErrHalfMigrated, detail: "up to 20250910_other, with the unknown 20250910_other: ",
		},
		{
			name: "tables of another version", change: forget + "'20250915_queue_ids_hash'",
			version: StoreMessages, inspect: ErrStructure,
			detail: "is 20250903_store_messages by its table migrations, but its tables are those of 20250915_queue_ids_hash",
		},
		{
			name: "damaged", change: "drop index x.idx_msg_queues_link_id; alter table x.messages alter column msg_body drop not null",
			version: Newest, inspect: ErrStructure,
			detail: `differs from 20250915_queue_ids_hash in 2 objects, the first: column messages.msg_body is "bytea" instead of "bytea not null"`,
		},
		{
			name: "functions without pgcrypto",
			change: `create or replace function x.update_aggregates(p_service_id bytea, p_role text, p_queue_id bytea, p_change bigint)
				returns void language plpgsql as 'begin perform public.digest(p_queue_id, ''md5''); end'`,
			version: Newest, inspect: ErrStructure, detail: "create extension pgcrypto schema public",
		},
		{
			name: "functions with pgcrypto",
			change: `create extension pgcrypto schema public;
				create or replace function x.update_aggregates(p_service_id bytea, p_role text, p_queue_id bytea, p_change bigint)
				returns void language plpgsql as 'begin perform public.digest(p_queue_id, ''md5''); end'`,
			version: Newest,
		},
		{
			name: "no way back", change: "update x.migrations set down = null where name = '20250319_updated_index'", version: Newest,
			notes: []string{"migration 20250319_updated_index has no way back in the table migrations: smp-server cannot undo it"},
		},
		{
			name: "additions", change: "create table x.mine (); create index mine_too on x.services (created_at)", version: Newest,
			notes: []string{"index mine_too is not the router's", "table mine is not the router's"},
		},
		{
			name: "schema not usable", change: "create role smpq_nobody; set local role smpq_nobody",
			inspect: ErrAccess, detail: `and "smpq_nobody" may not use it`,
		},
		{
			name: "migrations not readable", change: "create role smpq_nobody; grant usage on schema x to smpq_nobody; set local role smpq_nobody",
			inspect: ErrAccess, detail: `"smpq_nobody" may not read the table migrations`,
		},
		{
			name: "read-only user",
			change: `create role smpq_nobody; grant usage on schema x to smpq_nobody; grant select on x.migrations to smpq_nobody;
				set local role smpq_nobody; set transaction read only`,
			version: Newest,
		},
	}
	c := newConn(t)
	makeSchema(t, c, "x", Newest)
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			tx := begin(t, c)
			if _, err := tx.Exec(t.Context(), tc.change); err != nil {
				t.Fatal(err)
			}
			state, err := Inspect(t.Context(), tx, "x")
			if err != nil {
				t.Fatal(err)
			}
			if state.Version != tc.version {
				t.Errorf("version %q, want %q", state.Version, tc.version)
			}
			if diff := cmp.Diff(tc.notes, state.Notes); diff != "" {
				t.Errorf("notes (-want +got):\n%s", diff)
			}
			if tc.adopt == nil {
				tc.adopt = tc.inspect
			}
			checkError(t, "Inspect", state.Err(), tc.inspect, tc.detail)
			_, err = Adopt(t.Context(), tx, "x")
			checkError(t, "Adopt", err, tc.adopt, tc.detail)
			if tc.inspect != nil {
				_, err := NewPlan(t.Context(), tx, "x", Newest, Options{})
				checkError(t, "NewPlan", err, tc.inspect, tc.detail)
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// checkError compares an error with the kind and text that it should have.
func checkError(t *testing.T, what string, err, kind error, detail string) {
	t.Helper()
	if !errors.Is(err, kind) || kind != nil && !strings.Contains(err.Error(), detail) {
		t.Errorf("%s: error %v, want %v with %q", what, err, kind, detail)
	}
}

// TestAdoptVersions adopts what a release of smp-server accepts, and nothing older.
func TestAdoptVersions(t *testing.T) {
	c := newConn(t)
	for _, v := range All() {
		makeSchema(t, c, string(v), v)
		state, err := Adopt(t.Context(), c, string(v))
		if state.Version != v || errors.Is(err, ErrTooOld) != (len(v.Releases()) == 0) || (err == nil) != (len(v.Releases()) > 0) {
			t.Errorf("%s: %+v, %v", v, state, err)
		}
		if len(state.Notes) != 1 || !strings.Contains(state.Notes[0], "smp-server cannot use a schema named") {
			t.Errorf("%s: notes %q", v, state.Notes)
		}
	}
}

// TestInspectRows reads the rows of a table that smp-server filled.
func TestInspectRows(t *testing.T) {
	c := newConn(t)
	loadDump(t, c, "database-mode-live")
	pgtest.Exec(t, c, "set timezone to 'Asia/Tokyo'")
	state := mustInspect(t, c, dumped)
	want := Applied{Name: "20250207_initial", At: time.Date(2026, 11, 22, 0, 45, 27, 720507000, time.UTC)}
	if diff := cmp.Diff(want, state.Applied[0]); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if !state.Exists || state.Owner != one[string](t, c, "select current_user") {
		t.Errorf("%+v", state)
	}
}

// TestOwners plans nothing that the database user may not do.
func TestOwners(t *testing.T) {
	c := newConn(t)
	makeSchema(t, c, "x", StoreMessages)
	user := Quote(one[string](t, c, "select current_user"))
	database := Quote(one[string](t, c, "select current_database()"))
	for _, tc := range []struct {
		name, change, schema string
		want                 error
	}{
		{"owner of nothing", "grant all on schema x to smpq_other; set local role smpq_other", "x", ErrAccess},
		{"member of the owner", "grant usage on schema x to smpq_other; grant " + user + " to smpq_other; set local role smpq_other", "x", nil},
		{"owner", "set local role smpq_other", "y", nil},
		{"owner of the tables", "revoke create on schema y from smpq_other; set local role smpq_other", "y", ErrAccess},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tx := begin(t, c)
			exec := func(sql string) {
				t.Helper()
				if _, err := tx.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			exec("create role smpq_other; grant select on all tables in schema x to smpq_other; grant create on database " + database +
				" to smpq_other; set local role smpq_other")
			if err := Create(t.Context(), tx, "y", StoreMessages); err != nil {
				t.Fatal(err)
			}
			exec("reset role; " + tc.change)
			for _, to := range []Version{Newest, ServiceCerts} {
				_, err := NewPlan(t.Context(), tx, tc.schema, to, Options{})
				checkError(t, string(to), err, tc.want, "smpq_other")
			}
			if _, err := NewPlan(t.Context(), tx, tc.schema, StoreMessages, Options{}); err != nil {
				t.Errorf("nothing to do: %v", err)
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestNames refuses the names of schemas that PostgreSQL would change.
func TestNames(t *testing.T) {
	c := newConn(t)
	longest := strings.Repeat("ö", 31) + "o"
	for _, name := range []string{"", longest + "o", "a\x00b", "a\xffb"} {
		_, inspected := Inspect(t.Context(), c, name)
		_, adopted := Adopt(t.Context(), c, name)
		_, planned := NewPlan(t.Context(), c, name, Newest, Options{})
		_, migrated := Migrate(t.Context(), c, name, Newest, Options{})
		created := pgx.BeginFunc(t.Context(), c, func(tx pgx.Tx) error { return Create(t.Context(), tx, name, Newest) })
		for what, err := range map[string]error{
			"Inspect": inspected, "Adopt": adopted, "NewPlan": planned, "Migrate": migrated, "Create": created,
		} {
			if err == nil || !strings.HasPrefix(err.Error(), "schema name ") {
				t.Errorf("%s of %q: error %v", what, name, err)
			}
		}
	}
	for name, note := range map[string]int{longest: 1, "ok_1": 0, "Upper": 1, "user": 1, "1st": 1, "a b": 1, `"`: 1, "$1": 1} {
		mustMigrate(t, c, name, Newest)
		if state := mustInspect(t, c, name); state.Err() != nil || state.Version != Newest || len(state.Notes) != note {
			t.Errorf("%q: %+v", name, state)
		}
	}
}
