package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/transport"
)

// Listen returns listeners for all addresses of this machine, IPv4 and IPv6 where
// there are both, one for each port; port 0 is one that is free. With keepAlive, TCP
// finds clients that are gone without having said so. An error says which port it is
// about, and leaves none open.
func Listen(ctx context.Context, ports []uint16, keepAlive net.KeepAliveConfig) ([]net.Listener, error) {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	var all []net.Listener
	for _, port := range ports {
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort("", strconv.Itoa(int(port))))
		if err != nil {
			for _, l := range all {
				_ = l.Close()
			}
			return nil, fmt.Errorf("listen on port %d: %w", port, err)
		}
		all = append(all, l)
	}
	return all, nil
}

// retryAccept is how long the router waits after it could not accept a connection,
// such as for want of file descriptors.
const retryAccept = 50 * time.Millisecond

// Serve accepts connections until ctx ends or the router is stopped, then closes the
// listener and returns nil. It may be called for several listeners. Sessions outlive
// it. Its error is that of a listener that others have closed, and says which.
func (r *Router) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close() //nolint:errcheck // it serves no purpose any more
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	defer context.AfterFunc(r.stopping, func() { _ = l.Close() })() //nolint:contextcheck // that of the router
	pause := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		case <-r.stopping.Done():
		}
	}
	at := r.socketsOf(l)
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			if !r.admit(conn, at) {
				continue
			}
			if wait := r.limits.handshake(r.o.Now()); wait > 0 {
				pause(wait)
			}
			r.take(conn, at) //nolint:contextcheck // sessions outlive Serve
		case ctx.Err() != nil, r.stopping.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept connections on %s: %w", l.Addr(), err)
		default:
			r.log.LogAttrs(ctx, slog.LevelWarn, "a connection cannot be accepted", slog.String("listener", l.Addr().String()), slog.Any("error", err))
			pause(retryAccept)
		}
	}
}

// admit takes account of a connection. One that is beyond the limits is closed at
// once, without a word of TLS, which would cost more than the connection is worth.
func (r *Router) admit(conn net.Conn, at *sockets) bool {
	r.counters.Accepted.Add(1)
	at.accepted.Add(1)
	if r.limits.admit(conn.RemoteAddr(), r.o.Now()) {
		r.counters.Active.Add(1)
		return true
	}
	r.counters.Refused.Add(1)
	r.counters.Closed.Add(1)
	at.closed.Add(1)
	_ = conn.Close()
	return false
}

// release is for the end of a connection that was admitted.
func (r *Router) release(conn net.Conn, at *sockets) {
	r.limits.release(conn.RemoteAddr(), r.o.Now())
	at.closed.Add(1)
	r.counters.Closed.Add(1)
	r.counters.Active.Add(-1)
}

// take serves a connection that was admitted, unless the router stops.
func (r *Router) take(conn net.Conn, at *sockets) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopping.Err() != nil {
		_ = conn.Close()
		r.release(conn, at)
		return
	}
	r.connections.Go(func() {
		r.serve(conn, at.port)
		r.release(conn, at)
	})
}

// serve serves one client, who has connected to a port.
func (r *Router) serve(raw net.Conn, port int) {
	conn, err := r.acceptor.Accept(r.stopping, raw)
	if err != nil {
		if !errors.Is(err, transport.ErrTakenOver) {
			r.failed(err)
		}
		return
	}
	r.counters.Connected.Add(1)
	s := newSession(r, conn)
	s.port = port
	if r.join(s) {
		s.run()
		r.leave(s)
	}
	_ = conn.Close() // the client may have done so
}

// failed takes account of a handshake that failed.
func (r *Router) failed(err error) {
	if r.stopping.Err() != nil {
		return // for no other reason
	}
	inTLS := errors.Is(err, transport.ErrTLS) || errors.Is(err, auth.ErrChain)
	level := slog.LevelDebug
	if inTLS {
		r.counters.FailedTLS.Add(1)
		if r.o.LogTLSErrors {
			level = slog.LevelWarn
		}
	} else {
		r.counters.FailedHandshake.Add(1)
	}
	r.log.LogAttrs(r.stopping, level, "the handshake failed", slog.Any("error", err))
}

// failureInterval is how often connections that came to nothing are logged, all in one
// line: on the internet there always are some.
const failureInterval = time.Minute

// failures are the connections that came to nothing, as far as they were logged.
type failures struct {
	router                              *Router
	refused, failedTLS, failedHandshake int64
}

// log logs how many there have been since the last time.
func (f *failures) log() {
	c := &f.router.counters
	refused, failedTLS, failedHandshake := c.Refused.Load(), c.FailedTLS.Load(), c.FailedHandshake.Load()
	if refused == f.refused && failedTLS == f.failedTLS && failedHandshake == f.failedHandshake {
		return
	}
	f.router.log.LogAttrs(f.router.stopping, slog.LevelInfo, "connections came to nothing",
		slog.Int64("refused", refused-f.refused), slog.Int64("tls", failedTLS-f.failedTLS), slog.Int64("handshake", failedHandshake-f.failedHandshake))
	f.refused, f.failedTLS, f.failedHandshake = refused, failedTLS, failedHandshake
}
