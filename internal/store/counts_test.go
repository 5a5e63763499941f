package store_test

import (
	"crypto/md5"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/dumptest"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

// The counts are those of the rows, counted one by one.
func TestCountAll(t *testing.T) {
	conn := pgtest.Conn(t, pgtest.DSN(t))
	for _, dir := range dumptest.Dirs(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			dumptest.Load(t, conn, schemaName, dir)
			s := openSchema(t, conn)
			want := store.Counts{Messages: new(store.MessageCounts)}
			sizes := int64(0)
			for _, row := range readAll(t, conn, s, store.ReadOptions{}) {
				sizes += row.Messages.Size
				if !row.Messages.CanWrite {
					want.Messages.OverQuota++
				}
				if row.Damage.Notice {
					want.DamagedNotices++
				}
				if row.Deleted() {
					want.SoftDeleted++
				} else {
					want.AddQueue(&row.Record)
				}
				for m, err := range store.Messages(t.Context(), conn, s, row.RecipientID) {
					if err != nil {
						t.Fatal(err)
					}
					want.Messages.Stored++
					if m.QuotaMarker {
						want.Messages.QuotaMarkers++
					}
				}
			}
			want.Messages.QueueSizes = &sizes
			services, err := store.Services(t.Context(), conn, s)
			if err != nil {
				t.Fatal(err)
			}
			for _, sv := range services {
				want.AddService(sv.Role, 1)
			}
			got, err := store.CountAll(t.Context(), conn, s)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
			entities, err := store.CountEntities(t.Context(), conn, s)
			if err != nil || entities != want.Entities {
				t.Errorf("entities %+v, %v; want %+v", entities, err, want.Entities)
			}
		})
	}
}

// A status that is none is counted as such, and does not end the counting.
func TestCountUnreadableStatus(t *testing.T) {
	conn, s := loadDump(t, dumptest.Root+"/variants/00-base")
	update(t, conn, "set status = 'asleep', queue_mode = '?'")
	got, err := store.CountAll(t.Context(), conn, s)
	if err != nil {
		t.Fatal(err)
	}
	want := store.StatusCounts{Unreadable: 2}
	if got.Queues != 2 || got.Status != want || got.Mode != (store.ModeCounts{Unknown: 2}) {
		t.Errorf("counts: %+v", got)
	}
}

// fill adds n queues to a schema, with known shares of everything.
const fill = `
	insert into %s.msg_queues (recipient_id, recipient_keys, rcv_dh_secret, sender_id, sender_key, status, queue_mode, deleted_at, notifier_id, notifier_key, rcv_ntf_dh_secret, link_id, msg_can_write)
	select decode(md5('r' || i), 'hex'), '\x00', '\x00', decode(md5('s' || i), 'hex'),
	       case when i %% 2 = 0 then '\x00'::bytea end,
	       case when i %% 10 = 0 then 'blocked,reason=spam' when i %% 10 < 3 then 'off' else 'active' end,
	       case when i %% 3 = 0 then 'M' when i %% 3 = 1 then 'C' end,
	       case when i / 100 %% 5 = 0 then 1795132800 end,
	       case when i %% 4 = 0 then decode(md5('n' || i), 'hex') end,
	       case when i %% 4 = 0 then '\x00'::bytea end, case when i %% 4 = 0 then '\x00'::bytea end,
	       case when i %% 20 = 0 then decode(md5('l' || i), 'hex') end,
	       i %% 100 <> 0
	  from generate_series(1, 20000) i`

