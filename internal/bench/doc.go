// Package bench puts load on a router, as many clients would, and measures how it
// bears it: how many messages a second, how long each step of one takes, and what
// memory the router's process needs.
//
// A [Load] is connections to a router, each with some queues. A connection sends to
// the queues of the next one, and receives and acknowledges what comes for its own;
// at most one message is under way to a queue, so that none of them is ever full.
//
// In a closed loop a connection sends when the last message was accepted. That shows
// how much a router can do, but not how long its clients wait: while it is slow, it is
// asked for less. In an open loop messages are due at fixed times, and their latency
// counts from then on, however late they are sent.
//
// [Run] measures speed, [Soak] looks for what gets worse with time, [Memory] divides
// the memory of a router by connections and subscriptions.
package bench
