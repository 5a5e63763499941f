package schema

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/smpq/smpq/internal/pgtest"
)

// An arg is a value given to a function, nil for null.
type arg any

// maybe generates null now and then.
func maybe[T any](g *rapid.Generator[T]) *rapid.Generator[arg] {
	return rapid.Custom(func(t *rapid.T) arg {
		if rapid.IntRange(0, 19).Draw(t, "null") == 0 {
			return nil
		}
		return g.Draw(t, "value")
	})
}

// outcome is what a statement returns, or the code of its error.
func outcome(t *rapid.T, c *pgx.Conn, sql string, args []any) string {
	ctx := t.Context()
	r, err := c.Query(ctx, sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(r, pgx.RowToMap)
	if err != nil {
		if code(err) == "" {
			t.Fatal(err)
		}
		return code(err)
	}
	var b strings.Builder
	for _, row := range list {
		fmt.Fprintln(&b, row)
	}
	return b.String()
}

// TestFunctionsOfServer gives the same random statements to smp-server's own
// functions and to ours: results and tables must be the same, byte for byte.
func TestFunctionsOfServer(t *testing.T) {
	dsn := pgtest.DSN(t)
	theirs, ours := pgtest.Conn(t, dsn), pgtest.Conn(t, dsn)
	loadDump(t, theirs, "")
	pgtest.Exec(t, theirs, "set search_path to smp_server; set client_min_messages to error")
	makeSchema(t, ours, "ours", StoreMessages)
	pgtest.Exec(t, ours, "set search_path to ours; set client_min_messages to error")

	queue := rapid.SampledFrom([]string{"q1", "q1", "q1", "q2", "q2", "unknown"})
	message := maybe(rapid.SampledFrom([]string{"m1", "m1", "m2"}))
	moment := maybe(rapid.Int64Range(0, 3))
	flag := rapid.Bool()

	rapid.Check(t, func(t *rapid.T) {
		both := func(sql string, args ...any) {
			if diff := cmp.Diff(outcome(t, theirs, sql, args), outcome(t, ours, sql, args)); diff != "" {
				t.Fatalf("%s %v (-smp-server +smpq):\n%s", sql, args, diff)
			}
		}
		// Half of the time the queue is in a state that it should never be in.
		anyState := func(t *rapid.T) string {
			q := queue.Draw(t, "queue")
			if flag.Draw(t, "change state") {
				both(`update msg_queues set msg_can_write = $2, msg_queue_expire = $3, msg_queue_size = $4, updated_at = $5, deleted_at = $6
					where recipient_id = $1`,
					[]byte(q), flag.Draw(t, "can write"), flag.Draw(t, "expire"), rapid.Int64Range(-1, 4).Draw(t, "size"),
					moment.Draw(t, "updated"), rapid.SampledFrom([]arg{nil, nil, nil, int64(1)}).Draw(t, "deleted"))
			}
			return q
		}
		both("truncate messages, msg_queues restart identity")
		both(`insert into msg_queues (recipient_id, recipient_keys, rcv_dh_secret, sender_id, status, updated_at)
			values ('q1', '', '', '1', 'active', 1), ('q2', '', '', '2', 'active', 2), ('q3', '', '', '3', 'off', null)`)
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) {
				both("select * from msg_queues order by recipient_id")
				both("select * from messages order by message_id")
			},
			"write_message": func(t *rapid.T) {
				q := anyState(t)
				for range rapid.IntRange(1, 3).Draw(t, "n") {
					both("select * from write_message($1, $2, $3, $4, $5, $6, $7)",
						[]byte(q), message.Draw(t, "message"), moment.Draw(t, "at"), maybe(flag).Draw(t, "marker"),
						maybe(flag).Draw(t, "notify"), []byte("body"), maybe(rapid.IntRange(0, 4)).Draw(t, "quota"))
				}
			},
			"try_del_msg": func(t *rapid.T) {
				both("select * from try_del_msg($1, $2)", []byte(anyState(t)), message.Draw(t, "message"))
			},
			"try_del_peek_msg": func(t *rapid.T) {
				both("select * from try_del_peek_msg($1, $2)", []byte(anyState(t)), message.Draw(t, "message"))
			},
			"delete_expired_msgs": func(t *rapid.T) {
				both("select delete_expired_msgs($1, $2)", []byte(anyState(t)), moment.Draw(t, "old"))
			},
			"expire_old_messages": func(t *rapid.T) {
				anyState(t)
				both("call expire_old_messages($1, $2, $3, 0, 0, 0)",
					moment.Draw(t, "changed"), moment.Draw(t, "old"), rapid.IntRange(-1, 2).Draw(t, "batch"))
			},
			"expire_old_messages fails for a queue": func(*rapid.T) {
				both(`create function fail() returns trigger language plpgsql as
					$$ begin if old.recipient_id = 'q1' then raise exception 'fails'; end if; return old; end $$`)
				both("create trigger fail before delete on messages for each row execute function fail()")
				both("call expire_old_messages(-1, 9, 2, 0, 0, 0)")
				both("drop function fail cascade")
			},
			"delete a message behind the queue's back": func(t *rapid.T) {
				both("delete from messages where message_id = (select min(message_id) from messages where recipient_id = $1)",
					[]byte(queue.Draw(t, "queue")))
			},
		})
	})
}

