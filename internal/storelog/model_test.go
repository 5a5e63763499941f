package storelog

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// A model is a router in memory mode, as simple as can be: it keeps everything
// in maps and applies one record after the other.
type model struct {
	queues    map[queue.RecipientID]*queue.Record // nil: deleted
	senders   map[queue.SenderID]queue.RecipientID
	notifiers map[queue.NotifierID]queue.RecipientID
	links     map[queue.LinkID]queue.RecipientID
	refused   []int64
	late      []int64
}

func newModel() *model {
	return &model{
		queues:    map[queue.RecipientID]*queue.Record{},
		senders:   map[queue.SenderID]queue.RecipientID{},
		notifiers: map[queue.NotifierID]queue.RecipientID{},
		links:     map[queue.LinkID]queue.RecipientID{},
	}
}

func (m *model) apply(line int64, rec Record) {
	if !m.try(line, rec) {
		m.refused = append(m.refused, line)
	}
}

func (m *model) try(line int64, rec Record) bool {
	if c, ok := rec.(*Create); ok {
		q := c.Record
		if _, ok := m.queues[q.RecipientID]; ok {
			return false
		}
		if _, ok := m.senders[q.SenderID]; ok {
			return false
		}
		if q.Notifier != nil {
			if _, ok := m.notifiers[q.Notifier.ID]; ok {
				return false
			}
		}
		if q.Link != nil {
			if _, ok := m.links[q.Link.ID]; ok {
				return false
			}
			m.links[q.Link.ID] = q.RecipientID
		}
		if q.Notifier != nil {
			m.notifiers[q.Notifier.ID] = q.RecipientID
		}
		m.senders[q.SenderID] = q.RecipientID
		m.queues[q.RecipientID] = &q
		return true
	}
	q, ok := m.queues[rec.Queue()]
	if !ok {
		return false
	}
	if q == nil {
		m.late = append(m.late, line)
		return true
	}
	switch r := rec.(type) {
	case *Link:
		if q.Link != nil && (q.Link.ID != r.Link.ID || !bytes.Equal(q.Link.Data.Fixed, r.Link.Data.Fixed)) {
			return false
		}
		q.Link = &r.Link
		m.links[r.Link.ID] = r.ID
	case *DeleteLink:
		if q.Link != nil {
			delete(m.links, q.Link.ID)
			q.Link = nil
		}
	case *Secure:
		if !q.SenderKey.IsZero() && q.SenderKey != r.Key {
			return false
		}
		q.SenderKey = r.Key
	case *Keys:
		q.RecipientKeys = r.Keys
	case *AddNotifier:
		if _, ok := m.notifiers[r.Notifier.ID]; ok {
			return false
		}
		if q.Notifier != nil {
			delete(m.notifiers, q.Notifier.ID)
		}
		q.Notifier = r.Notifier
		m.notifiers[r.Notifier.ID] = r.ID
	case *DeleteNotifier:
		if q.Notifier != nil {
			delete(m.notifiers, q.Notifier.ID)
			q.Notifier = nil
		}
	case *Suspend:
		q.Status = queue.Status{State: queue.Off}
	case *Block:
		q.Status = queue.Status{State: queue.Blocked, Blocking: r.Blocking}
	case *Unblock:
		q.Status = queue.Status{}
	case *Touch:
		q.UpdatedAt = queue.DateOf(r.Seconds)
	case *Delete:
		delete(m.senders, q.SenderID)
		if q.Notifier != nil {
			delete(m.notifiers, q.Notifier.ID)
		}
		m.queues[r.ID] = nil
	case *SetService:
		switch {
		case r.Party == queue.PartyRecipient:
			q.RcvService = r.Service
		case q.Notifier == nil:
			return false
		default:
			q.Notifier.Service = r.Service
		}
	}
	return true
}

