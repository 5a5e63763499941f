package config_test

import (
	"os"
	"slices"
	"strings"
	"testing"

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

func withoutLines(f *config.File) []config.Entry {
	var entries []config.Entry
	for _, e := range f.Entries() {
		e.Line = 0
		entries = append(entries, e)
	}
	return entries
}
