// Package migrations holds the SQL scripts that make and change the database
// schema of an SMP router, one pair of files per migration:
//
//	VERSION_TITLE.up.sql    the change
//	VERSION_TITLE.down.sql  the way back
//
// VERSION_TITLE is the name by which smp-server knows the same migration and
// which it keeps in the schema's table "migrations". The names, their order and
// what they make (tables, columns, types, defaults, constraints, indexes,
// triggers, and the signatures and behaviour of functions) are smp-server's, so
// that either program works on a schema that the other has made. The scripts
// are smpq's own. They need PostgreSQL 14, and no extension: where smp-server
// uses pgcrypto, the built-in md5 does.
//
// # Rules for the scripts
//
// A script runs in a transaction whose search_path is the schema alone. It names
// no schema, so it serves a schema of any name, and it contains no transaction
// command.
//
// A down script is also stored in the table "migrations", and smp-server runs
// the stored text when an older release opens the schema. So it must work for a
// caller who knows nothing but the search_path.
//
// The functions name tables and each other without schema as well, as
// smp-server's do: whoever calls them, or changes msg_queues and so fires the
// triggers, must have the schema in the search_path. A function with its own
// "set search_path" would be free of this rule, but would differ visibly from
// smp-server's (and a procedure that has one cannot commit, which
// expire_old_messages must); one with the schema's name in its body would break
// when the schema is renamed or restored under another name.
package migrations

import "embed"

// FS holds the scripts, in its root.
//
//go:embed *.sql
var FS embed.FS
