package main

import (
	"cmp"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/schema"
)

// Set by the linker (-X); empty where the program was built without it.
var version, commit string

// A build says what program this is.
type build struct {
	Version   string `json:"version"`
	Commit    string `json:"commit"` // "" if unknown; ends in "+" if files were changed
	GoVersion string `json:"go_version"`
	Platform  string `json:"platform"`
}

// readBuild takes what the linker was not told from the build information that
// the go command records.
func readBuild() build {
	b := build{Version: version, Commit: commit, GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		if b.Version == "" && info.Main.Version != "(devel)" {
			b.Version = info.Main.Version
		}
		if b.Commit == "" {
			b.Commit = recordedCommit(info.Settings)
		}
	}
	b.Version = cmp.Or(b.Version, "devel")
	return b
}

func recordedCommit(settings []debug.BuildSetting) string {
	var revision, changed string
	for _, s := range settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = "+"
		}
	}
	if revision == "" {
		return ""
	}
	return revision + changed
}

// A schemaVersion is a version of the database schema and the releases of
// smp-server that accept it.
type schemaVersion struct {
	Version  schema.Version `json:"version"`
	Releases []string       `json:"releases"`
}

// A versionResult says what program this is and which schemas it knows.
type versionResult struct {
	build
	Schemas []schemaVersion `json:"schemas"` // the oldest first
}

func newVersion() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version of smpq and the schema versions that it knows",
		Args:  cobra.NoArgs,
		Example: `  smpq version
  smpq version -o json`,
	}
	out := cli.AddOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		result := versionResult{build: readBuild()}
		t := cli.Table{Columns: []string{"name", "value"}, Plain: true}
		t.Add("version", result.Version)
		t.Add("commit", cmp.Or(result.Commit, "unknown"))
		t.Add("go version", result.GoVersion)
		t.Add("platform", result.Platform)
		for _, v := range schema.All() {
			releases := append([]string{}, v.Releases()...)
			result.Schemas = append(result.Schemas, schemaVersion{v, releases})
			text := string(v)
			if len(releases) > 0 {
				text += " (" + strings.Join(releases, ", ") + ")"
			}
			t.Add("schema", text)
		}
		return out.Write(cmd.OutOrStdout(), result, t)
	}
	return cmd
}
