package store_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/smpq/smpq/internal/dumptest"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

// connect opens a connection on which the stored functions work.
func (f fixture) connect(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := store.Connect(t.Context(), f.config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// addQueues adds n queues, in the order of their ids.
func (f fixture) addQueues(t testing.TB, n int) []queue.RecipientID {
	t.Helper()
	ids := make([]queue.RecipientID, n)
	for i := range ids {
		ids[i] = f.add(t, newRecord()).ID()
	}
	slices.SortFunc(ids, func(a, b queue.RecipientID) int { return a.Compare(b.EntityID) })
	return ids
}

// newMessage returns a message whose id has the given number.
func newMessage(n int, body string) queue.Message {
	return queue.Message{ID: messageID(n), Time: 1_700_000_000, Body: []byte(body)}
}

func messageID(n int) queue.MessageID {
	id := make([]byte, smp.IDSize)
	binary.BigEndian.PutUint64(id, uint64(n))
	return queue.MessageID{EntityID: smp.NewEntityID(id)}
}

// write writes a message that the queue has to take.
func (f fixture) write(t testing.TB, id queue.RecipientID, m queue.Message) {
	t.Helper()
	if _, err := f.WriteMessage(t.Context(), id, m); err != nil {
		t.Fatal(err)
	}
}

// messages returns what is in a queue.
func messages(t testing.TB, conn *pgx.Conn, id queue.RecipientID) []queue.Message {
	t.Helper()
	var all []queue.Message
	for m, err := range store.Messages(t.Context(), conn, store.Schema{Name: schemaName, Version: schema.Newest}, id) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, *m)
	}
	return all
}

// state returns what the row of a queue says of its messages.
func state(t testing.TB, conn *pgx.Conn, id queue.RecipientID) (s store.MessageState) {
	t.Helper()
	err := conn.QueryRow(t.Context(), "select msg_can_write, msg_queue_expire, msg_queue_size from "+schema.Quote(schemaName)+".msg_queues where recipient_id = $1", id).
		Scan(&s.CanWrite, &s.Expire, &s.Size)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// equateMessages compares messages, of which no body is as good as an empty one.
var equateMessages = cmp.Options{cmpopts.EquateEmpty(), unexported}

// The stored functions of the schema, as smp-server uses them.
type storedFunctions struct {
	conn  *pgx.Conn
	quota int
}

func (f storedFunctions) write(ctx context.Context, id queue.RecipientID, m queue.Message) (stored, wasEmpty bool, err error) {
	body := append([]byte{}, m.Body...)
	rows, err := f.conn.Query(ctx, "select quota_written, was_empty from write_message($1, $2, $3, $4, $5, $6, $7)",
		id, m.ID, m.Time, m.QuotaMarker, m.Notify, body, f.quota)
	if err != nil {
		return false, false, err
	}
	var quota bool
	tag, err := pgx.ForEachRow(rows, []any{&quota, &wasEmpty}, func() error { return nil })
	return tag.RowsAffected() == 1 && !quota, wasEmpty, err
}

func (f storedFunctions) messages(ctx context.Context, function string, id queue.RecipientID, m queue.MessageID) ([]*queue.Message, error) {
	rows, err := f.conn.Query(ctx, "select r_msg_id, r_msg_ts, r_msg_quota, r_msg_ntf_flag, r_msg_body from "+function+"($1, $2)", id, m)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*queue.Message, error) {
		m := new(queue.Message)
		return m, row.Scan(&m.ID, &m.Time, &m.QuotaMarker, &m.Notify, &m.Body)
	})
}

func (f storedFunctions) remove(ctx context.Context, id queue.RecipientID, m queue.MessageID) (*queue.Message, error) {
	found, err := f.messages(ctx, "try_del_msg", id, m)
	return append(found, nil)[0], err
}

