package inspect

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/store"
)

// A MessagesReport is the messages of one queue, without their bodies.
type MessagesReport struct {
	FoundBy     []store.By        `json:"found_by"` // the ids that are the one asked for
	RecipientID queue.RecipientID `json:"recipient_id"`
	State       string            `json:"state"` // "live" or "soft-deleted"
	DeletedAt   string            `json:"deleted_at,omitempty"`
	MessageCounts
	Messages []MessageInfo `json:"messages"` // the oldest first

	// Problems are what is wrong with the queue's messages, in words.
	Problems []string `json:"problems,omitempty"`
}

// QueueMessages reports on the messages of the queue that has the given id, by one
// of the parties, or by any if by is empty, and lists the oldest ones, limit at
// most. Several queues with the id are an error; none is ErrNotFound.
func QueueMessages(ctx context.Context, conn *pgx.Conn, s store.Schema, id []byte, by []store.By, limit int) (MessagesReport, error) {
	if !s.HasMessages() {
		return MessagesReport{}, fmt.Errorf("schema %q has version %s, which has no messages", s.Name, s.Version)
	}
	var r MessagesReport
	err := store.Snapshot(ctx, conn, func(q store.Querier) error {
		found, err := store.FindQueue(ctx, q, s, id, by...)
		if err != nil {
			return err
		}
		switch len(found) {
		case 0:
			return notFound(s, id, by)
		case 1:
		default:
			return fmt.Errorf("queue %s: %w", base64.URLEncoding.EncodeToString(id), ErrSeveral)
		}
		row := found[0].Row
		counts, infos, err := readMessages(ctx, q, s, row, limit)
		if err != nil {
			return err
		}
		r = MessagesReport{
			FoundBy: found[0].By, RecipientID: row.RecipientID,
			State: state(row), DeletedAt: formatDate(row.DeletedAt),
			MessageCounts: counts, Messages: infos,
		}
		if p := counts.problem(); p != "" {
			r.Problems = append(r.Problems, p)
		}
		return nil
	})
	return r, err
}

// readMessages counts the messages of a queue, without reading their bodies, and
// lists the oldest ones, limit at most.
func readMessages(ctx context.Context, q store.Querier, s store.Schema, row *store.Row, limit int) (MessageCounts, []MessageInfo, error) {
	counts := MessageCounts{Size: row.Messages.Size, CanWrite: row.Messages.CanWrite, Expire: row.Messages.Expire}
	infos := []MessageInfo{}
	var oldest, newest queue.Date
	for m, err := range store.MessageInfos(ctx, q, s, row.RecipientID) {
		if err != nil {
			return counts, nil, err
		}
		counts.Stored++
		counts.BodyBytes += int64(m.Bytes)
		if m.QuotaMarker {
			counts.QuotaMarkers++
		}
		if !oldest.Known || m.Time < oldest.Seconds {
			oldest = queue.DateOf(m.Time)
		}
		if !newest.Known || m.Time > newest.Seconds {
			newest = queue.DateOf(m.Time)
		}
		if len(infos) < limit {
			infos = append(infos, MessageInfo{
				ID: m.ID, Time: formatTime(m.Time), QuotaMarker: m.QuotaMarker, Notify: m.Notify, Bytes: m.Bytes,
			})
		}
	}
	if oldest.Known {
		counts.Oldest, counts.Newest = formatTime(oldest.Seconds), formatTime(newest.Seconds)
	}
	return counts, infos, nil
}

// problem says in words what is wrong, "" for nothing.
func (c *MessageCounts) problem() string {
	if c.Stored == c.Size {
		return ""
	}
	return fmt.Sprintf("the queue counts %s, but has %d", plural(c.Size, "message"), c.Stored)
}

// ErrSeveral reports an id that queues have that differ from each other.
var ErrSeveral = errors.New("several queues have this id: say of which party it is the id")

// state says whether a queue is deleted.
func state(row *store.Row) string {
	if row.Deleted() {
		return "soft-deleted"
	}
	return "live"
}

func notFound(s store.Schema, id []byte, by []store.By) error {
	return fmt.Errorf("queue %s: %w in schema %q by %s id", base64.URLEncoding.EncodeToString(id), ErrNotFound, s.Name, byNames(by))
}
