package smp

import "fmt"

// A Command is what clients send to routers (SMP protocol, commands). The type
// of each bears the tag with which its encoding starts. Commands are pointers,
// so that those that are parsed need no memory of their own: see [Parser].
//
//sumtype:decl
type Command interface {
	// Append appends the encoding of the command in a session of version v to b.
	// Any version encodes any command, since routers take them in all versions;
	// what the version has no place for is left out.
	Append(b []byte, v Version) []byte
	// credentials says what its transmission must come with.
	credentials() credentials
}

// MaxMessage returns the size in bytes of the largest body of [SEND].
func (v Version) MaxMessage() int {
	switch {
	case v < VersionProxy:
		return 16088
	case v < VersionBlockEncryption:
		return 16064
	}
	return 16048
}

// A Parser parses commands and responses without memory of their own for the
// frequent ones: the *[SEND], *[ACK] or *[MSG] that it returns is valid until its
// next call. The zero Parser is ready for use.
type Parser struct {
	ack  ACK
	send SEND
	msg  MSG
}

// ParseCommand is [Parser.Command] with memory of its own.
func ParseCommand(in []byte, v Version) (Command, error) { return new(Parser).Command(in, v) }

// Command parses a command of a session of version v. All its parts alias in.
// The error wraps what a router answers: [ErrUnknown] or [ErrSyntax].
//
// Like smp-server, it takes all commands in all versions, also those that came
// later.
func (p *Parser) Command(in []byte, v Version) (Command, error) {
	d := newDecoder(in, v)
	tag := d.tag()
	c, known := d.command(p, string(tag))
	if !known {
		return nil, fmt.Errorf("parse command: %w: %.16q", ErrUnknown, tag)
	}
	d.End()
	if d.err != nil {
		return nil, fmt.Errorf("parse %s: %w: %w", tag, ErrSyntax, d.err)
	}
	return c, nil
}

// command reads the parameters of the command with a tag. If there is none such,
// known is false.
func (d *decoder) command(p *Parser, tag string) (c Command, known bool) {
	switch tag {
	case "SUB":
		return &SUB{}, true
	case "ACK":
		d.space()
		p.ack = ACK{MsgID: d.short()}
		return &p.ack, true
	case "SEND":
		d.space()
		p.send = d.send()
		return &p.send, true
	case "NEW":
		d.space()
		return d.newQueue(), true
	case "KEY":
		d.space()
		return &KEY{d.authKey()}, true
	case "RKEY":
		d.space()
		return &RKEY{d.authKeys()}, true
	case "LSET":
		d.space()
		return &LSET{LinkID: d.short(), Data: d.linkData()}, true
	case "LDEL":
		return &LDEL{}, true
	case "NKEY":
		d.space()
		return &NKEY{d.notifierKeys()}, true
	case "NDEL":
		return &NDEL{}, true
	case "GET":
		return &GET{}, true
	case "OFF":
		return &OFF{}, true
	case "DEL":
		return &DEL{}, true
	case "QUE":
		return &QUE{}, true
	case "SKEY":
		d.space()
		return &SKEY{d.authKey()}, true
	case "LKEY":
		d.space()
		return &LKEY{d.authKey()}, true
	case "LGET":
		return &LGET{}, true
	case "NSUB":
		return &NSUB{}, true
	case "SUBS":
		return &SUBS{d.subscribed()}, true
	case "NSUBS":
		return &NSUBS{d.subscribed()}, true
	case "PING":
		return &PING{}, true
	case "PRXY":
		d.space()
		return d.proxy(), true
	case "PFWD":
		d.space()
		return d.forward(), true
	case "RFWD":
		d.space()
		return &RFWD{Encrypted: d.Rest()}, true
	}
	return nil, false
}

// credentials say what a transmission must come with (SMP protocol,
// transmission structure).
type credentials uint8

const (
	authorized      credentials = iota // an authorization and an entity id
	authorizedNoID                     // an authorization and no entity id: NEW
	maybeAuthorized                    // an entity id, and an authorization or none: SEND
	unauthorized                       // an entity id, no authorization
	anonymous                          // neither
)

// CheckCredentials reports as a [CommandError] what t lacks, or has too much, as
// the transmission of c.
func (t *Transmission) CheckCredentials(c Command) error {
	auth, id := !t.Auth.IsEmpty(), !t.EntityID.IsEmpty()
	switch c.credentials() {
	case authorized:
		if !auth || !id {
			return ErrNoAuth
		}
	case authorizedNoID:
		if !auth {
			return ErrNoAuth
		}
		if id {
			return ErrHasAuth
		}
	case maybeAuthorized:
		if !id {
			return ErrNoEntity
		}
	case unauthorized:
		if !id {
			return ErrNoEntity
		}
		if auth {
			return ErrHasAuth
		}
	case anonymous:
		if auth || id {
			return ErrHasAuth
		}
	}
	return nil
}
