package journal

import (
	"errors"
	"strconv"

	"github.com/smpq/smpq/internal/smp"
)

// A Position is a place in a message file.
type Position struct {
	Journal  string // names the file
	Messages int64  // before the position
	Count    int64  // messages in the file
	Byte     int64  // bytes before the position
	Bytes    int64  // bytes of the file
}

// A State is a line of a state file.
type State struct {
	Write    Position // at the end of the file to which messages are appended
	Read     Position // of the next message to be taken
	CanWrite bool     // false: over quota, until the queue is drained
	Size     int64    // messages in the queue, quota markers included
}

// ParseState reads a line of a state file, without its LF. The error is a
// [*smp.SyntaxError]. Whether the numbers fit is another question: see
// [State.Check].
func ParseState(line []byte) (State, error) {
	r := smp.NewTextReader(line)
	var s State
	r.Expect("write=")
	s.Write = readPosition(r)
	r.Space()
	r.Expect("read=")
	s.Read = readPosition(r)
	r.Space()
	r.Expect("canWrite=")
	s.CanWrite = r.Skip("T")
	if !s.CanWrite && !r.Skip("F") {
		r.Fail(r.Offset(), "expected T or F")
	}
	r.Space()
	r.Expect("size=")
	s.Size = r.Int64()
	r.End()
	if err := r.Err(); err != nil {
		return State{}, err
	}
	return s, nil
}

func readPosition(r *smp.TextReader) Position {
	p := Position{Journal: string(smp.AppendBase64(nil, r.Bytes()))}
	for _, n := range []*int64{&p.Messages, &p.Count, &p.Byte, &p.Bytes} {
		r.Expect(",")
		if r.Peek('-') || r.Peek('+') {
			r.Fail(r.Offset(), "expected a number without sign")
		}
		*n = r.Int64()
	}
	return p
}

// Append appends the line of s to b, with its LF.
func (s State) Append(b []byte) []byte {
	b = s.Write.append(append(b, "write="...))
	b = s.Read.append(append(b, " read="...))
	b = append(b, " canWrite=F size="...)
	if s.CanWrite {
		b[len(b)-len("F size=")] = 'T'
	}
	b = strconv.AppendInt(b, s.Size, 10)
	return append(b, '\n')
}

func (p Position) append(b []byte) []byte {
	b = append(b, p.Journal...)
	for _, n := range [...]int64{p.Messages, p.Count, p.Byte, p.Bytes} {
		b = strconv.AppendInt(append(b, ','), n, 10)
	}
	return b
}

// Check returns an error if the numbers of s contradict each other. A router does
// not open a queue with such a state.
func (s State) Check() error {
	r, w := s.Read, s.Write
	size := r.Count - r.Messages
	switch {
	case r.Messages > r.Count || r.Byte > r.Bytes:
		return errors.New("the state reads beyond the end of the file")
	case w.Messages != w.Count || w.Byte != w.Bytes:
		return errors.New("the state does not write at the end of the file")
	case r.Journal == w.Journal && (r.Count != w.Count || r.Bytes != w.Bytes):
		return errors.New("the state has two lengths of one file")
	case r.Journal != w.Journal:
		size += w.Count
	}
	if s.Size != size {
		return errors.New("the state counts " + strconv.FormatInt(s.Size, 10) + " messages, its positions " + strconv.FormatInt(size, 10))
	}
	return nil
}
