package schema

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/pgtest"
)

// TestDetach takes everything from the tables, loads rows that the triggers and
// foreign keys would stop, and puts back what pg_dump cannot tell from what was
// there.
func TestDetach(t *testing.T) {
	const weird = `Weird "Name"`
	for _, schema := range []string{"x", weird} {
		for _, v := range []Version{Initial, ServiceCerts, StoreMessages, Newest} {
			t.Run(schema+" "+string(v), func(t *testing.T) {
				dsn := pgtest.DSN(t)
				c := pgtest.Conn(t, dsn)
				makeSchema(t, c, schema, v)
				before, structure := withoutBodies(pgDump(t, dsn, schema)), mustDescribe(t, c, schema)

				names := tables
				switch {
				case v < ServiceCerts:
					names = []string{"msg_queues"}
				case v < StoreMessages:
					names = []string{"services", "msg_queues"}
				}
				pgtest.Exec(t, c, "select set_config('search_path', $1, false)", Quote(schema))
				tx := begin(t, c)
				d, err := Detach(t.Context(), tx, schema, names...)
				if err != nil {
					t.Fatal(err)
				}
				found, err := describe(t.Context(), tx, schema)
				if err != nil {
					t.Fatal(err)
				}
				for object, definition := range found {
					kind, _, _ := strings.Cut(object, " ")
					if strings.Contains(object, "migrations") || (kind != "index" && kind != "constraint" && kind != "trigger") {
						continue
					}
					if !strings.HasSuffix(definition, " disabled") {
						t.Errorf("still there: %s: %s", object, definition)
					}
				}
				var done []string
				if err := d.Restore(t.Context(), tx, func(what string) { done = append(done, what) }); err != nil {
					t.Fatal(err)
				}
				if path := one[string](t, c, "select current_setting('search_path')"); path != Quote(schema) {
					t.Errorf("search_path changed to %s", path)
				}
				if err := tx.Commit(t.Context()); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(before, withoutBodies(pgDump(t, dsn, schema))); diff != "" {
					t.Errorf("dump (-before +after):\n%s", diff)
				}
				if diff := cmp.Diff(structure, mustDescribe(t, c, schema)); diff != "" {
					t.Errorf("structure (-before +after):\n%s", diff)
				}
				if i, j := slices.Index(done, "index msg_queues_pkey"), slices.Index(done, "primary key msg_queues_pkey"); i < 0 || j < i {
					t.Errorf("made %q", done)
				}
			})
		}
	}
}

// TestDetachedLoad loads real data in an order that the keys would refuse, and
// bad data, which they must refuse when they come back.
func TestDetachedLoad(t *testing.T) {
	source := newConn(t)
	loadDump(t, source, "database-mode-live")
	c := newConn(t)
	tx := begin(t, c)
	if err := Create(t.Context(), tx, dumped, Newest); err != nil {
		t.Fatal(err)
	}
	d, err := Detach(t.Context(), tx, dumped, tables...)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range slices.Backward(tables) {
		records := readFile(t, served, "database-mode-live", table+".csv")
		header, _, _ := strings.Cut(records, "\n")
		if _, err := tx.Conn().PgConn().CopyFrom(t.Context(), strings.NewReader(records),
			"copy "+dumped+"."+table+" ("+header+") from stdin (format csv, header, freeze)"); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Restore(t.Context(), tx, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "set local search_path to smp_server; select update_all_aggregates()"); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		if diff := cmp.Diff(rows(t, source, dumped, table), rows(t, c, dumped, table, gone[StoreMessages]...)); diff != "" {
			t.Errorf("%s (-smp-server +loaded):\n%s", table, diff)
		}
	}
	checkAggregates(t, c, dumped)
	if _, err := Adopt(t.Context(), c, dumped); err != nil {
		t.Error(err)
	}

	for what, insert := range map[string]string{
		"index idx_msg_queues_sender_id":             "update msg_queues set sender_id = ''",
		"index msg_queues_pkey":                      "update msg_queues set recipient_id = ''",
		"foreign key messages_recipient_id_fkey":     "delete from msg_queues",
		"foreign key msg_queues_rcv_service_id_fkey": "update msg_queues set rcv_service_id = ''",
	} {
		tx := begin(t, c)
		d, err := Detach(t.Context(), tx, dumped, tables...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), "set local search_path to smp_server; "+insert); err != nil {
			t.Fatal(err)
		}
		if err := d.Restore(t.Context(), tx, nil); err == nil || !strings.Contains(err.Error(), "make "+what+": ") {
			t.Errorf("%s: error %v, want one of %s", insert, err, what)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := mustInspect(t, c, dumped).Problems; len(err) > 0 {
		t.Errorf("after rollbacks: %+v", err)
	}
}

// TestDetachOthersObjects keeps what an operator has added and set, too.
func TestDetachOthersObjects(t *testing.T) {
	dsn := pgtest.DSN(t)
	c := pgtest.Conn(t, dsn)
	makeSchema(t, c, "x", Newest)
	pgtest.Exec(t, c, `set search_path to x;
		create index "My Index" on msg_queues (rcv_dh_secret desc nulls last) include (status) with (fillfactor = 70) where deleted_at is null;
		alter table messages add constraint u unique (message_id, msg_id) deferrable initially deferred;
		alter table messages add constraint positive check (message_id > 0);
		alter table msg_queues cluster on msg_queues_pkey;
		alter table msg_queues replica identity using index idx_msg_queues_sender_id;
		alter table msg_queues disable trigger tr_queue_insert;
		alter table msg_queues enable always trigger tr_queue_update;
		create table public.notes (queue bytea references msg_queues (recipient_id) on delete cascade);
		reset search_path`)
	// A tablespace belongs to the whole server: the database's name makes it unique.
	space := one[string](t, c, "select current_database() || '_space'")
	pgtest.Exec(t, c, "set allow_in_place_tablespaces to on")
	pgtest.Exec(t, c, "create tablespace "+space+" location ''")
	defer pgtest.Exec(t, c, "drop tablespace "+space)
	pgtest.Exec(t, c, "alter index x.idx_msg_queues_link_id set tablespace "+space)
	defer pgtest.Exec(t, c, "alter index x.idx_msg_queues_link_id set tablespace pg_default")

	before, notes := withoutBodies(pgDump(t, dsn, "x")), withoutBodies(pgDump(t, dsn, "public"))
	err := pgx.BeginFunc(t.Context(), c, func(tx pgx.Tx) error {
		d, err := Detach(t.Context(), tx, "x", tables...)
		if err != nil {
			return err
		}
		return d.Restore(t.Context(), tx, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, withoutBodies(pgDump(t, dsn, "x"))); diff != "" {
		t.Errorf("dump (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(notes, withoutBodies(pgDump(t, dsn, "public"))); diff != "" {
		t.Errorf("dump of another schema (-before +after):\n%s", diff)
	}
	tx := begin(t, c)
	if _, err := Detach(t.Context(), tx, "x", "msg_queues", "missing"); !errors.Is(err, ErrMissing) {
		t.Errorf("a table that is not there: error %v", err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}
