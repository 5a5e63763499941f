package schema

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// A Version names a schema by the newest migration that it has, for example
// "20250903_store_messages". Versions compare in the order of the migrations.
type Version string

// The versions of the schema.
const (
	None          Version = "" // no migration applied: no table of the router
	Initial       Version = "20250207_initial"
	UpdatedIndex  Version = "20250319_updated_index"
	ShortLinks    Version = "20250320_short_links"
	ServiceCerts  Version = "20250514_service_certs"
	StoreMessages Version = "20250903_store_messages"
	QueueIDsHash  Version = "20250915_queue_ids_hash"

	Newest = QueueIDsHash
)

// All returns the versions, oldest first, without None.
func All() []Version {
	return []Version{Initial, UpdatedIndex, ShortLinks, ServiceCerts, StoreMessages, QueueIDsHash}
}

// ParseVersion finds the version that s names: its full name
// ("20250903_store_messages"), its number ("20250903") or its title
// ("store_messages").
func ParseVersion(s string) (Version, error) {
	names := make([]string, 0, len(All()))
	for _, v := range All() {
		number, title, _ := strings.Cut(string(v), "_")
		if s == string(v) || s == number || s == title {
			return v, nil
		}
		names = append(names, string(v))
	}
	return None, fmt.Errorf("schema version %q is not known: it is one of %s", s, strings.Join(names, ", "))
}

// server is the prefix of a release's name.
const server = "smp-server-"

// releaseName matches the name of a release of smp-server: the program's name and a
// patch number are optional.
var releaseName = regexp.MustCompile(`^(?:smp-server[- ])?v?([0-9]+\.[0-9]+)(?:\.[0-9]+)*$`)

// Releases returns the releases of smp-server that work on a schema of this
// version and accept it without asking, for example "smp-server-6.5" for 6.5 and
// its patch releases. There are none for the versions before ServiceCerts.
func (v Version) Releases() []string {
	switch v {
	case ServiceCerts:
		return []string{server + "6.4"}
	case StoreMessages:
		return []string{server + "6.5"}
	case QueueIDsHash:
		return []string{server + "7.0"}
	case None, Initial, UpdatedIndex, ShortLinks:
	}
	return nil
}

// VersionFor returns the version that a release of smp-server works on. The
// release is written "smp-server-6.5", "smp-server-6.5.5", "6.5" or "6.5.5".
func VersionFor(name string) (Version, error) {
	var known []string
	m := releaseName.FindStringSubmatch(name)
	for _, v := range All() {
		for _, r := range v.Releases() {
			if m != nil && r == server+m[1] {
				return v, nil
			}
			known = append(known, r)
		}
	}
	return None, fmt.Errorf("smp-server release %q is not known: it is one of %s", name, strings.Join(known, ", "))
}

// number is the version as golang-migrate counts: the number that begins its
// name, and -1 for None.
func (v Version) number() int {
	digits, _, _ := strings.Cut(string(v), "_")
	n, err := strconv.Atoi(digits)
	if err != nil {
		return -1
	}
	return n
}

// versionNumbered is the version with the given number, None for any other.
func versionNumbered(n int) Version {
	for _, v := range All() {
		if v.number() == n {
			return v
		}
	}
	return None
}

// before returns the version before v, which v's down script restores.
func (v Version) before() Version {
	previous := None
	for _, w := range All() {
		if w == v {
			return previous
		}
		previous = w
	}
	return None
}

// tables are the tables of a version, in the order in which smp-server's own
// statements lock them.
func (v Version) tables() []string {
	switch {
	case v == None:
		return nil
	case v < ServiceCerts:
		return []string{"msg_queues"}
	case v < StoreMessages:
		return []string{"msg_queues", "services"}
	}
	return []string{"msg_queues", "messages", "services"}
}
