package router_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/ntflog"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/transport"
)

// A life is a router from its start to its end.
type life struct {
	*server
	files string // folder of its files
}

// begin starts a router with a store of its own that keeps notifications in a folder.
func (s *site) begin(t *testing.T, files string, change ...func(*router.Options)) *life {
	t.Helper()
	return &life{files: files, server: start(t, s.openStore(t, 0), append([]func(*router.Options){func(o *router.Options) {
		o.NotificationLog = filepath.Join(files, ntflog.Name)
	}}, change...)...)}
}

// end stops the router.
func (l *life) end(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	if err := l.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
}

// log returns the notification log, or that which was restored.
func (l *life) log(t *testing.T, suffix string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(l.files, ntflog.Name+suffix))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// sorted returns the lines of a text.
func sorted(text string) []string { return slices.Sorted(strings.Lines(text)) }

// Messages, acknowledgements and notifications outlive the router.
//
// conformance: 112, 117, 159, 160; 161 for notifications
func TestRestart(t *testing.T) {
	t.Parallel()
	s, files := newSite(t), t.TempDir()
	type queues struct {
		plain, served *box // the notifier of the latter is a service
		acknowledged  smp.Short
		service       transport.ServiceCredentials
		ids           []smp.Short // of the other messages in plain
	}
	of := make(map[smp.Version]*queues)
	first := s.begin(t, files, func(o *router.Options) { o.NotifyInterval = time.Hour })
	for v := smp.MinVersion; v <= smp.MaxVersion; v++ {
		alice := first.dial(t, v)
		q := &queues{plain: alice.newQueue()}
		of[v] = q
		alice.addNotifier(q.plain)
		for _, text := range []string{"one", "two", "three"} {
			alice.sendNotifying(q.plain, text)
		}
		q.acknowledged = alice.receive(q.plain, "one")
		q.ids = []smp.Short{alice.ackNext(q.plain, q.acknowledged, "two")}
		if v >= smp.VersionServices {
			q.service, q.served = routertest.NewServiceCredentials(t, queue.RoleNotifier), alice.newQueue(createOnly)
			alice.addNotifier(q.served)
			subscribed(first.dial(t, v, asService(q.service)), q.served.notifier, q.served.notifierKey, &smp.NSUB{})
			alice.sendNotifying(q.served, "x")
		}
	}
	waiting := first.Counters().NtfCount.Load()
	first.end(t)
	saved := sorted(first.log(t, ""))
	if int64(len(saved)) != waiting {
		t.Errorf("%d notifications were saved, of %d", len(saved), waiting)
	}

	second := s.begin(t, files)
	if got := sorted(second.log(t, ".bak")); !slices.Equal(got, saved) {
		t.Errorf("what was restored has %d lines, not %d", len(got), len(saved))
	}
	if n := second.Counters().NtfCount.Load(); n != waiting {
		t.Errorf("%d notifications were restored, not %d", n, waiting)
	}
	second.end(t)

	third := s.begin(t, files)
	for v, q := range of {
		alice, notifier := third.dial(t, v), third.dial(t, v)
		alice.subscribe(q.plain)
		if id := alice.receive(q.plain, "two"); !id.Equal(q.ids[0]) {
			t.Error("the message has another id")
		}
		last := alice.ackNext(q.plain, q.ids[0], "three")
		alice.ack(q.plain, last)
		alice.quiet()
		subscribed(notifier, q.plain.notifier, q.plain.notifierKey, &smp.NSUB{})
		for _, want := range []smp.Short{q.acknowledged, q.ids[0], last} {
			if got := notifier.notified(q.plain); !got.Equal(want) {
				t.Error("the notification is about another message")
			}
		}
		if v >= smp.VersionServices {
			served := third.dial(t, v, asService(q.service))
			served.nsubs(q.served.notifier)
			served.notified(q.served)
		}
	}
	eventually(t, "that all are delivered", func() bool { return third.Counters().NtfCount.Load() == 0 })
	third.end(t)
	if left := third.log(t, ""); len(left) > 0 {
		t.Errorf("notifications are saved that were delivered:\n%s", left)
	}
}

