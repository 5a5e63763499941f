package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/stats"
)

// askControl sends lines to the control port and returns all answers.
func askControl(t testing.TB, port int, lines ...string) string {
	t.Helper()
	d := net.Dialer{Timeout: serveTimeout}
	conn, err := d.DialContext(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(serveTimeout)))
	_, err = io.WriteString(conn, strings.Join(lines, "\n")+"\nquit\n")
	must(t, err)
	answer, err := io.ReadAll(bufio.NewReader(conn))
	must(t, err)
	return string(answer)
}

// awaitFile waits for a file and returns its text.
func awaitFile(t testing.TB, name string) string {
	t.Helper()
	deadline := time.After(serveTimeout)
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	for {
		text, err := os.ReadFile(name)
		if err == nil {
			return string(text)
		}
		if !os.IsNotExist(err) {
			t.Fatal(err)
		}
		select {
		case <-ticks.C:
		case <-deadline:
			t.Fatalf("there is no %s", name)
		}
	}
}

func wantText(t testing.TB, what, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%s: there is no %q in:\n%s", what, w, text)
		}
	}
}

// The operator sees at the control port, in metrics and in files what the router does;
// the counters go on after a restart. What smpq queue does, clients are told of.
//
// conformance: 105, 166, 177, 180, 182
func TestServeForOperators(t *testing.T) {
	t.Parallel()
	control, err := freePort(t.Context())
	must(t, err)
	s := newPlace(t, "STORE_LOG.log_stats=on", "STORE_LOG.prometheus_interval=1", "TRANSPORT.control_port="+strconv.Itoa(control),
		"AUTH.control_port_admin_password=admin-pw", "AUTH.daily_block_queue_quota=1")
	r := startServe(t, s.args("--set", "monitor_address=127.0.0.1:0")...)
	monitor := regexp.MustCompile(`msg=monitoring address=(\S+)`).FindStringSubmatch(r.log.String())[1]
	alice, bob := r.dial(t), r.dial(t)
	b := newBox(t, alice)
	for range 2 {
		mustOK(t, bob, b.send("x"))
	}
	if n := b.waiting(t, alice); n != 2 {
		t.Errorf("%d messages", n)
	}
	wantText(t, "control port", askControl(t, control, "auth admin-pw", "stats", "save", "status "+b.sender.String()),
		"\nqCreated: 1\n", "\nmsgSent: 2\n", "\nmsgRecv: 2\n", "\nqCount: 1\n", "\nserver state saved!\n", "\nstatus: EntityActive, ")
	backup, err := os.ReadFile(s.file(stats.BackupName))
	must(t, err)
	wantText(t, "backup", string(backup), "\nmsgSent=2\n")

	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+monitor+"/metrics", http.NoBody)
	must(t, err)
	response, err := http.DefaultClient.Do(request)
	must(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must(t, err)
	wantText(t, "/metrics", string(text), "\nsimplex_smp_messages_sent 2 ", "\nsmpq_build_info{")

	// By another process.
	smpq(t, "queue", "block", "--reason", "spam", "--config", s.config, "--dsn", s.dsn, "--", b.sender.String()).expect(t, 0)
	select {
	case e := <-alice.Events():
		told, err := client.As[*smp.ERR](e.Response, e.Err)
		if want := (smp.BlockedError{Blocking: smp.Blocking{Reason: "spam"}}); err != nil || !errors.Is(told.Err, want) || e.Entity != b.recipient {
			t.Errorf("the recipient is told %+v, %v", e.Response, err)
		}
	case <-time.After(serveTimeout):
		t.Fatal("the recipient is not told")
	}
	wantText(t, "control port", askControl(t, control, "auth admin-pw", "status "+b.sender.String(), "block "+newBox(t, alice).sender.String()+" reason=spam"),
		"EntityBlocked (BlockingInfo {reason = BRSpam, notice = Nothing})", "error: reached limit of 1 queues blocked daily")
	alice.Close()
	bob.Close()
	metrics := awaitFile(t, s.file(stats.MetricsName))
	wantText(t, "metrics", metrics, "\nsimplex_smp_messages_received 2 ")
	r.stop(t)

	r = startServe(t, s.args()...)
	wantText(t, "control port", askControl(t, control, "auth admin-pw", "stats"), "\nqCreated: 2\n", "\nmsgSent: 2\n")
	r.stop(t)
}
