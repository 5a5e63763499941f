package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A result is how a run of the program ended.
type result struct {
	stdout, stderr string
	status         int   // -1: ended by a signal
	memory         int64 // the most that it had, in bytes
}

// smpq runs the program to its end.
func smpq(t testing.TB, args ...string) result {
	t.Helper()
	return finish(t, exec.CommandContext(t.Context(), "smpq", args...))
}

// finish runs a command, or waits for one that runs.
func finish(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	if cmd.Process == nil {
		start(t, cmd)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	r := result{stdout: cmd.Stdout.(*bytes.Buffer).String(), stderr: cmd.Stderr.(*bytes.Buffer).String(), status: cmd.ProcessState.ExitCode()}
	r.memory = cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	return r
}

// start starts a command whose output is kept.
func start(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	cmd.Stdout, cmd.Stderr = new(bytes.Buffer), new(bytes.Buffer)
	must(t, cmd.Start())
}

// expect checks how a run ended, and for each text that one of its outputs has it.
func (r result) expect(t testing.TB, status int, texts ...string) {
	t.Helper()
	if r.status != status {
		t.Errorf("exit status %d, want %d", r.status, status)
	}
	for _, text := range texts {
		if !strings.Contains(r.stdout, text) && !strings.Contains(r.stderr, text) {
			t.Errorf("it does not say %q", text)
		}
	}
	if status != 0 && strings.Contains(r.stderr, "goroutine ") {
		t.Error("it crashed")
	}
	if t.Failed() {
		t.Fatalf("standard output:\n%s\nstandard error:\n%s", r.stdout, r.stderr)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A logFolder is a folder with a store log, in which nothing else is to appear.
type logFolder struct {
	dir, log string
	before   map[string]string
}

// newLogFolder returns a folder with a log.
func newLogFolder(t testing.TB, log []byte) *logFolder {
	t.Helper()
	dir := t.TempDir()
	f := &logFolder{dir: dir, log: filepath.Join(dir, "store.log")}
	must(t, os.WriteFile(f.log, log, 0o600))
	f.before = f.files(t)
	return f
}

// queueLog returns a log with so many queues, which have links with so many bytes
// of data.
func queueLog(queues, linkBytes int) []byte {
	const line = "CREATE rid=AAAAAAAAAAAAAAAAAAAAAAAA%08d rk=MCowBQYDK2VwAyEAiojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=" +
		" rdh=QOR6P1Jb3KxJHUGJeNfbWvYjrHr-diPG14pdT86dD2M= sid=BBBBBBBBBBBBBBBBBBBBBBBB%08d sk= queue_mode=C" +
		" link_id=CCCCCCCCCCCCCCCCCCCCCCCC%08d queue_data=AAAA %s\n"
	data := make([]byte, linkBytes)
	if _, err := rand.NewChaCha8([32]byte{}).Read(data); err != nil {
		panic(err) // never
	}
	text := base64.URLEncoding.EncodeToString(data)
	var log bytes.Buffer
	for i := range queues {
		fmt.Fprintf(&log, line, i, i, i, text)
	}
	return log.Bytes()
}

// largeLog returns a log of 70 MB, more than is sorted in memory, of lines that are
// short enough to be sorted.
func largeLog() []byte { return queueLog(19_000, 2500) }

// files returns the files of the folder with their content.
func (f *logFolder) files(t testing.TB) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(f.dir)
	must(t, err)
	files := make(map[string]string)
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		content, err := os.ReadFile(filepath.Join(f.dir, e.Name()))
		must(t, err)
		files[e.Name()] = string(content)
	}
	return files
}

// unchanged checks that the folder is as it was.
func (f *logFolder) unchanged(t testing.TB) {
	t.Helper()
	if diff := cmp.Diff(f.before, f.files(t)); diff != "" {
		t.Errorf("files (-before +after):\n%.2000s", diff)
	}
}
