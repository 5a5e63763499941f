package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/smpq/smpq/internal/config"
	"github.com/smpq/smpq/internal/transport"
)

// Limits of connections, whose clients anybody can be. Pages have some 10 KB.
const (
	maxConnections = 1000
	maxHeader      = 16 << 10 // bytes
	maxStreams     = 32       // requests of one connection at a time, in HTTP/2

	headerTimeout = 10 * time.Second // also for TLS
	readTimeout   = 20 * time.Second
	writeTimeout  = time.Minute
	idleTimeout   = time.Minute
)

// A Server serves the site of a router. It must be stopped with [Server.Shutdown].
// One without a folder does nothing.
type Server struct {
	// Set by New, then read-only.
	web         config.Web
	files       map[string][]byte
	log         *slog.Logger
	https       *tls.Config                     // nil without HTTPS
	named       *tls.Config                     // the same, for who offers none of its protocols by ALPN
	certificate atomic.Pointer[tls.Certificate] // nil without HTTPS
	connections atomic.Int64
	shared      *handoff // the browsers' connections of a shared port

	// Set by Start; nil before, and where there are no pages.
	pages   *fileServer
	http    *http.Server
	serving sync.WaitGroup
}

// New returns a server that serves nobody yet: it has made the pages, and read the
// certificate, but written nothing. Its error is [ErrKey], or one of the files of
// the certificate.
func New(c *config.Router, b Build, log *slog.Logger) (*Server, error) {
	s := &Server{web: c.Web, log: log, shared: newHandoff()}
	if s.web.StaticPath == "" {
		return s, nil
	}
	var err error
	if s.files, err = siteFiles(c, b); err != nil {
		return nil, fmt.Errorf("web pages: %w", err)
	}
	if s.web.HTTPS != 0 {
		if err := s.Reload(); err != nil {
			return nil, err
		}
		s.https = &tls.Config{
			MinVersion: tls.VersionTLS12, GetCertificate: s.getCertificate, NextProtos: []string{"h2", "http/1.1"},
			SessionTicketsDisabled: true, // on a shared port, their keys would be those of the router, which has none
		}
		s.named = s.https.Clone()
		s.named.NextProtos = nil
		s.https.GetConfigForClient = s.TLSConfig
	}
	return s, nil
}

// Reload reads the certificate for HTTPS again. If it fails, the one before stays.
func (s *Server) Reload() error {
	if s.web.StaticPath == "" || s.web.HTTPS == 0 {
		return nil
	}
	c, err := loadCertificate(s.web.Cert, s.web.Key)
	if err != nil {
		return err
	}
	s.certificate.Store(c)
	return nil
}

func (s *Server) getCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s.certificate.Load(), nil
}

// TLSConfig returns the configuration for a client. One that offers none of the
// protocols by ALPN is answered in HTTP/1.1 all the same.
func (s *Server) TLSConfig(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if slices.ContainsFunc(hello.SupportedProtos, func(p string) bool { return slices.Contains(s.https.NextProtos, p) }) {
		return s.https, nil
	}
	return s.named, nil
}

// Start writes the site to its folder, and serves it until [Server.Shutdown]: over
// HTTP and HTTPS, on ports of its own or, where the port for HTTPS is that of one of
// the router's listeners, on that one. It returns the listeners that the router is to
// use instead of its own, which Start leaves open if it fails.
func (s *Server) Start(ctx context.Context, routers []net.Listener) ([]net.Listener, error) {
	if s.web.StaticPath == "" {
		if s.web.HTTP != 0 || s.web.HTTPS != 0 {
			s.log.LogAttrs(ctx, slog.LevelWarn, "there are no web pages: the configuration has no folder for them, static_path in section [WEB]")
		}
		return routers, nil
	}
	listeners, err := s.listen(ctx, routers)
	if err == nil {
		err = s.open(ctx)
	}
	if err != nil {
		closeAll(listeners)
		return nil, err
	}
	for _, l := range listeners {
		s.serving.Go(func() {
			if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				s.log.LogAttrs(ctx, slog.LevelError, "web pages are no longer served", slog.Any("error", err))
			}
		})
	}
	shared := slices.Clone(routers)
	for i, l := range shared {
		if s.shares(l) {
			shared[i] = transport.Share(l, s)
		}
	}
	return shared, nil
}

