package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/smpq/smpq/internal/logfile"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// A Queue is a queue of a journal with its messages.
type Queue struct {
	ID queue.RecipientID

	// CanWrite is false if the queue is over quota: its sender has to wait until
	// it is drained, be there a quota marker or not.
	CanWrite bool

	root     string
	folder   string
	spans    []span
	problems []Problem
	items    []item // what was read ahead
	held     bool   // whether items are all there is

	onProblem func(Problem) error

	stateFile string // as it was when it was read
	stateInfo fs.FileInfo
}

// A span is a part of a message file.
type span struct {
	file     string // its name in the folder
	from, to int64  // bytes
	messages int64  // as the state counts them
	short    bool   // the file ends before it should
}

// An item is a message or what is wrong with a line.
type item struct {
	message *queue.Message
	problem *Problem
}

// Messages iterates over the messages of the queue, oldest first. What is wrong
// with them is told to Options.OnProblem. A message is the caller's.
func (q *Queue) Messages(ctx context.Context) iter.Seq2[*queue.Message, error] {
	return func(yield func(*queue.Message, error) bool) {
		stopped := false
		give := func(i item) error {
			switch {
			case i.problem != nil:
				return q.onProblem(*i.problem)
			case !yield(i.message, nil):
				stopped = true
				return errStopped
			}
			return nil
		}
		var err error
		if q.held {
			for _, i := range q.items {
				if err = give(i); err != nil {
					break
				}
			}
		} else {
			err = newReader(q.root).read(ctx, q, give)
		}
		if err != nil && !stopped {
			yield(nil, err)
		}
	}
}

var errStopped = errors.New("stopped by the caller")

// A reader reads queues, one after the other.
type reader struct {
	root  string
	lines *logfile.Scanner
	tail  []byte
}

func newReader(root string) *reader {
	return &reader{root: root, lines: logfile.NewScanner(nil), tail: make([]byte, tailSize)}
}

// open finds out what a queue has, and reads its messages if they have at most
// held bytes.
func (r *reader) open(ctx context.Context, j *job, held int64) (*Queue, error) {
	q := &Queue{ID: j.id, root: r.root, folder: j.folder}
	state, name, err := r.state(q, j.files)
	if err != nil || name == "" {
		return q, err
	}
	q.CanWrite, q.stateFile = state.CanWrite, name
	if err := q.locate(state, j.files); err != nil {
		return nil, err
	}
	total := int64(0)
	for _, s := range q.spans {
		total += s.to - s.from
	}
	if total <= held {
		q.held = true
		err = r.read(ctx, q, func(i item) error {
			q.items = append(q.items, i)
			return nil
		})
	}
	return q, err
}

func (q *Queue) path(file string) string { return filepath.Join(q.root, q.folder, file) }

func (q *Queue) problem(lost bool, file, format string, args ...any) {
	q.problems = append(q.problems, Problem{
		File: filepath.Join(q.folder, file), Offset: -1, Lost: lost, Reason: fmt.Sprintf(format, args...),
	})
}

// state returns the state of a queue and the file that it is in, "" if the queue
// has none that can be used.
func (r *reader) state(q *Queue, files []string) (State, string, error) {
	name := StateFile(q.ID)
	switch backup := name + ".bak"; {
	case slices.Contains(files, backup):
		q.problem(false, backup, "a router was stopped while it copied the state; this is the state before, which it would use")
		name = backup
	case !slices.Contains(files, name):
		return State{}, "", r.withoutState(q, files)
	}
	var err error
	if q.stateInfo, err = look(q.path(name)); err != nil {
		return State{}, "", err
	}
	lines, terminated, err := r.lastLines(q.path(name))
	if err != nil {
		return State{}, "", err
	}
	if len(lines) == 0 {
		return State{}, "", r.withoutState(q, files)
	}
	last := lines[len(lines)-1]
	s, err := ParseState(last)
	readable := err == nil
	if readable {
		err = s.Check()
	}
	switch {
	case err == nil && terminated:
	case err == nil:
		q.problem(false, name, "the last line has no end of line; it is complete all the same")
	case !terminated && len(lines) == 1:
		q.problem(false, name, "its only line was cut off, before the router confirmed the first message")
		return State{}, "", nil
	case terminated && readable || len(lines) == 1:
		q.problem(true, name, "its last line cannot be used: %v; the messages of the queue are not read", err)
		return State{}, "", nil
	default:
		var before error
		if s, before = usable(lines[len(lines)-2]); before != nil {
			q.problem(true, name, "its last line cannot be used (%v), nor the line before it (%v); the messages of the queue are not read", err, before)
			return State{}, "", nil
		}
		if !terminated {
			q.problem(false, name, "its last line was cut off, before the router confirmed what it did; the line before it counts")
		} else {
			q.problem(true, name, "its last line cannot be read: %v; the line before it counts, and the last message may be missing", err)
		}
	}
	return s, name, nil
}

