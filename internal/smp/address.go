package smp

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A Fingerprint is the identity of a router, or of a service: the SHA-256 of the
// DER of its identity certificate, which is not the one of the TLS connection but
// its issuer's. Fingerprints are comparable; the zero Fingerprint means "none".
//
// Addresses can have fingerprints of any length, which then fit no router.
type Fingerprint struct{ raw string }

// FingerprintOf returns the fingerprint of a certificate, given as DER.
func FingerprintOf(certificate []byte) Fingerprint {
	sum := sha256.Sum256(certificate)
	return Fingerprint{string(sum[:])}
}

// ParseFingerprint reads a fingerprint as base64url, padded or not.
func ParseFingerprint(text string) (Fingerprint, error) {
	b, err := DecodeBase64([]byte(text))
	if err == nil && len(b) > MaxShort {
		err = fmt.Errorf("%d bytes where the protocol has room for %d", len(b), MaxShort)
	}
	if err != nil {
		return Fingerprint{}, fmt.Errorf("fingerprint: %w", err)
	}
	return Fingerprint{string(b)}, nil
}

// IsZero reports whether f is the zero Fingerprint, "none".
func (f Fingerprint) IsZero() bool { return f.raw == "" }

// Bytes returns a copy of the bytes of f, [sha256.Size] if it is one of a
// certificate.
func (f Fingerprint) Bytes() []byte { return []byte(f.raw) }

// String returns the base64url text of f, padded, as addresses have it.
func (f Fingerprint) String() string { return string(AppendBase64(nil, []byte(f.raw))) }

// MarshalText returns the same as String.
func (f Fingerprint) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

func (f Fingerprint) append(b []byte) []byte {
	return append(append(b, byte(len(f.raw))), f.raw...) //nolint:gosec // limited where it is made
}

// A RouterAddress is where a router is and how to know that it is the right one:
// smp://fingerprint:password@host,host:port (SMP protocol, router addresses).
type RouterAddress struct {
	Fingerprint Fingerprint
	Password    Password // of the router; zero: none
	// Hosts are different ways to the same router, at least one. The first is its
	// name; there may follow an onion address.
	Hosts []Host
	Port  uint16 // 0: the default
}

const routerScheme = "smp://"

var (
	errAddressScheme   = errors.New("an address starts with smp://")
	errAddressIdentity = errors.New(`an address has an "@" between fingerprint and host`)
	errAddressAt       = errors.New(`an address has one "@" only, and passwords have none`)
	errAddressPassword = errors.New("this address must not have a password")
)

// ParseRouterAddress reads the address of a router.
func ParseRouterAddress(text string) (*RouterAddress, error) {
	a, err := parseRouterAddress(text)
	if err != nil {
		return nil, fmt.Errorf("router address: %w", err)
	}
	return &a, nil
}

func parseRouterAddress(text string) (a RouterAddress, err error) {
	text, ok := strings.CutPrefix(text, routerScheme)
	if !ok {
		return a, errAddressScheme
	}
	identity, location, ok := strings.Cut(text, "@")
	if !ok {
		return a, errAddressIdentity
	}
	identity, password, ok := strings.Cut(identity, ":")
	if a.Fingerprint, err = ParseFingerprint(identity); err != nil {
		return a, err
	}
	if ok {
		if a.Password, err = ParsePassword(password); err != nil {
			return a, err
		}
	}
	if strings.Contains(location, "@") {
		return a, errAddressAt // a password with one in it must not end up as a host
	}
	a.Hosts, a.Port, err = parseLocation(location)
	return a, err
}

// parseLocation reads hosts, separated by commas, and a port, if there is one.
// An IPv6 address as the last host needs brackets only if a port follows.
func parseLocation(text string) (hosts []Host, port uint16, err error) {
	last := text[strings.LastIndexByte(text, ',')+1:]
	if i := strings.LastIndexByte(last, ':'); i >= 0 {
		if h, err := ParseHost(last); err != nil || h.Kind() != HostIPv6 {
			if port, err = parsePort(last[i+1:]); err != nil {
				return nil, 0, err
			}
			text = text[:len(text)-len(last)+i]
		}
	}
	hosts, err = parseHosts(text)
	return hosts, port, err
}

func parseHosts(text string) ([]Host, error) {
	if strings.Count(text, ",") >= maxList {
		return nil, fmt.Errorf("more than %d hosts", maxList)
	}
	var hosts []Host
	for name := range strings.SplitSeq(text, ",") {
		h, err := ParseHost(name)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

func appendHosts(b []byte, hosts []Host) []byte {
	for i, h := range hosts {
		if i > 0 {
			b = append(b, ',')
		}
		b = h.appendText(b)
	}
	return b
}

// portText returns the text of a port, empty for 0.
func portText(port uint16) string {
	if port == 0 {
		return ""
	}
	return strconv.Itoa(int(port))
}

// PortOrDefault returns the port of a, [DefaultPort] if it names none.
func (a *RouterAddress) PortOrDefault() uint16 {
	if a.Port == 0 {
		return DefaultPort
	}
	return a.Port
}

// String returns the text of a without its password.
func (a *RouterAddress) String() string {
	return string(a.append(nil, Password{}, a.Hosts))
}

// AppendReveal appends the text of a with its password to b.
func (a *RouterAddress) AppendReveal(b []byte) []byte { return a.append(b, a.Password, a.Hosts) }

func (a *RouterAddress) append(b []byte, p Password, hosts []Host) []byte {
	b = AppendBase64(append(b, routerScheme...), []byte(a.Fingerprint.raw))
	if !p.IsZero() {
		b = append(append(b, ':'), p.raw...)
	}
	b = appendHosts(append(b, '@'), hosts)
	if a.Port != 0 {
		b = strconv.AppendUint(append(b, ':'), uint64(a.Port), 10)
	}
	return b
}
