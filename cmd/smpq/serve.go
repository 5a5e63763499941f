package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/certs"
	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/config"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

// stopTimeout is how long commands may take that are under way when the router stops.
const stopTimeout = 20 * time.Second

func newServe(console *cli.Console) *cobra.Command {
	s := serveCommand{console: console}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the router",
		Long: `Run the router that --config describes: smp-server.ini, with the certificates
beside it and the queues in PostgreSQL. What the file says can be changed by
variables (SMPQ_…) and by --set.

Without --config, a router of your own is served, on the private local
PostgreSQL: what it needs is made in the folder of --data the first time.

It runs until SIGTERM or SIGINT: then it accepts nothing more, finishes what it
has begun, and ends with status 0. Another signal ends it at once.

--check looks whether all is well, as far as that can be seen without serving.`,
		Example: `  smpq serve --config /etc/opt/simplex/smp-server.ini
  smpq serve --config /etc/opt/simplex/smp-server.ini --check
  smpq serve --data ~/router --set TRANSPORT.port=5223`,
		Args: cobra.NoArgs,
	}
	s.connection = console.AddConnectionFlags(cmd)
	s.connection.MayMake()
	flags := cmd.Flags()
	flags.BoolVar(&s.check, "check", false, "look whether all is well, and serve nobody")
	flags.StringArrayVar(&s.settings, "set", nil, "change what the file says by a `setting` such as TRANSPORT.port=443, or queue_quota=256 of the section [SMPQ]")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return s.run(cmd.Context()) }
	return cmd
}

type serveCommand struct {
	console    *cli.Console
	connection *cli.Connection
	settings   []string
	check      bool
}

func (s *serveCommand) run(ctx context.Context) (err error) {
	target, err := s.connection.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close(ctx)) }()
	name, file, err := s.file(ctx, target)
	if err != nil {
		return err
	}
	c, err := s.configuration(ctx, name, file)
	if err != nil {
		return err
	}
	loaded, err := certs.Load(filepath.Dir(name), time.Now())
	if err != nil {
		return certHint(err, name)
	}
	for _, warning := range loaded.Warnings {
		s.console.Log().LogAttrs(ctx, slog.LevelWarn, warning)
	}
	database := store.Config{DSN: target.DSN, Schema: target.Schema, Application: "smpq serve"}
	if err := s.prepare(ctx, database, target); err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	if s.check {
		s.console.Log().LogAttrs(ctx, slog.LevelInfo, "all is well", slog.String("identity", loaded.Identity.String()), slog.String("database", target.String()))
		return nil
	}
	queues, err := store.Open(ctx, store.Options{
		Config: database, Log: s.console.Log(), CacheSize: cacheSize, Quota: c.Tuning.QueueQuota, Connections: c.StoreLog.DBPoolSize,
	})
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	defer queues.Close()
	return s.serve(ctx, &c, loaded, queues)
}

// cacheSize is the memory in bytes for queues that are kept.
const cacheSize = 256 << 20

// file returns the configuration file, which is made if there is no --config.
func (s *serveCommand) file(ctx context.Context, target *cli.Target) (name string, _ *config.File, err error) {
	if target.Config != nil {
		return s.connection.ConfigFile(), target.Config, nil
	}
	folder, err := s.connection.DataFolder()
	if err != nil {
		return "", nil, err
	}
	name = filepath.Join(folder, "router", configName)
	if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		if err := s.makeRouter(ctx, name); err != nil {
			return "", nil, err
		}
	}
	file, err := config.Load(name)
	return name, file, err
}

// makeRouter sets up a router for this machine.
func (s *serveCommand) makeRouter(ctx context.Context, name string) error {
	host, err := os.Hostname()
	if err == nil {
		_, err = smp.ParseHost(host)
	}
	if err != nil {
		host = "localhost"
	}
	r := newRouter{file: name, settings: []string{"TRANSPORT.host=" + host, "TRANSPORT.port=" + strconv.Itoa(smp.DefaultPort)}}
	if err := r.prepare(time.Now()); err != nil {
		return err
	}
	if err := r.write(); err != nil {
		return err
	}
	s.console.Log().LogAttrs(ctx, slog.LevelInfo, "a router was set up", slog.String("config", name), slog.String("address", r.result(false).Address))
	return nil
}

