package transport

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/cryptobyte"
)

// The session identifier is what the client's Finished message holds. The
// standard library tells it for TLS 1.2 (as TLSUnique), but not for TLS 1.3. So
// the bytes that the client sends in the handshake are recorded, and decrypted
// once more with the secret that the library writes for debuggers
// (KeyLogWriter), here into memory.

// A keyLog is a KeyLogWriter that keeps the client's handshake traffic secret.
type keyLog struct{ secret []byte }

// Write takes a line: label, client random and secret, hexadecimal.
func (k *keyLog) Write(line []byte) (int, error) {
	fields := bytes.Fields(line)
	if len(fields) == 3 && string(fields[0]) == "CLIENT_HANDSHAKE_TRAFFIC_SECRET" {
		secret, err := hex.AppendDecode(nil, fields[2])
		if err != nil {
			return 0, fmt.Errorf("key log: %w", err)
		}
		k.secret = secret
	}
	return len(line), nil
}

var (
	errSuite      = errors.New("unknown cipher suite")
	errNoFinished = errors.New("no Finished message of the client in what was recorded")
)

const (
	recordHeader     = 5 // type, version, length
	recordHandshake  = 22
	recordEncrypted  = 23
	messageFinished  = 20
	handshakeMessage = 4 // type and length
)

// clientFinished returns what the client's Finished message holds in TLS 1.3
// (RFC 8446, 4.4.4). The flight is all that the client sent from its first byte
// on, at least to the end of that message; secret is its handshake traffic
// secret.
func clientFinished(suite uint16, secret, flight []byte) ([]byte, error) {
	aead, iv, err := recordKeys(suite, secret)
	if err != nil {
		return nil, err
	}
	var messages []byte
	for seq := uint64(0); len(flight) >= recordHeader; {
		header := flight[:recordHeader]
		size := int(binary.BigEndian.Uint16(header[3:]))
		if len(flight) < recordHeader+size {
			break
		}
		record := flight[recordHeader : recordHeader+size]
		flight = flight[recordHeader+size:]
		if header[0] != recordEncrypted {
			continue // a ClientHello, or a ChangeCipherSpec that means nothing
		}
		nonce := bytes.Clone(iv)
		for i := range 8 {
			nonce[len(nonce)-1-i] ^= byte(seq >> (8 * i)) //nolint:gosec // the lower eight bits are wanted
		}
		seq++
		plain, err := aead.Open(nil, nonce, record, header)
		if err != nil {
			return nil, fmt.Errorf("record %d: %w", seq, err)
		}
		plain = bytes.TrimRight(plain, "\x00")
		if len(plain) == 0 || plain[len(plain)-1] != recordHandshake {
			break
		}
		messages = append(messages, plain[:len(plain)-1]...)
		for {
			var kind uint8
			var body cryptobyte.String
			in := cryptobyte.String(messages)
			if !in.ReadUint8(&kind) || !in.ReadUint24LengthPrefixed(&body) {
				break // the rest is in the next record
			}
			if kind == messageFinished {
				return body, nil
			}
			messages = messages[handshakeMessage+len(body):]
		}
	}
	return nil, errNoFinished
}

// recordKeys returns how records under a traffic secret are encrypted (RFC 8446,
// 7.3).
func recordKeys(suite uint16, secret []byte) (aead cipher.AEAD, iv []byte, err error) {
	newHash, keySize, newAEAD := sha256.New, chacha20poly1305.KeySize, chacha20poly1305.New
	switch suite {
	case tls.TLS_CHACHA20_POLY1305_SHA256:
	case tls.TLS_AES_128_GCM_SHA256:
		keySize, newAEAD = 16, newGCM
	case tls.TLS_AES_256_GCM_SHA384:
		newHash, newAEAD = sha512.New384, newGCM
	default:
		return nil, nil, fmt.Errorf("%w %#04x", errSuite, suite)
	}
	key, err := expandLabel(newHash, secret, "key", keySize)
	if err != nil {
		return nil, nil, err
	}
	iv, err = expandLabel(newHash, secret, "iv", chacha20poly1305.NonceSize) // the same for AES
	if err != nil {
		return nil, nil, err
	}
	aead, err = newAEAD(key)
	return aead, iv, err
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// expandLabel is HKDF-Expand-Label with an empty context (RFC 8446, 7.1).
func expandLabel(newHash func() hash.Hash, secret []byte, label string, size int) ([]byte, error) {
	label = "tls13 " + label
	info := append([]byte{0, byte(size), byte(len(label))}, label...) //nolint:gosec // both are short
	return hkdf.Expand(newHash, secret, string(append(info, 0)), size)
}
