package compact

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/storelog"
)

// ErrInUse reports a store log that another process writes to, or compacts.
var ErrInUse = errors.New("store log is in use")

// A RejectedError reports more rejected records than allowed.
type RejectedError struct {
	File    string
	Problem storelog.Problem // the record that was one too many
	Max     int64            // how many are allowed
}

// Error names file and place.
func (e *RejectedError) Error() string {
	s := fmt.Sprintf("%s: %s", e.File, e.Problem)
	if e.Max == 0 {
		return s
	}
	return fmt.Sprintf("%s (rejected record %d; at most %d are allowed)", s, e.Max+1, e.Max)
}

// LogOptions control the compaction of a store log.
type LogOptions struct {
	// Now is the time that the name of the kept original has.
	Now time.Time

	// MaxRejects is how many records may be left out because they cannot be
	// read or applied; one more ends the compaction. Negative: any number.
	MaxRejects int64

	// Rejects, if not nil, gets the records that are left out, each behind a
	// line with the reason that starts with '#'.
	Rejects io.Writer

	DryRun   bool   // find out what there is to do, and write nothing
	TempDir  string // for sorting; see storelog.Options
	Progress Progress
	Log      *slog.Logger
}

// LogResult says what became of a store log. The JSON names are an interface.
type LogResult struct {
	File     string  `json:"file"`
	Lines    int64   `json:"lines"` // before
	Bytes    int64   `json:"bytes"` // before
	NewLines int64   `json:"new_lines"`
	NewBytes int64   `json:"new_bytes"`
	Services int64   `json:"services"`
	Queues   int64   `json:"queues"`
	Rejected int64   `json:"rejected"`            // records left out
	Ignored  int64   `json:"ignored"`             // records about deleted queues, without effect
	Original string  `json:"original,omitempty"`  // new name of the log as it was
	SetAside string  `json:"set_aside,omitempty"` // new name of what a router had left of the log; see StoreLog
	DryRun   bool    `json:"dry_run"`             // nothing was written
	Same     bool    `json:"unchanged"`           // the log was compact; nothing was written
	Seconds  float64 `json:"seconds"`
}

// StoreLog rewrites a store log as a router does at its start: services by id,
// then one CREATE for each live queue, by recipient id. The original is kept
// under the name that a router gives it: file name, dot and time, so that
// routers remove it some weeks later.
//
// At any moment the log is there under its name, or under the name.start that
// routers look for first. If there is a name.start before, of a router that was
// stopped while it compacted the log, that is the log, and name is what was
// written of the new one: it is set aside.
//
// The router must be stopped: it would go on writing to the original. Where the
// system tells, a log that is open for writing is ErrInUse.
func StoreLog(ctx context.Context, name string, o LogOptions) (r LogResult, err error) {
	start := time.Now()
	c := &logCompaction{o: o, res: LogResult{File: name, DryRun: o.DryRun}}
	err = c.run(ctx)
	c.res.Seconds = time.Since(start).Seconds()
	if rejected, ok := errors.AsType[*RejectedError](err); ok {
		err = rejected // which names the file as well as who passed it on
	}
	if err != nil {
		return c.res, fmt.Errorf("compact store log: %w", err)
	}
	return c.res, nil
}

// A logCompaction is the compaction of one log.
type logCompaction struct {
	o   LogOptions
	res LogResult
}

