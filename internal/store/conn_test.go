package store

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/schema"
)

func TestConnect(t *testing.T) {
	dsn := pgtest.DSN(t)
	admin := pgtest.Conn(t, dsn)
	// Limits that an operator has set for the router's statements.
	pgtest.Exec(t, admin, "do $$ begin execute format('alter database %I set statement_timeout = ''1ms''', current_database()); end $$")
	conn, err := Connect(t.Context(), Config{DSN: dsn, Schema: `Weird "Name"`, Application: "smpq test"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	var path, timeout, application string
	err = conn.QueryRow(t.Context(), "select current_setting('search_path'), current_setting('statement_timeout'), current_setting('application_name')").
		Scan(&path, &timeout, &application)
	if err != nil || path != `"Weird ""Name"""` || timeout != "0" || application != "smpq test" {
		t.Errorf("search_path %s, statement_timeout %s, application_name %s: %v", path, timeout, application, err)
	}
}

// A connection string with a mistake in it does not get into an error.
func TestConnectHidesPassword(t *testing.T) {
	for _, dsn := range []string{"postgres://u:hunter2@h:port/d", "host=h password=hunter2 port=x", "host=/nonexistent password=hunter2"} {
		_, err := Connect(t.Context(), Config{DSN: dsn, Schema: "s"})
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v", err)
		}
	}
}

// It is said what the mistake is, whether or not there is another error below.
func TestConnectSaysWhatIsWrong(t *testing.T) {
	for _, c := range []struct{ dsn, want string }{
		{"host=h password=hunter2 port=x", "connection string: invalid port"},
		{"host=h password=hunter2 target_session_attrs=x", "connection string: unknown target_session_attrs value: x"},
		{"host=h password=hunter2 sslmode=x", "connection string: sslmode is invalid"},
	} {
		_, err := Connect(t.Context(), Config{DSN: c.dsn, Schema: "s"})
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.dsn, err, c.want)
		}
	}
}

func TestOpenSchema(t *testing.T) {
	conn := pgtest.Conn(t, pgtest.DSN(t))
	if _, err := OpenSchema(t.Context(), conn, "absent"); !errors.Is(err, schema.ErrMissing) {
		t.Errorf("absent: %v", err)
	}
	create := func(v schema.Version) error {
		pgtest.Exec(t, conn, "drop schema if exists s cascade")
		return pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error { return schema.Create(t.Context(), tx, "s", v) })
	}
	for _, v := range schema.All() {
		if err := create(v); err != nil {
			t.Fatal(err)
		}
		s, err := OpenSchema(t.Context(), conn, "s")
		if len(v.Releases()) == 0 {
			if !errors.Is(err, schema.ErrTooOld) || !strings.Contains(err.Error(), "smpq migrate up") {
				t.Errorf("%s: %v", v, err)
			}
			continue
		}
		if err != nil || s.Version != v || s.HasMessages() != (v != schema.ServiceCerts) || s.HasAggregates() != (v == schema.QueueIDsHash) {
			t.Errorf("%s: %+v, %v", v, s, err)
		}
	}
}
