package router_test

import (
	"testing"
	"time"

	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/smp"
)

// Old messages and queues that were deleted long ago go by themselves; others stay.
//
// conformance: 157 together with TestExpireOnSend and TestServeExpiresOnStart
func TestExpireOnSchedule(t *testing.T) {
	s := newSite(t)
	srv := start(t, s.openStore(t, 128), func(o *router.Options) { o.ExpireInterval = 20 * time.Millisecond })
	p := srv.dial(t, smp.MaxVersion)
	old, young, gone := p.newQueue(createOnly), p.newQueue(createOnly), p.newQueue(createOnly)
	p.send(old, "old")
	p.send(young, "young")
	p.ok(gone.recipient, gone.recipientKey, &smp.DEL{})
	if n := s.number(t, "select count(*) from msg_queues"); n != 3 {
		t.Fatalf("%d queues", n)
	}
	pgtest.Exec(t, s.conn, "update messages set msg_ts = 0 where recipient_id = $1", old.recipient)
	pgtest.Exec(t, s.conn, "update msg_queues set deleted_at = 0 where deleted_at is not null")
	eventually(t, "the old message goes", func() bool { return s.number(t, "select count(*) from messages") == 1 })
	eventually(t, "the deleted queue goes", func() bool { return s.number(t, "select count(*) from msg_queues") == 2 })
	eventually(t, "it was counted", func() bool { return srv.Counters().MsgExpired.Load() == 1 })
	p.subscribe(young)
	p.receive(young, "young")
	p.subscribe(old)
	p.quiet()
}
