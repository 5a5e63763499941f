package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/probe"
	"github.com/smpq/smpq/internal/smp"
)

// maxProbes is how often a router can be probed by one command, all of whose
// results are in memory.
const maxProbes = 10000

func newProbe(console *cli.Console) *cobra.Command {
	p := probeCommand{limits: probeLimits{
		slow: probeLimit[time.Duration]{time.Second, 5 * time.Second},
		cert: probeLimit[certLimit]{certLimit{cli.Duration(30 * day)}, certLimit{cli.Duration(7 * day)}},
	}}
	cmd := &cobra.Command{
		Use:   "probe ADDRESS",
		Short: "Look at a router from outside: send a message through it",
		Long: `Look at a router from outside, as clients do: resolve its name, connect, check
that it is the router of the address, create a queue, secure it, send a message,
receive and acknowledge it, delete the queue. Each step is timed. With --proxy,
the message goes by another router, as with private routing.

A password for creating queues is taken from the address, for forwarding from
that of the proxy. The exit status is 1 if a step fails.

With --check, one line is printed, as monitoring systems such as Nagios expect
it, and the exit status is 0 if all is well, 1 if the probe is slow or the
certificate expires soon, 2 if a step fails or a critical limit is passed.`,
		Example: `  smpq probe smp://LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI=@smp.example.org
  smpq probe --count 60 --interval 1m -o json smp://…@smp.example.org
  smpq probe --check --warning 500ms smp://…@smp.example.org
  smpq probe --proxy smp://…@smp8.example.org smp://…@smp.example.org`,
		Args: cobra.ExactArgs(1),
	}
	out := cli.AddOutputFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&p.proxy, "proxy", "", "send through the router with this `address`")
	flags.StringVar(&p.socks, "socks", "", "reach onion hosts by the SOCKS server at `host:port`, such as 127.0.0.1:9050")
	flags.DurationVar(&p.timeout, "timeout", 15*time.Second, "how long a step may take")
	flags.IntVar(&p.count, "count", 1, "probe `n` times")
	flags.DurationVar(&p.interval, "interval", 10*time.Second, "pause between probes")
	flags.BoolVar(&p.check, "check", false, "print one line for a monitoring system")
	flags.DurationVar(&p.limits.slow.warning, "warning", p.limits.slow.warning, "with --check: slow, if all takes longer")
	flags.DurationVar(&p.limits.slow.critical, "critical", p.limits.slow.critical, "with --check: critical, if all takes longer")
	flags.Var(&p.limits.cert.warning, "cert-warning", "with --check: warn if the certificate expires in less")
	flags.Var(&p.limits.cert.critical, "cert-critical", "with --check: critical, if the certificate expires in less")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := p.parse(cmd, args[0]); err != nil {
			return err
		}
		r, err := p.run(cmd.Context(), console)
		if p.check && err == nil {
			return writeCheck(cmd.OutOrStdout(), r, p.limits)
		}
		if len(r.Probes) > 0 {
			err = errors.Join(err, out.Write(cmd.OutOrStdout(), r, probeTable(r)))
		}
		if err == nil && r.Failed > 0 {
			err = p.lastFailure(r)
		}
		return err
	}
	return cmd
}

const day = 24 * time.Hour

// probeCommand is what the flags of the command say.
type probeCommand struct {
	proxy, socks      string
	timeout, interval time.Duration
	count             int
	check             bool
	limits            probeLimits

	options probe.Options
}

// probeLimits are the limits for monitoring.
type probeLimits struct {
	slow probeLimit[time.Duration]
	cert probeLimit[certLimit]
}

// A certLimit is how long a certificate should hold at least.
type certLimit struct{ cli.Duration }

func (l *certLimit) seconds() int64 { return int64(time.Duration(l.Duration) / time.Second) }

type probeLimit[T any] struct{ warning, critical T }