func (f storedFunctions) removePeek(ctx context.Context, id queue.RecipientID, m queue.MessageID) (deleted, next *queue.Message, err error) {
	found, err := f.messages(ctx, "try_del_peek_msg", id, m)
	switch {
	case len(found) == 2:
		return found[0], found[1], err
	case len(found) == 1 && found[0].ID == m:
		return found[0], nil, err
	}
	return nil, append(found, nil)[0], err
}

func (f storedFunctions) expire(ctx context.Context, id queue.RecipientID, before int64) (n int64, err error) {
	err = f.conn.QueryRow(ctx, "select delete_expired_msgs($1, $2)", id, before).Scan(&n)
	return n, err
}

// Whatever happens to two queues, to one by the store and to the other by the
// stored functions, has the same results and leaves the same rows; also when
// somebody has damaged them before.
func TestMessagesAsByStoredFunctions(t *testing.T) {
	const quota = 4
	c := newDatabase(t)
	f := fixture{openStore(t, store.Options{Config: c, Quota: quota}), c, pgtest.Conn(t, c.DSN)}
	theirs := storedFunctions{f.connect(t), quota}
	ctx := t.Context()
	rapid.Check(t, func(r *rapid.T) {
		a, b := f.add(t, newRecord()).ID(), f.add(t, newRecord()).ID()
		both := []queue.RecipientID{a, b}
		id := rapid.Custom(func(r *rapid.T) queue.MessageID { return messageID(rapid.IntRange(1, 6).Draw(r, "id")) })
		headOr := func(r *rapid.T) queue.MessageID {
			if all := messages(t, f.conn, a); len(all) > 0 && rapid.IntRange(0, 3).Draw(r, "other") > 0 {
				return all[0].ID
			}
			return id.Draw(r, "any")
		}
		same := func(what string, ours, theirs any, errs ...error) {
			if diff := cmp.Diff(theirs, ours, equateMessages); diff != "" || slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
				r.Fatalf("%s (-functions +store): %v\n%s", what, errs, diff)
			}
		}
		r.Repeat(map[string]func(*rapid.T){
			"write": func(r *rapid.T) {
				m := queue.Message{
					ID:          id.Draw(r, "id"),
					Time:        rapid.Int64Range(1, 5).Draw(r, "time"),
					QuotaMarker: rapid.IntRange(0, 9).Draw(r, "marker") == 0,
					Notify:      rapid.Bool().Draw(r, "notify"),
					Body:        rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(r, "body"),
				}
				written, err := f.WriteMessage(ctx, a, m)
				stored := err == nil
				if !stored {
					wantError(t, err, store.CodeQuota, store.ErrQuota)
				}
				wantStored, wantEmpty, err := theirs.write(ctx, b, m)
				same("stored", stored, wantStored, err)
				same("was empty", written.WasEmpty, wantEmpty && wantStored)
			},
			"delete": func(r *rapid.T) {
				m := headOr(r)
				got, err := f.DeleteMessage(ctx, a, m)
				want, err2 := theirs.remove(ctx, b, m)
				same("deleted", got, want, err, err2)
			},
			"delete and peek": func(r *rapid.T) {
				m := headOr(r)
				got, next, err := f.DeletePeekMessage(ctx, a, m)
				want, wantNext, err2 := theirs.removePeek(ctx, b, m)
				same("deleted", got, want, err, err2)
				same("next", next, wantNext)
			},
			"expire": func(r *rapid.T) {
				before := rapid.Int64Range(0, 6).Draw(r, "before")
				got, err := f.ExpireQueue(ctx, a, before)
				want, err2 := theirs.expire(ctx, b, before)
				same("expired", got, want, err, err2)
			},
			"damage the row": func(r *rapid.T) {
				if rapid.IntRange(0, 9).Draw(r, "rarely") == 0 {
					f.exec(t, "update msg_queues set msg_queue_size = $2, msg_can_write = $3 where recipient_id = any ($1)", both,
						rapid.Int64Range(0, quota+2).Draw(r, "size"), rapid.Bool().Draw(r, "can write"))
				}
			},
			"lose messages": func(r *rapid.T) {
				if rapid.IntRange(0, 9).Draw(r, "rarely") == 0 {
					f.exec(t, "delete from messages where recipient_id = any ($1) and msg_ts < $2", both, rapid.Int64Range(1, 6).Draw(r, "before"))
				}
			},
			"": func(*rapid.T) {
				same("messages", messages(t, f.conn, a), messages(t, f.conn, b))
				same("row", state(t, f.conn, a), state(t, f.conn, b))
				head, err := f.PeekMessage(ctx, a)
				all := messages(t, f.conn, a)
				if (head == nil) != (len(all) == 0) || err != nil {
					r.Fatalf("peek: %v, %v; there are %d messages", head, err, len(all))
				}
				if head != nil {
					same("peek", *head, all[0])
				}
				size, err := f.QueueSize(ctx, a)
				same("size", size, state(t, f.conn, b).Size, err)
			},
		})
	})
}

