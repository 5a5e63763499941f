package main

import (
	"encoding/csv"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/smpq/smpq/internal/dumptest"
	"github.com/smpq/smpq/internal/pgtest"
)

func TestMain(m *testing.M) {
	// A program that looks for races sleeps for a second before it ends, and the
	// tests start hundreds.
	if err := os.Setenv(raceVariable, "atexit_sleep_ms=0 "+os.Getenv(raceVariable)); err != nil {
		panic(err) // the name is valid
	}
	testscript.Main(pgtest.M{M: m}, map[string]func(){"smpq": main})
}

// TestScripts runs the scripts in testdata/script, which are the description
// of what smpq shows its user. Besides testscript's own commands they have
//
//	database [NAME]         make an empty database and name it by SMPQ_DSN, or by NAME
//	dump FOLDER             load what smp-server left there into schema smp_server of that database
//	sql QUERY               print what a query on that database returns, as CSV
//	status N COMMAND ARG…   run a command that must end with exit status N
//	refused FILE PLACE TEXT no command takes the store log FILE: each says what is wrong
//	                        with it, at which place, and nothing is changed
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
			env.Setenv(raceVariable, os.Getenv(raceVariable))
			// A script without a database must not start to use the user's own.
			env.Setenv(dsnVariable, "host=/nonexistent dbname=say-database-first")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"database": scriptDatabase,
			"dump":     scriptDump,
			"sql":      scriptSQL,
			"status":   scriptStatus,
			"refused":  scriptRefused,
		},
	})
}

const (
	dsnVariable  = "SMPQ_DSN"
	raceVariable = "GORACE" // options of the race detector
)

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
	err := printQuery(scriptTest(ts), ts.Stdout(), ts.Getenv(dsnVariable), args[0])
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
func printQuery(tb testing.TB, w io.Writer, dsn, query string) (err error) {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(tb.Context())) }()
	rows, err := conn.Query(tb.Context(), query, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return err
	}
	defer rows.Close()
	out := csv.NewWriter(w)
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

func scriptRefused(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: refused FILE PLACE TEXT")
	}
	file, place, text := args[0], args[1], args[2]
	const more = "To see all that is wrong: smpq inspect log; "
	problem := file + ": " + place + ": " + text
	for _, run := range []struct {
		command        string
		status         int
		stdout, stderr string // how they must start
	}{
		{"import storelog", 1, "", "smpq: " + problem + "\nNothing was imported. " + more},
		{"import storelog --dry-run", 1, "", "smpq: " + problem + "\nNothing was imported. " + more},
		{"compact storelog", 1, "", "smpq: compact store log: " + problem + "\nNothing was changed. " + more},
		{"inspect log", 3, "file ", "smpq: " + file + ": an import would leave out "},
	} {
		before := listFolder(ts)
		scriptStatus(ts, false, append([]string{strconv.Itoa(run.status), "smpq"}, append(strings.Fields(run.command), file)...))
		stdout, stderr := ts.ReadFile("stdout"), ts.ReadFile("stderr")
		if run.stdout == "" && stdout != "" || !strings.HasPrefix(stdout, run.stdout) || !strings.HasPrefix(stderr, run.stderr) {
			ts.Fatalf("%s: want a standard error of\n%s", run.command, run.stderr)
		}
		if run.stdout != "" && !regexp.MustCompile(`(?m)^  `+place+` +`+regexp.QuoteMeta(text)+`$`).MatchString(stdout) {
			ts.Fatalf("%s: %s is not in the list", run.command, place)
		}
		if diff := cmp.Diff(before, listFolder(ts)); diff != "" {
			ts.Fatalf("%s changed files (-before +after):\n%s", run.command, diff)
		}
	}
	var schemas strings.Builder
	err := printQuery(scriptTest(ts), &schemas, ts.Getenv(dsnVariable), "select nspname from pg_namespace where nspname !~ '^(pg_.*|information_schema|public)$'")
	if err != nil || schemas.String() != "" {
		ts.Fatalf("schemas left behind: %s, %v", &schemas, err)
	}
}

// listFolder returns the files in the script's folder with their content.
func listFolder(ts *testscript.TestScript) map[string]string {
	files := make(map[string]string)
	entries, err := os.ReadDir(ts.MkAbs("."))
	ts.Check(err)
	for _, e := range entries {
		if e.Type().IsRegular() {
			files[e.Name()] = ts.ReadFile(e.Name())
		}
	}
	return files
}
