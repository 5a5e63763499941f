package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/smpq/smpq/internal/certs"
	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/monitor"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/stats"
	"github.com/smpq/smpq/internal/store"
)

// stopTimeout is how long commands may take that are under way when the router stops.
const stopTimeout = 20 * time.Second

// A runningRouter is a router with what runs beside it.
type runningRouter struct {
	found  *foundRouter
	queues *store.Store
	limit  *cli.LogLimit
	log    *slog.Logger
	state  monitor.State
	router *router.Router

	statistics atomic.Pointer[stats.Statistics] // set when the router is there
}

// serve serves clients until ctx ends.
func (r *runningRouter) serve(ctx context.Context, o router.Options) (err error) {
	started := time.Now()
	hangUp := catchHangUp()
	defer signal.Stop(hangUp)
	stopMonitor, err := r.startMonitor(ctx, started)
	if err != nil {
		return err
	}
	defer stopMonitor()
	// The ports come before what is saved: whoever has them is perhaps this router, and
	// its files are not to be taken from it.
	listeners, err := router.Listen(ctx, r.found.config.Transport.Ports, keepAlive(&r.found.config))
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range listeners {
			_ = l.Close() // again, if it was served
		}
	}()
	if r.router, err = router.New(o); err != nil { //nolint:contextcheck // what it restores must not be left half done
		return err
	}
	stopOperating, err := r.operate(ctx)
	if err != nil {
		return errors.Join(err, r.router.Shutdown(ctx))
	}
	defer stopOperating()
	shared, stopPages, err := r.startPages(ctx, listeners)
	if err != nil {
		return errors.Join(err, r.router.Shutdown(ctx))
	}
	defer stopPages()
	r.describe(ctx)
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var serving sync.WaitGroup
	r.state.Serve()
	for _, l := range shared {
		r.log.LogAttrs(ctx, slog.LevelInfo, "serving", slog.String("address", l.Addr().String()), slog.String("identity", r.found.certs.Identity.String()))
		serving.Go(func() {
			if err := r.router.Serve(ctx, l); err != nil {
				stop(err)
			}
		})
	}
	r.wait(ctx, hangUp)
	r.state.Stop()
	r.log.LogAttrs(ctx, slog.LevelInfo, "stopping")
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err = r.router.Shutdown(limited)
	serving.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, cli.ErrInterrupted) && !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	if err == nil {
		r.log.LogAttrs(ctx, slog.LevelInfo, "stopped")
	}
	return err
}

// catchHangUp returns a channel of SIGHUPs, which until now ended the program.
func catchHangUp() chan os.Signal {
	hangUp := make(chan os.Signal, 1)
	signal.Reset(syscall.SIGHUP)
	signal.Notify(hangUp, syscall.SIGHUP)
	return hangUp
}

