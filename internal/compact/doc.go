// Package compact removes what is dead: queues in the database that were
// soft-deleted long ago, and records of a store log that later ones have
// overtaken.
package compact