// lines returns the live queues in the order of their ids. A link that several
// of them have stays with the one to which it leads, or else with the first.
func (m *model) lines() []string {
	var live []*queue.Record
	for _, q := range m.queues {
		if q != nil {
			live = append(live, q)
		}
	}
	slices.SortFunc(live, func(a, b *queue.Record) int { return a.RecipientID.Compare(b.RecipientID.EntityID) })
	owner := map[queue.LinkID]queue.RecipientID{}
	for _, q := range live {
		if q.Link == nil {
			continue
		}
		if _, ok := owner[q.Link.ID]; !ok || m.links[q.Link.ID] == q.RecipientID {
			owner[q.Link.ID] = q.RecipientID
		}
	}
	var lines []string
	for _, q := range live {
		if q.Link != nil && owner[q.Link.ID] != q.RecipientID {
			q.Link = nil
		}
		lines = append(lines, string(AppendQueue(nil, q)))
	}
	return lines
}

// The replay of any log, with any memory, ends like the model: in the same
// queues and with the same records refused. Few ids make for many conflicts.
func TestReplayLikeModel(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		var log bytes.Buffer
		m := newModel()
		records := rapid.SliceOfN(genRecord(), 0, 60).Draw(t, "records")
		for i, rec := range records {
			log.Write(Append(nil, rec))
			// The model changes records, so it gets its own.
			line := Append(nil, rec)
			rec, err := Parse(line[:len(line)-1])
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			m.apply(int64(i+1), rec)
		}
		text := log.String()
		var source io.Reader = &log // as a pipe, and as a file
		if rapid.Bool().Draw(t, "file") {
			source = io.NewSectionReader(strings.NewReader(text), 0, int64(len(text)))
		}

		var refused, late []int64
		s, err := replay(t.Context(), source, Options{
			TempDir:  dir,
			Memory:   rapid.SampledFrom([]int{100, 5_000, DefaultMemory}).Draw(t, "memory"),
			longLine: rapid.SampledFrom([]int{1, 100, defaultLongLine}).Draw(t, "long line"),
			OnProblem: func(p Problem) error {
				switch p.Kind {
				case Refused:
					refused = append(refused, p.Line)
				case Late:
					late = append(late, p.Line)
				case SharedLink:
				default:
					return fmt.Errorf("unexpected problem: %s", p)
				}
				return nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var got []string
		for q, err := range s.Queues(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, string(AppendQueue(nil, q)))
		}
		if diff := gocmp.Diff(m.lines(), got); diff != "" {
			t.Fatalf("log:\n%s\nqueues (-model +replay):\n%s", text, diff)
		}
		slices.Sort(refused)
		slices.Sort(late)
		if !slices.Equal(refused, m.refused) || !slices.Equal(late, m.late) {
			t.Fatalf("log:\n%s\nrefused %v, late %v; model: refused %v, late %v", text, refused, late, m.refused, m.late)
		}
	})
}

