// Package router is the router of the protocol: it accepts connections, creates
// queues, takes messages from senders and delivers them to recipients, and tells
// notifiers of them.
//
// What clients send in a block is carried out before the next block is read:
//
//	block -> transmissions -> commands -> look-ups, in one round trip
//	      -> authorization -> waves of commands on different queues, at the same time
//	      -> answers, in the order of the commands -> output -> blocks
//
// One goroutine of a session reads and carries out commands, one writes. Nobody
// waits for a client: its output has a limit. Answers that go beyond it stop the
// reading; messages that do not fit are left in their queues, the session
// remembers which queues these are, and they are fetched when there is room.
//
// # Delivery
//
// A queue has one subscriber, and at most one message is in flight to it: until it
// is acknowledged, no other is sent. Who reads the first message of a queue, for
// SUB, after ACK, or because a sender has just written it, has to claim the
// subscription first. Whoever comes meanwhile leaves a mark, and the one who has the
// claim looks again. So a message is neither forgotten nor sent twice, however SUB,
// ACK and SEND come together, without a lock that is held while the database works.
//
// A message of which the store could not say whether it was written may be the first
// of its queue all the same. So the subscription is claimed for it as well, and what
// there is is fetched when the store works again.
//
// # Notifications
//
// Notifications wait in memory, within limits. So that they survive the router, they
// are written to a log: when it stops, and now and then while it runs.
package router
