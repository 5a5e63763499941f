package storelog

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smpq/smpq/internal/smp"
)

// Values of the test vectors of the log format.
const (
	rid      = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"
	sid      = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3"
	nid      = "QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZX"
	lid      = "YGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3"
	svc      = "gIGCg4SFhoeIiYqLjI2Oj5CRkpOUlZaX"
	rk1      = "MCowBQYDK2VwAyEAiojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w="
	rk2      = "MCowBQYDK2VwAyEAgTl3Dqh9F19Wo1Rmw0x-zMuNipG07jeiXfYPW4_Js5Q="
	nk       = "MCowBQYDK2VuAyEAXf7dO2vUf2-ijuFdlp1bsOpTd01Ii9r53xxuASSz7yI="
	sk       = "MCowBQYDK2VuAyEArAGyIJ6GNU-4UyN7XeD0-rE8f8v0M6YcAZNpYX_s8Qs="
	ed448    = "MEMwBQYDK2VxAzoA9MDuz8fxfZYIIxgEIPuAdNiCMXo5pxlIDTum5_Vl_FGKT_VO99yl313puzdAOEyE7KwmXIE5jDQA"
	dh       = "QOR6P1Jb3KxJHUGJeNfbWvYjrHr-diPG14pdT86dD2M="
	ntfDH    = "Fr8wzWVIjnrhcBFYrYHT_u6eYgnyCJvtqfZigOtGFnQ="
	fixed    = "Zml4ZWQgZGF0YQ=="
	user     = "dXNlciBkYXRh"
	certHash = "RMUXZXlozdVRGr3s5imGJeH0Y1ofyeW5EE-Uapni6uk="
	cert     = "MIHHMHugAwIBAgIBATAFBgMrZXAwDjEMMAoGA1UEAwwDc3ZjMB4XDTI1MDEwMTAwMDAwMFoXDTM1MDEwMTAwMDAwMFowDjEMMAoGA1UEAwwDc3ZjMCowBQYDK2VwAyEAiojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1wwBQYDK2VwA0EAMjP4gLqipsF1JBJUbYbnVtWsEUNxyyLJ0TsNv-dcwro2eVQgwmgRkbp4uOM4SKATqXhosO4Rm0-eh2C6TDLwAw=="
	create   = "CREATE rid=" + rid + " rk=" + rk1 + " rdh=" + dh + " sid=" + sid + " sk="
)

func x448Key() string {
	return string(smp.AppendBase64(nil, append([]byte("\x30\x42\x30\x05\x06\x03\x2b\x65\x6f\x03\x39\x00"), make([]byte, 56)...)))
}

// Records in the form that writers use come out as they went in.
func TestCanonicalRecords(t *testing.T) {
	for _, line := range []string{
		create,
		create + " queue_mode=M",
		"CREATE rid=" + rid + " rk=" + rk1 + "," + rk2 + " rdh=" + dh + " sid=" + sid + " sk=" + sk +
			" queue_mode=C link_id=" + lid + " queue_data=" + fixed + " " + user +
			" notifier=" + nid + " " + nk + " " + ntfDH + " nsrv=" + svc + " updated_at=1757894400 status=off rsrv=" + svc,
		create + ` queue_mode=M status=blocked,reason=spam,notice={"ttl":86400}`,
		create + " queue_mode=M status=blocked,reason=spam rsrv=" + svc,
		create + ` status=blocked,reason=spam,notice={"ttl":86400} rsrv=` + svc, // not for smp-server
		create + " updated_at=-5",
		"LINK " + rid + " " + lid + " " + fixed + " " + user,
		"LDELETE " + rid,
		"SECURE " + rid + " " + sk,
		"KEYS " + rid + " " + rk1 + "," + rk2,
		"KEYS " + rid + " " + ed448,
		"KEYS " + rid + " " + nk,
		"NOTIFIER " + rid + " " + nid + " " + nk + " " + ntfDH,
		"NOTIFIER " + rid + " " + nid + " " + nk + " " + ntfDH + " nsrv=" + svc,
		"SUSPEND " + rid,
		"BLOCK " + rid + " reason=spam",
		"BLOCK " + rid + ` reason=content,notice={"ttl":86400}`,
		"BLOCK " + rid + ` reason=content,notice={}`,
		"UNBLOCK " + rid,
		"DELETE " + rid,
		"NDELETE " + rid,
		"TIME " + rid + " 1757894400",
		"NEW_SERVICE service_id=" + svc + " role=N cert=" + cert + " cert_hash=" + certHash + " created_at=1757894400",
		"QUEUE_SERVICE " + rid + " N " + svc,
		"QUEUE_SERVICE " + rid + " R ",
	} {
		rec, err := Parse([]byte(line))
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if got := string(Append(nil, rec)); got != line+"\n" {
			t.Errorf("got  %s\nwant %s", got, line)
		}
		if tag, _, _ := strings.Cut(line, " "); Tag(rec) != tag {
			t.Errorf("%s: tag %s", line, Tag(rec))
		}
	}
}

