// Package logfile reads the text files of a router: it opens them for reading
// only, tells them from other files by how they start, and splits them into lines
// in constant memory. What the lines mean is the business of the package of each
// format.
package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// A File is a file opened for reading. It is never written to.
type File struct {
	f       *os.File
	name    string
	regular bool
	size    int64
	modTime time.Time
}

// ErrFolder reports a folder where a file should be.
var ErrFolder = errors.New("is a directory")

// Open opens a file, or what else can be read from, such as a pipe.
func Open(name string) (*File, error) {
	f, err := os.Open(name) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = &fs.PathError{Op: "open", Path: name, Err: ErrFolder}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &File{f: f, name: name, regular: info.Mode().IsRegular(), size: info.Size(), modTime: info.ModTime()}, nil
}

// Name returns the name of the file.
func (f *File) Name() string { return f.name }

// Regular reports whether it is a file, and not a pipe or the like.
func (f *File) Regular() bool { return f.regular }

// Size returns the length of the file in bytes when it was opened: what is read
// ends there. It is 0 for a pipe.
func (f *File) Size() int64 {
	if !f.regular {
		return 0
	}
	return f.size
}

// Changed reports whether the file was written to since it was opened.
func (f *File) Changed() (bool, error) {
	info, err := f.f.Stat()
	if err != nil {
		return false, fmt.Errorf("look at the file again: %w", err)
	}
	return f.regular && (info.Size() != f.size || !info.ModTime().Equal(f.modTime)), nil
}

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }

// Reader returns a reader from the start of the file to where its end was when it
// was opened, which is an [*io.SectionReader]; of a pipe, the pipe.
func (f *File) Reader() io.Reader {
	if !f.regular {
		return f.f
	}
	return io.NewSectionReader(f.f, 0, f.size)
}

// A Kind says in words what a file is.
type Kind string

// Kinds of files that are taken for each other by mistake.
const (
	Unknown         Kind = ""
	StoreLog        Kind = "a store log"
	MessageLog      Kind = "a message log"
	NotificationLog Kind = "a notification log"
)

// starts lists how files start.
var starts = []struct {
	start string
	is    Kind
}{
	{"CREATE rid=", StoreLog},
	{"NEW_SERVICE service_id=", StoreLog},
	{"v3 ", MessageLog},
	{"v1 ", NotificationLog},
	{"\x1f\x8b", "compressed with gzip; decompress it first"},
	{"\x28\xb5\x2f\xfd", "compressed with zstd; decompress it first"},
	{"\xfd7zXZ", "compressed with xz; decompress it first"},
	{"PK\x03\x04", "a zip file"},
	{"SQLite format 3\x00", "an SQLite database"},
	{"PGDMP", "a PostgreSQL dump"},
	{"write=", "the state file of a journal"},
	{"[STORE_LOG]", "the configuration of a router"},
	{"\x7fELF", "a program"},
}

// Kind returns what the file plainly is, by how it starts. A pipe is not looked
// into.
func (f *File) Kind() (Kind, error) {
	if !f.regular {
		return Unknown, nil
	}
	var head [64]byte
	n, err := f.f.ReadAt(head[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Unknown, err
	}
	for _, k := range starts {
		if bytes.HasPrefix(head[:n], []byte(k.start)) {
			return k.is, nil
		}
	}
	return Unknown, nil
}
