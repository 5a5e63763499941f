package config_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smpq/smpq/internal/config"
	"github.com/smpq/smpq/internal/smp"
)

const day = 24 * time.Hour

// equal compares configurations, secrets included.
var equal = cmp.Options{cmp.AllowUnexported(config.SOCKSProxy{}, smp.Password{}, smp.Host{}), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}

// initial is what a file says that smp-server wrote without options but
// --fqdn smp.example.com --no-password.
func initial(t *testing.T) config.Router {
	t.Helper()
	return config.Router{
		Information: config.Information{HostingType: "virtual"},
		StoreLog: config.StoreLog{
			Enable: true, StoreQueues: config.Memory, StoreMessages: config.Memory,
			DBConnection: "postgresql://smp@/smp_server_store", DBSchema: "smp_server", DBPoolSize: 10,
			DBDeletedTTL: 21 * day, RestoreMessages: true,
			ExpireMessages: 21 * day, ExpireMessagesStart: true, ExpireNotifications: day,
		},
		Auth:            config.Auth{NewQueues: true, DailyBlockQueueQuota: 20},
		Transport:       config.Transport{Hosts: []smp.Host{host(t, "smp.example.com")}, Ports: []uint16{5223, 443}, AcceptServiceCredentials: true},
		Proxy:           config.Proxy{ClientConcurrency: 32},
		InactiveClients: config.InactiveClients{Disconnect: true, TTL: 6 * time.Hour, CheckInterval: time.Hour},
		Web: config.Web{
			StaticPath: "/var/opt/simplex/www", HTTPS: 443,
			Cert: "/etc/opt/simplex/web.crt", Key: "/etc/opt/simplex/web.key",
		},
		Tuning: config.Tuning{
			Versions: smp.VersionRange{Min: 6, Max: 19}, ProxyRole: true, CacheSize: config.Size{Percent: 10},
			QueueQuota: 128, IDAttempts: 3, SendQueue: 128,
			TLSTimeout: time.Minute, HandshakeTimeout: 2 * time.Minute, BlockTimeout: 2 * time.Minute, CloseTimeout: 5 * time.Second,
			KeepaliveIdle: 2 * time.Minute, KeepaliveInterval: 15 * time.Second, KeepaliveCount: 4,
			EndInterval: 15 * time.Second, NotificationInterval: 1500 * time.Millisecond,
			ExpireInterval: 2 * time.Hour, ExpireBatch: 50, NotificationExpireInterval: time.Hour,
			ProxyDeny:           []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10")},
			ProxyMaxRelays:      10_000,
			ProxyConnectTimeout: 45 * time.Second, ProxyResponseTimeout: 30 * time.Second, ProxyErrorTTL: 30 * time.Second,
			ProxySendQueue: 64, ProxyEventQueue: 2048,
			ProxyCheckInterval: 10 * time.Minute, ProxyMaxTimeouts: 3, ProxyMaxSilence: 15 * time.Minute,
			ProxyKeepaliveIdle: 30 * time.Second, ProxyKeepaliveInterval: 15 * time.Second, ProxyKeepaliveCount: 4,
		},
	}
}

