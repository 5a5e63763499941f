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
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	startSuffix = ".start"    // of the log that a router is compacting
	asideSuffix = ".bak"      // of what was set aside
	tempSuffix  = ".smpq-tmp" // of a log that is being written
)

// timeFormat is the form of the time in the name of a log that a router has
// compacted: UTC, without trailing zeros of the fraction. With any other form a
// router does not find the file again when it has become old enough to be
// removed, and does not start.
const timeFormat = "2006-01-02T15:04:05.999999999Z"

// A tempFile is a log that is being written. Its name is always the same, and it
// is locked: two processes do not meet, and what a killed one has left is found.
type tempFile struct {
	f    *os.File
	name string // empty: it has another name now
}

// createTemp creates the temporary file for a log, with the owner and the mode
// of the original.
func createTemp(log string, original os.FileInfo) (_ *tempFile, err error) {
	t := &tempFile{name: log + tempSuffix}
	const attempts = 10 // each fails only when another process acts in between
	for range attempts {
		t.f, err = os.OpenFile(t.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			if err := removeLeftover(t.name); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := lock(t.f); err == nil && isAt(t.f, t.name) {
			if err := t.imitate(original); err != nil {
				return nil, errors.Join(err, t.close())
			}
			return t, nil
		}
		_ = t.f.Close() // somebody took it for a leftover, and removes it
	}
	return nil, fmt.Errorf("%w: %s appears and disappears", ErrInUse, t.name)
}

// imitate gives the file the owner and the mode of the original.
func (t *tempFile) imitate(original os.FileInfo) error {
	own, err := t.f.Stat()
	if err != nil {
		return err
	}
	want, ok := original.Sys().(*syscall.Stat_t)
	have, ok2 := own.Sys().(*syscall.Stat_t)
	if ok && ok2 && (want.Uid != have.Uid || want.Gid != have.Gid) {
		if err := t.f.Chown(int(want.Uid), int(want.Gid)); err != nil {
			return fmt.Errorf("give the new log the owner of the old one, user %d and group %d (run smpq as that user or as root): %w", want.Uid, want.Gid, err)
		}
	}
	return t.f.Chmod(original.Mode().Perm())
}

// close removes the file, unless it has another name, and gives up the lock.
func (t *tempFile) close() error {
	var err error
	if t.name != "" {
		err = os.Remove(t.name)
	}
	return errors.Join(err, t.f.Close())
}

// removeLeftover removes the temporary file of a process that was killed. It is
// not written to: it may be a hard link of a log.
func removeLeftover(name string) error {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0) //nolint:gosec // beside the log that was asked for
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("in the way: %w", err)
	}
	defer f.Close() //nolint:errcheck // was only read
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return errors.Join(fmt.Errorf("%s is in the way: it is not a regular file", name), err)
	}
	if err := lock(f); err != nil {
		return err
	}
	if !isAt(f, name) {
		return nil
	}
	return os.Remove(name)
}

// lock locks a file until it is closed, or fails at once.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w: another smpq has locked %s", ErrInUse, f.Name())
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil
}

// isAt reports whether an open file is the one with the given name.
func isAt(f *os.File, name string) bool {
	open, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(name)
	return err == nil && os.SameFile(open, named)
}

// A swap puts a new log in the place of the old one. It is a sequence of steps:
// after each of them, a router and smpq find one of the two logs, whole.
type swap struct {
	name string // of the log
	temp string // of the new one
	now  time.Time
	// unfinished: the old log is name.start, and name, if it is there, is what
	// a router had written of a new one.
	unfinished bool

	original string // new name of the old log
	aside    string // new name of the unfinished one
	moved    bool   // the new log has its name
}

// run takes the steps. If one fails before the new log has its name, the old one
// is as before.
func (s *swap) run() error {
	err := s.take(s.steps(true))
	if !s.unfinished && s.original == "" && noHardLinks(err) {
		err = s.take(s.steps(false))
	}
	if err != nil && !s.moved {
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
		return []func() error{s.setAside, s.moveTemp, s.keepStart}
	case hardLinks:
		return []func() error{s.keepLink, s.moveTemp}
	}
	return []func() error{s.moveToStart, s.moveTemp, s.keepStart}
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
	err := renameNew(s.name+startSuffix, s.name)
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
	return s.durable(os.Rename(s.name, s.name+startSuffix))
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
		err := renameNew(s.name, to)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			s.aside = to
		}
		return s.durable(err)
	}
}

// moveTemp gives the new log its name. It replaces a log that has another name
// as well, or none.
func (s *swap) moveTemp() error {
	err := os.Rename(s.temp, s.name)
	s.moved = err == nil
	return s.durable(err)
}

// keepStart gives name.start the name of a compacted log.
func (s *swap) keepStart() (err error) {
	s.original, err = s.keep(renameNew, s.name+startSuffix)
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

// renameNew renames a file, unless there is one of the new name.
func renameNew(from, to string) error {
	if _, err := os.Lstat(to); err == nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: fs.ErrExist}
	}
	return os.Rename(from, to)
}

// durable brings the names in the folder to the disk, if err is nil.
func (s *swap) durable(err error) error {
	if err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(s.name))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
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
