package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/atomicfile"
	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/config"
	"github.com/smpq/smpq/internal/importer"
	"github.com/smpq/smpq/internal/journal"
	"github.com/smpq/smpq/internal/msglog"
)

// importAllResult is what import all prints.
type importAllResult struct {
	importer.AllResult
	Config  string          `json:"config"`  // the router's configuration
	Changes []config.Change `json:"changes"` // of it, so that the router uses the database
	Updated bool            `json:"config_updated"`
	Copy    string          `json:"config_copy,omitempty"` // of the configuration as it was
	Move    []string        `json:"move,omitempty"`        // files that smp-server must not find when it uses the database
	Moved   []string        `json:"moved,omitempty"`       // their new names
}

func newImportAll(console *cli.Console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "all --config FILE",
		Short: "Import all that a router has in files, and switch it over",
		Long: `Import all that a router has in files: the configuration says whether queues are
in a store log, and messages in a message log or a journal. The router must not
run. All is imported in one transaction, as "smpq import storelog", "messages"
and "journal" import it, into the database that the configuration names, unless
another one is named.

At the end it says what is to change so that the router uses the database: keys
of the configuration, and files that smp-server must not find when it starts.
With --update-config and --archive it does that, too: the configuration is
replaced by one in which only those keys differ, and a copy is kept.`,
		Example: `  smpq import all --config /etc/opt/simplex/smp-server.ini --dry-run
  smpq import all --config /etc/opt/simplex/smp-server.ini \
    --for smp-server-6.5 --update-config --archive
  smpq import all --config smp-server.ini --state ./state \
    --skip-expired 21d`,
		Args: cobra.NoArgs,
	}
	a := &allImport{console: console, database: console.AddConnectionFlags(cmd)}
	out := cli.AddOutputFlag(cmd)
	a.database.MayMake()
	a.importFlags = addImportFlags(cmd, "add to a schema that has data, or make it", "rename the files that were imported to end in .bak")
	a.schema = addSchemaFlags(cmd)
	addExpiredFlag(cmd, &a.expired)
	cmd.Flags().StringVar(&a.state, "state", "", "`folder` with the router's files (default: $SMP_SERVER_LOG_PATH, else /var/opt/simplex)")
	cmd.Flags().BoolVar(&a.update, "update-config", false, "change the configuration, keep a copy")
	cmd.MarkFlagsMutuallyExclusive("update-config", "dry-run")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		res, err := a.run(cmd.Context())
		if err != nil {
			return explainRejected(err, "")
		}
		notDone := a.switchOver(&res)
		if err := out.Write(cmd.OutOrStdout(), res, importAllTable(res)); err != nil {
			return err
		}
		return cmp.Or(notDone, rejectedRecords(res.Rejected()))
	}
	return cmd
}

// An allImport is an import of all files.
type allImport struct {
	*importFlags
	console  *cli.Console
	database *cli.Connection
	schema   *schemaFlags
	expired  cli.Duration
	state    string
	update   bool

	sources []string // files that are imported, and that smp-server must not find afterwards
}

func (a *allImport) run(ctx context.Context) (res importAllResult, err error) {
	version, err := a.schema.version()
	if err != nil {
		return res, err
	}
	if a.database.ConfigFile() == "" {
		return res, cli.UsageErrorf("--config is missing: it says what the router has in files")
	}
	res.Config = a.database.ConfigFile()
	file, err := config.Load(res.Config)
	if err != nil {
		return res, err
	}
	files, err := a.open(file)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, closeFiles(files)) }()
	err = a.importFlags.run(ctx, a.console, a.database, "import all", func(conn *pgx.Conn, target *cli.Target, o importer.Options) (err error) {
		if res.Changes, err = a.changes(target); err != nil {
			return err
		}
		o.Version, o.TempDir, o.Before = version, cmp.Or(a.schema.tempDir, tempDir()), expiry(a.expired)
		res.AllResult, err = importer.All(ctx, conn, files, o)
		return err
	})
	res.Move = a.sources
	return res, err
}

// open opens the files that a router with such a configuration uses.
func (a *allImport) open(file *config.File) (files importer.Files, err error) {
	c, err := file.StoreLog()
	if err != nil {
		return files, err
	}
	state := cmp.Or(a.state, serverState())
	defer func() {
		if err != nil {
			err = errors.Join(err, closeFiles(files))
		}
	}()
	if c.StoreQueues == config.Memory {
		name := filepath.Join(state, storeLogName)
		if files.StoreLog, err = openStoreLog(name, a.importFlags); err != nil {
			return files, err
		}
		if !c.DBStoreLog { // with it, smp-server wants a store log
			a.sources = append(a.sources, name)
		}
	}
	name := filepath.Join(state, messageLogName)
	switch c.StoreMessages {
	case config.Memory:
		files.MessageLog, err = msglog.Open(name)
	case config.Journal:
		name = filepath.Join(state, journalName)
		files.Journal, err = journal.Open(name)
	case config.Database:
		if files.StoreLog == nil {
			return files, errors.New("the router has its queues and messages in the database already")
		}
		return files, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		a.console.Log().Warn("there are no messages to import: " + err.Error())
		return files, nil
	}
	if err == nil && a.archive {
		err = checkArchive(name)
	}
	a.sources = append(a.sources, name)
	return files, err
}

