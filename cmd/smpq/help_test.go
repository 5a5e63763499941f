package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/dumptest"
	"github.com/smpq/smpq/internal/pgtest"
)

// commands returns all commands of smpq, but not those that cobra adds.
func commands() []*cobra.Command {
	var all []*cobra.Command
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		all = append(all, cmd)
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(cli.NewConsole(nil, new(bytes.Buffer))))
	return all
}

// Help fits a terminal of 80 columns, and commands that do something have
// examples, which are right: command, flags, number of operands.
func TestHelp(t *testing.T) {
	for _, cmd := range commands() {
		path := strings.Fields(cmd.CommandPath())[1:]
		var stdout, stderr bytes.Buffer
		if status := run(append(path, "--help"), nil, &stdout, &stderr); status != 0 || stderr.Len() > 0 {
			t.Errorf("%s --help: exit status %d, %s", cmd.CommandPath(), status, &stderr)
		}
		for line := range strings.Lines(stdout.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
				t.Errorf("%s --help: %d columns: %s", cmd.CommandPath(), n, line)
			}
		}
		if cmd.RunE != nil && !cmd.HasSubCommands() && cmd.Example == "" {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		for _, example := range examples(cmd) {
			checkExample(t, example)
		}
	}
}

// examples returns the calls of smpq in the examples of a command.
func examples(cmd *cobra.Command) []string {
	var calls []string
	for line := range strings.Lines(strings.ReplaceAll(cmd.Example, "\\\n", " ")) {
		for _, part := range strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune("|&$'\"", r) }) {
			part = strings.TrimLeft(strings.TrimSpace(part), "(")
			if strings.HasPrefix(part, "smpq ") {
				call, _, _ := strings.Cut(part, " > ")
				calls = append(calls, call)
			}
		}
	}
	return calls
}

func checkExample(t *testing.T, example string) {
	t.Helper()
	root := newRoot(cli.NewConsole(nil, new(bytes.Buffer)))
	cmd, args, err := root.Find(strings.Fields(example)[1:])
	if err == nil {
		err = cmd.ParseFlags(args)
	}
	if err == nil {
		err = errors.Join(cmd.ValidateArgs(cmd.Flags().Args()), cmd.ValidateFlagGroups())
	}
	if err != nil || cmd.HasParent() && cmd.Args == nil {
		t.Errorf("%s: %v", example, err)
	}
}

// Each form of output can be parsed, and JSON, YAML and CSV have the same names
// and values.
func TestOutputForms(t *testing.T) {
	dsn := pgtest.DSN(t)
	dumptest.Load(t, pgtest.Conn(t, dsn), "smp_server", filepath.Join(dumptest.Root, "database-mode-live"))
	t.Setenv(dsnVariable, dsn)
	dir := t.TempDir()
	t.Chdir(dir)
	log := filepath.Join(dir, "store.log")
	for _, args := range []string{
		"version",
		"local status --data " + dir,
		"address show smp://1234-w==:pwd@smp.example.org,abc.onion:443 --show-secrets",
		"inspect counts",
		"inspect queue 6HMbDkCsezeHrqz6Xlv98F_t0lgELZqB --messages --show-secrets",
		"inspect messages 6HMbDkCsezeHrqz6Xlv98F_t0lgELZqB",
		"inspect service mT8Lm59Z1bVrxQh4J5sIuE6eYQMyinDe",
		"inspect schema",
		"export storelog " + log + " --force",
		"inspect log " + log,
		"inspect compare " + log,
		"import storelog " + log,
		"import storelog " + log + " --schema other --dry-run",
		"compact --dry-run",
		"compact",
		"compact storelog --dry-run " + log,
		"migrate status",
		"migrate adopt",
		"migrate to smp-server-6.5 --dry-run",
		"migrate up --dry-run",
	} {
		t.Run(args, func(t *testing.T) {
			printed := func(form string) []byte {
				t.Helper()
				var stdout, stderr bytes.Buffer
				if status := run(append(strings.Fields(args), "-o", form), nil, &stdout, &stderr); status != 0 || stderr.Len() > 0 {
					t.Fatalf("-o %s: exit status %d, %s", form, status, &stderr)
				}
				return stdout.Bytes()
			}
			var fromJSON, fromYAML map[string]any
			must(t, json.Unmarshal(printed("json"), &fromJSON))
			must(t, yaml.Unmarshal(printed("yaml"), &fromYAML))
			rows, err := csv.NewReader(bytes.NewReader(printed("csv"))).ReadAll()
			must(t, err)
			if !cmp.Equal(rows[0], []string{"name", "value"}) {
				t.Errorf("the CSV has the columns %q", rows[0])
			}
			values := make(map[string]string)
			for _, row := range rows[1:] {
				values[row[0]] = row[1]
			}
			if len(values) != len(rows)-1 {
				t.Error("the CSV has names twice")
			}
			want := flatten("", fromJSON)
			for from, got := range map[string]map[string]string{"YAML": flatten("", fromYAML), "CSV": values} {
				if diff := cmp.Diff(withoutChanging(want), withoutChanging(got)); diff != "" {
					t.Errorf("-JSON +%s:\n%s", from, diff)
				}
			}
		})
	}
}

// flatten returns the values in a document by their paths.
func flatten(path string, document any) map[string]string {
	values := make(map[string]string)
	add := func(name string, document any) {
		maps.Copy(values, flatten(strings.TrimPrefix(path+"."+name, "."), document))
	}
	switch d := document.(type) {
	case map[string]any:
		for name, below := range d {
			add(name, below)
		}
	case []any:
		for i, below := range d {
			add(jsonText(i), below)
		}
	case nil:
		values[path] = ""
	case string:
		values[path] = d
	default:
		values[path] = jsonText(d)
	}
	return values
}

func jsonText(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // of numbers and truth values
	}
	return string(text)
}

// withoutChanging returns the values without those that each run has of its own.
func withoutChanging(values map[string]string) map[string]string {
	left := make(map[string]string)
	for name, value := range values {
		last := name[strings.LastIndex(name, ".")+1:]
		if !slices.Contains([]string{"seconds", "deleted_before", "scans", "replaced"}, last) {
			left[name] = value
		}
	}
	return left
}

// A reader that leaves, such as head, ends a command without a word.
func TestReaderLeaves(t *testing.T) {
	dsn := pgtest.DSN(t)
	smpq(t, "import", "storelog", realLog(t, "memory"), "--dsn", dsn).expect(t, 0)
	bad := filepath.Join(t.TempDir(), "bad.log")
	must(t, os.WriteFile(bad, []byte("nonsense\n"), 0o600))
	for _, args := range []string{
		"export storelog - -q --dsn " + dsn, "inspect counts --dsn " + dsn, "migrate up --dry-run --schema new --dsn " + dsn,
		"inspect log " + bad, "version -o json", "completion bash", "gen storelog -q -",
	} {
		r, w, err := os.Pipe()
		must(t, errors.Join(err, r.Close()))
		cmd := exec.CommandContext(t.Context(), "smpq", strings.Fields(args)...)
		var stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = w, &stderr
		must(t, errors.Join(cmd.Start(), w.Close()))
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 141 || stderr.Len() > 0 {
			t.Errorf("%s: %v\n%s", args, err, &stderr)
		}
	}
}
