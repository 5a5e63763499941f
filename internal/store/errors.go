package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A Code is what a client of the router is told about an operation that failed,
// and all that it is told. The names are those of the protocol.
type Code string

// The codes of errors of a [Store].
const (
	CodeAuth      Code = "AUTH"       // no such queue, or not for this caller
	CodeDuplicate Code = "DUPLICATE_" // an id is in use: try again with another
	CodeNoMessage Code = "NO_MSG"     // the message is not there, or not first in its queue
	CodeQuota     Code = "QUOTA"      // the queue is full
	CodeService   Code = "SERVICE"    // the service has another role
	CodeInternal  Code = "INTERNAL"   // a broken invariant of this program
	CodeStore     Code = "STORE"      // the database failed, or is away
)

// Why an operation was refused. Clients are told AUTH for most of them, so that
// they cannot tell a queue that is not theirs from one that does not exist.
var (
	ErrNotFound  = errors.New("there is no such queue")
	ErrNoService = errors.New("there is no such service")
	ErrDeleted   = errors.New("the queue is deleted")
	ErrStale     = errors.New("the row was changed or deleted by another program")
	ErrTaken     = errors.New("an id is in use, or was until its queue was deleted")
	ErrRefused   = errors.New("it is set already, to something else")
	ErrNotSet    = errors.New("there is nothing of this kind to change")
	ErrNoMessage = errors.New("the message is not the first of the queue")
	ErrQuota     = errors.New("the queue is full")
	ErrRole      = errors.New("the service has another role")
)

// codes says which code the reasons have; others have CodeStore.
var codes = map[error]Code{
	ErrNotFound: CodeAuth, ErrNoService: CodeAuth, ErrDeleted: CodeAuth, ErrStale: CodeAuth, ErrTaken: CodeAuth,
	ErrRefused: CodeAuth, ErrNotSet: CodeAuth,
	ErrNoMessage: CodeNoMessage, ErrQuota: CodeQuota, ErrRole: CodeService,
}

// An Error is an operation of a [Store] that failed. Its text is for logs only.
type Error struct {
	Code Code
	Op   string // what was being done, and to what
	Err  error
}

// Error returns what was being done, and why it failed.
func (e *Error) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of an error of a [Store]: INTERNAL for errors of others.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}

// failed returns an Error with the code that fits the reason. Those that are
// nobody's fault but the database's or this program's are logged, with the ids of
// what it was about only where details are logged.
func (s *Store) failed(op string, err error, about ...fmt.Stringer) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	whole := strings.Builder{}
	whole.WriteString(op)
	for _, id := range about {
		whole.WriteString(" " + id.String())
	}
	full := whole.String()
	for reason, code := range codes {
		if errors.Is(err, reason) {
			return &Error{Code: code, Op: full, Err: err}
		}
	}
	if !errors.Is(err, errAway) && !errors.Is(err, context.Canceled) {
		s.failures.log(s.log, op, full, err)
	}
	return &Error{Code: CodeStore, Op: full, Err: err}
}

// failures logs what fails, a few times a second at most: when something is wrong
// with the database, everything fails.
type failures struct {
	mu     sync.Mutex
	second int64 // Unix time of the second that is counted
	logged int   // lines in it
	hushed int   // failures that were not logged since the last line
}

// failuresPerSecond is how many failures are logged in a second.
const failuresPerSecond = 5

// log logs a failure. The full name of the operation has the ids of what it was about.
func (f *failures) log(log *slog.Logger, op, full string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now().Unix(); now != f.second {
		f.second, f.logged = now, 0
	}
	if f.logged == failuresPerSecond {
		f.hushed++
		return
	}
	f.logged++
	attrs := []any{slog.String("operation", op), slog.Any("error", err)}
	if f.hushed > 0 {
		attrs = append(attrs, slog.Int("not_logged_before", f.hushed))
		f.hushed = 0
	}
	log.Warn("the store failed", attrs...)
	if full != op {
		log.Debug("what the store failed to do", slog.String("operation", full))
	}
}

// SQLSTATEs that mean something else than that the database failed.
const (
	uniqueViolation = "23505"
	queryCanceled   = "57014" // cancelled, or it took too long
)

// taken turns the violation of a unique index into ErrTaken.
func taken(err error) error {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && e.Code == uniqueViolation {
		return fmt.Errorf("%w (%s)", ErrTaken, e.ConstraintName)
	}
	return err
}

// certain reports whether an error of [lane.write] tells that nothing was
// written. Otherwise the transaction may have been committed.
func certain(err error) bool {
	if _, unsent := errors.AsType[*unsentError](err); unsent {
		return true
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return !lost(e)
	}
	return pgconn.SafeToRetry(err)
}

// lost reports whether an error of the server, or of a pooler, ends the
// connection, from which nothing follows for the transaction.
func lost(e *pgconn.PgError) bool {
	const connectionException = "08"
	return e.SeverityUnlocalized != "ERROR" || strings.HasPrefix(e.Code, connectionException)
}

// rolledBack reports whether the server ended a transaction, without writing
// anything, because others were in its way. Another try may succeed.
func rolledBack(err error) bool {
	const (
		serializationFailure = "40001"
		deadlock             = "40P01"
	)
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && !lost(e) && (e.Code == serializationFailure || e.Code == deadlock)
}
