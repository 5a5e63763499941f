package pglocal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

// superuser is the name of the cluster's superuser and of the database that
// every cluster has.
const superuser = "smpq"

// ErrInUse says that a server cannot be stopped because other processes use it.
var ErrInUse = errors.New("the local PostgreSQL is in use")

// leaveTimeout limits the leaving of a server whose use failed to start.
const leaveTimeout = 30 * time.Second

// maxStarts is how often a start is tried while servers come up in between.
const maxStarts = 3

// Options say which cluster to use and how.
type Options struct {
	// Dir is the cluster's home. It is made, for the user alone, when it does
	// not exist; an existing folder must be a home or empty.
	Dir string
	// BinDir is the folder of initdb, pg_ctl and postgres; "" to look for it.
	BinDir string
	// Settings are further settings for the server if it is started now. They
	// have no effect on a server that runs already.
	Settings map[string]string
	// Log gets what is done to the server; nil to discard it.
	Log *slog.Logger
}

// A Cluster is the use of a running server, from Start to Close.
type Cluster struct {
	home   home
	server *postmaster
	binDir string
	log    *slog.Logger

	mu      sync.Mutex
	control *lock
	users   *lock // nil when closed
}

// Start joins the server of the cluster in o.Dir. It makes the cluster and
// starts the server where that has not been done. Any number of processes, and
// of callers in one process, may use a cluster at once. The error wraps
// ErrNotInstalled if the machine lacks the programs.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	c, err := start(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("start local PostgreSQL in %s: %w", o.Dir, err)
	}
	return c, nil
}

func start(ctx context.Context, o Options) (_ *Cluster, err error) {
	c := &Cluster{log: o.Log}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.home, err = openHome(o.Dir); err != nil {
		return nil, err
	}
	progs, err := c.programs(ctx, o.BinDir)
	if err != nil {
		return nil, err
	}
	if err := c.home.prepare(ctx); err != nil {
		return nil, err
	}
	if c.control, err = openLock(c.home.path(controlLock)); err != nil {
		return nil, err
	}
	if c.users, err = openLock(c.home.path(usersLock)); err != nil {
		return nil, errors.Join(err, c.control.release())
	}
	if err := c.control.exclusive(ctx); err != nil {
		return nil, errors.Join(err, c.users.release(), c.control.release())
	}
	if err := c.join(ctx, progs, o); err != nil {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
		defer cancel()
		return nil, errors.Join(err, c.leave(stop), c.control.release())
	}
	if err := c.control.unlock(); err != nil {
		return nil, errors.Join(err, c.users.release(), c.control.release())
	}
	return c, nil
}

// programs finds the server's programs for the cluster, or for a new one.
func (c *Cluster) programs(ctx context.Context, binDir string) (programs, error) {
	major, err := c.home.version()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return programs{}, err
	}
	where := search{only: binDir, path: os.Getenv("PATH"), folders: installFolders}
	return where.find(ctx, c.home.as, major)
}

// join makes this process a user of the server, under the control lock.
func (c *Cluster) join(ctx context.Context, progs programs, o Options) error {
	if err := c.share(); err != nil {
		return err
	}
	if err := c.home.removeUnfinished(); err != nil {
		// An initdb may still be at work that lost its smpq; the next start
		// tries again.
		c.log.WarnContext(ctx, "an unfinished PostgreSQL cluster cannot be removed", slog.Any("error", err))
	}
	major, err := c.home.version()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.log.InfoContext(ctx, "making a local PostgreSQL cluster", slog.String("dir", c.home.dir), slog.Int("release", progs.major))
		if err := c.home.create(ctx, progs, o.Settings["fsync"] != "off"); err != nil {
			return err
		}
	case err != nil:
		return err
	case major != progs.major:
		// Another process has made the cluster in the meantime.
		if progs, err = c.programs(ctx, o.BinDir); err != nil {
			return err
		}
	}
	c.binDir = progs.dir
	c.server, err = c.ensure(ctx, progs, o.Settings)
	return err
}

