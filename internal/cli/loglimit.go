package cli

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// logPeriod is how long records of a kind are counted, and logBurst how many
	// are logged in that time.
	logPeriod = 10 * time.Second
	logBurst  = 10
	// maxLogKinds is how many kinds are told apart; further ones count as one.
	maxLogKinds = 1000
)

// A LogLimit is a [slog.Handler] for a program that runs for long: it passes on 10
// records of a kind in 10 seconds, and says how many it left out. A kind is a level
// and a message. Records at debug are all passed on.
//
// What it left out is said when the next record of the kind is logged, or by
// [LogLimit.Run].
type LogLimit struct {
	next   slog.Handler
	limits *logLimits // shared with the handlers that were made of it
}

// logLimits are what was logged lately.
type logLimits struct {
	out     slog.Handler // for what is said of records that were left out
	leftOut atomic.Int64 // of all kinds, ever

	mu    sync.Mutex
	kinds map[logKind]*logCount
}

type logKind struct {
	level   slog.Level
	message string
}

// A logCount is of records of one kind since a moment.
type logCount struct {
	since           time.Time
	logged, leftOut int
}

// NewLogLimit returns a handler that passes records on to next.
func NewLogLimit(next slog.Handler) *LogLimit {
	return &LogLimit{next, &logLimits{out: next, kinds: make(map[logKind]*logCount)}}
}

// Enabled implements [slog.Handler].
func (l *LogLimit) Enabled(ctx context.Context, level slog.Level) bool {
	return l.next.Enabled(ctx, level)
}

// WithAttrs implements [slog.Handler].
func (l *LogLimit) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &LogLimit{l.next.WithAttrs(attrs), l.limits}
}

// WithGroup implements [slog.Handler].
func (l *LogLimit) WithGroup(name string) slog.Handler {
	return &LogLimit{l.next.WithGroup(name), l.limits}
}

// Handle implements [slog.Handler].
func (l *LogLimit) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo {
		return l.next.Handle(ctx, r)
	}
	kind := logKind{r.Level, r.Message}
	pass, leftOut := l.limits.count(&kind, time.Now())
	if leftOut > 0 {
		if err := l.limits.say(ctx, kind, leftOut); err != nil {
			return err
		}
	}
	if !pass {
		return nil
	}
	return l.next.Handle(ctx, r)
}

// count counts a record and returns whether to log it, and how many of its kind
// were left out in a time that is over. Where there are too many kinds, kind becomes
// the one of all others.
func (l *logLimits) count(kind *logKind, now time.Time) (pass bool, leftOut int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.kinds[*kind]
	if c == nil && len(l.kinds) >= maxLogKinds {
		*kind = logKind{kind.level, "various"}
		c = l.kinds[*kind]
	}
	switch {
	case c == nil:
		c = &logCount{since: now}
		l.kinds[*kind] = c
	case now.Sub(c.since) >= logPeriod:
		leftOut = c.leftOut
		*c = logCount{since: now}
	}
	if c.logged == logBurst {
		c.leftOut++
		l.leftOut.Add(1)
		return false, leftOut
	}
	c.logged++
	return true, leftOut
}

// say logs how many records of a kind were left out.
func (l *logLimits) say(ctx context.Context, kind logKind, leftOut int) error {
	r := slog.NewRecord(time.Now(), kind.level, "records were left out of the log", 0)
	r.AddAttrs(slog.String("kind", kind.message), slog.Int("count", leftOut))
	return l.out.Handle(ctx, r)
}

// LeftOut returns how many records were left out so far.
func (l *LogLimit) LeftOut() int64 { return l.limits.leftOut.Load() }

// Run says now and then what was left out, until ctx ends, and the rest then.
func (l *LogLimit) Run(ctx context.Context) {
	ticker := time.NewTicker(logPeriod)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			l.limits.flush(ctx, func(c *logCount) bool { return now.Sub(c.since) >= logPeriod })
		case <-ctx.Done():
			l.limits.flush(context.WithoutCancel(ctx), func(*logCount) bool { return true })
			return
		}
	}
}

// flush forgets the kinds whose time is over, and says what was left out.
func (l *logLimits) flush(ctx context.Context, over func(*logCount) bool) {
	l.mu.Lock()
	gone := make(map[logKind]int)
	for kind, c := range l.kinds {
		if over(c) {
			gone[kind] = c.leftOut
			delete(l.kinds, kind)
		}
	}
	l.mu.Unlock()
	for kind, leftOut := range gone {
		if leftOut > 0 {
			_ = l.say(ctx, kind, leftOut) // it is the log itself that fails
		}
	}
}
