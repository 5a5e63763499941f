package web

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/config"
)

// A connection beyond the limit is closed; when another one ends, there is room again.
func TestConnectionLimit(t *testing.T) {
	s, err := New(&config.Router{Web: config.Web{StaticPath: filepath.Join(t.TempDir(), "www")}}, Build{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.connections.Store(maxConnections - 1)
	s.serving.Go(func() {
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	dial := func() net.Conn {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	answered := func(conn net.Conn) bool {
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") // it may be closed already
		answer, _ := io.ReadAll(conn)
		return len(answer) > 0
	}
	first := dial()
	// The server takes connections in their order: the second one finds the first.
	if answered(dial()) {
		t.Error("a connection beyond the limit is served")
	}
	if !answered(first) {
		t.Error("the last connection within the limit is not served")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !answered(dial()) { // the server may not have seen yet that the first one is closed
		if ctx.Err() != nil {
			t.Fatal("there is no room again")
		}
	}
	if err := s.Shutdown(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}
