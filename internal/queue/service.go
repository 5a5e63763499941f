package queue

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/smpq/smpq/internal/smp"
)

// A Service is a high-volume client, such as a notification router, that
// authenticates with a certificate and with which queues are associated.
type Service struct {
	ID        ServiceID
	Role      Role
	CertChain CertChain
	CertHash  []byte // fingerprint of the identity certificate, usually SHA-256
	CreatedAt int64  // Unix seconds, rounded down to the day
}

// A Role says for which party of a queue a service acts.
type Role byte

// The roles of services.
const (
	RoleMessaging Role = 'M'
	RoleNotifier  Role = 'N'
	RoleProxy     Role = 'P'
)

// ParseRole reads the one-letter text of a role.
func ParseRole(s string) (Role, error) {
	switch s {
	case "M", "N", "P":
		return Role(s[0]), nil
	}
	return 0, fmt.Errorf("unknown service role %q: expected M, N or P", s)
}

// String returns "messaging", "notifier" or "proxy".
func (r Role) String() string {
	switch r {
	case RoleMessaging:
		return "messaging"
	case RoleNotifier:
		return "notifier"
	case RoleProxy:
		return "proxy"
	}
	return fmt.Sprintf("Role(%q)", byte(r))
}

// A Party is the side of a queue on which a service acts.
type Party byte

// The parties that can have a service. Mind the letters: the role of a service
// that acts for recipients is M.
const (
	PartyRecipient Party = 'R'
	PartyNotifier  Party = 'N'
)

// A CertChain is a chain of DER certificates, the leaf first.
type CertChain [][]byte

// ErrCertChain reports a certificate chain that cannot be encoded or decoded.
var ErrCertChain = errors.New("not a certificate chain")

// AppendText appends the text of c to b: comma-separated.
func (c CertChain) AppendText(b []byte) ([]byte, error) {
	for i, cert := range c {
		if i > 0 {
			b = append(b, ',')
		}
		b = smp.AppendBase64(b, cert)
	}
	return b, nil
}

// readCertChain reads the text of a certificate chain, which may be empty.
func readCertChain(r *smp.TextReader) CertChain {
	if r.Peek(' ') || r.AtEnd() {
		return nil
	}
	var c CertChain
	for {
		start := r.Offset()
		cert := r.Bytes()
		if r.Err() != nil {
			return nil
		}
		if !isCertificate(cert) {
			r.Fail(start, "not a DER certificate")
			return nil
		}
		c = append(c, cert)
		if !r.Skip(",") {
			return c
		}
	}
}

// isCertificate reports whether der has the outline of a certificate (RFC 5280,
// 4.1). It does not judge the content, so that certificates with algorithms
// unknown to this program pass.
func isCertificate(der []byte) bool {
	var cert, tbs, alg cryptobyte.String
	var sig []byte
	in := cryptobyte.String(der)
	return in.ReadASN1(&cert, asn1.SEQUENCE) && in.Empty() &&
		cert.ReadASN1(&tbs, asn1.SEQUENCE) &&
		cert.ReadASN1(&alg, asn1.SEQUENCE) &&
		cert.ReadASN1BitStringAsBytes(&sig) && cert.Empty()
}

// AppendBinary appends the binary encoding of c to b, as in the column
// service_cert: a count byte, then each certificate behind two length bytes.
// An empty chain, one of more than 255 certificates and a certificate of more
// than 65,535 bytes have no such encoding: ErrCertChain.
func (c CertChain) AppendBinary(b []byte) ([]byte, error) {
	if len(c) == 0 || len(c) > smp.MaxShort {
		return b, fmt.Errorf("%w: %d certificates", ErrCertChain, len(c))
	}
	b = append(b, byte(len(c))) //nolint:gosec // checked above
	for _, cert := range c {
		if len(cert) > smp.MaxLarge {
			return b, fmt.Errorf("%w: a certificate of %d bytes", ErrCertChain, len(cert))
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(cert))) //nolint:gosec // checked above
		b = append(b, cert...)
	}
	return b, nil
}

// ParseBinaryCertChain is the inverse of [CertChain.AppendBinary].
func ParseBinaryCertChain(in []byte) (CertChain, error) {
	r := smp.NewBinaryReader(in)
	n := int(r.Byte())
	c := make(CertChain, 0, n)
	for range n {
		c = append(c, append([]byte(nil), r.Large()...))
	}
	r.End()
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertChain, err)
	}
	if n == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrCertChain)
	}
	return c, nil
}

// IdentityHash returns the SHA-256 hash of the identity certificate of c: the
// only one, or the second of a chain of two to four. It returns nil for other
// chains.
func (c CertChain) IdentityHash() []byte {
	if len(c) == 0 || len(c) > 4 {
		return nil
	}
	h := sha256.Sum256(c[min(len(c)-1, 1)])
	return h[:]
}

// AppendText appends the text of s to b, from "service_id=" on, as the
// NEW_SERVICE record of the store log has it.
func (s *Service) AppendText(b []byte) ([]byte, error) {
	b = append(b, "service_id="...)
	b, _ = s.ID.AppendText(b)
	b = append(b, " role="...)
	b = append(b, byte(s.Role))
	b = append(b, " cert="...)
	b, _ = s.CertChain.AppendText(b)
	b = append(b, " cert_hash="...)
	b = smp.AppendBase64(b, s.CertHash)
	b = append(b, " created_at="...)
	return appendInt(b, s.CreatedAt), nil
}

// ReadService reads the text of a service, from "service_id=" on.
func ReadService(r *smp.TextReader) Service {
	var s Service
	r.Expect("service_id=")
	s.ID = ServiceID{r.ID()}
	r.Expect(" role=")
	for _, role := range [...]Role{RoleMessaging, RoleNotifier, RoleProxy} {
		if r.Skip(string(rune(role))) {
			s.Role = role
			break
		}
	}
	if s.Role == 0 {
		r.Fail(r.Offset(), "unknown service role: expected M, N or P")
	}
	r.Expect(" cert=")
	s.CertChain = readCertChain(r)
	r.Expect(" cert_hash=")
	start := r.Offset()
	if s.CertHash = r.Bytes(); len(s.CertHash) > smp.MaxID {
		r.Fail(start, fmt.Sprintf("certificate hash of %d bytes: more than %d have no place in an index", len(s.CertHash), smp.MaxID))
	}
	r.Expect(" created_at=")
	s.CreatedAt = r.Int64()
	return s
}
