package cli_test

import (
	"bytes"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/cli"
)

func TestProgressWithoutTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stderr bytes.Buffer
		console := cli.NewConsole(strings.NewReader(""), &stderr)
		p := console.Progress()
		p.Phase("read the log", 4<<20, cli.Bytes)
		p.Add(1 << 20)
		time.Sleep(5 * time.Second)
		p.Add(1 << 20)
		time.Sleep(6 * time.Second) // a line at 10 s
		p.Phase("too short for a line", 10, "queues")
		time.Sleep(8 * time.Second) // at 19 s
		p.Phase("copy", 1000, "queues")
		var work sync.WaitGroup
		for range 4 {
			work.Go(func() { p.Add(100) })
		}
		work.Wait()
		time.Sleep(2 * time.Second) // a line at 20 s; now 21 s
		p.Phase("build indexes", 0, "indexes")
		p.Add(3)
		time.Sleep(10 * time.Second) // a line at 30 s
		p.Close()
		p.Close()
		want := []string{
			`msg="read the log" done="2.0 MiB" total="4.0 MiB" percent=50 rate="204.8 KiB/s" left=10s`,
			`msg="read the log" done="2.0 MiB" total="4.0 MiB" percent=50 rate="186.2 KiB/s" left=11s`,
			`msg=copy done="400 queues" total="1000 queues" percent=40 rate="400 queues/s" left=2s`,
			`msg=copy done="400 queues" total="1000 queues" percent=40 rate="200 queues/s" left=3s`,
			`msg="build indexes" done="3 indexes" rate="0.3 indexes/s"`,
			`msg="build indexes" done="3 indexes" rate="0.3 indexes/s"`,
		}
		var got []string
		for line := range strings.Lines(stderr.String()) {
			_, message, _ := strings.Cut(strings.TrimSpace(line), " level=INFO ")
			got = append(got, message)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
}

func TestProgressOnTerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	screen := newPTY(t, 100)
	synctest.Test(t, func(*testing.T) {
		console := cli.NewConsole(strings.NewReader(""), screen.tty)
		p := console.Progress()
		p.Phase("copy queues", 1000, "queues")
		for range 10 {
			time.Sleep(time.Second)
			p.Add(50)
		}
		time.Sleep(time.Second)
		console.Log().Info("a word", slog.Int("n", 1))
		time.Sleep(time.Second)
		p.Phase("read", 0, cli.Bytes)
		p.Add(3 << 20)
		time.Sleep(2 * time.Second)
		p.Close()
		console.Log().Info("done")
	})
	text := screen.await(t, "msg=done")
	for _, want := range []string{
		`copy queues   50% \|█+ +\| \(500/1000, \d+ queues/s\) \[11s:\d+s\]`,
		`\r\x1b\[Klevel=INFO msg="a word" n=1\r\n\r\x1b\[K\r?copy queues`,
		`read +\(3\.0 MiB, 15 MiB/s\)`,
		`\r\x1b\[Klevel=INFO msg=done`,
	} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("the screen lacks %s", want)
		}
	}
	for line := range strings.SplitSeq(text, "\x1b[K") {
		if n := len([]rune(strings.TrimRight(line, "\r\n"))); n > 100 {
			t.Errorf("%d columns on a terminal of 100: %q", n, line)
		}
	}
	if t.Failed() {
		t.Log(strings.ReplaceAll(text, "\r", "\n"))
	}
}

func TestProgressQuiet(t *testing.T) {
	var stderr bytes.Buffer
	console := cli.NewConsole(strings.NewReader(""), &stderr)
	parse(t, console, "--quiet")
	synctest.Test(t, func(*testing.T) {
		p := console.Progress()
		p.Phase("copy", 10, "queues")
		p.Add(5)
		time.Sleep(time.Minute)
		p.Close()
	})
	console.Log().Info("not shown")
	if stderr.Len() > 0 {
		t.Errorf("not quiet: %s", stderr.String())
	}
	console.Log().Warn("shown")
	if !strings.Contains(stderr.String(), "level=WARN msg=shown") {
		t.Errorf("too quiet: %q", stderr.String())
	}
}

func TestVerbose(t *testing.T) {
	for args, want := range map[string]bool{"": false, "--verbose": true, "-v": true, "--verbose=false": false} {
		var stderr bytes.Buffer
		console := cli.NewConsole(strings.NewReader(""), &stderr)
		parse(t, console, strings.Fields(args)...)
		console.Log().Debug("detail")
		if got := stderr.Len() > 0; got != want {
			t.Errorf("%q: details logged: %t, want %t", args, got, want)
		}
	}
}

// parse has a console's flags parsed.
func parse(t *testing.T, console *cli.Console, args ...string) {
	t.Helper()
	cmd := &cobra.Command{Use: "test"}
	console.AddFlags(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
}
