package store_test

import (
	"testing"
	"time"

	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/store"
)

// A store survives a restart of the server: meanwhile its calls fail at once, and
// afterwards it works, and hears of what was changed while nobody listened.
func TestServerRestarts(t *testing.T) {
	server := pgtest.NewVictim(t, pgtest.Folder(t), nil)
	c := victimDatabase(t, server)
	s := openStore(t, store.Options{Config: c, CacheSize: 1 << 20})
	r, unheard := newRecord(), newRecord()
	q, err := s.AddQueue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddQueue(t.Context(), unheard); err != nil {
		t.Fatal(err)
	}

	server.Stop(t)
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

	server.Start(t)
	conn := fixture{config: c}.connect(t)
	pgtest.Exec(t, conn, "update msg_queues set status = 'blocked,reason=spam' where recipient_id = $1", unheard.RecipientID)
	eventually(t, "it works again", func() bool { return s.SuspendQueue(t.Context(), q) == nil })
	eventually(t, "it sees what it did not hear", func() bool { return blocked(t, s, unheard.RecipientID) })
	admin := openStore(t, store.Options{Config: c, Admin: "tester"})
	block(t, admin, q.ID())
	eventually(t, "it hears again", func() bool { return blocked(t, s, q.ID()) })
}
