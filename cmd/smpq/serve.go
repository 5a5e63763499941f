package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/certs"
	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/config"
	"github.com/smpq/smpq/internal/monitor"
	"github.com/smpq/smpq/internal/ntflog"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

func newServe(console *cli.Console) *cobra.Command {
	s := serveCommand{console: console}
	var cacheSize string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the router",
		Long: `Run the router that --config describes: smp-server.ini, with the certificates
beside it and the queues in PostgreSQL. What the file says can be changed by
variables (SMPQ_…) and by --set.

Without --config, a router of your own is served, on the private local
PostgreSQL: what it needs is made in the folder of --data the first time.

It runs until SIGTERM or SIGINT: then it accepts nothing more, finishes what it
has begun, and ends with status 0. Another signal ends it at once, with status
130. SIGHUP makes it read its certificates again.

--check looks whether all is well, as far as that can be seen without serving.
--maintenance does the work of a start and a stop, and serves nobody: it removes
old messages, and queues that were deleted long ago.`,
		Example: `  smpq serve --config /etc/opt/simplex/smp-server.ini
  smpq serve --config /etc/opt/simplex/smp-server.ini --check
  smpq serve --data ~/router --set TRANSPORT.port=5223
  smpq serve --data ~/router --set monitor_address=127.0.0.1:5226`,
		Args: cobra.NoArgs,
	}
	s.connection = console.AddConnectionFlags(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&s.check, "check", false, "look whether all is well, and serve nobody")
	flags.BoolVar(&s.maintenance, "maintenance", false, "remove what is old, and serve nobody")
	flags.StringArrayVar(&s.settings, "set", nil, "change what the file says by a `setting` such as TRANSPORT.port=443, or queue_quota=256 of the section [SMPQ]")
	flags.StringVar(&cacheSize, "cache-size", "", "memory for queues that were used lately, a `size` such as 512MiB or 10%; 0 for none (default: that of the file, else 10%)")
	console.AddLogFlags(cmd)
	cmd.MarkFlagsMutuallyExclusive("check", "maintenance")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if flags.Changed("cache-size") {
			s.settings = append(s.settings, "cache_size="+cacheSize)
		}
		return endAtOnce(cmd.Context(), s.run)
	}
	return cmd
}

type serveCommand struct {
	console     *cli.Console
	connection  *cli.Connection
	settings    []string
	check       bool
	maintenance bool
}

// sameSignal is within what time two signals are taken for one: some programs send
// them to a process and then to its group as well.
const sameSignal = 250 * time.Millisecond

// endAtOnce does work that the first signal ends in order, by way of ctx. At the
// second one it returns though the work goes on: the process is to end.
func endAtOnce(ctx context.Context, work func(context.Context) error) error {
	signals := slices.DeleteFunc([]os.Signal{syscall.SIGINT, syscall.SIGTERM}, signal.Ignored)
	came := make(chan os.Signal, 1)
	if len(signals) > 0 { // none would mean all
		signal.Notify(came, signals...)
		defer signal.Stop(came)
	}
	done := make(chan error, 1)
	go func() { done <- work(ctx) }()
	var first time.Time
	for {
		select {
		case err := <-done:
			return err
		case <-came:
		}
		switch now := time.Now(); {
		case first.IsZero():
			first = now
		case now.Sub(first) > sameSignal:
			return fmt.Errorf("not all that was begun is finished: %w", cli.ErrInterrupted)
		}
	}
}

func (s *serveCommand) run(ctx context.Context) (err error) {
	if !s.check {
		s.connection.MayMake()
	}
	target, err := s.connection.Open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close(ctx)) }()
	r, err := s.find(ctx, target)
	if err != nil {
		return err
	}
	if err := s.examine(ctx, r); err != nil {
		return err
	}
	if s.check {
		s.console.Log().LogAttrs(ctx, slog.LevelInfo, "all is well",
			slog.String("identity", r.certs.Identity.String()), slog.String("database", target.String()))
		return nil
	}
	return s.work(ctx, r)
}

