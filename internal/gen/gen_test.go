package gen_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/gen"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/storelog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(t testing.TB, o gen.Options) ([]byte, gen.Stats) {
	t.Helper()
	var b bytes.Buffer
	stats, err := gen.Write(&b, o)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), stats
}

// replayed is what a reader makes of a log.
type replayed struct {
	counts   storelog.Counts
	services []queue.Service
	queues   []string // as lines
	records  []queue.Record
	problems map[storelog.ProblemKind]int64
}

func replay(t testing.TB, log []byte) replayed {
	t.Helper()
	dir := t.TempDir()
	name := filepath.Join(dir, "store.log")
	if err := os.WriteFile(name, log, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := storelog.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := replayed{problems: map[storelog.ProblemKind]int64{}}
	state, err := storelog.Replay(t.Context(), f, storelog.Options{
		TempDir:     dir,
		ForDatabase: true,
		OnProblem: func(p storelog.Problem) error {
			r.problems[p.Kind]++
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	for q, err := range state.Queues(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		r.queues = append(r.queues, string(storelog.AppendQueue(nil, q)))
		r.records = append(r.records, *q)
	}
	r.counts, r.services = state.Counts(), state.Services()
	return r
}

// The same options give the same bytes for ever: benchmarks and demonstrations
// name logs by their options.
func TestSameBytes(t *testing.T) {
	for _, tc := range []struct {
		name string
		o    gen.Options
		want string
	}{
		{"empty", gen.Options{}, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		{"small", gen.Options{Queues: 100, Seed: 1, LinkBytes: 200}, "0a86a0e2835aa1690f20c5217b42a18ee2b5979568d0bf7cbdad750e5c9c0a49"},
		{"other seed", gen.Options{Queues: 100, Seed: 2, LinkBytes: 200}, "698b7859f994fc9495cf97dc1dcfeaca21948f62f5edc9d95f18827a1f62da6a"},
		{"larger than the window", gen.Options{Queues: 33_000, Seed: 1, LinkBytes: 64}, "405b8c6c31b180f9677384a7f57eaa210e856134054c22c060bd49e84bf1b494"},
		{"real links", gen.Options{Queues: 300, Seed: 1}, "ee5652f5804e05da5161b48a6ffcfdd160d66458ca24cf36cf6c438856c6e3fa"},
		{"bad lines", gen.Options{Queues: 1000, Seed: 1, LinkBytes: 64, BadLines: 0.2, Torn: true}, "ecf96cba30f6626265c31583bfbaaaf0ee3faea763ccb175e16869269be59121"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := sha256.New()
			if _, err := gen.Write(h, tc.o); err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(h.Sum(nil)); got != tc.want {
				t.Errorf("%+v: SHA-256 %s, want %s", tc.o, got, tc.want)
			}
		})
	}
}

// A log without bad lines is read without a loss, and is what Stats say.
func TestClean(t *testing.T) {
	for _, queues := range []int64{0, 1, 2, 3, 10, 1000, 5000} {
		log, stats := write(t, gen.Options{Queues: queues, Seed: 7, LinkBytes: 64})
		got := replay(t, log)
		if len(got.problems) > 0 {
			t.Errorf("%d queues: problems %v", queues, got.problems)
		}
		checkStats(t, stats, log, got)
	}
}

// Bad lines are reported as what they are, and change nothing else.
func TestBadLines(t *testing.T) {
	for _, o := range []gen.Options{
		{Queues: 3000, Seed: 3, LinkBytes: 64, BadLines: 0.01},
		{Queues: 2000, Seed: 4, LinkBytes: 64, BadLines: 0.5, Torn: true},
		{Queues: 1, Seed: 5, LinkBytes: 64, BadLines: 0.9, Torn: true},
		{Queues: 0, Torn: true},
	} {
		log, stats := write(t, o)
		got := replay(t, log)
		checkStats(t, stats, log, got)

		bad := stats.Malformed + stats.Refused + stats.Late
		if o.Torn {
			bad--
		}
		share, tolerance := float64(bad)/float64(max(stats.Lines, 1)), 4*math.Sqrt(o.BadLines/float64(max(stats.Lines, 1)))
		if math.Abs(share-o.BadLines) > tolerance {
			t.Errorf("%+v: %d of %d lines are bad", o, bad, stats.Lines)
		}

		clean := o
		clean.BadLines, clean.Torn = 0, false
		log, _ = write(t, clean)
		if diff := cmp.Diff(replay(t, log).queues, got.queues); diff != "" {
			t.Errorf("%+v: queues (-without bad lines +with):\n%s", o, diff)
		}
	}
}

func checkStats(t *testing.T, stats gen.Stats, log []byte, got replayed) {
	t.Helper()
	want := gen.Stats{
		Lines:     got.counts.Lines,
		Bytes:     got.counts.Bytes,
		Records:   got.counts.Records,
		Queues:    int64(len(got.queues)),
		Malformed: got.problems[storelog.Malformed],
		Refused:   got.problems[storelog.Refused],
		Late:      got.problems[storelog.Late],
	}
	if diff := cmp.Diff(want, stats); diff != "" {
		t.Errorf("Stats (-as read +as written):\n%s", diff)
	}
	if got := int64(len(log)); got != stats.Bytes {
		t.Errorf("%d bytes, Stats say %d", got, stats.Bytes)
	}
}

// The mix of queues and records is that of a router.
func TestMix(t *testing.T) {
	log, stats := write(t, gen.Options{Queues: 15_000, Seed: 11, LinkBytes: 64})
	got := replay(t, log)
	count := func(is func(queue.Record) bool) float64 {
		n := 0
		for _, q := range got.records {
			if is(q) {
				n++
			}
		}
		return float64(n) / float64(len(got.records))
	}
	key := func(a smp.Algorithm) func(queue.Record) bool {
		return func(q queue.Record) bool { return q.RecipientKeys[0].Algorithm() == a }
	}
	for _, tc := range []struct {
		what      string
		got, want float64
	}{
		{"lines for each queue", float64(stats.Lines) / 15_000, 3.33},
		{"live", float64(stats.Queues) / 15_000, 0.9},
		{"secured", count(func(q queue.Record) bool { return !q.SenderKey.IsZero() }), 0.9},
		{"with notifier", count(func(q queue.Record) bool { return q.Notifier != nil }), 0.3},
		{"with link", count(func(q queue.Record) bool { return q.Link != nil }), 0.1},
		{"messaging", count(func(q queue.Record) bool { return q.Mode == queue.ModeMessaging }), 0.86},
		{"contact", count(func(q queue.Record) bool { return q.Mode == queue.ModeContact }), 0.09},
		{"without date", count(func(q queue.Record) bool { return !q.UpdatedAt.Known }), 0.04},
		{"off", count(func(q queue.Record) bool { return q.Status.State == queue.Off }), 0.04},
		{"blocked", count(func(q queue.Record) bool { return q.Status.State == queue.Blocked }), 0.01},
		{"with receiving service", count(func(q queue.Record) bool { return !q.RcvService.IsZero() }), 0.036},
		{"with notifier service", count(func(q queue.Record) bool { return q.Notifier != nil && !q.Notifier.Service.IsZero() }), 0.065},
		{"Ed25519", count(key(smp.Ed25519)), 0.6},
		{"X25519", count(key(smp.X25519)), 0.28},
		{"Ed448", count(key(smp.Ed448)), 0.12},
		{"with several keys", count(func(q queue.Record) bool { return len(q.RecipientKeys) > 1 }), 0.015},
	} {
		if math.Abs(tc.got-tc.want) > tc.want/10+0.003 {
			t.Errorf("%s: %.4f, want about %.4f", tc.what, tc.got, tc.want)
		}
	}
	tags := []string{
		"CREATE", "LINK", "LDELETE", "SECURE", "KEYS", "NOTIFIER", "NDELETE", "SUSPEND",
		"BLOCK", "UNBLOCK", "TIME", "DELETE", "NEW_SERVICE", "QUEUE_SERVICE",
	}
	for _, tag := range tags {
		if stats.Records[tag] == 0 {
			t.Errorf("no %s record", tag)
		}
	}
	for _, form := range []string{" sndSecure=T", " sndSecure=F", "updated_at=+", `,notice={"ttl": null}`, " R \n", " N \n"} {
		if !bytes.Contains(log, []byte(form)) {
			t.Errorf("no %q", form)
		}
	}
	if unpadded := bytes.Count(log, []byte(" sk=")) - bytes.Count(log, []byte("= sid=")); unpadded == 0 {
		t.Error("no values without padding")
	}
	roles := map[queue.Role]int{}
	for _, s := range got.services {
		roles[s.Role]++
	}
	if diff := cmp.Diff(map[queue.Role]int{'M': 2, 'N': 2, 'P': 1}, roles); diff != "" {
		t.Errorf("roles of services (-want +got):\n%s", diff)
	}
}

// The records of many queues are mixed, within bounds.
func TestInterleaved(t *testing.T) {
	log, _ := write(t, gen.Options{Queues: 12_000, Seed: 1, LinkBytes: 64})
	created := map[string]int{}
	creates, farthest, sum, later := 0, 0, 0, 0
	for line := range bytes.Lines(log) {
		rec, err := storelog.Parse(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			t.Fatal(err)
		}
		id := rec.Queue().String()
		switch rec.(type) {
		case *storelog.Create:
			creates++
			created[id] = creates
		case *storelog.NewService:
		default:
			distance := creates - created[id]
			farthest, sum, later = max(farthest, distance), sum+distance, later+1
		}
	}
	if mean := sum / later; mean < 300 || farthest < 1500 || farthest > 3000 {
		t.Errorf("records follow %d queues after the creation on average, at most %d", mean, farthest)
	}
}

// Services have certificates that stand up to X.509.
func TestCertificates(t *testing.T) {
	log, _ := write(t, gen.Options{Queues: 10, Seed: 1, LinkBytes: 64})
	for _, s := range replay(t, log).services {
		var chain []*x509.Certificate
		for _, der := range s.CertChain {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			chain = append(chain, c)
		}
		ca := chain[len(chain)-1]
		key, ok := ca.PublicKey.(ed25519.PublicKey)
		if !ok {
			t.Fatalf("key of type %T", ca.PublicKey)
		}
		for _, c := range chain {
			if !ed25519.Verify(key, c.RawTBSCertificate, c.Signature) || !bytes.Equal(c.RawIssuer, ca.RawSubject) {
				t.Errorf("certificate of %s is not signed by %s", c.Subject, ca.Subject)
			}
		}
		if !bytes.Equal(s.CertHash, s.CertChain.IdentityHash()) {
			t.Errorf("service %s: the hash is not that of its identity certificate", s.ID)
		}
	}
}

// The size of links is the one asked for, and that of real clients by default.
func TestLinkBytes(t *testing.T) {
	for _, tc := range []struct{ bytes, fixed, user int }{
		{0, 2048, 13824},
		{2, 1, 1},
		{100, 12, 88},
	} {
		log, _ := write(t, gen.Options{Queues: 500, Seed: 1, LinkBytes: tc.bytes})
		links := slices.DeleteFunc(replay(t, log).records, func(q queue.Record) bool { return q.Link == nil })
		if len(links) == 0 {
			t.Error("no links")
		}
		for _, q := range links {
			if d := q.Link.Data; len(d.Fixed) != tc.fixed || len(d.User) != tc.user {
				t.Fatalf("%d bytes: link with %d and %d", tc.bytes, len(d.Fixed), len(d.User))
			}
		}
	}
}

func TestRefusesOptions(t *testing.T) {
	for _, o := range []gen.Options{
		{Queues: -1},
		{LinkBytes: 1},
		{LinkBytes: -5},
		{BadLines: -0.1},
		{BadLines: 1},
		{BadLines: math.NaN()},
	} {
		if stats, err := gen.Write(io.Discard, o); err == nil || stats.Lines > 0 {
			t.Errorf("%+v: %d lines, error %v", o, stats.Lines, err)
		}
	}
}

// brokenWriter fails after some bytes.
type brokenWriter struct{ left int }

var errBroken = errors.New("disk full")

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errBroken
	}
	return len(p), nil
}

func TestWriteError(t *testing.T) {
	for _, left := range []int{0, 1 << 20} {
		// So many queues that it would not end if it did not stop.
		stats, err := gen.Write(&brokenWriter{left: left}, gen.Options{Queues: math.MaxInt64 / 2048, LinkBytes: 64})
		if !errors.Is(err, errBroken) {
			t.Errorf("after %d lines: %v", stats.Lines, err)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, tc := range []struct {
		name string
		o    gen.Options
	}{
		{"small links", gen.Options{Queues: 20_000, LinkBytes: 200}},
		{"real links", gen.Options{Queues: 20_000}},
	} {
		b.Run(tc.name, func(b *testing.B) {
			b.ReportAllocs()
			lines := int64(0)
			for b.Loop() {
				stats, err := gen.Write(io.Discard, tc.o)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(stats.Bytes)
				lines += stats.Lines
			}
			b.ReportMetric(float64(lines)/b.Elapsed().Seconds(), "lines/s")
		})
	}
}