func host(t *testing.T, name string) smp.Host {
	t.Helper()
	h, err := smp.ParseHost(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func secret(t *testing.T, text string) smp.Password {
	t.Helper()
	p, err := smp.ParsePassword(text)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func parse(t *testing.T, text string) *config.File {
	t.Helper()
	f, err := config.Parse("t.ini", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// The files that smp-server writes are read without a warning.
func TestRouterRealFiles(t *testing.T) {
	for name, change := range map[string]func(*config.Router){
		"fqdn-no-password": func(*config.Router) {},
		"ed448":            func(*config.Router) {},
		"default-memory": func(r *config.Router) {
			r.Auth.CreatePassword = secret(t, "XTD_vdv_N6yw2porUqU2dtDzof6RT_QNjsasbmkKn1U=")
			r.Transport.Hosts = []smp.Host{host(t, "192.0.2.10")}
		},
		"password": func(r *config.Router) { r.Auth.CreatePassword = secret(t, "secret-pass") },
		"database": func(r *config.Router) { r.StoreLog.DBSchema, r.StoreLog.DBPoolSize = "smp_init_x", 5 },
		"no-store-log": func(r *config.Router) {
			r.StoreLog.Enable, r.StoreLog.RestoreMessages = false, false
			r.Transport.Hosts = []smp.Host{host(t, "192.0.2.11")}
			r.Web.HTTPS, r.Web.Cert, r.Web.Key = 0, "", ""
		},
		"control-port-5555-stats": func(r *config.Router) {
			r.StoreLog.LogStats, r.Transport.ControlPort = true, 5555
			r.Auth.ControlPortAdmin = secret(t, "039RYn-uxcz2RtfPfuCmAOg6")
			r.Auth.ControlPortUser = secret(t, "y4EopRo5YUBdip7WTROpakpj")
		},
		"information": func(r *config.Router) {
			r.Information = config.Information{
				SourceCode: "https://github.com/simplex-chat/simplexmq", ServerCountry: "DE",
				Operator: "Example Org", OperatorCountry: "GB", Website: "https://example.com",
				Hosting: "Host Inc", HostingCountry: "US", HostingType: "dedicated",
			}
			r.Proxy.OwnServerDomains = []string{"example.com", "example.org"}
			r.Proxy.SOCKS = config.SOCKSProxy{Host: "127.0.0.1", Port: 9050, Isolate: true}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := config.Load(realFile(name))
			if err != nil {
				t.Fatal(err)
			}
			got, warnings, err := config.Sources{File: f}.Router()
			if err != nil || warnings != nil {
				t.Fatalf("warnings %q, error %v", warnings, err)
			}
			want := initial(t)
			change(&want)
			if diff := cmp.Diff(want, got, equal); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// Without a file everything has its default.
func TestRouterDefaults(t *testing.T) {
	got, warnings, err := config.Sources{}.Router()
	if err != nil || warnings != nil {
		t.Fatalf("warnings %q, error %v", warnings, err)
	}
	want := initial(t)
	want.Information.HostingType, want.Transport.Hosts = "", nil
	want.StoreLog.Enable, want.StoreLog.RestoreMessages, want.StoreLog.ExpireMessagesOnSend = false, false, true
	want.InactiveClients.Disconnect = false
	want.Web = config.Web{}
	if diff := cmp.Diff(want, got, equal); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// A setting counts before a variable, a variable before the file.
func TestRouterPrecedence(t *testing.T) {
	f := parse(t, "[TRANSPORT]\nport = 1\nwebsockets: off\n[STORE_LOG]\nenable: on\n[SMPQ]\nqueue_quota = 4\nend_interval = 1\nproxy=off\n")
	environ := []string{
		"SMPQ_TRANSPORT_PORT=2", "SMPQ_END_INTERVAL=200ms", "SMPQ_PROXY=", "SMPQ_DSN=dbname=other", "HOME=/root",
		"SMPQ_STORE_LOG_ENABLE=off", "SMPQ_STORE_LOG_RESTORE_MESSAGES=on",
	}
	set := []string{"TRANSPORT.port=0,5", "queue_quota=7", "SMPQ.versions=8-18", "queue_quota=8", "AUTH.create_password=a=b"}
	got, warnings, err := config.Sources{File: f, Environ: environ, Set: set}.Router()
	if err != nil || warnings != nil {
		t.Fatalf("warnings %q, error %v", warnings, err)
	}
	want, _, err := config.Sources{}.Router()
	if err != nil {
		t.Fatal(err)
	}
	want.Transport.Ports = []uint16{0, 5}
	want.StoreLog.RestoreMessages = true
	want.Auth.CreatePassword = secret(t, "a=b")
	want.Tuning.QueueQuota, want.Tuning.EndInterval, want.Tuning.ProxyRole = 8, 200*time.Millisecond, false
	want.Tuning.Versions = smp.VersionRange{Min: 8, Max: 18}
	if diff := cmp.Diff(want, got, equal); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestRouterWarnings(t *testing.T) {
	const needed = "[TRANSPORT]\nport: 5223\nwebsockets: off\n"
	for _, tt := range []struct {
		name, file string
		environ    string
		want       []string
	}{
		{"similar key", "[AUTH]\nnew_queue = on\n", "", []string{"t.ini:5: the unknown key [AUTH] new_queue has no effect, did you mean [AUTH] new_queues?"}},
		{"swapped letters", "[SMPQ]\nqueue_qouta = 1\n", "", []string{"t.ini:5: the unknown key [SMPQ] queue_qouta has no effect, did you mean [SMPQ] queue_quota?"}},
		{"another section", "[TRANSPORT]\nnew_queues = on\n", "", []string{"t.ini:5: the unknown key [TRANSPORT] new_queues has no effect, did you mean [AUTH] new_queues?"}},
		{"case", "[STORE_LOG]\nEnable = on\n", "", []string{"t.ini:5: the unknown key [STORE_LOG] Enable has no effect, did you mean [STORE_LOG] enable?"}},
		{"nothing similar", "[AUTH]\npassphrase_of_the_day = x\n", "", []string{"t.ini:5: the unknown key [AUTH] passphrase_of_the_day has no effect"}},
		{"unknown section", "[STORELOG]\nenable = on\ndb_schema = x\n", "", []string{"t.ini:5: the keys of the unknown section [STORELOG] have no effect, did you mean [STORE_LOG]?"}},
		{"variable", "", "SMPQ_QUEUE_QUOTAS=1", []string{"variable SMPQ_QUEUE_QUOTAS: there is no such key, did you mean SMPQ_QUEUE_QUOTA?"}},
		{"variable of something else", "", "SMPQ_KUBERNETES_HOST=1", []string{"variable SMPQ_KUBERNETES_HOST: there is no such key"}},
		{"deleted after 21 seconds", "[STORE_LOG]\ndb_deleted_ttl = 21\n", "", []string{
			"t.ini:5: [STORE_LOG] db_deleted_ttl: 21 without a unit is in seconds, as for smp-server: if days are meant, write 21d",
		}},
		{"seconds and days", "[STORE_LOG]\ndb_deleted_ttl = 1814400\n[STORE_LOG]\nexpire_ntfs_hours = 36h\n", "", nil},
		{"numbers that smp-server ignores", "[STORE_LOG]\nprometheus_interval = often\n[WEB]\nhttp = x\nhttps = 443\ncert = c\nkey = k\n", "", []string{
			"t.ini:5: [STORE_LOG] prometheus_interval: is not a time such as 21d, 36h, 90m, 30s or 1500ms, and has no effect",
			"t.ini:7: [WEB] http: is not a port, a number from 1 to 65535, and has no effect",
		}},
		{"half of HTTPS", "[WEB]\nhttps = 443\nkey = k\n", "", []string{"t.ini:5: [WEB] https: has no effect without all of https, cert and key"}},
		{"information without source code", "[INFORMATION]\nhosting_type = virtual\nwebsite =\noperator = Me\n", "", []string{
			"t.ini:7: [INFORMATION] operator: is not shown, nor is other information, without source_code",
		}},
		{"country of nobody", "[INFORMATION]\nsource_code = x\noperator_country = gb\nhosting_country = US\n", "", []string{
			"t.ini:6: [INFORMATION] operator_country: is not shown without operator",
			"t.ini:7: [INFORMATION] hosting_country: is not shown without hosting",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, warnings, err := config.Sources{File: parse(t, needed+tt.file), Environ: []string{tt.environ}}.Router()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, warnings); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
	_, warnings, err := config.Sources{File: parse(t, "host = x\n"+needed)}.Router()
	if want := []string{"t.ini:1: host is in no section and has no effect, did you mean [TRANSPORT] host?"}; err != nil || !slices.Equal(warnings, want) {
		t.Errorf("warnings %q, error %v; want %q", warnings, err, want)
	}
}

func TestRouterRefuses(t *testing.T) {
	const needed = "[TRANSPORT]\nport: 5223\nwebsockets: off\n"
	for _, tt := range []struct{ name, file, set, want string }{
		{"switch", "[AUTH]\nnew_queues = yes", "", `t.ini:5: [AUTH] new_queues: is "yes", want on or off`},
		{"password", "[AUTH]\ncreate_password = hunter 2", "", `t.ini:5: [AUTH] create_password: cannot be a password: a password has no white space, no control characters and none of "@", ":" and "/"`},
		{"no password", "[AUTH]\ncreate_password =", "", `t.ini:5: [AUTH] create_password: is empty`},
		{"no number", "[SMPQ]\nqueue_quota = many", "", "t.ini:5: [SMPQ] queue_quota: is not a whole number"},
		{"number out of range", "[SMPQ]\nqueue_quota = 0", "", "t.ini:5: [SMPQ] queue_quota: is 0, want a number from 1 to 1000000"},
		{"time", "[SMPQ]\nend_interval = 15 s", "", "t.ini:5: [SMPQ] end_interval: is not a time such as 21d, 36h, 90m, 30s or 1500ms: the units are w, d, h, m, s and ms"},
		{"no time", "[SMPQ]\nend_interval = 0", "", "t.ini:5: [SMPQ] end_interval: must be more than 0"},
		{"long time", "[STORE_LOG]\nexpire_messages_days = 999999999", "", "t.ini:5: [STORE_LOG] expire_messages_days: is too long"},
		{"versions", "[SMPQ]\nversions = 5-18", "", "t.ini:5: [SMPQ] versions: is not a range of versions within 6-19, such as 6-19"},
		{"country", "[INFORMATION]\nserver_country = GER", "", "t.ini:5: [INFORMATION] server_country: is not the code of a country, two letters"},
		{"hosts", "[TRANSPORT]\nhost = a b", "", "t.ini:5: [TRANSPORT] host: is not a list of hosts: the name of a host is wrong"},
		{"socks", "[PROXY]\nsocks_proxy = user@host", "", "t.ini:5: [PROXY] socks_proxy: is not [user:password@]host[:port], nor @host[:port]"},
		{"networks", "[SMPQ]\nproxy_deny = intranet", "", "t.ini:5: [SMPQ] proxy_deny: is not a list of loopback, private, link-local and networks such as 192.0.2.0/24"},
		{"stores", "[STORE_LOG]\nstore_messages = database", "", "t.ini:5: [STORE_LOG] store_messages: store_messages = database does not go with store_queues = memory"},
		{"stores by default", "[STORE_LOG]\nstore_queues = database", "", "t.ini:5: [STORE_LOG] store_queues: store_messages = memory does not go with store_queues = database"},
		{"contradiction", "[TRANSPORT]\nport = 443", "", "t.ini:5: [TRANSPORT] port: has another value in line 2"},
		{"required if", "[INACTIVE_CLIENTS]\ndisconnect = on", "", "t.ini: no key ttl in section INACTIVE_CLIENTS\nt.ini: no key check_interval in section INACTIVE_CLIENTS"},
		{"set", "", "TRANSPORT.port=ssh", "setting: [TRANSPORT] port: is not a port, a number from 1 to 65535, or a list of such with commas between"},
		{"set twice", "", "TRANSPORT.port=1,1", "setting: [TRANSPORT] port: has the port 1 twice"},
		{"set what is not there", "", "qouta=hunter2", "setting qouta: there is no such key"},
		{"set a similar key", "", "AUTH.new_queue=on", "setting AUTH.new_queue: there is no such key, did you mean AUTH.new_queues?"},
		{"set without a section", "", "port=443", "setting port: there is no such key, did you mean TRANSPORT.port?"},
		{"set to nothing", "", "queue_quota", "setting queue_quota: has no value: want SECTION.key=value, or key=value for the section [SMPQ]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := config.Sources{File: parse(t, needed+tt.file+"\n")}
			if tt.set != "" {
				s.Set = []string{tt.set}
			}
			_, _, err := s.Router()
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
	_, _, err := config.Sources{File: parse(t, ""), Environ: []string{"SMPQ_QUEUE_QUOTA=x"}}.Router()
	want := "t.ini: no key port in section TRANSPORT\nt.ini: no key websockets in section TRANSPORT\nvariable SMPQ_QUEUE_QUOTA: [SMPQ] queue_quota: is not a whole number"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	var value *config.ValueError
	if !errors.As(err, &value) || value.Line != 0 {
		t.Errorf("%v has no ValueError", err)
	}
}

func TestValues(t *testing.T) {
	read := func(setting string) config.Router {
		t.Helper()
		r, _, err := config.Sources{Set: []string{setting}}.Router()
		if err != nil {
			t.Errorf("%s: %v", setting, err)
		}
		return r
	}
	for text, want := range map[string]time.Duration{
		"1": time.Second, "1500ms": 1500 * time.Millisecond, "2m": 2 * time.Minute, "1d12h": 36 * time.Hour, "3w": 21 * day, "1m1ms": time.Minute + time.Millisecond,
	} {
		if got := read("end_interval=" + text).Tuning.EndInterval; got != want {
			t.Errorf("%s is %v, want %v", text, got, want)
		}
	}
	for text, want := range map[string]string{
		"": "127.0.0.1:9050 true  ", ":1080": "127.0.0.1:1080 true  ", "tor": "tor:9050 true  ", "localhost:9050": "localhost:9050 true  ", "@10.0.0.1": "10.0.0.1:9050 false  ",
		"me:pass:word@[::1]:9": "[::1]:9 false me pass:word", "::1": "[::1]:9050 true  ", "[::1]": "[::1]:9050 true  ",
	} {
		p := read("PROXY.socks_proxy=" + text).Proxy.SOCKS
		isolate := map[bool]string{true: " true ", false: " false "}[p.Isolate]
		if got := p.Address() + isolate + p.User + " " + p.Password(); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
		if strings.Contains(p.String()+p.GoString()+p.LogValue().String(), "word") {
			t.Errorf("%q prints its password", text)
		}
	}
	if got := read("TRANSPORT.websockets=on").Transport.WebSockets; !slices.Equal(got, []uint16{80}) {
		t.Errorf("WebSockets on %v", got)
	}
	if got := read("TRANSPORT.websockets=443, 8443").Transport.WebSockets; !slices.Equal(got, []uint16{8443}) {
		t.Errorf("WebSockets on %v", got)
	}
	if got := read("versions=9").Tuning.Versions; got != (smp.VersionRange{Min: 9, Max: 9}) {
		t.Errorf("versions %v", got)
	}
	if got := read("TRANSPORT.host=<hostnames>").Transport.Hosts; got != nil {
		t.Errorf("hosts %v", got)
	}
	for text, want := range map[string]config.Rate{
		"off": {}, "100/m": {100, time.Minute}, "20/10s": {20, 10 * time.Second}, "1/1d12h": {1, 36 * time.Hour}, "1000000/250ms": {1_000_000, 250 * time.Millisecond},
	} {
		if got := read("new_queue_rate=" + text).Tuning.NewQueueRate; got != want {
			t.Errorf("%q is %+v, want %+v", text, got, want)
		}
	}
	for text, want := range map[string]int{"off": 0, "1": 1, "5000": 5000} {
		if got := read("max_connections=" + text).Tuning.MaxConnections; got != want {
			t.Errorf("%q is %d, want %d", text, got, want)
		}
	}
	for _, text := range []string{
		"new_queue_rate=", "new_queue_rate=0/m", "new_queue_rate=-1/m", "new_queue_rate=5", "new_queue_rate=5/", "new_queue_rate=/m",
		"new_queue_rate=5/0s", "new_queue_rate=5/m/m", "new_queue_rate=1000001/m", "new_queue_rate=5/x", "new_queue_rate=on",
		"max_connections=", "max_connections=0", "max_connections=-1", "max_connections=on", "max_connections=2147483648",
	} {
		if _, _, err := (config.Sources{Set: []string{text}}).Router(); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
	for text, want := range map[string]string{
		"": "[]", "192.0.2.1/24 2001:db8::/32": "[192.0.2.0/24 2001:db8::/32]", "link-local": "[169.254.0.0/16 fe80::/10]",
		"loopback,198.51.100.7/32": "[0.0.0.0/8 127.0.0.0/8 ::/127 198.51.100.7/32]",
		"private":                  "[10.0.0.0/8 100.64.0.0/10 172.16.0.0/12 192.168.0.0/16 fc00::/7]",
	} {
		if got := fmt.Sprint(read("proxy_deny=" + text).Tuning.ProxyDeny); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
	for text, want := range map[string]int64{
		"0": 0, "0%": 0, "1000": 1000, "64MiB": 64 << 20, "2 GiB": 2 << 30, "3kB": 3000, "5MB": 5_000_000, "10%": 100_000_000, "100%": 1_000_000_000,
	} {
		if got := read("cache_size=" + text).Tuning.CacheSize.Of(1_000_000_000); got != want {
			t.Errorf("%s is %d bytes, want %d", text, got, want)
		}
	}
	for _, setting := range []string{
		"cache_size=", "cache_size=-1", "cache_size=MiB", "cache_size=1.5GiB", "cache_size=1mb", "cache_size=101%", "cache_size=-1%", "cache_size=10 %", "cache_size=9999999999GiB",
		"monitor_address=5226", "monitor_address=:5226", "monitor_address=localhost", "monitor_address=localhost:http", "monitor_address=localhost:65536",
	} {
		if _, _, err := (config.Sources{Set: []string{setting}}).Router(); err == nil {
			t.Errorf("%s is taken", setting)
		}
	}
	for _, text := range []string{"", "localhost:5226", "127.0.0.1:0", "[::1]:80"} {
		if got := read("monitor_address=" + text).Tuning.MonitorAddress; got != text {
			t.Errorf("%s is %s", text, got)
		}
	}
	if got := read("PROXY.own_server_domains=a.example b.example, c.example").Proxy.OwnServerDomains; len(got) != 3 {
		t.Errorf("domains %q", got)
	}
}

// Names are unique, and no key of ours gets in the way of another variable.
func TestKeys(t *testing.T) {
	seen := map[string]bool{"SMPQ_DSN": true}
	sections := config.Sections()
	for _, k := range config.Keys() {
		if seen[k.Path()] || seen[k.Variable()] {
			t.Errorf("%s is there twice", k.Path())
		}
		seen[k.Path()], seen[k.Variable()] = true, true
		if !slices.ContainsFunc(sections, func(s config.Section) bool { return s.Name == k.Section }) {
			t.Errorf("%s has an unknown section", k.Path())
		}
		if k.Values() == "" || k.Meaning == "" || !strings.HasSuffix(k.Meaning, ".") {
			t.Errorf("%s is not explained", k.Path())
		}
	}
}

// docs/configuration.md has all keys, as they are. With UPDATE_DOCS=1 in the
// environment its tables are written.
func TestDocument(t *testing.T) {
	name := filepath.Join("..", "..", "docs", "configuration.md")
	doc, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- keys: written by UPDATE_DOCS=1 go test ./internal/config -->\n", "<!-- end of keys -->\n"
	before, rest, found := strings.Cut(string(doc), begin)
	got, after, found2 := strings.Cut(rest, end)
	if !found || !found2 {
		t.Fatalf("%s has no place for the keys", name)
	}
	want := tables()
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(name, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-keys +document):\n%s", name, diff)
	}
}

func tables() string {
	var b strings.Builder
	for _, s := range config.Sections() {
		b.WriteString("\n## [" + s.Name + "]\n\n" + s.Meaning + "\n\n| key, variable | value | default | meaning |\n|---|---|---|---|\n")
		for _, k := range config.Keys() {
			if k.Section != s.Name {
				continue
			}
			value := ""
			if k.Default != "" {
				value = "`" + k.Default + "`"
			}
			meaning := k.Meaning
			if k.Required != nil {
				meaning += " *Required.*"
			}
			b.WriteString("| `" + k.Name + "`<br>`" + k.Variable() + "` | " + k.Values() + " | " + value + " | " + meaning + " |\n")
		}
	}
	return b.String() + "\n"
}

// What is composed says what was set, and nothing else.
func TestCompose(t *testing.T) {
	settings := []string{"TRANSPORT.port=5223,443", "TRANSPORT.websockets=off", "AUTH.create_password=secret", "WEB.cert=", "queue_quota=4", "INFORMATION.operator=Me # and you"}
	text, err := config.Compose(settings)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if len(line) > 81 {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
	file, err := config.Parse("t.ini", bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := config.Sources{File: file}.Router()
	if err != nil {
		t.Fatal(err)
	}
	want, _, err := config.Sources{Set: settings}.Router()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, equal); diff != "" {
		t.Errorf("-set +read\n%s", diff)
	}
	if want := "\n# Messages that a queue takes before its sender has to wait. (number)\nqueue_quota = 4\n"; !strings.Contains(string(text), want) {
		t.Errorf("no %q in\n%s", want, text)
	}
	// All keys are there: as comments they are the defaults.
	var active bytes.Buffer
	for line := range strings.Lines(string(text)) {
		if key, _, found := strings.Cut(strings.TrimPrefix(line, "# "), " ="); found && !strings.Contains(key, " ") {
			line = strings.TrimPrefix(line, "# ")
			if strings.HasSuffix(line, "=\n") {
				continue
			}
		}
		active.WriteString(line)
	}
	if got, warnings, err := (config.Sources{File: parse(t, active.String())}).Router(); err != nil {
		t.Errorf("warnings %q, error %v", warnings, err)
	} else if diff := cmp.Diff(want, got, equal); diff != "" {
		t.Errorf("-set +read with the defaults\n%s", diff)
	}

	for _, settings := range [][]string{{"INFORMATION.operator=a\nb = c"}, {"INFORMATION.operator=a\n[AUTH]"}, {"INFORMATION.operator=a\n# b"}, {"nosuch=1"}, {"queue_quota=x"}} {
		if text, err := config.Compose(settings); err == nil {
			t.Errorf("%q gave\n%s", settings, text)
		}
	}
}
