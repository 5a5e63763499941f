package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"

	"github.com/smpq/smpq/internal/pglocal"
)

// private is the server of this test binary. Tests have no other place to share
// it: each gets but its own testing.TB.
var private server

// server is a private cluster, started on first use.
type server struct {
	once    sync.Once
	err     error
	cluster *pglocal.Cluster
	guard   *guard
}

func privateServer(tb testing.TB) *pglocal.Cluster {
	tb.Helper()
	private.once.Do(func() { private.err = private.start() })
	if private.err != nil {
		tb.Fatalf("no test server, and %s is not set: %v", serverVariable, private.err)
	}
	return private.cluster
}

func (s *server) start() error {
	base := os.TempDir()
	if os.Geteuid() == 0 {
		base = "/tmp" // the user who runs the server then must get there
	}
	dir, err := os.MkdirTemp(base, "smpq-test-")
	if err != nil {
		return err
	}
	if s.guard, err = newGuard(dir); err != nil {
		return errors.Join(err, os.Remove(dir))
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	s.cluster, err = pglocal.Start(ctx, pglocal.Options{
		Dir: dir,
		// The data may be lost with the machine.
		Settings: map[string]string{"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"},
	})
	return err
}

// stop stops the server and removes its data.
func (s *server) stop() error {
	var err error
	if s.cluster != nil {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		err = s.cluster.Close(ctx)
	}
	if s.guard != nil {
		err = errors.Join(err, s.guard.release())
	}
	return err
}

// guard is a process that stops the server and removes its data when this
// process ends, be it by SIGKILL: then its standard input ends.
type guard struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

// guardScript gets the cluster's home as its argument. The server's process is
// in the first line of the file postmaster.pid, its socket's folder in the fifth.
const guardScript = `cat >/dev/null
file=$1/data/postmaster.pid
if pid=$(sed -n 1p "$file" 2>/dev/null) && [ -n "$pid" ]; then
	socket=$(sed -n 5p "$file")
	kill -QUIT "$pid"
	i=0
	while [ $i -lt 100 ] && kill -0 "$pid" 2>/dev/null; do
		sleep 0.1
		i=$((i + 1))
	done
	rm -rf -- "$socket"
fi
rm -rf -- "$1"
`

func newGuard(dir string) (*guard, error) {
	// The guard must outlive whatever ends this process, hence no context and
	// its own session.
	cmd := exec.Command("/bin/sh", "-c", guardScript, "sh", dir) //nolint:noctx,gosec // see above; the only variable is an argument
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the guard of the test server: %w", err)
	}
	return &guard{cmd, stdin}, nil
}

// release lets the guard do its work now and waits for it.
func (g *guard) release() error {
	return errors.Join(g.stdin.Close(), g.cmd.Wait())
}