// Notifications are saved while the router runs: not much is lost if it is killed. They
// are not kept if they are not to be.
//
// conformance: 112; 162 for notifications
func TestNotificationsOfKilledRouter(t *testing.T) {
	t.Parallel()
	s, files := newSite(t), t.TempDir()
	first := s.begin(t, files, func(o *router.Options) { o.SaveInterval, o.NotifyInterval = 10*time.Millisecond, time.Hour })
	alice := first.dial(t, 19)
	b := alice.newQueue(createOnly)
	alice.addNotifier(b)
	for _, text := range []string{"1", "2"} {
		alice.sendNotifying(b, text)
	}
	eventually(t, "that they are saved", func() bool { return len(sorted(first.log(t, ""))) == 2 })
	log, err := os.ReadFile(filepath.Join(files, ntflog.Name))
	if err != nil {
		t.Fatal(err)
	}

	later := t.TempDir()
	if err := os.WriteFile(filepath.Join(later, ntflog.Name), log, 0o600); err != nil {
		t.Fatal(err)
	}
	second := s.begin(t, later, func(o *router.Options) { o.MaxNotifications, o.SaveInterval = 1, 10*time.Millisecond })
	if c := second.Counters(); c.NtfCount.Load() != 1 || c.MsgNtfLost.Load() != 1 {
		t.Errorf("%d notifications wait, %d are lost", c.NtfCount.Load(), c.MsgNtfLost.Load())
	}
	notifier := second.dial(t, 19)
	subscribed(notifier, b.notifier, b.notifierKey, &smp.NSUB{})
	notifier.notified(b)
	eventually(t, "that it is saved no more", func() bool { return len(second.log(t, "")) == 0 })
	notifier.quiet()

	third := s.begin(t, later, func(o *router.Options) { o.NotificationLog = "" })
	notifier = third.dial(t, 19)
	notifier.sendNotifying(b, "3")
	third.end(t)
	if left := third.log(t, ""); len(left) > 0 {
		t.Errorf("notifications are saved that were not to be:\n%s", left)
	}
}

// realNotifications returns the log that smp-server wrote, and the time of its records.
func realNotifications(t *testing.T) (log []byte, at time.Time) {
	t.Helper()
	log, err := os.ReadFile(filepath.Join("..", "..", "testdata", "smp-server-6.5.5", "3-messages", "memory", "3-after-stop", ntflog.Name))
	if err != nil {
		t.Fatal(err)
	}
	return log, time.Unix(1795306641, 0)
}

