package pglocal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// The names in a home, see the package comment.
const (
	controlLock  = "control.lock"
	usersLock    = "users.lock"
	dataFolder   = "data"
	versionFile  = "data/PG_VERSION"
	pidFile      = "data/postmaster.pid"
	newData      = "data.new-"
	socketFolder = "run"
	confFile     = "server.conf"
	logFile      = "server.log"
	oldLogFile   = "server.log.1"
)

// maxSocketFolder is the longest name in bytes of a folder for the socket: BSD
// and macOS allow 103 bytes for a socket's path, Linux 107.
const maxSocketFolder = 103 - len("/.s.PGSQL.5432")

// home is the folder of a cluster.
type home struct {
	dir string  // absolute
	as  account // who runs the server
}

// DefaultDir returns the home of the user's own cluster:
// $XDG_DATA_HOME/smpq/postgres, by default ~/.local/share/smpq/postgres, and for
// root /var/lib/smpq/postgres, since the server does not run as root and cannot
// reach into root's home directory.
func DefaultDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/lib/smpq/postgres", nil
	}
	if data := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return filepath.Join(data, "smpq", "postgres"), nil
	}
	own, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the folder for a local PostgreSQL: %w", err)
	}
	return filepath.Join(own, ".local", "share", "smpq", "postgres"), nil
}

// openHome returns the home in dir, which need not exist.
func openHome(dir string) (home, error) {
	if dir == "" {
		return home{}, errors.New("no folder given")
	}
	if strings.ContainsAny(dir, "\x00\r\n") {
		return home{}, fmt.Errorf("folder %q: a line break in the name", dir)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return home{}, err
	}
	if fi, err := os.Stat(dir); err == nil && !fi.IsDir() {
		return home{}, fmt.Errorf("%s is not a folder", dir)
	}
	as, err := accountFor(filepath.Join(dir, dataFolder))
	if err != nil {
		return home{}, err
	}
	return home{dir: dir, as: as}, nil
}

func (h home) path(name string) string { return filepath.Join(h.dir, name) }

func (h home) read(name string) (string, error) {
	text, err := os.ReadFile(h.path(name))
	return string(text), err
}

// prepare makes the folder or checks that it is one of ours.
func (h home) prepare(ctx context.Context) error {
	fi, err := os.Stat(h.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := h.reach(ctx); err != nil {
			return err
		}
		if err := makeFolders(filepath.Dir(h.dir)); err != nil {
			return err
		}
		if err := os.Mkdir(h.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case err != nil:
		return err
	case int(owner(fi)) != os.Geteuid():
		return fmt.Errorf("%s belongs to the user with id %d: run smpq as that user or choose another folder", h.dir, owner(fi))
	default:
		if err := h.ours(); err != nil {
			return err
		}
		if err := h.reach(ctx); err != nil {
			return err
		}
	}
	mode := fs.FileMode(0o700)
	if h.as.other {
		if err := os.Chown(h.dir, 0, int(h.as.gid)); err != nil {
			return err
		}
		mode = 0o710
	}
	return os.Chmod(h.dir, mode)
}

// ours checks that the existing folder is a home or empty.
func (h home) ours() error {
	if _, err := os.Lstat(h.path(controlLock)); err == nil {
		return nil
	}
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		return err
	}
	// Another process may just be making the home.
	if len(entries) > 0 && entries[0].Name() != controlLock {
		return fmt.Errorf("%s holds other things (such as %s): choose an empty or a new folder", h.dir, entries[0].Name())
	}
	return nil
}

// reach checks that the server's account can pass the folders above the home.
func (h home) reach(ctx context.Context) error {
	if !h.as.other {
		return nil
	}
	above := filepath.Dir(h.dir)
	for {
		_, err := os.Stat(above)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		above = filepath.Dir(above)
	}
	_, err := h.as.output(ctx, above, "/bin/sh", "-c", ":")
	return err
}

// makeFolders makes dir and what is missing above it. What root makes, others
// may pass, whatever the umask is.
func makeFolders(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeFolders(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return err
	case os.Geteuid() != 0:
		return nil
	}
	return os.Chmod(dir, 0o755) //nolint:gosec // a public folder above the private home
}

// prepareSocketFolder makes an empty, private folder for the socket and returns
// its name. It is the same as that of a server that died, whose users may want
// to connect again. No server may be running.
func (h home) prepareSocketFolder() (string, error) {
	dir := h.path(socketFolder)
	// A comma separates hosts in a connection string.
	if len(dir) <= maxSocketFolder && !strings.Contains(dir, ",") {
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
		return dir, errors.Join(os.Mkdir(dir, 0o700), h.as.give(dir))
	}
	if short, ok := h.shortSocketFolder(); ok {
		return short, removeEntries(short)
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	short, err := os.MkdirTemp("/tmp", "smpq-") // $TMPDIR may be long as well
	if err != nil {
		return "", err
	}
	return short, errors.Join(h.as.give(short), os.Symlink(short, dir))
}

// shortSocketFolder returns the folder in /tmp that stands in for the home's
// own, if there is one that nobody else can have made.
func (h home) shortSocketFolder() (string, bool) {
	short, err := os.Readlink(h.path(socketFolder))
	if err != nil || filepath.Dir(short) != "/tmp" {
		return "", false
	}
	fi, err := os.Lstat(short)
	if err != nil || fi.Mode() != fs.ModeDir|0o700 || owner(fi) != h.as.uid {
		return "", false
	}
	return short, true
}

// removeSocketFolder removes the folder of the socket, after the server.
func (h home) removeSocketFolder() error {
	var err error
	if short, ok := h.shortSocketFolder(); ok {
		err = os.RemoveAll(short)
	}
	return errors.Join(err, os.RemoveAll(h.path(socketFolder)))
}

func removeEntries(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// prepareLog makes an empty log file and keeps the one before.
func (h home) prepareLog() error {
	if err := os.Rename(h.path(logFile), h.path(oldLogFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(h.path(logFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), h.as.give(f.Name()))
}

// sync writes the folder's entries to disk.
func (h home) sync() error {
	f, err := os.Open(h.dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) {
		err = nil // a file system that cannot, and need not
	}
	return errors.Join(err, f.Close())
}
