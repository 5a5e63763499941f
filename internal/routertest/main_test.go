package routertest_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/smpq/smpq/internal/auth"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A client sends transmissions and receives them, and knows nothing else.
type client struct {
	t       *testing.T
	conn    *transport.Conn
	signer  *auth.Signer
	version smp.Version
	blocks  int // received
	pending [][]byte
}

// timeout is when a test fails in which something does not come.
const timeout = 30 * time.Second

func versions(v smp.Version) smp.VersionRange { return smp.VersionRange{Min: smp.MinVersion, Max: v} }

func connect(t *testing.T, r *routertest.Router, v smp.Version, service *transport.ServiceCredentials) *client {
	t.Helper()
	to := r.Address()
	d := transport.Dialer{Router: to.Fingerprint, Versions: versions(v), Service: service}
	conn, err := d.Dial(t.Context(), func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(to.Hosts[0].String(), strconv.Itoa(int(to.Port))))
	})
	if err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(timeout, func() { conn.Close() })
	t.Cleanup(func() {
		late.Stop()
		conn.Close()
	})
	return &client{t: t, conn: conn, signer: conn.Session().Signer(), version: conn.Session().Version}
}

// A command is one with what goes into its transmission.
type command struct {
	smp.Command

	entity smp.Short
	key    auth.PrivateKey // zero: not authorized
	rule   auth.Rule
	corrID smp.Short // empty: random
}

// send sends commands in one block, and returns their transmissions.
func (c *client) send(commands ...command) []smp.Transmission {
	c.t.Helper()
	var sent []smp.Transmission
	var block smp.Batch
	for _, cmd := range commands {
		if cmd.corrID.IsEmpty() {
			cmd.corrID = random(c.t)
		}
		t := smp.Transmission{SessionID: c.conn.Session().ID, CorrID: cmd.corrID, EntityID: cmd.entity, Command: cmd.Append(nil, c.version)}
		if !cmd.key.IsZero() || cmd.rule == auth.ByService {
			if err := c.signer.Authorize(&t, cmd.rule, cmd.key); err != nil {
				c.t.Fatal(err)
			}
		}
		if added, err := block.Add(t.Append(nil, c.version)); !added {
			c.t.Fatalf("a block has no room for %T: %v", cmd.Command, err)
		}
		sent = append(sent, t)
	}
	if err := c.conn.Send(block.Content()); err != nil {
		c.t.Fatal(err)
	}
	return sent
}

// receive returns the next transmission.
func (c *client) receive() (smp.Transmission, smp.Response) {
	c.t.Helper()
	for len(c.pending) == 0 {
		content, err := c.conn.Receive(nil)
		if err != nil {
			c.t.Fatal(err)
		}
		c.blocks++
		if c.pending, err = smp.SplitContent(nil, content); err != nil {
			c.t.Fatal(err)
		}
	}
	in := c.pending[0]
	c.pending = c.pending[1:]
	t, err := smp.ParseTransmission(in, c.version)
	if err != nil {
		c.t.Fatal(err)
	}
	r, err := smp.ParseResponse(t.Command, c.version)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := t.CheckEntity(r); err != nil {
		c.t.Errorf("%T: %v", r, err)
	}
	return t, r
}

// call sends a command. The next transmission must be the answer.
func (c *client) call(cmd command) smp.Response {
	c.t.Helper()
	sent := c.send(cmd)[0]
	t, r := c.receive()
	if !t.CorrID.Equal(sent.CorrID) || !t.EntityID.Equal(cmd.entity) {
		c.t.Errorf("%T: got an answer to %s about %s, want to %s about %s", cmd.Command, t.CorrID, t.EntityID, sent.CorrID, cmd.entity)
	}
	return r
}

// must is call whose answer has the type R.
func must[R smp.Response](c *client, cmd command) R {
	c.t.Helper()
	answer := c.call(cmd)
	r, ok := answer.(R)
	if !ok {
		c.t.Fatalf("%T: got %s, want %T", cmd.Command, text(answer), r)
	}
	return r
}

