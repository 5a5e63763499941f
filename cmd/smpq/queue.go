package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	osuser "os/user"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/admin"
	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/config"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

func newQueue(console *cli.Console) *cobra.Command {
	return cli.Group("queue", "Block, unblock and delete queues, also while a router runs",
		newQueueStatus(console), newQueueBlock(console), newQueueUnblock(console), newQueueDelete(console), newQueueLog(console))
}

// subjectFlags are how the queues are named that a command is about.
type subjectFlags struct {
	by   byFlag
	file string
}

func addSubjectFlags(cmd *cobra.Command) *subjectFlags {
	f := new(subjectFlags)
	cmd.Args = cobra.ArbitraryArgs
	cmd.Flags().Var(&f.by, "by", "take the ids for those of this party: recipient, sender, notifier or link")
	cmd.Flags().StringVar(&f.file, "file", "", "read the ids from this `file|-`, one a line")
	completeBy(cmd)
	takesID(cmd)
	return f
}

// subjects returns the queues that the operands or the file name, and how many
// they are, 0 if that is not known.
func (f *subjectFlags) subjects(ctx context.Context, cmd *cobra.Command, args []string) (_ iter.Seq2[admin.Subject, error], n int64, err error) {
	if cmd.Flags().Changed("file") {
		switch {
		case len(args) > 0:
			return nil, 0, cli.UsageErrorf("give ids or --file, not both")
		case f.file == "":
			return nil, 0, cli.UsageErrorf("--file is empty")
		}
		return admin.ReadSubjects(ctx, logName(f.file)), 0, nil
	}
	if len(args) == 0 {
		return nil, 0, cli.UsageErrorf("missing ID, or --file")
	}
	ids := make([]smp.EntityID, len(args))
	for i, arg := range args {
		if ids[i], err = parseQueueID(arg); err != nil {
			return nil, 0, err
		}
	}
	return admin.Subjects(ids), int64(len(ids)), nil
}

// rejected returns an error for ids of queues with which nothing could be done.
func rejected(n int64) error {
	if n == 0 {
		return nil
	}
	return cli.WithCode(cli.ExitRejected, fmt.Errorf("ids rejected: %d", n))
}

func newQueueStatus(console *cli.Console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status ID…",
		Short: "Show whether queues are active, off or blocked",
		Long: `Show whether queues are active, off (suspended by the recipient) or blocked, and
when they were last used. An ID is base64url, as in logs: the recipient's, the
sender's, the notifier's or the link's id of a queue. All are tried, unless --by
names one. An address of a queue or a link to it will do, too. Soft-deleted
queues are shown as such. More of one queue is shown by "smpq inspect queue".`,
		Example: `  smpq queue status AAECAwQFBgcICQoLDA0ODxAREhMUFRYX
  smpq queue status --file reported.txt -o csv`,
	}
	connection, out := console.AddConnectionFlags(cmd), cli.AddOutputFlag(cmd)
	f := addSubjectFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		subjects, _, err := f.subjects(ctx, cmd, args)
		if err != nil {
			return err
		}
		return onSchema(ctx, connection, "queue status", func(conn *pgx.Conn, s store.Schema) error {
			r, err := admin.Statuses(ctx, conn, s, subjects, f.by)
			if err != nil && len(r.Queues) == 0 {
				return err
			}
			if err := errors.Join(err, out.Write(cmd.OutOrStdout(), r, statusTable(r))); err != nil {
				return err
			}
			return rejected(r.Rejected)
		})
	}
	return cmd
}

func statusTable(r admin.StatusResult) cli.Table {
	t := cli.Table{Columns: []string{"id", "state", "status", "mode", "updated_at", "deleted_at", "reason"}}
	for _, q := range r.Queues {
		t.Add(q.ID, q.State, q.Status, q.Mode, q.UpdatedAt, q.DeletedAt, q.Reason)
	}
	return t
}

