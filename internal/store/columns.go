package store

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/smpq/smpq/internal/queue"
)

// A columnType is the type of a column, by its OID in PostgreSQL.
type columnType uint32

const (
	typeBytea columnType = 17
	typeText  columnType = 25
	typeInt8  columnType = 20
	typeBool  columnType = 16
)

// A column is a column that is written from a record of type T. The lists of
// columns are the only place where names and values meet: the statements, the
// CSV and the checksum are all made from them.
type column[T any] struct {
	name string
	typ  columnType
	// value returns the value of the column, which may use buf, or false for
	// NULL.
	value func(r *T, buf []byte) (value, bool)
}

// A value is the value of a column: a number for typeInt8, 0 or 1 for typeBool,
// otherwise bytes.
type value struct {
	bytes  []byte
	number int64
}

func byteValue(b []byte) (value, bool)  { return value{bytes: b}, true }
func numberValue(n int64) (value, bool) { return value{number: n}, true }

func boolValue(b bool) (value, bool) {
	if b {
		return value{number: 1}, true
	}
	return value{}, true
}

// idValue is the value of an id or key; the zero one is NULL.
func idValue(v interface {
	IsZero() bool
	Append(b []byte) []byte
}, buf []byte,
) (value, bool) {
	return value{bytes: v.Append(buf)}, !v.IsZero()
}

// queueColumns are the columns of msg_queues that come from a queue's record.
// The others have defaults.
var queueColumns = []column[queue.Record]{
	{"recipient_id", typeBytea, func(q *queue.Record, buf []byte) (value, bool) { return idValue(q.RecipientID, buf) }},
	{"recipient_keys", typeBytea, func(q *queue.Record, buf []byte) (value, bool) {
		return byteValue(queue.AppendBinaryKeys(buf, q.RecipientKeys))
	}},
	{"rcv_dh_secret", typeBytea, func(q *queue.Record, buf []byte) (value, bool) { return idValue(q.RcvDHSecret, buf) }},
	{"sender_id", typeBytea, func(q *queue.Record, buf []byte) (value, bool) { return idValue(q.SenderID, buf) }},
	{"sender_key", typeBytea, func(q *queue.Record, buf []byte) (value, bool) { return idValue(q.SenderKey, buf) }},
	{"queue_mode", typeText, func(q *queue.Record, buf []byte) (value, bool) {
		return value{bytes: append(buf, byte(q.Mode))}, q.Mode != queue.ModeUnknown
	}},
	{"notifier_id", typeBytea, func(q *queue.Record, buf []byte) (value, bool) {
		if q.Notifier == nil {
			return value{}, false
		}
		return idValue(q.Notifier.ID, buf)
	}},
	{"notifier_key", typeBytea, func(q *queue.Record, buf []byte) (value, bool) {
		if q.Notifier == nil {
			return value{}, false
		}
		return idValue(q.Notifier.Key, buf)
	}},
	{"rcv_ntf_dh_secret", typeBytea, func(q *queue.Record, buf []byte) (value, bool) {
		if q.Notifier == nil {
			return value{}, false
		}
		return idValue(q.Notifier.DHSecret, buf)
	}},
	{"ntf_service_id", typeBytea, func(q *queue.Record, buf []byte) (value, bool) {
		if q.Notifier == nil {
			return value{}, false
		}
		return idValue(q.Notifier.Service, buf)
	}},
	{"status", typeText, func(q *queue.Record, buf []byte) (value, bool) {
		b, _ := q.Status.AppendText(buf)
		return byteValue(b)
	}},
	{"updated_at", typeInt8, func(q *queue.Record, _ []byte) (value, bool) {
		return value{number: q.UpdatedAt.Seconds}, q.UpdatedAt.Known
	}},
	{"link_id", typeBytea, func(q *queue.Record, buf []byte) (value, bool) {
		if q.Link == nil {
			return value{}, false
		}
		return idValue(q.Link.ID, buf)
	}},
	{"rcv_service_id", typeBytea, func(q *queue.Record, buf []byte) (value, bool) { return idValue(q.RcvService, buf) }},
	{"fixed_data", typeBytea, func(q *queue.Record, _ []byte) (value, bool) {
		if q.Link == nil {
			return value{}, false
		}
		return byteValue(q.Link.Data.Fixed)
	}},
	{"user_data", typeBytea, func(q *queue.Record, _ []byte) (value, bool) {
		if q.Link == nil {
			return value{}, false
		}
		return byteValue(q.Link.Data.User)
	}},
}

// serviceColumns are the columns of services that come from a service's record.
var serviceColumns = []column[serviceRow]{
	{"service_id", typeBytea, func(s *serviceRow, buf []byte) (value, bool) { return idValue(s.ID, buf) }},
	{"service_role", typeText, func(s *serviceRow, buf []byte) (value, bool) { return byteValue(append(buf, byte(s.Role))) }},
	{"service_cert", typeBytea, func(s *serviceRow, _ []byte) (value, bool) { return byteValue(s.cert) }},
	{"service_cert_hash", typeBytea, func(s *serviceRow, _ []byte) (value, bool) { return byteValue(s.CertHash) }},
	{"created_at", typeInt8, func(s *serviceRow, _ []byte) (value, bool) { return numberValue(s.CreatedAt) }},
}

