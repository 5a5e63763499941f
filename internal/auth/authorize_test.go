package auth

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/smp"
)

var signingAlgorithms = []smp.Algorithm{smp.Ed25519, smp.Ed448, smp.X25519}

func newKey(t testing.TB, a smp.Algorithm) PrivateKey {
	t.Helper()
	k, err := GenerateKey(a)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// authorized returns a command that key authorizes, and the router's side.
func authorized(t testing.TB, rule Rule, key PrivateKey, service *ServiceSigner) (smp.Transmission, *Verifier) {
	t.Helper()
	router := newKey(t, smp.X25519)
	signer := Signer{Session: short(t, sessionID), Router: router.Public(), Service: service}
	tr := smp.Transmission{CorrID: short(t, corrID), EntityID: short(t, recipientID), Command: []byte("SUB")}
	if err := signer.Authorize(&tr, rule, key); err != nil {
		t.Fatal(err)
	}
	var identity *ServiceIdentity
	if service != nil {
		identity = &ServiceIdentity{CertHash: service.CertHash, Key: service.Key.Public()}
	}
	return tr, NewVerifier(short(t, sessionID), router, identity)
}

func TestVerify(t *testing.T) {
	for _, a := range signingAlgorithms {
		t.Run(a.String(), func(t *testing.T) {
			key, other := newKey(t, a), newKey(t, a)
			tr, v := authorized(t, ByParty, key, nil)
			var others []smp.PublicKey // of other algorithms
			for _, b := range signingAlgorithms {
				if b != a {
					others = append(others, newKey(t, b).Public())
				}
			}
			mine := key.Public()
			for _, c := range []struct {
				name string
				keys []smp.PublicKey
				want error
			}{
				{"right key", []smp.PublicKey{mine}, nil},
				{"second key", []smp.PublicKey{other.Public(), others[0], mine}, nil},
				{"other key", []smp.PublicKey{other.Public()}, ErrAuth},
				{"other algorithms", others, ErrAuth},
				{"no key", nil, ErrAuth},
				{"zero key", []smp.PublicKey{{}}, ErrAuth},
			} {
				if err := v.Verify(&tr, ByParty, c.keys...); !errors.Is(err, c.want) {
					t.Errorf("%s: got %v, want %v", c.name, err, c.want)
				}
			}

			auth := tr.Auth.Bytes()
			for i := 0; i < len(auth); i += 7 {
				changed := tr
				b := bytes.Clone(auth)
				b[i] ^= 1
				changed.Auth = short(t, b)
				if err := v.Verify(&changed, ByParty, mine); !errors.Is(err, ErrAuth) {
					t.Errorf("byte %d changed: got %v", i, err)
				}
			}
			// What the dummy key would verify is still nobody's.
			forged, fv := authorized(t, ByParty, nobodysKey(t, a), nil)
			if err := fv.Verify(&forged, ByParty); !errors.Is(err, ErrAuth) {
				t.Errorf("authorized with the key that stands for none: got %v", err)
			}
			tr.ServiceAuth = short(t, make([]byte, 64))
			if err := v.Verify(&tr, ByParty, mine); !errors.Is(err, ErrService) {
				t.Errorf("with a superfluous signature: got %v, want %v", err, ErrService)
			}
			if err := v.Verify(&tr, ByParty); !errors.Is(err, ErrAuth) {
				t.Errorf("with a superfluous signature, without a queue: got %v, want %v", err, ErrAuth)
			}
		})
	}
}

// nobodysKey returns the private half of the key that stands for none.
func nobodysKey(t testing.TB, a smp.Algorithm) PrivateKey {
	t.Helper()
	for _, f := range privateForms {
		if f.algorithm == a {
			k, err := newPrivateKey(a, make([]byte, f.size))
			if err != nil || k.Public() != nobody[a] {
				t.Fatalf("%s, %v", k.Public(), err)
			}
			return k
		}
	}
	t.Fatal(a)
	return PrivateKey{}
}

func TestVerifyService(t *testing.T) {
	service := &ServiceSigner{CertHash: fingerprint(t, unhex(t, identityHash)), Key: newKey(t, smp.Ed25519)}
	impostor := &ServiceSigner{CertHash: service.CertHash, Key: newKey(t, smp.Ed25519)}
	party := newKey(t, smp.Ed25519)
	both, v := authorized(t, ByPartyAndService, party, service)
	alone, va := authorized(t, ByService, PrivateKey{}, service)

	without := both
	without.ServiceAuth = smp.Short{}
	// The party's own signature, for a session without a service.
	plain, _ := authorized(t, ByPartyAndService, party, nil)
	plain.ServiceAuth = both.ServiceAuth
	forged, vf := authorized(t, ByPartyAndService, party, impostor)
	vf.service.Key = service.Key.Public()
	twice := alone
	twice.ServiceAuth = both.ServiceAuth
	_, ordinary := authorized(t, ByParty, party, nil)

	key := party.Public()
	for _, c := range []struct {
		name string
		v    *Verifier
		tr   smp.Transmission
		rule Rule
		keys []smp.PublicKey
		want error
	}{
		{"both", v, both, ByPartyAndService, []smp.PublicKey{key}, nil},
		{"both, no queue", v, both, ByPartyAndService, nil, ErrAuth},
		{"both, where the party alone belongs", v, both, ByParty, []smp.PublicKey{key}, ErrService},
		{"without the service", v, without, ByPartyAndService, []smp.PublicKey{key}, ErrService},
		{"without the service's name", v, plain, ByPartyAndService, []smp.PublicKey{key}, ErrAuth},
		{"forged service", vf, forged, ByPartyAndService, []smp.PublicKey{key}, ErrService},
		{"service alone", va, alone, ByService, nil, nil},
		{"service alone, twice", va, twice, ByService, nil, ErrService},
		{"service alone, in an ordinary session", ordinary, alone, ByService, nil, ErrService},
		{"service alone, other key", v, plain, ByService, nil, ErrService},
	} {
		if err := c.v.Verify(&c.tr, c.rule, c.keys...); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

func TestAuthorizationForms(t *testing.T) {
	for n := range 256 {
		got, err := Algorithm(short(t, make([]byte, n)))
		want := map[int]smp.Algorithm{64: smp.Ed25519, 80: smp.X25519, 114: smp.Ed448}[n]
		if got != want || (err == nil) != (want != 0 || n == 0) {
			t.Errorf("%d bytes: got %v, %v, want %v", n, got, err, want)
		}
	}
	_, v := authorized(t, ByParty, newKey(t, smp.Ed25519), nil)
	if err := v.Verify(&smp.Transmission{}, ByParty, newKey(t, smp.Ed25519).Public()); !errors.Is(err, ErrAuth) {
		t.Errorf("without authorization: got %v", err)
	}
	if err := v.Verify(&smp.Transmission{Auth: short(t, []byte("short"))}, ByParty); !errors.Is(err, ErrForm) {
		t.Errorf("of five bytes: got %v", err)
	}
	signer := Signer{Session: short(t, sessionID)}
	if err := signer.Authorize(&smp.Transmission{}, ByParty, newKey(t, smp.X25519)); err == nil {
		t.Error("an authenticator was made without a key of the router")
	}
	if err := signer.Authorize(&smp.Transmission{}, ByService, PrivateKey{}); !errors.Is(err, ErrService) {
		t.Errorf("a service's command in an ordinary session: got %v", err)
	}
}

func TestKeys(t *testing.T) {
	for _, a := range signingAlgorithms {
		k := newKey(t, a)
		if k.Public().Algorithm() != a {
			t.Errorf("got a %v key, want %v", k.Public().Algorithm(), a)
		}
		for _, shown := range []string{
			fmt.Sprint(k), fmt.Sprintf("%v %+v %#v %s %q", k, k, k, k, k), slog.AnyValue(k).Resolve().String(),
		} {
			if strings.Trim(strings.ReplaceAll(shown, hidden, ""), ` "`) != "" {
				t.Errorf("%v key printed as %s", a, shown)
			}
		}
	}
	if _, err := GenerateKey(smp.X448); err == nil {
		t.Error("an X448 key was made")
	}
	for _, bad := range []string{"", "302e020100300506032b65700422042", "302e020100300506032b656f042204200102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20"} {
		if _, err := ParsePrivateKey([]byte(bad)); err == nil {
			t.Errorf("%q was taken for a key", bad)
		}
	}
	// A point of low order would make the secret known to everybody.
	zero, err := smp.NewPublicKey(smp.X25519, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newKey(t, smp.X25519).Agree(zero); err == nil {
		t.Error("agreed on a secret with a key of zero")
	}
	if _, err := newKey(t, smp.Ed25519).Agree(newKey(t, smp.X25519).Public()); err == nil {
		t.Error("agreed on a secret with an Ed25519 key")
	}
	if _, err := newKey(t, smp.X25519).Sign(nil, nil); err == nil {
		t.Error("signed with an X25519 key")
	}
}

// The time that a check takes does not tell whether the queue exists. Without
// the checks against nobody's key, it would differ by orders of magnitude; what
// other programs do to the machine must not matter. So the cases take turns,
// medians are compared, the margin is wide, and one good round is enough.
func TestVerifyTime(t *testing.T) {
	const (
		rounds, samples = 10, 101
		margin          = 1.25
	)
	for _, a := range signingAlgorithms {
		t.Run(a.String(), func(t *testing.T) {
			tr, v := authorized(t, ByParty, newKey(t, a), nil)
			other := signingAlgorithms[(slices.Index(signingAlgorithms, a)+1)%len(signingAlgorithms)]
			cases := [][]smp.PublicKey{
				{newKey(t, a).Public()},     // another key
				{newKey(t, other).Public()}, // a key of another kind
				{{}},                        // a queue without a key
				nil,                         // no queue
			}
			var medians []time.Duration
			for range rounds {
				medians = verifyTimes(t, &tr, v, cases, samples)
				if float64(slices.Max(medians)) <= margin*float64(slices.Min(medians)) {
					return
				}
			}
			t.Errorf("medians for another key, another kind of key, an empty key and no queue: %v", medians)
		})
	}
}

func verifyTimes(t *testing.T, tr *smp.Transmission, v *Verifier, cases [][]smp.PublicKey, samples int) []time.Duration {
	times := make([][]time.Duration, len(cases))
	for range samples {
		for i, keys := range cases {
			start := time.Now()
			err := v.Verify(tr, ByParty, keys...)
			times[i] = append(times[i], time.Since(start))
			if !errors.Is(err, ErrAuth) {
				t.Fatalf("case %d: got %v, want %v", i, err, ErrAuth)
			}
		}
	}
	medians := make([]time.Duration, len(cases))
	for i, t := range times {
		slices.Sort(t)
		medians[i] = t[len(t)/2]
	}
	return medians
}
