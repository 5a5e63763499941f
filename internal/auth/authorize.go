package auth

import (
	"crypto/ed25519"
	"crypto/sha512"
	"crypto/subtle"
	"errors"
	"fmt"
	"sync"

	"github.com/cloudflare/circl/sign/ed448"

	"github.com/smpq/smpq/internal/smp"
)

// AuthenticatorSize is the length in bytes of an authenticator: a SHA-512 hash
// in a [Box].
const AuthenticatorSize = BoxOverhead + sha512.Size

// Reasons for which [Verifier.Verify] refuses a command.
var (
	// ErrAuth says that the queue does not exist or that the command is not
	// authorized by the owner of its key. The two are answered alike: AUTH.
	ErrAuth = errors.New("not authorized")
	// ErrService says that the signature of the service is wrong, is missing, or
	// is there where none belongs: SERVICE.
	ErrService = errors.New("wrong authorization of the service")
	// ErrForm says that an authorization has the length of no known form: BLOCK.
	ErrForm = errors.New("neither a signature nor an authenticator")
)

// Algorithm returns the algorithm of the keys that make authorizations like
// this one, which its length tells: 64 bytes are an Ed25519 signature, 114 an
// Ed448 signature, 80 an X25519 authenticator. It is zero for a transmission
// without authorization; other lengths are [ErrForm].
func Algorithm(authorization smp.Short) (smp.Algorithm, error) {
	switch authorization.Len() {
	case 0:
		return 0, nil
	case ed25519.SignatureSize:
		return smp.Ed25519, nil
	case ed448.SignatureSize:
		return smp.Ed448, nil
	case AuthenticatorSize:
		return smp.X25519, nil
	}
	return 0, fmt.Errorf("authorization of %d bytes: %w", authorization.Len(), ErrForm)
}

// A Rule says whose authorization a command needs.
type Rule uint8

// The rules. The first one holds for all commands but those named at the
// others.
const (
	// ByParty: the key that the queue has for the sending party.
	ByParty Rule = iota
	// ByPartyAndService: in the session of a service, that key, for what names
	// the service too; and the service. NEW, SUB, NSUB.
	ByPartyAndService
	// ByService: the service alone. SUBS, NSUBS.
	ByService
)

// A ServiceIdentity is what a service proved in the handshake of its session.
type ServiceIdentity struct {
	// CertHash is the fingerprint of the service's identity certificate.
	CertHash smp.Fingerprint
	// Key is the Ed25519 key that the service made for the session.
	Key smp.PublicKey
}

// A ServiceSigner is the service's own side of a [ServiceIdentity].
type ServiceSigner struct {
	CertHash smp.Fingerprint
	Key      PrivateKey
}

