package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/certs"
	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/ntflog"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/smp"
)

// serveTimeout is when a test of a router fails in which something does not come.
const serveTimeout = time.Minute

// A place is a router that was set up, with a database.
type place struct {
	config string // its file
	dsn    string
	conn   *pgx.Conn // for the test
}

// newPlace sets up a router that listens on a free port of its own.
func newPlace(t testing.TB, settings ...string) *place {
	t.Helper()
	s := &place{config: filepath.Join(t.TempDir(), configName), dsn: pgtest.DSN(t)}
	s.conn = pgtest.Conn(t, s.dsn)
	_, err := schema.Migrate(t.Context(), s.conn, "smp_server", schema.Newest, schema.Options{})
	must(t, err)
	args := []string{"init", "--host", "127.0.0.1", "--config", s.config, "--no-password", "--yes", "--set", "TRANSPORT.port=0"}
	for _, setting := range settings {
		args = append(args, "--set", setting)
	}
	smpq(t, args...).expect(t, 0)
	return s
}

// file returns the name of a file beside the configuration.
func (s *place) file(name string) string { return filepath.Join(filepath.Dir(s.config), name) }

// args returns the arguments for serving the router.
func (s *place) args(more ...string) []string {
	return append([]string{"serve", "--config", s.config, "--dsn", s.dsn}, more...)
}

// number returns the result of a query for a number.
func (s *place) number(t testing.TB, sql string) (n int) {
	t.Helper()
	must(t, s.conn.QueryRow(t.Context(), sql).Scan(&n))
	return n
}

// A served is a router that runs as a process.
type served struct {
	cmd      *exec.Cmd
	cancel   context.CancelFunc
	lines    *bufio.Scanner
	log      strings.Builder
	identity string
	port     uint16
}

// startServe runs smpq with arguments until it serves.
func startServe(t testing.TB, args ...string) *served {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), serveTimeout)
	t.Cleanup(cancel)
	s := &served{cmd: exec.CommandContext(ctx, "smpq", args...), cancel: cancel}
	out, err := s.cmd.StderrPipe()
	must(t, err)
	must(t, s.cmd.Start())
	s.lines = bufio.NewScanner(io.TeeReader(out, &s.log))
	found := s.await(t, `msg=serving address=.*:([0-9]+) identity="?([^"\n]+)`)
	port, err := strconv.ParseUint(found[1], 10, 16)
	must(t, err)
	s.identity, s.port = found[2], uint16(port)
	return s
}

// await reads the log up to a line that matches a pattern, and returns its parts.
func (s *served) await(t testing.TB, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for s.lines.Scan() {
		if found := re.FindStringSubmatch(s.lines.Text()); found != nil {
			return found
		}
	}
	t.Fatalf("it does not say %s: %v\n%s", pattern, s.cmd.Wait(), s.log.String())
	return nil
}

func (s *served) signal(t testing.TB, sig os.Signal) {
	t.Helper()
	must(t, s.cmd.Process.Signal(sig))
}

// ended waits for the end and returns the exit status.
func (s *served) ended(t testing.TB) int {
	t.Helper()
	for s.lines.Scan() {
		continue
	}
	var exit *exec.ExitError
	if err := s.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return s.cmd.ProcessState.ExitCode()
}

// stop ends it in order.
func (s *served) stop(t testing.TB) {
	t.Helper()
	s.signal(t, syscall.SIGTERM)
	if status := s.ended(t); status != 0 {
		t.Fatalf("exit status %d\n%s", status, s.log.String())
	}
}

func (s *served) address(t testing.TB) *smp.RouterAddress {
	t.Helper()
	a, err := smp.ParseRouterAddress(fmt.Sprintf("smp://%s@127.0.0.1:%d", s.identity, s.port))
	must(t, err)
	return a
}

func (s *served) dial(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), s.address(t), client.Options{})
	must(t, err)
	t.Cleanup(c.Close)
	return c
}

// A box is a queue with its keys.
type box struct {
	recipient, sender smp.EntityID
	key               auth.PrivateKey // of the recipient; the queue is not secured
}

