package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/store"
)

// Messages older than this expire in the tests.
const expireBefore = 1_700_000_000

// fill writes messages to a queue: o for an old one, y for a young one, m for an
// old quota marker.
func (f fixture) fill(t testing.TB, id queue.RecipientID, contents string) {
	t.Helper()
	for i, c := range contents {
		m := newMessage(i, string(c))
		m.Time = expireBefore - 1
		switch c {
		case 'y':
			m.Time = expireBefore
		case 'm':
			m.QuotaMarker = true
		}
		if _, err := f.WriteMessage(t.Context(), id, m); err != nil && (!m.QuotaMarker || !errors.Is(err, store.ErrQuota)) {
			t.Fatal(err)
		}
	}
}

// contents is the inverse of fill.
func contents(t testing.TB, conn *pgx.Conn, id queue.RecipientID) string {
	t.Helper()
	var b strings.Builder
	for _, m := range messages(t, conn, id) {
		if m.QuotaMarker {
			b.WriteByte('m')
		}
		b.Write(m.Body)
	}
	return b.String()
}

// What expires, one queue at a time, all at once, and by the stored functions.
func TestExpire(t *testing.T) {
	f := newFixture(t, 0)
	theirs := storedFunctions{f.connect(t), store.DefaultQuota}
	cases := []struct {
		before, after string
		state         store.MessageState
	}{
		{"", "", store.MessageState{CanWrite: true}},
		{"y", "y", store.MessageState{CanWrite: true, Expire: true, Size: 1}},
		{"o", "", store.MessageState{CanWrite: true}},
		{"ooo", "", store.MessageState{CanWrite: true}},
		{"oyy", "yy", store.MessageState{CanWrite: true, Expire: true, Size: 2}},
		{"yo", "yo", store.MessageState{CanWrite: true, Expire: true, Size: 2}},
		{"ooyo", "yo", store.MessageState{CanWrite: true, Expire: true, Size: 2}},
		{"m", "m", store.MessageState{Expire: true, Size: 1}},
		{"om", "m", store.MessageState{Size: 1}},
		{"oyom", "yom", store.MessageState{Expire: true, Size: 3}},
	}
	ids := f.addQueues(t, 3*len(cases))
	one, all, functions := ids[:len(cases)], ids[len(cases):2*len(cases)], ids[2*len(cases):]
	wantQueues, wantMessages := int64(0), int64(0)
	for i, c := range cases {
		for _, id := range []queue.RecipientID{one[i], all[i], functions[i]} {
			f.fill(t, id, c.before)
		}
		want := int64(len(c.before) - len(c.after))
		n, err := f.ExpireQueue(t.Context(), one[i], expireBefore)
		n2, err2 := theirs.expire(t.Context(), functions[i], expireBefore)
		if n != want || n2 != want || errors.Join(err, err2) != nil {
			t.Errorf("%s: %d expired, %d by the function, want %d: %v, %v", c.before, n, n2, want, err, err2)
		}
		wantMessages += want
		if want > 0 {
			wantQueues++
		}
	}
	done, err := f.ExpireMessages(t.Context(), store.ExpireOptions{Before: expireBefore, Batch: 2})
	if done.Messages != wantMessages || done.Queues != wantQueues || err != nil {
		t.Errorf("%+v, %v, want %d messages of %d queues", done, err, wantMessages, wantQueues)
	}
	for i, c := range cases {
		for name, id := range map[string]queue.RecipientID{"one": one[i], "all": all[i], "function": functions[i]} {
			if got, s := contents(t, f.conn, id), state(t, f.conn, id); got != c.after || s != c.state {
				t.Errorf("%s, %s: %q, %+v, want %q, %+v", c.before, name, got, s, c.after, c.state)
			}
		}
	}
	if again, err := f.ExpireMessages(t.Context(), store.ExpireOptions{Before: expireBefore}); again.Messages != 0 || err != nil {
		t.Errorf("again: %+v, %v", again, err)
	}
}

// Queues of which it is not known when they were used last are no exception;
// deleted ones are.
func TestExpireUndatedQueues(t *testing.T) {
	f := newFixture(t, 0)
	ids := f.addQueues(t, 3)
	for _, id := range ids {
		f.fill(t, id, "oo")
	}
	f.exec(t, "update msg_queues set updated_at = null where recipient_id = $1", ids[0])
	f.exec(t, "update msg_queues set updated_at = 0 where recipient_id = $1", ids[1])
	f.exec(t, "update msg_queues set deleted_at = 0 where recipient_id = $1", ids[2])
	done, err := f.ExpireMessages(t.Context(), store.ExpireOptions{Before: expireBefore})
	want := store.Expired{Messages: 4, Queues: 2, Last: ids[1]}
	if done != want || err != nil {
		t.Errorf("%+v, %v, want %+v", done, err, want)
	}
	if got := contents(t, f.conn, ids[2]); got != "oo" {
		t.Errorf("the deleted queue has %q", got)
	}
}

