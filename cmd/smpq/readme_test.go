package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/pgtest"
)

// The session in the README is what the commands print.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```console\n")
	session, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("README.md has no session")
	}
	dir := t.TempDir()
	log, err := os.ReadFile("../../testdata/smp-server-6.5.5/1-storelog/memory/1-raw.log")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "smp-server-store.log"), log, 0o600); err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), dsnVariable+"="+pgtest.DSN(t))
	for step := range strings.SplitSeq(strings.TrimPrefix(session, "$ "), "\n$ ") {
		line, want, _ := strings.Cut(step, "\n")
		args := strings.Fields(line)
		cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
		cmd.Dir, cmd.Env = dir, env
		got, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", line, err, got)
		}
		if diff := cmp.Diff(withoutTimes(want), withoutTimes(string(got))); diff != "" {
			t.Errorf("%s (-README +printed):\n%s", line, diff)
		}
	}
}

// changing matches what differs from run to run.
var changing = regexp.MustCompile(`(?m)^(time|deleted before) .*`)

func withoutTimes(text string) string {
	return strings.TrimSpace(changing.ReplaceAllString(text, "$1"))
}
