package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/pglocal"
)

func newLocalRun(console *cli.Console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARG]...",
		Short: "Run a program on the private PostgreSQL, such as psql",
		Long: `Start the private PostgreSQL, if it does not run, and run a program with the
variables of libpq set to it and with PostgreSQL's own programs on its PATH. The
server is stopped afterwards if nobody else uses it. The exit status is that of
the program.

smpq itself uses this database too when the program runs it.`,
		Example: `  smpq local run -- psql
  smpq local run -- pg_dump --schema smp_server --file queues.sql
  smpq local run -- sh -c 'smpq inspect counts && smpq compact --ttl 21d'`,
		Args: cobra.MinimumNArgs(1),
	}
	home := addDataFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		dir, err := home()
		if err != nil {
			return err
		}
		ctx := cmd.Context()
		server, err := pglocal.Start(ctx, pglocal.Options{Dir: dir, Log: console.Log()})
		if err != nil {
			return cli.WithCode(cli.ExitUnavailable, err)
		}
		defer func() { err = errors.Join(err, server.Close(context.WithoutCancel(ctx))) }()
		status, err := pglocal.Inspect(ctx, dir)
		if err != nil {
			return err
		}
		path := os.Getenv("PATH")
		if err := os.Setenv("PATH", server.BinDir()+string(filepath.ListSeparator)+path); err != nil {
			return err
		}
		// The program decides what an interrupt from the terminal means.
		child := exec.CommandContext(context.WithoutCancel(ctx), args[0], args[1:]...) //nolint:gosec // running it is the purpose
		child.Stdin, child.Stdout, child.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
		child.Env = append(os.Environ(), "SMPQ_DSN="+server.DSN(""), "PGHOST="+status.SocketDir, "PGPORT=5432", "PGUSER=smpq", "PGDATABASE=smpq")
		return runToEnd(child)
	}
	return cmd
}

// runToEnd runs a program and returns its exit status as an error. An interrupt
// is left to the program; a request to terminate is passed on.
func runToEnd(child *exec.Cmd) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := child.Start(); err != nil {
		return fmt.Errorf("run %s: %w", child.Path, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	for {
		select {
		case s := <-signals:
			if s == syscall.SIGTERM {
				_ = child.Process.Signal(s) // it may have ended
			}
		case err := <-ended:
			var exit *exec.ExitError
			if errors.As(err, &exit) && exit.Exited() {
				return cli.Status(exit.ExitCode())
			}
			if err != nil {
				return fmt.Errorf("run %s: %w", child.Path, err)
			}
			return nil
		}
	}
}
