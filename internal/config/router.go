package config

import (
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/smpq/smpq/internal/smp"
)

// A Router is the whole configuration of a router. Each field is a key, of the
// section that its struct is named after; [Keys] says what they mean. Times and
// sizes that are zero mean "none" where the key has no default.
type Router struct {
	Information     Information
	StoreLog        StoreLog
	Auth            Auth
	Transport       Transport
	Proxy           Proxy
	InactiveClients InactiveClients
	Web             Web
	Tuning          Tuning
}

// Information is the section [INFORMATION]: what the router's public page says of
// it. Nothing is said if SourceCode is empty.
type Information struct {
	SourceCode          string
	UsageConditions     string
	ConditionAmendments string
	ServerCountry       string // two capital letters, as are the other countries
	Operator            string
	OperatorCountry     string
	Website             string
	Admin               Contact
	Complaints          Contact
	Hosting             string
	HostingCountry      string
	HostingType         string // virtual, dedicated, colocation or owned
}

// A Contact is how somebody can be reached.
type Contact struct {
	SimpleX        string // an address or a link
	Email          string
	PGP            string // where the key is
	PGPFingerprint string
}

// Where a router keeps its queues or messages: the values of store_queues
// (memory, database) and store_messages (memory, journal, database).
const (
	Memory   = "memory"
	Journal  = "journal"
	Database = "database"
)

// StoreLog is the section [STORE_LOG]: how the router stores queues and
// messages, and for how long.
type StoreLog struct {
	Enable               bool   // queues kept in memory are logged to a file
	StoreQueues          string // Memory or Database
	StoreMessages        string // Memory, Journal or Database
	DBConnection         string // connection string of the database; may hold a password
	DBSchema             string // schema of the router's tables
	DBPoolSize           int
	DBStoreLog           bool // changes of the database are logged to a file as well
	DBDeletedTTL         time.Duration
	RestoreMessages      bool
	ExpireMessages       time.Duration
	ExpireMessagesStart  bool
	ExpireMessagesOnSend bool
	ExpireNotifications  time.Duration
	LogStats             bool
	PrometheusInterval   time.Duration // 0: no file of metrics
}

// Auth is the section [AUTH]: who may create queues, and operate the router.
type Auth struct {
	NewQueues            bool
	CreatePassword       smp.Password
	ControlPortAdmin     smp.Password
	ControlPortUser      smp.Password
	DailyBlockQueueQuota int // 0: any number; negative: none
}

// Transport is the section [TRANSPORT]: where the router listens.
type Transport struct {
	Hosts                    []smp.Host // for the address that is printed; may be none
	Ports                    []uint16   // 0: one that is free
	WebSockets               []uint16   // without those in Ports
	LogTLSErrors             bool
	ControlPort              uint16 // 0: none
	AcceptServiceCredentials bool   // clients are asked for certificates
}

// Proxy is the section [PROXY]: how the router connects to others for its clients.
type Proxy struct {
	PreferOnion       bool // host_mode
	RequiredHostMode  bool
	OwnServerDomains  []string
	SOCKS             SOCKSProxy
	SOCKSAlways       bool // socks_mode: also for hosts that are no onions
	ClientConcurrency int
}

// A SOCKSProxy is by way of which connections are made. It does not print its
// password: String and LogValue hide it.
type SOCKSProxy struct {
	Host    string // empty: no proxy
	Port    uint16
	Isolate bool // each connection authenticates as somebody else, so that each has its own way
	User    string
	secret  string
}

// Password returns the password that goes with User.
func (p SOCKSProxy) Password() string { return p.secret }

// Address returns the proxy as it is dialled, empty if there is none.
func (p SOCKSProxy) Address() string {
	if p.Host == "" {
		return ""
	}
	return net.JoinHostPort(p.Host, portText(p.Port))
}

// String returns the address.
func (p SOCKSProxy) String() string { return p.Address() }

// GoString returns the address.
func (p SOCKSProxy) GoString() string { return p.Address() }

// LogValue returns the address.
func (p SOCKSProxy) LogValue() slog.Value { return slog.StringValue(p.Address()) }

// InactiveClients is the section [INACTIVE_CLIENTS]: when connections without
// subscriptions are closed.
type InactiveClients struct {
	Disconnect    bool
	TTL           time.Duration
	CheckInterval time.Duration
}

// Web is the section [WEB]: the router's public page.
type Web struct {
	StaticPath string // folder that the page is written to; empty: no page
	HTTP       uint16 // 0: none
	HTTPS      uint16 // 0: none
	Cert, Key  string // files for HTTPS
}

// A Size is an amount of memory: of bytes, or a share of what there is.
type Size struct {
	Bytes   int64
	Percent int
}

// Of returns the size in bytes where there are so many bytes of memory.
func (s Size) Of(memory int64) int64 { return s.Bytes + memory/100*int64(s.Percent) }

// Tuning is the section [SMPQ]: numbers that smp-server has no keys for. The
// defaults are what smp-server uses.
type Tuning struct {
	Versions  smp.VersionRange // offered to clients
	ProxyRole bool             // clients may send to other routers by way of this one

	CacheSize       Size   // memory for queues
	DBPooled        bool   // the database is behind a pooler that works by the transaction
	StateFolder     string // for files that the router writes; empty: that of the configuration, or smp-server's
	MonitorAddress  string // host and port; empty: no monitor
	MonitorPublic   bool   // it may be an address that others can reach
	MonitorProfiles bool   // profiles of the program are shown there

	QueueQuota int // messages that a queue takes before its sender has to wait
	IDAttempts int // how often another random id is tried, for one that is in use

	SendQueue int // blocks that wait to be sent on a connection

	TLSTimeout        time.Duration
	HandshakeTimeout  time.Duration
	BlockTimeout      time.Duration
	CloseTimeout      time.Duration
	KeepaliveIdle     time.Duration
	KeepaliveInterval time.Duration
	KeepaliveCount    int

	MaxConnections           int // 0: any number, as for the other limits
	MaxConnectionsPerAddress int
	MaxCommands              int
	HandshakeRate            Rate
	HandshakeRatePerAddress  Rate
	NewQueueRate             Rate
	NewQueueRatePerClient    Rate

	EndInterval                time.Duration
	NotificationInterval       time.Duration
	ExpireInterval             time.Duration
	ExpireBatch                int
	NotificationExpireInterval time.Duration

	ProxyDeny              []netip.Prefix // with which the router does not connect
	ProxyMaxRelays         int
	ProxyConnectTimeout    time.Duration
	ProxyResponseTimeout   time.Duration
	ProxyErrorTTL          time.Duration
	ProxySendQueue         int
	ProxyEventQueue        int
	ProxyCheckInterval     time.Duration
	ProxyMaxTimeouts       int
	ProxyMaxSilence        time.Duration
	ProxyKeepaliveIdle     time.Duration
	ProxyKeepaliveInterval time.Duration
	ProxyKeepaliveCount    int
}
