package inspect

import (
	"context"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/store"
)

// A QueueStatus is what matters of a queue to who may block it.
type QueueStatus struct {
	FoundBy     []store.By        `json:"found_by,omitempty"` // the ids that are the one asked for
	RecipientID queue.RecipientID `json:"recipient_id,omitzero"`
	State       string            `json:"state,omitempty"`  // "live" or "soft-deleted"
	Status      string            `json:"status,omitempty"` // as in a store log: "active", "off" or "blocked,reason=…"
	Mode        string            `json:"mode,omitempty"`
	UpdatedAt   string            `json:"updated_at,omitempty"` // day of the last use
	DeletedAt   string            `json:"deleted_at,omitempty"` // day of the soft delete
}

// Status returns the status of the queues that have the given id: one, as a rule.
// None is ErrNotFound.
func Status(ctx context.Context, q store.Querier, s store.Schema, id []byte, by []store.By) ([]QueueStatus, error) {
	found, err := store.FindQueue(ctx, q, s, id, by...)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, notFound(s, id, by)
	}
	var all []QueueStatus
	for _, f := range found {
		all = append(all, QueueStatus{
			FoundBy:     f.By,
			RecipientID: f.Row.RecipientID,
			State:       state(f.Row),
			Status:      f.Row.Status.String(),
			Mode:        f.Row.Mode.String(),
			UpdatedAt:   formatDate(f.Row.UpdatedAt),
			DeletedAt:   formatDate(f.Row.DeletedAt),
		})
	}
	return all, nil
}
