package client_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/transport"
)

// The tests here run in bubbles of synctest: whoever waits for ever fails them, and
// so does a goroutine that stays.

// A network connects clients in memory, without any buffer.
type network func(router net.Conn)

func (n network) DialContext(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		n(theirs)
	}()
	return ours, nil
}

// A hostile is a router that performs the handshake and then does what a test
// wants.
type hostile struct {
	*transport.Conn

	t       testing.TB
	network net.Conn // below TLS
	channel tap      // above TLS, below blocks
	pending [][]byte
}

// A tap is the TLS of a router, and its connection once there is one.
type tap struct {
	transport.StandardTLS
	net.Conn

	written []byte // the last block
}

func (w *tap) Server(ctx context.Context, conn net.Conn, protocols []string, own *transport.Credentials, verify func([][]byte) error) (*transport.Channel, error) {
	c, err := w.StandardTLS.Server(ctx, conn, protocols, own, verify)
	if err == nil {
		w.Conn, c.Conn = c.Conn, w
	}
	return c, err
}

func (w *tap) Write(p []byte) (int, error) {
	w.written = bytes.Clone(p)
	return w.Conn.Write(p)
}

func addressOf(t testing.TB, c transport.Credentials) *smp.RouterAddress {
	t.Helper()
	host, err := smp.ParseHost("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	return &smp.RouterAddress{Fingerprint: smp.FingerprintOf(c.Chain[1]), Hosts: []smp.Host{host}}
}

// meet connects a client to a router that does something after the handshake; then
// the router closes the connection.
func meet(t testing.TB, v smp.Version, do func(*hostile)) *client.Client {
	t.Helper()
	credentials := routertest.NewCredentials(t)
	met := make(chan struct{})
	c, err := client.Dial(t.Context(), addressOf(t, credentials), client.Options{Versions: only(v), Network: network(func(conn net.Conn) {
		h := &hostile{t: t, network: conn}
		acceptor, err := transport.NewAcceptor(transport.AcceptorConfig{
			Credentials: credentials, Versions: smp.VersionRange{Min: smp.MinVersion, Max: smp.MaxVersion}, TLS: &h.channel,
		})
		if err == nil {
			h.Conn, err = acceptor.Accept(context.Background(), conn)
		}
		close(met)
		if err != nil {
			t.Errorf("router: %v", err)
			return
		}
		defer h.Close()
		do(h)
	})})
	if err != nil {
		t.Fatal(err)
	}
	<-met // the client's end is done before the router's
	t.Cleanup(c.Close)
	return c
}

// next returns the next command of the client.
func (h *hostile) next() smp.Transmission {
	h.t.Helper()
	if len(h.pending) == 0 {
		content, err := h.Receive(nil)
		if err == nil {
			h.pending, err = smp.SplitContent(nil, content)
		}
		if err != nil {
			h.t.Errorf("router: %v", err)
			return smp.Transmission{}
		}
	}
	in, err := smp.ParseTransmission(h.pending[0], h.Session().Version)
	if err != nil {
		h.t.Errorf("router: %v", err)
	}
	h.pending = h.pending[1:]
	return in
}

// transmission returns one with the given parts.
func (h *hostile) transmission(id, entity smp.Short, response string) []byte {
	t := smp.Transmission{SessionID: h.Session().ID, CorrID: id, EntityID: entity, Command: []byte(response)}
	return t.Append(nil, h.Session().Version)
}

// say sends transmissions in a block.
func (h *hostile) say(transmissions ...[]byte) {
	h.t.Helper()
	if err := h.Send(contentOf(transmissions...)); err != nil {
		h.t.Errorf("router: %v", err)
	}
}

func contentOf(transmissions ...[]byte) []byte {
	content := []byte{byte(len(transmissions))}
	for _, t := range transmissions {
		content = smp.AppendLarge(content, t)
	}
	return content
}

// pong answers the next command, which must be PING.
func (h *hostile) pong() {
	h.t.Helper()
	in := h.next()
	if string(in.Command) != "PING" {
		h.t.Errorf("router: got %q", in.Command)
	}
	h.say(h.transmission(in.CorrID, smp.Short{}, "PONG"))
}

// listen receives what the client sends until it closes the connection.
func (h *hostile) listen() {
	_ = h.channel.SetReadDeadline(time.Time{}) // that of the last block
	_, _ = io.Copy(io.Discard, &h.channel)
}

func shortOf(t testing.TB, b []byte) smp.Short {
	t.Helper()
	s, err := smp.NewShort(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ping(t testing.TB, c *client.Client) {
	t.Helper()
	if _, err := client.As[*smp.PONG](c.Do(t.Context(), client.Request{Command: &smp.PING{}})); err != nil {
		t.Error(err)
	}
}

func bubble(t *testing.T, name string, test func(*testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}

// An answer that cannot be the right one is an error of its call, which says what
// is wrong; the connection goes on.
func TestHostileAnswers(t *testing.T) {
	own := smp.NewEntityID("own queue")
	blocked := "ERR BLOCKED reason=spam"
	for _, c := range []struct {
		name     string
		version  smp.Version
		entity   string // "own queue", another, or none
		response string
		want     error
		text     string
	}{
		{"right", 19, "own queue", "SOK 0", nil, ""},
		{"right, in version 6", 6, "own queue", "OK", nil, ""},
		{"error", 19, "own queue", "ERR AUTH", smp.ErrAuth, "SUB: AUTH"},
		{"error about nothing", 19, "", "ERR BLOCK", smp.ErrBlock, "SUB: BLOCK"},
		{"another queue", 19, "another", "SOK 0", client.ErrUnexpected, "it is about YW5vdGhlcg"},
		{"error about another queue", 19, "another", "ERR AUTH", client.ErrUnexpected, "it is about YW5vdGhlcg"},
		{"result about nothing", 19, "", "SOK 0", smp.ErrEntity, "unexpected response"},
		{"PONG about something", 19, "own queue", "PONG", smp.ErrEntity, "unexpected response"},
		{"unknown response", 19, "own queue", "HELLO", client.ErrUnexpected, `unknown tag "HELLO"`},
		{"nothing", 19, "own queue", "", client.ErrUnexpected, `unknown tag ""`},
		{"command", 19, "own queue", "SUB", client.ErrUnexpected, `unknown tag "SUB"`},
		{"result that ends early", 19, "own queue", "SOK", client.ErrUnexpected, "parse SOK"},
		{"result and more", 19, "own queue", "OK OK", client.ErrUnexpected, "parse OK"},
		{"unknown error", 19, "own queue", "ERR WHATEVER", client.ErrUnexpected, "parse ERR"},
		{"form of a later version", 15, "own queue", "SOK 0", client.ErrUnexpected, "not in version 15"},
		{"error of a later version", 11, "own queue", blocked, client.ErrUnexpected, "not in version 11"},
		{"form of an earlier version", 19, "own queue", "SOKS 12345678", client.ErrUnexpected, "parse SOKS"},
	} {
		bubble(t, c.name, func(t *testing.T) {
			conn := meet(t, c.version, func(h *hostile) {
				in := h.next()
				h.say(h.transmission(in.CorrID, shortOf(t, []byte(c.entity)), c.response))
				h.pong()
				h.listen()
			})
			_, err := conn.Do(t.Context(), client.Request{Entity: own, Command: &smp.SUB{}, Key: newKey(t, smp.Ed25519)})
			if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v: %s", err, c.want, c.text)
			}
			if errors.Is(err, smp.ErrAuth) && !errors.Is(c.want, smp.ErrAuth) {
				t.Errorf("%v passes for an answer", err)
			}
			ping(t, conn)
		})
	}
}

// Results of another type than the command has are for [client.As] to refuse.
func TestAs(t *testing.T) {
	if _, err := client.As[*smp.OK](&smp.PONG{}, nil); !errors.Is(err, client.ErrUnexpected) || !strings.Contains(err.Error(), "smp.PONG") {
		t.Errorf("%v", err)
	}
	if _, err := client.As[*smp.OK](nil, nil); !errors.Is(err, client.ErrUnexpected) {
		t.Errorf("%v", err)
	}
	if _, err := client.As[*smp.OK](nil, io.EOF); err != io.EOF { //nolint:errorlint // it is not wrapped
		t.Errorf("%v", err)
	}
}

// Only the id of a command that waits is one; each is answered once.
func TestHostileIDs(t *testing.T) {
	bubble(t, "ids", func(t *testing.T) {
		c := meet(t, 19, func(h *hostile) {
			first, second := h.next(), h.next()
			id := first.CorrID.Bytes()
			no, pong := smp.Short{}, "PONG"
			h.say(
				h.transmission(shortOf(t, id[:23]), no, pong),
				h.transmission(shortOf(t, append(bytes.Clone(id), 0)), no, pong),
				h.transmission(shortOf(t, bytes.Repeat([]byte{1}, 255)), no, "ERR AUTH"),
				h.transmission(shortOf(t, []byte{0}), no, "HELLO"),
				h.transmission(second.CorrID, no, pong),
				h.transmission(second.CorrID, no, "ERR AUTH"),
				h.transmission(first.CorrID, no, "ERR INTERNAL"),
				h.transmission(first.CorrID, no, pong),
			)
			h.say(h.transmission(first.CorrID, no, pong))
			h.pong()
			h.listen()
		})
		requests := []client.Request{{Command: &smp.PING{}}, {Command: &smp.PING{}}}
		results := c.DoAll(t.Context(), requests)
		if !errors.Is(results[0].Err, smp.ErrInternal) || results[1].Err != nil {
			t.Errorf("%v, %v", results[0].Err, results[1].Err)
		}
		ping(t, c)
		if n := len(c.Events()); n != 0 {
			t.Errorf("%d events", n)
		}
	})
}

// What is no event is one with an error, and the connection goes on.
func TestHostileEvents(t *testing.T) {
	bubble(t, "events", func(t *testing.T) {
		c := meet(t, 19, func(h *hostile) {
			queue := shortOf(t, []byte("queue"))
			h.say(
				h.transmission(smp.Short{}, queue, "HELLO"),
				h.transmission(smp.Short{}, smp.Short{}, "END"),
				h.transmission(smp.Short{}, queue, "ALLS"),
				h.transmission(smp.Short{}, queue, "ERR AUTH"),
				h.transmission(smp.Short{}, smp.Short{}, "ERR BLOCK"),
			)
			h.pong()
			h.listen()
		})
		for i, want := range []error{client.ErrUnexpected, smp.ErrEntity, smp.ErrEntity} {
			if e := <-c.Events(); !errors.Is(e.Err, want) || e.Response != nil {
				t.Errorf("event %d: %T, %v", i, e.Response, e.Err)
			}
		}
		received[*smp.ERR](t, c, smp.NewEntityID("queue"))
		received[*smp.ERR](t, c, smp.EntityID{})
		ping(t, c)
	})
}

// A router that sends what is no block, or no content of one, is left; whoever
// waits is told why.
func TestHostileBlocks(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return b
	}
	write := func(b []byte) func(*hostile) {
		return func(h *hostile) { _, _ = h.channel.Conn.Write(b) }
	}
	send := func(content []byte) func(*hostile) {
		return func(h *hostile) {
			if err := h.Send(content); err != nil {
				h.t.Errorf("router: %v", err)
			}
		}
	}
	end := []byte{0, 0, 1, 'q', 'E', 'N', 'D'}
	for _, c := range []struct {
		name    string
		version smp.Version
		do      func(*hostile)
		want    error
		text    string
	}{
		{"close", 19, func(*hostile) {}, io.EOF, "closed: receive block: EOF"},
		{"close of the network", 19, func(h *hostile) { _ = h.network.Close() }, io.EOF, "EOF"},
		{"half a block", 19, write(noise(smp.BlockSize / 2)), io.ErrUnexpectedEOF, "receive block"},
		{"half a block and nothing more", 19, func(h *hostile) {
			write(noise(smp.BlockSize / 2))(h)
			h.listen()
		}, os.ErrDeadlineExceeded, "receive block"},
		{"slow bytes", 19, func(h *hostile) {
			_ = h.channel.SetWriteDeadline(time.Time{}) // that of its hello
			pace := time.NewTicker(time.Second)
			defer pace.Stop()
			for _, b := range noise(smp.BlockSize) {
				<-pace.C
				if _, err := h.channel.Conn.Write([]byte{b}); err != nil {
					break
				}
			}
		}, os.ErrDeadlineExceeded, "receive block"},
		{"noise", 19, write(noise(smp.BlockSize)), smp.ErrTransportBlock, "receive block"},
		{"noise in TLS", 19, func(h *hostile) { _, _ = h.network.Write(noise(100)) }, nil, "tls: "},
		{"replayed block", 19, func(h *hostile) {
			h.say(end)
			write(h.channel.written)(h)
		}, smp.ErrTransportBlock, "receive block"},
		{"too long a content", 10, write(append([]byte{0x3f, 0xff}, noise(smp.BlockSize-2)...)), smp.ErrTransportBlock, "unpad"},
		{"empty content", 19, send(nil), nil, "split block"},
		{"no transmission", 19, send([]byte{0}), nil, "split block"},
		{"too few transmissions", 19, send([]byte{3, 0, 1, 0}), nil, "split block"},
		{"too long a transmission", 19, send([]byte{1, 0xff, 0xff, 0}), nil, "split block"},
		{"something left over", 19, send(append(contentOf(end), 0)), nil, "split block"},
		{"empty transmission", 19, send(contentOf(nil)), nil, "parse transmission"},
		{"bad transmission behind good ones", 19, send(contentOf(end, end, []byte{0, 24, 1})), nil, "parse transmission"},
		{"bad service signature", 19, send(contentOf([]byte{1, 1, '2', 0, 0, 'O', 'K'})), nil, "parse transmission"},
		{"noise in a block", 19, send(append([]byte{200}, noise(10000)...)), nil, "split block"},
	} {
		bubble(t, c.name, func(t *testing.T) {
			conn := meet(t, c.version, func(h *hostile) {
				h.next()
				c.do(h)
			})
			call := conn.Start(t.Context(), client.Request{Command: &smp.PING{}})[0]
			for range conn.Events() { // until the connection is over
			}
			<-conn.Done()
			_, err := call.Wait(t.Context())
			_, after := conn.Do(t.Context(), client.Request{Command: &smp.PING{}})
			for _, err := range []error{err, after} {
				if !errors.Is(err, client.ErrClosed) || c.want != nil && !errors.Is(err, c.want) || !strings.HasPrefix(err.Error(), "PING: ") || !strings.Contains(err.Error(), c.text) {
					t.Errorf("call: %v; want %v: %s", err, c.want, c.text)
				}
			}
			if err := conn.Err(); err == nil || errors.Is(err, client.ErrClosed) {
				t.Errorf("connection: %v", err)
			}
		})
	}
}

// What comes before what is bad in a block counts.
func TestHostileTransmission(t *testing.T) {
	bubble(t, "last", func(t *testing.T) {
		c := meet(t, 19, func(h *hostile) {
			first, second := h.next(), h.next()
			h.say(
				h.transmission(first.CorrID, smp.Short{}, "PONG"),
				[]byte{0},
				h.transmission(second.CorrID, smp.Short{}, "PONG"),
			)
			h.listen()
		})
		requests := []client.Request{{Command: &smp.PING{}}, {Command: &smp.PING{}}}
		if r := c.DoAll(t.Context(), requests); r[0].Err != nil || !errors.Is(r[1].Err, client.ErrClosed) {
			t.Errorf("%v, %v", r[0].Err, r[1].Err)
		}
	})
}

// A router that never answers costs its callers no more time than they have, and
// nothing stays of them.
func TestSilentRouter(t *testing.T) {
	bubble(t, "calls", func(t *testing.T) {
		c := meet(t, 19, (*hostile).listen)
		const each = time.Minute
		start := time.Now()
		var callers sync.WaitGroup
		for range 50 {
			callers.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), each)
				defer cancel()
				if _, err := c.Do(ctx, client.Request{Command: &smp.PING{}}); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%v", err)
				}
			})
		}
		callers.Wait()
		if took := time.Since(start); took != each {
			t.Errorf("they took %s", took)
		}
	})
}

