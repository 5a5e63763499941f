// Package smp holds the vocabulary of the SimpleX Messaging Protocol that all
// other packages share: entity ids, keys and secrets; the commands, responses and
// errors that clients and routers send each other; addresses and links; and the
// two encodings in which the protocol and the router's files write them.
//
// What is sent is a block, a [Transmission] in it, and in that a [Command] or a
// [Response]. [Unpad] and [SplitContent] take a block apart, [ParseTransmission]
// and a [Parser] what is in it; [Batch] and [AppendPadded], and the method Append
// of each, put it together. All parts that were parsed alias the block. How they
// are encoded depends on the [Version] of the session. Encryption, authorization
// and the handshake are those of other packages.
//
// The binary encoding is what travels in blocks and what the database keeps in
// its bytea columns: fields one after another, byte strings with a length byte
// before them. The text encoding is what logs and addresses use: base64url for
// bytes, decimal numbers, members of a tuple joined by one space.
//
// The package does no I/O, reads no clock and draws no random numbers.
package smp