// TestFunctionsOfServerInAllStates calls each function on a queue in each state,
// with each list of up to two messages and a marker: results and tables must be
// those of smp-server's functions.
func TestFunctionsOfServerInAllStates(t *testing.T) {
	dsn := pgtest.DSN(t)
	theirs, ours := pgtest.Conn(t, dsn), pgtest.Conn(t, dsn)
	loadDump(t, theirs, "")
	pgtest.Exec(t, theirs, "set search_path to smp_server")
	makeSchema(t, ours, "ours", StoreMessages)
	pgtest.Exec(t, ours, "set search_path to ours")

	calls := []string{
		"select * from write_message('q', 'new', 9, false, true, 'body', 2)",
		"select * from write_message('q', 'new', 9, true, true, 'body', 2)",
		"select * from try_del_msg('q', 'm1')",
		"select * from try_del_peek_msg('q', 'm1')",
		"select delete_expired_msgs('q', 1)",
		"select delete_expired_msgs('q', 2)",
		"select delete_expired_msgs('q', 3)",
	}
	lists := []string{"", "('m1', 1, false)", "('m2', 1, false)", "('m1', 1, true)"}
	for _, a := range lists[1:] {
		for _, b := range []string{"('m1', 2, false)", "('m2', 2, false)", "('m2', 0, false)", "('m2', 2, true)"} {
			lists = append(lists, a+", "+b)
		}
	}
	var states []string
	for _, canWrite := range []string{"true", "false"} {
		for _, expire := range []string{"true", "false"} {
			for size := range 4 {
				for _, deleted := range []string{"null", "0"} {
					states = append(states, fmt.Sprintf("%s, %s, %d, %s", canWrite, expire, size, deleted))
				}
			}
		}
	}
	for _, list := range lists {
		var statements []string
		add := func(sql string) { statements = append(statements, sql) }
		for _, state := range states {
			for _, call := range calls {
				add("begin")
				add(`insert into msg_queues (recipient_id, recipient_keys, rcv_dh_secret, sender_id, status,
					msg_can_write, msg_queue_expire, msg_queue_size, deleted_at) values ('q', '', '', '', 'active', ` + state + ")")
				if list != "" {
					add(`insert into messages (recipient_id, msg_id, msg_ts, msg_quota, msg_ntf_flag, msg_body)
						select 'q', i::bytea, ts, marker, not marker, '' from (values ` + list + ") v (i, ts, marker)")
				}
				add(call)
				add("select msg_can_write, msg_queue_expire, msg_queue_size from msg_queues")
				add("select * from messages order by message_id")
				add("rollback")
			}
		}
		want, got := batchOutcomes(t, theirs, statements...), batchOutcomes(t, ours, statements...)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("messages %s (-smp-server +smpq):\n%s", list, diff)
		}
	}

	// The procedure commits, so its states are rows of one table, each with one
	// message.
	for _, c := range []*pgx.Conn{theirs, ours} {
		pgtest.Exec(t, c, `
			insert into msg_queues (recipient_id, recipient_keys, rcv_dh_secret, sender_id, status, updated_at, deleted_at, msg_queue_expire, msg_queue_size)
			select decode(lpad(to_hex(n), 4, '0'), 'hex'), '', '', decode(lpad(to_hex(n), 4, '0'), 'hex'), 'active',
			       nullif(n % 5, 4), nullif(n % 3, 2), n % 2 = 0, n % 7
			  from generate_series(0, 5 * 3 * 2 * 7 - 1) n;
			insert into messages (recipient_id, msg_id, msg_ts, msg_quota, msg_ntf_flag, msg_body)
			select recipient_id, 'm', 1, false, false, '' from msg_queues`)
	}
	for _, call := range []string{
		"call expire_old_messages(2, 9, 7, 0, 0, 0)",
		"call expire_old_messages(1, 9, 1, 0, 0, 0)",
		"call expire_old_messages(0, 1, 100, 0, 0, 0)",
		"call expire_old_messages(-1, 2, 100, 0, 0, 0)",
	} {
		var outcomes [2][]string
		for i, c := range []*pgx.Conn{theirs, ours} {
			for _, sql := range []string{call, "select * from msg_queues order by recipient_id", "select * from messages order by recipient_id"} {
				outcomes[i] = append(outcomes[i], batchOutcomes(t, c, sql)...)
			}
		}
		if diff := cmp.Diff(outcomes[0], outcomes[1]); diff != "" {
			t.Errorf("%s (-smp-server +smpq):\n%s", call, diff)
		}
	}
}

