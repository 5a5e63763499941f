package store_test

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

// newDatabase returns a database with an empty schema of the newest version.
func newDatabase(t testing.TB) store.Config {
	t.Helper()
	c := store.Config{DSN: pgtest.DSN(t), Schema: schemaName, Application: "smpq test"}
	conn := pgtest.Conn(t, c.DSN)
	if _, err := schema.Migrate(t.Context(), conn, c.Schema, schema.Newest, schema.Options{}); err != nil {
		t.Fatal(err)
	}
	return c
}

// openStore opens a store until the end of the test.
func openStore(t testing.TB, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// A fixture is a store with what a test needs to look behind it.
type fixture struct {
	*store.Store
	config store.Config
	conn   *pgx.Conn
}

// eachCache runs a test with the cache off, tiny and large.
func eachCache(t *testing.T, test func(t *testing.T, f fixture)) {
	t.Helper()
	for _, c := range []struct {
		name  string
		bytes int64
	}{{"cache off", 0}, {"cache tiny", 1}, {"cache", 64 << 20}} {
		t.Run(c.name, func(t *testing.T) { test(t, newFixture(t, c.bytes)) })
	}
}

func newFixture(t testing.TB, cacheSize int64) fixture {
	t.Helper()
	c := newDatabase(t)
	return fixture{openStore(t, store.Options{Config: c, CacheSize: cacheSize}), c, pgtest.Conn(t, c.DSN)}
}

// exec changes the database behind the store's back.
func (f fixture) exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	pgtest.Exec(t, f.conn, "set search_path to "+schema.Quote(schemaName))
	pgtest.Exec(t, f.conn, sql, args...)
}

// number returns the result of a query for a number.
func (f fixture) number(t testing.TB, sql string, args ...any) int64 {
	t.Helper()
	pgtest.Exec(t, f.conn, "set search_path to "+schema.Quote(schemaName))
	var n int64
	if err := f.conn.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func randomID() smp.EntityID { return smp.NewEntityID(randomBytes(smp.IDSize)) }

func randomKey() smp.PublicKey {
	const ed25519 = "\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"
	k, err := smp.ParsePublicKey(ed25519 + string(randomBytes(32)))
	if err != nil {
		panic(err) // never
	}
	return k
}

func randomSecret() smp.DHSecret {
	s, err := smp.ParseDHSecret(randomBytes(smp.DHSecretSize))
	if err != nil {
		panic(err) // never
	}
	return s
}

func randomNotifier() queue.Notifier {
	return queue.Notifier{ID: queue.NotifierID{EntityID: randomID()}, Key: randomKey(), DHSecret: randomSecret()}
}

func randomLink() queue.Link {
	return queue.Link{ID: queue.LinkID{EntityID: randomID()}, Data: queue.LinkData{Fixed: randomBytes(20), User: randomBytes(30)}}
}

// newRecord returns a queue as a client creates it, with random ids and keys.
func newRecord() *queue.Record {
	return &queue.Record{
		RecipientID:   queue.RecipientID{EntityID: randomID()},
		RecipientKeys: []smp.PublicKey{randomKey()},
		RcvDHSecret:   randomSecret(),
		SenderID:      queue.SenderID{EntityID: randomID()},
		Mode:          queue.ModeMessaging,
		UpdatedAt:     queue.DateOf(store.Today()),
	}
}

// fullRecord returns a queue that has all that a queue can have.
func fullRecord() *queue.Record {
	r := newRecord()
	r.RecipientKeys = append(r.RecipientKeys, randomKey())
	r.SenderKey = randomKey()
	n, l := randomNotifier(), randomLink()
	r.Notifier, r.Link = &n, &l
	r.Status = queue.Status{State: queue.Blocked, Blocking: queue.Blocking{Reason: "spam", HasNotice: true, Notice: queue.Notice{TTL: 86400, HasTTL: true}}}
	return r
}

// add adds a queue.
func (f fixture) add(t testing.TB, r *queue.Record) *store.Queue {
	t.Helper()
	q, err := f.AddQueue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// view returns the record of a queue.
func view(t testing.TB, q *store.Queue) store.View {
	t.Helper()
	v, err := q.View()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// wantView checks that a queue has a record.
func wantView(t testing.TB, q *store.Queue, want *queue.Record) {
	t.Helper()
	v := view(t, q)
	w := store.View{
		RecipientID: want.RecipientID, RecipientKeys: store.NewKeys(want.RecipientKeys...), RcvDHSecret: want.RcvDHSecret,
		SenderID: want.SenderID, SenderKey: want.SenderKey, Mode: want.Mode, Status: want.Status, UpdatedAt: want.UpdatedAt,
		RcvService: want.RcvService,
	}
	if want.Notifier != nil {
		w.Notifier = *want.Notifier
	}
	if want.Link != nil {
		w.LinkID = want.Link.ID
	}
	if v != w {
		t.Errorf("queue %s: view\n%+v, want\n%+v", want.RecipientID, v, w)
	}
}

// wantError checks the code and the reason of an error.
func wantError(t testing.TB, err error, code store.Code, reason error) {
	t.Helper()
	if _, ok := errors.AsType[*store.Error](err); !ok || store.CodeOf(err) != code || !errors.Is(err, reason) {
		t.Errorf("error %v (%T, code %s), want %s: %v", err, err, store.CodeOf(err), code, reason)
	}
}

// lookups are the ways to find a queue, by the name of the id.
func (f fixture) lookups(r *queue.Record) map[store.By]func(context.Context) (*store.Queue, error) {
	m := map[store.By]func(context.Context) (*store.Queue, error){
		store.ByRecipient: func(ctx context.Context) (*store.Queue, error) { return f.QueueByRecipient(ctx, r.RecipientID) },
		store.BySender:    func(ctx context.Context) (*store.Queue, error) { return f.QueueBySender(ctx, r.SenderID) },
	}
	if r.Notifier != nil {
		m[store.ByNotifier] = func(ctx context.Context) (*store.Queue, error) { return f.QueueByNotifier(ctx, r.Notifier.ID) }
	}
	if r.Link != nil {
		m[store.ByLink] = func(ctx context.Context) (*store.Queue, error) { return f.QueueByLink(ctx, r.Link.ID) }
	}
	return m
}

// wantFound checks that a queue is found by all its ids, as one object.
func (f fixture) wantFound(t testing.TB, r *queue.Record) *store.Queue {
	t.Helper()
	var one *store.Queue
	for by, find := range f.lookups(r) {
		q, err := find(t.Context())
		switch {
		case err != nil:
			t.Fatalf("by %s: %v", by, err)
		case one != nil && one != q:
			t.Errorf("by %s: another object for the same queue", by)
		}
		one = q
	}
	return one
}

// wantAbsent checks that a queue is found by none of its ids.
func (f fixture) wantAbsent(t testing.TB, r *queue.Record) {
	t.Helper()
	for by, find := range f.lookups(r) {
		if _, err := find(t.Context()); store.CodeOf(err) != store.CodeAuth || !errors.Is(err, store.ErrNotFound) {
			t.Errorf("by %s: %v, want %v", by, err, store.ErrNotFound)
		}
	}
}

// waitForLocks waits until so many sessions of the database wait for a lock.
func (f fixture) waitForLocks(t testing.TB, sessions int64) {
	t.Helper()
	ticks := time.NewTicker(5 * time.Millisecond)
	defer ticks.Stop()
	for f.number(t, "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'") < sessions {
		select {
		case <-ticks.C:
		case <-t.Context().Done():
			t.Fatal("nobody waits for a lock")
		}
	}
}
