package smp

import "bytes"

// Commands of senders, of whoever opens a short link, and of any client (SMP
// protocol, sender commands).

// SKEY secures a queue with the key of the sender who sends it. The router
// answers [OK].
type SKEY struct{ SenderKey PublicKey }

// SEND puts a message into a queue. The router answers [OK].
type SEND struct {
	Notify bool   // whether to tell the notifier of the queue
	Body   []byte // at most [Version.MaxMessage] bytes, which parsing does not check
}

// LKEY secures a queue by its link, and asks for the data of the link. The router
// answers [LNK].
type LKEY struct{ SenderKey PublicKey }

// LGET asks for the data of a short link. The router answers [LNK].
type LGET struct{}

// PING keeps the connection alive. The router answers [PONG].
type PING struct{}

// Append implements [Command].
func (c *SKEY) Append(b []byte, _ Version) []byte {
	return appendKey(append(b, "SKEY "...), c.SenderKey)
}

// Append implements [Command].
func (c *SEND) Append(b []byte, _ Version) []byte {
	b = appendBool(append(b, "SEND "...), c.Notify)
	return append(append(b, ' '), c.Body...)
}

// send reads flags and body. Behind the flag for notifications there may come
// others, which are ignored.
func (d *decoder) send() SEND {
	c := SEND{Notify: d.Bool()}
	if more := bytes.IndexByte(d.in[d.pos:], ' '); more > 0 {
		d.take(more)
	}
	d.space()
	c.Body = d.Rest()
	return c
}

// Append implements [Command].
func (c *LKEY) Append(b []byte, _ Version) []byte {
	return appendKey(append(b, "LKEY "...), c.SenderKey)
}

// Append implements [Command].
func (*LGET) Append(b []byte, _ Version) []byte { return append(b, "LGET"...) }

// Append implements [Command].
func (*PING) Append(b []byte, _ Version) []byte { return append(b, "PING"...) }

func (*SKEY) credentials() credentials { return authorized }
func (*SEND) credentials() credentials { return maybeAuthorized }
func (*LKEY) credentials() credentials { return authorized }
func (*LGET) credentials() credentials { return unauthorized }
func (*PING) credentials() credentials { return anonymous }
