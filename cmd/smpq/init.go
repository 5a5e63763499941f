package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/atomicfile"
	"github.com/smpq/smpq/internal/certs"
	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/config"
	"github.com/smpq/smpq/internal/smp"
)

// configName is the name of a router's configuration file.
const configName = "smp-server.ini"

// addRouterFlag adds the flag --config. The function returns the file that it
// chooses.
func addRouterFlag(cmd *cobra.Command) func() (string, error) {
	file := cmd.Flags().String("config", "", "the router's smp-server.ini, a `file` with the certificates beside it "+
		"(default: "+configName+" in $SMP_SERVER_CFG_PATH, else in /etc/opt/simplex)")
	return func() (string, error) {
		switch {
		case !cmd.Flags().Changed("config"):
			return filepath.Join(cmp.Or(os.Getenv("SMP_SERVER_CFG_PATH"), "/etc/opt/simplex"), configName), nil
		case *file == "":
			return "", cli.UsageErrorf("--config is empty")
		}
		return *file, nil
	}
}

// An initResult says what router was made.
type initResult struct {
	Config      string   `json:"config"`
	Files       []string `json:"files"`
	Fingerprint string   `json:"fingerprint"`
	Address     string   `json:"address"` // with the password only if secrets are shown
	HasPassword bool     `json:"has_password"`
	CAKey       string   `json:"ca_key"` // the file to store elsewhere
}

func newInit(console *cli.Console) *cobra.Command {
	var (
		host                               string
		settings                           []string
		noPassword, password, secrets, yes bool
	)
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Set up a new router: certificates and configuration",
		Long: `Set up a new router: an identity, a certificate for connections, and a
configuration file with all keys, explained. Nothing that is there is touched;
if something fails, nothing is left.

Clients reach the router by the names and addresses of --host; the first is in
the certificate. A random password is made that clients need to create queues,
unless there is to be another one (--password asks for it) or none. What else
the file shall say is said with --set; a control port gets random passwords.

The files are those of smp-server, and are made in the same way. Queues and
messages are kept in PostgreSQL. The key of the authority, ca.key, is not needed
on this machine: store it safely elsewhere, since only with it a new certificate
can be made for the same identity, and delete it here.`,
		Example: `  smpq init --host smp.example.com
  smpq init --host smp.example.com,example.onion --no-password --yes
  smpq init --host 192.0.2.1 --config router/smp-server.ini \
    --set TRANSPORT.port=5223 --set queue_quota=256 --yes`,
		Args: cobra.NoArgs,
	}
	file, out := addRouterFlag(cmd), cli.AddOutputFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&host, "host", "", "`names` by which clients reach the router, with commas between")
	flags.BoolVar(&noPassword, "no-password", false, "let everybody create queues")
	flags.BoolVar(&password, "password", false, "ask for the password to create queues")
	flags.StringArrayVar(&settings, "set", nil, "what the file shall say, a `setting` such as TRANSPORT.port=443, or queue_quota=256 of the section [SMPQ]")
	flags.BoolVar(&secrets, "show-secrets", false, "show the address with the password")
	flags.BoolVar(&yes, "yes", false, "do not ask whether to make the files")
	cmd.MarkFlagsMutuallyExclusive("password", "no-password")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		name, err := file()
		if err != nil {
			return err
		}
		if host == "" {
			return cli.UsageErrorf("missing --host, the name or the address by which clients reach the router")
		}
		r := newRouter{file: name, settings: []string{"TRANSPORT.host=" + host}}
		switch {
		case password:
			text, err := console.Password(ctx, "Password to create queues")
			if err != nil {
				return err
			}
			r.set("AUTH.create_password", text)
		case !noPassword:
			r.set("AUTH.create_password", randomPassword(32))
		}
		r.settings = append(r.settings, settings...)
		if err := r.prepare(time.Now()); err != nil {
			return err
		}
		if err := console.Confirm(ctx, yes, fmt.Sprintf("Make a new router in %s?", filepath.Dir(name))); err != nil {
			return err
		}
		if err := r.write(); err != nil {
			return err
		}
		result := r.result(secrets)
		r.advise(ctx, console.Log())
		return out.Write(cmd.OutOrStdout(), result, initTable(result))
	}
	return cmd
}

// randomPassword returns the text of random bytes, as smp-server makes passwords.
func randomPassword(size int) string {
	b := make([]byte, size)
	rand.Read(b) // never fails
	return base64.URLEncoding.EncodeToString(b)
}

// A newRouter is a router that is to be set up.
type newRouter struct {
	file     string   // for the configuration
	settings []string // that differ from those of every new router; later ones count

	// Set by prepare.
	config   config.Router
	files    []atomicfile.Content
	identity smp.Fingerprint
}

