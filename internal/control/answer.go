package control

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

// answer answers a line. It reports false if the session is over.
func (s *session) answer(ctx context.Context, line string) bool {
	if line == "" {
		return true
	}
	c, err := parse(line)
	if err != nil {
		s.print("error: " + err.Error())
		return true
	}
	switch c.name {
	case "auth":
		s.authenticate(c.password)
		return true
	case "help":
		s.print("commands: stats, stats-rts, clients, sockets, socket-threads, threads, server-info, status, block, unblock, delete, save, help, quit")
		return true
	case "quit":
		return false
	}
	// The line is the log of who has asked for what.
	s.o.Log.LogAttrs(ctx, slog.LevelWarn, "control port", slog.String("command", line))
	if s.role < needs[c.name] {
		s.o.Log.LogAttrs(ctx, slog.LevelError, "unauthorized command at the control port", slog.String("role", s.role.String()))
		s.print("AUTH")
		return true
	}
	s.carryOut(store.ByAdmin(ctx, "control port, "+strings.ToLower(strings.TrimPrefix(s.role.String(), "CPR"))), &c)
	return true
}

// authenticate gives the session a role, unless it has one.
func (s *session) authenticate(text string) {
	asked := noRole
	// What is no password, as an empty one, is none of those.
	if p, err := smp.ParsePassword(text); err == nil {
		isAdmin, isUser := p.Equal(s.o.Admin), p.Equal(s.o.User) // in equal time
		switch {
		case isAdmin:
			asked = admin
		case isUser:
			asked = user
		}
	}
	changes := ""
	switch {
	case s.role == noRole:
		s.role = asked
	case s.role != asked:
		changes = ", start new session to change."
	}
	s.print("Current role is " + s.role.String() + changes)
}

// carryOut carries a command out that is allowed.
func (s *session) carryOut(ctx context.Context, c *command) {
	switch c.name {
	case "suspend", "resume":
		s.print(c.name + " not implemented") // the answer of smp-server, which only knows the words
	case "stats-rts":
		s.runtime()
	case "stats":
		s.stats(ctx)
	case "clients":
		s.clients()
	case "sockets":
		s.sockets()
	case "socket-threads":
		for _, c := range s.o.Router.Clients() {
			s.printf("%d,%d,-,open,client $%s", c.Port, c.Number, sessionID(c))
		}
	case "threads":
		s.threads()
	case "server-info":
		s.info()
	case "status":
		s.status(ctx, c.id)
	case "block":
		s.block(ctx, c.id, c.blocking)
	case "unblock":
		s.unblock(ctx, c.id)
	case "delete":
		if n, err := s.o.Router.Delete(ctx, c.id); err != nil {
			s.fail(err)
		} else {
			s.printf("ok, %d messages deleted", n)
		}
	case "save":
		s.save(ctx)
	}
}

func (s *session) fail(err error) { s.print("error: " + err.Error()) }

func (s *session) save(ctx context.Context) {
	s.print("saving server state...")
	if err := s.o.Save(ctx); err != nil {
		s.o.Log.LogAttrs(ctx, slog.LevelError, "the state cannot be saved", slog.Any("error", err))
		s.print("error: the state is not saved, the log says why")
		return
	}
	s.print("server state saved!")
}

func (s *session) status(ctx context.Context, id smp.EntityID) {
	v, err := s.o.Router.Queue(ctx, id)
	if err != nil {
		s.fail(err)
		return
	}
	updated, mode := "Nothing", "Nothing"
	if v.UpdatedAt.Known {
		updated = fmt.Sprintf("Just (RoundedSystemTime {roundedSeconds = %s})", signed(v.UpdatedAt.Seconds))
	}
	switch v.Mode {
	case queue.ModeMessaging:
		mode = "Just QMMessaging"
	case queue.ModeContact:
		mode = "Just QMContact"
	case queue.ModeUnknown:
	}
	s.printf("status: %s, updatedAt: %s, queueMode: %s", statusText(v.Status), updated, mode)
}

func (s *session) block(ctx context.Context, id smp.EntityID, b queue.Blocking) {
	s.blocking.Lock()
	defer s.blocking.Unlock()
	if quota := int64(s.o.Quota); quota != 0 {
		used := int64(0)
		if quota > 0 {
			var err error
			midnight := s.o.Now().UTC().Truncate(24 * time.Hour)
			if used, err = s.o.Audit.AuditedSince(ctx, "block", midnight); err != nil {
				s.print("error: the number of queues blocked today is not known")
				return
			}
		}
		if used >= quota {
			s.printf("error: reached limit of %d queues blocked daily", quota)
			return
		}
	}
	was, err := s.o.Router.Block(ctx, id, b)
	switch {
	case err != nil:
		s.fail(err)
	case was.State == queue.Active:
		s.print("ok, queue blocked: " + statusText(queue.Status{State: queue.Blocked, Blocking: b}))
	default:
		s.print("ok, already inactive: " + statusText(queue.Status{State: queue.Blocked, Blocking: b}))
	}
}

