package admin

import (
	"context"
	"errors"
	"iter"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/smpq/smpq/internal/inspect"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
)

// A StatusResult is the status of queues.
type StatusResult struct {
	Schema   string   `json:"schema"`
	Queues   []Status `json:"queues"`
	Rejected int64    `json:"rejected"` // ids of no queue
}

// A Status is the status of one queue.
type Status struct {
	ID   string `json:"id"`             // as it was asked for
	Line int64  `json:"line,omitempty"` // of the file with the ids
	inspect.QueueStatus
	Reason string `json:"reason,omitempty"` // why there is none
}

// Statuses returns the status of queues, soft-deleted ones included, in their
// order. Of an id that several queues have there are several. With an error, the
// result is what was found before.
func Statuses(ctx context.Context, conn *pgx.Conn, s store.Schema, subjects iter.Seq2[Subject, error], by []store.By) (StatusResult, error) {
	r := StatusResult{Schema: s.Name, Queues: []Status{}}
	for subject, err := range subjects {
		if err != nil {
			return r, err
		}
		found, reason, err := look(conn, subject, func(id smp.EntityID) ([]inspect.QueueStatus, error) {
			return inspect.Status(ctx, conn, s, id.Bytes(), by)
		})
		switch {
		case err != nil:
			return r, err
		case reason != "":
			r.Rejected++
			r.Queues = append(r.Queues, Status{ID: subject.Text, Line: subject.Line, Reason: reason})
		}
		for _, q := range found {
			r.Queues = append(r.Queues, Status{ID: subject.Text, Line: subject.Line, QueueStatus: q})
		}
	}
	return r, nil
}

// look looks a subject up. The reason says why nothing was found, or a row cannot
// be read; an error is one of the database, which would fail others too.
func look[T any](conn *pgx.Conn, s Subject, find func(smp.EntityID) ([]T, error)) (found []T, reason string, err error) {
	if s.Reason != "" {
		return nil, s.Reason, nil
	}
	found, err = find(s.ID)
	_, refused := errors.AsType[*pgconn.PgError](err)
	switch {
	case errors.Is(err, inspect.ErrNotFound), err == nil && len(found) == 0:
		return nil, "not found", nil
	case err != nil && !refused && !conn.IsClosed():
		return nil, err.Error(), nil
	}
	return found, "", err
}
