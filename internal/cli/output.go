package cli

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/tw"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// The forms of output.
const (
	formatTable = "table"
	formatJSON  = "json"
	formatYAML  = "yaml"
	formatCSV   = "csv"
)

// An Output prints a command's result in the form that its -o flag names.
type Output struct{ format format }

// AddOutputFlag adds the flag -o to a command.
func AddOutputFlag(cmd *cobra.Command) *Output {
	o := &Output{formatTable}
	cmd.Flags().VarP(&o.format, "output", "o", "form of the output: table, json, yaml or csv")
	complete := cobra.FixedCompletions([]string{formatTable, formatJSON, formatYAML, formatCSV}, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc("output", complete); err != nil {
		panic(err) // the flag was added above
	}
	return o
}

// A Table is a result as rows of text. The names of its columns are those of
// the JSON form, in lower case with underscores.
type Table struct {
	Columns []string
	Rows    [][]string
	// Plain is for pairs of name and value, which only people read: there is
	// no line with the names of the columns, and there are no boxes. The CSV
	// form has the names and values of the JSON form instead.
	Plain bool
}

// Add adds a row.
func (t *Table) Add(cells ...string) { t.Rows = append(t.Rows, cells) }

// Write prints a result: result as JSON or YAML, with the names of its JSON
// form, or t as table or CSV. Of a plain table the CSV form is result again, a
// row for each value, with its path as the name: "status.blocked", "queues.0.mode".
func (o *Output) Write(w io.Writer, result any, t Table) error {
	var err error
	switch o.format {
	case formatJSON:
		err = writeJSON(w, result)
	case formatYAML:
		err = writeYAML(w, result)
	case formatCSV:
		if t.Plain {
			t, err = flatten(result)
		}
		if err == nil {
			err = writeCSV(w, t)
		}
	default:
		err = writeTable(w, t)
	}
	if err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}

// format is a flag's value for a form of output.
type format string

func (f *format) Set(text string) error {
	switch text {
	case formatTable, formatJSON, formatYAML, formatCSV:
		*f = format(text)
		return nil
	}
	return fmt.Errorf("want %s, %s, %s or %s", formatTable, formatJSON, formatYAML, formatCSV)
}

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "form" }

func writeJSON(w io.Writer, result any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(result)
}

// writeYAML goes through JSON, so that both have the same names and values.
func writeYAML(w io.Writer, result any) error {
	text, err := json.Marshal(result)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	doc, err := yamlNode(d)
	if err != nil {
		return err
	}
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(doc); err != nil {
		return err
	}
	return e.Close()
}

