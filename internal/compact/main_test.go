package compact_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/compact"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

func TestMain(m *testing.M) {
	if dsn := os.Getenv(victimVariable); dsn != "" {
		os.Exit(victim(dsn))
	}
	goleak.VerifyTestMain(pgtest.M{M: m})
}

// name is the schema of the tests. It needs quotes.
const name = `smp "router"`

// now is when the tests take place: one second after a midnight that the
// database's clock has behind it.
var now = time.Now().UTC().Truncate(24 * time.Hour).Add(-24*time.Hour + time.Second)

// quiet is a Progress that shows nothing.
type quiet struct{}

func (quiet) Phase(string, int64, string) {}
func (quiet) Add(int64)                   {}

// newDatabase makes a database with an empty schema of a version.
func newDatabase(t testing.TB, v schema.Version) (dsn string, conn *pgx.Conn) {
	t.Helper()
	dsn = pgtest.DSN(t)
	conn = connect(t, dsn)
	if _, err := schema.Migrate(t.Context(), conn, name, v, schema.Options{}); err != nil {
		t.Fatal(err)
	}
	return dsn, conn
}

func connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := store.Connect(t.Context(), store.Config{DSN: dsn, Schema: name, Application: "smpq test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(context.Background()); err != nil {
			t.Errorf("close the connection: %v", err)
		}
	})
	return conn
}

// addQueues adds n queues that were soft-deleted so many days before now, or are
// live if days is negative, with some messages each. The ids of queues are group
// and a number.
func addQueues(t testing.TB, conn *pgx.Conn, group string, n, days, messages int) {
	t.Helper()
	deleted := "null"
	if days >= 0 {
		deleted = fmt.Sprint(now.Add(-time.Second).AddDate(0, 0, -days).Unix())
	}
	pgtest.Exec(t, conn, fmt.Sprintf(`
		insert into msg_queues (recipient_id, recipient_keys, rcv_dh_secret, sender_id, status, deleted_at)
		select convert_to('%[1]s-' || n, 'utf8'), '\x01', '\x02', convert_to('sender-%[1]s-' || n, 'utf8'), 'active', %[2]s
		  from generate_series(1, %[3]d) n`, group, deleted, n))
	if messages == 0 {
		return
	}
	pgtest.Exec(t, conn, fmt.Sprintf(`
		insert into messages (recipient_id, msg_id, msg_ts, msg_quota, msg_ntf_flag, msg_body)
		select convert_to('%[1]s-' || n, 'utf8'), '\x03', 1, false, false, convert_to(repeat(md5(n::text), 100), 'utf8')
		  from generate_series(1, %[2]d) n, generate_series(1, %[3]d) m`, group, n, messages))
}

// groups returns the number of queues of each group, those without all of their
// messages as "damaged".
func groups(t testing.TB, conn *pgx.Conn, messages int) map[string]int64 {
	t.Helper()
	count := "0"
	if messages > 0 {
		count = "(select count(*) from messages m where m.recipient_id = q.recipient_id)"
	}
	rows, err := conn.Query(t.Context(), fmt.Sprintf(`
		select case when %s = %d then split_part(convert_from(recipient_id, 'utf8'), '-', 1) else 'damaged' end, count(*)
		  from msg_queues q group by 1`, count, messages))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	var group string
	var n int64
	if _, err := pgx.ForEachRow(rows, []any{&group, &n}, func() error { got[group] = n; return nil }); err != nil {
		t.Fatal(err)
	}
	return got
}

// options are those of a compaction after 21 days.
func options() compact.QueueOptions {
	return compact.QueueOptions{TTL: 21 * 24 * time.Hour, Now: now, Batch: compact.DefaultBatch, Progress: quiet{}}
}