// Old and unusual forms are read and come out in the present form.
func TestOtherForms(t *testing.T) {
	unpadded := strings.NewReplacer("=,", ",", "= ", " ")
	for _, c := range []struct{ in, want string }{
		{create + sk + " sndSecure=T updated_at=1757894400", create + sk + " queue_mode=M updated_at=1757894400"},
		{create + sk + " sndSecure=F", create + sk + " queue_mode=C"},
		{"CREATE rid=" + rid + " " + unpadded.Replace("rk="+rk1+" rdh="+dh+" ") + "sid=" + sid + " sk=", create},
		{create + " queue_mode=M status=active", create + " queue_mode=M"},
		{"TIME " + rid + " +1757894400", "TIME " + rid + " 1757894400"},
		{"TIME " + rid + " 007", "TIME " + rid + " 7"},
		{"TIME\t" + rid + "\t1757894400", "TIME " + rid + " 1757894400"},
		{"TIME\r" + rid + "\v1757894400", "TIME " + rid + " 1757894400"},
		{"SUSPEND aWprbA", "SUSPEND aWprbA=="},
		{"BLOCK " + rid + ` reason=spam,notice={"ttl": null, "x":1} `, "BLOCK " + rid + " reason=spam,notice={}"},
		{"BLOCK " + rid + ` reason=spam,notice= {"ttl":60,"TTL":1}`, "BLOCK " + rid + ` reason=spam,notice={"ttl":60}`},
	} {
		rec, err := Parse([]byte(c.in))
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if got := string(Append(nil, rec)); got != c.want+"\n" {
			t.Errorf("%s\ngot  %s\nwant %s", c.in, got, c.want)
		}
	}
}

