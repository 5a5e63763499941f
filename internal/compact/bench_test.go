package compact_test

import (
	"fmt"
	"testing"

	"github.com/smpq/smpq/internal/compact"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/schema"
)

// BenchmarkQueues removes queues with two messages each, beside as many that
// stay.
func BenchmarkQueues(b *testing.B) {
	const queues = 10_000
	for _, batch := range []int{100, 1000, 5000} {
		b.Run(fmt.Sprint("batch ", batch), func(b *testing.B) {
			_, conn := newDatabase(b, schema.Newest)
			addQueues(b, conn, "live", queues, -1, 2)
			pgtest.Exec(b, conn, "analyze")
			o := options()
			o.Batch = batch
			for b.Loop() {
				b.StopTimer()
				addQueues(b, conn, "gone", queues, 30, 2)
				b.StartTimer()
				r, err := compact.Queues(b.Context(), conn, name, o)
				if err != nil || r.Queues != queues {
					b.Fatalf("%+v, %v", r, err)
				}
			}
			b.ReportMetric(queues*float64(b.N)/b.Elapsed().Seconds(), "queues/s")
			b.ReportMetric(b.Elapsed().Seconds()*1000/float64(b.N*queues/batch), "ms/batch")
		})
	}
}
