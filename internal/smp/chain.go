package smp

// MaxCertificates is the number of certificates that a chain may have.
const MaxCertificates = 4

// A SignedKey is a session key that the owner of a certificate signed: an X25519
// key of a router or an Ed25519 key of a service. It travels in handshakes and
// in PKEY (SMP protocol, certChainPubKey).
//
// Both parts are kept as they came; package auth verifies them.
type SignedKey struct {
	Chain [][]byte // DER of the certificates, the signer's first; one to four
	Key   []byte   // DER of the key together with the signature
}

// Append appends the encoding of k to b: a count, the certificates and the key,
// each behind two length bytes. All parts must fit into a block.
func (k SignedKey) Append(b []byte) []byte {
	b = append(b, byte(len(k.Chain))) //nolint:gosec // MaxCertificates
	for _, cert := range k.Chain {
		b = AppendLarge(b, cert)
	}
	return AppendLarge(b, k.Key)
}

// ReadSignedKey reads a signed key. Its parts alias the input.
func ReadSignedKey(r *BinaryReader) SignedKey {
	n := int(r.Byte())
	if r.Err() == nil && (n == 0 || n > MaxCertificates) {
		r.Fail("a certificate chain has one to four certificates")
	}
	if r.Err() != nil {
		return SignedKey{}
	}
	k := SignedKey{Chain: make([][]byte, 0, n)}
	for range n {
		k.Chain = append(k.Chain, r.Large())
	}
	k.Key = r.Large()
	return k
}
