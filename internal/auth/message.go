package auth

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/smpq/smpq/internal/smp"
)

// Sizes of what the router encrypts for recipients and notifiers, in bytes. They
// do not depend on what is encrypted.
const (
	// SealedMessageSize is the size of the body of MSG.
	SealedMessageSize = BoxOverhead + messageSize
	// SealedMetaSize is the size of the metadata in NMSG.
	SealedMetaSize = BoxOverhead + metaSize

	messageSize = 16106
	metaSize    = 128
)

var errMessage = errors.New("the content is malformed")

// A Message is what a recipient finds in MSG: a message or, with Quota, the
// marker after which messages were refused because the queue was full (SMP
// protocol, deliver queue message).
type Message struct {
	Time   int64 // Unix seconds when the router took the message
	Quota  bool  // a marker: Notify is false, Body is empty
	Notify bool  // the sender asked for a notification
	Body   []byte
}

const quotaTag = "QUOTA "

// SealMessage appends m to dst, encrypted with the secret that the router and
// the recipient agreed on for the queue: [SealedMessageSize] bytes. The nonce is
// the message id. It fails if the body has more than 16,094 bytes.
func SealMessage(dst []byte, secret smp.DHSecret, id Nonce, m Message) ([]byte, error) {
	var padded [messageSize]byte
	plain, err := smp.AppendPadded(padded[:0], m.append(make([]byte, 0, messageSize)), messageSize)
	if err != nil {
		return nil, fmt.Errorf("encrypt message: %w", err)
	}
	return NewBox(secret).Seal(dst, id, plain), nil
}

// OpenMessage decrypts the body of MSG. The nonce is the message id.
func OpenMessage(secret smp.DHSecret, id Nonce, sealed []byte) (Message, error) {
	plain, err := openPadded(secret, id, sealed)
	if err != nil {
		return Message{}, fmt.Errorf("decrypt message: %w", err)
	}
	m, err := parseMessage(plain)
	if err != nil {
		return Message{}, fmt.Errorf("decrypt message: %w", err)
	}
	return m, nil
}

func (m Message) append(b []byte) []byte {
	if m.Quota {
		return appendTime(append(b, quotaTag...), m.Time)
	}
	b = appendTime(b, m.Time)
	if m.Notify {
		b = append(b, "T "...)
	} else {
		b = append(b, "F "...)
	}
	return append(b, m.Body...)
}

// parseMessage reads what append writes. It takes further flags, of which
// nothing is known, and bytes behind the time of a marker.
func parseMessage(in []byte) (m Message, err error) {
	if rest, ok := bytes.CutPrefix(in, []byte(quotaTag)); ok && len(rest) >= 8 {
		return Message{Time: time64(rest), Quota: true}, nil
	}
	if len(in) < 8 {
		return Message{}, errMessage
	}
	flags, body, ok := bytes.Cut(in[8:], []byte(" "))
	if !ok || len(flags) == 0 || flags[0] != 'T' && flags[0] != 'F' {
		return Message{}, errMessage
	}
	return Message{Time: time64(in), Notify: flags[0] == 'T', Body: body}, nil
}

// A Meta is what a notifier finds in NMSG (SMP protocol, deliver message
// notification). The notifier passes it on; the recipient reads it.
type Meta struct {
	MsgID smp.Short
	Time  int64 // Unix seconds when the router took the message
}

// SealMeta appends m to dst, encrypted with the secret that the router and the
// recipient agreed on for notifications: [SealedMetaSize] bytes. It fails if the
// message id has more than 117 bytes.
func SealMeta(dst []byte, secret smp.DHSecret, nonce Nonce, m Meta) ([]byte, error) {
	plain, err := smp.AppendPadded(nil, appendTime(m.MsgID.Append(nil), m.Time), metaSize)
	if err != nil {
		return nil, fmt.Errorf("encrypt notification: %w", err)
	}
	return NewBox(secret).Seal(dst, nonce, plain), nil
}

// OpenMeta decrypts the metadata in NMSG.
func OpenMeta(secret smp.DHSecret, nonce Nonce, sealed []byte) (Meta, error) {
	plain, err := openPadded(secret, nonce, sealed)
	if err != nil {
		return Meta{}, fmt.Errorf("decrypt notification: %w", err)
	}
	r := smp.NewBinaryReader(plain)
	m := Meta{MsgID: smp.ReadShort(r), Time: r.Int64()}
	if err := r.Err(); err != nil { // further bytes are for future versions
		return Meta{}, fmt.Errorf("decrypt notification: %w", err)
	}
	return m, nil
}

func openPadded(secret smp.DHSecret, nonce Nonce, sealed []byte) ([]byte, error) {
	padded, err := NewBox(secret).Open(nil, nonce, sealed)
	if err != nil {
		return nil, err
	}
	return smp.Unpad(padded)
}

func appendTime(b []byte, seconds int64) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(seconds)) //nolint:gosec // two's complement
}

func time64(b []byte) int64 {
	return int64(binary.BigEndian.Uint64(b)) //nolint:gosec // two's complement
}
