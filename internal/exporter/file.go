package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/atomicfile"
	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/storelog"
)

// Why a file is not written.
var (
	// ErrExists: there is a file of this name, and it was not said to replace it.
	ErrExists = errors.New("file exists")
	// ErrBusy: another export writes the file.
	ErrBusy = errors.New("the file is being written")
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
	w, err := toFile(name, storelog.StartSuffix, o, func(w io.Writer) (err error) {
		sum, err = StoreLog(ctx, conn, s, w, o)
		return err
	})
	sum.File, sum.Replaced, sum.Shadow, sum.Removed = w.name, w.replaced, w.shadow, w.removed
	return sum, err
}

// MessageLogFile is [MessageLog] into a file, as [StoreLogFile] is of [StoreLog].
func MessageLogFile(ctx context.Context, conn *pgx.Conn, s store.Schema, name string, o Options) (MessageSummary, error) {
	var sum MessageSummary
	w, err := toFile(name, "", o, func(w io.Writer) (err error) {
		sum, err = MessageLog(ctx, conn, s, w, o)
		return err
	})
	sum.File, sum.Replaced, sum.Removed = w.name, w.replaced, w.removed
	return sum, err
}

// A written says what became of a file.
type written struct {
	name     string
	replaced bool   // there was a file, which is gone
	removed  string // the unfinished file of an export that was killed, which is gone
	shadow   string // a file that smp-server reads instead
}

// toFile writes a file that is there when it is complete. smp-server reads a file
// with the suffix shadow instead, if there is one.
func toFile(name, shadow string, o Options, write func(io.Writer) error) (written, error) {
	f, err := create(name, shadow, o)
	if err != nil {
		return written{}, failed(name, err)
	}
	err = write(f)
	if err == nil {
		err = f.place()
	}
	return f.written(), failed(name, errors.Join(err, f.Close()))
}

func failed(name string, err error) error {
	if err != nil {
		return fmt.Errorf("export to %s: %w", name, err)
	}
	return nil
}

// A newFile is a file that is being written.
type newFile struct {
	*atomicfile.File
	target *target
}

// create creates a file. The caller closes it.
func create(name, shadow string, o Options) (*newFile, error) {
	t, err := newTarget(name, shadow, o.Force)
	if err != nil {
		return nil, err
	}
	f, err := t.create()
	if err != nil {
		return nil, err
	}
	return &newFile{f, t}, nil
}

func (f *newFile) place() error { return f.target.commit(f.File) }

func (f *newFile) written() written {
	w := written{name: f.target.name, replaced: f.target.replaces != nil, shadow: f.target.shadow}
	if f.Removed() {
		w.removed = f.Temp()
	}
	return w
}

// A target is the file to export to.
type target struct {
	name     string // without symbolic links, if it is to be replaced
	force    bool
	replaces fs.FileInfo // the file of that name, nil if there is none
	shadow   string      // a file that smp-server reads instead, "" if there is none
}

// newTarget looks at what is there under the name, and with the suffix shadow, if
// that is not empty.
func newTarget(name, shadow string, force bool) (*target, error) {
	t := &target{name: name, force: force}
	if name == "" {
		return nil, errors.New("the name of the file is empty")
	}
	info, err := os.Lstat(name)
	if err == nil && force && info.Mode()&fs.ModeSymlink != 0 {
		// Replace what the link leads to, not the link.
		if info, err = os.Stat(name); err == nil && info.Mode().IsRegular() {
			t.name, err = filepath.EvalSymlinks(name)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, errors.New("it is a folder: name a file in it")
	case !force:
		return nil, fmt.Errorf("%w: say --force to replace it", ErrExists)
	case !info.Mode().IsRegular():
		return nil, errors.New("it is not a regular file: write to standard output instead, with -")
	default:
		t.replaces = info
	}
	if shadow == "" {
		return t, nil
	}
	if _, err := os.Lstat(t.name + shadow); err == nil {
		t.shadow = t.name + shadow
		if !force {
			return nil, fmt.Errorf("%w: %s, which smp-server left when it was stopped while it compacted a log, and which it reads instead of the log: move it away, or say --force",
				ErrExists, t.shadow)
		}
	}
	return t, nil
}

// create creates the new file.
func (t *target) create() (*atomicfile.File, error) {
	f, err := atomicfile.Create(t.name)
	if errors.Is(err, atomicfile.ErrLocked) {
		return nil, fmt.Errorf("%w: %w", ErrBusy, err)
	}
	if err != nil || t.replaces == nil {
		return f, err
	}
	// Without permission it belongs to who runs the export.
	if err := f.ChownLike(t.replaces); err != nil && !errors.Is(err, fs.ErrPermission) {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// commit brings the file to the disk and gives it its name.
func (t *target) commit(f *atomicfile.File) error {
	if err := f.Sync(); err != nil {
		return err
	}
	if t.force {
		return f.Replace()
	}
	err := f.Place()
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: it was made during the export", ErrExists)
	}
	return err
}
