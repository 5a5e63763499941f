package compact_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/compact"
	"github.com/smpq/smpq/internal/gen"
	"github.com/smpq/smpq/internal/storelog"
)

// realData holds files made by smp-server 6.5.5; see its README.
const realData = "../../testdata/smp-server-6.5.5/1-storelog"

// at is the time of compactions of logs. The zeros at its end are no part of
// names.
var at = time.Date(2026, 11, 21, 23, 34, 47, 32_740_000, time.UTC)

const atText = "2026-11-21T23:34:47.03274Z"

func logOptions() compact.LogOptions {
	return compact.LogOptions{Now: at, Progress: quiet{}, Log: slog.New(slog.DiscardHandler)}
}

// newLog writes a log into a new folder.
func newLog(t testing.TB, content []byte) (name string) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "smp-server-store.log")
	writeFile(t, name, content)
	return name
}

func writeFile(t testing.TB, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o640); err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// folder returns the files of the folder of a log, by name, without the name of
// the log.
func folder(t testing.TB, log string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(log))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, e := range entries {
		files[strings.TrimPrefix(e.Name(), filepath.Base(log))] = string(readFile(t, filepath.Join(filepath.Dir(log), e.Name())))
	}
	return files
}

// generated returns a log with that many queues.
func generated(t testing.TB, o gen.Options) []byte {
	t.Helper()
	var b bytes.Buffer
	o.LinkBytes = 100
	if _, err := gen.Write(&b, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// state returns what a router holds after it has read a log: its records in a
// compact log.
func state(t testing.TB, name string) []string {
	t.Helper()
	f, err := storelog.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s, err := storelog.Replay(t.Context(), f, storelog.Options{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var lines []string
	for _, sv := range s.Services() {
		lines = append(lines, string(storelog.Append(nil, &storelog.NewService{Service: sv})))
	}
	for q, err := range s.Queues(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(storelog.AppendQueue(nil, q)))
	}
	slices.Sort(lines)
	return lines
}

// A router's log becomes what the router itself makes of it at its next start;
// the original stays, under a name that routers know.
func TestStoreLogLikeRouter(t *testing.T) {
	for _, log := range []string{"memory/1-raw", "memory/3-after-kill9", "memory/5-torn", "journal/1-raw", "journal/3-after-kill9"} {
		compacted := map[string]string{"1": "2-compacted", "3": "4-compacted", "5": "6-compacted-after-torn"}
		folderName, file, _ := strings.Cut(log, "/")
		want := readFile(t, filepath.Join(realData, folderName, compacted[file[:1]]+".log"))
		original := readFile(t, filepath.Join(realData, log+".log"))
		t.Run(log, func(t *testing.T) {
			name := newLog(t, original)
			o := logOptions()
			o.MaxRejects = -1
			r, err := compact.StoreLog(t.Context(), name, o)
			if err != nil {
				t.Fatal(err)
			}
			files := folder(t, name)
			if len(files) != 2 || files["."+atText] != string(original) || r.Original != name+"."+atText {
				t.Errorf("files %q, result %+v", slices.Collect(keys(files)), r)
			}
			if diff := cmp.Diff(sortedRecords(t, want), sortedRecords(t, []byte(files[""]))); diff != "" {
				t.Errorf("compacted log (-router +smpq):\n%s", diff)
			}
			info, err := os.Stat(name)
			if err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			if r.NewBytes != info.Size() || r.NewLines != int64(strings.Count(files[""], "\n")) || r.Bytes != int64(len(original)) {
				t.Errorf("result %+v", r)
			}
		})
	}
}

func keys(files map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range files {
			if !yield(k) {
				return
			}
		}
	}
}

// sortedRecords returns the lines of a log, sorted. Of a queue with a notice and
// a receiving service smp-server writes a line that it cannot read; here it is
// as smpq writes it.
func sortedRecords(t testing.TB, log []byte) []string {
	t.Helper()
	var lines []string
	for line := range bytes.Lines(log) {
		rec, err := storelog.Parse(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if c, ok := rec.(*storelog.Create); ok {
			line = storelog.AppendQueue(nil, &c.Record)
		}
		for record := range bytes.Lines(line) {
			lines = append(lines, string(record))
		}
	}
	slices.Sort(lines)
	return lines
}

// A compact log has services first, then queues, both in order; compacting it
// again changes nothing.
func TestStoreLogTwice(t *testing.T) {
	name := newLog(t, generated(t, gen.Options{Queues: 2000, Seed: 1}))
	before := state(t, name)
	if _, err := compact.StoreLog(t.Context(), name, logOptions()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, state(t, name)); diff != "" {
		t.Errorf("state (-before +after):\n%s", diff)
	}
	var order []string
	for line := range bytes.Lines(readFile(t, name)) {
		rec, err := storelog.Parse(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			t.Fatal(err)
		}
		switch rec := rec.(type) {
		case *storelog.NewService:
			order = append(order, "1"+string(rec.Service.ID.Bytes()))
		default: // CREATE, or BLOCK behind it
			order = append(order, "2"+string(rec.Queue().Bytes()))
		}
	}
	if !slices.IsSorted(order) {
		t.Error("services and queues are not in order")
	}

	compacted := folder(t, name)
	r, err := compact.StoreLog(t.Context(), name, logOptions())
	if err != nil || !r.Same || r.Original != "" {
		t.Errorf("again: %+v, %v", r, err)
	}
	if diff := cmp.Diff(compacted, folder(t, name)); diff != "" {
		t.Errorf("files after compacting again (-want +got):\n%s", diff)
	}
}

// canonicalTime is what routers take for the time of a compacted log and find
// again by its name.
var canonicalTime = regexp.MustCompile(`^\.\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,8}[1-9])?Z$`)

// The name of the original has the form that routers write, and is free.
func TestStoreLogNames(t *testing.T) {
	for _, tc := range []struct {
		nanoseconds int
		want        []string
	}{
		{0, []string{".2026-11-21T23:34:47Z", ".2026-11-21T23:34:47.000000001Z"}},
		{100_000_000, []string{".2026-11-21T23:34:47.1Z", ".2026-11-21T23:34:47.100000001Z"}},
		{999_999_999, []string{".2026-11-21T23:34:47.999999999Z", ".2026-11-21T23:34:48Z"}},
		{32_742_846, []string{".2026-11-21T23:34:47.032742846Z", ".2026-11-21T23:34:47.032742847Z"}},
	} {
		log := generated(t, gen.Options{Queues: 20})
		name := newLog(t, log)
		o := logOptions()
		// In a zone of its own, which the name is not to show.
		o.Now = at.Truncate(time.Second).Add(time.Duration(tc.nanoseconds)).In(time.FixedZone("", 3600))
		for _, want := range tc.want {
			writeFile(t, name, log)
			r, err := compact.StoreLog(t.Context(), name, o)
			if err != nil || r.Original != name+want {
				t.Errorf("%d ns: %+v, %v", tc.nanoseconds, r, err)
			}
			if !canonicalTime.MatchString(want) {
				t.Errorf("%s is not in the form of routers", want)
			}
		}
	}
}

// What cannot be kept stops the compaction with its place, and nothing is
// changed; as many as allowed are left out and handed over.
func TestStoreLogRejects(t *testing.T) {
	log := []byte(strings.Join(slices.Collect(firstLines(generated(t, gen.Options{Queues: 20}), 10)), "") +
		"nonsense\nSUSPEND AAAA\nSUSPEND AAAAA\n")
	for _, tc := range []struct {
		max  int64
		want string
	}{
		{0, "smp-server-store.log: line 11, column 1: unknown record"},
		{1, "line 13, column 9: base64url value has an impossible length (rejected record 2; at most 1 are allowed)"},
		{2, "line 12: SUSPEND: queue AAAA was never created (rejected record 3; at most 2 are allowed)"},
		{3, ""},
		{-1, ""},
	} {
		name := newLog(t, log)
		before := folder(t, name)
		var rejects bytes.Buffer
		o := logOptions()
		o.MaxRejects, o.Rejects = tc.max, &rejects
		r, err := compact.StoreLog(t.Context(), name, o)
		if tc.want != "" {
			if rejected, ok := errors.AsType[*compact.RejectedError](err); !ok || rejected.Max != tc.max || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("at most %d: %v", tc.max, err)
			}
			if diff := cmp.Diff(before, folder(t, name)); diff != "" {
				t.Errorf("at most %d: files (-before +after):\n%s", tc.max, diff)
			}
			continue
		}
		if err != nil || r.Rejected != 3 {
			t.Errorf("at most %d: %+v, %v", tc.max, r, err)
		}
		const want = `# line 11, column 1: unknown record: the line starts with none of CREATE, LINK, LDELETE, SECURE, KEYS, NOTIFIER, NDELETE, SUSPEND, BLOCK, UNBLOCK, TIME, DELETE, NEW_SERVICE, QUEUE_SERVICE
nonsense
# line 13, column 9: base64url value has an impossible length
SUSPEND AAAAA
# line 12: SUSPEND: queue AAAA was never created
SUSPEND AAAA
`
		if diff := cmp.Diff(want, rejects.String()); diff != "" {
			t.Errorf("rejects (-want +got):\n%s", diff)
		}
	}
}

func firstLines(log []byte, n int) func(func(string) bool) {
	return func(yield func(string) bool) {
		for line := range strings.Lines(string(log)) {
			if n--; n < 0 || !yield(line) {
				return
			}
		}
	}
}

// What a router left when it was stopped while it compacted is put in order.
func TestStoreLogUnfinished(t *testing.T) {
	log := generated(t, gen.Options{Queues: 200})
	for _, tc := range []struct {
		name   string
		others map[string]string
		want   []string // suffixes afterwards
		aside  string
	}{
		{"alone", nil, []string{"", "." + atText}, ""},
		{"beside an incomplete log", map[string]string{"": "NEW_SERVICE serv"}, []string{"", ".bak", "." + atText}, ".bak"},
		{
			"beside an incomplete log and a .bak",
			map[string]string{"": "NEW_SERVICE serv", ".bak": "precious"},
			[]string{"", ".bak", ".bak.1", "." + atText},
			".bak.1",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "store.log")
			writeFile(t, name+".start", log)
			for suffix, content := range tc.others {
				writeFile(t, name+suffix, []byte(content))
			}
			before := state(t, name)
			r, err := compact.StoreLog(t.Context(), name, logOptions())
			if err != nil {
				t.Fatal(err)
			}
			files := folder(t, name)
			if got := slices.Sorted(keys(files)); !slices.Equal(got, slices.Sorted(slices.Values(tc.want))) {
				t.Errorf("files %q", got)
			}
			if files["."+atText] != string(log) {
				t.Error("the original is not kept")
			}
			if tc.aside != "" && (files[tc.aside] != tc.others[""] || r.SetAside != name+tc.aside) {
				t.Errorf("set aside: %q, result %+v", files[tc.aside], r)
			}
			if diff := cmp.Diff(before, state(t, name)); diff != "" {
				t.Errorf("state (-before +after):\n%s", diff)
			}
		})
	}
}