// newBox makes a queue that nobody is subscribed to.
func newBox(t testing.TB, c *client.Client) box {
	t.Helper()
	key, err := auth.GenerateKey(smp.Ed25519)
	must(t, err)
	dh, err := auth.GenerateKey(smp.X25519)
	must(t, err)
	ids, err := client.As[*smp.IDS](c.Do(t.Context(), client.Request{Key: key, Command: &smp.NEW{RecipientKey: key.Public(), DHKey: dh.Public(), Mode: smp.ModeMessaging}}))
	must(t, err)
	return box{ids.RecipientID.ID(), ids.SenderID.ID(), key}
}

func (b box) send(body string) client.Request {
	return client.Request{Entity: b.sender, Command: &smp.SEND{Body: []byte(body)}}
}

func mustOK(t testing.TB, c *client.Client, r client.Request) {
	t.Helper()
	_, err := client.As[*smp.OK](c.Do(t.Context(), r))
	must(t, err)
}

// waiting subscribes to a queue that has messages, acknowledges them, and returns how
// many there are.
func (b box) waiting(t testing.TB, c *client.Client) (n int) {
	t.Helper()
	_, err := c.Do(t.Context(), client.Request{Entity: b.recipient, Key: b.key, Command: &smp.SUB{}})
	must(t, err)
	e := <-c.Events() // the first message may come later than the answer
	message, err := client.As[*smp.MSG](e.Response, e.Err)
	must(t, err)
	for message != nil {
		n++
		r, err := c.Do(t.Context(), client.Request{Entity: b.recipient, Key: b.key, Command: &smp.ACK{MsgID: message.MsgID}})
		must(t, err)
		message, _ = r.(*smp.MSG)
	}
	return n
}

// get asks the monitor.
func get(t testing.TB, address, path string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
	must(t, err)
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	must(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	must(t, err)
	return response.StatusCode, string(text)
}

// poll asks again and again until it is so.
func poll(t testing.TB, what string, so func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), serveTimeout)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for !so() {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			t.Fatalf("it does not come to pass that %s", what)
		}
	}
}

// A router is set up the first time, serves, keeps its queues and its identity, and
// stops when it is asked to.
func TestServe(t *testing.T) {
	t.Parallel()
	data := filepath.Join(openTempDir(t), "data")
	smpq(t, "serve", "--data", data, "--check").expect(t, 5, "no private PostgreSQL in "+data)
	args := []string{"serve", "--data", data, "--set", "TRANSPORT.port=0"}
	config := filepath.Join(data, "router", configName)
	identity, password := "", ""
	for range 2 {
		s := startServe(t, args...)
		if identity != "" && s.identity != identity {
			t.Errorf("identity %s, was %s", s.identity, identity)
		}
		identity = s.identity
		if password == "" {
			text, err := os.ReadFile(config)
			must(t, err)
			found := regexp.MustCompile(`(?m)^create_password = (\S{43}=)$`).FindSubmatch(text)
			if found == nil {
				t.Fatalf("no password in\n%s", text)
			}
			password = string(found[1])
			for _, want := range []string{`msg="a router was set up"`, "smp://" + identity + "@", "smp://FINGERPRINT:PASSWORD@HOST", "create_password"} {
				if !strings.Contains(s.log.String(), want) {
					t.Errorf("it does not say %s:\n%s", want, s.log.String())
				}
			}
		}
		// A router in its own folder is checked beside the one that runs.
		smpq(t, append(args, "--check")...).expect(t, 0, "all is well", "ca.key is on this machine")
		address := fmt.Sprintf("smp://%s:%s@127.0.0.1:%d", identity, password, s.port)
		smpq(t, "probe", address, "--proxy", address).expect(t, 0, "\nacknowledge", "\ndelete")
		smpq(t, "probe", s.address(t).String()).expect(t, 1, "create failed (authorization)")
		s.stop(t)
		if strings.Contains(s.log.String(), password) {
			t.Errorf("it shows the password:\n%s", s.log.String())
		}
	}
	smpq(t, "serve", "--data", data, "--check").expect(t, 0, "all is well", "ca.key is on this machine")
	smpq(t, "inspect", "counts", "--data", data).expect(t, 0, "queues")
	must(t, os.Remove(filepath.Join(data, "router", "server.key")))
	smpq(t, "serve", "--data", data, "--check").expect(t, 1, "server.key", "smpq cert rotate --config "+config)
}

