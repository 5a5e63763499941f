package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

// onDatabase connects to the database that a command's flags choose and works on
// it. The command's name tells other sessions who it is. Errors say which
// database it is, and what chose it, where that may be the mistake.
func onDatabase(ctx context.Context, flags *cli.Connection, command string, work func(conn *pgx.Conn, target *cli.Target) error) (err error) {
	target, err := flags.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close(ctx)) }()
	conn, err := store.Connect(ctx, store.Config{DSN: target.DSN, Schema: target.Schema, Application: "smpq " + command})
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	defer func() { err = errors.Join(err, disconnect(ctx, conn)) }()
	err = work(conn, target)
	if errors.Is(err, schema.ErrMissing) {
		err = fmt.Errorf("%w\nLooked in %s", err, target)
	}
	return lockCode(err)
}

// disconnect closes the connection. Where an interrupt has closed it already, the
// server is still at work on the last statement, with all its locks, and pgx is
// telling it to stop: that takes a moment, in which the process must not end.
func disconnect(ctx context.Context, conn *pgx.Conn) error {
	err := conn.Close(context.WithoutCancel(ctx))
	const patience = 5 * time.Second
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-conn.PgConn().CleanupDone():
	case <-timer.C:
	}
	return err
}

// lockCode gives errors that tell of a lock of somebody else their exit status.
func lockCode(err error) error {
	var locked *schema.LockedError
	var busy *schema.BusyError
	if errors.As(err, &locked) || errors.As(err, &busy) {
		return cli.WithCode(cli.ExitUnavailable, err)
	}
	return err
}
