package gen

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/asn1"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// A service is one of the services of a log.
type service struct {
	id   []byte
	role byte
	cert [][]byte // the leaf first
	hash []byte
	from int64 // slot in which it is created
}

// Services are few, so that their order is fixed: the first ones are there from
// the start.
const (
	notifierService = iota
	messagingService
	lateNotifierService
	lateMessagingService
	proxyService
	numServices
)

var serviceRoles = [numServices]byte{'N', 'M', 'N', 'M', 'P'}

func (g *generator) makeServices() error {
	for i, role := range serviceRoles {
		s := service{role: role}
		g.payload.seek(g.o.Seed, domainService, int64(i), 0)
		s.id = g.payload.appendBytes(nil, idSize)
		if i > messagingService {
			s.from = g.o.Queues * int64(i) / numServices
		}
		var err error
		if s.cert, err = g.certificates(i); err != nil {
			return err
		}
		hash := sha256.Sum256(s.cert[len(s.cert)-1])
		s.hash = hash[:]
		g.services = append(g.services, s)
	}
	return nil
}

// writeServices writes the services of the slot.
func (g *generator) writeServices() {
	for _, s := range g.services {
		if s.from != g.slot || g.o.Queues == 0 {
			continue
		}
		g.start()
		g.line = append(g.line, "NEW_SERVICE service_id="...)
		g.appendBase64(s.id)
		g.line = append(g.line, " role="...)
		g.line = append(g.line, s.role)
		g.line = append(g.line, " cert="...)
		for i, c := range s.cert {
			if i > 0 {
				g.line = append(g.line, ',')
			}
			g.appendBase64(c)
		}
		g.line = append(g.line, " cert_hash="...)
		g.appendBase64(s.hash)
		g.line = append(g.line, " created_at="...)
		g.line = strconv.AppendInt(g.line, g.day(g.slot)*secondsPerDay, 10)
		g.emit("NEW_SERVICE")
	}
}

// serviceOf draws a service for a queue of the given slot: the first one of two,
// or the second one if there is one by then.
func (g *generator) serviceOf(s *stream, first, second int, slot int64) []byte {
	chosen := first
	if s.chance(300) && slot > g.services[second].from {
		chosen = second
	}
	return g.services[chosen].id
}

// certificates makes the certificate chain of a service: an identity
// certificate and, in most cases, one before it that it has signed.
func (g *generator) certificates(i int) ([][]byte, error) {
	const caName, leafName = "smpq test service CA", "smpq test service"
	ca := ed25519.NewKeyFromSeed(g.payload.appendBytes(nil, ed25519.SeedSize))
	identity, err := certificate(caName, caName, ca, ca)
	if err != nil || i == proxyService {
		return [][]byte{identity}, err
	}
	leaf, err := certificate(caName, leafName, ca, ed25519.NewKeyFromSeed(g.payload.appendBytes(nil, ed25519.SeedSize)))
	return [][]byte{leaf, identity}, err
}

// certificate makes an X.509 certificate (RFC 5280, 4.1) without extensions.
// Package crypto/x509 would do, but what it makes changes with its version.
func certificate(issuer, subject string, issuerKey, subjectKey ed25519.PrivateKey) ([]byte, error) {
	var tbs cryptobyte.Builder
	tbs.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1Int64(2) // version 3
		})
		b.AddASN1Int64(1) // serial number
		addEd25519(b)
		addName(b, issuer)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1UTCTime(time.Unix(firstDay*secondsPerDay, 0).UTC())
			b.AddASN1UTCTime(time.Unix((firstDay+20*365)*secondsPerDay, 0).UTC())
		})
		addName(b, subject)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addEd25519(b)
			b.AddASN1BitString(subjectKey[ed25519.SeedSize:])
		})
	})
	signed, err := tbs.Bytes()
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	var cert cryptobyte.Builder
	cert.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(signed)
		addEd25519(b)
		b.AddASN1BitString(ed25519.Sign(issuerKey, signed))
	})
	der, err := cert.Bytes()
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	return der, nil
}

// addEd25519 adds the identifier of the algorithm (RFC 8410, 3).
func addEd25519(b *cryptobyte.Builder) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 3, 101, 112})
	})
}

// addName adds a name that is only a common name.
func addName(b *cryptobyte.Builder, common string) {
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{2, 5, 4, 3})
				b.AddASN1(cbasn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(common)) })
			})
		})
	})
}
