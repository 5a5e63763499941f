package control_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/control"
	"github.com/smpq/smpq/internal/logfile"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/stats"
	"github.com/smpq/smpq/internal/storelog"
)

// reference is the folder with what a smp-server wrote.
const reference = "../../testdata/smp-server-6.5.5/5-operator/running/"

// An exchange is a line that was sent to the control port, and the answer.
type exchange struct {
	line   string
	answer []string
}

// sessions reads the sessions in a file of them.
func sessions(t testing.TB, name string) (all [][]exchange) {
	t.Helper()
	text, err := os.ReadFile(reference + name)
	if err != nil {
		t.Fatal(err)
	}
	for part := range strings.SplitSeq(string(text), "--- connect\n") {
		var session []exchange
		for line := range strings.SplitSeq(part, "\n") {
			switch {
			case strings.HasPrefix(line, "> "):
				session = append(session, exchange{line: line[2:]})
			case strings.HasPrefix(line, "< ") && len(session) > 0:
				last := &session[len(session)-1]
				last.answer = append(last.answer, line[2:])
			}
		}
		if session != nil {
			all = append(all, session)
		}
	}
	return all
}

// load adds to the store the queues that smp-server had when the sessions began.
func (s *site) load(t testing.TB) {
	t.Helper()
	f, err := os.Open(reference + "after-save-smp-server-store.log")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	in := logfile.NewScanner(f)
	for in.Scan() {
		record, err := storelog.Parse(in.Line().Text)
		if err != nil {
			t.Fatal(err)
		}
		c, ok := record.(*storelog.Create)
		if !ok {
			continue
		}
		if c.Record.Notifier != nil {
			c.Record.Notifier.Service = queue.ServiceID{} // it is not in the store
		}
		if _, err := s.store.AddQueue(t.Context(), &c.Record); err != nil {
			t.Fatal(err)
		}
	}
	if err := in.Err(); err != nil {
		t.Fatal(err)
	}
}

// The answers to commands about queues are those of smp-server, which had the same
// queues.
//
// conformance: 175, 176, 177
func TestAnswersOfSMPServer(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.load(t)
	for _, name := range []string{
		"control-no-auth.txt", "control-wrong-password.txt", "control-user-admin-commands.txt", "control-admin-queue-commands.txt",
	} {
		for _, session := range sessions(t, name) {
			c := s.open(t, "")
			for _, e := range session {
				if e.line == "help" {
					continue // its answer ends all others
				}
				if diff := cmp.Diff(e.answer, c.ask(e.line)); diff != "" {
					t.Errorf("%s: %s: -smp-server +smpq:\n%s", name, e.line, diff)
				}
			}
		}
	}
}

var digits = regexp.MustCompile(`[0-9]+`)

// The answers to the other commands have the same lines as those of smp-server, with
// other numbers.
//
// conformance: 175
func TestFormsOfSMPServer(t *testing.T) {
	t.Parallel()
	s := start(t)
	alice := s.dial(t)
	alice.newQueue()
	form := func(lines []string) (forms []string) {
		for _, line := range lines {
			line = regexp.MustCompile(`\[[0-9,]*\]`).ReplaceAllString(line, "[]")
			line = regexp.MustCompile(`,[A-Za-z0-9+/]{43}=,`).ReplaceAllString(line, ",SESSION,")
			forms = append(forms, digits.ReplaceAllString(line, "N"))
		}
		return forms
	}
	for _, name := range []string{"control-user.txt", "control-admin.txt", "control-admin-save.txt"} {
		for _, session := range sessions(t, name) {
			c := s.open(t, "")
			for _, e := range session {
				got := c.ask(e.line)
				switch e.line {
				case "help", "stats-rts": // which end others, or have nothing in common
					continue
				case "clients":
					e.answer = e.answer[:min(2, len(e.answer))] // there is one only
				case "socket-threads", "threads":
					if e.line == "threads" && e.answer[0] != "AUTH" && !slices.ContainsFunc(got, func(line string) bool {
						return strings.HasSuffix(line, " internal/router.(*session).write")
					}) {
						t.Errorf("nobody writes to the client:\n%s", strings.Join(got, "\n"))
					}
					e.answer, got = e.answer[:1], got[:1]
					if e.line == "socket-threads" && e.answer[0] != "AUTH" {
						e.answer[0] = fmt.Sprintf("%d,0,-,open,client $", s.address.Port)
						got[0], _, _ = strings.Cut(got[0], "$")
						got[0] += "$"
					}
				}
				if diff := cmp.Diff(form(e.answer), form(got)); diff != "" {
					t.Errorf("%s: %s: -smp-server +smpq:\n%s", name, e.line, diff)
				}
			}
		}
	}
}