// A dry run counts the same and leaves no trace.
func TestStoreLogDryRun(t *testing.T) {
	name := newLog(t, generated(t, gen.Options{Queues: 500}))
	before := folder(t, name)
	o := logOptions()
	o.DryRun = true
	dry, err := compact.StoreLog(t.Context(), name, o)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, folder(t, name)); diff != "" {
		t.Errorf("files (-before +after):\n%s", diff)
	}
	r, err := compact.StoreLog(t.Context(), name, logOptions())
	if err != nil {
		t.Fatal(err)
	}
	r.DryRun, r.Original, r.Seconds, dry.Seconds = true, "", 0, 0
	if diff := cmp.Diff(r, dry); diff != "" {
		t.Errorf("result (-real +dry):\n%s", diff)
	}
}

// phases calls a function when a phase starts.
type phases struct{ f func(name string) }

func (p phases) Phase(name string, _ int64, _ string) { p.f(name) }
func (phases) Add(int64)                              {}

// A log that another process uses is left alone.
func TestStoreLogInUse(t *testing.T) {
	appendTo := func(t *testing.T, name string) *os.File {
		t.Helper()
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	for _, tc := range []struct {
		name  string
		phase string // in which it happens
		do    func(t *testing.T, name string)
		want  string
	}{
		{"open for writing", "", func(t *testing.T, name string) {
			t.Helper()
			appendTo(t, name)
		}, "open for writing"},
		{"opened for writing later", "write log", func(t *testing.T, name string) {
			t.Helper()
			appendTo(t, name)
		}, "open for writing"},
		{"written to", "write log", func(t *testing.T, name string) {
			t.Helper()
			f := appendTo(t, name)
			if _, err := f.WriteString("SUSPEND AAAA\n"); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}, "written to while it was read"},
		{"compacted by another process", "", func(t *testing.T, name string) {
			t.Helper()
			f, err := os.Create(name + ".smpq-tmp")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
				t.Fatal(err)
			}
		}, "another smpq has locked"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			name := newLog(t, generated(t, gen.Options{Queues: 100}))
			var before map[string]string
			act := func(phase string) {
				if phase == tc.phase {
					tc.do(t, name)
					before = folder(t, name)
					delete(before, ".smpq-tmp")
				}
			}
			act("")
			o := logOptions()
			o.Progress = phases{act}
			_, err := compact.StoreLog(t.Context(), name, o)
			if !errors.Is(err, compact.ErrInUse) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v", err)
			}
			after := folder(t, name)
			if tc.name == "compacted by another process" {
				delete(after, ".smpq-tmp")
			}
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("files (-before +after):\n%s", diff)
			}
		})
	}
}

