package stats_test

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/stats"
	"github.com/smpq/smpq/internal/store"
)

// A metric is one in the text format.
type metric struct {
	kind    string
	samples map[string]float64 // by what is behind the name of the metric
	order   []string
}

var (
	metricName   = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	sampleFormat = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)((?:\{[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"(?:,[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*")*\})?) (-?[0-9.e+]+|NaN|[+-]Inf)(?: (-?[0-9]+))?$`)
)

// parseMetrics reads metrics in the text format of Prometheus, as strictly as that is
// defined: all of a metric is together, behind its HELP and TYPE; no sample is there
// twice; the buckets of a histogram are in order and add up.
func parseMetrics(text string) (map[string]*metric, error) {
	if !strings.HasSuffix(text, "\n") {
		return nil, fmt.Errorf("it does not end with the end of a line")
	}
	metrics := make(map[string]*metric)
	name, helped := "", ""
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		wrong := func(what string) error { return fmt.Errorf("line %d: %s: %s", i+1, what, line) }
		words := strings.SplitN(line, " ", 4)
		switch {
		case line == "":
		case words[0] == "#" && len(words) == 4 && words[1] == "HELP":
			if !metricName.MatchString(words[2]) || metrics[words[2]] != nil {
				return nil, wrong("another HELP")
			}
			helped = words[2]
		case words[0] == "#" && len(words) == 4 && words[1] == "TYPE":
			if words[2] != helped || metrics[helped] != nil || !slices.Contains([]string{"counter", "gauge", "histogram"}, words[3]) {
				return nil, wrong("TYPE")
			}
			name = words[2]
			metrics[name] = &metric{kind: words[3], samples: make(map[string]float64)}
		case strings.HasPrefix(line, "#"):
		default:
			parts := sampleFormat.FindStringSubmatch(line)
			if parts == nil {
				return nil, wrong("not a sample")
			}
			m := metrics[name]
			rest, ok := strings.CutPrefix(parts[1], name)
			if m == nil || !ok || m.kind != "histogram" && rest != "" || m.kind == "histogram" && !slices.Contains([]string{"_bucket", "_sum", "_count"}, rest) {
				return nil, wrong("not of this metric")
			}
			v, err := strconv.ParseFloat(parts[3], 64)
			key := rest + parts[2]
			if _, twice := m.samples[key]; twice || err != nil {
				return nil, wrong("the value")
			}
			m.samples[key] = v
			m.order = append(m.order, key)
		}
	}
	for name, m := range metrics {
		if m.kind != "histogram" {
			if len(m.samples) == 0 && !strings.Contains(name, "sockets") {
				return nil, fmt.Errorf("%s has no samples", name)
			}
			continue
		}
		last, total := math.Inf(-1), 0.0
		for _, key := range m.order {
			text, ok := strings.CutPrefix(key, `_bucket{le="`)
			if !ok {
				continue
			}
			le, err := strconv.ParseFloat(strings.TrimSuffix(text, `"}`), 64)
			if err != nil || le <= last || m.samples[key] < total {
				return nil, fmt.Errorf("%s%s is not in order", name, key)
			}
			last, total = le, m.samples[key]
		}
		if !math.IsInf(last, 1) || m.samples["_count"] != total {
			return nil, fmt.Errorf("%s: the buckets have %v, _count is %v", name, total, m.samples["_count"])
		}
	}
	return metrics, nil
}

