package cli_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
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
	queue := leaf("queue ID")
	queue.Args = cobra.ExactArgs(1)
	flags := queue.Flags()
	flags.Bool("first", false, "")
	flags.Bool("last", false, "")
	flags.String("from", "", "`file` to read")
	flags.String("temp-dir", "", "`folder` for temporary files, of which there may be some that are large enough for two lines")
	flags.String("name", "", "")
	queue.MarkFlagsMutuallyExclusive("first", "last")
	file := leaf("file FILE|-")
	file.Args = cobra.ExactArgs(1)
	root.AddCommand(version, queue, file, cli.Group("import", "Import data", leaf("storelog"), leaf("messages")))
	return root
}

func TestExecute(t *testing.T) {
	const (
		usage = "Run 'smpq --help' for usage.\n"
		gone  = "The database server has ended the connection or is gone; its log may say why.\n"
	)
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
			stderr: "smpq: invalid argument \"x\" for \"--number\" flag: want a number\nRun 'smpq version --help' for usage.\n",
		},
		{
			name: "great value", args: "version --number 99999999999999999999", code: 2,
			stderr: "smpq: invalid argument \"99999999999999999999\" for \"--number\" flag: number out of range\nRun 'smpq version --help' for usage.\n",
		},
		{
			name: "flags that exclude each other", args: "queue --last --first x", code: 2,
			stderr: "smpq: --first and --last exclude each other\nRun 'smpq queue --help' for usage.\n",
		},
		{
			name: "too many arguments", args: "import storelog a", code: 2,
			stderr: "smpq: unexpected argument \"a\"\nRun 'smpq import storelog --help' for usage.\n",
		},
		{name: "missing operand", args: "queue", code: 2, stderr: "smpq: missing ID\nRun 'smpq queue --help' for usage.\n"},
		{name: "one operand too much", args: "queue a b", code: 2, stderr: "smpq: unexpected argument \"b\"\nRun 'smpq queue --help' for usage.\n"},
		{
			name: "connection lost", args: "version", fail: fmt.Errorf("copy queues: %w", io.ErrUnexpectedEOF), code: 5,
			stderr: "smpq: copy queues: unexpected EOF\n" + gone,
		},
		{
			name: "ended by an administrator", args: "version", fail: &pgconn.PgError{Severity: "FATAL", Code: "57P01", Message: "no"}, code: 5,
			stderr: "smpq: FATAL: no (SQLSTATE 57P01)\n" + gone,
		},
		{name: "no connection", args: "version", fail: &pgconn.PgError{Severity: "FATAL", Code: "57P03", Message: "no"}, code: 5, stderr: "smpq: FATAL: no (SQLSTATE 57P03)\n"},
		{name: "status of another program", args: "version", fail: cli.Status(7), code: 7},
		{name: "reader left", args: "version", fail: fmt.Errorf("write: %w", &fs.PathError{Op: "write", Path: os.Stdout.Name(), Err: syscall.EPIPE}), code: 141},
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
	closed := &net.OpError{Op: "read", Net: "unix", Err: net.ErrClosed}
	for _, tc := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("copy queues: %w", context.Canceled), "smpq: interrupted: copy queues\n"},
		{fmt.Errorf("copy queues: %w", cli.ErrInterrupted), "smpq: interrupted: copy queues\n"},
		{fmt.Errorf("copy queues: %w", closed), "smpq: interrupted: copy queues\n"},
		{errors.New("12 queues are left"), "smpq: interrupted: 12 queues are left\n"},
		{context.Canceled, "smpq: interrupted\n"},
		{cli.ErrInterrupted, "smpq: interrupted\n"},
	} {
		root := testRoot(tc.err)
		var stderr bytes.Buffer
		root.SetErr(&stderr)
		root.SetArgs([]string{"version"})
		if code := cli.Execute(ctx, root); code != cli.ExitInterrupted {
			t.Errorf("%v: exit code %d, want %d", tc.err, code, cli.ExitInterrupted)
		}
		if got := strings.TrimPrefix(stderr.String(), "ran smpq version\n"); got != tc.want {
			t.Errorf("%v: standard error %q, want %q", tc.err, got, tc.want)
		}
	}
}

// An empty operand, such as that of a variable that is not set, is a mistake.
func TestExecuteEmptyOperand(t *testing.T) {
	root := testRoot(nil)
	var stderr bytes.Buffer
	root.SetErr(&stderr)
	root.SetArgs([]string{"queue", ""})
	if code := cli.Execute(t.Context(), root); code != cli.ExitUsage || !strings.HasPrefix(stderr.String(), "smpq: ID is empty\n") {
		t.Errorf("exit code %d, %s", code, &stderr)
	}
}

// Operands and flags are completed by what they are called.
func TestCompletion(t *testing.T) {
	for args, want := range map[string]cobra.ShellCompDirective{
		"version":          cobra.ShellCompDirectiveNoFileComp,
		"queue":            cobra.ShellCompDirectiveNoFileComp,
		"queue --name":     cobra.ShellCompDirectiveNoFileComp,
		"queue --from":     cobra.ShellCompDirectiveDefault,
		"queue --temp-dir": cobra.ShellCompDirectiveFilterDirs,
		"file":             cobra.ShellCompDirectiveDefault,
		"file a":           cobra.ShellCompDirectiveNoFileComp,
	} {
		root := testRoot(nil)
		var stdout bytes.Buffer
		root.SetOut(&stdout)
		root.SetArgs(append([]string{cobra.ShellCompNoDescRequestCmd}, append(strings.Fields(args), "")...))
		if code := cli.Execute(t.Context(), root); code != cli.ExitOK {
			t.Errorf("%s: exit code %d", args, code)
		}
		if got := stdout.String(); got != fmt.Sprintf(":%d\n", want) {
			t.Errorf("%s: %q, want %d", args, got, want)
		}
	}
}

// Help fits a terminal of 80 columns.
func TestHelpColumns(t *testing.T) {
	root := testRoot(nil)
	var stdout bytes.Buffer
	root.SetOut(&stdout)
	root.SetArgs([]string{"queue", "--help"})
	if code := cli.Execute(t.Context(), root); code != cli.ExitOK {
		t.Errorf("exit code %d", code)
	}
	const want = `
      --temp-dir folder   folder for temporary files, of which there may
                          be some that are large enough for two lines
`
	if !strings.Contains(stdout.String(), want) {
		t.Errorf("got\n%s", &stdout)
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

Use "smpq import [command] --help" for more about a command.
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

// What a program is started to ignore, as by nohup or in the background, does not
// interrupt it.
func TestInterruptibleIgnores(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `trap '' INT HUP; exec "$0"`, program)
	cmd.Env = append(os.Environ(), interruptibleVariable+"=1")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() {
		t.Fatal("it does not start")
	}
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGTERM} {
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if sig == syscall.SIGTERM && lines.Scan() && lines.Text() != "interrupted" {
			t.Errorf("the program said %q", lines.Text())
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("%v, want the end by the second SIGTERM", err)
	}
}

func TestInterruptible(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			program, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			// A signal that this process was started to ignore would stay
			// ignored in the program too.
			caught := make(chan os.Signal, 1)
			signal.Notify(caught, sig)
			defer signal.Stop(caught)
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
