package config_test

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/config"
)

// A file gets the new values, and all else in it stays.
func TestEdit(t *testing.T) {
	changes := []config.Change{
		{Section: "STORE_LOG", Key: "store_queues", Value: "database"},
		{Section: "STORE_LOG", Key: "db_schema", Value: "mine"},
		{Section: "SMPQ", Key: "queue_quota", Value: "200"},
	}
	text, err := os.ReadFile(realFile("default-memory"))
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(string(text), "store_queues = memory\n", "store_queues = database\n", 1)
	want = strings.Replace(want, "# db_schema = smp_server\n", "# db_schema = smp_server\ndb_schema = mine\n", 1)
	want += "\n[SMPQ]\nqueue_quota = 200\n"
	got, err := config.Edit(text, changes)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	again, err := config.Edit(got, changes)
	if err != nil || string(again) != string(got) {
		t.Errorf("once more: %v\n%s", err, cmp.Diff(string(got), string(again)))
	}
	for _, c := range []struct{ text, want string }{
		{"", "\n[S]\nk = v\n"},
		{"[S]", "[S]\nk = v\n"},
		{"[S]\nk:old", "[S]\nk = v\n"},
		{"k = old\n[S]\na = b\n\n[T]\nk = old\n", "k = old\n[S]\na = b\nk = v\n\n[T]\nk = old\n"},
		{"[S]\nk = old\nk = old\n", "[S]\nk = v\nk = v\n"},
		{"[S]\n; k=\n[T]\n# k = x", "[S]\n; k=\nk = v\n[T]\n# k = x"},
	} {
		got, err := config.Edit([]byte(c.text), []config.Change{{Section: "S", Key: "k", Value: "v"}})
		if err != nil || string(got) != c.want {
			t.Errorf("%q: got %q, %v, want %q", c.text, got, err, c.want)
		}
	}
	for _, value := range []string{"two\nlines", "\x00"} {
		if got, err := config.Edit(nil, []config.Change{{Section: "S", Key: "k", Value: value}}); err == nil {
			t.Errorf("value %q: %q", value, got)
		}
	}
}
