package router_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

// Whether a queue exists does not show in how long a refusal takes. What is compared
// is what the fastest tenth of each kind takes, in turn, as other things slow this
// machine down; if that goes on, the comparison takes more of both into account.
//
// conformance: 58
func TestRefusalsTakeAsLong(t *testing.T) {
	const (
		round     = 50
		fewest    = 2 // rounds
		most      = 30
		tolerance = 0.3
	)
	r := start(t, newSite(t).openStore(t, 0))
	p := r.dial(t, 19)
	missing := smp.NewEntityID("012345678901234567890123")
	algorithms := []smp.Algorithm{smp.Ed25519, smp.Ed448, smp.X25519}
	for _, of := range algorithms {
		b := p.newQueue(createOnly)
		p.ok(b.recipient, b.recipientKey, &smp.KEY{SenderKey: newKey(t, of).Public()})
		for _, with := range algorithms {
			wrong := newKey(t, with)
			measure := func(id smp.EntityID) float64 {
				at := time.Now()
				p.refused(smp.ErrAuth, id, wrong, &smp.SEND{Body: []byte("x")})
				return time.Since(at).Seconds()
			}
			var found, unknown []float64
			for n := 1; ; n++ {
				for i := range round {
					if i%2 == 0 {
						found, unknown = append(found, measure(b.sender)), append(unknown, measure(missing))
					} else { // neither kind always comes first
						unknown, found = append(unknown, measure(missing)), append(found, measure(b.sender))
					}
				}
				if n < fewest {
					continue
				}
				slices.Sort(found)
				slices.Sort(unknown)
				a, b := found[len(found)/10], unknown[len(unknown)/10]
				difference := (a - b) / max(a, b)
				if -tolerance < difference && difference < tolerance {
					break
				}
				if n == most {
					t.Errorf("a queue of %v, a key of %v: %.0f us if the queue exists, %.0f us if not", of, with, a*1e6, b*1e6)
					break
				}
			}
		}
	}
}

// An askedStore counts look-ups of queues that there are not: for those, the database
// is asked each time.
type askedStore struct {
	*store.Store
	unknown atomic.Int64
}

func (s *askedStore) QueueBySender(ctx context.Context, id queue.SenderID) (*store.Queue, error) {
	q, err := s.Store.QueueBySender(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		s.unknown.Add(1)
	}
	return q, err
}

// A refusal waits for the database as often if the queue exists, and is in memory, as
// if it does not: however slow the database is, that does not tell which.
//
// conformance: 58
func TestRefusalsAskAsOften(t *testing.T) {
	t.Parallel()
	asked := &askedStore{Store: newSite(t).openStore(t, 0)}
	r := start(t, asked.Store, func(o *router.Options) { o.Store = asked })
	eachVersion(t, 6, func(t *testing.T, v smp.Version) {
		p := r.dial(t, v)
		b := p.newQueue(createOnly)
		p.ok(b.recipient, b.recipientKey, &smp.KEY{SenderKey: b.senderKey.Public()})
		for _, id := range []smp.EntityID{b.sender, smp.NewEntityID("012345678901234567890123")} {
			before := asked.unknown.Load()
			p.refused(smp.ErrAuth, id, newKey(t, smp.Ed25519), &smp.SEND{Body: []byte("x")})
			if n := asked.unknown.Load() - before; n != 1 {
				t.Errorf("the database is asked %d times for %s", n, id)
			}
		}
		before := asked.unknown.Load()
		p.ok(b.sender, b.senderKey, &smp.SEND{Body: []byte("x")})
		if n := asked.unknown.Load() - before; n != 0 {
			t.Errorf("the database is asked %d times for what is not refused", n)
		}
	})
}
