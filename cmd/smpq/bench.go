package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/bench"
	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/smp"
)

// newBench returns the commands that measure.
func newBench(console *cli.Console) *cobra.Command {
	return cli.Group("bench", "Measure a router under load",
		newBenchRouter(console), newBenchSoak(console), newBenchMemory(console), newBenchServe(console))
}

// A benchTarget is the router that is measured: that of an address, or one of its own in
// another process, on a private PostgreSQL.
type benchTarget struct {
	console  *cli.Console
	data     string
	settings []string
	yes      bool

	flags *cobra.Command
}

func (b *benchTarget) addFlags(cmd *cobra.Command) {
	b.flags = cmd
	flags := cmd.Flags()
	flags.StringVar(&b.data, "data", "", "`folder` for the router and its PostgreSQL, which are made if need be and stay there (default: one that is removed)")
	flags.StringArrayVar(&b.settings, "set", nil, "change a `setting` of the router, as for serve")
}

// addRemoteFlags is for commands that also take the address of a router.
func (b *benchTarget) addRemoteFlags(cmd *cobra.Command) {
	b.addFlags(cmd)
	cmd.Flags().BoolVar(&b.yes, "yes", false, "the router of ADDRESS is yours: do not ask")
}

// open returns the router. The process is nil if it has another one; done must be called
// in the end.
func (b *benchTarget) open(ctx context.Context, args []string) (address *smp.RouterAddress, p *routerProcess, done func() error, err error) {
	if len(args) > 0 {
		for _, name := range []string{"data", "set", "profile"} {
			if f := b.flags.Flags().Lookup(name); f != nil && f.Changed {
				return nil, nil, nil, cli.UsageErrorf("--%s is for a router that this command starts: leave it out, or ADDRESS", name)
			}
		}
		if address, err = parseRouter("ADDRESS", args[0]); err != nil {
			return nil, nil, nil, err
		}
		question := fmt.Sprintf("Put as much load on %s as it can bear? Do so only if it is yours.", address)
		if err := b.console.Confirm(ctx, b.yes, question); err != nil {
			return nil, nil, nil, err
		}
		return address, nil, func() error { return nil }, nil
	}
	folder, remove, err := b.folder()
	if err != nil {
		return nil, nil, nil, err
	}
	b.console.Log().LogAttrs(ctx, slog.LevelInfo, "starting a router", slog.String("folder", folder))
	if p, err = startRouter(ctx, folder, b.settings); err != nil {
		return nil, nil, nil, errors.Join(err, remove())
	}
	return p.address, p, func() error { return errors.Join(p.Close(), remove()) }, nil
}

// folder returns the folder for the router, and what removes it.
func (b *benchTarget) folder() (string, func() error, error) {
	if b.flags.Flags().Changed("data") {
		folder, err := filepath.Abs(b.data)
		if err == nil && b.data == "" {
			err = cli.UsageErrorf("--data is empty")
		}
		return folder, func() error { return nil }, err
	}
	// /tmp may be in memory, where a database is faster than it can be.
	within := "/var/tmp"
	if _, err := os.Stat(within); err != nil {
		within = os.TempDir()
	}
	folder, err := os.MkdirTemp(within, "smpq-router-")
	if err != nil {
		return "", nil, err
	}
	remove := func() error { return os.RemoveAll(folder) }
	if err := os.Chmod(folder, 0o755); err != nil { //nolint:gosec // the database may have another user; what is in it has its own modes
		return "", nil, errors.Join(err, remove())
	}
	return folder, remove, nil
}

// A benchLoad is the load that the flags describe.
type benchLoad struct {
	bench.Options
	warmUp, duration time.Duration
}

func (b *benchLoad) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.IntVar(&b.Queues, "queues", b.Queues, "queues of each connection")
	flags.IntVar(&b.Size, "message-size", bench.FullMessage, "`bytes` of each message; clients pad theirs to the default")
	flags.Float64Var(&b.Rate, "rate", b.Rate, "`messages` a second in all, sent when they are due; 0: as many as the router accepts")
	flags.DurationVar(&b.duration, "duration", b.duration, "how long to measure")
	flags.DurationVar(&b.warmUp, "warm-up", b.warmUp, "how long to send before that")
}

// check refuses what cannot be done.
func (b *benchLoad) check(connections ...int) error {
	if b.duration <= 0 || b.warmUp < 0 {
		return cli.UsageErrorf("--duration must be positive, and --warm-up not negative")
	}
	return checkLoad(&b.Options, connections...)
}

func checkLoad(o *bench.Options, connections ...int) error {
	for _, n := range connections {
		o.Connections = n
		if err := o.Validate(); err != nil {
			return cli.UsageErrorf("%w", err)
		}
		if err := checkFiles(n); err != nil {
			return err
		}
	}
	return nil
}

