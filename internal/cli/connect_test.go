package cli_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/cli"
)

// target opens the target of a command line and returns what was logged too.
func target(t *testing.T, args ...string) (*cli.Target, string, error) {
	t.Helper()
	var stderr bytes.Buffer
	console := cli.NewConsole(strings.NewReader(""), &stderr)
	var opened *cli.Target
	cmd := &cobra.Command{Use: "test", SilenceErrors: true, SilenceUsage: true}
	connection := console.AddConnectionFlags(cmd)
	mayMake := cmd.Flags().Bool("make", false, "")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if *mayMake {
			connection.MayMake()
		}
		opened, err = connection.Open(cmd.Context())
		return err
	}
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return opened, stderr.String(), err
}

// clearEnvironment removes what could choose a database.
func clearEnvironment(t *testing.T) {
	t.Helper()
	for _, name := range []string{"SMPQ_DSN", "PGSERVICE", "PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGSERVICEFILE"} {
		t.Setenv(name, "")
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
}

func iniFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "smp-server.ini")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConnectionPrecedence(t *testing.T) {
	ini := iniFile(t, "[STORE_LOG]\ndb_connection = postgresql://ini:hunter2@ini.example/ini\ndb_schema = ini_schema\n")
	plain := iniFile(t, "[STORE_LOG]\nenable = on\n")
	tests := []struct {
		name   string
		env    map[string]string
		args   []string
		dsn    string
		schema string
		text   string // where, and by whose choice
		logged string
	}{
		{
			name:   "flag before everything",
			env:    map[string]string{"SMPQ_DSN": "host=env", "PGHOST": "pg"},
			args:   []string{"--dsn", "host=flag user=u dbname=d password=hunter2", "--config", ini},
			dsn:    "host=flag user=u dbname=d password=hunter2",
			schema: "ini_schema",
			text:   `database "d" on flag port 5432 as "u" (--dsn)`,
		},
		{
			name:   "variable before file",
			env:    map[string]string{"SMPQ_DSN": "postgres://u:hunter2@env:5433/d", "PGHOST": "pg"},
			args:   []string{"--config", ini},
			dsn:    "postgres://u:hunter2@env:5433/d",
			schema: "ini_schema",
			text:   `database "d" on env port 5433 as "u" (SMPQ_DSN)`,
			logged: "SMPQ_DSN is set and chooses the database, not db_connection of --config",
		},
		{
			name:   "file before libpq",
			env:    map[string]string{"PGHOST": "pg", "PGDATABASE": "pgd"},
			args:   []string{"--config", ini},
			dsn:    "postgresql://ini:hunter2@ini.example/ini",
			schema: "ini_schema",
			text:   `database "ini" on ini.example port 5432 as "ini" (db_connection in ` + ini + `)`,
		},
		{
			name:   "file without the key",
			env:    map[string]string{"PGHOST": "/run/pg"},
			args:   []string{"--config", plain},
			dsn:    "postgresql://smp@/smp_server_store",
			schema: "smp_server",
			text:   `database "smp_server_store" on /run/pg as "smp" (db_connection in ` + plain + `)`,
		},
		{
			name:   "libpq before private",
			env:    map[string]string{"PGDATABASE": "pgd", "PGUSER": "pgu", "PGHOST": "/run/pg"},
			dsn:    "",
			schema: "smp_server",
			text:   `database "pgd" on /run/pg as "pgu" (PGHOST)`,
		},
		{
			name:   "schema flag",
			args:   []string{"--dsn", "host=h user=u dbname=d", "--config", ini, "--schema", "Other Schema"},
			dsn:    "host=h user=u dbname=d",
			schema: "Other Schema",
			text:   `database "d" on h port 5432 as "u" (--dsn)`,
		},
		{
			name:   "password alone chooses nothing",
			env:    map[string]string{"SMPQ_DSN": "host=h user=u dbname=d", "PGPASSWORD": "hunter2"},
			dsn:    "host=h user=u dbname=d",
			schema: "smp_server",
			text:   `database "d" on h port 5432 as "u" (SMPQ_DSN)`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			clearEnvironment(t)
			for name, value := range tt.env {
				t.Setenv(name, value)
			}
			got, logged, err := target(t, tt.args...)
			if err != nil {
				t.Fatal(err)
			}
			if got.DSN != tt.dsn || got.Schema != tt.schema || got.String() != tt.text {
				t.Errorf("got  %q\nschema %q\n%s\nwant %q\nschema %q\n%s", got.DSN, got.Schema, got, tt.dsn, tt.schema, tt.text)
			}
			if !strings.Contains(logged, tt.logged) || tt.logged == "" && logged != "" {
				t.Errorf("logged %q, want %q", logged, tt.logged)
			}
			if strings.Contains(got.String()+logged, "hunter2") {
				t.Errorf("the password was shown: %s %s", got, logged)
			}
			if err := got.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestConnectionRefused(t *testing.T) {
	tests := []struct {
		name string
		args []string
		code int
		want string
	}{
		{"empty dsn", []string{"--dsn="}, cli.ExitUsage, "--dsn is empty"},
		{"empty schema", []string{"--dsn=host=h", "--schema="}, cli.ExitUsage, "--schema is empty"},
		{"empty data", []string{"--data="}, cli.ExitUsage, "--data is empty"},
		{
			"bad port",
			[]string{"--dsn=postgres://u:hunter2@h:port/d"},
			cli.ExitUsage, "--dsn: not a usable connection string: invalid port",
		},
		{
			"unrecognizable password",
			[]string{"--dsn=password = hunter2 port=x"},
			cli.ExitUsage, "--dsn: not a usable connection string: invalid port",
		},
		{
			"password prompt",
			[]string{"--dsn=host=h", "--password"},
			cli.ExitUsage, "cannot ask for a password: standard input and error are not a terminal",
		},
		{
			"password of the private database",
			[]string{"--password"},
			cli.ExitUsage, "--password: the private PostgreSQL has none, and no other database was named",
		},
		{
			"config missing",
			[]string{"--config=/nonexistent/smp-server.ini"},
			cli.ExitFailed, "read configuration: open /nonexistent/smp-server.ini: no such file or directory",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			clearEnvironment(t)
			_, _, err := target(t, tt.args...)
			if text(err) != tt.want || cli.ExitCode(err) != tt.code {
				t.Errorf("error %q with exit code %d, want %q with %d", text(err), cli.ExitCode(err), tt.want, tt.code)
			}
		})
	}
	t.Run("other file", func(t *testing.T) {
		clearEnvironment(t)
		other := iniFile(t, "CREATE rid=AAAA\n[INFORMATION]\nenable = on\n")
		_, _, err := target(t, "--config", other)
		if want := other + " is not the router's smp-server.ini: it has no keys in a section [STORE_LOG]"; text(err) != want {
			t.Errorf("error %q, want %q", text(err), want)
		}
	})
	t.Run("bad value in file", func(t *testing.T) {
		clearEnvironment(t)
		ini := iniFile(t, "[STORE_LOG]\ndb_schema =\n")
		_, _, err := target(t, "--config", ini)
		if want := ini + ":2: [STORE_LOG] db_schema: is empty"; text(err) != want {
			t.Errorf("error %q, want %q", text(err), want)
		}
	})
}

// TestConnectionPrivate checks that --data means the private PostgreSQL,
// whatever the environment says, and that closing the target stops it.
func TestConnectionPrivate(t *testing.T) {
	clearEnvironment(t)
	t.Setenv("SMPQ_DSN", "host=nosuch")
	t.Setenv("PGHOST", "nosuch")
	data := openFolder(t)
	_, _, err := target(t, "--data", data)
	if want := "no private PostgreSQL in " + data + " (--data): name a database with --dsn or --config, or have this one made by smpq import or smpq serve"; text(err) != want || cli.ExitCode(err) != cli.ExitUnavailable {
		t.Errorf("before there is one: %v", err)
	}
	if files, err := os.ReadDir(data); err != nil || len(files) > 0 {
		t.Errorf("the folder has %v, %v", files, err)
	}
	got, _, err := target(t, "--data", data, "--schema", "s", "--make")
	if err != nil {
		t.Fatal(err)
	}
	if want := "private PostgreSQL in " + data + " (--data)"; got.String() != want || got.Schema != "s" {
		t.Errorf("target %q, schema %q, want %q, s", got, got.Schema, want)
	}
	conn, err := pgx.Connect(t.Context(), got.DSN)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := got.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if conn, err := pgx.Connect(t.Context(), got.DSN); err == nil {
		t.Error("the private PostgreSQL still runs")
		_ = conn.Close(t.Context())
	}
}

// openFolder returns a temporary folder that every user may enter, as the
// server's programs run as another user where the tests run as root.
func openFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "smpq-cli-test-") //nolint:usetesting // that of t.TempDir is in one that is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}
