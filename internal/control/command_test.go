package control

import (
	"strings"
	"testing"
)

// What is understood is a command that exists, and written again it is understood in
// the same way.
func FuzzCommand(f *testing.F) {
	for _, line := range []string{
		"auth password", "auth ", "auth", "help", "stats", "stats x", "status", "status AAAA", "status AAAA ", "delete a9G0ZJMH5x9Ysvr9Uz4A1OL2xt26_DV-",
		"block AAAA reason=spam", `block AAAA reason=content,notice={"ttl":3600}`, "block AAAA reason=spam,notice={} x", "block AAAA reason=other", "unblock =", "\x00",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		c, err := parse(line)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("%q: the error has several lines: %q", line, err)
			}
			return
		}
		if _, known := needs[c.name]; !known {
			t.Fatalf("%q is %+v", line, c)
		}
		again := c.name
		switch c.name {
		case "auth":
			again += " " + c.password
		case "status", "delete", "unblock":
			again += " " + c.id.String()
		case "block":
			text, err := c.blocking.AppendText(nil)
			if err != nil {
				t.Fatal(err)
			}
			again += " " + c.id.String() + " " + string(text)
		}
		if got, err := parse(again); err != nil || got != c {
			t.Errorf("%q is %+v, written again as %q %+v, %v", line, c, again, got, err)
		}
	})
}
