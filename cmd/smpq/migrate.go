package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/schema"
)

func newMigrate(console *cli.Console) *cobra.Command {
	return cli.Group("migrate", "Bring the database schema to another version",
		newMigrateStatus(console), newMigrateUp(console), newMigrateDown(console), newMigrateTo(console), newMigrateAdopt(console))
}

func newMigrateStatus(console *cli.Console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the version of the schema and which releases accept it",
		Long: `Show the version of the schema, the releases of smp-server that accept it, and
what is wrong with it. The tables are compared with what the version should
have. Nothing is changed. The exit status is 1 if the schema cannot be used.`,
		Example: `  smpq migrate status
  smpq migrate status --config /etc/opt/simplex/smp-server.ini -o json`,
		Args: cobra.NoArgs,
	}
	connection, out := console.AddConnectionFlags(cmd), cli.AddOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		return onDatabase(ctx, connection, "migrate status", func(conn *pgx.Conn, target *cli.Target) error {
			state, err := schema.Inspect(ctx, conn, target.Schema)
			if err != nil {
				return err
			}
			return writeState(cmd.OutOrStdout(), out, state, state.Err())
		})
	}
	return cmd
}

func newMigrateAdopt(console *cli.Console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Check that a schema that smp-server made can be used as it is",
		Long: `Check that a schema which smp-server 6.4, 6.5 or 7.0 made can be used as it is:
migrations, tables, columns, indexes, functions and rights. Nothing has to be
converted, and nothing is changed. The exit status is 1 if it cannot be used.`,
		Example: `  smpq migrate adopt --config /etc/opt/simplex/smp-server.ini`,
		Args:    cobra.NoArgs,
	}
	connection, out := console.AddConnectionFlags(cmd), cli.AddOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		return onDatabase(ctx, connection, "migrate adopt", func(conn *pgx.Conn, target *cli.Target) error {
			state, refused := schema.Adopt(ctx, conn, target.Schema)
			if refused != nil && state.Version == schema.None && len(state.Problems) == 0 {
				return refused
			}
			return writeState(cmd.OutOrStdout(), out, state, refused)
		})
	}
	return cmd
}

// A stateResult is the state of a schema.
type stateResult struct {
	schema.State
	Newest   schema.Version `json:"newest"` // that this program knows
	Releases []string       `json:"releases"`
}

// writeState prints what a schema is. It returns the reason for which it is
// refused, if there is one, which is not printed twice.
func writeState(w io.Writer, out *cli.Output, s schema.State, refused error) error {
	releases := append([]string{}, s.Version.Releases()...)
	result := stateResult{s, schema.Newest, releases}

	t := cli.Table{Columns: []string{"name", "value"}, Plain: true}
	t.Add("schema", s.Schema)
	switch {
	case !s.Exists:
		t.Add("state", "does not exist")
	case s.Version == schema.None && len(s.Problems) > 0:
		t.Add("state", "exists, of no version that can be used")
	case s.Version == schema.None:
		t.Add("state", "exists, without the tables of a router")
	default:
		version := string(s.Version)
		if s.Version == schema.Newest {
			version += " (the newest)"
		}
		t.Add("version", version)
		t.Add("accepted by", releasesText(releases))
	}
	if s.Owner != "" {
		t.Add("owner", s.Owner)
	}
	for _, a := range s.Applied {
		t.Add("migration", a.Name+", "+a.At.Format(time.DateTime)+" UTC")
	}
	for _, d := range s.Differences {
		t.Add("difference", d.String())
	}
	for _, n := range s.Notes {
		t.Add("note", n)
	}
	if err := out.Write(w, result, t); err != nil {
		return err
	}
	return refused
}

func newMigrateUp(console *cli.Console) *cobra.Command {
	m := migration{console: console, creates: true, cmd: &cobra.Command{
		Use:   "up",
		Short: "Bring the schema to the newest version, or create it",
		Long: `Bring the schema to the newest version. A schema that does not exist is created.
` + migrateText,
		Example: `  smpq migrate up
  smpq migrate up --dry-run`,
		Args: cobra.NoArgs,
	}}
	return m.command(func(context.Context, *pgx.Conn, string, []string) (schema.Version, error) {
		return schema.Newest, nil
	})
}