// A full queue takes one marker, then nothing until it is empty.
func TestQuota(t *testing.T) {
	c := newDatabase(t)
	f := fixture{openStore(t, store.Options{Config: c, Quota: 3}), c, pgtest.Conn(t, c.DSN)}
	id := f.addQueues(t, 1)[0]
	for i := 1; i <= 6; i++ {
		written, err := f.WriteMessage(t.Context(), id, newMessage(i, "body"))
		if i > 3 {
			wantError(t, err, store.CodeQuota, store.ErrQuota)
		} else if err != nil || written.WasEmpty != (i == 1) {
			t.Errorf("message %d: %+v, %v", i, written, err)
		}
	}
	marker := queue.Message{ID: messageID(4), Time: 1_700_000_000, QuotaMarker: true}
	want := []queue.Message{newMessage(1, "body"), newMessage(2, "body"), newMessage(3, "body"), marker}
	if diff := cmp.Diff(want, messages(t, f.conn, id), equateMessages); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	for i, m := range want {
		_, err := f.WriteMessage(t.Context(), id, newMessage(7, ""))
		wantError(t, err, store.CodeQuota, store.ErrQuota)
		deleted, next, err := f.DeletePeekMessage(t.Context(), id, m.ID)
		if diff := cmp.Diff(&m, deleted, equateMessages); diff != "" || err != nil || (next == nil) != (i == 3) {
			t.Errorf("message %d: next %v, %v, deleted (-want +got):\n%s", i, next, err, diff)
		}
	}
	written, err := f.WriteMessage(t.Context(), id, newMessage(8, ""))
	if err != nil || !written.WasEmpty {
		t.Errorf("the queue was drained: %+v, %v", written, err)
	}
}

// contract: QS-10
// contract: QS-23
//
// A soft-deleted queue has no messages for anybody, and neither has one that never
// was. Callers are told which it is not: a full or an empty queue.
func TestMessagesOfAbsentQueues(t *testing.T) {
	f := newFixture(t, 0)
	ids := f.addQueues(t, 2)
	for _, id := range ids {
		f.write(t, id, newMessage(1, "body"))
	}
	deleted, live := ids[0], ids[1]
	f.exec(t, "update msg_queues set deleted_at = 0 where recipient_id = $1", deleted)
	unknown := queue.RecipientID{EntityID: randomID()}
	for name, id := range map[string]queue.RecipientID{"deleted": deleted, "unknown": unknown, "zero": {}} {
		t.Run(name, func(t *testing.T) {
			for op, err := range map[string]error{
				"write":           second(f.WriteMessage(t.Context(), id, newMessage(2, ""))),
				"peek":            second(f.PeekMessage(t.Context(), id)),
				"delete":          second(f.DeleteMessage(t.Context(), id, messageID(1))),
				"delete and peek": third(f.DeletePeekMessage(t.Context(), id, messageID(1))),
				"size":            second(f.QueueSize(t.Context(), id)),
			} {
				t.Run(op, func(t *testing.T) { wantError(t, err, store.CodeAuth, store.ErrNotFound) })
			}
			if n, err := f.ExpireQueue(t.Context(), id, 1<<40); n != 0 || err != nil {
				t.Errorf("expired %d, %v", n, err)
			}
		})
	}
	found, err := f.PeekMessages(t.Context(), []queue.RecipientID{deleted, live, unknown})
	if err != nil || len(found) != 1 || found[live] == nil {
		t.Errorf("of three queues one is there: %v, %v", found, err)
	}
	if all := messages(t, f.conn, deleted); len(all) != 1 {
		t.Errorf("the deleted queue has %d messages left of 1", len(all))
	}
}

