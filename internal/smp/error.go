package smp

import (
	"fmt"
	"strings"
)

// An Error is what a router answers instead of a result (SMP protocol, error
// responses). Its text is its encoding, but that text of others in it is quoted.
// Errors without parameters are constants, to be found with [errors.Is]; the
// others are found with [errors.AsType].
//
//sumtype:decl
type Error interface {
	error
	// appendError appends the encoding of the error to b. It is the same in all
	// versions, except where [ERR.Append] says otherwise.
	appendError(b []byte) []byte
}

// A RouterError is an [Error] without parameters.
type RouterError uint8

// The errors without parameters.
const (
	// ErrBlock: the block or the transmission cannot be split into its parts.
	ErrBlock RouterError = iota
	// ErrSession: the transmission carries the identifier of another session.
	ErrSession
	// ErrAuth: no such queue, a wrong key or signature, a suspended queue, a wrong
	// password: which of them is not said, so that nobody learns what exists.
	ErrAuth
	// ErrService: the signature of the service is missing, wrong or out of place.
	ErrService
	// ErrCrypto: what a proxy forwarded cannot be decrypted.
	ErrCrypto
	// ErrQuota: the queue is full.
	ErrQuota
	// ErrExpired is defined, but no router sends it.
	ErrExpired
	// ErrNoMsg: ACK of something that was not delivered.
	ErrNoMsg
	// ErrLargeMsg: the message has more bytes than [Version.MaxMessage].
	ErrLargeMsg
	// ErrInternal: the router has a fault; its log says which.
	ErrInternal
)

var routerErrors = names[RouterError]{"BLOCK", "SESSION", "AUTH", "SERVICE", "CRYPTO", "QUOTA", "EXPIRED", "NO_MSG", "LARGE_MSG", "INTERNAL"}

// A CommandError is an [Error] that says what is wrong with a command: CMD.
type CommandError uint8

// The errors of commands.
const (
	// ErrUnknown: there is no such command.
	ErrUnknown CommandError = iota
	// ErrSyntax: the parameters of the command are wrong.
	ErrSyntax
	// ErrProhibited: the command is not allowed in this place.
	ErrProhibited
	// ErrNoAuth: the command needs an authorization and an entity id.
	ErrNoAuth
	// ErrHasAuth: the command must not have an authorization or an entity id.
	ErrHasAuth
	// ErrNoEntity: the command needs an entity id.
	ErrNoEntity
)

var commandErrors = names[CommandError]{"UNKNOWN", "SYNTAX", "PROHIBITED", "NO_AUTH", "HAS_AUTH", "NO_ENTITY"}

// A BlockedError is an [Error] that says why the operator blocked the queue:
// BLOCKED.
type BlockedError struct{ Blocking }

// A StoreError is an [Error] that says what went wrong in the router's store:
// STORE. As a router, smpq sends always the same text.
type StoreError struct{ Text string }

// A ProxyError is an [Error] of a proxy that refuses to forward: PROXY.
type ProxyError uint8

// The errors of a proxy without parameters.
const (
	// ErrProxyPassword: the proxy forwards nothing for whoever sends no or another
	// password. On the wire it is BASIC_AUTH.
	ErrProxyPassword ProxyError = iota
	// ErrNoSession: the proxy has no such session with a router; PRXY starts one.
	ErrNoSession
)

var proxyErrors = names[ProxyError]{"BASIC_AUTH", "NO_SESSION"}

// A ProxyProtocolError is an [Error] that a proxy had from the destination
// router: PROXY PROTOCOL. It unwraps to that.
type ProxyProtocolError struct{ Err Error }

// A ProxyBrokerError is an [Error] of a proxy that could not talk with the
// destination router: PROXY BROKER. If the reason is a [TransportError], it
// unwraps to that.
type ProxyBrokerError struct {
	Kind      BrokerErrorKind
	Text      string         // what came, of BrokerResponse and BrokerUnexpected; at most 255 bytes are sent
	Transport TransportError // of BrokerTransport
	Network   NetworkError   // of BrokerNetwork; the zero value is the usual one
}

// A BrokerErrorKind is the kind of a [ProxyBrokerError].
type BrokerErrorKind uint8

// The kinds of errors in talking with another router.
const (
	BrokerResponse   BrokerErrorKind = iota // the response cannot be parsed
	BrokerUnexpected                        // another response than the command has
	BrokerTransport                         // blocks or the handshake fail
	BrokerNetwork                           // no connection, TLS fails, or the router is another one
	BrokerTimeout                           // no response in time
	BrokerHost                              // no host of an allowed kind
	BrokerNoService                         // no such service
)

