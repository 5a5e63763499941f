package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/smpq/smpq/internal/config"
	"github.com/smpq/smpq/internal/pglocal"
)

// dsnVariable is the environment variable that names the database.
const dsnVariable = "SMPQ_DSN"

// libpqVariables are the variables of libpq that choose a database. Those that
// only say how to connect (PGPASSWORD, PGSSLMODE, …) choose none, but hold for
// all connections.
var libpqVariables = []string{"PGSERVICE", "PGHOST", "PGPORT", "PGDATABASE", "PGUSER"}

// A Connection is the flags that choose a database and a schema in it.
type Connection struct {
	console *Console
	flags   *pflag.FlagSet

	dsn      string
	config   string
	data     string
	schema   string
	password bool
	mayMake  bool
}

// AddConnectionFlags adds the flags that choose the database to a command.
func (c *Console) AddConnectionFlags(cmd *cobra.Command) *Connection {
	flags := cmd.Flags()
	o := &Connection{console: c, flags: flags}
	flags.StringVar(&o.dsn, "dsn", "", "connection string of the database (default: $"+dsnVariable+", else the database "+
		"that --config names, else that of the libpq variables PGHOST, PGSERVICE …, else a private local PostgreSQL under --data)")
	flags.StringVar(&o.config, "config", "", "the router's smp-server.ini, a `file` that names database and schema")
	flags.StringVar(&o.data, "data", "", "use the private local PostgreSQL in this `folder` "+
		"(default: ~/.local/share/smpq, for root /var/lib/smpq)")
	flags.StringVar(&o.schema, "schema", "", "`name` of the schema with the router's tables (default: that of --config, else \""+config.DefaultSchema+"\")")
	flags.BoolVar(&o.password, "password", false, "ask for the password of the database")
	cmd.MarkFlagsMutuallyExclusive("dsn", "data")
	cmd.MarkFlagsMutuallyExclusive("password", "data")
	return o
}

// MayMake lets the command make the private PostgreSQL if that is the choice and it
// is not there yet. It is for commands that bring data: all others would find
// nothing in it.
func (o *Connection) MayMake() { o.mayMake = true }

// dataFolder returns the default of --data.
func dataFolder() (string, error) {
	postgres, err := pglocal.DefaultDir()
	return filepath.Dir(postgres), err
}

// A Target is a database to work on and the schema of the router's tables. Its
// String is for people and logs: it shows no password.
type Target struct {
	DSN    string // for pgx; may hold a password: never print it
	Schema string
	Source string       // what chose it, in words: a flag, a variable, a file
	Config *config.File // of --config, nil if it was not given

	where string
	close func(context.Context) error // nil if there is nothing to close
}

// String says which database it is, and by whose choice.
func (t *Target) String() string { return t.where + " (" + t.Source + ")" }

// Close stops the private PostgreSQL if it was started for this target and
// nobody else uses it. Connections to the target must be closed before.
func (t *Target) Close(ctx context.Context) error {
	if t.close == nil {
		return nil
	}
	return t.close(context.WithoutCancel(ctx))
}

// Open finds the database to work on. It connects to none, but starts the
// private local PostgreSQL if that is the choice. The caller must close the
// target.
//
// The first of these counts: --dsn or --data, the variable SMPQ_DSN, the file
// of --config, the libpq variables, the private local PostgreSQL in the default
// folder. The schema is that of --schema, of the file of --config, or the
// router's default.
func (o *Connection) Open(ctx context.Context) (*Target, error) {
	t := &Target{Schema: config.DefaultSchema}
	var ini *config.StoreLog
	if o.flags.Changed("config") {
		file, err := config.Load(o.config)
		if err != nil {
			return nil, err
		}
		if !file.HasStoreLog() {
			return nil, fmt.Errorf("%s is not the router's smp-server.ini: it has no keys in a section [STORE_LOG]", o.config)
		}
		section, err := file.StoreLog()
		if err != nil {
			return nil, err
		}
		ini, t.Schema, t.Config = &section, section.DBSchema, file
	}
	if o.flags.Changed("schema") {
		if o.schema == "" {
			return nil, UsageErrorf("--schema is empty")
		}
		t.Schema = o.schema
	}
	private, err := o.choose(ctx, t, ini)
	if err != nil {
		return nil, err
	}
	if private != "" {
		err = o.startPrivate(ctx, t, private)
	} else {
		err = o.complete(ctx, t)
	}
	if err != nil {
		return nil, err
	}
	o.console.log.LogAttrs(ctx, slog.LevelDebug, "database chosen", slog.String("database", t.String()), slog.String("schema", t.Schema))
	return t, nil
}

