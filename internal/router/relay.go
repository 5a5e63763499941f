package router

import (
	"errors"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// A forwarded is how a command came that a proxy has forwarded, and how its answer
// goes back (SMP protocol, proxying sender commands).
type forwarded struct {
	proxy  smp.Short    // correlation id of RFWD
	client smp.Short    // correlation id of PFWD
	secret smp.DHSecret // shared with the client
}

// errNoSessionSecret is told to a proxy that sent no key in the handshake.
var errNoSessionSecret = smp.ProxyBrokerError{Kind: smp.BrokerTransport, Transport: smp.ErrTransportNoAuth}

// open returns the request in RFWD, or rq with an answer if there is none.
func (rq *request) open(c *smp.RFWD) *request {
	inner, err := rq.openForwarded(c)
	if rq.fail(err) {
		return rq
	}
	return inner
}

func (rq *request) openForwarded(c *smp.RFWD) (*request, error) {
	if err := rq.needs(queue.RoleProxy); err != nil {
		return nil, err
	}
	s := rq.session.conn.Session()
	if s.Secret.IsZero() {
		return nil, errNoSessionSecret
	}
	f, err := auth.OpenForwarded(s.Secret, auth.NonceOf(rq.transmission.CorrID.Bytes()), c.Encrypted)
	switch {
	case errors.Is(err, auth.ErrOpen):
		return nil, smp.ErrCrypto
	case err != nil:
		return nil, smp.ErrSyntax
	}
	secret, err := s.Key.Agree(f.Key)
	if err != nil {
		return nil, smp.ErrCrypto
	}
	content, err := auth.OpenCommand(secret, auth.NonceOf(f.CorrID.Bytes()), f.Sealed)
	if err != nil {
		return nil, smp.ErrCrypto
	}
	transmissions, err := smp.SplitContent(nil, content)
	if err == nil && len(transmissions) != 1 {
		return nil, smp.ErrBlock
	}
	inner := &request{
		session: rq.session, version: f.Version, verifier: auth.NewVerifier(s.ID, s.Key, nil),
		forwarded: &forwarded{proxy: rq.transmission.CorrID, client: f.CorrID, secret: secret},
	}
	switch versions := rq.session.router.o.Versions; {
	case err != nil:
		inner.answer = failure(smp.ErrBlock)
	case f.Version < smp.VersionProxy || f.Version > versions.Max:
		inner.version = min(max(f.Version, smp.VersionProxy), versions.Max)
		inner.answer = failure(smp.ErrProhibited)
	default:
		inner.parse(transmissions[0])
		if inner.answer == nil && !forwardable(inner.command) {
			inner.answer = failure(smp.ErrProhibited)
		}
	}
	return inner, nil
}

// forwardable reports whether a proxy may forward c.
func forwardable(c smp.Command) bool {
	switch c.(type) {
	case *smp.SEND, *smp.SKEY, *smp.LKEY, *smp.LGET:
		return true
	case *smp.NEW, *smp.SUB, *smp.KEY, *smp.RKEY, *smp.LSET, *smp.LDEL, *smp.NKEY, *smp.NDEL, *smp.GET, *smp.ACK,
		*smp.OFF, *smp.DEL, *smp.QUE, *smp.NSUB, *smp.SUBS, *smp.NSUBS, *smp.PING, *smp.PRXY, *smp.PFWD, *smp.RFWD:
	}
	return false
}

// encode returns the transmission with RRES that answers a forwarded request.
func (f *forwarded) encode(rq *request) []byte {
	s := rq.session
	response, err := f.seal(rq)
	if err != nil {
		response = failure(smp.ErrBlock)
	}
	s.router.counters.PMsgFwdsRecv.Add(1)
	return s.encode(f.proxy, smp.Short{}, response)
}

func (f *forwarded) seal(rq *request) (smp.Response, error) {
	var block smp.Batch
	if _, err := block.Add(rq.encodeAnswer()); err != nil {
		return nil, err
	}
	sealed, err := auth.SealCommand(nil, f.secret, auth.NonceOf(f.client.Bytes()).Reply(), block.Content())
	if err != nil {
		return nil, err
	}
	result := auth.ForwardedResponse{CorrID: f.client, Sealed: sealed}
	nonce := auth.NonceOf(f.proxy.Bytes()).Reply()
	return &smp.RRES{Encrypted: result.Seal(nil, rq.session.conn.Session().Secret, nonce)}, nil
}
