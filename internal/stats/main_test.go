package stats_test

import (
	"cmp"
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/stats"
	"github.com/smpq/smpq/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// reference is the folder with what a smp-server wrote.
const reference = "../../testdata/smp-server-6.5.5/5-operator/running/"

func readFile(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A source is a router and its store, of which a test says what they count.
type source struct {
	counters router.Counters
	state    router.State

	mu        sync.Mutex // guards what follows
	entities  store.Entities
	messages  int64
	err       error
	uncounted error // why messages cannot be counted; nil: see err
	counted   int   // how often messages were counted
	now       time.Time
	looks     int // at the clock
}

func (s *source) Counters() *router.Counters   { return &s.counters }
func (s *source) State() router.State          { return s.state }
func (s *source) CacheStats() store.CacheStats { return store.CacheStats{Queues: 3} }

func (s *source) Entities(context.Context) (store.Entities, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entities, s.err
}

func (s *source) CountLiveMessages(context.Context) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counted++
	return s.messages, cmp.Or(s.uncounted, s.err)
}

func (s *source) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.looks++
	return s.now
}

func (s *source) setClock(to time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = to
}

// at parses a time.
func at(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// looked returns how often somebody has looked at the clock.
func (s *source) looked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.looks
}

// open returns the statistics of a source in a folder.
func open(t testing.TB, s *source, folder string, change ...func(*stats.Options)) *stats.Statistics {
	t.Helper()
	o := stats.Options{
		Router: s, Store: s, Folder: folder, Daily: true, Metrics: time.Millisecond, Version: "6.5.5.0",
		RTSOptions: "set SMP_RTS_OPTIONS", Now: s.clock, Tick: time.Millisecond,
	}
	for _, f := range change {
		f(&o)
	}
	st, err := stats.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// run lets statistics run until stop is called.
func run(t testing.TB, st *stats.Statistics) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		st.Run(ctx)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	t.Cleanup(stop)
	return stop
}

// eventually waits until something is so.
func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s does not happen", what)
		}
	}
}
