package stats

import (
	"context"
	"fmt"
	"io"
	"math"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/smpq/smpq/internal/router"
)

const prefix = "simplex_smp_"

// saveMetrics writes the file of metrics.
func (s *Statistics) saveMetrics(ctx context.Context) error {
	return writeFile(s.path(MetricsName), 0o644, func(w io.Writer) error { return s.WriteMetrics(ctx, w) })
}

// WriteMetrics writes the metrics in the text format of Prometheus, with the names that
// smp-server gives them, its misspellings included.
func (s *Statistics) WriteMetrics(ctx context.Context, w io.Writer) error {
	r := s.Report(ctx)
	m := &metrics{report: r, stamp: " " + strconv.FormatInt(r.At.UnixMilli(), 10)}
	fmt.Fprintf(&m.text, "# Recorded at: %s\n# Stats from: %s\n", r.At.UTC().Format(time.RFC3339Nano), r.From.UTC().Format(time.RFC3339Nano))
	state := s.o.Router.State()
	m.queues()
	m.subscriptions()
	m.messages()
	m.notifications()
	m.relays()
	m.services("rcv", "rcvServices", r.Stored.RcvServices, r.Stored.RcvServiceQueues)
	m.services("ntf", "ntfServices", r.Stored.NtfServices, r.Stored.NtfServiceQueues)
	m.head("rcv_services_sub_msg_count", "counter", "Messages delivered to receiving services when they subscribed")
	m.count("", "rcvServicesSubMsg")
	m.head("rcv_services_sub_duplicate_count", "counter", "Messages not delivered to receiving services when they subscribed, as they were subscribed to the queue before")
	m.count("", "rcvServicesSubDuplicate")
	m.process(s.o.Version, s.o.RTSOptions, &state)
	m.deliveries(&state.Pending, &s.o.Router.Counters().AckTimes)
	m.registries(&state)
	cache := s.o.Store.CacheStats()
	for _, g := range []struct {
		name, help string
		value      int64
	}{
		{"queue_count", "Queues in memory", cache.Queues},
		{"ntf_count", "Notifiers in memory; they are not counted apart from their queues", 0},
		{"open_journal_count", "Open journals, of which there are none", 0},
		{"queue_lock_count", "Locks of queues, of which there are none apart from the queues in memory", 0},
		{"ntf_lock_count", "Locks of notifiers, of which there are none", 0},
	} {
		m.head("loaded_queues_"+g.name, "gauge", g.help)
		m.value("", g.value)
	}
	_, err := io.WriteString(w, m.text.String())
	return err
}

// metrics are the text of metrics that is being made.
type metrics struct {
	text   strings.Builder
	report *Report
	stamp  string // the time, behind values
	name   string // of the metric
}

// head begins a metric.
func (m *metrics) head(name, kind, help string) {
	m.name = prefix + name
	fmt.Fprintf(&m.text, "\n# HELP %s %s\n# TYPE %s %s\n", m.name, help, m.name, kind)
}

// value adds a value of the metric, with labels such as `type="all"`.
func (m *metrics) value(labels string, v int64) { m.sample("", labels, v) }

func (m *metrics) sample(suffix, labels string, v int64) {
	if labels != "" {
		labels = "{" + labels + "}"
	}
	fmt.Fprintf(&m.text, "%s%s%s %d%s\n", m.name, suffix, labels, v, m.stamp)
}

// count adds a counter.
func (m *metrics) count(labels, counter string) { m.value(labels, m.report.Count(counter)) }

// counter adds a metric with one counter.
func (m *metrics) counter(name, help, counter string) {
	m.head(name, "counter", help)
	m.count("", counter)
}

// gauge adds a metric with one value.
func (m *metrics) gauge(name, help string, v int64) {
	m.head(name, "gauge", help)
	m.value("", v)
}

