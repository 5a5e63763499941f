package monitor

import (
	"io"
	"math"
	"strconv"
	"strings"
)

// Text is metrics in the text format of Prometheus. Names and help texts must be
// as the format wants them; values of labels may be anything.
type Text struct{ b []byte }

// Counter adds a number that never goes down while the process runs. Its name
// should end in _total.
func (t *Text) Counter(name, help string, value float64) { t.add(name, help, "counter", value, nil) }

// Gauge adds a number that goes up and down. Labels are names and values in turn.
func (t *Text) Gauge(name, help string, value float64, labels ...string) {
	t.add(name, help, "gauge", value, labels)
}

func (t *Text) add(name, help, kind string, value float64, labels []string) {
	t.b = append(t.b, "# HELP "+name+" "+help+"\n# TYPE "+name+" "+kind+"\n"+name...)
	for i := 0; i+1 < len(labels); i += 2 {
		separator := byte(',')
		if i == 0 {
			separator = '{'
		}
		t.b = append(append(t.b, separator), labels[i]+`="`+escapeLabel.Replace(labels[i+1])+`"`...)
	}
	if len(labels) > 0 {
		t.b = append(t.b, '}')
	}
	t.b = append(appendValue(append(t.b, ' '), value), '\n')
}

var escapeLabel = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// appendValue appends a number, whole ones with all their digits.
func appendValue(b []byte, value float64) []byte {
	const exact = 1 << 53
	if value == math.Trunc(value) && math.Abs(value) < exact {
		return strconv.AppendInt(b, int64(value), 10)
	}
	return strconv.AppendFloat(b, value, 'g', -1, 64)
}

// WriteTo writes what was added.
func (t *Text) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(t.b)
	return int64(n), err
}
