// Command start measures how long "smpq serve" takes until it serves, with a large
// database: from the start of the process to the line of its log that says so.
//
// The database is on a private server, which is started anew for each run, so that
// nothing is in its memory. The time for that is shown beside.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/smpq/smpq/internal/gen"
	"github.com/smpq/smpq/internal/pglocal"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/start:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

func run(ctx context.Context) (err error) {
	var b benchmark
	queues := flag.Int64("queues", 1_000_000, "number of queues in the database, about")
	runs := flag.Int("runs", 5, "number of starts")
	flag.StringVar(&b.smpq, "smpq", "bin/smpq", "the program to measure")
	within := flag.String("dir", "/var/tmp", "folder for the data, which is removed afterwards")
	flag.Parse()

	if b.dir, err = os.MkdirTemp(*within, "smpq-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	// The server does not run as root.
	if err := os.Chmod(b.dir, 0o755); err != nil { //nolint:gosec // nothing in it is secret
		return err
	}
	if err := b.prepare(ctx, *queues); err != nil {
		return err
	}
	for range *runs {
		if err := b.measure(ctx); err != nil {
			return err
		}
	}
	fmt.Printf("%d queues; %d runs, medians\n\n%-22s %s\n%-22s %s\n", //nolint:forbidigo // the result
		*queues, *runs, "start of PostgreSQL", median(b.database), "smpq serve, then", median(b.router))
	return nil
}

// A benchmark is a database and the times that were measured.
type benchmark struct {
	smpq, dir        string
	database, router []time.Duration
}

func (b *benchmark) config() string { return filepath.Join(b.dir, "router", "smp-server.ini") }

// server starts the database server.
func (b *benchmark) server(ctx context.Context) (*pglocal.Cluster, error) {
	return pglocal.Start(ctx, pglocal.Options{Dir: filepath.Join(b.dir, "postgres")})
}

// prepare makes the database, and the files of a router.
func (b *benchmark) prepare(ctx context.Context, queues int64) (err error) {
	name := filepath.Join(b.dir, "store.log")
	log, err := os.Create(name) //nolint:gosec // in a folder of our own
	if err != nil {
		return err
	}
	const deleted = 0.1 // of the queues in a log
	_, err = gen.Write(log, gen.Options{Queues: int64(float64(queues) / (1 - deleted)), Seed: 1, LinkBytes: 90})
	if err = errors.Join(err, log.Close()); err != nil {
		return err
	}
	server, err := b.server(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close(context.WithoutCancel(ctx))) }()
	for _, args := range [][]string{
		{"import", "storelog", name, "--dsn", server.DSN(""), "--temp-dir", b.dir, "--quiet"},
		{"init", "--host", "localhost", "--config", b.config(), "--set", "TRANSPORT.port=0", "--yes", "--quiet"},
	} {
		cmd := exec.CommandContext(ctx, b.smpq, args...) //nolint:gosec // the program to measure
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("smpq %s: %w", args[0], err)
		}
	}
	return os.Remove(name)
}

// measure starts the server and the router, and stops them.
func (b *benchmark) measure(ctx context.Context) (err error) {
	began := time.Now()
	server, err := b.server(ctx)
	if err != nil {
		return err
	}
	b.database = append(b.database, time.Since(began))
	defer func() { err = errors.Join(err, server.Close(context.WithoutCancel(ctx))) }()
	cmd := exec.CommandContext(ctx, b.smpq, "serve", "--config", b.config(), "--dsn", server.DSN("")) //nolint:gosec // the program to measure
	out, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	began = time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	var said strings.Builder
	lines := bufio.NewScanner(io.TeeReader(out, &said))
	for lines.Scan() && !strings.Contains(lines.Text(), "msg=serving") {
		continue
	}
	b.router = append(b.router, time.Since(began))
	err = cmd.Process.Signal(syscall.SIGTERM)
	for lines.Scan() {
		continue
	}
	if err = errors.Join(err, cmd.Wait()); err != nil {
		return fmt.Errorf("smpq serve: %w\n%s", err, said.String())
	}
	return nil
}

// median returns the time in the middle, rounded.
func median(times []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(times))[len(times)/2].Round(time.Millisecond)
}
