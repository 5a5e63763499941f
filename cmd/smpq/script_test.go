package main

import (
	"encoding/csv"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/smpq/smpq/internal/dumptest"
	"github.com/smpq/smpq/internal/pgtest"
)

func TestMain(m *testing.M) {
	testscript.Main(pgtest.M{M: m}, map[string]func(){"smpq": main})
}

// TestScripts runs the scripts in testdata/script, which are the description
// of what smpq shows its user. Besides testscript's own commands they have
//
//	database [NAME]         make an empty database and name it by SMPQ_DSN, or by NAME
//	dump FOLDER             load what smp-server left there into schema smp_server of that database
//	sql QUERY               print what a query on that database returns, as CSV
//	status N COMMAND ARG…   run a command that must end with exit status N
//
// and the variable TESTDATA, the folder of the repository's test data. With
// UPDATE_SCRIPTS=1 in the environment, what a script compares with a file in
// itself is written there.
func TestScripts(t *testing.T) {
	testdata, err := filepath.Abs(filepath.Join("..", "..", "testdata"))
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(env *testscript.Env) error {
			env.Values[testValue{}] = env.T()
			env.Setenv("TESTDATA", testdata)
			// A script without a database must not start to use the user's own.
			env.Setenv(dsnVariable, "host=/nonexistent dbname=say-database-first")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"database": scriptDatabase,
			"dump":     scriptDump,
			"sql":      scriptSQL,
			"status":   scriptStatus,
		},
	})
}

const dsnVariable = "SMPQ_DSN"

// testValue is the key of a script's testing.TB among its values.
type testValue struct{}

func scriptTest(ts *testscript.TestScript) testing.TB { return ts.Value(testValue{}).(testing.TB) }

func scriptDatabase(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: database [NAME]")
	}
	name := dsnVariable
	if len(args) == 1 {
		name = args[0]
	}
	ts.Setenv(name, pgtest.DSN(scriptTest(ts)))
}

func scriptDump(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: dump FOLDER")
	}
	t := scriptTest(ts)
	conn, err := pgx.Connect(t.Context(), ts.Getenv(dsnVariable))
	ts.Check(err)
	defer conn.Close(t.Context())
	dumptest.Load(t, conn, "smp_server", args[0])
}

func scriptSQL(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] sql QUERY")
	}
	err := printQuery(scriptTest(ts), ts, args[0])
	switch {
	case err != nil && !neg:
		ts.Fatalf("sql: %v", err)
	case err != nil:
		ts.Logf("sql: %v", err)
	case neg:
		ts.Fatalf("sql: succeeded")
	}
}

// printQuery prints the rows of a query as CSV, NULL as an empty field, bytes
// in hex.
func printQuery(tb testing.TB, ts *testscript.TestScript, query string) (err error) {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), ts.Getenv(dsnVariable))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(tb.Context())) }()
	rows, err := conn.Query(tb.Context(), query, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return err
	}
	defer rows.Close()
	out := csv.NewWriter(ts.Stdout())
	for rows.Next() {
		var record []string
		for _, text := range rows.RawValues() {
			record = append(record, string(text))
		}
		if err := out.Write(record); err != nil {
			return err
		}
	}
	out.Flush()
	return errors.Join(rows.Err(), out.Error())
}

func scriptStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND ARG…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}
