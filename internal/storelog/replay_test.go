package storelog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/logfile"
	"github.com/smpq/smpq/internal/queue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// realData holds files made by smp-server 6.5.5; see its README.
const realData = "../../testdata/smp-server-6.5.5"

// replayed is what a replay gives: the lines of a compacted log and the
// problems.
type replayed struct {
	lines    []string
	problems []string
}

func replayAll(t testing.TB, r io.Reader, o Options) (replayed, *State, error) {
	t.Helper()
	var res replayed
	o.TempDir = t.TempDir()
	o.OnProblem = func(p Problem) error {
		res.problems = append(res.problems, fmt.Sprintf("%d %s", p.Line, p.Kind))
		return nil
	}
	s, err := replay(t.Context(), r, o)
	if err != nil {
		return res, nil, err
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, sv := range s.Services() {
		res.lines = append(res.lines, string(Append(nil, &NewService{sv})))
	}
	for q, err := range s.Queues(t.Context()) {
		if err != nil {
			return res, s, err
		}
		res.lines = append(res.lines, string(AppendQueue(nil, q)))
	}
	slices.Sort(res.problems)
	return res, s, nil
}

func readLines(t testing.TB, name string) []string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(strings.Lines(string(data)))
}

// On every real log and every log with irregularities, the replay ends in the
// state that smp-server made of it. Its compacted logs are compared as sets of
// lines, as their order depends on the build.
func TestReplayLikeSmpServer(t *testing.T) {
	type pair struct{ name, log, want string }
	var pairs []pair
	for _, kind := range []string{"memory", "journal"} {
		for _, log := range []string{"1-raw", "3-after-kill9", "5-torn"} {
			pairs = append(pairs, pair{
				kind + "/" + log,
				filepath.Join(realData, "1-storelog", kind, log+".log"),
				filepath.Join(realData, "2-import", kind+"-"+log, "memory-start-compacted.log"),
			})
		}
		for _, log := range []string{"2-compacted", "4-compacted", "6-compacted-after-torn"} {
			name := filepath.Join(realData, "1-storelog", kind, log+".log")
			pairs = append(pairs, pair{kind + "/" + log, name, name})
		}
	}
	variants, err := filepath.Glob(filepath.Join(realData, "2-import/variants/[0-9]*"))
	if err != nil || len(variants) < 40 {
		t.Fatalf("%d variants: %v", len(variants), err)
	}
	for _, v := range variants {
		pairs = append(pairs, pair{filepath.Base(v), filepath.Join(v, "input.log"), filepath.Join(v, "memory-start-compacted.log")})
	}
	for _, p := range pairs {
		t.Run(p.name, func(t *testing.T) {
			f, err := os.Open(p.log)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got, _, err := replayAll(t, f, Options{})
			if err != nil {
				t.Fatal(err)
			}
			want := readLines(t, p.want)
			switch p.name {
			case "33-link-records":
				// Two queues with one link: smp-server writes both, and drops
				// one of the queues when it reads that again. Here the queue to
				// which the link leads keeps it.
				link := " link_id=FR7ytNraOs-dMw69bPiBp_qidYYRGUAD queue_data=Zml4ZWQ= dXNlcjI="
				want = replaceLine(t, want, "rid=De5BnnQnc1XN2Mk1YgAUS6yPbn4ouMzA", link, "")
			case "36-blocked-notice-and-rsrv":
				// A line with a notice and a service, which smp-server writes
				// and cannot read: it lost the queue of the input that has one.
				unreadable := readLines(t, p.log)[2]
				want = append(want, unreadable)
				for i, l := range want {
					if strings.Contains(l, "} rsrv=") {
						rec, err := Parse([]byte(strings.TrimSuffix(l, "\n")))
						if err != nil {
							t.Fatal(err)
						}
						want[i] = string(AppendQueue(nil, &rec.(*Create).Record))
					}
				}
			case "39-numbers":
				// A number that smp-server let overflow.
				want = slices.DeleteFunc(want, func(l string) bool { return strings.Contains(l, "updated_at=7766279631452241919") })
			}
			slices.Sort(want)
			slices.Sort(got.lines)
			if diff := cmp.Diff(want, got.lines); diff != "" {
				t.Errorf("state (-smp-server +smpq):\n%s\nproblems: %v", diff, got.problems)
			}
		})
	}
}

func replaceLine(t *testing.T, lines []string, with, old, repl string) []string {
	t.Helper()
	i := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, with) && strings.Contains(l, old) })
	if i < 0 {
		t.Fatalf("no line with %s and %s in\n%s", with, old, strings.Join(lines, ""))
	}
	lines[i] = strings.Replace(lines[i], old, repl, 1)
	return lines
}