// shares reports whether a listener of the router has the port for HTTPS.
func (s *Server) shares(l net.Listener) bool {
	at, ok := l.Addr().(*net.TCPAddr)
	return ok && s.https != nil && at.Port == int(s.web.HTTPS)
}

// listen returns listeners for browsers.
func (s *Server) listen(ctx context.Context, routers []net.Listener) (listeners []net.Listener, err error) {
	if s.web.HTTP != 0 {
		l, err := s.listenTo(ctx, s.web.HTTP)
		if err != nil {
			return nil, err
		}
		listeners = append(listeners, l)
	}
	switch {
	case s.https == nil:
	case slices.ContainsFunc(routers, s.shares):
		listeners = append(listeners, s.shared)
	default:
		l, err := s.listenTo(ctx, s.web.HTTPS)
		if err != nil {
			return listeners, err
		}
		listeners = append(listeners, tls.NewListener(l, s.https))
	}
	return listeners, nil
}

// Ports returns the ports that the site has for itself, beside those of the router.
func (s *Server) Ports(routers []uint16) (ports []uint16) {
	if s.web.StaticPath == "" {
		return nil
	}
	if s.web.HTTP != 0 {
		ports = append(ports, s.web.HTTP)
	}
	if s.web.HTTPS != 0 && !slices.Contains(routers, s.web.HTTPS) {
		ports = append(ports, s.web.HTTPS)
	}
	return ports
}

// Listen returns a listener for browsers.
func Listen(ctx context.Context, port uint16) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, fmt.Errorf("web pages: %w", err)
	}
	return l, nil
}

func (s *Server) listenTo(ctx context.Context, port uint16) (net.Listener, error) {
	l, err := Listen(ctx, port)
	if err == nil {
		s.log.LogAttrs(ctx, slog.LevelInfo, "serving web pages", slog.String("address", l.Addr().String()))
	}
	return l, err
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		_ = l.Close() // nobody has connected
	}
}

// open writes the pages and prepares to serve them.
func (s *Server) open(ctx context.Context) (err error) {
	err = writeSite(s.web.StaticPath, s.files)
	switch {
	case err == nil:
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		// The router is to be served all the same, with what pages there are.
		s.log.LogAttrs(ctx, slog.LevelError, "the web pages cannot be written", slog.Any("error", err))
	default:
		return fmt.Errorf("web pages: %w", err)
	}
	if s.pages, err = newFileServer(s.web.StaticPath); err != nil {
		return fmt.Errorf("web pages: %w", err)
	}
	s.http = &http.Server{
		Handler: s.pages, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams}, ConnState: s.track,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return nil
}

// track keeps the number of connections within its limit.
func (s *Server) track(conn net.Conn, state http.ConnState) {
	if state == http.StateNew && s.connections.Add(1) > maxConnections {
		_ = conn.Close()
	}
	if state == http.StateClosed {
		s.connections.Add(-1)
	}
}

// TakeOver serves a browser that has come to a port of the router.
func (s *Server) TakeOver(conn *tls.Conn) { s.shared.put(conn) }

// shutdownTimeout is how long answers may take that are under way in the end.
const shutdownTimeout = 3 * time.Second

// Shutdown stops serving, when the answers under way are sent or do not come to their
// end.
func (s *Server) Shutdown(ctx context.Context) error {
	if s.http == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	s.serving.Wait()
	if err = errors.Join(err, s.pages.root.Close()); err != nil {
		return fmt.Errorf("stop serving web pages: %w", err)
	}
	return nil
}

// A handoff is a listener for connections that somebody else has accepted.
type handoff struct {
	conns chan net.Conn
	done  chan struct{} // closed by Close
	close sync.Once
}

func newHandoff() *handoff {
	return &handoff{conns: make(chan net.Conn), done: make(chan struct{})}
}

// put closes a connection that comes too late.
func (h *handoff) put(conn net.Conn) {
	select {
	case h.conns <- conn:
	case <-h.done:
		_ = conn.Close()
	}
}

// Accept implements [net.Listener].
func (h *handoff) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (h *handoff) Close() error {
	h.close.Do(func() { close(h.done) })
	return nil
}

// Addr implements [net.Listener]. Nobody asks for it.
func (h *handoff) Addr() net.Addr { return &net.TCPAddr{} }