// slowMessages makes the database hold the writing of messages until the returned
// function lets it go.
func (s *place) slowMessages(t testing.TB) (release func()) {
	t.Helper()
	pgtest.Exec(t, s.conn, `
		create table hold ();
		create function public.hold() returns trigger language plpgsql as $$
		begin
		  while exists (select from pg_class where relname = 'hold' and relkind = 'r') loop perform pg_sleep(0.01); end loop;
		  return new;
		end $$;
		create trigger hold before insert on smp_server.messages for each row execute function public.hold()`)
	return func() { pgtest.Exec(t, s.conn, "drop table hold") }
}

// held waits until a message is being held.
func (s *place) held(t testing.TB) {
	t.Helper()
	poll(t, "a message is being written", func() bool {
		return s.number(t, "select count(*) from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'") > 0
	})
}

// A router that is stopped, by SIGTERM as by SIGINT, finishes what it has begun, and
// is not ready meanwhile. The message is there when it runs again.
//
// conformance: 165; 159, 160 as far as messages go
func TestServeStops(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			site := newPlace(t)
			r := startServe(t, site.args("--set", "monitor_address=127.0.0.1:0")...)
			monitor := regexp.MustCompile(`msg=monitoring address=(\S+)`).FindStringSubmatch(r.log.String())[1]
			if status, body := get(t, monitor, "/readyz"); status != 200 {
				t.Errorf("before: status %d, %s", status, body)
			}
			c := r.dial(t)
			box := newBox(t, c)
			mustOK(t, c, box.send("before"))
			release := site.slowMessages(t)
			call := c.Start(t.Context(), box.send("last"))[0]
			site.held(t)
			r.signal(t, sig)
			r.await(t, "msg=stopping")
			if status, body := get(t, monitor, "/readyz"); status != 503 || body != "it is stopping\n" {
				t.Errorf("while it stops: status %d, %s", status, body)
			}
			if status, _ := get(t, monitor, "/healthz"); status != 200 {
				t.Errorf("while it stops: status %d", status)
			}
			if _, err := client.Dial(t.Context(), r.address(t), client.Options{}); err == nil {
				t.Error("while it stops it takes another client")
			}
			release()
			if _, err := client.As[*smp.OK](call.Wait(t.Context())); err != nil {
				t.Errorf("what was under way: %v", err)
			}
			if status := r.ended(t); status != 0 || !strings.Contains(r.log.String(), "msg=stopped") {
				t.Fatalf("exit status %d\n%s", status, r.log.String())
			}
			pgtest.Exec(t, site.conn, "drop function public.hold() cascade")
			r = startServe(t, site.args()...)
			if n := box.waiting(t, r.dial(t)); n != 2 {
				t.Errorf("%d messages after the next start, want 2", n)
			}
			r.stop(t)
		})
	}
}

