package storelog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// ErrNotStoreLog reports a file that is plainly something else.
var ErrNotStoreLog = errors.New("not a store log")

// A File is a store log opened for reading. It is never written to.
type File struct {
	f       *os.File
	name    string
	asked   string
	regular bool
	size    int64
	modTime time.Time
}

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
	f, err := openFile(name + StartSuffix)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f, err = openFile(name)
	case err == nil && !f.regular:
		err = errors.Join(fmt.Errorf("%s is in the way: it is not a file", f.name), f.Close())
	}
	if err != nil {
		return nil, err
	}
	f.asked = name
	if err := f.sniff(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// StartSuffix ends the name of the copy that a router keeps of a log while it
// compacts it, and which it reads instead of the log.
const StartSuffix = ".start"

func openFile(name string) (*File, error) {
	f, err := os.Open(name) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("open store log: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%w: %s is a directory", ErrNotStoreLog, name)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store log: %w", err), f.Close())
	}
	return &File{f: f, name: name, regular: info.Mode().IsRegular(), size: info.Size(), modTime: info.ModTime()}, nil
}

// Name returns the name of the file that is read.
func (f *File) Name() string { return f.name }

// Unfinished reports whether the file is the ".start" copy of the log that was
// asked for.
func (f *File) Unfinished() bool { return f.name != f.asked }

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
		return false, fmt.Errorf("look at store log: %w", err)
	}
	return f.regular && (info.Size() != f.size || !info.ModTime().Equal(f.modTime)), nil
}

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }

// reader returns a reader from the start of the file to where its end was when
// it was opened.
func (f *File) reader() io.Reader {
	if !f.regular {
		return f.f
	}
	return io.NewSectionReader(f.f, 0, f.size)
}

// foreign lists how files start that are taken for store logs by mistake.
var foreign = []struct{ start, is string }{
	{"v3 ", "a message log; it belongs to a store log of the same folder"},
	{"v1 ", "a notification log"},
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

func (f *File) sniff() error {
	if !f.regular {
		return nil
	}
	var head [64]byte
	n, err := f.f.ReadAt(head[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read store log: %w", err)
	}
	for _, k := range foreign {
		if bytes.HasPrefix(head[:n], []byte(k.start)) {
			return fmt.Errorf("%w: %s is %s", ErrNotStoreLog, f.name, k.is)
		}
	}
	return nil
}
