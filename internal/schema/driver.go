package schema

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	"github.com/golang-migrate/migrate/v4/source/iofs"

	"github.com/smpq/smpq/migrations"
)

// A Step applies or reverts one migration, in one transaction.
type Step struct {
	Migration Version // the migration applied or reverted
	Down      bool    // reverted
	To        Version // the version after the step

	prepare string // settings, and locks on all tables: a step that has to give up has done nothing yet
	change  string // the script, and the row of the table migrations
}

// SQL is everything that the step executes, from "begin" to "commit".
func (s Step) SQL() string {
	return "begin;\n\n" + s.prepare + "\n" + s.change + "\ncommit;\n"
}

// A driver is golang-migrate's view of a schema. golang-migrate finds the
// scripts and their order; the driver makes a Step of each and hands it to apply,
// which executes it or only takes note of it. What golang-migrate would keep in
// a table of its own is the version in smp-server's table migrations, which each
// step changes with the tables: no schema is ever "dirty".
type driver struct {
	schema string
	create bool // the schema is to be created with the first step
	wait   time.Duration
	apply  func(Step) error

	at, target Version // before and after the step in hand
}

var _ database.Driver = (*driver)(nil)

// walk applies the steps from one version to another, one after the other.
func (d *driver) walk(to Version) error {
	scripts, err := iofs.New(migrations.FS, ".")
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	m, err := migrate.NewWithInstance("migrations", scripts, "schema", d)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	// One step per call: golang-migrate reads ahead, and would leave its readers
	// behind when a step fails.
	for d.at != to {
		n := 1
		if to < d.at {
			n = -1
		}
		if err := m.Steps(n); err != nil {
			return err
		}
	}
	return nil
}

// Version returns the number of the version that has been reached.
func (d *driver) Version() (version int, dirty bool, err error) {
	return d.at.number(), false, nil
}

// SetVersion is called before a script, with dirty set, and after it.
func (d *driver) SetVersion(version int, dirty bool) error {
	if dirty {
		d.target = versionNumbered(version)
	} else {
		d.at = d.target
	}
	return nil
}

// Run makes a step of a script and applies it.
func (d *driver) Run(script io.Reader) error {
	text, err := io.ReadAll(script)
	if err != nil {
		return fmt.Errorf("read migration: %w", err)
	}
	step, err := d.step(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	return d.apply(step)
}

// step adds to a script what makes it a transaction of its own.
func (d *driver) step(script string) (Step, error) {
	s := Step{Migration: d.target, To: d.target}
	if d.target < d.at {
		s.Migration, s.Down = d.at, true
	}
	var prepare strings.Builder
	if d.create && d.at == None {
		fmt.Fprintf(&prepare, "create schema %s;\n", Quote(d.schema))
	}
	fmt.Fprintf(&prepare, "set local search_path to %s;\n", Quote(d.schema))
	fmt.Fprintf(&prepare, "set local client_min_messages to warning;\n")
	fmt.Fprintf(&prepare, "set local lock_timeout to '%dms';\n", d.wait.Milliseconds())
	if d.at == None {
		prepare.WriteString("create table if not exists migrations (name text not null primary key, ts timestamp not null, down text);\n")
	}
	prepare.WriteString("lock table migrations in share row exclusive mode;\n")
	if tables := d.at.tables(); len(tables) > 0 {
		fmt.Fprintf(&prepare, "lock table %s in access exclusive mode;\n", strings.Join(tables, ", "))
	}
	s.prepare = prepare.String()

	if s.Down {
		s.change = fmt.Sprintf("%s\n\ndelete from migrations where name = '%s';\n", script, s.Migration)
		return s, nil
	}
	down, err := storedDown(s.Migration)
	if err != nil {
		return Step{}, err
	}
	s.change = fmt.Sprintf("insert into migrations (name, ts, down) values ('%s', clock_timestamp() at time zone 'utc', %s);\n\n%s\n",
		s.Migration, down, script)
	return s, nil
}

// storedDown is the SQL literal of a migration's way back as the table
// migrations keeps it. The first has none there: without it no router works.
func storedDown(v Version) (string, error) {
	if v == Initial {
		return "null", nil
	}
	text, err := fs.ReadFile(migrations.FS, string(v)+".down.sql")
	if err != nil {
		return "", fmt.Errorf("read migration: %w", err)
	}
	const quote = "$down$"
	if strings.Contains(string(text), quote) {
		return "", fmt.Errorf("migration %s: its way back contains %s", v, quote)
	}
	return quote + "\n" + string(text) + quote, nil
}

// errUnused is what the methods return that golang-migrate never calls here.
var errUnused = errors.New("not supported")

// Open is part of database.Driver: for drivers that connect by themselves.
func (d *driver) Open(string) (database.Driver, error) { return nil, errUnused }

// Drop is part of database.Driver: for its own command line.
func (d *driver) Drop() error { return errUnused }

// Lock does nothing: Migrate holds the schema's lock all the time.
func (d *driver) Lock() error { return nil }

// Unlock does nothing.
func (d *driver) Unlock() error { return nil }

// Close does nothing: the connection is the caller's.
func (d *driver) Close() error { return nil }
