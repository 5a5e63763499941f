package smp

import (
	"errors"
	"fmt"
)

// A Response is what routers send to clients: the result of a command, an error,
// or an event, which no command asked for and whose transmission has no
// correlation id (SMP protocol, router messages). The type of each bears the tag
// with which its encoding starts. Responses are pointers, as commands are.
//
//sumtype:decl
type Response interface {
	// Append appends the encoding of the response in a session of version v to b:
	// in older versions what came before it, as [SOK], [DELD] and [ERR] say.
	Append(b []byte, v Version) []byte
	// entity says whether its transmission has an entity id.
	entity() entity
}

// IDS is the result of [NEW]. Its transmission has no entity id.
type IDS struct {
	RecipientID Short
	SenderID    Short
	DHKey       PublicKey // X25519, of the router, for the queue
	// Mode is that of the queue. Versions before [VersionLinks] only tell messaging
	// queues from others, those before [VersionSenderSecures] nothing.
	Mode      QueueMode
	LinkID    Short          // of the short link, or empty; from VersionLinks on
	ServiceID Short          // of the associated service, or empty; from [VersionServices] on
	Notifier  *NewNotifierID // or nil; from [VersionNotifierInNew] on
}

// A NewNotifierID is the result of creating a notifier.
type NewNotifierID struct {
	NotifierID Short
	DHKey      PublicKey // X25519, of the router, for notifications
}

// LNK is the data of a short link.
type LNK struct {
	SenderID Short
	Data     LinkData
}

// SOK says that the client is subscribed. In versions before [VersionServices]
// it is sent as [OK].
type SOK struct {
	ServiceID Short // of the service that the queue is now associated with, or empty
}

// SOKS says that a service is subscribed, and to how many queues. Versions before
// [VersionServiceHashes] have no hash.
type SOKS struct{ Subscribed }

// MSG delivers a message, as event or as the result of [GET] or [ACK].
type MSG struct {
	MsgID Short  // 24 bytes; also the nonce of Body
	Body  []byte // encrypted by the router for the recipient; 16,122 bytes, however long the message is
}

// ALLS is the event that all waiting messages of a service were sent.
type ALLS struct{}

// NID is the result of [NKEY].
type NID struct{ NewNotifierID }

// NMSG is the event that a queue has a new message, for its notifier.
type NMSG struct {
	Nonce [NonceSize]byte
	Meta  Short // id and time of the message, encrypted for the recipient; 144 bytes
}

// NonceSize is the length in bytes of a nonce.
const NonceSize = 24

// PKEY is the result of [PRXY]: what a client needs to encrypt for the
// destination router. Its transmission has no entity id.
type PKEY struct {
	SessionID Short        // of the session between proxy and destination router
	Versions  VersionRange // that both support
	Key       SignedKey    // of the destination router, X25519
}

// RRES is the result of [RFWD]. Its transmission has no entity id.
type RRES struct {
	Encrypted []byte // what PRES has, with the correlation id of PFWD, encrypted once more
}

// PRES is the result of [PFWD].
type PRES struct {
	Encrypted []byte // the response of the destination router; 16,242 bytes
}

// END is the event that another client has subscribed to the queue.
type END struct{}

// ENDS is the event that another client has subscribed for the service. Versions
// before [VersionServiceHashes] have no hash.
type ENDS struct{ Subscribed }

// DELD is the event that the queue, or its notifier, was deleted. In versions
// before [VersionDeleted] it is sent as [END].
type DELD struct{}

// INFO is the result of [QUE].
type INFO struct {
	JSON []byte // see [QueueInfo]
}

// OK is the result of commands that have no other.
type OK struct{}

// ERR is an error, of a command or, as event, of a queue. BLOCKED is sent as AUTH
// in versions before [VersionBlocked], and without its notice in those before
// [VersionBlockingNotice].
type ERR struct{ Err Error }

// PONG is the result of [PING]. Its transmission has no entity id.
type PONG struct{}

// ParseResponse is [Parser.Response] with memory of its own.
func ParseResponse(in []byte, v Version) (Response, error) { return new(Parser).Response(in, v) }

// Response parses a response of a session of version v. All its parts alias in.
// A response in a form that the version does not have is an error.
func (p *Parser) Response(in []byte, v Version) (Response, error) {
	d := newDecoder(in, v)
	tag := d.tag()
	r, known := d.response(p, string(tag))
	if !known {
		return nil, fmt.Errorf("parse response: unknown tag %.16q", tag)
	}
	d.End()
	if d.err != nil {
		return nil, fmt.Errorf("parse %s: %w", tag, d.err)
	}
	return r, nil
}

