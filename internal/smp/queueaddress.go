package smp

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// An Address is text by which people and programs hand on where a router or a
// queue is: see [ParseAddress].
//
//sumtype:decl
type Address interface {
	// String returns the text of the address without its secrets.
	String() string
	// AppendReveal appends the text of the address with its secrets to b.
	AppendReveal(b []byte) []byte
	address()
}

func (*RouterAddress) address()  {}
func (*QueueAddress) address()   {}
func (*ConnectionLink) address() {}
func (*ShortLink) address()      {}

var errAddress = errors.New("not an address: expected smp://, simplex:/ or https://")

// ParseAddress reads an address of any kind: of a router or of a queue (smp://),
// a link to connect, or a short link (simplex:/ or https://). What it returns has
// a canonical text, in which parameters have a fixed order and those that are not
// known are missing.
func ParseAddress(text string) (Address, error) {
	if rest, ok := strings.CutPrefix(text, routerScheme); ok {
		if strings.ContainsAny(rest, "/#") {
			return wrapped(parseQueueAddress(text))("queue address")
		}
		a, err := parseRouterAddress(text)
		return wrapped(&a, err)("router address")
	}
	site, rest, err := cutSite(text)
	if err != nil {
		return nil, err
	}
	path, fragment, _ := strings.Cut(rest, "#")
	path = strings.TrimSuffix(path, "/")
	if kind := ConnectionKind(path); kind == Invitation || kind == Contact {
		return wrapped(parseConnectionLink(site, kind, fragment))("link")
	}
	return wrapped(parseShortLink(site, path, fragment))("short link")
}

// IsAddress reports whether text begins as addresses and links do.
func IsAddress(text string) bool {
	for _, scheme := range []string{routerScheme, "simplex:", "https://"} {
		if strings.HasPrefix(text, scheme) {
			return true
		}
	}
	return false
}

// ParseQueueID reads an id of a queue: as base64url, or out of an address or a link
// that leads to one queue. Of a short link it is the link's id, else the sender's.
// Errors do not repeat addresses, which can have secrets in them.
func ParseQueueID(text string) (EntityID, error) {
	if !IsAddress(text) {
		return ParseEntityID(text)
	}
	a, err := ParseAddress(text)
	if err != nil {
		return EntityID{}, err
	}
	switch a := a.(type) {
	case *QueueAddress:
		return a.SenderID, nil
	case *ShortLink:
		return a.ID(), nil
	case *ConnectionLink:
		if len(a.Queues) == 1 {
			return a.Queues[0].SenderID, nil
		}
		return EntityID{}, fmt.Errorf("the link leads to %d queues: give the id of one", len(a.Queues))
	case *RouterAddress:
	}
	return EntityID{}, errNoQueue
}

var errNoQueue = errors.New("the address is that of a router, and has no queue")

// wrapped returns an address that was parsed, or the error with what it was taken
// for.
func wrapped[A Address](a A, err error) func(kind string) (Address, error) {
	return func(kind string) (Address, error) {
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
		return a, nil
	}
}

// A QueueAddress is where a sender finds a queue, and the recipient's key for
// end-to-end encryption (SMP protocol, queue URI).
type QueueAddress struct {
	Router   RouterAddress // without a password
	SenderID EntityID
	Versions ClientVersions
	DHKey    PublicKey // X25519, of the recipient
	// Mode is that of the queue. Old addresses only tell that the sender can secure
	// the queue, which makes it a messaging queue.
	Mode QueueMode
}

// ClientVersions is a range of versions of what clients send to each other
// through queues, or of connections. They have nothing to do with the versions of
// the protocol of routers.
type ClientVersions struct{ Min, Max uint16 }

// String returns "1-4" or, for a single version, "1".
func (v ClientVersions) String() string {
	return VersionRange{Version(v.Min), Version(v.Max)}.String()
}

// MarshalText returns the same as String.
func (v ClientVersions) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

var errVersions = errors.New(`"v" is not a version or a range of versions`)

func parseClientVersions(text string) (ClientVersions, error) {
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	first, err := strconv.ParseUint(low, 10, 16)
	if err != nil {
		return ClientVersions{}, errVersions
	}
	last, err := strconv.ParseUint(high, 10, 16)
	if err != nil || first > last {
		return ClientVersions{}, errVersions
	}
	return ClientVersions{uint16(first), uint16(last)}, nil
}