// An estimate comes close to the counts.
func TestEstimateAll(t *testing.T) {
	conn, s := loadDump(t, dumptest.Root+"/variants/00-base")
	_, err := store.EstimateAll(t.Context(), conn, s)
	if !errors.Is(err, store.ErrNoStatistics) {
		t.Fatalf("an estimate without statistics: %v", err)
	}
	quoted := schema.Quote(schemaName)
	pgtest.Exec(t, conn, fmt.Sprintf(fill, quoted))
	pgtest.Exec(t, conn, fmt.Sprintf("insert into %s.messages (recipient_id, msg_id, msg_ts, msg_quota, msg_ntf_flag, msg_body) select recipient_id, '\\x00', 0, get_byte(recipient_id, 0) < 64, false, '' from %[1]s.msg_queues where sender_key is null", quoted))
	pgtest.Exec(t, conn, fmt.Sprintf("analyze %s.msg_queues; analyze %[1]s.messages", quoted))
	got, err := store.EstimateAll(t.Context(), conn, s)
	if err != nil {
		t.Fatal(err)
	}
	want, err := store.CountAll(t.Context(), conn, s)
	if err != nil {
		t.Fatal(err)
	}
	if got.Messages == nil || got.Messages.QueueSizes != nil || !got.Estimated {
		t.Errorf("estimate: %+v", got)
	}
	near := cmp.Comparer(func(a, b int64) bool {
		return math.Abs(float64(a-b)) <= 100+0.2*float64(max(a, b))
	})
	got.Messages.QueueSizes, want.Messages.QueueSizes, got.Estimated = nil, nil, false
	if diff := cmp.Diff(want, got, near); diff != "" {
		t.Errorf("estimate (-count +estimate):\n%s", diff)
	}

	// A table that was emptied since has no pages.
	pgtest.Exec(t, conn, "delete from "+quoted+".msg_queues")
	pgtest.Exec(t, conn, "vacuum "+quoted+".msg_queues")
	if got, err := store.EstimateAll(t.Context(), conn, s); err != nil || got.Queues != 0 {
		t.Errorf("estimate of an empty table: %+v, %v", got, err)
	}
}

// The hash of a service's queues is the XOR of the MD5 digests of their ids, as
// smp-server has it.
func TestCountServiceQueues(t *testing.T) {
	conn, s := loadDump(t, dumptest.Root+"/variants/18-queue-service-records")
	got, err := store.CountServiceQueues(t.Context(), conn, s)
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[queue.ServiceID]store.ServiceQueues)
	add := func(a *store.Aggregate, id []byte) {
		a.Count++
		for i, b := range md5.Sum(id) {
			a.IDsHash[i] ^= b
		}
	}
	for _, row := range readAll(t, conn, s, store.ReadOptions{Live: true}) {
		if id := row.RcvService; !id.IsZero() {
			set := want[id]
			add(&set.Rcv, row.RecipientID.Bytes())
			want[id] = set
		}
		if row.Notifier != nil && !row.Notifier.Service.IsZero() {
			set := want[row.Notifier.Service]
			add(&set.Ntf, row.Notifier.ID.Bytes())
			want[row.Notifier.Service] = set
		}
	}
	if len(want) == 0 {
		t.Fatal("the dump has no queues with services")
	}
	if diff := cmp.Diff(want, got, unexported); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSizes(t *testing.T) {
	conn, _ := loadDump(t, live)
	quoted := schema.Quote(schemaName)
	pgtest.Exec(t, conn, fmt.Sprintf("vacuum analyze %s.msg_queues", quoted))
	tables, indexes, err := store.Sizes(t.Context(), conn, schemaName)
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	names := make(map[string]bool)
	for _, table := range tables {
		names[table.Name] = true
		total += table.TotalBytes()
		if table.Name == "msg_queues" && (table.Rows != 33 || table.LastVacuum.IsZero() || table.LastAnalyze.IsZero() || !table.LastAutovacuum.IsZero()) {
			t.Errorf("msg_queues: %+v", table)
		}
	}
	if len(tables) != 4 || !names["messages"] || !names["services"] || !names["migrations"] {
		t.Errorf("tables: %+v", tables)
	}
	var want int64
	query := fmt.Sprintf("select sum(pg_total_relation_size(c.oid))::bigint from pg_class c where relnamespace = '%s'::regnamespace and relkind = 'r'", quoted)
	if err := conn.QueryRow(t.Context(), query).Scan(&want); err != nil {
		t.Fatal(err)
	}
	if total != want {
		t.Errorf("%d bytes, want %d", total, want)
	}
	found := false
	for _, i := range indexes {
		found = found || i.Name == "idx_msg_queues_sender_id" && i.Table == "msg_queues" && i.Bytes > 0 && i.Valid
	}
	if !found || len(indexes) < 12 {
		t.Errorf("indexes: %+v", indexes)
	}
}
