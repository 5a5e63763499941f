package pglocal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A lock is an advisory lock on a file, of this process or of nobody: children
// do not inherit it, and the kernel drops it when the process dies.
type lock struct{ f *os.File }

func openLock(path string) (*lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600) //nolint:gosec // a name in the home
	if err != nil {
		return nil, err
	}
	return &lock{f}, nil
}

// exclusive waits until no other process has the lock. It asks again and again,
// since a wait inside the kernel could not be cancelled.
func (l *lock) exclusive(ctx context.Context) error {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		ok, err := l.tryExclusive()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", l.holders(), context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// tryExclusive reports whether it could take the lock for this process alone.
// If it could not, a shared lock that l had is lost.
func (l *lock) tryExclusive() (bool, error) { return l.try(syscall.LOCK_EX) }

// tryShared reports whether it could take the lock together with others.
func (l *lock) tryShared() (bool, error) { return l.try(syscall.LOCK_SH) }

func (l *lock) try(how int) (bool, error) {
	err := syscall.Flock(int(l.f.Fd()), how|syscall.LOCK_NB)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, syscall.EWOULDBLOCK):
		return false, nil
	}
	return false, fmt.Errorf("lock %s: %w", l.f.Name(), err)
}

// unlock gives the lock up, to be taken again later. Closing the file is not
// enough: a child that is between its fork and its exec has it open too.
func (l *lock) unlock() error {
	if err := syscall.Flock(int(l.f.Fd()), syscall.LOCK_UN); err != nil {
		return fmt.Errorf("unlock %s: %w", l.f.Name(), err)
	}
	return nil
}

// release gives the lock up for good.
func (l *lock) release() error { return errors.Join(l.unlock(), l.f.Close()) }

// holders names the other processes that have the lock, as far as the system
// tells (Linux does).
func (l *lock) holders() string {
	const unknown = "another smpq process"
	fi, err := l.f.Stat()
	if err != nil {
		return unknown
	}
	table, err := os.Open("/proc/locks")
	if err != nil {
		return unknown
	}
	defer table.Close() //nolint:errcheck // only read
	inode := ":" + strconv.FormatUint(fi.Sys().(*syscall.Stat_t).Ino, 10)
	var pids []string
	for lines := bufio.NewScanner(table); lines.Scan(); {
		// 12: FLOCK  ADVISORY  READ 4711 fe:00:1234 0 EOF
		f := strings.Fields(lines.Text())
		if len(f) >= 6 && f[1] == "FLOCK" && strings.HasSuffix(f[5], inode) && f[4] > "0" && !slices.Contains(pids, f[4]) {
			pids = append(pids, f[4])
		}
	}
	if len(pids) == 0 {
		return unknown
	}
	return "process " + strings.Join(pids, ", ")
}
