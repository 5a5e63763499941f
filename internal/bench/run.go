package bench

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"time"
)

// RunOptions say what [Run] does.
type RunOptions struct {
	Options
	// WarmUp is how long the load lasts before it is measured.
	WarmUp time.Duration
	// Duration is how long it is measured.
	Duration time.Duration
	// Process is that of the router; nil: it cannot be looked at.
	Process Process
	// Profile is told when the measurement begins and ends; nil: nobody is.
	Profile Profile
}

// A Profile is of what a router does while it is measured.
type Profile interface {
	Begin(context.Context) error
	End(context.Context) error
}

// Validate returns what is wrong with the options, nil if nothing is.
func (o *Options) Validate() error {
	switch {
	case o.Connections < 1 || o.Connections > 100_000:
		return errors.New("connections: want 1 to 100000")
	case o.Queues < 1 || o.Queues > 10_000:
		return errors.New("queues: want 1 to 10000 for a connection")
	case o.Size < 1 || o.Size > FullMessage:
		return errors.New("size of messages: want 1 to 16000 bytes")
	case o.Rate < 0 || math.IsInf(o.Rate, 0) || math.IsNaN(o.Rate):
		return errors.New("rate: want a number of messages a second")
	}
	return nil
}

// A Report is what [Run] has measured. Times are in seconds or, where the name says so,
// in milliseconds.
type Report struct {
	At          time.Time `json:"at"`     // when the measurement began
	Router      string    `json:"router"` // the address, without a password
	Version     int       `json:"version"`
	Connections int       `json:"connections"`
	Queues      int       `json:"queues"` // of each connection
	MessageSize int       `json:"message_bytes"`
	Rate        float64   `json:"rate,omitempty"` // messages a second that were due; 0: a closed loop
	WarmUp      float64   `json:"warm_up_seconds"`
	Seconds     float64   `json:"seconds"` // measured
	Interrupted bool      `json:"interrupted"`
	Steps       []Step    `json:"steps"` // of a message, in their order
	// Behind is how many messages were due and not sent: the load was more than the
	// router, or the loader, can bear.
	Behind int64 `json:"behind,omitempty"`
	// Unfinished is how many messages were not delivered and acknowledged in the end.
	Unfinished int     `json:"unfinished"`
	Errors     []Error `json:"errors"`
	// CPU is the time of the processor that the router's process used in the measured
	// time, without the database; LoadCPU that of the load.
	CPU     float64 `json:"router_cpu_seconds,omitempty"`
	LoadCPU float64 `json:"load_cpu_seconds"`
	// Process is what the router's process used in the end.
	Process *Sample `json:"process,omitempty"`
}

// A Step is what was measured of a step of messages.
type Step struct {
	Name      string   `json:"step"` // send, deliver or acknowledge
	Count     int64    `json:"count"`
	PerSecond float64  `json:"per_second"`
	Min       float64  `json:"min_ms"`
	Mean      float64  `json:"mean_ms"`
	P50       float64  `json:"p50_ms"`
	P90       float64  `json:"p90_ms"`
	P99       float64  `json:"p99_ms"`
	P999      float64  `json:"p999_ms"`
	Max       float64  `json:"max_ms"`
	Histogram []Bucket `json:"histogram"` // from the first to the last that is not empty
}

// A Bucket is how many latencies there are between two limits.
type Bucket struct {
	UpTo  float64 `json:"up_to_ms"`
	Count int64   `json:"count"`
}

// An Error is how often something went wrong.
type Error struct {
	What  string `json:"error"`
	Count int64  `json:"count"`
}

// drainTimeout is how long messages may take in the end that are under way.
const drainTimeout = 30 * time.Second

