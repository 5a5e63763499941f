package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/term"
)

// errNotConfirmed ends a command whose question was answered with anything but
// yes.
var errNotConfirmed = errors.New("not confirmed, nothing was changed")

// Confirm asks whether to go on, and returns nil if the answer is yes, or if
// yes is set, which is the value of the command's --yes flag. Where nobody can
// answer it is an error not to have said --yes. End of input is not consent.
func (c *Console) Confirm(ctx context.Context, yes bool, question string) error {
	if yes {
		return nil
	}
	if !c.interactive() {
		return UsageErrorf("%s Standard input and error are not a terminal: say --yes to go on", question)
	}
	if _, err := fmt.Fprintf(c.err, "%s [y/N] ", question); err != nil {
		return fmt.Errorf("ask for confirmation: %w", err)
	}
	answer, err := await(ctx, func() (string, error) {
		line, err := bufio.NewReader(c.in).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = errNotConfirmed
		}
		return line, err
	})
	if err != nil {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errNotConfirmed
}

// Password asks for a password, without showing what is typed.
func (c *Console) Password(ctx context.Context, prompt string) (string, error) {
	fd, ok := terminalOf(c.in)
	if !ok || !c.interactive() {
		return "", UsageErrorf("cannot ask for a password: standard input and error are not a terminal")
	}
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("ask for a password: %w", err)
	}
	if _, err := fmt.Fprintf(c.err, "%s: ", prompt); err != nil {
		return "", fmt.Errorf("ask for a password: %w", err)
	}
	password, err := await(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	if err != nil {
		err = errors.Join(err, term.Restore(fd, before))
	}
	_, _ = io.WriteString(c.err, "\n") // the one that was typed is not shown
	if err != nil {
		return "", fmt.Errorf("ask for a password: %w", err)
	}
	return string(password), nil
}

// interactive reports whether somebody sees a prompt and can answer it.
func (c *Console) interactive() bool {
	_, terminal := terminalOf(c.in)
	return terminal && c.err.terminal
}

// await returns what read returns, or the context's cause as soon as it ends.
// A read from a terminal cannot be cancelled: in that case it stays behind,
// until the process ends.
func await[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	got := make(chan result, 1)
	go func() {
		value, err := read()
		got <- result{value, err}
	}()
	select {
	case r := <-got:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}