// The context of a call ends it in whatever state it is.
func TestCancel(t *testing.T) {
	request := client.Request{Command: &smp.PING{}}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	bubble(t, "before it starts", func(t *testing.T) {
		c := meet(t, 19, (*hostile).listen)
		for _, call := range c.Start(canceled, request, request) {
			if _, err := call.Wait(canceled); !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
		}
	})
	bubble(t, "while blocks are sent", func(t *testing.T) {
		stop := make(chan struct{})
		c := meet(t, 19, func(*hostile) { <-stop }) // it does not read
		defer close(stop)
		first := c.Start(t.Context(), request)[0]
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		for _, call := range c.Start(ctx, request, request) {
			select {
			case <-call.Done():
			default:
				t.Error("a call that cannot be sent goes on")
			}
			if _, err := call.Wait(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
				t.Errorf("%v", err)
			}
		}
		if _, err := first.Wait(t.Context()); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != transport.BlockTimeout {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
	bubble(t, "after the answer", func(t *testing.T) {
		c := meet(t, 19, func(h *hostile) {
			h.pong()
			h.listen()
		})
		call := c.Start(t.Context(), request)[0]
		<-call.Done()
		for range 10 {
			if _, err := call.Wait(canceled); err != nil {
				t.Error(err)
			}
		}
	})
	bubble(t, "in two places", func(t *testing.T) {
		c := meet(t, 19, (*hostile).listen)
		call := c.Start(t.Context(), request)[0]
		var waiting sync.WaitGroup
		for range 2 {
			waiting.Go(func() {
				if _, err := call.Wait(canceled); !errors.Is(err, context.Canceled) {
					t.Errorf("%v", err)
				}
			})
		}
		waiting.Wait()
	})
}

// A client can be closed in whatever state it is, more than once.
func TestClose(t *testing.T) {
	request := client.Request{Command: &smp.PING{}}
	for _, c := range []struct {
		name   string
		router func(h *hostile, stop <-chan struct{})
		calls  int
	}{
		{"idle", func(h *hostile, _ <-chan struct{}) { h.listen() }, 0},
		{"with a call", func(h *hostile, _ <-chan struct{}) { h.listen() }, 1},
		{"while blocks are sent", func(_ *hostile, stop <-chan struct{}) { <-stop }, 3},
		{"with an idle router that does not read", func(_ *hostile, stop <-chan struct{}) { <-stop }, 0},
		{"while events wait", func(h *hostile, stop <-chan struct{}) {
			for h.Send(contentOf([]byte{0, 0, 1, 'q', 'E', 'N', 'D'})) == nil {
				continue
			}
			<-stop
		}, 2},
		{"after the router", func(*hostile, <-chan struct{}) {}, 0},
	} {
		bubble(t, c.name, func(t *testing.T) {
			stop := make(chan struct{})
			defer close(stop)
			conn := meet(t, 19, func(h *hostile) { c.router(h, stop) })
			var callers sync.WaitGroup
			for range c.calls {
				callers.Go(func() {
					if _, err := conn.Do(t.Context(), request); !errors.Is(err, client.ErrClosed) {
						t.Errorf("call: %v", err)
					}
				})
			}
			synctest.Wait()
			start := time.Now()
			for range 3 {
				callers.Go(conn.Close)
			}
			callers.Wait()
			conn.Close()
			if took := time.Since(start); took > 5*time.Second { // what TLS grants its last words
				t.Errorf("it took %s", took)
			}
			if _, err := conn.Do(t.Context(), request); !errors.Is(err, client.ErrClosed) {
				t.Errorf("afterwards: %v", err)
			}
			if conn.Err() == nil {
				t.Error("it is not over")
			}
			for range conn.Events() { // those that came before
			}
		})
	}
}

// A flood of events is not read until somebody receives them.
func TestEventFlood(t *testing.T) {
	bubble(t, "events", func(t *testing.T) {
		var sent atomic.Int64
		message := append([]byte{0, 0, 1, 'q'}, "MSG \x01m"...)
		message = append(message, make([]byte, 16122)...)
		c := meet(t, 19, func(h *hostile) {
			for h.Send(contentOf(message)) == nil {
				sent.Add(1)
			}
		})
		synctest.Wait()
		room := int64(cap(c.Events()) + 1) // and one that is in hand
		if n := sent.Load(); n != room {
			t.Errorf("%d blocks were taken, want %d", n, room)
		}
		for range 100 {
			received[*smp.MSG](t, c, smp.NewEntityID("q"))
		}
		synctest.Wait()
		if n := sent.Load(); n != room+100 {
			t.Errorf("%d blocks were taken, want %d", n, room+100)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Do(ctx, client.Request{Command: &smp.PING{}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
	})
}

// Of answers that nobody asked for nothing is kept.
func TestAnswerFlood(t *testing.T) {
	bubble(t, "answers", func(t *testing.T) {
		before := heap()
		c := meet(t, 19, func(h *hostile) {
			in := h.next()
			for n := range 200 {
				id := make([]byte, 24)
				var all [][]byte
				for i := range 255 {
					id[0], id[1] = byte(n), byte(i)
					all = append(all, h.transmission(shortOf(t, id), smp.Short{}, "PONG"))
				}
				h.say(all...)
			}
			h.say(h.transmission(in.CorrID, smp.Short{}, "PONG"))
			h.listen()
		})
		ping(t, c)
		if after := heap(); after > before+10*smp.BlockSize {
			t.Errorf("%d bytes are kept", after-before)
		}
	})
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // what was in pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A router that announces much in its handshake and sends little costs a client no
// more than a block of TLS and one of ours.
func TestMemoryBeforeHandshake(t *testing.T) {
	bubble(t, "record", func(t *testing.T) {
		const connections = 50
		record := append([]byte{22, 3, 3, 0x0f, 0xf0, 2, 0, 0xff, 0xff}, make([]byte, 4070)...) // all but its end
		address := addressOf(t, routertest.NewCredentials(t))
		hang := network(func(conn net.Conn) {
			_, _ = io.ReadFull(conn, make([]byte, 100)) // of the ClientHello
			go io.Copy(io.Discard, conn)                //nolint:errcheck // until the client is gone
			_, _ = conn.Write(record)
			_, _ = io.Copy(io.Discard, conn)
		})
		ctx, cancel := context.WithCancel(t.Context())
		before := heap()
		var dialing sync.WaitGroup
		for range connections {
			dialing.Go(func() {
				if _, err := client.Dial(ctx, address, client.Options{Network: hang}); !errors.Is(err, context.Canceled) {
					t.Errorf("%v", err)
				}
			})
		}
		synctest.Wait()
		each := (heap() - before) / connections
		cancel()
		dialing.Wait()
		if limit := uint64(2 * smp.BlockSize); each > limit { // both ends are here
			t.Errorf("a connection takes %d bytes, want at most %d", each, limit)
		}
	})
}

// Whatever is no handshake is an error of Dial, and the next host is tried.
func TestHostileHandshake(t *testing.T) {
	for _, c := range []struct {
		name   string
		router func(net.Conn)
		want   error
	}{
		{"close", func(net.Conn) {}, transport.ErrTLS},
		{"noise", func(conn net.Conn) {
			go io.Copy(io.Discard, conn) //nolint:errcheck // until the client is gone
			_, _ = conn.Write(bytes.Repeat([]byte("no TLS at all"), 100))
		}, transport.ErrTLS},
		{"silence", func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }, context.DeadlineExceeded},
	} {
		bubble(t, c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			start := time.Now()
			_, err := client.Dial(ctx, addressOf(t, routertest.NewCredentials(t)), client.Options{Network: network(c.router)})
			if !errors.Is(err, c.want) || !strings.HasPrefix(err.Error(), "127.0.0.1:5223: connect to router: ") {
				t.Errorf("%v", err)
			}
			if took := time.Since(start); took > time.Minute {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// Requests that cannot be sent fail alone, before anything of them is sent.
func TestBadRequests(t *testing.T) {
	r := routertest.Start(t, routertest.Options{})
	c := dial(t, r, client.Options{})
	queue := smp.NewEntityID("queue")
	results := c.DoAll(t.Context(), []client.Request{
		{Command: &smp.PING{}},
		{Entity: queue, Command: &smp.SEND{Body: make([]byte, smp.BlockSize)}},
		{Entity: queue, Command: &smp.SEND{Body: make([]byte, smp.MaxLarge+1)}},
		{Entity: smp.NewEntityID(strings.Repeat("x", 256)), Command: &smp.SUB{}},
		{Entity: queue, Command: &smp.SUB{}},
		{Entity: queue, Command: &smp.SUBS{}},
		{Command: &smp.PING{}},
	})
	if slices.ContainsFunc([]int{0, 6}, func(i int) bool { return results[i].Err != nil }) {
		t.Errorf("%v, %v", results[0].Err, results[6].Err)
	}
	for i, want := range map[int]error{1: smp.ErrTooLarge, 2: smp.ErrTooLarge, 4: smp.ErrNoAuth, 5: auth.ErrService} {
		if err := results[i].Err; !errors.Is(err, want) {
			t.Errorf("request %d: got %v, want %v", i, err, want)
		}
	}
	if err := results[3].Err; err == nil || !strings.HasPrefix(err.Error(), "SUB: 256 bytes") {
		t.Errorf("%v", err)
	}
	if calls := c.Start(t.Context()); len(calls) != 0 {
		t.Errorf("%d calls", len(calls))
	}
	if results := c.DoAll(t.Context(), nil); len(results) != 0 {
		t.Errorf("%d results", len(results))
	}
	old := dial(t, routertest.Start(t, routertest.Options{Versions: only(smp.VersionBase)}), client.Options{})
	if _, err := old.Do(t.Context(), client.Request{Entity: queue, Command: &smp.SUB{}, Key: newKey(t, smp.X25519)}); err == nil || !strings.Contains(err.Error(), "SUB: authorize command") {
		t.Errorf("an authenticator in version 6: %v", err)
	}
	ping(t, old)
}
