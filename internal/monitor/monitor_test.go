package monitor_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/monitor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves until the test ends, and returns how to ask.
func start(t *testing.T, o monitor.Options) func(path string) (status int, kind, body string) {
	t.Helper()
	l, err := monitor.Listen(t.Context(), "127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	s := monitor.New(o)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		s.Shutdown(context.Background())
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return func(path string) (int, string, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, response.Header.Get("Content-Type"), string(body)
	}
}

// A problem is an error that there is or not.
type problem struct{ p atomic.Pointer[error] }

func (p *problem) set(err error) { p.p.Store(&err) }

func (p *problem) get() error {
	if err := p.p.Load(); err != nil {
		return *err
	}
	return nil
}

func TestServer(t *testing.T) {
	var reason, broken problem
	get := start(t, monitor.Options{
		Ready: func(context.Context) error { return reason.get() },
		Metrics: []func(io.Writer) error{
			monitor.Process{Start: time.Now()}.WriteMetrics,
			func(w io.Writer) error {
				_, err := io.WriteString(w, "more 1\n")
				return errors.Join(err, broken.get())
			},
		},
	})
	expect := func(path string, status int, body string) {
		t.Helper()
		if s, kind, b := get(path); s != status || b != body || !strings.HasPrefix(kind, "text/plain; ") {
			t.Errorf("%s: status %d, %q, %s, want %d, %q", path, s, b, kind, status, body)
		}
	}
	expect("/healthz", 200, "ok\n")
	expect("/readyz", 200, "ready\n")
	reason.set(errors.New("the database is away"))
	expect("/readyz", 503, "the database is away\n")
	expect("/healthz", 200, "ok\n")
	if status, kind, body := get("/metrics"); status != 200 || kind != "text/plain; version=0.0.4; charset=utf-8" || !strings.HasSuffix(body, "\nmore 1\n") {
		t.Errorf("/metrics: status %d, %s\n%s", status, kind, body)
	}
	broken.set(errors.New("nothing for strangers"))
	expect("/metrics", 500, "metrics cannot be shown: the log says why\n")
	for _, path := range []string{"/", "/nothing", "/debug/pprof/", "/debug/pprof/heap", "/debug/vars"} {
		if status, _, _ := get(path); status != 404 {
			t.Errorf("%s: status %d", path, status)
		}
	}
}

// Profiles are shown where they are wanted, but never the command line, in which
// there can be passwords.
func TestProfiles(t *testing.T) {
	get := start(t, monitor.Options{Ready: func(context.Context) error { return nil }, Profiles: true})
	for path, want := range map[string]int{
		"/debug/pprof/": 200, "/debug/pprof/goroutine?debug=1": 200, "/debug/pprof/heap": 200, "/debug/pprof/cmdline": 404,
	} {
		if status, _, body := get(path); status != want {
			t.Errorf("%s: status %d, %s", path, status, body)
		}
	}
}

// What asks whether all is ready must not wait for ever.
func TestReadyTakesLong(t *testing.T) {
	get := start(t, monitor.Options{Ready: func(ctx context.Context) error {
		if _, limited := ctx.Deadline(); !limited {
			return errors.New("no limit")
		}
		return nil
	}})
	if status, _, body := get("/readyz"); status != 200 {
		t.Error(status, body)
	}
}

// Connections that are too many are closed, and those that there are go on.
func TestTooManyConnections(t *testing.T) {
	l, err := monitor.Listen(t.Context(), "localhost:0", false)
	if err != nil {
		t.Fatal(err)
	}
	s := monitor.New(monitor.Options{Ready: func(context.Context) error { return nil }})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	var conns []net.Conn
	ask := func(c net.Conn) bool {
		_, err := fmt.Fprint(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		b := make([]byte, 12)
		if err == nil {
			_, err = io.ReadFull(c, b)
		}
		return err == nil && string(b) == "HTTP/1.1 200"
	}
	refused := false
	for len(conns) < 100 && !refused {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		refused = !ask(c)
	}
	if !refused || len(conns) < 65 {
		t.Errorf("after %d connections: refused %t, want 64 and the next refused", len(conns), refused)
	}
	for _, c := range conns {
		_ = c.Close()
	}
	s.Shutdown(t.Context())
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Requests that are under way are finished; those that take too long are not.
func TestShutdown(t *testing.T) {
	l, err := monitor.Listen(t.Context(), "127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	asked, answer := make(chan struct{}), make(chan struct{})
	s := monitor.New(monitor.Options{Ready: func(context.Context) error {
		close(asked)
		<-answer
		return nil
	}})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := fmt.Fprint(c, "GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-asked
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.Shutdown(t.Context())
	}()
	if err := <-done; err != nil { // it accepts nothing more
		t.Error(err)
	}
	close(answer)
	if body, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(body), "HTTP/1.1 200") {
		t.Errorf("%q, %v", body, err)
	}
	<-stopped
}

func TestListen(t *testing.T) {
	for address, ok := range map[string]bool{
		"127.0.0.1:0": true, "127.0.0.2:0": true, "localhost:0": true, "0.0.0.0:0": false, ":0": false,
	} {
		l, err := monitor.Listen(t.Context(), address, false)
		if err == nil {
			err = l.Close()
		}
		if ok && err != nil || !ok && !errors.Is(err, monitor.ErrPublic) {
			t.Errorf("%s: %v", address, err)
		}
	}
	l, err := monitor.Listen(t.Context(), "0.0.0.0:0", true)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := monitor.Listen(t.Context(), l.Addr().String(), true); err == nil {
		t.Error("one address for two", again.Close())
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestState(t *testing.T) {
	var s monitor.State
	if err := s.Err(); err == nil || err.Error() != "it is starting" {
		t.Error(err)
	}
	s.Serve()
	if err := s.Err(); err != nil {
		t.Error(err)
	}
	s.Stop()
	s.Serve() // comes too late
	if err := s.Err(); err == nil || err.Error() != "it is stopping" {
		t.Error(err)
	}
}

func TestText(t *testing.T) {
	var text monitor.Text
	text.Counter("a_total", "All of it.", 12345678901)
	text.Gauge("b", "Some.", 0.25, "one", "x", "other", "\"quoted\" \\ and\nmore")
	text.Gauge("c", "Much.", 1e21)
	var b strings.Builder
	if _, err := text.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	const want = `# HELP a_total All of it.
# TYPE a_total counter
a_total 12345678901
# HELP b Some.
# TYPE b gauge
b{one="x",other="\"quoted\" \\ and\nmore"} 0.25
# HELP c Much.
# TYPE c gauge
c 1e+21
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

// What the process says of itself has the form of the format, and is true.
func TestProcess(t *testing.T) {
	var b strings.Builder
	if err := (monitor.Process{Start: time.Unix(1_700_000_000, 5e8)}).WriteMetrics(&b); err != nil {
		t.Fatal(err)
	}
	form := regexp.MustCompile(`^(# (HELP [a-z_]+ [^\n]+\.|TYPE [a-z_]+ (counter|gauge))|[a-z_]+(\{version="[^"]+"\})? [0-9.e+-]+)$`)
	for line := range strings.Lines(b.String()) {
		if !form.MatchString(strings.TrimSuffix(line, "\n")) {
			t.Errorf("%q", line)
		}
	}
	for _, name := range []string{"process_start_time_seconds 1.7000000005e+09", "process_cpu_seconds_total ", "process_resident_memory_bytes ", "process_open_fds ", "go_goroutines ", "go_gc_heap_live_bytes "} {
		if !strings.Contains(b.String(), "\n"+name) {
			t.Errorf("no %s in\n%s", name, b.String())
		}
	}
}

func TestMemory(t *testing.T) {
	if m := monitor.Memory(); m < 64<<20 || m > 1<<50 {
		t.Errorf("%d bytes", m)
	}
}
