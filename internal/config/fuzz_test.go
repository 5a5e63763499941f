package config_test

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/config"
)

// FuzzParse checks that what parses is the same after it was written out in
// the plainest form and parsed again.
func FuzzParse(f *testing.F) {
	for _, name := range []string{"default-memory", "database"} {
		b, err := os.ReadFile(realFile(name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Add("a=1\n[ S ]\r\n;\n#\nb : c=d\n=")
	f.Fuzz(func(t *testing.T, in string) {
		file, err := config.Parse("fuzz.ini", strings.NewReader(in))
		if err != nil {
			return
		}
		var plain strings.Builder
		for _, e := range file.Entries() {
			if e.Section != "" {
				plain.WriteString("[" + e.Section + "]\n")
			}
			plain.WriteString(e.Key + "=" + e.Value + "\n")
		}
		again, err := config.Parse("plain.ini", strings.NewReader(plain.String()))
		if err != nil {
			t.Fatalf("%q does not parse again: %v", plain.String(), err)
		}
		if first, again := withoutLines(file), withoutLines(again); !slices.Equal(first, again) {
			t.Errorf("%q parsed as %+v, written out and parsed again as %+v", in, first, again)
		}
	})
}

// FuzzRouter checks that no file makes the reader fail in another way than by an
// error, and that what is composed of good settings reads the same.
func FuzzRouter(f *testing.F) {
	for _, name := range []string{"default-memory", "database", "information"} {
		b, err := os.ReadFile(realFile(name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Add("[PROXY]\nsocks_proxy = me:x@[::1]:9\n[SMPQ]\nversions = 6 - 8\nend_interval=1d1ms\nhandshake_rate = 20/10s\nmax_connections = 9\n[TRANSPORT]\nport = 0,1\nwebsockets:on")
	f.Fuzz(func(t *testing.T, in string) {
		file, err := config.Parse("fuzz.ini", strings.NewReader(in))
		if err != nil {
			return
		}
		want, _, err := config.Sources{File: file}.Router()
		if err != nil {
			return
		}
		var settings []string
		for _, e := range file.Entries() {
			for _, k := range config.Keys() {
				if k.Section == e.Section && k.Name == e.Key {
					settings = append(settings, k.Path()+"="+e.Value)
				}
			}
		}
		text, err := config.Compose(settings)
		if err != nil {
			t.Fatalf("compose %q: %v", settings, err)
		}
		composed, err := config.Parse("composed.ini", bytes.NewReader(text))
		if err != nil {
			t.Fatalf("compose %q: %v", settings, err)
		}
		got, _, err := config.Sources{File: composed}.Router()
		if diff := cmp.Diff(want, got, equal); err != nil || diff != "" {
			t.Errorf("%q is read, composed and read as (-first +then): %v\n%s", in, err, diff)
		}
	})
}

func withoutLines(f *config.File) []config.Entry {
	var entries []config.Entry
	for _, e := range f.Entries() {
		e.Line = 0
		entries = append(entries, e)
	}
	return entries
}
