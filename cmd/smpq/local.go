package main

import (
	"errors"
	"log/slog"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/pglocal"
)

// newLocal returns the commands for the private PostgreSQL.
func newLocal(console *cli.Console) *cobra.Command {
	return cli.Group("local", "Look after the private local PostgreSQL", newLocalStatus(), newLocalRun(console), newLocalStop(console))
}

// addDataFlag adds the flag --data. The function returns the home of the
// cluster that it chooses.
func addDataFlag(cmd *cobra.Command) func() (string, error) {
	data := cmd.Flags().String("data", "", "the `folder` of the private PostgreSQL (default: as for other commands)")
	return func() (string, error) {
		home, err := pglocal.DefaultDir()
		switch {
		case !cmd.Flags().Changed("data"):
			return home, err
		case *data == "":
			return "", cli.UsageErrorf("--data is empty")
		}
		return filepath.Join(*data, filepath.Base(home)), nil
	}
}

// A localResult is the state of the private PostgreSQL.
type localResult struct {
	Folder    string `json:"folder"`
	State     string `json:"state"`                // "not made", "stopped" or "running"
	Release   int    `json:"release,omitempty"`    // of PostgreSQL
	PID       int    `json:"pid,omitempty"`        // if running
	SocketDir string `json:"socket_dir,omitempty"` // if running
}

func newLocalStatus() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show whether the private PostgreSQL runs, and where",
		Args:  cobra.NoArgs,
		Example: `  smpq local status
  psql -U smpq "host=$(smpq local status -o json | jq -r .socket_dir)"`,
	}
	home, out := addDataFlag(cmd), cli.AddOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		dir, err := home()
		if err != nil {
			return err
		}
		s, err := pglocal.Inspect(cmd.Context(), dir)
		if err != nil {
			return err
		}
		result := localResult{dir, s.State.String(), s.Version, s.PID, s.SocketDir}
		t := cli.Table{Columns: []string{"name", "value"}, Plain: true}
		t.Add("folder", dir)
		t.Add("state", result.State)
		if s.Version > 0 {
			t.Add("release", "PostgreSQL "+strconv.Itoa(s.Version))
		}
		if s.State == pglocal.Running {
			t.Add("process", strconv.Itoa(s.PID))
			t.Add("socket in", s.SocketDir)
		}
		return out.Write(cmd.OutOrStdout(), result, t)
	}
	return cmd
}

func newLocalStop(console *cli.Console) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stop",
		Short: "Stop a private PostgreSQL that nobody uses",
		Long: `Stop the private PostgreSQL. It normally stops by itself, with the last command
that uses it; after a crash of that command it may still run. It is not stopped
while a command uses it.`,
		Example: `  smpq local stop`,
		Args:    cobra.NoArgs,
	}
	home := addDataFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		dir, err := home()
		if err != nil {
			return err
		}
		before, err := pglocal.Inspect(cmd.Context(), dir)
		if err != nil {
			return err
		}
		if before.State != pglocal.Running {
			console.Log().LogAttrs(cmd.Context(), slog.LevelInfo, "no local PostgreSQL runs", slog.String("dir", dir))
			return nil
		}
		err = pglocal.Stop(cmd.Context(), dir)
		if errors.Is(err, pglocal.ErrInUse) {
			return cli.WithCode(cli.ExitUnavailable, err)
		}
		if err == nil {
			console.Log().LogAttrs(cmd.Context(), slog.LevelInfo, "stopped local PostgreSQL", slog.String("dir", dir))
		}
		return err
	}
	return cmd
}
