// Package dumptest loads the tables that the real smp-server left behind, from
// testdata, into databases of tests.
package dumptest

import (
	"bytes"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/storelog"
)

// Root is the folder of the dumps, for tests of packages two levels below the
// root of the repository.
const Root = "../../testdata/smp-server-6.5.5/2-import"

// Dirs returns the folders of all dumps, variants included.
func Dirs(t testing.TB) []string {
	t.Helper()
	var dirs []string
	for _, pattern := range []string{"*/msg_queues.csv", "variants/*/msg_queues.csv"} {
		files, err := filepath.Glob(filepath.Join(Root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			dirs = append(dirs, filepath.Dir(file))
		}
	}
	if len(dirs) == 0 {
		t.Fatalf("no dumps in %s", Root)
	}
	return dirs
}

// Load creates a schema of version 20250903_store_messages, which is that of the
// dumps, or empties the one that is there, and loads the CSV files of a dump into
// it. The connection must not be in a transaction.
//
// The dumps are ordered by key. As services are exported in the order in which
// they are stored, they are stored in the order in which smp-server exported
// them.
func Load(t testing.TB, conn *pgx.Conn, name, dir string) {
	t.Helper()
	plan, err := schema.Migrate(t.Context(), conn, name, schema.StoreMessages, schema.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Steps) == 0 {
		if _, err := conn.Exec(t.Context(), "truncate "+pgx.Identifier{name, "services"}.Sanitize()+" cascade"); err != nil {
			t.Fatal(err)
		}
	}
	services := Rows(t, filepath.Join(dir, "services.csv"))
	var order []string
	for _, sv := range Services(t, dir) {
		order = append(order, `\x`+hex.EncodeToString(sv.ID.Bytes()))
	}
	slices.SortStableFunc(services[1:], func(a, b []string) int {
		return slices.Index(order, a[0]) - slices.Index(order, b[0])
	})
	copyRows(t, conn, name, "services", services)
	copyRows(t, conn, name, "msg_queues", Rows(t, filepath.Join(dir, "msg_queues.csv")))

	messages := filepath.Join(dir, "messages.csv")
	if _, err := os.Stat(messages); errors.Is(err, fs.ErrNotExist) {
		return
	}
	copyRows(t, conn, name, "messages", Rows(t, messages))
	table := pgx.Identifier{name, "messages"}.Sanitize()
	_, err = conn.Exec(t.Context(), "select setval(pg_get_serial_sequence($1, 'message_id'), (select max(message_id) from "+table+"))", table)
	if err != nil {
		t.Fatal(err)
	}
}

// Rows reads a CSV file of a dump, with its header.
func Rows(t testing.TB, file string) [][]string {
	t.Helper()
	data, err := os.ReadFile(file) //nolint:gosec // a file of testdata
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	if err != nil || len(rows) == 0 {
		t.Fatalf("%s: %d rows, %v", file, len(rows), err)
	}
	return rows
}

// copyRows copies rows, the first of which is the header, into a table. An empty
// field is NULL: no column has empty text.
func copyRows(t testing.TB, conn *pgx.Conn, schemaName, table string, rows [][]string) {
	t.Helper()
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	if err := w.WriteAll(rows[1:]); err != nil {
		t.Fatal(err)
	}
	sql := fmt.Sprintf("copy %s (%s) from stdin with (format csv)",
		pgx.Identifier{schemaName, table}.Sanitize(), strings.Join(rows[0], ", "))
	if _, err := conn.PgConn().CopyFrom(t.Context(), io.Reader(&b), sql); err != nil {
		t.Fatalf("load %s: %v", table, err)
	}
}

// Services returns the services of a dump as smp-server exported them.
func Services(t testing.TB, dir string) []queue.Service {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "exported-store.log")) //nolint:gosec // a file of testdata
	if err != nil {
		t.Fatal(err)
	}
	var services []queue.Service
	for line := range bytes.Lines(data) {
		rec, err := storelog.Parse(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			t.Fatalf("%s: %v", dir, err)
		}
		if sv, ok := rec.(*storelog.NewService); ok {
			services = append(services, sv.Service)
		}
	}
	return services
}
