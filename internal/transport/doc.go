// Package transport is how clients and routers of the protocol are connected:
// TLS, the handshake in which they agree on a version and on keys, and blocks of
// 16,384 bytes, padded and, from version 11 on, encrypted once more.
//
// [Dialer] is the end of a client, [Acceptor] that of a router; both yield a
// [Conn], which sends and receives the content of blocks. What is in a block is
// the matter of package smp.
//
// Until the handshake is done, nothing is known of the other end. It gets a
// limited time, must send what is due in no more bytes than a block, and makes
// this end keep no more than that.
//
//	router                                          client
//	   |<================== TLS ====================>|   client's Finished: session identifier
//	   |-- versions, session id, certified key ----->|   block
//	   |<- version, fingerprint, key, service -------|   block
//	   |-- service id or error --------------------->|   block, only for services
//	   |<===== blocks, encrypted from v11 on =======>|
package transport
