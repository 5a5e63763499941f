package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/bench"
	"github.com/smpq/smpq/internal/certs"
	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/config"
	"github.com/smpq/smpq/internal/smp"
)

// A router that is measured has a process of its own, so that its memory and its time
// of the processor can be told from those of the load. The process answers each line of
// its standard input with one of standard output, and stops when the input ends, however
// it ends: no router is left behind.

// The requests to the process.
const (
	requestSample  = "sample"       // what the process uses
	requestCollect = "collect"      // the same, after garbage is collected
	requestProfile = "profile"      // of the processor, into the file that follows
	requestStop    = "stop-profile" // and a profile of the memory into the file that follows
)

// A processReply is what the process says: its address first, then one answer to each
// request.
type processReply struct {
	Address string        `json:"address,omitempty"`
	Process *bench.Sample `json:"process,omitempty"`
	Error   string        `json:"error,omitempty"`
}

// newBenchServe returns the command of the process.
func newBenchServe(console *cli.Console) *cobra.Command {
	var data string
	var settings []string
	cmd := &cobra.Command{
		Use:     "serve",
		Short:   "Run a router that is measured by the process that has started it",
		Example: `  smpq bench serve --data /var/tmp/router`,
		Args:    cobra.NoArgs,
		Hidden:  true,
	}
	flags := cmd.Flags()
	flags.StringVar(&data, "data", "", "the `folder` of the router and the private PostgreSQL")
	flags.StringArrayVar(&settings, "set", nil, "change the `setting` of the router, as for serve")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, stop := context.WithCancel(cmd.Context())
		defer stop()
		port, err := freePort(ctx)
		if err != nil {
			return err
		}
		serve := newServe(console)
		serve.SilenceErrors, serve.SilenceUsage = true, true
		args := []string{"--data", data, "--set", "TRANSPORT.port=" + strconv.Itoa(port)}
		for _, s := range settings {
			args = append(args, "--set", s)
		}
		serve.SetArgs(args)
		served := make(chan error, 1)
		go func() { served <- serve.ExecuteContext(ctx) }()
		answered := make(chan error, 1)
		go func() { answered <- answerRequests(ctx, cmd.InOrStdin(), cmd.OutOrStdout(), data, port) }()
		select {
		case err = <-served: // whoever waits for an answer sees the process end
			return err
		case err = <-answered:
		}
		stop()
		return errors.Join(err, <-served)
	}
	return cmd
}

// freePort returns a port of this machine that nobody uses.
func freePort(ctx context.Context) (int, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(port)
}

// answerRequests says the address of the router as soon as it serves, then answers
// requests until there are no more.
func answerRequests(ctx context.Context, in io.Reader, out io.Writer, folder string, port int) error {
	if err := waitForPort(ctx, port); err != nil {
		return err
	}
	loaded, err := certs.Load(filepath.Join(folder, "router"), time.Now())
	if err != nil {
		return err
	}
	e := json.NewEncoder(out)
	if err := e.Encode(processReply{Address: fmt.Sprintf("smp://%s@127.0.0.1:%d", loaded.Identity, port)}); err != nil {
		return err
	}
	var profile profile
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		request, file, _ := strings.Cut(lines.Text(), " ")
		err := profile.request(request, file)
		var reply processReply
		if err != nil {
			reply.Error = err.Error()
		} else {
			s := bench.Own(request == requestCollect)
			reply.Process = &s
		}
		if err := e.Encode(reply); err != nil {
			return err
		}
	}
	return lines.Err()
}