func newQueueBlock(console *cli.Console) *cobra.Command {
	var (
		reason reasonFlag
		notice noticeFlag
		force  bool
	)
	c := queueChange{operation: admin.Block}
	cmd := &cobra.Command{
		Use:   "block ID…",
		Short: "Block queues, so that they take no messages",
		Long: `Block queues, so that they take no messages, and their users are told why. A
running router hears of it at once. An ID is base64url, any of a queue's ids, or
an address of the queue or a link to it.

No more queues are blocked in a day (in UTC) than the router's configuration
allows, which --config names: daily_block_queue_quota, 20 if it says nothing.
Only active queues count, also those blocked at the router's control port. Once
it is used up, no reason is changed either. --force passes that.

Each block is in the log that "smpq queue log" shows. The exit status is 3 if
some queues could not be blocked.`,
		Example: `  smpq queue block AAECAwQFBgcICQoLDA0ODxAREhMUFRYX --reason spam
  smpq queue block --reason content --notice 30d --file reported.txt --dry-run
  smpq queue block --reason spam --by link --file - < links.txt`,
	}
	flags := cmd.Flags()
	flags.Var(&reason, "reason", "why: spam or content")
	flags.Var(&notice, "notice", "have clients show a notice, for a time such as 30d, or forever")
	flags.BoolVar(&force, "force", false, "whatever the daily quota is")
	complete := cobra.FixedCompletions([]string{"spam", "content"}, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc("reason", complete); err != nil {
		panic(err) // the flag was added before
	}
	c.add(cmd, console)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if reason == "" {
			return cli.UsageErrorf("say why: --reason spam or --reason content")
		}
		c.blocking = queue.Blocking{Reason: string(reason), HasNotice: notice.set, Notice: notice.notice}
		c.unlimited = force
		return c.run(cmd, args)
	}
	return cmd
}

func newQueueUnblock(console *cli.Console) *cobra.Command {
	c := queueChange{operation: admin.Unblock}
	cmd := &cobra.Command{
		Use:   "unblock ID…",
		Short: "Unblock queues",
		Long: `Unblock queues, so that they take messages again. A running router hears of it
at once. An ID is base64url, any of a queue's ids, or an address of the queue or
a link to it. Queues that their recipients have suspended stay so.

Each change is in the log that "smpq queue log" shows. The exit status is 3 if
some queues could not be unblocked.`,
		Example: `  smpq queue unblock AAECAwQFBgcICQoLDA0ODxAREhMUFRYX
  smpq queue unblock --file mistaken.txt --dry-run`,
	}
	c.add(cmd, console)
	cmd.RunE = c.run
	return cmd
}