func second[A any](_ A, err error) error { return err }

func third[A, B any](_ A, _ B, err error) error { return err }

// A batch of queues is read at once, whether or not they have messages.
func TestPeekMessages(t *testing.T) {
	f := newFixture(t, 0)
	ids := f.addQueues(t, 135)
	want := make(map[queue.RecipientID]*queue.Message)
	for i, id := range ids {
		want[id] = nil
		if i%3 > 0 {
			m := newMessage(2*i, fmt.Sprint("first of ", i))
			want[id] = &m
			f.write(t, id, m)
			f.write(t, id, newMessage(2*i+1, "second"))
		}
	}
	got, err := f.PeekMessages(t.Context(), append(ids, ids[0], ids[1]))
	if diff := cmp.Diff(want, got, equateMessages); diff != "" || err != nil {
		t.Errorf("%v, messages (-want +got):\n%s", err, diff)
	}
	if got, err := f.PeekMessages(t.Context(), nil); len(got) > 0 || err != nil {
		t.Errorf("of no queues: %v, %v", got, err)
	}
	if n, err := f.CountMessages(t.Context()); n != 180 || err != nil {
		t.Errorf("%d messages in all, want 180: %v", n, err)
	}
}

func TestCountLiveMessages(t *testing.T) {
	f := newFixture(t, 0)
	small := openStore(t, store.Options{Config: f.config, Quota: 2})
	if n, err := f.CountLiveMessages(t.Context()); n != 0 || err != nil {
		t.Errorf("in no queues: %d, %v", n, err)
	}
	ids := f.addQueues(t, 4)
	for i, id := range ids {
		for n := range min(i, 2) {
			f.write(t, id, newMessage(10*i+n, "text"))
		}
		if i == 2 {
			_, err := small.WriteMessage(t.Context(), id, newMessage(99, "too much"))
			if !errors.Is(err, store.ErrQuota) {
				t.Fatal(err)
			}
		}
	}
	f.exec(t, "update msg_queues set deleted_at = 1 where recipient_id = $1", ids[1])
	if n, err := f.CountLiveMessages(t.Context()); n != 5-1 || err != nil {
		t.Errorf("%d messages, %v", n, err)
	}
}