// examine reads the certificates and looks at all else that a router needs. With
// --check, the error joins all that is wrong.
func (s *serveCommand) examine(ctx context.Context, r *foundRouter) error {
	var wrong []error
	for _, look := range []func(context.Context, *foundRouter) error{s.readCertificates, s.makePages, s.prepare, s.tryPorts} {
		if err := look(ctx, r); err != nil {
			wrong = append(wrong, err)
			if !s.check || ctx.Err() != nil {
				break
			}
		}
	}
	return errors.Join(wrong...)
}

// readCertificates loads the certificates, and tells what an operator should know of
// them.
func (s *serveCommand) readCertificates(ctx context.Context, r *foundRouter) error {
	loaded, err := certs.Load(filepath.Dir(r.file), time.Now())
	if err != nil {
		return certHint(err, r.file)
	}
	for _, warning := range loaded.Warnings {
		s.console.Log().LogAttrs(ctx, slog.LevelWarn, warning)
	}
	r.certs = loaded
	return nil
}

// prepare looks at the schema. The private PostgreSQL gets one.
func (s *serveCommand) prepare(ctx context.Context, r *foundRouter) error {
	err := s.prepareSchema(ctx, r)
	if err != nil {
		return fmt.Errorf("%s: %w", r.target, err)
	}
	return nil
}