// configuration reads what the router is to be like.
func (s *serveCommand) configuration(ctx context.Context, name string, file *config.File) (config.Router, error) {
	c, warnings, err := config.Sources{File: file, Environ: os.Environ(), Set: s.settings}.Router()
	for _, warning := range warnings {
		s.console.Log().LogAttrs(ctx, slog.LevelWarn, warning)
	}
	if err != nil {
		return c, err
	}
	if c.StoreLog.StoreQueues != config.Database || c.StoreLog.StoreMessages != config.Database {
		return c, fmt.Errorf("%s: smpq serves queues and messages from PostgreSQL only, these are kept in %s and %s\n"+
			"This brings the queues into the database: smpq import storelog FILE --config %s\n"+
			"Then set store_queues and store_messages to %s", name, c.StoreLog.StoreQueues, c.StoreLog.StoreMessages, name, config.Database)
	}
	return c, nil
}

// prepare looks at the schema. The private PostgreSQL gets one.
func (s *serveCommand) prepare(ctx context.Context, database store.Config, target *cli.Target) error {
	conn, err := store.Connect(ctx, database)
	if err != nil {
		return err
	}
	found, err := store.OpenSchema(ctx, conn, database.Schema)
	if errors.Is(err, schema.ErrMissing) && target.Config == nil && !s.check {
		found, err = makeSchema(ctx, conn, database.Schema)
	}
	if err == nil && !found.HasMessages() {
		err = fmt.Errorf("schema %s has version %s, which has no messages; run smpq migrate up first", found.Name, found.Version)
	}
	return errors.Join(err, disconnect(ctx, conn))
}

// makeSchema makes a schema.
func makeSchema(ctx context.Context, conn *pgx.Conn, name string) (store.Schema, error) {
	if _, err := schema.Migrate(ctx, conn, name, schema.Newest, schema.Options{}); err != nil {
		return store.Schema{}, err
	}
	return store.OpenSchema(ctx, conn, name)
}

// serve serves clients until ctx ends.
func (s *serveCommand) serve(ctx context.Context, c *config.Router, loaded certs.Loaded, queues *store.Store) error {
	r, err := router.New(routerOptions(c, loaded, queues, s.console.Log()))
	if err != nil {
		return err
	}
	listeners, err := listen(ctx, c.Transport.Ports)
	if err != nil {
		return errors.Join(err, r.Shutdown(ctx))
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var serving sync.WaitGroup
	for _, l := range listeners {
		s.console.Log().LogAttrs(ctx, slog.LevelInfo, "serving", slog.String("address", l.Addr().String()), slog.String("identity", loaded.Identity.String()))
		serving.Go(func() {
			if err := r.Serve(ctx, l); err != nil {
				stop(err)
			}
		})
	}
	<-ctx.Done()
	s.console.Log().LogAttrs(ctx, slog.LevelInfo, "stopping")
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err = r.Shutdown(limited)
	serving.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, cli.ErrInterrupted) && !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	return err
}

// listen returns listeners for all addresses of the machine.
func listen(ctx context.Context, ports []uint16) (listeners []net.Listener, err error) {
	var lc net.ListenConfig
	for _, port := range ports {
		l, err := lc.Listen(ctx, "tcp", ":"+strconv.Itoa(int(port)))
		if err != nil {
			for _, l := range listeners {
				_ = l.Close()
			}
			return nil, err
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// routerOptions returns what the configuration says of the router.
func routerOptions(c *config.Router, loaded certs.Loaded, queues *store.Store, log *slog.Logger) router.Options {
	o := router.Options{
		Store: queues, Credentials: loaded.Credentials, Versions: c.Tuning.Versions, Log: log,
		Password: c.Auth.CreatePassword, NoNewQueues: !c.Auth.NewQueues, NoServices: !c.Transport.AcceptServiceCredentials,
		IDAttempts: c.Tuning.IDAttempts, MessageTTL: c.StoreLog.ExpireMessages, DeletedTTL: c.StoreLog.DBDeletedTTL,
		ExpireInterval: c.Tuning.ExpireInterval, ExpireOnSend: c.StoreLog.ExpireMessagesOnSend,
		EndInterval: c.Tuning.EndInterval, NotifyInterval: c.Tuning.NotificationInterval, NotificationTTL: c.StoreLog.ExpireNotifications,
		Proxy: router.ProxyOptions{
			Disabled: !c.Tuning.ProxyRole, Concurrency: c.Proxy.ClientConcurrency,
			ConnectTimeout: c.Tuning.ProxyConnectTimeout, ResponseTimeout: c.Tuning.ProxyResponseTimeout, ErrorMemory: c.Tuning.ProxyErrorTTL,
			Socks: c.Proxy.SOCKS.Address(), PreferOnion: c.Proxy.PreferOnion, RequirePreferred: c.Proxy.RequiredHostMode,
			OwnDomains: c.Proxy.OwnServerDomains,
		},
	}
	if c.InactiveClients.Disconnect {
		o.InactiveTTL, o.InactiveCheck = c.InactiveClients.TTL, c.InactiveClients.CheckInterval
	}
	return o
}
