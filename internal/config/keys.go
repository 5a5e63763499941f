package config

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/smpq/smpq/internal/smp"
)

// A Key is a key of the router's configuration.
type Key struct {
	Section string
	Name    string
	Default string // as it would be written; empty: none, or what Meaning says
	Meaning string // of it and, if it has no default, of its absence
	// Required reports whether a configuration file must have the key, if the keys
	// before it are as in the Router. Where there is no file, the default counts.
	// Nil: never.
	Required func(*Router) bool

	lenient bool // a value that cannot be read is none: so does smp-server
	kind
}

// Values says in words what the key takes.
func (k Key) Values() string { return k.values }

// Path returns the name of the key with its section: "AUTH.new_queues".
func (k Key) Path() string { return k.Section + "." + k.Name }

// Variable returns the name of the environment variable that sets the key:
// SMPQ_AUTH_NEW_QUEUES, or SMPQ_QUEUE_QUOTA for one of the section [SMPQ].
func (k Key) Variable() string {
	if k.Section == tuningSection {
		return variablePrefix + strings.ToUpper(k.Name)
	}
	return variablePrefix + strings.ToUpper(k.Section+"_"+k.Name)
}

const variablePrefix = "SMPQ_"

// A Section is a section of the router's configuration.
type Section struct {
	Name    string
	Meaning string
}

// Sections returns the sections, in the order of the file.
func Sections() []Section { return slices.Clone(sections) }

// Keys returns all keys, by section, in the order of the file.
func Keys() []Key { return slices.Clone(keys) }

// The sections of the file.
const (
	informationSection = "INFORMATION"
	storeLogSection    = "STORE_LOG"
	authSection        = "AUTH"
	transportSection   = "TRANSPORT"
	proxySection       = "PROXY"
	inactiveSection    = "INACTIVE_CLIENTS"
	webSection         = "WEB"
	tuningSection      = "SMPQ"
)

var sections = []Section{
	{informationSection, "What the router's public page says of it and of who runs it. All of it is optional, but nothing is shown without source_code."},
	{storeLogSection, "Where queues and messages are kept, and for how long. smpq keeps both in PostgreSQL."},
	{authSection, "Who may create queues, and who may operate the router."},
	{transportSection, "Where the router listens, and by which names it is reached."},
	{proxySection, "How the router connects to others, to which its clients send by way of it."},
	{inactiveSection, "When clients without subscriptions are disconnected."},
	{webSection, "The router's pages for browsers: one about the router, one to which links lead."},
	{tuningSection, "What smp-server has no keys for. It ignores this section; the defaults are what it uses."},
}

func always(*Router) bool { return true }

// Limits of numbers, far beyond what makes sense: they keep sums and sizes sound.
const (
	million = 1_000_000
	maxInt  = 1<<31 - 1
)

