package client_test

import (
	"testing"

	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
)

// BenchmarkDo sends one command after another and waits for each result: a round
// trip, with TLS and block encryption, over the loopback interface. The router is in
// the same process, so times and allocations are those of both ends.
func BenchmarkDo(b *testing.B) {
	c := dial(b, routertest.Start(b, routertest.Options{}), client.Options{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.As[*smp.PONG](c.Do(b.Context(), client.Request{Command: &smp.PING{}})); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDoAll subscribes to as many queues as one block has room for, each of which
// is authorized with a signature.
func BenchmarkDoAll(b *testing.B) {
	c := dial(b, routertest.Start(b, routertest.Options{}), client.Options{})
	requests := make([]client.Request, 135)
	for i := range requests {
		m := create(b, c, smp.Ed25519)
		requests[i] = client.Request{Entity: m.recipient, Command: &smp.SUB{}, Key: m.recipientKey}
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, r := range c.DoAll(b.Context(), requests) {
			if _, err := client.As[*smp.SOK](r.Response, r.Err); err != nil {
				b.Fatal(err)
			}
		}
	}
}
