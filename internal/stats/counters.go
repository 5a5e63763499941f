package stats

import (
	"sync/atomic"

	"github.com/smpq/smpq/internal/router"
)

// A counter is a counter by its name in reports and in the backup. Where counters come
// in groups, it is behind the name of its group: "pRelays.requests".
type counter struct {
	name string
	keep bool // it goes on when a day ends
	of   func(*router.Counters) *atomic.Int64
}

// groupProxy returns the counters of a group about the proxy role, as group has the
// services.
func groupProxy(name string, of func(*router.Counters) *router.ProxyCounters) []counter {
	return []counter{
		{name: name + ".requests", of: func(c *router.Counters) *atomic.Int64 { return &of(c).Requests }},
		{name: name + ".successes", of: func(c *router.Counters) *atomic.Int64 { return &of(c).Successes }},
		{name: name + ".errorsConnect", of: func(c *router.Counters) *atomic.Int64 { return &of(c).ErrorsConnect }},
		{name: name + ".errorsCompat", of: func(c *router.Counters) *atomic.Int64 { return &of(c).ErrorsCompat }},
		{name: name + ".errorsOther", of: func(c *router.Counters) *atomic.Int64 { return &of(c).ErrorsOther }},
	}
}

func groupServices(name string, of func(*router.Counters) *router.ServiceCounters) []counter {
	return []counter{
		{name: name + ".assocNew", keep: true, of: func(c *router.Counters) *atomic.Int64 { return &of(c).AssocNew }},
		{name: name + ".assocDuplicate", keep: true, of: func(c *router.Counters) *atomic.Int64 { return &of(c).AssocDuplicate }},
		{name: name + ".assocUpdated", keep: true, of: func(c *router.Counters) *atomic.Int64 { return &of(c).AssocUpdated }},
		{name: name + ".assocRemoved", keep: true, of: func(c *router.Counters) *atomic.Int64 { return &of(c).AssocRemoved }},
		{name: name + ".subCount", keep: true, of: func(c *router.Counters) *atomic.Int64 { return &of(c).SubCount }},
		{name: name + ".subDuplicate", keep: true}, // smp-server never counts it, as the next one
		{name: name + ".subQueues", keep: true, of: func(c *router.Counters) *atomic.Int64 { return &of(c).SubQueues }},
		{name: name + ".subEnd", keep: true},
		{name: name + ".subOk", keep: true, of: func(c *router.Counters) *atomic.Int64 { return &of(c).SubOk }},
		{name: name + ".subMore", keep: true, of: func(c *router.Counters) *atomic.Int64 { return &of(c).SubMore }},
		{name: name + ".subFewer", keep: true, of: func(c *router.Counters) *atomic.Int64 { return &of(c).SubFewer }},
		{name: name + ".subDiff", keep: true, of: func(c *router.Counters) *atomic.Int64 { return &of(c).SubDiff }},
		{name: name + ".subMoreTotal", keep: true, of: func(c *router.Counters) *atomic.Int64 { return &of(c).SubMoreTotal }},
		{name: name + ".subFewerTotal", keep: true, of: func(c *router.Counters) *atomic.Int64 { return &of(c).SubFewerTotal }},
	}
}

