package main

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/config"
	"github.com/smpq/smpq/internal/router"
)

// All that the configuration says of the proxy role is what the router does.
func TestProxyOptions(t *testing.T) {
	settings := []string{
		"PROXY.host_mode=onion", "PROXY.required_host_mode=on", "PROXY.own_server_domains=a.example,b.example",
		"PROXY.socks_proxy=me:secret@127.0.0.1:9150", "PROXY.socks_mode=always", "PROXY.client_concurrency=2",
		"proxy=off", "proxy_deny=192.0.2.0/24", "proxy_max_relays=3", "proxy_connect_timeout=4s", "proxy_response_timeout=5s", "proxy_error_ttl=6s",
		"proxy_send_queue=7", "proxy_event_queue=8", "proxy_check_interval=9s", "proxy_max_timeouts=10", "proxy_max_silence=11s",
		"proxy_keepalive_idle=12s", "proxy_keepalive_interval=13s", "proxy_keepalive_count=14",
	}
	for _, k := range config.Keys() {
		name := strings.TrimPrefix(k.Path(), "SMPQ.")
		if (k.Section == "PROXY" || strings.HasPrefix(k.Path(), "SMPQ.proxy")) && !slices.ContainsFunc(settings, func(s string) bool { return strings.HasPrefix(s, name+"=") }) {
			t.Errorf("%s is not in this test", k.Path())
		}
	}
	c, _, err := config.Sources{Set: settings}.Router()
	if err != nil {
		t.Fatal(err)
	}
	want := router.ProxyOptions{
		Disabled: true, Concurrency: 2, ConnectTimeout: 4 * time.Second, ResponseTimeout: 5 * time.Second, ErrorMemory: 6 * time.Second,
		Socks: "127.0.0.1:9150", SocksAlways: true, SocksUser: "me", SocksPassword: "secret",
		PreferOnion: true, RequirePreferred: true, OwnDomains: []string{"a.example", "b.example"},
		Deny: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, MaxRelays: 3, SendQueue: 7, EventQueue: 8,
		CheckInterval: 9 * time.Second, MaxTimeouts: 10, MaxSilence: 11 * time.Second,
		KeepAlive: net.KeepAliveConfig{Enable: true, Idle: 12 * time.Second, Interval: 13 * time.Second, Count: 14},
	}
	prefixes := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if diff := cmp.Diff(want, proxyOptions(&c), prefixes); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	isolated, _, err := config.Sources{Set: []string{"PROXY.socks_proxy=tor"}}.Router()
	if err != nil {
		t.Fatal(err)
	}
	if got := proxyOptions(&isolated); !got.SocksIsolate || got.Socks != "tor:9050" || got.SocksUser != "" || got.SocksAlways {
		t.Errorf("%+v", got)
	}
}
