package smp

import (
	"bytes"
	"testing"
)

// hot are the commands and responses that make up the traffic of a router, as
// transmissions of version 18.
func hot(t testing.TB) []struct {
	name     string
	tr       Transmission
	value    interface{ Append([]byte, Version) []byte }
	toRouter bool
} {
	t.Helper()
	body := bytes.Repeat([]byte{0xa5}, 16048)
	tr := Transmission{Auth: seqShort(t, 0, 64), CorrID: seqShort(t, 0x30, 24), EntityID: seqShort(t, 0x50, 24)}
	return []struct {
		name     string
		tr       Transmission
		value    interface{ Append([]byte, Version) []byte }
		toRouter bool
	}{
		{"SUB", tr, &SUB{}, true},
		{"ACK", tr, &ACK{MsgID: seqShort(t, 0x90, 24)}, true},
		{"SEND", tr, &SEND{Body: body}, true},
		{"MSG", Transmission{EntityID: tr.EntityID}, &MSG{MsgID: seqShort(t, 0x90, 24), Body: body}, false},
	}
}

// What routers do most needs no memory.
func TestNoAllocations(t *testing.T) {
	buf := make([]byte, 0, BlockSize)
	var p Parser
	for _, c := range hot(t) {
		c.tr.Command = c.value.Append(nil, VersionBlockingNotice)
		wire := c.tr.Append(nil, VersionBlockingNotice)
		encode := testing.AllocsPerRun(100, func() {
			c.tr.Command = c.value.Append(buf[:0], VersionBlockingNotice)
		})
		wrap := testing.AllocsPerRun(100, func() { buf = c.tr.Append(buf[:0], VersionBlockingNotice) })
		parse := testing.AllocsPerRun(100, func() {
			if err := parseTransmission(&p, wire, c.toRouter); err != nil {
				t.Fatal(err)
			}
		})
		if encode != 0 || wrap != 0 || parse != 0 {
			t.Errorf("%s: %v allocations to encode, %v to wrap, %v to parse", c.name, encode, wrap, parse)
		}
	}
}

func parseTransmission(p *Parser, wire []byte, toRouter bool) error {
	tr, err := ParseTransmission(wire, VersionBlockingNotice)
	if err == nil && toRouter {
		_, err = p.Command(tr.Command, VersionBlockingNotice)
	} else if err == nil {
		_, err = p.Response(tr.Command, VersionBlockingNotice)
	}
	return err
}

func BenchmarkEncode(b *testing.B) {
	for _, c := range hot(b) {
		b.Run(c.name, func(b *testing.B) {
			command, buf := make([]byte, 0, BlockSize), make([]byte, 0, BlockSize)
			b.ReportAllocs()
			for b.Loop() {
				c.tr.Command = c.value.Append(command[:0], VersionBlockingNotice)
				buf = c.tr.Append(buf[:0], VersionBlockingNotice)
			}
			b.SetBytes(int64(len(buf)))
		})
	}
}

func BenchmarkParse(b *testing.B) {
	for _, c := range hot(b) {
		b.Run(c.name, func(b *testing.B) {
			c.tr.Command = c.value.Append(nil, VersionBlockingNotice)
			wire := c.tr.Append(nil, VersionBlockingNotice)
			var p Parser
			b.ReportAllocs()
			b.SetBytes(int64(len(wire)))
			for b.Loop() {
				if err := parseTransmission(&p, wire, c.toRouter); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A block of 135 SUBs, as clients send when they come back.
func BenchmarkBlock(b *testing.B) {
	tr := hot(b)[0].tr
	tr.Command = (&SUB{}).Append(nil, VersionBlockingNotice)
	part := tr.Append(nil, VersionBlockingNotice)
	b.Run("pack", func(b *testing.B) {
		var batch Batch
		block := make([]byte, 0, BlockSize)
		b.ReportAllocs()
		b.SetBytes(BlockSize)
		for b.Loop() {
			batch.Reset()
			for range 135 {
				if added, err := batch.Add(part); !added || err != nil {
					b.Fatal(err)
				}
			}
			if _, err := AppendPadded(block[:0], batch.Content(), BlockSize); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("split", func(b *testing.B) {
		var batch Batch
		for range 135 {
			if added, err := batch.Add(part); !added || err != nil {
				b.Fatal(err)
			}
		}
		var p Parser
		var parts [][]byte
		b.ReportAllocs()
		b.SetBytes(int64(len(batch.Content())))
		for b.Loop() {
			var err error
			if parts, err = SplitContent(parts[:0], batch.Content()); err != nil {
				b.Fatal(err)
			}
			for _, part := range parts {
				if err := parseTransmission(&p, part, true); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
