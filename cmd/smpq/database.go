package main

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

// onDatabase connects to the database that a command's flags choose and works on
// it. The command's name tells other sessions who it is.
func onDatabase(ctx context.Context, flags *cli.Connection, command string, work func(conn *pgx.Conn, target *cli.Target) error) (err error) {
	target, err := flags.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close(ctx)) }()
	conn, err := store.Connect(ctx, store.Config{DSN: target.DSN, Schema: target.Schema, Application: "smpq " + command})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	return lockCode(work(conn, target))
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
