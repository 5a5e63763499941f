package importer

import (
	"bytes"
	"fmt"
	"io"
)

// rejects counts, writes and limits what is left out.
type rejects struct {
	file string
	max  int64
	to   io.Writer

	rejected  int64 // conflicts included
	conflicts int64
	before    int64 // rejected in another file, which count for max
}

// reject takes a record that is left out: where it is, why, its text, nil if it
// has none, and whether the schema is the reason.
func (r *rejects) reject(place, reason string, text []byte, conflict bool) error {
	r.rejected++
	if conflict {
		r.conflicts++
	}
	if r.to != nil {
		// A reason never holds an LF, and a record that starts with '#' is none.
		line := fmt.Appendf(nil, "# %s: %s\n", place, reason)
		if text != nil {
			line = append(line, bytes.TrimSuffix(text, []byte("\n"))...)
			line = append(line, '\n')
		}
		if _, err := r.to.Write(line); err != nil {
			return fmt.Errorf("write rejected records: %w", err)
		}
	}
	if r.max >= 0 && r.before+r.rejected > r.max {
		return &RejectedError{File: r.file, Place: place, Cause: reason, Max: r.max, Conflict: conflict}
	}
	return nil
}
