package inspect

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/dumptest"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.M{M: m}) }

const schemaName = "smp_server"

func load(t testing.TB, dir string) (*pgx.Conn, store.Schema) {
	t.Helper()
	conn := pgtest.Conn(t, pgtest.DSN(t))
	dumptest.Load(t, conn, schemaName, dir)
	s, err := store.OpenSchema(t.Context(), conn, schemaName)
	if err != nil {
		t.Fatal(err)
	}
	return conn, s
}

// A log has the numbers of the database that smp-server made of it, without a
// database.
func TestLogLikeImport(t *testing.T) {
	conn := pgtest.Conn(t, pgtest.DSN(t))
	for _, dir := range dumptest.Dirs(t) {
		name := filepath.Base(dir)
		log := filepath.Join(dir, "input.log")
		if kind, step, ok := strings.Cut(name, "-"); ok && (kind == "memory" || kind == "journal") {
			log = filepath.Join(dumptest.Root, "..", "1-storelog", kind, step+".log")
		}
		switch name[:2] {
		case "da": // a live database has no log that it was made of
			continue
		case "13", "17", "19", "33": // smp-server could not import it
			continue
		case "36": // smp-server drops a queue that smpq reads
			continue
		case "39": // smp-server wraps a number that smpq refuses
			continue
		}
		t.Run(name, func(t *testing.T) {
			dumptest.Load(t, conn, schemaName, dir)
			s, err := store.OpenSchema(t.Context(), conn, schemaName)
			if err != nil {
				t.Fatal(err)
			}
			want, err := Counts(t.Context(), conn, s, false)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Log(t.Context(), log, LogOptions{TempDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want.QueueCounts, got.QueueCounts); diff != "" {
				t.Errorf("counts (-smp-server's database +log):\n%s", diff)
			}
		})
	}
}

// recorder notes what it is told of progress.
type recorder struct {
	phases []string
	totals []int64
	done   []int64
}

func (r *recorder) Phase(name string, total int64, unit string) {
	r.phases = append(r.phases, name+" "+unit)
	r.totals = append(r.totals, total)
	r.done = append(r.done, 0)
}

func (r *recorder) Add(n int64) { r.done[len(r.done)-1] += n }

// A log of many blocks is read to its end, not further.
func TestLogProgress(t *testing.T) {
	name := filepath.Join(t.TempDir(), "store.log")
	log := bytes.Repeat([]byte("SUSPEND AAECAwQFBgcICQoLDA0ODxAREhMUFRYX\n"), 100_000)
	if err := os.WriteFile(name, log, 0o600); err != nil {
		t.Fatal(err)
	}
	var progress recorder
	if _, err := Log(t.Context(), name, LogOptions{TempDir: t.TempDir(), Progress: &progress}); err != nil {
		t.Fatal(err)
	}
	if got := progress.done[0]; got != int64(len(log)) {
		t.Errorf("%d bytes of %d", got, len(log))
	}
}

// Of each kind of problem the first lines are named, though they are found in
// another order.
func TestLogFirstProblems(t *testing.T) {
	const create = "CREATE rid=%s rk=MCowBQYDK2VwAyEAiojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w= rdh=QOR6P1Jb3KxJHUGJeNfbWvYjrHr-diPG14pdT86dD2M= sid=%s sk=\n"
	var b strings.Builder
	id := func(kind byte, i int) string { return base64.URLEncoding.EncodeToString([]byte{kind, byte(255 - i)}) }
	for i := range 40 {
		fmt.Fprintf(&b, create, id('r', i), id('s', i))
	}
	for i := range 40 {
		fmt.Fprintf(&b, create, id('r', i), id('t', i))
		fmt.Fprintf(&b, "SUSPEND %s \n", id('r', i))
	}
	name := filepath.Join(t.TempDir(), "store.log")
	if err := os.WriteFile(name, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	var progress recorder
	r, err := Log(t.Context(), name, LogOptions{TempDir: t.TempDir(), Problems: 3, Progress: &progress})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range r.Problems {
		for _, f := range p.First {
			got = append(got, fmt.Sprintf("%s %d of %d, line %d", p.Kind, len(p.First), p.Count, f.Line))
		}
	}
	want := []string{
		"malformed 3 of 40, line 42", "malformed 3 of 40, line 44", "malformed 3 of 40, line 46",
		"refused 3 of 40, line 41", "refused 3 of 40, line 43", "refused 3 of 40, line 45",
	}
	if diff := cmp.Diff(want, got); diff != "" || r.Rejected() != 80 || r.Queues != 40 {
		t.Errorf("%d rejected, %d queues, problems (-want +got):\n%s", r.Rejected(), r.Queues, diff)
	}
	wantProgress := recorder{
		phases: []string{"reading bytes", "replaying queues"},
		totals: []int64{int64(b.Len()), 80},
		done:   []int64{int64(b.Len()), 40},
	}
	if diff := cmp.Diff(wantProgress, progress, cmp.AllowUnexported(recorder{})); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
}

// Without asking for them, nobody sees secrets; with asking, all.
func TestQueueSecrets(t *testing.T) {
	conn, s := load(t, dumptest.Root+"/database-mode-live")
	secrets := make(map[string]queue.RecipientID)
	var ids []queue.RecipientID
	for row, err := range store.Queues(t.Context(), conn, s, store.ReadOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, row.RecipientID)
		secrets[row.RcvDHSecret.Reveal()] = row.RecipientID
		if n := row.Notifier; n != nil {
			secrets[n.DHSecret.Reveal()] = row.RecipientID
		}
		if l := row.Link; l != nil {
			secrets[base64.URLEncoding.EncodeToString(l.Data.Fixed)] = row.RecipientID
			secrets[base64.URLEncoding.EncodeToString(l.Data.User)] = row.RecipientID
		}
	}
	for _, id := range ids {
		for m, err := range store.Messages(t.Context(), conn, s, id) {
			if err != nil {
				t.Fatal(err)
			}
			if len(m.Body) > 8 {
				secrets[base64.URLEncoding.EncodeToString(m.Body)] = id
			}
		}
	}
	shown := make(map[string]bool)
	for _, id := range ids {
		for _, reveal := range []bool{false, true} {
			reports, err := Queue(t.Context(), conn, s, id.Bytes(), QueueOptions{Messages: true, Secrets: reveal})
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(reports)
			if err != nil {
				t.Fatal(err)
			}
			for secret, owner := range secrets {
				if !strings.Contains(string(text), secret) {
					continue
				}
				shown[secret] = true
				if !reveal || owner != id {
					t.Errorf("the report of queue %s has a secret of queue %s", id, owner)
				}
			}
		}
	}
	for _, secret := range slices.Sorted(maps.Keys(secrets)) {
		if !shown[secret] {
			t.Errorf("a secret of queue %s is not shown to who asks for it", secrets[secret])
		}
	}
}

func TestNotFound(t *testing.T) {
	conn, s := load(t, dumptest.Root+"/variants/00-base")
	if _, err := Queue(t.Context(), conn, s, []byte("nobody"), QueueOptions{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("queue: %v", err)
	}
	if _, err := Service(t.Context(), conn, s, queue.ServiceID{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("service: %v", err)
	}
	if _, err := Schema(t.Context(), conn, "nobody"); !errors.Is(err, schema.ErrMissing) {
		t.Errorf("schema: %v", err)
	}
}

// A schema that is too old for everything else can still be looked at.
func TestOldSchema(t *testing.T) {
	conn, _ := load(t, dumptest.Root+"/variants/05-sndSecure-T-F-none")
	o := schema.Options{Approve: func(schema.Plan) error { return nil }}
	if _, err := schema.Migrate(t.Context(), conn, schemaName, schema.ShortLinks, o); err != nil {
		t.Fatal(err)
	}
	r, err := Schema(t.Context(), conn, schemaName)
	if err != nil || r.Version != schema.ShortLinks || len(r.Tables) != 2 || len(r.Indexes) < 5 || r.TotalBytes == 0 || len(r.Releases) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestServiceProblems(t *testing.T) {
	conn, s := load(t, dumptest.Root+"/memory-1-raw")
	pgtest.Exec(t, conn, `
		update smp_server.services set service_cert = '\x0100021234';
		update smp_server.msg_queues set rcv_service_id = (select service_id from smp_server.services where service_role = 'N')`)
	reports, err := Services(t.Context(), conn, s)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range reports {
		if c := r.Certificates; len(c) != 1 || c[0].SHA256 == "" || c[0].Subject != "" {
			t.Errorf("a certificate that is none: %+v", c)
		}
		for _, p := range r.Problems {
			got = append(got, r.Role+": "+p)
		}
	}
	want := []string{
		"messaging: the certificate hash is not that of the identity certificate",
		"notifier: 19 queues have it as receiving service, which is not its role",
		"notifier: the certificate hash is not that of the identity certificate",
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestFormatDate(t *testing.T) {
	for _, tc := range []struct {
		in   queue.Date
		want string
	}{
		{queue.Date{}, ""},
		{queue.Date{Seconds: 5}, ""},
		{queue.DateOf(0), "1970-01-01"},
		{queue.DateOf(1757894400), "2025-09-15"},
		{queue.DateOf(1757894401), "2025-09-15T00:00:01Z"},
		{queue.DateOf(-86400), "1969-12-31"},
		{queue.DateOf(-1), "1969-12-31T23:59:59Z"},
		{queue.DateOf(253402214400), "9999-12-31"},
		{queue.DateOf(253402300800), "253402300800"},
		{queue.DateOf(1 << 62), "4611686018427387904"},
		{queue.DateOf(-1 << 63), "-9223372036854775808"},
	} {
		if got := formatDate(tc.in); got != tc.want {
			t.Errorf("formatDate(%v) = %q, want %q", tc.in, got, tc.want)
		}
	}
}
