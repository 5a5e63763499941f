package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// A folder is there when it is complete, or not at all; two processes do not
// meet, and what a killed one has left is removed.
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	leftover, err := CreateFolder(in("a"))
	must(t, err)
	must(t, os.Mkdir(filepath.Join(leftover.Temp(), "sub"), 0o700))
	if _, err := CreateFolder(in("a")); !errors.Is(err, ErrLocked) {
		t.Errorf("while it is made: %v", err)
	}
	must(t, leftover.dir.Close()) // as if killed

	f, err := CreateFolder(in("a"))
	must(t, err)
	if !f.Removed() {
		t.Error("the leftover was not removed")
	}
	write(t, filepath.Join(f.Temp(), "file"), "1")
	must(t, f.Sync())
	must(t, f.Place())
	must(t, f.Close())
	if data, err := os.ReadFile(in("a/file")); err != nil || string(data) != "1" {
		t.Errorf("%q, %v", data, err)
	}

	f, err = CreateFolder(in("a"))
	must(t, err)
	if err := f.Place(); !errors.Is(err, fs.ErrExist) {
		t.Errorf("in the place of another: %v", err)
	}
	must(t, f.Close())
	expectNames(t, dir, "a")

	write(t, in("b"+Suffix), "a file")
	if _, err := CreateFolder(in("b")); err == nil {
		t.Error("a file is in the way")
	}
	if _, err := CreateFolder(in("none/c")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

func expectNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for i, e := range entries {
		if i >= len(want) || e.Name() != want[i] {
			t.Errorf("there is %s", e.Name())
		}
	}
	if len(entries) != len(want) {
		t.Errorf("%d names", len(entries))
	}
}
