package router

import (
	"crypto/rand"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// chance makes what nobody can guess. Tests that repeat what another router has done make
// what that has made.
type chance interface {
	// id returns an id for what a command makes; of several, one after another. A
	// service is made by no command.
	id(command smp.Short) smp.EntityID
	// agree returns the router's half of a new secret, and the secret.
	agree(peer smp.PublicKey) (own smp.PublicKey, secret smp.DHSecret, err error)
	// nonce returns the nonce for the notification of a message.
	nonce(queue.MessageID) auth.Nonce
}

// random is the chance of real routers.
type random struct{}

func (random) id(smp.Short) smp.EntityID { return newID() }

func (random) agree(peer smp.PublicKey) (own smp.PublicKey, secret smp.DHSecret, err error) {
	k, err := auth.GenerateKey(smp.X25519)
	if err != nil {
		return own, secret, err
	}
	if secret, err = k.Agree(peer); err != nil {
		return own, secret, smp.ErrSyntax // the key forces the secret to be zero
	}
	return k.Public(), secret, nil
}

func (random) nonce(queue.MessageID) (n auth.Nonce) {
	_, _ = rand.Read(n[:]) // it never fails
	return n
}

// newID returns an id that nobody has or can guess.
func newID() smp.EntityID {
	b := make([]byte, smp.IDSize)
	_, _ = rand.Read(b) // it never fails
	return smp.NewEntityID(b)
}
