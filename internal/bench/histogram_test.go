package bench

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// durations are of all lengths, and often the same.
func durations() *rapid.Generator[[]time.Duration] {
	one := rapid.Custom(func(t *rapid.T) time.Duration {
		bits := rapid.IntRange(0, 63).Draw(t, "bits")
		return time.Duration(rapid.Int64Range(0, 1<<bits-1).Draw(t, "duration"))
	})
	return rapid.SliceOf(rapid.OneOf(one, rapid.SampledFrom([]time.Duration{0, 1, 127, 128, 255, 256, 257, time.Second, math.MaxInt64})))
}

func histogramOf(all []time.Duration) *Histogram {
	h := new(Histogram)
	for _, d := range all {
		h.Add(d)
	}
	return h
}

// Each duration is in a bucket whose limit is the next that there is, and buckets follow
// each other without gaps.
func TestBuckets(t *testing.T) {
	for i := range buckets {
		limit := limitOf(i)
		if bucketOf(limit) != i {
			t.Fatalf("the limit %d of bucket %d is in bucket %d", limit, i, bucketOf(limit))
		}
		if i < buckets-1 && bucketOf(limit+1) != i+1 {
			t.Fatalf("what follows the limit %d of bucket %d is in bucket %d", limit, i, bucketOf(limit+1))
		}
	}
	if limitOf(buckets-1) != math.MaxInt64 {
		t.Errorf("the last limit is %d", limitOf(buckets-1))
	}
}

// Quantiles are right to within the width of a bucket; least, most and number are exact.
func TestQuantiles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := durations().Draw(t, "durations")
		h := histogramOf(all)
		if h.Count() != int64(len(all)) {
			t.Fatalf("%d of %d", h.Count(), len(all))
		}
		if len(all) == 0 {
			if h.Quantile(0.5) != 0 || h.Min() != 0 || h.Max() != 0 || h.Mean() != 0 {
				t.Fatal("an empty histogram has latencies")
			}
			return
		}
		slices.Sort(all)
		if h.Min() != all[0] || h.Max() != all[len(all)-1] {
			t.Fatalf("from %d to %d, want %d to %d", h.Min(), h.Max(), all[0], all[len(all)-1])
		}
		q := rapid.Float64Range(0, 1).Draw(t, "quantile")
		exact := all[max(int(math.Ceil(q*float64(len(all))))-1, 0)]
		if got := h.Quantile(q); got < exact || got > h.Max() || float64(got-exact) > float64(exact)/half {
			t.Errorf("quantile %g: %d, want %d", q, got, exact)
		}
	})
}

// Merging is adding all of both, in any order.
func TestMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := durations().Draw(t, "a"), durations().Draw(t, "b")
		merged := histogramOf(a)
		merged.Merge(histogramOf(b))
		want := histogramOf(slices.Concat(b, a))
		if merged.counts != want.counts || merged.n != want.n || merged.min != want.min || merged.max != want.max {
			t.Errorf("%d from %v to %v, want %d from %v to %v", merged.n, merged.min, merged.max, want.n, want.min, want.max)
		}
	})
}

// The coarse histogram has every latency, in buckets that grow, none of them empty at
// the ends.
func TestCoarse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := histogramOf(durations().Draw(t, "durations"))
		var n int64
		last := 0.0
		coarse := h.coarse()
		for _, b := range coarse {
			n += b.Count
			if b.UpTo <= last || b.Count < 0 {
				t.Errorf("%d up to %g after %g", b.Count, b.UpTo, last)
			}
			last = b.UpTo
		}
		if n != h.Count() {
			t.Errorf("%d of %d", n, h.Count())
		}
		if len(coarse) > 0 && (coarse[0].Count == 0 || coarse[len(coarse)-1].Count == 0) {
			t.Errorf("empty at an end: %v", coarse)
		}
	})
}

// What is below zero, which a clock may do that is set, counts as zero.
func TestNegative(t *testing.T) {
	h := histogramOf([]time.Duration{-5, 3})
	if h.Min() != 0 || h.UpTo(0) != 1 || h.UpTo(-1) != 0 {
		t.Errorf("from %d, %d up to 0", h.Min(), h.UpTo(0))
	}
}
