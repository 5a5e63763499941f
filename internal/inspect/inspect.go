// Package inspect answers questions about a router's database and its store
// log. It only reads.
//
// Its reports have names for JSON and YAML, which do not change: scripts rely on
// them. Ids and keys are base64url, days are dates ("2026-11-22", or a full time
// where a day does not begin), other times are RFC 3339, all in UTC. What the
// operator does not ask for by name is left out: DH secrets, the data of links,
// the bodies of messages. Keys are public.
package inspect

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/smpq/smpq/internal/queue"
)

// ErrNotFound reports an id that is not there.
var ErrNotFound = errors.New("not found")

// formatDate renders a date, "" if it is not known. Routers write whole days.
func formatDate(d queue.Date) string {
	if !d.Known {
		return ""
	}
	if t, ok := inCalendar(d.Seconds); ok && d.Seconds%queue.SecondsPerDay == 0 {
		return t.Format(time.DateOnly)
	}
	return formatTime(d.Seconds)
}

// formatTime renders Unix seconds, as a number if RFC 3339 has no form for the
// year.
func formatTime(seconds int64) string {
	if t, ok := inCalendar(seconds); ok {
		return t.Format(time.RFC3339)
	}
	return strconv.FormatInt(seconds, 10)
}

// inCalendar returns the time of Unix seconds, and whether it can be written.
func inCalendar(seconds int64) (time.Time, bool) {
	t := time.Unix(seconds, 0).UTC()
	return t, t.Year() >= 0 && t.Year() <= 9999
}

// plural renders a number of things: "1 queue", "2 queues".
func plural(n int64, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
