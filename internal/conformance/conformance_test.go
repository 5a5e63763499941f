package conformance

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// docs/conformance.md is what the tests say. With UPDATE_DOCS=1 in the environment it
// is written.
func TestDocument(t *testing.T) {
	root := filepath.Join("..", "..")
	claims, err := Claims(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := Write(&want, claims); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(root, "docs", "conformance.md")
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(name, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), string(got)); diff != "" {
		t.Errorf("%s is out of date; UPDATE_DOCS=1 go test ./internal/conformance writes it (-tests +document):\n%s", name, diff)
	}
}

func TestLines(t *testing.T) {
	for i, l := range Lines() {
		if l.Number != i+1 {
			t.Fatalf("line %d is numbered %d", i+1, l.Number)
		}
		if l.Holds == "" || strings.ContainsAny(l.Holds+l.Apart, "|\n") || l.From != 0 && (l.From < 6 || l.From > 19) {
			t.Errorf("line %d: %+v", l.Number, l)
		}
	}
}

func TestClaims(t *testing.T) {
	const head = "package p\n\nimport \"testing\"\n\n"
	for _, c := range []struct {
		name, file, text string
		want             []Claim
		err              string
	}{
		{
			"a list", "a/x_test.go", head + "// It does.\n//\n// conformance: 3, 7-8\nfunc TestX(*testing.T) {}\n",
			[]Claim{{3, "TestX", "a/x_test.go", ""}, {7, "TestX", "a/x_test.go", ""}, {8, "TestX", "a/x_test.go", ""}},
			"",
		},
		{
			"behind a text", "x_test.go", head + "// It does.\n// conformance: 4\nfunc TestX(*testing.T) {}\n",
			[]Claim{{4, "TestX", "x_test.go", ""}},
			"",
		},
		{
			"a limit", "x_test.go", head + "// conformance: 2; 1 as far as this, and\n// that, goes\nfunc TestX(*testing.T) {}\n",
			[]Claim{{1, "TestX", "x_test.go", "as far as this, and that, goes"}, {2, "TestX", "x_test.go", ""}},
			"",
		},
		{
			"a script", "testdata/init.txtar", "# conformance: 5\nexec smpq\n# conformance: 6 on Linux\n",
			[]Claim{{5, "init", "testdata/init.txtar", ""}, {6, "init", "testdata/init.txtar", "on Linux"}},
			"",
		},
		{"another file", "x.go", "// conformance: nothing\npackage p\n", nil, ""},
		{"no test", "x_test.go", head + "// conformance: 1\nfunc x(*testing.T) {}\n", nil, "x_test.go:5:1: \"conformance:\" is not in the comment of a test"},
		{"in a body", "x_test.go", head + "func TestX(*testing.T) {\n\t// conformance: 1\n}\n", nil, "x_test.go:6:2: \"conformance:\" is not"},
		{"words", "x_test.go", head + "// conformance: restart\nfunc TestX(*testing.T) {}\n", nil, "x_test.go:5:1: \"restart\" has no number of a line"},
		{"no line", "x_test.go", head + "// conformance: 186\nfunc TestX(*testing.T) {}\n", nil, "\"186\" is not the number of a line"},
		{"backwards", "x.txtar", "\n# conformance: 9-7\n", nil, "x.txtar:2: \"9-7\" is not the number of a line"},
		{"half a range", "x.txtar", "# conformance: 9-\n", nil, "x.txtar:1: \"9-\" is not the number of a line"},
		{"nothing", "x.txtar", "# conformance:\n", nil, "has no number of a line"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Claims(fstest.MapFS{c.file: {Data: []byte(c.text)}})
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("the error is %v, not %q", err, c.err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestState(t *testing.T) {
	whole, part := Claim{Line: 1}, Claim{Line: 1, Limit: "as far as it goes"}
	for _, c := range []struct {
		line   Line
		claims []Claim
		want   string
	}{
		{Line{}, []Claim{part, whole}, "tested"},
		{Line{}, []Claim{part}, "in part"},
		{Line{}, nil, "not yet"},
		{Line{}, []Claim{part, {Line: 1, Test: "TestY", Limit: "together with TestX and TestZ"}}, "in part"},
		{Line{}, []Claim{{Line: 1, Test: "TestX", Limit: "here"}, {Line: 1, Test: "TestZ", Limit: "there"}, {Line: 1, Test: "TestY", Limit: "together with TestX and TestZ"}}, "tested"},
		{Line{Apart: "differs"}, nil, "differs"},
		{Line{Apart: "differs"}, []Claim{whole}, "differs (tested)"},
	} {
		if got := state(c.line, c.claims); got != c.want {
			t.Errorf("%+v: %s, not %s", c, got, c.want)
		}
	}
}
