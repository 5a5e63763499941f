package inspect

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

// CountsReport is the numbers of what a database holds.
type CountsReport struct {
	Schema  string         `json:"schema"`
	Version schema.Version `json:"version"`
	store.Counts
}

// Counts counts what a schema holds: exactly, with one pass over each table, or
// by the planner's statistics, which takes no time.
func Counts(ctx context.Context, conn *pgx.Conn, s store.Schema, estimate bool) (CountsReport, error) {
	r := CountsReport{Schema: s.Name, Version: s.Version}
	count := store.CountAll
	if estimate {
		count = store.EstimateAll
	}
	err := store.Snapshot(ctx, conn, func(q store.Querier) error {
		var err error
		r.Counts, err = count(ctx, q, s)
		return err
	})
	return r, err
}
