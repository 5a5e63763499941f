package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/compact"
)

// safeTTL is the shortest deleted TTL that needs no consent. The database knows
// only the day of a delete, and who means days may have written seconds, as in
// db_deleted_ttl of smp-server.ini.
const safeTTL = 24 * time.Hour

func newCompact(console *cli.Console) *cobra.Command {
	var (
		ttl     = cli.Duration(21 * 24 * time.Hour)
		pause   cli.Duration
		maxTime cli.Duration
		o       = compact.QueueOptions{Batch: compact.DefaultBatch}
		yes     bool
	)
	cmd := &cobra.Command{
		Use:   "compact",
		Short: "Remove queues that were deleted long ago from the database",
		Long: `Remove queues that were deleted long ago from the database, with their messages.

A router only marks a queue as deleted. This command removes the rows for good
when the deleted TTL has passed since the day of the delete. Live queues are
never touched.

Queues go in batches, each in a short transaction of its own, and no lock is
held that a running router waits for. An interrupt ends the command after the
batch; the next run goes on. The room in the tables can be used again after
--vacuum, or when autovacuum comes by.

A store log is compacted by "smpq compact storelog".`,
		Example: `  smpq compact --dry-run
  smpq compact --ttl 21d --vacuum
  smpq compact --ttl 3w --batch 200 --pause 1s --max-time 2h`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.Var(&ttl, "ttl", "how long queues stay after their delete, like 21d, 3w or 36h")
	flags.IntVar(&o.Batch, "batch", o.Batch, "number of `queues` in one transaction")
	flags.Var(&pause, "pause", "how long to wait between batches")
	flags.Var(&maxTime, "max-time", "begin no batch after this time")
	for _, none := range []string{"pause", "max-time"} {
		flags.Lookup(none).DefValue = "" // not worth telling
	}
	flags.BoolVar(&o.DryRun, "dry-run", false, "count what would be removed, change nothing")
	flags.BoolVar(&o.Vacuum, "vacuum", false, "vacuum and analyze the tables afterwards")
	flags.BoolVar(&yes, "yes", false, "do not ask whether a TTL of less than a day is meant")
	connection, out := console.AddConnectionFlags(cmd), cli.AddOutputFlag(cmd)
	cmd.AddCommand(newCompactStoreLog(console))
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		switch {
		case o.Batch < 1:
			return cli.UsageErrorf("--batch %d: must be at least 1", o.Batch)
		case flags.Changed("max-time") && maxTime == 0:
			return cli.UsageErrorf("--max-time is 0: leave it out for no limit")
		}
		if time.Duration(ttl) < safeTTL && !o.DryRun {
			question := fmt.Sprintf("A TTL of %s removes queues that were deleted today. Go on?", ttl.String())
			if err := console.Confirm(ctx, yes, question); err != nil {
				return err
			}
		}
		o.TTL, o.Pause, o.MaxTime, o.Now = time.Duration(ttl), time.Duration(pause), time.Duration(maxTime), time.Now()
		return onDatabase(ctx, connection, "compact", func(conn *pgx.Conn, target *cli.Target) error {
			progress := console.Progress()
			defer progress.Close()
			o.Progress = progress
			r, err := compact.Queues(ctx, conn, target.Schema, o)
			progress.Close()
			if err != nil && r.Batches == 0 {
				return err
			}
			// What was removed is said even if something went wrong then.
			return errors.Join(err, out.Write(cmd.OutOrStdout(), r, compactTable(r)))
		})
	}
	return cmd
}

func compactTable(r compact.QueueResult) cli.Table {
	t := cli.Table{Columns: []string{"name", "value"}, Plain: true}
	add := func(name string, n int64) { t.Add(name, strconv.FormatInt(n, 10)) }
	switch {
	case r.DryRun:
		t.Add("result", "dry run, nothing was changed")
	case r.Left > 0:
		t.Add("result", "removed in part: run it again to go on")
	case r.Batches == 0:
		t.Add("result", "nothing to remove")
	default:
		t.Add("result", "removed")
	}
	t.Add("schema", r.Schema)
	t.Add("deleted before", r.DeletedBefore.Format(time.DateTime)+" UTC")
	add("queues", r.Queues)
	add("messages", r.Messages)
	t.Add("size", cli.FormatBytes(r.Bytes))
	if !r.DryRun {
		add("batches", r.Batches)
	}
	if r.Skipped > 0 {
		add("skipped, in use", r.Skipped)
	}
	if r.Left > 0 {
		add("queues left", r.Left)
	}
	if r.Vacuumed {
		t.Add("vacuumed", "yes")
	}
	t.Add("time", seconds(r.Seconds))
	return t
}

