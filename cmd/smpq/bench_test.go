package main

import (
	"encoding/csv"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/smpq/smpq/internal/bench"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
)

// benchRouter starts a router in memory, and returns its address and how many queues
// there are.
func benchRouter(t *testing.T, answer func(smp.Command) smp.Response) (address string, queues *atomic.Int64) {
	t.Helper()
	queues = new(atomic.Int64)
	r := routertest.Start(t, routertest.Options{Answer: func(c smp.Command, _ *smp.Transmission) (smp.Response, bool) {
		switch c.(type) {
		case *smp.NEW:
			queues.Add(1)
		case *smp.DEL:
			queues.Add(-1)
		}
		return answer(c), false
	}})
	t.Cleanup(func() {
		if n := queues.Load(); n != 0 {
			t.Errorf("%d queues are left", n)
		}
	})
	return probeAddress(r), queues
}

func unchanged(smp.Command) smp.Response { return nil }

// A router is measured with each number of connections.
func TestBenchRouter(t *testing.T) {
	address, _ := benchRouter(t, unchanged)
	args := []string{"bench", "router", address, "--yes", "--connections", "1,2", "--queues", "1", "--message-size", "10", "--duration", "100ms", "--warm-up", "0s"}
	r := smpq(t, args...)
	r.expect(t, 0, "CONNECTIONS", "1 connection with 1 queue each, messages of 10 bytes, closed loop", "\n2 connections", "up to", "acknowledge")
	for line := range strings.Lines(r.stdout) {
		if len(line) > 81 {
			t.Errorf("more than 80 columns: %s", line)
		}
	}
	r = smpq(t, append(args, "-o", "json", "--rate", "200")...)
	r.expect(t, 0)
	var result benchResult
	must(t, json.Unmarshal([]byte(r.stdout), &result))
	if len(result.Runs) != 2 || result.Runs[1].Connections != 2 || result.Runs[1].Rate != 200 || len(result.Runs[0].Steps) != 3 || result.Runs[0].Process != nil {
		t.Errorf("%+v", result)
	}
	r = smpq(t, append(args, "-o", "csv")...)
	r.expect(t, 0)
	lines, err := csv.NewReader(strings.NewReader(r.stdout)).ReadAll()
	must(t, err)
	if len(lines) != 7 || lines[0][2] != "per_second" || lines[6][1] != "acknowledge" {
		t.Errorf("%q", lines)
	}
}

// What goes wrong under load is a failure, with the figures.
func TestBenchRouterFails(t *testing.T) {
	address, _ := benchRouter(t, func(c smp.Command) smp.Response {
		if _, send := c.(*smp.SEND); send {
			return &smp.ERR{Err: smp.ErrQuota}
		}
		return nil
	})
	smpq(t, "bench", "router", address, "--yes", "--connections", "1", "--duration", "50ms", "--warm-up", "0s").
		expect(t, 1, "smpq: 1 connections: ", " times: SEND: QUOTA\n", "CONNECTIONS")
	smpq(t, "bench", "soak", address, "--yes", "--connections", "1", "--queues", "1", "--duration", "50ms", "--warm-up", "0s", "--interval", "50ms").
		expect(t, 1, " times: SEND: QUOTA\n", "msg=soak seconds=", "\nsubscriptions")
}

// An interrupt ends the measurement; the figures so far are printed, and no queue is left.
func TestBenchRouterInterrupted(t *testing.T) {
	sent := make(chan struct{})
	var n atomic.Int64
	address, _ := benchRouter(t, func(c smp.Command) smp.Response {
		if _, ack := c.(*smp.ACK); ack && n.Add(1) == 20 {
			close(sent)
		}
		return nil
	})
	cmd := exec.CommandContext(t.Context(), "smpq", "bench", "router", address, "--yes", "--connections", "2,3", "--duration", "1h", "--warm-up", "0s", "-o", "json")
	start(t, cmd)
	<-sent
	must(t, cmd.Process.Signal(os.Interrupt))
	r := finish(t, cmd)
	r.expect(t, 130, "interrupted")
	var result benchResult
	must(t, json.Unmarshal([]byte(r.stdout), &result))
	if len(result.Runs) != 1 || !result.Runs[0].Interrupted || result.Runs[0].Steps[0].Count < 19 {
		t.Errorf("%+v", result)
	}
}