// wait waits for the end of ctx. Meanwhile each SIGHUP makes it read the
// certificates.
func (r *runningRouter) wait(ctx context.Context, hangUp <-chan os.Signal) {
	for {
		select {
		case <-hangUp:
			r.reload(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// reload reads the certificates again. If they are no good, those in use stay.
func (r *runningRouter) reload(ctx context.Context) {
	loaded, err := certs.Load(filepath.Dir(r.found.file), time.Now())
	if err == nil {
		err = r.router.SetCredentials(loaded.Credentials)
	}
	if err != nil {
		r.log.LogAttrs(ctx, slog.LevelError, "the certificates stay as they were", slog.Any("error", err))
		return
	}
	if err := r.found.pages.Reload(); err != nil {
		r.log.LogAttrs(ctx, slog.LevelError, "the certificate of the web pages stays as it was", slog.Any("error", err))
	}
	for _, warning := range loaded.Warnings {
		r.log.LogAttrs(ctx, slog.LevelWarn, warning)
	}
	r.log.LogAttrs(ctx, slog.LevelInfo, "the certificates were read again")
}

// describe says what the router is like.
func (r *runningRouter) describe(ctx context.Context) {
	c := &r.found.config
	queues := "by everybody"
	switch {
	case !c.Auth.NewQueues:
		queues = "by nobody"
	case !c.Auth.CreatePassword.IsZero():
		queues = "with the password"
	}
	attrs := []slog.Attr{
		slog.String("version", readBuild().Version),
		slog.String("config", r.found.file),
		slog.String("database", r.found.target.String()),
		slog.String("schema", r.found.target.Schema),
		slog.String("new_queues", queues),
		slog.Duration("messages_kept", c.StoreLog.ExpireMessages),
	}
	if c.StoreLog.DBStoreLog {
		attrs = append(attrs, slog.String("store_log", r.found.state(storeLogName)))
	}
	if c.InactiveClients.Disconnect {
		attrs = append(attrs, slog.Duration("inactive_disconnected", c.InactiveClients.TTL))
	}
	r.log.LogAttrs(ctx, slog.LevelInfo, "the router", attrs...)
	if len(c.Transport.Hosts) > 0 {
		r.log.LogAttrs(ctx, slog.LevelInfo, "clients reach it at", slog.String("address", routerAddress(c, r.found.certs.Identity).String()))
	}
}

// startMonitor starts the monitor, if there is to be one.
func (r *runningRouter) startMonitor(ctx context.Context, started time.Time) (stop func(), err error) {
	c := &r.found.config.Tuning
	if c.MonitorAddress == "" {
		return func() {}, nil
	}
	l, err := listenMonitor(ctx, c)
	if err != nil {
		return nil, err
	}
	m := monitor.New(monitor.Options{
		Ready: r.ready, Profiles: c.MonitorProfiles, Log: r.log,
		Metrics: []func(io.Writer) error{monitor.Process{Start: started}.WriteMetrics, r.writeMetrics, r.writeStatistics},
	})
	r.log.LogAttrs(ctx, slog.LevelInfo, "monitoring", slog.String("address", l.Addr().String()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := m.Serve(l); err != nil {
			r.log.LogAttrs(ctx, slog.LevelError, "the monitor has failed", slog.Any("error", err))
		}
	}()
	return func() {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		m.Shutdown(limited)
		<-done
	}, nil
}

// ready returns why the router does not serve, if that is so.
func (r *runningRouter) ready(ctx context.Context) error {
	if err := r.state.Err(); err != nil {
		return err
	}
	return r.queues.Ping(ctx)
}

// writeMetrics writes the metrics of smpq's own.
func (r *runningRouter) writeMetrics(w io.Writer) error {
	var t monitor.Text
	build := readBuild()
	t.Gauge("smpq_build_info", "The release of smpq.", 1, "version", build.Version, "commit", build.Commit)
	ready := 0.0
	if r.state.Err() == nil {
		ready = 1
	}
	t.Gauge("smpq_serving", "1 while clients are served.", ready)
	cache := r.queues.CacheStats()
	t.Counter("smpq_cache_hits_total", "Look-ups of queues that needed no database.", float64(cache.Hits))
	t.Counter("smpq_cache_misses_total", "Look-ups of queues that did.", float64(cache.Misses))
	t.Counter("smpq_cache_loads_joined_total", "Of the misses, those that took the result of another one.", float64(cache.LoadsJoined))
	t.Counter("smpq_cache_evictions_total", "Queues that made room for others.", float64(cache.Evictions))
	t.Gauge("smpq_cache_queues", "Queues that are kept in memory.", float64(cache.Queues))
	t.Gauge("smpq_cache_bytes", "Memory that these take, about.", float64(cache.Bytes))
	t.Counter("smpq_store_log_failures_total", "Records that the store log lacks.", float64(r.queues.LogFailures()))
	t.Counter("smpq_log_left_out_total", "Records that were left out of the log.", float64(r.limit.LeftOut()))
	_, err := t.WriteTo(w)
	return err
}
