package msglog

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/logfile"
	"github.com/smpq/smpq/internal/smp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// realData holds files made by smp-server 6.5.5; see its README.
const realData = "../../testdata/smp-server-6.5.5"

const (
	rid    = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
	msgID  = "oKGio6SlpqeoqaqrrK2ur7CxsrO0tba3"
	full   = "v3 " + rid + " " + msgID + " 1757930000 flags=T bWVzc2FnZSAx"
	marker = "v3 " + rid + " " + msgID + " 1757930001 quota"
)

// gather is what was read of a log.
type gather struct {
	lines    []string // as they are written again
	problems []string
	counts   Counts
}

func readLog(t testing.TB, r io.Reader) (gather, error) {
	t.Helper()
	var g gather
	o := Options{OnProblem: func(p Problem) error {
		kind := "taken: "
		if p.Lost {
			kind = "lost: "
		}
		g.problems = append(g.problems, kind+p.String())
		return nil
	}}
	err := read(t.Context(), r, o, &g.counts, func(e *Entry) bool {
		g.lines = append(g.lines, string(Append(nil, e.Queue, &e.Message)))
		return true
	})
	return g, err
}

// Of every log, the messages are those that smp-server's own import put into
// its table, and those that it cannot read: messages with an empty body.
func TestReadLikeSmpServer(t *testing.T) {
	dirs, err := filepath.Glob(filepath.Join(realData, "3-messages/variants/*"))
	if err != nil || len(dirs) < 26 {
		t.Fatalf("%d variants: %v", len(dirs), err)
	}
	logs := map[string]string{filepath.Join(realData, "3-messages/import-all"): filepath.Join(realData, "3-messages/memory/3-after-stop")}
	for _, dir := range dirs {
		logs[dir] = dir
	}
	for dir, log := range logs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join(log, "smp-server-messages.log"))
			if err != nil {
				t.Fatal(err)
			}
			got, err := readLog(t, bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			want := dumped(t, filepath.Join(dir, "messages.csv"))
			switch filepath.Base(dir) {
			case "09-unknown-queue": // smp-server imports none of the log
				want = strings.SplitAfter(strings.TrimSuffix(string(data), "\n"), "\n")
				want[len(want)-1] += "\n"
			case "10-empty-body":
				empty := strings.SplitAfter(string(data), "\n")[1]
				want = []string{want[0], empty, want[1]}
			}
			if diff := cmp.Diff(want, got.lines); diff != "" {
				t.Errorf("messages (-smp-server +smpq):\n%s", diff)
			}
			if got.counts.Bytes != int64(len(data)) {
				t.Errorf("counted %d bytes of %d", got.counts.Bytes, len(data))
			}
		})
	}
}