// However many notifications wait, they are delivered at once if there is room.
func TestManyNotifications(t *testing.T) {
	t.Parallel()
	s, files := newSite(t), t.TempDir()
	first := s.begin(t, files)
	p := first.dial(t, smp.MaxVersion)
	boxes := []*box{p.newQueue(createOnly), p.newQueue(createOnly), p.newQueue(createOnly)}
	meta, err := smp.NewShort(make([]byte, ntflog.MetaSize))
	if err != nil {
		t.Fatal(err)
	}
	var waiting []ntflog.Record
	for _, b := range boxes {
		p.addNotifier(b)
		for i := range 900 {
			waiting = append(waiting, ntflog.Record{
				Notifier: queue.NotifierID{EntityID: b.notifier}, Message: queue.MessageID{EntityID: b.recipient},
				Time: time.Now().Unix(), Nonce: [smp.NonceSize]byte{byte(i >> 8), byte(i)}, Meta: meta,
			})
		}
	}
	first.end(t)
	var log bytes.Buffer
	if _, err := ntflog.Write(&log, slices.Values(waiting)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(files, ntflog.Name), log.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	second := s.begin(t, files, func(o *router.Options) { o.NotifyInterval = time.Hour })
	notifier := second.dial(t, smp.MaxVersion)
	for _, b := range boxes {
		subscribed(notifier, b.notifier, b.notifierKey, &smp.NSUB{})
	}
	second.DeliverNotifications()
	if c := second.Counters(); c.MsgNtfs.Load() != int64(len(waiting)) || c.NtfCount.Load() != 0 {
		t.Fatalf("%d notifications were delivered, %d wait", c.MsgNtfs.Load(), c.NtfCount.Load())
	}
	next := make(map[smp.EntityID]int)
	for range waiting {
		e := notifier.event()
		n, ok := e.Response.(*smp.NMSG)
		if !ok || int(n.Nonce[0])<<8|int(n.Nonce[1]) != next[e.Entity] {
			t.Fatalf("%+v about %s is not the next", e.Response, e.Entity)
		}
		next[e.Entity]++
	}
	notifier.quiet()
}

// The log of smp-server is taken over. What is too old is left out, and what cannot
// be read.
func TestNotificationLogOfOthers(t *testing.T) {
	t.Parallel()
	written, at := realNotifications(t)
	lines := slices.Sorted(strings.Lines(string(written)))
	for _, tc := range []struct {
		name           string
		log            string
		at             time.Time
		saved          []string
		expired, names int64 // how many lines are named that cannot be read
	}{
		{"as it is", string(written), at, lines, 0, 0},
		{"almost too old", string(written), at.Add(24 * time.Hour), lines, 0, 0},
		{"too old", string(written), at.Add(24*time.Hour + time.Second), nil, 3, 0},
		{"one is older", strings.Replace(string(written), "1795306641", "1795220000", 1), at.Add(time.Hour), lines[:2], 1, 0},
		{"damaged", string(written) + lines[0][:200], at, lines, 0, 1},
		{"no log", strings.Repeat("once upon a time\n", 100), at, nil, 0, 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			files := t.TempDir()
			if err := os.WriteFile(filepath.Join(files, ntflog.Name), []byte(tc.log), 0o600); err != nil {
				t.Fatal(err)
			}
			var said lockedBuffer
			r := newSite(t).begin(t, files, func(o *router.Options) {
				o.Now = func() time.Time { return tc.at }
				o.Log = slog.New(slog.NewTextHandler(&said, nil))
			})
			if diff := cmp.Diff(tc.saved, sorted(r.log(t, ""))); diff != "" {
				t.Errorf("saved (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.log, r.log(t, ".bak")); diff != "" {
				t.Errorf("set aside (-want +got):\n%s", diff)
			}
			if c := r.Counters(); c.NtfCount.Load() != int64(len(tc.saved)) || c.MsgNtfExpired.Load() != tc.expired {
				t.Errorf("%d notifications wait, %d are expired", c.NtfCount.Load(), c.MsgNtfExpired.Load())
			}
			if n := strings.Count(said.String(), " line="); int64(n) != tc.names {
				t.Errorf("%d lines are named, not %d:\n%s", n, tc.names, said.String())
			}
		})
	}
}

// A log that cannot be read keeps the router from starting: it would take its place.
// One that cannot be written does not.
func TestNotificationLogFails(t *testing.T) {
	t.Parallel()
	st := newSite(t).openStore(t, 0)
	folder := t.TempDir()
	o := router.Options{Store: st, Credentials: routertest.NewCredentials(t), NotificationLog: folder}
	if _, err := router.New(o); err == nil || !strings.Contains(err.Error(), folder) {
		t.Errorf("the log is a folder: %v", err)
	}
	var said lockedBuffer
	o.NotificationLog, o.Log = filepath.Join(folder, "none", "x"), slog.New(slog.NewTextHandler(&said, nil))
	o.SaveInterval = 10 * time.Millisecond
	r, err := router.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Dir(o.NotificationLog), 0o700); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said.String(), "notifications cannot be saved") {
		t.Errorf("it says nothing of it: %q", said.String())
	}
	eventually(t, "that it is saved", func() bool {
		_, err := os.Stat(o.NotificationLog)
		return err == nil
	})
	if err := os.RemoveAll(filepath.Dir(o.NotificationLog)); err != nil {
		t.Fatal(err)
	}
	if err := r.Shutdown(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Shutdown: %v", err)
	}
}

// A lockedBuffer is a log that can be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