// seconds renders a time span in seconds.
func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Millisecond).String()
}

// compactLogFlags are the flags of the compaction of a store log.
type compactLogFlags struct {
	dryRun     bool
	rejects    string
	maxRejects int64
	tempDir    string
}

func newCompactStoreLog(console *cli.Console) *cobra.Command {
	var f compactLogFlags
	cmd := &cobra.Command{
		Use:   "storelog FILE",
		Short: "Compact a store log, keeping the original",
		Long: `Compact a store log as smp-server does at its start: what was deleted or
replaced goes, and each live queue is one line. The original stays beside it,
under the name that smp-server gives to it: FILE, a dot and the time;
smp-server removes such files after three weeks.

The router must be stopped. A log that a process has open for writing is
refused. Whenever this command ends early, FILE is as it was.

The first line that cannot be read or applied stops the compaction. With
--max-rejects some are left out, and --rejects keeps them; the exit status is
then 3. "smpq inspect log FILE" lists all that is wrong with a log.`,
		Example: `  smpq compact storelog /var/opt/simplex/smp-server-store.log
  smpq compact storelog smp-server-store.log --dry-run
  smpq compact storelog smp-server-store.log --max-rejects 10 --rejects bad`,
		Args: cobra.ExactArgs(1),
	}
	out := cli.AddOutputFlag(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&f.dryRun, "dry-run", false, "check and count, write nothing")
	flags.StringVar(&f.rejects, "rejects", "", "write the records that are left out to this new `file`; it has secrets")
	flags.Int64Var(&f.maxRejects, "max-rejects", 0, "leave out up to `n` records; -1: any number")
	flags.StringVar(&f.tempDir, "temp-dir", "", "`folder` for temporary files (default: $TMPDIR, else /var/tmp)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := f.run(cmd.Context(), console, args[0])
		if err != nil {
			return err
		}
		if err := out.Write(cmd.OutOrStdout(), r, compactLogTable(r)); err != nil {
			return err
		}
		if r.Rejected > 0 {
			return cli.WithCode(cli.ExitRejected, fmt.Errorf("records rejected: %d", r.Rejected))
		}
		return nil
	}
	return cmd
}

func (f *compactLogFlags) run(ctx context.Context, console *cli.Console, name string) (r compact.LogResult, err error) {
	rejects, closeRejects, err := openRejects(f.rejects)
	if err != nil {
		return r, err
	}
	defer func() { err = closeRejects(err) }()
	limitMemory()
	progress := console.Progress()
	defer progress.Close()
	r, err = compact.StoreLog(ctx, name, compact.LogOptions{
		Now:        time.Now(),
		MaxRejects: f.maxRejects,
		Rejects:    rejects,
		DryRun:     f.dryRun,
		TempDir:    cmp.Or(f.tempDir, tempDir()),
		Progress:   progress,
		Log:        console.Log(),
	})
	if errors.Is(err, compact.ErrInUse) {
		err = cli.WithCode(cli.ExitUnavailable, err)
	}
	if _, ok := errors.AsType[*compact.RejectedError](err); ok {
		err = fmt.Errorf("%w\nNothing was changed. To see all that is wrong: smpq inspect log; to leave it out: --max-rejects and --rejects", err)
	}
	return r, err
}

func compactLogTable(r compact.LogResult) cli.Table {
	t := cli.Table{Columns: []string{"name", "value"}, Plain: true}
	add := func(name string, n int64) { t.Add(name, strconv.FormatInt(n, 10)) }
	size := func(lines, bytes int64) string { return fmt.Sprintf("%d (%s)", lines, cli.FormatBytes(bytes)) }
	switch {
	case r.DryRun:
		t.Add("result", "dry run, nothing was changed")
	case r.Same:
		t.Add("result", "nothing to do: the log is compact")
	default:
		t.Add("result", "compacted")
	}
	t.Add("file", r.File)
	t.Add("lines before", size(r.Lines, r.Bytes))
	t.Add("lines after", size(r.NewLines, r.NewBytes))
	add("services", r.Services)
	add("queues", r.Queues)
	add("rejected", r.Rejected)
	if r.Ignored > 0 {
		add("ignored, queue deleted", r.Ignored)
	}
	if r.Original != "" {
		t.Add("original is now", r.Original)
	}
	if r.SetAside != "" {
		t.Add("set aside", r.SetAside)
	}
	t.Add("time", seconds(r.Seconds))
	return t
}