// checkFiles refuses more connections than the process may have files. The limit is
// already raised as far as this process may raise it.
func checkFiles(connections int) error {
	const others = 100 // files
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return nil //nolint:nilerr // then we shall see
	}
	if need := uint64(connections + others); limit.Cur < need { //nolint:gosec // not negative
		return fmt.Errorf("%d connections need %d open files, and %d are allowed (ulimit -Hn)", connections, need, limit.Cur)
	}
	return nil
}

// A benchResult is what was measured.
type benchResult struct {
	Runs []bench.Report `json:"runs"`
}

func newBenchRouter(console *cli.Console) *cobra.Command {
	target := benchTarget{console: console}
	load := benchLoad{Options: bench.Options{Queues: 4}, warmUp: 3 * time.Second, duration: 15 * time.Second}
	var connections []int
	var profile string
	cmd := &cobra.Command{
		Use:   "router [ADDRESS]",
		Short: "Measure how many messages a router handles, and how fast",
		Long: `Measure how many messages a router accepts, delivers and has acknowledged in a
second, and how long these steps take.

Without ADDRESS, a router is started in a process of its own, on a private local
PostgreSQL, and stopped and removed afterwards. It is that of "smpq serve", and
messages are as durable as there. With ADDRESS, which has the identity of the
router, the one at that address is measured: only do that with one of yours.

Each connection sends to the queues of the next one, and acknowledges what comes
for its own. It sends when the router has accepted its last message (closed
loop). With --rate, messages are due at fixed times, and the latency counts from
then on, however late they can be sent (open loop). To a queue one message is
under way at a time.

All queues are deleted in the end. An interrupt ends the measurement early: the
figures so far are printed.`,
		Example: `  smpq bench router
  smpq bench router --connections 100 --rate 500 --duration 1m
  smpq bench router --yes -o json \
    smp://LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI=@smp.example.org`,
		Args: cobra.MaximumNArgs(1),
	}
	out := cli.AddOutputFlag(cmd)
	flags := cmd.Flags()
	flags.IntSliceVar(&connections, "connections", []int{1, 100, 2000}, "number of connections, or several `numbers` with commas between, measured one after another")
	flags.StringVar(&profile, "profile", "", "`folder` for profiles of the router's processor time and memory, of the last measurement")
	load.addFlags(cmd)
	target.addRemoteFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		ctx := cmd.Context()
		if err := load.check(connections...); err != nil {
			return err
		}
		address, process, done, err := target.open(ctx, args)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, done()) }()
		o := bench.RunOptions{Options: load.Options, WarmUp: load.warmUp, Duration: load.duration}
		o.Router = address
		if process != nil {
			o.Process = process
		}
		if profile != "" {
			if process.folder, err = filepath.Abs(profile); err != nil {
				return err
			}
			if err := os.MkdirAll(process.folder, 0o755); err != nil { //nolint:gosec // profiles are no secrets
				return err
			}
			o.Profile = process
		}
		result, err := runBench(ctx, console, o, connections)
		if len(result.Runs) > 0 {
			err = errors.Join(err, out.Write(cmd.OutOrStdout(), result, benchTable(result)))
			if cmd.Flag("output").Value.String() == "table" {
				err = errors.Join(err, plotRuns(cmd.OutOrStdout(), result))
			}
		}
		return err
	}
	return cmd
}

// runBench measures with each number of connections.
func runBench(ctx context.Context, console *cli.Console, o bench.RunOptions, connections []int) (result benchResult, err error) {
	progress := console.Progress()
	defer progress.Close()
	o.Progress = progress
	for _, n := range connections {
		o.Connections = n
		r, err := bench.Run(ctx, o)
		if r.Seconds > 0 {
			result.Runs = append(result.Runs, r)
		}
		if ctx.Err() != nil {
			return result, errors.Join(context.Cause(ctx), err)
		}
		if err = errors.Join(benchFailure(&r), err); err != nil {
			// What it wraps would be taken for an error of the database.
			return result, fmt.Errorf("%d connections: %s", n, err) //nolint:errorlint // as said
		}
	}
	return result, nil
}

// benchFailure returns what went wrong while a router was measured.
func benchFailure(r *bench.Report) error {
	switch {
	case len(r.Errors) > 0:
		return fmt.Errorf("%d times: %s", r.Errors[0].Count, r.Errors[0].What)
	case r.Unfinished > 0:
		return fmt.Errorf("%d messages were not delivered and acknowledged", r.Unfinished)
	}
	return nil
}