// initialSettings are those of every new router: as smp-server sets them, but for
// the database.
var initialSettings = []string{
	"STORE_LOG.enable=on",
	"STORE_LOG.store_queues=" + config.Database,
	"STORE_LOG.store_messages=" + config.Database,
	"STORE_LOG.expire_messages_on_send=off",
	"TRANSPORT.port=5223,443",
	"TRANSPORT.websockets=off",
	"INACTIVE_CLIENTS.disconnect=on",
	"INACTIVE_CLIENTS.ttl=21600",
	"INACTIVE_CLIENTS.check_interval=3600",
}

func (r *newRouter) set(key, value string) { r.settings = append(r.settings, key+"="+value) }

// prepare makes up all files. Nothing is written. Wrong settings are wrong usage.
func (r *newRouter) prepare(now time.Time) error {
	if _, err := os.Lstat(r.file); err == nil {
		return fmt.Errorf("%s exists: this router is set up already", r.file)
	}
	if err := r.configure(); err != nil {
		return err
	}
	if c := r.config; c.Transport.ControlPort != 0 && c.Auth.ControlPortAdmin.IsZero() && c.Auth.ControlPortUser.IsZero() {
		r.set("AUTH.control_port_admin_password", randomPassword(18))
		r.set("AUTH.control_port_user_password", randomPassword(18))
		if err := r.configure(); err != nil {
			return err
		}
	}
	text, err := config.Compose(r.all())
	if err != nil {
		return cli.UsageErrorf("%w", err)
	}
	if r.files, r.identity, err = certs.New(filepath.Dir(r.file), r.config.Transport.Hosts[0].String(), now); err != nil {
		return err
	}
	// It comes last: a router with a configuration has everything.
	r.files = append(r.files, atomicfile.Content{Name: r.file, Mode: 0o600, Data: text})
	return nil
}

// all returns all settings.
func (r *newRouter) all() []string { return slices.Concat(initialSettings, r.settings) }

// configure reads the settings.
func (r *newRouter) configure() (err error) {
	if r.config, _, err = (config.Sources{Set: r.all()}).Router(); err != nil {
		return cli.UsageErrorf("%w", err)
	}
	if len(r.config.Transport.Hosts) == 0 {
		return cli.UsageErrorf("no host is named by which clients reach the router")
	}
	return nil
}

// write makes the files, and the folder if need be.
func (r *newRouter) write() error {
	folder := filepath.Dir(r.file)
	err := os.MkdirAll(folder, 0o755) //nolint:gosec // what is secret in it has its own mode
	if err == nil {
		err = atomicfile.PlaceAll(r.files)
	}
	if err != nil {
		return fmt.Errorf("set up a router in %s, where nothing was changed: %w", folder, err)
	}
	return nil
}

func (r *newRouter) result(secrets bool) initResult {
	a := routerAddress(&r.config, r.identity)
	result := initResult{
		Config: r.file, Fingerprint: r.identity.String(), Address: a.String(), HasPassword: !a.Password.IsZero(),
		CAKey: filepath.Join(filepath.Dir(r.file), certs.CAKeyFile),
	}
	if secrets {
		result.Address = string(a.AppendReveal(nil))
	}
	for _, f := range r.files {
		result.Files = append(result.Files, f.Name)
	}
	return result
}

// routerAddress returns the address of a router that has hosts.
func routerAddress(c *config.Router, identity smp.Fingerprint) *smp.RouterAddress {
	a := &smp.RouterAddress{Fingerprint: identity, Password: c.Auth.CreatePassword, Hosts: c.Transport.Hosts}
	if ports := c.Transport.Ports; !slices.Contains(ports, smp.DefaultPort) {
		a.Port = ports[0]
	}
	return a
}

// advise tells what is to be done now.
func (r *newRouter) advise(ctx context.Context, log *slog.Logger) {
	log.LogAttrs(ctx, slog.LevelWarn, "store the key of the authority safely elsewhere and delete it here: who gets it can pretend to be this router, "+
		"and without it no new certificate can be made", slog.String("file", filepath.Join(filepath.Dir(r.file), certs.CAKeyFile)))
	if r.config.Information.SourceCode == "" {
		log.LogAttrs(ctx, slog.LevelInfo, "the source code of the router is not named: source_code in section [INFORMATION]")
	}
}

func initTable(r initResult) cli.Table {
	t := pairs{}
	t.add("configuration", r.Config)
	for _, f := range r.Files {
		if f != r.Config {
			t.add("file", f)
		}
	}
	t.add("fingerprint", r.Fingerprint)
	t.add("address", r.Address)
	if r.HasPassword {
		t.add("new queues", "with the password create_password of the configuration")
	} else {
		t.add("new queues", "by everybody")
	}
	return t.table()
}
