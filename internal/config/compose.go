package config

import (
	"bytes"
	"fmt"
	"strings"
)

// Compose returns a configuration file with the settings, in the form that
// [Sources.Set] has them, and with all other keys as comments that show their
// defaults. What the keys mean is said in comments as well. The settings must be
// right, and the file says the same: Compose returns the error of
// [Sources.Router] otherwise.
func Compose(settings []string) ([]byte, error) {
	r := &reader{Sources: Sources{Set: settings}}
	if _, _, err := r.Router(); err != nil {
		return nil, err
	}
	r.readSet()
	var b bytes.Buffer
	for i, s := range sections {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "[%s]\n", s.Name)
		writeComment(&b, s.Meaning)
		for _, k := range keys {
			if k.Section != s.Name {
				continue
			}
			b.WriteByte('\n')
			writeComment(&b, k.Meaning+" ("+k.Values()+")")
			if text, found := r.set[k.Path()]; found {
				fmt.Fprintf(&b, "%s\n", strings.TrimRight(k.Name+" = "+text, " "))
			} else {
				fmt.Fprintf(&b, "%s\n", strings.TrimRight("# "+k.Name+" = "+k.Default, " "))
			}
		}
	}
	return b.Bytes(), r.compare(b.Bytes())
}

// compare checks that a file has the settings, and no more.
func (r *reader) compare(file []byte) error {
	f, err := Parse("composed", bytes.NewReader(file))
	if err != nil {
		return err
	}
	if len(f.entries) != len(r.set) {
		return fmt.Errorf("composed file: %d keys where %d were set", len(f.entries), len(r.set))
	}
	for _, e := range f.entries {
		if text, found := r.set[e.Section+"."+e.Key]; !found || text != e.Value {
			return &ValueError{Path: "setting", Section: e.Section, Key: e.Key, Reason: "cannot be written into a file: it has more than one line"}
		}
	}
	return nil
}

// writeComment writes text as comment lines of at most 80 columns.
func writeComment(b *bytes.Buffer, text string) {
	const columns = 80
	used := 0
	for word := range strings.FieldsSeq(text) {
		switch {
		case used == 0:
			b.WriteByte('#')
			used = 1
		case used+1+len(word) > columns:
			b.WriteString("\n#")
			used = 1
		}
		b.WriteString(" " + word)
		used += 1 + len(word)
	}
	b.WriteByte('\n')
}
