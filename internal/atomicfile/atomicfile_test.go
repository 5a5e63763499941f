package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, name, text string) {
	t.Helper()
	must(t, os.WriteFile(name, []byte(text), 0o600))
}

// folder returns the files of a folder with their content: "a=text".
func folder(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var files []string
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		must(t, err)
		files = append(files, e.Name()+"="+string(content))
	}
	return files
}

func expect(t testing.TB, dir string, want ...string) {
	t.Helper()
	if got := folder(t, dir); !slices.Equal(got, want) {
		t.Errorf("the folder has %q, want %q", got, want)
	}
}

func create(t testing.TB, name, text string) *File {
	t.Helper()
	f, err := Create(name)
	must(t, err)
	_, err = f.Write([]byte(text))
	must(t, err)
	return f
}

func TestFile(t *testing.T) {
	for _, tc := range []struct {
		name  string
		old   bool // there is a file of the name
		place func(*File) error
		err   error
		want  string
	}{
		{"placed", false, (*File).Place, nil, "new"},
		{"placed on another", true, (*File).Place, fs.ErrExist, "old"},
		{"replacing nothing", false, (*File).Replace, nil, "new"},
		{"replacing another", true, (*File).Replace, nil, "new"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			name := filepath.Join(dir, "file")
			var before []string
			if tc.old {
				write(t, name, "old")
				before = folder(t, dir)
			}
			f := create(t, name, "new")
			expect(t, dir, append(before, "file"+Suffix+"=new")...)
			must(t, f.Chmod(0o640))
			must(t, f.Sync())
			if err := tc.place(f); !errors.Is(err, tc.err) {
				t.Errorf("error %v, want %v", err, tc.err)
			}
			must(t, f.Close())
			expect(t, dir, "file="+tc.want)
			info, err := os.Stat(name)
			must(t, err)
			if tc.want == "new" && info.Mode() != 0o640 {
				t.Errorf("mode %v", info.Mode())
			}
		})
	}
}

func TestFileClosedEarly(t *testing.T) {
	dir := t.TempDir()
	f := create(t, filepath.Join(dir, "file"), "half")
	must(t, f.Close())
	expect(t, dir)
}

// What a killed process has left is removed, and is not written to: it may have
// its final name as well.
func TestLeftover(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	write(t, name, "old")
	must(t, os.Link(name, name+Suffix))
	f := create(t, name, "new")
	if !f.Removed() {
		t.Error("it is not said")
	}
	must(t, f.Replace())
	must(t, f.Close())
	expect(t, dir, "file=new")
	f = create(t, name, "newer")
	if f.Removed() {
		t.Error("it is said again")
	}
	must(t, f.Close())
}

func TestInTheWay(t *testing.T) {
	for what, put := range map[string]func(name string) error{
		"folder": func(name string) error { return os.Mkdir(name, 0o700) },
		"pipe":   func(name string) error { return unix.Mkfifo(name, 0o600) },
		"link":   func(name string) error { return os.Symlink("precious", name) },
	} {
		dir := t.TempDir()
		name := filepath.Join(dir, "file")
		must(t, put(name+Suffix))
		_, err := Create(name)
		if err == nil || !strings.Contains(err.Error(), "in the way") || !strings.Contains(err.Error(), name+Suffix) {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := os.Lstat(name + Suffix); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Of many who write a file at the same time, one does, and the others say so.
func TestLocked(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	var (
		all  sync.WaitGroup
		mu   sync.Mutex
		have []*File
	)
	for range 20 {
		all.Go(func() {
			f, err := Create(name)
			switch {
			case err == nil:
				mu.Lock()
				defer mu.Unlock()
				have = append(have, f)
			case !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), name+Suffix):
				t.Errorf("error %v", err)
			}
		})
	}
	all.Wait()
	if len(have) != 1 {
		t.Fatalf("%d write it", len(have))
	}
	must(t, have[0].Replace())
	must(t, have[0].Close())
	expect(t, dir, "file=")
}

func TestChownLike(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	write(t, other, "")
	if os.Geteuid() == 0 {
		must(t, os.Chown(other, 12345, 54321))
	}
	info, err := os.Stat(other)
	must(t, err)
	f := create(t, filepath.Join(dir, "file"), "")
	must(t, f.ChownLike(info))
	must(t, f.Place())
	must(t, f.Close())
	got, err := os.Stat(filepath.Join(dir, "file"))
	must(t, err)
	if got, want := got.Sys().(*syscall.Stat_t), info.Sys().(*syscall.Stat_t); got.Uid != want.Uid || got.Gid != want.Gid {
		t.Errorf("owner %d:%d, want %d:%d", got.Uid, got.Gid, want.Uid, want.Gid)
	}
}

// A file that is set aside is there by both names, and the second goes to the next.
func TestSetAside(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a")
	write(t, name, "one")
	must(t, SetAside(name))
	expect(t, dir, "a=one", "a.bak=one")
	f := create(t, name, "two")
	must(t, f.Replace())
	must(t, f.Close())
	expect(t, dir, "a=two", "a.bak=one")
	must(t, SetAside(name))
	expect(t, dir, "a=two", "a.bak=two")
	if err := SetAside(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
}

// Each way to rename does it, and overwrites nothing.
func TestRenameNew(t *testing.T) {
	for i, rename := range []func(from, to string) error{renameNoReplace, linkAndRemove, lookAndRename, RenameNew} {
		dir := t.TempDir()
		from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
		write(t, from, "text")
		must(t, rename(from, to))
		expect(t, dir, "to=text")
		write(t, from, "other")
		if err := rename(from, to); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), to) {
			t.Errorf("way %d, on another: %v", i, err)
		}
		expect(t, dir, "from=other", "to=text")
		if err := rename(filepath.Join(dir, "nosuch"), filepath.Join(dir, "new")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("way %d, of nothing: %v", i, err)
		}
	}
}

// A way that the file system does not have is followed by the next.
func TestRenameNewWithout(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	write(t, from, "text")
	var without []func(from, to string) error
	for _, err := range []error{unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP, unix.EPERM} {
		without = append(without, func(from, to string) error {
			return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
		})
	}
	if err := tryRenames(from, to, without...); !errors.Is(err, unix.EPERM) {
		t.Errorf("no way: %v", err)
	}
	expect(t, dir, "from=text")
	must(t, tryRenames(from, to, append(without, lookAndRename)...))
	expect(t, dir, "to=text")
}

func TestSyncFolder(t *testing.T) {
	must(t, SyncFolder(t.TempDir()))
	if err := SyncFolder("nosuch"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
