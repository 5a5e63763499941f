package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/atomicfile"
	"github.com/smpq/smpq/internal/certs"
	"github.com/smpq/smpq/internal/cli"
)

func newCert() *cobra.Command {
	return cli.Group("cert", "Show and renew the certificates of a router", newCertShow(), newCertRotate())
}

// certHint returns an error about certificates with the command that mends it, if
// one does.
func certHint(err error, config string) error {
	if !errors.Is(err, certs.ErrOnline) {
		return err
	}
	return fmt.Errorf("%w\nThis makes another certificate for the same identity: smpq cert rotate --config %s", err, config)
}

func newCertShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the certificates of a router, and what is wrong with them",
		Long: `Show the certificates of a router, and what is wrong with them: whether they are
valid, belong together and to the fingerprint, can be used by smpq, and whether
keys are where they should not be. The exit status is 1 if a router could not
use them.`,
		Example: `  smpq cert show
  smpq cert show --config router/smp-server.ini -o json`,
		Args: cobra.NoArgs,
	}
	file, out := addRouterFlag(cmd), cli.AddOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		config, err := file()
		if err != nil {
			return err
		}
		r, problems := certs.Inspect(filepath.Dir(config), time.Now())
		if err := out.Write(cmd.OutOrStdout(), r, certTable(r)); err != nil {
			return err
		}
		if problems != nil {
			return certHint(fmt.Errorf("a router cannot use these certificates: %w", problems), config)
		}
		return nil
	}
	return cmd
}

func certTable(r certs.Report) cli.Table {
	t := pairs{}
	t.add("folder", r.Folder)
	t.add("fingerprint", orNone(r.Fingerprint))
	t.certificate("for connections", r.Server)
	t.certificate("authority", r.CA)
	if r.CAKey {
		t.add("authority's key", "in the folder")
	} else {
		t.add("authority's key", "not in the folder")
	}
	for _, p := range r.Problems {
		t.add("problem", p)
	}
	for _, w := range r.Warnings {
		t.add("warning", w)
	}
	return t.table()
}

func (t *pairs) certificate(name string, c *certs.Certificate) {
	if c == nil {
		t.add(name, "none")
		return
	}
	t.add(name, c.File)
	t.add("  subject", c.Subject)
	t.add("  issuer", c.Issuer)
	t.add("  key", c.Algorithm)
	t.add("  serial", c.Serial)
	t.add("  valid", c.NotBefore.Format(time.DateTime)+" to "+c.NotAfter.Format(time.DateTime)+" UTC")
	t.add("  SHA-256", c.SHA256)
}

// A rotateResult says what became of a certificate.
type rotateResult struct {
	Fingerprint string    `json:"fingerprint"`
	Name        string    `json:"name"`
	Serial      string    `json:"serial"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Certificate string    `json:"certificate"`
	Key         string    `json:"key"`
	Kept        []string  `json:"kept,omitempty"`
}

func newCertRotate() *cobra.Command {
	var o certs.RotateOptions
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Make a new certificate for the connections of a router",
		Long: `Make a new certificate for the connections of a router, with a new Ed25519 key,
signed with the key of its authority. The identity of the router stays, and with
it its address: clients notice nothing. The old certificate and its key are kept
under names that end in the time and ".bak".

The key of the authority is ca.key beside the configuration, or the file of
--ca-key, which can be on another medium. It may be an Ed448 key, as routers
have that were set up before 2024: they get a certificate that smpq can use.

If it fails, nothing has changed. A running router takes the new certificate
when it is started again.`,
		Example: `  smpq cert rotate
  smpq cert rotate --config router/smp-server.ini --ca-key /media/stick/ca.key`,
		Args: cobra.NoArgs,
	}
	file, out := addRouterFlag(cmd), cli.AddOutputFlag(cmd)
	cmd.Flags().StringVar(&o.CAKey, "ca-key", "", "`file` with the key of the authority (default: ca.key beside the configuration)")
	cmd.Flags().StringVar(&o.Name, "name", "", "`name` in the certificate (default: that in the old one)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		config, err := file()
		if err != nil {
			return err
		}
		o.Now = time.Now()
		r, err := certs.Rotate(filepath.Dir(config), o)
		switch {
		case errors.Is(err, certs.ErrName):
			return fmt.Errorf("%w: say --name", err)
		case errors.Is(err, atomicfile.ErrLocked):
			return cli.WithCode(cli.ExitUnavailable, err)
		case err != nil:
			return err
		}
		result := rotateResult{
			Fingerprint: r.Identity.String(), Name: r.Name, Serial: hex.EncodeToString(r.Serial.Bytes()), NotBefore: r.NotBefore, NotAfter: r.NotAfter,
			Certificate: r.Certificate, Key: r.Key, Kept: r.Kept,
		}
		return out.Write(cmd.OutOrStdout(), result, rotateTable(result))
	}
	return cmd
}

func rotateTable(r rotateResult) cli.Table {
	t := pairs{}
	t.add("fingerprint", r.Fingerprint+" (as before)")
	t.add("name", r.Name)
	t.add("serial", r.Serial)
	t.add("valid", r.NotBefore.Format(time.DateTime)+" to "+r.NotAfter.Format(time.DateTime)+" UTC")
	t.add("certificate", r.Certificate)
	t.add("key", r.Key)
	for _, k := range r.Kept {
		t.add("kept", k)
	}
	return t.table()
}
