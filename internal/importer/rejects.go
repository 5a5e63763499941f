package importer

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"

	"github.com/smpq/smpq/internal/storelog"
)

// rejects counts, writes and limits what is left out.
type rejects struct {
	file string
	max  int64
	to   io.Writer
	res  *Result
	log  *slog.Logger
}

// problem takes a problem of the log.
func (r *rejects) problem(p storelog.Problem) error {
	switch {
	case p.Kind.Loses():
		return r.reject(p.Place(), p.Reason, p.Text, false)
	case p.Kind == storelog.Late:
		r.res.Ignored++
	default:
		r.log.Warn(p.Reason, slog.String("file", r.file), slog.Int64("line", p.Line))
	}
	return nil
}

// reject takes a record that is left out: where it is, why, its text, and whether
// the schema is the reason.
func (r *rejects) reject(place, reason string, text []byte, conflict bool) error {
	r.res.Rejected++
	if conflict {
		r.res.Conflicts++
	}
	if r.to != nil {
		// A reason never holds an LF, and a record that starts with '#' is none.
		line := fmt.Appendf(nil, "# %s: %s\n", place, reason)
		line = append(line, bytes.TrimSuffix(text, []byte("\n"))...)
		if _, err := r.to.Write(append(line, '\n')); err != nil {
			return fmt.Errorf("write rejected records: %w", err)
		}
	}
	if r.max >= 0 && r.res.Rejected > r.max {
		return &RejectedError{File: r.file, Place: place, Cause: reason, Max: r.max, Conflict: conflict}
	}
	return nil
}