// Who starts a router twice by mistake takes nothing from the one that runs: the
// notifications that are saved stay where they are.
func TestServeTwice(t *testing.T) {
	t.Parallel()
	site := newPlace(t)
	busy, err := new(net.ListenConfig).Listen(t.Context(), "tcp", ":0")
	must(t, err)
	defer busy.Close()
	must(t, os.WriteFile(site.file(ntflog.Name), nil, 0o600))
	port := strconv.Itoa(busy.Addr().(*net.TCPAddr).Port)
	smpq(t, site.args("--set", "TRANSPORT.port="+port)...).expect(t, 1, "smpq: listen on port "+port+": ")
	if _, err := os.Stat(site.file(ntflog.Name)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(site.file(ntflog.Name) + ".bak"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("notifications were restored: %v", err)
	}
}

// A second signal ends it at once, whatever is under way.
func TestServeStopsAtOnce(t *testing.T) {
	t.Parallel()
	site := newPlace(t)
	r := startServe(t, site.args()...)
	c := r.dial(t)
	box := newBox(t, c)
	release := site.slowMessages(t)
	defer release()
	c.Start(t.Context(), box.send("never mind"))
	site.held(t)
	r.signal(t, syscall.SIGTERM)
	r.await(t, "msg=stopping")
	// Two signals at the same time are one, so it may take a few.
	ctx, cancel := context.WithCancel(t.Context())
	var signalling sync.WaitGroup
	signalling.Go(func() {
		again := time.NewTicker(50 * time.Millisecond)
		defer again.Stop()
		for {
			select {
			case <-again.C:
				_ = r.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
			case <-ctx.Done():
				return
			}
		}
	})
	status := r.ended(t)
	cancel()
	signalling.Wait()
	if status != 130 || !strings.HasSuffix(r.log.String(), "smpq: interrupted: not all that was begun is finished\n") {
		t.Errorf("exit status %d\n%s", status, r.log.String())
	}
}

// While the database is away the router is not ready, says why, and is alive; then it
// is ready again by itself. Its metrics have the form of Prometheus and say so.
func TestServeReady(t *testing.T) {
	t.Parallel()
	site := newPlace(t, "monitor_address=localhost:0", "monitor_profiles=on")
	r := startServe(t, site.args()...)
	monitor := regexp.MustCompile(`msg=monitoring address=(\S+)`).FindStringSubmatch(r.log.String())[1]
	if status, body := get(t, monitor, "/readyz"); status != 200 || body != "ready\n" {
		t.Errorf("status %d, %s", status, body)
	}
	if status, _ := get(t, monitor, "/debug/pprof/goroutine"); status != 200 {
		t.Errorf("profiles: status %d", status)
	}
	_, metrics := get(t, monitor, "/metrics")
	for _, want := range []string{"\nsmpq_serving 1\n", "\nsmpq_cache_queues 0\n", "\ngo_goroutines ", "\nprocess_resident_memory_bytes "} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %q in\n%s", want, metrics)
		}
	}
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "serve.md"))
	must(t, err)
	for _, found := range regexp.MustCompile(`(?m)^# TYPE (smpq_\w+) `).FindAllStringSubmatch(metrics, -1) {
		if !strings.Contains(string(doc), "`"+found[1]+"`") {
			t.Errorf("docs/serve.md does not explain %s", found[1])
		}
	}
	other := pgtest.Conn(t, pgtest.DSN(t))
	name := site.conn.Config().Database
	pgtest.Exec(t, other, "alter database "+name+" with allow_connections false")
	pgtest.Exec(t, other, "select pg_terminate_backend(pid) from pg_stat_activity where datname = '"+name+"'")
	poll(t, "it is not ready", func() bool {
		status, body := get(t, monitor, "/readyz")
		return status == 503 && strings.Contains(body, "is not currently accepting connections")
	})
	if status, _ := get(t, monitor, "/healthz"); status != 200 {
		t.Errorf("status %d", status)
	}
	pgtest.Exec(t, other, "alter database "+name+" with allow_connections true")
	poll(t, "it is ready again", func() bool {
		status, _ := get(t, monitor, "/readyz")
		return status == 200
	})
	newBox(t, r.dial(t))
	r.stop(t)
}