// The queues of a service come in order, each once, over more than a page.
func TestServiceMessages(t *testing.T) {
	f := newFixture(t, 0)
	const live = 5250
	f.exec(t, `
		insert into services (service_id, service_role, service_cert, service_cert_hash, created_at)
		select convert_to(s, 'utf8'), 'M', '\x01', convert_to(s, 'utf8'), 0 from unnest(array['mine', 'other']) s;
		alter table msg_queues disable trigger user;
		insert into msg_queues (recipient_id, recipient_keys, rcv_dh_secret, sender_id, status, rcv_service_id, deleted_at)
		select convert_to(to_char(n, '00000'), 'utf8'), '\x01', '\x02', convert_to(n::text, 'utf8'), 'active',
		       convert_to(case when n % 7 = 0 then 'other' else 'mine' end, 'utf8'), case when n % 11 = 0 then 0 end
		  from generate_series(0, 7000) n;
		alter table msg_queues enable trigger user;
		insert into messages (recipient_id, msg_id, msg_ts, msg_quota, msg_ntf_flag, msg_body)
		select recipient_id, recipient_id, 1, false, false, sender_id from msg_queues order by recipient_id limit 2000`)
	service := queue.ServiceID{EntityID: smp.NewEntityID("mine")}
	var want, got []string
	for n := range 7001 {
		if n%7 > 0 && n%11 > 0 {
			line := fmt.Sprintf(" %05d empty", n)
			if n < 2000 {
				line = fmt.Sprintf(" %05d %d", n, n)
			}
			want = append(want, line)
		}
	}
	for m, err := range f.ServiceMessages(t.Context(), service) {
		if err != nil {
			t.Fatal(err)
		}
		body := []byte("empty")
		if m.Message != nil {
			body = m.Message.Body
		}
		got = append(got, string(bytes.Join([][]byte{m.Queue.Bytes(), body}, []byte(" "))))
	}
	if len(want) < live || !slices.Equal(got, want) {
		t.Errorf("%d queues, want %d:\n%s", len(got), len(want), cmp.Diff(want, got))
	}
	for _, err := range f.ServiceMessages(t.Context(), service) {
		if err != nil {
			t.Error(err)
		}
		break // what is left early is at an end
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	for _, err := range f.ServiceMessages(ctx, service) {
		cancel()
		if n++; err != nil {
			wantError(t, err, store.CodeStore, context.Canceled)
		}
	}
	if n >= len(want) || n < 2 {
		t.Errorf("%d queues after ctx was cancelled", n)
	}
}

// The store reads and changes what smp-server left behind.
func TestMessagesOfDump(t *testing.T) {
	c := store.Config{DSN: pgtest.DSN(t), Schema: schemaName, Application: "smpq test"}
	conn := pgtest.Conn(t, c.DSN)
	dumptest.Load(t, conn, schemaName, live)
	s := migrate(t, conn, schema.Newest)
	f := fixture{openStore(t, store.Options{Config: c}), c, conn}
	var ids []queue.RecipientID
	for _, row := range readAll(t, conn, s, store.ReadOptions{Live: true}) {
		ids = append(ids, row.RecipientID)
	}
	heads, err := f.PeekMessages(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	drained := 0
	for _, id := range ids {
		want := messages(t, conn, id)
		for next := heads[id]; next != nil; drained++ {
			if len(want) == 0 || !cmp.Equal(*next, want[0], equateMessages) {
				t.Fatalf("queue %s: message %s, want that of %d messages", id, next.ID, len(want))
			}
			if _, next, err = f.DeletePeekMessage(t.Context(), id, next.ID); err != nil {
				t.Fatal(err)
			}
			want = want[1:]
		}
		if len(want) > 0 || state(t, conn, id) != (store.MessageState{CanWrite: true}) {
			t.Errorf("queue %s: drained, %d messages are left, %+v", id, len(want), state(t, conn, id))
		}
	}
	if rows := len(dumptest.Rows(t, live+"/messages.csv")) - 1; drained == 0 || drained > rows {
		t.Errorf("%d messages drained of %d", drained, rows)
	}
	f.write(t, ids[0], newMessage(1, "body"))
	if got := messages(t, conn, ids[0]); len(got) != 1 {
		t.Errorf("%d messages after one was written", len(got))
	}
}

// A taker gets the messages of a queue, by the store or by the stored functions,
// and notes them.
type taker struct {
	mu    sync.Mutex
	taken map[queue.RecipientID][]queue.Message
}

func (k *taker) note(id queue.RecipientID, m *queue.Message) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if m != nil {
		k.taken[id] = append(k.taken[id], *m)
	}
}

// The store and other programs use the same queues at the same time: nothing is
// lost, nothing is there twice, what one sender sent arrives in its order, and the
// rows are right.
func TestMessagesBesideStoredFunctions(t *testing.T) {
	const (
		quota   = 8
		writers = 6
		each    = 400
		old     = 1_600_000_000 // messages of this time expire
	)
	c := newDatabase(t)
	f := fixture{openStore(t, store.Options{Config: c, Quota: quota}), c, pgtest.Conn(t, c.DSN)}
	ids := f.addQueues(t, 3)
	ctx := t.Context()
	stored := make([][]queue.RecipientID, writers) // by writer and number: the queue, zero: refused
	expired := make([]int64, len(ids))
	k := taker{taken: make(map[queue.RecipientID][]queue.Message)}
	check := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	var writing, taking sync.WaitGroup
	for w := range writers {
		stored[w] = make([]queue.RecipientID, each)
		functions := storedFunctions{f.connect(t), quota}
		writing.Go(func() {
			for i := range each {
				id := ids[(w+i)%len(ids)]
				m := newMessage(w*each+i, "body")
				if i%5 == 0 {
					m.Time = old
				}
				var ok bool
				var err error
				if w%2 == 0 {
					ok, _, err = functions.write(ctx, id, m)
				} else if _, err = f.WriteMessage(ctx, id, m); store.CodeOf(err) == store.CodeQuota {
					err = nil
				} else {
					ok = true
				}
				check(err)
				if ok {
					stored[w][i] = id
				}
			}
		})
	}
	done := make(chan struct{})
	for i, id := range ids {
		functions := storedFunctions{f.connect(t), quota}
		taking.Go(func() {
			for turn := 0; ; turn++ {
				select {
				case <-done:
					return
				default:
				}
				head, err := f.PeekMessage(ctx, id)
				check(err)
				if head == nil {
					continue
				}
				var deleted *queue.Message
				var n int64
				switch turn % 5 {
				case 0:
					deleted, err = functions.remove(ctx, id, head.ID)
				case 1:
					deleted, _, err = functions.removePeek(ctx, id, head.ID)
				case 2:
					deleted, err = f.DeleteMessage(ctx, id, head.ID)
				case 3:
					deleted, _, err = f.DeletePeekMessage(ctx, id, head.ID)
				case 4:
					n, err = f.ExpireQueue(ctx, id, old+1)
					expired[i] += n
				}
				check(err)
				k.note(id, deleted)
			}
		})
	}
	writing.Wait()
	close(done)
	taking.Wait()

	for i, id := range ids {
		left := messages(t, f.conn, id)
		if s := state(t, f.conn, id); s.Size != int64(len(left)) || !s.CanWrite && !slices.ContainsFunc(left, func(m queue.Message) bool { return m.QuotaMarker }) {
			t.Errorf("queue %d: %+v with %d messages", i, s, len(left))
		}
		seen := make(map[queue.MessageID]bool)
		last := make(map[int]uint64) // by writer
		for _, m := range append(k.taken[id], left...) {
			if m.QuotaMarker {
				continue
			}
			n := binary.BigEndian.Uint64(m.ID.Bytes())
			w := int(n) / each
			if seen[m.ID] || stored[w][int(n)%each] != id || n < last[w] {
				t.Errorf("queue %d: message %d of writer %d is there twice, or was refused, or comes after number %d", i, n, w, last[w])
			}
			seen[m.ID], last[w] = true, n
		}
		want := 0
		for _, queues := range stored {
			for _, q := range queues {
				if q == id {
					want++
				}
			}
		}
		if got := len(seen) + int(expired[i]); got != want || want < quota {
			t.Errorf("queue %d: %d messages were stored; %d are accounted for, of which %d expired", i, want, got, expired[i])
		}
	}
	t.Logf("taken: %d queues, %d messages", len(k.taken), len(slices.Concat(slices.Collect(maps.Values(k.taken))...)))
}