func (s *session) unblock(ctx context.Context, id smp.EntityID) {
	was, err := s.o.Router.Unblock(ctx, id)
	switch {
	case err != nil:
		s.fail(err)
	case was.State == queue.Blocked:
		s.print("ok, queue unblocked, reason to block was: " + blockingText(was.Blocking))
	case was.State == queue.Active:
		s.print("ok, queue was active")
	default:
		s.print("error, queue is inactive")
	}
}

// statusText returns a status as smp-server shows it, as the next ones.
func statusText(st queue.Status) string {
	switch st.State {
	case queue.Off:
		return "EntityOff"
	case queue.Blocked:
		return "EntityBlocked (" + blockingText(st.Blocking) + ")"
	case queue.Active:
	}
	return "EntityActive"
}

func blockingText(b queue.Blocking) string {
	reason := map[string]string{"spam": "BRSpam", "content": "BRContent"}[b.Reason]
	notice := "Nothing"
	if b.HasNotice {
		ttl := "Nothing"
		if b.Notice.HasTTL {
			ttl = "Just " + signed(b.Notice.TTL)
		}
		notice = "Just (ClientNotice {ttl = " + ttl + "})"
	}
	return "BlockingInfo {reason = " + reason + ", notice = " + notice + "}"
}

// signed returns a number, in parentheses if it is negative.
func signed(n int64) string {
	if n < 0 {
		return "(" + strconv.FormatInt(n, 10) + ")"
	}
	return strconv.FormatInt(n, 10)
}

func (s *session) stats(ctx context.Context) {
	r := s.o.Statistics.Report(ctx)
	counts := func(names ...string) {
		for _, name := range names {
			s.printf("%s: %d", name, r.Count(name))
		}
	}
	number := func(name string, n int64) { s.printf("%s: %d", name, n) }
	s.print("fromTime: " + r.From.UTC().Format("2006-01-02 15:04:05.999999999 UTC"))
	counts("qCreated", "qSecured", "qDeletedAll", "qDeletedAllB", "qDeletedNew", "qDeletedSecured")
	number("daily active queues", r.Active[router.Day])
	counts("qSub", "qSubAllB", "qSubEnd", "qSubEndB")
	s.printf("other SUB events (auth, duplicate, prohibited): (%d,%d,%d)", r.Count("qSubAuth"), r.Count("qSubDuplicate"), r.Count("qSubProhibited"))
	counts("msgSent", "msgRecv", "msgRecvGet", "msgGet", "msgGetNoMsg")
	s.printf("other GET events (auth, duplicate, prohibited): (%d,%d,%d)", r.Count("msgGetAuth"), r.Count("msgGetDuplicate"), r.Count("msgGetProhibited"))
	counts("msgSentNtf", "msgRecvNtf", "msgNtfs", "msgNtfsB", "msgNtfExpired")
	number("qCount", r.Stored.Queues)
	number("qCount 2", r.Stored.Queues)
	number("notifiers", r.Stored.Notifiers)
	number("msgCount", r.Messages)
	number("ntfCount", r.Notifications)
	if s.role == admin {
		number("ntfCount 2", r.Notifications)
	}
	for _, group := range []string{"pRelays", "pRelaysOwn", "pMsgFwds", "pMsgFwdsOwn"} {
		count := func(field string) int64 { return r.Count(group + "." + field) }
		s.printf("%s: requests=%d, successes=%d, errorsConnect=%d, errorsCompat=%d, errorsOther=%d",
			group, count("requests"), count("successes"), count("errorsConnect"), count("errorsCompat"), count("errorsOther"))
	}
	counts("pMsgFwdsRecv")
	number("rcvServiceCount", r.Stored.RcvServices)
	number("ntfServiceCount", r.Stored.NtfServices)
	number("rcvServiceQueuesCount", r.Stored.RcvServiceQueues)
	number("ntfServiceQueuesCount", r.Stored.NtfServiceQueues)
}

func (s *session) clients() {
	s.print("clientId,sessionId,connected,createdAt,rcvActiveAt,sndActiveAt,age,subscriptions")
	now := s.o.Now()
	for _, c := range s.o.Router.Clients() {
		s.printf("%d,%s,True,%d,%d,%d,%d,%d", c.Number, sessionID(c), c.Created.Unix(), orElse(c.Received, c.Created).Unix(),
			orElse(c.Sent, c.Created).Unix(), int64(now.Sub(c.Created).Seconds()), c.Subscriptions)
	}
}

