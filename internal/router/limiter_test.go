package router

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func tcpAddr(ip string) *net.TCPAddr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 1234))
}

// In no time does anything happen more often than its rate says, at once and again
// since; and who waits as long as he is told need not wait any more.
func TestRate(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := Rate{rapid.IntRange(1, 20).Draw(t, "count"), time.Duration(rapid.IntRange(1, 1000).Draw(t, "period")) * time.Second}
		now := time.Unix(1_000_000, 0)
		var b bucket
		var taken []time.Time
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(r.Period/4)).Draw(t, "pause")))
			if wait, _ := b.next(r, now); wait > 0 && rapid.Bool().Draw(t, "patient") {
				if b.take(r, now.Add(wait-1)) {
					t.Fatal("it need not have waited so long")
				}
				now = now.Add(wait)
				if !b.take(r, now) {
					t.Fatal("it waited in vain")
				}
				taken = append(taken, now)
			} else if b.take(r, now) != (wait <= 0) {
				t.Fatal("it takes what has to wait, or not what need not")
			} else if wait <= 0 {
				taken = append(taken, now)
			}
		}
		for i := range taken {
			for j := i; j < len(taken); j++ {
				most := r.Count + int(taken[j].Sub(taken[i])*time.Duration(r.Count)/r.Period) + 1 // for the rounding
				if j-i+1 > most {
					t.Fatalf("%d within %s, which is more than %d", j-i+1, taken[j].Sub(taken[i]), most)
				}
			}
		}
		for i := range r.Count { // having waited, all of them at once
			if !b.take(r, now.Add(r.Period)) {
				t.Fatalf("only %d of %d at once", i, r.Count)
			}
		}
	})
	var b bucket
	for range 1000 {
		if !b.take(Rate{}, time.Time{}) || b.reserve(Rate{}, time.Time{}) != 0 {
			t.Fatal("no limit limits")
		}
	}
	r := Rate{2, time.Minute}
	for i, want := range []time.Duration{0, 0, 30 * time.Second, time.Minute} {
		if got := b.reserve(r, time.Unix(0, 0)); got != want {
			t.Errorf("number %d waits %s, not %s", i, got, want)
		}
	}
}

// Addresses are known no longer than they matter, and no more of them than there is
// memory for.
func TestAddressesAreForgotten(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	l := newLimiter(Limits{ConnectionsPerAddress: 2, HandshakesPerAddress: Rate{3, time.Minute}})
	ip := netip.MustParseAddr("10.0.0.0")
	var last *net.TCPAddr
	for range maxUnused + 10_000 {
		ip = ip.Next()
		last = net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, 1))
		if !l.admit(last, now) {
			t.Fatalf("%s is refused", last)
		}
		l.release(last, now)
	}
	if n := len(l.addresses); n != maxUnused || l.unused.Len() != n {
		t.Errorf("%d addresses are known, %d of them unused", n, l.unused.Len())
	}
	for i := range 3 { // the last one is still known
		if got := l.admit(last, now); got != (i < 2) {
			t.Errorf("time %d: %t", i+1, got)
		}
	}
	now = now.Add(time.Hour)
	if !l.admit(tcpAddr("192.0.2.1"), now) || len(l.addresses) != 2 {
		t.Errorf("%d addresses are known an hour later, of which 2 have connections", len(l.addresses))
	}
	l.release(last, now)
	l.release(last, now)
	l.release(tcpAddr("192.0.2.1"), now.Add(time.Hour))
	if len(l.addresses) != 0 || l.unused.Len() != 0 || l.open != 0 {
		t.Errorf("%d addresses are known at the end, with %d connections", len(l.addresses), l.open)
	}

	l = newLimiter(Limits{Connections: 1})
	if !l.admit(last, now) || l.admit(last, now) || len(l.addresses) != 0 {
		t.Error("addresses are known that do not matter, or there are too many connections")
	}
}

// What counts as one address.
func TestNetworkOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from net.Addr
		want string
	}{
		{tcpAddr("192.0.2.7"), "192.0.2.7/32"},
		{tcpAddr("::ffff:192.0.2.7"), "192.0.2.7/32"},
		{tcpAddr("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64"},
		{tcpAddr("2001:db8:1:2:ffff::"), "2001:db8:1:2::/64"},
		{tcpAddr("fe80::1%eth0"), "fe80::/64"},
		{tcpAddr("127.0.0.1"), ""},
		{tcpAddr("::ffff:127.0.0.9"), ""},
		{tcpAddr("::1"), ""},
		{&net.UnixAddr{Name: "@", Net: "unix"}, ""},
		{&net.TCPAddr{}, ""},
		{nil, ""},
	} {
		got, ok := networkOf(c.from)
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("%v: %v, %t, want %q", c.from, got, ok, c.want)
		}
	}
}

// What waits for its turn can be given up.
func TestTurnGivenUp(t *testing.T) {
	t.Parallel()
	l := newLimiter(Limits{Commands: 1})
	if err := l.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(ErrStopped)
	if err := l.begin(ctx); err != ErrStopped { //nolint:errorlint // just that
		t.Errorf("got %v", err)
	}
	l.end()
	if err := l.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.end()
}

// Connections that came to nothing are logged in one line, if there were any.
func TestFailuresAreSummedUp(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	r := &Router{log: slog.New(slog.NewTextHandler(&out, nil)), stopping: t.Context()}
	f := &failures{router: r}
	f.log()
	r.counters.Refused.Add(3)
	r.counters.FailedTLS.Add(20)
	f.log()
	f.log()
	r.counters.FailedTLS.Add(1)
	r.counters.FailedHandshake.Add(2)
	f.log()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !strings.HasSuffix(lines[0], "refused=3 tls=20 handshake=0") || !strings.HasSuffix(lines[1], "refused=0 tls=1 handshake=2") {
		t.Errorf("logged:\n%s", out.String())
	}
}
