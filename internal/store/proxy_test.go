package store_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// A proxy stands between a store and the server and makes the network fail. Its
// methods may be called at any time, also while connections are in use.
type proxy struct {
	server       *pgx.ConnConfig
	address      string
	transactions atomic.Int64 // that clients have completed with a Sync: round trips

	pumps sync.WaitGroup // all goroutines

	mu       sync.Mutex // guards the rest
	listener net.Listener
	conns    map[*proxied]struct{}
	open     chan struct{} // closed while messages pass
	cuts     []*cut
}

// A cutPoint says when a connection is cut.
type cutPoint int

const (
	// beforeCommit is when the server has all of a transaction but its end.
	beforeCommit cutPoint = iota
	// afterCommit is when the server has committed a transaction and says so.
	afterCommit
)

// A cut is to be made when a statement comes by.
type cut struct {
	at   cutPoint
	sql  string
	done chan struct{}
}

// proxied is a client's connection.
type proxied struct {
	client, server net.Conn
	statements     map[string]string // SQL of prepared statements by name
	executes       []string          // SQL that was executed since the last Sync
	pending        chan *cut         // a cut to be made when the server is ready
}

// newProxy returns a proxy in front of a server, until the end of the test.
func newProxy(t testing.TB, dsn string) *proxy {
	t.Helper()
	server, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{server: server, address: "127.0.0.1:0", conns: make(map[*proxied]struct{}), open: make(chan struct{})}
	close(p.open)
	p.restore(t)
	t.Cleanup(func() {
		p.refuse()
		p.mu.Lock()
		p.pass()
		p.mu.Unlock()
		p.pumps.Wait()
	})
	return p
}

// dsn returns the connection string by which to reach the server through the
// proxy.
func (p *proxy) dsn() string {
	host, port, _ := net.SplitHostPort(p.address)
	s := fmt.Sprintf("host=%s port=%s user=%s dbname=%s sslmode=disable", host, port, p.server.User, p.server.Database)
	if p.server.Password != "" {
		s += " password=" + p.server.Password
	}
	return s
}

// refuse cuts all connections and refuses new ones, as if the server was stopped,
// until restore.
func (p *proxy) refuse() {
	p.mu.Lock()
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
	p.mu.Unlock()
	p.cutAll()
}

// hang holds back all that is sent, both ways, until restore. Connections stay
// open, new ones are accepted.
func (p *proxy) hang() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flows() {
		p.open = make(chan struct{})
	}
}

// restore ends refuse and hang. What hang held back is sent.
func (p *proxy) restore(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pass()
	if p.listener != nil {
		return
	}
	l, err := net.Listen("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	p.listener, p.address = l, l.Addr().String()
	p.pumps.Go(func() { p.accept(l) })
}

// flows reports whether messages pass. The caller holds mu.
func (p *proxy) flows() bool {
	select {
	case <-p.open:
		return true
	default:
		return false
	}
}

// pass lets messages pass. The caller holds mu.
func (p *proxy) pass() {
	if !p.flows() {
		close(p.open)
	}
}

// cutAll cuts all connections at once, and returns how many there were.
func (p *proxy) cutAll() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.close()
	}
	return len(p.conns)
}

// cutNext cuts the connection on which the next transaction comes by that has a
// statement with the given text. The channel is closed when that is done.
func (p *proxy) cutNext(at cutPoint, sql string) <-chan struct{} {
	c := &cut{at: at, sql: sql, done: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cuts = append(p.cuts, c)
	return c.done
}

// takeCut returns the cut that is to be made for a transaction, if any.
func (p *proxy) takeCut(executes []string) *cut {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, c := range p.cuts {
		for _, sql := range executes {
			if strings.Contains(sql, c.sql) {
				p.cuts = append(p.cuts[:i], p.cuts[i+1:]...)
				return c
			}
		}
	}
	return nil
}

func (p *proxy) accept(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return // closed
		}
		network, address := pgconn.NetworkAddress(p.server.Host, p.server.Port)
		server, err := net.Dial(network, address)
		if err != nil {
			_ = client.Close() // the server is away, so this connection is as well
			continue
		}
		c := &proxied{client: client, server: server, statements: make(map[string]string), pending: make(chan *cut, 1)}
		p.mu.Lock()
		if p.listener == l {
			p.conns[c] = struct{}{}
		} else {
			c.close() // refused meanwhile
		}
		p.mu.Unlock()
		p.pumps.Go(func() {
			defer c.close()
			p.pump(c, client, server, true, c.fromClient(p))
		})
		p.pumps.Go(func() {
			defer func() {
				c.close()
				p.mu.Lock()
				delete(p.conns, c)
				p.mu.Unlock()
			}()
			p.pump(c, server, client, false, c.fromServer)
		})
	}
}

func (c *proxied) close() {
	_ = c.client.Close() // an end that is there already
	_ = c.server.Close()
}

// pump sends messages on until the end of the connection, or until one at which
// look says to cut it. The first message of a client has no kind.
func (p *proxy) pump(c *proxied, from io.Reader, to io.Writer, startup bool, look func(kind byte, body []byte) *cut) {
	r, w := bufio.NewReader(from), bufio.NewWriter(to)
	for {
		header := make([]byte, 5)
		if startup {
			header = header[1:]
		}
		if _, err := io.ReadFull(r, header); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(header[len(header)-4:])-4)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		p.mu.Lock()
		open := p.open
		p.mu.Unlock()
		<-open
		if !startup {
			if cut := look(header[0], body); cut != nil {
				_ = w.Flush() // whether it arrives or not
				c.close()
				close(cut.done)
				return
			}
		}
		startup = false
		_, _ = w.Write(header) // Flush returns the error
		_, _ = w.Write(body)
		if r.Buffered() > 0 {
			continue
		}
		if w.Flush() != nil {
			return
		}
	}
}

// fromClient returns what looks at the messages of the client.
func (c *proxied) fromClient(p *proxy) func(kind byte, body []byte) *cut {
	text := func(b *[]byte) string {
		s, rest, _ := bytes.Cut(*b, []byte{0})
		*b = rest
		return string(s)
	}
	return func(kind byte, body []byte) *cut {
		switch kind {
		case 'P': // Parse: name, SQL
			name := text(&body)
			c.statements[name] = text(&body)
		case 'B': // Bind: portal, name
			_ = text(&body)
			c.executes = append(c.executes, c.statements[text(&body)])
		case 'Q': // Query: SQL
			c.executes = append(c.executes, text(&body))
		}
		if kind != 'S' && kind != 'Q' || len(c.executes) == 0 {
			return nil
		}
		cut := p.takeCut(c.executes)
		c.executes = nil
		p.transactions.Add(1)
		if cut != nil && cut.at == afterCommit {
			c.pending <- cut
			return nil
		}
		return cut
	}
}

// fromServer looks at the messages of the server.
func (c *proxied) fromServer(kind byte, _ []byte) *cut {
	if kind == 'Z' {
		select {
		case cut := <-c.pending:
			return cut
		default:
		}
	}
	return nil
}