// A scratch is memory for what is signed, which can be as large as a block. Sessions
// have none of their own, as most of them are idle most of the time.
type scratch struct {
	all    []byte // what is signed, behind the fingerprint of the service if there is one
	prefix int    // the length of the fingerprint
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// signedBytes returns what is signed of t in a session. The caller must return it to
// scratches.
func signedBytes(t *smp.Transmission, session smp.Short, service *smp.Fingerprint) *scratch {
	s, _ := scratches.Get().(*scratch)
	s.all = s.all[:0]
	if service != nil {
		s.all = append(s.all, service.Bytes()...)
	}
	s.prefix = len(s.all)
	s.all = t.AppendSigned(s.all, session)
	return s
}

// signed returns what is signed for the party alone.
func (s *scratch) signed() []byte { return s.all[s.prefix:] }

// A Signer authorizes commands of one session, on the client's side.
type Signer struct {
	// Session is the identifier of the session.
	Session smp.Short
	// Router is the router's X25519 key of the session. It is zero where the
	// router sent none, in version 6; X25519 keys cannot authorize then.
	Router smp.PublicKey
	// Service is nil in ordinary sessions.
	Service *ServiceSigner
}

// Authorize sets Auth and ServiceAuth of t, all other parts of which must be
// complete. The rule ByService needs no key.
func (s *Signer) Authorize(t *smp.Transmission, rule Rule, key PrivateKey) error {
	var service *smp.Fingerprint
	if s.Service != nil {
		service = &s.Service.CertHash
	}
	mem := signedBytes(t, s.Session, service)
	defer scratches.Put(mem)
	signed, hashed := mem.signed(), mem.all
	var auth, second []byte
	var err error
	switch {
	case rule == ByService && s.Service == nil:
		err = ErrService
	case rule == ByService:
		auth, err = s.Service.Key.Sign(nil, signed)
	case rule == ByPartyAndService && s.Service != nil:
		if auth, err = s.authorize(key, t.CorrID, hashed); err == nil {
			second, err = s.Service.Key.Sign(nil, signed)
		}
	default:
		auth, err = s.authorize(key, t.CorrID, signed)
	}
	if err == nil {
		t.Auth, err = smp.NewShort(auth)
	}
	if err == nil {
		t.ServiceAuth, err = smp.NewShort(second)
	}
	if err != nil {
		return fmt.Errorf("authorize command: %w", err)
	}
	return nil
}

func (s *Signer) authorize(key PrivateKey, corrID smp.Short, signed []byte) ([]byte, error) {
	if key.Public().Algorithm() != smp.X25519 {
		return key.Sign(nil, signed)
	}
	secret, err := key.Agree(s.Router)
	if err != nil {
		return nil, err
	}
	hash := sha512.Sum512(signed)
	return NewBox(secret).Seal(nil, NonceOf(corrID.Bytes()), hash[:]), nil
}

// A Verifier checks the authorizations of one session, on the router's side.
type Verifier struct {
	session smp.Short
	key     PrivateKey
	service *ServiceIdentity
}

// NewVerifier returns the Verifier of the session with the given identifier and
// router's X25519 key. The service is nil in ordinary sessions and for forwarded
// commands.
func NewVerifier(session smp.Short, key PrivateKey, service *ServiceIdentity) *Verifier {
	return &Verifier{session: session, key: key, service: service}
}

// Verify checks that t is authorized. The keys are those which the queue has for
// the sending party: none if there is no such queue, one, or several of which
// any will do. It returns nil, [ErrForm], [ErrAuth] or [ErrService]; without a
// key, ErrAuth goes before ErrService.
//
// With no key, or none of the right algorithm, Verify does all that it does with
// one and takes as long; so its answer says nothing about the existence of
// queues, however it is timed. Only several keys take more time, if not the
// first of them is the right one.
//
// A command without authorization is ErrAuth, at once.
func (v *Verifier) Verify(t *smp.Transmission, rule Rule, keys ...smp.PublicKey) error {
	algorithm, err := Algorithm(t.Auth)
	switch {
	case err != nil:
		return err
	case algorithm == 0:
		return ErrAuth
	}
	var service *smp.Fingerprint
	if v.service != nil {
		service = &v.service.CertHash
	}
	mem := signedBytes(t, v.session, service)
	defer scratches.Put(mem)
	signed := mem.signed()

	second := t.ServiceAuth.IsEmpty()
	switch {
	case rule == ByService:
		if v.service == nil || !second || algorithm != smp.Ed25519 || !verify(v.service.Key, signed, t.Auth.Bytes()) {
			return ErrService
		}
		return nil
	case rule == ByPartyAndService && v.service != nil:
		second = verify(v.service.Key, signed, t.ServiceAuth.Bytes())
		signed = mem.all
	}
	first := v.verifyParty(t, algorithm, signed, keys)
	switch {
	case len(keys) == 0:
		return ErrAuth
	case !second:
		return ErrService
	case !first:
		return ErrAuth
	}
	return nil
}

// verifyParty reports whether one of the keys authorized what is signed. It
// tries at least one key.
func (v *Verifier) verifyParty(t *smp.Transmission, a smp.Algorithm, signed []byte, keys []smp.PublicKey) bool {
	tried := false
	for _, key := range keys {
		if key.Algorithm() == a {
			tried = true
			if v.verifyKey(t, key, signed) {
				return true
			}
		}
	}
	if !tried {
		v.verifyKey(t, nobody[a], signed)
	}
	return false
}

func (v *Verifier) verifyKey(t *smp.Transmission, key smp.PublicKey, signed []byte) bool {
	if key.Algorithm() != smp.X25519 {
		return verify(key, signed, t.Auth.Bytes())
	}
	secret, err := v.key.Agree(key)
	if err != nil {
		secret = noSecret
	}
	want := sha512.Sum512(signed)
	var buf [sha512.Size]byte
	got, openErr := NewBox(secret).Open(buf[:0], NonceOf(t.CorrID.Bytes()), t.Auth.Bytes())
	return subtle.ConstantTimeCompare(got, want[:]) == 1 && err == nil && openErr == nil
}

// nobody has keys to check authorizations with that nothing can authorize.
// Whether somebody knows their private halves does not matter.
var nobody = func() map[smp.Algorithm]smp.PublicKey {
	keys := make(map[smp.Algorithm]smp.PublicKey, len(privateForms))
	for _, f := range privateForms {
		key, err := newPrivateKey(f.algorithm, make([]byte, f.size))
		if err != nil {
			panic(err) // the keys are constant
		}
		keys[f.algorithm] = key.Public()
	}
	return keys
}()

// noSecret stands for the secret with a key with which there is none.
var noSecret = func() smp.DHSecret {
	s, err := smp.ParseDHSecret(make([]byte, smp.DHSecretSize))
	if err != nil {
		panic(err) // the length is constant
	}
	return s
}()