// dumped returns the lines of the messages in a dump of the table.
func dumped(t testing.TB, name string) []string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	text := func(field string) string {
		b, err := hex.DecodeString(strings.TrimPrefix(field, `\x`))
		if err != nil {
			t.Fatal(err)
		}
		return string(smp.AppendBase64(nil, b))
	}
	var lines []string
	for i, row := range rows[1:] {
		if row[0] != strconv.Itoa(i+1) {
			t.Fatalf("row %d has number %s", i+1, row[0])
		}
		line := "v3 " + text(row[1]) + " " + text(row[2]) + " " + row[3]
		switch {
		case row[4] == "t":
			line += " quota"
		case row[5] == "t":
			line += " flags=T " + text(row[6])
		default:
			line += " flags=F " + text(row[6])
		}
		lines = append(lines, line+"\n")
	}
	return lines
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ name, line, want string }{
		{"message", full, full},
		{"marker", marker, marker},
		{"old form", strings.Replace(full, "flags=T ", "", 1), strings.Replace(full, "flags=T", "flags=F", 1)},
		{"more flags", strings.Replace(full, "=T", "=Tabc", 1), full},
		{"negative time", strings.Replace(full, "1757930000", "-1", 1), strings.Replace(full, "1757930000", "-1", 1)},
		{"empty body", strings.TrimSuffix(full, "bWVzc2FnZSAx"), strings.TrimSuffix(full, "bWVzc2FnZSAx")},
	} {
		rec, err := Parse([]byte(c.line))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := string(Append(nil, rec.Queue, &rec.Message)); got != c.want+"\n" {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	for _, c := range []struct{ name, line, want string }{
		{"empty line", "", "column 1: not a message"},
		{"other version", "v2" + full[2:], "column 1: not a message: the line does not start with v3"},
		{"time out of range", strings.Replace(full, "1757930000", "99999999999999999999", 1), "column 70: number out of range"},
		{"carriage return", full + "\r", "carriage return at the end of the line"},
		{"large body", full + strings.Repeat("AAAA", 6000), "message body of 18009 bytes"},
		{"marker with more", marker + " x", "unexpected text"},
	} {
		if _, err := Parse([]byte(c.line)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

// Damaged lines are found with their places; a last line without LF is lost or
// taken, and never goes unnoticed.
func TestProblems(t *testing.T) {
	for _, c := range []struct {
		name, log string
		lines     int
		want      []string
	}{
		{"empty", "", 0, nil},
		{"in the middle", full + "\nv3 garbage\n" + marker + "\n", 2, []string{"lost: line 2, column 4: "}},
		{"blank", full + "\n\n", 1, []string{"lost: line 2, column 1: not a message"}},
		{"cut", full + "\n" + full[:80], 1, []string{"lost: line 2, column 81: base64url value is empty (the last line of the log, without an end of line: cut off when it was written?)"}},
		{"only LF missing", full + "\n" + full, 2, []string{"taken: line 2: the last line has no end of line and may have been cut off; it was taken as a message with a body of 9 bytes"}},
		{"marker without LF", marker, 1, []string{"taken: line 1: the last line has no end of line and may have been cut off; it was taken as a quota marker"}},
		{"marker cut to a message", marker[:len(marker)-1], 1, []string{"taken: line 1: the last line has no end of line and may have been cut off; it was taken as a message with a body of 3 bytes"}},
		{"long line", strings.Repeat("x", logfile.MaxLine+1) + "\n" + full + "\n", 1, []string{"lost: line 1: line of 1048577 bytes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := readLog(t, iotest.HalfReader(strings.NewReader(c.log)))
			if err != nil || len(got.lines) != c.lines || len(got.problems) != len(c.want) || got.counts.Bytes != int64(len(c.log)) {
				t.Fatalf("%d lines, counts %+v, %v, problems %q", len(got.lines), got.counts, err, got.problems)
			}
			for i, want := range c.want {
				if !strings.HasPrefix(got.problems[i], want) {
					t.Errorf("got %q, want %q", got.problems[i], want)
				}
			}
		})
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"store.log": "CREATE rid=AAAA", "ntf.log": "v1 x", "state": "write=x", "z.gz": "\x1f\x8b"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); !errors.Is(err, ErrNotMessageLog) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(dir); !errors.Is(err, ErrNotMessageLog) {
		t.Errorf("folder: %v", err)
	}
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	path := filepath.Join(dir, "messages.log")
	if err := os.WriteFile(path, []byte(full+"\n"+marker+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var progress int64
	entries, counts := f.Entries(t.Context(), Options{Progress: func(n int64) { progress += n }})
	var lines []int64
	for e, err := range entries {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, e.Line)
	}
	if diff := cmp.Diff([]int64{1, 2}, lines); diff != "" || counts.Lines != 2 || progress != f.Size() {
		t.Errorf("lines %v, counts %+v, progress %d", lines, counts, progress)
	}
}

// What stops the reading is its error, with the name of the file.
func TestStopped(t *testing.T) {
	broken := errors.New("broken disk")
	if _, err := readLog(t, io.MultiReader(strings.NewReader(full+"\n"), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("read error: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	err := read(ctx, strings.NewReader(strings.Repeat(full+"\n", 10)), Options{}, new(Counts), func(*Entry) bool {
		n++
		cancel()
		return true
	})
	if !errors.Is(err, context.Canceled) || n != 1 {
		t.Errorf("cancelled: %d messages, %v", n, err)
	}
	no := errors.New("no")
	o := Options{OnProblem: func(Problem) error { return no }}
	if err := read(t.Context(), strings.NewReader("x\n"), o, new(Counts), nil); !errors.Is(err, no) {
		t.Errorf("refused: %v", err)
	}
	// A pipe that nobody writes to.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if err := read(ctx, r, Options{}, new(Counts), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("pipe: %v", err)
	}
}

// Whatever is read as a message is written as a line that is read as the same.
func FuzzRead(f *testing.F) {
	logs, err := filepath.Glob(filepath.Join(realData, "3-messages/variants/*/smp-server-messages.log"))
	if err != nil || len(logs) == 0 {
		f.Fatalf("no logs: %v", err)
	}
	for _, name := range logs {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		if len(data) < 4000 {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, log []byte) {
		first, err := readLog(t, bytes.NewReader(log))
		if err != nil {
			t.Fatal(err)
		}
		if first.counts.Bytes != int64(len(log)) {
			t.Errorf("counted %d bytes of %d", first.counts.Bytes, len(log))
		}
		again, err := readLog(t, strings.NewReader(strings.Join(first.lines, "")))
		if err != nil || len(again.problems) > 0 {
			t.Fatalf("%v, problems %q", err, again.problems)
		}
		if diff := cmp.Diff(first.lines, again.lines); diff != "" {
			t.Errorf("written and read again (-first +again):\n%s", diff)
		}
	})
}
