package exporter

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/atomicfile"
	"github.com/smpq/smpq/internal/journal"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/store"
)

// Journal writes a journal with the messages of the live queues. But for the
// names of message files, which are random, it is what smp-server makes of a
// message log with the same messages.
//
// The folder must not be there. It appears when it is complete and on the disk;
// until then it has the suffix ".smpq-tmp", and if the export fails, or is
// cancelled, nothing is left of it. All of it comes from one snapshot.
func Journal(ctx context.Context, conn *pgx.Conn, s store.Schema, folder string, o Options) (MessageSummary, error) {
	sum, err := exportJournal(ctx, conn, s, folder, o)
	return sum, failed(folder, err)
}

func exportJournal(ctx context.Context, conn *pgx.Conn, s store.Schema, folder string, o Options) (sum MessageSummary, err error) {
	f, err := createFolder(folder)
	if err != nil {
		return sum, err
	}
	t := journalTarget(folder, f)
	defer func() { err = errors.Join(err, t.close()) }()
	err = store.Snapshot(ctx, conn, func(q store.Querier) (err error) {
		sum, err = writeMessages(ctx, q, s, t.writer, o)
		return err
	})
	w := t.written()
	sum.File, sum.Removed = w.name, w.removed
	if err != nil {
		return sum, err
	}
	return sum, t.place()
}

// createFolder creates a folder that gets its name when it is complete.
func createFolder(name string) (*atomicfile.Folder, error) {
	name = filepath.Clean(name)
	if _, err := os.Lstat(name); err == nil {
		return nil, fmt.Errorf("%w: a journal is never replaced; move it away", ErrExists)
	}
	f, err := atomicfile.CreateFolder(name)
	if errors.Is(err, atomicfile.ErrLocked) {
		err = fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return f, err
}

// placeFolder brings the folder to the disk and gives it its name.
func placeFolder(f *atomicfile.Folder) error {
	if err := f.Sync(); err != nil {
		return err
	}
	err := f.Place()
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: it was made during the export", ErrExists)
	}
	return err
}

// maxFile is how many messages smp-server puts into a message file before it
// starts the second one, which then takes all others.
const maxFile = 256

// A journalWriter writes a journal, one queue after the other.
type journalWriter struct {
	root  string
	bytes int64
	buf   []byte
	out   *bufio.Writer

	// The present queue.
	id    queue.RecipientID
	open  bool // whether it still takes messages from its sender
	file  *os.File
	state [2]journal.Position // of its message files; the second one may be empty
}

func newJournalWriter(root string) *journalWriter {
	return &journalWriter{root: root, out: bufio.NewWriterSize(nil, bufferSize)}
}

func (w *journalWriter) write(m *store.StoredMessage) error {
	if m.Queue != w.id {
		if err := w.endQueue(); err != nil {
			return err
		}
		if err := w.startQueue(m); err != nil {
			return err
		}
	}
	p := &w.state[0]
	if p.Count == maxFile {
		p = &w.state[1]
		if p.Count == 0 {
			if err := w.nextFile(p); err != nil {
				return err
			}
		}
	}
	w.buf, _ = m.Message.AppendText(w.buf[:0])
	w.buf = append(w.buf, '\n')
	if _, err := w.out.Write(w.buf); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	p.Count++
	p.Bytes += int64(len(w.buf))
	w.bytes += int64(len(w.buf))
	return nil
}

func (w *journalWriter) startQueue(m *store.StoredMessage) error {
	w.id, w.open, w.state = m.Queue, m.CanWrite, [2]journal.Position{}
	if err := os.MkdirAll(filepath.Join(w.root, journal.Folder(w.id)), 0o700); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return w.nextFile(&w.state[0])
}

// nextFile starts a message file of the present queue.
func (w *journalWriter) nextFile(p *journal.Position) error {
	if err := w.endFile(); err != nil {
		return err
	}
	var name [12]byte
	if _, err := rand.Read(name[:]); err != nil {
		return fmt.Errorf("name a message file: %w", err)
	}
	p.Journal = base64.URLEncoding.EncodeToString(name[:])
	var err error
	if w.file, err = w.create(journal.MessageFile(p.Journal)); err != nil {
		return err
	}
	w.out.Reset(w.file)
	return nil
}

// create creates a file in the folder of the present queue.
func (w *journalWriter) create(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(w.root, journal.Folder(w.id), name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // in the folder that was asked for
	if err != nil {
		return nil, fmt.Errorf("write journal: %w", err)
	}
	return f, nil
}

// endFile completes the present message file, if there is one.
func (w *journalWriter) endFile() error {
	if w.file == nil {
		return nil
	}
	err := errors.Join(w.out.Flush(), w.file.Close())
	w.file = nil
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// endQueue completes the present queue, if there is one.
func (w *journalWriter) endQueue() error {
	if err := w.endFile(); err != nil || w.id.IsZero() {
		return err
	}
	s := journal.State{Read: w.state[0], Write: w.state[0], CanWrite: w.open, Size: w.state[0].Count + w.state[1].Count}
	if w.state[1].Count > 0 {
		s.Write = w.state[1]
	}
	s.Write.Messages, s.Write.Byte = s.Write.Count, s.Write.Bytes
	w.buf = s.Append(w.buf[:0])
	f, err := w.create(journal.StateFile(w.id))
	if err != nil {
		return err
	}
	_, err = f.Write(w.buf)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	w.bytes += int64(len(w.buf))
	return nil
}

func (w *journalWriter) end() (int64, error) {
	err := w.endQueue()
	return w.bytes, err
}

// close closes the file that an error has left open.
func (w *journalWriter) close() error {
	if w.file == nil {
		return nil
	}
	return w.file.Close()
}
