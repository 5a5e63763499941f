package client_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/transport"
)

// A proxy is a hostile one with the key of a relay, whose answers it can thus make
// or forge.
type proxy struct {
	*hostile

	private auth.PrivateKey // of the relay, for the session
	session smp.Short
}

// newRelayKey returns the certificates of a relay, and its key signed.
func newRelayKey(t testing.TB) (transport.Credentials, auth.PrivateKey, smp.SignedKey) {
	t.Helper()
	relay, private := routertest.NewCredentials(t), newKey(t, smp.X25519)
	return relay, private, sign(t, relay, private.Public())
}

func sign(t testing.TB, c transport.Credentials, key smp.PublicKey) smp.SignedKey {
	t.Helper()
	signed, err := auth.SignKey(c.Key, key)
	if err != nil {
		t.Fatal(err)
	}
	return smp.SignedKey{Chain: c.Chain, Key: signed}
}

// A relay that does not prove to be the one of the address is refused.
func TestHostileRelayKey(t *testing.T) {
	relay, _, key := newRelayKey(t)
	other, _, otherKey := newRelayKey(t)
	ed25519 := newKey(t, smp.Ed25519)
	session := shortOf(t, bytes.Repeat([]byte{7}, 32))
	versions := smp.VersionRange{Min: 8, Max: 18}
	mixed := smp.SignedKey{Chain: [][]byte{other.Chain[0], relay.Chain[1]}, Key: otherKey.Key}
	single := smp.SignedKey{Chain: relay.Chain[1:], Key: key.Key}
	extended := smp.SignedKey{Chain: [][]byte{other.Chain[0], relay.Chain[1], other.Chain[1]}, Key: otherKey.Key}
	for _, c := range []struct {
		name     string
		response smp.Response
		want     error
	}{
		{"right", &smp.PKEY{SessionID: session, Versions: versions, Key: key}, nil},
		{"more versions", &smp.PKEY{SessionID: session, Versions: smp.VersionRange{Min: 1, Max: 65535}, Key: key}, nil},
		{"another router", &smp.PKEY{SessionID: session, Versions: versions, Key: otherKey}, smp.ErrHandshakeIdentity},
		{"identity in the chain of another", &smp.PKEY{SessionID: session, Versions: versions, Key: mixed}, auth.ErrChain},
		{"identity between others", &smp.PKEY{SessionID: session, Versions: versions, Key: extended}, auth.ErrChain},
		{"identity alone", &smp.PKEY{SessionID: session, Versions: versions, Key: single}, auth.ErrChain},
		{"no certificates", &smp.PKEY{SessionID: session, Versions: versions, Key: smp.SignedKey{Chain: [][]byte{nil, nil}, Key: key.Key}}, auth.ErrChain},
		{"key of another", &smp.PKEY{SessionID: session, Versions: versions, Key: smp.SignedKey{Chain: relay.Chain, Key: otherKey.Key}}, auth.ErrSignedKey},
		{"no key", &smp.PKEY{SessionID: session, Versions: versions, Key: smp.SignedKey{Chain: relay.Chain}}, auth.ErrSignedKey},
		{"key for signatures", &smp.PKEY{SessionID: session, Versions: versions, Key: sign(t, relay, ed25519.Public())}, smp.ErrHandshakeBadAuth},
		{"versions before ours", &smp.PKEY{SessionID: session, Versions: smp.VersionRange{Min: 6, Max: 7}, Key: key}, smp.ErrTransportVersion},
		{"versions after ours", &smp.PKEY{SessionID: session, Versions: smp.VersionRange{Min: 20, Max: 30}, Key: key}, smp.ErrTransportVersion},
		{"error", &smp.ERR{Err: smp.ErrProxyPassword}, smp.ErrProxyPassword},
		{"another result", &smp.PONG{}, client.ErrUnexpected},
	} {
		bubble(t, c.name, func(t *testing.T) {
			conn := meet(t, 19, func(h *hostile) {
				in := h.next()
				h.say(h.transmission(in.CorrID, smp.Short{}, string(c.response.Append(nil, 19))))
				h.listen()
			})
			r, err := conn.Relay(t.Context(), addressOf(t, relay), smp.Password{})
			if !errors.Is(err, c.want) || (r == nil) != (c.want != nil) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if r != nil && r.Version() > smp.MaxVersion {
				t.Errorf("version %d", r.Version())
			}
		})
	}
}

// forwarded is what a client sent through a proxy.
type forwarded struct {
	smp.Transmission // PFWD

	secret smp.DHSecret
	inner  smp.Transmission
}

