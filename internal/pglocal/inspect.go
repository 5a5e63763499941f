package pglocal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// A State is what a cluster is doing.
type State int

// The states of a cluster.
const (
	NotMade State = iota // there is no cluster yet
	Stopped
	Running // also while it starts or stops
)

// String returns the state in words.
func (s State) String() string {
	switch s {
	case NotMade:
		return "not made"
	case Stopped:
		return "stopped"
	case Running:
		return "running"
	}
	return fmt.Sprintf("State(%d)", int(s))
}

// Status is what is known of a cluster from outside.
type Status struct {
	State     State
	Version   int    // PostgreSQL's release, such as 15; 0 if not made
	PID       int    // the server's process; 0 unless running
	SocketDir string // the folder of the server's socket; "" unless running
}

// Inspect returns the status of the cluster in dir. It changes nothing.
func Inspect(ctx context.Context, dir string) (Status, error) {
	s, err := inspect(ctx, dir)
	if err != nil {
		return Status{}, fmt.Errorf("inspect local PostgreSQL in %s: %w", dir, err)
	}
	return s, nil
}

func inspect(ctx context.Context, dir string) (Status, error) {
	h, err := openHome(dir)
	if err != nil {
		return Status{}, err
	}
	major, err := h.version()
	if errors.Is(err, fs.ErrNotExist) {
		return Status{State: NotMade}, nil
	}
	if err != nil {
		return Status{}, err
	}
	server, err := h.postmaster(ctx)
	if err != nil {
		return Status{}, err
	}
	if server == nil {
		return Status{State: Stopped, Version: major}, nil
	}
	return Status{State: Running, Version: major, PID: server.pid, SocketDir: server.socketDir}, nil
}

// Stop stops the server of the cluster in dir, as it may be left running by a
// process that crashed. It does nothing if there is none. The error wraps
// ErrInUse, and where the system tells says by which processes, if the server
// has users.
func Stop(ctx context.Context, dir string) error {
	if err := stop(ctx, dir); err != nil {
		return fmt.Errorf("stop local PostgreSQL in %s: %w", dir, err)
	}
	return nil
}

func stop(ctx context.Context, dir string) (err error) {
	h, err := openHome(dir)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(h.path(controlLock)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	control, err := openLock(h.path(controlLock))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, control.release()) }()
	if err := control.exclusive(ctx); err != nil {
		return err
	}
	users, err := openLock(h.path(usersLock))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, users.release()) }()
	unused, err := users.tryExclusive()
	if err != nil {
		return err
	}
	if !unused {
		return fmt.Errorf("%w by %s", ErrInUse, users.holders())
	}
	return h.stop(ctx)
}