func closeFiles(f importer.Files) error {
	var errs []error
	if f.StoreLog != nil {
		errs = append(errs, f.StoreLog.Close())
	}
	if f.MessageLog != nil {
		errs = append(errs, f.MessageLog.Close())
	}
	return errors.Join(errs...)
}

// changes returns what is to change in the configuration.
func (a *allImport) changes(target *cli.Target) ([]config.Change, error) {
	const section = "STORE_LOG"
	wanted := []config.Change{
		{Section: section, Key: "store_queues", Value: config.Database},
		{Section: section, Key: "store_messages", Value: config.Database},
	}
	if target.Schema != config.DefaultSchema {
		wanted = append(wanted, config.Change{Section: section, Key: "db_schema", Value: target.Schema})
	}
	changes := []config.Change{}
	for _, c := range wanted {
		differs, err := target.Config.Differs(c)
		if err != nil {
			return nil, err
		}
		if differs {
			changes = append(changes, c)
		}
	}
	if a.database.Overridden() {
		if a.update {
			return nil, cli.UsageErrorf("--update-config: the database is not the one of the configuration (%s): set db_connection there first", target.Source)
		}
		changes = append(changes, config.Change{Section: section, Key: "db_connection", Value: "connection string of " + target.String()})
	}
	return changes, nil
}

// switchOver changes the configuration and renames the files, if so wanted.
func (a *allImport) switchOver(res *importAllResult) error {
	changed := res.StoreLog != nil && res.StoreLog.Changed || res.Messages != nil && res.Messages.Changed
	if (a.update || a.archive) && changed {
		return errors.New("all was imported, but a file was written to meanwhile: is the router running? The configuration and the files are as they were")
	}
	if a.update && len(res.Changes) > 0 {
		var err error
		if res.Copy, err = updateConfig(res.Config, res.Changes); err != nil {
			return fmt.Errorf("all was imported, but the configuration is as it was: %w", err)
		}
		res.Updated = true
	}
	if !a.archive {
		return nil
	}
	for len(res.Move) > 0 {
		to, err := a.archiveRead(res.Move[0], false)
		if err != nil {
			return err
		}
		res.Move, res.Moved = res.Move[1:], append(res.Moved, to)
	}
	return nil
}

// updateConfig changes keys of a configuration file and returns the name of the
// copy that it keeps.
func updateConfig(name string, changes []config.Change) (kept string, err error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", err
	}
	if name, err = filepath.EvalSymlinks(name); err != nil {
		return "", err
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	edited, err := config.Edit(text, changes)
	if err != nil {
		return "", err
	}
	for n := 0; ; n++ {
		kept = bakName(name, n)
		err := writeLike(kept, text, info, (*atomicfile.File).Place)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		return kept, writeLike(name, edited, info, (*atomicfile.File).Replace)
	}
}

// writeLike writes a file with owner and permissions of another, and gives it its
// name by finish.
func writeLike(name string, text []byte, like fs.FileInfo, finish func(*atomicfile.File) error) (err error) {
	f, err := atomicfile.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(text); err != nil {
		return err
	}
	// Without permission it belongs to who runs the command.
	if err := f.ChownLike(like); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if err := errors.Join(f.Chmod(like.Mode().Perm()), f.Sync()); err != nil {
		return err
	}
	return finish(f)
}

func importAllTable(r importAllResult) cli.Table {
	t := newResultTable()
	dryRun := r.StoreLog != nil && r.StoreLog.DryRun || r.Messages != nil && r.Messages.DryRun
	t.outcome(dryRun, r.Unchanged(), "data")
	seconds := 0.0
	if r.StoreLog != nil {
		t.storeLog(*r.StoreLog)
		seconds = r.StoreLog.Seconds
	}
	if r.Messages != nil {
		t.messages(*r.Messages)
		seconds = max(seconds, r.Messages.Seconds)
	}
	t.duration(seconds)
	name := "change in " + r.Config
	if r.Updated {
		name = "changed in " + r.Config
	}
	for _, c := range r.Changes {
		t.Add(name, c.String())
	}
	if r.Copy != "" {
		t.Add("kept as it was", r.Copy)
	}
	for _, file := range r.Move {
		t.Add("move away before smp-server starts", file)
	}
	for _, file := range r.Moved {
		t.Add("file is now", file)
	}
	return t.Table
}
