package web

import (
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
)

// minRSABits is how long the key of a certificate for HTTPS must be.
const minRSABits = 4096

// ErrKey says that a certificate for HTTPS has a key of another kind than is needed.
var ErrKey = errors.New("not an RSA key of at least 4096 bits; " +
	"certbot makes one: certbot certonly --key-type rsa --rsa-key-size 4096")

// loadCertificate reads the certificate for HTTPS. No error shows what is in the
// files.
func loadCertificate(cert, key string) (*tls.Certificate, error) {
	_, noCert := os.Stat(cert)
	_, noKey := os.Stat(key)
	if err := errors.Join(noCert, noKey); err != nil {
		return nil, fmt.Errorf("certificate for HTTPS: %w", err)
	}
	c, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("certificate for HTTPS, %s with %s: %w", cert, key, err)
	}
	if k, ok := c.Leaf.PublicKey.(*rsa.PublicKey); !ok || k.N.BitLen() < minRSABits {
		return nil, fmt.Errorf("certificate for HTTPS: %s: %w", cert, ErrKey)
	}
	return &c, nil
}
