package schema

import (
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/migrations"
)

// TestVersionsHaveScripts compares the versions with the files there are.
func TestVersionsHaveScripts(t *testing.T) {
	var want []string
	for _, v := range All() {
		want = append(want, string(v)+".down.sql", string(v)+".up.sql")
	}
	got, err := fs.Glob(migrations.FS, "*")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if !slices.IsSorted(All()) || All()[len(All())-1] != Newest {
		t.Errorf("versions are not in order: %v", All())
	}
}

func TestParseVersion(t *testing.T) {
	tests := []struct {
		in   string
		want Version
	}{
		{"20250207_initial", Initial},
		{"20250903_store_messages", StoreMessages},
		{"20250903", StoreMessages},
		{"store_messages", StoreMessages},
		{"queue_ids_hash", QueueIDsHash},
		{"", None},
		{"2025", None},
		{"20250903_", None},
		{"20260101_other", None},
		{"6.5", None},
	}
	for _, tc := range tests {
		got, err := ParseVersion(tc.in)
		if got != tc.want || (err == nil) != (tc.want != None) {
			t.Errorf("ParseVersion(%q) = %q, %v; want %q", tc.in, got, err, tc.want)
		}
		if err != nil && !strings.Contains(err.Error(), string(StoreMessages)) {
			t.Errorf("ParseVersion(%q): the error does not name the versions: %v", tc.in, err)
		}
	}
}

func TestVersionFor(t *testing.T) {
	tests := []struct {
		in   string
		want Version
	}{
		{"smp-server-6.4", ServiceCerts},
		{"smp-server-6.4.5.1", ServiceCerts},
		{"smp-server-6.5", StoreMessages},
		{"smp-server-6.5.5", StoreMessages},
		{"smp-server 6.5.5", StoreMessages},
		{"6.5", StoreMessages},
		{"v6.5.5", StoreMessages},
		{"7.0", QueueIDsHash},
		{"7.0.0", QueueIDsHash},
		{"", None},
		{"6", None},
		{"6.3", None},
		{"6.50", None},
		{"6.5-beta", None},
		{"ntf-server-6.5", None},
	}
	for _, tc := range tests {
		got, err := VersionFor(tc.in)
		if got != tc.want || (err == nil) != (tc.want != None) {
			t.Errorf("VersionFor(%q) = %q, %v; want %q", tc.in, got, err, tc.want)
		}
		if err != nil && !strings.HasSuffix(err.Error(), "smp-server-6.4, smp-server-6.5, smp-server-7.0") {
			t.Errorf("VersionFor(%q): the error does not name the releases: %v", tc.in, err)
		}
	}
	for _, v := range All() {
		for _, r := range v.Releases() {
			if got, err := VersionFor(r); got != v {
				t.Errorf("VersionFor(%q) = %q, %v; want %q", r, got, err, v)
			}
		}
	}
}
