package router_test

import (
	"slices"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/smp"
)

// Whether a queue exists does not show in how long a refusal takes. What is compared
// is the fastest of many, in turn, as other things slow this machine down.
//
// conformance: 58
func TestRefusalsTakeAsLong(t *testing.T) {
	r := start(t, newSite(t).openStore(t, 0))
	p := r.dial(t, 19)
	algorithms := []smp.Algorithm{smp.Ed25519, smp.Ed448, smp.X25519}
	for _, of := range algorithms {
		b := p.newQueue(createOnly)
		p.ok(b.recipient, b.recipientKey, &smp.KEY{SenderKey: newKey(t, of).Public()})
		for _, with := range algorithms {
			wrong := newKey(t, with)
			measure := func(id smp.EntityID) time.Duration {
				at := time.Now()
				p.refused(smp.ErrAuth, id, wrong, &smp.SEND{Body: []byte("x")})
				return time.Since(at)
			}
			var exists, missing []time.Duration
			for range 150 {
				exists = append(exists, measure(b.sender))
				missing = append(missing, measure(smp.NewEntityID("012345678901234567890123")))
			}
			slices.Sort(exists)
			slices.Sort(missing)
			a, b := exists[len(exists)/10].Seconds(), missing[len(missing)/10].Seconds()
			if difference := (a - b) / max(a, b); difference > 0.3 || difference < -0.3 {
				t.Errorf("a queue of %v, a key of %v: %.0f us if the queue exists, %.0f us if not", of, with, a*1e6, b*1e6)
			}
		}
	}
}
