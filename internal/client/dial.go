package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/net/proxy"

	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/transport"
)

// Options say how to connect to a router. The zero Options are those of an ordinary
// client.
type Options struct {
	// Versions are those that the client speaks; zero: all that there are.
	Versions smp.VersionRange
	// Service is for services; nil for other clients.
	Service *transport.ServiceCredentials
	// Proxy says that the client is a router that forwards commands.
	Proxy bool
	// Socks is the host and port of a SOCKS5 server, such as Tor's 127.0.0.1:9050,
	// by which onion hosts are reached; empty: there is none.
	Socks string
	// SocksAlways says that all hosts are reached by it.
	SocksAlways bool
	// SocksAuth is what the client is known by to that server, which may keep those
	// with different credentials apart, as Tor does; nil: nothing.
	SocksAuth *proxy.Auth
	// Refuse reports whether an IP address must not be connected to; nil: none. Who
	// resolves names is asked for each address that comes of it; but what a name is to
	// a SOCKS server, or to Network, is not known here.
	Refuse func(netip.Addr) bool
	// KeepAlive says how a connection is found to be dead that nobody closed; zero for
	// the figures of the reference clients. It is for the connections of the system.
	KeepAlive net.KeepAliveConfig
	// SendQueue is how many calls of [Client.Start] may have handed over what they
	// send before the others wait, and EventQueue how many events may wait for
	// whoever receives them; 0 for 0 and 16.
	SendQueue, EventQueue int
	// TLS makes the TLS connection; nil for [transport.StandardTLS].
	TLS transport.TLS
	// Network makes the connections below; nil for those of the system.
	Network proxy.ContextDialer
}

var (
	// ErrOnion says that a router has onion hosts only, and there is no SOCKS server by
	// which to reach them.
	ErrOnion = errors.New("an onion host can be reached through a SOCKS server only")
	// ErrRefused says that a host is at an address that [Options.Refuse] refuses.
	ErrRefused = errors.New("the address must not be connected to")
)

// keepAlive is how soon a connection is found to be dead that nobody closed: the
// figures of the reference clients.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 15 * time.Second, Count: 4}

// Dial connects to the router with the given address: to the first of its hosts that
// can be reached and is the right one. It has all of the time that ctx has; of
// several hosts, each has its share.
//
// Errors are those of [transport.Dialer.Dial], of the network, [ErrOnion] and
// [ErrRefused]; if there are several hosts, of all of them.
func Dial(ctx context.Context, address *smp.RouterAddress, o Options) (*Client, error) {
	d := transport.Dialer{Router: address.Fingerprint, Versions: o.Versions, Proxy: o.Proxy, Service: o.Service, TLS: o.TLS}
	if d.Versions == (smp.VersionRange{}) {
		d.Versions = smp.VersionRange{Min: smp.MinVersion, Max: smp.MaxVersion}
	}
	var failed []error
	for i, host := range address.Hosts {
		target := net.JoinHostPort(host.String(), strconv.Itoa(int(address.PortOrDefault())))
		limited, cancel := share(ctx, len(address.Hosts)-i)
		conn, err := d.Dial(limited, func(ctx context.Context) (net.Conn, error) {
			network, err := o.network(host)
			if err != nil {
				return nil, err
			}
			return network.DialContext(ctx, "tcp", target)
		})
		cancel()
		if err == nil {
			return newClient(conn, d.Versions.Max, &o), nil
		}
		failed = append(failed, fmt.Errorf("%s: %w", target, err))
		if ctx.Err() != nil {
			break
		}
	}
	if len(failed) == 0 {
		return nil, errors.New("the address has no host")
	}
	return nil, errors.Join(failed...)
}

// share returns a context for the first of n things to be done in the time that there
// is.
func share(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/time.Duration(n))
}

// network returns what connects to a host.
func (o *Options) network(host smp.Host) (proxy.ContextDialer, error) {
	if ip, err := netip.ParseAddr(host.String()); err == nil && o.refuses(ip) {
		return nil, ErrRefused
	}
	onion := host.Kind() == smp.HostOnion
	switch {
	case o.Socks != "" && (onion || o.SocksAlways):
		return o.socks()
	case onion:
		return nil, ErrOnion
	case o.Network != nil:
		return o.Network, nil
	}
	return &net.Dialer{KeepAliveConfig: o.keepAlive(), Control: o.control}, nil
}

func (o *Options) refuses(ip netip.Addr) bool {
	return o.Refuse != nil && o.Refuse(ip.Unmap().WithZone(""))
}

func (o *Options) keepAlive() net.KeepAliveConfig {
	if o.KeepAlive == (net.KeepAliveConfig{}) {
		return keepAlive
	}
	return o.KeepAlive
}

// control refuses addresses, which names have been resolved to.
func (o *Options) control(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("address %s: %w", address, err)
	}
	if o.refuses(at.Addr()) {
		return ErrRefused
	}
	return nil
}

// forwarder makes a [proxy.ContextDialer] a [proxy.Dialer], which is of no use here
// but asked for.
type forwarder struct{ proxy.ContextDialer }

// Dial implements [proxy.Dialer].
func (f forwarder) Dial(network, address string) (net.Conn, error) {
	return f.DialContext(context.Background(), network, address)
}

// socks returns what connects by way of the SOCKS server.
func (o *Options) socks() (proxy.ContextDialer, error) {
	direct := o.Network
	if direct == nil {
		direct = &net.Dialer{KeepAliveConfig: o.keepAlive()}
	}
	d, err := proxy.SOCKS5("tcp", o.Socks, o.SocksAuth, forwarder{direct})
	if err != nil {
		return nil, fmt.Errorf("SOCKS server %s: %w", o.Socks, err)
	}
	dialer, ok := d.(proxy.ContextDialer)
	if !ok {
		return nil, fmt.Errorf("SOCKS server %s: %w", o.Socks, errors.ErrUnsupported)
	}
	return dialer, nil
}
