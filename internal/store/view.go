package store

import (
	"encoding/binary"
	"iter"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// A View is the record of a queue at one moment. It has the id of the queue's
// link, not its data, which [Store.LinkData] reads.
type View struct {
	RecipientID   queue.RecipientID
	RecipientKeys Keys
	RcvDHSecret   smp.DHSecret
	SenderID      queue.SenderID
	SenderKey     smp.PublicKey // zero: the queue is not secured
	Mode          queue.Mode
	LinkID        queue.LinkID   // zero: no short link
	Notifier      queue.Notifier // zero: no notifications
	Status        queue.Status
	UpdatedAt     queue.Date
	RcvService    queue.ServiceID // zero: no service receives for the recipient
}

// HasNotifier reports whether the queue has a notifier.
func (v *View) HasNotifier() bool { return !v.Notifier.ID.IsZero() }

// Keys are the keys that authorize the recipient of a queue.
type Keys struct {
	binary string // as in the column recipient_keys
}

// NewKeys returns the given keys: one at least, 255 at most.
func NewKeys(keys ...smp.PublicKey) Keys {
	return Keys{string(queue.AppendBinaryKeys(nil, keys))}
}

// Len returns the number of keys.
func (k Keys) Len() int {
	if k.binary == "" {
		return 0
	}
	return int(k.binary[0])
}

// All iterates over the keys.
func (k Keys) All() iter.Seq[smp.PublicKey] {
	return func(yield func(smp.PublicKey) bool) {
		rest := k.binary
		for range k.Len() {
			size := int(rest[1])
			key, _ := smp.ParseAuthKey(rest[2 : 2+size]) // it was checked when it was read
			if !yield(key) {
				return
			}
			rest = rest[1+size:]
		}
	}
}

// viewOf returns the view of a record, without the recipient keys.
func viewOf(q *queue.Record) View {
	v := View{
		RecipientID: q.RecipientID, RcvDHSecret: q.RcvDHSecret,
		SenderID: q.SenderID, SenderKey: q.SenderKey, Mode: q.Mode,
		Status: q.Status, UpdatedAt: q.UpdatedAt, RcvService: q.RcvService,
	}
	if q.Link != nil {
		v.LinkID = q.Link.ID
	}
	if q.Notifier != nil {
		v.Notifier = *q.Notifier
	}
	return v
}

// id returns one of the ids of the queue, zero if it has none.
func (v *View) id(by By) smp.EntityID {
	switch by {
	case ByRecipient:
		return v.RecipientID.EntityID
	case BySender:
		return v.SenderID.EntityID
	case ByNotifier:
		return v.Notifier.ID.EntityID
	case ByLink:
		return v.LinkID.EntityID
	}
	return smp.EntityID{}
}

// A record is a View in compact form, which never changes. What most queues do
// not have takes two bytes each.
type record struct {
	fields    string // see pack
	updatedAt int64
	state     queue.State
	mode      queue.Mode
	dated     bool
}

// pack makes a record of a view. In fields, each value stands behind its length:
// the ids that have an index first, in the order of otherBys; one byte for keys and secrets, two for ids and the list of keys.
func pack(v *View) *record {
	r := new(record)
	r.set(v)
	return r
}

func (r *record) set(v *View) {
	var buf [512]byte
	b := buf[:0]
	short := func(value []byte) {
		b = append(b, byte(len(value))) //nolint:gosec // keys and secrets have 69 bytes at most
		b = append(b, value...)
	}
	long := func(size int, add func([]byte) []byte) {
		b = binary.LittleEndian.AppendUint16(b, uint16(size)) //nolint:gosec // ids have smp.MaxID bytes at most, lists 255 keys
		b = add(b)
	}
	var value [128]byte
	long(v.SenderID.Len(), v.SenderID.Append)
	long(v.LinkID.Len(), v.LinkID.Append)
	long(v.Notifier.ID.Len(), v.Notifier.ID.Append)
	long(v.RcvService.Len(), v.RcvService.Append)
	long(len(v.RecipientKeys.binary), func(b []byte) []byte { return append(b, v.RecipientKeys.binary...) })
	short(v.RcvDHSecret.Append(value[:0]))
	short(v.SenderKey.Append(value[:0]))
	if v.HasNotifier() {
		short(v.Notifier.Key.Append(value[:0]))
		short(v.Notifier.DHSecret.Append(value[:0]))
		long(v.Notifier.Service.Len(), v.Notifier.Service.Append)
	}
	if v.Status.State == queue.Blocked {
		b, _ = v.Status.AppendText(b)
	}
	*r = record{
		fields: string(b), state: v.Status.State, mode: v.Mode,
		updatedAt: v.UpdatedAt.Seconds, dated: v.UpdatedAt.Known,
	}
}

// view is the inverse of pack. The view shares the record's memory.
func (r *record) view(id queue.RecipientID) View {
	f := fields(r.fields)
	v := View{RecipientID: id, Mode: r.mode, UpdatedAt: queue.Date{Seconds: r.updatedAt, Known: r.dated}}
	v.SenderID = queue.SenderID{EntityID: f.id()}
	v.LinkID = queue.LinkID{EntityID: f.id()}
	v.Notifier.ID = queue.NotifierID{EntityID: f.id()}
	v.RcvService = queue.ServiceID{EntityID: f.id()}
	v.RecipientKeys = Keys{f.long()}
	v.RcvDHSecret = f.secret()
	v.SenderKey = f.key()
	if v.HasNotifier() {
		v.Notifier.Key, v.Notifier.DHSecret = f.key(), f.secret()
		v.Notifier.Service = queue.ServiceID{EntityID: f.id()}
	}
	v.Status.State = r.state
	if r.state == queue.Blocked {
		v.Status, _ = queue.ParseStatus(string(f)) // pack wrote it
	}
	return v
}

// id returns one of the ids of the queue other than that of the recipient, zero if
// it has none.
func (r *record) id(by By) smp.EntityID {
	f := fields(r.fields)
	for _, have := range otherBys {
		id := f.id()
		if have == by {
			return id
		}
	}
	return smp.EntityID{}
}

// fields reads the fields of a record, one after another.
type fields string

func (f *fields) take(size int) string {
	value := string((*f)[:size])
	*f = (*f)[size:]
	return value
}

func (f *fields) long() string {
	head := f.take(2)
	return f.take(int(head[0]) | int(head[1])<<8)
}

func (f *fields) short() string { return f.take(int(f.take(1)[0])) }

func (f *fields) id() smp.EntityID { return smp.NewEntityID(f.long()) }

func (f *fields) key() smp.PublicKey {
	k, _ := smp.ParseAuthKey(f.short()) // zero for none; it was checked when it was read
	return k
}

func (f *fields) secret() smp.DHSecret {
	s, _ := smp.ParseDHSecret(f.short()) // as above
	return s
}
