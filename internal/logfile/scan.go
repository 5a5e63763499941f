package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// MaxLine bounds the length of lines, in bytes with the LF: longer ones are not
// read. The longest that routers write, queues with link data of the size that
// clients use and messages with a full body, have some 22,000 bytes.
const MaxLine = 1 << 20

// A Line is one line of a log.
type Line struct {
	Number     int64  // counted from 1
	Offset     int64  // bytes before the line
	Text       []byte // without LF; only the first 1024 bytes if the line is too long
	Terminated bool   // whether an LF ends the line
	TooLong    int64  // length in bytes of a line that exceeds MaxLine, otherwise 0
}

// End returns the number of bytes up to the end of the line.
func (l Line) End() int64 {
	end := l.Offset + max(l.TooLong, int64(len(l.Text)))
	if l.Terminated {
		end++
	}
	return end
}

// A Scanner splits a log into lines, in constant memory.
type Scanner struct {
	blocks *BlockReader
	block  Block
	buf    []byte
	line   Line
	err    error
}

// NewScanner returns a Scanner of r.
func NewScanner(r io.Reader) *Scanner {
	return &Scanner{blocks: NewBlockReader(r)}
}

// Reset makes s read from r, with the memory that it has.
func (s *Scanner) Reset(r io.Reader) {
	*s = Scanner{blocks: &BlockReader{r: r, rest: s.blocks.rest[:0]}, buf: s.buf}
}

// Scan reads the next line and reports whether there is one.
func (s *Scanner) Scan() bool {
	for s.err == nil {
		if s.block.NextLine(&s.line) {
			return true
		}
		if s.buf == nil {
			s.buf = make([]byte, 0, MaxLine)
		}
		s.block, s.err = s.blocks.Next(s.buf)
	}
	return false
}

// Line returns the line that Scan read. It is valid until the next Scan.
func (s *Scanner) Line() Line { return s.line }

// Err returns the error that ended the reading, or nil at the end of the log.
func (s *Scanner) Err() error {
	if errors.Is(s.err, io.EOF) {
		return nil
	}
	return s.err
}

// A Block is a part of a log of at most MaxLine bytes: either whole lines, each
// with its LF except perhaps the last line of the log, or the start of one line
// that is too long.
type Block struct {
	data       []byte
	line       int64 // number of the first line
	offset     int64 // bytes of the log before data
	tooLong    int64 // length of the line, if it is too long
	terminated bool  // whether the too long line ends with LF
}

// NextLine takes the first line off b and reports whether there was one. The line
// is valid as long as the buffer that the block was read into.
func (b *Block) NextLine(l *Line) bool {
	if len(b.data) == 0 {
		return false
	}
	*l = Line{Number: b.line, Offset: b.offset}
	if b.tooLong > 0 {
		l.Text, l.TooLong, l.Terminated = b.data, b.tooLong, b.terminated
		b.data = nil
		return true
	}
	n := bytes.IndexByte(b.data, '\n')
	if n < 0 {
		l.Text, b.data = b.data, nil
		return true
	}
	l.Text, l.Terminated = b.data[:n], true
	b.data = b.data[n+1:]
	b.line++
	b.offset += int64(n) + 1
	return true
}

// Buffer returns the buffer that the block was read into, to be used again when
// none of its lines is needed any more. Call it before NextLine. It is nil if the
// block has only the start of a line that is too long.
func (b *Block) Buffer() []byte {
	if b.tooLong > 0 {
		return nil
	}
	return b.data[:0:cap(b.data)]
}

// A BlockReader cuts a log into blocks, for those who parse several at a time.
type BlockReader struct {
	r      io.Reader
	rest   []byte // read, but not yet part of a block
	line   int64  // number of lines in earlier blocks
	offset int64  // bytes in earlier blocks
	eof    bool
}

// cutText is how much of a line that is too long is kept.
const cutText = 1024

// NewBlockReader returns a BlockReader of r.
func NewBlockReader(r io.Reader) *BlockReader { return &BlockReader{r: r} }

// Next reads the next block into buf, whose capacity is MaxLine. It returns
// io.EOF after the last one.
func (r *BlockReader) Next(buf []byte) (Block, error) {
	buf = append(buf[:0], r.rest...)
	r.rest = r.rest[:0]
	for !r.eof && len(buf) < cap(buf) {
		n, err := r.r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			r.eof = true
		} else if err != nil {
			return Block{}, fmt.Errorf("read after byte %d: %w", r.offset+int64(len(buf)), err)
		}
	}
	if len(buf) == 0 {
		return Block{}, io.EOF
	}
	b := Block{data: buf, line: r.line + 1, offset: r.offset}
	switch last := bytes.LastIndexByte(buf, '\n'); {
	case last >= 0:
		b.data = buf[:last+1]
		r.rest = append(r.rest, buf[last+1:]...)
		r.line += int64(bytes.Count(b.data, []byte{'\n'}))
	case r.eof:
		r.line++
	default:
		return r.skipLong(buf)
	}
	r.offset += int64(len(b.data))
	return b, nil
}

// skipLong reads on to the end of a line of which buf is the start.
func (r *BlockReader) skipLong(buf []byte) (Block, error) {
	b := Block{data: buf[:cutText:cutText], line: r.line + 1, offset: r.offset, tooLong: int64(len(buf))}
	scratch := buf[cutText:cap(buf)]
	for !r.eof && !b.terminated {
		n, err := r.r.Read(scratch)
		if errors.Is(err, io.EOF) {
			r.eof = true
		} else if err != nil {
			return Block{}, fmt.Errorf("read after byte %d: %w", r.offset+b.tooLong, err)
		}
		if end := bytes.IndexByte(scratch[:n], '\n'); end >= 0 {
			b.terminated = true
			r.rest = append(r.rest, scratch[end+1:n]...)
			n = end
		}
		b.tooLong += int64(n)
	}
	r.line++
	r.offset += b.tooLong
	if b.terminated {
		r.offset++
	}
	return b, nil
}
