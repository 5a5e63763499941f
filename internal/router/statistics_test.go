package router

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/smpq/smpq/internal/smp"
)

// Buckets are as wide as smp-server has them: 1 s up to 5, 5 up to 30, 10 up to 60, 30 up
// to 180, then 60.
func TestAckTimes(t *testing.T) {
	t.Parallel()
	var a AckTimes
	want := make(map[int64]int64)
	sum := int64(0)
	up := func(t, to int64) int64 { return (t + to - 1) / to * to }
	for _, s := range []int64{-5, 0, 1, 2, 5, 6, 10, 11, 30, 31, 40, 41, 59, 60, 61, 90, 91, 180, 181, 240, 241, 3600, 86400, 86401, 1 << 40} {
		a.add(s)
		s = max(s, 0)
		sum += s
		switch {
		case s <= 5:
			want[s]++
		case s <= 30:
			want[up(s, 5)]++
		case s <= 60:
			want[up(s, 10)]++
		case s <= 180:
			want[up(s, 30)]++
		case s <= 86400:
			want[up(s, 60)]++
		default:
			want[math.MaxInt64]++
		}
	}
	got := make(map[int64]int64)
	last := int64(-1)
	for longest, n := range a.All() {
		if longest <= last {
			t.Errorf("%d comes behind %d", longest, last)
		}
		got[longest], last = n, longest
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if a.Sum() != sum {
		t.Errorf("the sum is %d, not %d", a.Sum(), sum)
	}
	for range a.All() {
		break
	}
}

func TestAgeGroup(t *testing.T) {
	t.Parallel()
	for age, want := range map[int64]int{0: 0, 60: 0, 61: 1, 300: 1, 301: 2, 1200: 2, 1201: 3, 3600: 3, 3601: 4, math.MaxInt64: 4} {
		if got := AgeGroup(age); got != want {
			t.Errorf("%d s are in group %d, not %d", age, got, want)
		}
	}
}

// Sets of active queues are sets.
func TestActiveQueues(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var a ActiveQueues
		type set = map[int]struct{}
		model := [2][periods]set{}
		for i := range model {
			for p := range model[i] {
				model[i][p] = make(set)
			}
		}
		id := func(n int) smp.EntityID { return smp.NewEntityID(fmt.Sprint(n)) }
		period := rapid.Map(rapid.IntRange(0, int(periods)-1), func(p int) Period { return Period(p) })
		t.Repeat(map[string]func(*rapid.T){
			"use": func(t *rapid.T) {
				n, notify := rapid.IntRange(0, 20).Draw(t, "queue"), rapid.Bool().Draw(t, "notify")
				a.add(id(n), notify)
				for p := range periods {
					model[0][p][n] = struct{}{}
					if notify {
						model[1][p][n] = struct{}{}
					}
				}
			},
			"restore": func(t *rapid.T) {
				n, p, notify := rapid.IntRange(0, 20).Draw(t, "queue"), period.Draw(t, "period"), rapid.IntRange(0, 1).Draw(t, "notify")
				a.AddHashes(p, notify == 1, []int64{int64(hashID(id(n)))})
				model[notify][p][n] = struct{}{}
			},
			"take": func(t *rapid.T) {
				p := period.Draw(t, "period")
				all, notify := a.Take(p)
				if int(all) != len(model[0][p]) || int(notify) != len(model[1][p]) {
					t.Fatalf("%d and %d queues, not %d and %d", all, notify, len(model[0][p]), len(model[1][p]))
				}
				clear(model[0][p])
				clear(model[1][p])
			},
			"": func(t *rapid.T) {
				for i := range model {
					for p := range model[i] {
						hashes := a.Hashes(Period(p), i == 1)
						if len(hashes) != len(model[i][p]) || int(a.Len(Period(p), i == 1)) != len(hashes) || !slices.IsSorted(hashes) {
							t.Fatalf("%d hashes, length %d, not %d", len(hashes), a.Len(Period(p), i == 1), len(model[i][p]))
						}
						for n := range model[i][p] {
							if _, found := slices.BinarySearch(hashes, int64(hashID(id(n)))); !found {
								t.Fatalf("there is no queue %d", n)
							}
						}
					}
				}
			},
		})
	})
}

// Sets of active queues have a limit.
func TestManyActiveQueues(t *testing.T) {
	t.Parallel()
	var a ActiveQueues
	hashes := make([]int64, maxActive+1000)
	for i := range hashes {
		hashes[i] = int64(i) // all of one shard
	}
	a.AddHashes(Month, false, hashes)
	a.AddHashes(Day, false, hashes[:10])
	if n := a.Len(Month, false); n != maxActive || a.Len(Day, false) != 10 {
		t.Errorf("%d queues in the month, %d in the day", n, a.Len(Day, false))
	}
}