// What is wrong with a router is said before it serves, each with a status that tells
// what kind it is, and all at once.
//
// conformance: 170
func TestServeCheck(t *testing.T) {
	t.Parallel()
	site := newPlace(t)
	busy, err := new(net.ListenConfig).Listen(t.Context(), "tcp", ":0")
	must(t, err)
	defer busy.Close()
	port := strconv.Itoa(busy.Addr().(*net.TCPAddr).Port)
	other := newPlace(t)
	check := func(more ...string) result { return smpq(t, append(site.args("--check"), more...)...) }

	check().expect(t, 0, "all is well")
	check("--set", "queue_quot=1").expect(t, 1, "smpq: setting queue_quot: there is no such key, did you mean queue_quota?\n")
	check("--set", "AUTH.new_queues=yes").expect(t, 1, `[AUTH] new_queues: is "yes", want on or off`)
	check("--set", "TRANSPORT.port="+port).expect(t, 1, "smpq: listen on port "+port+": listen tcp :"+port+": bind: address already in use\n")
	check("--set", "monitor_address=127.0.0.1:"+port).expect(t, 1, "smpq: monitor_address: listen tcp 127.0.0.1:"+port+": bind: address already in use\n")
	check("--set", "TRANSPORT.control_port="+port, "--set", "AUTH.control_port_admin_password=x").expect(t, 1, "bind: address already in use\n")
	pages := func(key string) []string {
		return []string{"--set", "WEB.static_path=" + filepath.Join(t.TempDir(), "www"), "--set", "WEB." + key + "=" + port}
	}
	check(pages("http")...).expect(t, 1, "smpq: web pages: listen tcp :"+port+": bind: address already in use\n")
	check("--set", "WEB.http="+port).expect(t, 0, "all is well") // without a folder there are no pages
	check("--set", "monitor_address=0.0.0.0:0").expect(t, 1, "smpq: monitor_address: 0.0.0.0:0: others can reach this address, and nobody is asked who he is: set monitor_public to on if that is wanted\n")
	check("--set", "monitor_address=0.0.0.0:0", "--set", "monitor_public=on").expect(t, 0, "all is well")
	check("--set", "monitor_address=here").expect(t, 1, "[SMPQ] monitor_address: is not an address to listen on, such as 127.0.0.1:5226")
	check("--cache-size", "lots").expect(t, 1, "[SMPQ] cache_size: is not a number of bytes such as 512MiB, nor a share of memory such as 10%")
	check("--cache-size", "64MiB").expect(t, 0, "all is well")
	check("--schema", "nothing").expect(t, 1, `there is no schema "nothing"`)
	check("--dsn", "host=/nonexistent").expect(t, 5, "connect: ")
	check("--set", "TRANSPORT.websockets=8443").expect(t, 0, "websockets is not off, but smpq does not listen for WebSockets", "all is well")
	check("--maintenance").expect(t, 2, "--check and --maintenance exclude each other")

	text, err := os.ReadFile(site.config)
	must(t, err)
	must(t, os.WriteFile(site.config, []byte(strings.Replace(string(text), "# new_queues = on", "new_ques: on", 1)), 0o600))
	check().expect(t, 0, "the unknown key [AUTH] new_ques has no effect, did you mean [AUTH] new_queues?", "all is well")

	copyFile(t, other.file(certs.FingerprintFile), site.file(certs.FingerprintFile), 0o600)
	for _, args := range [][]string{site.args("--check"), site.args()} {
		smpq(t, args...).expect(t, 1, "the file fingerprint is of another router: ca.crt has been replaced")
	}
	// All that is wrong is said.
	check("--set", "TRANSPORT.port="+port, "--dsn", "host=/nonexistent").expect(t, 5, "the file fingerprint is of another router", "connect: ", "address already in use")
	must(t, os.Remove(site.file(certs.CAFile)))
	check().expect(t, 1, "ca.crt: no such file or directory")
	must(t, os.Remove(site.config))
	check().expect(t, 1, "read configuration: open "+site.config+": no such file or directory")
}

