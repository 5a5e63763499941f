package main

import (
	"path/filepath"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/exporter"
	"github.com/smpq/smpq/internal/store"
)

func newExportAll(console *cli.Console) *cobra.Command {
	var f messageExportFlags
	var toJournal bool
	cmd := &cobra.Command{
		Use:   "all FOLDER",
		Short: "Export queues and messages to a router's files",
		Long: `Export queues and messages to the files that smp-server reads without a
database: smp-server-store.log and smp-server-messages.log in FOLDER, or with
--journal the folder "messages" instead of the latter. Both come from one
moment, and get their names when both are complete. All else is as with "smpq
export storelog", "messages" and "journal".

For smp-server to use them, set store_queues = memory and enable = on in its
configuration, and store_messages = memory, or journal.`,
		Example: `  smpq export all /var/opt/simplex \
    --config /etc/opt/simplex/smp-server.ini
  smpq export all ./export --journal --skip-empty`,
		Args: cobra.ExactArgs(1),
	}
	connection, out := console.AddConnectionFlags(cmd), cli.AddOutputFlag(cmd)
	f.add(cmd)
	cmd.Flags().BoolVarP(&f.force, "force", "f", false, "replace files, but not a journal, that are there")
	cmd.Flags().BoolVar(&toJournal, "journal", false, "write a journal instead of a message log")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		paths := exporter.Paths{StoreLog: filepath.Join(args[0], storeLogName)}
		if toJournal {
			paths.Journal = filepath.Join(args[0], journalName)
		} else {
			paths.MessageLog = filepath.Join(args[0], messageLogName)
		}
		var sum exporter.AllSummary
		err := export(ctx, console, connection, "export all", func(conn *pgx.Conn, s store.Schema, o exporter.Options) (err error) {
			sum, err = exporter.All(ctx, conn, s, paths, f.set(o))
			return err
		})
		if err != nil {
			return err
		}
		if err := out.Write(cmd.OutOrStdout(), sum, exportAllTable(sum)); err != nil {
			return err
		}
		return incomplete(slices.Concat(sum.StoreLog.Differences, sum.Messages.Differences))
	}
	return cmd
}

func exportAllTable(sum exporter.AllSummary) cli.Table {
	t := newResultTable()
	t.exported(sum.StoreLog)
	t.exportedMessages(sum.Messages)
	return t.Table
}
