package pglocal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// pollInterval is the time between two looks at a server that is starting or
// stopping; PostgreSQL's own pg_ctl waits in the same way.
const pollInterval = 20 * time.Millisecond

// postmaster is a running server.
type postmaster struct {
	pid       int
	port      string
	socketDir string
	status    string // starting, stopping, ready
}

const statusReady = "ready"

// socket returns the path of the server's socket.
func (p *postmaster) socket() string {
	return filepath.Join(p.socketDir, ".s.PGSQL."+p.port)
}

// version returns the release that made the cluster, or fs.ErrNotExist.
func (h home) version() (int, error) {
	text, err := h.read(versionFile)
	if err != nil {
		return 0, err
	}
	major, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", h.path(versionFile), err)
	}
	return major, nil
}

// postmaster returns the running server, nil if there is none.
func (h home) postmaster(ctx context.Context) (*postmaster, error) {
	text, err := h.read(pidFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// Lines: process, data folder, start time, port, socket folder, address,
	// shared memory, status. The server adds them one after the other.
	lines := strings.Split(text, "\n")
	pid, _ := strconv.Atoi(lines[0]) // of garbage 0, which is no server
	if !h.runs(ctx, pid) {
		return nil, nil // left by a server that died
	}
	p := &postmaster{pid: pid, status: "starting"}
	if len(lines) > 4 {
		p.port, p.socketDir = lines[3], lines[4]
	}
	if len(lines) > 7 {
		p.status = strings.TrimSpace(lines[7])
	}
	return p, nil
}

// runs reports whether the process is the cluster's server, and not another one
// that got the number of a server that died.
func (h home) runs(ctx context.Context, pid int) bool {
	if pid <= 1 {
		return false
	}
	if _, err := os.Stat("/proc/self/cwd"); err == nil {
		// A server works in its data folder.
		proc := "/proc/" + strconv.Itoa(pid)
		process, err1 := os.Stat(proc)
		cwd, err2 := os.Stat(proc + "/cwd")
		data, err3 := os.Stat(h.path(dataFolder))
		return errors.Join(err1, err2, err3) == nil && owner(process) == h.as.uid && os.SameFile(cwd, data)
	}
	// Whoever gives up waiting still wants to know.
	ps := exec.CommandContext(context.WithoutCancel(ctx), "ps", "-o", "uid=", "-o", "command=", "-p", strconv.Itoa(pid)) //nolint:gosec // a number
	out, err := ps.Output()
	if err != nil {
		return false
	}
	uid, command, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	return uid == strconv.FormatUint(uint64(h.as.uid), 10) && strings.Contains(command, "postgres")
}

// settled waits while the server starts or stops, and returns it when it is
// ready, nil when there is none.
func (h home) settled(ctx context.Context) (*postmaster, error) {
	for {
		p, err := h.postmaster(ctx)
		if err != nil || p == nil || p.status == statusReady {
			return p, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for server %d, which is %s: %w", p.pid, p.status, context.Cause(ctx))
		case <-time.After(pollInterval):
		}
	}
}

// lostSocket reports whether the server cannot be reached since its socket is
// gone or is that of another. A busy server has not lost its socket.
func (p *postmaster) lostSocket(ctx context.Context) bool {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", p.socket())
	if err == nil {
		_ = conn.Close() // nothing was written that could be lost
	}
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// start starts the server and returns when it is ready. None may be running.
func (h home) start(ctx context.Context, progs programs, extra map[string]string) error {
	if err := h.removeMisleadingPID(ctx); err != nil {
		return err
	}
	socketDir, err := h.prepareSocketFolder()
	if err != nil {
		return fmt.Errorf("make the folder of the socket: %w", err)
	}
	if err := h.writeConf(socketDir, extra); err != nil {
		return fmt.Errorf("write the settings: %w", err)
	}
	if err := h.prepareLog(); err != nil {
		return fmt.Errorf("make the log: %w", err)
	}
	// All names are relative to the home: pg_ctl passes them through a shell.
	// The limit of the wait is ctx.
	args := []string{"start", "-s", "-w", "-t", "86400", "-D", dataFolder, "-l", logFile, "-o", "-c config_file=" + confFile}
	for {
		_, err := h.as.output(ctx, h.dir, progs.path("pg_ctl"), args...)
		if _, failed := errors.AsType[*exec.ExitError](err); !failed {
			return err
		}
		reason := h.lastFatal()
		if !strings.Contains(reason, "shared memory block") {
			return fmt.Errorf("the server does not start: %s (see %s)", reason, h.path(logFile))
		}
		// The backends of a server that was killed have not all gone yet.
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the processes of the last server to end: %w", context.Cause(ctx))
		case <-time.After(10 * pollInterval):
		}
	}
}

// removeMisleadingPID removes the file that names the process of a server that
// died if the server would take it for one that runs: it does when a process of
// the same user has got the number since, and when the file is empty. Else the
// file stays, for the server to find the memory of the dead one.
func (h home) removeMisleadingPID(ctx context.Context) error {
	text, err := h.read(pidFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(text, "\n")
	pid, err := strconv.Atoi(line)
	if err == nil && (h.runs(ctx, pid) || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)) {
		return nil
	}
	return os.Remove(h.path(pidFile))
}

func (h home) writeConf(socketDir string, extra map[string]string) error {
	path := h.path(confFile)
	// A new file, to have the mode given here.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(path, []byte(conf(socketDir, extra)), 0o600); err != nil {
		return err
	}
	return h.as.give(path)
}

