// Package smp holds the vocabulary of the SimpleX Messaging Protocol that all
// other packages share: entity ids, keys and secrets, and the two encodings in
// which the protocol and the router's files write them.
//
// The binary encoding is what travels in blocks and what the database keeps in
// its bytea columns: fields one after another, byte strings with a length byte
// before them. The text encoding is what logs and addresses use: base64url for
// bytes, decimal numbers, members of a tuple joined by one space.
//
// The package does no I/O, reads no clock and draws no random numbers.
package smp
