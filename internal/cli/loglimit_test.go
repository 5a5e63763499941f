package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/cli"
)

// A logOutput is what several goroutines write.
type logOutput struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *logOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// take returns what was written since the last time.
func (o *logOutput) take() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer o.b.Reset()
	return o.b.String()
}

// plain is a handler that writes records without their times.
func plain(w io.Writer) slog.Handler {
	return slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
}

// Of each kind of record some are logged in a time, and the number of the others is
// said: with the next one of the kind, as time goes by, or at the end.
func TestLogLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out logOutput
		limit := cli.NewLogLimit(plain(&out))
		log := slog.New(limit)
		lines := func(want ...string) {
			t.Helper()
			if diff := cmp.Diff(strings.Join(want, "\n"), strings.TrimSuffix(out.take(), "\n")); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		}
		many := func(n int, write func(i int)) {
			for i := range n {
				write(i)
			}
		}
		repeat := func(line string) []string {
			return strings.Split(strings.TrimSuffix(strings.Repeat(line+"\n", 10), "\n"), "\n")
		}
		ctx := t.Context()

		many(13, func(int) { log.LogAttrs(ctx, slog.LevelWarn, "bad") })
		lines(repeat("level=WARN msg=bad")...)
		log.With(slog.Int("x", 1)).LogAttrs(ctx, slog.LevelError, "bad") // another kind
		log.WithGroup("g").LogAttrs(ctx, slog.LevelWarn, "bad")          // the same kind
		lines("level=ERROR msg=bad x=1")
		<-time.After(10 * time.Second)
		log.LogAttrs(ctx, slog.LevelWarn, "bad")
		lines(`level=WARN msg="records were left out of the log" kind=bad count=4`, "level=WARN msg=bad")
		if n := limit.LeftOut(); n != 4 {
			t.Errorf("%d left out, want 4", n)
		}

		// Details are for who looks for something.
		many(20, func(int) { log.LogAttrs(ctx, slog.LevelDebug, "detail") })
		lines(append(repeat("level=DEBUG msg=detail"), repeat("level=DEBUG msg=detail")...)...)

		running, stop := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			limit.Run(running)
		}()
		many(11, func(int) { log.LogAttrs(ctx, slog.LevelInfo, "again") })
		lines(repeat("level=INFO msg=again")...)
		<-time.After(21 * time.Second)
		synctest.Wait()
		lines(`level=INFO msg="records were left out of the log" kind=again count=1`)
		many(12, func(int) { log.LogAttrs(ctx, slog.LevelInfo, "last") })
		lines(repeat("level=INFO msg=last")...)
		stop()
		<-done
		lines(`level=INFO msg="records were left out of the log" kind=last count=2`)
	})
}

// However many kinds there are, memory for them is bounded: further ones count as one.
func TestLogLimitKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(cli.NewLogLimit(plain(&out)))
		for i := range 2000 {
			log.LogAttrs(t.Context(), slog.LevelInfo, fmt.Sprint("kind ", i))
		}
		if n := strings.Count(out.String(), "\n"); n != 1000+10 {
			t.Errorf("%d lines, want 1010", n)
		}
	})
}

func TestLogLimitConcurrent(t *testing.T) {
	var out bytes.Buffer
	limit := cli.NewLogLimit(plain(&out))
	log := slog.New(limit)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				log.LogAttrs(t.Context(), slog.LevelInfo, "busy")
			}
		})
	}
	all.Wait()
	ended, end := context.WithCancel(t.Context())
	end()
	limit.Run(ended)
	if n := strings.Count(out.String(), "msg=busy\n"); int64(n)+limit.LeftOut() != 800 || n < 10 {
		t.Errorf("%d logged, %d left out", n, limit.LeftOut())
	}
}

func TestLogFlags(t *testing.T) {
	for _, tc := range []struct {
		args, want, refused string
	}{
		{args: "", want: "info warn error"},
		{args: "--log-level debug", want: "debug info warn error"},
		{args: "--log-level trace", want: "debug info warn error"},
		{args: "--log-level note", want: "info warn error"},
		{args: "--log-level warn --log-format text", want: "warn error"},
		{args: "--log-level error", want: "error"},
		{args: "-v", want: "debug info warn error"},
		{args: "--log-level loud", refused: `invalid argument "loud" for "--log-level" flag: want debug, info, warn or error`},
		{args: "--log-format xml", refused: `invalid argument "xml" for "--log-format" flag: want text or json`},
		{args: "--log-level info -q", want: "info warn error"},
	} {
		for _, form := range []string{"", " --log-format json"} {
			var stderr bytes.Buffer
			console := cli.NewConsole(nil, &stderr)
			root := &cobra.Command{Use: "smpq", SilenceErrors: true, SilenceUsage: true}
			run := &cobra.Command{Use: "run", RunE: func(cmd *cobra.Command, _ []string) error {
				for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
					console.Log().LogAttrs(cmd.Context(), level, strings.ToLower(level.String()))
				}
				return nil
			}}
			console.AddFlags(root)
			console.AddLogFlags(run)
			root.AddCommand(run)
			root.SetErr(&stderr)
			if strings.Contains(tc.args, "--log-format") && form != "" {
				continue
			}
			args := "run " + tc.args + form
			root.SetArgs(strings.Fields(args))
			code := cli.Execute(t.Context(), root)
			if tc.refused != "" {
				if code != cli.ExitUsage || !strings.HasPrefix(stderr.String(), "smpq: "+tc.refused+"\n") {
					t.Errorf("%s: status %d, %s", args, code, &stderr)
				}
				continue
			}
			var got []string
			for line := range strings.Lines(stderr.String()) {
				var record struct{ Msg, Time string }
				if form == "" {
					_, record.Msg, _ = strings.Cut(strings.TrimSpace(line), "msg=")
				} else if err := json.Unmarshal([]byte(line), &record); err != nil || record.Time == "" {
					t.Errorf("%s: %s: %v", args, line, err)
				}
				got = append(got, record.Msg)
			}
			if strings.Join(got, " ") != tc.want || code != 0 {
				t.Errorf("%s: status %d, logged %q, want %s", args, code, got, tc.want)
			}
		}
	}
}
