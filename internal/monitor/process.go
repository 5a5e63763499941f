package monitor

import (
	"bytes"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Process is what is known of the process itself.
type Process struct{ Start time.Time }

// WriteMetrics writes metrics of the process and of the Go runtime, by the names
// that the libraries of Prometheus use. What the system does not tell is absent.
func (p Process) WriteMetrics(w io.Writer) error {
	var t Text
	t.Gauge("process_start_time_seconds", "Start of the process, in seconds since 1970.", seconds(p.Start))
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) == nil {
		t.Counter("process_cpu_seconds_total", "Time of the processors, user and system.", timeval(usage.Utime)+timeval(usage.Stime))
	}
	if n, ok := residentMemory(); ok {
		t.Gauge("process_resident_memory_bytes", "Memory that is in use, in bytes.", n)
	}
	if files, err := os.ReadDir("/proc/self/fd"); err == nil {
		t.Gauge("process_open_fds", "Open files and connections.", float64(len(files)-1)) // without the folder itself
	}
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) == nil {
		t.Gauge("process_max_fds", "Files and connections that may be open.", float64(limit.Cur))
	}
	t.Gauge("go_info", "The release of Go.", 1, "version", runtime.Version())
	addRuntime(&t)
	_, err := t.WriteTo(w)
	return err
}

// addRuntime adds what the Go runtime says of itself.
func addRuntime(t *Text) {
	all := []struct {
		from, name, help string
		add              func(name, help string, value float64)
	}{
		{"/sched/goroutines:goroutines", "go_goroutines", "Goroutines that there are.", gauge(t)},
		{"/sched/gomaxprocs:threads", "go_sched_gomaxprocs_threads", "Processors that are used.", gauge(t)},
		{"/memory/classes/total:bytes", "go_memory_classes_total_bytes", "Memory that the runtime has from the system, in bytes.", gauge(t)},
		{"/memory/classes/heap/objects:bytes", "go_memstats_heap_alloc_bytes", "Memory of objects, garbage included, in bytes.", gauge(t)},
		{"/gc/heap/live:bytes", "go_gc_heap_live_bytes", "Memory of objects that were in use at the last collection, in bytes.", gauge(t)},
		{"/gc/heap/goal:bytes", "go_gc_heap_goal_bytes", "Memory of objects at which the next collection ends, in bytes.", gauge(t)},
		{"/gc/heap/allocs:bytes", "go_memstats_alloc_bytes_total", "Memory of all objects ever made, in bytes.", t.Counter},
		{"/gc/cycles/total:gc-cycles", "go_gc_cycles_total_gc_cycles_total", "Collections of garbage.", t.Counter},
		{"/cpu/classes/gc/total:cpu-seconds", "go_cpu_classes_gc_total_cpu_seconds_total", "Time of the processors for the collection of garbage, about.", t.Counter},
		{"/sync/mutex/wait/total:seconds", "go_sync_mutex_wait_total_seconds_total", "Time that goroutines have waited for locks, about.", t.Counter},
	}
	samples := make([]metrics.Sample, len(all))
	for i, one := range all {
		samples[i].Name = one.from
	}
	metrics.Read(samples)
	for i, one := range all {
		switch v := samples[i].Value; v.Kind() {
		case metrics.KindUint64:
			one.add(one.name, one.help, float64(v.Uint64()))
		case metrics.KindFloat64:
			one.add(one.name, one.help, v.Float64())
		case metrics.KindBad, metrics.KindFloat64Histogram: // not in this release
		}
	}
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		t.Gauge("go_gc_gomemlimit_bytes", "Limit of memory that the runtime keeps to if it can, in bytes.", float64(limit))
	}
}

func gauge(t *Text) func(name, help string, value float64) {
	return func(name, help string, value float64) { t.Gauge(name, help, value) }
}

func seconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

func timeval(t syscall.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }

// residentMemory returns the memory of the process in bytes.
func residentMemory() (float64, bool) {
	text, err := os.ReadFile("/proc/self/statm")
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 2 {
		return 0, false
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return float64(pages) * float64(os.Getpagesize()), err == nil
}

// Memory returns how many bytes of memory the process can have: those of the
// machine, or of its control group if that has less. 0: the system does not tell.
func Memory() int64 {
	least := int64(0)
	for _, limit := range []int64{
		machineMemory(),
		groupMemory("/sys/fs/cgroup" + group() + "/memory.max"),
		groupMemory("/sys/fs/cgroup/memory.max"), // of a container
		groupMemory("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
	} {
		if limit > 0 && (least == 0 || limit < least) {
			least = limit
		}
	}
	return least
}

// machineMemory returns how many bytes the machine has, or 0.
func machineMemory() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(text, []byte("MemTotal:"))
	fields := bytes.Fields(rest)
	if len(fields) < 2 {
		return 0
	}
	kib, err := strconv.ParseInt(string(fields[0]), 10, 54)
	if err != nil {
		return 0
	}
	return kib << 10
}

// group returns the path of the control group of the process, empty if it has none.
func group() string {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if path, found := strings.CutPrefix(line, "0::"); found {
			return filepath.Clean("/" + strings.TrimSuffix(path, "\n"))
		}
	}
	return ""
}

// groupMemory returns the limit in a file of a control group, or 0.
func groupMemory(file string) int64 {
	text, err := os.ReadFile(file) //nolint:gosec // one that the system has
	if err != nil {
		return 0
	}
	limit, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64)
	if err != nil {
		return 0 // "max"
	}
	return limit
}
