package config

import (
	"slices"
	"strings"
)

// suggest returns words that name the key that may be meant by one that does not
// exist: of the same name in another section, or of a similar one, rather in the
// same section.
func suggest(section, name string, write func(Key) string) string {
	for _, k := range keys {
		if strings.EqualFold(k.Name, name) {
			return didYouMean(write(k))
		}
	}
	own := slices.DeleteFunc(slices.Clone(keys), func(k Key) bool { return k.Section != section })
	for _, all := range [][]Key{own, keys} {
		if meant := nearest(name, all, func(k Key) string { return k.Name }); meant != nil {
			return didYouMean(write(*meant))
		}
	}
	return ""
}

func didYouMean(name string) string { return ", did you mean " + name + "?" }

// nearest returns which of all is written most like a name, the first of several,
// or nil if none is like it.
func nearest[T any](name string, all []T, write func(T) string) *T {
	index, least := 0, max(1, len(name)/3)+1
	for i, one := range all {
		if d := distance(strings.ToLower(name), strings.ToLower(write(one))); d < least {
			index, least = i, d
		}
	}
	if least > max(1, len(name)/3) {
		return nil
	}
	return &all[index]
}

// distance returns how many bytes must be inserted, removed, replaced, or swapped
// with the next, to make b of a.
func distance(a, b string) int {
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		older := before
		before, row = row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			row[j+1] = min(before[j], before[j+1], row[j]) + 1
			if a[i] == b[j] {
				row[j+1] = before[j]
			}
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], older[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
