package smp

import "fmt"

// A QueueMode says what a queue is for.
type QueueMode byte

// The modes of a queue. Queues made before modes existed have ModeUnknown,
// which stays unknown when a record is rewritten.
const (
	ModeUnknown   QueueMode = 0
	ModeMessaging QueueMode = 'M'
	ModeContact   QueueMode = 'C'
)

// ParseQueueMode reads the one-letter text of a mode.
func ParseQueueMode(s string) (QueueMode, error) {
	switch s {
	case "M", "C":
		return QueueMode(s[0]), nil
	}
	return ModeUnknown, fmt.Errorf("unknown queue mode %q: expected M or C", s)
}

// String returns "messaging", "contact" or "unknown".
func (m QueueMode) String() string {
	switch m {
	case ModeMessaging:
		return "messaging"
	case ModeContact:
		return "contact"
	case ModeUnknown:
	}
	return "unknown"
}
