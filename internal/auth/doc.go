// Package auth holds the cryptography of the protocol: the authorization of
// commands, the certificates of routers and services, and the encryption of
// blocks, messages, notifications and forwarded commands.
//
// A command is authorized by a signature (Ed25519, Ed448) or by an authenticator
// (X25519), which only the router can check and anybody could have made who
// knows one of two keys. [Signer] makes authorizations, [Verifier] checks them;
// the time that a check takes does not tell whether a queue exists.
//
// All encryption is one construction, [Box].
//
// The package does no I/O and reads no clock.
package auth
