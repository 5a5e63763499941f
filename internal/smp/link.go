package smp

import (
	"crypto/hkdf"
	"crypto/sha512"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

const linkScheme = "simplex:/"

// cutSite takes the scheme off a link and, if that is https, the host.
func cutSite(text string) (site Host, rest string, err error) {
	if rest, ok := strings.CutPrefix(text, linkScheme); ok {
		return Host{}, rest, nil
	}
	rest, ok := strings.CutPrefix(text, "https://")
	if !ok {
		return Host{}, "", errAddress
	}
	name, rest, ok := strings.Cut(rest, "/")
	if !ok {
		return Host{}, "", errLinkKind
	}
	site, err = ParseHost(name)
	return site, rest, err
}

func appendSite(b []byte, site Host) []byte {
	if site == (Host{}) {
		return append(b, linkScheme...)
	}
	return append(site.appendText(append(b, "https://"...)), '/')
}

// A ConnectionLink is an invitation or a contact address in full: what a client
// needs to connect with another (SMP agent protocol, connection link).
type ConnectionLink struct {
	Site     Host // of the https form, usually simplex.chat; zero: the form simplex:/
	Kind     ConnectionKind
	Versions ClientVersions  // of connections
	Queues   []*QueueAddress // at least one
	E2E      string          // of invitations: the parameters of end-to-end encryption, as they came
	Data     string          // of contact addresses: what applications add, as it came; often empty
}

// A ConnectionKind says what a link is for. It is the path in links.
type ConnectionKind string

// The kinds of connection links.
const (
	Invitation ConnectionKind = "invitation" // for one contact
	Contact    ConnectionKind = "contact"    // for any number
)

var (
	errLinkKind     = errors.New("not an invitation, a contact address or a short link")
	errLinkFragment = errors.New(`expected "#/?" and parameters`)
	errLinkType     = errors.New("the type of a short link is one of i, a, g, c and r")
	errLinkKey      = errors.New("the key of a link has 32 bytes")
	errLinkID       = errors.New("only invitations have a link id, and all have one")
)

func parseConnectionLink(site Host, kind ConnectionKind, fragment string) (*ConnectionLink, error) {
	query, ok := strings.CutPrefix(fragment, "/?")
	if !ok {
		return nil, errLinkFragment
	}
	p, err := parseParams(query)
	if err != nil {
		return nil, err
	}
	l := &ConnectionLink{Site: site, Kind: kind}
	if l.Versions, err = parseClientVersions(p["v"]); err != nil {
		return nil, err
	}
	for text := range strings.SplitSeq(p["smp"], ";") {
		q, err := parseQueueAddress(text)
		if err != nil {
			return nil, fmt.Errorf("queue address: %w", err)
		}
		l.Queues = append(l.Queues, q)
	}
	if kind == Invitation {
		l.E2E = p["e2e"]
	} else {
		l.Data = p["data"]
	}
	return l, nil
}

// String returns the text of l.
func (l *ConnectionLink) String() string { return string(l.AppendReveal(nil)) }

// AppendReveal appends the text of l to b. The keys in it are public ones.
func (l *ConnectionLink) AppendReveal(b []byte) []byte {
	b = append(appendSite(b, l.Site), l.Kind...)
	b = append(append(b, "#/?v="...), l.Versions.String()...)
	queues := make([]string, len(l.Queues))
	for i, q := range l.Queues {
		queues[i] = q.String()
	}
	b = appendParam(b, "smp", strings.Join(queues, ";"))
	if l.E2E != "" {
		b = appendParam(b, "e2e", l.E2E)
	}
	if l.Data != "" {
		b = appendParam(b, "data", l.Data)
	}
	return b
}

// A ShortLink is a link to the data of a queue's short link, from which a client
// learns the full link (SMP agent protocol, short links). Applications know some
// routers by their host alone; links to queues on others have port and
// fingerprint.
type ShortLink struct {
	Web         bool   // of the form https://host/, where the host is the first of Hosts
	Hosts       []Host // of the router; the form simplex:/ may have none
	Port        uint16 // 0: the default
	Fingerprint Fingerprint
	Type        LinkType
	LinkID      EntityID // of LinkInvitation only: see [ShortLink.ID]
	Key         LinkKey
}

// A LinkType says what a short link leads to. It is the path in links.
type LinkType byte

// The types of short links.
const (
	LinkInvitation LinkType = 'i'
	LinkContact    LinkType = 'a'
	LinkGroup      LinkType = 'g'
	LinkChannel    LinkType = 'c'
	LinkRelay      LinkType = 'r'
)

// String returns the name of t, for example "contact".
func (t LinkType) String() string {
	switch t {
	case LinkInvitation:
		return "invitation"
	case LinkContact:
		return "contact"
	case LinkGroup:
		return "group"
	case LinkChannel:
		return "channel"
	case LinkRelay:
		return "relay"
	}
	return fmt.Sprintf("LinkType(%d)", byte(t))
}

func parseLinkType(path string) (LinkType, error) {
	if path == string(LinkInvitation) {
		return LinkInvitation, nil
	}
	if len(path) == 1 {
		switch t := LinkType(path[0] | 0x20); t { // in lower case
		case LinkContact, LinkGroup, LinkChannel, LinkRelay:
			return t, nil
		case LinkInvitation:
		}
	}
	return 0, errLinkType
}

func parseShortLink(site Host, path, fragment string) (l *ShortLink, err error) {
	l = &ShortLink{Web: site != Host{}}
	if l.Web {
		l.Hosts = []Host{site}
	}
	if l.Type, err = parseLinkType(path); err != nil {
		return nil, err
	}
	secret, query, _ := strings.Cut(fragment, "?")
	id, key, hasID := strings.Cut(secret, "/")
	if hasID != (l.Type == LinkInvitation) {
		return nil, errLinkID
	}
	if !hasID {
		key = id
	} else if l.LinkID, err = ParseEntityID(id); err != nil {
		return nil, fmt.Errorf("link id: %w", err)
	}
	if l.Key, err = parseLinkKey(key); err != nil {
		return nil, err
	}
	return l, l.parseParams(query)
}

func (l *ShortLink) parseParams(query string) error {
	p, err := parseParams(query)
	if err != nil {
		return err
	}
	if text, ok := p["h"]; ok {
		more, err := parseHosts(text)
		if err != nil {
			return err
		}
		l.Hosts = append(l.Hosts, more...)
	}
	if text, ok := p["p"]; ok {
		if l.Port, err = parsePort(text); err != nil {
			return err
		}
	}
	if text, ok := p["c"]; ok {
		l.Fingerprint, err = ParseFingerprint(text)
	}
	return err
}

// String returns the text of l with a placeholder for the key.
func (l *ShortLink) String() string { return string(l.append(nil, []byte(l.Key.String()))) }

// AppendReveal appends the text of l with the key to b.
func (l *ShortLink) AppendReveal(b []byte) []byte {
	return l.append(b, unpadded([]byte(l.Key.raw)))
}

func (l *ShortLink) append(b, key []byte) []byte {
	var site Host
	more := l.Hosts
	if l.Web {
		site, more = l.Hosts[0], l.Hosts[1:]
	}
	b = append(appendSite(b, site), byte(l.Type), '#')
	if l.Type == LinkInvitation {
		b = append(append(b, unpadded([]byte(l.LinkID.raw))...), '/')
	}
	b = append(b, key...)
	start := len(b)
	if len(more) > 0 {
		b = appendParam(b, "h", string(appendHosts(nil, more)))
	}
	if l.Port != 0 {
		b = appendParam(b, "p", portText(l.Port))
	}
	if !l.Fingerprint.IsZero() {
		b = appendParam(b, "c", string(unpadded([]byte(l.Fingerprint.raw))))
	}
	if len(b) > start {
		b[start] = '?'
	}
	return b
}

// unpadded returns the base64url text of x without padding, as short links have
// it.
func unpadded(x []byte) []byte { return []byte(strings.TrimRight(string(AppendBase64(nil, x)), "=")) }

// ID returns the id by which the router knows the link: that in the link, or for
// all but invitations one that follows from the key.
func (l *ShortLink) ID() EntityID {
	if l.Type == LinkInvitation {
		return l.LinkID
	}
	const keySize = 32 // the key of the link's data follows the id
	out, err := hkdf.Key(sha512.New, []byte(l.Key.raw), nil, "SimpleXContactLink", IDSize+keySize)
	if err != nil {
		panic(err) // only of sizes that HKDF cannot give
	}
	return NewEntityID(out[:IDSize])
}

// LinkKeySize is the length in bytes of a [LinkKey].
const LinkKeySize = 32

// A LinkKey is the secret of a short link, with which its data are decrypted. It
// hides itself as a [DHSecret] does.
type LinkKey struct{ raw string }

func parseLinkKey(text string) (LinkKey, error) {
	b, err := DecodeBase64([]byte(text))
	if err != nil {
		return LinkKey{}, fmt.Errorf("key of the link: %w", err)
	}
	if len(b) != LinkKeySize {
		return LinkKey{}, errLinkKey
	}
	return LinkKey{string(b)}, nil
}

// Reveal returns the text encoding of k, base64url.
func (k LinkKey) Reveal() string { return string(AppendBase64(nil, []byte(k.raw))) }

// String returns a placeholder that does not depend on the key.
func (k LinkKey) String() string { return "(secret)" }

// GoString returns the same placeholder as String.
func (k LinkKey) GoString() string { return k.String() }

// LogValue returns the same placeholder as String.
func (k LinkKey) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText returns the same placeholder as String.
func (k LinkKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }
