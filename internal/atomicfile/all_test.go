package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPlaceAll(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	must(t, PlaceAll([]Content{{in("a"), 0o640, []byte("1")}, {in("b"), 0o600, []byte("2")}}))
	expect(t, dir, "a=1", "b=2")
	if info, err := os.Stat(in("a")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("a: %v, %v", info.Mode(), err)
	}
	if err := PlaceAll([]Content{{in("c"), 0o600, []byte("3")}, {in("b"), 0o600, []byte("4")}}); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), in("b")) {
		t.Errorf("a file that exists: %v", err)
	}
	if err := PlaceAll([]Content{{in("c"), 0o600, nil}, {in("nosuch/d"), 0o600, nil}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that does not exist: %v", err)
	}
	other := create(t, in("d"), "x")
	if err := PlaceAll([]Content{{in("c"), 0o600, nil}, {in("d"), 0o600, nil}}); !errors.Is(err, ErrLocked) {
		t.Errorf("a file that another process writes: %v", err)
	}
	must(t, other.Close())
	expect(t, dir, "a=1", "b=2")
}

// If a later file cannot get its name, the earlier ones lose theirs.
func TestPlaceUndone(t *testing.T) {
	dir := t.TempDir()
	files := []*File{create(t, filepath.Join(dir, "a"), "1"), create(t, filepath.Join(dir, "b"), "2"), create(t, filepath.Join(dir, "c"), "3")}
	write(t, filepath.Join(dir, "b"), "came meanwhile")
	if err := place(files); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error: %v", err)
	}
	for _, f := range files {
		must(t, f.Close())
	}
	expect(t, dir, "b=came meanwhile")
}

// A file that is longer than allowed is like a full disk.
func TestPlaceAllWriteFails(t *testing.T) {
	dir := t.TempDir()
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &limit))
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1 << 20, Max: limit.Max}))
	err := PlaceAll([]Content{{filepath.Join(dir, "a"), 0o600, []byte("1")}, {filepath.Join(dir, "b"), 0o600, make([]byte, 1<<20+1)}})
	must(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &limit))
	if !errors.Is(err, unix.EFBIG) {
		t.Errorf("error: %v", err)
	}
	expect(t, dir)
}
