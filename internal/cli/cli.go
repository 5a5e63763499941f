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
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// ErrInterrupted is the cause of the cancellation of a context that a signal
// cancelled.
var ErrInterrupted = errors.New("interrupted")

// Interruptible returns a context that SIGINT or SIGTERM cancels, with
// [ErrInterrupted] as the cause. A second signal ends the process at once. The
// caller must call stop, which releases the signals and cancels the context.
func Interruptible(parent context.Context) (ctx context.Context, stop func()) {
	signalled, release := signal.NotifyContext(parent, syscall.SIGINT, syscall.SIGTERM)
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
func Execute(ctx context.Context, root *cobra.Command) int {
	prepare(root)
	started := false
	markStart(root, &started)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitOK
	}
	if !started {
		err = WithCode(ExitUsage, err)
	}
	code := ExitCode(err)
	if errors.Is(context.Cause(ctx), ErrInterrupted) {
		code = ExitInterrupted
		err = fmt.Errorf("%w: %w", ErrInterrupted, err)
	}
	report(root.ErrOrStderr(), cmd, code, err)
	return code
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
	switch {
	case code == ExitUsage:
		text += fmt.Sprintf("Run '%s --help' for usage.\n", cmd.CommandPath())
	case badPassword(err):
		text += "A password can be given with --password, PGPASSWORD or ~/.pgpass.\n"
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

// prepare completes a root command: it is a group that shows its help when it
// stands alone, help texts treat groups as what they are, and the help command
// refuses unknown commands instead of printing help about something else.
func prepare(root *cobra.Command) {
	makeGroup(root, (*cobra.Command).Help)
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(),
		"{{if .Runnable}}", `{{if and .Runnable (not (index .Annotations "`+groupAnnotation+`"))}}`, 1))
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
}
