// Package conformance knows what a router has to do so that nobody notices that it is
// not smp-server, line by line, and finds the tests that prove it. It makes
// docs/conformance.md.
//
// A test says what it proves in a paragraph of its comment, or a script in a comment
// anywhere:
//
//	// conformance: 19, 26-30; 157 as far as sending goes
//
// Each part between semicolons has numbers of lines, and may say how far the test goes;
// without that, it proves all of them. With "together with TestA and TestB", it proves them
// if those tests claim them as well.
package conformance

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A Line is something that can be seen of a router, from outside.
type Line struct {
	Number int    // from 1
	From   int    // the lowest version in which it can be seen; 0: it has nothing to do with versions
	Holds  string // what
	Apart  string // why there is no test of just that; empty: there has to be one
}

type section struct {
	title string
	lines []Line
}

// Lines returns all lines, in the order of their numbers.
func Lines() []Line {
	var all []Line
	for _, s := range sections {
		all = append(all, s.lines...)
	}
	return all
}

// A Claim is what a test says that it proves.
type Claim struct {
	Line  int
	Test  string // its name
	File  string // with slashes, from the root
	Limit string // how far it goes: "as far as sending goes"; empty: all the way
}

// marker begins a claim.
const marker = "conformance:"

// Claims returns the claims in the tests and scripts below a root, ordered by line,
// file and test. A claim that cannot be read, or is not in the comment of a test, is an
// error, which says where it is.
func Claims(root fs.FS) ([]Claim, error) {
	var all []Claim
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			if base := path.Base(name); name != "." && (strings.HasPrefix(base, ".") || base == "conformance") {
				return fs.SkipDir
			}
			return nil
		case !strings.HasSuffix(name, "_test.go") && !strings.HasSuffix(name, ".txtar"):
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		if !strings.Contains(string(text), marker) {
			return nil
		}
		find := inTests
		if strings.HasSuffix(name, ".txtar") {
			find = inScript
		}
		claims, err := find(name, text)
		all = append(all, claims...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find what tests prove: %w", err)
	}
	slices.SortStableFunc(all, func(a, b Claim) int { return a.Line - b.Line })
	return all, nil
}

// inTests returns the claims in a file of tests.
func inTests(name string, text []byte) (all []Claim, err error) {
	files := token.NewFileSet()
	parsed, err := parser.ParseFile(files, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	of := make(map[*ast.CommentGroup]string)
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Doc != nil && (strings.HasPrefix(f.Name.Name, "Test") || strings.HasPrefix(f.Name.Name, "Fuzz")) {
			of[f.Doc] = f.Name.Name
		}
	}
	for _, group := range parsed.Comments {
		for text := range claimsIn(group.Text()) {
			claims, err := parse(text, of[group], name)
			if err == nil && of[group] == "" {
				err = fmt.Errorf("%q is not in the comment of a test", marker)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", files.Position(group.Pos()), err)
			}
			all = append(all, claims...)
		}
	}
	return all, nil
}

// claimsIn returns what is behind the markers in a comment, each to the end of its
// paragraph.
func claimsIn(comment string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for paragraph := range strings.SplitSeq(comment, "\n\n") {
			_, text, found := strings.Cut("\n"+paragraph, "\n"+marker)
			if found && !yield(text) {
				return
			}
		}
	}
}

// inScript returns the claims in a script.
func inScript(name string, text []byte) (all []Claim, err error) {
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		rest, found := strings.CutPrefix(line, "# "+marker)
		if !found {
			continue
		}
		claims, err := parse(rest, strings.TrimSuffix(path.Base(name), ".txtar"), name)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, number, err)
		}
		all = append(all, claims...)
	}
	return all, nil
}

