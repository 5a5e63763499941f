package stats

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/smpq/smpq/internal/router"
)

// maxLines is how many days are kept in memory that cannot be written.
const maxLines = 366

// endDay makes the line of a day that has ended, and writes it.
func (s *Statistics) endDay(ctx context.Context) error {
	now := s.o.Now()
	s.mu.Lock()
	ended := !now.Before(s.next)
	if !ended {
		s.next = endOfDay(now) // the clock may have been put back
	}
	s.mu.Unlock()
	if ended {
		s.refresh(ctx)
		s.mu.Lock()
		s.lines = append(s.lines[max(0, len(s.lines)-maxLines+1):], s.closeDay(now))
		s.next = endOfDay(now)
		s.mu.Unlock()
	}
	return s.writeLines()
}

// closeDay returns the line of the day, and begins the next one.
func (s *Statistics) closeDay(now time.Time) string {
	r := s.report()
	s.ledger.reset(r.numbers)
	s.from = now
	active := &s.o.Router.Counters().ActiveQueues
	take := func(p router.Period) (all, ntf string) {
		a, n := active.Take(p)
		return strconv.FormatInt(a, 10), strconv.FormatInt(n, 10)
	}
	today := now.UTC()
	var sets, ntf [3]string
	sets[router.Day], ntf[router.Day] = take(router.Day)
	if today.Weekday() == time.Monday {
		sets[router.Week], ntf[router.Week] = take(router.Week)
	}
	if today.Day() == 1 {
		sets[router.Month], ntf[router.Month] = take(router.Month)
	}
	return strings.Join(columns(r, sets, ntf), ",") + "\n"
}

// columns returns the columns of a line. What stands for a set that is not reported is
// empty.
func columns(r *Report, active, ntf [3]string) []string {
	c := []string{r.From.UTC().Format(time.DateOnly)}
	add := func(values ...int64) {
		for _, v := range values {
			c = append(c, strconv.FormatInt(v, 10))
		}
	}
	counts := func(names ...string) {
		for _, name := range names {
			add(r.Count(name))
		}
	}
	group := func(name string, fields ...string) {
		for _, field := range fields {
			add(r.Count(name + "." + field))
		}
	}
	counts("qCreated", "qSecured", "qDeletedAll", "msgSent", "msgRecv")
	c = append(c, active[:]...)
	counts("msgSentNtf", "msgRecvNtf")
	c = append(c, ntf[:]...)
	add(r.Stored.Queues, r.Messages)
	counts("msgExpired", "qDeletedNew", "qDeletedSecured")
	for _, name := range proxyGroups {
		group(name, proxyFields...)
	}
	counts("pMsgFwdsRecv", "qSub", "qSubAuth", "qSubDuplicate", "qSubProhibited", "msgSentAuth", "msgSentQuota", "msgSentLarge",
		"msgNtfs", "msgNtfNoSub", "msgNtfLost")
	add(0)
	counts("msgRecvGet", "msgGet", "msgGetNoMsg", "msgGetAuth", "msgGetDuplicate", "msgGetProhibited")
	add(0, 0, 0, r.Stored.Queues)
	counts("ntfCreated", "ntfDeleted", "ntfSub", "ntfSubAuth", "ntfSubDuplicate")
	add(r.Stored.Notifiers)
	counts("qDeletedAllB", "qSubAllB", "qSubEnd", "qSubEndB", "ntfDeletedB", "ntfSubB", "msgNtfsB", "msgNtfExpired")
	add(r.Notifications, r.Stored.RcvServices, r.Stored.NtfServices, r.Stored.RcvServiceQueues, r.Stored.NtfServiceQueues)
	for _, name := range serviceGroups {
		group(name, serviceFields...)
	}
	return c
}

// writeLines appends to the file what is not written yet.
func (s *Statistics) writeLines() error {
	s.saving.Lock()
	defer s.saving.Unlock()
	s.mu.Lock()
	lines := s.lines
	s.mu.Unlock()
	if len(lines) == 0 {
		return nil
	}
	if err := appendFile(s.path(DailyName), strings.Join(lines, "")); err != nil {
		return err
	}
	s.mu.Lock()
	s.lines = s.lines[len(lines):] // another one may be there
	s.mu.Unlock()
	return nil
}

// appendFile appends text to a file: all of it or, as far as the system lets it,
// nothing.
func appendFile(name, text string) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644) //nolint:gosec // numbers, which others may read
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err = f.WriteString(text); err == nil {
		err = f.Sync()
	}
	if err != nil && info.Mode().IsRegular() {
		err = errors.Join(err, f.Truncate(info.Size()))
	}
	return err
}