var brokerErrorKinds = names[BrokerErrorKind]{"RESPONSE", "UNEXPECTED", "TRANSPORT", "NETWORK", "TIMEOUT", "HOST", "NO_SERVICE"}

// A NetworkError says why there was no connection. Present routers do not send
// it; the zero value stands for that.
type NetworkError struct {
	Kind NetworkErrorKind
	Text string // of NetworkConnect, NetworkTLS and NetworkSubscribe; at most 255 bytes are sent
}

// A NetworkErrorKind is the kind of a [NetworkError].
type NetworkErrorKind uint8

// The kinds of network errors.
const (
	NetworkUnspecified NetworkErrorKind = iota
	NetworkConnect
	NetworkTLS
	NetworkUnknownCA
	NetworkFailed
	NetworkTimeout
	NetworkSubscribe
)

var networkErrorKinds = names[NetworkErrorKind]{"", "CONNECT", "TLS", "UNKNOWNCA", "FAILED", "TIMEOUT", "SUBSCRIBE"}

// A TransportError is an error of blocks or of the handshake (SMP protocol,
// transport errors). Routers send it when they refuse a service, and in
// [ProxyBrokerError].
type TransportError uint8

// The errors of the transport.
const (
	ErrTransportBlock      TransportError = iota // a block cannot be decrypted or split
	ErrTransportVersion                          // no common version
	ErrTransportLargeMsg                         // a transmission is too large for a block
	ErrTransportSession                          // the session identifiers differ
	ErrTransportNoAuth                           // the router sent no session key
	ErrHandshakeParse                            // a handshake cannot be parsed
	ErrHandshakeIdentity                         // the router is another one
	ErrHandshakeBadAuth                          // certificates or signatures do not fit
	ErrHandshakeBadService                       // the router does not take the service
)

var transportErrors = names[TransportError]{"BLOCK", "VERSION", "LARGE_MSG", "SESSION", "NO_AUTH", "HANDSHAKE PARSE", "HANDSHAKE IDENTITY", "HANDSHAKE BAD_AUTH", "HANDSHAKE BAD_SERVICE"}

// names are the tags of the values of an enumeration, in their order.
type names[T ~uint8] []string

func (n names[T]) of(x T) string {
	if int(x) < len(n) {
		return n[x]
	}
	return fmt.Sprintf("UNDEFINED_%d", x)
}

// find returns the value with a tag.
func (n names[T]) find(tag string) (x T, ok bool) {
	for i, name := range n {
		if name == tag {
			return T(i), true
		}
	}
	return 0, false
}

// Error returns the tag of e.
func (e RouterError) Error() string { return routerErrors.of(e) }

// Error returns the tag of e behind that of its group.
func (e CommandError) Error() string { return text(e) }

// Error returns the encoding of e.
func (e BlockedError) Error() string { return text(e) }

// Error returns the encoding of e, with the text in quotes.
func (e StoreError) Error() string { return fmt.Sprintf("STORE %q", e.Text) }

// Error returns the tag of e behind that of its group.
func (e ProxyError) Error() string { return text(e) }

// Error returns the encoding of e, with texts in quotes.
func (e ProxyProtocolError) Error() string { return "PROXY PROTOCOL " + e.Err.Error() }

// Unwrap returns the error of the destination router.
func (e ProxyProtocolError) Unwrap() error { return e.Err }

// Error returns the encoding of e, with the text in quotes.
func (e ProxyBrokerError) Error() string {
	s := "PROXY BROKER " + brokerErrorKinds.of(e.Kind)
	switch e.Kind {
	case BrokerResponse, BrokerUnexpected:
		return s + fmt.Sprintf(" %q", e.Text)
	case BrokerTransport:
		return s + " " + e.Transport.Error()
	case BrokerNetwork:
		return strings.TrimSuffix(s+" "+e.Network.String(), " ")
	case BrokerTimeout, BrokerHost, BrokerNoService:
	}
	return s
}

// Unwrap returns the transport's error, if it is that.
func (e ProxyBrokerError) Unwrap() error {
	if e.Kind == BrokerTransport {
		return e.Transport
	}
	return nil
}

// String returns the tag of e and its text in quotes.
func (e NetworkError) String() string {
	s := networkErrorKinds.of(e.Kind)
	if e.Kind.hasText() {
		s += fmt.Sprintf(" %q", e.Text)
	}
	return s
}

// Error returns the tag of e.
func (e TransportError) Error() string { return transportErrors.of(e) }

func text(e Error) string { return string(e.appendError(nil)) }

func (e RouterError) appendError(b []byte) []byte { return append(b, routerErrors.of(e)...) }

func (e CommandError) appendError(b []byte) []byte {
	return append(append(b, "CMD "...), commandErrors.of(e)...)
}