// A router that keeps queues or messages elsewhere is not served. The commands that
// bring them into the database exist.
func TestServeOtherStorage(t *testing.T) {
	t.Parallel()
	site := newPlace(t, "STORE_LOG.store_queues=memory", "STORE_LOG.store_messages=memory")
	text, err := os.ReadFile(site.config)
	must(t, err)
	text = regexp.MustCompile(`(?m)^(# *)?db_connection *[=:].*$`).ReplaceAllLiteral(text, []byte("db_connection = "+site.dsn))
	must(t, os.WriteFile(site.config, text, 0o600))
	state := t.TempDir()
	log, err := os.ReadFile(realLog(t, "memory"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(state, storeLogName), log, 0o600))
	check := func() result {
		return smpq(t, "serve", "--config", site.config, "--check", "--set", "state_folder="+state)
	}
	r := check()
	r.expect(t, 1, "but store_queues is memory and store_messages is memory\n")
	_, command, ok := strings.Cut(r.stderr, "changes the two: smpq ")
	if !ok {
		t.Fatalf("no command in\n%s", r.stderr)
	}
	command, _, _ = strings.Cut(command, "\n")
	dry := strings.Fields(strings.Replace(command, "--update-config", "--dry-run", 1))
	smpq(t, append(dry, "--into-existing")...).expect(t, 0)
	check().expect(t, 1)
	smpq(t, append(strings.Fields(command), "--into-existing")...).expect(t, 0)
	check().expect(t, 0, "all is well")
	if n := site.number(t, "select count(*) from smp_server.msg_queues where deleted_at is null"); n != 19 {
		t.Errorf("%d queues, want 19", n)
	}
	smpq(t, site.args("--set", "STORE_LOG.store_messages=journal")...).expect(t, 1,
		"but store_queues is database and store_messages is journal\nThis brings them into the database, ")
}

// A router says where it serves, and what it is like.
//
// conformance: 169
func TestServeSays(t *testing.T) {
	t.Parallel()
	site := newPlace(t, "TRANSPORT.host=smp.example.com,example.onion")
	for _, tc := range []struct{ settings, says string }{
		{"", `new_queues="by everybody" messages_kept=504h0m0s inactive_disconnected=6h0m0s`},
		{"AUTH.create_password=pass-word STORE_LOG.expire_messages_days=2", `new_queues="with the password" messages_kept=48h0m0s inactive_disconnected=6h0m0s`},
		{"AUTH.new_queues=off INACTIVE_CLIENTS.disconnect=off STORE_LOG.db_store_log=on", `new_queues="by nobody" messages_kept=504h0m0s store_log=` + site.file(storeLogName)},
	} {
		args := site.args()
		for setting := range strings.FieldsSeq(tc.settings) {
			args = append(args, "--set", setting)
		}
		r := startServe(t, args...)
		r.stop(t)
		for _, want := range []string{
			"config=" + site.config + " ", `database="database \"` + site.conn.Config().Database + `\" on `, " schema=smp_server ", " " + tc.says + "\n",
			`address="smp://` + r.identity + `@smp.example.com,example.onion"`, fmt.Sprintf("msg=serving address=[::]:%d ", r.port),
		} {
			if !strings.Contains(r.log.String(), want) {
				t.Errorf("%s: no %s in\n%s", tc.settings, want, r.log.String())
			}
		}
		if strings.Contains(r.log.String(), "pass-word") {
			t.Errorf("it shows the password:\n%s", r.log.String())
		}
	}
}

// Old messages go when the router starts, if so configured; younger ones stay.
//
// conformance: 157 as far as the start goes; 158 as far as the start goes
func TestServeExpiresOnStart(t *testing.T) {
	t.Parallel()
	site := newPlace(t)
	r := startServe(t, site.args()...)
	c := r.dial(t)
	box := newBox(t, c)
	mustOK(t, c, box.send("old"))
	mustOK(t, c, box.send("young"))
	r.stop(t)
	pgtest.Exec(t, site.conn, "update smp_server.messages set msg_ts = msg_ts - 22 * 86400 where message_id = (select min(message_id) from smp_server.messages)")
	r = startServe(t, site.args("--set", "STORE_LOG.expire_messages_on_start=off")...)
	r.stop(t)
	if n := site.number(t, "select count(*) from smp_server.messages"); n != 2 || strings.Contains(r.log.String(), "msg=expired") {
		t.Errorf("%d messages are left, want 2\n%s", n, r.log.String())
	}
	r = startServe(t, site.args()...)
	r.await(t, "msg=expired messages=1 queues=1 ")
	if n := box.waiting(t, r.dial(t)); n != 1 {
		t.Errorf("%d messages come, want the younger one", n)
	}
	r.stop(t)
}

