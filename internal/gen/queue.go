package gen

import (
	"encoding/base64"
	"strconv"
)

const (
	idSize     = 24 // of all ids that routers make
	secretSize = 32

	secondsPerDay = 86400
	firstDay      = 18993 // 2022-01-01, the date of the first queue, in days since 1970
	days          = 1784  // until the date of the last one
)

// A profile is how a queue starts.
type profile struct {
	mode    string // the field with its mode, in one of its forms
	contact bool   // others find it by its link: nobody secures it
	dated   bool   // it has the date of its last use
	keys    int

	secured, linked, notified bool // with its creation
	link, notifier            bool // then or later
}

// drawProfile draws how a queue starts. Numbers are out of a thousand queues.
func drawProfile(s *stream) profile {
	p := profile{dated: true, keys: 1}
	old := false
	switch form := s.below(1000); {
	case form < 30:
		p.mode, p.contact, old = " sndSecure=F", true, true
	case form < 120:
		p.mode, old = " sndSecure=T", true
	case form < 170:
		p.mode, old = "", true
	case form < 230:
		p.mode, p.contact = " queue_mode=C", true
	default:
		p.mode = " queue_mode=M"
	}
	switch {
	case old:
		p.dated = s.chance(500)
	case p.contact:
		p.link = s.chance(950)
		if s.chance(200) {
			p.keys = 2 + s.below(3)
		}
	default:
		p.link = s.chance(60)
	}
	p.linked = p.link && s.chance(750)
	p.secured = !p.contact && s.chance(300)
	p.notifier = s.chance(310)
	p.notified = p.notifier && s.chance(400)
	return p
}

// appendCreate puts the CREATE record of a queue together, without ending the
// line, and leaves g.draws where schedule goes on.
func (g *generator) appendCreate(n int64) profile {
	g.start()
	s := &g.draws
	s.seek(g.o.Seed, domainQueue, n, 0)
	recipient, sender := g.drawID(s), g.drawID(s)
	p := drawProfile(s)
	if s.chance(10) {
		g.encoding = base64.RawURLEncoding
	}
	g.appendText("CREATE rid=")
	g.appendBase64(recipient[:])
	g.appendText(" rk=")
	g.appendKeys(s, p.keys)
	g.appendText(" rdh=")
	g.appendRandom(s, secretSize)
	g.appendText(" sid=")
	g.appendBase64(sender[:])
	g.appendText(" sk=")
	if p.secured {
		g.appendKey(s)
	}
	g.appendText(p.mode)
	if p.linked {
		g.payload.seek(g.o.Seed, domainLink, n, 0)
		g.appendText(" link_id=")
		g.appendRandom(&g.payload, idSize)
		g.appendText(" queue_data=")
		g.appendLinkData(&g.payload, &g.payload)
	}
	if p.notified {
		g.appendText(" notifier=")
		g.appendNotifier(s, n, 150)
	}
	if p.dated {
		g.appendText(" updated_at=")
		g.appendDate(s, g.day(n))
	}
	service := s.chance(20)
	switch {
	case s.chance(10):
		g.appendText(" status=off")
	case s.chance(3):
		g.appendText(" status=blocked,")
		// Smp-server cannot read what follows a notice.
		g.appendBlocking(s, !service)
	}
	if service {
		g.appendText(" rsrv=")
		g.appendBase64(g.serviceOf(s, messagingService, lateMessagingService, n))
	}
	return p
}

// drawID draws an id. The first one of a queue is that of the recipient, the
// second one that of the sender.
func (g *generator) drawID(s *stream) [idSize]byte {
	g.raw = s.appendBytes(g.raw[:0], idSize)
	return [idSize]byte(g.raw)
}

// appendRecipient appends the recipient id of a queue.
func (g *generator) appendRecipient(n int64) {
	g.ids.seek(g.o.Seed, domainQueue, n, 0)
	g.appendRandom(&g.ids, idSize)
}

// An event is something that happens to a queue after its creation.
type event struct {
	queue   int64
	ordinal uint8 // among the events of the queue, from 1
	kind    eventKind
}

type eventKind uint8

