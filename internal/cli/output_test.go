package cli_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/smpq/smpq/internal/cli"
)

type sample struct {
	ID      string   `json:"recipient_id"`
	Status  string   `json:"status"`
	Bytes   int64    `json:"bytes"`
	Service *string  `json:"service_id"`
	Tags    []string `json:"tags,omitempty"`
}

var (
	sampleResult = []sample{
		{ID: "De5BnnQnc1XN2Mk1YgAUS6yPbn4ouMzA", Status: "active", Bytes: 5},
		{ID: "no", Status: "blocked,reason=spam,notice={\"ttl\":86400}", Bytes: 12345, Tags: []string{"a<b", "line\nbreak", "123", "\x1b[31m"}},
	}
	sampleTable = cli.Table{
		Columns: []string{"recipient_id", "status", "bytes", "service_id"},
		Rows: [][]string{
			{"De5BnnQnc1XN2Mk1YgAUS6yPbn4ouMzA", "active", "5", ""},
			{"no", "blocked,reason=spam,notice={\"ttl\":86400}", "12345", "a\nb\x1b[31m\xff"},
		},
	}
)

// output returns an Output after its command was called with args.
func output(t *testing.T, args ...string) (*cli.Output, error) {
	t.Helper()
	cmd := &cobra.Command{Use: "test", SilenceErrors: true, SilenceUsage: true, RunE: func(*cobra.Command, []string) error { return nil }}
	o := cli.AddOutputFlag(cmd)
	cmd.SetArgs(args)
	return o, cmd.ExecuteContext(t.Context())
}

