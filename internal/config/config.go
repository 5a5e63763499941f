// Package config reads the router's configuration: the INI file that smp-server
// calls smp-server.ini, environment variables and settings of the command line.
// One list, [Keys], has all that it can say: values, defaults, documentation and
// new files are made from it. Commands that need only the database, or some other
// part, read that from the [File].
//
// The file has sections in brackets and one key a line, "key = value" or
// "key: value" (older installations write the colon). Space around section
// names, keys and values does not count. Section names and keys are case
// sensitive, as they are to the router: a key that the router does not see
// must not choose a database here. Lines that begin with '#' or ';' are
// comments; further to the right these characters belong to the value.
//
// Values may be secrets. No error of this package shows one, except where the
// expected value is a word like "on" or "memory".
package config

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

// maxSize bounds what is read of a file, in bytes. The file that smp-server
// writes has 6 KB; something larger than this is another kind of file.
const maxSize = 1 << 20

// A File is a parsed configuration file.
type File struct {
	path    string
	entries []entry
}

// An entry is one key of a file with its value. A File has them in its order,
// those that nothing reads included.
type entry struct {
	Section string // "" above the first section header
	Key     string
	Value   string // may be empty; may be a secret
	Line    int    // counted from 1
}

// A SyntaxError says where a file is not an INI file, and why.
type SyntaxError struct {
	Path   string
	Line   int
	Reason string
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Reason)
}

// A ValueError says which key has a value that cannot be used, and why.
type ValueError struct {
	Path    string // the file, or in words what else gave the value
	Line    int    // 0 if that is not a file
	Section string
	Key     string
	Reason  string
}

func (e *ValueError) Error() string {
	place := e.Path
	if e.Line > 0 {
		place = fmt.Sprintf("%s:%d", e.Path, e.Line)
	}
	return fmt.Sprintf("%s: [%s] %s: %s", place, e.Section, e.Key, e.Reason)
}

// Load reads the configuration file at path. A file that cannot be read gives
// an error from package os, which names the path; one that is not an INI file
// a [*SyntaxError].
func Load(path string) (*File, error) {
	r, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer r.Close() //nolint:errcheck // only read from
	f, err := Parse(path, r)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return f, nil
}

// Parse reads a configuration file from r. The path is used in errors only.
func Parse(path string, r io.Reader) (*File, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSize {
		return nil, fmt.Errorf("%s: larger than %d bytes: not a configuration file", path, maxSize)
	}
	f := &File{path: path}
	section, line := "", 0
	for text := range strings.SplitSeq(strings.TrimPrefix(string(data), "\ufeff"), "\n") {
		line++
		e, reason := parseLine(text, &section)
		if reason != "" {
			return nil, &SyntaxError{Path: path, Line: line, Reason: reason}
		}
		if e.Key != "" {
			e.Line = line
			f.entries = append(f.entries, e)
		}
	}
	return f, nil
}

// parseLine reads one line. It returns a key with its value, or changes the
// section, or does neither. The reason is "" unless the line is malformed; it
// never quotes the line, which may hold a password.
func parseLine(text string, section *string) (e entry, reason string) {
	if !utf8.ValidString(text) || strings.ContainsAny(text, "\x00\ufeff") {
		return e, "not text in UTF-8"
	}
	text = strings.TrimSpace(text)
	switch {
	case text == "", text[0] == '#', text[0] == ';':
		return e, ""
	case text[0] == '[':
		name, found := strings.CutSuffix(text[1:], "]")
		name = strings.TrimSpace(name)
		if !found || name == "" || strings.ContainsAny(name, "[]") {
			return e, "malformed section header: want [NAME] alone on the line"
		}
		*section = name
		return e, ""
	}
	i := strings.IndexAny(text, "=:")
	if i < 0 {
		return e, "neither a section header, nor \"key = value\", nor a comment"
	}
	key := strings.TrimSpace(text[:i])
	if key == "" {
		return e, "no key before the separator"
	}
	return entry{Section: *section, Key: key, Value: strings.TrimSpace(text[i+1:])}, ""
}

// lookup returns the entry of a key. A key that is given twice with different
// values is an error, since it depends on the reader which of them counts.
func (f *File) lookup(section, key string) (entry, bool, error) {
	var found entry
	for _, e := range f.entries {
		switch {
		case e.Section != section || e.Key != key:
		case found.Line == 0:
			found = e
		case found.Value != e.Value:
			return entry{}, false, f.invalid(e, fmt.Sprintf("has another value in line %d", found.Line))
		}
	}
	return found, found.Line != 0, nil
}

func (f *File) invalid(e entry, reason string) *ValueError {
	return &ValueError{Path: f.path, Line: e.Line, Section: e.Section, Key: e.Key, Reason: reason}
}