// What smp-server refuses is refused here, with the column of the first wrong
// character or field.
func TestRefusedLines(t *testing.T) {
	for _, c := range []struct {
		line   string
		column int
		reason string
	}{
		{"", 1, "unknown record"},
		{"# comment", 1, "unknown record"},
		{" SUSPEND " + rid, 1, "unknown record"},
		{"DELETED " + rid, 1, "unknown record"},
		{"suspend " + rid, 1, "unknown record"},
		{"SUSPEND", 8, "the line ends"},
		{"SUSPEND ", 9, "empty"},
		{"SUSPEND  " + rid, 9, "empty"},
		{"SUSPEND " + rid + " ", 41, "unexpected text"},
		{"SUSPEND AB", 9, "canonical"},
		{"SUSPEND ABCDE", 9, "impossible length"},
		{"SUSPEND aWprbA=", 9, "padded wrongly"},
		{"SUSPEND aWprbA===", 9, "padded wrongly"},
		{"SUSPEND +/DX", 9, "empty"},
		{"TIME " + rid + " 1757894400\r", 49, "carriage return"},
		{"TIME " + rid + " 1.5", 40, "unexpected text"},
		{"TIME " + rid + " ", 39, "expected a number"},
		{"TIME " + rid + " 9223372036854775808", 39, "out of range"},
		{"TIME " + rid + " 99999999999999999999", 39, "out of range"},
		{"KEYS " + rid + " " + x448Key(), 39, "cannot authorize"},
		{"KEYS " + rid + " " + rk1 + ",", 100, "empty"},
		{"KEYS " + rid + " " + rk1 + " " + rk2, 99, "unexpected text"},
		{"KEYS " + rid + " AAAA", 39, "not a public key"},
		{"QUEUE_SERVICE " + rid + " R", 49, "the line ends"},
		{"QUEUE_SERVICE " + rid + " M " + svc, 48, "unknown party"},
		{"BLOCK " + rid + " reason=other", 47, "unknown reason"},
		{"BLOCK " + rid + ` reason=spam,notice={ttl:86400}`, 59, "JSON"},
		{"BLOCK " + rid + ` reason=spam,notice={"ttl":"x"}`, 59, "ttl"},
		{"BLOCK " + rid + " reason=spam,notice=null", 59, "JSON"},
		{create + " status=off updated_at=1", 209, "unexpected text"},
		{create + " queue_mode=X", 198, "unexpected text"},
		{create + " link_id=" + lid + " queue_data= ", 251, "empty"},
		{create + " link_id=" + lid, 239, "queue_data"},
		{create + ` status=blocked,reason=spam,notice={"ttl":86400} rsrv=AB`, 252, "canonical"},
		{"BLOCK " + rid + ` reason=spam,notice={"ttl":1} rsrv=` + svc, 68, "unexpected text"},
		{"BLOCK " + rid + " reason=spam,notice={\"x\":\"\xff\"}", 59, "UTF-8"},
		{"CREATE rid=" + rid + " rk=" + rk1 + " rdh=AAAA sid=" + sid + " sk=", 113, "32 bytes"},
		{"NEW_SERVICE service_id=" + svc + " role=X cert=" + cert + " cert_hash=" + certHash + " created_at=1", 62, "role"},
		{"NEW_SERVICE service_id=" + svc + " role=N cert=AAAA cert_hash=" + certHash + " created_at=1", 69, "certificate"},
	} {
		_, err := Parse([]byte(c.line))
		var syntax *smp.SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%q: got %v, want a syntax error", c.line, err)
			continue
		}
		if syntax.Offset+1 != c.column || !strings.Contains(syntax.Reason, c.reason) {
			t.Errorf("%q: got %v, want column %d and %q", c.line, err, c.column, c.reason)
		}
	}
}

// seedLines gives f the lines of the real logs and of the logs with
// irregularities.
func seedLines(f *testing.F) {
	f.Helper()
	for _, pattern := range []string{"1-storelog/memory/*.log", "2-import/variants/*/input.log"} {
		names, err := filepath.Glob(filepath.Join(realData, pattern))
		if err != nil || len(names) == 0 {
			f.Fatalf("no files %s: %v", pattern, err)
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			for line := range strings.Lines(string(data)) {
				if len(line) < 4096 {
					f.Add([]byte(strings.TrimSuffix(line, "\n")))
				}
			}
		}
	}
}

// Whatever parses is written in a form that parses to the same again.
func FuzzParse(f *testing.F) {
	seedLines(f)
	f.Fuzz(func(t *testing.T, line []byte) {
		rec, err := Parse(line)
		if err != nil {
			var syntax *smp.SyntaxError
			if !errors.As(err, &syntax) || syntax.Offset > len(line) {
				t.Fatalf("%q: error without a place in the line: %v", line, err)
			}
			return
		}
		out := Append(nil, rec)
		again, err := Parse(out[:len(out)-1])
		if err != nil {
			t.Fatalf("%q was written as %q: %v", line, out, err)
		}
		if got := Append(nil, again); string(got) != string(out) {
			t.Errorf("%q was written as %q and then as %q", line, out, got)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for _, c := range []struct{ name, line string }{
		{"create", create + sk + " queue_mode=M updated_at=1757894400"},
		{"notifier", "NOTIFIER " + rid + " " + nid + " " + nk + " " + ntfDH},
		{"time", "TIME " + rid + " 1757894400"},
	} {
		b.Run(c.name, func(b *testing.B) {
			line := []byte(c.line)
			b.ReportAllocs()
			b.SetBytes(int64(len(line)))
			for b.Loop() {
				if _, err := Parse(line); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