// next returns the next command that is to be forwarded.
func (p *proxy) next() (f forwarded) {
	p.t.Helper()
	f.Transmission = p.hostile.next()
	err := func() error {
		command, err := smp.ParseCommand(f.Command, 19)
		if err != nil {
			return err
		}
		c, ok := command.(*smp.PFWD)
		if !ok {
			return fmt.Errorf("got %T", command)
		}
		if f.secret, err = p.private.Agree(c.Key); err != nil {
			return err
		}
		content, err := auth.OpenCommand(f.secret, auth.NonceOf(f.CorrID.Bytes()), c.Encrypted)
		if err != nil {
			return err
		}
		parts, err := smp.SplitContent(nil, content)
		if err != nil {
			return err
		}
		f.inner, err = smp.ParseTransmission(parts[0], c.Version)
		return err
	}()
	if err != nil {
		p.t.Errorf("proxy: %v", err)
	}
	return f
}

// seal encrypts the content of a block as the relay does.
func (f forwarded) seal(t testing.TB, content []byte) string {
	t.Helper()
	sealed, err := auth.SealCommand(nil, f.secret, auth.NonceOf(f.CorrID.Bytes()).Reply(), content)
	if err != nil {
		t.Errorf("proxy: %v", err)
	}
	return string(sealed)
}

// response returns the transmission of a relay.
func response(id, entity smp.Short, text string) []byte {
	t := smp.Transmission{CorrID: id, EntityID: entity, Command: []byte(text)}
	return t.Append(nil, 18)
}

