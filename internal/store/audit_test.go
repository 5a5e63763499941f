package store_test

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

// Each change that an administrator makes is in the log, with the status that the
// queue has then, and nothing else is.
func TestAudit(t *testing.T) {
	f := newFixture(t, 0)
	if lines, err := store.Audit(t.Context(), f.conn, f.schema(), 10); len(lines) != 0 || err != nil {
		t.Errorf("before there is a log: %+v, %v", lines, err)
	}
	if n, err := store.AuditedSince(t.Context(), f.conn, f.schema(), "block", time.Time{}); n != 0 || err != nil {
		t.Errorf("before there is a log: %d, %v", n, err)
	}
	start := time.Now().Add(-time.Minute)
	admin := openStore(t, store.Options{Config: f.config, Admin: "tester"})
	first, second := f.add(t, newRecord()), f.add(t, newRecord())
	block(t, admin, first.ID())
	block(t, admin, first.ID()) // changes nothing
	block(t, admin, second.ID())

	// A queue that has been deleted meanwhile is not changed.
	third := f.add(t, newRecord())
	stale := must(admin.QueueByRecipient(t.Context(), third.ID()))
	f.exec(t, "update msg_queues set deleted_at = 1 where recipient_id = $1", third.ID())
	if err := admin.SuspendQueue(t.Context(), stale); err == nil {
		t.Error("a deleted queue was suspended")
	}
	if err := admin.UnblockQueue(t.Context(), must(admin.QueueByRecipient(t.Context(), first.ID()))); err != nil {
		t.Fatal(err)
	}

	// What a router of another schema does is not in the log of this one.
	f.exec(t, "insert into smpq.audit (who, schema_name, operation, recipient_id, details) values ('other', 'other', 'block', '\\x01', '')")

	want := []store.AuditLine{
		{Who: "tester", Operation: "unblock", RecipientID: first.ID(), Details: "active"},
		{Who: "tester", Operation: "block", RecipientID: second.ID(), Details: "blocked,reason=spam"},
		{Who: "tester", Operation: "block", RecipientID: first.ID(), Details: "blocked,reason=spam"},
	}
	for limit := range 4 {
		lines, err := store.Audit(t.Context(), f.conn, f.schema(), limit)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want[:limit], lines, cmpopts.IgnoreFields(store.AuditLine{}, "ID", "At"), cmp.Comparer(sameID), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("limit %d: %s", limit, diff)
		}
		for _, line := range lines {
			if line.At.Before(start) || line.At.After(time.Now().Add(time.Minute)) {
				t.Errorf("a line of %s", line.At)
			}
		}
	}
	for _, c := range []struct {
		op    string
		since time.Time
		want  int64
	}{{"block", start, 2}, {"unblock", start, 1}, {"delete", start, 0}, {"block", time.Now().Add(time.Hour), 0}} {
		if n, err := store.AuditedSince(t.Context(), f.conn, f.schema(), c.op, c.since); n != c.want || err != nil {
			t.Errorf("%s since %s: %d, %v; want %d", c.op, c.since, n, err, c.want)
		}
	}
}