func metricsOf(t testing.TB, st *stats.Statistics) map[string]*metric {
	t.Helper()
	var b bytes.Buffer
	if err := st.WriteMetrics(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	m, err := parseMetrics(b.String())
	if err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	return m
}

// There are all metrics of smp-server, of the same kinds and with the same labels.
//
// conformance: 180
func TestMetricsOfSMPServer(t *testing.T) {
	s := &source{now: at(t, "2026-11-22T23:59:47Z")}
	s.state.Sockets = []router.Sockets{{Port: 7311, Accepted: 5, Closed: 1}}
	got := metricsOf(t, open(t, s, t.TempDir()))
	var names []string
	for name := range got {
		names = append(names, strings.TrimPrefix(name, "simplex_smp_"))
	}
	slices.Sort(names)
	if diff := cmp.Diff(strings.Fields(readFile(t, "testdata/metrics.txt")), names); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	// Its count of acknowledgements is that of a day, its buckets are not.
	text := strings.Replace(readFile(t, reference+stats.MetricsName), "confirmed_time_count 0", "confirmed_time_count 1", 1)
	want, err := parseMetrics(strings.Replace(text, `{le="+Inf"} 0`, `{le="+Inf"} 1`, 1))
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range want {
		g := got[name]
		if g == nil || g.kind != m.kind {
			t.Errorf("%s: %+v", name, g)
			continue
		}
		for _, key := range m.order {
			if _, ok := g.samples[key]; !ok && key != `_bucket{le="0"}` {
				t.Errorf("there is no %s%s", name, key)
			}
		}
	}
}

// conformance: 180
func TestMetrics(t *testing.T) {
	s := &source{now: at(t, "2026-11-22T23:59:47Z"), messages: 9}
	s.entities = store.Entities{Queues: 1, Notifiers: 2, RcvServices: 3, NtfServices: 4, RcvServiceQueues: 5, NtfServiceQueues: 6}
	s.state = router.State{
		Clients:   11,
		Sockets:   []router.Sockets{{Port: 5223, Accepted: 3, Closed: 1}, {Port: 443, Accepted: 4, Closed: 4}},
		Recipient: router.Subscriptions{Queues: 12, AllClients: []int64{1, 2}, Services: 1, ServiceQueues: 13},
		Notifier:  router.Subscriptions{Queues: 14, AllClients: []int64{3}, Services: 2, ServiceQueues: 15},
		Pending:   router.Pending{Messages: 16, Clients: 17, Ages: [router.AgeGroups]int64{1, 2, 3, 4, 5}, Oldest: 4000},
	}
	c := &s.counters
	c.QBlocked.Add(21)
	c.PMsgFwdsOwn.ErrorsCompat.Add(22)
	c.RcvServices.SubMoreTotal.Add(23)
	c.NtfServices.SubDiff.Add(24)
	c.RcvServicesSubDuplicate.Add(25)
	c.MsgSentLarge.Add(26)
	c.NtfCount.Add(27)
	st := open(t, s, t.TempDir(), func(o *stats.Options) { o.RTSOptions = "a \"b\" \\ c\nd" })
	m := metricsOf(t, st)
	for _, want := range []struct {
		name, labels string
		value        float64
	}{
		{"queues_total1", "", 1},
		{"queues_total2", "", 1},
		{"queues_notify_total2", "", 2},
		{"rcv_services_count", "", 3},
		{"ntf_services_count", "", 4},
		{"rcv_services_queues_count", "", 5},
		{"ntf_services_queues_count", "", 6},
		{"messages_total", "", 9},
		{"clients_total", "", 11},
		{"sockets_accepted", `{port="5223"}`, 3},
		{"sockets_active", `{port="5223"}`, 2},
		{"sockets_closed", `{port="443"}`, 4},
		{"sockets_leaked", `{port="443"}`, 0},
		{"subscribtion_total", "", 12},
		{"subscribtion_clients_total", "", 2},
		{"subscribtion_services_total", "", 1},
		{"subscribtion_service_subs_total", "", 13},
		{"subscription_ntf_total", "", 14},
		{"subscription_ntf_clients_total", "", 1},
		{"subscribtion_nts_services_total", "", 2},
		{"subscription_ntf_service_subs_total", "", 15},
		{"delivered_total", "", 16},
		{"delivered_clients_total", "", 17},
		{"delivery_ack_pending_count", `{period="0-60"}`, 1},
		{"delivery_ack_pending_count", `{period="3600+"}`, 5},
		{"delivery_ack_time_max", "", 4000},
		{"queues_blocked", "", 21},
		{"relay_messages_errors", `{source="own",type="compat"}`, 22},
		{"rcv_services_sub_more_total", "", 23},
		{"ntf_services_sub_diff", "", 24},
		{"rcv_services_sub_duplicate_count", "", 25},
		{"messages_sent_errors", `{type="large"}`, 26},
		{"queues_notify_total1", "", 27},
		{"loaded_queues_queue_count", "", 3},
		{"info", `{version="6.5.5.0",rts_options="a \"b\" \\ c\nd"}`, 1},
	} {
		got := m["simplex_smp_"+want.name]
		if got == nil {
			t.Errorf("there is no %s", want.name)
			continue
		}
		if v, ok := got.samples[want.labels]; !ok || v != want.value {
			t.Errorf("%s%s is %v, %t, not %v", want.name, want.labels, v, ok, want.value)
		}
	}
}

// The file of metrics is complete at any moment.
//
// conformance: 180
func TestMetricsFileIsWhole(t *testing.T) {
	folder := t.TempDir()
	s := &source{now: at(t, "2026-11-22T12:00:00Z")}
	run(t, open(t, s, folder))
	name := filepath.Join(folder, stats.MetricsName)
	seen := make(map[float64]bool)
	eventually(t, "that metrics change", func() bool {
		s.counters.MsgSent.Add(1)
		b, err := os.ReadFile(name)
		if os.IsNotExist(err) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		m, err := parseMetrics(string(b))
		if err != nil || len(m) != 107 {
			t.Fatalf("%d metrics, %v", len(m), err)
		}
		seen[m["simplex_smp_messages_sent"].samples[""]] = true
		return len(seen) > 20
	})
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info, err)
	}
}
