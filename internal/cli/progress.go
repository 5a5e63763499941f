package cli

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
)

const (
	barInterval = 200 * time.Millisecond
	logInterval = 10 * time.Second
)

// Bytes is the unit of a phase that counts bytes; they are shown as KiB, MiB
// and so on.
const Bytes = "bytes"

// A Progress shows how far a long command has come: on a terminal with a bar
// that has rate and remaining time, else with a log line every 10 seconds. The
// work consists of phases, one after the other. All methods may be called from
// any goroutine, and on a nil Progress, which shows nothing.
type Progress struct {
	err *errorStream
	log *slog.Logger

	done atomic.Int64 // of the current phase

	mu    sync.Mutex
	phase *phase // nil before the first one

	stop    chan struct{} // closed by Close
	stopped chan struct{} // closed when the goroutine has ended
}

// A phase is guarded by Progress.mu.
type phase struct {
	name   string
	unit   string
	total  int64 // 0 if unknown
	start  time.Time
	logged bool
	bar    *progressbar.ProgressBar // nil if there is no terminal
	drawn  bytes.Buffer             // what bar writes
}

// Progress starts to show progress; nil, which shows nothing, with --quiet.
// The caller must Close it before it prints results.
func (c *Console) Progress() *Progress {
	if c.quiet {
		return nil
	}
	p := &Progress{
		err:     c.err,
		log:     c.log,
		stop:    make(chan struct{}),
		stopped: make(chan struct{}),
	}
	go p.run()
	return p
}

// Phase begins the next phase: its name, how many units of work it has (0 or
// less if that is not known), and what they are called, in the plural.
func (p *Progress) Phase(name string, total int64, unit string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endPhase()
	p.done.Store(0)
	p.phase = &phase{name: name, unit: unit, total: max(total, 0), start: time.Now()}
	if p.err.terminal {
		p.phase.bar = newBar(p.phase, p.err.width())
		p.show()
	}
}

// Add says that n more units of the phase's work are done. It is cheap.
func (p *Progress) Add(n int64) {
	if p != nil {
		p.done.Add(n)
	}
}

// Close ends the last phase and removes the bar. A second Close does nothing.
func (p *Progress) Close() {
	if p == nil {
		return
	}
	p.mu.Lock()
	p.endPhase()
	select {
	case <-p.stop:
	default:
		close(p.stop)
	}
	p.mu.Unlock()
	<-p.stopped
}

// run shows the current phase again and again until Close.
func (p *Progress) run() {
	defer close(p.stopped)
	interval := logInterval
	if p.err.terminal {
		interval = barInterval
	}
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-ticks.C:
			p.mu.Lock()
			if p.phase != nil {
				p.show()
			}
			p.mu.Unlock()
		}
	}
}

// show draws the bar or logs a line. It needs p.mu and a phase.
func (p *Progress) show() {
	ph, done := p.phase, p.done.Load()
	if ph.bar == nil {
		ph.logged = true
		p.log.Info(ph.name, ph.attrs(done)...)
		return
	}
	ph.drawn.Reset()
	if ph.total > 0 {
		done = min(done, ph.total-1) // at the total the bar would end
	}
	_ = ph.bar.Set64(done) // writes to a buffer
	p.err.draw(strings.Trim(ph.drawn.String(), "\r\n"))
}

// endPhase forgets the current phase. A phase that was logged gets a last line.
// It needs p.mu.
func (p *Progress) endPhase() {
	if p.phase == nil {
		return
	}
	if p.phase.logged {
		p.show()
	}
	p.phase = nil
	p.err.draw("")
}

// attrs describes a phase for the log.
func (ph *phase) attrs(done int64) []any {
	attrs := []any{slog.String("done", quantity(done, ph.unit))}
	if ph.total > 0 {
		attrs = append(attrs,
			slog.String("total", quantity(ph.total, ph.unit)),
			slog.String("percent", fmt.Sprintf("%.0f", 100*float64(done)/float64(ph.total))))
	}
	elapsed := time.Since(ph.start)
	if done == 0 || elapsed <= 0 {
		return attrs
	}
	rate := float64(done) / elapsed.Seconds()
	speed := quantity(int64(rate), ph.unit)
	if rate < 10 && ph.unit != Bytes {
		speed = fmt.Sprintf("%.1f %s", rate, ph.unit)
	}
	attrs = append(attrs, slog.String("rate", speed+"/s"))
	if left := ph.total - done; left > 0 {
		eta := time.Duration(float64(left) / rate * float64(time.Second)).Round(time.Second)
		attrs = append(attrs, slog.Duration("left", eta))
	}
	return attrs
}

// quantity renders a number of units: "1200 queues", "3.4 MiB".
func quantity(n int64, unit string) string {
	if unit == Bytes {
		return FormatBytes(n)
	}
	return fmt.Sprintf("%d %s", n, unit)
}

func newBar(ph *phase, columns int) *progressbar.ProgressBar {
	total := ph.total
	if total == 0 {
		total = -1
	}
	const besideBar = 62 // percentage, counts, rate, times
	return progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(&ph.drawn),
		progressbar.OptionSetDescription(ph.name+" "),
		progressbar.OptionSetWidth(max(columns-len(ph.name)-besideBar, 5)),
		progressbar.OptionShowCount(),
		progressbar.OptionShowBytes(ph.unit == Bytes),
		progressbar.OptionUseIECUnits(true),
		progressbar.OptionSetItsString(ph.unit),
		func(b *progressbar.ProgressBar) {
			if ph.unit != Bytes {
				progressbar.OptionShowIts()(b)
			}
		},
		progressbar.OptionUseANSICodes(true),
		progressbar.OptionSetSpinnerChangeInterval(0), // no goroutine of its own
		progressbar.OptionSetPredictTime(ph.total > 0),
		progressbar.OptionSetElapsedTime(true),
	)
}