// What the router does for an operator is in the log as well, which is made when it is
// needed, but is not announced. Blocking a queue that takes no messages anyway is told
// apart.
func TestAuditByAdmin(t *testing.T) {
	f := newFixture(t, 0)
	told := make(chan queue.RecipientID, 10)
	f.OnChange(func(id queue.RecipientID) { told <- id })
	q := f.add(t, newRecord())
	if n, err := f.AuditedSince(t.Context(), "block", time.Time{}); n != 0 || err != nil {
		t.Errorf("before there is a log: %d, %v", n, err)
	}
	ctx := store.ByAdmin(t.Context(), "operator")
	for _, step := range []func() error{
		func() error { return f.BlockQueue(ctx, q, queue.Blocking{Reason: "spam"}) },
		func() error { return f.BlockQueue(ctx, q, queue.Blocking{Reason: "spam"}) },
		func() error { return f.BlockQueue(ctx, q, queue.Blocking{Reason: "content"}) },
		func() error { return f.UnblockQueue(ctx, q) },
		func() error { return f.SuspendQueue(t.Context(), q) }, // not by an administrator
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	lines, err := store.Audit(t.Context(), f.conn, f.schema(), 10)
	want := []store.AuditLine{
		{Who: "operator", Operation: "unblock", RecipientID: q.ID(), Details: "active"},
		{Who: "operator", Operation: "block inactive", RecipientID: q.ID(), Details: "blocked,reason=content"},
		{Who: "operator", Operation: "block", RecipientID: q.ID(), Details: "blocked,reason=spam"},
	}
	if diff := cmp.Diff(want, lines, cmpopts.IgnoreFields(store.AuditLine{}, "ID", "At"), cmp.Comparer(sameID)); diff != "" || err != nil {
		t.Errorf("%v, %s", err, diff)
	}
	for since, want := range map[time.Time]int64{{}: 1, time.Now().Add(time.Hour): 0} {
		if n, err := f.AuditedSince(t.Context(), "block", since); n != want || err != nil {
			t.Errorf("since %s: %d, %v", since, n, err)
		}
	}
	// The first that is told of is what another process does, after all this.
	other := openStore(t, store.Options{Config: f.config, Admin: "tester"})
	third := f.add(t, newRecord())
	block(t, other, third.ID())
	if id := <-told; id != third.ID() {
		t.Errorf("it was told of %s", id)
	}
	found, err := f.QueueByRecipient(t.Context(), third.ID())
	if err != nil {
		t.Fatal(err)
	}
	if v, err := found.View(); err != nil || v.Status.State != queue.Blocked {
		t.Errorf("when it is told of, the queue is %v, %v", v.Status, err)
	}
	f.OnChange(nil)
	block(t, other, f.add(t, newRecord()).ID())
}

// schema returns the schema of the fixture.
func (f fixture) schema() store.Schema {
	return store.Schema{Name: f.config.Schema, Version: schema.Newest}
}

func sameID(a, b queue.RecipientID) bool { return a == b }

// However many open a store at once, each finds or makes the log.
func TestAuditIsMadeOnce(t *testing.T) {
	c := newDatabase(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			s, err := store.Open(t.Context(), store.Options{Config: c, Admin: "tester", Connections: 1})
			if err != nil {
				t.Error(err)
				return
			}
			s.Close()
		})
	}
	wg.Wait()
}

// Who may not make the log is told what is missing; where it is there already, the
// right is not needed.
func TestAuditWithoutRights(t *testing.T) {
	c := newDatabase(t)
	conn := pgtest.Conn(t, c.DSN)
	role := "smpq_test_" + strings.ToLower(rand.Text())
	pgtest.Exec(t, conn, "create role "+role)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for _, sql := range []string{"drop owned by " + role, "drop role " + role} {
			if _, err := conn.Exec(ctx, sql); err != nil {
				t.Error(err)
			}
		}
	})
	pgtest.Exec(t, conn, "grant usage on schema "+schema.Quote(c.Schema)+" to "+role+"; grant all on all tables in schema "+schema.Quote(c.Schema)+" to "+role)
	limited := c
	limited.DSN = newProxy(t, c.DSN).dsn() + " role=" + role

	_, err := store.Open(t.Context(), store.Options{Config: limited, Admin: "tester"})
	if err == nil || !strings.Contains(err.Error(), "create smpq.audit") || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("without the right: %v", err)
	}
	openStore(t, store.Options{Config: c, Admin: "tester"})
	pgtest.Exec(t, conn, "grant usage on schema smpq to "+role+"; grant insert on smpq.audit to "+role)
	admin := openStore(t, store.Options{Config: limited, Admin: "tester"})
	r := newRecord()
	if _, err := admin.AddQueue(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	block(t, admin, r.RecipientID)
}
