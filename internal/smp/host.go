package smp

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
)

// A Host is where a router can be reached: an IP address, an onion address or a
// domain name, of at most 255 bytes. Hosts are comparable.
type Host struct {
	text string // without brackets
	kind HostKind
}

// A HostKind is the kind of a [Host].
type HostKind uint8

// The kinds of hosts.
const (
	HostName HostKind = iota + 1
	HostIPv4
	HostIPv6
	HostOnion // reached by way of the Tor network only
)

// String returns "name", "ipv4", "ipv6" or "onion".
func (k HostKind) String() string {
	switch k {
	case HostName:
		return "name"
	case HostIPv4:
		return "ipv4"
	case HostIPv6:
		return "ipv6"
	case HostOnion:
		return "onion"
	}
	return "HostKind(" + strconv.Itoa(int(k)) + ")"
}

// Reasons for which hosts are refused.
var (
	errHostEmpty = errors.New("the name of a host is missing")
	errHostLong  = errors.New("the name of a host has more than 255 bytes")
	errHost      = errors.New("the name of a host is wrong")
)

// ParseHost reads a host. IPv6 addresses may be in brackets.
func ParseHost(text string) (Host, error) {
	switch {
	case text == "":
		return Host{}, errHostEmpty
	case len(text) > MaxShort:
		return Host{}, errHostLong
	}
	address := text
	if inner, ok := strings.CutPrefix(text, "["); ok {
		address, _ = strings.CutSuffix(inner, "]")
		if len(address) != len(text)-2 || !strings.Contains(address, ":") {
			return Host{}, errHost
		}
	}
	if ip, err := netip.ParseAddr(address); err == nil {
		switch {
		case ip.Zone() != "":
			return Host{}, errHost
		case ip.Is4():
			return Host{address, HostIPv4}, nil
		}
		return Host{address, HostIPv6}, nil
	}
	if strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c == 0x7f || strings.ContainsRune(":#,;/[]", c) }) {
		return Host{}, errHost
	}
	if name, ok := strings.CutSuffix(text, ".onion"); ok && name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") == "" {
		return Host{text, HostOnion}, nil
	}
	return Host{text, HostName}, nil
}

// Kind returns what kind of host h is.
func (h Host) Kind() HostKind { return h.kind }

// String returns h as it is dialled, an IPv6 address without brackets.
func (h Host) String() string { return h.text }

// MarshalText returns the same as String.
func (h Host) MarshalText() ([]byte, error) { return []byte(h.text), nil }

// appendText appends h as it is written in addresses, an IPv6 address in
// brackets, so that a port can follow.
func (h Host) appendText(b []byte) []byte {
	if h.kind == HostIPv6 {
		return append(append(append(b, '['), h.text...), ']')
	}
	return append(b, h.text...)
}

// append appends h behind its length byte.
func (h Host) append(b []byte) []byte {
	return append(append(b, byte(len(h.text))), h.text...) //nolint:gosec // ParseHost limits the length
}

func (d *decoder) host() Host {
	b := d.Short()
	if d.err != nil {
		return Host{}
	}
	h, err := ParseHost(string(b))
	if err != nil {
		d.Fail(err.Error())
	}
	return h
}

// DefaultPort is where routers listen if their address names no port.
const DefaultPort = 5223

var errPort = errors.New("a port is a number from 1 to 65535")

// parsePort reads a decimal port. Zero, signs and leading zeros are errors.
func parsePort(text string) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || text[0] < '1' {
		return 0, errPort
	}
	return uint16(n), nil
}