// Run puts load on a router and measures it. When ctx ends, it ends early, and reports
// what was measured so far.
func Run(ctx context.Context, o RunOptions) (r Report, err error) {
	l, err := Open(ctx, o.Options)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, l.Close(ctx)) }()
	l.Start()
	o.Progress.Phase("warming up", int64(o.WarmUp/time.Second), "seconds")
	l.pass(ctx, o.WarmUp)
	before := l.Take()
	began := time.Now()
	routerBefore, err := sample(ctx, o.Process)
	if err != nil {
		return r, err
	}
	if o.Profile != nil {
		if err := o.Profile.Begin(ctx); err != nil {
			return r, err
		}
	}
	ownBefore := Own(false)
	o.Progress.Phase("measuring", int64(o.Duration/time.Second), "seconds")
	l.pass(ctx, o.Duration)
	figures := l.Take()
	ownAfter := Own(false)
	routerAfter, err := sample(context.WithoutCancel(ctx), o.Process)
	if err == nil && o.Profile != nil {
		err = o.Profile.End(context.WithoutCancel(ctx))
	}
	if err != nil {
		return r, err
	}
	r = Report{
		At: began.UTC(), Router: o.Router.String(), Version: int(l.conns[0].client.Session().Version),
		Connections: o.Connections, Queues: o.Queues, MessageSize: o.Size, Rate: o.Rate,
		WarmUp: before.Time.Seconds(), Seconds: figures.Time.Seconds(), Interrupted: ctx.Err() != nil,
		Steps: figures.steps(), Unfinished: l.drain(ctx), LoadCPU: ownAfter.CPU - ownBefore.CPU,
	}
	if routerAfter != nil {
		r.CPU, r.Process = routerAfter.CPU-routerBefore.CPU, routerAfter
	}
	end := l.Take()
	r.Behind = end.Behind
	for _, f := range []*Figures{before, end} {
		for what, n := range f.Errors {
			figures.Errors[what] += n
		}
	}
	r.Errors = figures.errors()
	return r, nil
}

// sample returns what a process uses, nil if there is none.
func sample(ctx context.Context, p Process) (*Sample, error) {
	if p == nil {
		return nil, nil //nolint:nilnil // there is nothing, and nothing is wrong
	}
	s, err := p.Sample(ctx, false)
	return &s, err
}

// pass lets some time pass. It ends early when ctx does, or all connections are lost.
func (l *Load) pass(ctx context.Context, d time.Duration) {
	end := time.NewTimer(d)
	defer end.Stop()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		select {
		case <-end.C:
			return
		case <-ctx.Done():
			return
		case <-l.lost:
			return
		case <-second.C:
			l.o.Progress.Add(1)
		}
	}
}

// drain is Stop with a limit of time.
func (l *Load) drain(ctx context.Context) int {
	l.o.Progress.Phase("finishing", 0, "messages")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	return l.Stop(ctx)
}

var stepNames = [steps]string{"send", "deliver", "acknowledge"}

func (f *Figures) steps() []Step {
	all := make([]Step, steps)
	for i := range f.Steps {
		h := &f.Steps[i]
		all[i] = Step{
			Name: stepNames[i], Count: h.Count(), PerSecond: perSecond(h.Count(), f.Time),
			Min: milliseconds(h.Min()), Mean: milliseconds(h.Mean()), P50: milliseconds(h.Quantile(0.5)), P90: milliseconds(h.Quantile(0.9)),
			P99: milliseconds(h.Quantile(0.99)), P999: milliseconds(h.Quantile(0.999)), Max: milliseconds(h.Max()), Histogram: h.coarse(),
		}
	}
	return all
}

func (f *Figures) errors() []Error {
	all := []Error{}
	for _, what := range slices.Sorted(maps.Keys(f.Errors)) {
		all = append(all, Error{what, f.Errors[what]})
	}
	return all
}

// perSecond returns a rate to one decimal.
func perSecond(n int64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return math.Round(10*float64(n)/d.Seconds()) / 10
}

// milliseconds returns a duration to the microsecond.
func milliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}

// longest is the longest latency that has a bucket of its own.
const longest = 24 * time.Hour

// coarse returns the histogram with three limits to a power of ten: 1, 2, 5.
func (h *Histogram) coarse() []Bucket {
	all := []Bucket{}
	var before int64
	for unit := time.Microsecond; before < h.n && unit < longest; unit *= 10 {
		for _, limit := range []time.Duration{unit, 2 * unit, 5 * unit} {
			upTo := h.UpTo(limit)
			if upTo > 0 && before < h.n {
				all = append(all, Bucket{milliseconds(limit), upTo - before})
			}
			before = upTo
		}
	}
	if before < h.n {
		all = append(all, Bucket{milliseconds(h.max), h.n - before})
	}
	return all
}