// through starts a session with a relay through a hostile proxy, which then answers
// one command after another with what do returns.
func through(t testing.TB, session smp.Short, key *smp.PublicKey, do func(*proxy, forwarded) (entity smp.Short, response string)) *client.Relay {
	t.Helper()
	relay, private, signed := newRelayKey(t)
	if key != nil {
		signed = sign(t, relay, *key)
	}
	c := meet(t, 19, func(h *hostile) {
		p := &proxy{hostile: h, private: private, session: session}
		in := h.next()
		pkey := smp.PKEY{SessionID: session, Versions: smp.VersionRange{Min: 8, Max: 18}, Key: signed}
		h.say(h.transmission(in.CorrID, smp.Short{}, string(pkey.Append(nil, 19))))
		if do != nil {
			for range 2 {
				f := p.next()
				entity, text := do(p, f)
				h.say(h.transmission(f.CorrID, entity, text))
			}
		}
		h.listen()
	})
	r, err := c.Relay(t.Context(), addressOf(t, relay), smp.Password{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Answers that a proxy forges, replays or changes are errors, which say so and do
// not pass for those of the relay.
func TestHostileProxy(t *testing.T) {
	session := shortOf(t, bytes.Repeat([]byte{7}, 32))
	queue := smp.NewEntityID("queue")
	no := smp.Short{}
	// content is what the relay says.
	content := func(say func(f forwarded) []byte) func(*proxy, forwarded) (smp.Short, string) {
		return func(p *proxy, f forwarded) (smp.Short, string) {
			return p.session, "PRES " + f.seal(p.t, say(f))
		}
	}
	outer := func(text string) func(*proxy, forwarded) (smp.Short, string) {
		return func(p *proxy, _ forwarded) (smp.Short, string) { return p.session, text }
	}
	right := content(func(f forwarded) []byte { return contentOf(response(f.inner.CorrID, f.inner.EntityID, "OK")) })
	for _, c := range []struct {
		name string
		do   func(*proxy, forwarded) (smp.Short, string)
		want error
		text string
	}{
		{"right", right, nil, ""},
		{"error of the relay", content(func(f forwarded) []byte {
			return contentOf(response(f.inner.CorrID, f.inner.EntityID, "ERR QUOTA"))
		}), smp.ErrQuota, "forwarded: QUOTA"},
		{"error of the relay about nothing", content(func(forwarded) []byte { return contentOf(response(no, no, "ERR BLOCK")) }), smp.ErrBlock, "forwarded: BLOCK"},
		{"nothing", outer("PRES "), auth.ErrOpen, "forwarded: "},
		{"noise", outer("PRES " + strings.Repeat("x", auth.SealedCommandSize)), auth.ErrOpen, "forwarded: "},
		{"changed", func(p *proxy, f forwarded) (smp.Short, string) {
			entity, text := right(p, f)
			return entity, text[:len(text)-1] + string(text[len(text)-1]^1)
		}, auth.ErrOpen, "forwarded: "},
		{"sent back", func(p *proxy, f forwarded) (smp.Short, string) {
			c, err := smp.ParseCommand(f.Command, 19)
			if pfwd, ok := c.(*smp.PFWD); ok && err == nil {
				return p.session, "PRES " + string(pfwd.Encrypted)
			}
			return no, ""
		}, auth.ErrOpen, "forwarded: "},
		{"two transmissions", content(func(f forwarded) []byte {
			one := response(f.inner.CorrID, f.inner.EntityID, "OK")
			return contentOf(one, one)
		}), client.ErrUnexpected, "2 transmissions"},
		{"no transmission", content(func(forwarded) []byte { return []byte{0} }), nil, "split block"},
		{"bad transmission", content(func(forwarded) []byte { return contentOf([]byte{0, 9}) }), nil, "parse transmission"},
		{"unknown response", content(func(f forwarded) []byte {
			return contentOf(response(f.inner.CorrID, f.inner.EntityID, "HELLO"))
		}), client.ErrUnexpected, "unknown tag"},
		{"of another command", content(func(f forwarded) []byte {
			return contentOf(response(shortOf(t, bytes.Repeat([]byte{1}, 24)), f.inner.EntityID, "OK"))
		}), client.ErrUnexpected, "another command"},
		{"of no command", content(func(f forwarded) []byte { return contentOf(response(no, f.inner.EntityID, "OK")) }), client.ErrUnexpected, "another command"},
		{"about another queue", content(func(f forwarded) []byte {
			return contentOf(response(f.inner.CorrID, shortOf(t, []byte("another")), "OK"))
		}), client.ErrUnexpected, "another command"},
		{"of another session", func(p *proxy, f forwarded) (smp.Short, string) {
			_, text := right(p, f)
			return shortOf(t, []byte("another")), text
		}, client.ErrUnexpected, "it is about YW5vdGhlcg"},
		{"of no session", func(p *proxy, f forwarded) (smp.Short, string) {
			_, text := right(p, f)
			return no, text
		}, smp.ErrEntity, "PFWD: "},
		{"not encrypted", outer("OK"), client.ErrUnexpected, "smp.OK"},
		{"error of the proxy", outer("ERR PROXY NO_SESSION"), smp.ErrNoSession, "PFWD: PROXY NO_SESSION"},
		{"error between proxy and relay", outer("ERR PROXY PROTOCOL CRYPTO"), smp.ErrCrypto, "PFWD: PROXY PROTOCOL CRYPTO"},
		{"error as if of the relay", outer("ERR AUTH"), client.ErrUnexpected, "PFWD: unexpected response: the proxy answers AUTH"},
		{"blocking as if of the relay", outer("ERR BLOCKED reason=spam"), client.ErrUnexpected, "the proxy answers BLOCKED"},
	} {
		bubble(t, c.name, func(t *testing.T) {
			relay := through(t, session, nil, c.do)
			for range 2 {
				_, err := relay.Do(t.Context(), client.Request{Entity: queue, Command: &smp.SEND{Body: []byte("hello")}})
				if (err == nil) != (c.name == "right") || c.want != nil && !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.text) {
					t.Errorf("got %v, want %v: %s", err, c.want, c.text)
				}
				if _, ok := errors.AsType[smp.BlockedError](err); ok || errors.Is(err, smp.ErrAuth) {
					t.Errorf("%v passes for an error of the relay", err)
				}
			}
		})
	}

	bubble(t, "replayed", func(t *testing.T) {
		var before string
		relay := through(t, session, nil, func(p *proxy, f forwarded) (smp.Short, string) {
			if before == "" {
				_, before = right(p, f)
			}
			return p.session, before
		})
		send := client.Request{Entity: queue, Command: &smp.SEND{Body: []byte("hello")}}
		ok(t, relay, send)
		if _, err := relay.Do(t.Context(), send); !errors.Is(err, auth.ErrOpen) {
			t.Errorf("%v", err)
		}
	})
	bubble(t, "too large", func(t *testing.T) {
		relay := through(t, session, nil, nil)
		for _, size := range []int{16200, 16400, 70000} {
			if _, err := relay.Do(t.Context(), client.Request{Entity: queue, Command: &smp.SEND{Body: make([]byte, size)}}); err == nil {
				t.Errorf("a message of %d bytes was sent", size)
			}
		}
	})
	bubble(t, "session that leaves no room", func(t *testing.T) {
		relay := through(t, shortOf(t, make([]byte, 48)), nil, nil)
		_, err := relay.Do(t.Context(), client.Request{Entity: queue, Command: &smp.SEND{}})
		if !errors.Is(err, smp.ErrTooLarge) || !strings.HasPrefix(err.Error(), "PFWD: ") {
			t.Errorf("%v", err)
		}
	})
	bubble(t, "key without a secret", func(t *testing.T) {
		zero, err := smp.NewPublicKey(smp.X25519, make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		relay := through(t, session, &zero, nil)
		if _, err := relay.Do(t.Context(), client.Request{Entity: queue, Command: &smp.SEND{}}); err == nil || !strings.Contains(err.Error(), "agree on a secret") {
			t.Errorf("%v", err)
		}
	})
}