// A queue that is in use does not hold up the others; it has its turn the next
// time.
func TestExpireLockedQueue(t *testing.T) {
	f := newFixture(t, 0)
	ids := f.addQueues(t, 3)
	for _, id := range ids {
		f.fill(t, id, "oo")
	}
	other := f.connect(t)
	pgtest.Exec(t, other, "begin")
	pgtest.Exec(t, other, "update msg_queues set status = status where recipient_id = $1", ids[1])
	if n, err := f.ExpireQueue(t.Context(), ids[1], expireBefore); n != 0 || err != nil {
		t.Errorf("%d expired in the locked queue: %v", n, err)
	}
	done, err := f.ExpireMessages(t.Context(), store.ExpireOptions{Before: expireBefore})
	if want := (store.Expired{Messages: 4, Queues: 2, Last: ids[2]}); done != want || err != nil {
		t.Errorf("%+v, %v, want %+v", done, err, want)
	}
	pgtest.Exec(t, other, "rollback")
	done, err = f.ExpireMessages(t.Context(), store.ExpireOptions{Before: expireBefore})
	if want := (store.Expired{Messages: 2, Queues: 1, Last: ids[1]}); done != want || err != nil {
		t.Errorf("again: %+v, %v, want %+v", done, err, want)
	}
}

// A queue that cannot be expired does not hold up the others; it is in the log.
func TestExpireBadQueue(t *testing.T) {
	c := newDatabase(t)
	var log bytes.Buffer
	f := fixture{openStore(t, store.Options{Config: c, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}), c, pgtest.Conn(t, c.DSN)}
	ids := f.addQueues(t, 5)
	for _, id := range ids {
		f.fill(t, id, "oy")
	}
	f.exec(t, fmt.Sprintf(`
		create function refuse() returns trigger language plpgsql as $$ begin raise 'refused'; end $$;
		create trigger refuse before delete on messages for each row when (old.recipient_id = '\x%x') execute function refuse()`, ids[1].Bytes()))
	done, err := f.ExpireMessages(t.Context(), store.ExpireOptions{Before: expireBefore, Batch: 3})
	if want := (store.Expired{Messages: 4, Queues: 4, Failed: 1, Last: ids[4]}); done != want || err != nil {
		t.Errorf("%+v, %v, want %+v", done, err, want)
	}
	warning, detail, _ := strings.Cut(log.String(), "\n")
	if !strings.Contains(warning, "level=WARN") || !strings.Contains(warning, "refused") || strings.Contains(warning, ids[1].String()) {
		t.Errorf("warning: %s", warning)
	}
	if !strings.Contains(detail, "level=DEBUG") || !strings.Contains(detail, ids[1].String()) || strings.Count(detail, "\n") != 1 {
		t.Errorf("detail: %s", detail)
	}
}

// Cancelling takes effect between batches. What is done is known, and another call
// goes on from there.
func TestExpireCancelled(t *testing.T) {
	f := newFixture(t, 0)
	ids := f.addQueues(t, 6)
	for _, id := range ids {
		f.fill(t, id, "oy")
	}
	// The second batch waits for the lock.
	f.exec(t, fmt.Sprintf(`
		create function wait() returns trigger language plpgsql as $$ begin perform pg_advisory_xact_lock(7); return old; end $$;
		create trigger wait before delete on messages for each row when (old.recipient_id = '\x%x') execute function wait()`, ids[2].Bytes()))
	other := f.connect(t)
	pgtest.Exec(t, other, "select pg_advisory_lock(7)")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type result struct {
		done store.Expired
		err  error
	}
	results := make(chan result, 1)
	go func() {
		done, err := f.ExpireMessages(ctx, store.ExpireOptions{Before: expireBefore, Batch: 2})
		results <- result{done, err}
	}()
	f.await(t, "select count(*) from pg_locks where locktype = 'advisory' and not granted and database = (select oid from pg_database where datname = current_database())", 1)
	cancel()
	pgtest.Exec(t, other, "select pg_advisory_unlock(7)")
	r := <-results
	wantError(t, r.err, store.CodeStore, context.Canceled)
	if want := (store.Expired{Messages: 4, Queues: 4, Last: ids[3]}); r.done != want {
		t.Errorf("cancelled: %+v, want %+v", r.done, want)
	}
	var left []string
	for _, id := range ids {
		left = append(left, contents(t, f.conn, id))
	}
	if want := []string{"y", "y", "y", "y", "oy", "oy"}; !slices.Equal(left, want) {
		t.Errorf("left in the queues: %s", cmp.Diff(want, left))
	}
	f.fill(t, ids[0], "o") // behind a young one, and before the place to go on from
	done, err := f.ExpireMessages(t.Context(), store.ExpireOptions{Before: expireBefore, After: r.done.Last, Batch: 2})
	if want := (store.Expired{Messages: 2, Queues: 2, Last: ids[5]}); done != want || err != nil {
		t.Errorf("continued: %+v, %v, want %+v", done, err, want)
	}
}

// await waits until a query for a number has the wanted result.
func (f fixture) await(t testing.TB, sql string, want int64) {
	t.Helper()
	eventually(t, sql, func() bool { return f.number(t, sql) == want })
}