// amount prints a figure with as many digits as it means.
func amount(v float64) string {
	digits := 0
	for limit := 100.0; v < limit && digits < 3; limit /= 10 {
		digits++
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

func benchTable(result benchResult) cli.Table {
	t := cli.Table{Columns: []string{"connections", "step", "per_second", "p50_ms", "p99_ms", "p999_ms", "max_ms"}}
	for _, r := range result.Runs {
		for _, s := range r.Steps {
			t.Add(strconv.Itoa(r.Connections), s.Name, amount(s.PerSecond),
				amount(s.P50), amount(s.P99), amount(s.P999), amount(s.Max))
		}
	}
	return t
}

// plotRuns prints how the latencies of each run are distributed: the steps beside each
// other, in 80 columns.
func plotRuns(w io.Writer, result benchResult) error {
	var b strings.Builder
	for i := range result.Runs {
		r := &result.Runs[i]
		fmt.Fprintf(&b, "\n%s with %s each, messages of %d bytes, %s", count(int64(r.Connections), "connection"), count(int64(r.Queues), "queue"), r.MessageSize, loop(r))
		fmt.Fprintf(&b, "\n%s in %.1f s", count(r.Steps[0].Count, "message"), r.Seconds)
		if n := r.Steps[0].Count; n > 0 && r.CPU > 0 {
			fmt.Fprintf(&b, ", %s ms of the router's processor time for each", amount(1000*r.CPU/float64(n)))
		}
		if r.Behind > 0 {
			fmt.Fprintf(&b, "\n%s due and not sent: this is more than router or load can bear", count(r.Behind, "message"))
		}
		b.WriteString("\n\n")
		plot(&b, r.Steps)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func loop(r *bench.Report) string {
	if r.Rate > 0 {
		return "open loop, " + amount(r.Rate) + " a second due"
	}
	return "closed loop"
}

func count(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// plot draws the histograms of steps beside each other.
func plot(b *strings.Builder, steps []bench.Step) {
	const width = 21 // of the bar of a step
	var limits []float64
	for _, s := range steps {
		for _, bucket := range s.Histogram {
			if !slices.Contains(limits, bucket.UpTo) {
				limits = append(limits, bucket.UpTo)
			}
		}
	}
	slices.Sort(limits)
	row := func(first string, cell func(*bench.Step) string) {
		var line strings.Builder
		fmt.Fprintf(&line, "%10s", first)
		for i := range steps {
			fmt.Fprintf(&line, "  %-*s", width, cell(&steps[i]))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	row("up to", func(s *bench.Step) string { return s.Name })
	for _, limit := range limits {
		row(fmt.Sprintf("%g ms", limit), func(s *bench.Step) string { return bar(s, limit, width) })
	}
}

// bar shows which part of the latencies is in a bucket. A single one still shows.
func bar(s *bench.Step, limit float64, width int) string {
	for _, bucket := range s.Histogram {
		if bucket.UpTo == limit && bucket.Count > 0 {
			part := float64(bucket.Count) / float64(s.Count)
			return strings.Repeat("#", max(int(part*float64(width-5)), 1)) + fmt.Sprintf(" %.0f%%", 100*part)
		}
	}
	return ""
}

func newBenchSoak(console *cli.Console) *cobra.Command {
	target := benchTarget{console: console}
	load := benchLoad{Options: bench.Options{Queues: 25, Rate: 200}, warmUp: time.Minute, duration: 10 * time.Minute}
	var connections int
	var interval time.Duration
	cmd := &cobra.Command{
		Use:   "soak [ADDRESS]",
		Short: "Look for what gets worse under lasting load",
		Long: `Put load on a router for a long time, and look for errors, for memory and
goroutines that grow, and for latencies that do.

The router is started as by "smpq bench router", which explains the load. With
ADDRESS, its latencies and errors are seen, not its memory.

After the warm-up, the first third of the time is compared with the last. The
exit status is 1 if there was an error, or if something grew beyond its limit.`,
		Example: `  smpq bench soak
  smpq bench soak --connections 100 --queues 10 --warm-up 10s --duration 2m`,
		Args: cobra.MaximumNArgs(1),
	}
	out := cli.AddOutputFlag(cmd)
	flags := cmd.Flags()
	flags.IntVar(&connections, "connections", 2000, "number of connections")
	flags.DurationVar(&interval, "interval", 10*time.Second, "how often to report, and how much time to compare")
	load.addFlags(cmd)
	target.addRemoteFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		ctx := cmd.Context()
		if interval <= 0 {
			return cli.UsageErrorf("--interval must be positive")
		}
		if err := load.check(connections); err != nil {
			return err
		}
		address, process, done, err := target.open(ctx, args)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, done()) }()
		o := bench.SoakOptions{RunOptions: bench.RunOptions{Options: load.Options, WarmUp: load.warmUp, Duration: load.duration}, Interval: interval}
		o.Router = address
		if process != nil {
			o.Process = process
		}
		o.Report = func(p bench.Point) { logPoint(ctx, console.Log(), p) }
		progress := console.Progress()
		defer progress.Close()
		o.Progress = progress
		r, err := bench.Soak(ctx, o)
		progress.Close()
		if len(r.Points) > 0 {
			err = errors.Join(err, out.Write(cmd.OutOrStdout(), r, soakTable(&r)))
		}
		switch {
		case ctx.Err() != nil:
			return errors.Join(context.Cause(ctx), err)
		case err == nil && len(r.Failures) > 0:
			return errors.New(strings.Join(r.Failures, "; "))
		}
		return err
	}
	return cmd
}

func logPoint(ctx context.Context, log *slog.Logger, p bench.Point) {
	attrs := []slog.Attr{
		slog.Float64("seconds", p.Time), slog.Float64("sends_per_second", p.PerSecond),
		slog.Float64("send_p99_ms", p.Send), slog.Float64("deliver_p99_ms", p.Deliver), slog.Int64("errors", p.Errors),
	}
	if s := p.Process; s != nil {
		attrs = append(attrs, slog.Int64("goroutines", s.Goroutines), slog.String("heap", cli.FormatBytes(s.Heap)),
			slog.String("rss", cli.FormatBytes(s.RSS)), slog.Float64("cpu_seconds", s.CPU))
	}
	log.LogAttrs(ctx, slog.LevelInfo, "soak", attrs...)
}

func soakTable(r *bench.SoakReport) cli.Table {
	t := pairs{}
	t.add("router", r.Router)
	t.number("connections", int64(r.Connections))
	t.number("subscriptions", int64(r.Subscriptions))
	t.add("measured", fmt.Sprintf("%.1f s after %.1f s of warm-up", r.Seconds, r.WarmUp))
	t.number("messages", r.Messages)
	for _, s := range r.Steps {
		t.add("  "+s.Name, fmt.Sprintf("p50 %s ms, p99 %s ms, max %s ms", amount(s.P50), amount(s.P99), amount(s.Max)))
	}
	for _, c := range r.Changes {
		verdict := "good"
		if !c.OK {
			verdict = "above " + amount(c.Limit)
		}
		t.add(strings.ReplaceAll(c.What, "_", " "), fmt.Sprintf("%s, then %s: %s", amount(c.First), amount(c.Last), verdict))
	}
	t.number("due and not sent", r.Behind)
	t.number("unfinished", int64(r.Unfinished))
	var failed int64
	for _, e := range r.Errors {
		failed += e.Count
		t.add("error", fmt.Sprintf("%d times: %s", e.Count, e.What))
	}
	t.number("errors", failed)
	return t.table()
}

func newBenchMemory(console *cli.Console) *cobra.Command {
	target := benchTarget{console: console}
	o := bench.MemoryOptions{Options: bench.Options{Connections: 1000, Queues: 51}}
	cmd := &cobra.Command{
		Use:   "memory",
		Short: "Measure the memory of a router for each connection",
		Long: `Measure how much memory a router's process needs for each connection that is
subscribed to a queue, has sent and received a message, and is idle; for each
queue that it keeps in memory; and for each subscription. The router is started
as by "smpq bench router".`,
		Example: `  smpq bench memory
  smpq bench memory --connections 2000 --queues 26 -o json`,
		Args: cobra.NoArgs,
	}
	out := cli.AddOutputFlag(cmd)
	flags := cmd.Flags()
	flags.IntVar(&o.Connections, "connections", o.Connections, "number of connections")
	flags.IntVar(&o.Queues, "queues", o.Queues, "queues of each connection")
	flags.DurationVar(&o.Settle, "settle", 2*time.Second, "how long connections are idle before memory is measured")
	target.addFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		ctx := cmd.Context()
		o.Size = bench.FullMessage
		if err := checkLoad(&o.Options, o.Connections); err != nil {
			return err
		}
		address, process, done, err := target.open(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, done()) }()
		progress := console.Progress()
		defer progress.Close()
		o.Router, o.Process, o.Progress = address, process, progress
		r, err := bench.Memory(ctx, o)
		progress.Close()
		if err != nil {
			return err
		}
		return out.Write(cmd.OutOrStdout(), r, memoryTable(&r))
	}
	return cmd
}

func memoryTable(r *bench.MemoryReport) cli.Table {
	t := pairs{}
	t.number("connections", int64(r.Connections))
	t.number("subscriptions", int64(r.Subscriptions))
	for _, s := range r.Stages {
		t.add(s.Name, fmt.Sprintf("%s, in use %s as heap and %s as stacks of %d goroutines",
			cli.FormatBytes(s.Process.RSS), cli.FormatBytes(s.Process.Heap), cli.FormatBytes(s.Process.Stacks), s.Process.Goroutines))
		if s.Units > 0 {
			t.add("  each "+s.Unit, fmt.Sprintf("%s, in use %s and %s", cli.FormatBytes(s.RSS), cli.FormatBytes(s.Heap), cli.FormatBytes(s.Stacks)))
		}
	}
	return t.table()
}
