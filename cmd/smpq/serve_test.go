package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// A router is set up the first time, serves, keeps its queues and its identity, and
// stops when it is asked to.
func TestServe(t *testing.T) {
	data := filepath.Join(openTempDir(t), "data")
	serving := regexp.MustCompile(`msg=serving address=.*:([0-9]+) identity="?([^"\n]+)`)
	identity := ""
	for range 2 {
		cmd := exec.CommandContext(t.Context(), "smpq", "serve", "--data", data, "--set", "TRANSPORT.port=0")
		out, err := cmd.StderrPipe()
		must(t, err)
		must(t, cmd.Start())
		var log strings.Builder
		lines := bufio.NewScanner(io.TeeReader(out, &log))
		var found []string
		for found == nil && lines.Scan() {
			found = serving.FindStringSubmatch(lines.Text())
		}
		if found == nil {
			t.Fatalf("it does not serve: %v\n%s", cmd.Wait(), log.String())
		}
		if identity != "" && found[2] != identity {
			t.Errorf("identity %s, was %s", found[2], identity)
		}
		identity = found[2]
		address := "smp://" + identity + "@127.0.0.1:" + found[1]
		smpq(t, "probe", address, "--proxy", address).expect(t, 0, "\nacknowledge", "\ndelete")
		must(t, cmd.Process.Signal(syscall.SIGTERM))
		for lines.Scan() {
			continue
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("it ended with %v\n%s", err, log.String())
		}
	}
	config := filepath.Join(data, "router", configName)
	smpq(t, "serve", "--data", data, "--check").expect(t, 0, "all is well", "ca.key is on this machine")
	smpq(t, "inspect", "counts", "--data", data).expect(t, 0, "queues")
	smpq(t, "serve", "--data", data, "--set", "STORE_LOG.store_queues=memory", "--set", "STORE_LOG.store_messages=memory", "--check").
		expect(t, 1, "smpq import storelog FILE --config "+config)
	smpq(t, "serve", "--data", data, "--set", "queue_quot=1").expect(t, 1, "queue_quota")
	must(t, os.Remove(filepath.Join(data, "router", "server.key")))
	smpq(t, "serve", "--data", data, "--check").expect(t, 1, "server.key", "smpq cert rotate --config "+config)
}
