package smp

import (
	"crypto/md5" //nolint:gosec // the protocol asks for it, to compare sets of ids, not to protect anything
	"encoding/hex"
	"fmt"
)

// Commands of notifiers and of services (SMP protocol, notifier commands and
// service commands).

// NSUB subscribes to the notifications of a queue. The router answers [SOK].
type NSUB struct{}

// SUBS subscribes a service to all queues that are associated with it. The router
// answers [SOKS], sends waiting messages and then [ALLS].
type SUBS struct{ Subscribed }

// NSUBS subscribes a service to the notifications of all queues that are
// associated with it. The router answers [SOKS].
type NSUBS struct{ Subscribed }

// Subscribed is how many queues are associated with a service, and which, as one
// end knows it; the other compares.
type Subscribed struct {
	Count int64 // NotChecked: not told
	Hash  IDsHash
}

// NotChecked is the Count of [SUBS] and [NSUBS] in versions before
// [VersionServiceHashes].
const NotChecked = -1

// An IDsHash tells sets of ids apart: the exclusive or of the MD5 sums of the ids
// (of recipients or of notifiers). The zero IDsHash is that of the empty set.
type IDsHash [md5.Size]byte

// Toggle returns the hash of the set of h with an id added, or removed if it is
// there.
func (h IDsHash) Toggle(id EntityID) IDsHash {
	for i, x := range md5.Sum([]byte(id.raw)) { //nolint:gosec // see the import
		h[i] ^= x
	}
	return h
}

// String returns h in hex.
func (h IDsHash) String() string { return hex.EncodeToString(h[:]) }

func (s Subscribed) append(b []byte) []byte {
	b = append(appendInt64(b, s.Count), byte(len(s.Hash)))
	return append(b, s.Hash[:]...)
}

// subscribed reads the parameters of SUBS and NSUBS, which older versions do not
// have.
func (d *decoder) subscribed() Subscribed {
	if d.v < VersionServiceHashes {
		return Subscribed{Count: NotChecked}
	}
	d.space()
	return d.countAndHash()
}

func (d *decoder) countAndHash() Subscribed {
	s := Subscribed{Count: d.Int64()}
	hash := d.Short()
	if d.err == nil && len(hash) != len(s.Hash) {
		d.Fail(fmt.Sprintf("a hash of ids has %d bytes, not %d", len(s.Hash), len(hash)))
	}
	copy(s.Hash[:], hash)
	return s
}

// Append implements [Command].
func (*NSUB) Append(b []byte, _ Version) []byte { return append(b, "NSUB"...) }

// Append implements [Command].
func (c *SUBS) Append(b []byte, v Version) []byte {
	if v < VersionServiceHashes {
		return append(b, "SUBS"...)
	}
	return c.append(append(b, "SUBS "...))
}

// Append implements [Command].
func (c *NSUBS) Append(b []byte, v Version) []byte {
	if v < VersionServiceHashes {
		return append(b, "NSUBS"...)
	}
	return c.append(append(b, "NSUBS "...))
}

func (*NSUB) credentials() credentials  { return authorized }
func (*SUBS) credentials() credentials  { return authorized }
func (*NSUBS) credentials() credentials { return authorized }
