// Package store keeps a router's queues, services and messages in PostgreSQL,
// in the schema that smp-server uses. It is the only package with SQL on the
// tables msg_queues, services and messages.
//
// Statements name the schema, so that one connection can work on any. Functions
// take a [Querier], a connection or a transaction, and a [Schema], which says
// what it is called and which columns it has.
package store