func TestBenchUsage(t *testing.T) {
	address, queues := benchRouter(t, unchanged)
	for _, c := range []struct {
		says string
		args []string
	}{
		{"Do so only if it is yours. Standard input and error are not a terminal: say --yes", []string{"router", address}},
		{"say --yes", []string{"soak", address}},
		{"--data is for a router that this command starts", []string{"router", address, "--yes", "--data", "x"}},
		{"--set is for a router that this command starts", []string{"soak", address, "--yes", "--set", "queue_quota=1"}},
		{"--profile is for a router that this command starts", []string{"router", address, "--yes", "--profile", "x"}},
		{"ADDRESS: router address: ", []string{"router", "simplex.chat", "--yes"}},
		{"connections: want 1 to 100000", []string{"router", "--connections", "1,0"}},
		{"queues: want 1 to 10000", []string{"memory", "--queues", "0"}},
		{"size of messages: want 1 to 16000", []string{"router", "--message-size", "16001"}},
		{"--duration must be positive", []string{"soak", "--duration", "0s"}},
		{"--interval must be positive", []string{"soak", "--interval", "0s"}},
		{"--data is empty", []string{"memory", "--data", ""}},
		{"unexpected argument", []string{"memory", address}},
	} {
		smpq(t, append([]string{"bench"}, c.args...)...).expect(t, 2, c.says)
	}
	if queues.Load() != 0 {
		t.Error("a router was loaded")
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `ulimit -n 256; exec smpq bench router --connections 1000`)
	finish(t, cmd).expect(t, 1, "1000 connections need 1100 open files, and 256 are allowed")
}

// A router is started in a process of its own, measured, profiled and stopped. Another
// time it is the same one, and its memory is looked at.
func TestBenchOwnRouter(t *testing.T) {
	dir := openTempDir(t)
	data, profiles := filepath.Join(dir, "data"), filepath.Join(dir, "profiles")
	r := smpq(t, "bench", "router", "--data", data, "--connections", "2", "--duration", "200ms", "--warm-up", "0s", "--profile", profiles, "-o", "json")
	r.expect(t, 0, "starting a router")
	var result benchResult
	must(t, json.Unmarshal([]byte(r.stdout), &result))
	if run := result.Runs[0]; run.Process == nil || run.Process.Goroutines < 4 || run.CPU <= 0 || run.Unfinished != 0 {
		t.Errorf("%+v", run)
	}
	for _, name := range []string{"cpu.pprof", "heap.pprof"} {
		if info, err := os.Stat(filepath.Join(profiles, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	r = smpq(t, "bench", "memory", "--data", data, "--connections", "3", "--queues", "2", "--settle", "0s", "-o", "json")
	r.expect(t, 0)
	var memory bench.MemoryReport
	must(t, json.Unmarshal([]byte(r.stdout), &memory))
	if memory.Subscriptions != 6 || len(memory.Stages) != 4 || memory.Stages[1].Process.Goroutines < memory.Stages[0].Process.Goroutines+6 {
		t.Errorf("%+v", memory)
	}
	identity, _, _ := strings.Cut(memory.Router, "@")
	if !strings.HasPrefix(result.Runs[0].Router, identity+"@") {
		t.Errorf("first it was %s, then %s", result.Runs[0].Router, memory.Router)
	}
	smpq(t, "local", "status", "--data", data).expect(t, 0, "stopped")
	smpq(t, "inspect", "counts", "--data", data).expect(t, 0, "queues")
	smpq(t, "bench", "router", "--data", data, "--connections", "1", "--set", "queue_quot=1").
		expect(t, 1, "start a router: the router's process has ended", "queue_quota")
}
