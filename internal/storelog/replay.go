package storelog

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"iter"
	"math"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/smpq/smpq/internal/extsort"
	"github.com/smpq/smpq/internal/logfile"
	"github.com/smpq/smpq/internal/queue"
)

// Options control a replay.
type Options struct {
	// TempDir is the folder for temporary files, which need about as much
	// space as the lines of the log that are shorter than 4 KiB: longer ones
	// are read again from the log, unless it is a pipe. Empty: that of the
	// system.
	TempDir string

	// Memory is the number of bytes that may be used for sorting. 0:
	// DefaultMemory.
	Memory int

	// OnProblem is called for each problem, from one goroutine at a time: for
	// malformed lines in the order of the log during Replay, for the others in
	// the order of queues while State.Queues is read. If it returns an error,
	// the replay ends with it.
	OnProblem func(Problem) error

	// Progress, if not nil, is told how many more bytes of the log were read.
	Progress func(bytes int64)

	// ForDatabase leaves out what a database has no place for and routers in
	// memory mode keep: services with a chain of no or of more than 255
	// certificates, and associations with services that are not in the log.
	ForDatabase bool

	// longLine is the length in bytes from which lines are read again. 0:
	// defaultLongLine. Tests set it.
	longLine int
}

// defaultLongLine is far more than a line without link data takes, and enough
// to be worth a read of its own.
const defaultLongLine = 4 << 10

// DefaultMemory is the memory for sorting, in bytes, if Options give none.
const DefaultMemory = 64 << 20

// Counts are the numbers of lines of a log.
type Counts struct {
	Lines   int64            // all
	Bytes   int64            // of all lines, with LF
	Records map[string]int64 // well-formed records, by tag
}

// A State is what a router holds after it has read a log: services and queues.
//
// The queues are not in memory. The records of the log, sorted by queue, are in
// temporary files without names, all but the long ones, which are in the log
// alone. [State.Queues] replays them one queue at a time. That is the same as replaying the log in its own order, except for
// queues that contend for an id, of which there are hardly ever any: these are
// found first and replayed together, without their data, to learn which of
// their records are refused.
type State struct {
	o        Options
	counts   Counts
	services []queue.Service
	known    map[queue.ServiceID]bool
	source   io.ReaderAt     // the log, for the long lines; nil if it can be read only once
	records  *extsort.Sorter // key: recipient id; number: line; value: see parser.add
	seed     maphash.Seed
	rivals   *rivals
}

// Replay reads a log. The caller closes the State, and f after it.
//
// The rules are those of smp-server: lines that cannot be read or applied are
// skipped; of two records that take the same id the first one wins; the ids of
// deleted queues stay taken for recipients and links, and are free again for
// senders and notifiers. Each skipped record is reported as a Problem.
func Replay(ctx context.Context, f *File, o Options) (*State, error) {
	s, err := replay(ctx, f.Reader(), o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return s, nil
}

func replay(ctx context.Context, r io.Reader, o Options) (_ *State, err error) {
	if o.TempDir == "" {
		o.TempDir = os.TempDir()
	}
	if o.Memory == 0 {
		o.Memory = DefaultMemory
	}
	if o.longLine == 0 {
		o.longLine = defaultLongLine
	}
	if o.OnProblem == nil {
		o.OnProblem = func(Problem) error { return nil }
	}
	s := &State{
		o:       o,
		counts:  Counts{Records: make(map[string]int64)},
		known:   make(map[queue.ServiceID]bool),
		records: extsort.New(o.TempDir),
		seed:    maphash.MakeSeed(),
	}
	if section, ok := r.(*io.SectionReader); ok {
		s.source = section
	}
	claims := extsort.New(o.TempDir)
	defer func() {
		err = errors.Join(err, claims.Close())
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.load(ctx, r, claims); err != nil {
		return nil, err
	}
	s.rivals, err = s.findRivals(ctx, claims)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Close frees the temporary files.
func (s *State) Close() error { return s.records.Close() }

// Counts returns the numbers of lines of the log.
func (s *State) Counts() Counts { return s.counts }

// Services returns the services, in the order in which they were added.
func (s *State) Services() []queue.Service { return s.services }

// A parsedBlock is what a worker found in a block.
type parsedBlock struct {
	number   int
	end      int64 // bytes of the log up to the end of the block
	lines    int64
	records  [len(tags)]int64
	services []serviceLine
	problems []Problem
	buf      []byte // to be used again
	err      error
}

type serviceLine struct {
	line    logfile.Line // Text is a copy
	service queue.Service
}

// load sorts the records of all queues by queue and gathers the services. One
// goroutine cuts the log into blocks, several parse them, and this one puts
// what they found in order.
func (s *State) load(parent context.Context, r io.Reader, claims *extsort.Sorter) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	// A read from a pipe can take for ever.
	if pipe, ok := r.(interface{ SetReadDeadline(time.Time) error }); ok {
		stop := context.AfterFunc(ctx, func() { _ = pipe.SetReadDeadline(time.Unix(1, 0)) })
		defer stop()
	}

	type numbered struct {
		logfile.Block
		number int
	}
	workers := min(max(runtime.GOMAXPROCS(0), 1), 4)
	blocks := make(chan numbered)
	parsed := make(chan parsedBlock)
	free := make(chan []byte, workers+2)
	for range cap(free) {
		free <- nil
	}
	var readErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(blocks)
		in := logfile.NewBlockReader(r)
		for n := 0; ; n++ {
			var buf []byte
			select {
			case buf = <-free:
			case <-ctx.Done():
				return
			}
			if buf == nil {
				buf = make([]byte, 0, logfile.MaxLine)
			}
			b, err := in.Next(buf)
			if err != nil {
				if !errors.Is(err, io.EOF) {
					readErr = err
				}
				return
			}
			select {
			case blocks <- numbered{b, n}:
			case <-ctx.Done():
				return
			}
		}
	})
	var parsers sync.WaitGroup
	var closeMu sync.Mutex
	var closeErr error
	for range workers {
		parsers.Go(func() {
			p := parser{
				seed:    s.seed,
				records: s.records.NewWriter(s.o.Memory * 3 / 4 / workers),
				claims:  claims.NewWriter(s.o.Memory / 4 / workers),
				keep:    math.MaxInt,
			}
			if s.source != nil {
				p.keep = s.o.longLine
			}
			for b := range blocks {
				res := p.parse(b.Block)
				res.number = b.number
				select {
				case parsed <- res:
				case <-ctx.Done():
					return
				}
			}
			if ctx.Err() == nil {
				err := errors.Join(p.records.Close(), p.claims.Close())
				closeMu.Lock()
				defer closeMu.Unlock()
				closeErr = errors.Join(closeErr, err)
			}
		})
	}
	wg.Go(func() {
		parsers.Wait()
		close(parsed)
	})

	err := s.gather(parsed, free)
	cancel()
	for range parsed {
		continue // let the workers go on to their end
	}
	wg.Wait()
	return cmp.Or(parent.Err(), err, readErr, closeErr)
}

