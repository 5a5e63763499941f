package client_test

import (
	"io"
	"net"
	"sync"
	"testing"
)

// socks is a SOCKS5 server (RFC 1928) that takes one connection, to a host by its
// name, and connects to a target whatever the name is.
type socks struct {
	address string
	asked   chan string // the name
}

func newSocks(t *testing.T, target string) socks {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := socks{address: l.Addr().String(), asked: make(chan string, 1)}
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(func() { _ = l.Close() })
	running.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if err := s.serve(conn, target); err != nil {
			t.Errorf("SOCKS server: %v", err)
		}
	})
	return s
}

func (s *socks) serve(conn net.Conn, target string) error {
	head := make([]byte, 2)
	if _, err := io.ReadFull(conn, head); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, make([]byte, head[1])); err != nil { // ways to authenticate
		return err
	}
	if _, err := conn.Write([]byte{5, 0}); err != nil {
		return err
	}
	request := make([]byte, 5) // version, connect, 0, name, length
	if _, err := io.ReadFull(conn, request); err != nil {
		return err
	}
	name := make([]byte, int(request[4])+2) // and the port
	if _, err := io.ReadFull(conn, name); err != nil {
		return err
	}
	s.asked <- string(name[:len(name)-2])
	router, err := net.Dial("tcp", target)
	if err != nil {
		return err
	}
	defer router.Close()
	if _, err := conn.Write([]byte{5, 0, 0, 1, 127, 0, 0, 1, 0, 0}); err != nil {
		return err
	}
	var copying sync.WaitGroup
	copying.Go(func() {
		_, _ = io.Copy(router, conn)
		_ = router.Close()
	})
	_, _ = io.Copy(conn, router)
	_ = conn.Close()
	copying.Wait()
	return nil
}