func (s *serveCommand) prepareSchema(ctx context.Context, r *foundRouter) error {
	conn, err := store.Connect(ctx, r.database())
	if err != nil {
		return err
	}
	found, err := store.OpenSchema(ctx, conn, r.target.Schema)
	if errors.Is(err, schema.ErrMissing) && r.private && !s.check {
		found, err = makeSchema(ctx, conn, r.target.Schema)
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

// unknownMemory stands for the memory of a machine that does not tell how much it
// has.
const unknownMemory = 2 << 30

// work opens the store and serves, or does what is to be done without clients.
func (s *serveCommand) work(ctx context.Context, r *foundRouter) error {
	limit := cli.NewLogLimit(s.console.Log().Handler())
	defer runBeside(context.WithoutCancel(ctx), limit.Run)()
	log := slog.New(limit)
	memory := monitor.Memory()
	if memory == 0 {
		memory = unknownMemory
	}
	options := store.Options{
		Config: r.database(), Log: log, CacheSize: r.config.Tuning.CacheSize.Of(memory), Quota: r.config.Tuning.QueueQuota,
		Connections: r.config.StoreLog.DBPoolSize, Pooled: r.config.Tuning.DBPooled,
	}
	if r.config.StoreLog.DBStoreLog {
		options.StoreLog = r.state(storeLogName)
	}
	queues, err := store.Open(ctx, options)
	if err != nil {
		return fmt.Errorf("%s: %w", r.target, err)
	}
	defer queues.Close()
	o := routerOptions(r, queues, log)
	if s.maintenance {
		return maintain(ctx, o)
	}
	running := &runningRouter{found: r, queues: queues, limit: limit, log: log}
	return running.serve(ctx, o)
}

// runBeside starts what runs until its context ends. The function that it returns
// ends it, and waits for it.
func runBeside(ctx context.Context, run func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

// maintain does the work of a start and a stop.
func maintain(ctx context.Context, o router.Options) error {
	o.ExpireOnStart = false
	r, err := router.New(o) //nolint:contextcheck // what it restores must not be left half done
	if err != nil {
		return err
	}
	err = r.Expire(ctx)
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return errors.Join(err, r.Shutdown(stopping))
}

// routerOptions returns what the configuration says of the router.
func routerOptions(found *foundRouter, queues *store.Store, log *slog.Logger) router.Options {
	c, t := &found.config, &found.config.Tuning
	o := router.Options{
		Store: queues, Credentials: found.certs.Credentials, Versions: t.Versions, Log: log, LogTLSErrors: c.Transport.LogTLSErrors,
		Password: c.Auth.CreatePassword, NoNewQueues: !c.Auth.NewQueues, NoServices: !c.Transport.AcceptServiceCredentials,
		IDAttempts: t.IDAttempts, MessageTTL: c.StoreLog.ExpireMessages, DeletedTTL: c.StoreLog.DBDeletedTTL,
		ExpireInterval: t.ExpireInterval, ExpireOnSend: c.StoreLog.ExpireMessagesOnSend, ExpireOnStart: c.StoreLog.ExpireMessagesStart,
		Output: t.SendQueue * smp.BlockSize, Limits: limits(t),
		TLSTimeout: t.TLSTimeout, HandshakeTimeout: t.HandshakeTimeout, BlockTimeout: t.BlockTimeout, CloseTimeout: t.CloseTimeout,
		EndInterval: t.EndInterval, NotifyInterval: t.NotificationInterval, NotificationTTL: c.StoreLog.ExpireNotifications,
		NotificationExpireInterval: t.NotificationExpireInterval, ExpireBatch: t.ExpireBatch,
		Proxy: proxyOptions(c),
	}
	if c.StoreLog.RestoreMessages {
		o.NotificationLog = found.state(ntflog.Name)
	}
	if c.InactiveClients.Disconnect {
		o.InactiveTTL, o.InactiveCheck = c.InactiveClients.TTL, c.InactiveClients.CheckInterval
	}
	return o
}

// limits returns what the configuration says against those who use too much.
func limits(t *config.Tuning) router.Limits {
	return router.Limits{
		Connections: t.MaxConnections, ConnectionsPerAddress: t.MaxConnectionsPerAddress, Commands: t.MaxCommands,
		Handshakes: router.Rate(t.HandshakeRate), HandshakesPerAddress: router.Rate(t.HandshakeRatePerAddress),
		NewQueues: router.Rate(t.NewQueueRate), NewQueuesPerClient: router.Rate(t.NewQueueRatePerClient),
	}
}

// proxyOptions returns what the configuration says of the proxy role.
func proxyOptions(c *config.Router) router.ProxyOptions {
	socks := c.Proxy.SOCKS
	return router.ProxyOptions{
		Disabled: !c.Tuning.ProxyRole, Concurrency: c.Proxy.ClientConcurrency,
		ConnectTimeout: c.Tuning.ProxyConnectTimeout, ResponseTimeout: c.Tuning.ProxyResponseTimeout, ErrorMemory: c.Tuning.ProxyErrorTTL,
		Socks: socks.Address(), SocksAlways: c.Proxy.SOCKSAlways, SocksUser: socks.User, SocksPassword: socks.Password(), SocksIsolate: socks.Isolate,
		PreferOnion: c.Proxy.PreferOnion, RequirePreferred: c.Proxy.RequiredHostMode, OwnDomains: c.Proxy.OwnServerDomains,
		Deny: c.Tuning.ProxyDeny, MaxRelays: c.Tuning.ProxyMaxRelays,
		SendQueue: c.Tuning.ProxySendQueue, EventQueue: c.Tuning.ProxyEventQueue,
		CheckInterval: c.Tuning.ProxyCheckInterval, MaxTimeouts: c.Tuning.ProxyMaxTimeouts, MaxSilence: c.Tuning.ProxyMaxSilence,
		KeepAlive: net.KeepAliveConfig{
			Enable: true, Idle: c.Tuning.ProxyKeepaliveIdle, Interval: c.Tuning.ProxyKeepaliveInterval, Count: c.Tuning.ProxyKeepaliveCount,
		},
	}
}

// keepAlive says when TCP finds the connection of a client to be dead.
func keepAlive(c *config.Router) net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: c.Tuning.KeepaliveIdle, Interval: c.Tuning.KeepaliveInterval, Count: c.Tuning.KeepaliveCount}
}
