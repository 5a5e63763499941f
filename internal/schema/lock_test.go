package schema

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/pgtest"
)

func TestLock(t *testing.T) {
	dsn := pgtest.DSN(t)
	c, other := pgtest.Conn(t, dsn), pgtest.Conn(t, dsn)
	pgtest.Exec(t, c, "set application_name to 'mine'")
	lock := func(c *pgx.Conn, schema, purpose string) func() {
		t.Helper()
		unlock, err := Lock(t.Context(), c, schema, purpose)
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			t.Helper()
			if err := unlock(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	mustBeLocked := func(schema, by string) {
		t.Helper()
		_, err := Lock(t.Context(), other, schema, "compact")
		locked, ok := errors.AsType[*LockedError](err)
		if !ok || locked.Schema != schema || locked.Holder.PID != int32(c.PgConn().PID()) || locked.Holder.Application != by ||
			locked.Holder.User != one[string](t, c, "select current_user") || time.Since(locked.Holder.Since) > time.Hour ||
			!strings.HasPrefix(err.Error(), `schema "x" is locked by `+by+` (pid `) {
			t.Errorf("error %v, want that the lock is held by %s", err, by)
		}
	}

	unlock := lock(c, "x", "import")
	mustBeLocked("x", "smpq import")
	lock(other, "y", "import")() // another schema

	again := lock(c, "x", "migrate") // the same session
	mustBeLocked("x", "smpq migrate")
	again()
	mustBeLocked("x", "smpq import")
	unlock()
	if name := one[string](t, c, "select current_setting('application_name')"); name != "mine" {
		t.Errorf("the session is now called %q", name)
	}
	if check := one[string](t, c, "select current_setting('client_connection_check_interval')"); check != "0" {
		t.Errorf("the session is now checked every %s", check)
	}
	lock(other, "x", "compact")()

	// The lock ends with the session.
	lock(c, "x", "import")
	pgtest.Exec(t, other, "select pg_terminate_backend($1, 10000)", c.PgConn().PID())
	lock(other, "x", "compact")()

	lock(other, "x", "import")()
	if _, err := lockHolder(t.Context(), other, lockKey("x")); !errors.Is(err, pgx.ErrNoRows) {
		t.Errorf("still held: %v", err)
	}
	if err := unlockSession(t.Context(), other, "x", session{}); err == nil || !strings.Contains(err.Error(), "did not hold the lock") {
		t.Errorf("unlocked twice: error %v", err)
	}
	if _, err := Lock(t.Context(), other, "", "import"); err == nil {
		t.Error("locked a schema without a name")
	}
}

// TestLockOfTheDead takes over the lock of a program that died while the server
// was at work for it.
func TestLockOfTheDead(t *testing.T) {
	dsn := pgtest.DSN(t)
	c, other := pgtest.Conn(t, dsn), pgtest.Conn(t, dsn)
	if _, err := Lock(t.Context(), c, "x", "import"); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		_, err := c.Exec(context.WithoutCancel(t.Context()), "select pg_sleep(3600)")
		failed <- err
	}()
	pid := c.PgConn().PID()
	for !one[bool](t, other, "select exists (select from pg_stat_activity where pid = $1 and query = 'select pg_sleep(3600)')", pid) {
		pgtest.Exec(t, other, "select pg_sleep(0.002)")
	}
	if err := c.PgConn().Conn().Close(); err != nil { // as the kernel does for the dead
		t.Fatal(err)
	}
	if err := <-failed; err == nil {
		t.Error("the statement succeeded")
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		unlock, err := Lock(t.Context(), other, "x", "compact")
		if err == nil {
			if err := unlock(t.Context()); err != nil {
				t.Fatal(err)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still locked: %v", err)
		}
		pgtest.Exec(t, other, "select pg_sleep(0.05)")
	}
}

// TestLockedByAnother names as much of another user's session as there is to see.
func TestLockedByAnother(t *testing.T) {
	dsn := pgtest.DSN(t)
	c, other := pgtest.Conn(t, dsn), pgtest.Conn(t, dsn)
	if _, err := Lock(t.Context(), c, "x", "import"); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, other, "begin; create role smpq_stranger; set local role smpq_stranger")
	_, err := Lock(t.Context(), other, "x", "compact")
	locked, ok := errors.AsType[*LockedError](err)
	if !ok || locked.Holder.PID != int32(c.PgConn().PID()) || locked.Holder.Client != "" || !locked.Holder.Since.IsZero() {
		t.Errorf("error %v, want what a stranger may see", err)
	}
}

func TestSessionString(t *testing.T) {
	since := time.Date(2026, 11, 22, 1, 2, 3, 0, time.FixedZone("", 3600))
	for want, s := range map[string]Session{
		"smpq import (pid 4711, user smp, 10.0.0.7, since 2026-11-22T00:02:03Z)": {4711, "smpq import", "smp", "10.0.0.7", since},
		"another session (pid 4711)": {PID: 4711},
	} {
		if got := s.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	e := BusyError{Schema: "x"}
	if want := `tables of schema "x" are in use by other sessions: nothing was changed; `; !strings.HasPrefix(e.Error(), want) {
		t.Errorf("%q, want %q", e.Error(), want)
	}
}
