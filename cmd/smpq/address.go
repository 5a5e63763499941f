package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/smpq/smpq/internal/cli"
	"github.com/smpq/smpq/internal/smp"
)

func newAddress() *cobra.Command {
	return cli.Group("address", "Read addresses of routers and queues, and links",
		newAddressShow(), newAddressParse())
}

func newAddressShow() *cobra.Command {
	var secrets bool
	cmd := &cobra.Command{
		Use:   "show ADDRESS",
		Short: "Show what an address or a link contains",
		Long: `Show what an address or a link contains: that of a router or a queue (smp://),
an invitation or a contact address, or a short link (simplex:/ or https://).
Nothing is looked up: what a short link leads to is not in it.

Of a short link, the id is shown by which its router knows it, also where only
the key is in the link. Passwords and keys of links are left out without
--show-secrets.`,
		Example: `  smpq address show smp://LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI=@smp.org
  smpq address show simplex:/a#MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY`,
		Args: cobra.ExactArgs(1),
	}
	out := cli.AddOutputFlag(cmd)
	cmd.Flags().BoolVar(&secrets, "show-secrets", false, "show passwords and keys of links")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		a, err := parseAddress(args[0])
		if err != nil {
			return err
		}
		r := describeAddress(a, secrets)
		return out.Write(cmd.OutOrStdout(), r, addressTable(r))
	}
	return cmd
}

func newAddressParse() *cobra.Command {
	return &cobra.Command{
		Use:   "parse ADDRESS",
		Short: "Check an address or a link and print its canonical form",
		Long: `Check an address or a link, of any kind that "smpq address show" knows, and
print its canonical form. Two addresses with the same form say the same.

What is printed is the whole address, with the password or the key of a link
that is in it.`,
		Example: `  smpq address parse smp://LcJUMfVhwD8yxjAiSaDzzGF3-kLG4Uh0Fl_ZIjrRwjI@smp.org`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := parseAddress(args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", a.AppendReveal(nil))
			return err
		},
	}
}

// parseAddress reads an address that the operator names. It may have secrets in
// it, so that errors do not repeat it.
func parseAddress(text string) (smp.Address, error) {
	a, err := smp.ParseAddress(text)
	if err != nil {
		return nil, cli.UsageErrorf("wrong address: %w", err)
	}
	return a, nil
}

// An addressResult is what an address contains.
type addressResult struct {
	Kind        string          `json:"kind"` // router, queue, invitation, contact or short-link
	HasPassword bool            `json:"has_password"`
	Password    string          `json:"password,omitempty"`
	Site        string          `json:"site,omitempty"`
	Router      *addressRouter  `json:"router,omitempty"`
	Link        *addressLink    `json:"link,omitempty"`
	Versions    string          `json:"versions,omitempty"`
	Queues      []*addressQueue `json:"queues,omitempty"`
	E2E         string          `json:"e2e,omitempty"`
	Data        string          `json:"data,omitempty"`
}

type addressRouter struct {
	Fingerprint string        `json:"fingerprint,omitempty"`
	Hosts       []addressHost `json:"hosts"`
	Port        int           `json:"port"`
}

type addressHost struct {
	Host string `json:"host"`
	Kind string `json:"kind"`
}

type addressLink struct {
	Type string       `json:"type"`
	ID   smp.EntityID `json:"id"`
	Key  string       `json:"key,omitempty"`
}

type addressQueue struct {
	Router   addressRouter `json:"router"`
	SenderID smp.EntityID  `json:"sender_id"`
	Mode     string        `json:"mode"`
	Versions string        `json:"versions"`
	DHKey    smp.PublicKey `json:"dh_key"`
}

func describeAddress(a smp.Address, secrets bool) addressResult {
	switch a := a.(type) {
	case *smp.RouterAddress:
		r := addressResult{Kind: "router", HasPassword: !a.Password.IsZero(), Router: describeRouter(a)}
		if secrets {
			r.Password = a.Password.Reveal()
		}
		return r
	case *smp.QueueAddress:
		return addressResult{Kind: "queue", Queues: []*addressQueue{describeQueueAddress(a)}}
	case *smp.ConnectionLink:
		r := addressResult{Kind: string(a.Kind), Site: a.Site.String(), Versions: a.Versions.String(), E2E: a.E2E, Data: a.Data}
		for _, q := range a.Queues {
			r.Queues = append(r.Queues, describeQueueAddress(q))
		}
		return r
	case *smp.ShortLink:
		router := describeRouter(&smp.RouterAddress{Fingerprint: a.Fingerprint, Hosts: a.Hosts, Port: a.Port})
		link := addressLink{Type: a.Type.String(), ID: a.ID()}
		if secrets {
			link.Key = a.Key.Reveal()
		}
		return addressResult{Kind: "short-link", Router: router, Link: &link}
	}
	return addressResult{}
}

func describeRouter(a *smp.RouterAddress) *addressRouter {
	r := &addressRouter{
		Fingerprint: a.Fingerprint.String(),
		Hosts:       make([]addressHost, 0, len(a.Hosts)),
		Port:        int(a.PortOrDefault()),
	}
	for _, h := range a.Hosts {
		r.Hosts = append(r.Hosts, addressHost{h.String(), h.Kind().String()})
	}
	return r
}

func describeQueueAddress(a *smp.QueueAddress) *addressQueue {
	return &addressQueue{
		Router: *describeRouter(&a.Router), SenderID: a.SenderID, Mode: a.Mode.String(),
		Versions: a.Versions.String(), DHKey: a.DHKey,
	}
}

func addressTable(r addressResult) cli.Table {
	t := pairs{}
	t.add("kind", r.Kind)
	if r.Site != "" {
		t.add("site", r.Site)
	}
	if r.Versions != "" {
		t.add("agent versions", r.Versions)
	}
	if l := r.Link; l != nil {
		t.add("leads to", l.Type)
		t.add("link id", l.ID.String())
		t.secret("link key", l.Key)
	}
	if r.Router != nil {
		t.router(r.Router)
	}
	if r.HasPassword {
		t.secret("password", r.Password)
	}
	for i, q := range r.Queues {
		if len(r.Queues) > 1 {
			t.add("", "")
			t.add("queue", strconv.Itoa(i+1))
		}
		t.router(&q.Router)
		t.add("sender id", q.SenderID.String())
		t.add("mode", q.Mode)
		t.add("client versions", q.Versions)
		t.add("recipient DH key", q.DHKey.String())
	}
	if r.E2E != "" {
		t.add("end-to-end", r.E2E)
	}
	if r.Data != "" {
		t.add("data", r.Data)
	}
	return t.table()
}

func (t *pairs) router(r *addressRouter) {
	t.add("fingerprint", orNone(r.Fingerprint))
	for _, h := range r.Hosts {
		t.add("host", h.Host+" ("+h.Kind+")")
	}
	if len(r.Hosts) == 0 {
		t.add("host", "none")
	}
	t.add("port", strconv.Itoa(r.Port))
}
