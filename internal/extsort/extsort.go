// Package extsort sorts records that do not fit in memory. Writers collect
// records in buffers of a fixed size; a full buffer is sorted and becomes a run
// in a temporary file. Reading merges all runs. Input that fits in the buffers
// never touches the disk.
//
// The temporary files have no name from the moment they are made, so that
// nothing stays behind however the program ends.
package extsort

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// A Record is a key, a number that orders records with the same key, and a
// value.
type Record struct {
	Key   []byte
	Seq   uint64
	Value []byte
}

// A Sorter holds the sorted runs of its Writers.
type Sorter struct {
	dir         string
	mergeMemory int

	mu    sync.Mutex // guards the rest
	files []*os.File
	runs  []run
}

// A run is a sorted sequence of encoded records, either in memory or in a part
// of a file.
type run struct {
	arena []byte // if file is nil
	index []ref
	file  *os.File
	off   int64
	size  int64
}

// A ref points to a record in an arena.
type ref struct {
	prefix uint64 // first bytes of the key, big endian
	off    uint32
}

const (
	refSize = 2 * 16 // bytes of memory for a ref, and for sorting it

	// mergeMemory is the memory in bytes for reading runs back.
	mergeMemory = 32 << 20

	minReadBuffer = 4 << 10
	maxReadBuffer = 1 << 20
	writeBuffer   = 1 << 20
	freeUnit      = 1 << 20
	firstArena    = 256 << 10
)

// New returns a Sorter that makes its temporary files in dir.
func New(dir string) *Sorter {
	return &Sorter{dir: dir, mergeMemory: mergeMemory}
}

// Close frees the memory and the disk space of s.
func (s *Sorter) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	s.files, s.runs = nil, nil
	return errors.Join(errs...)
}

// A Writer adds records to its Sorter. It serves one goroutine; several Writers
// of one Sorter may work at the same time.
type Writer struct {
	s      *Sorter
	memory int
	arena  []byte
	index  []ref
	spare  []ref // room for sorting
	file   *os.File
	off    int64
}

// NewWriter returns a Writer that keeps up to memory bytes of records before it
// writes them to disk.
func (s *Sorter) NewWriter(memory int) *Writer {
	return &Writer{s: s, memory: memory}
}

// Add copies a record.
func (w *Writer) Add(r Record) error {
	need := len(r.Key) + len(r.Value) + 3*binary.MaxVarintLen64 + refSize
	if len(w.index) > 0 && len(w.arena)+refSize*len(w.index)+need > w.memory {
		if err := w.spill(); err != nil {
			return err
		}
	}
	if cap(w.arena)-len(w.arena) < need {
		w.grow(need)
	}
	w.index = append(w.index, ref{prefix: prefix(r.Key), off: uint32(len(w.arena))}) //nolint:gosec // arenas are far below 4 GiB
	w.arena = binary.AppendUvarint(w.arena, uint64(len(r.Key)))
	w.arena = append(w.arena, r.Key...)
	w.arena = binary.AppendUvarint(w.arena, r.Seq)
	w.arena = binary.AppendUvarint(w.arena, uint64(len(r.Value)))
	w.arena = append(w.arena, r.Value...)
	return nil
}

// grow makes room for need more bytes: a small arena first, so that small
// inputs stay cheap, then at once the full one, so that large inputs do not
// copy it many times.
func (w *Writer) grow(need int) {
	size := firstArena
	if cap(w.arena) > 0 {
		size = w.memory
	}
	w.arena = slices.Grow(w.arena, max(size-len(w.arena), need))
}

// Close ends the writing. What is still in memory stays there, unless the
// Writer had to use the disk already.
func (w *Writer) Close() error {
	if len(w.index) == 0 {
		return nil
	}
	if w.file != nil {
		return w.spill()
	}
	w.sort()
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.s.runs = append(w.s.runs, run{arena: w.arena, index: w.index})
	w.arena, w.index, w.spare = nil, nil, nil
	return nil
}

