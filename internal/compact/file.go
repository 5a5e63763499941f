package compact

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/smpq/smpq/internal/atomicfile"
	"github.com/smpq/smpq/internal/storelog"
)

// asideSuffix ends the name of what was set aside.
const asideSuffix = ".bak"

// timeFormat is the form of the time in the name of a log that a router has
// compacted: UTC, without trailing zeros of the fraction. With any other form a
// router does not find the file again when it has become old enough to be
// removed, and does not start.
const timeFormat = "2006-01-02T15:04:05.999999999Z"

// createTemp creates the file for the new log, with the owner and the mode of the
// original.
func createTemp(log string, original os.FileInfo) (*atomicfile.File, error) {
	f, err := atomicfile.Create(log)
	if errors.Is(err, atomicfile.ErrLocked) {
		return nil, fmt.Errorf("%w: %w", ErrInUse, err)
	}
	if err != nil {
		return nil, err
	}
	if err := f.ChownLike(original); err != nil {
		err = fmt.Errorf("give the new log the owner of the old one (run smpq as its owner or as root): %w", err)
		return nil, errors.Join(err, f.Close())
	}
	if err := f.Chmod(original.Mode().Perm()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// A swap puts a new log in the place of the old one. It is a sequence of steps:
// after each of them, a router and smpq find one of the two logs, whole.
type swap struct {
	name string // of the log
	file *atomicfile.File
	now  time.Time
	// unfinished: the old log is name.start, and name, if it is there, is what
	// a router had written of a new one.
	unfinished bool

	original string // new name of the old log
	aside    string // new name of the unfinished one
}

// run takes the steps. If one fails before the new log has its name, the old one
// is as before.
func (s *swap) run() error {
	err := s.take(s.steps(true))
	if !s.unfinished && s.original == "" && noHardLinks(err) {
		err = s.take(s.steps(false))
	}
	if err != nil && !s.file.Placed() {
		err = errors.Join(err, s.undo())
	}
	if err != nil {
		return fmt.Errorf("put the new log in place: %w", err)
	}
	return nil
}

// steps returns the steps. Without hard links they are those of a router.
func (s *swap) steps(hardLinks bool) []func() error {
	switch {
	case s.unfinished:
		return []func() error{s.setAside, s.file.Replace, s.keepStart}
	case hardLinks:
		// The new log replaces one that has another name as well.
		return []func() error{s.keepLink, s.file.Replace}
	}
	return []func() error{s.moveToStart, s.file.Replace, s.keepStart}
}

func (s *swap) take(steps []func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// undo gives the old log its only name back.
func (s *swap) undo() error {
	if s.original != "" {
		name := s.original
		s.original = ""
		return os.Remove(name)
	}
	if s.unfinished {
		return nil
	}
	err := atomicfile.RenameNew(s.name+storelog.StartSuffix, s.name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) {
		return nil // it has not been moved
	}
	return err
}

// keepLink gives the old log a second name.
func (s *swap) keepLink() (err error) {
	s.original, err = s.keep(os.Link, s.name)
	return err
}

// moveToStart does what a router does in the place of keepLink.
func (s *swap) moveToStart() error {
	return s.durable(os.Rename(s.name, s.name+storelog.StartSuffix))
}

// setAside moves an incomplete log out of the way.
func (s *swap) setAside() error {
	if _, err := os.Lstat(s.name); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for n := 0; ; n++ {
		to := s.name + asideSuffix
		if n > 0 {
			to += "." + strconv.Itoa(n)
		}
		err := atomicfile.RenameNew(s.name, to)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			s.aside = to
		}
		return s.durable(err)
	}
}

// keepStart gives name.start the name of a compacted log.
func (s *swap) keepStart() (err error) {
	s.original, err = s.keep(atomicfile.RenameNew, s.name+storelog.StartSuffix)
	return err
}

// keep gives a file the name of a compacted log by link or rename.
func (s *swap) keep(give func(from, to string) error, from string) (string, error) {
	for at := s.now.UTC(); ; at = at.Add(time.Nanosecond) {
		to := s.name + "." + at.Format(timeFormat)
		err := give(from, to)
		switch {
		case errors.Is(err, fs.ErrExist):
			continue
		case err != nil:
			return "", err
		}
		return to, s.durable(nil)
	}
}

// durable brings the names in the folder to the disk, if err is nil.
func (s *swap) durable(err error) error {
	if err != nil {
		return err
	}
	return atomicfile.SyncFolder(filepath.Dir(s.name))
}

// noHardLinks reports whether a file system has refused to make a hard link
// because it has none.
func noHardLinks(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.EPERM)
}

// sameContent reports whether two files have the same content.
func sameContent(a, b string) (bool, error) {
	files := make([]io.Reader, 2)
	var size int64
	for i, name := range []string{a, b} {
		f, err := os.Open(name) //nolint:gosec // the log and its new form
		if err != nil {
			return false, err
		}
		defer f.Close() //nolint:errcheck // is only read
		info, err := f.Stat()
		if err != nil {
			return false, err
		}
		if i == 1 && info.Size() != size {
			return false, nil
		}
		size, files[i] = info.Size(), f
	}
	const block = 1 << 16
	one, other := make([]byte, block), make([]byte, block)
	for {
		n, err := io.ReadFull(files[0], one)
		m, err2 := io.ReadFull(files[1], other)
		switch {
		case !bytes.Equal(one[:n], other[:m]):
			return false, nil
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return true, nil
		case err != nil || err2 != nil:
			return false, errors.Join(err, err2)
		}
	}
}

// checkWriters refuses a file that a process has open for writing, as far as the
// system tells: it does so to the owner of the file and to root.
func checkWriters(name string) error {
	f, err := os.Open(name) //nolint:gosec // the log that was asked for
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // is only looked at
	// A read lease can be had only while nobody writes. It is given back at once.
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return fmt.Errorf("%w: a process has %s open for writing: stop the router first", ErrInUse, name)
	case err != nil:
		return nil // this system, or this file system, does not tell
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
		return fmt.Errorf("look who uses %s: %w", name, err)
	}
	return nil
}
