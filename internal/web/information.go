package web

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/smpq/smpq/internal/config"
	"github.com/smpq/smpq/internal/smp"
)

// A Build says what program the router is.
type Build struct {
	Version string
	Commit  string // empty: unknown
}

// An information is what the page says of a router. Its JSON form is the file
// info.json; what is not known is left out.
type information struct {
	Version string    `json:"version"`
	Commit  string    `json:"commit,omitzero"`
	Config  settings  `json:"config"`
	Public  *operator `json:"information,omitzero"` // nil if the operator gives none
}

// Settings are what clients can expect of the router.
type settings struct {
	Persistence string `json:"persistence"`
	// MessageExpiration is in seconds.
	MessageExpiration int64 `json:"messageExpiration,omitzero"`
	StatsEnabled      bool  `json:"statsEnabled"`
	NewQueuesAllowed  bool  `json:"newQueuesAllowed"`
	BasicAuthEnabled  bool  `json:"basicAuthEnabled"`
}

// An operator is what is said of who runs the router, and where.
type operator struct {
	SourceCode      string      `json:"sourceCode"`
	UsageConditions *conditions `json:"usageConditions,omitzero"`
	Operator        *entity     `json:"operator,omitzero"`
	Website         string      `json:"website,omitzero"`
	Admin           *contact    `json:"adminContacts,omitzero"`
	Complaints      *contact    `json:"complaintsContacts,omitzero"`
	Hosting         *entity     `json:"hosting,omitzero"`
	HostingType     string      `json:"hostingType,omitzero"`
	ServerCountry   string      `json:"serverCountry,omitzero"`
}

type conditions struct {
	Conditions string `json:"conditions"`
	Amendments string `json:"amendments,omitzero"`
}

type entity struct {
	Name    string `json:"name"`
	Country string `json:"country,omitzero"`
}

type contact struct {
	SimpleX string `json:"simplex,omitzero"`
	Email   string `json:"email,omitzero"`
	PGP     *pgp   `json:"pgp,omitzero"`
}

type pgp struct {
	URI         string `json:"pkURI"`
	Fingerprint string `json:"pkFingerprint"`
}

// persistent is what a router says that keeps queues and messages across restarts,
// as this one always does.
const persistent = "messages"

func newInformation(c *config.Router, b Build) information {
	return information{
		Version: b.Version, Commit: b.Commit,
		Config: settings{
			Persistence: persistent, MessageExpiration: int64(c.StoreLog.ExpireMessages / time.Second), StatsEnabled: c.StoreLog.LogStats,
			NewQueuesAllowed: c.Auth.NewQueues, BasicAuthEnabled: !c.Auth.CreatePassword.IsZero(),
		},
		Public: newOperator(&c.Information),
	}
}

// newOperator returns nil without the link to the source code: the licence of
// smp-server asks for it, and so does the configuration.
func newOperator(i *config.Information) *operator {
	if i.SourceCode == "" {
		return nil
	}
	o := &operator{
		SourceCode: i.SourceCode, Website: i.Website, HostingType: i.HostingType, ServerCountry: i.ServerCountry,
		Operator: newEntity(i.Operator, i.OperatorCountry), Hosting: newEntity(i.Hosting, i.HostingCountry),
		Admin: newContact(i.Admin), Complaints: newContact(i.Complaints),
	}
	if i.UsageConditions != "" {
		o.UsageConditions = &conditions{i.UsageConditions, i.ConditionAmendments}
	}
	return o
}

func newEntity(name, country string) *entity {
	if name == "" {
		return nil
	}
	return &entity{name, country}
}

// newContact leaves out a key without its fingerprint, and the other way round.
func newContact(c config.Contact) *contact {
	made := contact{SimpleX: c.SimpleX, Email: c.Email}
	if c.PGP != "" && c.PGPFingerprint != "" {
		made.PGP = &pgp{c.PGP, c.PGPFingerprint}
	}
	if made == (contact{}) {
		return nil
	}
	return &made
}

// json returns the file info.json.
func (i information) json() ([]byte, error) {
	b, err := json.MarshalIndent(i, "", "  ")
	return append(b, '\n'), err
}

// The periods in which times are shown, the longest first.
var periods = []struct {
	span time.Duration
	name string
}{
	{30 * 24 * time.Hour, "month"},
	{24 * time.Hour, "day"},
	{time.Hour, "hour"},
	{time.Minute, "min"},
	{time.Second, "sec"},
}

const week = 7 * 24 * time.Hour

// periodText returns a time in words, without parts of a second: "21 days",
// "2 weeks", "1 hour 30 min".
func periodText(d time.Duration) string {
	if d == week || d == 2*week {
		return count(int64(d/week), "week")
	}
	var parts []string
	for _, p := range periods {
		if n := d / p.span; n > 0 {
			parts = append(parts, count(int64(n), p.name))
			d %= p.span
		}
	}
	return strings.Join(parts, " ")
}

func count(n int64, name string) string {
	if n == 1 || name == "min" || name == "sec" {
		return fmt.Sprintf("%d %s", n, name)
	}
	return fmt.Sprintf("%d %ss", n, name)
}

// onion returns the router's onion address, empty if it has none.
func onion(hosts []smp.Host) string {
	for _, h := range hosts {
		if h.Kind() == smp.HostOnion {
			return h.String()
		}
	}
	return ""
}
