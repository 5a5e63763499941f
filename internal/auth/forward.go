package auth

import (
	"fmt"

	"github.com/smpq/smpq/internal/smp"
)

// SealedCommandSize is the size in bytes of what a client and a destination
// router exchange through a proxy: the content of a block with one transmission,
// padded and encrypted.
const SealedCommandSize = BoxOverhead + commandSize

const commandSize = 16226

// SealCommand appends the content of a block with one transmission to dst,
// encrypted for the other end of a proxied session: [SealedCommandSize] bytes.
//
// A client makes a key for each command and agrees on the secret with the key of
// the destination router; its nonce is the correlation id. The router answers
// with the same secret and the [Nonce.Reply] of that nonce (SMP protocol, forward
// command). It fails if the content has more than 16,224 bytes.
func SealCommand(dst []byte, secret smp.DHSecret, nonce Nonce, content []byte) ([]byte, error) {
	padded, err := smp.AppendPadded(make([]byte, 0, commandSize), content, commandSize)
	if err != nil {
		return nil, fmt.Errorf("encrypt forwarded command: %w", err)
	}
	return NewBox(secret).Seal(dst, nonce, padded), nil
}

// OpenCommand decrypts what [SealCommand] encrypted.
func OpenCommand(secret smp.DHSecret, nonce Nonce, sealed []byte) (content []byte, err error) {
	content, err = openPadded(secret, nonce, sealed)
	if err != nil {
		return nil, fmt.Errorf("decrypt forwarded command: %w", err)
	}
	return content, nil
}

// A Forwarded is a command that a proxy forwards to the destination router, in
// RFWD.
type Forwarded struct {
	// CorrID is that of the client's PFWD, and the nonce of Sealed.
	CorrID smp.Short
	// Version is the version of the protocol that client and router speak.
	Version smp.Version
	// Key is the client's X25519 key for the command.
	Key smp.PublicKey
	// Sealed is the encrypted command.
	Sealed []byte
}

// Seal appends f to dst, encrypted for the destination router. The secret is what
// the keys of the session between proxy and router agree on; the nonce is the
// correlation id of RFWD.
func (f Forwarded) Seal(dst []byte, secret smp.DHSecret, nonce Nonce) []byte {
	return NewBox(secret).Seal(dst, nonce, f.append(make([]byte, 0, smp.BlockSize)))
}

// OpenForwarded decrypts the content of RFWD.
func OpenForwarded(secret smp.DHSecret, nonce Nonce, sealed []byte) (Forwarded, error) {
	plain, err := NewBox(secret).Open(nil, nonce, sealed)
	if err != nil {
		return Forwarded{}, fmt.Errorf("decrypt RFWD: %w", err)
	}
	f, err := parseForwarded(plain)
	if err != nil {
		return Forwarded{}, fmt.Errorf("parse content of RFWD: %w", err)
	}
	return f, nil
}

func (f Forwarded) append(b []byte) []byte {
	b = f.CorrID.Append(b)
	b = smp.AppendUint16(b, uint16(f.Version))
	b = append(b, byte(f.Key.Size())) //nolint:gosec // at most 69
	b = f.Key.Append(b)
	return append(b, f.Sealed...)
}

func parseForwarded(in []byte) (f Forwarded, err error) {
	r := smp.NewBinaryReader(in)
	f.CorrID = smp.ReadShort(r)
	f.Version = smp.Version(r.Uint16())
	if f.Key, err = smp.ParsePublicKey(r.Short()); err == nil && f.Key.Algorithm() != smp.X25519 {
		err = errNotX25519
	}
	f.Sealed = r.Rest()
	if r.Err() != nil {
		err = r.Err()
	}
	if err != nil {
		return Forwarded{}, err
	}
	return f, nil
}

// A ForwardedResponse is the answer to a [Forwarded] command, in RRES.
type ForwardedResponse struct {
	// CorrID is that of the command; the nonce of Sealed is its [Nonce.Reply].
	CorrID smp.Short
	// Sealed is the encrypted response.
	Sealed []byte
}

// Seal appends f to dst, encrypted for the proxy. The secret is that of the
// command; the nonce is the [Nonce.Reply] of the correlation id of RFWD.
func (f ForwardedResponse) Seal(dst []byte, secret smp.DHSecret, nonce Nonce) []byte {
	plain := append(f.CorrID.Append(make([]byte, 0, smp.BlockSize)), f.Sealed...)
	return NewBox(secret).Seal(dst, nonce, plain)
}

// OpenForwardedResponse decrypts the content of RRES.
func OpenForwardedResponse(secret smp.DHSecret, nonce Nonce, sealed []byte) (ForwardedResponse, error) {
	plain, err := NewBox(secret).Open(nil, nonce, sealed)
	if err != nil {
		return ForwardedResponse{}, fmt.Errorf("decrypt RRES: %w", err)
	}
	r := smp.NewBinaryReader(plain)
	f := ForwardedResponse{CorrID: smp.ReadShort(r), Sealed: r.Rest()}
	if err := r.Err(); err != nil {
		return ForwardedResponse{}, fmt.Errorf("parse content of RRES: %w", err)
	}
	return f, nil
}