// counters are all counters.
func counters() []counter {
	all := []counter{
		{name: "qCreated", of: func(c *router.Counters) *atomic.Int64 { return &c.QCreated }},
		{name: "qSecured", of: func(c *router.Counters) *atomic.Int64 { return &c.QSecured }},
		{name: "qDeletedAll", of: func(c *router.Counters) *atomic.Int64 { return &c.QDeletedAll }},
		{name: "qDeletedNew", of: func(c *router.Counters) *atomic.Int64 { return &c.QDeletedNew }},
		{name: "qDeletedSecured", of: func(c *router.Counters) *atomic.Int64 { return &c.QDeletedSecured }},
		{name: "qDeletedAllB", of: func(c *router.Counters) *atomic.Int64 { return &c.QDeletedAllB }},
		{name: "qBlocked", of: func(c *router.Counters) *atomic.Int64 { return &c.QBlocked }},
		{name: "qSub", of: func(c *router.Counters) *atomic.Int64 { return &c.QSub }},
		{name: "qSubAllB", of: func(c *router.Counters) *atomic.Int64 { return &c.QSubAllB }},
		{name: "qSubAuth", of: func(c *router.Counters) *atomic.Int64 { return &c.QSubAuth }},
		{name: "qSubDuplicate", of: func(c *router.Counters) *atomic.Int64 { return &c.QSubDuplicate }},
		{name: "qSubProhibited", of: func(c *router.Counters) *atomic.Int64 { return &c.QSubProhibited }},
		{name: "qSubEnd", of: func(c *router.Counters) *atomic.Int64 { return &c.QSubEnd }},
		{name: "qSubEndB", of: func(c *router.Counters) *atomic.Int64 { return &c.QSubEndB }},
		{name: "ntfCreated", of: func(c *router.Counters) *atomic.Int64 { return &c.NtfCreated }},
		{name: "ntfNewCreated", keep: true, of: func(c *router.Counters) *atomic.Int64 { return &c.NtfNewCreated }},
		{name: "ntfDeleted", of: func(c *router.Counters) *atomic.Int64 { return &c.NtfDeleted }},
		{name: "ntfDeletedB", of: func(c *router.Counters) *atomic.Int64 { return &c.NtfDeletedB }},
		{name: "ntfSub", of: func(c *router.Counters) *atomic.Int64 { return &c.NtfSub }},
		{name: "ntfSubB", of: func(c *router.Counters) *atomic.Int64 { return &c.NtfSubB }},
		{name: "ntfSubAuth", of: func(c *router.Counters) *atomic.Int64 { return &c.NtfSubAuth }},
		{name: "ntfSubDuplicate", of: func(c *router.Counters) *atomic.Int64 { return &c.NtfSubDuplicate }},
		{name: "msgSent", of: func(c *router.Counters) *atomic.Int64 { return &c.MsgSent }},
		{name: "msgSentAuth", of: func(c *router.Counters) *atomic.Int64 { return &c.MsgSentAuth }},
		{name: "msgSentQuota", of: func(c *router.Counters) *atomic.Int64 { return &c.MsgSentQuota }},
		{name: "msgSentLarge", of: func(c *router.Counters) *atomic.Int64 { return &c.MsgSentLarge }},
		{name: "msgSentBlock", keep: true, of: func(c *router.Counters) *atomic.Int64 { return &c.MsgSentBlock }},
		{name: "msgRecv", of: func(c *router.Counters) *atomic.Int64 { return &c.MsgRecv }},
		{name: "msgRecvGet", of: func(c *router.Counters) *atomic.Int64 { return &c.MsgRecvGet }},
		{name: "msgGet", of: func(c *router.Counters) *atomic.Int64 { return &c.MsgGet }},
		{name: "msgGetNoMsg", of: func(c *router.Counters) *atomic.Int64 { return &c.MsgGetNoMsg }},
		{name: "msgGetAuth", of: func(c *router.Counters) *atomic.Int64 { return &c.MsgGetAuth }},
		{name: "msgGetDuplicate", of: func(c *router.Counters) *atomic.Int64 { return &c.MsgGetDuplicate }},
		{name: "msgGetProhibited", of: func(c *router.Counters) *atomic.Int64 { return &c.MsgGetProhibited }},
		{name: "msgExpired", of: func(c *router.Counters) *atomic.Int64 { return &c.MsgExpired }},
		{name: "msgSentNtf", of: func(c *router.Counters) *atomic.Int64 { return &c.MsgSentNtf }},
		{name: "msgRecvNtf", of: func(c *router.Counters) *atomic.Int64 { return &c.MsgRecvNtf }},
		{name: "msgNtfs", of: func(c *router.Counters) *atomic.Int64 { return &c.MsgNtfs }},
		{name: "msgNtfsB", of: func(c *router.Counters) *atomic.Int64 { return &c.MsgNtfsB }},
		{name: "msgNtfNoSub"}, // smp-server never counts it
		{name: "msgNtfLost", of: func(c *router.Counters) *atomic.Int64 { return &c.MsgNtfLost }},
		{name: "msgNtfExpired", of: func(c *router.Counters) *atomic.Int64 { return &c.MsgNtfExpired }},
		{name: "pMsgFwdsRecv", of: func(c *router.Counters) *atomic.Int64 { return &c.PMsgFwdsRecv }},
		{name: "rcvServicesSubMsg", keep: true, of: func(c *router.Counters) *atomic.Int64 { return &c.RcvServicesSubMsg }},
		{name: "rcvServicesSubDuplicate", keep: true, of: func(c *router.Counters) *atomic.Int64 { return &c.RcvServicesSubDuplicate }},
	}
	all = append(all, groupProxy("pRelays", func(c *router.Counters) *router.ProxyCounters { return &c.PRelays })...)
	all = append(all, groupProxy("pRelaysOwn", func(c *router.Counters) *router.ProxyCounters { return &c.PRelaysOwn })...)
	all = append(all, groupProxy("pMsgFwds", func(c *router.Counters) *router.ProxyCounters { return &c.PMsgFwds })...)
	all = append(all, groupProxy("pMsgFwdsOwn", func(c *router.Counters) *router.ProxyCounters { return &c.PMsgFwdsOwn })...)
	all = append(all, groupServices("rcvServices", func(c *router.Counters) *router.ServiceCounters { return &c.RcvServices })...)
	return append(all, groupServices("ntfServices", func(c *router.Counters) *router.ServiceCounters { return &c.NtfServices })...)
}

// numbers are the values of counters by their names. Names with a "." are those of
// groups.
type numbers map[string]int64

// A ledger turns counters that are never reset into those since a time. It is not for
// several goroutines.
type ledger struct {
	counters []counter
	source   *router.Counters
	offset   numbers // what a counter here has more than that of the source
}

func newLedger(source *router.Counters) *ledger {
	l := &ledger{counters: counters(), source: source, offset: make(numbers)}
	for _, c := range l.counters {
		l.offset[c.name] = 0
	}
	return l
}

// read returns the numbers.
func (l *ledger) read() numbers {
	n := make(numbers, len(l.counters))
	for _, c := range l.counters {
		n[c.name] = l.offset[c.name]
		if c.of != nil {
			n[c.name] += c.of(l.source).Load()
		}
	}
	return n
}

// reset begins a new day after what n has. What has been counted since n was read
// belongs to the new day.
func (l *ledger) reset(n numbers) {
	for _, c := range l.counters {
		if !c.keep {
			l.offset[c.name] -= n[c.name]
		}
	}
}

// add adds what was counted before this process.
func (l *ledger) add(n numbers) {
	for _, c := range l.counters {
		l.offset[c.name] += n[c.name]
	}
}
