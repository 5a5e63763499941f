package router

import (
	"context"
	"iter"
	"log/slog"
	"time"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/transport"
)

// A Store is what the router needs of a [store.Store], where the methods are
// described. Their errors are of type [*store.Error].
type Store interface {
	AddQueue(context.Context, *queue.Record) (*store.Queue, error)
	QueueByRecipient(context.Context, queue.RecipientID) (*store.Queue, error)
	QueueBySender(context.Context, queue.SenderID) (*store.Queue, error)
	QueueByNotifier(context.Context, queue.NotifierID) (*store.Queue, error)
	QueueByLink(context.Context, queue.LinkID) (*store.Queue, error)
	QueuesByRecipient(context.Context, []queue.RecipientID) ([]store.Lookup, error)
	QueuesByNotifier(context.Context, []queue.NotifierID) ([]store.Lookup, error)

	SecureQueue(context.Context, *store.Queue, smp.PublicKey) error
	SetRecipientKeys(context.Context, *store.Queue, ...smp.PublicKey) error
	LinkData(context.Context, *store.Queue, queue.LinkID) (queue.LinkData, error)
	SetLink(context.Context, *store.Queue, queue.Link) error
	DeleteLink(context.Context, *store.Queue) error
	AddNotifier(context.Context, *store.Queue, queue.Notifier) (old queue.Notifier, err error)
	DeleteNotifier(context.Context, *store.Queue) (old queue.Notifier, err error)
	SuspendQueue(context.Context, *store.Queue) error
	BlockQueue(context.Context, *store.Queue, queue.Blocking) error
	UnblockQueue(context.Context, *store.Queue) error
	SetUpdatedAt(ctx context.Context, q *store.Queue, seconds int64) error
	DeleteQueue(context.Context, *store.Queue) (was store.View, err error)

	WriteMessage(context.Context, queue.RecipientID, queue.Message) (store.Written, error)
	PeekMessage(context.Context, queue.RecipientID) (*queue.Message, error)
	PeekMessages(context.Context, []queue.RecipientID) (map[queue.RecipientID]*queue.Message, error)
	DeleteMessage(context.Context, queue.RecipientID, queue.MessageID) (*queue.Message, error)
	DeletePeekMessage(context.Context, queue.RecipientID, queue.MessageID) (deleted, next *queue.Message, err error)
	ExpireQueue(ctx context.Context, id queue.RecipientID, before int64) (int64, error)
	QueueSize(context.Context, queue.RecipientID) (int64, error)
	ExpireMessages(context.Context, store.ExpireOptions) (store.Expired, error)
	PurgeDeleted(ctx context.Context, before int64) (store.Removed, error)
	OnChange(func(queue.RecipientID))

	Service(context.Context, queue.Service) (queue.ServiceID, error)
	SetServices(context.Context, []*store.Queue, queue.Party, queue.ServiceID) []error
	ServiceQueues(context.Context, queue.ServiceID, queue.Party) (store.Aggregate, error)
	ServiceMessages(context.Context, queue.ServiceID) iter.Seq2[store.QueueMessage, error]
	NotifierServices(context.Context, []queue.NotifierID) (byService map[queue.ServiceID][]queue.NotifierID, unknown []queue.NotifierID, err error)
}

