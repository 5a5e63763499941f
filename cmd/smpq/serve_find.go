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
	"syscall"
	"time"

	"github.com/smpq/smpq/internal/certs"
	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/config"
	"github.com/smpq/smpq/internal/control"
	"github.com/smpq/smpq/internal/monitor"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/web"
)

// A foundRouter is a router that can be served: what the operator's flags came to.
type foundRouter struct {
	file    string // the configuration
	config  config.Router
	target  *cli.Target
	private bool // of its own PostgreSQL and folder, made by serve
	certs   certs.Loaded
	pages   *web.Server
}

// database returns how to reach the database.
func (r *foundRouter) database() store.Config {
	return store.Config{DSN: r.target.DSN, Schema: r.target.Schema, Application: "smpq serve"}
}

// state returns the name of a file that the router writes.
func (r *foundRouter) state(name string) string {
	folder := filepath.Dir(r.file)
	switch {
	case r.config.Tuning.StateFolder != "":
		folder = r.config.Tuning.StateFolder
	case r.private:
	case os.Getenv(stateVariable) != "":
		folder = os.Getenv(stateVariable)
	case folder == configFolder:
		folder = stateFolder
	}
	return filepath.Join(folder, name)
}

// find reads the configuration. Without --config, a router is made if there is none.
func (s *serveCommand) find(ctx context.Context, target *cli.Target) (*foundRouter, error) {
	r := &foundRouter{file: s.connection.ConfigFile(), target: target}
	file := target.Config
	if file == nil {
		r.private = true
		folder, err := s.connection.DataFolder()
		if err != nil {
			return nil, err
		}
		r.file = filepath.Join(folder, "router", configName)
		if _, err := os.Lstat(r.file); errors.Is(err, fs.ErrNotExist) {
			if s.check {
				return nil, fmt.Errorf("there is no router in %s yet: smpq serve makes one", folder)
			}
			if err := s.makeRouter(ctx, r.file); err != nil {
				return nil, err
			}
		}
		if file, err = config.Load(r.file); err != nil {
			return nil, err
		}
	}
	var (
		warnings []string
		err      error
	)
	r.config, warnings, err = config.Sources{File: file, Environ: os.Environ(), Set: s.settings}.Router()
	if len(r.config.Transport.WebSockets) > 0 {
		warnings = append(warnings, "websockets is not off, but smpq does not listen for WebSockets")
	}
	for _, warning := range append(warnings, r.leftBehind()...) {
		s.console.Log().LogAttrs(ctx, slog.LevelWarn, warning)
	}
	if err == nil {
		err = r.checkStorage()
	}
	return r, err
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
	r := newRouter{file: name, settings: []string{
		"TRANSPORT.host=" + host, "TRANSPORT.port=" + strconv.Itoa(smp.DefaultPort), "AUTH.create_password=" + randomPassword(32),
	}}
	if err := r.prepare(time.Now()); err != nil {
		return err
	}
	if err := r.write(); err != nil {
		return err
	}
	log := s.console.Log()
	log.LogAttrs(ctx, slog.LevelInfo, "a router was set up", slog.String("config", name), slog.String("address", r.result(false).Address))
	log.LogAttrs(ctx, slog.LevelInfo, "clients that create queues need its password, create_password in that file: "+
		"add it to the address as in smp://FINGERPRINT:PASSWORD@HOST")
	return nil
}

// checkStorage refuses a configuration whose queues or messages are elsewhere than
// in PostgreSQL, and says how they get there.
func (r *foundRouter) checkStorage() error {
	c := r.config.StoreLog
	if c.StoreQueues == config.Database && c.StoreMessages == config.Database {
		return nil
	}
	return fmt.Errorf("%s: smpq serves queues and messages from PostgreSQL only, but store_queues is %s and store_messages is %s\n"+
		"This brings them into the database, and changes the two: smpq import all --config %s --state %s --update-config\n"+
		"--dry-run in place of --update-config shows what would be done",
		r.file, c.StoreQueues, c.StoreMessages, r.file, filepath.Dir(r.state(storeLogName)))
}

// leftBehind warns of files of another kind of storage. smp-server would not start.
func (r *foundRouter) leftBehind() (warnings []string) {
	c := r.config.StoreLog
	if c.StoreQueues != config.Database || c.StoreMessages != config.Database {
		return nil // they are no surprise
	}
	exists := func(name string) bool {
		_, err := os.Lstat(name)
		return err == nil
	}
	if name := r.state(storeLogName); !c.DBStoreLog && exists(name) {
		warnings = append(warnings, fmt.Sprintf("%s is not used, as db_store_log is off: smpq inspect compare tells whether the database has its queues; then give it another name", name))
	}
	for _, name := range []string{r.state(messageLogName), r.state(journalName)} {
		if exists(name) {
			warnings = append(warnings, name+" is not used: if it was not imported, messages in it are not in the database")
		}
	}
	return warnings
}

// tryPorts looks, for --check, whether the router could listen. It is no problem if
// it is the router itself that does.
func (s *serveCommand) tryPorts(ctx context.Context, r *foundRouter) error {
	if !s.check {
		return nil
	}
	c := &r.config
	var wrong []error
	running := false
	for _, port := range c.Transport.Ports {
		listeners, err := router.Listen(ctx, []uint16{port}, keepAlive(c))
		for _, l := range listeners {
			err = errors.Join(err, l.Close())
		}
		if errors.Is(err, syscall.EADDRINUSE) && r.answers(ctx, port) {
			s.console.Log().LogAttrs(ctx, slog.LevelInfo, "this router is running", slog.Int("port", int(port)))
			running, err = true, nil
		}
		wrong = append(wrong, err)
	}
	try := func(l net.Listener, err error) {
		switch {
		case err == nil:
			wrong = append(wrong, l.Close())
		case !running || !errors.Is(err, syscall.EADDRINUSE):
			wrong = append(wrong, err)
		}
	}
	if c.Transport.ControlPort != 0 {
		try(control.Listen(ctx, c.Transport.ControlPort))
	}
	if c.Tuning.MonitorAddress != "" {
		try(listenMonitor(ctx, &c.Tuning))
	}
	if r.pages != nil { // nil if something is wrong with them
		for _, port := range r.pages.Ports(c.Transport.Ports) {
			try(web.Listen(ctx, port))
		}
	}
	return errors.Join(wrong...)
}

// listenMonitor returns a listener for the monitor.
func listenMonitor(ctx context.Context, t *config.Tuning) (net.Listener, error) {
	l, err := monitor.Listen(ctx, t.MonitorAddress, t.MonitorPublic)
	switch {
	case errors.Is(err, monitor.ErrPublic):
		return nil, fmt.Errorf("monitor_address: %w: set monitor_public to on if that is wanted", err)
	case err != nil:
		return nil, fmt.Errorf("monitor_address: %w", err)
	}
	return l, nil
}

// answerTimeout is how long a router may take that is asked whether it is there.
const answerTimeout = 5 * time.Second

// answers reports whether it is this router that listens on a port of this machine.
func (r *foundRouter) answers(ctx context.Context, port uint16) bool {
	if r.certs.Identity.IsZero() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	host, err := smp.ParseHost("localhost")
	if err != nil {
		return false
	}
	c, err := client.Dial(ctx, &smp.RouterAddress{Fingerprint: r.certs.Identity, Hosts: []smp.Host{host}, Port: port}, client.Options{})
	if err != nil {
		return false
	}
	c.Close()
	return true
}
