package atomicfile

import (
	"errors"
	"io/fs"
	"os"
)

// Content is a file that is to be made.
type Content struct {
	Name string
	Mode fs.FileMode
	Data []byte
}

// PlaceAll makes files, all or none: they get their names when all of them are
// complete and on the disk, one after the other in the given order. If one fails,
// those before it are removed. If there is a file of one of the names, it changes
// nothing, and the error is fs.ErrExist.
//
// What a process leaves that is killed meanwhile is temporary files, or the first
// files of the order: the last file is there only if all are.
func PlaceAll(files []Content) (err error) {
	made := make([]*File, 0, len(files))
	defer func() {
		for _, f := range made {
			err = errors.Join(err, f.Close())
		}
	}()
	for _, c := range files {
		if _, err := os.Lstat(c.Name); err == nil {
			return &fs.PathError{Op: "create", Path: c.Name, Err: fs.ErrExist}
		}
		f, err := Create(c.Name)
		if err != nil {
			return err
		}
		made = append(made, f)
		if err := f.fill(c); err != nil {
			return err
		}
	}
	return place(made)
}

// fill writes the content of a file and brings it to the disk.
func (a *File) fill(c Content) error {
	if _, err := a.Write(c.Data); err != nil {
		return err
	}
	return errors.Join(a.Chmod(c.Mode), a.Sync())
}

// place gives files their names, or none of them.
func place(files []*File) (err error) {
	for _, f := range files {
		if err = f.Place(); err != nil {
			break
		}
	}
	for _, f := range files {
		if err != nil && f.placed {
			err = errors.Join(err, os.Remove(f.name))
		}
	}
	return err
}
