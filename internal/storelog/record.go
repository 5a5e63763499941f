package storelog

import (
	"strconv"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// A Record is one record of the store log: one of the types in this package
// whose names are its tags.
//
//sumtype:decl
type Record interface {
	// Queue returns the queue that the record is about, or the zero id for a
	// Service.
	Queue() queue.RecipientID

	append(b []byte) []byte
}

// The records of the store log.
type (
	// Create adds a queue. Tag CREATE.
	Create struct{ Record queue.Record }

	// Link sets the short link of a queue, or replaces its user data. Tag LINK.
	Link struct {
		ID   queue.RecipientID
		Link queue.Link
	}

	// DeleteLink removes the short link of a queue. Tag LDELETE.
	DeleteLink struct{ ID queue.RecipientID }

	// Secure sets the sender's key. Tag SECURE.
	Secure struct {
		ID  queue.RecipientID
		Key smp.PublicKey
	}

	// Keys replaces the recipient's keys. Tag KEYS.
	Keys struct {
		ID   queue.RecipientID
		Keys []smp.PublicKey
	}

	// AddNotifier sets or replaces the notifier credentials. Tag NOTIFIER.
	AddNotifier struct {
		ID       queue.RecipientID
		Notifier *queue.Notifier
	}

	// DeleteNotifier removes the notifier credentials. Tag NDELETE.
	DeleteNotifier struct{ ID queue.RecipientID }

	// Suspend makes the status "off". Tag SUSPEND.
	Suspend struct{ ID queue.RecipientID }

	// Block makes the status "blocked". Tag BLOCK.
	Block struct {
		ID       queue.RecipientID
		Blocking queue.Blocking
	}

	// Unblock makes the status "active". Tag UNBLOCK.
	Unblock struct{ ID queue.RecipientID }

	// Touch sets the day of the last use. Tag TIME.
	Touch struct {
		ID      queue.RecipientID
		Seconds int64
	}

	// Delete removes a queue. Tag DELETE.
	Delete struct{ ID queue.RecipientID }

	// NewService adds a service. Tag NEW_SERVICE.
	NewService struct{ Service queue.Service }

	// SetService associates a queue with a service, or with none if Service is
	// zero. Tag QUEUE_SERVICE.
	SetService struct {
		ID      queue.RecipientID
		Party   queue.Party
		Service queue.ServiceID
	}
)

// Queue implements [Record].
func (r *Create) Queue() queue.RecipientID         { return r.Record.RecipientID }
func (r *Link) Queue() queue.RecipientID           { return r.ID }
func (r *DeleteLink) Queue() queue.RecipientID     { return r.ID }
func (r *Secure) Queue() queue.RecipientID         { return r.ID }
func (r *Keys) Queue() queue.RecipientID           { return r.ID }
func (r *AddNotifier) Queue() queue.RecipientID    { return r.ID }
func (r *DeleteNotifier) Queue() queue.RecipientID { return r.ID }
func (r *Suspend) Queue() queue.RecipientID        { return r.ID }
func (r *Block) Queue() queue.RecipientID          { return r.ID }
func (r *Unblock) Queue() queue.RecipientID        { return r.ID }
func (r *Touch) Queue() queue.RecipientID          { return r.ID }
func (r *Delete) Queue() queue.RecipientID         { return r.ID }
func (r *NewService) Queue() queue.RecipientID     { return queue.RecipientID{} }
func (r *SetService) Queue() queue.RecipientID     { return r.ID }

// A kind is the type of a record, in the order of [kinds].
type kind uint8

const (
	kindCreate kind = iota
	kindLink
	kindDeleteLink
	kindSecure
	kindKeys
	kindAddNotifier
	kindDeleteNotifier
	kindSuspend
	kindBlock
	kindUnblock
	kindTouch
	kindDelete
	kindNewService
	kindSetService
)

// tags lists the tags by kind.
var tags = [...]string{
	"CREATE", "LINK", "LDELETE", "SECURE", "KEYS", "NOTIFIER", "NDELETE",
	"SUSPEND", "BLOCK", "UNBLOCK", "TIME", "DELETE", "NEW_SERVICE", "QUEUE_SERVICE",
}

// Tag returns the first word of the line of r, for example "CREATE".
func Tag(r Record) string { return tags[kindOf(r)] }

func kindOf(r Record) kind {
	switch r.(type) {
	case *Create:
		return kindCreate
	case *Link:
		return kindLink
	case *DeleteLink:
		return kindDeleteLink
	case *Secure:
		return kindSecure
	case *Keys:
		return kindKeys
	case *AddNotifier:
		return kindAddNotifier
	case *DeleteNotifier:
		return kindDeleteNotifier
	case *Suspend:
		return kindSuspend
	case *Block:
		return kindBlock
	case *Unblock:
		return kindUnblock
	case *Touch:
		return kindTouch
	case *Delete:
		return kindDelete
	case *NewService:
		return kindNewService
	case *SetService:
		return kindSetService
	}
	panic("storelog: a record of no kind")
}

// Parse reads one line, without its LF. The error is a [*smp.SyntaxError] with
// the place in the line. The record shares no memory with line.
//
// Parse takes what smp-server takes, old forms included, except that it refuses
// numbers which do not fit 64 bits.
func Parse(line []byte) (Record, error) {
	r := smp.NewTextReader(line)
	rec := read(r)
	r.End()
	if err := r.Err(); err != nil {
		return nil, err
	}
	return rec, nil
}

func read(r *smp.TextReader) Record {
	k, ok := kindByTag(r.Word())
	if !ok {
		r.Fail(0, "unknown record: the line starts with none of CREATE, LINK, LDELETE, SECURE, KEYS, NOTIFIER, NDELETE, SUSPEND, BLOCK, UNBLOCK, TIME, DELETE, NEW_SERVICE, QUEUE_SERVICE")
		return nil
	}
	r.Space()
	if k == kindCreate {
		return &Create{Record: queue.ReadRecord(r)}
	}
	if k == kindNewService {
		return &NewService{Service: queue.ReadService(r)}
	}
	return readChange(r, k, queue.RecipientID{EntityID: r.ID()})
}

// readChange reads what follows the id in a record about a queue.
func readChange(r *smp.TextReader, k kind, id queue.RecipientID) Record {
	switch k {
	case kindLink:
		rec := &Link{ID: id}
		r.Space()
		rec.Link.ID = queue.LinkID{EntityID: r.ID()}
		r.Space()
		rec.Link.Data = queue.ReadLinkData(r)
		return rec
	case kindDeleteLink:
		return &DeleteLink{id}
	case kindSecure:
		r.Space()
		return &Secure{id, r.AuthKey()}
	case kindKeys:
		r.Space()
		return &Keys{id, queue.ReadKeys(r)}
	case kindAddNotifier:
		r.Space()
		return &AddNotifier{id, queue.ReadNotifier(r)}
	case kindDeleteNotifier:
		return &DeleteNotifier{id}
	case kindSuspend:
		return &Suspend{id}
	case kindBlock:
		r.Space()
		return &Block{id, queue.ReadBlocking(r)}
	case kindUnblock:
		return &Unblock{id}
	case kindTouch:
		r.Space()
		return &Touch{id, r.Int64()}
	case kindDelete:
		return &Delete{id}
	case kindSetService:
		rec := &SetService{ID: id}
		r.Space()
		rec.Party = readParty(r)
		r.Space()
		if !r.AtEnd() {
			rec.Service = queue.ServiceID{EntityID: r.ID()}
		}
		return rec
	case kindCreate, kindNewService:
	}
	panic("storelog: a record without a reader")
}

func readParty(r *smp.TextReader) queue.Party {
	switch {
	case r.Skip("R"):
		return queue.PartyRecipient
	case r.Skip("N"):
		return queue.PartyNotifier
	}
	r.Fail(r.Offset(), "unknown party: expected R or N")
	return 0
}

func kindByTag(word []byte) (kind, bool) {
	for k, tag := range tags {
		if string(word) == tag {
			return kind(k), true
		}
	}
	return 0, false
}

// Append appends the line of r to b, with its LF. It writes the present form:
// what was read in an old form comes out in the new one.
func Append(b []byte, r Record) []byte { return append(r.append(b), '\n') }

func (r *Create) append(b []byte) []byte {
	b = append(b, "CREATE "...)
	b, _ = r.Record.AppendText(b)
	return b
}

func (r *Link) append(b []byte) []byte {
	b = appendTag(b, "LINK ", r.ID)
	b = append(b, ' ')
	b, _ = r.Link.ID.AppendText(b)
	b = append(b, ' ')
	b, _ = r.Link.Data.AppendText(b)
	return b
}

func (r *DeleteLink) append(b []byte) []byte { return appendTag(b, "LDELETE ", r.ID) }

func (r *Secure) append(b []byte) []byte {
	b = appendTag(b, "SECURE ", r.ID)
	b = append(b, ' ')
	b, _ = r.Key.AppendText(b)
	return b
}

func (r *Keys) append(b []byte) []byte {
	b = appendTag(b, "KEYS ", r.ID)
	b = append(b, ' ')
	return queue.AppendKeys(b, r.Keys)
}

func (r *AddNotifier) append(b []byte) []byte {
	b = appendTag(b, "NOTIFIER ", r.ID)
	b = append(b, ' ')
	b, _ = r.Notifier.AppendText(b)
	return b
}

func (r *DeleteNotifier) append(b []byte) []byte { return appendTag(b, "NDELETE ", r.ID) }

func (r *Suspend) append(b []byte) []byte { return appendTag(b, "SUSPEND ", r.ID) }

func (r *Block) append(b []byte) []byte {
	b = appendTag(b, "BLOCK ", r.ID)
	b = append(b, ' ')
	b, _ = r.Blocking.AppendText(b)
	return b
}

func (r *Unblock) append(b []byte) []byte { return appendTag(b, "UNBLOCK ", r.ID) }

func (r *Touch) append(b []byte) []byte {
	b = appendTag(b, "TIME ", r.ID)
	b = append(b, ' ')
	return strconv.AppendInt(b, r.Seconds, 10)
}

func (r *Delete) append(b []byte) []byte { return appendTag(b, "DELETE ", r.ID) }

func (r *NewService) append(b []byte) []byte {
	b = append(b, "NEW_SERVICE "...)
	b, _ = r.Service.AppendText(b)
	return b
}

// The space before an absent service is part of the record: smp-server does not
// read the line without it.
func (r *SetService) append(b []byte) []byte {
	b = appendTag(b, "QUEUE_SERVICE ", r.ID)
	b = append(b, ' ', byte(r.Party), ' ')
	if !r.Service.IsZero() {
		b, _ = r.Service.AppendText(b)
	}
	return b
}

func appendTag(b []byte, tag string, id queue.RecipientID) []byte {
	b = append(b, tag...)
	b, _ = id.AppendText(b)
	return b
}
