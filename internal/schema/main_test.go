package schema

import (
	"bytes"
	"context"
	"encoding/csv"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.M{M: m}) }

// served is the data that smp-server 6.5.5 made.
const served = "../../testdata/smp-server-6.5.5/2-import"

// dumped is the name of the schema in that data.
const dumped = "smp_server"

// newConn connects to a new database.
func newConn(t testing.TB) *pgx.Conn {
	t.Helper()
	return pgtest.Conn(t, pgtest.DSN(t))
}

// makeSchema makes a schema of a version.
func makeSchema(t testing.TB, c *pgx.Conn, schema string, v Version) {
	t.Helper()
	err := pgx.BeginFunc(t.Context(), c, func(tx pgx.Tx) error { return Create(t.Context(), tx, schema, v) })
	if err != nil {
		t.Fatal(err)
	}
}

// loadDump makes the schema that smp-server 6.5.5 made, with the rows of its
// table migrations and, if a folder is given, its data.
func loadDump(t testing.TB, c *pgx.Conn, folder string) {
	t.Helper()
	var sql strings.Builder
	for line := range strings.Lines(readFile(t, served, "memory-1-raw", "schema.sql")) {
		if !strings.HasPrefix(line, `\`) {
			sql.WriteString(line)
		}
	}
	pgtest.Exec(t, c, sql.String())
	pgtest.Exec(t, c, "reset all")
	if folder == "" {
		copyCSV(t, c, "migrations", served, "memory-1-raw", "migrations.csv")
		return
	}
	for _, table := range []string{"migrations", "services", "msg_queues", "messages"} {
		copyCSV(t, c, table, served, folder, table+".csv")
	}
}

// copyCSV fills a table from a file; a folder without one has no rows.
func copyCSV(t testing.TB, c *pgx.Conn, table string, path ...string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(path...)); os.IsNotExist(err) && table == "messages" {
		return
	}
	data := readFile(t, path...)
	_, err := c.PgConn().CopyFrom(t.Context(), strings.NewReader(data),
		"copy "+pgx.Identifier{dumped, table}.Sanitize()+" from stdin (format csv, header)")
	if err != nil {
		t.Fatal(err)
	}
}

// readCSV returns the records of a file without its header.
func readCSV(t testing.TB, path ...string) [][]string {
	t.Helper()
	records, err := csv.NewReader(strings.NewReader(readFile(t, path...))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return records[1:]
}

func readFile(t testing.TB, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")))
}

// mustDescribe returns the structure of a schema.
func mustDescribe(t testing.TB, c *pgx.Conn, schema string) structure {
	t.Helper()
	s, err := describe(t.Context(), c, schema)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// mustInspect returns the state of a schema.
func mustInspect(t testing.TB, c *pgx.Conn, schema string) State {
	t.Helper()
	s, err := Inspect(t.Context(), c, schema)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// mustMigrate migrates, whatever is lost.
func mustMigrate(t testing.TB, c *pgx.Conn, schema string, to Version) Plan {
	t.Helper()
	p, err := Migrate(t.Context(), c, schema, to, Options{Approve: func(Plan) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// rows returns the rows of a table as JSON, in no order that depends on where
// they are stored, without the given columns.
func rows(t testing.TB, c *pgx.Conn, schema, table string, without ...string) []string {
	t.Helper()
	if without == nil {
		without = []string{}
	}
	r, err := c.Query(t.Context(), "select (to_jsonb(t) - $1::text[])::text from "+pgx.Identifier{schema, table}.Sanitize()+" t order by 1", without)
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(r, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// one returns the value of a query.
func one[T any](t testing.TB, c *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := c.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// begin starts a transaction that is rolled back when the test ends.
func begin(t testing.TB, c *pgx.Conn) pgx.Tx {
	t.Helper()
	tx, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tx.Rollback(context.Background()); err != nil && err != pgx.ErrTxClosed { //nolint:errorlint // not wrapped
			t.Error(err)
		}
	})
	return tx
}
