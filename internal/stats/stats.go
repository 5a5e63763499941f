package stats

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/smpq/smpq/internal/atomicfile"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/store"
)

// The names of the files, in the folder of a router's logs.
const (
	DailyName   = "smp-server-stats.daily.log"
	BackupName  = "smp-server-stats.log"
	MetricsName = "smp-server-metrics.txt"
)

// A Router is whose statistics these are.
type Router interface {
	Counters() *router.Counters
	State() router.State
}

// A Store is what the router stores things in.
type Store interface {
	Entities(context.Context) (store.Entities, error)
	CountLiveMessages(context.Context) (int64, error)
	CacheStats() store.CacheStats
}

// Options say which statistics are kept.
type Options struct {
	Router Router
	Store  Store

	Folder  string        // where the files are
	Daily   bool          // write a line for each day, and keep the counters across restarts
	Metrics time.Duration // how often the file of metrics is written; 0: never

	Version    string // of the program, for the metrics
	RTSOptions string // a text for the metrics, what smp-server calls so

	Log *slog.Logger     // nil: nothing is logged
	Now func() time.Time // nil: time.Now

	// Tick is how often it is looked whether a day has ended. 0: a second.
	Tick time.Duration
}

// Statistics are the statistics of a router. Its methods may be called from many
// goroutines.
type Statistics struct {
	o          Options
	refreshing chan struct{} // has an element while somebody asks the store
	asking     trouble       // guarded by refreshing, as is counting
	counting   trouble

	saving sync.Mutex // held while a backup is written

	mu      sync.Mutex // guards what follows
	from    time.Time
	ledger  *ledger
	stored  store.Entities
	counted messageCount
	lines   []string // of days that are not written yet
	// The number of queues in the backup, until it is compared with that in the store.
	restored int64
	next     time.Time // when the day ends
}

// New returns the statistics of a router, those of the past as well if they are kept:
// then the backup gets a second name that ends in ".bak", and stays until Run replaces
// it. It fails if there is a backup that cannot be read.
func New(ctx context.Context, o Options) (*Statistics, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Tick == 0 {
		o.Tick = time.Second
	}
	s := &Statistics{
		o: o, refreshing: make(chan struct{}, 1), asking: trouble{log: o.Log}, counting: trouble{log: o.Log},
		from: o.Now(), ledger: newLedger(o.Router.Counters()), next: endOfDay(o.Now()), restored: unknown,
	}
	if o.Daily {
		if err := s.restore(ctx); err != nil {
			return nil, fmt.Errorf("restore the counters: %w", err)
		}
	}
	return s, nil
}

// unknown is a number of queues that is not known.
const unknown = -1

// endOfDay returns when the day of a time ends, in UTC.
func endOfDay(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour) }

// backupInterval is how often the backup is written while the router runs, so that not
// all is lost if it is killed.
const backupInterval = time.Hour

// Run writes what is to be written, until ctx ends, then the backup. Whatever cannot be
// written is tried again.
func (s *Statistics) Run(ctx context.Context) {
	var running sync.WaitGroup
	if s.o.Metrics > 0 {
		failed := trouble{log: s.o.Log}
		running.Go(func() {
			every(ctx, s.o.Metrics, func() { failed.note(ctx, s.saveMetrics(ctx), "the metrics cannot be written") })
		})
	}
	if s.o.Daily {
		daily, backup := trouble{log: s.o.Log}, trouble{log: s.o.Log}
		running.Go(func() {
			every(ctx, s.o.Tick, func() { daily.note(ctx, s.endDay(ctx), "the statistics of a day cannot be written yet") })
		})
		running.Go(func() {
			save := func() { backup.note(ctx, s.Save(ctx), "the counters cannot be saved") }
			save() // the one that was read is of another process
			every(ctx, backupInterval, save)
		})
	}
	running.Wait()
	if s.o.Daily {
		ctx = context.WithoutCancel(ctx)
		if err := errors.Join(s.writeLines(), s.Save(ctx)); err != nil {
			s.o.Log.LogAttrs(ctx, slog.LevelError, "statistics cannot be written", slog.Any("error", err))
		}
	}
}

// every does something again and again until ctx ends.
func every(ctx context.Context, interval time.Duration, do func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			do()
		case <-ctx.Done():
			return
		}
	}
}

func (s *Statistics) path(name string) string { return filepath.Join(s.o.Folder, name) }

// restore reads the backup, if there is one.
func (s *Statistics) restore(ctx context.Context) error {
	name := s.path(BackupName)
	f, err := os.Open(name) //nolint:gosec // the operator names the folder
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	b, err := readBackup(f)
	_ = f.Close() // was only read
	if err != nil {
		return fmt.Errorf("%s: %w; without the file, the counters begin with 0", name, err)
	}
	if err := atomicfile.SetAside(name); err != nil {
		return err
	}
	s.from, s.restored = b.from, unknown
	if n, ok := b.numbers[queueCount]; ok {
		s.restored = n
	}
	s.ledger.add(b.numbers)
	active := &s.o.Router.Counters().ActiveQueues
	for i, set := range b.active {
		p, notify := router.Period(i%3), i >= 3
		active.AddHashes(p, notify, set.hashes)
		active.AddIDs(p, notify, set.ids)
	}
	s.o.Log.LogAttrs(ctx, slog.LevelInfo, "counters restored", slog.Time("from", b.from))
	return nil
}
