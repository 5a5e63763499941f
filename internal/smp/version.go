package smp

import "fmt"

// A Version is a version of the protocol between clients and routers. A session
// has the version that both ends agreed on in their handshake; it selects the
// encoding of what they send (SMP protocol, version history).
//
// Encoders and parsers of this package take the versions from [MinVersion] to
// [MaxVersion]; a version beyond them is encoded like the nearest of them.
type Version uint16

// The versions of the protocol, by what each changed.
const (
	// VersionBase is the oldest version. Transmissions carry the identifier of
	// their session, and signatures are the only authorization.
	VersionBase Version = 6
	// VersionSessionKeys adds a key of the router and one of the client to the
	// handshake, and authenticators. Transmissions no longer carry the session
	// identifier, but it still is part of what is authorized.
	VersionSessionKeys Version = 7
	// VersionProxy adds sending through a proxy: PRXY, PFWD, RFWD, PKEY, RRES and
	// PRES.
	VersionProxy Version = 8
	// VersionSenderSecures lets senders secure queues: SKEY, and a flag in NEW and
	// IDS.
	VersionSenderSecures Version = 9
	// VersionDeleted adds DELD, sent as END before.
	VersionDeleted Version = 10
	// VersionBlockEncryption encrypts blocks.
	VersionBlockEncryption Version = 11
	// VersionBlocked adds the error BLOCKED, sent as AUTH before. Version 13
	// changed nothing more.
	VersionBlocked Version = 12
	// VersionProxyFlag lets proxies say in the handshake that they are.
	VersionProxyFlag Version = 14
	// VersionLinks adds short links: RKEY, LSET, LDEL, LKEY, LGET and LNK, modes and
	// link data in NEW and IDS.
	VersionLinks Version = 15
	// VersionServices adds services: certificates in the handshake, a second
	// signature of transmissions, SUBS, NSUBS, SOK, SOKS and ENDS.
	VersionServices Version = 16
	// VersionNotifierInNew lets NEW create a notifier together with the queue.
	VersionNotifierInNew Version = 17
	// VersionBlockingNotice adds a notice for users to the error BLOCKED.
	VersionBlockingNotice Version = 18
	// VersionServiceHashes adds counts and hashes of ids to SUBS and NSUBS, hashes
	// to SOKS and ENDS, and ALLS.
	VersionServiceHashes Version = 19
)

// The versions that this package knows.
const (
	MinVersion = VersionBase
	MaxVersion = VersionServiceHashes
)

// A VersionRange is the versions that one end offers, from Min to Max.
type VersionRange struct{ Min, Max Version }

// String returns "6-19" or, for a single version, "6".
func (r VersionRange) String() string {
	if r.Min == r.Max {
		return fmt.Sprint(uint16(r.Min))
	}
	return fmt.Sprintf("%d-%d", r.Min, r.Max)
}

// Contains reports whether v lies in r.
func (r VersionRange) Contains(v Version) bool { return r.Min <= v && v <= r.Max }

// Intersect returns the versions that lie in both ranges; ok is false if there
// are none.
func (r VersionRange) Intersect(o VersionRange) (both VersionRange, ok bool) {
	both = VersionRange{max(r.Min, o.Min), min(r.Max, o.Max)}
	return both, both.Min <= both.Max
}

// Append appends the encoding of r to b: both versions, two bytes each.
func (r VersionRange) Append(b []byte) []byte {
	return AppendUint16(AppendUint16(b, uint16(r.Min)), uint16(r.Max))
}

// ReadVersionRange reads a range. It fails if the range is empty.
func ReadVersionRange(r *BinaryReader) VersionRange {
	v := VersionRange{Min: Version(r.Uint16()), Max: Version(r.Uint16())}
	if v.Min > v.Max {
		r.Fail("the range of versions is empty")
	}
	return v
}
