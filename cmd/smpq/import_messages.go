package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/importer"
	"github.com/smpq/smpq/internal/journal"
	"github.com/smpq/smpq/internal/msglog"
)

// What --into-existing does with messages.
const intoMessages = "add to a schema that has messages, to queues that have none"

func newImportMessages(console *cli.Console) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "messages FILE",
		Aliases: []string{"message-log"},
		Short:   "Import a message log: messages that were not delivered",
		Long: `Import a message log, smp-server-messages.log, into a schema that has the
queues. FILE may be -, for standard input.

The log is only read. It is checked line by line, copied, verified by a checksum
that the database computes, and the queues are made to say how many messages
they have, all in one transaction: until the end nothing of it can be seen, and
whatever ends it early leaves the database as it was.

The first line that cannot be read, or whose queue is not in the schema, stops
the import. With --max-rejects some are left out, and --rejects keeps them; the
exit status is then 3. A last line that was cut off but can be read is taken,
with a warning. Messages with an empty body, at which smp-server stops, are
imported like all others.

Importing the same log again changes nothing, and says so. --into-existing adds
messages to queues that have none; those of queues that have others count as
rejected. While messages go straight into a schema that has none, nobody else
can read or write messages.`,
		Example: `  smpq import messages /var/opt/simplex/smp-server-messages.log
  smpq import messages smp-server-messages.log --skip-expired 21d \
    --config /etc/opt/simplex/smp-server.ini
  smpq import messages smp-server-messages.log --dry-run \
    --max-rejects -1 --rejects messages.rejected`,
		Args: cobra.ExactArgs(1),
	}
	return messageCommand(cmd, console, "rename FILE to FILE.bak after the import", func(ctx context.Context, f *messageFlags, name string) (importer.MessageResult, error) {
		return f.importLog(ctx, console, logName(name))
	})
}

func newImportJournal(console *cli.Console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "journal FOLDER",
		Short: "Import a journal: messages in a tree of folders",
		Long: `Import a journal, the folder "messages" of a router that keeps its messages in
files, into a schema that has the queues. The router must not run.

The journal is only read, several queues at a time, and never changed, not even
where a router would repair it. Messages that were written but not confirmed to
their sender are ignored, as the router cuts them off. What a crash leaves and
does no harm is a warning; where messages are missing, because a file is, or is
shorter than its state says, or a state cannot be used, the import stops with
the reason. With --max-rejects it goes on with what there is; the exit status is
then 3.

All else is as with "smpq import messages".`,
		Example: `  smpq import journal /var/opt/simplex/messages
  smpq import journal /var/opt/simplex/messages --skip-expired 21d \
    --config /etc/opt/simplex/smp-server.ini
  smpq import journal messages --dry-run --max-rejects -1 --rejects lost`,
		Args: cobra.ExactArgs(1),
	}
	return messageCommand(cmd, console, "rename FOLDER to FOLDER.bak after the import", func(ctx context.Context, f *messageFlags, folder string) (importer.MessageResult, error) {
		return f.importJournal(ctx, console, folder)
	})
}

// messageFlags are the flags of imports of messages.
type messageFlags struct {
	*importFlags
	database *cli.Connection
	expired  cli.Duration
}

// messageCommand completes a command that imports messages.
func messageCommand(cmd *cobra.Command, console *cli.Console, archive string, work func(context.Context, *messageFlags, string) (importer.MessageResult, error)) *cobra.Command {
	f := &messageFlags{database: console.AddConnectionFlags(cmd)}
	out := cli.AddOutputFlag(cmd)
	f.importFlags = addImportFlags(cmd, intoMessages, archive)
	addExpiredFlag(cmd, &f.expired)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		res, err := work(cmd.Context(), f, args[0])
		if err != nil {
			return explainRejected(err, "")
		}
		var notRenamed error
		res.Archived, notRenamed = f.archiveRead(res.File, res.Changed)
		if err := out.Write(cmd.OutOrStdout(), res, messageTable(res)); err != nil {
			return err
		}
		return cmp.Or(notRenamed, rejectedRecords(res.Rejected))
	}
	return cmd
}

func addExpiredFlag(cmd *cobra.Command, age *cli.Duration) {
	cmd.Flags().Var(age, "skip-expired", "leave out messages older than this `age`, such as 21d")
}

// expiry returns the moment before which messages have expired, 0 if none have.
func expiry(age cli.Duration) int64 {
	if age == 0 {
		return 0
	}
	return time.Now().Add(-time.Duration(age)).Unix()
}

func (f *messageFlags) importLog(ctx context.Context, console *cli.Console, name string) (res importer.MessageResult, err error) {
	file, err := msglog.Open(name)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return f.importFrom(ctx, console, "import messages", name, func(conn *pgx.Conn, o importer.Options) (importer.MessageResult, error) {
		return importer.MessageLog(ctx, conn, file, o)
	})
}

func (f *messageFlags) importJournal(ctx context.Context, console *cli.Console, folder string) (importer.MessageResult, error) {
	tree, err := journal.Open(filepath.Clean(folder))
	if err != nil {
		return importer.MessageResult{}, err
	}
	return f.importFrom(ctx, console, "import journal", tree.Name(), func(conn *pgx.Conn, o importer.Options) (importer.MessageResult, error) {
		return importer.Journal(ctx, conn, tree, o)
	})
}

// importFrom does an import from a file or folder.
func (f *messageFlags) importFrom(ctx context.Context, console *cli.Console, command, name string, work func(*pgx.Conn, importer.Options) (importer.MessageResult, error)) (res importer.MessageResult, err error) {
	if f.archive {
		if err := checkArchive(name); err != nil {
			return res, err
		}
	}
	err = f.run(ctx, console, f.database, command, func(conn *pgx.Conn, _ *cli.Target, o importer.Options) (err error) {
		o.Before = expiry(f.expired)
		res, err = work(conn, o)
		return err
	})
	return res, err
}

func messageTable(r importer.MessageResult) cli.Table {
	t := newResultTable()
	t.outcome(r.DryRun, r.Unchanged, "file")
	t.messages(r)
	t.duration(r.Seconds)
	return t.Table
}

// messages adds what was done with messages.
func (t *resultTable) messages(r importer.MessageResult) {
	t.Add("file", r.File)
	if r.Lines > 0 {
		t.Add("lines", fmt.Sprintf("%d (%s)", r.Lines, cli.FormatBytes(r.Bytes)))
	}
	t.schema(r.Schema, r.Version, r.Releases)
	t.number("messages", r.Messages)
	t.number("messages added", r.Added)
	t.some("messages there before", r.Present)
	t.some("expired, left out", r.Expired)
	t.number("queues with messages", r.Queues)
	t.some("of these, over quota", r.OverQuota)
	t.some("of these, with more messages than the quota", r.Oversize)
	t.number("rejected", r.Rejected)
	t.some("of these, without a queue", r.Orphans)
	t.some("of these, conflicts", r.Conflicts)
	t.some("warnings", r.Notes)
	t.verified(r.Verified, r.Conflicts, "messages", r.Checksum)
	if r.Archived != "" {
		t.Add("file is now", r.Archived)
	}
}