// What the versions of clients changed in addresses.
const (
	clientHosts = 2 // several hosts before the slash, not in a parameter
	clientModes = 4 // modes; before, only whether the sender can secure the queue
)

var (
	errAddressKey  = errors.New("the key of the recipient is missing")
	errAddressMode = errors.New(`the mode "q" is neither m nor c`)
)

func parseQueueAddress(text string) (*QueueAddress, error) {
	location, fragment, ok := strings.Cut(text, "#")
	if !ok {
		return nil, errAddressKey
	}
	location = strings.TrimSuffix(location, "/")
	slash := strings.LastIndexByte(location, '/')
	if slash < 0 {
		return nil, errAddressIdentity
	}
	router, err := parseRouterAddress(location[:slash])
	if err != nil {
		return nil, err
	}
	a := &QueueAddress{Router: router}
	if !a.Router.Password.IsZero() {
		return nil, errAddressPassword
	}
	if a.SenderID, err = ParseEntityID(location[slash+1:]); err != nil {
		return nil, fmt.Errorf("sender id: %w", err)
	}
	return a, a.parseFragment(fragment)
}

// parseFragment reads what follows the sender id: parameters, or in the oldest
// form only a key.
func (a *QueueAddress) parseFragment(fragment string) (err error) {
	query, ok := strings.CutPrefix(fragment, "/?")
	if !ok {
		a.Versions = ClientVersions{1, 1}
		a.DHKey, err = parseDHKey(fragment)
		return err
	}
	p, err := parseParams(query)
	if err != nil {
		return err
	}
	if a.Versions, err = parseClientVersions(p["v"]); err != nil {
		return err
	}
	if a.DHKey, err = parseDHKey(p["dh"]); err != nil {
		return err
	}
	switch mode, ok := p["q"]; {
	case !ok && p["k"] == "s", mode == "m":
		a.Mode = ModeMessaging
	case mode == "c":
		a.Mode = ModeContact
	case ok:
		return errAddressMode
	}
	if hosts, ok := p["srv"]; ok {
		more, err := parseHosts(hosts)
		if err != nil {
			return err
		}
		a.Router.Hosts = append(a.Router.Hosts, more...)
	}
	return nil
}

func parseDHKey(text string) (PublicKey, error) {
	der, err := DecodeBase64([]byte(text))
	if err != nil {
		return PublicKey{}, fmt.Errorf("key of the recipient: %w", err)
	}
	k, err := ParsePublicKey(der)
	if err == nil && k.Algorithm() != X25519 {
		err = errKeyDH
	}
	if err != nil {
		return PublicKey{}, fmt.Errorf("key of the recipient: %w", err)
	}
	return k, nil
}

// String returns the text of a.
func (a *QueueAddress) String() string { return string(a.AppendReveal(nil)) }

// AppendReveal appends the text of a to b. There is nothing secret in it.
func (a *QueueAddress) AppendReveal(b []byte) []byte {
	hosts, more := a.Router.Hosts, []Host(nil)
	if a.Versions.Min < clientHosts && len(hosts) > 1 {
		hosts, more = hosts[:1], hosts[1:]
	}
	b = a.Router.append(b, Password{}, hosts)
	b = AppendBase64(append(b, '/'), []byte(a.SenderID.raw))
	b = append(append(b, "#/?v="...), a.Versions.String()...)
	b = appendParam(b, "dh", a.DHKey.String())
	switch a.Mode {
	case ModeMessaging:
		b = append(b, "&q=m"...)
		if a.Versions.Min < clientModes {
			b = append(b, "&k=s"...)
		}
	case ModeContact:
		b = append(b, "&q=c"...)
	case ModeUnknown:
	}
	if more != nil {
		b = appendParam(b, "srv", string(appendHosts(nil, more)))
	}
	return b
}

// appendParam appends a further parameter.
func appendParam(b []byte, name, value string) []byte {
	b = append(append(b, '&'), name...)
	return append(append(b, '='), url.QueryEscape(value)...)
}

// parseParams reads parameters separated by '&'. Of several with one name, the
// first counts.
func parseParams(text string) (map[string]string, error) {
	params := make(map[string]string)
	for param := range strings.SplitSeq(text, "&") {
		name, value, _ := strings.Cut(param, "=")
		value, err := url.QueryUnescape(value)
		if err != nil {
			return nil, fmt.Errorf("parameter %q: %w", name, err)
		}
		if _, ok := params[name]; !ok {
			params[name] = value
		}
	}
	return params, nil
}
