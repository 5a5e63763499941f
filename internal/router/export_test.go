package router

import (
	"sync"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// A Replay is what another router has made at random. What it does not say is made at
// random again.
type Replay struct {
	IDs    map[string][]smp.EntityID // by the correlation ids of the commands that made them
	Keys   map[smp.PublicKey]Agreed  // by those of the other ends
	Nonces map[smp.EntityID]auth.Nonce

	mu sync.Mutex // guards IDs
}

// Agreed is a secret, and what the router has sent of it.
type Agreed struct {
	Own    smp.PublicKey
	Secret smp.DHSecret
}

// Replay has the router make what another one has made.
func (o *Options) Replay(r *Replay) { o.chance = r }

func (r *Replay) id(command smp.Short) smp.EntityID {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := string(command.Bytes())
	ids := r.IDs[key]
	if len(ids) == 0 {
		return newID()
	}
	r.IDs[key] = ids[1:]
	return ids[0]
}

func (r *Replay) agree(peer smp.PublicKey) (own smp.PublicKey, secret smp.DHSecret, err error) {
	if a, ok := r.Keys[peer]; ok {
		return a.Own, a.Secret, nil
	}
	return random{}.agree(peer)
}

func (r *Replay) nonce(m queue.MessageID) auth.Nonce {
	if n, ok := r.Nonces[m.EntityID]; ok {
		return n
	}
	return random{}.nonce(m)
}

// FlushEnds sends the events that are gathered for the next flush.
func (r *Router) FlushEnds() { r.flushEnds() }

// DeliverNotifications sends the notifications that are gathered.
func (r *Router) DeliverNotifications() { r.deliverNotifications() }
