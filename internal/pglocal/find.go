package pglocal

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrNotInstalled says that the machine has no PostgreSQL server programs that
// can be used. The error that wraps it says which are needed, which are there,
// and how to install them.
var ErrNotInstalled = errors.New("PostgreSQL's server programs are not installed")

// minMajor is the oldest PostgreSQL release that the router's schema works with
// (it has a procedure with OUT parameters).
const minMajor = 14

// installFolders are the places where distributions put the server's programs
// outside PATH, most of them so that several releases fit side by side.
var installFolders = []string{
	"/usr/lib/postgresql/*/bin",   // Debian, Ubuntu
	"/usr/pgsql-*/bin",            // the PostgreSQL project's RPMs
	"/usr/lib/postgresql*/bin",    // SUSE
	"/usr/lib64/postgresql-*/bin", // Gentoo
	"/usr/libexec/postgresql*",    // Alpine
	"/usr/local/pgsql/bin",        // built from source
	"/opt/homebrew/opt/postgresql*/bin",
	"/usr/local/opt/postgresql*/bin",
	"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
}

// programs is one installation of the server.
type programs struct {
	dir   string // the folder of initdb, pg_ctl and postgres
	major int    // the release, such as 15
}

func (p programs) path(name string) string { return filepath.Join(p.dir, name) }

// search says where to look for the programs.
type search struct {
	only    string   // this folder alone, if not empty
	path    string   // a list of folders, as in the variable PATH
	folders []string // patterns, as in installFolders
}

// find returns the installation to use: for a new cluster (major 0) the first
// one, else the first one of the release that made the cluster.
func (s search) find(ctx context.Context, as account, major int) (programs, error) {
	var other []string
	for dir := range s.candidates(ctx, as) {
		p, err := probe(ctx, as, dir)
		switch {
		case ctx.Err() != nil:
			return programs{}, fmt.Errorf("look for PostgreSQL: %w", context.Cause(ctx))
		case err != nil:
			other = append(other, fmt.Sprintf("%s: %v", dir, err))
		case major != 0 && p.major != major:
			other = append(other, fmt.Sprintf("%s: release %d", dir, p.major))
		case p.major < minMajor:
			other = append(other, fmt.Sprintf("%s: release %d is too old", dir, p.major))
		default:
			return p, nil
		}
	}
	return programs{}, s.notFound(major, other)
}

// notFound says what is missing, given what is there instead.
func (s search) notFound(major int, other []string) error {
	want := fmt.Sprintf("release %d or newer", minMajor)
	hint := "`apt install postgresql` (Debian, Ubuntu), `dnf install postgresql-server` (Fedora, RHEL) or `brew install postgresql` (macOS)"
	if major != 0 {
		want = fmt.Sprintf("release %d, which made the cluster", major)
		hint = fmt.Sprintf("`apt install postgresql-%d` (Debian, Ubuntu), `dnf install postgresql%[1]d-server` (Fedora, RHEL) or `brew install postgresql@%[1]d` (macOS)", major)
	}
	found := "none found"
	switch {
	case len(other) > 0:
		found = "found " + strings.Join(other, "; ")
	case s.only != "":
		found = "none in " + s.only
	}
	return fmt.Errorf("%w: needed is %s; %s; install it with %s", ErrNotInstalled, want, found, hint)
}

// candidates yields the folders that hold the programs, best first: those on
// PATH, which the user chose, then the distribution's, newest release first,
// then the one that pg_config knows.
func (s search) candidates(ctx context.Context, as account) iter.Seq[string] {
	return func(yield func(string) bool) {
		seen := make(map[string]bool)
		try := func(dir string) bool {
			place, ok := complete(dir)
			if !ok || seen[place] {
				return true
			}
			seen[place] = true
			return yield(place)
		}
		if s.only != "" {
			try(s.only)
			return
		}
		onPath := filepath.SplitList(s.path)
		for _, dir := range onPath {
			if !try(dir) {
				return
			}
		}
		var installed []string
		for _, pattern := range s.folders {
			// The patterns are constants, so the only error, a malformed
			// pattern, cannot be.
			found, _ := filepath.Glob(pattern)
			installed = append(installed, found...)
		}
		slices.SortStableFunc(installed, func(a, b string) int { return release(b) - release(a) })
		for _, dir := range installed {
			if !try(dir) {
				return
			}
		}
		for _, dir := range onPath {
			config := filepath.Join(dir, "pg_config")
			if !executable(config) {
				continue
			}
			out, err := as.output(ctx, "/", config, "--bindir")
			if err == nil && !try(strings.TrimSpace(out)) {
				return
			}
		}
	}
}

// complete reports whether dir holds all the programs, and returns the folder
// where they really are: PATH often has links to them, and the programs find
// each other and their data from the place where they are.
func complete(dir string) (string, bool) {
	if !filepath.IsAbs(dir) {
		return "", false
	}
	server, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
	if err != nil {
		return "", false
	}
	dir = filepath.Dir(server)
	for _, name := range []string{"initdb", "pg_ctl", "postgres"} {
		if !executable(filepath.Join(dir, name)) {
			return "", false
		}
	}
	return dir, true
}

func executable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}

var (
	lastNumber  = regexp.MustCompile(`([0-9]+)[^0-9]*$`)
	versionLine = regexp.MustCompile(`\(PostgreSQL\) ([0-9]+)`)
)

// release guesses the release from the name of a folder, 0 if it has none.
func release(dir string) int {
	m := lastNumber.FindStringSubmatch(dir)
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		return 0
	}
	return n
}

// probe asks the server in dir for its release.
func probe(ctx context.Context, as account, dir string) (programs, error) {
	out, err := as.output(ctx, "/", filepath.Join(dir, "postgres"), "--version")
	if err != nil {
		return programs{}, err
	}
	m := versionLine.FindStringSubmatch(out)
	if m == nil {
		return programs{}, fmt.Errorf("unknown version %q", strings.TrimSpace(out))
	}
	major, err := strconv.Atoi(m[1])
	if err != nil {
		return programs{}, fmt.Errorf("version %q: %w", m[1], err)
	}
	return programs{dir: dir, major: major}, nil
}
