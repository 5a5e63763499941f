package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/pglocal"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

// A store survives a restart of the server: meanwhile its calls fail at once, and
// afterwards it works, and hears of what was changed while nobody listened.
func TestServerRestarts(t *testing.T) {
	dir := folder(t)
	start := func() *pglocal.Cluster {
		t.Helper()
		c, err := pglocal.Start(t.Context(), pglocal.Options{Dir: dir, Settings: map[string]string{"fsync": "off"}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	stop := func(c *pglocal.Cluster) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	server := start()
	t.Cleanup(func() { stop(server) })
	c := store.Config{DSN: server.DSN(""), Schema: schemaName, Application: "smpq test"}
	connect := func() *pgx.Conn {
		t.Helper()
		conn, err := store.Connect(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	conn := connect()
	if _, err := schema.Migrate(t.Context(), conn, c.Schema, schema.Newest, schema.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, store.Options{Config: c, CacheSize: 1 << 20})
	r, unheard := newRecord(), newRecord()
	q, err := s.AddQueue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddQueue(t.Context(), unheard); err != nil {
		t.Fatal(err)
	}

	stop(server)
	if _, err := s.QueueByRecipient(t.Context(), newRecord().RecipientID); store.CodeOf(err) != store.CodeStore {
		t.Errorf("a read while the server is away: %v", err)
	}
	began := time.Now()
	const calls = 100
	for range calls {
		if err := s.SuspendQueue(t.Context(), q); store.CodeOf(err) != store.CodeStore {
			t.Errorf("a write while the server is away: %v", err)
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("%d calls took %s while the server is away", calls, took)
	}

	server = start()
	conn = connect()
	if _, err := conn.Exec(t.Context(), "update msg_queues set status = 'blocked,reason=spam' where recipient_id = $1", unheard.RecipientID); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it works again", func() bool { return s.SuspendQueue(t.Context(), q) == nil })
	eventually(t, "it sees what it did not hear", func() bool { return blocked(t, s, unheard.RecipientID) })
	admin := openStore(t, store.Options{Config: c, Admin: "tester"})
	block(t, admin, q.ID())
	eventually(t, "it hears again", func() bool { return blocked(t, s, q.ID()) })
}
