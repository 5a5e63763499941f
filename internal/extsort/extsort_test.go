package extsort

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

func collect(t testing.TB, s *Sorter) []string {
	t.Helper()
	var got []string
	for r, err := range s.All() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%q %d %q", r.Key, r.Seq, r.Value))
	}
	return got
}

// Any records, any memory, any number of writers: the result is what sorting in
// memory gives.
func TestSortsLikeMemory(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		s := New(dir)
		defer s.Close()
		s.mergeMemory = rapid.IntRange(1, 1<<16).Draw(rt, "mergeMemory")
		memory := rapid.IntRange(1, 4096).Draw(rt, "memory")
		writers := make([]*Writer, rapid.IntRange(1, 3).Draw(rt, "writers"))
		for i := range writers {
			writers[i] = s.NewWriter(memory)
		}
		keys := rapid.SliceOfN(rapid.Byte(), 0, 12)
		values := rapid.SliceOfN(rapid.Byte(), 0, 300)
		var recs []Record
		for i := range rapid.IntRange(0, 100).Draw(rt, "n") {
			r := Record{Key: keys.Draw(rt, "key"), Seq: uint64(i), Value: values.Draw(rt, "value")}
			recs = append(recs, r)
			if err := writers[i%len(writers)].Add(r); err != nil {
				rt.Fatal(err)
			}
		}
		for _, w := range writers {
			if err := w.Close(); err != nil {
				rt.Fatal(err)
			}
		}
		slices.SortStableFunc(recs, func(a, b Record) int {
			return cmp.Or(bytes.Compare(a.Key, b.Key), cmp.Compare(a.Seq, b.Seq))
		})
		var want []string
		for _, r := range recs {
			want = append(want, fmt.Sprintf("%q %d %q", r.Key, r.Seq, r.Value))
		}
		for range 2 { // reading twice gives the same
			if got := collect(t, s); !slices.Equal(got, want) {
				rt.Fatalf("got %v\nwant %v", got, want)
			}
		}
	})
}

func TestLeavesNoFiles(t *testing.T) {
	dir := t.TempDir()
	s := New(dir)
	w := s.NewWriter(100)
	for i := range 100 {
		if err := w.Add(Record{Key: []byte{byte(i)}, Value: make([]byte, 50)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(s.runs, func(r run) bool { return r.size > 0 }) {
		t.Error("nothing was written to disk")
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "*")); len(names) != 0 {
		t.Errorf("files while sorting: %q", names)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestMissingDirectory(t *testing.T) {
	s := New(filepath.Join(t.TempDir(), "absent"))
	defer s.Close()
	w := s.NewWriter(1)
	err := errors.Join(w.Add(Record{Key: []byte("a")}), w.Add(Record{Key: []byte("b")}))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want a missing directory", err)
	}
}

// A full disk is an error that names the directory.
func TestFullDisk(t *testing.T) {
	f, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := New("/var/tmp/example")
	defer s.Close()
	s.files = append(s.files, f)
	w := s.NewWriter(10)
	w.file = f
	err = errors.Join(w.Add(Record{Value: make([]byte, 20)}), w.Close())
	if !errors.Is(err, syscall.ENOSPC) || !bytes.Contains([]byte(err.Error()), []byte("/var/tmp/example")) {
		t.Errorf("got %v, want no space left in /var/tmp/example", err)
	}
}

func BenchmarkSort(b *testing.B) {
	const n, size = 200_000, 300
	rng := rand.New(rand.NewPCG(1, 2))
	keys := make([][24]byte, n)
	for i := range keys {
		for j := range keys[i] {
			keys[i][j] = byte(rng.Uint32())
		}
	}
	value := make([]byte, size)
	dir := b.TempDir()
	b.SetBytes(n * (size + 24))
	for b.Loop() {
		s := New(dir)
		w := s.NewWriter(16 << 20)
		for i := range keys {
			if err := w.Add(Record{Key: keys[i][:], Seq: uint64(i), Value: value}); err != nil {
				b.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
		for _, err := range s.All() {
			if err != nil {
				b.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// Drain gives the same records, and the disk space back on the way.
func TestDrain(t *testing.T) {
	s := New(t.TempDir())
	defer s.Close()
	w := s.NewWriter(4 << 20)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 20_000 {
		key := binary.BigEndian.AppendUint64(nil, rng.Uint64())
		if err := w.Add(Record{Key: key, Seq: uint64(i), Value: make([]byte, 1000)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	want := collect(t, s)
	blocks := func() int64 {
		var st syscall.Stat_t
		if err := syscall.Fstat(int(w.file.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks
	}
	before := blocks()
	var got []string
	for r, err := range s.Drain() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%q %d %q", r.Key, r.Seq, r.Value))
	}
	if !slices.Equal(got, want) {
		t.Error("other records than those of All")
	}
	if after := blocks(); after > before/2 {
		t.Errorf("%d blocks on disk before, %d after", before, after)
	}
}