// value returns the number behind a name in an answer.
func value(t testing.TB, answer []string, name string) string {
	t.Helper()
	for _, line := range answer {
		if v, ok := strings.CutPrefix(line, name+": "); ok {
			return v
		}
	}
	t.Errorf("there is no %s in %q", name, answer)
	return ""
}

// conformance: 175
func TestRoles(t *testing.T) {
	t.Parallel()
	s := start(t)
	host, port, err := net.SplitHostPort(s.control)
	if err != nil || host != "127.0.0.1" {
		t.Errorf("the control port is at %s", s.control)
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		ip, ok := a.(*net.IPNet)
		if !ok || ip.IP.String() == host || ip.IP.IsLinkLocalUnicast() {
			continue
		}
		d := net.Dialer{Timeout: timeout}
		if conn, err := d.DialContext(t.Context(), "tcp", net.JoinHostPort(ip.IP.String(), port)); err == nil {
			t.Errorf("the control port can be reached at %s", ip.IP)
			_ = conn.Close()
		}
	}
	commands := map[string]int{ // by who may do it: nobody in particular, users, administrators
		"stats-rts": 0, "stats": 1, "sockets": 1, "server-info": 1, "status AAAA": 1, "block AAAA reason=spam": 1, "unblock AAAA": 1,
		"clients": 2, "threads": 2, "socket-threads": 2, "delete AAAA": 2, "save": 2, "suspend": 2, "resume": 2,
	}
	for has, password := range []string{"", "user-pw", "admin-pw"} {
		for command, needs := range commands {
			c := s.open(t, password)
			answer := strings.Join(c.ask(command), "\n")
			if refused := answer == "AUTH"; refused != (has < needs) {
				t.Errorf("%s, with password %q: %s", command, password, answer)
			}
			c.close()
		}
	}
	log := s.log.String()
	if strings.Contains(log, "-pw") || !strings.Contains(log, `level=WARN msg="control port" command="delete AAAA"`) || !strings.Contains(log, "level=ERROR") {
		t.Error("the log lacks commands, or has passwords")
	}
}

// conformance: 176
func TestRoleStays(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.open(t, "")
	c.want("auth", "error: space: not enough input")
	c.want("auth ", "Current role is CPRNone")
	c.want("auth wrong", "Current role is CPRNone")
	c.want("auth admin-p", "Current role is CPRNone")
	c.want("auth admin-pw ", "Current role is CPRNone")
	c.want("auth user-pw", "Current role is CPRUser")
	c.want("auth user-pw", "Current role is CPRUser")
	for _, other := range []string{"admin-pw", "wrong", ""} {
		c.want("auth "+other, "Current role is CPRUser, start new session to change.")
		c.want("clients", "AUTH")
	}
	s.open(t, "").want("auth admin-pw", "Current role is CPRAdmin")

	// Without passwords nobody gets a role.
	s = start(t, func(o *control.Options) { o.Admin, o.User = smp.Password{}, smp.Password{} })
	c = s.open(t, "")
	for _, p := range []string{"", "admin-pw", "x"} {
		c.want("auth "+p, "Current role is CPRNone")
	}
}