// What a killed process has left is removed, and never written to: it may be the
// log itself, under its temporary name.
func TestStoreLogLeftover(t *testing.T) {
	log := generated(t, gen.Options{Queues: 100})
	name := newLog(t, log)
	if err := os.Link(name, name+".smpq-tmp"); err != nil {
		t.Fatal(err)
	}
	if _, err := compact.StoreLog(t.Context(), name, logOptions()); err != nil {
		t.Fatal(err)
	}
	files := folder(t, name)
	if len(files) != 2 || files["."+atText] != string(log) {
		t.Errorf("files %q", slices.Collect(keys(files)))
	}
}

// An interrupt leaves everything as it was.
func TestStoreLogInterrupted(t *testing.T) {
	for _, phase := range []string{"read log", "write log"} {
		name := newLog(t, generated(t, gen.Options{Queues: 3000}))
		before := folder(t, name)
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		o := logOptions()
		o.Progress = phases{func(name string) {
			if name == phase {
				cancel(cause)
			}
		}}
		if _, err := compact.StoreLog(ctx, name, o); !errors.Is(err, context.Canceled) && !errors.Is(err, cause) {
			t.Errorf("%s: %v", phase, err)
		}
		if diff := cmp.Diff(before, folder(t, name)); diff != "" {
			t.Errorf("%s: files (-before +after):\n%s", phase, diff)
		}
		cancel(nil)
	}
}