func newMigrateDown(console *cli.Console) *cobra.Command {
	var steps int
	m := migration{console: console, cmd: &cobra.Command{
		Use:   "down",
		Short: "Take the newest migration back",
		Long: `Take the newest migration of the schema back, or as many as --steps says. What
only the newer version has a place for is deleted.
` + migrateText,
		Example: `  smpq migrate down
  smpq migrate down --steps 2 --yes`,
		Args: cobra.NoArgs,
	}}
	m.cmd.Flags().IntVar(&steps, "steps", 1, "number of migrations to take back")
	return m.command(func(ctx context.Context, conn *pgx.Conn, name string, _ []string) (schema.Version, error) {
		if steps < 1 {
			return schema.None, cli.UsageErrorf("--steps %d: must be at least 1", steps)
		}
		state, err := schema.Inspect(ctx, conn, name)
		if err != nil {
			return schema.None, err
		}
		if state.Err() == nil && steps > len(state.Applied) {
			return schema.None, fmt.Errorf("schema %s has %d migrations, not %d that could be taken back",
				schema.Quote(name), len(state.Applied), steps)
		}
		if n := len(state.Applied) - steps; n > 0 {
			return schema.Version(state.Applied[n-1].Name), state.Err()
		}
		return schema.None, state.Err()
	})
}

func newMigrateTo(console *cli.Console) *cobra.Command {
	m := migration{console: console, creates: true, cmd: &cobra.Command{
		Use:   "to VERSION|RELEASE",
		Short: "Bring the schema to a version, up or down",
		Long: `Bring the schema to a version, up or down. The version is named by its last
migration (20250903_store_messages, 20250903 or store_messages) or by a release
of smp-server that accepts it (smp-server-6.5). A schema that does not exist is
created.
` + migrateText,
		Example: `  smpq migrate to smp-server-6.5
  smpq migrate to store_messages --dry-run`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeVersion,
	}}
	return m.command(func(_ context.Context, _ *pgx.Conn, _ string, args []string) (schema.Version, error) {
		return parseVersion(args[0])
	})
}

// parseVersion reads a version or a release.
func parseVersion(text string) (schema.Version, error) {
	v, err := schema.ParseVersion(text)
	if err == nil {
		return v, nil
	}
	v, release := schema.VersionFor(text)
	if release == nil {
		return v, nil
	}
	return schema.None, cli.WithCode(cli.ExitUsage, fmt.Errorf("%w; %w", err, release))
}