func orElse(t, otherwise time.Time) time.Time {
	if t.IsZero() {
		return otherwise
	}
	return t
}

func sessionID(c router.Client) string { return base64.StdEncoding.EncodeToString(c.Session.Bytes()) }

func (s *session) sockets() {
	for _, p := range s.o.Router.State().Sockets {
		s.printf("Sockets for port %d:", p.Port)
		s.printf("accepted: %d\nclosed: %d\nactive: %d\nleaked: 0", p.Accepted, p.Closed, p.Active())
	}
}

func (s *session) info() {
	st := s.o.Router.State()
	rcv, ntf := &st.Recipient, &st.Notifier
	s.printf("Threads: %d", runtime.NumGoroutine())
	s.printf("Clients: %d", st.Clients)
	if s.role == admin {
		s.printf("Client queues (rcvQ, sndQ, msgQ): (0,%d,0)", st.Unsent)
		s.printf("SMP subscriptions (via clients): %d", rcv.Entries+st.Gets)
		s.printf("SMP subscriptions (by group: NoSub, SubPending, SubThread, ProhibitSub): (%d,%d,0,%d)", rcv.Entries-st.Waiting, st.Waiting, st.Gets)
		s.printf("SMP subscribed clients (via clients): %d", rcv.Holders)
		s.printf("SMP subscribed clients queues (via clients, rcvQ, sndQ, msgQ): (0,%d,0)", rcv.Unsent)
		s.printf("Ntf subscriptions (via clients): %d", ntf.Entries)
		s.printf("Ntf subscribed clients (via clients): %d", ntf.Holders)
		s.printf("Ntf subscribed clients queues (via clients, rcvQ, sndQ, msgQ): (0,%d,0)", ntf.Unsent)
	}
	s.printf("SMP subscriptions: %d", rcv.Queues)
	s.printf("SMP subscribed clients: %d", len(rcv.Clients))
	s.printf("SMP subscribed clients count 2: %d", len(rcv.AllClients))
	s.printf("Ntf subscriptions: %d", ntf.Queues)
	s.printf("Ntf subscribed clients: %d %s", len(ntf.Clients), listText(ntf.Clients))
	s.printf("Ntf subscribed clients count 2: %d fromList %s", len(ntf.AllClients), listText(ntf.AllClients))
}

func listText(numbers []int64) string {
	b := []byte{'['}
	for i, n := range numbers {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, n, 10)
	}
	return string(append(b, ']'))
}

// maxStacks is how many bytes of the stacks of goroutines are looked at.
const maxStacks = 16 << 20

// threads prints the goroutines, with what they wait for and what they do.
func (s *session) threads() {
	size := 1 << 20
	stacks := make([]byte, size)
	n := runtime.Stack(stacks, true)
	for n == size && size < maxStacks {
		size *= 2
		stacks = make([]byte, size)
		n = runtime.Stack(stacks, true)
	}
	s.printf("Threads: %d", runtime.NumGoroutine())
	for stack := range strings.SplitSeq(string(stacks[:n]), "\n\n") {
		head, rest, _ := strings.Cut(stack, "\n")
		id, state, found := strings.Cut(strings.TrimPrefix(head, "goroutine "), " [")
		if !found {
			continue
		}
		s.printf("ThreadId %s (%s) %s", id, strings.TrimSuffix(state, "]:"), task(rest))
	}
}

// task returns what a goroutine is there for, from its stack: the function of this
// module that called all others, or, if there is none, what has started it.
func task(stack string) string {
	const module = "github.com/smpq/smpq/"
	calls, by, _ := strings.Cut(stack, "\ncreated by ")
	name, _, _ := strings.Cut(by, "\n")
	name, _, _ = strings.Cut(name, " in goroutine")
	for line := range strings.Lines(calls) {
		if f, ours := strings.CutPrefix(line, module); ours {
			name = f[:max(strings.LastIndexByte(f, '('), 0)]
		}
	}
	return name
}

// runtimeMetrics are the numbers of the Go runtime that are shown.
var runtimeMetrics = []string{
	"/sched/goroutines:goroutines",
	"/sched/gomaxprocs:threads",
	"/gc/cycles/total:gc-cycles",
	"/gc/heap/allocs:bytes",
	"/gc/heap/live:bytes",
	"/gc/heap/goal:bytes",
	"/memory/classes/heap/objects:bytes",
	"/memory/classes/total:bytes",
}

func (s *session) runtime() {
	samples := make([]metrics.Sample, len(runtimeMetrics))
	for i, name := range runtimeMetrics {
		samples[i].Name = name
	}
	metrics.Read(samples)
	for _, sample := range samples {
		if sample.Value.Kind() == metrics.KindUint64 {
			s.printf("%s: %d", sample.Name, sample.Value.Uint64())
		}
	}
}