func (p *probeCommand) parse(cmd *cobra.Command, address string) (err error) {
	switch {
	case p.count < 1 || p.count > maxProbes:
		return cli.UsageErrorf("--count %d: want 1 to %d", p.count, maxProbes)
	case p.interval < 0:
		return cli.UsageErrorf("--interval %s: must not be negative", p.interval)
	case p.timeout <= 0:
		return cli.UsageErrorf("--timeout %s: must be positive", p.timeout)
	case p.limits.slow.warning > p.limits.slow.critical:
		return cli.UsageErrorf("--warning %s is above --critical %s", p.limits.slow.warning, p.limits.slow.critical)
	case p.limits.cert.warning.Duration < p.limits.cert.critical.Duration:
		return cli.UsageErrorf("--cert-warning %s is below --cert-critical %s", &p.limits.cert.warning, &p.limits.cert.critical)
	case p.check && cmd.Flags().Changed("output"):
		return cli.UsageErrorf("--check has a form of its own: leave out --output")
	}
	p.options = probe.Options{Socks: p.socks, Timeout: p.timeout}
	if p.options.Router, err = parseRouter("ADDRESS", address); err != nil {
		return err
	}
	if p.proxy != "" {
		p.options.Proxy, err = parseRouter("--proxy", p.proxy)
	}
	return err
}

// parseRouter reads the address of a router. Errors do not repeat it.
func parseRouter(what, text string) (*smp.RouterAddress, error) {
	a, err := smp.ParseRouterAddress(text)
	if err != nil {
		return nil, cli.UsageErrorf("%s: %w", what, err)
	}
	return a, nil
}

// A probeResult is what probes found.
type probeResult struct {
	Probes []probe.Report `json:"probes"` // in the order of time
	Failed int            `json:"failed"`
	Times  *probeTimes    `json:"times,omitempty"` // of those that did not fail; nil: none
}

// probeTimes are seconds.
type probeTimes struct {
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	Max    float64 `json:"max"`
}

// run probes as often as it should. When it is interrupted, the result has what is
// complete.
func (p *probeCommand) run(ctx context.Context, console *cli.Console) (r probeResult, err error) {
	var times []float64
	for i := range p.count {
		if i > 0 {
			select {
			case <-time.After(p.interval):
			case <-ctx.Done():
			}
		}
		if err = ctx.Err(); err != nil {
			break
		}
		report := probe.Run(ctx, p.options)
		if err = ctx.Err(); err != nil {
			break
		}
		r.Probes = append(r.Probes, report)
		if report.Failure != nil {
			r.Failed++
		} else {
			times = append(times, report.Seconds)
		}
		if p.count > 1 {
			logProbe(ctx, console.Log(), i, &report)
		}
	}
	if n := len(times); n > 0 {
		slices.Sort(times)
		r.Times = &probeTimes{times[0], (times[(n-1)/2] + times[n/2]) / 2, times[n-1]}
	}
	return r, err
}

func logProbe(ctx context.Context, log *slog.Logger, i int, r *probe.Report) {
	attrs := []slog.Attr{slog.Int("n", i+1), slog.String("time", stepTime(r.Seconds))}
	level, text := slog.LevelInfo, "probe"
	if f := r.Failure; f != nil {
		level, text = slog.LevelWarn, "probe failed"
		attrs = append(attrs, slog.String("step", f.Step), slog.String("kind", string(f.Kind)), slog.String("reason", f.Reason))
	}
	log.LogAttrs(ctx, level, text, attrs...)
}

// lastFailure returns the error for probes some of which failed.
func (p *probeCommand) lastFailure(r probeResult) error {
	for _, report := range slices.Backward(r.Probes) {
		if f := report.Failure; f != nil {
			err := fmt.Errorf("%s failed (%s): %s", f.Step, f.Kind, f.Reason)
			if f.Kind == probe.Authorization && f.Step == probe.Create && p.options.Router.Password.IsZero() {
				err = fmt.Errorf("%w: the router may want a password, and its address has none", err)
			}
			if len(r.Probes) > 1 {
				err = fmt.Errorf("%d of %d probes failed, the last: %w", r.Failed, len(r.Probes), err)
			}
			return err
		}
	}
	return nil
}

func stepTime(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(10 * time.Microsecond).String()
}

