package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/atomicfile"
	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/config"
	"github.com/smpq/smpq/internal/importer"
)

func newImport(console *cli.Console) *cobra.Command {
	return cli.Group("import", "Bring a router's files into the database",
		newImportStoreLog(console), newImportMessages(console), newImportJournal(console), newImportAll(console))
}

// importFlags are the flags that all imports have.
type importFlags struct {
	into       bool
	dryRun     bool
	verify     bool
	rejects    string
	maxRejects int64
	archive    bool
}

func addImportFlags(cmd *cobra.Command, into, archive string) *importFlags {
	f := new(importFlags)
	flags := cmd.Flags()
	flags.BoolVar(&f.into, "into-existing", false, into)
	flags.BoolVar(&f.dryRun, "dry-run", false, "check and count, change nothing")
	flags.BoolVar(&f.verify, "verify", true, "compare the tables with what was read before the end")
	flags.StringVar(&f.rejects, "rejects", "", "write the records that are left out to this new `file`; it has secrets")
	flags.Int64Var(&f.maxRejects, "max-rejects", 0, "leave out up to `n` records; -1: any number")
	flags.BoolVar(&f.archive, "archive", false, archive)
	cmd.MarkFlagsMutuallyExclusive("archive", "dry-run")
	return f
}

// run does an import: work gets the options that the flags give.
func (f *importFlags) run(ctx context.Context, console *cli.Console, database *cli.Connection, command string, work func(*pgx.Conn, *cli.Target, importer.Options) error) (err error) {
	rejects, closeRejects, err := openRejects(f.rejects)
	if err != nil {
		return err
	}
	defer func() { err = closeRejects(err) }()
	limitMemory()
	err = onDatabase(ctx, database, command, func(conn *pgx.Conn, target *cli.Target) error {
		quota, err := queueQuota(target.Config)
		if err != nil {
			return err
		}
		progress := console.Progress()
		defer progress.Close()
		return work(conn, target, importer.Options{
			Schema:     target.Schema,
			Merge:      f.into,
			DryRun:     f.dryRun,
			SkipVerify: !f.verify,
			MaxRejects: f.maxRejects,
			Rejects:    rejects,
			Quota:      quota,
			Progress:   progress,
			Log:        console.Log(),
		})
	})
	if errors.Is(err, importer.ErrDifferent) {
		err = cli.WithCode(cli.ExitDifferent, err)
	}
	return err
}

// queueQuota returns how many messages a queue takes.
func queueQuota(file *config.File) (int64, error) {
	if file == nil {
		return config.DefaultQueueQuota, nil
	}
	return file.QueueQuota()
}

// rejectedRecords returns the error for records that were left out.
func rejectedRecords(n int64) error {
	if n == 0 {
		return nil
	}
	return cli.WithCode(cli.ExitRejected, fmt.Errorf("records rejected: %d", n))
}

// explainRejected adds to an error of an import what to do about a record that
// was rejected: look tells how to see what else is wrong with the file.
func explainRejected(err error, look string) error {
	rejected, ok := errors.AsType[*importer.RejectedError](err)
	switch {
	case !ok:
		return err
	case rejected.Conflict || look == "":
		return fmt.Errorf("%w\nNothing was imported. To see all that is wrong: --dry-run --max-rejects -1 --rejects FILE", err)
	}
	return fmt.Errorf("%w\nNothing was imported. To see all that is wrong: %s; to import the rest: --max-rejects and --rejects", err, look)
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

// checkArchive refuses a file that cannot be renamed after its import.
func checkArchive(name string) error {
	info, err := os.Lstat(name)
	switch {
	case err != nil:
		return fmt.Errorf("--archive: %w", err)
	case info.Mode()&os.ModeSymlink != 0:
		return fmt.Errorf("%s is a symbolic link: with --archive, name what it leads to", name)
	case !info.Mode().IsRegular() && !info.IsDir():
		return fmt.Errorf("%s is not a regular file: --archive cannot rename it", name)
	}
	return nil
}

// archive renames a file to a free name that ends in .bak.
func archive(name string) (string, error) {
	for n := 0; ; n++ {
		to := bakName(name, n)
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

// bakName returns the n-th name, from 0, for what name was before.
func bakName(name string, n int) string {
	if n == 0 {
		return name + ".bak"
	}
	return name + ".bak." + strconv.Itoa(n)
}

// archiveRead renames a file that was imported, unless it was written to while it
// was read.
func (f *importFlags) archiveRead(name string, changed bool) (to string, err error) {
	switch {
	case !f.archive:
		return "", nil
	case changed:
		err = errors.New("it was written to while it was read; what was added is not in the database")
	default:
		to, err = archive(filepath.Clean(name))
	}
	if err != nil {
		return "", fmt.Errorf("%s was imported, but not renamed: %w", name, err)
	}
	return to, nil
}

// A resultTable is a table of names and values.
type resultTable struct{ cli.Table }

func newResultTable() *resultTable {
	return &resultTable{cli.Table{Columns: []string{"name", "value"}, Plain: true}}
}

// number adds a number.
func (t *resultTable) number(name string, n int64) { t.Add(name, strconv.FormatInt(n, 10)) }

// some adds a number that is not 0.
func (t *resultTable) some(name string, n int64) {
	if n != 0 {
		t.number(name, n)
	}
}

// outcome adds what became of an import of what.
func (t *resultTable) outcome(dryRun, unchanged bool, what string) {
	switch {
	case dryRun:
		t.Add("result", "dry run, nothing was changed")
	case unchanged:
		t.Add("result", "nothing to do: all of the "+what+" is in the schema already")
	default:
		t.Add("result", "imported")
	}
}

// verified adds whether the tables were compared.
func (t *resultTable) verified(verified bool, conflicts int64, of, checksum string) {
	switch {
	case !verified:
		t.Add("verified", "no")
	case conflicts > 0:
		t.Add("verified", "the "+of+" added and those there before")
	default:
		t.Add("verified", checksum)
	}
}

func (t *resultTable) duration(seconds float64) {
	t.Add("time", time.Duration(seconds*float64(time.Second)).Round(time.Millisecond).String())
}