const (
	evAddLink eventKind = iota
	evReplaceData
	evDeleteLink
	evOtherLink
	evSecure
	evKeys
	evAddNotifier
	evDeleteNotifier
	evSetReceiver
	evClearReceiver
	evSetNotifier
	evClearNotifier
	evSuspend
	evBlock
	evUnblock
	evTouch
	evDelete
)

// schedule draws what happens to a queue, in the order in which it happens.
func (g *generator) schedule(n int64, p profile) {
	s := &g.draws
	at, ordinal := n, uint8(0)
	window := int64(len(g.ring))
	// then says what happens next, with a probability in a thousand.
	then := func(perMille int, kind eventKind) bool {
		if !s.chance(perMille) {
			return false
		}
		at = min(at+1+int64(s.below(len(g.ring)/8+1)), n+window-1)
		ordinal++
		due := &g.ring[at%window]
		*due = append(*due, event{queue: n, ordinal: ordinal, kind: kind})
		return true
	}
	const always = 1000

	if p.link && !p.linked {
		then(always, evAddLink)
	}
	if !p.contact && !p.secured {
		then(985, evSecure)
	}
	if p.notifier {
		if !p.notified {
			then(always, evAddNotifier)
		}
		then(100, evAddNotifier)
		_ = then(150, evSetNotifier) && then(100, evClearNotifier)
	}
	_ = then(20, evSetReceiver) && then(200, evClearReceiver)
	if s.chance(550) {
		for range 1 + s.below(3) {
			then(always, evTouch)
		}
	}
	if p.link {
		_ = then(150, evReplaceData) && then(300, evReplaceData)
		_ = then(80, evDeleteLink) && then(300, evOtherLink)
	}
	if p.contact {
		then(80, evKeys)
	}
	if p.notifier {
		_ = then(40, evDeleteNotifier) && then(300, evAddNotifier)
	}
	then(30, evSuspend)
	_ = then(10, evBlock) && then(300, evUnblock)
	then(100, evDelete)
}

// happen writes the record of an event.
func (g *generator) happen(e event) {
	s := &g.payload
	tag := tags[e.kind]
	g.start()
	g.appendText(tag)
	g.appendText(" ")
	g.appendRecipient(e.queue)
	if e.kind == evAddLink || e.kind == evReplaceData {
		g.ids.seek(g.o.Seed, domainLink, e.queue, 0)
	}
	s.seek(g.o.Seed, domainEvent, e.queue, e.ordinal)
	if s.chance(10) {
		g.encoding = base64.RawURLEncoding
	}
	switch e.kind {
	case evAddLink, evReplaceData: // with the link of the queue and other user data
		g.appendText(" ")
		g.appendRandom(&g.ids, idSize)
		g.appendText(" ")
		g.appendLinkData(&g.ids, s)
	case evOtherLink:
		g.appendText(" ")
		g.appendRandom(s, idSize)
		g.appendText(" ")
		g.appendLinkData(s, s)
	case evSecure:
		g.appendText(" ")
		g.appendKey(s)
	case evKeys:
		g.appendText(" ")
		g.appendKeys(s, 1+s.below(4))
	case evAddNotifier:
		g.appendText(" ")
		g.appendNotifier(s, e.queue, 50)
	case evSetReceiver:
		g.appendText(" R ")
		g.appendBase64(g.serviceOf(s, messagingService, lateMessagingService, e.queue))
	case evSetNotifier:
		g.appendText(" N ")
		g.appendBase64(g.serviceOf(s, notifierService, lateNotifierService, e.queue))
	case evClearReceiver:
		g.appendText(" R ")
	case evClearNotifier:
		g.appendText(" N ")
	case evBlock:
		g.appendText(" ")
		g.appendBlocking(s, true)
	case evTouch:
		g.appendText(" ")
		g.appendDate(s, g.day(g.slot)+1)
	case evDelete:
		g.stats.Queues--
		g.lastDeleted = e.queue
	case evDeleteLink, evDeleteNotifier, evSuspend, evUnblock:
	}
	g.emit(tag)
}

