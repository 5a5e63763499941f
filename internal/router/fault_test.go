package router_test

import (
	"context"
	"net"
	"strconv"
	"sync"
	"testing"
)

// A cable is a network between clients and a server that can fail. Its methods may be
// called at any time.
type cable struct {
	network, server string // where the server is
	pumps           sync.WaitGroup

	mu       sync.Mutex // guards the rest
	address  string
	listener net.Listener // nil: nobody can connect
	ends     map[net.Conn]struct{}
	open     chan struct{} // closed while bytes pass
}

// newCable returns a cable to a server, until the end of the test.
func newCable(t testing.TB, network, server string) *cable {
	t.Helper()
	c := &cable{network: network, server: server, address: "127.0.0.1:0", ends: make(map[net.Conn]struct{}), open: make(chan struct{})}
	close(c.open)
	c.mend(t)
	t.Cleanup(func() {
		c.unplug()
		c.mu.Lock()
		c.pass()
		c.mu.Unlock()
		c.pumps.Wait()
	})
	return c
}

// at returns the host and the port of the near end.
func (c *cable) at(t testing.TB) (host string, port uint16) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	host, text, err := net.SplitHostPort(c.address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return host, uint16(n)
}

// cut ends all connections at once.
func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for end := range c.ends {
		_ = end.Close()
	}
}

// unplug is cut, and keeps others from connecting until mend.
func (c *cable) unplug() {
	c.mu.Lock()
	if c.listener != nil {
		_ = c.listener.Close()
		c.listener = nil
	}
	c.mu.Unlock()
	c.cut()
}

// hold holds back all that is sent until mend, both ways. Connections stay open, new
// ones are accepted.
func (c *cable) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flows() {
		c.open = make(chan struct{})
	}
}

// mend ends unplug and hold. What was held back is sent.
func (c *cable) mend(t testing.TB) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pass()
	if c.listener != nil {
		return
	}
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", c.address)
	if err != nil {
		t.Fatal(err)
	}
	c.listener, c.address = l, l.Addr().String()
	c.pumps.Go(func() { c.accept(l) })
}

// flows reports whether bytes pass. The mutex must be held, as for pass.
func (c *cable) flows() bool {
	select {
	case <-c.open:
		return true
	default:
		return false
	}
}

func (c *cable) pass() {
	if !c.flows() {
		close(c.open)
	}
}

func (c *cable) accept(l net.Listener) {
	for {
		near, err := l.Accept()
		if err != nil {
			return // unplugged
		}
		far, err := new(net.Dialer).DialContext(context.Background(), c.network, c.server)
		if err != nil {
			_ = near.Close() // the server is away, so this connection is as well
			continue
		}
		c.mu.Lock()
		c.ends[near], c.ends[far] = struct{}{}, struct{}{}
		if c.listener != l {
			_, _ = near.Close(), far.Close() // unplugged meanwhile
		}
		c.mu.Unlock()
		c.pumps.Go(func() { c.pump(near, far) })
		c.pumps.Go(func() { c.pump(far, near) })
	}
}

// pump sends on what comes until the connection ends, and ends the other one.
func (c *cable) pump(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		c.mu.Lock()
		open := c.open
		c.mu.Unlock()
		<-open
		if n > 0 && err == nil {
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			break
		}
	}
	_, _ = from.Close(), to.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.ends, from)
}
