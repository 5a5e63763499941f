package config

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// A Change is a key that is to get another value.
type Change struct {
	Section string `json:"section"`
	Key     string `json:"key"`
	Value   string `json:"value"`
}

// String returns the change as it would be written: "[STORE_LOG] key = value".
func (c Change) String() string { return fmt.Sprintf("[%s] %s = %s", c.Section, c.Key, c.Value) }

// Differs reports whether the file gives the key another value, or none.
func (f *File) Differs(c Change) (bool, error) {
	e, found, err := f.lookup(c.Section, c.Key)
	return !found || e.Value != c.Value, err
}

// Edit returns the text of a configuration file with changes. All else stays as
// it is: other keys, comments, the order. A key that the file does not have goes
// behind a comment that shows it, else to the end of its section.
func Edit(text []byte, changes []Change) ([]byte, error) {
	lines := strings.SplitAfter(string(text), "\n")
	if last := len(lines) - 1; lines[last] == "" {
		lines = lines[:last]
	}
	for _, c := range changes {
		lines = edit(lines, c)
	}
	edited := []byte(strings.Join(lines, ""))
	f, err := Parse("edited", bytes.NewReader(edited))
	if err != nil {
		return nil, err
	}
	for _, c := range changes {
		if differs, err := f.Differs(c); err != nil || differs {
			return nil, fmt.Errorf("%s cannot be set: %w", c.Key, err)
		}
	}
	return edited, nil
}

// edit makes one change.
func edit(lines []string, c Change) []string {
	written := c.Key + " = " + c.Value + "\n"
	section, at, shown, end := "", -1, -1, -1
	for i, line := range lines {
		comment := strings.TrimLeft(strings.TrimSpace(line), "#; ")
		inside := section == c.Section
		e, _ := parseLine(line, &section)
		if section == c.Section && strings.TrimSpace(line) != "" {
			end = i
		}
		if !inside {
			continue
		}
		if e.Key == c.Key {
			lines[i] = written
			at = i
		}
		if name, _, found := strings.Cut(comment, "="); e.Key == "" && found && strings.TrimSpace(name) == c.Key {
			shown = i
		}
	}
	switch {
	case at >= 0:
		return lines
	case shown >= 0:
		end = shown
	case end < 0:
		end = len(lines) - 1
		written = "\n[" + c.Section + "]\n" + written
	}
	if end >= 0 && !strings.HasSuffix(lines[end], "\n") {
		lines[end] += "\n"
	}
	return slices.Insert(lines, end+1, written)
}

// DefaultQueueQuota is what the router uses if the section [SMPQ] lacks
// queue_quota.
const DefaultQueueQuota = 128

// QueueQuota returns how many messages a queue takes. The error is a [*ValueError].
func (f *File) QueueQuota() (int64, error) {
	c, err := f.read(func(k Key) bool { return k.Path() == "SMPQ.queue_quota" })
	return int64(c.Tuning.QueueQuota), err
}
