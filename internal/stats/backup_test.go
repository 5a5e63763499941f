package stats_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/stats"
	"github.com/smpq/smpq/internal/store"
)

// The backup of smp-server is read, and written again as it was.
//
// conformance: 166
func TestBackup(t *testing.T) {
	folder := t.TempDir()
	text := readFile(t, reference+stats.BackupName)
	name := filepath.Join(folder, stats.BackupName)
	write(t, name, text)
	s := &source{now: at(t, "2026-11-23T12:00:00Z"), entities: store.Entities{Queues: 4}}
	st := open(t, s, folder)
	if got := readFile(t, name+".bak"); got != text {
		t.Error("what was read is not kept")
	}
	if got := readFile(t, name); got != text {
		t.Error("if the router does not start, the counters are lost")
	}
	if err := st.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := readFile(t, name)
	if diff := cmp.Diff(text, got); diff != "" {
		t.Errorf("-smp-server +smpq:\n%s", diff)
	}
	if n := strings.Count(got, "\n"); n != 95 {
		t.Errorf("the backup has %d lines", n)
	}
}

// Counters go on after a restart, and are saved when the router stops.
//
// conformance: 166
func TestBackupAcrossRestarts(t *testing.T) {
	folder := t.TempDir()
	from := at(t, "2026-11-23T12:00:00.5Z")
	ids := []smp.EntityID{smp.NewEntityID("one"), smp.NewEntityID("two")}
	for round := range int64(3) {
		s := &source{now: from}
		s.setClock(from.AddDate(0, 0, 0).Add(1))
		if round == 0 {
			s.setClock(from)
		}
		st := open(t, s, folder)
		stop := run(t, st)
		s.counters.MsgSent.Add(5)
		s.counters.PRelays.ErrorsCompat.Add(1)
		s.counters.NtfServices.AssocUpdated.Add(2)
		s.counters.ActiveQueues.AddIDs(router.Day, false, ids)
		s.counters.ActiveQueues.AddIDs(router.Month, true, ids[:round%2+1])
		r := st.Report(t.Context())
		if !r.From.Equal(from) || r.Count("msgSent") != 5*(round+1) || r.Count("pRelays.errorsCompat") != round+1 || r.Count("ntfServices.assocUpdated") != 2*(round+1) {
			t.Errorf("round %d: from %s, %d messages", round, r.From, r.Count("msgSent"))
		}
		if want := min(round+1, 2); r.Active[router.Day] != 2 || r.ActiveNtf[router.Month] != want || r.Active[router.Week] != 0 {
			t.Errorf("round %d: active %v, %v", round, r.Active, r.ActiveNtf)
		}
		stop()
	}
}

func TestOldBackups(t *testing.T) {
	const start = "fromTime=2023-01-02T03:04:05Z\nqCreated=7\nqSecured=6\n"
	const messages = "msgSent=5\nmsgRecv=4\n"
	ids := "day=YWJj,ZGVm\nweek=\nmonth=YWJj\n"
	for _, c := range []struct {
		name, text string
		deleted    int64
		active     [3]int64
		ntf        [3]int64
	}{
		{"the least", start + messages, 0, [3]int64{}, [3]int64{}},
		{"deleted, without kinds", start + "qDeleted=3\n" + messages, 3, [3]int64{}, [3]int64{}},
		{"sets without group", start + messages + "dayMsgQueues=YWJj,ZGVm\nweekMsgQueues=\nmonthMsgQueues=YWJj\n", 0, [3]int64{2, 0, 1}, [3]int64{}},
		{"ids", start + messages + "activeQueues:\n" + ids + "activeQueuesNtf:\n" + ids, 0, [3]int64{2, 0, 1}, [3]int64{2, 0, 1}},
		{"subscribed queues", start + messages + "activeQueues:\n" + ids + "subscribedQueues:\nday=AAAA\nweek=AAAA,BBBB\nmonth=\n", 0, [3]int64{2, 0, 1}, [3]int64{}},
		{"subscribed queues, hashes", start + messages + "subscribedQueues:\ndayHashes=1,2\nweekHashes=\nmonthHashes=3\npMsgFwdsRecv=2\n", 0, [3]int64{}, [3]int64{}},
		{"qSubNoMsg", start + "qSub=1\nqSubNoMsg=2\nqSubAuth=3\n" + messages, 0, [3]int64{}, [3]int64{}},
		{"no services", start + messages + "pRelays:\nrequests=1\nsuccesses=1\nerrorsConnect=0\nerrorsCompat=0\nerrorsOther=0\npMsgFwdsRecv=2\n", 0, [3]int64{}, [3]int64{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			folder := t.TempDir()
			write(t, filepath.Join(folder, stats.BackupName), c.text)
			s := &source{now: at(t, "2026-11-23T12:00:00Z")}
			r := open(t, s, folder).Report(t.Context())
			if r.Count("qCreated") != 7 || r.Count("qSecured") != 6 || r.Count("msgSent") != 5 || r.Count("msgRecv") != 4 || r.Count("qDeletedAll") != c.deleted {
				t.Errorf("%d, %d, %d, %d, %d", r.Count("qCreated"), r.Count("qSecured"), r.Count("msgSent"), r.Count("msgRecv"), r.Count("qDeletedAll"))
			}
			if r.Active != c.active || r.ActiveNtf != c.ntf {
				t.Errorf("active %v, %v, want %v, %v", r.Active, r.ActiveNtf, c.active, c.ntf)
			}
		})
	}
}

