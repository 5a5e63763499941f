package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/gen"
)

// newGen returns the commands that make data for tests and benchmarks.
func newGen(console *cli.Console) *cobra.Command {
	cmd := cli.Group("gen", "Generate synthetic data", newGenStoreLog(console))
	cmd.Hidden = true
	return cmd
}

func newGenStoreLog(console *cli.Console) *cobra.Command {
	o := gen.Options{Queues: 1000, Seed: 1, LinkBytes: gen.RealLinkBytes}
	var force bool
	cmd := &cobra.Command{
		Use:   "storelog FILE|-",
		Short: "Generate a store log",
		Long: `Generate a store log with the mix of records of a real router: about 3.3 lines
for each queue. The same flags give the same bytes.

A tenth of the queues has a short link. With the data that present clients store
under one (the default of --link-bytes) a queue takes about 3.3 kB of log, with
--link-bytes 100 about 0.5 kB.`,
		Example: `  smpq gen storelog --queues 1000000 --link-bytes 100 store.log
  smpq gen storelog --bad-lines 0.001 --torn - | smpq inspect log -`,
		Args: cobra.ExactArgs(1),
	}
	flags := cmd.Flags()
	flags.Int64Var(&o.Queues, "queues", o.Queues, "number of queues that are created; a tenth is deleted again")
	flags.Uint64Var(&o.Seed, "seed", o.Seed, "chooses one of the logs that are alike in all else")
	flags.IntVar(&o.LinkBytes, "link-bytes", o.LinkBytes, "bytes of data of each link")
	flags.Float64Var(&o.BadLines, "bad-lines", 0, "share of lines that a reader rejects, for example 0.001")
	flags.BoolVar(&o.Torn, "torn", false, "add a last line that was cut off")
	flags.BoolVar(&force, "force", false, "overwrite FILE")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		stats, err := generate(ctx, console, args[0], force, cmd.OutOrStdout(), o)
		if err != nil {
			return err
		}
		console.Log().LogAttrs(ctx, slog.LevelInfo, "store log generated",
			slog.Int64("lines", stats.Lines),
			slog.String("size", cli.FormatBytes(stats.Bytes)),
			slog.Int64("live_queues", stats.Queues),
			slog.Int64("malformed", stats.Malformed),
			slog.Int64("refused", stats.Refused),
			slog.Int64("late", stats.Late))
		return nil
	}
	return cmd
}

// generate writes a log to a file, or to stdout for "-". A file that could not
// be completed is removed.
func generate(ctx context.Context, console *cli.Console, name string, force bool, stdout io.Writer, o gen.Options) (stats gen.Stats, err error) {
	progress := console.Progress()
	defer progress.Close()
	progress.Phase("generate "+name, 0, cli.Bytes)
	w := &watchedWriter{ctx: ctx, w: stdout, written: progress.Add}
	if name == "-" {
		return gen.Write(w, o)
	}
	how := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if !force {
		how |= os.O_EXCL
	}
	f, err := os.OpenFile(name, how, 0o600) //nolint:gosec // the user names the file
	if errors.Is(err, os.ErrExist) {
		return stats, fmt.Errorf("%s exists: say --force to overwrite it", name)
	}
	if err != nil {
		return stats, fmt.Errorf("generate store log: %w", err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(name))
		}
	}()
	w.w = f
	return gen.Write(w, o)
}

// A watchedWriter tells how much is written, and fails when its context ends.
type watchedWriter struct {
	ctx     context.Context //nolint:containedctx // a writer has no other way to get one
	w       io.Writer
	written func(n int64)
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	n, err := w.w.Write(p)
	w.written(int64(n))
	return n, err
}