// Commands name queues by the id of their sender or their link, and clients find what
// was done to them.
//
// conformance: 105, 177
func TestQueueCommands(t *testing.T) {
	t.Parallel()
	s := start(t)
	alice, bob := s.dial(t), s.dial(t)
	b := alice.newQueue()
	alice.addLink(b, "a link")
	c := s.open(t, "admin-pw")
	today := strconv.FormatInt(s.now().Unix()/86400*86400, 10)
	status := func(what string) string {
		return "status: " + what + ", updatedAt: Just (RoundedSystemTime {roundedSeconds = " + today + "}), queueMode: Just QMContact"
	}
	for _, id := range []smp.EntityID{b.sender, b.link} {
		c.want("status "+id.String(), status("EntityActive"))
		const blocked = "EntityBlocked (BlockingInfo {reason = BRContent, notice = Just (ClientNotice {ttl = Nothing})})"
		c.want("block "+id.String()+" reason=content,notice={}\r", "ok, queue blocked: "+blocked)
		want := smp.BlockedError{Blocking: queue.Blocking{Reason: "content", HasNotice: true}}
		if got := expect[*smp.ERR](alice, b.recipient); !errors.Is(got.Err, want) {
			t.Errorf("the recipient is told %v", got.Err)
		}
		if _, err := bob.do(b.sender, auth.PrivateKey{}, &smp.SEND{Body: []byte("x")}); !errors.Is(err, want) {
			t.Errorf("the sender is told %v", err)
		}
		c.want("status "+id.String(), status(blocked))
		const negative = "EntityBlocked (BlockingInfo {reason = BRSpam, notice = Just (ClientNotice {ttl = Just (-1)})})"
		c.want("block "+id.String()+` reason=spam,notice={"ttl":-1}`, "ok, already inactive: "+negative)
		expect[*smp.ERR](alice, b.recipient)
		c.want("unblock "+id.String(), "ok, queue unblocked, reason to block was: "+strings.TrimSuffix(strings.TrimPrefix(negative, "EntityBlocked ("), ")"))
		c.want("unblock "+id.String(), "ok, queue was active")
		bob.send(b)
		m := expect[*smp.MSG](alice, b.recipient)
		must[*smp.OK](alice, b.recipient, b.key, &smp.ACK{MsgID: m.MsgID})
	}
	must[*smp.OK](alice, b.recipient, b.key, &smp.OFF{})
	c.want("status "+b.sender.String(), status("EntityOff"))
	c.want("unblock "+b.sender.String(), "error, queue is inactive")
	c.want("block "+b.sender.String()+" reason=spam", "ok, already inactive: EntityBlocked (BlockingInfo {reason = BRSpam, notice = Nothing})")
	expect[*smp.ERR](alice, b.recipient)
	for _, other := range []string{b.recipient.String(), "AAAA"} {
		c.want("status "+other, "error: AUTH")
	}
	must[*smp.OK](alice, b.recipient, b.key, &smp.DEL{})
	c.want("unblock "+b.sender.String(), "error: AUTH")

	d := alice.newQueue()
	bob.send(d)
	expect[*smp.MSG](alice, d.recipient)
	c.want("delete "+d.sender.String(), "ok, 1 messages deleted")
	expect[*smp.DELD](alice, d.recipient)
	c.want("delete "+d.sender.String(), "error: AUTH")
	answer := c.ask("stats")
	if got := value(t, answer, "qDeletedAll"); got != "2" {
		t.Errorf("%s queues were deleted", got)
	}
	if n := value(t, answer, "qCount"); n != "0" {
		t.Errorf("there are %s queues", n)
	}
}

// conformance: 178
func TestQuota(t *testing.T) {
	t.Parallel()
	quota := 3
	s := start(t, func(o *control.Options) { o.Quota = quota })
	alice := s.dial(t)
	var boxes []*box
	for range quota + 2 {
		boxes = append(boxes, alice.newQueue())
	}
	c := s.open(t, "user-pw")
	block := func(b *box) string {
		answer := strings.Join(c.ask("block "+b.sender.String()+" reason=spam"), "\n")
		word, _, _ := strings.Cut(answer, ":")
		return word
	}
	reached := fmt.Sprintf("error: reached limit of %d queues blocked daily", quota)
	for i, b := range boxes[:quota] {
		if got := block(b); got != "ok, queue blocked" {
			t.Fatalf("queue %d: %s", i, got)
		}
		if i < quota-1 {
			if got := block(b); got != "ok, already inactive" {
				t.Errorf("queue %d again: %s", i, got)
			}
			c.want("block "+b.sender.String()+" reason=content", "ok, already inactive: EntityBlocked (BlockingInfo {reason = BRContent, notice = Nothing})")
		}
	}
	c.want("block "+boxes[quota].sender.String()+" reason=spam", reached)
	c.want("unblock "+boxes[0].sender.String(), "ok, queue unblocked, reason to block was: BlockingInfo {reason = BRContent, notice = Nothing}")
	c.want("block "+boxes[0].sender.String()+" reason=spam", reached)

	// A day begins at midnight in UTC, whether statistics are kept or not.
	midnight := s.now().UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
	s.putForward(midnight.Sub(s.now()))
	if got := block(boxes[quota]); got != "ok, queue blocked" {
		t.Errorf("on the next day: %s", got)
	}
	log := s.conn
	var n int
	if err := log.QueryRow(t.Context(), "select count(*) from smpq.audit where operation = 'block' and who = 'control port, user'").Scan(&n); err != nil || n != quota+1 {
		t.Errorf("%d lines in the log of administrative changes, %v", n, err)
	}
	for quota, want := range map[int]string{0: "ok, queue blocked", -1: "error"} {
		s := start(t, func(o *control.Options) { o.Quota = quota })
		alice := s.dial(t)
		c = s.open(t, "user-pw")
		for range 5 {
			if got := block(alice.newQueue()); got != want {
				t.Errorf("with a quota of %d: %s", quota, got)
			}
		}
	}
}

