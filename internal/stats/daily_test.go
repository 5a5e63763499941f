package stats_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/stats"
	"github.com/smpq/smpq/internal/store"
)

// lines returns the lines of the days.
func lines(folder string) []string {
	b, err := os.ReadFile(filepath.Join(folder, stats.DailyName))
	if err != nil || len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

// The line is that of smp-server for a day on which the same was done.
//
// conformance: 179
func TestLineOfSMPServer(t *testing.T) {
	folder := t.TempDir()
	s := &source{now: at(t, "2026-11-22T23:59:47Z"), messages: 4}
	// What the store has: smp-server counts a deleted queue until its next start.
	s.entities = store.Entities{Queues: 5, Notifiers: 1, NtfServices: 1, NtfServiceQueues: 1}
	st := open(t, s, folder)
	if r := st.Report(t.Context()); r.Messages != 4 {
		t.Fatalf("%d messages", r.Messages) // before others come
	}
	c := &s.counters
	c.QCreated.Add(5)
	c.QSecured.Add(1)
	c.QDeletedAll.Add(1)
	c.QDeletedNew.Add(1)
	c.MsgSent.Add(5)
	c.MsgRecv.Add(1)
	c.MsgSentNtf.Add(2)
	c.MsgRecvNtf.Add(1)
	c.MsgGet.Add(1)
	c.MsgNtfs.Add(2)
	c.MsgNtfsB.Add(1)
	c.NtfServices.AssocNew.Add(1)
	c.NtfServices.SubCount.Add(1)
	c.NtfServices.SubQueues.Add(1)
	c.MsgSentAuth.Add(1)
	for p := range router.Month + 1 {
		c.ActiveQueues.AddIDs(p, false, []smp.EntityID{smp.NewEntityID("1"), smp.NewEntityID("2")})
		c.ActiveQueues.AddIDs(p, true, []smp.EntityID{smp.NewEntityID("1")})
	}
	run(t, st)
	s.setClock(at(t, "2026-11-23T00:00:00.4Z"))
	eventually(t, "the line of the day", func() bool { return len(lines(folder)) == 1 })
	want := strings.Split(strings.TrimSpace(readFile(t, reference+stats.DailyName)), ",")
	want[15-1] = "5" // see above
	want[16-1] = "8" // as five messages came and one went after they were counted
	got := strings.Split(lines(folder)[0], ",")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-smp-server +smpq:\n%s", diff)
	}
	if len(got) != 96 {
		t.Errorf("%d columns", len(got))
	}
}

// Days, weeks and months end when they do in UTC, whatever becomes of the clock.
//
// conformance: 179
func TestDays(t *testing.T) {
	folder := t.TempDir()
	s := &source{now: at(t, "2026-11-27T22:00:00Z")} // a Friday
	st := open(t, s, folder, func(o *stats.Options) { o.Metrics = 0 })
	run(t, st)
	eventually(t, "the first backup", func() bool {
		_, err := os.Stat(filepath.Join(folder, stats.BackupName))
		return err == nil
	})
	active := func(id string) {
		for p := range router.Month + 1 {
			s.counters.ActiveQueues.AddIDs(p, false, []smp.EntityID{smp.NewEntityID(id)})
			s.counters.ActiveQueues.AddIDs(p, true, []smp.EntityID{smp.NewEntityID(id)})
		}
	}
	for i, day := range []struct {
		now  string
		want string // date, created, blocked, active queues
	}{
		{"2026-11-28T00:00:01Z", "2026-11-27,1,1,,"},
		{"2026-11-29T12:00:00Z", "2026-11-28,1,1,,"},
		{"2026-11-30T00:00:00Z", "2026-11-29,1,1,3,"},
		{"2026-12-01T00:00:00Z", "2026-11-30,1,1,,4"},
		{"2027-03-01T08:00:00Z", "2026-12-01,1,1,2,1"}, // it stood still for months
		{"2027-03-02T08:00:00Z", "2027-03-01,1,1,,"},
		{"2026-11-28T08:00:00Z", ""}, // it was put back
		{"2026-11-29T00:00:00Z", "2027-03-02,2,2,,"},
	} {
		s.counters.QCreated.Add(1)
		s.counters.MsgSentBlock.Add(1)
		active(strconv.Itoa(i))
		before := len(lines(folder))
		s.setClock(at(t, day.now))
		if day.want == "" {
			looked := s.looked()
			eventually(t, "that the clock is looked at", func() bool { return s.looked() > looked+1 })
			continue
		}
		eventually(t, "the line of "+day.want, func() bool { return len(lines(folder)) == before+1 })
		c := strings.Split(lines(folder)[before], ",")
		if got := strings.Join([]string{c[0], c[1], c[6], c[7], c[8]}, ","); got != day.want {
			t.Errorf("%s: the line is %s, not %s", day.now, got, day.want)
		}
		if c[11] != c[6] || c[12] != c[7] || c[13] != c[8] || len(c) != 96 {
			t.Errorf("%s: the line is %v", day.now, c)
		}
	}
	if n := st.Report(t.Context()).Count("msgSentBlock"); n != 8 {
		t.Errorf("what goes on from day to day is %d", n)
	}
}

