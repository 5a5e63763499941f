package gen

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math"
)

// RealLinkBytes is the size of the data that present clients store under a short
// link, in bytes: 2048 that stay, and 13824 that can be replaced.
const RealLinkBytes = realFixedBytes + realUserBytes

const (
	realFixedBytes = 2048
	realUserBytes  = 13824
)

// Options say which log to write.
type Options struct {
	// Queues is the number of queues that are created. A tenth of them is
	// deleted again. There are about 3.3 lines for each.
	Queues int64

	// Seed chooses one of the logs that are alike in all else.
	Seed uint64

	// LinkBytes is the size of the data of each link, of which a ninth is
	// fixed data. 0: RealLinkBytes, with which links make up four fifths of
	// the log.
	LinkBytes int

	// BadLines is the share of lines that a reader rejects, from 0 to 1. They
	// are added to the log that there is without them, and change nothing of
	// what it means.
	BadLines float64

	// Torn adds a last line that was cut off when it was written.
	Torn bool
}

// Stats are what was written.
type Stats struct {
	Lines   int64
	Bytes   int64
	Records map[string]int64 // lines that are records, by tag
	Queues  int64            // live at the end of the log
	// Lines that have no effect: no record at all, a record that cannot be
	// applied, and a record about a queue that is deleted.
	Malformed, Refused, Late int64
}

// Write writes a log to w. It needs some megabytes of memory, whatever the size
// of the log.
func Write(w io.Writer, o Options) (Stats, error) {
	if o.LinkBytes == 0 {
		o.LinkBytes = RealLinkBytes
	}
	switch {
	case o.Queues < 0:
		return Stats{}, fmt.Errorf("generate a store log of %d queues: less than none", o.Queues)
	case o.LinkBytes < 2:
		return Stats{}, fmt.Errorf("generate links of %d bytes: each of the two parts has at least one", o.LinkBytes)
	case !(o.BadLines >= 0 && o.BadLines < 1):
		return Stats{}, fmt.Errorf("generate a share of %g bad lines: must be at least 0 and less than 1", o.BadLines)
	}
	g := &generator{
		o:           o,
		out:         bufio.NewWriterSize(w, 1<<18),
		stats:       Stats{Records: make(map[string]int64)},
		encoding:    base64.URLEncoding,
		fixedBytes:  max(1, o.LinkBytes*realFixedBytes/RealLinkBytes),
		ring:        make([][]event, min(maxWindow, max(2, o.Queues/4))),
		lastDeleted: -1,
	}
	g.userBytes = o.LinkBytes - g.fixedBytes
	g.badDraws.seek(o.Seed, domainBad, 0, 0)
	if err := g.run(); err != nil {
		return g.stats, fmt.Errorf("write store log: %w", err)
	}
	return g.stats, nil
}

// maxWindow is the number of slots within which everything happens to a queue.
const maxWindow = 8192

// A generator writes one log.
type generator struct {
	o                     Options
	fixedBytes, userBytes int // of each link

	out   *bufio.Writer
	err   error // the first of out
	stats Stats

	services []service

	slot        int64
	ring        [][]event // by slot modulo length: what happens then
	created     int64     // number of queues so far
	lastDeleted int64     // the queue that was deleted last, or -1

	line     []byte           // is put together
	raw      []byte           // is about to be encoded
	encoding *base64.Encoding // of the line

	draws    stream // what a queue is and what happens to it
	ids      stream // ids of queues that were created before
	payload  stream // what is in a later record
	badDraws stream
}

// run writes the slots, and after the last queue those in which something still
// happens.
func (g *generator) run() error {
	if err := g.makeServices(); err != nil {
		return err
	}
	for end := g.o.Queues + int64(len(g.ring)); g.slot < end; g.slot++ {
		g.writeServices()
		if g.slot < g.o.Queues {
			g.schedule(g.slot, g.appendCreate(g.slot))
			g.created++
			g.stats.Queues++
			g.emit("CREATE")
		}
		due := &g.ring[g.slot%int64(len(g.ring))]
		for _, e := range *due {
			g.happen(e)
		}
		*due = (*due)[:0]
		if g.err != nil {
			return g.err
		}
	}
	if g.o.Torn {
		g.start()
		g.appendCut()
		g.stats.Malformed++
		g.write()
	}
	return errors.Join(g.err, g.out.Flush())
}

// start begins a line.
func (g *generator) start() {
	g.line = g.line[:0]
	g.encoding = base64.URLEncoding
}

// emit ends a line that is a record and writes it, and bad lines behind it.
func (g *generator) emit(tag string) {
	g.record(tag)
	if g.o.BadLines == 0 {
		return
	}
	for float64(g.badDraws.src.Uint64())/math.MaxUint64 < g.o.BadLines && g.err == nil {
		g.emitBad()
	}
}

// record ends a line that is a record and writes it.
func (g *generator) record(tag string) {
	g.stats.Records[tag]++
	g.end()
}

// end ends a line and writes it.
func (g *generator) end() {
	g.line = append(g.line, '\n')
	g.write()
}

func (g *generator) write() {
	n, err := g.out.Write(g.line)
	g.stats.Bytes += int64(n)
	g.stats.Lines++
	if g.err == nil {
		g.err = err
	}
}