// sort sorts the index. Most records differ in the first bytes of their keys, or
// have the same key and were added in the order of their numbers; for these, the
// refs alone tell the order, without a look at the arena, which is slow.
func (w *Writer) sort() {
	w.scatter()
	full := func(a, b ref) int {
		x, _ := decode(w.arena[a.off:])
		y, _ := decode(w.arena[b.off:])
		return compare(x, y)
	}
	for start := 0; start < len(w.index); {
		end := start + 1
		for end < len(w.index) && w.index[end].prefix == w.index[start].prefix {
			end++
		}
		if same := w.index[start:end]; !slices.IsSortedFunc(same, full) {
			slices.SortFunc(same, full)
		}
		start = end
	}
}

// scatter sorts the refs themselves, by prefix and offset: first into buckets by
// the upper bits of the prefix, which for random keys are about equally full,
// then each bucket. Keys that are not random make for full buckets, which only
// costs time.
func (w *Writer) scatter() {
	const bits = 14
	var ends [1<<bits + 1]int32
	bucket := func(r ref) uint64 { return r.prefix >> (64 - bits) }
	for _, r := range w.index {
		ends[bucket(r)+1]++
	}
	for i := 1; i < len(ends); i++ {
		ends[i] += ends[i-1]
	}
	w.spare = slices.Grow(w.spare[:0], len(w.index))[:len(w.index)]
	for _, r := range w.index { // ends[b] moves from the start of b to its end
		w.spare[ends[bucket(r)]] = r
		ends[bucket(r)]++
	}
	w.index, w.spare = w.spare, w.index
	start := int32(0)
	for _, end := range ends[:1<<bits] {
		slices.SortFunc(w.index[start:end], func(a, b ref) int {
			if a.prefix != b.prefix {
				return cmp.Compare(a.prefix, b.prefix)
			}
			return cmp.Compare(a.off, b.off)
		})
		start = end
	}
}

// spill writes the records in memory to the Writer's temporary file, as a run.
func (w *Writer) spill() error {
	w.sort()
	if w.file == nil {
		f, err := os.CreateTemp(w.s.dir, "smpq-sort-*")
		if err != nil {
			return fmt.Errorf("create a temporary file for sorting: %w", err)
		}
		w.s.mu.Lock()
		w.s.files = append(w.s.files, f)
		w.s.mu.Unlock()
		if err := os.Remove(f.Name()); err != nil {
			return fmt.Errorf("unlink a temporary file for sorting: %w", err)
		}
		w.file = f
	}
	out := bufio.NewWriterSize(w.file, writeBuffer)
	start := w.off
	for _, r := range w.index {
		_, n := decode(w.arena[r.off:])
		if _, err := out.Write(w.arena[r.off : int(r.off)+n]); err != nil {
			return w.writeError(err)
		}
		w.off += int64(n)
	}
	if err := out.Flush(); err != nil {
		return w.writeError(err)
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.s.runs = append(w.s.runs, run{file: w.file, off: start, size: w.off - start})
	w.arena, w.index = w.arena[:0], w.index[:0]
	return nil
}

func (w *Writer) writeError(err error) error {
	return fmt.Errorf("write a temporary file for sorting in %s: %w", w.s.dir, err)
}

// All iterates over all records in the order of their keys and, with equal
// keys, of their numbers. A record is valid until the next one. All may be
// called again, but only after every Writer was closed.
func (s *Sorter) All() iter.Seq2[Record, error] { return s.merge(false) }

// Drain is All for the last time: it gives the disk space of records back while
// it goes through them. What the system has not written to the disk by then, it
// does not write any more.
func (s *Sorter) Drain() iter.Seq2[Record, error] { return s.merge(true) }

func (s *Sorter) merge(drain bool) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		s.mu.Lock()
		runs := slices.Clone(s.runs)
		s.mu.Unlock()
		m := make(merge, 0, len(runs))
		bufSize := min(max(s.mergeMemory/max(len(runs), 1), minReadBuffer), maxReadBuffer)
		for _, r := range runs {
			c := newCursor(r, bufSize)
			c.drain = drain
			switch err := c.next(); {
			case errors.Is(err, io.EOF):
			case err != nil:
				yield(Record{}, err)
				return
			default:
				m = append(m, c)
			}
		}
		m.init()
		for len(m) > 0 {
			c := m[0]
			if !yield(c.rec, nil) {
				return
			}
			switch err := c.next(); {
			case errors.Is(err, io.EOF):
				m[0] = m[len(m)-1]
				m = m[:len(m)-1]
			case err != nil:
				yield(Record{}, err)
				return
			}
			m.down(0)
		}
	}
}

