package store

import (
	"crypto/tls"
	"errors"
	"net"
	"syscall"
)

// quiet reports whether a connection that waits to be used is open and has nothing
// to say, as it should. A server that went away has closed it, or said good-bye.
// What is sent on such a connection is lost, and nobody can tell whether it was;
// therefore it is looked at, which takes no round trip, before it is used.
func quiet(conn net.Conn) bool {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	c, ok := conn.(syscall.Conn)
	if !ok {
		return true // nothing can be said
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var one [1]byte
	var seen error
	err = raw.Control(func(fd uintptr) {
		_, _, seen = syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	})
	return err == nil && errors.Is(seen, syscall.EAGAIN)
}
