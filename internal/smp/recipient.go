package smp

// Commands of recipients (SMP protocol, recipient commands).

// NEW creates a queue. The router answers [IDS].
type NEW struct {
	RecipientKey PublicKey // authorizes the recipient's commands, this one included
	DHKey        PublicKey // X25519: the router encrypts delivered messages for it
	Password     Password  // zero: none
	Subscribe    bool      // whether to subscribe to the queue at once
	// Mode says what the queue is for. Versions before [VersionLinks] only tell
	// messaging queues from others, those before [VersionSenderSecures] nothing.
	Mode QueueMode
	// Link is the first data of a short link, or nil; from VersionLinks on, and
	// only with a Mode.
	Link *NewLink
	// Notifier creates a notifier as [NKEY] does, or is nil; from
	// [VersionNotifierInNew] on.
	Notifier *NotifierKeys
}

// A NewLink is the link data that a queue is created with.
type NewLink struct {
	LinkID   Short // of a contact queue only: the client chooses it
	SenderID Short // the first 24 bytes of the SHA3-384 of the correlation id
	Data     LinkData
}

// LinkData is what a short link resolves to, encrypted by the recipient. A router
// knows nothing more of it.
type LinkData struct {
	Fixed []byte // set once; 2048 bytes of present clients
	User  []byte // may be replaced; 13824 bytes
}

// NotifierKeys are the keys of a notifier.
type NotifierKeys struct {
	Key   PublicKey // authorizes the notifier's commands
	DHKey PublicKey // X25519, of the recipient: the router encrypts notifications for it
}

// SUB subscribes to a queue. The router answers [SOK], and sends a waiting
// message as an event.
type SUB struct{}

// KEY secures a queue: only the sender with this key can send from now on. The
// router answers [OK].
type KEY struct{ SenderKey PublicKey }

// RKEY replaces the keys of a recipient: 1 to 255, more are not sent. The router answers [OK].
type RKEY struct{ RecipientKeys []PublicKey }

// LSET sets the data of a short link. The router answers [OK].
type LSET struct {
	LinkID Short
	Data   LinkData
}

// LDEL deletes the short link of a queue. The router answers [OK].
type LDEL struct{}

// NKEY gives a queue a notifier. The router answers [NID].
type NKEY struct{ NotifierKeys }

// NDEL removes the notifier of a queue. The router answers [OK].
type NDEL struct{}

// GET fetches one message without subscribing. The router answers [MSG], or [OK]
// if there is none.
type GET struct{}

// ACK confirms that the recipient has a message, which is then deleted. The
// router answers [OK], or the next message.
type ACK struct{ MsgID Short }

// OFF suspends a queue: it takes no more messages. The router answers [OK].
type OFF struct{}

// DEL deletes a queue. The router answers [OK].
type DEL struct{}

// QUE asks about the state of a queue. The router answers [INFO].
type QUE struct{}

// Append implements [Command].
func (c *NEW) Append(b []byte, v Version) []byte {
	b = appendKey(append(b, "NEW "...), c.RecipientKey)
	b = appendKey(b, c.DHKey)
	if v < VersionSenderSecures {
		if !c.Password.IsZero() {
			b = c.Password.append(append(b, 'A'))
		}
		return c.appendSubscribe(b)
	}
	b = appendOptional(b, !c.Password.IsZero(), c.Password.append)
	b = c.appendSubscribe(b)
	if v < VersionLinks {
		return appendBool(b, c.Mode == ModeMessaging)
	}
	b = appendOptional(b, c.Mode != ModeUnknown, c.appendMode)
	if v >= VersionNotifierInNew {
		b = appendOptional(b, c.Notifier != nil, c.Notifier.append)
	}
	return b
}

func (c *NEW) appendSubscribe(b []byte) []byte {
	if c.Subscribe {
		return append(b, 'S')
	}
	return append(b, 'C')
}

func (c *NEW) appendMode(b []byte) []byte {
	b = append(b, byte(c.Mode))
	return appendOptional(b, c.Link != nil, func(b []byte) []byte {
		if c.Mode == ModeContact {
			b = c.Link.LinkID.Append(b)
		}
		return c.Link.Data.append(c.Link.SenderID.Append(b))
	})
}

