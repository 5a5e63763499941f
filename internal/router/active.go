package router

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/smpq/smpq/internal/smp"
)

// A Period is for how long a set of active queues is gathered.
type Period int

// The periods.
const (
	Day Period = iota
	Week
	Month
	periods // how many there are
)

const (
	activeShards = 64
	// maxActive is how many queues of a month are told apart, in each shard. All of
	// them take some 250 MB.
	maxActive = 1 << 17
)

// ActiveQueues are sets of the queues to which messages were sent, or from which they
// were received, and of those where these were messages to notify of. Of a queue there
// is a hash in each set. Beyond 8 million queues, others are not counted.
type ActiveQueues struct {
	sizes  [2 * periods]atomic.Int64
	shards [activeShards]activeShard
}

type activeShard struct {
	mu   sync.Mutex
	sets map[uint64]uint8 // by hash, bits that say in which sets it is
}

// bit returns the number of a set.
func (p Period) bit(notify bool) int {
	if notify {
		return int(periods + p)
	}
	return int(p)
}

const (
	allSets    = 1<<(2*periods) - 1
	normalSets = 1<<periods - 1
)

// hashID is FNV-1a: other than hashes of maps, it stays the same in all processes.
func hashID(id smp.EntityID) uint64 {
	var buf [smp.MaxShort]byte
	h := uint64(14695981039346656037)
	for _, b := range id.Append(buf[:0]) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return h
}

// add adds a queue.
func (a *ActiveQueues) add(id smp.EntityID, notify bool) {
	sets := uint8(normalSets)
	if notify {
		sets = allSets
	}
	a.addHash(hashID(id), sets)
}

func (a *ActiveQueues) addHash(hash uint64, sets uint8) {
	h := &a.shards[hash>>58]
	h.mu.Lock()
	defer h.mu.Unlock()
	was := h.sets[hash]
	if was&sets == sets || was == 0 && len(h.sets) >= maxActive {
		return
	}
	if h.sets == nil {
		h.sets = make(map[uint64]uint8)
	}
	h.sets[hash] = was | sets
	a.resize(sets&^was, 1)
}

// resize changes the sizes of sets.
func (a *ActiveQueues) resize(sets uint8, by int64) {
	for i := range a.sizes {
		if sets&(1<<i) != 0 {
			a.sizes[i].Add(by)
		}
	}
}

// Len returns the size of a set.
func (a *ActiveQueues) Len(p Period, notify bool) int64 { return a.sizes[p.bit(notify)].Load() }

// Take empties the sets of a period, and returns how many queues were in them. No
// queue is lost that comes meanwhile.
func (a *ActiveQueues) Take(p Period) (all, notify int64) {
	normal, ntf := uint8(1)<<p.bit(false), uint8(1)<<p.bit(true)
	for i := range a.shards {
		h := &a.shards[i]
		h.mu.Lock()
		for hash, sets := range h.sets {
			taken := sets & (normal | ntf)
			if taken&normal != 0 {
				all++
			}
			if taken&ntf != 0 {
				notify++
			}
			a.resize(taken, -1)
			if h.sets[hash] = sets &^ taken; h.sets[hash] == 0 {
				delete(h.sets, hash)
			}
		}
		h.mu.Unlock()
	}
	return all, notify
}

// Hashes returns the hashes of the queues in a set, in ascending order.
func (a *ActiveQueues) Hashes(p Period, notify bool) []int64 {
	bit := uint8(1) << p.bit(notify)
	hashes := make([]int64, 0, a.Len(p, notify))
	for i := range a.shards {
		h := &a.shards[i]
		h.mu.Lock()
		for hash, sets := range h.sets {
			if sets&bit != 0 {
				hashes = append(hashes, int64(hash)) //nolint:gosec // the same bits
			}
		}
		h.mu.Unlock()
	}
	slices.Sort(hashes)
	return hashes
}

// AddHashes adds to a set what Hashes has returned.
func (a *ActiveQueues) AddHashes(p Period, notify bool, hashes []int64) {
	for _, hash := range hashes {
		a.addHash(uint64(hash), 1<<p.bit(notify)) //nolint:gosec // the same bits
	}
}

// AddIDs adds queues to a set by their recipient ids.
func (a *ActiveQueues) AddIDs(p Period, notify bool, ids []smp.EntityID) {
	for _, id := range ids {
		a.addHash(hashID(id), 1<<p.bit(notify))
	}
}