// gather takes the parsed blocks in the order of the log and hands their
// buffers back.
func (s *State) gather(parsed <-chan parsedBlock, free chan<- []byte) error {
	waiting := make(map[int]parsedBlock)
	certs := make(map[string]int) // certificate hash to index in s.services
	next := 0
	for p := range parsed {
		waiting[p.number] = p
		for {
			p, ok := waiting[next]
			if !ok {
				break
			}
			delete(waiting, next)
			next++
			if p.err != nil {
				return p.err
			}
			s.counts.Lines += p.lines
			for k, n := range p.records {
				if n > 0 {
					s.counts.Records[tags[k]] += n
				}
			}
			for _, pr := range s.addServices(p.services, certs, p.problems) {
				if err := s.o.OnProblem(pr); err != nil {
					return err
				}
			}
			if s.o.Progress != nil {
				s.o.Progress(p.end - s.counts.Bytes)
			}
			s.counts.Bytes = p.end
			free <- p.buf
		}
	}
	return nil
}

// addServices adds the services of a block and returns its problems, including
// those of services, in the order of lines.
func (s *State) addServices(services []serviceLine, certs map[string]int, problems []Problem) []Problem {
	for _, sl := range services {
		sv := sl.service
		reason := ""
		if i, ok := certs[string(sv.CertHash)]; ok {
			have := s.services[i]
			switch {
			case have.Role != sv.Role:
				reason = fmt.Sprintf("service %s has the certificate of service %s, which has another role", sv.ID, have.ID)
			case have.ID != sv.ID:
				reason = fmt.Sprintf("service %s has the certificate of service %s, under which it goes on", sv.ID, have.ID)
			}
			if reason == "" {
				continue // the same service once more
			}
		} else if s.known[sv.ID] {
			reason = fmt.Sprintf("service id %s is in use for another certificate", sv.ID)
		} else if _, err := sv.CertChain.AppendBinary(nil); err != nil && s.o.ForDatabase {
			reason = fmt.Sprintf("service %s has no place in a database: %s", sv.ID, err)
		}
		if reason != "" {
			problems = append(problems, Problem{
				Kind:  Refused,
				Fault: logfile.Fault{Line: sl.line.Number, Offset: sl.line.Offset, Reason: reason, Text: sl.line.Text},
			})
			continue
		}
		certs[string(sv.CertHash)] = len(s.services)
		s.services = append(s.services, sv)
		s.known[sv.ID] = true
	}
	slices.SortStableFunc(problems, func(a, b Problem) int { return int(a.Line - b.Line) })
	return problems
}

// A parser parses blocks and adds their records to sorters.
type parser struct {
	seed    maphash.Seed
	records *extsort.Writer
	claims  *extsort.Writer
	keep    int // lines shorter than this go into the records
	key     []byte
	value   []byte
}