func (m *metrics) queues() {
	r := m.report
	m.counter("queues_created", "Created queues", "qCreated")
	m.counter("queues_secured", "Secured queues", "qSecured")
	m.head("queues_deleted", "counter", "Deleted queues: all, those that were not secured, and those that were")
	m.count(`type="all"`, "qDeletedAll")
	m.count(`type="new"`, "qDeletedNew")
	m.count(`type="secured"`, "qDeletedSecured")
	m.counter("queues_blocked", "Queues blocked by the operator", "qBlocked")
	m.counter("queues_deleted_batch", "Blocks with several commands to delete queues", "qDeletedAllB")
	m.gauge("queues_total1", "Stored queues", r.Stored.Queues)
	m.gauge("queues_total2", "Stored queues", r.Stored.Queues)
	for p, name := range []string{router.Day: "daily", router.Week: "weekly", router.Month: "monthly"} {
		m.gauge("queues_"+name, "Queues with messages sent or received, "+name, r.Active[p])
		m.gauge("queues_notify_"+name, "Queues with messages to notify of sent or received, "+name, r.ActiveNtf[p])
	}
}

func (m *metrics) subscriptions() {
	m.counter("subscribtion_successes", "Subscriptions to queues with messages", "qSub")
	m.counter("subscribtion_successes_batch", "Blocks with several subscriptions", "qSubAllB")
	m.counter("subscribtion_end", "Subscriptions that others have ended", "qSubEnd")
	m.counter("subscribtion_end_batch", "Blocks that say that subscriptions have ended", "qSubEndB")
	m.head("subscribtion_errors", "counter", "Subscriptions that were refused, or repeated")
	m.count(`type="auth"`, "qSubAuth")
	m.count(`type="duplicate"`, "qSubDuplicate")
	m.count(`type="prohibited"`, "qSubProhibited")
}

func (m *metrics) messages() {
	m.counter("messages_sent", "Messages sent", "msgSent")
	m.head("messages_sent_errors", "counter", "Messages that were refused")
	m.count(`type="auth"`, "msgSentAuth")
	m.count(`type="quota"`, "msgSentQuota")
	m.count(`type="large"`, "msgSentLarge")
	m.count(`type="block"`, "msgSentBlock")
	m.counter("messages_received", "Messages acknowledged by recipients", "msgRecv")
	m.counter("messages_expired", "Messages that were too old", "msgExpired")
	m.gauge("messages_total", "Stored messages", m.report.Messages)
	m.counter("messages_notify_sent", "Messages sent of which to notify", "msgSentNtf")
	m.counter("messages_notify_received", "Messages acknowledged of which to notify", "msgRecvNtf")
	m.counter("messages_notify_get_sent", "Messages delivered by GET", "msgGet")
	m.counter("messages_notify_get_received", "Messages acknowledged that were delivered by GET", "msgRecvGet")
	m.head("messages_notify_get_errors", "counter", "GET without message, refused, or repeated")
	m.count(`type="nomsg"`, "msgGetNoMsg")
	m.count(`type="auth"`, "msgGetAuth")
	m.count(`type="duplicate"`, "msgGetDuplicate")
	m.count(`type="prohibited"`, "msgGetProhibited")
}

func (m *metrics) notifications() {
	m.counter("queues_notify_created", "Notifiers added to queues", "ntfCreated")
	m.counter("queues_notify_new_created", "Queues created with a notifier", "ntfNewCreated")
	m.counter("queues_notify_deleted", "Notifiers removed from queues", "ntfDeleted")
	m.counter("queues_notify_deleted_batch", "Blocks with several commands to remove notifiers", "ntfDeletedB")
	m.gauge("queues_notify_total1", "Notifications that wait for their notifiers", m.report.Notifications)
	m.gauge("queues_notify_total2", "Stored notifiers", m.report.Stored.Notifiers)
	m.counter("messages_ntf_successes", "Notifications delivered", "msgNtfs")
	m.counter("messages_ntf_successes_batch", "Blocks with notifications", "msgNtfsB")
	m.head("messages_ntf_errors", "counter", "Notifications that were not delivered")
	m.count(`type="nosub"`, "msgNtfNoSub")
	m.count(`type="lost"`, "msgNtfLost")
	m.count(`type="expired"`, "msgNtfExpired")
	m.counter("subscription_ntf_requests", "Subscriptions of notifiers", "ntfSub")
	m.counter("subscription_ntf_requests_batch", "Blocks with several subscriptions of notifiers", "ntfSubB")
	m.head("subscribtion_ntf_errors", "counter", "Subscriptions of notifiers that were refused, or repeated")
	m.count(`type="auth"`, "ntfSubAuth")
	m.count(`type="duplicate"`, "ntfSubDuplicate")
}

