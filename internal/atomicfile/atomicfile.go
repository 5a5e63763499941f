// Package atomicfile makes files that are complete from the moment they are
// there, and renames files without overwriting others.
//
// Until it is complete, a file is name.smpq-tmp, beside the place where it goes.
// The temporary name is always the same, and the file is locked: two processes do
// not meet, and what a killed one has left is found and removed.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Suffix ends the temporary name of a file.
const Suffix = ".smpq-tmp"

// ErrLocked reports a file that another process is writing.
var ErrLocked = errors.New("another smpq has locked")

// A File is a file that is being written.
type File struct {
	f       *os.File
	name    string // where it goes
	placed  bool   // it has its name, and its temporary name no more
	removed bool   // there was one that a killed process had left
}

// Create creates the temporary file for name, with mode 0600.
func Create(name string) (*File, error) {
	a := &File{name: name}
	const attempts = 10 // each fails only when another process acts in between
	for range attempts {
		done, err := a.open()
		if err != nil {
			return nil, err
		}
		if done {
			return a, nil
		}
	}
	return nil, fmt.Errorf("%w %s again and again", ErrLocked, a.Temp())
}

// open makes the temporary file and locks it. It returns false if it has to be
// tried again.
func (a *File) open() (done bool, err error) {
	f, err := os.OpenFile(a.Temp(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		removed, err := removeLeftover(a.Temp())
		a.removed = a.removed || removed
		return false, err
	}
	if err != nil {
		return false, err
	}
	err = lock(f)
	switch {
	case errors.Is(err, ErrLocked):
		return false, f.Close() // somebody takes it for a leftover, and removes it
	case err != nil:
		return false, errors.Join(err, os.Remove(a.Temp()), f.Close())
	case !isAt(f, a.Temp()):
		return false, f.Close() // somebody has removed it
	}
	a.f = f
	return true, nil
}

// Temp returns the temporary name.
func (a *File) Temp() string { return a.name + Suffix }

// Removed reports whether a killed process had left a temporary file, which is
// gone.
func (a *File) Removed() bool { return a.removed }

// Placed reports whether the file has its name.
func (a *File) Placed() bool { return a.placed }

// Write writes to the file.
func (a *File) Write(p []byte) (int, error) { return a.f.Write(p) }

// Chmod sets the permissions of the file.
func (a *File) Chmod(mode fs.FileMode) error { return a.f.Chmod(mode) }

// ChownLike gives the file the owner and the group of another. Where the process
// may not do that, the error is fs.ErrPermission.
func (a *File) ChownLike(other fs.FileInfo) error {
	own, err := a.f.Stat()
	if err != nil {
		return err
	}
	want, ok := other.Sys().(*syscall.Stat_t)
	have, ok2 := own.Sys().(*syscall.Stat_t)
	if !ok || !ok2 || want.Uid == have.Uid && want.Gid == have.Gid {
		return nil
	}
	return a.f.Chown(int(want.Uid), int(want.Gid))
}

// Sync brings the content of the file to the disk.
func (a *File) Sync() error { return a.f.Sync() }

// Replace gives the file its name, in the place of a file that has it, and brings
// the name to the disk. Call Sync before.
func (a *File) Replace() error {
	if err := os.Rename(a.Temp(), a.name); err != nil {
		return err
	}
	a.placed = true
	return SyncFolder(filepath.Dir(a.name))
}

// Place is Replace, unless there is a file of the name: then it changes nothing,
// and the error is fs.ErrExist.
func (a *File) Place() error {
	if err := RenameNew(a.Temp(), a.name); err != nil {
		return err
	}
	a.placed = true
	return SyncFolder(filepath.Dir(a.name))
}

// Close removes the file, unless it has its name, and gives up the lock.
func (a *File) Close() error {
	var err error
	if !a.placed {
		err = os.Remove(a.Temp())
	}
	return errors.Join(err, a.f.Close())
}

// removeLeftover removes the temporary file of a process that was killed. It is
// not written to: the kill may have come when it had its final name as well.
func removeLeftover(name string) (removed bool, err error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0) //nolint:gosec // beside the file that was asked for
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("in the way: %w", err)
	}
	defer f.Close() //nolint:errcheck // was only read
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return false, errors.Join(fmt.Errorf("%s is in the way: it is not a regular file", name), err)
	}
	if err := lock(f); err != nil {
		return false, err
	}
	if !isAt(f, name) {
		return false, nil
	}
	return true, os.Remove(name)
}

// lock locks a file until it is closed, or fails at once.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w %s", ErrLocked, f.Name())
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

// RenameNew renames a file, unless there is one of the new name: then the error
// is fs.ErrExist. The new name must be on the same file system.
func RenameNew(from, to string) error {
	return tryRenames(from, to, renameNoReplace, linkAndRemove, lookAndRename)
}

// tryRenames renames a file in the first way that its file system has.
func tryRenames(from, to string, ways ...func(from, to string) error) error {
	var err error
	for _, rename := range ways {
		if err = rename(from, to); !unsupported(err) {
			break
		}
	}
	return err
}

// unsupported reports whether a file system does not have what it was asked for.
// EPERM is for hard links that it has not, or denies to all but the owner of the
// file; where the permission for a folder is missing, it is EACCES.
func unsupported(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM)
}

// renameNoReplace is one step.
func renameNoReplace(from, to string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// linkAndRemove is two steps: between them, the file has both names.
func linkAndRemove(from, to string) error {
	if err := os.Link(from, to); err != nil {
		return err
	}
	return os.Remove(from)
}

// lookAndRename overwrites a file that is made between its two steps.
func lookAndRename(from, to string) error {
	if _, err := os.Lstat(to); err == nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: fs.ErrExist}
	}
	return os.Rename(from, to)
}

// AsideSuffix ends the second name that [SetAside] gives a file.
const AsideSuffix = ".bak"

// SetAside gives a file that was read a second name, in the place of a file that has it.
// So the file is there under its own name until its successor takes its place. Where a
// file can have but one name, it loses its own.
func SetAside(name string) error {
	other := name + AsideSuffix
	if err := os.Remove(other); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if os.Link(name, other) == nil {
		return nil
	}
	return os.Rename(name, other)
}

// SyncFolder brings the names in a folder to the disk.
func SyncFolder(name string) error {
	folder, err := os.Open(name) //nolint:gosec // the folder of a file that was asked for
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
