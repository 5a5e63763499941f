package store

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// A Row is a queue as the table msg_queues has it.
type Row struct {
	queue.Record

	// DeletedAt is the day of the soft delete. It is known for soft-deleted
	// queues only; to routers they are gone.
	DeletedAt queue.Date

	// Messages is what the row says of the queue's messages. It is the zero
	// MessageState if the schema has no messages.
	Messages MessageState

	// Damage is what Record does not show as it is in the table.
	Damage Damage
}

// Deleted reports whether the queue is soft-deleted.
func (r *Row) Deleted() bool { return r.DeletedAt.Known }

// A MessageState is what the row of a queue says of its messages.
type MessageState struct {
	CanWrite bool  // false: over quota, until the queue is drained
	Expire   bool  // there may be messages that expire
	Size     int64 // number of messages, quota markers included
}

// Damage is what is wrong with a row that can be read nevertheless. Routers stumble
// over the first two.
type Damage struct {
	// Notice: the notice of the status had lost its quotes, as happens in
	// imports of smp-server. Record has the status as it was meant.
	Notice bool

	// Link is a link without one or both parts of its data. Record has none.
	Link *queue.Link

	// Notifier is notifier credentials of which some columns are NULL. Record
	// has none, as routers see none.
	Notifier *queue.Notifier
}

// A rowScanner reads rows of msg_queues. Its fields receive one row.
type rowScanner struct {
	names   []string // columns in the order in which they are read
	targets []any    // where their values go

	row       Row
	keys      recipientKeys
	status    string
	mode      pgtype.Text
	updatedAt pgtype.Int8
	deletedAt pgtype.Int8
	link      queue.Link
	notifier  queue.Notifier
}

// newRowScanner lists all columns that the schema has. The recipient id comes
// first, so that it is known when another column cannot be read.
func newRowScanner(s Schema) *rowScanner {
	r := new(rowScanner)
	column := func(name string, target any) {
		r.names = append(r.names, name)
		r.targets = append(r.targets, target)
	}
	column("recipient_id", &r.row.RecipientID)
	column("recipient_keys", &r.keys)
	column("rcv_dh_secret", &r.row.RcvDHSecret)
	column("sender_id", &r.row.SenderID)
	column("sender_key", &r.row.SenderKey)
	column("queue_mode", &r.mode)
	column("notifier_id", &r.notifier.ID)
	column("notifier_key", &r.notifier.Key)
	column("rcv_ntf_dh_secret", &r.notifier.DHSecret)
	column("ntf_service_id", &r.notifier.Service)
	column("status", &r.status)
	column("updated_at", &r.updatedAt)
	column("deleted_at", &r.deletedAt)
	column("link_id", &r.link.ID)
	column("fixed_data", &r.link.Data.Fixed)
	column("user_data", &r.link.Data.User)
	column("rcv_service_id", &r.row.RcvService)
	if s.HasMessages() {
		column("msg_can_write", &r.row.Messages.CanWrite)
		column("msg_queue_expire", &r.row.Messages.Expire)
		column("msg_queue_size", &r.row.Messages.Size)
	}
	return r
}

// columns lists the columns for a statement.
func (r *rowScanner) columns() string { return strings.Join(r.names, ", ") }

// scan reads the present row. What it returns is the caller's.
func (r *rowScanner) scan(rows pgx.Rows) (*Row, error) {
	r.row.RecipientID = queue.RecipientID{}
	if err := rows.Scan(r.targets...); err != nil {
		return nil, r.unreadable(columnError(err))
	}
	row := r.row // a copy
	row.RecipientKeys = r.keys
	row.UpdatedAt = queue.Date{Seconds: r.updatedAt.Int64, Known: r.updatedAt.Valid}
	row.DeletedAt = queue.Date{Seconds: r.deletedAt.Int64, Known: r.deletedAt.Valid}
	var err error
	row.Status, row.Damage.Notice, err = queue.RepairStatus(r.status)
	if err != nil {
		return nil, r.unreadable(fmt.Errorf("column status: %w", err))
	}
	if r.mode.Valid {
		if row.Mode, err = queue.ParseMode(r.mode.String); err != nil {
			return nil, r.unreadable(fmt.Errorf("column queue_mode: %w", err))
		}
	}
	if !r.link.ID.IsZero() {
		link := r.link
		if len(link.Data.Fixed) > 0 && len(link.Data.User) > 0 {
			row.Link = &link
		} else {
			row.Damage.Link = &link
		}
	}
	if n := r.notifier; !n.ID.IsZero() && !n.Key.IsZero() && !n.DHSecret.IsZero() {
		row.Notifier = &n
	} else if n != (queue.Notifier{}) {
		row.Damage.Notifier = &n
	}
	return &row, nil
}

// unreadable says which row it is that cannot be read.
func (r *rowScanner) unreadable(err error) error {
	if id := r.row.RecipientID; !id.IsZero() {
		return fmt.Errorf("queue %s: %w", id, err)
	}
	return fmt.Errorf("a queue without recipient id: %w", err)
}

// columnError says of which column a value could not be read.
func columnError(err error) error {
	if scan, ok := errors.AsType[pgx.ScanArgError](err); ok {
		return fmt.Errorf("column %s: %w", scan.FieldName, scan.Err)
	}
	return err
}

// recipientKeys reads the column recipient_keys.
type recipientKeys []smp.PublicKey

// ScanBytes implements [pgtype.BytesScanner].
func (k *recipientKeys) ScanBytes(b []byte) error {
	keys, err := queue.ParseBinaryKeys(b)
	*k = keys
	return err
}
