package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/dumptest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// realData holds files made by smp-server 6.5.5; see its README.
const realData = "../../testdata/smp-server-6.5.5"

// A content is what was read of a journal.
type content struct {
	Messages map[string][]string // by queue, as lines
	Full     []string            // queues that take no more messages
	Problems []string
}

func readTree(t testing.TB, root string, held int64) content {
	t.Helper()
	c, err := tryTree(t.Context(), root, held)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tryTree(ctx context.Context, root string, held int64) (content, error) {
	c := content{Messages: map[string][]string{}}
	tree, err := Open(root)
	if err != nil {
		return c, err
	}
	o := Options{held: held, OnProblem: func(p Problem) error {
		kind := "harmless: "
		if p.Lost {
			kind = "lost: "
		}
		c.Problems = append(c.Problems, kind+p.String())
		return nil
	}}
	for q, err := range tree.Queues(ctx, o) {
		if err != nil {
			return c, err
		}
		id := q.ID.String()
		if !q.CanWrite {
			c.Full = append(c.Full, id)
		}
		for m, err := range q.Messages(ctx) {
			if err != nil {
				return c, err
			}
			line, _ := m.AppendText(nil)
			c.Messages[id] = append(c.Messages[id], string(line))
		}
	}
	return c, nil
}

// exported returns the messages of a message log, by queue.
func exported(t testing.TB, name string) map[string][]string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	messages := map[string][]string{}
	for line := range strings.Lines(string(data)) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		id, text, _ := strings.Cut(rest, " ")
		messages[id] = append(messages[id], text)
	}
	return messages
}

// Of every journal, stopped in whatever moment, the messages are those that
// smp-server exported, and those that it cannot read: messages with an empty body.
// It makes no difference whether they are read ahead.
func TestReadLikeSmpServer(t *testing.T) {
	for _, c := range []struct {
		journal, exported string
		problems          []string
	}{
		{"4-journal/2-after-kill9/messages.tar.gz", "4-journal/2-after-kill9/exported-messages.log", nil},
		{"4-journal/3-torn-message-kill9/messages.tar.gz", "4-journal/3-torn-message-kill9/exported-messages.log", []string{
			"harmless: Fn/As/Ow/Em/EiHzSPnQkfBWagQMJkxXswVf/messages.bEN9XlilVBTdz_be.log: the last ",
		}},
		{"4-journal/5-torn-state-kill9/messages.tar.gz", "4-journal/5-torn-state-kill9/exported-messages.log", []string{
			"harmless: g1/_e/GC/Zk/OC_j40noQs8wokvW--d8ZVsd/queue_state.g1_eGCZkOC_j40noQs8wokvW--d8ZVsd.log: its last line was cut off, before",
			"harmless: g1/_e/GC/Zk/OC_j40noQs8wokvW--d8ZVsd/messages.rPsb5S0B_9Sr_3wF.log: the last 57 bytes are ignored",
		}},
		{"4-journal/6-after-recovery/messages.tar.gz", "4-journal/7-after-stop/exported-messages.log", nil},
		{"4-journal/7-after-stop/messages.tar.gz", "4-journal/7-after-stop/exported-messages.log", nil},
		// What smp-server made of its export.
		{"4-journal/2-after-kill9/reimported-messages.tar.gz", "4-journal/2-after-kill9/exported-messages.log", nil},
		{"4-journal/3-torn-message-kill9/reimported-messages.tar.gz", "4-journal/3-torn-message-kill9/exported-messages.log", nil},
		{"4-journal/5-torn-state-kill9/reimported-messages.tar.gz", "4-journal/5-torn-state-kill9/exported-messages.log", nil},
		{"4-journal/7-after-stop/reimported-messages.tar.gz", "4-journal/7-after-stop/exported-messages.log", nil},
		{"3-messages/empty-body/journal/2-after-stop/messages.tar.gz", "3-messages/empty-body/journal/exported-messages.log", nil},
	} {
		t.Run(c.journal, func(t *testing.T) {
			root := dumptest.Unpack(t, filepath.Join(realData, c.journal))
			before := snapshot(t, root)
			want := exported(t, filepath.Join(realData, c.exported))
			if strings.Contains(c.journal, "empty-body") {
				m := want["NzpFtJQaiWiggWiBgkjxo8sr_6IktAia"]
				want["NzpFtJQaiWiggWiBgkjxo8sr_6IktAia"] = []string{m[0], m[1][:33] + "1795308272 flags=F ", m[1]}
			}
			got := readTree(t, root, 0)
			if m := got.Messages["NzpFtJQaiWiggWiBgkjxo8sr_6IktAia"]; len(m) == 3 {
				m[1] = want["NzpFtJQaiWiggWiBgkjxo8sr_6IktAia"][1][:33] + m[1][33:] // any id
			}
			if diff := cmp.Diff(want, got.Messages); diff != "" {
				t.Errorf("messages (-smp-server +smpq):\n%s", diff)
			}
			for i, p := range got.Problems {
				if i >= len(c.problems) || !strings.HasPrefix(p, c.problems[i]) {
					t.Errorf("problem: %s", p)
				}
			}
			if len(got.Problems) != len(c.problems) {
				t.Errorf("problems %q, want %q", got.Problems, c.problems)
			}
			if later := readTree(t, root, 1); len(later.Messages) != len(got.Messages) || !cmp.Equal(later.Problems, got.Problems) {
				t.Errorf("not read ahead: %+v", later)
			}
			if diff := cmp.Diff(before, snapshot(t, root)); diff != "" {
				t.Errorf("the journal was changed (-before +after):\n%s", diff)
			}
		})
	}
}

