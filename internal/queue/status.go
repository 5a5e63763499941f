package queue

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/smpq/smpq/internal/smp"
)

// A Status says whether a queue takes messages. The zero Status is active.
// Statuses are comparable.
type Status struct {
	State    State
	Blocking Blocking // why, if State is Blocked
}

// A State is the kind of a [Status].
type State uint8

// The states of a queue. Off means suspended by the recipient; Blocked means
// blocked by the operator.
const (
	Active State = iota
	Off
	Blocked
)

// String returns "active", "off" or "blocked".
func (s State) String() string {
	switch s {
	case Active:
		return "active"
	case Off:
		return "off"
	case Blocked:
		return "blocked"
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// Blocking says why a queue is blocked and what its users are told.
type Blocking = smp.Blocking

// A Notice is what clients show their users about a blocked queue.
type Notice = smp.Notice

// ReadBlocking reads the text of blocking info, as in the log record BLOCK.
func ReadBlocking(r *smp.TextReader) Blocking { return smp.ReadBlocking(r) }

// ParseStatus reads the text of a status, as in the column status.
func ParseStatus(text string) (Status, error) {
	r := smp.NewTextReader([]byte(text))
	s := ReadStatus(r)
	r.End()
	if err := r.Err(); err != nil {
		return Status{}, fmt.Errorf("queue status %q: %w", text, err)
	}
	return s, nil
}

// RepairStatus is [ParseStatus] that also reads what imports of smp-server up
// to 6.5 made of a notice: they lost its quotes on the way into the database,
// and what they stored, notice={ttl:86400}, smp-server cannot read again.
// Repaired reports whether text was such.
func RepairStatus(text string) (s Status, repaired bool, err error) {
	const broken, whole = `,notice={ttl:`, `,notice={"ttl":`
	if before, after, ok := bytes.Cut([]byte(text), []byte(broken)); ok {
		s, err := ParseStatus(string(before) + whole + string(after))
		return s, err == nil, err
	}
	s, err = ParseStatus(text)
	return s, false, err
}

// ReadStatus reads the text of a status.
func ReadStatus(r *smp.TextReader) Status {
	switch {
	case r.Skip("active"):
		return Status{}
	case r.Skip("off"):
		return Status{State: Off}
	case r.Skip("blocked,"):
		return Status{State: Blocked, Blocking: ReadBlocking(r)}
	}
	r.Fail(r.Offset(), "unknown queue status: expected active, off or blocked,reason=…")
	return Status{}
}

// String returns the text of s.
func (s Status) String() string {
	b, _ := s.AppendText(nil)
	return string(b)
}

// AppendText appends the text of s to b.
func (s Status) AppendText(b []byte) ([]byte, error) {
	b = append(b, s.State.String()...)
	if s.State == Blocked {
		b = append(b, ',')
		return s.Blocking.AppendText(b)
	}
	return b, nil
}

// MarshalText returns the text of s.
func (s Status) MarshalText() ([]byte, error) { return s.AppendText(nil) }

func appendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }
