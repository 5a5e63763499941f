package store

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/smpq/smpq/internal/pgtest"
)

// contract: QS-17
//
// PostgreSQL reads every field as it was meant, whatever is in it.
func FuzzCSV(f *testing.F) {
	conn := pgtest.Conn(f, pgtest.DSN(f))
	pgtest.Exec(f, conn, "create temporary table csv (t text, b bytea, n bigint, nothing text)")
	for _, s := range []string{"", "active", `blocked,reason=spam,notice={"ttl":86400}`, "a\nb", "\r\n", `\.`, `"`, `""`, ",", "\\N", "NULL", "é", `\x00`} {
		f.Add(s, []byte(s), int64(len(s)))
	}
	f.Fuzz(func(t *testing.T, s string, raw []byte, n int64) {
		if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
			return // no text for PostgreSQL, and none that parsers let through
		}
		pgtest.Exec(t, conn, "truncate csv")
		row := csvText(nil, s)
		row = csvBytes(append(row, ','), raw)
		row = csvInt(append(row, ','), n)
		row = append(row, ",\n"...)
		tag, err := conn.PgConn().CopyFrom(t.Context(), bytes.NewReader(row), "copy csv from stdin with (format csv)")
		if err != nil || tag.RowsAffected() != 1 {
			t.Fatalf("%q: %d rows, %v", row, tag.RowsAffected(), err)
		}
		var gotText string
		var gotBytes []byte
		var gotNumber int64
		var nothing *string
		if err := conn.QueryRow(t.Context(), "select * from csv").Scan(&gotText, &gotBytes, &gotNumber, &nothing); err != nil {
			t.Fatal(err)
		}
		if gotText != s || !bytes.Equal(gotBytes, raw) || gotNumber != n || nothing != nil {
			t.Errorf("%q was read as %q, %x, %d, %v", row, gotText, gotBytes, gotNumber, nothing)
		}
	})
}
