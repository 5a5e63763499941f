package store

// Limits of what waits and for how long, and why requests were not even tried, for
// tests.
const (
	MaxWaiting  = maxWaiting
	LockTimeout = lockTimeout
)

var (
	ErrClosed = errClosed
	ErrBusy   = errBusy
)

// Waiting returns how many requests wait for their turn.
func (s *Store) Waiting() int {
	s.writes.mu.Lock()
	defer s.writes.mu.Unlock()
	return s.writes.count
}

// Lines returns how many queues have requests that wait or are under way.
func (s *Store) Lines() int {
	s.writes.mu.Lock()
	defer s.writes.mu.Unlock()
	return len(s.writes.lines)
}

// AddWaiting adds to the number of requests that wait.
func (s *Store) AddWaiting(n int) {
	s.writes.mu.Lock()
	defer s.writes.mu.Unlock()
	s.writes.count += n
}