func TestStoreLogRefuses(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	writeFile(t, in("log"), nil)
	writeFile(t, in("messages"), []byte("v3 AAAA AAAA 1 flags=T AAAA\n"))
	writeFile(t, in("blocked"), nil)
	for _, err := range []error{
		os.Symlink("log", in("link")),
		os.Mkdir(in("folder"), 0o700),
		os.Mkdir(in("blocked.smpq-tmp"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for file, want := range map[string]string{
		"nosuch":   "no such file",
		"folder":   "is a directory",
		"link":     "is a symbolic link: name the file that it leads to",
		"messages": "is a message log",
		"blocked":  "is in the way",
	} {
		_, err := compact.StoreLog(t.Context(), in(file), logOptions())
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), in(file)) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// The new log belongs to the owner of the old one. Only root can give it away.
func TestStoreLogOwner(t *testing.T) {
	name := newLog(t, generated(t, gen.Options{Queues: 10}))
	if os.Geteuid() == 0 {
		if err := os.Chown(name, 12345, 54321); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := compact.StoreLog(t.Context(), name, logOptions()); err != nil {
		t.Fatal(err)
	}
	got, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	owner := func(i os.FileInfo) string {
		st := i.Sys().(*syscall.Stat_t)
		return fmt.Sprint(st.Uid, ":", st.Gid, " ", i.Mode())
	}
	if owner(got) != owner(want) || os.SameFile(got, want) {
		t.Errorf("owner %s, want %s", owner(got), owner(want))
	}
}
