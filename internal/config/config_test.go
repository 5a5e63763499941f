package config_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/config"
)

func realFile(name string) string {
	return filepath.Join("..", "..", "testdata", "smp-server-6.5.5", "5-operator", "init", name, "smp-server.ini")
}

func TestParse(t *testing.T) {
	const in = "\ufeffglobal = 1\r\n" +
		"  [ A ]  \r\n" +
		"\r\n" +
		"# comment = 1\n" +
		"  ; comment: 2\n" +
		"key=value\n" +
		"  spaced  =  a value # not a comment ; either  \n" +
		"old : style\n" +
		"first = a:b=c\n" +
		"second: a=b:c\n" +
		"empty =\n" +
		"[B]\n" +
		"key = other\n" +
		"[A]\n" +
		"Key = case counts" // no final newline
	f, err := config.Parse("test.ini", strings.NewReader(in))
	if err != nil {
		t.Fatal(err)
	}
	want := []config.Entry{
		{Section: "", Key: "global", Value: "1", Line: 1},
		{Section: "A", Key: "key", Value: "value", Line: 6},
		{Section: "A", Key: "spaced", Value: "a value # not a comment ; either", Line: 7},
		{Section: "A", Key: "old", Value: "style", Line: 8},
		{Section: "A", Key: "first", Value: "a:b=c", Line: 9},
		{Section: "A", Key: "second", Value: "a=b:c", Line: 10},
		{Section: "A", Key: "empty", Value: "", Line: 11},
		{Section: "B", Key: "key", Value: "other", Line: 13},
		{Section: "A", Key: "Key", Value: "case counts", Line: 15},
	}
	if diff := cmp.Diff(want, f.Entries()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"no separator", "[A]\nhunter2\n", `t.ini:2: neither a section header, nor "key = value", nor a comment`},
		{"no key", "[A]\n= hunter2\n", "t.ini:2: no key before the separator"},
		{"open header", "[A\n", "t.ini:1: malformed section header: want [NAME] alone on the line"},
		{"text after header", "[A] # hunter2\n", "t.ini:1: malformed section header: want [NAME] alone on the line"},
		{"empty header", "\n\n[ ]\n", "t.ini:3: malformed section header: want [NAME] alone on the line"},
		{"not UTF-8", "[A]\nkey = \xff\xfe\n", "t.ini:2: not text in UTF-8"},
		{"NUL", "key\x00 = 1", "t.ini:1: not text in UTF-8"},
		{"too large", strings.Repeat("#\n", 1<<19) + "\n", "t.ini: larger than 1048576 bytes: not a configuration file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := config.Parse("t.ini", strings.NewReader(tt.in))
			if err == nil || err.Error() != tt.want {
				t.Errorf("Parse = %v, want %s", err, tt.want)
			}
		})
	}
}

func TestLoadErrors(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "smp-server.ini")
	if _, err := config.Load(missing); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), missing) {
		t.Errorf("missing file: %v, want fs.ErrNotExist with the path", err)
	}
	dir := t.TempDir()
	if _, err := config.Load(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("directory: %v, want an error with the path", err)
	}
}

func TestStoreLog(t *testing.T) {
	absent := config.StoreLog{
		StoreQueues: config.Memory, StoreMessages: config.Memory,
		DBConnection: config.DefaultConnection, DBSchema: config.DefaultSchema, DBPoolSize: 10, DBDeletedTTL: 21 * day,
		ExpireMessages: 21 * day, ExpireMessagesStart: true, ExpireMessagesOnSend: true, ExpireNotifications: day,
	}
	changed := absent
	changed.Enable, changed.RestoreMessages = true, true
	changed.StoreQueues, changed.StoreMessages = config.Database, config.Journal
	changed.DBConnection, changed.DBSchema = "host=/run/pg dbname=smp password=a=b", "two words"
	tests := []struct {
		name, in string
		want     config.StoreLog
	}{
		{"empty file", "", absent},
		{"other section", "[OTHER]\ndb_schema = x\n", absent},
		{"other case", "[STORE_LOG]\nDB_schema = x\n[store_log]\ndb_schema = y\n", absent},
		{"several keys", "[STORE_LOG]\nenable: on\nstore_queues: database\nstore_messages: journal\n" +
			"db_connection = host=/run/pg dbname=smp password=a=b\ndb_schema = two words\n", changed},
		{"twice the same", "[STORE_LOG]\ndb_schema = smp_server\n[STORE_LOG]\ndb_schema: smp_server\n", absent},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := config.Parse("t.ini", strings.NewReader(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			if want := tt.in != "" && !strings.HasPrefix(tt.in, "[OTHER]"); f.HasStoreLog() != want {
				t.Errorf("HasStoreLog is %t", !want)
			}
			got, err := f.StoreLog()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestStoreLogRefuses(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"switch", "enable = yes", `t.ini:2: [STORE_LOG] enable: is "yes", want on or off`},
		{"queues", "store_queues = journal", `t.ini:2: [STORE_LOG] store_queues: is "journal", want memory or database`},
		{"messages", "\nstore_messages =", `t.ini:3: [STORE_LOG] store_messages: is "", want memory, journal or database`},
		{"connection", "db_connection =", "t.ini:2: [STORE_LOG] db_connection: is empty"},
		{"schema", "db_schema:", "t.ini:2: [STORE_LOG] db_schema: is empty"},
		{
			"contradiction", "db_connection = password=hunter2\ndb_connection = password=hunter3",
			"t.ini:3: [STORE_LOG] db_connection: has another value in line 2",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := config.Parse("t.ini", strings.NewReader("[STORE_LOG]\n"+tt.in+"\n"))
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.StoreLog()
			var value *config.ValueError
			if !errors.As(err, &value) || err.Error() != tt.want {
				t.Errorf("StoreLog = %v, want %s", err, tt.want)
			}
		})
	}
}

func TestDailyBlockQuota(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     int64
		err      string
	}{
		{"absent", "", 20, ""},
		{"other section", "[OTHER]\ndaily_block_queue_quota = 3", 20, ""},
		{"none", "[AUTH]\ndaily_block_queue_quota: -1", -1, ""},
		{"any number", "[AUTH]\ndaily_block_queue_quota = 0", 0, ""},
		{"no number", "[AUTH]\ndaily_block_queue_quota = 1e3", 0, "t.ini:2: [AUTH] daily_block_queue_quota: is not a whole number"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := config.Parse("t.ini", strings.NewReader(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			got, err := f.DailyBlockQuota()
			if got != tt.want || err != nil && err.Error() != tt.err || err == nil && tt.err != "" {
				t.Errorf("got %d, %v; want %d, %s", got, err, tt.want, tt.err)
			}
		})
	}
}