// The line of a day is written at midnight in UTC, and the counters begin again.
//
// conformance: 179
func TestMidnight(t *testing.T) {
	t.Parallel()
	s := start(t)
	alice, bob := s.dial(t), s.dial(t)
	began := s.now().UTC().Format(time.DateOnly)
	b := alice.newQueue()
	for range 3 {
		bob.send(b)
	}
	m := expect[*smp.MSG](alice, b.recipient)
	must[*smp.MSG](alice, b.recipient, b.key, &smp.ACK{MsgID: m.MsgID})
	c := s.open(t, "user-pw")
	before := c.ask("stats")
	for name, want := range map[string]string{"qCreated": "1", "msgSent": "3", "msgRecv": "1", "msgCount": "2", "qCount": "1", "daily active queues": "1"} {
		if got := value(t, before, name); got != want {
			t.Errorf("%s: %s, not %s", name, got, want)
		}
	}
	midnight := s.now().UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
	s.putForward(midnight.Sub(s.now()))
	var line []string
	eventually(t, "the line of the day", func() bool {
		text, err := os.ReadFile(filepath.Join(s.folder, stats.DailyName))
		line = strings.Split(strings.TrimSpace(string(text)), ",")
		return err == nil && len(line) > 1
	})
	if len(line) != 96 || strings.Join(line[:7], ",") != began+",1,0,0,3,1,1" || line[14] != "1" || line[15] != "2" {
		t.Errorf("the line is %v", line)
	}
	after := c.ask("stats")
	for name, want := range map[string]string{"qCreated": "0", "msgSent": "0", "msgRecv": "0", "msgCount": "2", "qCount": "1", "daily active queues": "0"} {
		if got := value(t, after, name); got != want {
			t.Errorf("after midnight, %s: %s, not %s", name, got, want)
		}
	}
	if from := value(t, after, "fromTime"); !strings.HasPrefix(from, midnight.Format("2006-01-02 00:00:0")) || !strings.HasSuffix(from, " UTC") {
		t.Errorf("the counters are from %s", from)
	}
}

// Saving changes nothing for clients.
//
// conformance: 182
func TestSave(t *testing.T) {
	t.Parallel()
	s := start(t)
	alice, bob := s.dial(t), s.dial(t)
	b := alice.newQueue()
	bob.send(b)
	m := expect[*smp.MSG](alice, b.recipient)
	nk := newKey(t, smp.Ed25519)
	must[*smp.NID](alice, b.recipient, b.key, &smp.NKEY{NotifierKeys: smp.NotifierKeys{Key: nk.Public(), DHKey: newKey(t, smp.X25519).Public()}})
	must[*smp.OK](bob, b.sender, auth.PrivateKey{}, &smp.SEND{Notify: true, Body: []byte("x")})
	c := s.open(t, "admin-pw")
	for range 2 {
		c.want("save", "saving server state...\nserver state saved!")
		text, err := os.ReadFile(filepath.Join(s.folder, stats.BackupName))
		if err != nil || strings.Count(string(text), "\n") != 95 || !strings.Contains(string(text), "\nmsgSent=2\n") {
			t.Errorf("the counters: %v\n%s", err, text)
		}
		if text, err = os.ReadFile(filepath.Join(s.folder, "smp-server-ntfs.log")); err != nil || strings.Count(string(text), "\n") != 1 {
			t.Errorf("the notifications: %v\n%s", err, text)
		}
	}
	must[*smp.SOK](alice, b.recipient, b.key, &smp.SUB{})
	expect[*smp.MSG](alice, b.recipient)
	must[*smp.MSG](alice, b.recipient, b.key, &smp.ACK{MsgID: m.MsgID})
	later := alice.newQueue()
	must[*smp.SOK](bob, later.recipient, later.key, &smp.SUB{})
}