// parse reads what is behind the marker.
func parse(text, test, file string) (all []Claim, err error) {
	last := Lines()[len(Lines())-1].Number
	for part := range strings.SplitSeq(text, ";") {
		words := strings.Fields(strings.ReplaceAll(part, ",", " , "))
		n := 0
		for n < len(words) && (words[n] == "," || '0' <= words[n][0] && words[n][0] <= '9') {
			n++
		}
		limit := strings.ReplaceAll(strings.Join(words[n:], " "), " , ", ", ")
		found := false
		for _, word := range words[:n] {
			if word == "," {
				continue
			}
			from, to, isRange := strings.Cut(word, "-")
			if !isRange {
				to = from
			}
			first, err := strconv.Atoi(from)
			if err != nil {
				return nil, fmt.Errorf("%q is not the number of a line", word)
			}
			end, err := strconv.Atoi(to)
			if err != nil || first < 1 || end < first || end > last {
				return nil, fmt.Errorf("%q is not the number of a line", word)
			}
			found = true
			for line := first; line <= end; line++ {
				all = append(all, Claim{Line: line, Test: test, File: file, Limit: limit})
			}
		}
		if !found {
			return nil, fmt.Errorf("%q has no number of a line", strings.TrimSpace(part))
		}
	}
	return all, nil
}

// together begins the limit of a claim that others complete: the names of the tests follow.
const together = "together with "

// proves reports whether the claim proves the line, maybe with others of the line.
func (c *Claim) proves(claims []Claim) bool {
	others, found := strings.CutPrefix(c.Limit, together)
	if !found {
		return c.Limit == ""
	}
	for name := range strings.SplitSeq(others, " and ") {
		if !slices.ContainsFunc(claims, func(c Claim) bool { return c.Test == name }) {
			return false
		}
	}
	return true
}

// state says in words how far a line is proved.
func state(l Line, claims []Claim) string {
	whole := slices.ContainsFunc(claims, func(c Claim) bool { return c.proves(claims) })
	switch {
	case l.Apart != "" && len(claims) > 0:
		return l.Apart + " (tested)"
	case l.Apart != "":
		return l.Apart
	case whole:
		return "tested"
	case len(claims) > 0:
		return "in part"
	}
	return "not yet"
}

// Write writes the document: what holds, from which version on, and which tests prove
// it.
func Write(w io.Writer, claims []Claim) error {
	var b strings.Builder
	states := make(map[string]int)
	tables := new(strings.Builder)
	for _, s := range sections {
		fmt.Fprintf(tables, "\n## %s\n\n| line | from | what holds | tests | state |\n|---|---|---|---|---|\n", s.title)
		for _, l := range s.lines {
			of := slices.DeleteFunc(slices.Clone(claims), func(c Claim) bool { return c.Line != l.Number })
			is := state(l, of)
			kind, _, _ := strings.Cut(is, ":")
			states[strings.TrimSuffix(kind, " (tested)")]++
			from := ""
			if l.From > 0 {
				from = strconv.Itoa(l.From)
			}
			fmt.Fprintf(tables, "| %d | %s | %s | %s | %s |\n", l.Number, from, l.Holds, links(of), is)
		}
	}
	b.WriteString(introduction)
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for s := range states {
			if !yield(s) {
				return
			}
		}
	}) {
		fmt.Fprintf(&b, "| %s | %d |\n", name, states[name])
	}
	b.WriteString(tables.String())
	_, err := io.WriteString(w, b.String())
	return err
}

// links returns the tests, with links to their files.
func links(claims []Claim) string {
	var all []string
	for _, c := range claims {
		link := fmt.Sprintf("[%s](../%s)", c.Test, c.File)
		if c.Limit != "" {
			link += ", " + c.Limit
		}
		if !slices.Contains(all, link) {
			all = append(all, link)
		}
	}
	return strings.Join(all, "<br>")
}

const introduction = `<!-- Written by UPDATE_DOCS=1 go test ./internal/conformance; do not edit. -->

# Conformance

What the clients and the operator of smp-server can see of it, line by line, and the tests which prove that it is so of
smpq. The tests that are about the protocol talk to a router over TLS, in each version from the one in the column
"from" on, unless the line is about lower ones; without a version there, the line is not about the protocol. A line
"differs" where smpq does something else on purpose, as [differences.md](differences.md) says.

Each test names its lines in its comment. This file is made of these comments, and a test fails when it is out of date.

| state | lines |
|---|---|
`