// waitForPort waits until somebody listens.
func waitForPort(ctx context.Context, port int) error {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return conn.Close()
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// A profile is one of the processor that is being made.
type profile struct{ file *os.File }

func (p *profile) request(request, file string) (err error) {
	switch request {
	case requestSample, requestCollect:
		return nil
	case requestProfile:
		if p.file, err = os.Create(file); err == nil { //nolint:gosec // as the operator has said
			err = pprof.StartCPUProfile(p.file)
		}
		return err
	case requestStop:
		pprof.StopCPUProfile()
		err = p.file.Close()
		f, ferr := os.Create(file) //nolint:gosec // as the operator has said
		if ferr == nil {
			ferr = errors.Join(pprof.Lookup("heap").WriteTo(f, 0), f.Close())
		}
		return errors.Join(err, ferr)
	}
	return fmt.Errorf("unknown request %q", request)
}

// A routerProcess is the process of a router that is measured, seen by who measures it.
type routerProcess struct {
	address *smp.RouterAddress
	folder  string // for profiles
	cmd     *exec.Cmd
	in      io.WriteCloser
	replies chan processReply // closed when there are no more
	reading sync.WaitGroup
	log     bytes.Buffer // what the process logs; of the process until it has ended
}

// Limits of time.
const (
	processStart = 2 * time.Minute // a database may have to be made
	processReact = time.Minute
	processStop  = stopTimeout + time.Minute
)

// startRouter starts the process of a router that has its data in a folder. It must be
// closed.
func startRouter(ctx context.Context, folder string, settings []string) (*routerProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{os.Args[0], "bench", "serve", "--data", folder}
	for _, s := range settings {
		args = append(args, "--set", s)
	}
	p := &routerProcess{replies: make(chan processReply)}
	// It ends when its standard input does. An interrupt from the terminal, which is for
	// this process, does not reach it.
	p.cmd = exec.CommandContext(context.WithoutCancel(ctx), self) //nolint:gosec // this program
	p.cmd.Args = args
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Stderr = &p.log
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a router: %w", err)
	}
	p.reading.Go(func() {
		defer close(p.replies)
		for d := json.NewDecoder(out); ; {
			var r processReply
			if d.Decode(&r) != nil {
				return // the process has ended, and its log says why
			}
			p.replies <- r
		}
	})
	first, err := p.reply(ctx, processStart)
	if err == nil {
		p.address, err = smp.ParseRouterAddress(first.Address)
	}
	if err == nil {
		p.address.Password, err = createPassword(folder, settings)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start a router: %w", err), p.Close())
	}
	return p, nil
}

// createPassword returns the password by which queues are created on the router in a
// folder.
func createPassword(folder string, settings []string) (smp.Password, error) {
	file, err := config.Load(filepath.Join(folder, "router", configName))
	if err != nil {
		return smp.Password{}, err
	}
	c, _, err := config.Sources{File: file, Environ: os.Environ(), Set: settings}.Router()
	return c.Auth.CreatePassword, err
}

var errNoReply = errors.New("the router's process does not answer")

// reply waits for what the process says.
func (p *routerProcess) reply(ctx context.Context, limit time.Duration) (processReply, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case r, open := <-p.replies:
		if !open {
			return r, errors.New("the router's process has ended")
		}
		if r.Error != "" {
			return r, errors.New(r.Error)
		}
		return r, nil
	case <-timer.C:
		return processReply{}, errNoReply
	case <-ctx.Done():
		return processReply{}, context.Cause(ctx)
	}
}

// request sends a request and waits for the answer, even if ctx ends: the next answer
// would be taken for it.
func (p *routerProcess) request(ctx context.Context, request ...string) (*bench.Sample, error) {
	if _, err := io.WriteString(p.in, strings.Join(request, " ")+"\n"); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoReply, err)
	}
	r, err := p.reply(context.WithoutCancel(ctx), processReact)
	if err == nil && r.Process == nil {
		err = errNoReply
	}
	return r.Process, err
}

// Sample implements [bench.Process].
func (p *routerProcess) Sample(ctx context.Context, collect bool) (bench.Sample, error) {
	what := requestSample
	if collect {
		what = requestCollect
	}
	s, err := p.request(ctx, what)
	if err != nil {
		return bench.Sample{}, err
	}
	return *s, nil
}

// Begin implements [bench.Profile].
func (p *routerProcess) Begin(ctx context.Context) error {
	_, err := p.request(ctx, requestProfile, filepath.Join(p.folder, "cpu.pprof"))
	return err
}

// End implements [bench.Profile].
func (p *routerProcess) End(ctx context.Context) error {
	_, err := p.request(ctx, requestStop, filepath.Join(p.folder, "heap.pprof"))
	return err
}

// Close stops the router. If that has failed, the error has the end of its log.
func (p *routerProcess) Close() error {
	_ = p.in.Close() // it may have ended
	late := time.AfterFunc(processStop, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	for range p.replies { // nobody waits for them any more
		continue
	}
	p.reading.Wait()
	if err := p.cmd.Wait(); err != nil {
		const tail = 2048
		log := p.log.Bytes()
		return fmt.Errorf("the router: %w\n%s", err, slices.Clone(log[max(len(log)-tail, 0):]))
	}
	return nil
}
