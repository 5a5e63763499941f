package store_test

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/pglocal"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

// newDurable returns a store on a server of its own that keeps what it has
// committed, unlike that of the other tests, as commits are what takes time.
func newDurable(b *testing.B, connections int) fixture {
	b.Helper()
	// The server may run as another user, who has to get there.
	dir, err := os.MkdirTemp("/tmp", "smpq-bench-") //nolint:usetesting // see above
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	cluster, err := pglocal.Start(b.Context(), pglocal.Options{Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := cluster.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	c := store.Config{DSN: cluster.DSN(""), Schema: schemaName, Application: "smpq test"}
	conn, err := store.Connect(b.Context(), c)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := schema.Migrate(b.Context(), conn, c.Schema, schema.Newest, schema.Options{}); err != nil {
		b.Fatal(err)
	}
	s, err := store.Open(b.Context(), store.Options{Config: c, Connections: connections, Quota: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close(context.Background()) })
	b.Cleanup(s.Close)
	return fixture{s, c, conn}
}

// A pool of connections for calls of the stored functions.
type functionPool chan *pgx.Conn

func (f fixture) pool(b *testing.B, connections int) functionPool {
	b.Helper()
	p := make(functionPool, connections)
	for range connections {
		p <- f.connect(b)
	}
	return p
}

func (p functionPool) use(do func(*pgx.Conn) error) error {
	conn := <-p
	defer func() { p <- conn }()
	return do(conn)
}

// Messages per second that 64 senders write to 1,000 of 100,000 queues, and that 64
// recipients delete: by the store and by one call of a stored function for each, with
// the same number of connections.
func BenchmarkMessages(b *testing.B) {
	const (
		clients     = 64
		connections = 8
		queues      = 100_000
		used        = 1000
	)
	f := newDurable(b, connections)
	f.exec(b, `
		insert into msg_queues (recipient_id, recipient_keys, rcv_dh_secret, sender_id, status)
		select substr(sha256(n::text::bytea), 1, 24), $1, $2, substr(sha256(('s' || n)::bytea), 1, 24), 'active'
		  from generate_series(1, $3::int) n`, randomBytes(46), randomBytes(32), queues)
	f.exec(b, "vacuum analyze msg_queues")
	ids := f.ids(b, "select recipient_id from msg_queues order by sender_id limit 1000")
	pool := f.pool(b, connections)
	body := make([]byte, queue.MaxMessageBody)
	copy(body, randomBytes(len(body)))
	ctx := b.Context()

	write := map[string]func(queue.RecipientID, queue.Message) error{
		"batched": func(id queue.RecipientID, m queue.Message) error {
			return second(f.WriteMessage(ctx, id, m))
		},
		"one call each": func(id queue.RecipientID, m queue.Message) error {
			return pool.use(func(conn *pgx.Conn) error {
				_, _, err := storedFunctions{conn, 1 << 30}.write(ctx, id, m)
				return err
			})
		},
	}
	remove := map[string]func(queue.RecipientID, queue.MessageID) error{
		"batched": func(id queue.RecipientID, m queue.MessageID) error {
			return third(f.DeletePeekMessage(ctx, id, m))
		},
		"one call each": func(id queue.RecipientID, m queue.MessageID) error {
			return pool.use(func(conn *pgx.Conn) error {
				return third(storedFunctions{conn, 0}.removePeek(ctx, id, m))
			})
		},
	}
	// each calls do n times, by all clients, and reports the rate.
	each := func(b *testing.B, n int, do func(i int) error) {
		b.Helper()
		var running sync.WaitGroup
		var next atomic.Int64
		for range clients {
			running.Go(func() {
				for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
					if err := do(i); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		running.Wait()
		b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "messages/s")
		b.ReportMetric(0, "ns/op")
	}
	for _, size := range []int{1000, queue.MaxMessageBody} {
		for _, how := range []string{"one call each", "batched"} {
			b.Run(fmt.Sprintf("write/%d bytes/%s", size, how), func(b *testing.B) {
				each(b, b.N, func(i int) error {
					m := newMessage(i, "")
					m.Body = body[:size]
					return write[how](ids[i%used], m)
				})
			})
			b.Run(fmt.Sprintf("delete/%d bytes/%s", size, how), func(b *testing.B) {
				f.exec(b, "truncate messages")
				f.exec(b, `
					insert into messages (recipient_id, msg_id, msg_ts, msg_quota, msg_ntf_flag, msg_body)
					select ($1::bytea[])[n % $4 + 1], int8send(n) || decode(repeat('00', 16), 'hex'), 0, false, false, $2
					  from generate_series(0, $3::int - 1) n`, ids, body[:size], b.N, used)
				f.exec(b, `
					update msg_queues q set msg_queue_size = n, msg_queue_expire = true
					  from (select recipient_id, count(*) as n from messages group by recipient_id) m
					 where q.recipient_id = m.recipient_id`)
				f.exec(b, "analyze messages")
				b.ResetTimer()
				each(b, b.N, func(i int) error { return remove[how](ids[i%used], messageID(i)) })
			})
		}
	}
}

// ids returns the result of a query for ids.
func (f fixture) ids(t testing.TB, sql string) []queue.RecipientID {
	t.Helper()
	rows, err := f.conn.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[queue.RecipientID])
	if err != nil {
		t.Fatal(err)
	}
	return ids
}
