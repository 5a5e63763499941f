package router_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/smp"
)

// conformance: 39, 43, 68, 69, 70, 71, 85, 86, 87, 88, 99
func TestDeliver(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	eachVersion(t, 6, func(t *testing.T, v smp.Version) {
		alice, bob := r.dial(t, v), r.dial(t, v)
		b := alice.newQueue()
		if b.recipient.Len() != 24 || b.sender.Len() != 24 || b.recipient == b.sender {
			t.Errorf("ids %s, %s", b.recipient, b.sender)
		}
		bob.send(b, "one")
		first := alice.receive(b, "one")
		bob.send(b, "two")
		alice.quiet()
		alice.refused(smp.ErrNoMsg, b.recipient, b.recipientKey, &smp.ACK{MsgID: corrID(0)})
		second := alice.ackNext(b, first, "two")
		alice.ack(b, second)
		alice.refused(smp.ErrNoMsg, b.recipient, b.recipientKey, &smp.ACK{MsgID: second})

		bob.send(b, "three")
		m := expect[*smp.MSG](alice, b.recipient)
		alice.subscribe(b)
		again := expect[*smp.MSG](alice, b.recipient)
		if !m.MsgID.Equal(again.MsgID) || !bytes.Equal(m.Body, again.Body) {
			t.Error("a message that is delivered again differs")
		}
		alice.Close()
		alice = r.dial(t, v)
		alice.subscribe(b)
		again = expect[*smp.MSG](alice, b.recipient)
		if !m.MsgID.Equal(again.MsgID) || !bytes.Equal(m.Body, again.Body) {
			t.Error("a message that is delivered to another connection differs")
		}
		alice.ack(b, again.MsgID)

		c := alice.newQueue(createOnly)
		bob.send(c, "wait")
		alice.quiet()
		alice.subscribe(c)
		alice.ack(c, alice.receive(c, "wait"))
	})
}

// conformance: 86, 87, 72, 97, 98, 18, 24
func TestBlocks(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	eachVersion(t, 6, func(t *testing.T, v smp.Version) {
		bob := r.dial(t, v)
		var boxes []*box
		for range 5 {
			b := bob.newQueue(createOnly)
			bob.send(b, "text")
			boxes = append(boxes, b)
		}
		sub := func(b *box) line { return line{entity: b.recipient, key: b.recipientKey, Command: &smp.SUB{}} }

		w := r.wire(t, v)
		w.send(sub(boxes[0]))
		got := w.want(sok(v), "MSG")
		if got[1].CorrID != "" || got[1].Entity != string(boxes[0].recipient.Bytes()) {
			t.Errorf("the message has the ids %q, %q", got[1].CorrID, got[1].Entity)
		}
		if v >= 7 { // the session identifiers of version 6 leave no room for more answers
			w.send(sub(boxes[0]), sub(boxes[1]), sub(boxes[2]))
			w.want(sok(v), sok(v), sok(v), "MSG")
			w.want("MSG")
			w.want("MSG")
		}
		w.send(sub(boxes[0]), sub(boxes[1]), sub(boxes[2]), sub(boxes[3]))
		w.want(sok(v), sok(v), sok(v), sok(v)) // a message is too long to go with them
		for range 4 {
			w.want("MSG")
		}
		w.send(sub(boxes[0]), sub(boxes[1]), sub(boxes[2]), sub(boxes[3]), sub(boxes[4]))
		w.want(sok(v), sok(v), sok(v), sok(v), sok(v))
		for range 5 {
			w.want("MSG")
		}

		// One connection is both sender and subscriber: first the message, then OK.
		b := bob.newQueue(createOnly)
		w.send(sub(b))
		w.want(sok(v))
		w.send(line{entity: b.sender, Command: &smp.SEND{Body: []byte("x")}})
		w.want("MSG")
		w.want("OK")

		if err := w.conn.Send([]byte{2, 0, 1}); err != nil {
			t.Fatal(err)
		}
		if got := w.want("ERR BLOCK")[0]; got.CorrID != "" || got.Entity != "" {
			t.Errorf("ERR BLOCK has ids: %+v", got)
		}
		w.send(line{Command: &smp.PING{}})
		w.want("PONG")
	})
}