// keys is what a configuration can say. No key of the section [SMPQ] begins with
// port or service, since Kubernetes makes variables such as SMPQ_PORT.
var keys = []Key{
	{
		Section: informationSection, Name: "source_code",
		kind:    text(func(r *Router) *string { return &r.Information.SourceCode }),
		Meaning: "Link to the source code of the router. Without it the page shows no information at all.",
	},
	{
		Section: informationSection, Name: "usage_conditions",
		kind:    text(func(r *Router) *string { return &r.Information.UsageConditions }),
		Meaning: "Link to the conditions of use.",
	},
	{
		Section: informationSection, Name: "condition_amendments",
		kind:    text(func(r *Router) *string { return &r.Information.ConditionAmendments }),
		Meaning: "Link to amendments of the conditions.",
	},
	{
		Section: informationSection, Name: "server_country",
		kind:    country(func(r *Router) *string { return &r.Information.ServerCountry }),
		Meaning: "Country in which the router is, by its ISO 3166 code.",
	},
	{
		Section: informationSection, Name: "operator",
		kind:    text(func(r *Router) *string { return &r.Information.Operator }),
		Meaning: "Name of the person or organization that runs the router.",
	},
	{
		Section: informationSection, Name: "operator_country",
		kind:    country(func(r *Router) *string { return &r.Information.OperatorCountry }),
		Meaning: "Country of the operator.",
	},
	{
		Section: informationSection, Name: "website",
		kind:    text(func(r *Router) *string { return &r.Information.Website }),
		Meaning: "Link to the web site of the operator.",
	},
	{
		Section: informationSection, Name: "admin_simplex",
		kind:    text(func(r *Router) *string { return &r.Information.Admin.SimpleX }),
		Meaning: "SimpleX address of the administrator.",
	},
	{
		Section: informationSection, Name: "admin_email",
		kind:    text(func(r *Router) *string { return &r.Information.Admin.Email }),
		Meaning: "E-mail address of the administrator.",
	},
	{
		Section: informationSection, Name: "admin_pgp",
		kind:    text(func(r *Router) *string { return &r.Information.Admin.PGP }),
		Meaning: "Link to the PGP key of the administrator.",
	},
	{
		Section: informationSection, Name: "admin_pgp_fingerprint",
		kind:    text(func(r *Router) *string { return &r.Information.Admin.PGPFingerprint }),
		Meaning: "Fingerprint of that key.",
	},
	{
		Section: informationSection, Name: "complaints_simplex",
		kind:    text(func(r *Router) *string { return &r.Information.Complaints.SimpleX }),
		Meaning: "SimpleX address for complaints.",
	},
	{
		Section: informationSection, Name: "complaints_email",
		kind:    text(func(r *Router) *string { return &r.Information.Complaints.Email }),
		Meaning: "E-mail address for complaints.",
	},
	{
		Section: informationSection, Name: "complaints_pgp",
		kind:    text(func(r *Router) *string { return &r.Information.Complaints.PGP }),
		Meaning: "Link to the PGP key for complaints.",
	},
	{
		Section: informationSection, Name: "complaints_pgp_fingerprint",
		kind:    text(func(r *Router) *string { return &r.Information.Complaints.PGPFingerprint }),
		Meaning: "Fingerprint of that key.",
	},
	{
		Section: informationSection, Name: "hosting",
		kind:    text(func(r *Router) *string { return &r.Information.Hosting }),
		Meaning: "Name of the hosting provider.",
	},
	{
		Section: informationSection, Name: "hosting_country",
		kind:    country(func(r *Router) *string { return &r.Information.HostingCountry }),
		Meaning: "Country of the hosting provider.",
	},
	{
		Section: informationSection, Name: "hosting_type",
		kind:    word(func(r *Router) *string { return &r.Information.HostingType }, "virtual", "dedicated", "colocation", "owned"),
		Meaning: "What the router runs on.",
	},
	{
		Section: storeLogSection, Name: "enable", Default: "off",
		kind:    onOff(func(r *Router) *bool { return &r.StoreLog.Enable }),
		Meaning: "Keep queues across restarts. Queues in a database always are.",
	},
	{
		Section: storeLogSection, Name: "store_queues", Default: Memory,
		kind:    word(func(r *Router) *string { return &r.StoreLog.StoreQueues }, Memory, Database),
		Meaning: "Where queues are kept. smpq serve wants database; smpq import moves them there.",
	},
	{
		Section: storeLogSection, Name: "store_messages", Default: Memory,
		kind:    word(func(r *Router) *string { return &r.StoreLog.StoreMessages }, Memory, Journal, Database),
		Meaning: "Where messages are kept. smpq serve wants database.",
	},
	{
		Section: storeLogSection, Name: "db_connection", Default: DefaultConnection,
		kind:    filled(func(r *Router) *string { return &r.StoreLog.DBConnection }),
		Meaning: "Connection string of the database.",
	},
	{
		Section: storeLogSection, Name: "db_schema", Default: DefaultSchema,
		kind:    filled(func(r *Router) *string { return &r.StoreLog.DBSchema }),
		Meaning: "Schema of the router's tables in the database.",
	},
	{
		Section: storeLogSection, Name: "db_pool_size", Default: "10",
		kind:    number(func(r *Router) *int { return &r.StoreLog.DBPoolSize }, 1, 1000),
		Meaning: "Connections to the database.",
	},
	{
		Section: storeLogSection, Name: "db_store_log", Default: "off",
		kind:    onOff(func(r *Router) *bool { return &r.StoreLog.DBStoreLog }),
		Meaning: "Log changes of the database to a store log as well.",
	},
	{
		Section: storeLogSection, Name: "db_deleted_ttl", Default: "1814400",
		kind:    span(func(r *Router) *time.Duration { return &r.StoreLog.DBDeletedTTL }, time.Second),
		Meaning: "How long deleted queues stay in the database, by default 21 days. A number without a unit is in seconds, as smp-server reads it, although the comment that it writes says days.",
	},
	{
		Section: storeLogSection, Name: "restore_messages",
		kind:    onOff(func(r *Router) *bool { return &r.StoreLog.RestoreMessages }),
		Meaning: "Keep messages in memory, and notifications, across restarts. By default the same as enable.",
	},
	{
		Section: storeLogSection, Name: "expire_messages_days", Default: "21",
		kind:    span(func(r *Router) *time.Duration { return &r.StoreLog.ExpireMessages }, day),
		Meaning: "How long messages are kept that nobody receives.",
	},
	{
		Section: storeLogSection, Name: "expire_messages_on_start", Default: "on",
		kind:    onOff(func(r *Router) *bool { return &r.StoreLog.ExpireMessagesStart }),
		Meaning: "Remove old messages when the router starts.",
	},
	{
		Section: storeLogSection, Name: "expire_messages_on_send", Default: "on",
		kind:    onOff(func(r *Router) *bool { return &r.StoreLog.ExpireMessagesOnSend }),
		Meaning: "Remove old messages of a queue when one is sent to it.",
	},
	{
		Section: storeLogSection, Name: "expire_ntfs_hours", Default: "24",
		kind:    span(func(r *Router) *time.Duration { return &r.StoreLog.ExpireNotifications }, time.Hour),
		Meaning: "How long notifications are kept that nobody receives.",
	},
	{
		Section: storeLogSection, Name: "log_stats", Default: "off",
		kind:    onOff(func(r *Router) *bool { return &r.StoreLog.LogStats }),
		Meaning: "Write statistics of each day to a CSV file.",
	},
	{
		Section: storeLogSection, Name: "prometheus_interval", lenient: true,
		kind:    span(func(r *Router) *time.Duration { return &r.StoreLog.PrometheusInterval }, time.Second),
		Meaning: "How often metrics are written to a file. By default they are not.",
	},
	{
		Section: authSection, Name: "new_queues", Default: "on",
		kind:    onOff(func(r *Router) *bool { return &r.Auth.NewQueues }),
		Meaning: "Let clients create queues. Off is for a router that is to be given up.",
	},
	{
		Section: authSection, Name: "create_password",
		kind:    password(func(r *Router) *smp.Password { return &r.Auth.CreatePassword }),
		Meaning: "Password for who creates queues, or sends by way of this router. It is a part of the address that they configure; others do not need it. By default everybody may.",
	},
	{
		Section: authSection, Name: "control_port_admin_password",
		kind:    password(func(r *Router) *smp.Password { return &r.Auth.ControlPortAdmin }),
		Meaning: "Password for all commands of the control port.",
	},
	{
		Section: authSection, Name: "control_port_user_password",
		kind:    password(func(r *Router) *smp.Password { return &r.Auth.ControlPortUser }),
		Meaning: "Password for commands of the control port that show numbers and block queues.",
	},
	{
		Section: authSection, Name: "daily_block_queue_quota", Default: strconv.Itoa(DefaultDailyBlockQuota),
		kind:    number(func(r *Router) *int { return &r.Auth.DailyBlockQueueQuota }, -1, maxInt),
		Meaning: "How many queues may be blocked in a day, in UTC. 0: any number, -1: none.",
	},
	{
		Section: transportSection, Name: "host",
		kind:    hosts(func(r *Router) *[]smp.Host { return &r.Transport.Hosts }),
		Meaning: "Names and addresses by which clients reach the router, for the address that is printed. An onion address may be among them.",
	},
	{
		Section: transportSection, Name: "port", Default: "5223,443", Required: always,
		kind:    ports(func(r *Router) *[]uint16 { return &r.Transport.Ports }),
		Meaning: "Where the router listens.",
	},
	{
		Section: transportSection, Name: "websockets", Default: "off", Required: always,
		kind:    webSockets(func(r *Router) *[]uint16 { return &r.Transport.WebSockets }),
		Meaning: "Where the router listens for WebSockets, for tests.",
	},
	{
		Section: transportSection, Name: "log_tls_errors", Default: "off",
		kind:    onOff(func(r *Router) *bool { return &r.Transport.LogTLSErrors }),
		Meaning: "Log TLS handshakes that fail.",
	},
	{
		Section: transportSection, Name: "control_port",
		kind:    port(func(r *Router) *uint16 { return &r.Transport.ControlPort }),
		Meaning: "Port on 127.0.0.1 for commands of the operator, usually 5224. By default there is none.",
	},
	{
		Section: transportSection, Name: "accept_service_credentials", Default: "on",
		kind:    onOff(func(r *Router) *bool { return &r.Transport.AcceptServiceCredentials }),
		Meaning: "Ask clients for certificates, with which services prove who they are.",
	},
	{
		Section: proxySection, Name: "host_mode", Default: "public",
		kind:    either(func(r *Router) *bool { return &r.Proxy.PreferOnion }, "public", "onion"),
		Meaning: "Which host of another router is preferred, if it has several.",
	},
	{
		Section: proxySection, Name: "required_host_mode", Default: "off",
		kind:    onOff(func(r *Router) *bool { return &r.Proxy.RequiredHostMode }),
		Meaning: "Connect to no other hosts.",
	},
	{
		Section: proxySection, Name: "own_server_domains",
		kind:    list(func(r *Router) *[]string { return &r.Proxy.OwnServerDomains }),
		Meaning: "Domains of routers of the same operator, which are counted apart.",
	},
	{
		Section: proxySection, Name: "socks_proxy",
		kind:    socks(func(r *Router) *SOCKSProxy { return &r.Proxy.SOCKS }),
		Meaning: "SOCKS proxy for connections to other routers, such as 127.0.0.1:9050. Without credentials each connection has its own, so that Tor keeps them apart; with @ before the host it has none.",
	},
	{
		Section: proxySection, Name: "socks_mode", Default: "onion",
		kind:    either(func(r *Router) *bool { return &r.Proxy.SOCKSAlways }, "onion", "always"),
		Meaning: "Use the SOCKS proxy for onion addresses only, or always.",
	},
	{
		Section: proxySection, Name: "client_concurrency", Default: "32",
		kind:    number(func(r *Router) *int { return &r.Proxy.ClientConcurrency }, 1, million),
		Meaning: "How many commands of one client are being forwarded at a time.",
	},
	{
		Section: inactiveSection, Name: "disconnect", Default: "off",
		kind:    onOff(func(r *Router) *bool { return &r.InactiveClients.Disconnect }),
		Meaning: "Disconnect clients that have no subscriptions and are silent.",
	},
	{
		Section: inactiveSection, Name: "ttl", Default: "21600", Required: func(r *Router) bool { return r.InactiveClients.Disconnect },
		kind:    span(func(r *Router) *time.Duration { return &r.InactiveClients.TTL }, time.Second),
		Meaning: "How long they may be silent.",
	},
	{
		Section: inactiveSection, Name: "check_interval", Default: "3600", Required: func(r *Router) bool { return r.InactiveClients.Disconnect },
		kind:    span(func(r *Router) *time.Duration { return &r.InactiveClients.CheckInterval }, time.Second),
		Meaning: "How often that is looked at.",
	},
	{
		Section: webSection, Name: "static_path",
		kind:    text(func(r *Router) *string { return &r.Web.StaticPath }),
		Meaning: "Folder that the pages are written to, and from which they are served. By default there are no pages.",
	},
	{
		Section: webSection, Name: "http", lenient: true,
		kind:    port(func(r *Router) *uint16 { return &r.Web.HTTP }),
		Meaning: "Port for the pages over HTTP. By default there is none.",
	},
	{
		Section: webSection, Name: "https", lenient: true,
		kind:    port(func(r *Router) *uint16 { return &r.Web.HTTPS }),
		Meaning: "Port for the pages over HTTPS, which can be one of the router's own: browsers are told from clients by the name of the server that they send in TLS. It needs cert and key. By default there is none.",
	},
	{
		Section: webSection, Name: "cert",
		kind:    text(func(r *Router) *string { return &r.Web.Cert }),
		Meaning: "File with the certificate for HTTPS, which must have an RSA key of at least 4096 bits, and with those of its issuers. SIGHUP makes the router read it again.",
	},
	{
		Section: webSection, Name: "key",
		kind:    text(func(r *Router) *string { return &r.Web.Key }),
		Meaning: "File with its private key.",
	},
	{
		Section: tuningSection, Name: "versions", Default: "6-19",
		kind:    versions(func(r *Router) *smp.VersionRange { return &r.Tuning.Versions }),
		Meaning: "Versions of the protocol that are offered to clients. smp-server 6.5 offers 6-18.",
	},
	{
		Section: tuningSection, Name: "proxy", Default: "on",
		kind:    onOff(func(r *Router) *bool { return &r.Tuning.ProxyRole }),
		Meaning: "Let clients send to other routers by way of this one.",
	},
	{
		Section: tuningSection, Name: "cache_size", Default: "10%",
		kind:    size(func(r *Router) *Size { return &r.Tuning.CacheSize }),
		Meaning: "Memory for queues that were used lately, so that they need not be read from the database again; a queue takes about 420 bytes. 0: none.",
	},
	{
		Section: tuningSection, Name: "db_pooled", Default: "off",
		kind:    onOff(func(r *Router) *bool { return &r.Tuning.DBPooled }),
		Meaning: "The database is reached by a pooler that gives each transaction another session, such as PgBouncer with pool_mode = transaction.",
	},
	{
		Section: tuningSection, Name: "state_folder",
		kind:    text(func(r *Router) *string { return &r.Tuning.StateFolder }),
		Meaning: "Folder for files that the router writes, such as the store log. By default that of smp-server: $SMP_SERVER_LOG_PATH, else /var/opt/simplex if the configuration is in /etc/opt/simplex; otherwise, and with smpq serve --data, the folder of the configuration.",
	},
	{
		Section: tuningSection, Name: "monitor_address",
		kind:    listenAddress(func(r *Router) *string { return &r.Tuning.MonitorAddress }),
		Meaning: "Address for /healthz, /readyz and /metrics over HTTP, usually 127.0.0.1:5226. By default there is none.",
	},
	{
		Section: tuningSection, Name: "monitor_public", Default: "off",
		kind:    onOff(func(r *Router) *bool { return &r.Tuning.MonitorPublic }),
		Meaning: "That address may be one that others can reach. Nobody is asked who he is.",
	},
	{
		Section: tuningSection, Name: "monitor_profiles", Default: "off",
		kind:    onOff(func(r *Router) *bool { return &r.Tuning.MonitorProfiles }),
		Meaning: "Show profiles of the program there, under /debug/pprof/.",
	},
	{
		Section: tuningSection, Name: "queue_quota", Default: strconv.Itoa(DefaultQueueQuota),
		kind:    number(func(r *Router) *int { return &r.Tuning.QueueQuota }, 1, million),
		Meaning: "Messages that a queue takes before its sender has to wait.",
	},
	{
		Section: tuningSection, Name: "id_attempts", Default: "3",
		kind:    number(func(r *Router) *int { return &r.Tuning.IDAttempts }, 1, 100),
		Meaning: "How many random ids are tried for a new queue.",
	},
	{
		Section: tuningSection, Name: "send_queue", Default: "128",
		kind:    number(func(r *Router) *int { return &r.Tuning.SendQueue }, 1, million),
		Meaning: "Blocks of 16 KiB that may wait to be sent on a connection, before the router leaves messages in their queues and reads no more from the client: this limits the memory of a connection. smpq has no other queues for connections.",
	},
	{
		Section: tuningSection, Name: "tls_timeout", Default: "60s",
		kind:    span(func(r *Router) *time.Duration { return &r.Tuning.TLSTimeout }, time.Second),
		Meaning: "How long the TLS handshake of a client may take.",
	},
	{
		Section: tuningSection, Name: "handshake_timeout", Default: "120s",
		kind:    span(func(r *Router) *time.Duration { return &r.Tuning.HandshakeTimeout }, time.Second),
		Meaning: "How long the handshake of the protocol may take then.",
	},
	{
		Section: tuningSection, Name: "block_timeout", Default: "120s",
		kind:    span(func(r *Router) *time.Duration { return &r.Tuning.BlockTimeout }, time.Second),
		Meaning: "How long a client may take to send the rest of a block, or to take one. smp-server waits for ever.",
	},
	{
		Section: tuningSection, Name: "close_timeout", Default: "5s",
		kind:    span(func(r *Router) *time.Duration { return &r.Tuning.CloseTimeout }, time.Second),
		Meaning: "How long a client may take to close its end of a connection that the router has closed.",
	},
	{
		Section: tuningSection, Name: "keepalive_idle", Default: "2m",
		kind:    span(func(r *Router) *time.Duration { return &r.Tuning.KeepaliveIdle }, time.Second),
		Meaning: "When TCP looks whether a silent client is still there. smp-server does not look. Clients do so themselves each 30 seconds, so that they are not woken up by this.",
	},
	{
		Section: tuningSection, Name: "keepalive_interval", Default: "15s",
		kind:    span(func(r *Router) *time.Duration { return &r.Tuning.KeepaliveInterval }, time.Second),
		Meaning: "How often it does so then.",
	},
	{
		Section: tuningSection, Name: "keepalive_count", Default: "4",
		kind:    number(func(r *Router) *int { return &r.Tuning.KeepaliveCount }, 1, 100),
		Meaning: "How often without an answer, before the client is disconnected.",
	},
	{
		Section: tuningSection, Name: "max_connections", Default: off,
		kind:    limit(func(r *Router) *int { return &r.Tuning.MaxConnections }),
		Meaning: "Connections of clients at a time. Others are closed at once. smp-server has neither this limit nor the following ones.",
	},
	{
		Section: tuningSection, Name: "max_connections_per_address", Default: off,
		kind:    limit(func(r *Router) *int { return &r.Tuning.MaxConnectionsPerAddress }),
		Meaning: "Connections at a time from one IPv4 address or IPv6 network of 64 bits. Others are closed at once. Connections from this machine itself do not count, since those of an onion service come from there, nor do they for the next key.",
	},
	{
		Section: tuningSection, Name: "handshake_rate_per_address", Default: off,
		kind:    rate(func(r *Router) *Rate { return &r.Tuning.HandshakeRatePerAddress }),
		Meaning: "How often a connection may be made from one such address: 20/m allows 20 at once, then another one each 3 seconds. Others are closed at once.",
	},
	{
		Section: tuningSection, Name: "handshake_rate", Default: off,
		kind:    rate(func(r *Router) *Rate { return &r.Tuning.HandshakeRate }),
		Meaning: "How often a connection may be made by anybody. Others wait for their turn.",
	},
	{
		Section: tuningSection, Name: "new_queue_rate", Default: off,
		kind:    rate(func(r *Router) *Rate { return &r.Tuning.NewQueueRate }),
		Meaning: "How often a queue may be created. Clients beyond that are told that the store failed, and try again later.",
	},
	{
		Section: tuningSection, Name: "new_queue_rate_per_client", Default: off,
		kind:    rate(func(r *Router) *Rate { return &r.Tuning.NewQueueRatePerClient }),
		Meaning: "How often a queue may be created on one connection.",
	},
	{
		Section: tuningSection, Name: "max_commands", Default: off,
		kind:    limit(func(r *Router) *int { return &r.Tuning.MaxCommands }),
		Meaning: "Commands of all clients that are carried out at a time; what subscribes in one block is one command. Others wait for their turn.",
	},
	{
		Section: tuningSection, Name: "end_interval", Default: "15s",
		kind:    span(func(r *Router) *time.Duration { return &r.Tuning.EndInterval }, time.Second),
		Meaning: "How often subscribers are told that others took their queues over.",
	},
	{
		Section: tuningSection, Name: "notification_interval", Default: "1500ms",
		kind:    span(func(r *Router) *time.Duration { return &r.Tuning.NotificationInterval }, time.Second),
		Meaning: "How often notifications are sent to notifiers.",
	},
	{
		Section: tuningSection, Name: "expire_interval", Default: "2h",
		kind:    span(func(r *Router) *time.Duration { return &r.Tuning.ExpireInterval }, time.Second),
		Meaning: "How often old messages and deleted queues are removed.",
	},
	{
		Section: tuningSection, Name: "expire_batch", Default: "50",
		kind:    number(func(r *Router) *int { return &r.Tuning.ExpireBatch }, 1, million),
		Meaning: "Queues of which messages are removed in one step of that: their senders and recipients wait meanwhile. smp-server takes 10000.",
	},
	{
		Section: tuningSection, Name: "notification_expire_interval", Default: "1h",
		kind:    span(func(r *Router) *time.Duration { return &r.Tuning.NotificationExpireInterval }, time.Second),
		Meaning: "How often old notifications are removed.",
	},
	{
		Section: tuningSection, Name: "proxy_deny", Default: "link-local",
		kind:    networks(func(r *Router) *[]netip.Prefix { return &r.Tuning.ProxyDeny }),
		Meaning: "Networks with which the router does not connect for its clients. smp-server connects with all; without other routers of the operator in them, better deny loopback, private and link-local. Names that a SOCKS proxy resolves are not looked at.",
	},
	{
		Section: tuningSection, Name: "proxy_max_relays", Default: "10000",
		kind:    number(func(r *Router) *int { return &r.Tuning.ProxyMaxRelays }, 1, million),
		Meaning: "Other routers that are connected, or remembered with an error, at a time. smp-server has no limit.",
	},
	{
		Section: tuningSection, Name: "proxy_connect_timeout", Default: "45s",
		kind:    span(func(r *Router) *time.Duration { return &r.Tuning.ProxyConnectTimeout }, time.Second),
		Meaning: "How long connecting to another router may take.",
	},
	{
		Section: tuningSection, Name: "proxy_response_timeout", Default: "30s",
		kind:    span(func(r *Router) *time.Duration { return &r.Tuning.ProxyResponseTimeout }, time.Second),
		Meaning: "How long another router may take to answer.",
	},
	{
		Section: tuningSection, Name: "proxy_error_ttl", Default: "30s",
		kind:    span(func(r *Router) *time.Duration { return &r.Tuning.ProxyErrorTTL }, time.Second),
		Meaning: "How long another router is not tried again after an error.",
	},
	{
		Section: tuningSection, Name: "proxy_send_queue", Default: "64",
		kind:    number(func(r *Router) *int { return &r.Tuning.ProxySendQueue }, 1, million),
		Meaning: "Commands that wait to be sent to another router.",
	},
	{
		Section: tuningSection, Name: "proxy_event_queue", Default: "2048",
		kind:    number(func(r *Router) *int { return &r.Tuning.ProxyEventQueue }, 1, million),
		Meaning: "Events from other routers that wait to be worked on.",
	},
	{
		Section: tuningSection, Name: "proxy_check_interval", Default: "600s",
		kind:    span(func(r *Router) *time.Duration { return &r.Tuning.ProxyCheckInterval }, time.Second),
		Meaning: "How often connections to other routers are looked at.",
	},
	{
		Section: tuningSection, Name: "proxy_max_timeouts", Default: "3",
		kind:    number(func(r *Router) *int { return &r.Tuning.ProxyMaxTimeouts }, 1, million),
		Meaning: "Commands in a row that another router may leave unanswered.",
	},
	{
		Section: tuningSection, Name: "proxy_max_silence", Default: "900s",
		kind:    span(func(r *Router) *time.Duration { return &r.Tuning.ProxyMaxSilence }, time.Second),
		Meaning: "How long it may be silent then before it is disconnected.",
	},
	{
		Section: tuningSection, Name: "proxy_keepalive_idle", Default: "30s",
		kind:    span(func(r *Router) *time.Duration { return &r.Tuning.ProxyKeepaliveIdle }, time.Second),
		Meaning: "When TCP looks whether another router is still there.",
	},
	{
		Section: tuningSection, Name: "proxy_keepalive_interval", Default: "15s",
		kind:    span(func(r *Router) *time.Duration { return &r.Tuning.ProxyKeepaliveInterval }, time.Second),
		Meaning: "How often it does so.",
	},
	{
		Section: tuningSection, Name: "proxy_keepalive_count", Default: "4",
		kind:    number(func(r *Router) *int { return &r.Tuning.ProxyKeepaliveCount }, 1, 100),
		Meaning: "How often without an answer.",
	},
}
