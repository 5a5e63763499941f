package queue

import (
	"fmt"

	"github.com/smpq/smpq/internal/smp"
)

// MaxMessageBody is the length in bytes of the longest message body that a
// router stores.
const MaxMessageBody = 16088

// A Message is a message as the store keeps it: encrypted by its sender, not
// yet by the router. A quota marker has no body and no notification flag; it
// stands for the first message that was refused because the queue was full.
type Message struct {
	ID          MessageID
	Time        int64 // Unix seconds when the router took the message
	QuotaMarker bool
	Notify      bool // the sender asked for a notification
	Body        []byte
}

// AppendText appends the text of m to b: id, time, flags and body, as in the
// message log and in journals. An empty body leaves nothing after the last
// space; only smpq reads that back.
func (m *Message) AppendText(b []byte) ([]byte, error) {
	b, _ = m.ID.AppendText(b)
	b = append(b, ' ')
	b = appendInt(b, m.Time)
	if m.QuotaMarker {
		return append(b, " quota"...), nil
	}
	b = append(b, " flags=F "...)
	if m.Notify {
		b[len(b)-2] = 'T'
	}
	return smp.AppendBase64(b, m.Body), nil
}

// ReadMessage reads the text of a message, in the old form without flags too.
// It takes an empty body, which smp-server writes but does not read.
func ReadMessage(r *smp.TextReader) Message {
	var m Message
	m.ID = MessageID{r.ID()}
	r.Space()
	m.Time = r.Int64()
	r.Space()
	if r.Skip("quota") {
		m.QuotaMarker = true
		return m
	}
	flagged := r.Skip("flags=")
	if flagged {
		switch {
		case r.Skip("T"):
			m.Notify = true
		case !r.Skip("F"):
			r.Fail(r.Offset(), "expected T or F")
		}
		r.Word()
		r.Space()
	}
	if flagged && r.AtEnd() {
		m.Body = []byte{}
		return m
	}
	start := r.Offset()
	m.Body = r.Bytes()
	if len(m.Body) > MaxMessageBody {
		r.Fail(start, fmt.Sprintf("message body of %d bytes: at most %d are stored", len(m.Body), MaxMessageBody))
	}
	return m
}
