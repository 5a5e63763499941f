package monitor

import (
	"errors"
	"sync/atomic"
)

// A State says how far a program is. The zero State is that of one that starts.
type State struct{ now atomic.Int32 }

const (
	starting = iota
	serving
	stopping
)

var (
	errStarting = errors.New("it is starting")
	errStopping = errors.New("it is stopping")
)

// Serve notes that it serves from now on.
func (s *State) Serve() { s.now.CompareAndSwap(starting, serving) }

// Stop notes that it stops.
func (s *State) Stop() { s.now.Store(stopping) }

// Err returns nil while it serves, else why it does not.
func (s *State) Err() error {
	switch s.now.Load() {
	case starting:
		return errStarting
	case stopping:
		return errStopping
	}
	return nil
}
