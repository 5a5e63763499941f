package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/smpq/smpq/internal/smp"
)

// A kind is what values a key takes, and where they go.
type kind struct {
	values string // in words, for the documentation
	set    func(r *Router, text string) error
}

// Reasons for which values are refused.
var (
	errEmpty   = errors.New("is empty")
	errNumber  = errors.New("is not a whole number")
	errPort    = errors.New("is not a port, a number from 1 to 65535")
	errCountry = errors.New("is not the code of a country, two letters")
	errSOCKS   = errors.New("is not [user:password@]host[:port], nor @host[:port]")
)

// text is any text, also none.
func text(field func(*Router) *string) kind {
	return kind{"text", func(r *Router, text string) error {
		*field(r) = text
		return nil
	}}
}

// filled is any text but none.
func filled(field func(*Router) *string) kind {
	return kind{"text", func(r *Router, text string) error {
		if text == "" {
			return errEmpty
		}
		*field(r) = text
		return nil
	}}
}

// word is one of words.
func word(field func(*Router) *string, words ...string) kind {
	return kind{orList(words), func(r *Router, text string) error {
		if !slices.Contains(words, text) {
			return fmt.Errorf("is %q, want %s", text, orList(words))
		}
		*field(r) = text
		return nil
	}}
}

// either is one of two words: the second is true.
func either(field func(*Router) *bool, no, yes string) kind {
	return kind{yes + " or " + no, func(r *Router, text string) error {
		if text != no && text != yes {
			return fmt.Errorf("is %q, want %s or %s", text, yes, no)
		}
		*field(r) = text == yes
		return nil
	}}
}

func onOff(field func(*Router) *bool) kind { return either(field, "off", "on") }

// number is a whole number within limits.
func number(field func(*Router) *int, least, most int) kind {
	return kind{"number", func(r *Router, text string) error {
		n, err := strconv.Atoi(text)
		if err != nil {
			return errNumber
		}
		if n < least || n > most {
			return fmt.Errorf("is %d, want a number from %d to %d", n, least, most)
		}
		*field(r) = n
		return nil
	}}
}

// span is a time of at least a millisecond. Without a unit it counts units of bare.
func span(field func(*Router) *time.Duration, bare time.Duration) kind {
	name := map[time.Duration]string{time.Second: "seconds", time.Hour: "hours", day: "days"}[bare]
	return kind{"time, in " + name + " without a unit", func(r *Router, text string) error {
		d, err := parseDuration(text, bare)
		if err != nil {
			return err
		}
		if d == 0 {
			return errors.New("must be more than 0")
		}
		*field(r) = d
		return nil
	}}
}

func country(field func(*Router) *string) kind {
	return kind{"two letters", func(r *Router, text string) error {
		code := strings.ToUpper(text)
		if len(code) != 2 || strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
			return errCountry
		}
		*field(r) = code
		return nil
	}}
}

func password(field func(*Router) *smp.Password) kind {
	return kind{"password", func(r *Router, text string) error {
		if text == "" {
			return errEmpty
		}
		p, err := smp.ParsePassword(text)
		if err != nil {
			return fmt.Errorf("cannot be a password: %w", err)
		}
		*field(r) = p
		return nil
	}}
}

// noHosts is what smp-server writes, and prints, where no host is known.
const noHosts = "<hostnames>"

func hosts(field func(*Router) *[]smp.Host) kind {
	return kind{"hosts, with commas between", func(r *Router, text string) error {
		var list []smp.Host
		if text != "" && text != noHosts {
			for name := range strings.SplitSeq(text, ",") {
				h, err := smp.ParseHost(strings.TrimSpace(name))
				if err != nil {
					return fmt.Errorf("is not a list of hosts: %w", err)
				}
				list = append(list, h)
			}
		}
		*field(r) = list
		return nil
	}}
}

// parsePort reads a port. Zero, if it is allowed, stands for one that is free.
func parsePort(text string, zero bool) (uint16, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 && !zero {
		return 0, errPort
	}
	return uint16(n), nil
}

