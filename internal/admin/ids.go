package admin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"time"

	"github.com/smpq/smpq/internal/smp"
)

// A Subject is a queue that the operator names.
type Subject struct {
	Text   string // as it was given
	Line   int64  // of the file, counted from 1; 0: it is not from a file
	ID     smp.EntityID
	Reason string // why Text is no id; empty: it is one
}

// Subjects returns the subjects with the given ids.
func Subjects(ids []smp.EntityID) iter.Seq2[Subject, error] {
	return func(yield func(Subject, error) bool) {
		for _, id := range ids {
			if !yield(Subject{Text: id.String(), ID: id}, nil) {
				return
			}
		}
	}
}

// maxLine bounds the lines of a file in bytes. The longest ids have fewer.
const maxLine = 16 << 10

// ReadSubjects iterates over the ids and addresses in a file, one a line. Empty lines and those
// that begin with '#' are left out, and so is space around ids. A line that is
// neither is a Subject with a Reason; an error is the end. Cancelling ctx also ends a
// wait for a pipe or a terminal.
func ReadSubjects(ctx context.Context, name string) iter.Seq2[Subject, error] {
	return func(yield func(Subject, error) bool) {
		f, err := os.Open(name) //nolint:gosec // the operator names the file
		if err != nil {
			yield(Subject{}, fmt.Errorf("open the list of ids: %w", err))
			return
		}
		defer f.Close() //nolint:errcheck // only read from
		// What is no pipe or terminal has no deadlines, and does not wait.
		stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
		defer stop()
		line := int64(0)
		err = eachLine(f, func(text string) bool {
			line++
			text = strings.TrimSpace(text)
			if text == "" || text[0] == '#' {
				return true
			}
			s := Subject{Text: text, Line: line}
			id, err := smp.ParseQueueID(text)
			if smp.IsAddress(text) {
				s.Text = "(an address)" // links have keys in them
				if err == nil {
					s.Text = id.String()
				}
			}
			if err != nil {
				s.Reason = fmt.Sprintf("line %d is neither an id in base64url nor an address: %v", line, err)
			}
			s.ID = id
			return yield(s, nil)
		})
		switch {
		case err == nil:
		case ctx.Err() != nil:
			yield(Subject{}, context.Cause(ctx))
		default:
			yield(Subject{}, fmt.Errorf("read the list of ids: line %d: %w", line+1, err))
		}
	}
}

// eachLine calls a function with the lines of r, until it returns false.
func eachLine(r io.Reader, each func(string) bool) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		if !each(lines.Text()) {
			return nil
		}
	}
	err := lines.Err()
	if errors.Is(err, bufio.ErrTooLong) {
		err = fmt.Errorf("it has more than %d bytes", maxLine)
	}
	return err
}
