package admin

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/store"
)

// A LogResult is the latest administrative changes.
type LogResult struct {
	Schema  string      `json:"schema"`
	Changes []LogChange `json:"changes"` // the latest first
}

// A LogChange is a change of a queue.
type LogChange struct {
	At          time.Time         `json:"at"`
	Who         string            `json:"who"`
	Operation   string            `json:"operation"`
	RecipientID queue.RecipientID `json:"recipient_id"`
	Status      string            `json:"status"` // after the change, as in a store log
}

// Log returns the latest administrative changes of queues of a schema, limit at
// most.
func Log(ctx context.Context, conn *pgx.Conn, s store.Schema, limit int) (LogResult, error) {
	r := LogResult{Schema: s.Name, Changes: []LogChange{}}
	lines, err := store.Audit(ctx, conn, s, limit)
	for _, l := range lines {
		r.Changes = append(r.Changes, LogChange{At: l.At.UTC(), Who: l.Who, Operation: l.Operation, RecipientID: l.RecipientID, Status: l.Details})
	}
	return r, err
}