// response reads the parameters of the response with a tag. If there is none
// such, known is false.
func (d *decoder) response(p *Parser, tag string) (r Response, known bool) {
	switch tag {
	case "MSG":
		d.space()
		p.msg = MSG{MsgID: d.short(), Body: d.Rest()}
		return &p.msg, true
	case "OK":
		return &OK{}, true
	case "SOK":
		d.space()
		d.since(VersionServices)
		return d.subscribedQueue(), true
	case "ERR":
		d.space()
		return &ERR{d.topError()}, true
	case "IDS":
		d.space()
		return d.newIDs(), true
	case "LNK":
		d.space()
		return &LNK{SenderID: d.short(), Data: d.linkData()}, true
	case "SOKS":
		d.space()
		return &SOKS{d.serviceCount()}, true
	case "ALLS":
		return &ALLS{}, true
	case "NID":
		d.space()
		return &NID{d.newNotifierID()}, true
	case "NMSG":
		d.space()
		return d.notification(), true
	case "PKEY":
		d.space()
		return &PKEY{SessionID: d.short(), Versions: ReadVersionRange(&d.BinaryReader), Key: ReadSignedKey(&d.BinaryReader)}, true
	case "RRES":
		d.space()
		return &RRES{Encrypted: d.Rest()}, true
	case "PRES":
		d.space()
		return &PRES{Encrypted: d.Rest()}, true
	case "END":
		return &END{}, true
	case "ENDS":
		d.space()
		return &ENDS{d.serviceCount()}, true
	case "DELD":
		d.since(VersionDeleted)
		return &DELD{}, true
	case "INFO":
		d.space()
		return &INFO{JSON: d.Rest()}, true
	case "PONG":
		return &PONG{}, true
	}
	return nil, false
}

// since refuses what versions before v do not have.
func (d *decoder) since(v Version) {
	if d.v < v {
		d.Fail(fmt.Sprintf("not in version %d", d.v))
	}
}

// entity says whether a response has an entity id.
type entity uint8

const (
	hasEntity   entity = iota
	noEntity           // PONG, PKEY, RRES, ALLS
	maybeEntity        // IDS, ERR
)

// ErrEntity reports a response that lacks an entity id or has one too much.
var ErrEntity = errors.New("the response lacks an entity id, or has one too much")

// CheckEntity fails with [ErrEntity] if the entity id of t does not fit r.
func (t *Transmission) CheckEntity(r Response) error {
	want := r.entity()
	if want != maybeEntity && t.EntityID.IsEmpty() == (want == hasEntity) {
		return ErrEntity
	}
	return nil
}

// Append implements [Response].
func (r *IDS) Append(b []byte, v Version) []byte {
	b = r.RecipientID.Append(append(b, "IDS "...))
	b = appendKey(r.SenderID.Append(b), r.DHKey)
	switch {
	case v < VersionSenderSecures:
		return b
	case v < VersionLinks:
		return appendBool(b, r.Mode == ModeMessaging)
	}
	b = appendOptional(b, r.Mode != ModeUnknown, func(b []byte) []byte { return append(b, byte(r.Mode)) })
	b = appendOptional(b, !r.LinkID.IsEmpty(), r.LinkID.Append)
	if v >= VersionServices {
		b = appendOptional(b, !r.ServiceID.IsEmpty(), r.ServiceID.Append)
	}
	if v >= VersionNotifierInNew {
		b = appendOptional(b, r.Notifier != nil, r.Notifier.append)
	}
	return b
}

func (d *decoder) newIDs() *IDS {
	r := &IDS{RecipientID: d.short(), SenderID: d.short(), DHKey: d.dhKey()}
	switch {
	case d.v < VersionSenderSecures:
		return r
	case d.v < VersionLinks:
		r.Mode = ModeContact
		if d.Bool() {
			r.Mode = ModeMessaging
		}
		return r
	}
	if d.Present() {
		r.Mode = d.mode()
	}
	r.LinkID = d.optionalID()
	if d.v >= VersionServices {
		r.ServiceID = d.optionalID()
	}
	if d.v >= VersionNotifierInNew && d.Present() {
		id := d.newNotifierID()
		r.Notifier = &id
	}
	return r
}

// optionalID reads an optional id. If it is there, it has bytes.
func (d *decoder) optionalID() Short {
	if !d.Present() {
		return Short{}
	}
	id := d.short()
	if d.err == nil && id.IsEmpty() {
		d.Fail("the id is empty")
	}
	return id
}

// Append implements [Response].
func (r *LNK) Append(b []byte, _ Version) []byte {
	return r.Data.append(r.SenderID.Append(append(b, "LNK "...)))
}

// Append implements [Response].
func (r *SOK) Append(b []byte, v Version) []byte {
	if v < VersionServices {
		return append(b, "OK"...)
	}
	return appendOptional(append(b, "SOK "...), !r.ServiceID.IsEmpty(), r.ServiceID.Append)
}

func (d *decoder) subscribedQueue() *SOK { return &SOK{ServiceID: d.optionalID()} }

