package cli_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/smpq/smpq/internal/cli"
)

func TestConfirmOnTerminal(t *testing.T) {
	tests := []struct {
		name, keys string
		want       string // the error, "" for consent
	}{
		{"y", "y\n", ""},
		{"Yes", "Yes\n", ""},
		{"n", "n\n", "not confirmed, nothing was changed"},
		{"only Enter", "\n", "not confirmed, nothing was changed"},
		{"something else", "yesterday\n", "not confirmed, nothing was changed"},
		{"end of input", "\x04", "not confirmed, nothing was changed"},
		{"end of input after y", "y\x04\x04", "not confirmed, nothing was changed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPTY(t, 80)
			console := cli.NewConsole(p.tty, p.tty)
			p.enter(t, tt.keys)
			err := console.Confirm(t.Context(), false, "Delete 3 queues?")
			if got := text(err); got != tt.want {
				t.Errorf("Confirm = %q, want %q", got, tt.want)
			}
			if err != nil && cli.ExitCode(err) != cli.ExitFailed {
				t.Errorf("exit code %d, want %d", cli.ExitCode(err), cli.ExitFailed)
			}
			p.await(t, "Delete 3 queues? [y/N] ")
		})
	}
}

func TestConfirmWithoutTerminal(t *testing.T) {
	var stderr bytes.Buffer
	console := cli.NewConsole(strings.NewReader("y\n"), &stderr)
	err := console.Confirm(t.Context(), false, "Delete 3 queues?")
	want := "Delete 3 queues? Standard input and error are not a terminal: say --yes to go on"
	if text(err) != want || cli.ExitCode(err) != cli.ExitUsage {
		t.Errorf("Confirm = %q with exit code %d, want %q with %d", text(err), cli.ExitCode(err), want, cli.ExitUsage)
	}
	if stderr.Len() > 0 {
		t.Errorf("asked although nobody can answer: %q", stderr.String())
	}
	if err := console.Confirm(t.Context(), true, "Delete 3 queues?"); err != nil {
		t.Errorf("with --yes: %v", err)
	}
}

func TestConfirmInterrupted(t *testing.T) {
	p := newPTY(t, 80)
	console := cli.NewConsole(p.tty, p.tty)
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error)
	go func() { done <- console.Confirm(ctx, false, "Go on?") }()
	p.await(t, "[y/N] ")
	cancel(cli.ErrInterrupted)
	if err := <-done; !errors.Is(err, cli.ErrInterrupted) {
		t.Errorf("Confirm = %v, want %v", err, cli.ErrInterrupted)
	}
	p.enter(t, "y\n") // lets the abandoned read end
}

func TestPassword(t *testing.T) {
	p := newPTY(t, 80)
	console := cli.NewConsole(p.tty, p.tty)
	done := make(chan error)
	var got string
	go func() {
		var err error
		got, err = console.Password(t.Context(), "Password")
		done <- err
	}()
	p.await(t, "Password: ")
	p.awaitSilence(t)
	p.enter(t, "hunter2\n")
	if err := <-done; err != nil || got != "hunter2" {
		t.Errorf("Password = %q, %v, want hunter2", got, err)
	}
	if screen := p.await(t, "\n"); strings.Contains(screen, "hunter2") {
		t.Errorf("the password was shown: %q", screen)
	}
	if !p.echoes(t) {
		t.Error("the terminal does not echo any more")
	}
}

func TestPasswordInterrupted(t *testing.T) {
	p := newPTY(t, 80)
	console := cli.NewConsole(p.tty, p.tty)
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error)
	go func() {
		_, err := console.Password(ctx, "Password")
		done <- err
	}()
	p.await(t, "Password: ")
	p.awaitSilence(t)
	cancel(cli.ErrInterrupted)
	if err := <-done; !errors.Is(err, cli.ErrInterrupted) {
		t.Errorf("Password = %v, want %v", err, cli.ErrInterrupted)
	}
	if !p.echoes(t) {
		t.Error("the terminal does not echo any more")
	}
	p.enter(t, "\n") // lets the abandoned read end
}

func TestPasswordWithoutTerminal(t *testing.T) {
	console := cli.NewConsole(strings.NewReader("hunter2\n"), &bytes.Buffer{})
	if _, err := console.Password(t.Context(), "Password"); cli.ExitCode(err) != cli.ExitUsage {
		t.Errorf("Password = %v, want wrong usage", err)
	}
}

// text returns the text of an error, "" for nil.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
