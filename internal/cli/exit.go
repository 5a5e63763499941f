package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// The exit statuses of smpq.
const (
	ExitOK          = 0   // done
	ExitFailed      = 1   // failed
	ExitUsage       = 2   // wrong usage: nothing was tried
	ExitRejected    = 3   // done, but some records were rejected
	ExitDifferent   = 4   // a verification found differences
	ExitUnavailable = 5   // the database or a lock is not available
	ExitInterrupted = 130 // ended by SIGINT, SIGTERM or SIGHUP
	ExitPipe        = 141 // the reader of standard output left; what a shell shows of SIGPIPE
)

// codeError is an error with the exit status that it asks for.
type codeError struct {
	code int
	err  error
}

func (e *codeError) Error() string { return e.err.Error() }
func (e *codeError) Unwrap() error { return e.err }

// WithCode returns err with the exit status that the process shall have if the
// command returns it; nil if err is nil. The outermost code counts.
func WithCode(code int, err error) error {
	if err == nil {
		return nil
	}
	return &codeError{code, err}
}

// A statusError is an exit status of which all has been said.
type statusError int

func (e statusError) Error() string { return "exit status " + strconv.Itoa(int(e)) }

// Status returns an error that ends the process with an exit status, whatever
// signals came, and is not printed: another program has said what is wrong.
func Status(code int) error { return statusError(code) }

// UsageErrorf returns a formatted error for wrong usage.
func UsageErrorf(format string, args ...any) error {
	return WithCode(ExitUsage, fmt.Errorf(format, args...))
}

// ExitCode returns the exit status for the error that a command returned: the
// one set by [WithCode], else the one that fits what went wrong.
func ExitCode(err error) int {
	var (
		status statusError
		coded  *codeError
	)
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &status):
		return int(status)
	case errors.Is(err, ErrInterrupted), errors.Is(err, context.Canceled):
		return ExitInterrupted
	case readerLeft(err):
		return ExitPipe
	case errors.As(err, &coded):
		return coded.code
	case unavailable(err):
		return ExitUnavailable
	}
	return ExitFailed
}

// unavailable reports whether err says that the database could not be reached,
// does not let us in, or went away.
func unavailable(err error) bool {
	var (
		pg      *pgconn.PgError
		connect *pgconn.ConnectError
		network *net.OpError
	)
	if errors.As(err, &pg) {
		switch pg.Code {
		case "3D000", // no such database
			"53300", // too many connections
			"55P03": // lock not available
			return true
		}
		return strings.HasPrefix(pg.Code, "08") || // connection exceptions
			strings.HasPrefix(pg.Code, "28") || // wrong user or password
			strings.HasPrefix(pg.Code, "57P") // shutting down, starting up
	}
	return errors.As(err, &connect) || errors.As(err, &network) && network.Op != "listen" ||
		errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, io.ErrUnexpectedEOF) // the server is gone
}

// lostConnection reports whether there was a connection to the database, and it
// broke or the server ended it.
func lostConnection(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code == "57P01" || pg.Code == "57P02" // ended by an administrator, by a crash
	}
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	return !connecting && unavailable(err)
}

// readerLeft reports whether a write to standard output found nobody who reads.
func readerLeft(err error) bool {
	file, ok := errors.AsType[*fs.PathError](err)
	return ok && file.Path == os.Stdout.Name() && errors.Is(file, syscall.EPIPE)
}

// badPassword reports whether the server refused a password, or missed one.
func badPassword(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "28P01"
}
