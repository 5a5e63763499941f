package cli_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/cli"
)

// testRoot is a small command tree.
func testRoot(fail error) *cobra.Command {
	root := &cobra.Command{Use: "smpq", Short: "Test", SilenceErrors: true, SilenceUsage: true}
	leaf := func(use string) *cobra.Command {
		return &cobra.Command{
			Use: use, Short: "Do " + use, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				cmd.Println("ran", cmd.CommandPath())
				return fail
			},
		}
	}
	version := leaf("version")
	version.Flags().Int("number", 0, "a number")
	root.AddCommand(version, cli.Group("import", "Import data", leaf("storelog"), leaf("messages")))
	return root
}

func TestExecute(t *testing.T) {
	const usage = "Run 'smpq --help' for usage.\n"
	tests := []struct {
		name   string
		args   string
		fail   error
		code   int
		stderr string
	}{
		{name: "done", args: "version", code: 0},
		{name: "failed", args: "version", fail: errors.New("read x: gone"), code: 1, stderr: "smpq: read x: gone\n"},
		{name: "rejected", args: "import storelog", fail: cli.WithCode(cli.ExitRejected, errors.New("2 lines")), code: 3, stderr: "smpq: 2 lines\n"},
		{
			name: "wrong password", args: "version", fail: &pgconn.PgError{Severity: "FATAL", Code: "28P01", Message: "no"}, code: 5,
			stderr: "smpq: FATAL: no (SQLSTATE 28P01)\nA password can be given with --password, PGPASSWORD or ~/.pgpass.\n",
		},
		{name: "unknown command", args: "nosuch", code: 2, stderr: "smpq: unknown command \"nosuch\" for \"smpq\"\n" + usage},
		{
			name: "unknown flag", args: "version --nosuch", code: 2,
			stderr: "smpq: unknown flag: --nosuch\nRun 'smpq version --help' for usage.\n",
		},
		{
			name: "bad value", args: "version --number x", code: 2,
			stderr: "smpq: invalid argument \"x\" for \"--number\" flag: strconv.ParseInt: parsing \"x\": invalid syntax\nRun 'smpq version --help' for usage.\n",
		},
		{
			name: "too many arguments", args: "import storelog a", code: 2,
			stderr: "smpq: unknown command \"a\" for \"smpq import storelog\"\nRun 'smpq import storelog --help' for usage.\n",
		},
		{
			name: "group alone", args: "import", code: 2,
			stderr: "smpq: smpq import needs a command: messages, storelog\nRun 'smpq import --help' for usage.\n",
		},
		{
			name: "group with typo", args: "import storlog", code: 2,
			stderr: "smpq: unknown command \"storlog\" for \"smpq import\", did you mean \"storelog\"?\nRun 'smpq import --help' for usage.\n",
		},
		{name: "help of nothing", args: "help import nosuch", code: 2, stderr: "smpq: unknown command \"nosuch\" for \"smpq import\"\nRun 'smpq help --help' for usage.\n"},
		{name: "typo", args: "nersion", code: 2, stderr: "smpq: unknown command \"nersion\" for \"smpq\", did you mean \"version\"?\n" + usage},
		{name: "help of nothing at all", args: "help nosuch", code: 2, stderr: "smpq: unknown command \"nosuch\" for \"smpq\"\nRun 'smpq help --help' for usage.\n"},
		{name: "usage found late", args: "version", fail: cli.UsageErrorf("a and b exclude each other"), code: 2, stderr: "smpq: a and b exclude each other\nRun 'smpq version --help' for usage.\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := testRoot(tt.fail)
			var stdout, stderr bytes.Buffer
			root.SetOut(&stdout)
			root.SetErr(&stderr)
			root.SetArgs(strings.Fields(tt.args))
			if code := cli.Execute(t.Context(), root); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			printed := strings.TrimPrefix(stderr.String(), "ran smpq "+tt.args+"\n")
			if diff := cmp.Diff(tt.stderr, printed); diff != "" {
				t.Errorf("standard error: -want +got\n%s", diff)
			}
		})
	}
}

func TestExecuteInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cli.ErrInterrupted)
	root := testRoot(fmt.Errorf("copy queues: %w", context.Canceled))
	var stderr bytes.Buffer
	root.SetErr(&stderr)
	root.SetArgs([]string{"version"})
	if code := cli.Execute(ctx, root); code != cli.ExitInterrupted {
		t.Errorf("exit code %d, want %d", code, cli.ExitInterrupted)
	}
	if want := "smpq: interrupted: copy queues: context canceled\n"; !strings.HasSuffix(stderr.String(), want) {
		t.Errorf("standard error %q, want %q", stderr.String(), want)
	}
}

func TestHelpOfGroup(t *testing.T) {
	root := testRoot(nil)
	var stdout bytes.Buffer
	root.SetOut(&stdout)
	root.SetArgs([]string{"help", "import"})
	if code := cli.Execute(t.Context(), root); code != cli.ExitOK {
		t.Errorf("exit code %d", code)
	}
	want := `Import data

Usage:
  smpq import [command]

Available Commands:
  messages    Do messages
  storelog    Do storelog

Flags:
  -h, --help   help for import

Use "smpq import [command] --help" for more information about a command.
`
	if diff := cmp.Diff(want, stdout.String()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// interruptibleVariable makes the test binary a program that waits to be
// interrupted.
const interruptibleVariable = "SMPQ_TEST_INTERRUPTIBLE"

func waitForInterrupts() {
	ctx, stop := cli.Interruptible(context.Background())
	defer stop()
	fmt.Println("ready")
	<-ctx.Done()
	fmt.Println(context.Cause(ctx))
	select {} // as a program that does not end when it should
}

func TestInterruptible(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			program, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), program)
			cmd.Env = append(os.Environ(), interruptibleVariable+"=1")
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(stdout)
			for _, want := range []string{"ready", "interrupted"} {
				if !lines.Scan() || lines.Text() != want {
					t.Fatalf("the program said %q, want %q", lines.Text(), want)
				}
				if err := cmd.Process.Signal(sig); err != nil {
					t.Fatal(err)
				}
			}
			err = cmd.Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != sig {
				t.Errorf("the second signal: %v, want the end by it", err)
			}
		})
	}
}

func TestInterruptibleStop(t *testing.T) {
	ctx, stop := cli.Interruptible(t.Context())
	stop()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		t.Errorf("cause after stop: %v", cause)
	}
}