// genRecord draws records whose ids come from small sets.
func genRecord() *rapid.Generator[Record] {
	id := func(prefix string, n int) *rapid.Generator[smp.EntityID] {
		return rapid.Custom(func(t *rapid.T) smp.EntityID {
			return smp.NewEntityID([]byte(fmt.Sprint(prefix, rapid.IntRange(1, n).Draw(t, prefix))))
		})
	}
	rids, sids, nids, lids, svcs := id("r", 5), id("s", 6), id("n", 4), id("l", 3), id("v", 2)
	key := rapid.Custom(func(t *rapid.T) smp.PublicKey {
		der := append([]byte("\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"), bytes.Repeat([]byte{rapid.ByteRange(1, 3).Draw(t, "key")}, 32)...)
		k, err := smp.ParseAuthKey(der)
		if err != nil {
			t.Fatal(err)
		}
		return k
	})
	secret, err := smp.ParseDHSecret(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		panic(err)
	}
	service := rapid.Custom(func(t *rapid.T) queue.ServiceID {
		if rapid.Bool().Draw(t, "service") {
			return queue.ServiceID{EntityID: svcs.Draw(t, "id")}
		}
		return queue.ServiceID{}
	})
	link := rapid.Custom(func(t *rapid.T) *queue.Link {
		return &queue.Link{
			ID: queue.LinkID{EntityID: lids.Draw(t, "link")},
			Data: queue.LinkData{
				Fixed: []byte(rapid.SampledFrom([]string{"f1", "f2"}).Draw(t, "fixed")),
				User:  []byte(rapid.SampledFrom([]string{"u1", "u2"}).Draw(t, "user")),
			},
		}
	})
	notifier := rapid.Custom(func(t *rapid.T) *queue.Notifier {
		return &queue.Notifier{ID: queue.NotifierID{EntityID: nids.Draw(t, "notifier")}, Key: key.Draw(t, "key"), DHSecret: secret, Service: service.Draw(t, "service")}
	})
	blocking := rapid.Custom(func(t *rapid.T) queue.Blocking {
		b := queue.Blocking{Reason: rapid.SampledFrom([]string{"spam", "content"}).Draw(t, "reason"), HasNotice: rapid.Bool().Draw(t, "notice")}
		if b.HasNotice {
			b.Notice = queue.Notice{TTL: 60, HasTTL: true}
		}
		return b
	})
	return rapid.Custom(func(t *rapid.T) Record {
		rid := queue.RecipientID{EntityID: rids.Draw(t, "queue")}
		k := kind(rapid.SampledFrom([]int{0, 0, 0, 1, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 11, 13}).Draw(t, "kind"))
		switch k {
		case kindCreate:
			q := queue.Record{
				RecipientID:   rid,
				RecipientKeys: rapid.SliceOfN(key, 1, 3).Draw(t, "keys"),
				RcvDHSecret:   secret,
				SenderID:      queue.SenderID{EntityID: sids.Draw(t, "sender")},
				Mode:          rapid.SampledFrom([]queue.Mode{queue.ModeUnknown, queue.ModeMessaging, queue.ModeContact}).Draw(t, "mode"),
				RcvService:    service.Draw(t, "service"),
			}
			if rapid.Bool().Draw(t, "secured") {
				q.SenderKey = key.Draw(t, "senderKey")
			}
			if rapid.Bool().Draw(t, "linked") {
				q.Link = link.Draw(t, "link")
			}
			if rapid.Bool().Draw(t, "notified") {
				q.Notifier = notifier.Draw(t, "notifier")
			}
			if rapid.Bool().Draw(t, "dated") {
				q.UpdatedAt = queue.DateOf(rapid.Int64().Draw(t, "date"))
			}
			q.Status.State = rapid.SampledFrom([]queue.State{queue.Active, queue.Off, queue.Blocked}).Draw(t, "state")
			if q.Status.State == queue.Blocked {
				q.Status.Blocking = blocking.Draw(t, "blocking")
			}
			return &Create{q}
		case kindLink:
			return &Link{rid, *link.Draw(t, "link")}
		case kindDeleteLink:
			return &DeleteLink{rid}
		case kindSecure:
			return &Secure{rid, key.Draw(t, "key")}
		case kindKeys:
			return &Keys{rid, rapid.SliceOfN(key, 1, 3).Draw(t, "keys")}
		case kindAddNotifier:
			return &AddNotifier{rid, notifier.Draw(t, "notifier")}
		case kindDeleteNotifier:
			return &DeleteNotifier{rid}
		case kindSuspend:
			return &Suspend{rid}
		case kindBlock:
			return &Block{rid, blocking.Draw(t, "blocking")}
		case kindUnblock:
			return &Unblock{rid}
		case kindTouch:
			return &Touch{rid, rapid.Int64().Draw(t, "time")}
		case kindDelete:
			return &Delete{rid}
		case kindSetService:
			return &SetService{rid, rapid.SampledFrom([]queue.Party{queue.PartyRecipient, queue.PartyNotifier}).Draw(t, "party"), service.Draw(t, "service")}
		}
		t.Fatalf("no generator for kind %d", k)
		return nil
	})
}

// A log with too many rivals is refused rather than read with unbounded memory.
func TestTooManyRivals(t *testing.T) {
	var log strings.Builder
	for i := range maxRivals + 1 {
		id := smp.NewEntityID(fmt.Append(nil, "queue", i))
		log.WriteString(strings.Replace(create, rid, id.String(), 1) + "\n")
	}
	_, err := replay(t.Context(), strings.NewReader(log.String()), Options{TempDir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "not the log of one router") {
		t.Errorf("got %v", err)
	}
}