// conformance: 98, 83, 84
func TestOrderInBlocks(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	for _, v := range []smp.Version{6, 7, 15, 19} {
		t.Run(fmt.Sprint(v), func(t *testing.T) {
			bob := r.dial(t, v)
			n := 135
			if v == 6 {
				n = 106
			}
			w := r.wire(t, v)
			var lines []line
			var want []string
			var boxes []*box
			for i := range n {
				if i < 10 {
					boxes = append(boxes, bob.newQueue(createOnly))
				}
				b := boxes[i%10]
				l := line{entity: b.recipient, key: b.recipientKey, Command: &smp.SUB{}}
				want = append(want, sok(v))
				if i == 70 {
					l.entity = b.sender
					want[i] = "ERR AUTH"
				}
				lines = append(lines, l)
			}
			w.send(lines...)
			for i, got := range w.want(want...) {
				if got.CorrID != string(corrID(i).Bytes()) || got.Entity != string(lines[i].entity.Bytes()) {
					t.Errorf("answer %d is that to %s", i, got.CorrID)
				}
			}

			b := bob.newQueue(createOnly)
			lines, want = nil, nil
			for i := range 20 {
				lines = append(lines, line{entity: b.sender, Command: &smp.SEND{Body: fmt.Append(nil, i)}})
				want = append(want, "OK")
			}
			lines = append(lines, line{entity: b.recipient, text: "NOPE"}, line{entity: b.recipient, key: b.recipientKey, Command: &smp.SUB{}})
			want = append(want, "ERR CMD UNKNOWN", sok(v))
			w.send(lines...)
			w.want(want...)
			m, ok := w.want("MSG")[0].Response.(*smp.MSG)
			for i := range 20 {
				if !ok {
					t.Fatal("no message")
				}
				b.check(t, m, fmt.Sprint(i))
				w.send(line{entity: b.recipient, key: b.recipientKey, Command: &smp.ACK{MsgID: m.MsgID}})
				m, ok = w.receive()[0].Response.(*smp.MSG)
			}
			if ok {
				t.Error("there is a message too much")
			}
		})
	}
}

// conformance: 89, 90, 95, 96
func TestEnd(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	eachVersion(t, 6, func(t *testing.T, v smp.Version) {
		one, two, bob := r.dial(t, v), r.dial(t, v), r.dial(t, v)
		b := one.newQueue()
		bob.send(b, "text")
		id := one.receive(b, "text")
		one.subscribe(b)
		one.receive(b, "text")
		two.subscribe(b)
		two.receive(b, "text")
		expect[*smp.END](one, b.recipient)
		one.refused(smp.ErrNoMsg, b.recipient, b.recipientKey, &smp.ACK{MsgID: id})
		m := must[*smp.MSG](one, b.recipient, b.recipientKey, &smp.GET{})
		b.check(t, m, "text")
		two.ack(b, id)
		one.ok(b.recipient, b.recipientKey, &smp.DEL{})
		if v < smp.VersionDeleted {
			expect[*smp.END](two, b.recipient)
		} else {
			expect[*smp.DELD](two, b.recipient)
		}
		one.quiet()
	})
}

// conformance: 91
func TestManyEnds(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	for _, v := range []smp.Version{6, 19} {
		manyEnds(t, r, v)
	}
}

func manyEnds(t *testing.T, r *server, v smp.Version) {
	t.Helper()
	bob := r.dial(t, v)
	one, two := r.wire(t, v), r.dial(t, v)
	var requests []client.Request
	var lines []line
	for _, b := range bob.newQueues(300, createOnly) {
		lines = append(lines, line{entity: b.recipient, key: b.recipientKey, Command: &smp.SUB{}})
		requests = append(requests, client.Request{Entity: b.recipient, Key: b.recipientKey, Command: &smp.SUB{}})
	}
	for some := range slices.Chunk(lines, 100) {
		one.send(some...)
		if n := len(one.receive()); n != 100 {
			t.Fatalf("%d answers", n)
		}
	}
	for i, result := range two.DoAll(t.Context(), requests) {
		if result.Err != nil {
			t.Fatalf("SUB %d: %v", i, result.Err)
		}
	}
	got, blocks := 0, 0
	for ; got < 300; blocks++ {
		for _, e := range one.receive() {
			if e.Text != "END" {
				t.Fatalf("%s, not END", e.Text)
			}
			got++
		}
	}
	if blocks > 4 { // two for each of two flushes
		t.Errorf("300 ENDs came in %d blocks", blocks)
	}
}