func (p *parser) parse(b logfile.Block) parsedBlock {
	res := parsedBlock{buf: b.Buffer()}
	var l logfile.Line
	for b.NextLine(&l) && res.err == nil {
		res.lines++
		res.end = l.End()
		rec, problem := parseLine(l)
		if problem != nil {
			res.problems = append(res.problems, *problem)
		}
		if rec == nil {
			continue
		}
		res.records[kindOf(rec)]++
		if sv, ok := rec.(*NewService); ok {
			l.Text = slices.Clone(l.Text)
			res.services = append(res.services, serviceLine{l, sv.Service})
			continue
		}
		res.err = p.add(l, rec)
	}
	return res
}

// A lineReader gets lines back from sorted records.
type lineReader struct {
	source io.ReaderAt
	buf    []byte
}

// read returns the offset and the text of a line. The text is valid until the
// next read, or until the record is not any more.
func (r *lineReader) read(e extsort.Record) (offset int64, text []byte, err error) {
	offset, n := binary.Varint(e.Value)
	size, m := binary.Uvarint(e.Value[n:])
	if text = e.Value[n+m:]; len(text) > 0 || size == 0 {
		return offset, text, nil
	}
	r.buf = slices.Grow(r.buf[:0], int(size))[:size] //nolint:gosec // the length of a line
	if _, err := r.source.ReadAt(r.buf, offset); err != nil {
		return 0, nil, fmt.Errorf("line %d: read again: %w", e.Seq, err)
	}
	return offset, r.buf, nil
}

// parse returns the record of a line.
func (r *lineReader) parse(e extsort.Record) (rec Record, offset int64, text []byte, err error) {
	if offset, text, err = r.read(e); err != nil {
		return nil, 0, nil, err
	}
	if rec, err = Parse(text); err != nil {
		return nil, 0, nil, fmt.Errorf("line %d: parsed before, but not again: was the log changed meanwhile? %w", e.Seq, err)
	}
	return rec, offset, text, nil
}

// parseLine returns the record of a line, a problem, or both.
func parseLine(l logfile.Line) (Record, *Problem) {
	if l.TooLong > 0 {
		return nil, &Problem{Fault: l.Overlong()}
	}
	rec, err := Parse(l.Text)
	if err != nil {
		return nil, &Problem{Fault: l.Unreadable(err)}
	}
	if l.Terminated {
		return rec, nil
	}
	taken := fmt.Sprintf("the %s record that it is as it stands", Tag(rec))
	return rec, &Problem{Kind: Unterminated, Fault: l.Unterminated(taken)}
}

// add adds a record of a queue. Its value is where the line is in the log, as
// offset and length, and the line, if it is not a long one.
func (p *parser) add(l logfile.Line, rec Record) error {
	p.key = rec.Queue().Append(p.key[:0])
	p.value = binary.AppendVarint(p.value[:0], l.Offset)
	p.value = binary.AppendUvarint(p.value, uint64(len(l.Text)))
	if len(l.Text) < p.keep {
		p.value = append(p.value, l.Text...)
	}
	number := uint64(l.Number) //nolint:gosec // counted from 1
	if err := p.records.Add(extsort.Record{Key: p.key, Seq: number, Value: p.value}); err != nil {
		return err
	}
	return forClaims(rec, func(c claim) error {
		key := binary.BigEndian.AppendUint64(p.value[:0], c.hash(p.seed))
		key = binary.BigEndian.AppendUint64(key, maphash.Bytes(p.seed, p.key))
		p.value = key
		return p.claims.Add(extsort.Record{Key: key})
	})
}

// Queues iterates over the queues that are live at the end of the log, in the
// order of their recipient ids. It reports the problems of their records to
// Options.OnProblem, each time it is called.
func (s *State) Queues(ctx context.Context) iter.Seq2[*queue.Record, error] {
	return s.queues(ctx, s.records.All())
}

// DrainQueues is Queues for the last time: it gives the disk space of the
// temporary files back on the way.
func (s *State) DrainQueues(ctx context.Context) iter.Seq2[*queue.Record, error] {
	return s.queues(ctx, s.records.Drain())
}

func (s *State) queues(ctx context.Context, records iter.Seq2[extsort.Record, error]) iter.Seq2[*queue.Record, error] {
	return func(yield func(*queue.Record, error) bool) {
		q := queueReplay{state: s, lines: lineReader{source: s.source}}
		for e, err := range records {
			if err != nil {
				yield(nil, err)
				return
			}
			if !q.is(e.Key) {
				if !q.finish(yield) {
					return
				}
				if err := ctx.Err(); err != nil {
					yield(nil, err)
					return
				}
				q.start(e.Key)
			}
			if err := q.line(e); err != nil {
				yield(nil, err)
				return
			}
		}
		q.finish(yield)
	}
}