// Nothing is lost, and nothing counted twice, that is counted while a day ends.
func TestNothingIsLostAtMidnight(t *testing.T) {
	folder := t.TempDir()
	s := &source{now: at(t, "2026-01-01T12:00:00Z")}
	st := open(t, s, folder)
	run(t, st)
	stop := make(chan struct{})
	var counting sync.WaitGroup
	for range 2 {
		counting.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					s.counters.MsgSent.Add(1)
				}
			}
		})
	}
	for day := 2; day <= 10; day++ {
		s.setClock(time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC))
		eventually(t, "the end of the day", func() bool { return len(lines(folder)) == day-1 })
	}
	close(stop)
	counting.Wait()
	sum := st.Report(t.Context()).Count("msgSent")
	for _, line := range lines(folder) {
		n, err := strconv.ParseInt(strings.Split(line, ",")[4], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	if want := s.counters.MsgSent.Load(); sum != want {
		t.Errorf("of %d messages, %d are in the statistics", want, sum)
	}
}

// A full disk ends nothing; when there is room, the days are written that are missing.
//
// conformance: 181
func TestFullDisk(t *testing.T) {
	folder := t.TempDir()
	for _, name := range []string{stats.DailyName, stats.MetricsName + ".smpq-tmp"} {
		if err := os.Symlink("/dev/full", filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	s := &source{now: at(t, "2026-01-01T12:00:00Z")}
	st := open(t, s, folder)
	stop := run(t, st)
	for day := 2; day <= 3; day++ {
		s.counters.MsgSent.Add(1)
		s.setClock(time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC))
		eventually(t, "the end of the day", func() bool { return st.Report(t.Context()).From.Day() == day })
	}
	for _, name := range []string{stats.DailyName, stats.MetricsName + ".smpq-tmp"} {
		if err := os.Remove(filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "that what was missing is written", func() bool { return len(lines(folder)) == 2 })
	for i, line := range lines(folder) {
		if c := strings.Split(line, ","); c[0] != "2026-01-0"+strconv.Itoa(i+1) || c[4] != "1" {
			t.Errorf("line %d: %s", i, line)
		}
	}
	eventually(t, "that metrics are written", func() bool {
		_, err := os.Stat(filepath.Join(folder, stats.MetricsName))
		return err == nil
	})
	stop()
}

// While the database is away, statistics have what was known last.
func TestDatabaseAway(t *testing.T) {
	s := &source{now: at(t, "2026-01-01T12:00:00Z"), messages: 10, entities: store.Entities{Queues: 7}}
	st := open(t, s, t.TempDir())
	if r := st.Report(t.Context()); r.Stored.Queues != 7 || r.Messages != 10 {
		t.Errorf("%+v", r)
	}
	s.mu.Lock()
	s.err = errors.New("away")
	s.mu.Unlock()
	s.counters.MsgSent.Add(5)
	s.counters.MsgRecv.Add(2)
	s.counters.MsgExpired.Add(1)
	if r := st.Report(t.Context()); r.Stored.Queues != 7 || r.Messages != 12 {
		t.Errorf("%+v", r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := st.Report(ctx); r.Stored.Queues != 7 {
		t.Errorf("%+v", r)
	}
	s.mu.Lock()
	s.err, s.messages = nil, 3
	s.mu.Unlock()
	s.setClock(s.clock().Add(time.Hour))
	if r := st.Report(t.Context()); r.Messages != 3 {
		t.Errorf("%+v", r)
	}
}

// A slowStore does not answer in any time.
type slowStore struct{ *source }

func (slowStore) Entities(ctx context.Context) (store.Entities, error) {
	<-ctx.Done()
	return store.Entities{}, ctx.Err()
}

// The log says that the store takes too long, but not that somebody did not want to
// wait any longer.
func TestStoreIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := &source{now: time.Now()}
		st := open(t, s, t.TempDir(), func(o *stats.Options) {
			o.Store, o.Log = slowStore{s}, slog.New(slog.NewTextHandler(&log, nil))
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if st.Report(ctx); log.Len() != 0 {
			t.Errorf("the log has %s", log.String())
		}
		if st.Report(t.Context()); !strings.Contains(log.String(), "level=ERROR") {
			t.Errorf("the log has %q", log.String())
		}
	})
}

// Messages that cannot be counted, because there are too many for the time, are not
// counted each time that somebody asks. The log says so once, and once that it is over.
func TestNotCounted(t *testing.T) {
	var log bytes.Buffer
	s := &source{now: at(t, "2026-01-01T12:00:00Z"), messages: 10, uncounted: context.DeadlineExceeded}
	st := open(t, s, t.TempDir(), func(o *stats.Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	report := func(counted int, lines ...string) {
		t.Helper()
		log.Reset()
		for range 3 {
			st.Report(t.Context())
		}
		if s.counted != counted {
			t.Errorf("counted %d times, not %d", s.counted, counted)
		}
		said := strings.SplitAfter(log.String(), "\n")
		said = said[:len(said)-1]
		if !slices.EqualFunc(said, lines, strings.Contains) {
			t.Errorf("the log has %q, not %q", said, lines)
		}
	}
	report(1, "level=ERROR")
	s.setClock(s.clock().Add(time.Hour))
	report(2)
	s.uncounted = nil
	report(2)
	s.setClock(s.clock().Add(time.Hour))
	report(3, "level=INFO")
	if r := st.Report(t.Context()); r.Messages != 10 {
		t.Errorf("%d messages", r.Messages)
	}
}
