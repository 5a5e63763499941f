package queue

import (
	"errors"
	"fmt"

	"github.com/smpq/smpq/internal/smp"
)

// A Record is a queue as the store keeps it, without its messages.
type Record struct {
	RecipientID   RecipientID
	RecipientKeys []smp.PublicKey // at least one; any of them authorizes the recipient
	RcvDHSecret   smp.DHSecret
	SenderID      SenderID
	SenderKey     smp.PublicKey // zero: the queue is not secured
	Mode          Mode
	Link          *Link     // nil: no short link
	Notifier      *Notifier // nil: no notifications
	Status        Status
	UpdatedAt     Date      // day of the last use; queues of old routers have none
	RcvService    ServiceID // zero: no service receives for the recipient
}

// A Link is the short link of a queue with the data stored under it.
type Link struct {
	ID   LinkID
	Data LinkData
}

// LinkData is what a short link resolves to, encrypted by the recipient.
// Neither part is empty.
type LinkData struct {
	Fixed []byte // set once, never changed
	User  []byte // may be replaced
}

// A Notifier is what lets a notification router learn of messages in a queue.
type Notifier struct {
	ID       NotifierID
	Key      smp.PublicKey
	DHSecret smp.DHSecret
	Service  ServiceID // zero: no service receives for the notifier
}

// A Mode says what a queue is for.
type Mode = smp.QueueMode

// The modes of a queue.
const (
	ModeUnknown   = smp.ModeUnknown
	ModeMessaging = smp.ModeMessaging
	ModeContact   = smp.ModeContact
)

// ParseMode reads the one-letter text of a mode, as in the column queue_mode.
func ParseMode(s string) (Mode, error) { return smp.ParseQueueMode(s) }

// A Date is a time in whole seconds since 1970-01-01 UTC, or not known. Routers
// round dates down to the day; readers take any second.
type Date struct {
	Seconds int64
	Known   bool
}

// DateOf returns the known date with the given Unix time.
func DateOf(seconds int64) Date { return Date{Seconds: seconds, Known: true} }

// SecondsPerDay is the unit of the dates that routers write.
const SecondsPerDay = 86400

// errNoKeys reports a queue without recipient keys, which nobody could use.
var errNoKeys = errors.New("a queue has at least one recipient key")

// AppendKeys appends the text of recipient keys to b: comma-separated.
func AppendKeys(b []byte, keys []smp.PublicKey) []byte {
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b, _ = k.AppendText(b)
	}
	return b
}

// ReadKeys reads the text of recipient keys.
func ReadKeys(r *smp.TextReader) []smp.PublicKey {
	keys := make([]smp.PublicKey, 0, 1)
	for {
		keys = append(keys, r.AuthKey())
		if r.Err() != nil {
			return nil
		}
		if !r.Skip(",") {
			return keys
		}
		if len(keys) == smp.MaxShort {
			r.Fail(r.Offset(), "more than 255 recipient keys")
			return nil
		}
	}
}

// AppendBinaryKeys appends the binary encoding of recipient keys to b, as in
// the column recipient_keys: a count byte, then each key behind a length byte.
func AppendBinaryKeys(b []byte, keys []smp.PublicKey) []byte {
	b = append(b, byte(len(keys))) //nolint:gosec // ReadKeys and ParseBinaryKeys take at most 255 keys
	for _, k := range keys {
		b = append(b, byte(k.Size())) //nolint:gosec // at most 69
		b = k.Append(b)
	}
	return b
}

// ParseBinaryKeys is the inverse of [AppendBinaryKeys].
func ParseBinaryKeys(in []byte) ([]smp.PublicKey, error) {
	r := smp.NewBinaryReader(in)
	n := int(r.Byte())
	if r.Err() == nil && n == 0 {
		return nil, errNoKeys
	}
	keys := make([]smp.PublicKey, 0, n)
	for range n {
		der := r.Short()
		if r.Err() != nil {
			break
		}
		k, err := smp.ParseAuthKey(der)
		if err != nil {
			return nil, fmt.Errorf("recipient key %d: %w", len(keys)+1, err)
		}
		keys = append(keys, k)
	}
	r.End()
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("recipient keys: %w", err)
	}
	return keys, nil
}

// AppendText appends the text of d to b: both parts, separated by a space.
func (d LinkData) AppendText(b []byte) ([]byte, error) {
	b = smp.AppendBase64(b, d.Fixed)
	b = append(b, ' ')
	return smp.AppendBase64(b, d.User), nil
}

// ReadLinkData reads the text of link data.
func ReadLinkData(r *smp.TextReader) LinkData {
	var d LinkData
	d.Fixed = r.Bytes()
	r.Space()
	d.User = r.Bytes()
	return d
}