// completeVersion completes the versions and the releases.
func completeVersion(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, v := range schema.All() {
		names = append(names, string(v))
		names = append(names, v.Releases()...)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// migrateText is what the help texts of all migrations have.
const migrateText = `
Each step is one transaction: whatever happens, the schema is at one version or
the other. smp-server keeps track of the same migrations and accepts the result.
Stop the router before: it works with one version only. A migration that deletes
data asks before it begins.`

// A migration is a command that migrates.
type migration struct {
	console     *cli.Console
	cmd         *cobra.Command
	creates     bool // a schema that is not there
	dryRun, yes bool
	wait        cli.Duration
}

// command adds what all migrations share. The function chooses the version to
// go to.
func (m *migration) command(choose func(ctx context.Context, conn *pgx.Conn, name string, args []string) (schema.Version, error)) *cobra.Command {
	m.wait = cli.Duration(5 * time.Second)
	flags := m.cmd.Flags()
	flags.BoolVar(&m.dryRun, "dry-run", false, "print the SQL and change nothing")
	flags.BoolVar(&m.yes, "yes", false, "do not ask before data is deleted")
	flags.Var(&m.wait, "lock-timeout", "how long to wait for tables that others use")
	connection, out := m.console.AddConnectionFlags(m.cmd), cli.AddOutputFlag(m.cmd)
	if m.creates {
		connection.MayMake()
	}
	m.cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		return onDatabase(ctx, connection, "migrate", func(conn *pgx.Conn, target *cli.Target) error {
			to, err := choose(ctx, conn, target.Schema, args)
			if err != nil {
				return err
			}
			plan, err := m.run(ctx, conn, target, to)
			if err != nil {
				return err
			}
			return m.write(cmd, out, plan)
		})
	}
	return m.cmd
}

// run migrates, or only plans to.
func (m *migration) run(ctx context.Context, conn *pgx.Conn, target *cli.Target, to schema.Version) (schema.Plan, error) {
	o := schema.Options{LockTimeout: time.Duration(m.wait)}
	if m.dryRun {
		return schema.NewPlan(ctx, conn, target.Schema, to, o)
	}
	o.Approve = func(p schema.Plan) error {
		if len(p.Losses) == 0 {
			return nil
		}
		return m.console.Confirm(ctx, m.yes, fmt.Sprintf("This deletes %s from schema %s in %s. Go on?",
			lossText(p.Losses), schema.Quote(p.Schema), target))
	}
	return schema.Migrate(ctx, conn, target.Schema, to, o)
}

func lossText(losses []schema.Loss) string {
	texts := make([]string, len(losses))
	for i, l := range losses {
		texts[i] = l.String()
	}
	return strings.Join(texts, ", ")
}

// A migrated is the result of a migration, or of its dry run.
type migrated struct {
	Schema   string          `json:"schema"`
	Created  bool            `json:"created"`
	From     *schema.Version `json:"from"` // null: without tables
	To       *schema.Version `json:"to"`
	Releases []string        `json:"releases"` // that accept the schema now
	Steps    []migratedStep  `json:"steps"`
	Deleted  []string        `json:"deleted"` // what was lost
	DryRun   bool            `json:"dry_run"` // nothing was done
}

type migratedStep struct {
	Migration schema.Version `json:"migration"`
	Direction string         `json:"direction"` // "up" or "down"
	SQL       string         `json:"sql,omitempty"`
}

// write prints what was done or, after a dry run, the SQL.
func (m *migration) write(cmd *cobra.Command, out *cli.Output, p schema.Plan) error {
	r := migrated{
		Schema: p.Schema, Created: p.Create, From: nullable(p.From), To: nullable(p.To),
		Releases: append([]string{}, p.To.Releases()...), Steps: []migratedStep{}, Deleted: []string{}, DryRun: m.dryRun,
	}
	for _, s := range p.Steps {
		step := migratedStep{Migration: s.Migration, Direction: "up"}
		if s.Down {
			step.Direction = "down"
		}
		if m.dryRun {
			step.SQL = s.SQL()
		}
		r.Steps = append(r.Steps, step)
	}
	for _, l := range p.Losses {
		r.Deleted = append(r.Deleted, l.String())
	}
	if m.dryRun && !cmd.Flags().Changed("output") {
		return writeSQL(cmd.OutOrStdout(), r, p.SQL())
	}
	t := cli.Table{Columns: []string{"name", "value"}, Plain: true}
	t.Add("schema", r.Schema)
	t.Add("from", r.from())
	t.Add("to", versionText(r.To))
	for _, s := range r.Steps {
		t.Add(s.Direction, string(s.Migration))
	}
	if len(r.Steps) == 0 {
		t.Add("steps", "none needed")
	}
	if len(r.Deleted) > 0 {
		t.Add("deleted", strings.Join(r.Deleted, ", "))
	}
	if r.To != nil {
		t.Add("accepted by", releasesText(r.Releases))
	}
	return out.Write(cmd.OutOrStdout(), r, t)
}

// writeSQL prints what a migration executes, as SQL that psql executes as well.
func writeSQL(w io.Writer, r migrated, sql string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "-- schema %s: from %s to %s\n", schema.Quote(r.Schema), r.from(), versionText(r.To))
	if len(r.Deleted) > 0 {
		fmt.Fprintf(&b, "-- deletes %s\n", strings.Join(r.Deleted, ", "))
	}
	if sql == "" {
		b.WriteString("-- nothing to do\n")
	} else {
		b.WriteString("\n" + sql)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("print the SQL: %w", err)
	}
	return nil
}

// from describes what the schema was before.
func (r *migrated) from() string {
	if r.Created {
		return "not there"
	}
	return versionText(r.From)
}

// nullable is a version for JSON.
func nullable(v schema.Version) *schema.Version {
	if v == schema.None {
		return nil
	}
	return &v
}

func versionText(v *schema.Version) string {
	if v == nil {
		return "no tables"
	}
	return string(*v)
}

func releasesText(releases []string) string {
	return cmp.Or(strings.Join(releases, ", "), "no release of smp-server")
}