// The replay example of the format's description.
func TestReplayExample(t *testing.T) {
	zid, fid := strings.Repeat("A", 32), strings.Repeat("_", 32)
	other := func(id, sid string) string {
		return strings.NewReplacer("rid="+rid, "rid="+id, "sid="+sidOf(create), "sid="+sid).Replace(create)
	}
	service := "NEW_SERVICE service_id=" + svc + " role=N cert=" + cert + " cert_hash=" + certHash + " created_at=1757894400"
	log := strings.Join([]string{
		other(fid, "AQEB"),
		service,
		create,
		other(zid, "AgIC"),
		"# a comment",
		"",
		create,
		other("BQUF", sid),
		"SECURE " + rid + " " + sk,
		"SECURE " + rid + " " + nk,
		"NOTIFIER " + rid + " " + nid + " " + nk + " " + ntfDH,
		"NOTIFIER " + rid + " " + nid + " " + nk + " " + ntfDH,
		"QUEUE_SERVICE " + rid + " N " + svc,
		"LINK " + rid + " " + lid + " " + fixed + " " + user,
		"LINK " + rid + " " + lid + " " + user + " " + user,
		"DELETE " + zid,
		"SUSPEND " + zid,
		"SUSPEND BQUF",
		other(zid, "AgIC"),
		strings.Replace(service, svc, "AwMD", 1),
		strings.Replace(service, "role=N", "role=M", 1),
		"TIME " + rid + " 1757894400",
		"TIME " + fid + " 17578",
	}, "\n")
	got, s, err := replayAll(t, strings.NewReader(log), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		service + "\n",
		create + sk + " link_id=" + lid + " queue_data=" + fixed + " " + user +
			" notifier=" + nid + " " + nk + " " + ntfDH + " nsrv=" + svc + " updated_at=1757894400\n",
		other(fid, "AQEB") + " updated_at=17578\n",
	}
	if diff := cmp.Diff(want, got.lines); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
	problems := []string{
		"10 refused", "12 refused", "15 refused", "17 late", "18 refused", "19 refused", "20 refused", "21 refused",
		"23 unterminated", "5 malformed", "6 malformed", "7 refused", "8 refused",
	}
	if diff := cmp.Diff(problems, got.problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	if c := s.Counts(); c.Lines != 23 || c.Bytes != int64(len(log)) || c.Records["CREATE"] != 6 {
		t.Errorf("counts %+v", c)
	}
}

func sidOf(line string) string {
	_, rest, _ := strings.Cut(line, "sid=")
	id, _, _ := strings.Cut(rest, " ")
	return id
}

// With ForDatabase, what a database would refuse is reported with a
// record of what was left out.
func TestForDatabase(t *testing.T) {
	var lost []string
	s, err := replay(t.Context(), strings.NewReader(
		create+" notifier="+nid+" "+nk+" "+ntfDH+" nsrv=AwMD\n"+
			"QUEUE_SERVICE "+rid+" R BAQE\n"), Options{
		TempDir:     t.TempDir(),
		ForDatabase: true,
		OnProblem: func(p Problem) error {
			lost = append(lost, fmt.Sprintf("%d %s %s", p.Line, p.Kind, p.Text))
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for q, err := range s.Queues(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if !q.RcvService.IsZero() || !q.Notifier.Service.IsZero() {
			t.Errorf("services are still there: %v, %v", q.RcvService, q.Notifier.Service)
		}
	}
	want := []string{
		"2 unknown service QUEUE_SERVICE " + rid + " R BAQE",
		"1 unknown service QUEUE_SERVICE " + rid + " N AwMD",
	}
	if diff := cmp.Diff(want, lost); diff != "" {
		t.Errorf("lost (-want +got):\n%s", diff)
	}
}

// Malformed lines are reported in the order of the log, however large it is,
// and the first error of OnProblem ends the replay.
func TestProblemsInOrder(t *testing.T) {
	var b strings.Builder
	for i := range 100_000 {
		if i%10 == 3 {
			fmt.Fprintf(&b, "garbage %d\n", i)
		} else {
			b.WriteString("TIME " + rid + " 1757894400\n")
		}
	}
	last, n := int64(0), 0
	stop := errors.New("stop")
	_, err := replay(t.Context(), strings.NewReader(b.String()), Options{
		TempDir: t.TempDir(),
		OnProblem: func(p Problem) error {
			if p.Line <= last || p.Kind != Malformed {
				t.Errorf("%s after line %d", p, last)
			}
			last = p.Line
			if n++; n == 5000 {
				return stop
			}
			return nil
		},
	})
	if !errors.Is(err, stop) || last != 49_994 {
		t.Errorf("ended at line %d with %v", last, err)
	}
}

func TestReplayEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := replay(ctx, strings.NewReader(create+"\n"), Options{TempDir: t.TempDir()}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	broken := errors.New("broken disk")
	r := io.MultiReader(strings.NewReader(create+"\n"), iotest.ErrReader(broken))
	if _, err := replay(t.Context(), r, Options{TempDir: t.TempDir()}); !errors.Is(err, broken) {
		t.Errorf("read error: %v", err)
	}
}

func TestTooLongLine(t *testing.T) {
	log := create + "\n" + strings.Repeat("x", 5*logfile.MaxLine+7) + "\nTIME " + rid + " 5\n" + strings.Repeat("y", logfile.MaxLine+1)
	got, s, err := replayAll(t, iotest.HalfReader(strings.NewReader(log)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"2 malformed", "4 malformed"}, got.problems); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{create + " updated_at=5\n"}, got.lines); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
	if c := s.Counts(); c.Bytes != int64(len(log)) {
		t.Errorf("counted %d bytes of %d", c.Bytes, len(log))
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	log := write("store.log", create+"\n")
	f, err := Open(log)
	if err != nil {
		t.Fatal(err)
	}
	if f.Unfinished() || f.Name() != log || f.Size() != int64(len(create)+1) {
		t.Errorf("opened %s, %d bytes, unfinished %v", f.Name(), f.Size(), f.Unfinished())
	}
	write("store.log", create+"\nmore")
	if changed, err := f.Changed(); err != nil || !changed {
		t.Errorf("changed: %v, %v", changed, err)
	}
	if data, err := io.ReadAll(f.Reader()); err != nil || string(data) != create+"\n" {
		t.Errorf("read %q, %v", data, err)
	}
	f.Close()

	// A router was stopped while it compacted the log.
	write("store.log.start", create+"\nSUSPEND "+rid+"\n")
	f, err = Open(log)
	if err != nil {
		t.Fatal(err)
	}
	if !f.Unfinished() || f.Name() != log+".start" {
		t.Errorf("opened %s, unfinished %v", f.Name(), f.Unfinished())
	}
	f.Close()

	for name, text := range map[string]string{"messages": "v3 " + rid, "gzip": "\x1f\x8b\x08", "sqlite": "SQLite format 3\x00"} {
		if _, err := Open(write(name, text)); !errors.Is(err, ErrNotStoreLog) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(dir); !errors.Is(err, ErrNotStoreLog) {
		t.Errorf("directory: %v", err)
	}
	if _, err := Open(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
}

// A blocking notice and a receiving service do not fit one line; both come back.
func TestAppendQueueReadable(t *testing.T) {
	q := queue.Record{RcvService: queue.ServiceID{}, Status: queue.Status{State: queue.Blocked, Blocking: queue.Blocking{Reason: "spam", HasNotice: true}}}
	rec, err := Parse([]byte(create + " rsrv=" + svc))
	if err != nil {
		t.Fatal(err)
	}
	status := q.Status
	q = rec.(*Create).Record
	q.Status = status
	text := AppendQueue(nil, &q)
	got, _, err := replayAll(t, strings.NewReader(string(text)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := create + " rsrv=" + svc + "\nBLOCK " + rid + " reason=spam,notice={}\n"
	if diff := cmp.Diff(replayed{lines: []string{want}}, got, cmp.AllowUnexported(replayed{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A log from a pipe that nobody writes to can be given up.
func TestReplayOfSilentPipe(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	f, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := Replay(ctx, f, Options{TempDir: t.TempDir()}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A log that is changed while it is replayed is noticed where it matters.
func TestReplayChangedLog(t *testing.T) {
	const line = "CREATE rid=AAAAAAAAAAAAAAAAAAAAAAAA rk=MCowBQYDK2VwAyEAiojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=" +
		" rdh=QOR6P1Jb3KxJHUGJeNfbWvYjrHr-diPG14pdT86dD2M= sid=BBBBBBBBBBBBBBBBBBBBBBBB sk=\n"
	for _, test := range []struct {
		name   string
		change func(f *os.File) error
		want   string
	}{
		{"cut", func(f *os.File) error { return f.Truncate(20) }, "line 1: read again: EOF"},
		{"overwritten", func(f *os.File) error { _, err := f.WriteAt([]byte("REMOVE"), 0); return err }, "line 1: parsed before, but not again: was the log changed meanwhile? "},
	} {
		t.Run(test.name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "store.log"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteString(line); err != nil {
				t.Fatal(err)
			}
			s, err := replay(t.Context(), io.NewSectionReader(f, 0, int64(len(line))), Options{TempDir: t.TempDir(), longLine: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if err := test.change(f); err != nil {
				t.Fatal(err)
			}
			for q, err := range s.Queues(t.Context()) {
				if err == nil || !strings.HasPrefix(err.Error(), test.want) {
					t.Errorf("queue %v, error %v, want %q", q, err, test.want)
				}
			}
		})
	}
}
