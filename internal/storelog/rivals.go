package storelog

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/smpq/smpq/internal/extsort"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// A claim is the taking of a sender, notifier or link id by a queue. Recipient
// ids need no claims, as the records of one queue are replayed together anyway.
type claim struct {
	kind byte // 's', 'n' or 'l'
	id   smp.EntityID
}

func (c claim) hash(seed maphash.Seed) uint64 {
	var buf [64]byte
	return maphash.Bytes(seed, c.id.Append(append(buf[:0], c.kind)))
}

// forClaims calls f for each id that rec takes, until f fails.
func forClaims(rec Record, f func(claim) error) error {
	switch r := rec.(type) {
	case *Create:
		if err := f(claim{'s', r.Record.SenderID.EntityID}); err != nil {
			return err
		}
		if n := r.Record.Notifier; n != nil {
			if err := f(claim{'n', n.ID.EntityID}); err != nil {
				return err
			}
		}
		if l := r.Record.Link; l != nil {
			return f(claim{'l', l.ID.EntityID})
		}
	case *Link:
		return f(claim{'l', r.Link.ID.EntityID})
	case *AddNotifier:
		return f(claim{'n', r.Notifier.ID.EntityID})
	case *DeleteLink, *Secure, *Keys, *DeleteNotifier, *Suspend, *Block, *Unblock, *Touch, *Delete, *NewService, *SetService:
	}
	return nil
}

// rivals are the queues that take an id which another queue takes as well, at
// any time in the log, and the outcome of replaying them together.
type rivals struct {
	queues  map[uint64]struct{} // hashes of recipient ids
	refused map[int64]refusal   // by line
	owners  map[queue.LinkID]queue.RecipientID
}

// A refusal says which queue has the id that a record wants to take.
type refusal struct {
	what  byte // as in claim
	owner queue.RecipientID
}

// reason says why rec is refused.
func (r refusal) reason(rec Record) string {
	var id smp.EntityID
	_ = forClaims(rec, func(c claim) error {
		if c.kind == r.what {
			id = c.id
		}
		return nil
	})
	what := map[byte]string{'s': "sender", 'n': "notifier", 'l': "link"}[r.what]
	return fmt.Sprintf("%s id %s is in use by queue %s", what, id, r.owner)
}

// These bound the memory for rivals. Ids are random, so that a log with so many
// is no log that a router wrote.
const (
	maxRivals       = 100_000
	maxRivalRecords = 500_000 // those that take or free an id
)

var errTooManyRivals = errors.New("too many queues share sender, notifier or link ids with others: this is not the log of one router")

func (r *rivals) has(queue uint64) bool {
	_, ok := r.queues[queue]
	return ok
}

// linkOwner returns the queue to which the link of q leads, and whether it is
// q. A link that no longer leads anywhere belongs to q.
func (r *rivals) linkOwner(q *queue.Record) (queue.RecipientID, bool) {
	owner, ok := r.owners[q.Link.ID]
	return owner, !ok || owner == q.RecipientID
}

func (s *State) findRivals(ctx context.Context, claims *extsort.Sorter) (*rivals, error) {
	r := &rivals{
		queues:  make(map[uint64]struct{}),
		refused: make(map[int64]refusal),
		owners:  make(map[queue.LinkID]queue.RecipientID),
	}
	var id, owner uint64
	for c, err := range claims.All() {
		if err != nil {
			return nil, err
		}
		nextID, nextOwner := binary.BigEndian.Uint64(c.Key), binary.BigEndian.Uint64(c.Key[8:])
		if nextID == id && nextOwner != owner {
			r.queues[owner], r.queues[nextOwner] = struct{}{}, struct{}{}
		}
		id, owner = nextID, nextOwner
		if len(r.queues) > maxRivals {
			return nil, errTooManyRivals
		}
	}
	if len(r.queues) == 0 {
		return r, nil
	}
	return r, s.replayRivals(ctx, r)
}

// A rivalRecord is a record of a rival with as much of it as matters to other
// queues.
type rivalRecord struct {
	line             int64
	kind             kind
	recipient        queue.RecipientID
	sender           queue.SenderID
	notifier         queue.NotifierID
	link             queue.LinkID
	fixed            uint64 // hash of the fixed data of the link
	linkSet, wantNtf bool
}

// replayRivals replays the records of rivals in the order of the log.
func (s *State) replayRivals(ctx context.Context, r *rivals) error {
	var recs []rivalRecord
	lines := lineReader{source: s.source}
	for e, err := range s.records.All() {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if !r.has(maphash.Bytes(s.seed, e.Key)) {
			continue
		}
		rec, _, _, err := lines.parse(e)
		if err != nil {
			return err
		}
		if !takesOrFrees(kindOf(rec)) {
			continue
		}
		if len(recs) == maxRivalRecords {
			return errTooManyRivals
		}
		rr := rivalRecord{line: int64(e.Seq), kind: kindOf(rec), recipient: rec.Queue()} //nolint:gosec // a line number
		switch rec := rec.(type) {
		case *Create:
			rr.sender = rec.Record.SenderID
			rr.setNotifier(rec.Record.Notifier)
			if l := rec.Record.Link; l != nil {
				rr.setLink(l, s.seed)
			}
		case *Link:
			rr.setLink(&rec.Link, s.seed)
		case *AddNotifier:
			rr.setNotifier(rec.Notifier)
		case *DeleteLink, *Secure, *Keys, *DeleteNotifier, *Suspend, *Block, *Unblock, *Touch, *Delete, *NewService, *SetService:
		}
		recs = append(recs, rr)
	}
	slices.SortFunc(recs, func(a, b rivalRecord) int { return cmp.Compare(a.line, b.line) })

	m := rivalModel{
		queues:    make(map[queue.RecipientID]*rivalQueue),
		senders:   make(map[queue.SenderID]queue.RecipientID),
		notifiers: make(map[queue.NotifierID]queue.RecipientID),
		links:     make(map[queue.LinkID]queue.RecipientID),
	}
	for i := range recs {
		if refusal, ok := m.apply(&recs[i]); !ok {
			r.refused[recs[i].line] = refusal
		}
	}
	m.assignLinks(r.owners)
	return nil
}