// snapshot returns names and contents of all files.
func snapshot(t testing.TB, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			files[path] = "folder"
			return nil
		}
		data, err := os.ReadFile(path)
		files[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// The queue of the tests below.
const (
	rid    = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
	folder = "AA/EC/Aw/QF/BgcICQoLDA0ODxAREhMUFRYX"
	state  = "queue_state." + rid + ".log"
	j1, j2 = "67AVlEL8jEJXoC4h", "JEzSTxKi1TSCIGMY"
)

// message returns a message of 65 bytes.
func message(n int) string {
	return fmt.Sprintf("bW1tbW1tbW1tbW1tbW1tbW1tbW1tbW0%d 1757930001 flags=T bWVzc2FnZSA%d\n", n, n)
}

func messages(from, to int) string {
	var b strings.Builder
	for n := from; n <= to; n++ {
		b.WriteString(message(n))
	}
	return b.String()
}

// line returns a line of the state file.
func line(write string, count int, read string, pos, in int, canWrite string, size int) string {
	return fmt.Sprintf("write=%s,%d,%d,%d,%d read=%s,%d,%d,%d,%d canWrite=%s size=%d\n",
		write, count, count, 65*count, 65*count, read, pos, in, 65*pos, 65*in, canWrite, size)
}

// Every irregularity that a crash, a full disk or an operator can leave: what is
// read, and what is said.
func TestIrregular(t *testing.T) {
	m1, m2 := MessageFile(j1), MessageFile(j2)
	three := line(j1, 3, j1, 0, 3, "T", 3)
	two := line(j2, 2, j1, 1, 3, "F", 4) // 2 and 3 of one file, 4 and 5 of the other
	for _, c := range []struct {
		name  string
		files map[string]string
		want  []int
		full  bool
		say   []string
	}{
		{"one file", map[string]string{state: three, m1: messages(1, 3)}, []int{1, 2, 3}, false, nil},
		{"read partly", map[string]string{state: three + line(j1, 3, j1, 2, 3, "F", 1), m1: messages(1, 3)}, []int{3}, true, nil},
		{"drained", map[string]string{state: three + line(j1, 3, j1, 3, 3, "T", 0), m1: messages(1, 3)}, nil, false, nil},
		{"two files", map[string]string{state: two, m1: messages(1, 3), m2: messages(4, 5)}, []int{2, 3, 4, 5}, true, nil},
		{"a long state file", map[string]string{state: strings.Repeat(three, 100), m1: messages(1, 3)}, []int{1, 2, 3}, false, nil},

		{"file ahead of state", map[string]string{state: three, m1: messages(1, 4)}, []int{1, 2, 3}, false, []string{"harmless: " + m1 + ": the last 65 bytes are ignored"}},
		{"torn message beyond the state", map[string]string{state: three, m1: messages(1, 3) + "bW1t"}, []int{1, 2, 3}, false, []string{"harmless: " + m1 + ": the last 4 bytes are ignored"}},
		{"state ahead of file", map[string]string{state: three, m1: messages(1, 2)}, []int{1, 2}, false, []string{"lost: " + m1 + ": the file has 130 bytes where the state counts 195"}},
		{"state ahead of file, torn", map[string]string{state: three, m1: messages(1, 3)[:190]}, []int{1, 2}, false, []string{"lost: " + m1 + ": the file has 190 bytes", "lost: " + m1 + ", byte 130: column "}},
		{"file cut before the position", map[string]string{state: line(j1, 3, j1, 2, 3, "T", 1), m1: messages(1, 1)}, nil, false, []string{"lost: " + m1 + ": the file has 65 bytes"}},

		{"file missing", map[string]string{state: three}, nil, false, []string{"lost: " + m1 + ": the file is missing, and with it 3 messages"}},
		{"read file missing", map[string]string{state: two, m2: messages(4, 5)}, []int{4, 5}, true, []string{"lost: " + m1 + ": the file is missing, and with it 2 messages"}},
		{"read file missing, all read", map[string]string{state: line(j2, 2, j1, 3, 3, "T", 2), m2: messages(4, 5)}, []int{4, 5}, false, nil},
		{"write file missing", map[string]string{state: two, m1: messages(1, 3)}, []int{2, 3}, true, []string{"lost: " + m2 + ": the file is missing, and with it 2 messages"}},
		{"both missing", map[string]string{state: two}, nil, false, []string{"lost: " + m1, "lost: " + m2}},
		{"another file", map[string]string{state: three, m1: messages(1, 3), m2: messages(4, 5)}, []int{1, 2, 3}, false, []string{"harmless: " + m2 + ": the state does not mention it"}},

		{"torn state line", map[string]string{state: three + line(j1, 4, j1, 0, 4, "T", 4)[:60], m1: messages(1, 4)}, []int{1, 2, 3}, false, []string{"harmless: " + state + ": its last line was cut off", "harmless: " + m1}},
		{"torn in the last number", map[string]string{state: line(j1, 9, j1, 0, 9, "T", 9) + strings.TrimSuffix(line(j1, 12, j1, 0, 12, "T", 12), "2\n"), m1: messages(1, 9)}, []int{1, 2, 3, 4, 5, 6, 7, 8, 9}, false, []string{"harmless: " + state + ": its last line was cut off"}},
		{"only LF torn", map[string]string{state: strings.TrimSuffix(three, "\n"), m1: messages(1, 3)}, []int{1, 2, 3}, false, []string{"harmless: " + state + ": the last line has no end of line"}},
		{"only line torn", map[string]string{state: three[:50], m1: messages(1, 1)}, nil, false, []string{"harmless: " + state + ": its only line was cut off"}},
		{"last line garbage", map[string]string{state: three + "garbage\n", m1: messages(1, 3)}, []int{1, 2, 3}, false, []string{"lost: " + state + ": its last line cannot be read: column 1: expected \"write=\"; the line before it counts"}},
		{"two lines garbage", map[string]string{state: three + "garbage\ngarbage\n", m1: messages(1, 3)}, nil, false, []string{"lost: " + state + ": its last line cannot be used"}},
		{"only garbage", map[string]string{state: "garbage\n", m1: messages(1, 3)}, nil, false, []string{"lost: " + state + ": its last line cannot be used"}},
		{"contradictory", map[string]string{state: three + line(j1, 3, j1, 0, 3, "T", 7), m1: messages(1, 3)}, nil, false, []string{"lost: " + state + ": its last line cannot be used: the state counts 7 messages, its positions 3"}},
		{"garbage and torn", map[string]string{state: "garbage\n" + three[:50], m1: messages(1, 3)}, nil, false, []string{"lost: " + state + ": its last line cannot be used"}},
		{"long garbage", map[string]string{state: strings.Repeat("x", 10000) + "\n", m1: messages(1, 3)}, nil, false, []string{"lost: " + state + ": its last line cannot be used"}},

		{"interrupted backup", map[string]string{state: three[:20], state + ".bak": three, m1: messages(1, 3)}, []int{1, 2, 3}, false, []string{"harmless: " + state + ".bak: a router was stopped while it copied the state"}},
		{"old backups", map[string]string{state: three, state + ".2026-11-22T00:21:24.925937717Z.bak": two, m1: messages(1, 3)}, []int{1, 2, 3}, false, nil},
		{"no state", map[string]string{m1: messages(1, 3)}, nil, false, []string{"lost: " + m1 + ": there is no state: 195 bytes of messages are not read"}},
		{"empty state file", map[string]string{state: "", m1: messages(1, 3)}, nil, false, []string{"lost: " + m1 + ": there is no state"}},
		{"drained, state set aside", map[string]string{state + ".2026-11-22T00:21:24Z.bak": two, state + ".2026-11-23T00:21:24Z.bak": line(j1, 3, j1, 3, 3, "T", 0), m1: messages(1, 3)}, nil, false, nil},
		{"state set aside says otherwise", map[string]string{state + ".2026-11-22T00:21:24Z.bak": line(j2, 3, j2, 3, 3, "T", 0), m1: messages(1, 3)}, nil, false, []string{"lost: " + m1 + ": there is no state"}},
		{"only backups", map[string]string{state + ".2026-11-22T00:21:24Z.bak": three}, nil, false, nil},

		{"unreadable line", map[string]string{state: three, m1: message(1) + strings.Replace(message(2), "flags=T", "flags=X", 1) + message(3)}, []int{1, 3}, false, []string{"lost: " + m1 + ", byte 65: column 51: expected T or F"}},
		{"position in a line", map[string]string{state: strings.Replace(three, "0,3,0,195", "0,3,10,195", 1), m1: messages(1, 3)}, []int{2, 3}, false, []string{"lost: " + m1 + ", byte 10: column "}},
		{"fewer lines", map[string]string{state: three, m1: message(1) + strings.Repeat("x", 129) + "\n"}, []int{1}, false, []string{"lost: " + m1 + ", byte 65: column ", "lost: " + m1 + ": the state counts 3 messages, the file has 2"}},
		{"more lines", map[string]string{state: strings.NewReplacer(",195", ",260", "size=3", "size=3").Replace(three), m1: messages(1, 4)}, []int{1, 2, 3, 4}, false, []string{"harmless: " + m1 + ": the state counts 3 messages, the file has 4"}},
		{"empty body", map[string]string{state: strings.ReplaceAll(line(j1, 1, j1, 0, 1, "T", 1), "65", "53"), m1: "bW1tbW1tbW1tbW1tbW1tbW1tbW1tbW01 1757930001 flags=T \n"}, []int{0}, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			write(t, root, folder, c.files)
			before := snapshot(t, root)
			for _, held := range []int64{0, 1} { // read ahead, or as it goes
				got := readTree(t, root, held)
				var numbers []int
				for _, m := range got.Messages[rid] {
					n := 0
					_, _ = fmt.Sscanf(m, "bW1tbW1tbW1tbW1tbW1tbW1tbW1tbW0%d", &n)
					if strings.HasSuffix(m, " ") {
						n = 0
					}
					numbers = append(numbers, n)
				}
				if diff := cmp.Diff(c.want, numbers); diff != "" {
					t.Errorf("messages (-want +got):\n%s", diff)
				}
				if c.full != (len(got.Full) == 1) {
					t.Errorf("full: %v", got.Full)
				}
				if len(got.Problems) != len(c.say) {
					t.Fatalf("problems %q, want %q", got.Problems, c.say)
				}
				for i, p := range got.Problems {
					if want := strings.Replace(c.say[i], ": ", ": "+folder+"/", 1); !strings.HasPrefix(p, want) {
						t.Errorf("got %q, want %q", p, want)
					}
				}
			}
			if diff := cmp.Diff(before, snapshot(t, root)); diff != "" {
				t.Errorf("the journal was changed (-before +after):\n%s", diff)
			}
		})
	}
}

