package journal

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// Parts of paths.
const (
	parts      = 5 // folders of a path, at most
	partLength = 2 // characters of all but the last
)

// Folder returns the folder of a queue, relative to that of the journal.
func Folder(id queue.RecipientID) string {
	text := id.String()
	var path []string
	for len(path) < parts-1 && len(text) > partLength {
		path = append(path, text[:partLength])
		text = text[partLength:]
	}
	return filepath.Join(append(path, text)...)
}

// StateFile returns the name of the state file of a queue.
func StateFile(id queue.RecipientID) string { return "queue_state." + id.String() + ".log" }

// MessageFile returns the name of a message file.
func MessageFile(journal string) string { return "messages." + journal + ".log" }

// ErrChanged reports a journal that changed while it was read.
var ErrChanged = errors.New("the journal is being changed: is the router running?")

// ErrNotJournal reports something that is plainly no journal.
var ErrNotJournal = errors.New("not a journal")

// A Tree is the folder of a journal.
type Tree struct{ root string }

// Open opens the journal in the given folder.
func Open(root string) (*Tree, error) {
	info, err := os.Stat(root)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%w: %s is not a folder", ErrNotJournal, root)
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() && len(e.Name()) > partLength && e.Name() != "lost+found" { // that is of the file system
			return nil, fmt.Errorf("%w: %s has a folder %s; a journal is the folder \"messages\" of a router's state", ErrNotJournal, root, e.Name())
		}
	}
	return &Tree{root: root}, nil
}

// Name returns the folder.
func (t *Tree) Name() string { return t.root }

// A Problem is something in a journal that is not as it should be.
type Problem struct {
	File   string // or folder, relative to that of the journal
	Offset int64  // bytes of the file before the place; -1: all of it
	Reason string
	Text   []byte // the line, if it is one that cannot be read; it may hold secrets
	// Lost: messages are missing from what is read because of it. Otherwise it
	// is something that a crash leaves, and that does no harm.
	Lost bool
}

// Place returns where the problem is.
func (p Problem) Place() string {
	if p.Offset < 0 {
		return p.File
	}
	return fmt.Sprintf("%s, byte %d", p.File, p.Offset)
}

// String returns place and reason.
func (p Problem) String() string { return p.Place() + ": " + p.Reason }

// Options control the reading of a journal.
type Options struct {
	// OnProblem is called for each problem, in the order of the queues, by the
	// goroutine that reads them. If it returns an error, that is the end.
	OnProblem func(Problem) error

	// held is the number of bytes of messages up to which they are read ahead.
	// 0: defaultHeld. Tests set it.
	held int64
}

// defaultHeld is more than a queue with a full quota of messages has.
const defaultHeld = 4 << 20

// Queues iterates over the queues of the journal that have messages, by path.
// Several are read at a time. However many there are, and however many messages
// they have, memory is bounded.
//
// The journal is only read. No router must use it meanwhile: nothing in it would
// tell, but if a queue changes while it is read, that is ErrChanged.
func (t *Tree) Queues(parent context.Context, o Options) iter.Seq2[*Queue, error] {
	if o.held == 0 {
		o.held = defaultHeld
	}
	return func(yield func(*Queue, error) bool) {
		ctx, cancel := context.WithCancel(parent)
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		workers := min(max(runtime.GOMAXPROCS(0), 2), 8)
		w := walk{
			ctx:    ctx,
			root:   t.root,
			jobs:   make(chan *job),
			inLine: make(chan *job, 2*workers),
		}
		var walkErr error
		wg.Go(func() {
			defer close(w.inLine)
			defer close(w.jobs)
			walkErr = w.folder("", nil)
		})
		for range workers {
			wg.Go(func() {
				r := newReader(t.root)
				for j := range w.jobs {
					j.queue, j.err = r.open(ctx, j, o.held)
					close(j.done)
				}
			})
		}
		for j := range w.inLine {
			select {
			case <-j.done:
			case <-ctx.Done():
				yield(nil, ctx.Err())
				return
			}
			if j.err != nil {
				yield(nil, j.err)
				return
			}
			for _, p := range j.queue.problems {
				if err := o.OnProblem(p); err != nil {
					yield(nil, err)
					return
				}
			}
			j.queue.onProblem = o.OnProblem
			if len(j.queue.spans) > 0 && !yield(j.queue, nil) {
				return
			}
		}
		if walkErr != nil {
			yield(nil, walkErr)
		}
	}
}

// A job is a folder with files.
type job struct {
	folder string   // relative to the root
	files  []string // in it
	id     queue.RecipientID
	err    error
	queue  *Queue
	done   chan struct{} // closed when queue or err are set
}

// A walk goes through the tree and hands out the folders with files.
type walk struct {
	ctx    context.Context //nolint:containedctx // of one walk
	root   string
	jobs   chan *job
	inLine chan *job // the same, in order
}

// folder goes through a folder, which is the path of parts.
func (w *walk) folder(path string, names []string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(w.root, path))
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	var files, folders []string
	for _, e := range entries {
		if e.IsDir() {
			folders = append(folders, e.Name())
		} else {
			files = append(files, e.Name())
		}
	}
	if len(files) > 0 {
		if err := w.hand(path, names, files); err != nil {
			return err
		}
	}
	for _, name := range folders {
		if len(names) == parts {
			return fmt.Errorf("%w: %s has folders", ErrNotJournal, filepath.Join(w.root, path))
		}
		if err := w.folder(filepath.Join(path, name), append(slices.Clip(names), name)); err != nil {
			return err
		}
	}
	return nil
}

// hand hands out a folder with files.
func (w *walk) hand(path string, names, files []string) error {
	j := &job{folder: path, files: files, done: make(chan struct{})}
	text := strings.Join(names, "")
	id, err := base64.URLEncoding.DecodeString(text)
	if err == nil && len(id) > 0 && len(id) <= smp.MaxID {
		j.id = queue.RecipientID{EntityID: smp.NewEntityID(id)}
	}
	if Folder(j.id) != path || j.id.IsZero() {
		return fmt.Errorf("%w: %s has files (%s), but is not the folder of a queue", ErrNotJournal, filepath.Join(w.root, path), files[0])
	}
	for _, to := range []chan *job{w.inLine, w.jobs} {
		select {
		case to <- j:
		case <-w.ctx.Done():
			return w.ctx.Err()
		}
	}
	return nil
}

// look returns what a file is like. What is no file is an error.
func look(name string) (fs.FileInfo, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a file", ErrNotJournal, name)
	}
	return info, nil
}
