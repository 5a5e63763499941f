package main

import (
	"encoding"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/admin"
	"github.com/smpq/smpq/internal/bench"
	"github.com/smpq/smpq/internal/certs"
	"github.com/smpq/smpq/internal/compact"
	"github.com/smpq/smpq/internal/exporter"
	"github.com/smpq/smpq/internal/importer"
	"github.com/smpq/smpq/internal/inspect"
)

// docs/output.md has each field of the JSON form of each command's result, with
// its type, in the order in which they are printed, and no other.
func TestOutputDocument(t *testing.T) {
	results := map[string]any{
		"import storelog":              importer.Result{},
		"import messages, journal":     importer.MessageResult{},
		"import all":                   importAllResult{},
		"export storelog":              exporter.Summary{},
		"export messages, journal":     exporter.MessageSummary{},
		"export all":                   exporter.AllSummary{},
		"inspect counts":               inspect.CountsReport{},
		"inspect queue":                queuesResult{},
		"inspect messages":             messagesResult{},
		"inspect service":              inspect.ServiceReport{},
		"inspect service list":         servicesResult{},
		"inspect log":                  inspect.LogReport{},
		"inspect compare":              inspect.CompareReport{},
		"inspect schema":               inspect.SchemaReport{},
		"queue status":                 admin.StatusResult{},
		"queue block, unblock, delete": admin.Result{},
		"queue log":                    admin.LogResult{},
		"address show":                 addressResult{},
		"probe":                        probeResult{},
		"bench router":                 benchResult{},
		"bench soak":                   bench.SoakReport{},
		"bench memory":                 bench.MemoryReport{},
		"compact":                      compact.QueueResult{},
		"compact storelog":             compact.LogResult{},
		"migrate status, adopt":        stateResult{},
		"migrate up, down, to VERSION": migrated{},
		"local status":                 localResult{},
		"version":                      versionResult{},
		"init":                         initResult{},
		"cert show":                    certs.Report{},
		"cert rotate":                  rotateResult{},
	}
	want := map[string][]string{}
	for command, result := range results {
		want[command] = jsonFields(t, "", reflect.TypeOf(result))
	}
	got := documentedFields(t)
	// Fields of results that are in others are listed there.
	for _, part := range []struct{ of, path, is string }{
		{"inspect service list", "services[].", "inspect service"},
		{"import all", "storelog.", "import storelog"},
		{"import all", "messages.", "import messages, journal"},
		{"export all", "storelog.", "export storelog"},
		{"export all", "messages.", "export messages, journal"},
	} {
		for i, field := range got[part.is] {
			fields := got[part.of]
			object := strings.TrimSuffix(part.path, ".") + ": object"
			at := len(fields)
			if before := slices.IndexFunc(fields, func(f string) bool { return strings.HasPrefix(f, object) }); before >= 0 {
				at = before + 1 + i
			}
			got[part.of] = slices.Insert(fields, at, part.path+field)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields (-of the commands +in docs/output.md):\n%s", diff)
	}
}

// documentedRow matches the row of a field in a table: its path and its type.
var documentedRow = regexp.MustCompile("^\\| `([^`]+)` \\| ([^|]+) \\| [^|]+ \\|$")

// documentedFields returns the rows of the tables of fields in docs/output.md,
// as "path: type", by command.
func documentedFields(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/output.md")
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string][]string{}
	var command string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if heading, ok := strings.CutPrefix(line, "#"); ok {
			_, command, _ = strings.Cut(heading, "smpq ")
		}
		if row := documentedRow.FindStringSubmatch(line); row != nil {
			fields[command] = append(fields[command], row[1]+": "+row[2])
		}
	}
	return fields
}

// jsonFields returns the fields of the JSON form of a struct, and those of the
// structs in it, as "path: type".
func jsonFields(t *testing.T, path string, s reflect.Type) []string {
	t.Helper()
	var fields []string
	for field := range s.Fields() {
		tag, tagged := field.Tag.Lookup("json")
		name, options, _ := strings.Cut(tag, ",")
		switch {
		case field.Anonymous && !tagged:
			fields = append(fields, jsonFields(t, path, field.Type)...)
			continue
		case name == "-" || !field.IsExported():
			continue
		case name == "":
			t.Fatalf("field %s of %s has no JSON name", field.Name, s)
		}
		kind, below := jsonType(field.Type)
		switch {
		case strings.HasPrefix(options, "omit"):
			kind += ", optional"
		case field.Type.Kind() == reflect.Pointer:
			kind += " or null"
		}
		fields = append(fields, path+name+": "+kind)
		if below == nil {
			continue
		}
		if field.Type.Kind() == reflect.Slice {
			name += "[]"
		}
		fields = append(fields, jsonFields(t, path+name+".", below)...)
	}
	return fields
}

// jsonType returns what a value becomes in JSON and, for an object or an array
// of objects, the struct that has its fields.
func jsonType(v reflect.Type) (kind string, below reflect.Type) {
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch {
	case v == reflect.TypeFor[time.Time]():
		return "time", nil
	case v.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		return "string", nil
	}
	switch v.Kind() {
	case reflect.Bool:
		return "boolean", nil
	case reflect.Int, reflect.Int64:
		return "integer", nil
	case reflect.Float64:
		return "number", nil
	case reflect.Struct:
		return "object", v
	case reflect.Map:
		element, _ := jsonType(v.Elem())
		return "object of " + element + "s", nil
	case reflect.Slice:
		if v.Elem().Kind() == reflect.Uint8 {
			return "base64", nil
		}
		element, below := jsonType(v.Elem())
		return "array of " + element + "s", below
	default:
		return "string", nil
	}
}
