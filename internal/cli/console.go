package cli

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// A Console is the process's standard streams. Logs, prompts and the progress
// bar share its standard error without writing into each other's lines.
type Console struct {
	in  io.Reader
	err *errorStream
	log *slog.Logger

	// Set while flags are parsed, then read-only.
	quiet, verbose bool
	level          logLevel // of --log-level
}

// NewConsole returns a console on two of the process's streams. They may be
// anything; what is not a terminal is never treated as one.
func NewConsole(stdin io.Reader, stderr io.Writer) *Console {
	c := &Console{in: stdin, err: newErrorStream(stderr)}
	c.log = slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{
		Level:       c,
		ReplaceAttr: c.withoutTime,
	}))
	return c
}

// AddLogFlags adds the flags that say what the log is like to a command that runs
// for long.
func (c *Console) AddLogFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.Var((*logFormat)(c), "log-format", "`form` of the log: text or json (default text)")
	flags.Var(&c.level, "log-level", "the lowest `level` that is logged, whatever else is said: debug, info, warn or error (default info)")
	for name, words := range map[string][]string{"log-format": {"text", "json"}, "log-level": {"debug", "info", "warn", "error"}} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)) // it is the first
	}
}

// A logFormat is a console whose log can be had in another form.
type logFormat Console

// Set implements pflag.Value.
func (f *logFormat) Set(text string) error {
	switch text {
	case "text":
	case "json":
		f.log = slog.New(slog.NewJSONHandler(f.err, &slog.HandlerOptions{Level: (*Console)(f)}))
	default:
		return errors.New("want text or json")
	}
	return nil
}

// String implements pflag.Value.
func (*logFormat) String() string { return "" }

// Type implements pflag.Value.
func (*logFormat) Type() string { return "form" }

// A logLevel is the level of --log-level, if there is one.
type logLevel struct {
	level slog.Level
	given bool
}

// Set implements pflag.Value. It takes the levels of smp-server as well.
func (l *logLevel) Set(text string) error {
	switch text {
	case "debug", "trace":
		l.level = slog.LevelDebug
	case "info", "note":
		l.level = slog.LevelInfo
	case "warn":
		l.level = slog.LevelWarn
	case "error":
		l.level = slog.LevelError
	default:
		return errors.New("want debug, info, warn or error")
	}
	l.given = true
	return nil
}

// String implements pflag.Value.
func (*logLevel) String() string { return "" }

// Type implements pflag.Value.
func (*logLevel) Type() string { return "level" }

// AddFlags adds the flags that set how much is logged to a command and those
// below it.
func (c *Console) AddFlags(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.BoolVarP(&c.quiet, "quiet", "q", false, "log warnings and errors only, show no progress")
	flags.BoolVarP(&c.verbose, "verbose", "v", false, "log details as well")
	root.MarkFlagsMutuallyExclusive("quiet", "verbose")
}

// Level returns the lowest level that is logged. It implements slog.Leveler.
func (c *Console) Level() slog.Level {
	switch {
	case c.level.given:
		return c.level.level
	case c.quiet:
		return slog.LevelWarn
	case c.verbose:
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// Log returns the logger that writes to standard error.
func (c *Console) Log() *slog.Logger { return c.log }

// Err returns standard error for what is neither logged nor asked.
func (c *Console) Err() io.Writer { return c.err }

// withoutTime drops the time of log records on a terminal, where somebody
// watches.
func (c *Console) withoutTime(groups []string, a slog.Attr) slog.Attr {
	if c.err.terminal && len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// clearLine moves a terminal's cursor to the start of the line and empties it.
const clearLine = "\r\x1b[K"

// An errorStream is standard error, with at most one progress bar on its last
// line.
type errorStream struct {
	terminal bool // somebody watches; does not change

	mu  sync.Mutex
	w   io.Writer
	bar bool // the last line is a progress bar
}

func newErrorStream(w io.Writer) *errorStream {
	_, terminal := terminalOf(w)
	return &errorStream{w: w, terminal: terminal && os.Getenv("TERM") != "dumb"}
}

// Write writes whole lines, in the place of the bar if there is one.
func (s *errorStream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bar {
		s.bar = false
		if _, err := io.WriteString(s.w, clearLine); err != nil {
			return 0, err
		}
	}
	return s.w.Write(p)
}

// draw shows a bar in the place of the one before; "" removes it.
func (s *errorStream) draw(bar string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.bar && bar == "" {
		return
	}
	s.bar = bar != ""
	_, _ = io.WriteString(s.w, clearLine+bar) // the work matters, not the bar
}

// width returns the number of columns of the terminal, 80 if unknown.
func (s *errorStream) width() int { return columnsOf(s.w) }

// terminalOf returns the descriptor of a stream that is a terminal.
func terminalOf(stream any) (fd int, ok bool) {
	f, ok := stream.(interface{ Fd() uintptr })
	if !ok {
		return 0, false
	}
	fd = int(f.Fd())
	return fd, term.IsTerminal(fd)
}

func columnsOf(stream any) int {
	if fd, ok := terminalOf(stream); ok {
		if columns, _, err := term.GetSize(fd); err == nil && columns > 0 {
			return columns
		}
	}
	return 80
}