// plainYAML matches text that means itself in YAML without quotes, in every
// version of it, unless it is a yamlWord.
var (
	plainYAML = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_./,=@-]*( [A-Za-z0-9_./,=@-]+)*$`)
	yamlWord  = regexp.MustCompile(`^(?i:y|n|yes|no|on|off|true|false|null)$`)
)

// yamlNode reads the next JSON value. Unlike a map it keeps the order of names.
func yamlNode(d *json.Decoder) (*yaml.Node, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	n := new(yaml.Node)
	switch token := token.(type) {
	case string:
		n.Kind, n.Value, n.Tag = yaml.ScalarNode, token, "!!str"
		if !plainYAML.MatchString(token) || yamlWord.MatchString(token) {
			n.Style = yaml.DoubleQuotedStyle
		}
		return n, nil
	case json.Delim:
		n.Kind = yaml.SequenceNode
		if token == '{' {
			n.Kind = yaml.MappingNode // names and values in turn
		}
		for d.More() {
			below, err := yamlNode(d)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, below)
		}
		_, err = d.Token() // the closing bracket
		return n, err
	case json.Number:
		n.Kind, n.Value = yaml.ScalarNode, token.String()
		return n, nil
	}
	return n, n.Encode(token) // true, false or null
}

// flatten returns the values in a result as rows of path and value. Empty lists
// and objects have none; null is empty.
func flatten(result any) (Table, error) {
	t := Table{Columns: []string{"name", "value"}}
	text, err := json.Marshal(result)
	if err != nil {
		return t, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return t, t.flatten(d, "")
}

// flatten adds the rows of the next JSON value.
func (t *Table) flatten(d *json.Decoder, path string) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	open, composed := token.(json.Delim)
	if !composed {
		value := ""
		if token != nil {
			value = fmt.Sprint(token)
		}
		t.Add(path, value)
		return nil
	}
	for i := 0; d.More(); i++ {
		name := any(i)
		if open == '{' {
			if name, err = d.Token(); err != nil {
				return err
			}
		}
		if err := t.flatten(d, strings.TrimPrefix(fmt.Sprintf("%s.%v", path, name), ".")); err != nil {
			return err
		}
	}
	_, err = d.Token() // the closing bracket
	return err
}

func writeCSV(w io.Writer, t Table) error {
	c := csv.NewWriter(w)
	if err := c.Write(t.Columns); err != nil {
		return err
	}
	return c.WriteAll(t.Rows)
}

// writeTable prints boxes on a terminal that is wide enough for them, the rows
// as lists on one that is not, and else columns without any decoration. Plain
// tables are columns everywhere.
func writeTable(w io.Writer, t Table) error {
	var b bytes.Buffer
	_, terminal := terminalOf(w)
	if !terminal || t.Plain {
		if err := renderTable(&b, t, plainStyle()); err != nil {
			return err
		}
		return writeTrimmed(w, b.String())
	}
	if err := renderTable(&b, t, tablewriter.WithRendition(tw.Rendition{Symbols: tw.NewSymbols(tw.StyleLight)})); err != nil {
		return err
	}
	firstLine, _, _ := strings.Cut(b.String(), "\n")
	if utf8.RuneCountInString(firstLine) <= columnsOf(w) {
		_, err := w.Write(b.Bytes())
		return err
	}
	return writeRecords(w, t)
}

// plainStyle is columns with two spaces between them.
func plainStyle() tablewriter.Option {
	return func(t *tablewriter.Table) {
		tablewriter.WithRendition(tw.Rendition{
			Borders:  tw.BorderNone,
			Symbols:  tw.NewSymbols(tw.StyleNone),
			Settings: tw.Settings{Separators: tw.SeparatorsNone, Lines: tw.LinesNone},
		})(t)
		tablewriter.WithPadding(tw.Padding{Right: "  ", Overwrite: true})(t)
	}
}

func renderTable(w io.Writer, t Table, style tablewriter.Option) error {
	align := alignments(t)
	table := tablewriter.NewTable(w,
		style,
		tablewriter.WithHeaderAutoWrap(tw.WrapNone),
		tablewriter.WithRowAutoWrap(tw.WrapNone),
		tablewriter.WithTrimSpace(tw.Off),
		tablewriter.WithHeaderAlignmentConfig(tw.CellAlignment{PerColumn: align}),
		tablewriter.WithRowAlignmentConfig(tw.CellAlignment{PerColumn: align}),
	)
	if !t.Plain {
		table.Header(t.Columns)
	}
	for _, row := range t.Rows {
		if err := table.Append(visible(row)); err != nil {
			return err
		}
	}
	return table.Render()
}

// number matches what belongs to the right of its column: an amount, with or
// without a unit.
var number = regexp.MustCompile(`^[-+]?[0-9][0-9.,]*( ?(%|s|[KMGT]?i?B))?$`)

// alignments puts the columns that hold nothing but amounts to the right.
func alignments(t Table) []tw.Align {
	align := make([]tw.Align, len(t.Columns))
	for i := range align {
		cells := 0
		align[i] = tw.AlignRight
		for _, row := range t.Rows {
			if i >= len(row) || row[i] == "" {
				continue
			}
			cells++
			if !number.MatchString(row[i]) {
				align[i] = tw.AlignLeft
				break
			}
		}
		if cells == 0 {
			align[i] = tw.AlignLeft
		}
	}
	return align
}

// visible escapes what would act on a terminal instead of being shown by it:
// cells may come from a damaged file.
func visible(row []string) []string {
	row = slices.Clone(row)
	for i, cell := range row {
		if strings.ContainsFunc(cell, func(r rune) bool { return !unicode.IsPrint(r) }) || !utf8.ValidString(cell) {
			quoted := strconv.Quote(cell)
			row[i] = strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
		}
	}
	return row
}

// writeTrimmed writes text without the spaces that end its lines.
func writeTrimmed(w io.Writer, text string) error {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeRecords prints each row as a list of names and values.
func writeRecords(w io.Writer, t Table) error {
	longest := 0
	for _, name := range t.Columns {
		longest = max(longest, len(name))
	}
	var b strings.Builder
	for i, row := range t.Rows {
		if i > 0 {
			b.WriteString("\n")
		}
		for j, cell := range visible(row) {
			fmt.Fprintf(&b, "%-*s  %s\n", longest, strings.ReplaceAll(t.Columns[j], "_", " "), cell)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// FormatBytes renders a number of bytes for people: "512 B", "3.4 MiB".
func FormatBytes(n int64) string {
	const step = 1024
	if n < step {
		return strconv.FormatInt(n, 10) + " B"
	}
	value, units := float64(n)/step, "KMGTPE"
	for value >= step-0.05 {
		value, units = value/step, units[1:]
	}
	return fmt.Sprintf("%.1f %ciB", value, units[0])
}