func write(t testing.TB, root, folder string, files map[string]string) {
	t.Helper()
	dir := filepath.Join(root, folder)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Folders of queues with ids of any length, empty folders, and what is no journal.
func TestTree(t *testing.T) {
	root := t.TempDir()
	for _, n := range []int{1, 2, 3, 4, 6, 7, 24, 30} {
		id := queue.RecipientID{EntityID: smp.NewEntityID(bytes.Repeat([]byte{byte(n)}, n))}
		write(t, root, Folder(id), map[string]string{
			StateFile(id):   line(j1, 1, j1, 0, 1, "T", 1),
			MessageFile(j1): message(1),
		})
	}
	if err := os.MkdirAll(filepath.Join(root, "AA/AA/AA/AA/gone"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := readTree(t, root, 0); len(got.Messages) != 8 || got.Problems != nil {
		t.Errorf("read %+v", got)
	}
	if got := Folder(queue.RecipientID{EntityID: smp.NewEntityID([]byte{0, 1, 2, 3, 4, 5})}); got != "AA/EC/Aw/QF" {
		t.Errorf("folder of a short id: %s", got)
	}

	for name, path := range map[string]string{
		"a file at the top":            "smp-server-store.log",
		"a folder that is no id":       "AA/EC/Aw/QF/BgcICQoLDA0ODxAREhMUFRY!/x",
		"a folder of the state folder": "messages/AA/x",
		"too deep":                     "AA/EC/Aw/QF/BgcICQoLDA0ODxAREhMUFRYX/BB/x",
	} {
		root := t.TempDir()
		write(t, root, filepath.Dir(path), map[string]string{filepath.Base(path): "x"})
		if _, err := tryTree(t.Context(), root, 0); !errors.Is(err, ErrNotJournal) {
			t.Errorf("%s: %v", name, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); !errors.Is(err, ErrNotJournal) {
		t.Errorf("a file: %v", err)
	}
	if _, err := Open(file + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
}

// However many queues there are, a caller who stops waits for nobody.
func TestStopped(t *testing.T) {
	root := t.TempDir()
	for n := range 100 {
		id := queue.RecipientID{EntityID: smp.NewEntityID([]byte{byte(n), 1, 2, 3, 4, 5, 6, 7})}
		write(t, root, Folder(id), map[string]string{StateFile(id): line(j1, 3, j1, 0, 3, "T", 3), MessageFile(j1): messages(1, 3) + "x"})
	}
	tree, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{OnProblem: func(Problem) error { return nil }}
	for q, err := range tree.Queues(t.Context(), o) {
		if err != nil || q.ID.IsZero() {
			t.Fatal(err)
		}
		for _, err := range q.Messages(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	for _, err = range tree.Queues(ctx, o) {
		n++
		cancel()
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled after %d queues: %v", n, err)
	}
	no := errors.New("no")
	for _, err = range tree.Queues(t.Context(), Options{OnProblem: func(Problem) error { return no }}) {
		if err == nil {
			t.Error("went on after a refusal")
		}
	}
	if !errors.Is(err, no) {
		t.Errorf("refused: %v", err)
	}
}

// A router that goes on is noticed: the state of a queue changes while it is read,
// or a file gets shorter.
func TestChanged(t *testing.T) {
	for name, change := range map[string]func(dir string) error{
		"state": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, state), []byte(line(j1, 3, j1, 0, 3, "T", 3)+line(j1, 3, j1, 1, 3, "T", 2)), 0o600)
		},
		"file cut":   func(dir string) error { return os.Truncate(filepath.Join(dir, MessageFile(j1)), 70) },
		"state gone": func(dir string) error { return os.Remove(filepath.Join(dir, state)) },
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			write(t, root, folder, map[string]string{state: line(j1, 3, j1, 0, 3, "T", 3), MessageFile(j1): messages(1, 3)})
			tree, err := Open(root)
			if err != nil {
				t.Fatal(err)
			}
			o := Options{held: 1, OnProblem: func(Problem) error { return nil }}
			for q, err := range tree.Queues(t.Context(), o) {
				if err != nil {
					t.Fatal(err)
				}
				if err := change(filepath.Join(root, folder)); err != nil {
					t.Fatal(err)
				}
				var last error
				for _, last = range q.Messages(t.Context()) {
					continue
				}
				if !errors.Is(last, ErrChanged) && !errors.Is(last, os.ErrNotExist) {
					t.Errorf("got %v", last)
				}
			}
		})
	}
}

// What is read as a state is written as a line that is read as the same.
func FuzzState(f *testing.F) {
	f.Add([]byte(strings.TrimSuffix(line(j2, 2, j1, 1, 3, "F", 4), "\n")))
	f.Add([]byte("write=AA==,1,1,2,2 read=AA,0,1,0,2 canWrite=T size=+1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := ParseState(text)
		if err != nil {
			return
		}
		again, err := ParseState(bytes.TrimSuffix(s.Append(nil), []byte("\n")))
		if err != nil || again != s {
			t.Errorf("%q: %+v, then %+v, %v", text, s, again, err)
		}
	})
}

// Whatever is in the folder of a queue, it is read to the end, and no message is
// read that is not there.
func FuzzQueue(f *testing.F) {
	m := messages(1, 3)
	f.Add([]byte(line(j1, 3, j1, 0, 3, "T", 3)), []byte(m), []byte(nil), []byte(nil))
	f.Add([]byte(line(j2, 2, j1, 1, 3, "F", 4)), []byte(m), []byte(messages(4, 5)), []byte(nil))
	f.Add([]byte(line(j2, 2, j1, 1, 3, "F", 4)+"write="), []byte(m+"x"), []byte(message(4)), []byte(line(j1, 3, j1, 0, 3, "T", 3)))
	f.Fuzz(func(t *testing.T, stateLines, first, second, backup []byte) {
		root := t.TempDir()
		files := map[string]string{state: string(stateLines), MessageFile(j1): string(first)}
		if second != nil {
			files[MessageFile(j2)] = string(second)
		}
		if backup != nil {
			files[state+".bak"] = string(backup)
		}
		write(t, root, folder, files)
		ahead, later := readTree(t, root, 1<<20), readTree(t, root, 1)
		if diff := cmp.Diff(ahead, later); diff != "" {
			t.Errorf("(-read ahead +as it goes):\n%s", diff)
		}
		if n := len(ahead.Messages[rid]); n > bytes.Count(first, []byte("\n"))+bytes.Count(second, []byte("\n")) {
			t.Errorf("%d messages", n)
		}
	})
}
