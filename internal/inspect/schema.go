package inspect

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

// A SchemaReport is what a schema is and how much room its tables take.
type SchemaReport struct {
	schema.State
	Releases   []string `json:"releases"` // of smp-server that accept the schema
	TotalBytes int64    `json:"total_bytes"`
	Tables     []Table  `json:"tables"`
	Indexes    []Index  `json:"indexes"`
}

// A Table is a table of a schema. PostgreSQL estimates the numbers of rows.
type Table struct {
	Name        string     `json:"name"`
	Rows        *int64     `json:"rows,omitempty"` // absent: never counted
	DeadRows    int64      `json:"dead_rows"`      // rows that VACUUM would remove
	TotalBytes  int64      `json:"total_bytes"`
	RowBytes    int64      `json:"row_bytes"`
	ToastBytes  int64      `json:"toast_bytes"` // long values
	IndexBytes  int64      `json:"index_bytes"`
	LastVacuum  *time.Time `json:"last_vacuum,omitempty"`  // by hand or by itself
	LastAnalyze *time.Time `json:"last_analyze,omitempty"` // by hand or by itself
}

// An Index is an index of a schema.
type Index struct {
	Name  string `json:"name"`
	Table string `json:"table"`
	Bytes int64  `json:"bytes"`
	Scans int64  `json:"scans"` // since PostgreSQL's statistics were reset
	Valid bool   `json:"valid"`
}

// Schema reports on a schema of any version. If there is something wrong with it,
// it returns a report and an error.
func Schema(ctx context.Context, conn *pgx.Conn, name string) (SchemaReport, error) {
	r := SchemaReport{Releases: []string{}, Tables: []Table{}, Indexes: []Index{}}
	err := store.Snapshot(ctx, conn, func(q store.Querier) error { return r.read(ctx, q, name) })
	if err != nil {
		return r, err
	}
	switch {
	case !r.Exists:
		return r, fmt.Errorf("%w: there is no schema %s", schema.ErrMissing, schema.Quote(name))
	case r.State.Err() == nil && r.Version == schema.None:
		return r, fmt.Errorf("%w: schema %s is empty", schema.ErrMissing, schema.Quote(name))
	}
	return r, r.State.Err()
}

func (r *SchemaReport) read(ctx context.Context, q store.Querier, name string) error {
	var err error
	if r.State, err = schema.Inspect(ctx, q, name); err != nil || !r.Exists {
		return err
	}
	r.Releases = append(r.Releases, r.Version.Releases()...)
	tables, indexes, err := store.Sizes(ctx, q, name)
	if err != nil {
		return err
	}
	for _, t := range tables {
		table := Table{
			Name: t.Name, DeadRows: t.DeadRows,
			TotalBytes: t.TotalBytes(), RowBytes: t.Bytes, ToastBytes: t.ToastBytes, IndexBytes: t.IndexBytes,
			LastVacuum: later(t.LastVacuum, t.LastAutovacuum), LastAnalyze: later(t.LastAnalyze, t.LastAutoanalyze),
		}
		if t.Rows >= 0 {
			table.Rows = &t.Rows
		}
		r.Tables = append(r.Tables, table)
		r.TotalBytes += t.TotalBytes()
	}
	for _, i := range indexes {
		r.Indexes = append(r.Indexes, Index(i))
	}
	return nil
}

// later returns the later of two times, nil if both are zero.
func later(a, b time.Time) *time.Time {
	if b.After(a) {
		a = b
	}
	if a.IsZero() {
		return nil
	}
	return &a
}
