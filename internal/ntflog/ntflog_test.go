package ntflog

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/smp"
)

// realLog is what smp-server wrote.
func realLog(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "testdata", "smp-server-6.5.5", "3-messages", "memory", "3-after-stop", Name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// readAll returns the records of a log, and what is wrong with its other lines.
func readAll(t testing.TB, r io.Reader) (records []Record, problems []string) {
	t.Helper()
	for record, err := range Read(r) {
		if err != nil {
			problems = append(problems, err.Error())
			continue
		}
		records = append(records, record)
	}
	return records, problems
}

// What smp-server wrote is read, and written as it was.
func TestRealLog(t *testing.T) {
	in := realLog(t)
	records, problems := readAll(t, bytes.NewReader(in))
	if len(problems) > 0 || len(records) != 3 || records[1].Notifier != records[2].Notifier || records[0].Time != 1795306641 {
		t.Fatalf("%d records, problems %q", len(records), problems)
	}
	var out bytes.Buffer
	if n, err := Write(&out, slices.Values(records)); err != nil || n != 3 {
		t.Errorf("wrote %d records: %v", n, err)
	}
	if diff := cmp.Diff(string(in), out.String()); diff != "" {
		t.Errorf("written again (-read +written):\n%s", diff)
	}
}

// Lines that cannot be read are named, and the others read.
func TestDamagedLog(t *testing.T) {
	lines := strings.SplitAfter(string(realLog(t)), "\n")[:3]
	for _, tc := range []struct {
		name, log string
		records   int
		problem   string
	}{
		{"empty", "", 0, ""},
		{"no end of line", lines[0] + strings.TrimSuffix(lines[1], "\n"), 2, ""},
		{"cut", lines[0] + lines[1][:301], 1, "line 2: column 114: encrypted metadata of 141 bytes, not 144"},
		{"cut in the middle", lines[0][:100] + "\n" + lines[1], 1, "line 1: "},
		{"an empty line", lines[0] + "\n" + lines[1], 2, `line 2: column 1: expected "v1 "`},
		{"an empty last line", lines[0] + "\n", 1, `line 2: column 1: expected "v1 "`},
		{"another version", "v2" + lines[0][2:] + lines[1], 1, "line 1: column 1"},
		{"Windows", lines[0][:len(lines[0])-1] + "\r\n", 0, "carriage return"},
		{"a short nonce", "v1 AAAA AAAA 1 AAAA " + strings.Repeat("AAAA", 48) + "\n" + lines[2], 1, "line 1: column 16: nonce of 3 bytes, not 24"},
		{"a long nonce", "v1 AAAA AAAA 1 " + strings.Repeat("AAAA", 9) + " " + strings.Repeat("AAAA", 48), 0, "nonce of 27 bytes"},
		{"a long id", "v1 " + strings.Repeat("AAAA", 86) + " AAAA 1 x\n" + lines[0], 1, "line 1: column 4: id of 258 bytes"},
		{"a long line", strings.Repeat("x", maxLine) + "\n" + lines[0], 1, "line 1: longer than 16384 bytes"},
		{"a very long line", lines[0] + strings.Repeat("x", 3*maxLine), 1, "line 2: longer than 16384 bytes"},
		{"zeros", lines[0] + strings.Repeat("\x00", 512), 1, "line 2: column 1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			records, problems := readAll(t, strings.NewReader(tc.log))
			if len(records) != tc.records {
				t.Errorf("%d records, want %d", len(records), tc.records)
			}
			if tc.problem == "" && len(problems) > 0 || tc.problem != "" && (len(problems) != 1 || !strings.Contains(problems[0], tc.problem)) {
				t.Errorf("problems %q, want %q", problems, tc.problem)
			}
		})
	}
}

// An error of the reader or the writer is the last.
func TestFailures(t *testing.T) {
	failure := errors.New("no more")
	var got error
	for _, err := range Read(io.MultiReader(bytes.NewReader(realLog(t)), iotest.ErrReader(failure))) {
		got = err
	}
	var line *LineError
	if !errors.Is(got, failure) || errors.As(got, &line) {
		t.Errorf("read: %v", got)
	}
	records, _ := readAll(t, bytes.NewReader(realLog(t)))
	if _, err := Write(failing{failure}, slices.Values(records)); !errors.Is(err, failure) {
		t.Errorf("write: %v", err)
	}
	if _, err := Write(failing{failure}, slices.Values(slices.Repeat(records, 100))); !errors.Is(err, failure) {
		t.Errorf("write much: %v", err)
	}
	for _, err := range Read(bytes.NewReader(realLog(t))) {
		if err != nil {
			t.Error(err)
		}
		break // a caller may stop
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// FuzzRead: every line is read or named, and what is read is written as a line that
// has the same record.
func FuzzRead(f *testing.F) {
	log := realLog(f)
	f.Add(log)
	f.Add(log[:len(log)-1])
	f.Add(log[:700])
	f.Add(bytes.ReplaceAll(log, []byte(" "), []byte("\t")))
	f.Add([]byte("v1 AAAA AAAA -1 " + strings.Repeat("AAAA", 8) + " " + strings.Repeat("AAAA", 48) + "\n\nv1 \n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		lines := bytes.SplitAfter(in, []byte("\n"))
		var n int
		for record, err := range Read(iotest.OneByteReader(bytes.NewReader(in))) {
			line := bytes.TrimSuffix(lines[n], []byte("\n"))
			n++
			if err != nil {
				var problem *LineError
				if !errors.As(err, &problem) || problem.Line != int64(n) {
					t.Errorf("line %d: %v", n, err)
				}
				continue
			}
			out, err := record.AppendText(nil)
			if err != nil {
				t.Fatal(err)
			}
			again, err := ParseRecord(out)
			if err != nil {
				t.Fatalf("%q is written as %q: %v", line, out, err)
			}
			if diff := cmp.Diff(record, again, cmp.Comparer(smp.Short.Equal), cmp.Comparer(func(a, b smp.EntityID) bool { return a == b })); diff != "" {
				t.Errorf("%q is written as %q, which is another record:\n%s", line, out, diff)
			}
		}
		if want := bytes.Count(in, []byte("\n")); n != want && n != want+1 {
			t.Errorf("%d lines, want %d or one more", n, want)
		}
	})
}