// A cursor walks through a run.
type cursor struct {
	run    run
	pos    int // in run.index
	in     *bufio.Reader
	drain  bool
	read   int64 // bytes of the run
	freed  int64 // bytes of the run given back
	buf    []byte
	prefix uint64
	rec    Record
}

func newCursor(r run, bufSize int) *cursor {
	c := &cursor{run: r}
	if r.file != nil {
		size := int(min(int64(bufSize), r.size))
		c.in = bufio.NewReaderSize(io.NewSectionReader(r.file, r.off, r.size), size)
	}
	return c
}

// next reads the next record into c.rec; io.EOF means that there is none.
func (c *cursor) next() error {
	if c.in == nil {
		if c.pos == len(c.run.index) {
			return io.EOF
		}
		r := c.run.index[c.pos]
		c.pos++
		c.prefix = r.prefix
		c.rec, _ = decode(c.run.arena[r.off:])
		return nil
	}
	n, err := binary.ReadUvarint(c.in)
	if err != nil {
		if errors.Is(err, io.EOF) {
			return io.EOF
		}
		return readError(err)
	}
	c.buf = slices.Grow(c.buf[:0], int(n))[:n] //nolint:gosec // the length of a slice that was written
	if _, err := io.ReadFull(c.in, c.buf); err != nil {
		return readError(err)
	}
	if c.rec.Seq, err = binary.ReadUvarint(c.in); err != nil {
		return readError(err)
	}
	v, err := binary.ReadUvarint(c.in)
	if err != nil {
		return readError(err)
	}
	c.buf = slices.Grow(c.buf, int(v))[:n+v] //nolint:gosec // as above
	if _, err := io.ReadFull(c.in, c.buf[n:]); err != nil {
		return readError(err)
	}
	c.rec.Key, c.rec.Value = c.buf[:n:n], c.buf[n:]
	c.prefix = prefix(c.rec.Key)
	c.read += int64(len(c.buf))
	if c.drain && c.read-c.freed >= freeUnit {
		c.free()
	}
	return nil
}

// free gives the disk space of what was read back. Where the file system cannot,
// the space is free when the file is closed.
func (c *cursor) free() {
	n := c.read - c.freed
	_ = unix.Fallocate(int(c.run.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, c.run.off+c.freed, n)
	c.freed = c.read
}

func readError(err error) error {
	return fmt.Errorf("read a temporary file for sorting: %w", err)
}

func (c *cursor) less(d *cursor) bool {
	if c.prefix != d.prefix {
		return c.prefix < d.prefix
	}
	return compare(c.rec, d.rec) < 0
}

// A merge is a binary heap of cursors, the one with the smallest record first.
type merge []*cursor

func (m merge) init() {
	for i := len(m)/2 - 1; i >= 0; i-- {
		m.down(i)
	}
}

func (m merge) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(m) {
			return
		}
		if child+1 < len(m) && m[child+1].less(m[child]) {
			child++
		}
		if !m[child].less(m[i]) {
			return
		}
		m[i], m[child] = m[child], m[i]
		i = child
	}
}

func compare(a, b Record) int {
	if c := bytes.Compare(a.Key, b.Key); c != 0 {
		return c
	}
	return cmp.Compare(a.Seq, b.Seq)
}

// prefix returns the first eight bytes of key as a number that orders like
// them; a shorter key is filled up with zeros.
func prefix(key []byte) uint64 {
	if len(key) >= 8 {
		return binary.BigEndian.Uint64(key)
	}
	var b [8]byte
	copy(b[:], key)
	return binary.BigEndian.Uint64(b[:])
}

// decode returns the record at the start of b and its encoded length.
func decode(b []byte) (Record, int) {
	var r Record
	n, i := binary.Uvarint(b)
	end := i + int(n) //nolint:gosec // the length of a slice in this arena
	r.Key = b[i:end:end]
	r.Seq, i = binary.Uvarint(b[end:])
	end += i
	n, i = binary.Uvarint(b[end:])
	end += i
	r.Value = b[end : end+int(n)] //nolint:gosec // as above
	return r, end + int(n)        //nolint:gosec // as above
}
