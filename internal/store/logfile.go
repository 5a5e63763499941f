package store

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/smpq/smpq/internal/storelog"
)

// A logFile is a store log that is written beside the database. The database is
// the truth: what fails here is counted, and changes nothing for anybody.
//
// The records of one queue are in the order of their commits. Those of different
// queues need not be.
type logFile struct {
	failures atomic.Int64

	mu  sync.Mutex // guards the rest
	f   *os.File
	buf []byte
	cut bool // the last record was written in part
}

// openLogFile opens a log for appending, or makes it.
func openLogFile(name string) (*logFile, error) {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("open store log: %w", err)
	}
	return &logFile{f: f}, nil
}

// add appends a record.
func (l *logFile) add(r storelog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = l.buf[:0]
	if l.cut {
		// The next record gets a line of its own.
		l.buf = append(l.buf, '\n')
	}
	l.buf = storelog.Append(l.buf, r)
	n, err := l.f.Write(l.buf)
	if n > 0 {
		l.cut = n < len(l.buf)
	}
	if err != nil {
		l.failures.Add(1)
		return fmt.Errorf("write store log: %w", err)
	}
	return nil
}

func (l *logFile) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := errors.Join(l.f.Sync(), l.f.Close()); err != nil {
		return fmt.Errorf("close store log: %w", err)
	}
	return nil
}

// appendLog appends a record to the store log, if there is one.
func (s *Store) appendLog(r storelog.Record) {
	if s.logged == nil {
		return
	}
	if err := s.logged.add(r); err != nil {
		s.log.Warn("the store log lacks a record that the database has", slog.String("tag", storelog.Tag(r)), slog.Any("error", err))
	}
}

// LogFailures returns how many records the store log lacks because they could not
// be written.
func (s *Store) LogFailures() int64 {
	if s.logged == nil {
		return 0
	}
	return s.logged.failures.Load()
}
