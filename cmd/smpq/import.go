package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/atomicfile"
	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/importer"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/storelog"
)

func newImport(console *cli.Console) *cobra.Command {
	return cli.Group("import", "Bring a router's files into the database", newImportStoreLog(console))
}

// importFlags are the flags of an import.
type importFlags struct {
	into       bool
	dryRun     bool
	verify     bool
	rejects    string
	maxRejects int64
	to         string
	release    string
	archive    bool
	tempDir    string
}

func newImportStoreLog(console *cli.Console) *cobra.Command {
	var f importFlags
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
	flags := cmd.Flags()
	flags.BoolVar(&f.into, "into-existing", false, "add to a schema that has data, or make it")
	flags.BoolVar(&f.dryRun, "dry-run", false, "check and count, change nothing")
	flags.BoolVar(&f.verify, "verify", true, "compare the tables with the log before the end")
	flags.StringVar(&f.rejects, "rejects", "", "write the records that are left out to this new `file`; it has secrets")
	flags.Int64Var(&f.maxRejects, "max-rejects", 0, "leave out up to `n` records; -1: any number")
	flags.StringVar(&f.to, "to", "", "`version` of the new schema (default the newest, "+string(schema.Newest)+")")
	flags.StringVar(&f.release, "for", "", "make the schema for this `release`, such as smp-server-6.5")
	flags.BoolVar(&f.archive, "archive", false, "rename FILE to FILE.bak after the import")
	flags.StringVar(&f.tempDir, "temp-dir", "", "`folder` for temporary files (default: $TMPDIR, else /var/tmp)")
	completeTarget(cmd)
	cmd.MarkFlagsMutuallyExclusive("to", "for")
	cmd.MarkFlagsMutuallyExclusive("to", "into-existing")
	cmd.MarkFlagsMutuallyExclusive("for", "into-existing")
	cmd.MarkFlagsMutuallyExclusive("archive", "dry-run")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		res, err := f.run(cmd.Context(), console, database, logName(args[0]))
		if err != nil {
			return err
		}
		var notRenamed error
		switch {
		case f.archive && res.Changed:
			notRenamed = errors.New("it was written to while it was read; what was added is not in the database")
		case f.archive:
			res.Archived, notRenamed = archive(res.File)
		}
		if err := out.Write(cmd.OutOrStdout(), res, importTable(res)); err != nil {
			return err
		}
		if notRenamed != nil {
			return fmt.Errorf("the log was imported, but not renamed: %w", notRenamed)
		}
		if res.Rejected > 0 {
			return cli.WithCode(cli.ExitRejected, fmt.Errorf("records rejected: %d", res.Rejected))
		}
		return nil
	}
	return cmd
}

func (f *importFlags) run(ctx context.Context, console *cli.Console, database *cli.Connection, name string) (res importer.Result, err error) {
	version, err := f.version()
	if err != nil {
		return res, err
	}
	file, err := storelog.Open(name)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if f.archive {
		if err := checkArchive(file, name); err != nil {
			return res, err
		}
	}
	rejects, closeRejects, err := openRejects(f.rejects)
	if err != nil {
		return res, err
	}
	defer func() { err = closeRejects(err) }()
	limitMemory()
	err = onDatabase(ctx, database, "import storelog", func(conn *pgx.Conn, target *cli.Target) error {
		progress := console.Progress()
		defer progress.Close()
		res, err = importer.StoreLog(ctx, conn, file, importer.Options{
			Schema:     target.Schema,
			Version:    version,
			Merge:      f.into,
			DryRun:     f.dryRun,
			SkipVerify: !f.verify,
			MaxRejects: f.maxRejects,
			Rejects:    rejects,
			TempDir:    cmp.Or(f.tempDir, tempDir()),
			Progress:   progress,
			Log:        console.Log(),
		})
		return err
	})
	if err != nil {
		if errors.Is(err, importer.ErrDifferent) {
			err = cli.WithCode(cli.ExitDifferent, err)
		}
		return res, f.explain(err)
	}
	return res, nil
}

