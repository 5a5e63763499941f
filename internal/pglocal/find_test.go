package pglocal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// install makes programs that say that they are of a release.
func install(t *testing.T, dir, version string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\necho 'postgres (PostgreSQL) %s'\n", version)
	for _, name := range []string{"initdb", "pg_ctl", "postgres"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, dir := range []string{filepath.Dir(root), root} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	at := func(dir string) string { return filepath.Join(root, dir) }
	for dir, version := range map[string]string{
		"lib/9/bin":     "9.6.24",
		"lib/15/bin":    "15.18 (Debian 15.18-0+deb12u1)",
		"lib/17/bin":    "17.2",
		"lib/broken":    "unknown",
		"path":          "16beta2",
		"hidden/18/bin": "18devel",
	} {
		install(t, at(dir), version)
	}
	if err := os.Mkdir(at("links"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"initdb", "postgres"} {
		if err := os.Symlink(at("lib/15/bin/"+name), at("links/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(at("links/pg_config"), []byte("#!/bin/sh\necho "+at("hidden/18/bin")+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("lib/15/PG_VERSION"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	lib := []string{at("lib/*/bin")}
	as, err := accountFor(at("none"))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		search search
		major  int
		want   string   // the folder
		err    []string // parts of the error
	}{
		"PATH before others":               {search: search{path: at("path"), folders: lib}, want: "path"},
		"links on PATH":                    {search: search{path: at("links"), folders: lib}, want: "lib/15/bin"},
		"newest":                           {search: search{folders: lib}, want: "lib/17/bin"},
		"release of the cluster":           {search: search{path: at("path"), folders: lib}, major: 15, want: "lib/15/bin"},
		"pg_config":                        {search: search{path: at("links"), folders: lib}, major: 18, want: "hidden/18/bin"},
		"given folder":                     {search: search{only: at("lib/15/bin"), path: at("path"), folders: lib}, want: "lib/15/bin"},
		"relative and empty parts of PATH": {search: search{path: ":path:.", folders: lib}, want: "lib/17/bin"},
		"nothing": {
			err: []string{"release 14 or newer; none found;", "`apt install postgresql`", "`dnf install postgresql-server`", "`brew install postgresql`"},
		},
		"nothing in the given folder": {
			search: search{only: root, path: at("path")},
			err:    []string{"none in " + root},
		},
		"too old": {
			search: search{only: at("lib/9/bin")},
			err:    []string{at("lib/9/bin") + ": release 9 is too old"},
		},
		"no version": {
			search: search{only: at("lib/broken")},
			err:    []string{`unknown version "postgres (PostgreSQL) unknown"`},
		},
		"another release": {
			search: search{path: at("path"), folders: lib},
			major:  14,
			err:    []string{"release 14, which made the cluster", at("path") + ": release 16", "`apt install postgresql-14`", "`brew install postgresql@14`"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := tc.search.find(t.Context(), as, tc.major)
			if tc.err != nil {
				if !errors.Is(err, ErrNotInstalled) {
					t.Fatalf("%v, want ErrNotInstalled", err)
				}
				for _, part := range tc.err {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("error %q lacks %q", err, part)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if p.dir != at(tc.want) {
				t.Errorf("found %s, want %s", p.dir, at(tc.want))
			}
		})
	}
}

func TestFoldersOfNewReleasesComeFirst(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, name := range []string{"postgresql-9", "postgresql-14", "postgresql-100"} {
		install(t, filepath.Join(root, name), "14.1")
	}
	as, err := accountFor(filepath.Join(root, "none"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for dir := range (search{folders: []string{filepath.Join(root, "*")}}).candidates(t.Context(), as) {
		got = append(got, filepath.Base(dir))
	}
	if diff := cmp.Diff([]string{"postgresql-100", "postgresql-14", "postgresql-9"}, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}
