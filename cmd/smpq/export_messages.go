package main

import (
	"log/slog"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/exporter"
	"github.com/smpq/smpq/internal/store"
)

// messageExportFlags are the flags of exports of messages.
type messageExportFlags struct {
	force       bool
	withDeleted bool
	skipEmpty   bool
}

func (f *messageExportFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.skipEmpty, "skip-empty", false, "leave out messages with an empty body, at which smp-server stops")
}

// set sets what the flags say.
func (f *messageExportFlags) set(o exporter.Options) exporter.Options {
	o.Force, o.WithDeleted, o.SkipEmpty = f.force, f.withDeleted, f.skipEmpty
	return o
}

func newExportMessages(console *cli.Console) *cobra.Command {
	var f messageExportFlags
	cmd := &cobra.Command{
		Use:     "messages FILE",
		Aliases: []string{"message-log"},
		Short:   "Export messages to a message log",
		Long: `Export the messages of all live queues to a message log, as smp-server itself
would write it: by recipient id, oldest first. All comes from one moment, so
that a router may run meanwhile. FILE may be -, for standard output. It appears
when it is complete and safe on disk, with mode 0600, and replaces a file only
with --force.

Messages of soft-deleted queues are left out, unless --with-deleted asks for
them: smp-server exports them, but does not start with them, as the store log
does not have their queues. It does not start with messages that have an empty
body either; they are written, and named, unless --skip-empty leaves them out,
with exit status 3.`,
		Example: `  smpq export messages smp-server-messages.log
  smpq export messages /var/opt/simplex/smp-server-messages.log \
    --config /etc/opt/simplex/smp-server.ini --skip-empty
  smpq export messages - | gzip > messages.log.gz`,
		Args: cobra.ExactArgs(1),
	}
	connection, out := console.AddConnectionFlags(cmd), cli.AddOutputFlag(cmd)
	f.add(cmd)
	cmd.Flags().BoolVarP(&f.force, "force", "f", false, "replace FILE if it is there")
	cmd.Flags().BoolVar(&f.withDeleted, "with-deleted", false, "export messages of soft-deleted queues as well")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, name := cmd.Context(), args[0]
		var sum exporter.MessageSummary
		err := export(ctx, console, connection, "export messages", func(conn *pgx.Conn, s store.Schema, o exporter.Options) (err error) {
			if name == "-" {
				sum, err = exporter.MessageLog(ctx, conn, s, cmd.OutOrStdout(), f.set(o))
			} else {
				sum, err = exporter.MessageLogFile(ctx, conn, s, name, f.set(o))
			}
			return err
		})
		if err != nil {
			return err
		}
		if name == "-" {
			logExport(ctx, console.Log(), sum.Differences, slog.Int64("messages", sum.Messages), slog.Int64("queues", sum.Queues), slog.String("size", cli.FormatBytes(sum.Bytes)))
		} else if err := out.Write(cmd.OutOrStdout(), sum, messageExportTable(sum)); err != nil {
			return err
		}
		return incomplete(sum.Differences)
	}
	return cmd
}

func newExportJournal(console *cli.Console) *cobra.Command {
	var f messageExportFlags
	cmd := &cobra.Command{
		Use:   "journal FOLDER",
		Short: "Export messages to a journal",
		Long: `Export the messages of all live queues to a journal, the folder "messages" of a
router that keeps its messages in files. But for the random names of its files,
it is what smp-server makes of a message log with the same messages. All comes
from one moment, so that a router may run meanwhile.

FOLDER must not be there. It appears when it is complete and safe on disk; until
then it is FOLDER.smpq-tmp, and whatever stops the export leaves nothing.

smp-server gets stuck at a message with an empty body; such messages are
written, and named, unless --skip-empty leaves them out, with exit status 3.`,
		Example: `  smpq export journal /var/opt/simplex/messages
  smpq export journal messages --skip-empty \
    --config /etc/opt/simplex/smp-server.ini`,
		Args: cobra.ExactArgs(1),
	}
	connection, out := console.AddConnectionFlags(cmd), cli.AddOutputFlag(cmd)
	f.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		var sum exporter.MessageSummary
		err := export(ctx, console, connection, "export journal", func(conn *pgx.Conn, s store.Schema, o exporter.Options) (err error) {
			sum, err = exporter.Journal(ctx, conn, s, args[0], f.set(o))
			return err
		})
		if err != nil {
			return err
		}
		if err := out.Write(cmd.OutOrStdout(), sum, messageExportTable(sum)); err != nil {
			return err
		}
		return incomplete(sum.Differences)
	}
	return cmd
}

func messageExportTable(sum exporter.MessageSummary) cli.Table {
	t := newResultTable()
	t.exportedMessages(sum)
	return t.Table
}

// exportedMessages adds what was written of messages.
func (t *resultTable) exportedMessages(sum exporter.MessageSummary) {
	t.Add("file", sum.File)
	t.Add("size", cli.FormatBytes(sum.Bytes))
	t.number("messages", sum.Messages)
	t.number("queues with messages", sum.Queues)
	t.differences(sum.Differences)
	t.before(sum.Replaced, sum.Removed)
}
