package compact

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/atomicfile"
	"github.com/smpq/smpq/internal/storelog"
)

const (
	oldLog = "the old log"
	newLog = "the new log"
)

// whatRoutersRead returns what a router takes for its log.
func whatRoutersRead(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name + storelog.StartSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		content, err = os.ReadFile(name)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// newFile returns a new log.
func newFile(t *testing.T, name string) *atomicfile.File {
	t.Helper()
	f, err := atomicfile.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // it may be removed already
	if _, err := f.Write([]byte(newLog)); err != nil {
		t.Fatal(err)
	}
	return f
}

// After each step of a swap, wherever the process or the machine stops, a router
// reads one of the two logs, whole; and the old one is there.
func TestSwapStopped(t *testing.T) {
	for _, tc := range []struct {
		name                  string
		unfinished, hardLinks bool
		steps                 int
	}{
		{"hard links", false, true, 2},
		{"no hard links", false, false, 3},
		{"unfinished", true, true, 3},
	} {
		for stop := range tc.steps + 1 {
			t.Run(fmt.Sprintf("%s, stopped after %d steps", tc.name, stop), func(t *testing.T) {
				name := filepath.Join(t.TempDir(), "store.log")
				s := swap{name: name, file: newFile(t, name), now: time.Now(), unfinished: tc.unfinished}
				write := func(name, content string) {
					t.Helper()
					if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				if tc.unfinished {
					write(name+storelog.StartSuffix, oldLog)
					write(name, "the n")
				} else {
					write(name, oldLog)
				}
				steps := s.steps(tc.hardLinks)
				if len(steps) != tc.steps {
					t.Fatalf("%d steps, not %d", len(steps), tc.steps)
				}
				if err := s.take(steps[:stop]); err != nil {
					t.Fatal(err)
				}
				want := map[bool]string{false: oldLog, true: newLog}[stop == len(steps)]
				if got := whatRoutersRead(t, name); got != want {
					t.Errorf("a router reads %q, want %q", got, want)
				}
				if tc.hardLinks && !tc.unfinished {
					if _, err := os.Stat(name); err != nil {
						t.Errorf("the log is not there: %v", err)
					}
				}
				var contents []string
				files, err := filepath.Glob(name + "*")
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range files {
					content, err := os.ReadFile(f)
					if err != nil {
						t.Fatal(err)
					}
					contents = append(contents, string(content))
				}
				if all := strings.Join(contents, ","); !strings.Contains(all, oldLog) || !strings.Contains(all, newLog) {
					t.Errorf("files %q with %q", files, contents)
				}
			})
		}
	}
}

// A swap that fails before the new log is in place leaves the old one as it was.
func TestSwapFails(t *testing.T) {
	for _, unfinished := range []bool{false, true} {
		name := filepath.Join(t.TempDir(), "store.log")
		old := name
		if unfinished {
			old += storelog.StartSuffix
		}
		if err := os.WriteFile(old, []byte(oldLog), 0o600); err != nil {
			t.Fatal(err)
		}
		s := swap{name: name, file: newFile(t, name), now: time.Now(), unfinished: unfinished}
		if err := os.Remove(s.file.Temp()); err != nil {
			t.Fatal(err)
		}
		if err := s.run(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("without a new log: %v", err)
		}
		if err := s.take([]func() error{s.moveToStart, s.undo}); !unfinished && err != nil {
			t.Error(err)
		}
		files, err := filepath.Glob(name + "*")
		if err != nil || len(files) != 1 || files[0] != old {
			t.Errorf("files %q, %v; want %q", files, err, old)
		}
	}
}
