package router_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/smp"
)

// Clients take a queue from each other while messages come in. Each message is
// acknowledged once, by one of them.
//
// conformance: 81, 89, 99
func TestTakeovers(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0), func(o *router.Options) { o.EndInterval = 20 * time.Millisecond })
	bob := r.dial(t, 19)
	b := bob.newQueue(createOnly)
	const n = 100
	var mu sync.Mutex
	var acknowledged []string
	done := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()

	recipient := func(p *peer, rng *rand.Rand) error {
		request := func(c smp.Command) (smp.Response, error) {
			return p.Do(ctx, client.Request{Entity: b.recipient, Key: b.recipientKey, Command: c})
		}
		if _, err := request(&smp.SUB{}); err != nil {
			return err
		}
		for {
			var e client.Event
			select {
			case e = <-p.Events():
			case <-done:
				return nil
			case <-ctx.Done():
				return fmt.Errorf("%d messages were acknowledged: %w", len(acknowledged), ctx.Err())
			}
			m, ok := e.Response.(*smp.MSG)
			if !ok || rng.IntN(8) == 0 { // END, or for no reason
				if _, err := request(&smp.SUB{}); err != nil {
					return err
				}
			}
			for ok {
				response, err := request(&smp.ACK{MsgID: m.MsgID})
				if errors.Is(err, smp.ErrNoMsg) {
					break // another one has the queue now, or the message comes again
				}
				if err != nil {
					return err
				}
				mu.Lock()
				acknowledged = append(acknowledged, string(b.open(t, m).Body))
				if len(acknowledged) == n {
					close(done)
				}
				mu.Unlock()
				m, ok = response.(*smp.MSG)
			}
		}
	}
	var running sync.WaitGroup
	for i := range uint64(3) {
		p := r.dial(t, 19)
		running.Go(func() {
			if err := recipient(p, rand.New(rand.NewPCG(1, i))); err != nil {
				t.Error(err)
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; {
		_, err := bob.Do(ctx, client.Request{Entity: b.sender, Command: &smp.SEND{Body: fmt.Append(nil, i)}})
		if err == nil {
			i++
		} else if !errors.Is(err, smp.ErrQuota) {
			t.Fatal(err)
		}
	}
	running.Wait()
	once := make(map[string]bool)
	for _, text := range acknowledged {
		if once[text] {
			t.Errorf("message %s was acknowledged twice", text)
		}
		once[text] = true
	}
}

// conformance: 18, 26, 28
func TestAnyInput(t *testing.T) {
	t.Parallel()
	r := start(t, newSite(t).openStore(t, 0))
	bob := r.dial(t, 19)
	boxes := bob.newQueues(4)
	rng := rand.New(rand.NewPCG(3, 4))
	for _, v := range []smp.Version{6, 8, 15, 19} {
		w := r.wire(t, v)
		var valid [][]byte
		for _, b := range boxes {
			for _, c := range []smp.Command{
				&smp.SUB{}, &smp.GET{}, &smp.ACK{MsgID: corrID(1)}, &smp.QUE{}, &smp.SUBS{}, &smp.NDEL{}, &smp.LDEL{},
				&smp.KEY{SenderKey: b.senderKey.Public()}, &smp.RKEY{RecipientKeys: []smp.PublicKey{b.recipientKey.Public()}},
				&smp.LSET{LinkID: corrID(7), Data: linkData("x")},
				&smp.NKEY{NotifierKeys: smp.NotifierKeys{Key: b.notifierKey.Public(), DHKey: newKey(t, smp.X25519).Public()}},
			} {
				valid = append(valid, w.encode(line{entity: b.recipient, key: b.recipientKey, Command: c}, 1))
			}
			valid = append(valid, w.encode(line{entity: b.sender, Command: &smp.SEND{Body: []byte("x")}}, 1),
				w.encode(line{key: b.recipientKey, Command: &smp.NEW{RecipientKey: b.recipientKey.Public(), DHKey: newKey(t, smp.X25519).Public()}}, 1),
				w.encode(line{Command: &smp.RFWD{Encrypted: make([]byte, 50)}}, 1),
				w.encode(line{entity: b.sender, Command: &smp.PFWD{Key: newKey(t, smp.X25519).Public()}}, 1))
		}
		const last = 250
		answered := make(chan error, 1)
		go func() {
			for {
				content, err := w.conn.Receive(nil)
				if err != nil {
					answered <- err
					return
				}
				transmissions, err := smp.SplitContent(nil, content)
				if err != nil {
					answered <- err
					return
				}
				for _, in := range transmissions {
					if sent, err := smp.ParseTransmission(in, v); err == nil && sent.CorrID.Equal(corrID(last)) {
						answered <- nil
						return
					}
				}
			}
		}()
		for range last {
			var block smp.Batch
			for range 1 + rng.IntN(5) {
				in := append([]byte(nil), valid[rng.IntN(len(valid))]...)
				for range rng.IntN(3) {
					in[rng.IntN(len(in))] = byte(rng.Uint32())
				}
				_, _ = block.Add(in[:len(in)-rng.IntN(2)])
			}
			content := block.Content()
			if rng.IntN(4) == 0 {
				content[rng.IntN(len(content))] = byte(rng.Uint32())
			}
			if err := w.conn.Send(content); err != nil {
				t.Fatal(err)
			}
		}
		var block smp.Batch
		_, _ = block.Add(w.encode(line{text: "PING"}, last))
		if err := w.conn.Send(block.Content()); err != nil {
			t.Fatal(err)
		}
		if err := <-answered; err != nil {
			t.Errorf("version %d: %v", v, err)
		}
	}
}

// A jamming listener makes connections on which nothing can be sent any more.
type jamming struct {
	net.Listener
	jam *atomic.Bool
}

func (l jamming) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &jammed{Conn: c, jam: l.jam, closed: make(chan struct{})}, err
}

type jammed struct {
	net.Conn
	jam    *atomic.Bool
	once   sync.Once
	closed chan struct{}
}

func (c *jammed) Write(b []byte) (int, error) {
	if c.jam.Load() {
		select {
		case <-c.closed:
			return 0, net.ErrClosed
		case <-time.After(timeout): // longer than any deadline in this test
			return 0, os.ErrDeadlineExceeded
		}
	}
	return c.Conn.Write(b)
}

func (c *jammed) Close() error {
	c.once.Do(func() { close(c.closed) })
	if c.Conn == nil { // nothing was accepted
		return nil
	}
	return c.Conn.Close()
}

// A client that reads nothing does not keep the router from stopping.
func TestShutdownWithoutTime(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	first := start(t, st)
	r, err := router.New(router.Options{Store: st, Credentials: first.options.Credentials, Limits: router.Limits{Connections: 3}})
	if err != nil {
		t.Fatal(err)
	}
	var jam atomic.Bool
	l, also := net.Listener(jamming{listen(t), &jam}), listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 2)
	go func() { served <- r.Serve(ctx, l) }()
	go func() { served <- r.Serve(t.Context(), also) }()
	stopping := &server{Router: r, address: addressOf(t, r.Identity(), l), store: st}
	w := stopping.wire(t, 19)
	(&server{Router: r, address: addressOf(t, r.Identity(), also), store: st}).dial(t, 19).quiet()
	third := stopping.dial(t, 19)
	third.quiet()
	if _, err := client.Dial(t.Context(), stopping.address, client.Options{}); err == nil {
		t.Error("there are more connections than allowed")
	}
	third.Close()
	eventually(t, "that the connection is closed", func() bool { return r.Counters().Active.Load() == 2 })
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String()); err == nil {
		t.Error("the listener is open")
	}
	jam.Store(true)
	w.send(line{entity: smp.NewEntityID("nobody"), Command: &smp.SEND{Body: []byte("x")}})
	eventually(t, "that the command arrives", func() bool { return r.Counters().MsgSentAuth.Load() == 1 })
	stop, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := r.Shutdown(stop); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}
