// Package ntflog reads and writes the notification log: the file in which a router
// keeps the notifications that wait for their notifiers while it does not run. It has
// a line for each,
//
//	v1 NOTIFIER MESSAGE TIME NONCE META
//
// with the ids of notifier and message, the time in Unix seconds when the router took
// the message, and what the notifier is to get. All but the time is base64url. The
// notifications for one notifier are in their order.
package ntflog

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// Name is the name of the log in the folder of a router's logs.
const Name = "smp-server-ntfs.log"

// MetaSize is the length in bytes of the encrypted metadata in a notification.
// smp-server reads any other as well, but writes none; so a line that was cut is
// not taken for a whole one.
const MetaSize = 144

// maxLine is the length in bytes from which on lines are not read. Those that routers
// write have some 300 bytes.
const maxLine = 16 << 10

const tag = "v1 "

// A Record is a notification that waits for its notifier.
type Record struct {
	Notifier queue.NotifierID
	Message  queue.MessageID
	Time     int64 // Unix seconds
	Nonce    [smp.NonceSize]byte
	Meta     smp.Short // id and time of the message, encrypted for the recipient; MetaSize bytes
}

// AppendText appends the line of r to b, without its end.
func (r *Record) AppendText(b []byte) ([]byte, error) {
	b, _ = r.Notifier.AppendText(append(b, tag...)) // it never fails
	b, _ = r.Message.AppendText(append(b, ' '))
	b = strconv.AppendInt(append(b, ' '), r.Time, 10)
	b = smp.AppendBase64(append(b, ' '), r.Nonce[:])
	return smp.AppendBase64(append(b, ' '), r.Meta.Bytes()), nil
}

// ParseRecord reads a line without its end. The error is an [*smp.SyntaxError].
func ParseRecord(line []byte) (Record, error) {
	var r Record
	in := smp.NewTextReader(line)
	in.Expect(tag)
	start := in.Offset()
	r.Notifier.EntityID = in.ID()
	if r.Notifier.Len() > smp.MaxShort {
		in.Fail(start, fmt.Sprintf("id of %d bytes: the protocol has room for %d", r.Notifier.Len(), smp.MaxShort))
	}
	in.Space()
	r.Message.EntityID = in.ID()
	in.Space()
	r.Time = in.Int64()
	in.Space()
	start = in.Offset()
	nonce := in.Bytes()
	if copy(r.Nonce[:], nonce) != len(nonce) || len(nonce) < len(r.Nonce) {
		in.Fail(start, fmt.Sprintf("nonce of %d bytes, not %d", len(nonce), len(r.Nonce)))
	}
	in.Space()
	start = in.Offset()
	meta := in.Bytes()
	if len(meta) != MetaSize {
		in.Fail(start, fmt.Sprintf("encrypted metadata of %d bytes, not %d", len(meta), MetaSize))
	}
	in.End()
	if err := in.Err(); err != nil {
		return Record{}, err
	}
	var err error
	r.Meta, err = smp.NewShort(meta)
	return r, err
}

// A LineError says which line cannot be read.
type LineError struct {
	Line int64 // counted from 1
	Err  error
}

// Error names the line.
func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap returns what is wrong with the line.
func (e *LineError) Unwrap() error { return e.Err }

var errLong = errors.New("longer than " + strconv.Itoa(maxLine) + " bytes")

// Read returns the records of a log, in constant memory. A line that cannot be read
// is a [*LineError] in the place of its record, and the next line follows; another
// error is that of the reader, and the last. The end of the last line may be missing.
func Read(r io.Reader) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		lines := bufio.NewReaderSize(r, maxLine)
		for n := int64(1); ; n++ {
			line, err := lines.ReadSlice('\n')
			var record Record
			var wrong error
			if errors.Is(err, bufio.ErrBufferFull) {
				wrong = errLong
				for errors.Is(err, bufio.ErrBufferFull) {
					_, err = lines.ReadSlice('\n')
				}
			} else if len(line) > 0 && (err == nil || errors.Is(err, io.EOF)) {
				record, wrong = ParseRecord(bytes.TrimSuffix(line, []byte{'\n'}))
			}
			if err != nil && !errors.Is(err, io.EOF) {
				yield(Record{}, fmt.Errorf("read line %d: %w", n, err))
				return
			}
			if wrong != nil {
				wrong = &LineError{n, wrong}
			}
			if (wrong != nil || len(line) > 0) && !yield(record, wrong) || err != nil {
				return
			}
		}
	}
}

// Write writes a log, and returns how many records it has.
func Write(w io.Writer, records iter.Seq[Record]) (int, error) {
	out := bufio.NewWriter(w)
	n := 0
	var line []byte
	for r := range records {
		line, _ = r.AppendText(line[:0]) // it never fails
		if _, err := out.Write(append(line, '\n')); err != nil {
			return n, fmt.Errorf("write line %d: %w", n+1, err)
		}
		n++
	}
	if err := out.Flush(); err != nil {
		return n, fmt.Errorf("write %d lines: %w", n, err)
	}
	return n, nil
}
