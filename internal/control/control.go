package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/stats"
	"github.com/smpq/smpq/internal/store"
)

// A Router is what the commands are about. Its methods are those of [router.Router]; the
// errors of those about a queue are the protocol's.
type Router interface {
	Queue(context.Context, smp.EntityID) (store.View, error)
	Block(context.Context, smp.EntityID, queue.Blocking) (was queue.Status, err error)
	Unblock(context.Context, smp.EntityID) (was queue.Status, err error)
	Delete(context.Context, smp.EntityID) (messages int64, err error)
	Clients() []router.Client
	State() router.State
}

// An Audit is the log of administrative changes, as a [store.Store] has it.
type Audit interface {
	AuditedSince(ctx context.Context, operation string, since time.Time) (int64, error)
}

// Statistics are those of the router.
type Statistics interface {
	Report(context.Context) *stats.Report
}

// Options say how a [Server] works.
type Options struct {
	Router     Router
	Audit      Audit
	Statistics Statistics

	// Save saves what the router keeps in memory only. It must not disturb clients.
	Save func(context.Context) error

	// Admin and User are the passwords for the roles. Zero: nobody gets the role.
	Admin, User smp.Password
	// Quota is how many active queues may be blocked in a day, in UTC, by this port and
	// by other administrators. 0: any number; negative: none.
	Quota int

	// IdleTimeout is how long a session may say nothing. 0: 15 minutes.
	IdleTimeout time.Duration
	// MaxSessions is how many there may be at a time. Others are closed at once. 0: 32.
	MaxSessions int

	Log *slog.Logger     // nil: nothing is logged
	Now func() time.Time // nil: time.Now
}

// A Server answers at the control port.
type Server struct {
	o        Options
	sessions chan struct{} // one element for each
	blocking sync.Mutex    // held from when the quota is looked at until a queue is blocked
}

// New returns a server.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = 15 * time.Minute
	}
	if o.MaxSessions == 0 {
		o.MaxSessions = 32
	}
	return &Server{o: o, sessions: make(chan struct{}, o.MaxSessions)}
}

// Listen returns a listener for a port of 127.0.0.1, which others cannot reach.
func Listen(ctx context.Context, port uint16) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("control port: %w", err)
	}
	return l, nil
}

// retryAccept is how long the server waits after it could not accept a connection.
const retryAccept = 50 * time.Millisecond

// Serve accepts connections until ctx ends, which it closes then, and the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close() //nolint:errcheck // it serves no purpose any more
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	var running sync.WaitGroup
	defer running.Wait()
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			s.take(ctx, &running, conn)
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept connections at the control port: %w", err)
		default:
			s.o.Log.LogAttrs(ctx, slog.LevelWarn, "a connection to the control port cannot be accepted", slog.Any("error", err))
			select {
			case <-time.After(retryAccept):
			case <-ctx.Done():
			}
		}
	}
}

// take serves a connection, unless there are too many.
func (s *Server) take(ctx context.Context, running *sync.WaitGroup, conn net.Conn) {
	select {
	case s.sessions <- struct{}{}:
	default:
		_ = conn.Close()
		return
	}
	running.Go(func() {
		defer func() { <-s.sessions }()
		defer conn.Close() //nolint:errcheck // all has been said
		defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
		if err := s.serve(ctx, conn); err != nil && ctx.Err() == nil {
			s.o.Log.LogAttrs(ctx, slog.LevelDebug, "a session of the control port ended", slog.Any("error", err))
		}
	})
}

// maxLine is how many bytes a line may have.
const maxLine = 4096

// writeTimeout is how long a client may take to take an answer.
const writeTimeout = 30 * time.Second

// A session is one connection.
type session struct {
	*Server
	role role
	out  *bufio.Writer
}

// serve answers the commands of a connection.
func (s *Server) serve(ctx context.Context, conn net.Conn) error {
	ss := &session{Server: s, out: bufio.NewWriter(conn)}
	ss.print("SMP server control port")
	ss.print("'help' for supported commands")
	in := bufio.NewReaderSize(conn, maxLine)
	for {
		if err := errors.Join(conn.SetWriteDeadline(time.Now().Add(writeTimeout)), ss.out.Flush()); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(s.o.IdleTimeout)); err != nil {
			return err
		}
		line, err := readLine(in)
		if err := conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return err
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			ss.print("error: the line is too long")
			return ss.out.Flush()
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if !ss.answer(ctx, line) {
			return ss.out.Flush()
		}
	}
}

// readLine returns the next line without its end.
func readLine(in *bufio.Reader) (string, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return string(line), nil
}

// print adds a line to the answer.
func (s *session) print(line string) {
	_, _ = s.out.WriteString(line) // Flush has the error
	_ = s.out.WriteByte('\n')
}

func (s *session) printf(format string, args ...any) { s.print(fmt.Sprintf(format, args...)) }
