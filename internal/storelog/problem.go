package storelog

import (
	"github.com/smpq/smpq/internal/logfile"
	"github.com/smpq/smpq/internal/queue"
)

// A Problem is something in a log that is not as it should be. Its text, if
// something is lost, is the line, or a record of the part of a queue that was
// left out.
type Problem struct {
	logfile.Fault
	Kind ProblemKind
}

// A ProblemKind says what kind of problem a [Problem] is.
type ProblemKind uint8

const (
	// Malformed: the line is not a record. It has no effect.
	Malformed ProblemKind = iota
	// Refused: the record cannot be applied, as it names an unknown queue or
	// takes an id that is in use. It has no effect.
	Refused
	// SharedLink: two queues have the same link. Only the queue to which the
	// link leads keeps it.
	SharedLink
	// UnknownService: a queue is associated with a service that is not in the
	// log. The association is left out.
	UnknownService
	// Late: the record is about a queue that was deleted before. It has no
	// effect, and needs none.
	Late
	// Unterminated: the last line is a record, but no LF ends it. It may have
	// been cut off, in which case it is not what was written. It has been
	// applied.
	Unterminated
)

var kindNames = [...]string{"malformed", "refused", "shared link", "unknown service", "late", "unterminated"}

// String returns the name of k in lower case, for example "shared link".
func (k ProblemKind) String() string { return kindNames[k] }

// Loses reports whether problems of this kind mean that something of the log is
// not in the result. Such problems are what an import calls rejects.
func (k ProblemKind) Loses() bool { return k != Late && k != Unterminated }

// AppendQueue appends the records that make q to b, each with its LF: a CREATE
// and, where smp-server could not read its line, a BLOCK with the status.
//
// smp-server itself writes one line in all cases; with a blocking notice and a
// receiving service it drops the queue when it reads that line.
func AppendQueue(b []byte, q *queue.Record) []byte {
	if q.Readable() {
		return Append(b, &Create{Record: *q})
	}
	create := *q
	create.Status = queue.Status{}
	b = Append(b, &Create{Record: create})
	return Append(b, &Block{ID: q.RecipientID, Blocking: q.Status.Blocking})
}
