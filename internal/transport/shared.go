package transport

import (
	"crypto/tls"
	"errors"
	"net"
)

// A Web is a web server that shares a port with a router. What tells their
// connections apart is the name of the server in TLS (SNI): browsers send one,
// clients of the protocol do not. What they offer by ALPN does not count, since
// clients may want to look like browsers.
type Web interface {
	// TLSConfig returns the configuration of TLS for a browser, without session
	// tickets: the router has no keys for them.
	TLSConfig(*tls.ClientHelloInfo) (*tls.Config, error)
	// TakeOver serves a browser, whose handshake is done. It closes the connection
	// when it is not wanted any more, and does not wait for that.
	TakeOver(*tls.Conn)
}

// ErrTakenOver says that a connection is now one of the [Web] that shares the port.
var ErrTakenOver = errors.New("a connection for the web server")

// Share returns a listener for an [Acceptor] that uses [StandardTLS], which shares
// its port with a web server: whoever names a server in TLS gets there, without
// being asked for a certificate, and Accept fails with [ErrTakenOver].
func Share(l net.Listener, web Web) net.Listener { return &sharedListener{l, web} }

type sharedListener struct {
	net.Listener
	web Web
}

func (l *sharedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &sharedConn{c, l.web}, nil
}

// A sharedConn is a connection that may turn out to be one for the web server.
type sharedConn struct {
	net.Conn
	web Web
}

// config returns the web server's configuration if the client names a server.
func (c *sharedConn) config(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	if hello.ServerName == "" {
		return nil, nil //nolint:nilnil // so crypto/tls wants it
	}
	return c.web.TLSConfig(hello)
}