// choose sets the connection string and its source, or returns the folder of
// the private PostgreSQL to use.
func (o *Connection) choose(ctx context.Context, t *Target, ini *config.StoreLog) (private string, err error) {
	switch {
	case o.flags.Changed("dsn"):
		if o.dsn == "" {
			return "", UsageErrorf("--dsn is empty")
		}
		t.DSN, t.Source = o.dsn, "--dsn"
	case o.flags.Changed("data"):
		if o.data == "" {
			return "", UsageErrorf("--data is empty")
		}
		t.Source = "--data"
		return o.data, nil
	case os.Getenv(dsnVariable) != "":
		t.DSN, t.Source = os.Getenv(dsnVariable), dsnVariable
		if ini != nil {
			o.console.log.LogAttrs(ctx, slog.LevelWarn, dsnVariable+" is set and chooses the database, not db_connection of --config")
		}
	case ini != nil:
		t.DSN, t.Source = ini.DBConnection, "db_connection in "+o.config
	default:
		for _, name := range libpqVariables {
			if os.Getenv(name) != "" {
				t.Source = name
				return "", nil // an empty connection string means these variables
			}
		}
		t.Source = "no other database was named"
		return dataFolder()
	}
	return "", nil
}

// startPrivate makes the private PostgreSQL in a folder the target.
func (o *Connection) startPrivate(ctx context.Context, t *Target, folder string) error {
	if o.password {
		return UsageErrorf("--password: the private PostgreSQL has none, and no other database was named")
	}
	home := filepath.Join(folder, "postgres")
	if !o.mayMake {
		status, err := pglocal.Inspect(ctx, home)
		if err == nil && status.State == pglocal.NotMade {
			err = fmt.Errorf("no private PostgreSQL in %s (%s): name a database with --dsn or --config, or have this one made by smpq import or smpq serve", folder, t.Source)
		}
		if err != nil {
			return WithCode(ExitUnavailable, err)
		}
	}
	cluster, err := pglocal.Start(ctx, pglocal.Options{Dir: home, Log: o.console.log})
	if err != nil {
		if errors.Is(err, pglocal.ErrNotInstalled) {
			err = fmt.Errorf("no database was named, and there is no PostgreSQL to start: %w", err)
		}
		return WithCode(ExitUnavailable, err)
	}
	t.DSN, t.close = cluster.DSN(""), cluster.Close
	t.where = "private PostgreSQL in " + folder
	return nil
}

// complete checks the connection string of the target, and adds the password
// if it is to be asked for.
func (o *Connection) complete(ctx context.Context, t *Target) error {
	var err error
	if t.where, err = describe(t.DSN); err != nil {
		return WithCode(ExitUsage, fmt.Errorf("%s: %w", t.Source, err))
	}
	if !o.password {
		return nil
	}
	password, err := o.console.Password(ctx, "Password for "+t.where)
	if err != nil {
		return err
	}
	t.DSN = withPassword(t.DSN, password)
	return nil
}

// withPassword adds a password to a connection string, in the place where it
// has the last word.
func withPassword(dsn, password string) string {
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		separator := "?"
		if strings.Contains(dsn, "?") {
			separator = "&"
		}
		return dsn + separator + "password=" + strings.ReplaceAll(url.QueryEscape(password), "+", "%20")
	}
	escaped := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(password)
	return strings.TrimLeft(dsn+" password='"+escaped+"'", " ")
}

// describe says which database a connection string means, without secrets.
func describe(dsn string) (string, error) {
	c, err := pgconn.ParseConfig(dsn)
	if err != nil {
		return "", redact(err)
	}
	where := c.Host
	if !filepath.IsAbs(where) {
		where = fmt.Sprintf("%s port %d", where, c.Port)
	}
	database := cmp.Or(c.Database, c.User) // as the server does
	return fmt.Sprintf("database %q on %s as %q", database, where, c.User), nil
}

// redact keeps the reason of an error about a connection string, but not the
// quoted string: with a mistake in it, not every password can be recognized.
func redact(err error) error {
	text := err.Error()
	if _, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		text = text[strings.LastIndex(text, "`: ")+len("`: "):]
	}
	return fmt.Errorf("not a usable connection string: %s", text)
}

// ConfigFile returns the name of the file of --config, empty if it was not given.
func (o *Connection) ConfigFile() string {
	if !o.flags.Changed("config") {
		return ""
	}
	return o.config
}

// Overridden reports whether something other than the file of --config chooses
// the database.
func (o *Connection) Overridden() bool {
	return o.flags.Changed("dsn") || o.flags.Changed("data") || os.Getenv(dsnVariable) != ""
}

// DataFolder returns the folder of --data, or its default.
func (o *Connection) DataFolder() (string, error) {
	if o.data != "" {
		return o.data, nil
	}
	return dataFolder()
}