// usable reads a state that contradicts itself in nothing.
func usable(line []byte) (State, error) {
	s, err := ParseState(line)
	if err == nil {
		err = s.Check()
	}
	return s, err
}

// withoutState takes note of message files without a state, which a router
// ignores.
func (r *reader) withoutState(q *Queue, files []string) error {
	consumed, err := r.consumed(q, files)
	if err != nil {
		return err
	}
	for _, name := range files {
		if !strings.HasPrefix(name, "messages.") {
			continue
		}
		info, err := look(q.path(name))
		if err != nil {
			return err
		}
		if size := info.Size(); size > 0 && !slices.Contains(consumed, name) {
			q.problem(true, name, "there is no state: %d bytes of messages are not read, as a router ignores them", size)
		}
	}
	return nil
}

// consumed returns the message files of which the last state that was set aside
// says that nothing was left in them: a router was stopped before it removed them.
func (r *reader) consumed(q *Queue, files []string) ([]string, error) {
	prefix := StateFile(q.ID) + "."
	last := ""
	for _, name := range files {
		if strings.HasPrefix(name, prefix) && strings.HasSuffix(name, ".bak") {
			last = max(last, name)
		}
	}
	if last == "" {
		return nil, nil
	}
	lines, _, err := r.lastLines(q.path(last))
	if err != nil || len(lines) == 0 {
		return nil, err
	}
	s, err := usable(lines[len(lines)-1])
	if err != nil || s.Size > 0 {
		return nil, nil //nolint:nilerr // then it says nothing
	}
	return []string{MessageFile(s.Read.Journal), MessageFile(s.Write.Journal)}, nil
}

// tailSize is how much of a state file is read. Lines have 80 to 200 bytes.
const tailSize = 4096

// lastLines returns the last lines of a file, without LF, and whether the very
// last one has its LF. They are valid until the next call.
func (r *reader) lastLines(name string) (lines [][]byte, terminated bool, err error) {
	info, err := look(name)
	if err != nil {
		return nil, false, err
	}
	f, err := os.Open(name) //nolint:gosec // in the folder that was asked for
	if err != nil {
		return nil, false, fmt.Errorf("read journal: %w", err)
	}
	defer f.Close() //nolint:errcheck // was only read
	start := max(info.Size()-tailSize, 0)
	n, err := f.ReadAt(r.tail, start)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, fmt.Errorf("read journal: %w", err)
	}
	lines, terminated = splitTail(r.tail[:n], start > 0)
	return lines, terminated, nil
}

// splitTail splits the end of a file into lines. If cut, the first one is not
// whole, and left out unless there is no other.
func splitTail(tail []byte, cut bool) (lines [][]byte, terminated bool) {
	if _, rest, _ := bytes.Cut(tail, []byte("\n")); cut && len(rest) > 0 {
		tail = rest
	}
	text, terminated := bytes.CutSuffix(tail, []byte("\n"))
	if len(text) == 0 && !terminated {
		return nil, false
	}
	return bytes.Split(text, []byte("\n")), terminated
}

