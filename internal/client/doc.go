// Package client is the client's end of the protocol: it connects to a router,
// sends commands and receives their results and events.
//
// A [Client] is one connection. Many commands can be under way at the same time;
// results are told apart by the ids that relate them to their commands. Those that
// are started together share blocks. A [Relay] is another router, to which a client
// sends through its own one, which then acts as proxy. When a connection is lost it
// is over: whether to dial again, and what to subscribe to then, is the matter of
// the caller.
package client
