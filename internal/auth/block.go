package auth

import (
	"crypto/hkdf"
	"crypto/sha512"
	"log/slog"

	"github.com/smpq/smpq/internal/smp"
)

// A BlockChain encrypts or decrypts the blocks that travel in one direction of a
// session, each with a key of its own (SMP protocol, transport encryption;
// version 11 and later). Both ends have to use it in the order of the blocks, for
// each block once. Its methods must not be called at the same time.
//
// A BlockChain does not print itself.
type BlockChain struct{ next [32]byte }

// NewBlockChains returns the chains of a session: that of the blocks to the
// client and that of those to the router. The secret is what the X25519 keys of
// the handshake agree on.
func NewBlockChains(session smp.Short, secret smp.DHSecret) (toClient, toRouter *BlockChain) {
	keys := derive(secret.Append(nil), session.Bytes(), "SimpleXSbChainInit", 64)
	return &BlockChain{[32]byte(keys[:32])}, &BlockChain{[32]byte(keys[32:])}
}

// Seal appends the next block to dst: padded, encrypted, [BoxOverhead] bytes
// longer. The two must not overlap.
func (c *BlockChain) Seal(dst, padded []byte) []byte {
	box, nonce := c.step()
	return box.Seal(dst, nonce, padded)
}

// Open appends to dst what the next block was made of. A block that cannot be
// opened is [ErrOpen] and counts like any other: the following block can be
// opened.
func (c *BlockChain) Open(dst, block []byte) ([]byte, error) {
	box, nonce := c.step()
	return box.Open(dst, nonce, block)
}

// step returns the key and the nonce of the next block.
func (c *BlockChain) step() (*Box, Nonce) {
	keys := derive(c.next[:], nil, "SimpleXSbChain", 32+32+NonceSize)
	c.next = [32]byte(keys)
	return newBox((*[32]byte)(keys[32:])), Nonce(keys[64:])
}

// derive is HKDF with SHA-512.
func derive(secret, salt []byte, info string, size int) []byte {
	out, err := hkdf.Key(sha512.New, secret, salt, info, size)
	if err != nil {
		panic(err) // only for sizes beyond 255 hashes
	}
	return out
}

// String returns a placeholder that does not depend on the keys.
func (c *BlockChain) String() string { return hidden }

// GoString returns the same placeholder as String.
func (c *BlockChain) GoString() string { return hidden }

// LogValue returns the same placeholder as String.
func (c *BlockChain) LogValue() slog.Value { return slog.StringValue(hidden) }
