package pglocal

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// conf returns the text of the configuration file. initdb's own choices for the
// machine, such as the kind of shared memory, come first, so that ours win.
func conf(socketDir string, extra map[string]string) string {
	settings := map[string]string{
		"listen_addresses":        "",
		"port":                    "5432",
		"unix_socket_directories": `"` + strings.ReplaceAll(socketDir, `"`, `""`) + `"`,
		"unix_socket_permissions": "0700",

		// A small private server that must do bulk loads well.
		"shared_buffers":               "128MB",
		"maintenance_work_mem":         "256MB",
		"work_mem":                     "16MB",
		"max_wal_size":                 "2GB",
		"checkpoint_timeout":           "15min",
		"checkpoint_completion_target": "0.9",
		"wal_level":                    "minimal",
		"max_wal_senders":              "0",
		"jit":                          "off",

		// The same everywhere; messages are read by this package too.
		"lc_messages":       "C",
		"timezone":          "UTC",
		"log_timezone":      "UTC",
		"log_destination":   "stderr",
		"logging_collector": "off",
		"log_line_prefix":   "%m [%p] ",
	}
	maps.Copy(settings, extra)
	var b strings.Builder
	b.WriteString("# Written by smpq before every start. Use ALTER SYSTEM to change a setting.\n")
	fmt.Fprintf(&b, "include '%s/postgresql.conf'\n", dataFolder)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = %s\n", name, quote(settings[name]))
	}
	return b.String()
}

// quote writes a value of the configuration file.
func quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`, "\n", `\n`).Replace(s) + "'"
}