// probeTable shows the last probe, and the times of all.
func probeTable(r probeResult) cli.Table {
	t := pairs{}
	last := r.Probes[len(r.Probes)-1]
	t.add("router", last.Router)
	if last.Proxy != "" {
		t.add("proxy", last.Proxy)
	}
	for _, a := range last.Addresses {
		t.add("address", a)
	}
	if last.Remote != "" {
		t.add("connected to", last.Remote)
	}
	if s := last.Session; s != nil {
		t.add("protocol", fmt.Sprintf("version %d (the router speaks %s)", s.Version, s.Versions))
		t.add("TLS", strings.Join([]string{s.TLS, s.CipherSuite, s.Group, s.ALPN}, ", "))
	}
	for i, c := range last.Certificates {
		name := "certificate"
		if i > 0 {
			name = "  issued by"
		}
		t.add(name, fmt.Sprintf("%s, %s, until %s", c.Subject, c.Key, c.NotAfter.Format(time.DateOnly)))
	}
	for _, s := range last.Steps {
		text := stepTime(s.Seconds)
		if f := last.Failure; f != nil && f.Step == s.Name {
			text += ", failed (" + string(f.Kind) + ")"
		}
		t.add(s.Name, text)
	}
	t.add("all steps", stepTime(last.Seconds))
	if len(r.Probes) > 1 {
		t.number("probes", int64(len(r.Probes)))
		t.number("  failed", int64(r.Failed))
		if r.Times != nil {
			t.add("  fastest", stepTime(r.Times.Min))
			t.add("  median", stepTime(r.Times.Median))
			t.add("  slowest", stepTime(r.Times.Max))
		}
	}
	return t.table()
}

// The states of a service, with the exit status for each (Nagios plugin API).
var checkStates = [...]string{"OK", "WARNING", "CRITICAL"}

// writeCheck prints the line that monitoring systems expect: the state, why, and
// figures. Of several probes the worst counts.
func writeCheck(w io.Writer, r probeResult, limits probeLimits) error {
	state, text, worst := -1, "", r.Probes[0]
	for _, report := range r.Probes {
		if s, why := limits.judge(&report); s > state || s == state && report.Seconds > worst.Seconds {
			state, text, worst = s, why, report
		}
	}
	var figures strings.Builder
	fmt.Fprintf(&figures, "total=%.4fs;%g;%g", worst.Seconds, limits.slow.warning.Seconds(), limits.slow.critical.Seconds())
	for _, s := range worst.Steps {
		fmt.Fprintf(&figures, " '%s'=%.4fs", s.Name, s.Seconds)
	}
	if left, ok := certificateLeft(&worst); ok {
		fmt.Fprintf(&figures, " certificate=%ds;%d:;%d:", left, limits.cert.warning.seconds(), limits.cert.critical.seconds())
	}
	// What follows a bar is taken for figures.
	text = strings.NewReplacer("|", "/", "\n", "; ").Replace(text)
	if _, err := fmt.Fprintf(w, "SMP %s - %s | %s\n", checkStates[state], text, &figures); err != nil {
		return err
	}
	if state == 0 {
		return nil
	}
	return cli.Status(state)
}

// judge returns the state that a probe stands for, and why.
func (l *probeLimits) judge(r *probe.Report) (state int, why string) {
	if f := r.Failure; f != nil {
		return 2, fmt.Sprintf("%s failed (%s): %s", f.Step, f.Kind, f.Reason)
	}
	texts := []string{fmt.Sprintf("version %d, all steps in %s", r.Session.Version, stepTime(r.Seconds))}
	slow := level(time.Duration(r.Seconds*float64(time.Second)), l.slow.warning, l.slow.critical)
	soon := 0
	if left, ok := certificateLeft(r); ok {
		soon = level(-left, -l.cert.warning.seconds(), -l.cert.critical.seconds())
		texts = append(texts, fmt.Sprintf("certificate expires in %d days", left/int64(day/time.Second)))
	}
	return max(slow, soon), strings.Join(texts, ", ")
}

// level returns 2 above the critical limit, 1 above the other one, else 0.
func level[T cmp.Ordered](value, warning, critical T) int {
	switch {
	case value > critical:
		return 2
	case value > warning:
		return 1
	}
	return 0
}

// certificateLeft returns how many seconds the first certificate to expire holds.
// Routers have some for so many centuries that no [time.Duration] has room for them.
func certificateLeft(r *probe.Report) (left int64, ok bool) {
	for i, c := range r.Certificates {
		if l := c.NotAfter.Unix() - r.At.Unix(); i == 0 || l < left {
			left, ok = l, true
		}
	}
	return left, ok
}
