package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/gen"
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

// newLogFolder returns a folder with a generated log.
func newLogFolder(t testing.TB, o gen.Options) *logFolder {
	t.Helper()
	dir := t.TempDir()
	f := &logFolder{dir: dir, log: filepath.Join(dir, "store.log")}
	file, err := os.Create(f.log)
	must(t, err)
	_, err = gen.Write(file, o)
	must(t, errors.Join(err, file.Close()))
	f.before = f.files(t)
	return f
}

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