// locate finds the parts of the message files that the queue has.
func (q *Queue) locate(s State, files []string) error {
	readFile, writeFile := MessageFile(s.Read.Journal), MessageFile(s.Write.Journal)
	for _, name := range files {
		if strings.HasPrefix(name, "messages.") && name != readFile && name != writeFile {
			q.problem(false, name, "the state does not mention it, and a router ignores it")
		}
	}
	if s.Size == 0 {
		return nil
	}
	left := s.Read.Count - s.Read.Messages
	first := span{file: readFile, from: s.Read.Byte, to: s.Read.Bytes, messages: left}
	if s.Read.Journal == s.Write.Journal {
		return q.span(first, files)
	}
	second := span{file: writeFile, to: s.Write.Bytes, messages: s.Write.Count}
	if err := q.span(first, files); err != nil {
		return err
	}
	return q.span(second, files)
}

// span adds a span, unless there is nothing in it.
func (q *Queue) span(s span, files []string) error {
	if s.messages == 0 {
		return nil
	}
	if !slices.Contains(files, s.file) {
		q.problem(true, s.file, "the file is missing, and with it %d messages", s.messages)
		return nil
	}
	info, err := look(q.path(s.file))
	if err != nil {
		return err
	}
	switch size := info.Size(); {
	case size > s.to:
		q.problem(false, s.file, "the last %d bytes are ignored: they were written, but not confirmed to the sender", size-s.to)
	case size < s.to:
		q.problem(true, s.file, "the file has %d bytes where the state counts %d: the end of it is missing", size, s.to)
		s.to, s.short = max(size, s.from), true
	}
	q.spans = append(q.spans, s)
	return nil
}

// read reads the messages of a queue.
func (r *reader) read(ctx context.Context, q *Queue, give func(item) error) error {
	for _, s := range q.spans {
		if err := r.readSpan(ctx, q, s, give); err != nil {
			return err
		}
	}
	return q.unchanged()
}

// unchanged returns an error if the state of the queue is not what it was.
func (q *Queue) unchanged() error {
	info, err := look(q.path(q.stateFile))
	if err != nil {
		return err
	}
	if info.Size() != q.stateInfo.Size() || !info.ModTime().Equal(q.stateInfo.ModTime()) {
		return fmt.Errorf("%w (%s)", ErrChanged, q.path(q.stateFile))
	}
	return nil
}

func (r *reader) readSpan(ctx context.Context, q *Queue, s span, give func(item) error) error {
	f, err := os.Open(q.path(s.file))
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	defer f.Close() //nolint:errcheck // was only read
	file := filepath.Join(q.folder, s.file)
	r.lines.Reset(io.NewSectionReader(f, s.from, s.to-s.from))
	n, end := int64(0), s.from
	for r.lines.Scan() {
		if err := ctx.Err(); err != nil {
			return err
		}
		l := r.lines.Line()
		i := readLine(l)
		if i.problem != nil {
			i.problem.File, i.problem.Offset = file, s.from+l.Offset
		}
		if err := give(i); err != nil {
			return err
		}
		n++
		end = s.from + l.End()
	}
	if err := r.lines.Err(); err != nil {
		return fmt.Errorf("read journal: %s: %w", q.path(s.file), err)
	}
	switch {
	case end != s.to:
		return fmt.Errorf("%w (%s is shorter than before)", ErrChanged, q.path(s.file))
	case n != s.messages && !s.short:
		return give(item{problem: &Problem{
			File: file, Offset: -1, Lost: n < s.messages,
			Reason: fmt.Sprintf("the state counts %d messages, the file has %d", s.messages, n),
		}})
	}
	return nil
}

// readLine reads a line of a message file.
func readLine(l logfile.Line) item {
	if l.TooLong > 0 {
		f := l.Overlong()
		return item{problem: &Problem{Reason: f.Reason, Text: f.Text, Lost: true}}
	}
	r := smp.NewTextReader(l.Text)
	m := queue.ReadMessage(r)
	r.End()
	if r.Err() == nil && !l.Terminated {
		// The end of the message may be missing.
		r.Fail(len(l.Text), "the line has no end")
	}
	if err := r.Err(); err != nil {
		return item{problem: &Problem{Reason: err.Error(), Text: bytes.Clone(l.Text), Lost: true}}
	}
	return item{message: &m}
}
