package bench

import (
	"bytes"
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"syscall"
	"time"
)

// A Sample is what a process uses.
type Sample struct {
	Goroutines int64   `json:"goroutines"`
	Heap       int64   `json:"heap_bytes"`  // that was in use when garbage was last collected
	Stacks     int64   `json:"stack_bytes"` // of goroutines
	RSS        int64   `json:"rss_bytes"`   // all memory that it has; 0: the system does not tell
	CPU        float64 `json:"cpu_seconds"` // since the process began
}

// A Process is that of the router.
type Process interface {
	// Sample returns what it uses. With collect, garbage is collected before, and
	// what is free returned to the system.
	Sample(ctx context.Context, collect bool) (Sample, error)
}

// stackCollections is after how many collections of garbage the stacks of goroutines
// that wait are small: each halves them.
const stackCollections = 3

// Own returns what this process uses, as [Process] does.
func Own(collect bool) Sample {
	if collect {
		for range stackCollections {
			runtime.GC()
		}
		debug.FreeOSMemory()
	}
	read := []metrics.Sample{{Name: "/sched/goroutines:goroutines"}, {Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(read)
	value := func(i int) int64 { return int64(read[i].Value.Uint64()) } //nolint:gosec // far from the limit
	s := Sample{Goroutines: value(0), Heap: value(1), Stacks: value(2), RSS: resident()}
	var used syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &used) == nil {
		s.CPU = (time.Duration(used.Utime.Nano()) + time.Duration(used.Stime.Nano())).Seconds()
	}
	return s
}

// resident returns the memory of this process, 0 where there is no /proc (proc(5),
// statm).
func resident() int64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(text)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
