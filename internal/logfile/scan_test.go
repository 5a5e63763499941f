package logfile

import (
	"fmt"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// The scanner gives lines with their numbers and offsets, whatever the reader
// does.
func TestScanner(t *testing.T) {
	long := strings.Repeat("z", MaxLine)
	in := "a\n\nbb\n" + long + "\ncc"
	s := NewScanner(iotest.OneByteReader(strings.NewReader(in)))
	var got []string
	for s.Scan() {
		l := s.Line()
		got = append(got, fmt.Sprintf("%d %d %d %v %d", l.Number, l.Offset, len(l.Text), l.Terminated, l.TooLong))
	}
	want := []string{"1 0 1 true 0", "2 2 0 true 0", "3 3 2 true 0", fmt.Sprintf("4 6 1024 true %d", MaxLine), fmt.Sprintf("5 %d 2 false 0", MaxLine+7)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	if err := s.Err(); err != nil {
		t.Error(err)
	}
}