// refused is call whose answer is an error.
func (c *client) refused(cmd command, want smp.Error) {
	c.t.Helper()
	answer := c.call(cmd)
	if e, ok := answer.(*smp.ERR); !ok || e.Err != want {
		c.t.Errorf("%T: got %s, want %v", cmd.Command, text(answer), want)
	}
}

// event receives a transmission that must be an event of type R about an entity.
func event[R smp.Response](c *client, entity smp.Short) R {
	c.t.Helper()
	t, answer := c.receive()
	r, ok := answer.(R)
	if !ok {
		c.t.Fatalf("got %s, want %T", text(answer), r)
	}
	if !t.CorrID.IsEmpty() || !t.EntityID.Equal(entity) {
		c.t.Errorf("%T: got an event about %s with the correlation id %q, want one about %s", r, t.EntityID, t.CorrID, entity)
	}
	return r
}

// text returns the start of an encoded response.
func text(r smp.Response) string { return fmt.Sprintf("%.80q", r.Append(nil, smp.MaxVersion)) }

func random(t testing.TB) smp.Short {
	t.Helper()
	b := make([]byte, smp.NonceSize)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return short(t, b)
}

func short(t testing.TB, b []byte) smp.Short {
	t.Helper()
	s, err := smp.NewShort(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newKey(t testing.TB, a smp.Algorithm) auth.PrivateKey {
	t.Helper()
	k, err := auth.GenerateKey(a)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A mailbox is a queue as its recipient knows it.
type mailbox struct {
	smp.IDS

	t      *testing.T
	key    auth.PrivateKey
	secret smp.DHSecret
}

// create creates a queue of the mode messaging, unless change says otherwise.
func (c *client) create(a smp.Algorithm, change ...func(*command, *smp.NEW)) *mailbox {
	c.t.Helper()
	key, dh := newKey(c.t, a), newKey(c.t, smp.X25519)
	n := &smp.NEW{RecipientKey: key.Public(), DHKey: dh.Public(), Subscribe: true, Mode: smp.ModeMessaging}
	cmd := command{Command: n, key: key, rule: auth.ByPartyAndService}
	for _, change := range change {
		change(&cmd, n)
	}
	ids := must[*smp.IDS](c, cmd)
	secret, err := dh.Agree(ids.DHKey)
	if err != nil {
		c.t.Fatal(err)
	}
	return &mailbox{IDS: *ids, t: c.t, key: key, secret: secret}
}

// do returns a command of the recipient.
func (m *mailbox) do(c smp.Command) command {
	cmd := command{Command: c, entity: m.RecipientID, key: m.key}
	if _, ok := c.(*smp.SUB); ok {
		cmd.rule = auth.ByPartyAndService
	}
	return cmd
}

// put returns a command that sends a message.
func (m *mailbox) put(body string, key auth.PrivateKey) command {
	return command{Command: &smp.SEND{Notify: true, Body: []byte(body)}, entity: m.SenderID, key: key}
}

// open checks that what was delivered has a body; empty for the quota marker.
func (m *mailbox) open(got *smp.MSG, body string) command {
	m.t.Helper()
	plain, err := auth.OpenMessage(m.secret, auth.NonceOf(got.MsgID.Bytes()), got.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	if string(plain.Body) != body || plain.Quota != (body == "") {
		m.t.Errorf("got the message %q (marker: %t), want %q", plain.Body, plain.Quota, body)
	}
	return m.do(&smp.ACK{MsgID: got.MsgID})
}

// closed waits until the router has closed the connection.
func (c *client) closed() {
	c.t.Helper()
	if _, err := c.conn.Receive(nil); err == nil || errors.Is(err, smp.ErrTransportBlock) {
		c.t.Errorf("got a block: %v", err)
	}
}
