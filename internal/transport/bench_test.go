package transport

import (
	"bytes"
	"testing"

	"github.com/smpq/smpq/internal/smp"
)

// BenchmarkExchange sends encrypted blocks from one end to the other, over TLS
// and the loopback interface; and with TLS alone, to compare.
func BenchmarkExchange(b *testing.B) {
	for _, bench := range []struct {
		name    string
		version smp.Version
	}{{"encrypted", 19}, {"TLS alone", 10}} {
		b.Run(bench.name, func(b *testing.B) {
			a := newAcceptor(b)
			d := newDialer(a)
			d.Versions.Max = bench.version
			router, client := established(b, a, d)
			content := bytes.Repeat([]byte{7}, smp.MaxContent)
			received := make(chan error)
			b.SetBytes(smp.BlockSize)
			b.ReportAllocs()
			go func() {
				var buf []byte
				for {
					var err error
					if buf, err = router.Receive(buf[:0]); err != nil || len(buf) == 0 {
						received <- err
						return
					}
				}
			}()
			for b.Loop() {
				if err := client.Send(content); err != nil {
					b.Fatal(err)
				}
			}
			if err := client.Send(nil); err != nil {
				b.Fatal(err)
			}
			if err := <-received; err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkHandshake performs the handshakes of both ends.
func BenchmarkHandshake(b *testing.B) {
	a := newAcceptor(b)
	d := newDialer(a)
	for b.Loop() {
		router, client, _, _ := pipes(b, a, d, -1, -1)
		if router.err != nil || client.err != nil {
			b.Fatal(router.err, client.err)
		}
	}
}
