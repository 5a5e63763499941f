// Package monitor shows how a program is that serves: over HTTP, on an address of
// the machine itself.
//
//	/healthz       200 while the process answers at all
//	/readyz        200 while it serves, else 503 with the reason
//	/metrics       its metrics, in the text format of Prometheus
//	/debug/pprof/  profiles of the Go runtime, if they are asked for
//
// Nobody has to say who he is. So what is shown has no secrets and no ids, and
// addresses that others can reach are refused unless the operator wants them.
package monitor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof" // what it adds to the default handlers is not served
	"net/netip"
	"sync/atomic"
	"time"
)

const (
	// maxConnections is how many there may be at a time.
	maxConnections = 64
	// readyTimeout bounds how long it may take to find out whether all is ready.
	readyTimeout = 3 * time.Second
	// requestTimeout is how long a client may take to send a request, and how long
	// it may say nothing between two.
	requestTimeout = 10 * time.Second
	// answerTimeout is how long an answer may take. A profile takes 30 s.
	answerTimeout = 2 * time.Minute
	// maxHeader is how many bytes a request may have.
	maxHeader = 8 << 10
)

// Options say what a [Server] shows.
type Options struct {
	// Ready returns nil while the program serves, else why it does not. The text of
	// its errors is shown.
	Ready func(context.Context) error

	// Metrics write the metrics, one after the other, each in the text format of
	// Prometheus. They are called by many goroutines.
	Metrics []func(io.Writer) error

	// Profiles says whether profiles of the Go runtime are shown: they take time of
	// the processor while they are made.
	Profiles bool

	// Log receives what went wrong. Nil: nothing is logged.
	Log *slog.Logger
}

// A Server answers requests.
type Server struct {
	o    Options
	http *http.Server
	open atomic.Int64 // connections
}

// New returns a server that answers nobody yet.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{o: o}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.health)
	mux.HandleFunc("GET /readyz", s.ready)
	mux.HandleFunc("GET /metrics", s.metrics)
	if o.Profiles {
		// Not the command line, which can have passwords.
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", http.NotFound)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	s.http = &http.Server{
		Handler: mux, ConnState: s.limit, ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		ReadTimeout: requestTimeout, IdleTimeout: requestTimeout, WriteTimeout: answerTimeout, MaxHeaderBytes: maxHeader,
	}
	return s
}

// limit closes connections that are too many.
func (s *Server) limit(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if s.open.Add(1) > maxConnections {
			_ = c.Close()
		}
	case http.StateClosed, http.StateHijacked:
		s.open.Add(-1)
	case http.StateActive, http.StateIdle:
	}
}

// Listen returns a listener for an address, a host or an IP address with a port. It
// refuses addresses that are not the machine's own loopback unless others may
// connect (public).
func Listen(ctx context.Context, address string, public bool) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	// What counts is what it came to: names can be anything.
	at, err := netip.ParseAddrPort(l.Addr().String())
	if err == nil && !public && !at.Addr().IsLoopback() {
		err = fmt.Errorf("%s: %w", address, ErrPublic)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// ErrPublic is why [Listen] refuses an address.
var ErrPublic = errors.New("others can reach this address, and nobody is asked who he is")

// Serve answers requests until [Server.Shutdown], then returns nil.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("monitor: %w", err)
	}
	return nil
}

// Shutdown accepts no more requests and waits for those that there are; when ctx
// ends, it closes their connections.
func (s *Server) Shutdown(ctx context.Context) {
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close() // nobody is left who wants to know
	}
}

func (*Server) health(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok") }

func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	if err := s.o.Ready(ctx); err != nil {
		text(w, http.StatusServiceUnavailable, err.Error())
		return
	}
	text(w, http.StatusOK, "ready")
}

// text answers with a line.
func text(w http.ResponseWriter, status int, line string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, line+"\n") // who asked may have left
}

func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	var b bytes.Buffer
	for _, write := range s.o.Metrics {
		if err := write(&b); err != nil {
			s.o.Log.LogAttrs(r.Context(), slog.LevelWarn, "metrics cannot be shown", slog.Any("error", err))
			text(w, http.StatusInternalServerError, "metrics cannot be shown: the log says why")
			return
		}
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write(b.Bytes()) // who asked may have left
}
