package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Where a router keeps its queues or messages: the values of store_queues
// (memory, database) and store_messages (memory, journal, database).
const (
	Memory   = "memory"
	Journal  = "journal"
	Database = "database"
)

// What the router uses for keys that the section [STORE_LOG] lacks.
const (
	DefaultConnection = "postgresql://smp@/smp_server_store"
	DefaultSchema     = "smp_server"
)

// StoreLog is the section [STORE_LOG]: how the router stores queues and
// messages.
type StoreLog struct {
	Enable        bool   // queues kept in memory are logged to a file
	StoreQueues   string // Memory or Database
	StoreMessages string // Memory, Journal or Database
	DBConnection  string // connection string of the database; may hold a password
	DBSchema      string // schema of the router's tables
}

// HasStoreLog reports whether there are keys in the section [STORE_LOG]: every
// file that is meant for a router has some.
func (f *File) HasStoreLog() bool {
	return slices.ContainsFunc(f.entries, func(e entry) bool { return e.Section == storeLogSection })
}

const storeLogSection = "STORE_LOG"

// StoreLog returns the section [STORE_LOG], with the router's defaults for
// absent keys. The error is a [*ValueError].
func (f *File) StoreLog() (StoreLog, error) {
	r := reader{file: f, section: storeLogSection}
	s := StoreLog{
		Enable:        r.word("enable", "off", "on", "off") == "on",
		StoreQueues:   r.word("store_queues", Memory, Memory, Database),
		StoreMessages: r.word("store_messages", Memory, Memory, Journal, Database),
		DBConnection:  r.text("db_connection", DefaultConnection),
		DBSchema:      r.text("db_schema", DefaultSchema),
	}
	return s, r.err
}

// A reader reads the keys of one section and keeps the first error.
type reader struct {
	file    *File
	section string
	err     error
}

// text returns a value that must not be empty.
func (r *reader) text(key, absent string) string {
	e, found := r.lookup(key)
	switch {
	case !found:
		return absent
	case e.Value == "":
		r.fail(e, "is empty")
	}
	return e.Value
}

// word returns a value that must be one of words.
func (r *reader) word(key, absent string, words ...string) string {
	e, found := r.lookup(key)
	switch {
	case !found:
		return absent
	case !slices.Contains(words, e.Value):
		r.fail(e, fmt.Sprintf("is %q, want %s", e.Value, strings.Join(words, " or ")))
	}
	return e.Value
}

// number returns a whole number.
func (r *reader) number(key string, absent int64) int64 {
	e, found := r.lookup(key)
	if !found {
		return absent
	}
	n, err := strconv.ParseInt(e.Value, 10, 64)
	if err != nil {
		r.fail(e, "is not a whole number")
	}
	return n
}

func (r *reader) lookup(key string) (entry, bool) {
	e, found, err := r.file.lookup(r.section, key)
	if err != nil && r.err == nil {
		r.err = err
	}
	return e, found
}

func (r *reader) fail(e entry, reason string) {
	if r.err == nil {
		r.err = r.file.invalid(e, reason)
	}
}
