package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/exporter"
	"github.com/smpq/smpq/internal/store"
)

func newExport(console *cli.Console) *cobra.Command {
	return cli.Group("export", "Write the database to a router's files",
		newExportStoreLog(console), newExportMessages(console), newExportJournal(console), newExportAll(console))
}

func newExportStoreLog(console *cli.Console) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "storelog FILE",
		Aliases: []string{"store-log"},
		Short:   "Export services and queues to a store log",
		Long: `Export services and queues to a store log, as smp-server itself would write it:
services first, then the queues by recipient id, without the soft-deleted ones.
All comes from one moment, so that a router may run meanwhile. FILE may be -,
for standard output.

FILE appears when it is complete and safe on disk, with mode 0600, as it holds
secrets. Until then it is FILE.smpq-tmp, and whatever stops the export leaves
FILE as it was. A file that is there is replaced only with --force; the new one
gets its owner.

Where smp-server cannot read what it writes itself, smpq keeps the data and
writes it in a form that can be read; the summary names each kind of such data
and its queues. If something had to be left out, the exit status is 3.`,
		Example: `  smpq export storelog smp-server-store.log
  smpq export storelog /var/opt/simplex/smp-server-store.log \
    --config /etc/opt/simplex/smp-server.ini
  smpq export storelog - | gzip > store.log.gz`,
		Args: cobra.ExactArgs(1),
	}
	connection, out := console.AddConnectionFlags(cmd), cli.AddOutputFlag(cmd)
	cmd.Flags().BoolVarP(&force, "force", "f", false, "replace FILE if it is there")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, name := cmd.Context(), args[0]
		if name == "" {
			return cli.UsageErrorf("the name of the file is empty")
		}
		var sum exporter.Summary
		err := export(ctx, console, connection, "export storelog", func(conn *pgx.Conn, s store.Schema, o exporter.Options) (err error) {
			o.Force = force
			if name == "-" {
				sum, err = exporter.StoreLog(ctx, conn, s, cmd.OutOrStdout(), o)
			} else {
				sum, err = exporter.StoreLogFile(ctx, conn, s, name, o)
			}
			return err
		})
		if err != nil {
			return err
		}
		if name == "-" {
			logExport(ctx, console.Log(), sum.Differences, slog.Int64("services", sum.Services), slog.Int64("queues", sum.Queues), slog.String("size", cli.FormatBytes(sum.Bytes)))
		} else if err := out.Write(cmd.OutOrStdout(), sum, exportTable(sum)); err != nil {
			return err
		}
		return incomplete(sum.Differences)
	}
	return cmd
}

// export does an export from a schema.
func export(ctx context.Context, console *cli.Console, connection *cli.Connection, command string, work func(*pgx.Conn, store.Schema, exporter.Options) error) error {
	err := onDatabase(ctx, connection, command, func(conn *pgx.Conn, target *cli.Target) error {
		s, err := store.OpenSchema(ctx, conn, target.Schema)
		if err != nil {
			return err
		}
		progress := console.Progress()
		defer progress.Close()
		return work(conn, s, exporter.Options{Progress: progress})
	})
	if errors.Is(err, exporter.ErrBusy) {
		err = cli.WithCode(cli.ExitUnavailable, err)
	}
	return err
}

// exportTable says what was exported.
func exportTable(sum exporter.Summary) cli.Table {
	t := newResultTable()
	t.exported(sum)
	return t.Table
}

// exported adds what was written to a store log.
func (t *resultTable) exported(sum exporter.Summary) {
	t.Add("file", sum.File)
	t.Add("size", cli.FormatBytes(sum.Bytes))
	t.number("services", sum.Services)
	t.number("queues", sum.Queues)
	t.differences(sum.Differences)
	t.before(sum.Replaced, sum.Removed)
	if sum.Shadow != "" {
		t.Add("warning", "smp-server will read "+sum.Shadow+" instead")
	}
}

// differences adds what was not written as smp-server writes it.
func (t *resultTable) differences(all []exporter.Difference) {
	for _, d := range all {
		t.Add(strings.ReplaceAll(string(d.Kind), "_", " "), differenceText(d))
		for _, id := range d.First {
			t.Add("", id.String())
		}
	}
}

// before adds what became of files that were there.
func (t *resultTable) before(replaced bool, removed string) {
	if replaced {
		t.Add("replaced", "the file that was there")
	}
	if removed != "" {
		t.Add("removed", removed+", of an export that was killed")
	}
}

// differenceText says what was done about a kind of queues.
func differenceText(d exporter.Difference) string {
	text := plural(d.Queues, "queue")
	if d.Messages > 0 {
		text += ", " + plural(d.Messages, "message")
	}
	text += ": " + d.Kind.Explain()
	if int64(len(d.First)) < d.Queues {
		text += fmt.Sprintf(" (the first %d of them:)", len(d.First))
	}
	return text
}

// logExport logs what was exported, where standard output has the data.
func logExport(ctx context.Context, log *slog.Logger, differences []exporter.Difference, what ...slog.Attr) {
	log.LogAttrs(ctx, slog.LevelInfo, "exported", what...)
	for _, d := range differences {
		log.LogAttrs(ctx, slog.LevelWarn, d.Kind.Explain(), slog.Int64("queues", d.Queues), slog.Any("first", d.First))
	}
}

// incomplete returns an error if the files lack something of the database.
func incomplete(differences []exporter.Difference) error {
	var queues int64
	for _, d := range differences {
		if d.Kind.Lossy() {
			queues += d.Queues
		}
	}
	if queues == 0 {
		return nil
	}
	return cli.WithCode(cli.ExitRejected, fmt.Errorf("a part of %s was left out", plural(queues, "queue")))
}
