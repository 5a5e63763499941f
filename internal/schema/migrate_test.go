package schema

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/pgtest"
)

// tables are the tables with data.
var tables = []string{"services", "msg_queues", "messages"}

// gone are the columns that a version does not have, or has in another form, and
// the tables that it does not have.
var gone = map[Version][]string{
	QueueIDsHash:  nil,
	StoreMessages: {"queue_count", "queue_ids_hash"},
	ServiceCerts:  {"queue_count", "queue_ids_hash", "msg_can_write", "msg_queue_expire", "msg_queue_size", "messages"},
	ShortLinks: {
		"queue_count", "queue_ids_hash", "msg_can_write", "msg_queue_expire", "msg_queue_size", "messages",
		"rcv_service_id", "ntf_service_id", "services",
	},
}

// folders are the folders with tables that smp-server filled.
func folders(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(served)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(served, e.Name(), "msg_queues.csv")); err == nil {
			names = append(names, e.Name())
		}
	}
	if len(names) == 0 {
		t.Fatal("no data")
	}
	return names
}

// TestRealData adopts each database that smp-server made, takes it up to the
// newest version and down to each older one, and finds all rows as they were,
// but for what the older version cannot hold.
func TestRealData(t *testing.T) {
	for _, folder := range folders(t) {
		t.Run(folder, func(t *testing.T) {
			c := newConn(t)
			loadDump(t, c, folder)
			before := make(map[string][]string)
			for _, table := range tables {
				before[table] = rows(t, c, dumped, table)
			}
			if len(before["msg_queues"]) == 0 {
				t.Fatal("no queues")
			}
			migrations := rows(t, c, dumped, "migrations")

			state, err := Adopt(t.Context(), c, dumped)
			if err != nil {
				t.Fatal(err)
			}
			if state.Version != StoreMessages || len(state.Notes) > 0 || len(state.Applied) != 5 {
				t.Errorf("adopted as %+v", state)
			}

			mustMigrate(t, c, dumped, QueueIDsHash)
			checkAggregates(t, c, dumped)
			if diff := cmp.Diff(before["services"], rows(t, c, dumped, "services", gone[StoreMessages]...)); diff != "" {
				t.Errorf("services at %s:\n%s", QueueIDsHash, diff)
			}

			mustMigrate(t, c, dumped, StoreMessages)
			for _, table := range tables {
				if diff := cmp.Diff(before[table], rows(t, c, dumped, table)); diff != "" {
					t.Errorf("%s, up and down again:\n%s", table, diff)
				}
			}
			if diff := cmp.Diff(migrations, rows(t, c, dumped, "migrations")); diff != "" {
				t.Errorf("migrations, up and down again:\n%s", diff)
			}

			for _, v := range []Version{ServiceCerts, ShortLinks} {
				want := make(map[string][]string)
				for _, table := range tables {
					if !slices.Contains(gone[v], table) {
						want[table] = rows(t, c, dumped, table, gone[v]...)
					}
				}
				mustMigrate(t, c, dumped, v)
				check := func(when string, without ...string) {
					t.Helper()
					for table, list := range want {
						if diff := cmp.Diff(list, rows(t, c, dumped, table, without...)); diff != "" {
							t.Errorf("%s at %s, %s:\n%s", table, v, when, diff)
						}
					}
				}
				check("down")
				mustMigrate(t, c, dumped, Newest)
				check("up again", gone[v]...)
				mustMigrate(t, c, dumped, v)
				check("and down again")
			}
		})
	}
}

// queueRow is a queue as the versions before ShortLinks and after it have it.
type queueRow struct {
	ID     []byte
	Keys   []byte
	Secure *bool
	Mode   *string
	Link   []byte
}