// conformance: 92, 93, 94, 155
func TestGet(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	eachVersion(t, 6, func(t *testing.T, v smp.Version) {
		one, two, bob := r.dial(t, v), r.dial(t, v), r.dial(t, v)
		b := bob.newQueue(createOnly)
		get := func(p *peer, text string) smp.Short {
			m := must[*smp.MSG](p, b.recipient, b.recipientKey, &smp.GET{})
			b.check(t, m, text)
			return m.MsgID
		}
		info := func(p *peer) string { return string(must[*smp.INFO](p, b.recipient, b.recipientKey, &smp.QUE{}).JSON) }
		if got, want := info(one), `{"qiSnd":false,"qiNtf":false,"qiSize":0}`; got != want {
			t.Errorf("QUE: %s, not %s", got, want)
		}
		one.ok(b.recipient, b.recipientKey, &smp.GET{})
		one.refused(smp.ErrProhibited, b.recipient, b.recipientKey, &smp.SUB{})
		two.subscribe(b)
		two.refused(smp.ErrProhibited, b.recipient, b.recipientKey, &smp.GET{})
		if got, want := info(two), `{"qiSnd":false,"qiNtf":false,"qiSub":{"qSubThread":"noSub"},"qiSize":0}`; got != want {
			t.Errorf("QUE: %s, not %s", got, want)
		}
		for _, text := range []string{"1", "2", "3", "4"} {
			bob.send(b, text)
		}
		id := get(one, "1")
		if got := info(one); !strings.Contains(got, `"qiSub":{"qSubThread":"prohibitSub","qDelivered":"`) || !strings.Contains(got, `"qiSize":4,"qiMsg":{"msgId":"`) ||
			!strings.HasSuffix(got, `Z","msgType":"message"}}`) {
			t.Errorf("QUE: %s", got)
		}
		two.receive(b, "1")
		one.ack(b, id)
		second := two.ackNext(b, id, "2")
		if got := get(one, "2"); !got.Equal(second) {
			t.Error("GET and ACK deliver different messages")
		}
		third := two.ackNext(b, second, "3")
		one.ack(b, second)
		id = get(one, "3")
		one.ack(b, id)
		two.ack(b, two.ackNext(b, third, "4"))
		one.ok(b.recipient, b.recipientKey, &smp.GET{})
		one.quiet()
		two.quiet()
	})
}

// conformance: 73, 74, 75
func TestSizes(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	eachVersion(t, 6, func(t *testing.T, v smp.Version) {
		alice := r.dial(t, v)
		b := alice.newQueue()
		limit := map[bool]int{true: 16088, false: 16064}[v < 8]
		if v >= 11 {
			limit = 16048
		}
		text := strings.Repeat("x", limit)
		alice.send(b, text)
		alice.ack(b, alice.receive(b, text))
		alice.refused(smp.ErrLargeMsg, b.sender, none(), &smp.SEND{Body: []byte(text + "x")})
		alice.send(b, "")
		m := expect[*smp.MSG](alice, b.recipient)
		if opened := b.open(t, m); len(opened.Body) > 0 || opened.Quota {
			t.Errorf("an empty message came as %+v", opened)
		}
	})
}

// conformance: 76
func TestQuota(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 2))
	eachVersion(t, 6, func(t *testing.T, v smp.Version) {
		alice, bob := r.dial(t, v), r.dial(t, v)
		b := alice.newQueue()
		full := func() { bob.refused(smp.ErrQuota, b.sender, none(), &smp.SEND{Body: []byte("no")}) }
		bob.send(b, "1")
		bob.send(b, "2")
		full()
		id := alice.ackNext(b, alice.receive(b, "1"), "2")
		full()
		id = alice.ackNext(b, id, "")
		full()
		alice.ack(b, id)
		bob.send(b, "4")
		alice.ack(b, alice.receive(b, "4"))
	})
}

// conformance: 78, 79
func TestOffAndDelete(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	eachVersion(t, 6, func(t *testing.T, v smp.Version) {
		alice := r.dial(t, v)
		b := alice.newQueue(createOnly)
		alice.send(b, "text")
		alice.ok(b.recipient, b.recipientKey, &smp.OFF{})
		alice.refused(smp.ErrAuth, b.sender, none(), &smp.SEND{})
		alice.refused(smp.ErrAuth, b.sender, b.senderKey, &smp.SEND{})
		alice.ok(b.recipient, b.recipientKey, &smp.OFF{})
		alice.subscribe(b)
		alice.ack(b, alice.receive(b, "text"))
		nid := must[*smp.NID](alice, b.recipient, b.recipientKey, &smp.NKEY{NotifierKeys: smp.NotifierKeys{
			Key: b.notifierKey.Public(), DHKey: newKey(t, smp.X25519).Public(),
		}}).NotifierID.ID()
		alice.ok(b.recipient, b.recipientKey, &smp.DEL{})
		for _, c := range []smp.Command{&smp.DEL{}, &smp.SUB{}, &smp.GET{}, &smp.OFF{}, &smp.QUE{}, &smp.KEY{SenderKey: b.senderKey.Public()}, &smp.ACK{MsgID: corrID(1)}} {
			alice.refused(smp.ErrAuth, b.recipient, b.recipientKey, c)
		}
		alice.refused(smp.ErrAuth, b.sender, none(), &smp.SEND{})
		alice.refused(smp.ErrAuth, nid, b.notifierKey, &smp.NSUB{})
	})
}

