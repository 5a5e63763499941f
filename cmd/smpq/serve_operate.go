package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"github.com/smpq/smpq/internal/control"
	"github.com/smpq/smpq/internal/stats"
)

// rtsVariable has a text for the metrics.
const rtsVariable = "SMP_RTS_OPTIONS"

// operate starts the statistics and, if there is to be one, the control port. The
// function that it returns stops both; what counts then is saved.
func (r *runningRouter) operate(ctx context.Context) (stop func(), err error) {
	c := &r.found.config
	statistics, err := stats.New(ctx, stats.Options{
		Router: r.router, Store: r.queues, Log: r.log,
		Folder: filepath.Dir(r.found.state(stats.BackupName)), Daily: c.StoreLog.LogStats, Metrics: c.StoreLog.PrometheusInterval,
		Version: readBuild().Version, RTSOptions: cmp.Or(os.Getenv(rtsVariable), "set "+rtsVariable),
	})
	if err != nil {
		return nil, err
	}
	var l net.Listener
	if port := c.Transport.ControlPort; port != 0 {
		if l, err = control.Listen(ctx, port); err != nil {
			return nil, err
		}
		r.log.LogAttrs(ctx, slog.LevelInfo, "listening for the operator", slog.String("address", l.Addr().String()))
	}
	r.statistics.Store(statistics)
	running := context.WithoutCancel(ctx) // until all clients are gone
	stopStatistics := runBeside(running, statistics.Run)
	if l == nil {
		return stopStatistics, nil
	}
	port := control.New(control.Options{
		Router: r.router, Audit: r.queues, Statistics: statistics, Log: r.log,
		Save:  func(ctx context.Context) error { return errors.Join(r.router.Save(), statistics.Save(ctx)) },
		Admin: c.Auth.ControlPortAdmin, User: c.Auth.ControlPortUser, Quota: c.Auth.DailyBlockQueueQuota,
	})
	stopPort := runBeside(running, func(ctx context.Context) {
		if err := port.Serve(ctx, l); err != nil {
			r.log.LogAttrs(ctx, slog.LevelError, "the control port has failed", slog.Any("error", err))
		}
	})
	return func() {
		stopPort()
		stopStatistics()
	}, nil
}

// writeStatistics writes the metrics that smp-server has.
func (r *runningRouter) writeStatistics(w io.Writer) error {
	statistics := r.statistics.Load()
	if statistics == nil {
		return nil // the router is about to start
	}
	return statistics.WriteMetrics(context.Background(), w)
}
