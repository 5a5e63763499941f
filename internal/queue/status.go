package queue

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"

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
type Blocking struct {
	Reason    string // "spam" or "content"
	HasNotice bool
	Notice    Notice
}

// A Notice is what clients show their users about a blocked queue.
type Notice struct {
	TTL    int64 // seconds for which to show it, if HasTTL
	HasTTL bool  // false: for ever
}

// reasons lists the reasons for blocking that the protocol knows.
var reasons = [...]string{"spam", "content"}

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

// ReadBlocking reads the text of blocking info. Behind a notice there may be
// white space up to the end of the input, or a further field.
//
// For smp-server a notice takes all that is left of the line, so that it cannot
// read the field rsrv that it writes behind one.
func ReadBlocking(r *smp.TextReader) Blocking {
	var b Blocking
	r.Expect("reason=")
	for _, reason := range reasons {
		if r.Skip(reason) {
			b.Reason = reason
			break
		}
	}
	if b.Reason == "" {
		r.Fail(r.Offset(), "unknown reason for blocking: expected spam or content")
		return b
	}
	if r.Skip(",notice=") {
		b.HasNotice, b.Notice = true, readNotice(r)
	}
	return b
}

// AppendText appends the text of b to dst.
func (b Blocking) AppendText(dst []byte) ([]byte, error) {
	dst = append(dst, "reason="...)
	dst = append(dst, b.Reason...)
	if b.HasNotice {
		dst = append(dst, ",notice="...)
		dst = b.Notice.appendJSON(dst)
	}
	return dst, nil
}

func (n Notice) appendJSON(b []byte) []byte {
	if !n.HasTTL {
		return append(b, "{}"...)
	}
	b = append(b, `{"ttl":`...)
	b = appendInt(b, n.TTL)
	return append(b, '}')
}

// readNotice reads a JSON object. Members other than ttl are ignored; a ttl of
// null is as good as none.
func readNotice(r *smp.TextReader) Notice {
	start := r.Offset()
	in := r.Rest()
	dec := json.NewDecoder(bytes.NewReader(in))
	var members map[string]json.RawMessage
	if err := dec.Decode(&members); err != nil || members == nil {
		r.Fail(start, `notice is not a JSON object like {"ttl":86400}`)
		return Notice{}
	}
	end := int(dec.InputOffset())
	if !utf8.Valid(in[:end]) {
		r.Fail(start, "notice is not UTF-8")
		return Notice{}
	}
	if len(bytes.TrimSpace(in[end:])) > 0 {
		r.Unread(len(in) - end)
	}
	ttl, ok := members["ttl"]
	if !ok || string(ttl) == "null" {
		return Notice{}
	}
	n, err := strconv.ParseInt(string(ttl), 10, 64)
	if err != nil {
		r.Fail(start, "notice has a ttl that is not a whole number of seconds")
		return Notice{}
	}
	return Notice{TTL: n, HasTTL: true}
}

func appendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }
