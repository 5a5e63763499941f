package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quiet is a Progress that shows nothing.
type quiet struct{}

func (quiet) Phase(string, int64, string) {}
func (quiet) Add(int64)                   {}

// A census counts what a router was asked for, and may answer.
type census struct {
	mu     sync.Mutex
	counts map[string]int
	after  func(tag string, n int) (smp.Response, bool) // nil: nothing
}

func (c *census) answer(command smp.Command, _ *smp.Transmission) (smp.Response, bool) {
	tag := strings.TrimPrefix(fmt.Sprintf("%T", command), "*smp.")
	c.mu.Lock()
	if c.counts == nil {
		c.counts = make(map[string]int)
	}
	c.counts[tag]++
	n := c.counts[tag]
	c.mu.Unlock()
	if c.after == nil {
		return nil, false
	}
	return c.after(tag, n)
}

func (c *census) count(tag string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[tag]
}

// deleted checks that no queue is left.
func (c *census) deleted(t *testing.T) {
	t.Helper()
	if made, deleted := c.count("NEW"), c.count("DEL"); made != deleted {
		t.Errorf("%d queues made, %d deleted", made, deleted)
	}
}

// start starts a router in memory.
func start(t *testing.T, c *census, versions smp.VersionRange) (*routertest.Router, RunOptions) {
	t.Helper()
	password, err := smp.ParsePassword("secret")
	if err != nil {
		t.Fatal(err)
	}
	r := routertest.Start(t, routertest.Options{Versions: versions, Password: password, Answer: c.answer})
	return r, RunOptions{
		Options:  Options{Router: r.Address(), Connections: 3, Queues: 2, Size: 100, Progress: quiet{}},
		Duration: time.Hour,
	}
}

// until returns a context that ends when n commands of a kind have come.
func (c *census) until(t *testing.T, tag string, n int) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	c.after = func(got string, so int) (smp.Response, bool) {
		if got == tag && so == n {
			cancel()
		}
		return nil, false
	}
	return ctx
}

// A load sends messages, which are delivered and acknowledged; in the end there are no
// queues any more. An interrupt ends it with the figures so far.
func TestRun(t *testing.T) {
	for _, v := range []smp.VersionRange{{}, {Min: smp.VersionBase, Max: smp.VersionBase}, {Min: smp.VersionSenderSecures, Max: smp.VersionSenderSecures}} {
		t.Run(v.String(), func(t *testing.T) {
			c := new(census)
			_, o := start(t, c, v)
			r, err := Run(c.until(t, "ACK", 50), o)
			if err != nil {
				t.Fatal(err)
			}
			if !r.Interrupted || len(r.Errors) > 0 || r.Unfinished > 0 || r.Behind > 0 || r.Seconds <= 0 {
				t.Errorf("%+v", r)
			}
			for i, s := range r.Steps {
				if s.Name != stepNames[i] || s.Count < 40 || s.Min <= 0 || s.P50 < s.Min || s.P90 < s.P50 || s.P99 < s.P90 || s.P999 < s.P99 || s.Max < s.P999 || s.PerSecond <= 0 {
					t.Errorf("%+v", s)
				}
			}
			if c.count("SEND") != c.count("ACK") {
				t.Errorf("%d sent, %d acknowledged", c.count("SEND"), c.count("ACK"))
			}
			c.deleted(t)
		})
	}
}

// A measurement also ends by itself, and says how long it was.
func TestRunEnds(t *testing.T) {
	c := new(census)
	_, o := start(t, c, smp.VersionRange{})
	o.WarmUp, o.Duration, o.Connections, o.Queues = 50*time.Millisecond, 50*time.Millisecond, 1, 1
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Interrupted || len(r.Errors) > 0 || r.Unfinished > 0 || r.Seconds < 0.05 || r.WarmUp < 0.05 || r.Connections != 1 {
		t.Errorf("%+v", r)
	}
	c.deleted(t)
}

