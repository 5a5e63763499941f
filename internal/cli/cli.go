// Package cli is what the commands of smpq share: where a command reads and
// writes, how it prints results, shows progress, asks questions, finds its
// database, and with which status it ends.
//
// Standard output is data. Standard error is logs, progress and prompts. What
// is not a terminal gets no colour, no progress bar and no prompt.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"
)

// ErrInterrupted is the cause of the cancellation of a context that a signal
// cancelled.
var ErrInterrupted = errors.New("interrupted")

// Interruptible returns a context that SIGINT, SIGTERM or SIGHUP (the terminal is
// gone) cancels, with [ErrInterrupted] as the cause. A second signal ends the
// process at once. The caller must call stop, which releases the signals and
// cancels the context.
//
// Signals that the process was started to ignore stay ignored: SIGHUP by nohup,
// SIGINT by a shell that runs it in the background.
func Interruptible(parent context.Context) (ctx context.Context, stop func()) {
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}
	signals = slices.DeleteFunc(signals, signal.Ignored)
	if len(signals) == 0 {
		signals = []os.Signal{syscall.SIGTERM} // none would mean all
	}
	signalled, release := signal.NotifyContext(parent, signals...)
	ctx, cancel := context.WithCancelCause(parent)
	forward := context.AfterFunc(signalled, func() {
		release() // from here on signals do what they do by default
		cancel(ErrInterrupted)
	})
	return ctx, func() {
		forward()
		release()
		cancel(context.Canceled)
	}
}

// Execute runs the command that root's arguments choose, prints its error, and
// returns the exit status for the process. What cobra refuses before a command
// starts is wrong usage.
//
// Meanwhile SIGPIPE and SIGXFSZ do not end the process: the write fails, so that
// a command whose reader has left, or whose file may not grow, can clean up.
func Execute(ctx context.Context, root *cobra.Command) int {
	failedWrites := make(chan os.Signal, 1)
	signal.Notify(failedWrites, syscall.SIGPIPE, syscall.SIGXFSZ)
	defer signal.Stop(failedWrites)

	prepare(root)
	started := false
	markStart(root, &started)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitOK
	}
	if !started {
		err = WithCode(ExitUsage, usageError{err})
	}
	code := ExitCode(err)
	_, said := errors.AsType[statusError](err)
	switch {
	case said:
		return code
	case errors.Is(context.Cause(ctx), ErrInterrupted):
		code, err = ExitInterrupted, interrupted(err)
	case code == ExitPipe:
		return code // nobody wants to know
	}
	report(root.ErrOrStderr(), cmd, code, err)
	return code
}

// interrupted returns an error that says what an interrupt ended. That a context
// was cancelled, or a connection closed, is how it was done, and nothing new.
func interrupted(err error) error {
	text := err.Error()
	for _, how := range []error{ErrInterrupted, context.Canceled} {
		text = strings.TrimSuffix(text, how.Error())
	}
	if closed, ok := errors.AsType[*net.OpError](err); ok {
		text = strings.TrimSuffix(text, closed.Error())
	}
	text = strings.TrimSuffix(text, ": ")
	if text == "" {
		return ErrInterrupted
	}
	return fmt.Errorf("%w: %s", ErrInterrupted, text)
}

// markStart makes cmd and the commands below it tell that they have begun.
func markStart(cmd *cobra.Command, started *bool) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*started = true
			return run(cmd, args)
		}
	}
	for _, sub := range cmd.Commands() {
		markStart(sub, started)
	}
}

// report prints an error once, and a hint where one helps.
func report(w io.Writer, cmd *cobra.Command, code int, err error) {
	name := cmd.Root().Name()
	text := fmt.Sprintf("%s: %s\n", name, strings.TrimSpace(err.Error()))
	// Details of the server can hold rows, and with them secrets; hints do not.
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Hint != "" {
		text += "The database server's hint: " + pg.Hint + "\n"
	}
	switch {
	case code == ExitUsage:
		text += fmt.Sprintf("Run '%s --help' for usage.\n", cmd.CommandPath())
	case badPassword(err):
		text += "A password can be given with --password, PGPASSWORD or ~/.pgpass.\n"
	case lostConnection(err):
		text += "The database server has ended the connection or is gone; its log may say why.\n"
	}
	_, _ = io.WriteString(w, text) // nowhere to report to
}

// groupAnnotation marks the commands that only hold subcommands.
const groupAnnotation = "group"

// Group returns a command that only holds subcommands. Without one of them, or
// with an unknown one, it is wrong usage.
func Group(use, short string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short}
	cmd.AddCommand(subs...)
	makeGroup(cmd, func(cmd *cobra.Command) error {
		var names []string
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
		return UsageErrorf("%s needs a command: %s", cmd.CommandPath(), strings.Join(names, ", "))
	})
	return cmd
}

// makeGroup has a command that holds subcommands refuse unknown ones, and do
// alone if none is given. By itself, cobra would print help and report success.
func makeGroup(cmd *cobra.Command, alone func(*cobra.Command) error) {
	cmd.Annotations = map[string]string{groupAnnotation: "yes"}
	cmd.DisableFlagsInUseLine = true
	cmd.Args = cobra.ArbitraryArgs
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return alone(cmd)
	}
}

func unknownCommand(parent *cobra.Command, name string) error {
	parent.SuggestionsMinimumDistance = 2
	if near := parent.SuggestionsFor(name); len(near) > 0 {
		return UsageErrorf("unknown command %q for %q, did you mean %q?", name, parent.CommandPath(), near[0])
	}
	return UsageErrorf("unknown command %q for %q", name, parent.CommandPath())
}

// helpColumns is the width of help texts, that of the narrowest terminals.
const helpColumns = 80

// prepare completes a root command: it is a group that shows its help when it
// stands alone, help texts treat groups as what they are and fit a terminal, the
// help command refuses unknown commands instead of printing help about something
// else, and what operands and flags are called says how they are completed.
func prepare(root *cobra.Command) {
	makeGroup(root, (*cobra.Command).Help)
	root.SetUsageTemplate(strings.NewReplacer(
		"{{if .Runnable}}", `{{if and .Runnable (not (index .Annotations "`+groupAnnotation+`"))}}`,
		".FlagUsages", ".FlagUsagesWrapped "+strconv.Itoa(helpColumns),
		"for more information about a command.", "for more about a command.",
	).Replace(root.UsageTemplate()))
	root.SetHelpCommand(&cobra.Command{
		Use:   "help [command]",
		Short: "Help about any command",
		Args:  cobra.ArbitraryArgs,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			parent, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, sub := range parent.Commands() {
				if sub.IsAvailableCommand() {
					names = append(names, cobra.CompletionWithDesc(sub.Name(), sub.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil {
				return WithCode(ExitUsage, err)
			}
			if len(rest) > 0 {
				return unknownCommand(cmd, rest[0])
			}
			cmd.InitDefaultHelpFlag()
			cmd.InitDefaultVersionFlag()
			return cmd.Help()
		},
	})
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	prepareOperands(root)
}
