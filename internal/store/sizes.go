package store

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/schema"
)

// A TableSize says how much room a table takes and how it is kept. Numbers of
// rows are those that PostgreSQL estimates, times are zero for never.
type TableSize struct {
	Name       string
	Rows       int64 // live rows, -1: not known
	DeadRows   int64 // rows that VACUUM would remove
	Bytes      int64 // the rows themselves
	ToastBytes int64 // long values, with their index
	IndexBytes int64

	LastVacuum      time.Time // by hand
	LastAutovacuum  time.Time
	LastAnalyze     time.Time // by hand
	LastAutoanalyze time.Time
}

// TotalBytes returns all the room that the table takes.
func (t TableSize) TotalBytes() int64 { return t.Bytes + t.ToastBytes + t.IndexBytes }

// An IndexSize says how much room an index takes and how much it is used.
type IndexSize struct {
	Name  string
	Table string
	Bytes int64
	Scans int64 // since the statistics were reset
	Valid bool  // false: left behind by an index build that failed
}

// Sizes returns the tables of a schema, by size, and their indexes, by table and
// name. It reads nothing of their content, and the schema may be of any version.
func Sizes(ctx context.Context, q Querier, name string) ([]TableSize, []IndexSize, error) {
	rows, err := q.Query(ctx, `
		select c.relname,
		       case when c.reltuples < 0 then -1 else c.reltuples::bigint end,
		       coalesce(st.n_dead_tup, 0),
		       pg_relation_size(c.oid) + pg_relation_size(c.oid, 'fsm') + pg_relation_size(c.oid, 'vm') + pg_relation_size(c.oid, 'init'),
		       case when c.reltoastrelid = 0 then 0 else pg_total_relation_size(c.reltoastrelid) end,
		       pg_indexes_size(c.oid),
		       st.last_vacuum, st.last_autovacuum, st.last_analyze, st.last_autoanalyze
		  from pg_catalog.pg_class c
		  join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		  left join pg_catalog.pg_stat_all_tables st on st.relid = c.oid
		 where n.nspname = $1 and c.relkind = 'r'
		 order by pg_total_relation_size(c.oid) desc, c.relname`, name)
	if err != nil {
		return nil, nil, fmt.Errorf("read sizes of schema %s: %w", schema.Quote(name), err)
	}
	tables, err := pgx.CollectRows(rows, scanTableSize)
	if err != nil {
		return nil, nil, fmt.Errorf("read sizes of schema %s: %w", schema.Quote(name), err)
	}
	rows, err = q.Query(ctx, `
		select i.relname, t.relname, pg_relation_size(i.oid), coalesce(st.idx_scan, 0), x.indisvalid
		  from pg_catalog.pg_index x
		  join pg_catalog.pg_class i on i.oid = x.indexrelid
		  join pg_catalog.pg_class t on t.oid = x.indrelid
		  join pg_catalog.pg_namespace n on n.oid = t.relnamespace
		  left join pg_catalog.pg_stat_all_indexes st on st.indexrelid = i.oid
		 where n.nspname = $1 and t.relkind = 'r'
		 order by t.relname, i.relname`, name)
	if err != nil {
		return nil, nil, fmt.Errorf("read sizes of schema %s: %w", schema.Quote(name), err)
	}
	indexes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[IndexSize])
	if err != nil {
		return nil, nil, fmt.Errorf("read sizes of schema %s: %w", schema.Quote(name), err)
	}
	return tables, indexes, nil
}

func scanTableSize(row pgx.CollectableRow) (TableSize, error) {
	var t TableSize
	var vacuum, autovacuum, analyze, autoanalyze *time.Time
	err := row.Scan(&t.Name, &t.Rows, &t.DeadRows, &t.Bytes, &t.ToastBytes, &t.IndexBytes,
		&vacuum, &autovacuum, &analyze, &autoanalyze)
	for _, at := range []struct {
		from *time.Time
		to   *time.Time
	}{
		{vacuum, &t.LastVacuum},
		{autovacuum, &t.LastAutovacuum},
		{analyze, &t.LastAnalyze},
		{autoanalyze, &t.LastAutoanalyze},
	} {
		if at.from != nil {
			*at.to = at.from.UTC()
		}
	}
	return t, err
}
