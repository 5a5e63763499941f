package smp

import (
	"bytes"
	"encoding/json"
	"strconv"
	"unicode/utf8"
)

// Blocking says why a queue is blocked and what its users are told. It is part
// of the error BLOCKED, and of what stores and logs say of a queue. Blockings are
// comparable.
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

// blockingReasons lists the reasons for blocking that the protocol knows.
var blockingReasons = [...]string{"spam", "content"}

// ReadBlocking reads the text of blocking info. Behind a notice there may be
// white space up to the end of the input, or a further field.
//
// For smp-server a notice takes all that is left of the line, so that it cannot
// read the field rsrv that it writes behind one.
func ReadBlocking(r *TextReader) Blocking {
	var b Blocking
	r.Expect("reason=")
	for _, reason := range blockingReasons {
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

// AppendText appends the text of b to dst. It never fails.
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
	b = strconv.AppendInt(b, n.TTL, 10)
	return append(b, '}')
}

// readNotice reads a JSON object. Members other than ttl are ignored; a ttl of
// null is as good as none.
func readNotice(r *TextReader) Notice {
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