// A run for maintenance removes what is old, opens no port, and ends by itself.
//
// conformance: 164
func TestServeMaintenance(t *testing.T) {
	t.Parallel()
	site := newPlace(t)
	r := startServe(t, site.args("--set", "STORE_LOG.expire_messages_on_start=off")...)
	c := r.dial(t)
	box := newBox(t, c)
	mustOK(t, c, box.send("old"))
	r.stop(t)
	pgtest.Exec(t, site.conn, "update smp_server.messages set msg_ts = msg_ts - 22 * 86400")
	busy, err := new(net.ListenConfig).Listen(t.Context(), "tcp", ":0")
	must(t, err)
	defer busy.Close()
	port := strconv.Itoa(busy.Addr().(*net.TCPAddr).Port)
	done := smpq(t, site.args("--maintenance", "--set", "TRANSPORT.port="+port, "--set", "monitor_address=127.0.0.1:"+port)...)
	done.expect(t, 0, "msg=expired messages=1 ")
	if strings.Contains(done.stderr, "serving") || site.number(t, "select count(*) from smp_server.messages") != 0 {
		t.Errorf("it has not done it, or served:\n%s", done.stderr)
	}
}

// At SIGHUP the router reads its certificates again: new clients get a new one, of the
// same router, and those that are there notice nothing. A certificate that is no good
// changes nothing.
//
// conformance: 172
func TestServeReloads(t *testing.T) {
	t.Parallel()
	site := newPlace(t)
	r := startServe(t, site.args()...)
	before := r.dial(t)
	smpq(t, "cert", "rotate", "--config", site.config).expect(t, 0, "(as before)")
	r.signal(t, syscall.SIGHUP)
	r.await(t, `msg="the certificates were read again"`)
	after := r.dial(t) // with the same fingerprint
	if string(before.Session().PeerChain[0]) == string(after.Session().PeerChain[0]) || string(before.Session().PeerChain[1]) != string(after.Session().PeerChain[1]) {
		t.Error("the certificate is the same, or the authority is not")
	}
	must(t, os.WriteFile(site.file(certs.CertificateFile), []byte("nonsense"), 0o600))
	r.signal(t, syscall.SIGHUP)
	r.await(t, `level=ERROR msg="the certificates stay as they were" error="load certificates: `)
	newBox(t, before)
	newBox(t, r.dial(t))
	r.stop(t)
}

// With db_store_log, changes are logged beside the database as well, in the folder for
// what the router writes.
func TestServeStoreLog(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	site := newPlace(t, "STORE_LOG.db_store_log=on", "state_folder="+folder)
	r := startServe(t, site.args()...)
	box := newBox(t, r.dial(t))
	r.stop(t)
	log, err := os.ReadFile(filepath.Join(folder, storeLogName))
	must(t, err)
	if !strings.HasPrefix(string(log), "CREATE rid="+box.recipient.String()+" ") {
		t.Errorf("log\n%s", log)
	}
	smpq(t, site.args("--check", "--set", "STORE_LOG.db_store_log=off")...).expect(t, 0, folder+"/smp-server-store.log is not used, as db_store_log is off")
}

// The log is as it is asked for, and has no ids above debug. A reader of it that
// leaves does not end the router.
func TestServeLog(t *testing.T) {
	t.Parallel()
	site := newPlace(t)
	ctx, cancel := context.WithTimeout(t.Context(), serveTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "smpq", site.args("--log-format", "json", "--log-level", "info")...)
	out, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	r := &served{cmd: cmd}
	decoder := json.NewDecoder(out)
	for r.port == 0 {
		var record struct{ Time, Level, Msg, Address, Identity string }
		must(t, decoder.Decode(&record))
		if record.Time == "" || record.Level == "" || record.Msg == "" {
			t.Errorf("record %+v", record)
		}
		if record.Msg == "serving" {
			r.identity = record.Identity
			_, err := fmt.Sscanf(record.Address[strings.LastIndex(record.Address, ":"):], ":%d", &r.port)
			must(t, err)
		}
	}
	must(t, out.Close())
	r.signal(t, syscall.SIGHUP) // it has something to say
	newBox(t, r.dial(t))
	r.signal(t, syscall.SIGTERM)
	must(t, cmd.Wait())
}