// TestShortLinks takes queues of all kinds over the migration that changes most,
// in both directions.
func TestShortLinks(t *testing.T) {
	c := newConn(t)
	makeSchema(t, c, "x", UpdatedIndex)
	key := func(n int) []byte { return []byte(strings.Repeat("k", n)) }
	pgtest.Exec(t, c, `insert into x.msg_queues (recipient_id, recipient_key, rcv_dh_secret, sender_id, snd_secure, status)
		values ('a', $1, '', 'a', true, 'active'), ('b', $2, '', 'b', false, 'off'), ('c', $3, '', 'c', true, 'active')`,
		key(44), key(69), key(255))

	mustMigrate(t, c, "x", ShortLinks)
	messaging := "M"
	want := []queueRow{
		{ID: []byte("a"), Keys: append([]byte{1, 44}, key(44)...), Mode: &messaging},
		{ID: []byte("b"), Keys: append([]byte{1, 69}, key(69)...)},
		{ID: []byte("c"), Keys: append([]byte{1, 255}, key(255)...), Mode: &messaging},
	}
	read := func(columns string) []queueRow {
		t.Helper()
		r, err := c.Query(t.Context(), "select "+columns+" from x.msg_queues order by recipient_id")
		if err != nil {
			t.Fatal(err)
		}
		list, err := pgx.CollectRows(r, pgx.RowToStructByPos[queueRow])
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	if diff := cmp.Diff(want, read("recipient_id, recipient_keys, null::bool, queue_mode, link_id")); diff != "" {
		t.Errorf("up (-want +got):\n%s", diff)
	}

	pgtest.Exec(t, c, `update x.msg_queues set queue_mode = 'C', link_id = 'l', fixed_data = 'f', user_data = 'u' where recipient_id = 'a'`)
	p, err := NewPlan(t.Context(), c, "x", Initial, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Loss{{ShortLinks, "link data record", 1}, {ShortLinks, "contact mode", 1}}, p.Losses); diff != "" {
		t.Errorf("losses (-want +got):\n%s", diff)
	}
	mustMigrate(t, c, "x", Initial)
	yes, no := true, false
	want = []queueRow{
		{ID: []byte("a"), Keys: key(44), Secure: &no},
		{ID: []byte("b"), Keys: key(69), Secure: &no},
		{ID: []byte("c"), Keys: key(255), Secure: &yes},
	}
	if diff := cmp.Diff(want, read("recipient_id, recipient_key, snd_secure, null::text, null::bytea")); diff != "" {
		t.Errorf("down (-want +got):\n%s", diff)
	}
	if err := stateErr(mustInspect(t, c, "x")); err != nil {
		t.Errorf("after the way down: %v", err)
	}
	mustMigrate(t, c, "x", Newest)
}

func stateErr(s State) error { return s.Err() }

// TestSeveralKeys refuses to go down where keys would be lost: when planning, and
// in the script itself.
func TestSeveralKeys(t *testing.T) {
	c := newConn(t)
	for _, keys := range []string{`\x02016b016b`, `\x016b`, `\x01`, `\x`, `\x01026b`} {
		t.Run(keys, func(t *testing.T) {
			schema := "x" + keys[2:]
			makeSchema(t, c, schema, ServiceCerts)
			pgtest.Exec(t, c, `insert into `+schema+`.msg_queues (recipient_id, recipient_keys, rcv_dh_secret, sender_id, status)
				values ('\xfbff', $1::text::bytea, '', '', 'active')`, keys)
			_, err := Migrate(t.Context(), c, schema, UpdatedIndex, Options{Approve: func(Plan) error { return nil }})
			if !errors.Is(err, ErrSeveralKeys) || !strings.Contains(err.Error(), "-_8=") {
				t.Errorf("error %v, want ErrSeveralKeys with the queue", err)
			}
			pgtest.Exec(t, c, "select set_config('search_path', $1, false)", schema)
			down := one[string](t, c, "select down from migrations where name = $1", ShortLinks)
			if _, err := c.Exec(t.Context(), down); err == nil || !strings.Contains(err.Error(), "-_8=") {
				t.Errorf("script: error %v, want one with the queue", err)
			}
			if v := mustInspect(t, c, schema).Version; v != ServiceCerts {
				t.Errorf("schema is at %s", v)
			}
		})
	}
}

// TestEachStep goes up and down one step at a time, and in all longer ways, and
// finds the structure of each version. The tables lose no row on the way that is
// not in the plan.
func TestEachStep(t *testing.T) {
	c := newConn(t)
	const schema = `Weird "Name"; --`
	versions := append([]Version{None}, All()...)
	for _, from := range versions {
		for _, to := range versions {
			mustMigrate(t, c, schema, from)
			p := mustMigrate(t, c, schema, to)
			if p.From != from || p.To != to || p.Schema != schema {
				t.Errorf("plan from %q to %q: from %q to %q", from, to, p.From, p.To)
			}
			state := mustInspect(t, c, schema)
			if err := state.Err(); err != nil || state.Version != to || len(state.Applied) != slices.Index(versions, to) {
				t.Errorf("from %q to %q: %+v", from, to, state)
			}
		}
	}
}

// TestServersWayBack takes schemas down as smp-server does, by the scripts stored
// in the table migrations: ours, and smp-server's own on tables of ours.
func TestServersWayBack(t *testing.T) {
	ours := newConn(t)
	makeSchema(t, ours, dumped, Newest)
	mixed := newConn(t)
	makeSchema(t, mixed, dumped, StoreMessages)
	for _, record := range readCSV(t, served, "memory-1-raw", "migrations.csv")[1:] {
		pgtest.Exec(t, mixed, "update smp_server.migrations set down = $2 where name = $1", record[0], record[2])
	}
	for name, c := range map[string]*pgx.Conn{"smpq's scripts": ours, "smp-server's scripts": mixed} {
		pgtest.Exec(t, c, "set search_path to smp_server")
		for _, v := range slices.Backward(All()[1:]) {
			if v > mustInspect(t, c, dumped).Version {
				continue
			}
			down := one[string](t, c, "select down from migrations where name = $1", v)
			pgtest.Exec(t, c, "begin")
			pgtest.Exec(t, c, down)
			pgtest.Exec(t, c, "delete from migrations where name = $1", v)
			pgtest.Exec(t, c, "commit")
			if state := mustInspect(t, c, dumped); len(state.Problems) > 0 || state.Version != v.before() {
				t.Errorf("%s, after %s: %+v", name, v, state)
			}
		}
		if one[bool](t, c, "select down is not null from migrations") {
			t.Errorf("%s: the first migration has a way back", name)
		}
		mustMigrate(t, c, dumped, Newest)
	}
}

// TestMigrationsTable compares the rows that smp-server checks.
func TestMigrationsTable(t *testing.T) {
	c := newConn(t)
	start := one[time.Time](t, c, "select clock_timestamp()")
	makeSchema(t, c, dumped, StoreMessages)
	list, err := applied(t.Context(), c, dumped)
	if err != nil {
		t.Fatal(err)
	}
	for i, record := range readCSV(t, served, "memory-1-raw", "migrations.csv") {
		a := list[i]
		if a.Name != record[0] || a.Reversible != (record[2] != "") {
			t.Errorf("row %d is %+v, smp-server's is %q", i, a, record)
		}
		if a.At.Before(start) || time.Since(a.At) > time.Hour {
			t.Errorf("%s was applied at %s", a.Name, a.At)
		}
		start = a.At
	}
}

// TestPlan executes the SQL of a plan with psql, and compares what it makes with
// what Migrate makes. The plan itself changes nothing.
func TestPlan(t *testing.T) {
	dsn := pgtest.DSN(t)
	c := pgtest.Conn(t, dsn)
	for _, way := range [][2]Version{{None, Newest}, {Newest, Initial}, {Initial, ServiceCerts}, {ServiceCerts, None}} {
		p, err := NewPlan(t.Context(), c, "planned", way[1], Options{LockTimeout: 3 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if state := mustInspect(t, c, "planned"); state.Version != way[0] || state.Exists != (way[0] != None) {
			t.Errorf("planning changed the schema: %+v", state)
		}
		if !strings.Contains(p.SQL(), "set local lock_timeout to '3000ms';") {
			t.Errorf("plan without the lock timeout:\n%s", p.SQL())
		}
		cmd := exec.CommandContext(t.Context(), filepath.Join(pgtest.BinDir(t), "psql"),
			"--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file=-", "--dbname="+dsn)
		cmd.Stdin = strings.NewReader(p.SQL())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("psql: %v\n%s", err, out)
		}
		mustMigrate(t, c, "migrated", way[1])
		if diff := cmp.Diff(mustDescribe(t, c, "migrated"), mustDescribe(t, c, "planned")); diff != "" {
			t.Errorf("from %q to %q (-Migrate +psql):\n%s", way[0], way[1], diff)
		}
		if diff := cmp.Diff(rows(t, c, "migrated", "migrations", "ts"), rows(t, c, "planned", "migrations", "ts")); diff != "" {
			t.Errorf("migrations from %q to %q (-Migrate +psql):\n%s", way[0], way[1], diff)
		}
	}
}

// TestApproval refuses to delete data that nobody gave up.
func TestApproval(t *testing.T) {
	c := newConn(t)
	loadDump(t, c, "database-mode-live")
	_, err := Migrate(t.Context(), c, dumped, Initial, Options{})
	if !errors.Is(err, ErrSeveralKeys) {
		t.Errorf("error %v, want ErrSeveralKeys", err)
	}
	_, err = Migrate(t.Context(), c, dumped, ShortLinks, Options{})
	if !errors.Is(err, ErrLoss) || !strings.Contains(err.Error(), "400 messages, 2 services, ") {
		t.Errorf("error %v, want ErrLoss", err)
	}
	refusal := errors.New("no")
	p, err := Migrate(t.Context(), c, dumped, ShortLinks, Options{Approve: func(p Plan) error {
		if len(p.Steps) != 2 || !p.Steps[0].Down || p.Steps[0].Migration != StoreMessages || p.Steps[1].To != ShortLinks {
			t.Errorf("plan %+v", p)
		}
		return refusal
	}})
	if !errors.Is(err, refusal) || len(p.Losses) != 3 {
		t.Errorf("error %v, losses %v", err, p.Losses)
	}
	if v := mustInspect(t, c, dumped).Version; v != StoreMessages {
		t.Errorf("schema is at %s", v)
	}
	p, err = Migrate(t.Context(), c, dumped, Newest, Options{})
	if err != nil || len(p.Losses) > 0 {
		t.Errorf("up: error %v, losses %v", err, p.Losses)
	}
	p, err = Migrate(t.Context(), c, dumped, Newest, Options{Approve: func(Plan) error { return refusal }})
	if err != nil || len(p.Steps) > 0 {
		t.Errorf("nothing to do: error %v, plan %+v", err, p)
	}
}

// TestCreate makes schemas in transactions of which nothing is left but what
// they commit.
func TestCreate(t *testing.T) {
	dsn := pgtest.DSN(t)
	c := pgtest.Conn(t, dsn)
	for _, v := range All() {
		tx := begin(t, c)
		if err := Create(t.Context(), tx, "x", v); err != nil {
			t.Fatal(err)
		}
		var path, messages, timeout string
		if err := tx.QueryRow(t.Context(), "select current_setting('search_path'), current_setting('client_min_messages'), current_setting('lock_timeout')").
			Scan(&path, &messages, &timeout); err != nil {
			t.Fatal(err)
		}
		if path != `"$user", public` || messages != "notice" || timeout != "0" {
			t.Errorf("settings changed to %q, %q, %q", path, messages, timeout)
		}
		// The rows of an import are frozen at once, which PostgreSQL allows only
		// in the transaction that makes the table.
		if _, err := tx.Conn().PgConn().CopyFrom(t.Context(), strings.NewReader(""), "copy x.msg_queues from stdin (freeze)"); err != nil {
			t.Error(err)
		}
		state, err := Inspect(t.Context(), tx, "x")
		if err != nil || state.Err() != nil || state.Version != v {
			t.Errorf("made %s: %+v, %v", v, state, err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if state := mustInspect(t, c, "x"); state.Exists {
			t.Errorf("left behind: %+v", state)
		}
	}

	pgtest.Exec(t, c, "create schema x; create schema y; create table y.t (); create schema z")
	makeSchema(t, c, "x", StoreMessages)
	pgtest.Exec(t, c, `create table z.migrations (name text primary key, ts timestamp not null, down text)`)
	makeSchema(t, c, "z", StoreMessages)
	for _, schema := range []string{"x", "y", "z", "pg_catalog"} {
		err := Create(t.Context(), begin(t, c), schema, Newest)
		if !errors.Is(err, ErrExists) {
			t.Errorf("schema %s: error %v, want ErrExists", schema, err)
		}
		pgtest.Exec(t, c, "rollback")
	}
	for _, v := range []Version{None, "20250208_other"} {
		if err := Create(t.Context(), begin(t, c), "new", v); err == nil {
			t.Errorf("made a schema of version %q", v)
		}
		pgtest.Exec(t, c, "rollback")
	}

	// Two at a time: the second waits for the first, and then finds the schema.
	first := begin(t, c)
	if err := Create(t.Context(), first, "both", Newest); err != nil {
		t.Fatal(err)
	}
	c2 := pgtest.Conn(t, dsn)
	second := make(chan error)
	tx := begin(t, c2)
	go func() { second <- Create(context.WithoutCancel(t.Context()), tx, "both", Newest) }()
	waitForLock(t, pgtest.Conn(t, dsn), c2.PgConn().PID())
	if err := first.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-second; !errors.Is(err, ErrExists) {
		t.Errorf("second: error %v, want ErrExists", err)
	}
}

// waitForLock returns when a session waits for a lock.
func waitForLock(t *testing.T, c *pgx.Conn, pid uint32) {
	t.Helper()
	for !one[bool](t, c, "select exists (select from pg_locks where pid = $1 and not granted)", pid) {
		pgtest.Exec(t, c, "select pg_sleep(0.002)")
	}
}

// TestBusy gives up when a router uses the tables, and says who.
func TestBusy(t *testing.T) {
	dsn := pgtest.DSN(t)
	c, router := pgtest.Conn(t, dsn), pgtest.Conn(t, dsn)
	makeSchema(t, c, "x", StoreMessages)
	pgtest.Exec(t, router, "set application_name to 'a router'; begin; lock table x.msg_queues in row exclusive mode")
	_, err := Migrate(t.Context(), c, "x", Newest, Options{LockTimeout: 10 * time.Millisecond})
	busy, ok := errors.AsType[*BusyError](err)
	if !ok || len(busy.Users) != 1 || busy.Users[0].PID != int32(router.PgConn().PID()) || !strings.Contains(err.Error(), "in use by a router (pid ") {
		t.Fatalf("error %v, want a BusyError that names the router", err)
	}
	if state := mustInspect(t, c, "x"); state.Version != StoreMessages || len(state.Problems) > 0 {
		t.Errorf("after giving up: %+v", state)
	}
	pgtest.Exec(t, router, "commit")
	if _, err := Migrate(t.Context(), c, "x", Newest, Options{LockTimeout: 10 * time.Millisecond}); err != nil {
		t.Error(err)
	}
}

// TestKilled ends the session of a migration after each of its commands that
// changes a definition: the schema is then at a version on the way, with its data,
// and the next migration goes on from there.
func TestKilled(t *testing.T) {
	dsn := pgtest.DSN(t)
	c := pgtest.Conn(t, dsn)
	pgtest.Exec(t, c, `
		create sequence commands;
		create function die() returns event_trigger language plpgsql as $$
		begin
		  if current_setting('test.die_after', true) <> '' then
		    if nextval('public.commands') = current_setting('test.die_after')::int then
		      perform pg_terminate_backend(pg_backend_pid());
		    end if;
		  end if;
		end $$;
		create event trigger die on ddl_command_end execute function die()`)
	insert := func() {
		pgtest.Exec(t, c, `insert into x.msg_queues (recipient_id, recipient_key, rcv_dh_secret, sender_id, snd_secure, status)
			values ('a', 'k', '', 'a', true, 'active')`)
	}
	deaths := 0
	for _, to := range []Version{Initial, Newest, Initial, None} {
		before := mustInspect(t, c, "x").Version
		for n := 1; ; n++ {
			victim := pgtest.Conn(t, dsn)
			pgtest.Exec(t, victim, fmt.Sprintf("set test.die_after = %d", n))
			pgtest.Exec(t, c, "select setval('commands', 1, false)")
			_, err := Migrate(t.Context(), victim, "x", to, Options{Approve: func(Plan) error { return nil }})
			if victim.IsClosed() {
				pgtest.Exec(t, c, "select pg_terminate_backend($1, 10000)", victim.PgConn().PID()) // waits for its end
			}
			state := mustInspect(t, c, "x")
			if len(state.Problems) > 0 || state.Version < min(before, to) || state.Version > max(before, to) {
				t.Fatalf("from %q to %q, killed after %d commands: %+v", before, to, n, state)
			}
			if state.Version != None && before != None && one[int](t, c, "select count(*) from x.msg_queues where recipient_id = 'a'") != 1 {
				t.Fatalf("from %q to %q, killed after %d commands: the queue is gone", before, to, n)
			}
			if err == nil {
				if state.Version != to {
					t.Errorf("from %q to %q: arrived at %q", before, to, state.Version)
				}
				break
			}
			if code(err) != adminShutdown {
				t.Fatalf("from %q to %q, killed after %d commands: %v", before, to, n, err)
			}
			deaths++
			if state.Version != before {
				before, n = state.Version, 0
			}
		}
		if before == None {
			insert()
		}
	}
	if deaths < 50 {
		t.Errorf("died only %d times", deaths)
	}
}

// adminShutdown is the SQLSTATE with which a terminated session ends.
const adminShutdown = "57P01"

// TestCancelled stops a migration by its context.
func TestCancelled(t *testing.T) {
	dsn := pgtest.DSN(t)
	c, other := pgtest.Conn(t, dsn), pgtest.Conn(t, dsn)
	makeSchema(t, other, "x", Initial)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Migrate(ctx, c, "x", Newest, Options{Approve: func(Plan) error { cancel(); return nil }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	if state := mustInspect(t, other, "x"); state.Version != Initial || len(state.Problems) > 0 {
		t.Errorf("after cancelling: %+v", state)
	}
	mustMigrate(t, other, "x", Newest)
}

// TestConcurrentMigrations lets one migration at a time through, and notices
// other programs, which do not know the lock.
func TestConcurrentMigrations(t *testing.T) {
	dsn := pgtest.DSN(t)
	c, other := pgtest.Conn(t, dsn), pgtest.Conn(t, dsn)
	makeSchema(t, c, "x", Initial)

	_, err := Migrate(t.Context(), c, "x", UpdatedIndex, Options{Approve: func(Plan) error {
		_, err := Migrate(t.Context(), other, "x", Newest, Options{})
		locked, ok := errors.AsType[*LockedError](err)
		if !ok || locked.Holder.PID != int32(c.PgConn().PID()) || locked.Holder.Application != "smpq migrate" {
			t.Errorf("error %v, want a LockedError that names the first", err)
		}
		mustMigrate(t, other, "y", Newest)
		return nil
	}})
	if err != nil {
		t.Error(err)
	}

	_, err = Migrate(t.Context(), c, "x", Newest, Options{Approve: func(p Plan) error {
		pgtest.Exec(t, other, p.Steps[0].SQL())
		return nil
	}})
	if err == nil || !strings.Contains(err.Error(), "another program has migrated the schema meanwhile") {
		t.Errorf("error %v", err)
	}
	if state := mustInspect(t, c, "x"); state.Version != ShortLinks || len(state.Problems) > 0 {
		t.Errorf("afterwards: %+v", state)
	}

	pgtest.Exec(t, c, "begin")
	if _, err := Migrate(t.Context(), c, "x", Newest, Options{}); err == nil || !strings.Contains(err.Error(), "is in a transaction") {
		t.Errorf("in a transaction: error %v", err)
	}
	pgtest.Exec(t, c, "rollback")
}
