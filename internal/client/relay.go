package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/smp"
)

// A Relay is a router that a client sends to through another one, which does not see
// what is sent; nor does the Relay learn who sends (SMP protocol, proxying sender
// commands). Its methods may be called by many goroutines at the same time.
type Relay struct {
	client  *Client
	session smp.EntityID  // of proxy and relay
	version smp.Version   // of what is forwarded
	key     smp.PublicKey // X25519, of the relay, for the session
}

// ErrNoProxy says that the session with the router is of a version that has no
// forwarding yet.
var ErrNoProxy = errors.New("the router forwards nothing in this version")

// Relay has the router connect to another one, and returns that. The password is
// that of the router which forwards, zero for none; of the address, what is there
// is not needed.
//
// The relay has to prove that it is the one of the address, as in [Dial]:
// [auth.ErrChain], [auth.ErrSignedKey] and [smp.ErrHandshakeIdentity].
func (c *Client) Relay(ctx context.Context, address *smp.RouterAddress, password smp.Password) (*Relay, error) {
	if c.session.Version < smp.VersionProxy {
		return nil, fmt.Errorf("PRXY: %w", ErrNoProxy)
	}
	key, err := As[*smp.PKEY](c.Do(ctx, Request{Command: &smp.PRXY{
		Hosts: address.Hosts, Port: address.Port, Fingerprint: address.Fingerprint, Password: password,
	}}))
	if err != nil {
		return nil, err
	}
	r := &Relay{client: c, session: key.SessionID.ID()}
	own := smp.VersionRange{Min: smp.VersionProxy, Max: c.maxVersion}
	both, ok := own.Intersect(key.Versions)
	if !ok {
		return nil, fmt.Errorf("PKEY: %w: the relay offers %s, this end %s", smp.ErrTransportVersion, key.Versions, own)
	}
	r.version = both.Max
	if r.key, err = relayKey(key.Key, address.Fingerprint); err != nil {
		return nil, fmt.Errorf("PKEY: %w", err)
	}
	return r, nil
}

// relayKey returns the key that the router with the given identity signed.
func relayKey(signed smp.SignedKey, identity smp.Fingerprint) (smp.PublicKey, error) {
	chain, err := auth.VerifyRouterChain(signed.Chain, time.Now())
	if err != nil {
		return smp.PublicKey{}, err
	}
	if chain.Identity != identity {
		return smp.PublicKey{}, fmt.Errorf("%w: its fingerprint is %s, not %s", smp.ErrHandshakeIdentity, chain.Identity, identity)
	}
	key, err := chain.SessionKey(signed.Key)
	if err != nil {
		return smp.PublicKey{}, err
	}
	if key.Algorithm() != smp.X25519 {
		return smp.PublicKey{}, fmt.Errorf("%w: a session key for %v", smp.ErrHandshakeBadAuth, key.Algorithm())
	}
	return key, nil
}

// Version returns the version of the protocol that client and relay speak.
func (r *Relay) Version() smp.Version { return r.version }

// Do sends a command through the proxy: SEND, SKEY, LKEY or LGET. Errors of the
// relay are the same as without proxy. Those of the proxy are [smp.ProxyError],
// [smp.ProxyProtocolError] and [smp.ProxyBrokerError]; after [smp.ErrNoSession] there
// is no use in this Relay any more. Only the proxy says what is in them: to see
// what the relay said of a queue, look for ProxyProtocolError first, as it unwraps to
// an error of the same kind.
func (r *Relay) Do(ctx context.Context, request Request) (smp.Response, error) {
	key, err := auth.GenerateKey(smp.X25519)
	if err != nil {
		return nil, err
	}
	secret, err := key.Agree(r.key)
	if err != nil {
		return nil, err
	}
	id := newID()
	nonce := auth.NonceOf(id.Bytes())
	sealed, err := r.seal(&request, id, secret, nonce)
	if err != nil {
		return nil, err
	}
	forward := Request{Entity: r.session, Command: &smp.PFWD{Version: r.version, Key: key.Public(), Encrypted: sealed}}
	result, err := As[*smp.PRES](r.client.startWith(ctx, id, forward).Wait(ctx))
	if err != nil {
		return nil, ofProxy(err)
	}
	response, err := r.open(&request, id, secret, nonce.Reply(), result.Encrypted)
	if err != nil {
		return nil, fmt.Errorf("forwarded: %w", err)
	}
	return response, nil
}