func (c *logCompaction) run(ctx context.Context) (err error) {
	f, err := storelog.Open(c.res.File)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if f.Unfinished() {
		c.o.Log.WarnContext(ctx, "a router was stopped while it compacted the log; reading what it would read at its next start",
			slog.String("file", f.Name()))
	}
	original, err := checkOriginal(c.res.File, f.Name())
	if err != nil {
		return err
	}
	c.o.Progress.Phase("read log", f.Size(), "bytes")
	state, err := storelog.Replay(ctx, f, storelog.Options{TempDir: c.o.TempDir, OnProblem: c.problem, Progress: c.o.Progress.Add})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, state.Close()) }()
	c.res.Lines, c.res.Bytes = state.Counts().Lines, state.Counts().Bytes
	if c.o.DryRun {
		return c.write(ctx, io.Discard, state)
	}

	temp, err := createTemp(c.res.File, original)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, temp.Close()) }()
	if err := c.write(ctx, temp, state); err != nil {
		return err
	}
	if err := temp.Sync(); err != nil {
		return fmt.Errorf("write the new log: %w", err)
	}
	if c.res.Same, err = sameContent(f.Name(), temp.Temp()); err != nil || (c.res.Same && !f.Unfinished()) {
		return err
	}
	c.res.Same = false
	if changed, err := f.Changed(); err != nil {
		return err
	} else if changed {
		return fmt.Errorf("%w: %s was written to while it was read: stop the router first", ErrInUse, f.Name())
	}
	if err := checkWriters(f.Name()); err != nil {
		return err
	}
	s := swap{name: c.res.File, file: temp, now: c.o.Now, unfinished: f.Unfinished()}
	err = s.run()
	c.res.Original, c.res.SetAside = s.original, s.aside
	return err
}

// problem takes a problem of the log.
func (c *logCompaction) problem(p storelog.Problem) error {
	switch {
	case p.Kind == storelog.Late:
		c.res.Ignored++
		return nil
	case !p.Kind.Loses():
		c.o.Log.Warn(p.Reason, slog.String("file", c.res.File), slog.Int64("line", p.Line))
		return nil
	}
	c.res.Rejected++
	if c.o.Rejects != nil {
		// A reason never holds an LF, and a record that starts with '#' is none.
		text := append(fmt.Appendf(nil, "# %s\n", p), bytes.TrimSuffix(p.Text, []byte("\n"))...)
		if _, err := c.o.Rejects.Write(append(text, '\n')); err != nil {
			return fmt.Errorf("write rejected records: %w", err)
		}
	}
	if c.o.MaxRejects >= 0 && c.res.Rejected > c.o.MaxRejects {
		return &RejectedError{File: c.res.File, Problem: p, Max: c.o.MaxRejects}
	}
	return nil
}

// write writes the new log.
func (c *logCompaction) write(ctx context.Context, to io.Writer, state *storelog.State) error {
	const bufferSize = 1 << 20
	out := bufio.NewWriterSize(to, bufferSize)
	var line []byte
	put := func() error {
		c.res.NewLines += int64(bytes.Count(line, []byte{'\n'}))
		c.res.NewBytes += int64(len(line))
		if _, err := out.Write(line); err != nil {
			return fmt.Errorf("write the new log: %w", err)
		}
		return nil
	}
	services := slices.Clone(state.Services())
	slices.SortFunc(services, func(a, b queue.Service) int { return a.ID.Compare(b.ID.EntityID) })
	for _, s := range services {
		line = storelog.Append(line[:0], &storelog.NewService{Service: s})
		if err := put(); err != nil {
			return err
		}
		c.res.Services++
	}
	records := state.Counts().Records
	c.o.Progress.Phase("write log", max(records["CREATE"]-records["DELETE"], 0), "queues")
	for q, err := range state.Queues(ctx) {
		if err != nil {
			return err
		}
		line = storelog.AppendQueue(line[:0], q)
		if err := put(); err != nil {
			return err
		}
		c.res.Queues++
		c.o.Progress.Add(1)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write the new log: %w", err)
	}
	return nil
}

// checkOriginal refuses what cannot be replaced by a new file, and returns what
// the new file has to be like. Name is the log, read the file that is read.
func checkOriginal(name, read string) (os.FileInfo, error) {
	for _, n := range []string{name, read} {
		info, err := os.Lstat(n)
		switch {
		case errors.Is(err, os.ErrNotExist) && n != read:
		case err != nil:
			return nil, err
		case info.Mode()&os.ModeSymlink != 0:
			return nil, fmt.Errorf("%s is a symbolic link: name the file that it leads to", n)
		case !info.Mode().IsRegular():
			return nil, fmt.Errorf("%s is not a regular file", n)
		}
	}
	if err := checkWriters(read); err != nil {
		return nil, err
	}
	return os.Stat(read)
}
