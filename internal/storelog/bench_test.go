package storelog_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/smpq/smpq/internal/gen"
	"github.com/smpq/smpq/internal/storelog"
)

// BenchmarkReplay replays a log of 100,000 queues: reading, which sorts it, and
// going through the queues.
func BenchmarkReplay(b *testing.B) {
	name := filepath.Join(b.TempDir(), "store.log")
	f, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	stats, err := gen.Write(f, gen.Options{Queues: 100_000, LinkBytes: 90})
	if err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	o := storelog.Options{TempDir: b.TempDir(), Memory: 16 << 20}
	open := func() *storelog.State {
		f, err := storelog.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		s, err := storelog.Replay(b.Context(), f, o)
		if err != nil {
			b.Fatal(err)
		}
		return s
	}
	b.Run("read", func(b *testing.B) {
		b.SetBytes(stats.Bytes)
		b.ReportAllocs()
		for b.Loop() {
			if err := open().Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("queues", func(b *testing.B) {
		s := open()
		defer s.Close()
		b.SetBytes(stats.Bytes)
		b.ReportAllocs()
		for b.Loop() {
			for _, err := range s.Queues(b.Context()) {
				if err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