// batchOutcomes returns what each statement returns.
func batchOutcomes(t *testing.T, c *pgx.Conn, statements ...string) []string {
	t.Helper()
	b := new(pgx.Batch)
	for _, sql := range statements {
		b.Queue(sql)
	}
	var list []string
	results := c.SendBatch(t.Context(), b)
	for range statements {
		r, err := results.Query()
		if err != nil {
			t.Fatal(err)
		}
		maps, err := pgx.CollectRows(r, pgx.RowToMap)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, fmt.Sprint(maps))
	}
	if err := results.Close(); err != nil {
		t.Fatal(err)
	}
	return list
}

// TestBusyQueue leaves alone a queue that another session uses, as smp-server's
// functions do.
func TestBusyQueue(t *testing.T) {
	dsn := pgtest.DSN(t)
	c, other := pgtest.Conn(t, dsn), pgtest.Conn(t, dsn)
	loadDump(t, c, "")
	makeSchema(t, c, "ours", Newest)
	for _, schema := range []string{dumped, "ours"} {
		pgtest.Exec(t, c, "set search_path to "+schema)
		pgtest.Exec(t, c, `insert into msg_queues (recipient_id, recipient_keys, rcv_dh_secret, sender_id, status, updated_at)
			values ('a', '', '', 'a', 'active', 1), ('b', '', '', 'b', 'active', 1)`)
		pgtest.Exec(t, c, "select write_message(q, 'm', 1, false, false, '', 9) from (values ('a'::bytea), ('b')) v (q)")
		pgtest.Exec(t, other, "begin; select from "+schema+".msg_queues where recipient_id = 'a' for update")
		if n := one[int64](t, c, "select delete_expired_msgs('a', 9)"); n != 0 {
			t.Errorf("%s: deleted %d messages of a queue in use", schema, n)
		}
		var expired, messages, queues int64
		if err := c.QueryRow(t.Context(), "call expire_old_messages(0, 9, 10000, 0, 0, 0)").Scan(&expired, &messages, &queues); err != nil {
			t.Fatal(err)
		}
		if expired != 1 || messages != 1 || queues != 2 {
			t.Errorf("%s: expired %d, %d messages and %d queues left; want 1, 1, 2", schema, expired, messages, queues)
		}
		pgtest.Exec(t, other, "rollback")
		if n := one[int64](t, c, "select delete_expired_msgs('a', 9)"); n != 1 {
			t.Errorf("%s: deleted %d messages, want 1", schema, n)
		}
		// Its commits need a statement of its own.
		pgtest.Exec(t, c, "select write_message('a', 'm', 1, false, false, '', 9)")
		pgtest.Exec(t, c, "begin")
		_, err := c.Exec(t.Context(), "call expire_old_messages(0, 9, 10000, 0, 0, 0)")
		if code(err) != "2D000" {
			t.Errorf("%s: in a transaction: %v", schema, err)
		}
		pgtest.Exec(t, c, "rollback")
	}
}

