package main

import (
	"context"
	"log/slog"
	"net"

	"github.com/smpq/smpq/internal/web"
)

// makePages makes the web pages, and reads the certificate for them.
func (s *serveCommand) makePages(_ context.Context, r *foundRouter) (err error) {
	build := readBuild()
	r.pages, err = web.New(&r.config, web.Build{Version: build.Version, Commit: build.Commit}, s.console.Log())
	return err
}

// startPages serves the web pages. It returns the listeners that the router is to use
// instead of its own.
func (r *runningRouter) startPages(ctx context.Context, listeners []net.Listener) (_ []net.Listener, stop func(), err error) {
	shared, err := r.found.pages.Start(ctx, listeners)
	if err != nil {
		return nil, nil, err
	}
	return shared, func() {
		if err := r.found.pages.Shutdown(context.WithoutCancel(ctx)); err != nil {
			r.log.LogAttrs(ctx, slog.LevelWarn, "the web pages", slog.Any("error", err))
		}
	}, nil
}