// lastFatal returns the last reason that the server's log gives for an end.
func (h home) lastFatal() string {
	text, err := h.read(logFile)
	if err != nil {
		return "its log cannot be read"
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for _, line := range slices.Backward(lines) {
		for _, level := range []string{"FATAL:  ", "PANIC:  "} {
			if _, reason, ok := strings.Cut(line, level); ok {
				return reason
			}
		}
	}
	return lines[len(lines)-1]
}

// stop stops the server if one is running. When ctx ends first, the server goes
// on stopping.
func (h home) stop(ctx context.Context) error {
	p, err := h.postmaster(ctx)
	if err != nil {
		return err
	}
	if p != nil {
		// SIGINT is the fast stop: sessions end, data is written.
		if err := syscall.Kill(p.pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stop server %d: %w", p.pid, err)
		}
	}
	for p != nil {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for server %d to stop: %w", p.pid, context.Cause(ctx))
		case <-time.After(pollInterval):
		}
		if p, err = h.postmaster(ctx); err != nil {
			return err
		}
	}
	return h.removeSocketFolder()
}

// create makes the cluster. It is complete, with its database, when it gets the
// name under which it is looked for.
func (h home) create(ctx context.Context, progs programs, durable bool) (err error) {
	tmp, err := os.MkdirTemp(h.dir, newData)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	if err := h.as.give(tmp); err != nil {
		return err
	}
	name := filepath.Base(tmp)
	args := []string{
		"-D", name, "--username=" + superuser, "--auth-local=trust", "--auth-host=reject",
		"--encoding=UTF8", "--locale=C", "--data-checksums",
	}
	single := []string{"--single", "-D", name, "-c", "exit_on_error=on"}
	if !durable {
		args = append(args, "--no-sync")
		single = append(single, "-c", "fsync=off")
	}
	if _, err := h.as.output(ctx, h.dir, progs.path("initdb"), args...); err != nil {
		return fmt.Errorf("make the cluster: %w", err)
	}
	_, err = h.as.feed(ctx, "create database "+superuser+"\n", h.dir, progs.path("postgres"), append(single, "postgres")...)
	if err != nil {
		return fmt.Errorf("make the database %s: %w", superuser, err)
	}
	if err := os.Rename(tmp, h.path(dataFolder)); err != nil {
		return err
	}
	return h.sync()
}

// removeUnfinished removes what is left of clusters that were being made when
// smpq was killed.
func (h home) removeUnfinished() error {
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), newData) {
			if err := os.RemoveAll(h.path(e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
