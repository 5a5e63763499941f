package router

import (
	"errors"
	"sync/atomic"

	"github.com/smpq/smpq/internal/smp"
)

// Counters count what the router has done since it was made. They are never reset.
type Counters struct {
	// Connections: accepted, those of which the handshake succeeded, those that
	// are open, and those that are not any more.
	Accepted, Connected, Active, Closed atomic.Int64
	// Connections that came to nothing: refused for a limit, failed in TLS, or in the
	// handshake of the protocol.
	Refused, FailedTLS, FailedHandshake atomic.Int64

	// Queues.
	QCreated, QSecured, QBlocked                     atomic.Int64 // blocked by the operator, while active
	QDeletedAll, QDeletedNew, QDeletedSecured        atomic.Int64
	QDeletedAllB, QSubAllB                           atomic.Int64 // blocks with several
	QSub                                             atomic.Int64 // new ones for which a message waited
	QSubAuth, QSubDuplicate, QSubProhibited          atomic.Int64
	QSubEnd, QSubEndB                                atomic.Int64 // events; blocks with them
	NtfCreated, NtfNewCreated, NtfDeleted            atomic.Int64
	NtfDeletedB, NtfSubB                             atomic.Int64 // blocks with several
	NtfSub, NtfSubAuth, NtfSubDuplicate              atomic.Int64
	MsgSent, MsgSentAuth, MsgSentQuota, MsgSentLarge atomic.Int64
	MsgSentBlock, MsgSentNtf                         atomic.Int64
	MsgRecv, MsgRecvGet, MsgRecvNtf                  atomic.Int64
	MsgGet, MsgGetNoMsg, MsgGetAuth                  atomic.Int64
	MsgGetDuplicate, MsgGetProhibited                atomic.Int64
	MsgExpired, MsgNtfExpired                        atomic.Int64
	MsgNtfs, MsgNtfsB, MsgNtfLost                    atomic.Int64
	NtfCount                                         atomic.Int64 // notifications that wait
	PMsgFwdsRecv                                     atomic.Int64
	RcvServicesSubMsg, RcvServicesSubDuplicate       atomic.Int64
	PRelays, PRelaysOwn, PMsgFwds, PMsgFwdsOwn       ProxyCounters
	RcvServices, NtfServices                         ServiceCounters

	ActiveQueues ActiveQueues
	AckTimes     AckTimes
}

// ServiceCounters count what services of one role have done.
type ServiceCounters struct {
	AssocNew, AssocDuplicate, AssocUpdated, AssocRemoved           atomic.Int64
	SubCount, SubQueues                                            atomic.Int64
	SubOk, SubMore, SubFewer, SubDiff, SubMoreTotal, SubFewerTotal atomic.Int64
}

// ProxyCounters count what was forwarded to other routers, or connections to them.
type ProxyCounters struct {
	Requests, Successes                      atomic.Int64
	ErrorsConnect, ErrorsCompat, ErrorsOther atomic.Int64
}

// count counts an answer.
func (c *ProxyCounters) count(answer smp.Response) {
	e, failed := answer.(*smp.ERR)
	if !failed {
		c.Successes.Add(1)
		return
	}
	_, answered := errors.AsType[smp.ProxyProtocolError](e.Err)
	broker, ok := errors.AsType[smp.ProxyBrokerError](e.Err)
	switch {
	case answered: // with an error, but answered
		c.Successes.Add(1)
	case !ok:
		c.ErrorsOther.Add(1)
	case broker.Transport == smp.ErrTransportVersion && broker.Kind == smp.BrokerTransport,
		broker.Transport == smp.ErrTransportNoAuth && broker.Kind == smp.BrokerTransport:
		c.ErrorsCompat.Add(1)
	case broker.Kind == smp.BrokerNetwork, broker.Kind == smp.BrokerTimeout:
		c.ErrorsConnect.Add(1)
	default:
		c.ErrorsOther.Add(1)
	}
}

// proxied counts something for all routers and, if it concerns one of the operator's
// own, for those.
func (*Counters) proxied(own bool, all, ownOnly *ProxyCounters, count func(*ProxyCounters)) {
	count(all)
	if own {
		count(ownOnly)
	}
}
