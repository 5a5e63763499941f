package config

import (
	"errors"
	"fmt"
	"math"
	"net"
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
	errNetwork = errors.New("is not a list of loopback, private, link-local and networks such as 192.0.2.0/24")
	errCountry = errors.New("is not the code of a country, two letters")
	errSize    = errors.New("is not a number of bytes such as 512MiB, nor a share of memory such as 10%")
	errRate    = errors.New("is neither a rate such as 100/m or 20/10s (at most a million), nor off")
	errListen  = errors.New("is not an address to listen on, such as 127.0.0.1:5226")
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

// off is what limits are set to that should not be there.
const off = "off"

// limit is a number that may not be exceeded, or none.
func limit(field func(*Router) *int) kind {
	some := number(field, 1, maxInt)
	return kind{"number or off", func(r *Router, text string) error {
		if text == off {
			*field(r) = 0
			return nil
		}
		return some.set(r, text)
	}}
}

// A Rate is how often something may happen in a time; zero: as often as it likes.
type Rate struct {
	Count  int
	Period time.Duration
}

// rate is how often something may happen, or no limit to that.
func rate(field func(*Router) *Rate) kind {
	return kind{"number/time such as 100/m or 20/10s, or off", func(r *Router, text string) error {
		if text == off {
			*field(r) = Rate{}
			return nil
		}
		count, period, _ := strings.Cut(text, "/")
		n, err := strconv.Atoi(count)
		if err != nil || n < 1 || n > million {
			return errRate
		}
		if period != "" && !strings.ContainsAny(period[:1], "0123456789") {
			period = "1" + period
		}
		d, err := parseDuration(period, time.Second)
		if err != nil || d == 0 {
			return errRate
		}
		*field(r) = Rate{n, d}
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

// parseSize reads bytes, such as 512MiB, or a share of memory, such as 10%.
func parseSize(text string) (Size, error) {
	if digits, found := strings.CutSuffix(text, "%"); found {
		n, err := strconv.Atoi(digits)
		if err != nil || n < 0 || n > 100 {
			return Size{}, errSize
		}
		return Size{Percent: n}, nil
	}
	digits := len(text) - len(strings.TrimLeft(text, "0123456789"))
	n, err := strconv.ParseInt(text[:digits], 10, 64)
	if err != nil {
		return Size{}, errSize
	}
	i := slices.IndexFunc(sizeUnits, func(u sizeUnit) bool { return u.name == strings.TrimLeft(text[digits:], " ") })
	if i < 0 || n > math.MaxInt64/sizeUnits[i].bytes {
		return Size{}, errSize
	}
	return Size{Bytes: n * sizeUnits[i].bytes}, nil
}

type sizeUnit struct {
	name  string
	bytes int64
}

var sizeUnits = []sizeUnit{
	{"", 1},
	{"B", 1},
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"kB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
}

func size(field func(*Router) *Size) kind {
	return kind{"bytes, also with KiB, MiB or GiB, or a share of memory with %", func(r *Router, text string) (err error) {
		*field(r), err = parseSize(text)
		return err
	}}
}

// listenAddress is empty or an address to listen on.
func listenAddress(field func(*Router) *string) kind {
	return kind{"host:port; port 0: one that is free", func(r *Router, text string) error {
		if text != "" {
			host, port, err := net.SplitHostPort(text)
			if err != nil || host == "" {
				return errListen
			}
			if _, err := parsePort(port, true); err != nil {
				return errListen
			}
		}
		*field(r) = text
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
		*field(r) = words(text)
		return nil
	}}
}

func words(text string) []string {
	return strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == ' ' || c == '\t' })
}

// namedNetworks are networks that have names.
var namedNetworks = map[string][]netip.Prefix{
	"loopback": prefixes("0.0.0.0/8", "127.0.0.0/8", "::/127"),
	"private":  prefixes("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
	// There are, among others, services of clouds that tell secrets to whoever asks.
	"link-local": prefixes("169.254.0.0/16", "fe80::/10"),
}

func prefixes(texts ...string) (list []netip.Prefix) {
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

// networks is names and prefixes with commas or spaces between; none is none.
func networks(field func(*Router) *[]netip.Prefix) kind {
	return kind{"loopback, private, link-local or networks such as 192.0.2.0/24, with commas between", func(r *Router, text string) error {
		var list []netip.Prefix
		for _, word := range words(text) {
			if named, ok := namedNetworks[word]; ok {
				list = append(list, named...)
				continue
			}
			p, err := netip.ParsePrefix(word)
			if err != nil {
				return errNetwork
			}
			list = append(list, p.Masked())
		}
		*field(r) = list
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