// takesOrFrees reports whether a record of this kind may take or free an id.
func takesOrFrees(k kind) bool {
	switch k {
	case kindCreate, kindLink, kindDeleteLink, kindAddNotifier, kindDeleteNotifier, kindDelete:
		return true
	case kindSecure, kindKeys, kindSuspend, kindBlock, kindUnblock, kindTouch, kindNewService, kindSetService:
	}
	return false
}

func (r *rivalRecord) setNotifier(n *queue.Notifier) {
	if n != nil {
		r.notifier, r.wantNtf = n.ID, true
	}
}

func (r *rivalRecord) setLink(l *queue.Link, seed maphash.Seed) {
	r.link, r.linkSet, r.fixed = l.ID, true, maphash.Bytes(seed, l.Data.Fixed)
}

// A rivalModel is the indexes of a router in memory mode.
type rivalModel struct {
	queues    map[queue.RecipientID]*rivalQueue // deleted ones too
	senders   map[queue.SenderID]queue.RecipientID
	notifiers map[queue.NotifierID]queue.RecipientID
	links     map[queue.LinkID]queue.RecipientID // those of deleted queues too
}

type rivalQueue struct {
	deleted  bool
	sender   queue.SenderID
	notifier queue.NotifierID
	link     queue.LinkID
	fixed    uint64
}

// apply applies a record. If it is refused because of another queue, apply
// returns false and why. Refusals that concern the queue alone are left to
// queueReplay, which sees them as well.
func (m *rivalModel) apply(r *rivalRecord) (refusal, bool) {
	if r.kind == kindCreate {
		return m.create(r)
	}
	q := m.queues[r.recipient]
	if q == nil || q.deleted {
		return refusal{}, true
	}
	switch r.kind {
	case kindLink:
		if !q.link.IsZero() && (q.link != r.link || q.fixed != r.fixed) {
			return refusal{}, true
		}
		q.link, q.fixed = r.link, r.fixed
		m.links[r.link] = r.recipient
	case kindDeleteLink:
		delete(m.links, q.link)
		q.link = queue.LinkID{}
	case kindAddNotifier:
		if owner, ok := m.notifiers[r.notifier]; ok {
			return refusal{'n', owner}, false
		}
		delete(m.notifiers, q.notifier)
		q.notifier = r.notifier
		m.notifiers[r.notifier] = r.recipient
	case kindDeleteNotifier:
		delete(m.notifiers, q.notifier)
		q.notifier = queue.NotifierID{}
	case kindDelete:
		q.deleted = true
		delete(m.senders, q.sender)
		delete(m.notifiers, q.notifier)
	case kindCreate, kindSecure, kindKeys, kindSuspend, kindBlock, kindUnblock, kindTouch, kindNewService, kindSetService:
	}
	return refusal{}, true
}

func (m *rivalModel) create(r *rivalRecord) (refusal, bool) {
	if m.queues[r.recipient] != nil {
		return refusal{}, true // a second CREATE of the queue: its own affair
	}
	if owner, ok := m.senders[r.sender]; ok {
		return refusal{'s', owner}, false
	}
	if owner, ok := m.notifiers[r.notifier]; ok && r.wantNtf {
		return refusal{'n', owner}, false
	}
	if owner, ok := m.links[r.link]; ok && r.linkSet {
		return refusal{'l', owner}, false
	}
	m.queues[r.recipient] = &rivalQueue{sender: r.sender, notifier: r.notifier, link: r.link, fixed: r.fixed}
	m.senders[r.sender] = r.recipient
	if r.wantNtf {
		m.notifiers[r.notifier] = r.recipient
	}
	if r.linkSet {
		m.links[r.link] = r.recipient
	}
	return refusal{}, true
}

// assignLinks says to which live queue each link leads: to the one in the
// index, as in a running router, or, if the index has lost it, to the first.
func (m *rivalModel) assignLinks(owners map[queue.LinkID]queue.RecipientID) {
	for rid, q := range m.queues {
		if q.deleted || q.link.IsZero() {
			continue
		}
		if indexed, ok := m.links[q.link]; ok {
			if i := m.queues[indexed]; !i.deleted && i.link == q.link {
				owners[q.link] = indexed
				continue
			}
		}
		if have, ok := owners[q.link]; !ok || rid.Compare(have.EntityID) < 0 {
			owners[q.link] = rid
		}
	}
}
