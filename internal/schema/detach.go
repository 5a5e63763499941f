package schema

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Detached is what Detach has taken from tables: their indexes, keys and
// triggers, as definitions that make them again.
type Detached struct {
	schema string
	again  []object // in the order in which they can be made
}

// An object is one thing that is taken from a table and made again.
type object struct {
	What   string // "index idx_msg_queues_link_id", for example
	Remove string // SQL; empty: it goes with another object
	Again  string // SQL
}

// detachSQL lists what is to be taken from the tables $1 (oids), in the order in
// which it can be made again: indexes, then the primary keys and unique
// constraints that rest on them, then foreign keys (those of the tables, and
// those of other tables that point to them), then triggers. Definitions name
// everything with its schema if the search_path is empty.
const detachSQL = `
with indexes as (
  select i.oid, i.relname, format('%s.%I', i.relnamespace::regnamespace, i.relname) as name,
         c.oid::regclass as table, x.indisclustered, x.indisreplident, s.spcname,
         k.oid as constraint, k.conname, k.contype, k.condeferrable, k.condeferred
    from pg_catalog.pg_index x
    join pg_catalog.pg_class i on i.oid = x.indexrelid
    join pg_catalog.pg_class c on c.oid = x.indrelid
    left join pg_catalog.pg_tablespace s on s.oid = i.reltablespace
    left join pg_catalog.pg_constraint k on k.conindid = x.indexrelid and k.contype in ('p', 'u', 'x')
   where x.indrelid = any ($1) and k.contype is distinct from 'x'
)
select 'index ' || relname as what,
       case when "constraint" is null then 'drop index ' || name else '' end as remove,
       concat_ws('; ', pg_get_indexdef(oid),
         format('alter index %s set tablespace ', name) || quote_ident(spcname),
         case when indisclustered then format('alter table %s cluster on %I', "table", relname) end,
         case when indisreplident then format('alter table %s replica identity using index %I', "table", relname) end) as again,
       1 as phase, relname as name
  from indexes
union all
select case contype when 'p' then 'primary key ' else 'unique constraint ' end || conname,
       format('alter table %s drop constraint %I', "table", conname),
       format('alter table %s add constraint %I %s using index %I%s%s', "table", conname,
         case contype when 'p' then 'primary key' else 'unique' end, relname,
         case when condeferrable then ' deferrable' else '' end,
         case when condeferred then ' initially deferred' else '' end),
       2, conname
  from indexes
 where "constraint" is not null
union all
select 'foreign key ' || k.conname,
       format('alter table %s drop constraint %I', k.conrelid::regclass, k.conname),
       format('alter table %s add constraint %I %s', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid)),
       3, k.conname
  from pg_catalog.pg_constraint k
 where k.contype = 'f' and (k.conrelid = any ($1) or k.confrelid = any ($1))
union all
select 'trigger ' || g.tgname,
       format('alter table %s disable trigger %I', g.tgrelid::regclass, g.tgname),
       format('alter table %s enable %s trigger %I', g.tgrelid::regclass,
         case g.tgenabled when 'R' then 'replica' when 'A' then 'always' else '' end, g.tgname),
       4, g.tgname
  from pg_catalog.pg_trigger g
 where g.tgrelid = any ($1) and not g.tgisinternal and g.tgenabled <> 'D'
 order by phase, name`

// Detach makes tables ready for a bulk load: in the caller's transaction it drops
// their indexes, primary keys and unique constraints, and the foreign keys of the
// tables and of others that point to them, and disables their triggers. Restore
// makes all of it again as it was. Check constraints, defaults, and the data stay.
func Detach(ctx context.Context, tx pgx.Tx, schema string, tables ...string) (*Detached, error) {
	d := &Detached{schema: schema}
	var found []uint32
	err := tx.QueryRow(ctx, `
		select array(
		  select c.oid
		    from pg_catalog.pg_class c
		    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		   where n.nspname = $1 and c.relname = any ($2) and c.relkind = 'r')`, schema, tables,
	).Scan(&found)
	if err != nil {
		return nil, d.failed("find", strings.Join(tables, ", "), err)
	}
	if len(found) != len(tables) {
		return nil, fmt.Errorf("%w: schema %s does not have the tables %s", ErrMissing, Quote(schema), strings.Join(tables, ", "))
	}
	before, err := currentSettings(ctx, tx)
	if err != nil {
		return nil, err
	}
	without := before
	without.path = ""
	if err := without.restore(ctx, tx); err != nil {
		return nil, err
	}
	rows, err := tx.Query(ctx, "select what, remove, again from ("+detachSQL+") o", found)
	if err != nil {
		return nil, d.failed("read the keys of", strings.Join(tables, ", "), err)
	}
	d.again, err = pgx.CollectRows(rows, pgx.RowToStructByPos[object])
	if err != nil {
		return nil, d.failed("read the keys of", strings.Join(tables, ", "), err)
	}
	if err := before.restore(ctx, tx); err != nil {
		return nil, err
	}
	// Foreign keys go before what they point to; an index goes with its key.
	for _, o := range slices.Backward(d.again) {
		if o.Remove == "" {
			continue
		}
		if _, err := tx.Exec(ctx, o.Remove); err != nil {
			return nil, d.failed("remove", o.What, err)
		}
	}
	return d, nil
}

// Restore makes again what Detach has taken, in the same transaction. It calls
// progress, unless that is nil, with each object's name before it is made; an
// index or a foreign key of a large table takes a while. Indexes are built by as
// many workers, and in as much memory, as the session's max_parallel_maintenance_workers
// and maintenance_work_mem allow.
func (d *Detached) Restore(ctx context.Context, tx pgx.Tx, progress func(what string)) error {
	for _, o := range d.again {
		if progress != nil {
			progress(o.What)
		}
		if _, err := tx.Exec(ctx, o.Again); err != nil {
			return d.failed("make", o.What, err)
		}
	}
	return nil
}

// failed says at what an operation on the tables failed.
func (d *Detached) failed(operation, what string, err error) error {
	return fmt.Errorf("schema %s: %s %s: %w", Quote(d.schema), operation, what, err)
}