// tags are the tags of records, by event.
var tags = [...]string{
	evAddLink:        "LINK",
	evReplaceData:    "LINK",
	evDeleteLink:     "LDELETE",
	evOtherLink:      "LINK",
	evSecure:         "SECURE",
	evKeys:           "KEYS",
	evAddNotifier:    "NOTIFIER",
	evDeleteNotifier: "NDELETE",
	evSetReceiver:    "QUEUE_SERVICE",
	evClearReceiver:  "QUEUE_SERVICE",
	evSetNotifier:    "QUEUE_SERVICE",
	evClearNotifier:  "QUEUE_SERVICE",
	evSuspend:        "SUSPEND",
	evBlock:          "BLOCK",
	evUnblock:        "UNBLOCK",
	evTouch:          "TIME",
	evDelete:         "DELETE",
}

// day returns the date of a slot, in days since 1970.
func (g *generator) day(slot int64) int64 {
	return firstDay + min(slot, g.o.Queues)*days/max(g.o.Queues, 1)
}

func (g *generator) appendText(s string) { g.line = append(g.line, s...) }

func (g *generator) appendBase64(b []byte) { g.line = g.encoding.AppendEncode(g.line, b) }

// appendRandom appends n random bytes in base64url.
func (g *generator) appendRandom(s *stream, n int) {
	g.raw = s.appendBytes(g.raw[:0], n)
	g.appendBase64(g.raw)
}

// keyForms are the algorithms of keys that authorize commands: what precedes the
// key in its SubjectPublicKeyInfo (RFC 8410), the size of the key, and how many
// keys of a hundred are such.
var keyForms = [...]struct {
	prefix  string
	size    int
	percent int
}{
	{"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00", 32, 60}, // Ed25519
	{"\x30\x2a\x30\x05\x06\x03\x2b\x65\x6e\x03\x21\x00", 32, 28}, // X25519
	{"\x30\x43\x30\x05\x06\x03\x2b\x65\x71\x03\x3a\x00", 57, 12}, // Ed448
}

func (g *generator) appendKey(s *stream) {
	form, roll := keyForms[0], s.below(100)
	for _, f := range keyForms {
		if form = f; roll < f.percent {
			break
		}
		roll -= f.percent
	}
	g.raw = s.appendBytes(append(g.raw[:0], form.prefix...), form.size)
	g.appendBase64(g.raw)
}

func (g *generator) appendKeys(s *stream, n int) {
	for i := range n {
		if i > 0 {
			g.line = append(g.line, ',')
		}
		g.appendKey(s)
	}
}

// appendLinkData appends both parts of link data.
func (g *generator) appendLinkData(fixed, user *stream) {
	g.appendRandom(fixed, g.fixedBytes)
	g.line = append(g.line, ' ')
	g.appendRandom(user, g.userBytes)
}

// appendNotifier appends credentials for notifications of queue n. So many in a
// thousand have a service.
func (g *generator) appendNotifier(s *stream, n int64, perMille int) {
	g.appendRandom(s, idSize)
	g.line = append(g.line, ' ')
	g.appendKey(s)
	g.line = append(g.line, ' ')
	g.appendRandom(s, secretSize)
	if s.chance(perMille) {
		g.appendText(" nsrv=")
		g.appendBase64(g.serviceOf(s, notifierService, lateNotifierService, n))
	}
}

// appendDate appends a day in seconds, some with a plus sign, which readers take
// and no writer writes.
func (g *generator) appendDate(s *stream, day int64) {
	if s.chance(10) {
		g.line = append(g.line, '+')
	}
	g.line = strconv.AppendInt(g.line, day*secondsPerDay, 10)
}

// appendBlocking appends why a queue is blocked.
func (g *generator) appendBlocking(s *stream, mayNotice bool) {
	reasons := [...]string{"spam", "content"}
	g.appendText("reason=")
	g.appendText(reasons[s.below(len(reasons))])
	notices := [...]string{"", "", `,notice={}`, `,notice={"ttl":86400}`, `,notice={"ttl":2592000}`, `,notice={"ttl": null}`}
	if notice := notices[s.below(len(notices))]; mayNotice {
		g.appendText(notice)
	}
}