func (m *metrics) relays() {
	for _, g := range []struct{ name, what, all, own string }{
		{"relay_sessions", "Connections to other routers", "pRelays", "pRelaysOwn"},
		{"relay_messages", "Commands forwarded to other routers", "pMsgFwds", "pMsgFwdsOwn"},
	} {
		sources := []struct{ label, group string }{{`source="all"`, g.all}, {`source="own"`, g.own}}
		for _, field := range []string{"requests", "successes"} {
			m.head(g.name+"_"+field, "counter", g.what+", "+field)
			for _, source := range sources {
				m.count(source.label, source.group+"."+field)
			}
		}
		m.head(g.name+"_errors", "counter", g.what+", errors")
		for _, source := range sources {
			m.count(source.label+`,type="connect"`, source.group+".errorsConnect")
			m.count(source.label+`,type="compat"`, source.group+".errorsCompat")
			m.count(source.label+`,type="other"`, source.group+".errorsOther")
		}
	}
	m.counter("relay_messages_received", "Commands that other routers have forwarded", "pMsgFwdsRecv")
}

func (m *metrics) services(name, group string, stored, queues int64) {
	what := map[string]string{"rcv": "receiving services", "ntf": "notifier services"}[name]
	name += "_services_"
	m.gauge(name+"count", "Stored "+what, stored)
	m.gauge(name+"queues_count", "Queues of "+what, queues)
	for _, c := range []struct{ name, kind, help, counter string }{
		{"assoc_new", "counter", "Queues associated with %s", "assocNew"},
		{"assoc_duplicate", "counter", "Queues associated again with %s", "assocDuplicate"},
		{"assoc_updated", "counter", "Queues that have changed to others of the %s", "assocUpdated"},
		{"assoc_removed", "counter", "Queues that have left %s", "assocRemoved"},
		{"sub_count", "counter", "Subscriptions of %s", "subCount"},
		{"sub_duplicate", "counter", "Subscriptions of %s, repeated", "subDuplicate"},
		{"sub_queues", "gauge", "Queues to which %s have subscribed", "subQueues"},
		{"sub_end", "gauge", "Subscriptions of %s that have ended", "subEnd"},
		{"sub_ok", "gauge", "Subscriptions of %s that knew their queues", "subOk"},
		{"sub_more", "gauge", "Subscriptions of %s with more queues than they knew", "subMore"},
		{"sub_fewer", "gauge", "Subscriptions of %s with fewer queues than they knew", "subFewer"},
		{"sub_diff", "gauge", "Subscriptions of %s with other queues than they knew", "subDiff"},
		{"sub_more_total", "gauge", "Queues that %s did not know of", "subMoreTotal"},
		{"sub_fewer_total", "gauge", "Queues that %s have not any more", "subFewerTotal"},
	} {
		m.head(name+c.name, c.kind, fmt.Sprintf(c.help, what))
		m.count("", group+"."+c.counter)
	}
}