// A disk that is full does not disturb the router.
//
// conformance: 181, 182
func TestFullDisk(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, name := range []string{stats.DailyName, stats.BackupName + ".smpq-tmp"} {
		if err := os.Symlink("/dev/full", filepath.Join(s.folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	alice, bob := s.dial(t), s.dial(t)
	b := alice.newQueue()
	for range 2 {
		s.putForward(24 * time.Hour)
		from := s.now().UTC().Format("2006-01-02 ")
		c := s.open(t, "admin-pw")
		eventually(t, "the end of a day", func() bool { return strings.HasPrefix(value(t, c.ask("stats"), "fromTime"), from) })
		c.want("save", "saving server state...\nerror: the state is not saved, the log says why")
		bob.send(b)
		m := expect[*smp.MSG](alice, b.recipient)
		must[*smp.OK](alice, b.recipient, b.key, &smp.ACK{MsgID: m.MsgID})
	}
	for _, name := range []string{stats.DailyName, stats.BackupName + ".smpq-tmp"} {
		if err := os.Remove(filepath.Join(s.folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "that the days are written", func() bool {
		text, err := os.ReadFile(filepath.Join(s.folder, stats.DailyName))
		return err == nil && strings.Count(string(text), "\n") == 2
	})
}

// metric returns the value of a metric.
func (s *site) metric(t testing.TB, name string) string {
	t.Helper()
	var text strings.Builder
	if err := s.stats.WriteMetrics(t.Context(), &text); err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(text.String(), "\n") {
		if rest, ok := strings.CutPrefix(line, "simplex_smp_"+name+" "); ok {
			v, _, _ := strings.Cut(rest, " ")
			return v
		}
	}
	t.Errorf("there is no metric %s", name)
	return ""
}

// Metrics tell how many queues services are subscribed to, and what services did not
// know of their queues.
//
// conformance: 125, 139
func TestServiceMetrics(t *testing.T) {
	t.Parallel()
	s := start(t)
	service := asService(t, queue.RoleMessaging)
	one, alice := s.dial(t, service), s.dial(t)
	var sum smp.Subscribed
	add := func(b *box) {
		sum.Count++
		sum.Hash = sum.Hash.Toggle(b.recipient)
	}
	subs := func(p *peer, told smp.Subscribed) {
		t.Helper()
		got := must[*smp.SOKS](p, p.Session().Service.ID, auth.PrivateKey{}, &smp.SUBS{Subscribed: told})
		if got.Subscribed != sum {
			t.Errorf("SOKS %d %s, not %d %s", got.Count, got.Hash, sum.Count, sum.Hash)
		}
	}
	first := one.newQueue()
	add(first)
	add(one.newQueue())
	subs(one, sum)
	expect[*smp.ALLS](one, smp.EntityID{})
	total := func(want string) {
		t.Helper()
		if got := s.metric(t, "subscribtion_service_subs_total"); got != want {
			t.Errorf("services are subscribed to %s queues, not %s", got, want)
		}
	}
	total("2")
	b := alice.newQueue()
	must[*smp.SOK](one, b.recipient, b.key, &smp.SUB{})
	expect[*smp.END](alice, b.recipient)
	add(b)
	subs(one, sum)
	total("3")

	// What the service does not know is answered all the same, and counted.
	for _, c := range []struct {
		told    func(*smp.Subscribed)
		counter string
		total   string
		want    string
	}{
		{func(*smp.Subscribed) {}, "rcv_services_sub_ok", "", ""},
		{func(n *smp.Subscribed) { n.Count, n.Hash = 1, n.Hash.Toggle(b.recipient) }, "rcv_services_sub_more", "rcv_services_sub_more_total", "2"},
		{func(n *smp.Subscribed) { n.Count = 10 }, "rcv_services_sub_fewer", "rcv_services_sub_fewer_total", "7"},
		{func(n *smp.Subscribed) { n.Hash = n.Hash.Toggle(b.recipient) }, "rcv_services_sub_diff", "", ""},
	} {
		before, err := strconv.Atoi(s.metric(t, c.counter))
		if err != nil {
			t.Fatal(err)
		}
		told := sum
		c.told(&told)
		p := s.dial(t, service)
		subs(p, told)
		expect[*smp.ALLS](p, smp.EntityID{})
		if got := s.metric(t, c.counter); got != strconv.Itoa(before+1) {
			t.Errorf("%s is %s, was %d", c.counter, got, before)
		}
		if c.total != "" && s.metric(t, c.total) != c.want {
			t.Errorf("%s is %s, not %s", c.total, s.metric(t, c.total), c.want)
		}
		total("3")
		p.Close()
		eventually(t, "that the service is gone", func() bool { return s.metric(t, "subscribtion_services_total") == "0" })
	}
	total("0")
}

// Acknowledgements are counted once each, by how long they took.
func TestAckTimes(t *testing.T) {
	t.Parallel()
	s := start(t)
	alice, bob := s.dial(t), s.dial(t)
	b := alice.newQueue()
	ack := func(id smp.Short, after time.Duration) {
		t.Helper()
		s.putForward(after)
		must[*smp.OK](alice, b.recipient, b.key, &smp.ACK{MsgID: id})
	}
	for _, after := range []time.Duration{0, 59 * time.Second, 11 * time.Minute, 48 * time.Hour} {
		bob.send(b)
		ack(expect[*smp.MSG](alice, b.recipient).MsgID, after)
	}
	alice.Close()
	alice = s.dial(t)
	bob.send(b)
	id := must[*smp.MSG](alice, b.recipient, b.key, &smp.GET{}).MsgID
	if got := s.metric(t, `delivery_ack_pending_count{period="0-60"}`); got != "1" {
		t.Errorf("%s messages are not acknowledged", got)
	}
	s.putForward(10 * time.Minute)
	if got := s.metric(t, `delivery_ack_pending_count{period="300-1200"}`); got != "1" {
		t.Errorf("%s messages are not acknowledged for long", got)
	}
	ack(id, 0)
	for name, want := range map[string]string{
		`delivery_ack_confirmed_time_bucket{le="+Inf"}`:   "5",
		"delivery_ack_confirmed_time_count":               "5",
		`delivery_ack_confirmed_count{period="0-60"}`:     "2",
		`delivery_ack_confirmed_count{period="60-300"}`:   "0",
		`delivery_ack_confirmed_count{period="300-1200"}`: "2",
		`delivery_ack_confirmed_count{period="3600+"}`:    "1",
		`delivery_ack_pending_count{period="300-1200"}`:   "0",
		"delivered_total": "0",
	} {
		if got := s.metric(t, name); got != want {
			t.Errorf("%s is %s, not %s", name, got, want)
		}
	}
}

// Sessions that are silent, talk too much in a line, or are too many, end.
func TestLimits(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *control.Options) { o.IdleTimeout, o.MaxSessions = 50*time.Millisecond, 2 })
	silent := s.open(t, "")
	if line, err := silent.in.ReadString('\n'); err == nil || line != "" {
		t.Errorf("a silent session gets %q, %v", line, err)
	}
	s = start(t, func(o *control.Options) { o.MaxSessions = 2 })
	s.open(t, "")
	long := s.open(t, "")
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", s.control)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("a third session gets %d bytes", n)
	}
	long.write("status " + strings.Repeat("A", 4096))
	if got := long.line(); got != "error: the line is too long" {
		t.Errorf("the answer to a long line is %q", got)
	}
	if _, err := long.in.ReadByte(); err == nil {
		t.Error("the session goes on")
	}
	var c *console
	eventually(t, "that there is room again", func() bool {
		conn, err := d.DialContext(t.Context(), "tcp", s.control)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
			t.Fatal(err)
		}
		c = &console{t: t, conn: conn, in: bufio.NewReader(conn)}
		greeting, err := c.in.ReadString('\n')
		return err == nil && greeting == "SMP server control port\n"
	})
	c.line() // the rest of the greeting
	c.write("\n\r\nquit\n")
	if b, err := c.in.ReadByte(); err == nil {
		t.Errorf("after quit there is %q", b)
	}
}

// The log of administrative changes counts what others do as well; without it, nothing
// is blocked.
func TestQuotaUnknown(t *testing.T) {
	t.Parallel()
	s := start(t, func(o *control.Options) { o.Audit, o.Quota = noAudit{}, 1 })
	b := s.dial(t).newQueue()
	s.open(t, "user-pw").want("block "+b.sender.String()+" reason=spam", "error: the number of queues blocked today is not known")
}

type noAudit struct{}

func (noAudit) AuditedSince(context.Context, string, time.Time) (int64, error) {
	return 0, errors.New("away")
}
