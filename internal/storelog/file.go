package storelog

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/smpq/smpq/internal/logfile"
)

// ErrNotStoreLog reports a file that is plainly something else.
var ErrNotStoreLog = errors.New("not a store log")

// A File is a store log opened for reading. It is never written to.
type File struct {
	*logfile.File
	asked string
}

// StartSuffix ends the name of the copy that a router keeps of a log while it
// compacts it, and which it reads instead of the log.
const StartSuffix = ".start"

// Open opens the store log with the given name.
//
// If name.start is there, a router was stopped in the middle of compacting the
// log: name may then be incomplete, and name.start, the log before compaction,
// is what the router itself reads at its next start. Open opens it instead; see
// [File.Unfinished].
//
// A file that is something else, such as a message log or a compressed file, is
// ErrNotStoreLog.
func Open(name string) (*File, error) {
	f, err := logfile.Open(name + StartSuffix)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f, err = logfile.Open(name)
	case err == nil && !f.Regular():
		err = errors.Join(fmt.Errorf("%s is in the way: it is not a file", f.Name()), f.Close())
	}
	if errors.Is(err, logfile.ErrFolder) {
		err = fmt.Errorf("%w: %w", ErrNotStoreLog, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open store log: %w", err)
	}
	if err := check(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &File{File: f, asked: name}, nil
}

// Unfinished reports whether the file is the ".start" copy of the log that was
// asked for.
func (f *File) Unfinished() bool { return f.Name() != f.asked }

// check finds files that are something else.
func check(f *logfile.File) error {
	kind, err := f.Kind()
	switch {
	case err != nil:
		return fmt.Errorf("read store log: %w", err)
	case kind == logfile.MessageLog:
		return fmt.Errorf("%w: %s is %s; it belongs to a store log of the same folder", ErrNotStoreLog, f.Name(), kind)
	case kind != logfile.Unknown && kind != logfile.StoreLog:
		return fmt.Errorf("%w: %s is %s", ErrNotStoreLog, f.Name(), kind)
	}
	return nil
}
