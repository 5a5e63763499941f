package inspect

import (
	"context"
	"encoding/base64"
	"math"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

// QueueOptions say what to report of a queue.
type QueueOptions struct {
	By       []store.By // the ids to look at; none: all
	Messages bool       // list the messages, not only their numbers
	Secrets  bool       // with DH secrets, link data and the bodies of messages
}

// A QueueReport is what the database has of one queue.
type QueueReport struct {
	FoundBy     []store.By        `json:"found_by"` // the ids that are the one asked for
	RecipientID queue.RecipientID `json:"recipient_id"`
	SenderID    queue.SenderID    `json:"sender_id"`

	State     string    `json:"state"`  // "live" or "soft-deleted"
	Status    string    `json:"status"` // "active", "off" or "blocked"
	Blocking  *Blocking `json:"blocking,omitempty"`
	Mode      string    `json:"mode"` // "messaging", "contact" or "unknown"
	Secured   bool      `json:"secured"`
	UpdatedAt string    `json:"updated_at,omitempty"` // day of the last use
	DeletedAt string    `json:"deleted_at,omitempty"` // day of the soft delete

	RecipientKeys []Key           `json:"recipient_keys"`
	SenderKey     *Key            `json:"sender_key,omitempty"`
	RcvDHSecret   string          `json:"recipient_dh_secret,omitempty"` // secret
	RcvService    queue.ServiceID `json:"receiving_service_id,omitzero"`
	Notifier      *Notifier       `json:"notifier,omitempty"`
	Link          *Link           `json:"link,omitempty"`
	Messages      *Messages       `json:"messages,omitempty"` // absent: the schema has none

	// Problems are what is wrong with the queue, in words.
	Problems []string `json:"problems,omitempty"`
}

// Blocking says why a queue is blocked.
type Blocking struct {
	Reason    string `json:"reason"`               // "spam" or "content"
	Notice    bool   `json:"notice"`               // clients show a notice
	NoticeTTL *int64 `json:"notice_ttl,omitempty"` // for so many seconds; absent: for ever
}

// A Key is a public key.
type Key struct {
	Algorithm string        `json:"algorithm"`
	Key       smp.PublicKey `json:"key"` // DER SubjectPublicKeyInfo
}

// A Notifier is the notifier credentials of a queue.
type Notifier struct {
	ID       queue.NotifierID `json:"notifier_id,omitzero"`
	Key      *Key             `json:"key,omitempty"`
	DHSecret string           `json:"dh_secret,omitempty"` // secret
	Service  queue.ServiceID  `json:"notifier_service_id,omitzero"`
}

// A Link is the short link of a queue.
type Link struct {
	ID         queue.LinkID `json:"link_id"`
	FixedBytes int          `json:"fixed_bytes"`
	UserBytes  int          `json:"user_bytes"`
	Fixed      string       `json:"fixed,omitempty"` // secret
	User       string       `json:"user,omitempty"`  // secret
}

// Messages are the messages of a queue.
type Messages struct {
	MessageCounts
	List []Message `json:"list,omitempty"`
}

// MessageCounts are the numbers of the messages of a queue.
type MessageCounts struct {
	Stored       int64  `json:"stored"` // rows, quota markers included
	QuotaMarkers int64  `json:"quota_markers"`
	BodyBytes    int64  `json:"body_bytes"`
	Oldest       string `json:"oldest,omitempty"` // when the router took it
	Newest       string `json:"newest,omitempty"`
	Size         int64  `json:"size"`      // as the queue's row says
	CanWrite     bool   `json:"can_write"` // false: over quota until the queue is drained
	Expire       bool   `json:"expire"`    // the row says that there may be messages that expire
}

// A Message is one message of a queue.
type Message struct {
	MessageInfo
	Body string `json:"body,omitempty"` // secret
}

// MessageInfo is what is not secret of a message.
type MessageInfo struct {
	ID          queue.MessageID `json:"message_id"`
	Time        string          `json:"time"`
	QuotaMarker bool            `json:"quota_marker"`
	Notify      bool            `json:"notify"`
	Bytes       int             `json:"bytes"`
}

// Queue reports on the queues that have the given id. Usually that is one; none
// is ErrNotFound.
func Queue(ctx context.Context, conn *pgx.Conn, s store.Schema, id []byte, o QueueOptions) ([]QueueReport, error) {
	var reports []QueueReport
	err := store.Snapshot(ctx, conn, func(q store.Querier) error {
		found, err := store.FindQueue(ctx, q, s, id, o.By...)
		if err != nil {
			return err
		}
		for _, f := range found {
			r := newQueueReport(f, o.Secrets)
			if s.HasMessages() {
				if err := r.addMessages(ctx, q, s, f.Row, o); err != nil {
					return err
				}
			}
			reports = append(reports, r)
		}
		return nil
	})
	if err == nil && len(reports) == 0 {
		err = notFound(s, id, o.By)
	}
	return reports, err
}

// byNames lists the ids of a look-up: "recipient, sender, notifier or link".
func byNames(by []store.By) string {
	if len(by) == 0 {
		by = store.Bys()
	}
	names := make([]string, len(by))
	for i, b := range by {
		names[i] = string(b)
	}
	last := len(names) - 1
	if last == 0 {
		return names[0]
	}
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

func newQueueReport(f store.Found, secrets bool) QueueReport {
	row := f.Row
	r := QueueReport{
		FoundBy:     f.By,
		RecipientID: row.RecipientID,
		SenderID:    row.SenderID,
		State:       state(row),
		Status:      row.Status.State.String(),
		Mode:        row.Mode.String(),
		Secured:     !row.SenderKey.IsZero(),
		UpdatedAt:   formatDate(row.UpdatedAt),
		DeletedAt:   formatDate(row.DeletedAt),
		SenderKey:   newKey(row.SenderKey),
		RcvService:  row.RcvService,
		Notifier:    newNotifier(row.Notifier, secrets),
		Link:        newLink(row.Link, secrets),
	}
	if row.Status.State == queue.Blocked {
		b := row.Status.Blocking
		r.Blocking = &Blocking{Reason: b.Reason, Notice: b.HasNotice}
		if b.Notice.HasTTL {
			r.Blocking.NoticeTTL = &b.Notice.TTL
		}
	}
	for _, k := range row.RecipientKeys {
		r.RecipientKeys = append(r.RecipientKeys, *newKey(k))
	}
	if secrets {
		r.RcvDHSecret = row.RcvDHSecret.Reveal()
	}
	if row.Damage.Notice {
		r.problem("the status had a notice without quotes, which smp-server cannot read")
	}
	if !row.Readable() {
		r.problem("smp-server exports a queue with a notice and a receiving service in a form that it cannot read")
	}
	if l := row.Damage.Link; l != nil {
		r.Link = newLink(l, secrets)
		r.problem("the link lacks data, and smp-server cannot read what it exports of it")
	}
	if n := row.Damage.Notifier; n != nil {
		r.Notifier = newNotifier(n, secrets)
		r.problem("the notifier credentials are incomplete: for smp-server there is no notifier")
	}
	return r
}

func (r *QueueReport) problem(text string) { r.Problems = append(r.Problems, text) }

// newKey returns nil for no key.
func newKey(k smp.PublicKey) *Key {
	if k.IsZero() {
		return nil
	}
	return &Key{Algorithm: k.Algorithm().String(), Key: k}
}

func newNotifier(n *queue.Notifier, secrets bool) *Notifier {
	if n == nil {
		return nil
	}
	r := &Notifier{ID: n.ID, Key: newKey(n.Key), Service: n.Service}
	if secrets && !n.DHSecret.IsZero() {
		r.DHSecret = n.DHSecret.Reveal()
	}
	return r
}

func newLink(l *queue.Link, secrets bool) *Link {
	if l == nil {
		return nil
	}
	r := &Link{ID: l.ID, FixedBytes: len(l.Data.Fixed), UserBytes: len(l.Data.User)}
	if secrets {
		r.Fixed = base64.URLEncoding.EncodeToString(l.Data.Fixed)
		r.User = base64.URLEncoding.EncodeToString(l.Data.User)
	}
	return r
}

// addMessages adds what there is of messages.
func (r *QueueReport) addMessages(ctx context.Context, q store.Querier, s store.Schema, row *store.Row, o QueueOptions) error {
	limit := 0
	if o.Messages {
		limit = math.MaxInt
	}
	counts, infos, err := readMessages(ctx, q, s, row, limit)
	if err != nil {
		return err
	}
	if p := counts.problem(); p != "" {
		r.problem(p)
	}
	r.Messages = &Messages{MessageCounts: counts}
	for _, info := range infos {
		r.Messages.List = append(r.Messages.List, Message{MessageInfo: info})
	}
	if !o.Messages || !o.Secrets {
		return nil
	}
	n := 0
	for m, err := range store.Messages(ctx, q, s, row.RecipientID) {
		if err != nil {
			return err
		}
		r.Messages.List[n].Body = base64.URLEncoding.EncodeToString(m.Body)
		n++
	}
	return nil
}
