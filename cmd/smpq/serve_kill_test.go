package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/ntflog"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/traffictest"
)

// A router that is killed again and again while clients work loses no message that was
// answered, and delivers none again that was acknowledged.
//
// conformance: 160
func TestServeKilled(t *testing.T) {
	s := newPlace(t, "state_folder="+t.TempDir())
	process := startServe(t, s.args()...)
	var address atomic.Pointer[smp.RouterAddress]
	address.Store(process.address(t))
	clients := traffictest.Start(t, traffictest.Options{
		Address: address.Load, Versions: []smp.Version{6, 9, 11, 15, 18, 19}, AnswerTime: 10 * time.Second,
	})
	for range 5 {
		clients.Await(5)
		process.signal(t, syscall.SIGKILL)
		if status := process.ended(t); status != -1 {
			t.Fatalf("exit status %d: it was not killed\n%s", status, process.log.String())
		}
		process = startServe(t, s.args()...)
		address.Store(process.address(t))
	}
	clients.Await(5)
	clients.Finish()
	process.stop(t)
}

// What a router has when it is stopped it has when it is started again: the messages
// with their ids, in their order, the mark of a full queue, and the notifications. The
// notification log is set aside when it was read. It is not used if it is not to be.
//
// conformance: 112, 159, 160; 161, 162 as far as notifications go
func TestServeRestores(t *testing.T) {
	state := t.TempDir()
	s := newPlace(t, "state_folder="+state, "queue_quota=3")
	log := filepath.Join(state, ntflog.Name)
	lines := func(name string) int {
		b, err := os.ReadFile(name)
		must(t, err)
		return strings.Count(string(b), "\n")
	}
	process := startServe(t, s.args("--set", "notification_interval=1h")...)
	c := process.dial(t)
	b := newBox(t, c)
	notifierKey, err := auth.GenerateKey(smp.Ed25519)
	must(t, err)
	dh, err := auth.GenerateKey(smp.X25519)
	must(t, err)
	notifier, err := client.As[*smp.NID](c.Do(t.Context(), client.Request{
		Entity: b.recipient, Key: b.key, Command: &smp.NKEY{NotifierKeys: smp.NotifierKeys{Key: notifierKey.Public(), DHKey: dh.Public()}},
	}))
	must(t, err)
	for range 3 {
		mustOK(t, c, client.Request{Entity: b.sender, Command: &smp.SEND{Notify: true, Body: []byte("x")}})
	}
	if _, err := c.Do(t.Context(), b.send("too much")); !errors.Is(err, smp.ErrQuota) {
		t.Fatalf("the queue is not full: %v", err)
	}
	ids := b.acknowledge(t, c, 1)
	process.stop(t)
	if n := lines(log); n != 3 {
		t.Errorf("%d notifications were saved", n)
	}

	process = startServe(t, s.args("--set", "STORE_LOG.restore_messages=off")...)
	process.signal(t, syscall.SIGINT)
	if status := process.ended(t); status != 0 {
		t.Fatalf("exit status %d\n%s", status, process.log.String())
	}
	if n := lines(log); n != 3 {
		t.Errorf("%d notifications are there that were not to be used", n)
	}

	process = startServe(t, s.args("--set", "notification_interval=50ms")...)
	if n := lines(log + ".bak"); n != 3 {
		t.Errorf("%d notifications were restored", n)
	}
	c = process.dial(t)
	_, err = c.Do(t.Context(), client.Request{Entity: notifier.NotifierID.ID(), Key: notifierKey, Command: &smp.NSUB{}})
	must(t, err)
	for range 3 {
		if e := nextEvent(t, c); e.Entity != notifier.NotifierID.ID() {
			t.Errorf("an event about %s", e.Entity)
		}
	}
	if again := b.acknowledge(t, process.dial(t), 3); len(ids) != 2 || len(again) != 3 || !again[0].Equal(ids[1]) {
		t.Errorf("after message 1, there were the messages %s; now there are %s, and the mark", ids[1:], again)
	}
	process.stop(t)
	if n := lines(log); n != 0 {
		t.Errorf("%d notifications were saved that were delivered", n)
	}
}

// acknowledge subscribes to the queue and acknowledges so many messages. It returns
// their ids, and that of the next one if there is one.
func (b box) acknowledge(t *testing.T, c *client.Client, n int) (ids []smp.Short) {
	t.Helper()
	_, err := c.Do(t.Context(), client.Request{Entity: b.recipient, Key: b.key, Command: &smp.SUB{}})
	must(t, err)
	message, err := client.As[*smp.MSG](nextEvent(t, c).Response, nil)
	for range n {
		must(t, err)
		ids = append(ids, message.MsgID)
		message, err = client.As[*smp.MSG](c.Do(t.Context(), client.Request{
			Entity: b.recipient, Key: b.key, Command: &smp.ACK{MsgID: message.MsgID},
		}))
	}
	if err == nil {
		ids = append(ids, message.MsgID)
	}
	return ids
}

// nextEvent waits for an event.
func nextEvent(t *testing.T, c *client.Client) client.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), serveTimeout)
	defer cancel()
	select {
	case e := <-c.Events():
		must(t, e.Err)
		return e
	case <-ctx.Done():
		t.Fatalf("no event: %v", ctx.Err())
		return client.Event{}
	}
}
