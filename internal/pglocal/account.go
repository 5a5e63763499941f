package pglocal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// account is the user of the operating system who runs the server.
type account struct {
	name     string
	uid, gid uint32
	other    bool // not the user who runs this process, who is root then
}

// accountFor returns the account for the cluster in folder data, which need not
// exist yet.
func accountFor(data string) (account, error) {
	if os.Geteuid() != 0 {
		u, err := user.Current()
		if err != nil {
			return account{}, fmt.Errorf("look up the current user: %w", err)
		}
		return newAccount(u, false)
	}
	fi, err := os.Lstat(data)
	switch {
	case err == nil:
		u, err := user.LookupId(strconv.FormatUint(uint64(owner(fi)), 10))
		if err != nil {
			return account{}, fmt.Errorf("look up the owner of %s: %w", data, err)
		}
		if u.Uid == "0" {
			return account{}, fmt.Errorf("%s belongs to root, as whom PostgreSQL does not run: give it to the user postgres", data)
		}
		return newAccount(u, true)
	case !errors.Is(err, fs.ErrNotExist):
		return account{}, err
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			return newAccount(u, true)
		}
	}
	return account{}, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor nobody to run it: make one, or run smpq as another user")
}

func newAccount(u *user.User, other bool) (account, error) {
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("user %s: id: %w", u.Username, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("user %s: group id: %w", u.Username, err)
	}
	return account{name: u.Username, uid: uint32(uid), gid: uint32(gid), other: other}, nil
}

func owner(fi fs.FileInfo) uint32 {
	return fi.Sys().(*syscall.Stat_t).Uid
}

// give makes the account the owner of path, which root has made.
func (a account) give(path string) error {
	if !a.other {
		return nil
	}
	return os.Lchown(path, int(a.uid), int(a.gid))
}

// output runs a program as the account in folder dir, detached from the
// terminal and with none of our environment that could change what it does, and
// returns its output. The program and its children are interrupted when ctx ends.
func (a account) output(ctx context.Context, dir, program string, args ...string) (string, error) {
	return a.feed(ctx, "", dir, program, args...)
}

// feed is output with an input for the program.
func (a account) feed(ctx context.Context, input, dir, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...) //nolint:gosec // what to run is found on the machine
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	if libs, ok := os.LookupEnv("LD_LIBRARY_PATH"); ok {
		cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+libs)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if a.other {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	// pg_ctl passes SIGINT on to the server that it is starting, and initdb
	// removes what it has made.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 10 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	err := cmd.Run()
	switch {
	case err == nil:
		return stdout.String(), nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("%s: %w", filepath.Base(program), context.Cause(ctx))
	case errors.Is(err, fs.ErrPermission):
		for _, path := range []string{dir, program} {
			if wall := a.wall(path); wall != "" {
				return "", fmt.Errorf("user %s, who runs the server, may not enter %s: choose a folder outside of it: %w",
					a.name, wall, fs.ErrPermission)
			}
		}
	}
	if text := strings.TrimSpace(stderr.String()); text != "" {
		return "", fmt.Errorf("%s: %w: %s", filepath.Base(program), err, strings.ReplaceAll(text, "\n", "; "))
	}
	return "", fmt.Errorf("%s: %w", filepath.Base(program), err)
}

// wall returns the first folder on the way to path that the account, by the
// folder's mode, may not pass; "" if there is none.
func (a account) wall(path string) string {
	var way []string
	for p := path; ; p = filepath.Dir(p) {
		way = append(way, p)
		if p == filepath.Dir(p) {
			break
		}
	}
	for _, place := range slices.Backward(way) {
		fi, err := os.Stat(place)
		if err != nil {
			return ""
		}
		st := fi.Sys().(*syscall.Stat_t)
		pass := fs.FileMode(0o001)
		switch {
		case st.Uid == a.uid:
			pass = 0o100
		case st.Gid == a.gid:
			pass = 0o010
		}
		if fi.Mode()&pass == 0 {
			return place
		}
	}
	return ""
}
