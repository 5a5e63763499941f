// Package msglog reads and writes the message log, the text file in which a
// router in memory mode keeps the messages that were not delivered when it
// stopped.
//
// The log has one message a line; every line ends with LF:
//
//	v3 recipient-id message-id seconds flags=T|F body
//	v3 recipient-id message-id seconds quota
//
// The messages of a queue are in the order in which they came; other queues may
// be in between. The second form is a quota marker. In an old form of the first
// one, flags= is missing.
package msglog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/smpq/smpq/internal/logfile"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// A Record is one line of a log: a message and the queue that it is in.
type Record struct {
	Queue   queue.RecipientID
	Message queue.Message
}

const version = "v3"

// Parse reads one line, without its LF. The error is a [*smp.SyntaxError] with
// the place in the line. The record shares no memory with line.
//
// Parse takes what smp-server takes, and empty bodies as well, which smp-server
// writes but does not read. It refuses numbers that do not fit 64 bits.
func Parse(line []byte) (Record, error) {
	r := smp.NewTextReader(line)
	if string(r.Word()) != version {
		r.Fail(0, "not a message: the line does not start with "+version)
	}
	r.Space()
	rec := Record{Queue: queue.RecipientID{EntityID: r.ID()}}
	r.Space()
	rec.Message = queue.ReadMessage(r)
	r.End()
	if err := r.Err(); err != nil {
		return Record{}, err
	}
	return rec, nil
}

// Append appends the line of a message in a queue to b, with its LF. It writes
// the present form: what was read in an old one comes out in that.
func Append(b []byte, id queue.RecipientID, m *queue.Message) []byte {
	b = append(b, version...)
	b = append(b, ' ')
	b, _ = id.AppendText(b)
	b = append(b, ' ')
	b, _ = m.AppendText(b)
	return append(b, '\n')
}

// ErrNotMessageLog reports a file that is plainly something else.
var ErrNotMessageLog = errors.New("not a message log")

// A File is a message log opened for reading. It is never written to.
type File struct{ *logfile.File }

// Open opens the message log with the given name. A file that is something else,
// such as a store log or a compressed file, is ErrNotMessageLog.
func Open(name string) (*File, error) {
	f, err := logfile.Open(name)
	if errors.Is(err, logfile.ErrFolder) {
		err = fmt.Errorf("%w: %w; for the folder of a journal there is a command of its own", ErrNotMessageLog, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open message log: %w", err)
	}
	kind, err := f.Kind()
	switch {
	case err != nil:
		err = fmt.Errorf("read message log: %w", err)
	case kind != logfile.Unknown && kind != logfile.MessageLog:
		err = fmt.Errorf("%w: %s is %s", ErrNotMessageLog, name, kind)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &File{f}, nil
}

// A Problem is a line that is not as it should be.
type Problem struct {
	logfile.Fault
	// Lost: the line is not a message, and is left out. Otherwise it was taken
	// as the message that it is as it stands; but no LF ends it, so that it may
	// have been cut off.
	Lost bool
}

// An Entry is a message and where it is in the log.
type Entry struct {
	Record
	Line int64 // counted from 1
}

// Options control the reading of a log.
type Options struct {
	// OnProblem is called for each problem, in the order of the log. If it
	// returns an error, that is the end.
	OnProblem func(Problem) error

	// Progress, if not nil, is told how many more bytes were read.
	Progress func(bytes int64)
}

// Counts are the numbers of what was read of a log.
type Counts struct {
	Lines int64
	Bytes int64 // of all lines, with LF
}

// Entries iterates over the messages of a log, in its order. However long it is,
// one line at a time is in memory. An entry is the caller's. The counts are
// complete at the end.
func (f *File) Entries(ctx context.Context, o Options) (iter.Seq2[*Entry, error], *Counts) {
	counts := new(Counts)
	return func(yield func(*Entry, error) bool) {
		err := read(ctx, f.Reader(), o, counts, func(e *Entry) bool { return yield(e, nil) })
		if err != nil {
			yield(nil, fmt.Errorf("%s: %w", f.Name(), err))
		}
	}, counts
}

// progressStep is how many bytes pass before somebody is told.
const progressStep = 1 << 18

// read reads a log up to the end, or until yield returns false.
func read(ctx context.Context, r io.Reader, o Options, counts *Counts, yield func(*Entry) bool) error {
	// A read from a pipe can take for ever.
	if pipe, ok := r.(interface{ SetReadDeadline(time.Time) error }); ok {
		stop := context.AfterFunc(ctx, func() { _ = pipe.SetReadDeadline(time.Unix(1, 0)) })
		defer stop()
	}
	told := int64(0)
	tell := func() {
		if o.Progress != nil {
			o.Progress(counts.Bytes - told)
			told = counts.Bytes
		}
	}
	defer tell()
	lines := logfile.NewScanner(r)
	for lines.Scan() {
		if err := ctx.Err(); err != nil {
			return err
		}
		l := lines.Line()
		counts.Lines++
		counts.Bytes = l.End()
		if counts.Bytes-told >= progressStep {
			tell()
		}
		e, problem := parseLine(l)
		if problem != nil {
			if err := o.OnProblem(*problem); err != nil {
				return err
			}
		}
		if e != nil && !yield(e) {
			return nil
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return lines.Err()
}

// parseLine returns the message of a line, a problem, or both.
func parseLine(l logfile.Line) (*Entry, *Problem) {
	if l.TooLong > 0 {
		return nil, &Problem{Fault: l.Overlong(), Lost: true}
	}
	rec, err := Parse(l.Text)
	if err != nil {
		return nil, &Problem{Fault: l.Unreadable(err), Lost: true}
	}
	e := &Entry{Record: rec, Line: l.Number}
	if l.Terminated {
		return e, nil
	}
	taken := fmt.Sprintf("a message with a body of %d bytes", len(rec.Message.Body))
	if rec.Message.QuotaMarker {
		taken = "a quota marker"
	}
	return e, &Problem{Fault: l.Unterminated(taken)}
}