// Append implements [Response].
func (r *SOKS) Append(b []byte, v Version) []byte { return r.appendFor(append(b, "SOKS "...), v) }

func (s Subscribed) appendFor(b []byte, v Version) []byte {
	if v < VersionServiceHashes {
		return appendInt64(b, s.Count)
	}
	return s.append(b)
}

// serviceCount reads the parameters of SOKS and ENDS, which in older versions
// have no hash.
func (d *decoder) serviceCount() Subscribed {
	if d.v < VersionServiceHashes {
		return Subscribed{Count: d.Int64()}
	}
	return d.countAndHash()
}

// Append implements [Response].
func (r *MSG) Append(b []byte, _ Version) []byte {
	return append(r.MsgID.Append(append(b, "MSG "...)), r.Body...)
}

// Append implements [Response].
func (*ALLS) Append(b []byte, _ Version) []byte { return append(b, "ALLS"...) }

// Append implements [Response].
func (r *NID) Append(b []byte, _ Version) []byte { return r.append(append(b, "NID "...)) }

func (n *NewNotifierID) append(b []byte) []byte { return appendKey(n.NotifierID.Append(b), n.DHKey) }

func (d *decoder) newNotifierID() NewNotifierID {
	return NewNotifierID{NotifierID: d.short(), DHKey: d.dhKey()}
}

// Append implements [Response].
func (r *NMSG) Append(b []byte, _ Version) []byte {
	return r.Meta.Append(append(append(b, "NMSG "...), r.Nonce[:]...))
}

func (d *decoder) notification() *NMSG {
	r := &NMSG{}
	copy(r.Nonce[:], d.take(NonceSize))
	r.Meta = d.short()
	return r
}

// Append implements [Response].
func (r *PKEY) Append(b []byte, _ Version) []byte {
	b = r.SessionID.Append(append(b, "PKEY "...))
	return r.Key.Append(r.Versions.Append(b))
}

// Append implements [Response].
func (r *RRES) Append(b []byte, _ Version) []byte {
	return append(append(b, "RRES "...), r.Encrypted...)
}

// Append implements [Response].
func (r *PRES) Append(b []byte, _ Version) []byte {
	return append(append(b, "PRES "...), r.Encrypted...)
}

// Append implements [Response].
func (*END) Append(b []byte, _ Version) []byte { return append(b, "END"...) }

// Append implements [Response].
func (r *ENDS) Append(b []byte, v Version) []byte { return r.appendFor(append(b, "ENDS "...), v) }

// Append implements [Response].
func (*DELD) Append(b []byte, v Version) []byte {
	if v < VersionDeleted {
		return append(b, "END"...)
	}
	return append(b, "DELD"...)
}

// Append implements [Response].
func (r *INFO) Append(b []byte, _ Version) []byte { return append(append(b, "INFO "...), r.JSON...) }

// Append implements [Response].
func (*OK) Append(b []byte, _ Version) []byte { return append(b, "OK"...) }

// Append implements [Response].
func (r *ERR) Append(b []byte, v Version) []byte {
	b = append(b, "ERR "...)
	if e, ok := r.Err.(BlockedError); ok {
		if v < VersionBlocked {
			return ErrAuth.appendError(b)
		}
		e.HasNotice = e.HasNotice && v >= VersionBlockingNotice
		return e.appendError(b)
	}
	return r.Err.appendError(b)
}

// topError reads the error of ERR. Only at the top does its form depend on the
// version.
func (d *decoder) topError() Error {
	e := d.readError(0)
	if e, ok := e.(BlockedError); ok {
		d.since(VersionBlocked)
		if e.HasNotice {
			d.since(VersionBlockingNotice)
		}
	}
	return e
}

// Append implements [Response].
func (*PONG) Append(b []byte, _ Version) []byte { return append(b, "PONG"...) }

func (*IDS) entity() entity  { return maybeEntity }
func (*LNK) entity() entity  { return hasEntity }
func (*SOK) entity() entity  { return hasEntity }
func (*SOKS) entity() entity { return hasEntity }
func (*MSG) entity() entity  { return hasEntity }
func (*ALLS) entity() entity { return noEntity }
func (*NID) entity() entity  { return hasEntity }
func (*NMSG) entity() entity { return hasEntity }
func (*PKEY) entity() entity { return noEntity }
func (*RRES) entity() entity { return noEntity }
func (*PRES) entity() entity { return hasEntity }
func (*END) entity() entity  { return hasEntity }
func (*ENDS) entity() entity { return hasEntity }
func (*DELD) entity() entity { return hasEntity }
func (*INFO) entity() entity { return hasEntity }
func (*OK) entity() entity   { return hasEntity }
func (*ERR) entity() entity  { return maybeEntity }
func (*PONG) entity() entity { return noEntity }