func (d *decoder) newQueue() *NEW {
	c := &NEW{RecipientKey: d.authKey(), DHKey: d.dhKey()}
	if d.v < VersionSenderSecures {
		if d.peek() == 'A' {
			d.Byte()
			c.Password = d.password()
		}
		c.Subscribe = d.choice('S', 'C')
		return c
	}
	if d.Present() {
		c.Password = d.password()
	}
	c.Subscribe = d.choice('S', 'C')
	if d.v < VersionLinks {
		c.Mode = ModeContact
		if d.Bool() {
			c.Mode = ModeMessaging
		}
		return c
	}
	if d.Present() {
		c.Mode = d.mode()
		if d.Present() {
			c.Link = &NewLink{}
			if c.Mode == ModeContact {
				c.Link.LinkID = d.short()
			}
			c.Link.SenderID = d.short()
			c.Link.Data = d.linkData()
		}
	}
	if d.v >= VersionNotifierInNew && d.Present() {
		keys := d.notifierKeys()
		c.Notifier = &keys
	}
	return c
}

func (d *decoder) mode() QueueMode {
	if d.choice(byte(ModeMessaging), byte(ModeContact)) {
		return ModeMessaging
	}
	return ModeContact
}

func (l LinkData) append(b []byte) []byte { return AppendLarge(AppendLarge(b, l.Fixed), l.User) }

func (d *decoder) linkData() LinkData { return LinkData{Fixed: d.Large(), User: d.Large()} }

func (k *NotifierKeys) append(b []byte) []byte { return appendKey(appendKey(b, k.Key), k.DHKey) }

func (d *decoder) notifierKeys() NotifierKeys {
	return NotifierKeys{Key: d.authKey(), DHKey: d.dhKey()}
}

// Append implements [Command].
func (*SUB) Append(b []byte, _ Version) []byte { return append(b, "SUB"...) }

// Append implements [Command].
func (c *KEY) Append(b []byte, _ Version) []byte {
	return appendKey(append(b, "KEY "...), c.SenderKey)
}

// Append implements [Command].
func (c *RKEY) Append(b []byte, _ Version) []byte {
	keys := c.RecipientKeys[:min(len(c.RecipientKeys), maxList)]
	b = append(append(b, "RKEY "...), byte(len(keys))) //nolint:gosec // maxList
	for _, k := range keys {
		b = appendKey(b, k)
	}
	return b
}

func (d *decoder) authKeys() []PublicKey {
	n := int(d.Byte())
	if d.err == nil && n == 0 {
		d.Fail("at least one key is needed")
	}
	var keys []PublicKey
	for range n {
		k := d.authKey()
		if d.err != nil {
			return nil
		}
		keys = append(keys, k)
	}
	return keys
}

// Append implements [Command].
func (c *LSET) Append(b []byte, _ Version) []byte {
	return c.Data.append(c.LinkID.Append(append(b, "LSET "...)))
}

// Append implements [Command].
func (*LDEL) Append(b []byte, _ Version) []byte { return append(b, "LDEL"...) }

// Append implements [Command].
func (c *NKEY) Append(b []byte, _ Version) []byte { return c.append(append(b, "NKEY "...)) }

// Append implements [Command].
func (*NDEL) Append(b []byte, _ Version) []byte { return append(b, "NDEL"...) }

// Append implements [Command].
func (*GET) Append(b []byte, _ Version) []byte { return append(b, "GET"...) }

// Append implements [Command].
func (c *ACK) Append(b []byte, _ Version) []byte { return c.MsgID.Append(append(b, "ACK "...)) }

// Append implements [Command].
func (*OFF) Append(b []byte, _ Version) []byte { return append(b, "OFF"...) }

// Append implements [Command].
func (*DEL) Append(b []byte, _ Version) []byte { return append(b, "DEL"...) }

// Append implements [Command].
func (*QUE) Append(b []byte, _ Version) []byte { return append(b, "QUE"...) }

func (*NEW) credentials() credentials  { return authorizedNoID }
func (*SUB) credentials() credentials  { return authorized }
func (*KEY) credentials() credentials  { return authorized }
func (*RKEY) credentials() credentials { return authorized }
func (*LSET) credentials() credentials { return authorized }
func (*LDEL) credentials() credentials { return authorized }
func (*NKEY) credentials() credentials { return authorized }
func (*NDEL) credentials() credentials { return authorized }
func (*GET) credentials() credentials  { return authorized }
func (*ACK) credentials() credentials  { return authorized }
func (*OFF) credentials() credentials  { return authorized }
func (*DEL) credentials() credentials  { return authorized }
func (*QUE) credentials() credentials  { return authorized }