func (f *importFlags) version() (schema.Version, error) {
	var v schema.Version
	var err error
	switch {
	case f.release != "":
		v, err = schema.VersionFor(f.release)
	case f.to != "":
		v, err = schema.ParseVersion(f.to)
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

// explain adds what to do about an error.
func (f *importFlags) explain(err error) error {
	rejected, ok := errors.AsType[*importer.RejectedError](err)
	switch {
	case !ok:
		return err
	case rejected.Conflict:
		return fmt.Errorf("%w\nNothing was imported. To see all conflicts: --dry-run --max-rejects -1 --rejects FILE", err)
	}
	return fmt.Errorf("%w\nNothing was imported. To see all that is wrong: smpq inspect log; to import the rest: --max-rejects and --rejects", err)
}

// tempDir returns the folder for large temporary files: $TMPDIR, else /var/tmp,
// which is on disk where /tmp is in memory.
func tempDir() string {
	if dir := os.Getenv("TMPDIR"); dir != "" {
		return dir
	}
	if info, err := os.Stat("/var/tmp"); err == nil && info.IsDir() {
		return "/var/tmp"
	}
	return os.TempDir()
}

// limitMemory makes the garbage collector keep the program small, unless
// $GOMEMLIMIT says otherwise. Sorting buffers are most of what it uses, and a
// collector that waits until they have doubled would waste as much again.
func limitMemory() {
	const limit = 192 << 20
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
}

// checkArchive refuses a log that cannot be renamed after its import.
func checkArchive(file *storelog.File, name string) error {
	if file.Unfinished() {
		return fmt.Errorf("%s was left by an unfinished compaction of %s: --archive would not know which to rename", file.Name(), name)
	}
	info, err := os.Lstat(name)
	switch {
	case err != nil:
		return fmt.Errorf("--archive: %w", err)
	case info.Mode()&os.ModeSymlink != 0:
		return fmt.Errorf("%s is a symbolic link: with --archive, name the file that it leads to", name)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file: --archive cannot rename it", name)
	}
	return nil
}

// archive renames a file to a free name that ends in .bak.
func archive(name string) (string, error) {
	for n := 0; ; n++ {
		to := name + ".bak"
		if n > 0 {
			to += "." + strconv.Itoa(n)
		}
		err := atomicfile.RenameNew(name, to)
		switch {
		case errors.Is(err, os.ErrExist):
			continue
		case err != nil:
			return "", err
		}
		return to, atomicfile.SyncFolder(filepath.Dir(name))
	}
}

func importTable(r importer.Result) cli.Table {
	t := cli.Table{Columns: []string{"name", "value"}, Plain: true}
	add := func(name string, n int64) { t.Add(name, strconv.FormatInt(n, 10)) }
	switch {
	case r.DryRun:
		t.Add("result", "dry run, nothing was changed")
	case r.Unchanged:
		t.Add("result", "nothing to do: all of the log is in the schema already")
	default:
		t.Add("result", "imported")
	}
	t.Add("file", r.File)
	t.Add("lines", fmt.Sprintf("%d (%s)", r.Lines, cli.FormatBytes(r.Bytes)))
	t.Add("schema", r.Schema)
	t.Add("schema version", fmt.Sprintf("%s (%s)", r.Version, strings.Join(r.Releases, ", ")))
	add("services", r.Services)
	add("queues", r.Queues)
	add("queues added", r.Added)
	if r.Present > 0 {
		add("queues there before", r.Present)
	}
	add("rejected", r.Rejected)
	if r.Conflicts > 0 {
		add("of these, conflicts", r.Conflicts)
	}
	if r.Ignored > 0 {
		add("ignored, queue deleted", r.Ignored)
	}
	switch {
	case !r.Verified:
		t.Add("verified", "no")
	case r.Conflicts > 0:
		t.Add("verified", "the queues added and those there before")
	default:
		t.Add("verified", r.Checksum)
	}

	if r.Archived != "" {
		t.Add("file is now", r.Archived)
	}
	t.Add("time", time.Duration(r.Seconds*float64(time.Second)).Round(time.Millisecond).String())
	return t
}
