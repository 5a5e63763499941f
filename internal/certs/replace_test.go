package certs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/atomicfile"
)

// If a later file cannot be replaced, the earlier ones get their old contents back;
// those that were not there go.
func TestSwapUndone(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"a", "c"} {
		must(t, os.WriteFile(in(name), []byte("old "+name), 0o640))
	}
	var all []*replacement
	for _, name := range []string{"a", "b", "c"} {
		r, err := prepare(atomicfile.Content{Name: in(name), Mode: 0o600, Data: []byte("new")})
		must(t, err)
		all = append(all, r)
	}
	must(t, os.Remove(all[2].file.Temp()))
	if err := swap(time.Now(), all); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	for _, r := range all[:2] {
		must(t, r.file.Close())
	}
	got := make(map[string]string)
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		text, err := os.ReadFile(in(e.Name()))
		must(t, err)
		got[e.Name()] = string(text)
	}
	if diff := cmp.Diff(map[string]string{"a": "old a", "c": "old c"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Where there are no hard links, the old file is copied.
func TestKeepCopy(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a")
	must(t, os.WriteFile(name, []byte("old"), 0o600))
	r := &replacement{name: name}
	must(t, r.copy(name+".bak"))
	text, err := os.ReadFile(name + ".bak")
	if must(t, err); string(text) != "old" {
		t.Errorf("kept %q", text)
	}
	if err := r.copy(name + ".bak"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second copy: %v", err)
	}
}