// Forward sends a command to the router that a client of this end, a proxy, has
// encrypted for it, and returns the encrypted response: RFWD and RRES. Errors are
// those of [Client.Do]; [auth.ErrOpen] if the response cannot be decrypted.
func (c *Client) Forward(ctx context.Context, f auth.Forwarded) (sealed []byte, err error) {
	id := newID()
	nonce := auth.NonceOf(id.Bytes())
	request := Request{Command: &smp.RFWD{Encrypted: f.Seal(nil, c.session.Secret, nonce)}}
	result, err := As[*smp.RRES](c.startWith(ctx, id, request).Wait(ctx))
	if err != nil {
		return nil, err
	}
	response, err := auth.OpenForwardedResponse(c.session.Secret, nonce.Reply(), result.Encrypted)
	if err != nil {
		return nil, fmt.Errorf("RRES: %w", err)
	}
	if !response.CorrID.Equal(f.CorrID) {
		return nil, fmt.Errorf("RRES: %w: it is that to another command", ErrUnexpected)
	}
	return response.Sealed, nil
}

// ofProxy returns the error of a proxy. What else than errors of its own the proxy
// answers is unexpected: it must not pass for an error of the relay.
func ofProxy(err error) error {
	e, ok := errors.AsType[smp.Error](err)
	if !ok {
		return err
	}
	switch e.(type) {
	case smp.ProxyError, smp.ProxyProtocolError, smp.ProxyBrokerError:
		return err
	case smp.RouterError, smp.CommandError, smp.BlockedError, smp.StoreError:
	}
	return fmt.Errorf("PFWD: %w: the proxy answers %s", ErrUnexpected, e.Error())
}

// seal returns the command for the relay, encrypted.
func (r *Relay) seal(request *Request, id smp.Short, secret smp.DHSecret, nonce auth.Nonce) ([]byte, error) {
	session, err := smp.NewShort(r.session.Bytes())
	if err != nil {
		return nil, err
	}
	t := smp.Transmission{CorrID: id, Command: request.Command.Append(nil, r.version)}
	if t.EntityID, err = smp.NewShort(request.Entity.Bytes()); err != nil {
		return nil, err
	}
	if !request.Key.IsZero() {
		signer := auth.Signer{Session: session, Router: r.key}
		if err := signer.Authorize(&t, auth.ByParty, request.Key); err != nil {
			return nil, err
		}
	}
	var b smp.Batch
	if _, err := b.Add(t.Append(nil, r.version)); err != nil {
		return nil, err
	}
	return auth.SealCommand(nil, secret, nonce, b.Content())
}

// open returns the response of the relay to a command.
func (r *Relay) open(request *Request, id smp.Short, secret smp.DHSecret, nonce auth.Nonce, sealed []byte) (smp.Response, error) {
	content, err := auth.OpenCommand(secret, nonce, sealed)
	if err != nil {
		return nil, err
	}
	transmissions, err := smp.SplitContent(nil, content)
	if err == nil && len(transmissions) != 1 {
		err = fmt.Errorf("%w: %d transmissions", ErrUnexpected, len(transmissions))
	}
	if err != nil {
		return nil, err
	}
	t, err := smp.ParseTransmission(transmissions[0], r.version)
	if err != nil {
		return nil, err
	}
	response, err := smp.ParseResponse(t.Command, r.version)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnexpected, err)
	}
	if e, ok := response.(*smp.ERR); ok { // without ids if the relay could not read the command
		return nil, e.Err
	}
	if !t.CorrID.Equal(id) || t.EntityID.ID() != request.Entity {
		return nil, fmt.Errorf("%w: it is that to another command", ErrUnexpected)
	}
	return response, nil
}
