package cli

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"
)

func TestWithPassword(t *testing.T) {
	t.Setenv("PGPASSWORD", "from the environment")
	t.Setenv("PGUSER", "u")
	rapid.Check(t, func(t *rapid.T) {
		dsn := rapid.SampledFrom([]string{
			"", "host=h dbname=d", "host=h password='old one'", "host=h ",
			"postgres://u@h/d", "postgresql://u:old@h:5433/d?sslmode=disable", "postgres://u:old@h1:1,h2:2/d?password=older",
		}).Draw(t, "dsn")
		password := rapid.StringMatching(`[^\x00]{1,20}`).Draw(t, "password")
		c, err := pgconn.ParseConfig(withPassword(dsn, password))
		if err != nil {
			t.Fatal(err)
		}
		if c.Password != password {
			t.Errorf("password %q was read as %q", password, c.Password)
		}
	})
}
