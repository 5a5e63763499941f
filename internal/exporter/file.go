package exporter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/smpq/smpq/internal/store"
)

// Why a file is not written.
var (
	// ErrExists: there is a file of this name, and it was not said to replace it.
	ErrExists = errors.New("file exists")
	// ErrBusy: another export writes the file.
	ErrBusy = errors.New("another export is running")
)

// StoreLogFile is [StoreLog] into a file. The file appears under its name when it
// is complete and on the disk, with mode 0600; until then it has the suffix
// ".smpq-tmp", and if the export fails, or is cancelled, nothing is left of it.
//
// A file that is there is replaced only with Options.Force; the new one then gets
// its owner, if the process may do that. If name.start is there, smp-server would
// read that instead of the file: that needs Options.Force as well.
func StoreLogFile(ctx context.Context, conn *pgx.Conn, s store.Schema, name string, o Options) (Summary, error) {
	var sum Summary
	a, err := createAtomic(name, o.Force)
	if err != nil {
		return sum, fmt.Errorf("export to %s: %w", name, err)
	}
	sum, err = StoreLog(ctx, conn, s, a.f, o)
	sum.File, sum.Replaced, sum.Shadow, sum.Removed = a.name, a.replaces, a.shadow, a.removed
	if err == nil {
		err = a.commit()
	}
	if err = errors.Join(err, a.close()); err != nil {
		return sum, fmt.Errorf("export to %s: %w", name, err)
	}
	return sum, nil
}

const (
	tempSuffix  = ".smpq-tmp"
	startSuffix = ".start" // the log that smp-server is compacting
)

// An atomicFile is a file that gets its name when it is complete. Until then it
// has a temporary name next to it, always the same, and is locked: two exports
// do not meet, and what a killed one has left is found.
type atomicFile struct {
	f        *os.File
	name     string // where it goes
	temp     string // where it is; empty: nowhere any more
	force    bool
	replaces bool   // there is a file of that name
	shadow   string // there is a file that smp-server reads instead
	removed  string // what a killed export had left
}

func createAtomic(name string, force bool) (*atomicFile, error) {
	a := &atomicFile{name: name, force: force}
	if err := a.checkTarget(); err != nil {
		return nil, err
	}
	a.temp = a.name + tempSuffix
	const attempts = 10 // each fails only when another process acts in between
	for range attempts {
		done, err := a.openTemp()
		if err != nil {
			return nil, err
		}
		if done {
			return a, a.keepOwner()
		}
	}
	return nil, fmt.Errorf("%w: %s appears and disappears", ErrBusy, a.temp)
}

// checkTarget looks at what is there under the name.
func (a *atomicFile) checkTarget() error {
	if a.name == "" {
		return errors.New("the name of the file is empty")
	}
	info, err := os.Lstat(a.name)
	if err == nil && a.force && info.Mode()&fs.ModeSymlink != 0 {
		// Replace what the link leads to, not the link.
		if a.name, err = filepath.EvalSymlinks(a.name); err != nil {
			return err
		}
		info, err = os.Lstat(a.name)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case info.IsDir():
		return errors.New("it is a folder: name a file in it")
	case !a.force:
		return fmt.Errorf("%w: say --force to replace it", ErrExists)
	case !info.Mode().IsRegular():
		return errors.New("it is not a regular file: write to standard output instead, with -")
	default:
		a.replaces = true
	}
	if _, err := os.Lstat(a.name + startSuffix); err == nil {
		a.shadow = a.name + startSuffix
		if !a.force {
			return fmt.Errorf("%w: %s, which smp-server left when it was stopped while it compacted a log, and which it reads instead of the log: move it away, or say --force",
				ErrExists, a.shadow)
		}
	}
	return nil
}

// openTemp makes the temporary file and locks it. It returns false if it has to
// be tried again.
func (a *atomicFile) openTemp() (done bool, err error) {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	f, err := os.OpenFile(a.temp, flags, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return false, a.removeLeftover()
	}
	if err != nil {
		return false, err
	}
	if err := lock(f); err != nil {
		_ = f.Close()
		if errors.Is(err, ErrBusy) {
			return false, nil // somebody took it for a leftover, and removes it
		}
		return false, errors.Join(err, os.Remove(a.temp))
	}
	if !isAt(f, a.temp) {
		return false, f.Close()
	}
	a.f = f
	return true, nil
}

// removeLeftover removes the temporary file of an export that was killed. It is
// not written to: the kill may have come when it had its final name as well.
func (a *atomicFile) removeLeftover() error {
	f, err := os.OpenFile(a.temp, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("in the way: %w", err)
	}
	defer f.Close() //nolint:errcheck // was only read
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return errors.Join(fmt.Errorf("%s is in the way: it is not a regular file", a.temp), err)
	}
	if err := lock(f); err != nil {
		return err
	}
	if !isAt(f, a.temp) {
		return nil
	}
	if err := os.Remove(a.temp); err != nil {
		return err
	}
	a.removed = a.temp
	return nil
}

// keepOwner gives the file the owner of the one that it replaces.
func (a *atomicFile) keepOwner() error {
	if !a.replaces {
		return nil
	}
	info, err := os.Stat(a.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		err = a.f.Chown(int(st.Uid), int(st.Gid))
		if errors.Is(err, fs.ErrPermission) {
			return nil // then it belongs to who runs the export
		}
	}
	if err != nil {
		return errors.Join(err, a.close())
	}
	return nil
}

// commit brings the file to the disk and gives it its name.
func (a *atomicFile) commit() error {
	if err := a.f.Sync(); err != nil {
		return err
	}
	if err := a.rename(); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(a.name))
}

func (a *atomicFile) rename() error {
	if a.force {
		if err := os.Rename(a.temp, a.name); err != nil {
			return err
		}
		a.temp = ""
		return nil
	}
	// Unlike rename, link fails if meanwhile there is a file of that name.
	switch err := os.Link(a.temp, a.name); {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%w: it was made during the export", ErrExists)
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, fs.ErrPermission):
		// A file system without hard links.
		if err := unix.Renameat2(unix.AT_FDCWD, a.temp, unix.AT_FDCWD, a.name, unix.RENAME_NOREPLACE); err != nil {
			return &os.LinkError{Op: "rename", Old: a.temp, New: a.name, Err: err}
		}
		a.temp = ""
	case err != nil:
		return err
	default:
		if err := os.Remove(a.temp); err != nil {
			return err
		}
		a.temp = ""
	}
	return nil
}

// close removes the temporary file, if it is still there, and gives up the lock.
func (a *atomicFile) close() error {
	var err error
	if a.temp != "" {
		err = os.Remove(a.temp)
	}
	return errors.Join(err, a.f.Close())
}

// lock locks a file until it is closed, or fails at once.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w: it has locked %s", ErrBusy, f.Name())
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

func syncFolder(name string) error {
	f, err := os.Open(name) //nolint:gosec // the folder of the file that was asked for
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