func TestOutputForms(t *testing.T) {
	tests := []struct{ form, want string }{
		{"table", `
RECIPIENT ID                      STATUS                                    BYTES  SERVICE ID
De5BnnQnc1XN2Mk1YgAUS6yPbn4ouMzA  active                                        5
no                                blocked,reason=spam,notice={"ttl":86400}  12345  a\nb\x1b[31m\xff
`},
		{"json", `
[
  {
    "recipient_id": "De5BnnQnc1XN2Mk1YgAUS6yPbn4ouMzA",
    "status": "active",
    "bytes": 5,
    "service_id": null
  },
  {
    "recipient_id": "no",
    "status": "blocked,reason=spam,notice={\"ttl\":86400}",
    "bytes": 12345,
    "service_id": null,
    "tags": [
      "a<b",
      "line\nbreak",
      "123",
      "\u001b[31m"
    ]
  }
]
`},
		{"yaml", `
- recipient_id: De5BnnQnc1XN2Mk1YgAUS6yPbn4ouMzA
  status: active
  bytes: 5
  service_id: null
- recipient_id: "no"
  status: "blocked,reason=spam,notice={\"ttl\":86400}"
  bytes: 12345
  service_id: null
  tags:
    - "a<b"
    - "line\nbreak"
    - "123"
    - "\e[31m"
`},
		{"csv", `
recipient_id,status,bytes,service_id
De5BnnQnc1XN2Mk1YgAUS6yPbn4ouMzA,active,5,
no,"blocked,reason=spam,notice={""ttl"":86400}",12345,"a
` + "b\x1b[31m\xff" + `"
`},
	}
	for _, tt := range tests {
		t.Run(tt.form, func(t *testing.T) {
			o, err := output(t, "-o", tt.form)
			if err != nil {
				t.Fatal(err)
			}
			var b bytes.Buffer
			if err := o.Write(&b, sampleResult, sampleTable); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, "\n"+b.String()); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestOutputDefaultIsTable(t *testing.T) {
	o, err := output(t)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	table := cli.Table{Columns: []string{"name", "value"}, Plain: true}
	table.Add("queues", "19")
	table.Add("soft-deleted queues", "3.5 MiB")
	if err := o.Write(&b, nil, table); err != nil {
		t.Fatal(err)
	}
	want := "queues                    19\nsoft-deleted queues  3.5 MiB\n"
	if got := b.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// The CSV form of pairs, which are for people, is that of the JSON form.
func TestOutputPairsAsCSV(t *testing.T) {
	o, err := output(t, "-o", "csv")
	if err != nil {
		t.Fatal(err)
	}
	pairs := cli.Table{Columns: []string{"name", "value"}, Plain: true}
	pairs.Add("queues", "about 19")
	result := struct {
		Name   string   `json:"name"`
		None   *int     `json:"none"`
		Absent []string `json:"absent,omitempty"`
		Empty  []string `json:"empty"`
		Yes    bool     `json:"yes"`
		Large  int64    `json:"large"`
		Share  float64  `json:"share"`
		List   []sample `json:"list"`
	}{Name: "a,\"b\"\nc", Empty: []string{}, Yes: true, Large: 1<<63 - 1, Share: 0.5, List: sampleResult}
	var b bytes.Buffer
	if err := o.Write(&b, result, pairs); err != nil {
		t.Fatal(err)
	}
	want := `name,value
name,"a,""b""
c"
none,
yes,true
large,9223372036854775807
share,0.5
list.0.recipient_id,De5BnnQnc1XN2Mk1YgAUS6yPbn4ouMzA
list.0.status,active
list.0.bytes,5
list.0.service_id,
list.1.recipient_id,no
list.1.status,"blocked,reason=spam,notice={""ttl"":86400}"
list.1.bytes,12345
list.1.service_id,
list.1.tags.0,a<b
list.1.tags.1,"line
break"
list.1.tags.2,123
list.1.tags.3,` + "\x1b[31m\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestOutputRefusesUnknownForm(t *testing.T) {
	_, err := output(t, "-o", "xml")
	want := `invalid argument "xml" for "-o, --output" flag: want table, json, yaml or csv`
	if text(err) != want {
		t.Errorf("error %q, want %q", text(err), want)
	}
}

func TestOutputEmptyTable(t *testing.T) {
	o, err := output(t)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := o.Write(&b, []sample{}, cli.Table{Columns: []string{"recipient_id", "status"}}); err != nil {
		t.Fatal(err)
	}
	if got, want := b.String(), "RECIPIENT ID  STATUS\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTableOnTerminal(t *testing.T) {
	o, err := output(t)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("wide", func(t *testing.T) {
		p := newPTY(t, 120)
		if err := o.Write(p.tty, nil, sampleTable); err != nil {
			t.Fatal(err)
		}
		want := "" +
			"┌──────────────────────────────────┬──────────────────────────────────────────┬───────┬──────────────────┐\r\n" +
			"│ RECIPIENT ID                     │ STATUS                                   │ BYTES │ SERVICE ID       │\r\n" +
			"├──────────────────────────────────┼──────────────────────────────────────────┼───────┼──────────────────┤\r\n" +
			"│ De5BnnQnc1XN2Mk1YgAUS6yPbn4ouMzA │ active                                   │     5 │                  │\r\n" +
			"│ no                               │ blocked,reason=spam,notice={\"ttl\":86400} │ 12345 │ a\\nb\\x1b[31m\\xff │\r\n" +
			"└──────────────────────────────────┴──────────────────────────────────────────┴───────┴──────────────────┘\r\n"
		if diff := cmp.Diff(want, p.await(t, "┘\r\n")); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
	t.Run("narrow", func(t *testing.T) {
		p := newPTY(t, 80)
		if err := o.Write(p.tty, nil, sampleTable); err != nil {
			t.Fatal(err)
		}
		want := "" +
			"recipient id  De5BnnQnc1XN2Mk1YgAUS6yPbn4ouMzA\r\n" +
			"status        active\r\n" +
			"bytes         5\r\n" +
			"service id    \r\n" +
			"\r\n" +
			"recipient id  no\r\n" +
			"status        blocked,reason=spam,notice={\"ttl\":86400}\r\n" +
			"bytes         12345\r\n" +
			"service id    a\\nb\\x1b[31m\\xff\r\n"
		if diff := cmp.Diff(want, p.await(t, "xff\r\n")); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
	t.Run("plain", func(t *testing.T) {
		p := newPTY(t, 10)
		pairs := cli.Table{Columns: []string{"name", "value"}, Plain: true}
		pairs.Add("recipient id", "no")
		pairs.Add("status", "active, as far as is known")
		if err := o.Write(p.tty, nil, pairs); err != nil {
			t.Fatal(err)
		}
		want := "recipient id  no\r\nstatus        active, as far as is known\r\n"
		if diff := cmp.Diff(want, p.await(t, "known\r\n")); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
}

// FuzzYAML checks that any text has the same value in YAML and in JSON.
func FuzzYAML(f *testing.F) {
	for _, s := range []string{"", "no", "0x1f", "1e3", "a: b", "- x", "\u2028\u0085", "\ufeff", "🙂", "\x00\x7f", "a\\/b", "'\"", "2026-11-22", "<<", "~"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, err := output(t, "-o", "yaml")
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := o.Write(&b, map[string]string{s: s}, cli.Table{}); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		var fromYAML, fromJSON map[string]string
		if err := yaml.Unmarshal(b.Bytes(), &fromYAML); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		asJSON, err := json.Marshal(map[string]string{s: s})
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(asJSON, &fromJSON); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(fromJSON, fromYAML); diff != "" {
			t.Errorf("%q: -json +yaml\n%s", s, diff)
		}
	})
}

func TestFormatBytes(t *testing.T) {
	tests := []struct {
		n    int64
		want string
	}{
		{0, "0 B"},
		{1023, "1023 B"},
		{1024, "1.0 KiB"},
		{3565158, "3.4 MiB"},
		{1<<20 - 1, "1.0 MiB"},
		{1<<63 - 1, "8.0 EiB"},
	}
	for _, tt := range tests {
		if got := cli.FormatBytes(tt.n); got != tt.want {
			t.Errorf("FormatBytes(%d) = %q, want %q", tt.n, got, tt.want)
		}
	}
}