// conformance: 80
func TestConcurrentSends(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	for _, v := range []smp.Version{6, 19} {
		alice, bob, carol := r.dial(t, v), r.dial(t, v), r.dial(t, v)
		b := alice.newQueue()
		for range 50 {
			var sending sync.WaitGroup
			for _, p := range []*peer{bob, carol} {
				sending.Go(func() { p.send(b, "x") })
			}
			first := alice.receive(b, "x")
			sending.Wait()
			alice.ack(b, alice.ackNext(b, first, "x"))
		}
		alice.quiet()
	}
}

// A message is delivered, exactly once, whether it comes before or after somebody
// subscribes, and although others subscribe at the same time.
//
// conformance: 81
func TestSendRacesWithSubscribe(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	one, bob := r.dial(t, 19), r.dial(t, 19)
	const atOnce = 50
	for range (messages(t, 500) + atOnce - 1) / atOnce {
		boxes := bob.newQueues(atOnce, createOnly)
		var requests, sends []client.Request
		for _, b := range boxes {
			requests = append(requests, client.Request{Entity: b.recipient, Key: b.recipientKey, Command: &smp.SUB{}})
			sends = append(sends, client.Request{Entity: b.sender, Command: &smp.SEND{Body: []byte("x")}})
		}
		var racing sync.WaitGroup
		racing.Go(func() {
			for _, call := range bob.Start(t.Context(), sends...) {
				if _, err := call.Wait(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
		calls := one.Start(t.Context(), requests...)
		for range boxes {
			e := one.event()
			m, ok := e.Response.(*smp.MSG)
			i := slices.IndexFunc(boxes, func(b *box) bool { return b.recipient == e.Entity })
			if !ok || i < 0 {
				t.Fatalf("the event is %T", e.Response)
			}
			boxes[i].check(t, m, "x")
		}
		racing.Wait()
		for _, call := range calls {
			if _, err := call.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		}
		one.quiet()
	}
}

// conformance: 82
func TestFullOutput(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	r := start(t, st, func(o *router.Options) { o.Output = 40 << 10 })
	for _, v := range []smp.Version{6, 19} {
		alice, bob := r.dial(t, v, slow), r.dial(t, v)
		boxes := make(map[smp.EntityID]*box)
		for _, b := range alice.newQueues(60) {
			boxes[b.recipient] = b
		}
		// Alice reads no events, so that soon she reads nothing.
		var sends []client.Request
		for _, b := range boxes {
			sends = append(sends, client.Request{Entity: b.sender, Command: &smp.SEND{Body: []byte("x")}})
		}
		for _, result := range bob.DoAll(t.Context(), sends) {
			if result.Err != nil {
				t.Fatal(result.Err)
			}
		}
		seen := make(map[smp.EntityID]smp.Short)
		for range boxes {
			e := alice.event()
			m, ok := e.Response.(*smp.MSG)
			if _, twice := seen[e.Entity]; !ok || twice {
				t.Fatalf("the event is %T, twice %t", e.Response, twice)
			}
			boxes[e.Entity].check(t, m, "x")
			seen[e.Entity] = m.MsgID
		}
		n := 0
		for id, b := range boxes {
			if n++; n > 10 {
				break
			}
			alice.subscribe(b)
			if got := alice.receive(b, "x"); !got.Equal(seen[id]) {
				t.Error("another message came")
			}
			alice.ack(b, seen[id])
			bob.send(b, "y")
			alice.ack(b, alice.receive(b, "y"))
		}
		alice.quiet()
	}
}

// conformance: 99
func TestNoMessageIsForgotten(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	bob := r.dial(t, 18)
	b := bob.newQueue(createOnly)
	const n = 50
	var sending sync.WaitGroup
	sending.Go(func() {
		for i := range n {
			for {
				_, err := bob.do(b.sender, none(), &smp.SEND{Body: fmt.Append(nil, i)})
				if err == nil {
					break
				}
				if !errors.Is(err, smp.ErrQuota) {
					t.Error(err)
					return
				}
			}
		}
	})
	// Recipients come and go. Each gets the first message that was not acknowledged.
	next := 0
	for next < n {
		alice := r.dial(t, 18)
		alice.subscribe(b)
		id := alice.receive(b, fmt.Sprint(next))
		for i := 0; i < 7 && next < n; i++ {
			next++
			if next == n {
				alice.ack(b, id)
				break
			}
			response, err := alice.do(b.recipient, b.recipientKey, &smp.ACK{MsgID: id})
			if err != nil {
				t.Fatal(err)
			}
			m, ok := response.(*smp.MSG)
			if !ok {
				m = expect[*smp.MSG](alice, b.recipient)
			}
			b.check(t, m, fmt.Sprint(next))
			id = m.MsgID
		}
		alice.Close()
	}
	sending.Wait()
}
