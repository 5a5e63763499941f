package stats

import (
	"context"
	"log/slog"
	"time"

	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/store"
)

// A Report is the statistics at one moment.
type Report struct {
	From time.Time // the counters are of what was done since then
	At   time.Time

	// Stored is how many of what there are. As all that comes from the store, it is
	// what was known last if the database is away.
	Stored        store.Entities
	Messages      int64 // in queues, without quota markers
	Notifications int64 // that wait

	Active    [3]int64 // queues in use, by router.Period
	ActiveNtf [3]int64 // those of them with messages to notify of

	numbers numbers
}

// Count returns a counter by its name, such as "msgSent" or "pRelays.requests".
func (r *Report) Count(name string) int64 { return r.numbers[name] }

// Report returns the statistics as they are now.
func (s *Statistics) Report(ctx context.Context) *Report {
	s.refresh(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report()
}

// report is Report with the mutex held, and with the numbers of the store that were
// last known.
func (s *Statistics) report() *Report {
	r := &Report{From: s.from, At: s.o.Now(), Stored: s.stored, numbers: s.ledger.read()}
	c := s.o.Router.Counters()
	r.Notifications = c.NtfCount.Load()
	r.Messages = s.counted.messages(c)
	for p := range r.Active {
		r.Active[p] = c.ActiveQueues.Len(router.Period(p), false)
		r.ActiveNtf[p] = c.ActiveQueues.Len(router.Period(p), true)
	}
	return r
}

// recount is how often messages in queues are counted. In between, it is counted how
// many come and go; those of queues that are deleted are not.
const recount = 10 * time.Minute

// A messageCount is how many messages there were when they were counted, and what the
// counters were then.
type messageCount struct {
	at                      time.Time // when that was last tried
	n                       int64
	sent, received, expired int64
}

// messages returns how many messages there are now.
func (m *messageCount) messages(c *router.Counters) int64 {
	return max(0, m.n+c.MsgSent.Load()-m.sent-(c.MsgRecv.Load()-m.received)-(c.MsgExpired.Load()-m.expired))
}

// storeTimeout is how long statistics wait for the database.
const storeTimeout = 10 * time.Second

// refresh asks the store for its numbers. If it does not answer, the old ones stay.
func (s *Statistics) refresh(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	select {
	case s.refreshing <- struct{}{}:
		defer func() { <-s.refreshing }()
	case <-limited.Done():
		return
	}
	stored, err := s.o.Store.Entities(limited)
	if s.asking.note(ctx, err, "the numbers of queues and services are not up to date") {
		return
	}
	s.mu.Lock()
	s.stored = stored
	if was := s.restored; was != unknown && was != stored.Queues {
		s.o.Log.LogAttrs(ctx, slog.LevelWarn, "the number of queues is not that of the saved counters",
			slog.Int64("stored", stored.Queues), slog.Int64("saved", was))
	}
	s.restored = unknown
	due := s.counted.at.IsZero() || s.o.Now().Sub(s.counted.at).Abs() >= recount
	s.mu.Unlock()
	if due {
		s.countMessages(ctx)
	}
}

func (s *Statistics) countMessages(ctx context.Context) {
	c := s.o.Router.Counters()
	m := messageCount{at: s.o.Now(), sent: c.MsgSent.Load(), received: c.MsgRecv.Load(), expired: c.MsgExpired.Load()}
	limited, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	var err error
	m.n, err = s.o.Store.CountLiveMessages(limited)
	failed := s.counting.note(ctx, err, "the number of messages is not up to date")
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !failed:
		s.counted = m
	case ctx.Err() == nil:
		s.counted.at = m.at // what takes too long is not tried again at once
	}
}

// A trouble is something that may go wrong again and again. It is logged when it begins
// and when it is over.
type trouble struct {
	log   *slog.Logger
	began bool // guarded by its owner
}

// note notes whether something has gone wrong, and reports it.
func (t *trouble) note(ctx context.Context, err error, what string) bool {
	switch {
	case err != nil && ctx.Err() != nil: // the router stops
	case err != nil && !t.began:
		t.began = true
		t.log.LogAttrs(ctx, slog.LevelError, what, slog.Any("error", err))
	case err == nil && t.began:
		t.began = false
		t.log.LogAttrs(ctx, slog.LevelInfo, "statistics are written again", slog.String("trouble", what))
	}
	return err != nil
}