// sum is the number of a service's queues, and the XOR of the MD5 of their ids.
type sum struct {
	Count int64
	Hash  [16]byte
}

func (s *sum) change(by int64, id []byte) {
	s.Count += by
	digest := md5.Sum(id)
	for i := range s.Hash {
		s.Hash[i] ^= digest[i]
	}
}

// sums reads what the services count.
func sums(t testing.TB, c *pgx.Conn, schema string) map[string]sum {
	t.Helper()
	r, err := c.Query(t.Context(), "select service_id, queue_count, queue_ids_hash from "+Quote(schema)+".services")
	if err != nil {
		t.Fatal(err)
	}
	result := make(map[string]sum)
	var id, hash []byte
	var n int64
	if _, err := pgx.ForEachRow(r, []any{&id, &n, &hash}, func() error {
		result[string(id)] = sum{n, [16]byte(hash)}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return result
}

// checkAggregates compares what the services count with the queues there are.
func checkAggregates(t testing.TB, c *pgx.Conn, schema string) {
	t.Helper()
	want := make(map[string]sum)
	add := func(service, id []byte) {
		s := want[string(service)]
		s.change(1, id)
		want[string(service)] = s
	}
	for id := range sums(t, c, schema) {
		want[id] = sum{}
	}
	for role, columns := range map[string]string{"M": "q.recipient_id, q.rcv_service_id", "N": "q.notifier_id, q.ntf_service_id"} {
		id, service, _ := strings.Cut(columns, ", ")
		r, err := c.Query(t.Context(), fmt.Sprintf(`
			select %s, %s from %s.msg_queues q join %[3]s.services s on s.service_id = %[2]s
			 where s.service_role = $1 and q.deleted_at is null and %[1]s is not null`, id, service, Quote(schema)), role)
		if err != nil {
			t.Fatal(err)
		}
		var queueID, serviceID []byte
		if _, err := pgx.ForEachRow(r, []any{&queueID, &serviceID}, func() error {
			add(serviceID, queueID)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, sums(t, c, schema)); diff != "" {
		t.Errorf("aggregates (-queues +services):\n%s", diff)
	}
}

// TestXor has the values that smp-server computes.
func TestXor(t *testing.T) {
	c := newConn(t)
	makeSchema(t, c, "x", Newest)
	pgtest.Exec(t, c, "set search_path to x")
	const ids = `(values ('\x000102030405060708090a0b0c0d0e0f1011121314151617'::bytea),
		('\x111111111111111111111111111111111111111111111111')) v (id)`
	for sql, want := range map[string]string{
		"select xor_aggregate(decode(md5(id), 'hex')) from " + ids + " where id < '\\x01'": "8bd9c8efbbac58748951ca5a45cfd386",
		"select xor_aggregate(decode(md5(id), 'hex')) from " + ids + " where id > '\\x01'": "38e3b10322d35c208903ed342e249322",
		"select xor_aggregate(decode(md5(id), 'hex')) from " + ids:                         "b33a79ec997f04540052276e6beb40a4",
		"select xor_aggregate(id) from " + ids + " where id is null":                       "00000000000000000000000000000000",
		"select xor_combine('', '')":                                                       "",
		"select xor_combine('\\xff0f', '\\x0ff0')":                                         "f0ff",
		"select coalesce(xor_combine('\\xff', null), xor_combine(null, '\\xff'), 'null')":  "6e756c6c",
	} {
		if got := hex.EncodeToString(one[[]byte](t, c, sql)); got != want {
			t.Errorf("%s: %s, want %s", sql, got, want)
		}
	}
	if _, err := c.Exec(t.Context(), `select xor_combine('\x00', '\x0000')`); code(err) != "P0001" {
		t.Errorf("different lengths: %v", err)
	}
}

// queueModel is what the triggers see of a queue.
type queueModel struct {
	RecipientID, NotifierID, RcvServiceID, NtfServiceID []byte
	Deleted                                             bool
}

func (q queueModel) String() string {
	return fmt.Sprintf("{recipient's service %q, notifier's service %q, notifier %q, deleted %t}",
		q.RcvServiceID, q.NtfServiceID, q.NotifierID, q.Deleted)
}

func (q queueModel) rcvActive() bool { return !q.Deleted && q.RcvServiceID != nil }

func (q queueModel) ntfActive() bool {
	return !q.Deleted && q.NtfServiceID != nil && q.NotifierID != nil
}

// serviceModel is what the triggers do to services, as the table of events in the
// description of smp-server's database has it.
type serviceModel map[string]sum

func (m serviceModel) change(service []byte, role byte, by int64, id []byte) {
	if service[0] == role {
		s := m[string(service)]
		s.change(by, id)
		m[string(service)] = s
	}
}

func (m serviceModel) insert(q queueModel) {
	if q.RcvServiceID != nil { // soft-deleted or not
		m.change(q.RcvServiceID, 'M', 1, q.RecipientID)
	}
	if q.NtfServiceID != nil && q.NotifierID != nil {
		m.change(q.NtfServiceID, 'N', 1, q.NotifierID)
	}
}

func (m serviceModel) remove(q queueModel) {
	if q.rcvActive() {
		m.change(q.RcvServiceID, 'M', -1, q.RecipientID)
	}
	if q.ntfActive() {
		m.change(q.NtfServiceID, 'N', -1, q.NotifierID)
	}
}

func (m serviceModel) update(before, after queueModel) {
	switch {
	case before.rcvActive() && !after.rcvActive():
		m.change(before.RcvServiceID, 'M', -1, before.RecipientID)
	case before.rcvActive() && !slices.Equal(before.RcvServiceID, after.RcvServiceID):
		m.change(before.RcvServiceID, 'M', -1, before.RecipientID)
		m.change(after.RcvServiceID, 'M', 1, after.RecipientID)
	case !before.rcvActive() && after.rcvActive():
		m.change(after.RcvServiceID, 'M', 1, after.RecipientID)
	}
	switch {
	case before.ntfActive() && !after.ntfActive():
		m.change(before.NtfServiceID, 'N', -1, before.NotifierID)
	case before.ntfActive() && (!slices.Equal(before.NtfServiceID, after.NtfServiceID) || !slices.Equal(before.NotifierID, after.NotifierID)):
		m.change(before.NtfServiceID, 'N', -1, before.NotifierID)
		m.change(after.NtfServiceID, 'N', 1, after.NotifierID)
	case !before.ntfActive() && after.ntfActive():
		m.change(after.NtfServiceID, 'N', 1, after.NotifierID)
	}
}

// TestTriggers inserts a queue in each state, updates it to each other state, and
// deletes it.
func TestTriggers(t *testing.T) {
	c := newConn(t)
	makeSchema(t, c, "x", Newest)
	pgtest.Exec(t, c, "set search_path to x")
	pgtest.Exec(t, c, `insert into services (service_id, service_role, service_cert, service_cert_hash, created_at)
		select s, left(convert_from(s, 'utf8'), 1), '', s, 0 from (values ('M1'::bytea), ('M2'), ('N1'), ('N2'), ('P1')) v (s)`)

	value := func(s string) []byte {
		if s == "" {
			return nil
		}
		return []byte(s)
	}
	var states []queueModel
	for _, rcv := range []string{"", "M1", "M2", "N1", "P1"} {
		for _, ntf := range [][2]string{{"", ""}, {"N1", ""}, {"", "n1"}, {"N1", "n1"}, {"N2", "n1"}, {"N1", "n2"}, {"M1", "n1"}} {
			for _, deleted := range []bool{false, true} {
				states = append(states, queueModel{[]byte("q"), value(ntf[1]), value(rcv), value(ntf[0]), deleted})
			}
		}
	}
	put := func(b *pgx.Batch, sql string, q queueModel) {
		var deleted *int64
		if q.Deleted {
			deleted = new(int64)
		}
		b.Queue(sql, q.RecipientID, q.NotifierID, q.RcvServiceID, q.NtfServiceID, deleted)
	}
	const read = `select array_agg(service_id order by service_id), array_agg(queue_count order by service_id),
		array_agg(queue_ids_hash order by service_id) from services`
	for _, before := range states {
		pgtest.Exec(t, c, "begin")
		b := new(pgx.Batch)
		for _, after := range states {
			b.Queue("update services set queue_count = 0, queue_ids_hash = default")
			put(b, `insert into msg_queues (recipient_id, notifier_id, rcv_service_id, ntf_service_id, deleted_at,
				recipient_keys, rcv_dh_secret, sender_id, status) values ($1, $2, $3, $4, $5, '', '', '', 'active')`, before)
			b.Queue(read)
			put(b, "update msg_queues set notifier_id = $2, rcv_service_id = $3, ntf_service_id = $4, deleted_at = $5 where recipient_id = $1", after)
			b.Queue(read)
			b.Queue("delete from msg_queues")
			b.Queue(read)
		}
		results := c.SendBatch(t.Context(), b)
		exec := func() {
			t.Helper()
			if _, err := results.Exec(); err != nil {
				t.Fatal(err)
			}
		}
		check := func(want serviceModel, format string, args ...any) {
			t.Helper()
			exec()
			var ids, hashes [][]byte
			var counts []int64
			if err := results.QueryRow().Scan(&ids, &counts, &hashes); err != nil {
				t.Fatal(err)
			}
			got := make(serviceModel)
			for i, id := range ids {
				got[string(id)] = sum{counts[i], [16]byte(hashes[i])}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", fmt.Sprintf(format, args...), diff)
			}
		}
		for _, after := range states {
			m := serviceModel{"M1": {}, "M2": {}, "N1": {}, "N2": {}, "P1": {}}
			exec()
			m.insert(before)
			check(m, "insert %s", before)
			m.update(before, after)
			check(m, "update %s to %s", before, after)
			m.remove(after)
			check(m, "delete %s", after)
		}
		if err := results.Close(); err != nil {
			t.Fatal(err)
		}
		pgtest.Exec(t, c, "rollback")
	}
}

// TestUpdateAllAggregates counts anew, with smp-server's two peculiarities: a
// service without queues keeps what it has, and a queue that has a notifier's
// service but no notifier counts with an id of zeros.
func TestUpdateAllAggregates(t *testing.T) {
	c := newConn(t)
	makeSchema(t, c, "x", StoreMessages)
	pgtest.Exec(t, c, "set search_path to x")
	pgtest.Exec(t, c, `insert into services (service_id, service_role, service_cert, service_cert_hash, created_at)
		values ('M', 'M', '', 'M', 0), ('N', 'N', '', 'N', 0), ('P', 'P', '', 'P', 0), ('idle', 'M', '', '', 0)`)
	pgtest.Exec(t, c, `insert into msg_queues (recipient_id, notifier_id, rcv_service_id, ntf_service_id, deleted_at,
			recipient_keys, rcv_dh_secret, sender_id, status)
		values ('a', 'na', 'M', 'N', null, '', '', 'a', 'active'),
		       ('b', 'nb', 'M', 'N', null, '', '', 'b', 'active'),
		       ('c', 'nc', 'M', 'N', 1, '', '', 'c', 'active'),
		       ('d', 'nd', null, null, null, '', '', 'd', 'active'),
		       ('e', 'ne', 'N', 'M', null, '', '', 'e', 'active'),
		       ('f', null, 'P', 'N', null, '', '', 'f', 'active')`)
	var m, n sum
	m.change(1, []byte("a"))
	m.change(1, []byte("b"))
	n.change(1, []byte("na"))
	n.change(1, []byte("nb"))
	n.change(1, make([]byte, 16))
	want := map[string]sum{"M": m, "N": n, "P": {}, "idle": {}}

	mustMigrate(t, c, "x", QueueIDsHash)
	if diff := cmp.Diff(want, sums(t, c, "x")); diff != "" {
		t.Errorf("after the migration (-want +got):\n%s", diff)
	}
	pgtest.Exec(t, c, "update services set queue_count = 7, queue_ids_hash = decode(md5(''), 'hex')")
	pgtest.Exec(t, c, "select update_all_aggregates()")
	var idle sum
	idle.change(7, nil)
	want["P"], want["idle"] = idle, idle
	if diff := cmp.Diff(want, sums(t, c, "x")); diff != "" {
		t.Errorf("counted anew (-want +got):\n%s", diff)
	}
}
