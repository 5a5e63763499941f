package bench

import (
	"math"
	"math/bits"
	"time"
)

// A Histogram counts durations, in buckets that are so narrow that each is known to
// within 1/128 of its length. Its size is fixed. The zero Histogram is empty. Times
// before zero count as zero.
type Histogram struct {
	counts   [buckets]int64
	n        int64
	sum      float64 // in nanoseconds
	min, max time.Duration
}

// A duration of up to 8 bits has a bucket of its own; of longer ones, the first 8 bits
// and their position say which it is.
const (
	precision = 8
	half      = 1 << (precision - 1)
	buckets   = (63-precision)*half + 2*half
)

func bucketOf(d time.Duration) int {
	shift := max(bits.Len64(uint64(d))-precision, 0) //nolint:gosec // not negative
	return shift*half + int(d>>shift)
}

// limitOf returns the longest duration of a bucket.
func limitOf(bucket int) time.Duration {
	shift := max(bucket/half-1, 0)
	return time.Duration((uint64(bucket-shift*half)+1)<<shift - 1) //nolint:gosec // at most 1<<63 - 1
}

// Add counts a duration.
func (h *Histogram) Add(d time.Duration) {
	d = max(d, 0)
	if h.n == 0 || d < h.min {
		h.min = d
	}
	h.max = max(h.max, d)
	h.counts[bucketOf(d)]++
	h.n++
	h.sum += float64(d)
}

// Merge counts what o has counted.
func (h *Histogram) Merge(o *Histogram) {
	if o.n == 0 {
		return
	}
	if h.n == 0 || o.min < h.min {
		h.min = o.min
	}
	h.max = max(h.max, o.max)
	h.n += o.n
	h.sum += o.sum
	for i, n := range o.counts {
		h.counts[i] += n
	}
}

// Count returns how many durations were counted.
func (h *Histogram) Count() int64 { return h.n }

// Min returns the shortest duration, 0 if there is none.
func (h *Histogram) Min() time.Duration { return h.min }

// Max returns the longest duration, 0 if there is none.
func (h *Histogram) Max() time.Duration { return h.max }

// Mean returns the mean, 0 if there is none.
func (h *Histogram) Mean() time.Duration {
	if h.n == 0 {
		return 0
	}
	return time.Duration(h.sum / float64(h.n))
}

// Quantile returns a duration that a part q of all, from 0 to 1, do not exceed: at
// least the exact one, and longer by less than 1/128. It is 0 if there is none.
func (h *Histogram) Quantile(q float64) time.Duration {
	left := max(int64(math.Ceil(q*float64(h.n))), 1)
	for i, n := range h.counts {
		if left -= n; left <= 0 {
			return min(limitOf(i), h.max)
		}
	}
	return h.max
}

// UpTo returns how many durations there are of up to d, as far as the buckets tell: one
// that is longer by less than 1/128 may be among them.
func (h *Histogram) UpTo(d time.Duration) (n int64) {
	if d < 0 {
		return 0
	}
	for _, c := range h.counts[:bucketOf(d)+1] {
		n += c
	}
	return n
}