// AppendText appends the text of n to b: id, key, secret and, if there is one,
// the service.
func (n *Notifier) AppendText(b []byte) ([]byte, error) {
	b, _ = n.ID.AppendText(b)
	b = append(b, ' ')
	b, _ = n.Key.AppendText(b)
	b = append(b, ' ')
	b = n.DHSecret.AppendReveal(b)
	if !n.Service.IsZero() {
		b = append(b, " nsrv="...)
		b, _ = n.Service.AppendText(b)
	}
	return b, nil
}

// ReadNotifier reads the text of notifier credentials.
func ReadNotifier(r *smp.TextReader) *Notifier {
	var n Notifier
	n.ID = NotifierID{r.ID()}
	r.Space()
	n.Key = r.AuthKey()
	r.Space()
	n.DHSecret = r.DHSecret()
	if r.Skip(" nsrv=") {
		n.Service = ServiceID{r.ID()}
	}
	return &n
}

// AppendText appends the text of q to b, from "rid=" on, as the CREATE record
// of the store log has it.
//
// smp-server cannot read the text of a queue with both a blocking notice and a
// receiving service: see [Record.Readable].
func (q *Record) AppendText(b []byte) ([]byte, error) {
	b = append(b, "rid="...)
	b, _ = q.RecipientID.AppendText(b)
	b = append(b, " rk="...)
	b = AppendKeys(b, q.RecipientKeys)
	b = append(b, " rdh="...)
	b = q.RcvDHSecret.AppendReveal(b)
	b = append(b, " sid="...)
	b, _ = q.SenderID.AppendText(b)
	b = append(b, " sk="...)
	if !q.SenderKey.IsZero() {
		b, _ = q.SenderKey.AppendText(b)
	}
	if q.Mode != ModeUnknown {
		b = append(b, " queue_mode="...)
		b = append(b, byte(q.Mode))
	}
	if q.Link != nil {
		b = append(b, " link_id="...)
		b, _ = q.Link.ID.AppendText(b)
		b = append(b, " queue_data="...)
		b, _ = q.Link.Data.AppendText(b)
	}
	if q.Notifier != nil {
		b = append(b, " notifier="...)
		b, _ = q.Notifier.AppendText(b)
	}
	if q.UpdatedAt.Known {
		b = append(b, " updated_at="...)
		b = appendInt(b, q.UpdatedAt.Seconds)
	}
	if q.Status != (Status{}) {
		b = append(b, " status="...)
		b, _ = q.Status.AppendText(b)
	}
	if !q.RcvService.IsZero() {
		b = append(b, " rsrv="...)
		b, _ = q.RcvService.AppendText(b)
	}
	return b, nil
}

// Readable reports whether smp-server can read the text of q.
func (q *Record) Readable() bool {
	return !q.Status.Blocking.HasNotice || q.RcvService.IsZero()
}

// ReadRecord reads the text of a queue, from "rid=" on.
func ReadRecord(r *smp.TextReader) Record {
	var q Record
	r.Expect("rid=")
	q.RecipientID = RecipientID{r.ID()}
	r.Expect(" rk=")
	q.RecipientKeys = ReadKeys(r)
	r.Expect(" rdh=")
	q.RcvDHSecret = r.DHSecret()
	r.Expect(" sid=")
	q.SenderID = SenderID{r.ID()}
	r.Expect(" sk=")
	if !r.AtEnd() && !r.Peek(' ') {
		q.SenderKey = r.AuthKey()
	}
	q.Mode = readMode(r)
	if r.Skip(" link_id=") {
		q.Link = &Link{ID: LinkID{r.ID()}}
		r.Expect(" queue_data=")
		q.Link.Data = ReadLinkData(r)
	}
	if r.Skip(" notifier=") {
		q.Notifier = ReadNotifier(r)
	}
	if r.Skip(" updated_at=") {
		q.UpdatedAt = DateOf(r.Int64())
	}
	if r.Skip(" status=") {
		q.Status = ReadStatus(r)
	}
	if r.Skip(" rsrv=") {
		q.RcvService = ServiceID{r.ID()}
	}
	return q
}

// readMode reads the mode of a queue in its present form or in the old one,
// which only told whether the sender may secure the queue.
func readMode(r *smp.TextReader) Mode {
	switch {
	case r.Skip(" queue_mode=M"), r.Skip(" sndSecure=T"):
		return ModeMessaging
	case r.Skip(" queue_mode=C"), r.Skip(" sndSecure=F"):
		return ModeContact
	}
	return ModeUnknown
}
