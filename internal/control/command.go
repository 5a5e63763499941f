package control

import (
	"errors"
	"strings"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// A role says what a session may do.
type role int

const (
	noRole role = iota
	user
	admin
)

// String returns the name that smp-server has for the role.
func (r role) String() string {
	switch r {
	case user:
		return "CPRUser"
	case admin:
		return "CPRAdmin"
	case noRole:
	}
	return "CPRNone"
}

// A command is a line that was understood.
type command struct {
	name     string
	id       smp.EntityID   // of a queue
	blocking queue.Blocking // for block
	password string         // for auth
}

// needs says which role a command needs. Commands that are not here do not exist.
var needs = map[string]role{
	"auth": noRole, "help": noRole, "quit": noRole, "stats-rts": noRole,
	"stats": user, "sockets": user, "server-info": user, "status": user, "block": user, "unblock": user,
	"clients": admin, "threads": admin, "socket-threads": admin, "delete": admin, "save": admin, "suspend": admin, "resume": admin,
}

// Why a line is not understood, in the words of smp-server.
var (
	errCommand  = errors.New("Failed reading: bad ControlProtocol command") //nolint:staticcheck // as above
	errMissing  = errors.New("space: not enough input")
	errTooMuch  = errors.New("endOfInput")
	errBlocking = errors.New("string")
)

// parse reads a line.
func parse(line string) (c command, err error) {
	name, argument, has := strings.Cut(line, " ")
	if _, known := needs[name]; !known {
		return c, errCommand
	}
	c.name = name
	switch name {
	case "auth":
		if !has {
			return c, errMissing
		}
		c.password = argument
		return c, nil
	case "status", "block", "unblock", "delete":
		if !has {
			return c, errMissing
		}
		err = c.parseQueue(argument)
		return c, err
	}
	if has {
		return c, errTooMuch
	}
	return c, nil
}

// parseQueue reads the arguments of commands about a queue.
func (c *command) parseQueue(text string) (err error) {
	id, rest, has := strings.Cut(text, " ")
	if c.id, err = smp.ParseEntityID(id); err != nil {
		return err
	}
	switch {
	case c.name != "block" && has:
		return errTooMuch
	case c.name != "block":
		return nil
	case !has:
		return errMissing
	}
	r := smp.NewTextReader([]byte(rest))
	c.blocking = smp.ReadBlocking(r)
	if r.Err() != nil {
		return errBlocking
	}
	if r.End(); r.Err() != nil {
		return errTooMuch
	}
	return nil
}