// In an open loop, messages that are due while the router does not answer are late, each
// by the time since it was due.
func TestOpenLoop(t *testing.T) {
	const stall = 300 * time.Millisecond
	c := new(census)
	_, o := start(t, c, smp.VersionRange{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var began time.Time
	var held time.Duration
	c.after = func(tag string, n int) (smp.Response, bool) {
		switch {
		case tag == "SEND" && n == 1:
			began = time.Now()
			<-time.After(stall)
			held = time.Since(began)
		case tag == "SEND" && n == 400:
			cancel()
		}
		return nil, false
	}
	o.Connections, o.Rate = 1, 1000
	r, err := Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	var late int64
	for _, b := range r.Steps[sending].Histogram {
		if b.UpTo > 100 {
			late += b.Count
		}
	}
	// Of those that were due in the first 200 ms of it, each is later than 100 ms.
	if want := int64(held/time.Millisecond) - 110; late < want || r.Steps[sending].Max < 290 {
		t.Errorf("%d messages late, want %d; the latest by %g ms", late, want, r.Steps[sending].Max)
	}
	if len(r.Errors) > 0 || r.Unfinished > 0 || r.Rate != 1000 {
		t.Errorf("%+v", r)
	}
	c.deleted(t)
}

// When more is due than can be sent, the report says so.
func TestOverload(t *testing.T) {
	c := new(census)
	_, o := start(t, c, smp.VersionRange{})
	o.Rate = 10e6
	r, err := Run(c.until(t, "SEND", 20), o)
	if err != nil {
		t.Fatal(err)
	}
	if due := int64(r.Seconds * o.Rate); r.Behind < due/2 {
		t.Errorf("%d behind of %d that were due", r.Behind, due)
	}
}

// An open loop sends no faster than it should.
func TestOpenLoopRate(t *testing.T) {
	c := new(census)
	_, o := start(t, c, smp.VersionRange{})
	o.Rate = 100
	began := time.Now()
	r, err := Run(c.until(t, "SEND", 20), o)
	if err != nil {
		t.Fatal(err)
	}
	if most := int64(time.Since(began).Seconds()*o.Rate) + 1; r.Steps[sending].Count > most || time.Since(began) < 150*time.Millisecond {
		t.Errorf("%d messages in %v", r.Steps[sending].Count, time.Since(began))
	}
}

// What goes wrong is counted by what it is.
func TestRunErrors(t *testing.T) {
	c := new(census)
	_, o := start(t, c, smp.VersionRange{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var acks atomic.Int64
	c.after = func(tag string, n int) (smp.Response, bool) {
		if tag == "ACK" && acks.Add(1) == 30 {
			cancel()
		}
		if tag == "SEND" && n == 5 {
			return &smp.ERR{Err: smp.ErrQuota}, false
		}
		return nil, false
	}
	r, err := Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Error{{"SEND: QUOTA", 1}}, r.Errors); diff != "" || r.Unfinished != 0 {
		t.Errorf("errors (-want +got), and %d unfinished:\n%s", r.Unfinished, diff)
	}
	c.deleted(t)
}

// A message that is not acknowledged is said to be unfinished. What comes without
// having been sent is an error.
func TestRunUnfinished(t *testing.T) {
	c := new(census)
	_, o := start(t, c, smp.VersionRange{})
	o.Queues = 1
	l, err := Open(t.Context(), o.Options)
	if err != nil {
		t.Fatal(err)
	}
	acknowledged := make(chan struct{})
	c.after = func(tag string, n int) (smp.Response, bool) {
		if tag == "ACK" && n == 10 {
			close(acknowledged)
			return nil, true // no answer
		}
		return nil, false
	}
	l.Start()
	<-acknowledged
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if n := l.Stop(ctx); n != 1 {
		t.Errorf("%d unfinished", n)
	}
	if n := len(l.Take().Errors); n > 0 {
		t.Errorf("%d errors", n)
	}
	// The message is delivered again when somebody subscribes, which is not what the
	// load expects, nor is the end of its subscription.
	if err := l.subscribe(t.Context()); err != nil {
		t.Error(err)
	}
	other, err := client.Dial(t.Context(), o.Router, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	q := l.conns[0].inbox[0]
	if _, err := other.Do(t.Context(), client.Request{Entity: q.recipient, Key: q.recipientKey, Command: &smp.SUB{}}); err != nil {
		t.Error(err)
	}
	want := map[string]int64{"a message came that was not sent, or came again": 1, "event: *smp.END": 1}
	found := newFigures()
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	late := time.After(30 * time.Second)
	for !cmp.Equal(want, found.Errors) {
		select {
		case <-again.C:
			found.Merge(l.Take())
		case <-late:
			t.Fatalf("errors: %v", found.Errors)
		}
	}
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
	c.deleted(t)
}

// Connections that are lost are errors; their queues are deleted by others.
func TestLostConnections(t *testing.T) {
	c := new(census)
	router, o := start(t, c, smp.VersionRange{})
	l, err := Open(t.Context(), o.Options)
	if err != nil {
		t.Fatal(err)
	}
	acknowledged := make(chan struct{})
	c.after = func(tag string, n int) (smp.Response, bool) {
		if tag == "ACK" && n == 10 {
			close(acknowledged)
		}
		return nil, false
	}
	l.Start()
	<-acknowledged
	router.Disconnect()
	l.readers.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l.Stop(ctx)
	var lost int64
	for what, n := range l.Take().Errors {
		if !strings.HasPrefix(what, "a connection was lost: ") {
			t.Errorf("%d times %q", n, what)
		}
		lost += n
	}
	if lost != 3 {
		t.Errorf("%d connections lost", lost)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
	c.deleted(t)
}

// When no connection is left, there is nothing to wait for, and the report says why.
func TestRunLost(t *testing.T) {
	c := new(census)
	router, o := start(t, c, smp.VersionRange{})
	acknowledged := make(chan struct{})
	c.after = func(tag string, n int) (smp.Response, bool) {
		if tag == "ACK" && n == 10 {
			close(acknowledged)
		}
		return nil, false
	}
	go func() {
		<-acknowledged
		router.Disconnect()
	}()
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Interrupted || len(r.Errors) == 0 {
		t.Errorf("%+v", r)
	}
	c.deleted(t)
}

// When the queues cannot be made, those that are there are deleted, and an interrupt
// leaves none either.
func TestOpenFails(t *testing.T) {
	for _, interrupt := range []bool{false, true} {
		t.Run(fmt.Sprint(interrupt), func(t *testing.T) {
			c := new(census)
			_, o := start(t, c, smp.VersionRange{})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var refused atomic.Int64
			c.after = func(tag string, n int) (smp.Response, bool) {
				if tag != "NEW" || n < batch+10 {
					return nil, false
				}
				if interrupt {
					cancel()
					return nil, false
				}
				refused.Add(1)
				return &smp.ERR{Err: smp.ErrAuth}, false
			}
			o.Connections, o.Queues = 1, 3*batch
			_, err := Open(ctx, o.Options)
			if want := map[bool]error{false: smp.ErrAuth, true: context.Canceled}[interrupt]; !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
			if made, deleted := c.count("NEW")-int(refused.Load()), c.count("DEL"); made != deleted || made < batch+9 {
				t.Errorf("%d queues made, %d deleted", made, deleted)
			}
		})
	}
}

// A program is a process that uses what it is told.
type program struct {
	mu      sync.Mutex
	samples int
	use     func(n int, collect bool) Sample
}

func (p *program) Sample(_ context.Context, collect bool) (Sample, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.samples++
	return p.use(p.samples, collect), nil
}

// A soak finds what grows, and reports each interval.
func TestSoak(t *testing.T) {
	c := new(census)
	_, o := start(t, c, smp.VersionRange{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.Process = &program{use: func(n int, _ bool) Sample {
		return Sample{Goroutines: int64(100 + n), Heap: 1000, Stacks: 1000, RSS: 5000}
	}}
	o.Rate = 200
	points := 0
	report := func(p Point) {
		if points++; points == 11 {
			cancel()
		}
		if p.Process.Goroutines != int64(100+points) || p.Time <= 0 {
			t.Errorf("point %d: %+v", points, p)
		}
	}
	o.WarmUp = time.Nanosecond // one interval
	r, err := Soak(ctx, SoakOptions{RunOptions: o, Interval: 20 * time.Millisecond, Report: report})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Interrupted || len(r.Points) != points || points < 11 || len(r.Errors) > 0 || r.Unfinished > 0 || r.Subscriptions != 6 {
		t.Errorf("%+v", r)
	}
	c.deleted(t)
}

// What is compared is the first and the last third after the warm-up.
func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(i int, p *Point)
		want   []string
	}{
		{"nothing", func(int, *Point) {}, nil},
		{"warm-up", func(i int, p *Point) {
			if i == 0 {
				p.Deliver, p.Process.Heap = 9000, 1
			}
		}, nil},
		{"goroutines", func(i int, p *Point) { p.Process.Goroutines += int64(i * 10) }, []string{"goroutines: 1080, was 1020"}},
		{"memory", func(i int, p *Point) { p.Process.RSS += int64(i * 30) }, nil},
		{"more memory", func(i int, p *Point) { p.Process.RSS += int64(i * 100) }, []string{"rss_bytes: 5700, was 5100"}},
		{"memory that falls again", func(i int, p *Point) { p.Process.Heap += int64(i % 3 * i * 1000) }, nil},
		{"one outlier", func(i int, p *Point) {
			if i == 8 {
				p.Deliver = 9000
			}
		}, nil},
		{"latency", func(i int, p *Point) { p.Deliver += float64(100 * i) }, []string{"deliver_p99_ms: 810, was 210"}},
		{"latency that is good", func(i int, p *Point) { p.Send += float64(4 * i) }, nil},
		{"no process", func(_ int, p *Point) { p.Process = nil }, nil},
	} {
		r := SoakReport{WarmUp: 10, Failures: []string{}}
		for i := range 10 {
			p := Point{Time: float64(10 * (i + 1)), Send: 10, Deliver: 10, Ack: 10, Process: &Sample{Goroutines: 1000, Heap: 2000, Stacks: 3000, RSS: 5000}}
			c.change(i, &p)
			r.Points = append(r.Points, p)
		}
		r.judge()
		if got := strings.Join(r.Failures, "; "); got != strings.Join(c.want, "; ") {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	short := SoakReport{Points: make([]Point, 5), Errors: []Error{{"SEND: QUOTA", 2}}, Unfinished: 3}
	short.judge()
	if diff := cmp.Diff([]string{"2 times: SEND: QUOTA", "3 messages were not delivered and acknowledged"}, short.Failures); diff != "" || short.Changes != nil {
		t.Errorf("failures (-want +got), and changes %v:\n%s", short.Changes, diff)
	}
}

// Memory is divided by what has come with it.
func TestMemory(t *testing.T) {
	c := new(census)
	_, o := start(t, c, smp.VersionRange{})
	o.Connections, o.Queues = 10, 3
	p := &program{use: func(n int, collect bool) Sample {
		if !collect {
			t.Error("garbage is not collected")
		}
		return []Sample{{}, {RSS: 1000, Heap: 100, Stacks: 10}, {RSS: 11000, Heap: 1100, Stacks: 110}, {RSS: 13000, Heap: 2100, Stacks: 110}, {RSS: 13040, Heap: 2120, Stacks: 110}}[n]
	}}
	r, err := Memory(t.Context(), MemoryOptions{Options: o.Options, Process: p})
	if err != nil {
		t.Fatal(err)
	}
	type unit struct {
		units            int
		unit             string
		rss, heap, stack int64
	}
	var got []unit
	for _, s := range r.Stages {
		got = append(got, unit{s.Units, s.Unit, s.RSS, s.Heap, s.Stacks})
	}
	want := []unit{{}, {10, "connection", 1000, 100, 10}, {20, "queue", 100, 50, 0}, {20, "subscription", 2, 1, 0}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(unit{})); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
	if c.count("SUB") != 30 || c.count("SEND") != 20 || c.count("ACK") != 20 {
		t.Errorf("%d subscriptions, %d messages, %d acknowledged", c.count("SUB"), c.count("SEND"), c.count("ACK"))
	}
	c.deleted(t)
}

// This process uses something of everything.
func TestOwn(t *testing.T) {
	for _, collect := range []bool{false, true} {
		if s := Own(collect); s.Goroutines < 1 || collect && s.Heap < 1000 || s.Stacks < 1000 || s.RSS < 1000 || s.CPU <= 0 {
			t.Errorf("%+v", s)
		}
	}
}

// Options that make no sense are refused.
func TestValidate(t *testing.T) {
	good := Options{Connections: 1, Queues: 1, Size: 1}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for _, change := range []func(*Options){
		func(o *Options) { o.Connections = 0 },
		func(o *Options) { o.Queues = 0 },
		func(o *Options) { o.Size = FullMessage + 1 },
		func(o *Options) { o.Rate = -1 },
	} {
		o := good
		change(&o)
		if o.Validate() == nil {
			t.Errorf("%+v is good", o)
		}
	}
}
