package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/importer"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/storelog"
)

func newImportStoreLog(console *cli.Console) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "storelog FILE",
		Aliases: []string{"store-log"},
		Short:   "Import a store log: queues and services",
		Long: `Import a store log, smp-server-store.log, into a new schema. FILE may be -, for
standard input.

The log is only read. It is checked line by line, replayed to its final state,
copied into tables without indexes, indexed and verified, all in one
transaction: until the end nothing of it can be seen, and whatever ends it
early leaves the database as it was. Memory does not grow with the log; sorting
it needs about its size in temporary files.

The first line that cannot be read or applied stops the import. With
--max-rejects some are left out, and --rejects keeps them; the exit status is
then 3. "smpq inspect log FILE" lists all that is wrong with a log.

Importing the same log again changes nothing, and says so. --into-existing adds
a log to a schema with queues, of which none is changed: queues that are there
with other values, or whose ids are in use, count as rejected. While it inserts
the new ones, until the end, writers to the schema, such as a running router,
wait. A schema that is not there is made, as without the flag.`,
		Example: `  smpq import storelog /var/opt/simplex/smp-server-store.log
  smpq import storelog smp-server-store.log \
    --config /etc/opt/simplex/smp-server.ini --for smp-server-6.5
  smpq import storelog smp-server-store.log --dry-run
  smpq import storelog old.log --into-existing \
    --max-rejects 100 --rejects old.rejected
  zcat store.log.gz | smpq import storelog -`,
		Args: cobra.ExactArgs(1),
	}
	database, out := console.AddConnectionFlags(cmd), cli.AddOutputFlag(cmd)
	database.MayMake()
	f := addImportFlags(cmd, "add to a schema that has data, or make it", "rename FILE to FILE.bak after the import")
	s := addSchemaFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		res, err := importStoreLog(cmd.Context(), console, database, f, s, logName(args[0]))
		if err != nil {
			return err
		}
		var notRenamed error
		res.Archived, notRenamed = f.archiveRead(res.File, res.Changed)
		if err := out.Write(cmd.OutOrStdout(), res, storeLogTable(res)); err != nil {
			return err
		}
		return cmp.Or(notRenamed, rejectedRecords(res.Rejected))
	}
	return cmd
}

// schemaFlags are the flags of imports that can make a schema.
type schemaFlags struct {
	to      string
	release string
	tempDir string
}

func addSchemaFlags(cmd *cobra.Command) *schemaFlags {
	s := new(schemaFlags)
	flags := cmd.Flags()
	flags.StringVar(&s.to, "to", "", "`version` of the new schema (default the newest, "+string(schema.Newest)+")")
	flags.StringVar(&s.release, "for", "", "make the schema for this `release`, such as smp-server-6.5")
	flags.StringVar(&s.tempDir, "temp-dir", "", "`folder` for temporary files (default: $TMPDIR, else /var/tmp)")
	completeTarget(cmd)
	cmd.MarkFlagsMutuallyExclusive("to", "for")
	cmd.MarkFlagsMutuallyExclusive("to", "into-existing")
	cmd.MarkFlagsMutuallyExclusive("for", "into-existing")
	return s
}

func importStoreLog(ctx context.Context, console *cli.Console, database *cli.Connection, f *importFlags, s *schemaFlags, name string) (res importer.Result, err error) {
	version, err := s.version()
	if err != nil {
		return res, err
	}
	file, err := openStoreLog(name, f)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	err = f.run(ctx, console, database, "import storelog", func(conn *pgx.Conn, _ *cli.Target, o importer.Options) (err error) {
		o.Version, o.TempDir = version, cmp.Or(s.tempDir, tempDir())
		res, err = importer.StoreLog(ctx, conn, file, o)
		return err
	})
	return res, explainRejected(err, "smpq inspect log")
}

// openStoreLog opens a store log, which must be one that can be renamed
// afterwards, if it is to be.
func openStoreLog(name string, f *importFlags) (*storelog.File, error) {
	file, err := storelog.Open(name)
	if err != nil || !f.archive {
		return file, err
	}
	if file.Unfinished() {
		err = fmt.Errorf("%s was left by an unfinished compaction of %s: --archive would not know which to rename", file.Name(), name)
	} else {
		err = checkArchive(name)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func (s *schemaFlags) version() (schema.Version, error) {
	var v schema.Version
	var err error
	switch {
	case s.release != "":
		v, err = schema.VersionFor(s.release)
	case s.to != "":
		v, err = schema.ParseVersion(s.to)
	default:
		return schema.Newest, nil
	}
	if err != nil {
		return schema.None, cli.WithCode(cli.ExitUsage, err)
	}
	if len(v.Releases()) == 0 {
		return schema.None, cli.UsageErrorf("schema version %s has no place for all that a store log holds; the oldest that has is %s", v, schema.ServiceCerts)
	}
	return v, nil
}

// completeTarget completes the values of --to and --for: the versions that an
// import can make, and the releases that accept them.
func completeTarget(cmd *cobra.Command) {
	var versions, releases []string
	for _, v := range schema.All() {
		if accepting := v.Releases(); len(accepting) > 0 {
			versions = append(versions, string(v))
			releases = append(releases, accepting...)
		}
	}
	for name, values := range map[string][]string{"to": versions, "for": releases} {
		if err := cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
			panic(err) // the flag was added before
		}
	}
}

func storeLogTable(r importer.Result) cli.Table {
	t := newResultTable()
	t.outcome(r.DryRun, r.Unchanged, "log")
	t.storeLog(r)
	t.duration(r.Seconds)
	return t.Table
}

// storeLog adds what was done with a store log.
func (t *resultTable) storeLog(r importer.Result) {
	t.Add("file", r.File)
	t.Add("lines", fmt.Sprintf("%d (%s)", r.Lines, cli.FormatBytes(r.Bytes)))
	t.schema(r.Schema, r.Version, r.Releases)
	t.number("services", r.Services)
	t.number("queues", r.Queues)
	t.number("queues added", r.Added)
	t.some("queues there before", r.Present)
	t.number("rejected", r.Rejected)
	t.some("of these, conflicts", r.Conflicts)
	t.some("ignored, queue deleted", r.Ignored)
	t.verified(r.Verified, r.Conflicts, "queues", r.Checksum)
	if r.Archived != "" {
		t.Add("file is now", r.Archived)
	}
}

func (t *resultTable) schema(name, version string, releases []string) {
	t.Add("schema", name)
	t.Add("schema version", fmt.Sprintf("%s (%s)", version, strings.Join(releases, ", ")))
}
