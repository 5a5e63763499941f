// Package queue holds the records of a router's store, queues, services and
// messages, with the text encoding of the router's logs and the binary encoding
// of its database columns.
package queue
