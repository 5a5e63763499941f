package routertest

import (
	"bytes"
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
)

// A SOCKS is a SOCKS5 server (RFC 1928, RFC 1929) that connects with one router, whatever
// it is asked for.
type SOCKS struct {
	address string
	target  string

	mu    sync.Mutex // guards what follows
	asked []Asked
}

// An Asked is what a SOCKS server was asked for, and by whom.
type Asked struct{ Host, User, Password string }

// StartSOCKS starts a SOCKS server, until the end of the test, that connects with a
// target, such as 127.0.0.1:5223.
func StartSOCKS(t testing.TB, target string) *SOCKS {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &SOCKS{address: l.Addr().String(), target: target}
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(func() { _ = l.Close() })
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close() //nolint:errcheck // the client may have done so
				if err := s.serve(t.Context(), conn); err != nil {
					t.Errorf("SOCKS server: %v", err)
				}
			})
		}
	})
	return s
}

// Address returns the host and the port of the server.
func (s *SOCKS) Address() string { return s.address }

// Asked returns what it was asked for so far.
func (s *SOCKS) Asked() []Asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// field returns what is behind its length, one byte.
func field(r io.Reader) (string, error) {
	n := make([]byte, 1)
	if _, err := io.ReadFull(r, n); err != nil {
		return "", err
	}
	text := make([]byte, n[0])
	_, err := io.ReadFull(r, text)
	return string(text), err
}

func (s *SOCKS) serve(ctx context.Context, conn net.Conn) error {
	var a Asked
	version := make([]byte, 1)
	if _, err := io.ReadFull(conn, version); err != nil {
		return err
	}
	methods, err := field(conn)
	if err != nil {
		return err
	}
	method := byte(0)
	if bytes.IndexByte([]byte(methods), 2) >= 0 {
		method = 2
	}
	if _, err := conn.Write([]byte{5, method}); err != nil {
		return err
	}
	if method == 2 {
		if _, err := io.ReadFull(conn, version); err != nil {
			return err
		}
		if a.User, err = field(conn); err != nil {
			return err
		}
		if a.Password, err = field(conn); err != nil {
			return err
		}
		if _, err := conn.Write([]byte{1, 0}); err != nil {
			return err
		}
	}
	head := make([]byte, 4) // version, connect, 0, kind of address
	if _, err := io.ReadFull(conn, head); err != nil {
		return err
	}
	switch head[3] {
	case 1:
		ip := make([]byte, 4)
		if _, err := io.ReadFull(conn, ip); err != nil {
			return err
		}
		a.Host = net.IP(ip).String()
	case 3:
		if a.Host, err = field(conn); err != nil {
			return err
		}
	}
	if _, err := io.ReadFull(conn, make([]byte, 2)); err != nil { // the port
		return err
	}
	s.mu.Lock()
	s.asked = append(s.asked, a)
	s.mu.Unlock()
	to, err := new(net.Dialer).DialContext(ctx, "tcp", s.target)
	if err != nil {
		return err
	}
	defer to.Close() //nolint:errcheck // the other direction may have done so
	if _, err := conn.Write([]byte{5, 0, 0, 1, 127, 0, 0, 1, 0, 0}); err != nil {
		return err
	}
	var copying sync.WaitGroup
	copying.Go(func() {
		_, _ = io.Copy(to, conn)
		_ = to.Close()
	})
	_, _ = io.Copy(conn, to)
	_ = conn.Close()
	copying.Wait()
	return nil
}
