package router

import (
	"iter"
	"math"
	"sync/atomic"
)

// AckTimes count how long recipients have taken to acknowledge messages, in whole
// seconds, by buckets that get wider as the times get longer.
type AckTimes struct {
	sum     atomic.Int64
	buckets [ackBuckets]atomic.Int64
}

// Ranges of times whose buckets are equally wide, up to a day. Longer times have a
// bucket of their own.
var ackRanges = [...]struct {
	from, to, width int64 // times above from, up to to
	first           int   // bucket
}{
	{0, 5, 1, 1},
	{5, 30, 5, 6},
	{30, 60, 10, 11},
	{60, 180, 30, 14},
	{180, maxAckTime, 60, 18},
}

const (
	maxAckTime = 24 * 60 * 60
	ackBuckets = 18 + (maxAckTime-180)/60 + 1
)

// add counts a time.
func (a *AckTimes) add(seconds int64) {
	seconds = max(seconds, 0) // the clock was put back
	a.sum.Add(seconds)
	a.buckets[ackBucket(seconds)].Add(1)
}

func ackBucket(seconds int64) int {
	for _, r := range ackRanges {
		if seconds > r.from && seconds <= r.to {
			return r.first + int((seconds-r.from-1)/r.width)
		}
	}
	if seconds == 0 {
		return 0
	}
	return ackBuckets - 1
}

// Sum returns the sum of all times, in seconds.
func (a *AckTimes) Sum() int64 { return a.sum.Load() }

// All iterates over the buckets in which there are any times, from the shortest to the
// longest, with the longest time that a bucket is for, in seconds, and how many there
// are. The last bucket has no longest time: it is math.MaxInt64.
func (a *AckTimes) All() iter.Seq2[int64, int64] {
	return func(yield func(int64, int64) bool) {
		bucket := func(i int, longest int64) bool {
			n := a.buckets[i].Load()
			return n == 0 || yield(longest, n)
		}
		if !bucket(0, 0) {
			return
		}
		for _, r := range ackRanges {
			for i, longest := r.first, r.from+r.width; longest <= r.to; i, longest = i+1, longest+r.width {
				if !bucket(i, longest) {
					return
				}
			}
		}
		bucket(ackBuckets-1, math.MaxInt64)
	}
}