func TestUnreadableBackups(t *testing.T) {
	whole := readFile(t, reference+stats.BackupName)
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "there is no fromTime"},
		{"without what all have", "fromTime=2023-01-02T03:04:05Z\nqCreated=7\nqSecured=6\nmsgSent=1\n", "there is no msgRecv"},
		{"no number", strings.Replace(whole, "qBlocked=3", "qBlocked=three", 1), "line 8: "},
		{"unknown", whole + "more=1\n", "the name is not known"},
		{"unknown group", whole + "more:\n", "no name of a group"},
		{"twice", strings.Replace(whole, "qBlocked=3", "qSecured=3", 1), "second time"},
		{"no time", strings.Replace(whole, "fromTime=2026", "fromTime=today", 1), "line 1: "},
		{"a hash", strings.Replace(whole, "monthHashes=-", "monthHashes=,-", 1), "line 48: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			folder := t.TempDir()
			name := filepath.Join(folder, stats.BackupName)
			write(t, name, c.text)
			s := &source{now: at(t, "2026-11-23T12:00:00Z")}
			_, err := stats.New(t.Context(), stats.Options{Router: s, Store: s, Folder: folder, Daily: true, Now: s.clock})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), name) {
				t.Errorf("the error is %v", err)
			}
			if got := readFile(t, name); got != c.text {
				t.Error("the file was changed")
			}
		})
	}
}

// A router whose statistics are not kept writes none of their files.
func TestNotKept(t *testing.T) {
	folder := t.TempDir()
	s := &source{now: at(t, "2026-11-23T12:00:00Z")}
	st, err := stats.New(t.Context(), stats.Options{Router: s, Store: s, Folder: folder, Now: s.clock})
	if err != nil {
		t.Fatal(err)
	}
	run(t, st)()
	if err := st.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(folder)
	if err != nil || len(files) > 0 {
		t.Errorf("there are %v, %v", files, err)
	}
}

func FuzzBackup(f *testing.F) {
	f.Add(readFile(f, reference+stats.BackupName))
	f.Add("fromTime=2023-01-02T03:04:05Z\nqCreated=7\nqSecured=6\nqDeleted=1\nqSubNoMsg=1\nmsgSent=5\nmsgRecv=4\ndayMsgQueues=YWJj\nactiveQueues:\nday=AAAA,BBBB\nsubscribedQueues:\nday=AAAA\n")
	f.Fuzz(func(t *testing.T, text string) {
		folder := t.TempDir()
		name := filepath.Join(folder, stats.BackupName)
		write(t, name, text)
		s := &source{now: at(t, "2026-11-23T12:00:00Z")}
		o := stats.Options{Router: s, Store: s, Folder: folder, Daily: true, Now: s.clock}
		st, err := stats.New(t.Context(), o)
		if err != nil {
			return
		}
		if err := st.Save(t.Context()); err != nil {
			t.Fatal(err)
		}
		written := readFile(t, name)
		if err := os.Remove(name + ".bak"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		again := &source{now: s.now}
		o.Router, o.Store = again, again
		if st, err = stats.New(t.Context(), o); err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if err := st.Save(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(written, readFile(t, name)); diff != "" {
			t.Errorf("it is written differently again:\n%s", diff)
		}
	})
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
