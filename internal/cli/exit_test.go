package cli_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/pgtest"
)

func TestExitCode(t *testing.T) {
	failed := errors.New("failed")
	sqlState := func(code string) error { return fmt.Errorf("insert: %w", &pgconn.PgError{Code: code}) }
	tests := []struct {
		name string
		err  error
		want int
	}{
		{"nil", nil, cli.ExitOK},
		{"any error", failed, cli.ExitFailed},
		{"usage", cli.UsageErrorf("what?"), cli.ExitUsage},
		{"rejected", cli.WithCode(cli.ExitRejected, failed), cli.ExitRejected},
		{"wrapped", fmt.Errorf("import: %w", cli.WithCode(cli.ExitDifferent, failed)), cli.ExitDifferent},
		{"outermost counts", cli.WithCode(cli.ExitRejected, cli.WithCode(cli.ExitDifferent, failed)), cli.ExitRejected},
		{"nil with code", cli.WithCode(cli.ExitRejected, nil), cli.ExitOK},
		{"interrupted", fmt.Errorf("copy: %w", cli.ErrInterrupted), cli.ExitInterrupted},
		{"cancelled", cli.WithCode(cli.ExitRejected, context.Canceled), cli.ExitInterrupted},
		{"status of another program", fmt.Errorf("run: %w", cli.Status(7)), 7},
		{"deadline", context.DeadlineExceeded, cli.ExitFailed},
		{"connection failure", sqlState("08006"), cli.ExitUnavailable},
		{"wrong password", sqlState("28P01"), cli.ExitUnavailable},
		{"no such database", sqlState("3D000"), cli.ExitUnavailable},
		{"too many connections", sqlState("53300"), cli.ExitUnavailable},
		{"disk full", sqlState("53100"), cli.ExitFailed},
		{"lock not available", sqlState("55P03"), cli.ExitUnavailable},
		{"server shuts down", sqlState("57P01"), cli.ExitUnavailable},
		{"unique violation", sqlState("23505"), cli.ExitFailed},
		{"statement cancelled", sqlState("57014"), cli.ExitFailed},
		{"connection closed", fmt.Errorf("exec: %w", pgconn.ErrConnClosed), cli.ExitUnavailable},
		{"connection lost", fmt.Errorf("exec: %w", io.ErrUnexpectedEOF), cli.ExitUnavailable},
		{"network", &net.OpError{Op: "write", Err: syscall.EPIPE}, cli.ExitUnavailable},
		{"file", &os.PathError{Op: "open", Path: "x", Err: os.ErrPermission}, cli.ExitFailed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := cli.ExitCode(tt.err); got != tt.want {
				t.Errorf("ExitCode(%v) = %d, want %d", tt.err, got, tt.want)
			}
		})
	}
}

// TestExitCodeOfServer checks the errors that a real server and driver give.
func TestExitCodeOfServer(t *testing.T) {
	dsn := pgtest.DSN(t)
	connectTo := func(c *pgx.ConnConfig) error {
		conn, err := pgx.ConnectConfig(t.Context(), c)
		if err == nil {
			err = errors.Join(errors.New("connected"), conn.Close(t.Context()))
		}
		return err
	}
	config := func(change func(c *pgx.ConnConfig)) *pgx.ConnConfig {
		c, err := pgx.ParseConfig(dsn)
		if err != nil {
			t.Fatal(err)
		}
		change(c)
		return c
	}
	t.Run("no server", func(t *testing.T) {
		err := connectTo(config(func(c *pgx.ConnConfig) { c.Host, c.Fallbacks = t.TempDir(), nil }))
		if got := cli.ExitCode(err); got != cli.ExitUnavailable {
			t.Errorf("ExitCode(%v) = %d, want %d", err, got, cli.ExitUnavailable)
		}
	})
	t.Run("no database", func(t *testing.T) {
		err := connectTo(config(func(c *pgx.ConnConfig) { c.Database = "nosuch" }))
		if got := cli.ExitCode(err); got != cli.ExitUnavailable {
			t.Errorf("ExitCode(%v) = %d, want %d", err, got, cli.ExitUnavailable)
		}
	})
	t.Run("no role", func(t *testing.T) {
		err := connectTo(config(func(c *pgx.ConnConfig) { c.User = "nosuch" }))
		if got := cli.ExitCode(err); got != cli.ExitUnavailable {
			t.Errorf("ExitCode(%v) = %d, want %d", err, got, cli.ExitUnavailable)
		}
	})
	t.Run("terminated", func(t *testing.T) {
		victim, other := pgtest.Conn(t, dsn), pgtest.Conn(t, dsn)
		pgtest.Exec(t, other, "select pg_terminate_backend($1)", victim.PgConn().PID())
		_, err := victim.Exec(t.Context(), "select 1")
		if got := cli.ExitCode(err); got != cli.ExitUnavailable {
			t.Errorf("ExitCode(%v) = %d, want %d", err, got, cli.ExitUnavailable)
		}
		_, err = victim.Exec(t.Context(), "select 1")
		if got := cli.ExitCode(err); got != cli.ExitUnavailable {
			t.Errorf("afterwards: ExitCode(%v) = %d, want %d", err, got, cli.ExitUnavailable)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		conn := pgtest.Conn(t, dsn)
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		_, err := conn.Exec(ctx, "select pg_sleep(60)")
		if got := cli.ExitCode(err); got != cli.ExitInterrupted {
			t.Errorf("ExitCode(%v) = %d, want %d", err, got, cli.ExitInterrupted)
		}
	})
}
