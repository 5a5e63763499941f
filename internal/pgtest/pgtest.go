// Package pgtest gives tests a real PostgreSQL.
//
// A package whose tests use it has
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }
//
// or, to look for leaked goroutines as well,
//
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.M{M: m}) }
//
// and its tests ask for a database each. The server is the one that the variable
// SMPQ_TEST_DATABASE names by a superuser's connection string, else a private
// one that is started for the test binary when a test first asks, and is gone
// with its data when the binary ends, however it ends. Where no server can be
// had, tests fail; they are never skipped.
//
// Tests that harm a server start a [Victim].
package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// serverVariable names the server to use instead of a private one.
const serverVariable = "SMPQ_TEST_DATABASE"

// timeout limits what is done to the server outside of the tests' own time.
const timeout = time.Minute

// Run runs the package's tests, stops the private server if there is one, and
// returns the code to exit with.
func Run(m *testing.M) int {
	code := m.Run()
	if err := private.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		return max(code, 1)
	}
	return code
}

// M is a testing.M that runs by Run, for those who take a test main as an
// interface.
type M struct{ *testing.M }

// Run runs the package's tests as the function Run does.
func (m M) Run() int { return Run(m.M) }

// DSN returns the connection string of a new, empty database, which is dropped
// when the test ends. Its role is a superuser, its encoding UTF8, its locale C.
func DSN(tb testing.TB) string {
	tb.Helper()
	server := serverDSN(tb)
	name := "smpq_test_" + strings.ToLower(rand.Text())
	onServer(tb, server, "create database "+name+" template template0 encoding 'UTF8' lc_collate 'C' lc_ctype 'C'")
	tb.Cleanup(func() { onServer(tb, server, "drop database "+name+" with (force)") })
	dsn, err := withDatabase(server, name)
	if err != nil {
		tb.Fatalf("%s: %v", serverVariable, err)
	}
	return dsn
}

// Conn connects to a database and closes the connection when the test ends.
func Conn(tb testing.TB, dsn string) *pgx.Conn {
	tb.Helper()
	c, err := pgx.Connect(tb.Context(), dsn)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			tb.Errorf("close the connection: %v", err)
		}
	})
	return c
}

// Exec executes a statement, or several if there are no arguments.
func Exec(tb testing.TB, c *pgx.Conn, sql string, args ...any) {
	tb.Helper()
	if len(args) == 0 {
		args = []any{pgx.QueryExecModeSimpleProtocol}
	}
	if _, err := c.Exec(tb.Context(), sql, args...); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

// BinDir returns the folder of psql, pg_dump and the other client programs.
func BinDir(tb testing.TB) string {
	tb.Helper()
	if os.Getenv(serverVariable) == "" {
		return privateServer(tb).BinDir()
	}
	dump, err := exec.LookPath("pg_dump")
	if err != nil {
		tb.Fatal(err)
	}
	return filepath.Dir(dump)
}

// serverDSN returns the connection string of the server.
func serverDSN(tb testing.TB) string {
	tb.Helper()
	if dsn := os.Getenv(serverVariable); dsn != "" {
		return dsn
	}
	return privateServer(tb).DSN("")
}

// onServer executes a statement in a connection of its own, also when the
// test's context has ended.
func onServer(tb testing.TB, dsn, sql string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		tb.Fatalf("connect to the test server: %v", err)
	}
	_, err = c.Exec(ctx, sql)
	if closeErr := c.Close(ctx); err == nil {
		err = closeErr
	}
	if err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

// withDatabase returns a connection string, of either of libpq's forms, with
// another database.
func withDatabase(dsn, name string) (string, error) {
	if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
		// Of a keyword that is there twice the last one counts.
		return dsn + " dbname=" + name, nil
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return "", err
	}
	u.Path = "/" + name
	return u.String(), nil
}