func (e BlockedError) appendError(b []byte) []byte {
	b, _ = e.AppendText(append(b, "BLOCKED "...))
	return b
}

func (e StoreError) appendError(b []byte) []byte {
	return append(append(b, "STORE "...), e.Text...)
}

func (e ProxyError) appendError(b []byte) []byte {
	return append(append(b, "PROXY "...), proxyErrors.of(e)...)
}

func (e ProxyProtocolError) appendError(b []byte) []byte {
	return e.Err.appendError(append(b, "PROXY PROTOCOL "...))
}

func (e ProxyBrokerError) appendError(b []byte) []byte {
	b = append(append(b, "PROXY BROKER "...), brokerErrorKinds.of(e.Kind)...)
	switch e.Kind {
	case BrokerResponse, BrokerUnexpected:
		b = appendShortText(append(b, ' '), e.Text)
	case BrokerTransport:
		b = append(append(b, ' '), e.Transport.Error()...)
	case BrokerNetwork:
		if e.Network.Kind == NetworkUnspecified {
			break
		}
		b = append(append(b, ' '), networkErrorKinds.of(e.Network.Kind)...)
		if e.Network.Kind.hasText() {
			b = appendShortText(append(b, ' '), e.Network.Text)
		}
	case BrokerTimeout, BrokerHost, BrokerNoService:
	}
	return b
}

func (k NetworkErrorKind) hasText() bool {
	return k == NetworkConnect || k == NetworkTLS || k == NetworkSubscribe
}

// appendShortText appends text for people behind a length byte; what exceeds 255
// bytes is cut off.
func appendShortText(b []byte, s string) []byte {
	s = s[:min(len(s), MaxShort)]
	return append(append(b, byte(len(s))), s...) //nolint:gosec // cut
}

// maxErrorDepth is how deeply errors of proxies may be nested in each other. One
// level is in use.
const maxErrorDepth = 4

// readError reads an error, of which depth surround this one.
func (d *decoder) readError(depth int) Error {
	tag := string(d.tag())
	if e, ok := routerErrors.find(tag); ok {
		return e
	}
	switch tag {
	case "CMD":
		d.space()
		tag := string(d.tag())
		if tag == "NO_QUEUE" { // of older routers
			return ErrNoEntity
		}
		return find(d, commandErrors, tag)
	case "BLOCKED":
		d.space()
		return BlockedError{d.blocking()}
	case "STORE":
		d.space()
		return StoreError{string(d.Rest())}
	case "PROXY":
		d.space()
		return d.readProxyError(depth)
	}
	d.Fail("unknown error")
	return nil
}

func (d *decoder) readProxyError(depth int) Error {
	tag := string(d.tag())
	switch tag {
	case "PROTOCOL":
		d.space()
		if depth == maxErrorDepth {
			d.Fail("errors of proxies are nested too deeply")
			return nil
		}
		return ProxyProtocolError{d.readError(depth + 1)}
	case "BROKER":
		d.space()
		return d.readBrokerError()
	}
	return find(d, proxyErrors, tag)
}

func (d *decoder) readBrokerError() ProxyBrokerError {
	e := ProxyBrokerError{Kind: find(d, brokerErrorKinds, string(d.tag()))}
	switch e.Kind {
	case BrokerResponse, BrokerUnexpected:
		d.space()
		e.Text = string(d.Short())
	case BrokerTransport:
		d.space()
		e.Transport = d.transportError()
	case BrokerNetwork:
		if d.atEnd() {
			break
		}
		d.space()
		e.Network.Kind = find(d, networkErrorKinds, string(d.tag()))
		if e.Network.Kind.hasText() {
			d.space()
			e.Network.Text = string(d.Short())
		}
	case BrokerTimeout, BrokerHost, BrokerNoService:
	}
	return e
}

// ParseTransportError parses the text of an error of the transport, as a router
// sends it to a service that it refuses.
func ParseTransportError(in []byte) (TransportError, error) {
	d := newDecoder(in, MaxVersion)
	e := d.transportError()
	d.End()
	if d.err != nil {
		return 0, fmt.Errorf("parse transport error: %w", d.err)
	}
	return e, nil
}

func (d *decoder) transportError() TransportError {
	tag := string(d.tag())
	if tag == "HANDSHAKE" {
		d.space()
		tag += " " + string(d.tag())
	}
	return find(d, transportErrors, tag)
}

// find returns the value with a tag that was read. An unknown tag is an error.
func find[T ~uint8](d *decoder, n names[T], tag string) T {
	x, ok := n.find(tag)
	if !ok || tag == "" {
		d.Fail("unknown error")
	}
	return x
}
