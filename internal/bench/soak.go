package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// SoakOptions say what [Soak] does.
type SoakOptions struct {
	RunOptions
	// Interval is how long the measurements are that are compared.
	Interval time.Duration
	// Report is called after each of them.
	Report func(Point)
}

// A Point is what was measured in an interval of a soak.
type Point struct {
	Time      float64 `json:"seconds"` // since the load began, at the end of the interval
	PerSecond float64 `json:"sends_per_second"`
	Send      float64 `json:"send_p99_ms"`
	Deliver   float64 `json:"deliver_p99_ms"`
	Ack       float64 `json:"acknowledge_p99_ms"`
	Errors    int64   `json:"errors"`
	Process   *Sample `json:"process,omitempty"` // the router's; nil: it cannot be looked at
}

// A SoakReport is what [Soak] has found.
type SoakReport struct {
	At            time.Time `json:"at"` // when the load began
	Router        string    `json:"router"`
	Connections   int       `json:"connections"`
	Subscriptions int       `json:"subscriptions"`
	MessageSize   int       `json:"message_bytes"`
	Rate          float64   `json:"rate,omitempty"`
	WarmUp        float64   `json:"warm_up_seconds"`
	Seconds       float64   `json:"seconds"` // after warm-up
	Interrupted   bool      `json:"interrupted"`
	Messages      int64     `json:"messages"` // sent after warm-up
	Steps         []Step    `json:"steps"`    // after warm-up
	Behind        int64     `json:"behind,omitempty"`
	Unfinished    int       `json:"unfinished"`
	Errors        []Error   `json:"errors"`
	Points        []Point   `json:"points"`
	Changes       []Change  `json:"changes"` // after warm-up; none if the time was too short
	Failures      []string  `json:"failures"`
}

// A Change is how something differs between the first and the last third of a soak: of
// both, the median counts or, of memory, the least, which is what there is after garbage
// was collected.
type Change struct {
	What  string  `json:"what"`
	First float64 `json:"first"`
	Last  float64 `json:"last"`
	Limit float64 `json:"limit"` // of last; above, it is a failure
	OK    bool    `json:"ok"`
}

// What a soak allows.
const (
	goroutineGrowth = 1.02
	memoryGrowth    = 1.1
	latencyGrowth   = 2
	// latencyFloor is a p99 in milliseconds that is good in any case.
	latencyFloor = 50
)

// Soak puts load on a router for a long time, and looks for errors and for what gets
// worse. What it finds is no error: the report has it in Failures. When ctx ends, it
// ends early.
func Soak(ctx context.Context, o SoakOptions) (r SoakReport, err error) {
	l, err := Open(ctx, o.Options)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, l.Close(ctx)) }()
	l.Start()
	o.Progress.Phase("soaking", int64((o.WarmUp+o.Duration)/time.Second), "seconds")
	r = SoakReport{
		At: l.origin.UTC(), Router: o.Router.String(), Connections: o.Connections, Subscriptions: o.Connections * o.Queues,
		MessageSize: l.o.Size, Rate: o.Rate, Points: []Point{}, Changes: []Change{}, Failures: []string{},
	}
	warmUp, all := newFigures(), newFigures()
	for ctx.Err() == nil && (warmUp.Time < o.WarmUp || all.Time < o.Duration) {
		l.pass(ctx, o.Interval)
		figures := l.Take()
		p := figures.point(l.origin)
		if p.Process, err = sample(context.WithoutCancel(ctx), o.Process); err != nil {
			return r, err
		}
		r.Points = append(r.Points, p)
		o.Report(p)
		if warmUp.Time < o.WarmUp {
			warmUp.Merge(figures)
		} else {
			all.Merge(figures)
		}
	}
	r.Interrupted = ctx.Err() != nil
	r.Unfinished = l.drain(ctx)
	end := l.Take()
	r.WarmUp, r.Seconds, r.Steps, r.Messages, r.Behind = warmUp.Time.Seconds(), all.Time.Seconds(), all.steps(), all.Steps[sending].Count(), end.Behind
	for what, n := range warmUp.Errors {
		all.Errors[what] += n
	}
	for what, n := range end.Errors {
		all.Errors[what] += n
	}
	r.Errors = all.errors()
	r.judge()
	return r, nil
}

func (f *Figures) point(origin time.Time) Point {
	p := Point{
		Time: math.Round(1000*time.Since(origin).Seconds()) / 1000, PerSecond: perSecond(f.Steps[sending].Count(), f.Time),
		Send: milliseconds(f.Steps[sending].Quantile(0.99)), Deliver: milliseconds(f.Steps[delivery].Quantile(0.99)), Ack: milliseconds(f.Steps[acknowledging].Quantile(0.99)),
	}
	for _, n := range f.Errors {
		p.Errors += n
	}
	return p
}

// judge sets what has changed, and what is wrong.
func (r *SoakReport) judge() {
	for _, e := range r.Errors {
		r.Failures = append(r.Failures, fmt.Sprintf("%d times: %s", e.Count, e.What))
	}
	if r.Unfinished > 0 {
		r.Failures = append(r.Failures, fmt.Sprintf("%d messages were not delivered and acknowledged", r.Unfinished))
	}
	var points []Point
	for _, p := range r.Points {
		if p.Time > r.WarmUp+1 {
			points = append(points, p)
		}
	}
	if len(points) < 6 {
		return
	}
	third := len(points) / 3
	first, last := points[:third], points[len(points)-third:]
	compare := func(what string, of func([]float64) float64, growth, floor float64, value func(*Point) float64) {
		c := Change{What: what, First: of(each(first, value)), Last: of(each(last, value))}
		c.Limit = max(c.First*growth, floor)
		c.OK = c.Last <= c.Limit
		r.Changes = append(r.Changes, c)
		if !c.OK {
			r.Failures = append(r.Failures, fmt.Sprintf("%s: %.4g, was %.4g", what, c.Last, c.First))
		}
	}
	compare("send_p99_ms", median, latencyGrowth, latencyFloor, func(p *Point) float64 { return p.Send })
	compare("deliver_p99_ms", median, latencyGrowth, latencyFloor, func(p *Point) float64 { return p.Deliver })
	compare("acknowledge_p99_ms", median, latencyGrowth, latencyFloor, func(p *Point) float64 { return p.Ack })
	if slices.ContainsFunc(points, func(p Point) bool { return p.Process == nil }) {
		return
	}
	compare("goroutines", median, goroutineGrowth, 0, func(p *Point) float64 { return float64(p.Process.Goroutines) })
	compare("heap_bytes", slices.Min, memoryGrowth, 0, func(p *Point) float64 { return float64(p.Process.Heap) })
	compare("stack_bytes", slices.Min, memoryGrowth, 0, func(p *Point) float64 { return float64(p.Process.Stacks) })
	compare("rss_bytes", slices.Min, memoryGrowth, 0, func(p *Point) float64 { return float64(p.Process.RSS) })
}

func each(points []Point, value func(*Point) float64) []float64 {
	values := make([]float64, len(points))
	for i := range points {
		values[i] = value(&points[i])
	}
	return values
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
