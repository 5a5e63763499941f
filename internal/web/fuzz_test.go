package web

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever a client asks for, it gets files of the folder only, and none that begin
// with a dot.
func FuzzPath(f *testing.F) {
	folder := f.TempDir()
	for name, text := range map[string]string{"secret": "secret", "www/.env": "secret", "www/well-known/x": "public", "www/index.html": "public", "www/a/index.html": "public"} {
		name = filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			f.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			f.Fatal(err)
		}
	}
	if err := os.Symlink("..", filepath.Join(folder, "www", "up")); err != nil {
		f.Fatal(err)
	}
	s, err := newFileServer(filepath.Join(folder, "www"))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.root.Close() })
	for _, path := range []string{"/", "", "/index.html", "/a", "/a/", "/../secret", "/up/secret", "/.env", "/.well-known/x", "/.well-known/../../secret", "//", "/a/../../secret", "\\..\\secret", "/a\x00"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if name, err := fileName(path); err == nil && (!fs.ValidPath(name) || name != "." && strings.HasPrefix("/"+name, "/.")) {
			t.Errorf("%q stands for %q", path, name)
		}
		file, info, err := s.open(path)
		if err != nil {
			return
		}
		defer file.Close()
		text := make([]byte, info.Size())
		if _, err := file.Read(text); err != nil || string(text) != "public" {
			t.Errorf("%q is %s, %q, %v", path, file.Name(), text, err)
		}
	})
}

func FuzzAcceptsGzip(f *testing.F) {
	for _, header := range []string{"", "gzip", "br, gzip;q=0.5", "gzip;q=0", "gzip;q=", ";", "gzip;gzip", "*"} {
		f.Add(header)
	}
	f.Fuzz(func(t *testing.T, header string) {
		if acceptsGzip([]string{header}) && !strings.Contains(strings.ToLower(header), "gzip") {
			t.Errorf("%q is taken for gzip", header)
		}
	})
}
