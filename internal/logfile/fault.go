package logfile

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/smpq/smpq/internal/smp"
)

// A Fault is a line that is not as it should be, or what is lost with it.
type Fault struct {
	Line   int64  // counted from 1; 0: there is no line
	Offset int64  // bytes of the file before the line
	Column int    // counted from 1; 0: the whole line
	Reason string // what is wrong
	// Text is what is lost: the line as it stands in the file, without LF (the
	// first 1024 bytes if it is too long), or a record in its place. It may hold
	// secrets.
	Text []byte
}

// Place returns where the fault is: "line 12, column 5".
func (f Fault) Place() string {
	if f.Column == 0 {
		return fmt.Sprintf("line %d", f.Line)
	}
	return fmt.Sprintf("line %d, column %d", f.Line, f.Column)
}

// String returns place and reason: "line 12, column 5: …".
func (f Fault) String() string { return f.Place() + ": " + f.Reason }

// Unreadable returns the fault of a line that is not what it should be: err says
// why, a [*smp.SyntaxError] also in which column.
func (l Line) Unreadable(err error) Fault {
	f := Fault{Line: l.Number, Offset: l.Offset, Reason: err.Error(), Text: bytes.Clone(l.Text)}
	if syntax, ok := errors.AsType[*smp.SyntaxError](err); ok {
		f.Column, f.Reason = syntax.Offset+1, syntax.Reason
	}
	if !l.Terminated {
		f.Reason += " (the last line of the log, without an end of line: cut off when it was written?)"
	}
	return f
}

// Overlong returns the fault of a line that exceeds MaxLine.
func (l Line) Overlong() Fault {
	return Fault{
		Line: l.Number, Offset: l.Offset, Text: bytes.Clone(l.Text),
		Reason: fmt.Sprintf("line of %d bytes: no record has %d or more (only its start is kept)", l.TooLong, MaxLine),
	}
}

// Unterminated returns the fault of a last line that could be read, but is not
// ended by LF: it may have been cut off, and then it is not what was written.
// taken says what it was taken as.
func (l Line) Unterminated(taken string) Fault {
	return Fault{
		Line: l.Number, Offset: l.Offset, Text: bytes.Clone(l.Text),
		Reason: "the last line has no end of line and may have been cut off; it was taken as " + taken,
	}
}