// ensure returns the running server, which it starts if need be.
func (c *Cluster) ensure(ctx context.Context, progs programs, extra map[string]string) (*postmaster, error) {
	for attempt := 1; ; attempt++ {
		server, err := c.running(ctx)
		if err != nil || server != nil {
			return server, err
		}
		err = c.home.start(ctx, progs, extra)
		if err == nil {
			c.log.DebugContext(ctx, "started local PostgreSQL", slog.String("dir", c.home.dir))
			if server, err = c.running(ctx); err != nil || server != nil {
				return server, err
			}
			return nil, fmt.Errorf("the server ended: %s (see %s)", c.home.lastFatal(), c.home.path(logFile))
		}
		if ctx.Err() != nil {
			return nil, err
		}
		// A server may have come up in between that a process had started just
		// before it was killed.
		other, otherErr := c.home.postmaster(ctx)
		if otherErr != nil || other == nil || attempt == maxStarts {
			return nil, errors.Join(err, otherErr)
		}
	}
}

// running returns the server if one runs that can be used, else nil.
func (c *Cluster) running(ctx context.Context) (*postmaster, error) {
	server, err := c.home.settled(ctx)
	if err != nil || server == nil || !server.lostSocket(ctx) {
		return server, err
	}
	if err := c.alone(); err != nil {
		return nil, fmt.Errorf("server %d runs, but its socket %s is gone: %w", server.pid, server.socket(), err)
	}
	c.log.WarnContext(ctx, "stopping a local PostgreSQL that lost its socket", slog.Int("pid", server.pid))
	return nil, c.home.stop(ctx)
}

// share takes the users' lock together with the other users. Under the control
// lock nobody has it alone.
func (c *Cluster) share() error {
	ok, err := c.users.tryShared()
	if err == nil && !ok {
		err = fmt.Errorf("%s has locked the cluster", c.users.holders())
	}
	return err
}

// alone checks that this process is the only user, under the control lock.
func (c *Cluster) alone() error {
	only, err := c.users.tryExclusive()
	if err != nil {
		return err
	}
	if !only {
		err = fmt.Errorf("%w by %s", ErrInUse, c.users.holders())
	}
	return errors.Join(err, c.share())
}

// DSN returns the connection string of a database of the cluster, for pgx and
// libpq; of the database "smpq", which is always there, if the name is empty.
// The role is a superuser.
func (c *Cluster) DSN(database string) string {
	if database == "" {
		database = superuser
	}
	u := url.URL{
		Scheme: "postgres",
		User:   url.User(superuser),
		Path:   "/" + database,
		// What is not said here can come from the environment. For libpq, a + is
		// no space.
		RawQuery: "host=" + strings.ReplaceAll(url.QueryEscape(c.server.socketDir), "+", "%20") + "&port=" + c.server.port + "&sslmode=disable",
	}
	return u.String()
}

// BinDir returns the folder of the server's programs.
func (c *Cluster) BinDir() string { return c.binDir }

// Close ends the use of the server and stops it if nobody else uses it. When
// ctx ends before the server has stopped, it goes on stopping, and whoever
// starts it next waits for that. A second Close does nothing.
func (c *Cluster) Close(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users == nil {
		return nil
	}
	err := c.control.exclusive(ctx)
	if err != nil {
		// Not allowed to stop the server, whose next user will.
		err = errors.Join(err, c.users.release(), c.control.release())
	} else {
		err = errors.Join(c.leave(ctx), c.control.release())
	}
	c.users = nil
	if err != nil {
		return fmt.Errorf("leave local PostgreSQL in %s: %w", c.home.dir, err)
	}
	return nil
}

// leave ends this process's use and stops the server after the last one, under
// the control lock.
func (c *Cluster) leave(ctx context.Context) error {
	last, err := c.users.tryExclusive()
	if err == nil && last {
		if err = c.home.stop(ctx); err == nil {
			c.log.DebugContext(ctx, "stopped local PostgreSQL", slog.String("dir", c.home.dir))
		}
	}
	return errors.Join(err, c.users.release())
}