func portText(port uint16) string { return strconv.FormatUint(uint64(port), 10) }

func port(field func(*Router) *uint16) kind {
	return kind{"port", func(r *Router, text string) (err error) {
		*field(r), err = parsePort(text, false)
		return err
	}}
}

func parsePorts(text string) ([]uint16, error) {
	var list []uint16
	for name := range strings.SplitSeq(text, ",") {
		p, err := parsePort(strings.TrimSpace(name), true)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w, or a list of such with commas between", err)
		case p != 0 && slices.Contains(list, p):
			return nil, fmt.Errorf("has the port %d twice", p)
		}
		list = append(list, p)
	}
	return list, nil
}

func ports(field func(*Router) *[]uint16) kind {
	return kind{"ports, with commas between; 0: one that is free", func(r *Router, text string) (err error) {
		*field(r), err = parsePorts(text)
		return err
	}}
}

// webSockets is "off", "on" for port 80, or ports.
func webSockets(field func(*Router) *[]uint16) kind {
	return kind{"off, on (port 80) or ports, with commas between", func(r *Router, text string) (err error) {
		switch text {
		case "off":
			*field(r) = nil
		case "on":
			*field(r) = []uint16{80}
		default:
			*field(r), err = parsePorts(text)
		}
		return err
	}}
}

// list is words with commas or spaces between.
func list(field func(*Router) *[]string) kind {
	return kind{"words, with commas or spaces between", func(r *Router, text string) error {
		*field(r) = strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == ' ' || c == '\t' })
		return nil
	}}
}

func versions(field func(*Router) *smp.VersionRange) kind {
	known := smp.VersionRange{Min: smp.MinVersion, Max: smp.MaxVersion}
	return kind{"version, or the first and the last", func(r *Router, text string) error {
		low, high, ranged := strings.Cut(text, "-")
		if !ranged {
			high = low
		}
		first, err := strconv.ParseUint(strings.TrimSpace(low), 10, 16)
		last, err2 := strconv.ParseUint(strings.TrimSpace(high), 10, 16)
		v := smp.VersionRange{Min: smp.Version(first), Max: smp.Version(last)}
		if err != nil || err2 != nil || v.Min > v.Max || !known.Contains(v.Min) || !known.Contains(v.Max) {
			return fmt.Errorf("is not a range of versions within %s, such as %s", known, known)
		}
		*field(r) = v
		return nil
	}}
}

// The SOCKS proxy where no host, or no port, is named: that of Tor.
const (
	socksHost = "127.0.0.1"
	socksPort = 9050
)

// socks is "[user:password@ | @][host][:port]". Without anything before the host
// each connection has its own credentials, with "@" none has.
func socks(field func(*Router) *SOCKSProxy) kind {
	return kind{"[user:password@]host[:port], or @host[:port]", func(r *Router, text string) error {
		p := SOCKSProxy{Host: socksHost, Port: socksPort, Isolate: true}
		if i := strings.LastIndexByte(text, '@'); i >= 0 {
			user, secret, both := strings.Cut(text[:i], ":")
			if i > 0 && (!both || user == "") {
				return errSOCKS
			}
			p.Isolate, p.User, p.secret, text = false, user, secret, text[i+1:]
		}
		host := text
		if ip, err := netip.ParseAddr(text); err != nil || ip.Is4() {
			if i := strings.LastIndexByte(text, ':'); i >= 0 && !strings.HasSuffix(text, "]") {
				var err error
				if p.Port, err = parsePort(text[i+1:], false); err != nil {
					return errSOCKS
				}
				host = text[:i]
			}
		}
		if host != "" {
			h, err := smp.ParseHost(host)
			if err != nil {
				return errSOCKS
			}
			p.Host = strings.Trim(h.String(), "[]")
		}
		*field(r) = p
		return nil
	}}
}

// orList returns "a, b or c".
func orList(words []string) string {
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