func newQueueDelete(console *cli.Console) *cobra.Command {
	var yes bool
	c := queueChange{operation: admin.Delete}
	cmd := &cobra.Command{
		Use:   "delete ID…",
		Short: "Delete queues softly",
		Long: `Delete queues softly, as their recipients can: for all clients they are gone and
cannot come back. "smpq compact" removes them with their messages later. A
running router hears of it at once. An ID is base64url, any of a queue's ids, or
an address of the queue or a link to it.

Each delete is in the log that "smpq queue log" shows. The exit status is 3 if
some queues could not be deleted.`,
		Example: `  smpq queue delete AAECAwQFBgcICQoLDA0ODxAREhMUFRYX
  smpq queue delete --file abandoned.txt --dry-run
  smpq queue delete --file abandoned.txt --yes -o json`,
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask whether to delete")
	c.add(cmd, console)
	c.consent = func(ctx context.Context, n int64) error {
		what := plural(n, "queue")
		switch c.subjects.file {
		case "":
		case "-":
			what = "the queues that standard input lists"
		default:
			what = "the queues that " + c.subjects.file + " lists"
		}
		return console.Confirm(ctx, yes, fmt.Sprintf("Delete %s? Clients cannot get back what is deleted.", what))
	}
	cmd.RunE = c.run
	return cmd
}

// A queueChange is a command that changes queues.
type queueChange struct {
	operation admin.Operation
	blocking  queue.Blocking
	unlimited bool                               // no quota
	consent   func(context.Context, int64) error // asks, if not nil; how many queues, 0: not known

	console    *cli.Console
	connection *cli.Connection
	out        *cli.Output
	subjects   *subjectFlags
	dryRun     bool
}

// add adds the flags that such commands share.
func (c *queueChange) add(cmd *cobra.Command, console *cli.Console) {
	c.console = console
	c.connection, c.out = console.AddConnectionFlags(cmd), cli.AddOutputFlag(cmd)
	c.subjects = addSubjectFlags(cmd)
	cmd.Flags().BoolVar(&c.dryRun, "dry-run", false, "say what would be done, change nothing")
}

func (c *queueChange) run(cmd *cobra.Command, args []string) error {
	ctx := cmd.Context()
	subjects, n, err := c.subjects.subjects(ctx, cmd, args)
	if err != nil {
		return err
	}
	if c.consent != nil && !c.dryRun {
		if err := c.consent(ctx, n); err != nil {
			return err
		}
	}
	command := "queue " + string(c.operation)
	return onDatabase(ctx, c.connection, command, func(conn *pgx.Conn, target *cli.Target) error {
		quota, err := c.quota(target.Config)
		if err != nil {
			return err
		}
		s, err := store.OpenSchema(ctx, conn, target.Schema)
		if err != nil {
			return err
		}
		progress := c.console.Progress()
		defer progress.Close()
		progress.Phase(command, n, "queues")
		config := store.Config{DSN: target.DSN, Schema: target.Schema, Application: "smpq " + command}
		r, err := admin.Change(ctx, conn, config, s, subjects, admin.Options{
			Operation: c.operation, Blocking: c.blocking, By: c.subjects.by, DryRun: c.dryRun,
			Quota: quota, Who: who(), Progress: progress,
		})
		progress.Close()
		if err != nil && len(r.Queues) == 0 {
			return err
		}
		// What was done is said even if something went wrong then.
		if err := errors.Join(err, c.out.Write(cmd.OutOrStdout(), r, changeTable(r))); err != nil {
			return err
		}
		c.summarize(ctx, r)
		return rejected(r.Rejected)
	})
}

func (c *queueChange) summarize(ctx context.Context, r admin.Result) {
	text := "done"
	if r.DryRun {
		text = "dry run, nothing was changed"
	}
	c.console.Log().LogAttrs(ctx, slog.LevelInfo, text,
		slog.Int64("changed", r.Changed), slog.Int64("unchanged", r.Unchanged), slog.Int64("rejected", r.Rejected))
}

// quota returns how many queues may be blocked in a day, by the router's
// configuration, which is nil if it is not known.
func (c *queueChange) quota(file *config.File) (int64, error) {
	switch {
	case c.operation != admin.Block || c.unlimited:
		return 0, nil
	case file == nil:
		return config.DefaultDailyBlockQuota, nil
	}
	return file.DailyBlockQuota()
}

// who returns who makes the change: the user and the host, as far as the system
// tells.
func who() string {
	name := "uid " + strconv.Itoa(os.Getuid())
	if u, err := osuser.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return name + "@" + host
}

func changeTable(r admin.Result) cli.Table {
	t := cli.Table{Columns: []string{"id", "result", "was", "reason"}}
	for _, q := range r.Queues {
		t.Add(q.ID, q.Result, q.Was, q.Reason)
	}
	return t
}

// reasonFlag is a flag's value for the reason of a block.
type reasonFlag string

func (f *reasonFlag) Set(text string) error {
	if text != "spam" && text != "content" {
		return errors.New("want spam or content")
	}
	*f = reasonFlag(text)
	return nil
}

func (f *reasonFlag) String() string { return string(*f) }
func (f *reasonFlag) Type() string   { return "reason" }

// noticeFlag is a flag's value for how long a notice is shown.
type noticeFlag struct {
	set    bool
	notice queue.Notice
}

const forever = "forever"

func (f *noticeFlag) Set(text string) error {
	if text == forever {
		*f = noticeFlag{set: true}
		return nil
	}
	var d cli.Duration
	if err := d.Set(text); err != nil {
		return fmt.Errorf("%w, or %s", err, forever)
	}
	if d == 0 {
		return errors.New("want more than no time")
	}
	*f = noticeFlag{set: true, notice: queue.Notice{HasTTL: true, TTL: int64(time.Duration(d) / time.Second)}}
	return nil
}

func (f *noticeFlag) String() string {
	switch {
	case !f.set:
		return ""
	case !f.notice.HasTTL:
		return forever
	}
	d := cli.Duration(time.Duration(f.notice.TTL) * time.Second)
	return d.String()
}

func (f *noticeFlag) Type() string { return "time" }

func newQueueLog(console *cli.Console) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Show who blocked, unblocked and deleted queues",
		Long: `Show who blocked, unblocked and deleted queues with smpq, and when: the latest
changes first. They are in the table smpq.audit of the database. What clients do
and what is done by the router's control port is not there.`,
		Example: `  smpq queue log
  smpq queue log --limit 1000 -o csv`,
		Args: cobra.NoArgs,
	}
	connection, out := console.AddConnectionFlags(cmd), cli.AddOutputFlag(cmd)
	cmd.Flags().IntVar(&limit, "limit", 20, "show the latest `n` changes")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if limit < 1 {
			return cli.UsageErrorf("--limit %d: must be at least 1", limit)
		}
		ctx := cmd.Context()
		return onSchema(ctx, connection, "queue log", func(conn *pgx.Conn, s store.Schema) error {
			r, err := admin.Log(ctx, conn, s, limit)
			if err != nil {
				return err
			}
			return out.Write(cmd.OutOrStdout(), r, queueLogTable(r))
		})
	}
	return cmd
}

func queueLogTable(r admin.LogResult) cli.Table {
	t := cli.Table{Columns: []string{"at", "who", "operation", "recipient_id", "status"}}
	for _, c := range r.Changes {
		t.Add(c.At.Format(time.RFC3339), c.Who, c.Operation, c.RecipientID.String(), c.Status)
	}
	return t
}