// messageRowColumns are the columns of messages.
var messageRowColumns = []column[MessageRow]{
	{"message_id", typeInt8, func(m *MessageRow, _ []byte) (value, bool) { return numberValue(m.Number) }},
	{"recipient_id", typeBytea, func(m *MessageRow, buf []byte) (value, bool) { return idValue(m.Queue, buf) }},
	{"msg_id", typeBytea, func(m *MessageRow, buf []byte) (value, bool) { return idValue(m.Message.ID, buf) }},
	{"msg_ts", typeInt8, func(m *MessageRow, _ []byte) (value, bool) { return numberValue(m.Message.Time) }},
	{"msg_quota", typeBool, func(m *MessageRow, _ []byte) (value, bool) { return boolValue(m.Message.QuotaMarker) }},
	{"msg_ntf_flag", typeBool, func(m *MessageRow, _ []byte) (value, bool) { return boolValue(m.Message.Notify) }},
	{"msg_body", typeBytea, func(m *MessageRow, _ []byte) (value, bool) { return byteValue(m.Message.Body) }},
}

// A serviceRow is a service with its certificate chain in binary form.
type serviceRow struct {
	queue.Service
	cert []byte
}

func newServiceRow(s queue.Service) (serviceRow, error) {
	cert, err := s.CertChain.AppendBinary(nil)
	if err != nil {
		return serviceRow{}, fmt.Errorf("service %s: %w", s.ID, err)
	}
	return serviceRow{s, cert}, nil
}

// names returns the names of columns, comma-separated, each with prefix.
func names[T any](columns []column[T], prefix string) string {
	list := make([]string, len(columns))
	for i, c := range columns {
		list[i] = prefix + c.name
	}
	return strings.Join(list, ", ")
}

// placeholders returns $1 to $n, comma-separated.
func placeholders(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = "$" + strconv.Itoa(i+1)
	}
	return strings.Join(list, ", ")
}

// arguments returns the values of the columns of r for a statement.
func arguments[T any](columns []column[T], r *T) []any {
	args := make([]any, len(columns))
	for i, c := range columns {
		v, ok := c.value(r, nil)
		switch {
		case !ok:
		case c.typ == typeInt8:
			args[i] = v.number
		case c.typ == typeText:
			args[i] = string(v.bytes)
		default:
			args[i] = v.bytes
		}
	}
	return args
}

// A rowWriter makes CSV rows of records and adds them up to a [Checksum].
type rowWriter[T any] struct {
	columns []column[T]
	scratch []byte
	row     []byte
	sum     Checksum
}

// append appends the CSV row of r to b, with its LF, and adds r to the
// checksum.
func (w *rowWriter[T]) append(b []byte, r *T) []byte {
	w.row = binary.BigEndian.AppendUint32(w.row[:0], uint32(len(w.columns))) //nolint:gosec // 16 at most
	for i, c := range w.columns {
		if i > 0 {
			b = append(b, ',')
		}
		w.row = binary.BigEndian.AppendUint32(w.row, uint32(c.typ))
		v, ok := c.value(r, w.scratch[:0])
		switch {
		case !ok:
			w.row = binary.BigEndian.AppendUint32(w.row, 0xFFFFFFFF)
			continue
		case c.typ == typeInt8:
			b = csvInt(b, v.number)
			w.row = binary.BigEndian.AppendUint32(w.row, 8)
			w.row = binary.BigEndian.AppendUint64(w.row, uint64(v.number)) //nolint:gosec // two's complement, as PostgreSQL sends it
			continue
		case c.typ == typeBool:
			b = append(b, "ft"[v.number])
			w.row = binary.BigEndian.AppendUint32(w.row, 1)
			w.row = append(w.row, "\x00\x01"[v.number])
			continue
		case c.typ == typeText:
			b = csvText(b, v.bytes)
		default:
			b = csvBytes(b, v.bytes)
		}
		w.row = binary.BigEndian.AppendUint32(w.row, uint32(len(v.bytes))) //nolint:gosec // values come from lines of at most 1 MiB
		w.row = append(w.row, v.bytes...)
		if cap(v.bytes) > cap(w.scratch) && len(v.bytes) < maxScratch {
			w.scratch = make([]byte, 0, maxScratch)
		}
	}
	w.sum = w.sum.with(w.row)
	return append(b, '\n')
}

const maxScratch = 4096

// A Checksum tells the content of a table apart from another, whatever the
// order of the rows: the XOR of the SHA-256 hashes of all rows, each in the
// binary form that PostgreSQL's record_send gives it, and their number.
//
// XOR finds any difference that chance can make. It does not withstand somebody
// who chooses rows; here both sides have the same origin.
type Checksum struct {
	Rows int64
	Hash [sha256.Size]byte
}

// with returns the checksum of the rows of c and one more.
func (c Checksum) with(row []byte) Checksum {
	h := sha256.Sum256(row)
	for i := range h {
		c.Hash[i] ^= h[i]
	}
	c.Rows++
	return c
}

// String returns the number of rows and the first 16 digits of the hash.
func (c Checksum) String() string {
	return fmt.Sprintf("%d rows, %s", c.Rows, hex.EncodeToString(c.Hash[:8]))
}

// checksumSQL returns a query for the Checksum of rows of a table, computed by
// PostgreSQL. The number and the order of columns are those of the Go side.
func checksumSQL[T any](columns []column[T], table, where string) string {
	return `
		select count(*),
		       bit_xor(('x' || encode(sha256(record_send(row(` + names(columns, "") + `))), 'hex'))::bit(256))
		  from ` + table + where
}
