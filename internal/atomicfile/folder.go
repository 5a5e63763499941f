package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A Folder is a folder that is being filled. Like a [File], it has a temporary
// name until it is complete, and is locked.
type Folder struct {
	dir     *os.File
	name    string // where it goes
	placed  bool
	removed bool // there was one that a killed process had left
}

// CreateFolder creates the temporary folder for name, with mode 0700.
func CreateFolder(name string) (*Folder, error) {
	f := &Folder{name: name}
	err := os.Mkdir(f.Temp(), 0o700)
	if errors.Is(err, fs.ErrExist) {
		if err := f.removeLeftover(); err != nil {
			return nil, err
		}
		err = os.Mkdir(f.Temp(), 0o700)
	}
	if err != nil {
		return nil, err
	}
	if f.dir, err = lockFolder(f.Temp()); err != nil {
		return nil, err
	}
	return f, nil
}

// removeLeftover removes what a killed process has left.
func (f *Folder) removeLeftover() error {
	dir, err := lockFolder(f.Temp())
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // was only read
	f.removed = true
	return os.RemoveAll(f.Temp())
}

// lockFolder opens a folder and locks it.
func lockFolder(name string) (*os.File, error) {
	dir, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0) //nolint:gosec // beside the folder that was asked for
	if err != nil {
		return nil, fmt.Errorf("in the way: %w", err)
	}
	if err := lock(dir); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}

// Temp returns the temporary name.
func (f *Folder) Temp() string { return f.name + Suffix }

// Removed reports whether a killed process had left a temporary folder, which is
// gone.
func (f *Folder) Removed() bool { return f.removed }

// Sync brings all that is in the folder to the disk, with whatever else is on the
// same file system: for many small files, that is much quicker than one by one.
func (f *Folder) Sync() error {
	if err := unix.Syncfs(int(f.dir.Fd())); err != nil {
		return &os.PathError{Op: "sync", Path: f.Temp(), Err: err}
	}
	return nil
}

// Place gives the folder its name, unless there is something of that name: then
// it changes nothing, and the error is fs.ErrExist. Call Sync before.
func (f *Folder) Place() error {
	if err := RenameNew(f.Temp(), f.name); err != nil {
		return err
	}
	f.placed = true
	return SyncFolder(filepath.Dir(f.name))
}

// Close removes the folder, unless it has its name, and gives up the lock.
func (f *Folder) Close() error {
	var err error
	if !f.placed {
		err = os.RemoveAll(f.Temp())
	}
	return errors.Join(err, f.dir.Close())
}
