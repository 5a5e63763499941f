package storelog

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Whatever a file holds, it can be replayed, and what it ends in is a log that
// replays to the same without a problem.
func FuzzReplay(f *testing.F) {
	names, err := filepath.Glob(filepath.Join(realData, "2-import/variants/[0-9]*/input.log"))
	if err != nil || len(names) == 0 {
		f.Fatalf("no logs: %v", err)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, log []byte) {
		first, s, err := replayAll(t, bytes.NewReader(log), Options{Memory: 1000})
		if err != nil {
			t.Fatal(err)
		}
		if c := s.Counts(); c.Bytes != int64(len(log)) {
			t.Errorf("counted %d bytes of %d", c.Bytes, len(log))
		}
		again, _, err := replayAll(t, strings.NewReader(strings.Join(first.lines, "")), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first.lines, again.lines); diff != "" || len(again.problems) > 0 {
			t.Errorf("the compacted log replays with problems %v to (-compacted +replayed):\n%s", again.problems, diff)
		}
	})
}
