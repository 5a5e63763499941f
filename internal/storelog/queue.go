package storelog

import (
	"bytes"
	"fmt"
	"hash/maphash"

	"github.com/smpq/smpq/internal/extsort"
	"github.com/smpq/smpq/internal/logfile"
	"github.com/smpq/smpq/internal/queue"
)

// A queueReplay replays the records of one queue after another.
type queueReplay struct {
	state *State
	lines lineReader
	key   []byte // recipient id of the present queue

	rec     *queue.Record // nil: not created, refused or deleted
	created int64         // line of the CREATE that was applied, or 0
	deleted int64         // line of the DELETE that was applied, or 0
	rival   bool          // whether the queue contends for an id with another

	// Lines that set what a database may refuse.
	link, rcvService, ntfService place
}

// A place is where a line is in the log.
type place struct{ line, offset int64 }

// fault returns what is wrong there, and what is lost.
func (p place) fault(reason string, lost []byte) logfile.Fault {
	return logfile.Fault{Line: p.line, Offset: p.offset, Reason: reason, Text: lost}
}

func (q *queueReplay) is(key []byte) bool { return q.key != nil && bytes.Equal(q.key, key) }

func (q *queueReplay) start(key []byte) {
	*q = queueReplay{state: q.state, lines: q.lines, key: append(q.key[:0], key...)}
	q.rival = q.state.rivals.has(maphash.Bytes(q.state.seed, key))
}

// line applies one line of the present queue.
func (q *queueReplay) line(e extsort.Record) error {
	rec, offset, text, err := q.lines.parse(e)
	if err != nil {
		return err
	}
	at := place{int64(e.Seq), offset} //nolint:gosec // a line number
	reason, late := q.apply(rec, at)
	if reason == "" {
		return nil
	}
	p := Problem{Kind: Refused, Fault: at.fault(Tag(rec)+": "+reason, bytes.Clone(text))}
	if late {
		p.Kind = Late
	}
	return q.state.o.OnProblem(p)
}

// apply applies a record. It returns why it refuses it, if so, and whether it
// only comes too late.
func (q *queueReplay) apply(rec Record, at place) (reason string, late bool) {
	if q.rival {
		if r, ok := q.state.rivals.refused[at.line]; ok {
			return r.reason(rec), false
		}
	}
	if c, ok := rec.(*Create); ok {
		if q.created > 0 {
			return fmt.Sprintf("queue %s was created at line %d already; the first one stays", c.Record.RecipientID, q.created), false
		}
		q.rec, q.created = &c.Record, at.line
		q.link, q.rcvService, q.ntfService = at, at, at
		return "", false
	}
	switch {
	case q.deleted > 0:
		return fmt.Sprintf("queue %s was deleted at line %d", rec.Queue(), q.deleted), true
	case q.rec == nil:
		return fmt.Sprintf("queue %s was never created", rec.Queue()), false
	}
	switch r := rec.(type) {
	case *Link:
		if have := q.rec.Link; have != nil && have.ID != r.Link.ID {
			return fmt.Sprintf("queue %s has another link, %s", r.ID, have.ID), false
		} else if have != nil && !bytes.Equal(have.Data.Fixed, r.Link.Data.Fixed) {
			return fmt.Sprintf("the fixed data of link %s cannot change", have.ID), false
		}
		q.rec.Link, q.link = &r.Link, at
	case *DeleteLink:
		q.rec.Link = nil
	case *Secure:
		if !q.rec.SenderKey.IsZero() && q.rec.SenderKey != r.Key {
			return fmt.Sprintf("queue %s is secured with another key", r.ID), false
		}
		q.rec.SenderKey = r.Key
	case *Keys:
		q.rec.RecipientKeys = r.Keys
	case *AddNotifier:
		if q.rec.Notifier != nil && q.rec.Notifier.ID == r.Notifier.ID {
			return fmt.Sprintf("queue %s has notifier id %s already", r.ID, r.Notifier.ID), false
		}
		q.rec.Notifier, q.ntfService = r.Notifier, at
	case *DeleteNotifier:
		q.rec.Notifier = nil
	case *Suspend:
		q.rec.Status = queue.Status{State: queue.Off}
	case *Block:
		q.rec.Status = queue.Status{State: queue.Blocked, Blocking: r.Blocking}
	case *Unblock:
		q.rec.Status = queue.Status{}
	case *Touch:
		q.rec.UpdatedAt = queue.DateOf(r.Seconds)
	case *Delete:
		q.rec, q.deleted = nil, at.line
	case *SetService:
		switch {
		case r.Party == queue.PartyRecipient:
			q.rec.RcvService, q.rcvService = r.Service, at
		case q.rec.Notifier == nil:
			return fmt.Sprintf("queue %s has no notifier", r.ID), false
		default:
			q.rec.Notifier.Service, q.ntfService = r.Service, at
		}
	case *Create, *NewService:
		// Create was handled above; NewService is not about a queue.
	}
	return "", false
}

// finish hands the present queue to yield, if it is live, and reports whether
// to go on.
func (q *queueReplay) finish(yield func(*queue.Record, error) bool) bool {
	if q.rec == nil {
		return true
	}
	if err := q.resolve(); err != nil {
		yield(nil, err)
		return false
	}
	return yield(q.rec, nil)
}

// resolve leaves out of the queue what refers to something that is not there or
// belongs to another queue.
func (q *queueReplay) resolve() error {
	s, rec := q.state, q.rec
	report := func(kind ProblemKind, at place, reason string, lost Record) error {
		return s.o.OnProblem(Problem{Kind: kind, Fault: at.fault(reason, lost.append(nil))})
	}
	if q.rival && rec.Link != nil {
		if owner, ok := s.rivals.linkOwner(rec); !ok {
			link := rec.Link
			rec.Link = nil
			reason := fmt.Sprintf("link %s of queue %s leads to queue %s, which keeps it", link.ID, rec.RecipientID, owner)
			if err := report(SharedLink, q.link, reason, &Link{ID: rec.RecipientID, Link: *link}); err != nil {
				return err
			}
		}
	}
	if !s.o.ForDatabase {
		return nil
	}
	if id := rec.RcvService; !id.IsZero() && !s.known[id] {
		rec.RcvService = queue.ServiceID{}
		reason := fmt.Sprintf("queue %s has receiving service %s, which is not in the log", rec.RecipientID, id)
		err := report(UnknownService, q.rcvService, reason, &SetService{ID: rec.RecipientID, Party: queue.PartyRecipient, Service: id})
		if err != nil {
			return err
		}
	}
	if n := rec.Notifier; n != nil && !n.Service.IsZero() && !s.known[n.Service] {
		id := n.Service
		n.Service = queue.ServiceID{}
		reason := fmt.Sprintf("queue %s has notifier service %s, which is not in the log", rec.RecipientID, id)
		return report(UnknownService, q.ntfService, reason, &SetService{ID: rec.RecipientID, Party: queue.PartyNotifier, Service: id})
	}
	return nil
}