var escapeLabel = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func (m *metrics) process(version, rtsOptions string, state *router.State) {
	m.head("info", "gauge", "The router")
	fmt.Fprintf(&m.text, "%s{version=\"%s\",rts_options=\"%s\"} 1\n", m.name, escapeLabel.Replace(version), escapeLabel.Replace(rtsOptions))
	for _, c := range []struct {
		name, help string
		of         func(router.Sockets) int64
	}{
		{"accepted", "Connections accepted", func(s router.Sockets) int64 { return s.Accepted }},
		{"closed", "Connections closed", func(s router.Sockets) int64 { return s.Closed }},
		{"active", "Connections open", router.Sockets.Active},
		{"leaked", "Connections lost track of, of which there are none", func(router.Sockets) int64 { return 0 }},
	} {
		m.head("sockets_"+c.name, "gauge", c.help)
		for _, s := range state.Sockets {
			m.value(fmt.Sprintf(`port="%d"`, s.Port), c.of(s))
		}
	}
	m.gauge("threads_total", "Goroutines", int64(runtime.NumGoroutine()))
	m.gauge("clients_total", "Clients connected", state.Clients)
}

// ageGroups are the labels of groups of ages.
var ageGroups = [router.AgeGroups]string{`period="0-60"`, `period="60-300"`, `period="300-1200"`, `period="1200-3600"`, `period="3600+"`}

func (m *metrics) deliveries(p *router.Pending, times *router.AckTimes) {
	m.gauge("delivered_total", "Messages delivered and not acknowledged", p.Messages)
	m.gauge("delivered_clients_total", "Clients with messages that they have not acknowledged", p.Clients)
	m.head("delivery_ack_confirmed_time", "histogram", "Seconds until messages were acknowledged")
	sum := times.Sum()
	total, last := int64(0), int64(0)
	var groups [router.AgeGroups]int64
	for longest, n := range times.All() {
		groups[router.AgeGroup(longest)] += n
		if longest == math.MaxInt64 {
			total += n
			break
		}
		if total > 0 && longest-last > widestGap {
			m.bucket(longest-widestGap, total)
		}
		total += n
		last = longest
		m.bucket(longest, total)
	}
	m.sample("_bucket", `le="+Inf"`, total)
	m.sample("_sum", "", sum)
	m.sample("_count", "", total)
	m.head("delivery_ack_confirmed_count", "counter", "Messages acknowledged, by the seconds that it took")
	for i, label := range ageGroups {
		m.value(label, groups[i])
	}
	m.head("delivery_ack_pending_count", "gauge", "Messages delivered and not acknowledged, by seconds since then")
	for i, label := range ageGroups {
		m.value(label, p.Ages[i])
	}
	m.gauge("delivery_ack_time_max", "Seconds since the oldest delivery that is not acknowledged", p.Oldest)
}

// widestGap is how many seconds may be between two buckets before there is one more in
// between, so that quantiles are not found where nothing is.
const widestGap = 60

func (m *metrics) bucket(longest, total int64) {
	m.sample("_bucket", fmt.Sprintf(`le="%d"`, longest), total)
}

func (m *metrics) registries(state *router.State) {
	rcv, ntf := &state.Recipient, &state.Notifier
	m.gauge("subscribtion_total", "Subscriptions to queues", rcv.Queues)
	m.gauge("subscribtion_clients_total", "Clients that are subscribed to queues", int64(len(rcv.AllClients)))
	m.gauge("subscribtion_services_total", "Receiving services that are subscribed", rcv.Services)
	m.gauge("subscribtion_service_subs_total", "Queues to which receiving services are subscribed", rcv.ServiceQueues)
	m.gauge("subscription_ntf_total", "Subscriptions of notifiers", ntf.Queues)
	m.gauge("subscription_ntf_clients_total", "Clients that are subscribed as notifiers", int64(len(ntf.AllClients)))
	m.gauge("subscribtion_nts_services_total", "Notifier services that are subscribed", ntf.Services)
	m.gauge("subscription_ntf_service_subs_total", "Notifiers to which services are subscribed", ntf.ServiceQueues)
}