// Options say how a router works. Where a number or a time is 0, the router has
// that of the reference implementation, which the comment names.
type Options struct {
	Store Store

	// Credentials are the router's certificates and the key of the first.
	Credentials transport.Credentials
	// Versions are those that the router speaks. A zero bound is the oldest or the
	// newest that there is.
	Versions smp.VersionRange
	// TLS makes the TLS connections; nil for [transport.StandardTLS].
	TLS transport.TLS

	// Log receives what the router has to say. Nil: nothing is logged.
	Log *slog.Logger
	// Now is the clock; nil for [time.Now].
	Now func() time.Time

	// Password is needed to create queues and to have commands forwarded; zero: none.
	Password smp.Password
	// NoNewQueues says that nobody may create queues.
	NoNewQueues bool
	// NoServices says that services are not taken.
	NoServices bool
	// IDAttempts is how often ids are made for a new queue or notifier, as long as
	// they are in use. 3.
	IDAttempts int

	// MessageTTL is how long messages are kept. 21 days.
	MessageTTL time.Duration
	// DeletedTTL is how long deleted queues are kept. 21 days.
	DeletedTTL time.Duration
	// ExpireInterval is how often old messages and deleted queues are removed. 2 hours.
	ExpireInterval time.Duration
	// ExpireOnStart says that this is done at the start as well, while the router
	// serves already.
	ExpireOnStart bool
	// ExpireBatch is of how many queues messages are removed at a time.
	// [store.DefaultExpireBatch].
	ExpireBatch int
	// ExpireOnSend says that old messages of a queue are deleted when it gets another.
	ExpireOnSend bool

	// Proxy says how commands are forwarded to other routers.
	Proxy ProxyOptions

	// Output is how many bytes wait to be sent to a client before the router reads
	// no more from it and leaves messages in their queues. 128 blocks; smp-server has 128
	// entries of any number of blocks.
	Output int
	// Limits are against those who use too much of the router.
	Limits Limits

	// TLSTimeout is how long the TLS handshake of a client may take. 1 minute.
	TLSTimeout time.Duration
	// HandshakeTimeout is how long the handshake of the protocol may take then. 2
	// minutes.
	HandshakeTimeout time.Duration
	// BlockTimeout is how long a client may take to send the rest of a block, or to
	// take one, before it is disconnected. 2 minutes; smp-server waits for ever.
	BlockTimeout time.Duration
	// CloseTimeout is how long a client may take to close its end of a connection that
	// the router has closed. 5 s.
	CloseTimeout time.Duration
	// LogTLSErrors says that connections which fail in TLS are logged one by one. Others
	// that come to nothing are so at debug, and all of them are counted.
	LogTLSErrors bool

	// EndInterval is how long END, ENDS and DELD are gathered. 15 s.
	EndInterval time.Duration
	// NotifyInterval is how long notifications are gathered. 1.5 s.
	NotifyInterval time.Duration
	// NotificationTTL is how long notifications are kept for a notifier. 24 hours.
	NotificationTTL time.Duration
	// NotificationExpireInterval is how often old notifications are removed; if the
	// time that they are kept is shorter, that often. 1 hour.
	NotificationExpireInterval time.Duration
	// MaxNotifications is how many are kept for one notifier; then the oldest is
	// dropped. 1000; smp-server has no limit.
	MaxNotifications int
	// MaxAllNotifications is how many are kept for all notifiers together; then each
	// new one takes the place of the oldest for the same notifier, if there is one.
	// 1 million, which take some 300 MB; smp-server has no limit.
	MaxAllNotifications int
	// NotificationLog is the file in which notifications are kept while the router
	// does not run: New reads it, and copies it to a name that ends in ".bak". Empty:
	// they are lost.
	NotificationLog string
	// SaveInterval is how often it is written, if something has changed, so that not
	// much is lost if the router is killed. 30 s; smp-server writes it when it stops.
	SaveInterval time.Duration

	// InactiveTTL is after how much time connections are closed that are not
	// subscribed to anything and silent. 0: never.
	InactiveTTL time.Duration
	// InactiveCheck is how often the router looks for such connections. 1 hour.
	InactiveCheck time.Duration

	chance chance
}

// setDefaults sets what is zero.
func (o *Options) setDefaults() {
	orElse(&o.Versions.Min, smp.MinVersion)
	orElse(&o.Versions.Max, smp.MaxVersion)
	o.Proxy.setDefaults()
	orElse(&o.IDAttempts, 3)
	orElse(&o.MessageTTL, 21*24*time.Hour)
	orElse(&o.DeletedTTL, 21*24*time.Hour)
	orElse(&o.ExpireInterval, 2*time.Hour)
	orElse(&o.Output, 128*smp.BlockSize)
	orElse(&o.EndInterval, 15*time.Second)
	orElse(&o.NotifyInterval, 1500*time.Millisecond)
	orElse(&o.NotificationTTL, 24*time.Hour)
	orElse(&o.NotificationExpireInterval, time.Hour)
	orElse(&o.MaxNotifications, 1000)
	orElse(&o.MaxAllNotifications, 1_000_000)
	orElse(&o.SaveInterval, 30*time.Second)
	orElse(&o.InactiveCheck, time.Hour)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.chance == nil {
		o.chance = random{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

func orElse[T comparable](value *T, otherwise T) {
	var zero T
	if *value == zero {
		*value = otherwise
	}
}
