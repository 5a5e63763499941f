package router_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/smpq/smpq/internal/client"
	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/router"
	"github.com/smpq/smpq/internal/routertest"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/smp"
	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/traffictest"
)

// chaosVersions are those of the clients: without session keys, with encrypted blocks,
// and the newest.
var chaosVersions = []smp.Version{6, 11, 15, 19}

// A forgetfulStore does what it is told, but says while it forgets that it does not
// know, as when the connection to the database breaks at that moment.
type forgetfulStore struct {
	*store.Store
	forgets atomic.Bool
}

func (s *forgetfulStore) outcome(err error) error {
	if err == nil && s.forgets.Load() {
		return &store.Error{Code: store.CodeStore, Op: "forget", Err: errors.New("the connection is lost")}
	}
	return err
}

func (s *forgetfulStore) WriteMessage(ctx context.Context, id queue.RecipientID, m queue.Message) (store.Written, error) {
	written, err := s.Store.WriteMessage(ctx, id, m)
	return written, s.outcome(err)
}

func (s *forgetfulStore) DeletePeekMessage(ctx context.Context, id queue.RecipientID, m queue.MessageID) (deleted, next *queue.Message, err error) {
	deleted, next, err = s.Store.DeletePeekMessage(ctx, id, m)
	return deleted, next, s.outcome(err)
}

func (s *forgetfulStore) DeleteMessage(ctx context.Context, id queue.RecipientID, m queue.MessageID) (*queue.Message, error) {
	deleted, err := s.Store.DeleteMessage(ctx, id, m)
	return deleted, s.outcome(err)
}

// A message that was stored although the router cannot know is delivered, and those
// after it. One that was deleted although the router cannot know does not come again,
// and ACK can be repeated.
func TestOutcomeNotKnown(t *testing.T) {
	t.Parallel()
	st := &forgetfulStore{Store: newSite(t).openStore(t, 0)}
	r := start(t, st.Store, func(o *router.Options) { o.Store = st })
	services := routertest.NewServiceCredentials(t, queue.RoleMessaging)
	for name, change := range map[string][]func(*client.Options){"client": nil, "service": {asService(services)}} {
		t.Run(name, func(t *testing.T) {
			alice, bob := r.dial(t, 19, change...), r.dial(t, 19)
			b := alice.newQueue()
			st.forgets.Store(true)
			bob.refused(smp.StoreError{Text: "the store failed"}, b.sender, none(), &smp.SEND{Body: []byte("1")})
			id := alice.receive(b, "1")
			bob.refused(smp.StoreError{Text: "the store failed"}, b.sender, none(), &smp.SEND{Body: []byte("2")})
			alice.refused(smp.StoreError{Text: "the store failed"}, b.recipient, b.recipientKey, &smp.ACK{MsgID: id})
			st.forgets.Store(false)
			alice.ack(b, alice.ackNext(b, id, "2"))
			bob.send(b, "3")
			alice.ack(b, alice.receive(b, "3"))
			alice.quiet()

			// The same with GET.
			b = bob.newQueue(createOnly)
			bob.send(b, "1")
			bob.send(b, "2")
			m := must[*smp.MSG](bob, b.recipient, b.recipientKey, &smp.GET{})
			st.forgets.Store(true)
			bob.refused(smp.StoreError{Text: "the store failed"}, b.recipient, b.recipientKey, &smp.ACK{MsgID: m.MsgID})
			st.forgets.Store(false)
			bob.ack(b, m.MsgID)
			b.check(t, must[*smp.MSG](bob, b.recipient, b.recipientKey, &smp.GET{}), "2")
		})
	}
}

// A brokenStore fails twice where the queues of a service are gone through, in two
// ways. Then it is late: it says of a queue that there is a message that is not there
// any more.
type brokenStore struct {
	*store.Store
	walks atomic.Int64 // how often the queues were gone through
	late  queue.RecipientID
}

var errBroken = &store.Error{Code: store.CodeStore, Op: "read what has an id", Err: errors.New("the store is broken")}

func (s *brokenStore) ServiceMessages(ctx context.Context, service queue.ServiceID) iter.Seq2[store.QueueMessage, error] {
	return func(yield func(store.QueueMessage, error) bool) {
		walks, n := s.walks.Add(1), 0
		for m, err := range s.Store.ServiceMessages(ctx, service) {
			if n++; walks == 1 && n == 10 {
				err = errBroken
			}
			if walks == 3 && m.Queue == s.late {
				m.Message = &queue.Message{ID: queue.MessageID{EntityID: smp.NewEntityID("late")}}
			}
			if !yield(m, err) {
				return
			}
		}
	}
}

func (s *brokenStore) PeekMessages(ctx context.Context, ids []queue.RecipientID) (map[queue.RecipientID]*queue.Message, error) {
	if s.walks.Load() == 2 {
		return nil, errBroken
	}
	return s.Store.PeekMessages(ctx, ids)
}

// A service gets all of its messages, and ALLS, though the store fails meanwhile. It
// gets none that was acknowledged meanwhile.
//
// conformance: 122
func TestServiceMessagesThoughStoreFails(t *testing.T) {
	t.Parallel()
	st := &brokenStore{Store: newSite(t).openStore(t, 0)}
	var said lockedBuffer
	r := start(t, st.Store, func(o *router.Options) { o.Store, o.Log = st, slog.New(slog.NewTextHandler(&said, nil)) })
	credentials := routertest.NewServiceCredentials(t, queue.RoleMessaging)
	before, bob := r.dial(t, 19, asService(credentials)), r.dial(t, 19)
	boxes := before.newQueues(40)
	var ids []smp.EntityID
	for i, b := range boxes {
		ids = append(ids, b.recipient)
		if i > 0 {
			bob.send(b, "x")
		}
	}
	before.Close()
	st.late.EntityID = boxes[0].recipient
	service := r.dial(t, 19, asService(credentials))
	service.subs(ids...)
	got := make(map[smp.EntityID]bool)
	all := false
	for !all || len(got) < len(boxes)-1 {
		e := service.event()
		switch {
		case e.Entity.IsZero():
			if _, all = e.Response.(*smp.ALLS); !all {
				t.Fatalf("an event: %+v", e.Response)
			}
		case got[e.Entity] || e.Entity == boxes[0].recipient:
			t.Fatalf("%T about %s", e.Response, e.Entity)
		}
		if _, ok := e.Response.(*smp.MSG); ok {
			got[e.Entity] = true
		}
	}
	bob.send(boxes[0], "y")
	service.ack(boxes[0], service.receive(boxes[0], "y"))
	service.quiet()
	if n := st.walks.Load(); n != 3 {
		t.Errorf("the queues were gone through %d times, not 3", n)
	}
	if log := said.String(); !strings.Contains(log, "broken") || strings.Contains(log, errBroken.Op) {
		t.Errorf("the log does not say what is the matter, or has ids:\n%s", log)
	}
}

// addressVia returns the address of a router at the other end of a cable.
func addressVia(t *testing.T, srv *server, c *cable) *smp.RouterAddress {
	t.Helper()
	text, port := c.at(t)
	host, err := smp.ParseHost(text)
	if err != nil {
		t.Fatal(err)
	}
	return &smp.RouterAddress{Fingerprint: srv.address.Fingerprint, Hosts: []smp.Host{host}, Port: port}
}

// While clients work, everything around the router fails, one after another. Nothing
// that was acknowledged is lost or comes again, and the router works again by itself.
func TestChaos(t *testing.T) {
	t.Parallel()
	database := pgtest.NewVictim(t, pgtest.Folder(t), map[string]string{"autovacuum": "off"}) // it makes room in tables
	at := &site{config: store.Config{DSN: database.DSN(), Schema: "smp_server", Application: "smpq test"}}
	conn, err := pgx.Connect(t.Context(), at.config.DSN)
	if err != nil {
		t.Fatal(err)
	}
	local := conn.Config()
	_, err = schema.Migrate(t.Context(), conn, at.config.Schema, schema.Newest, schema.Options{})
	if err := errors.Join(err, conn.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	network, socket := pgconn.NetworkAddress(local.Host, local.Port)
	toDatabase := newCable(t, network, socket)
	host, port := toDatabase.at(t)
	at.config.DSN = fmt.Sprintf("host=%s port=%d user=%s dbname=%s sslmode=disable", host, port, local.User, local.Database)

	var nobody *authority
	ca := nobody.issue(t)
	leaf := func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature }
	var clock atomic.Int64 // how much the router's differs from that of the machine
	srv := start(t, at.openStore(t, 0), func(o *router.Options) {
		o.Now = func() time.Time { return time.Now().Add(time.Duration(clock.Load())) }
		o.Credentials = ca.issue(t, leaf).credentials(t)
	})
	toRouter := newCable(t, "tcp", net.JoinHostPort(srv.address.Hosts[0].String(), strconv.Itoa(int(srv.address.Port))))
	address := addressVia(t, srv, toRouter)
	clients := traffictest.Start(t, traffictest.Options{
		Address: func() *smp.RouterAddress { return address }, Versions: chaosVersions, AnswerTime: 2 * time.Second,
		BodySize: 1900, // the disk is soon full
	})
	clients.Await(10)
	for _, fault := range []struct {
		name string
		make func(t *testing.T)
	}{
		{"the database is stopped", func(t *testing.T) {
			database.Stop(t)
			clients.AwaitFailures(8)
			database.Start(t)
		}},
		{"the database crashes", func(t *testing.T) {
			database.Kill(t)
			clients.AwaitFailures(8)
			database.Start(t)
		}},
		{"connections to the database are cut", func(*testing.T) {
			for range 5 {
				toDatabase.cut()
				clients.Await(1)
			}
		}},
		{"there is no way to the database", func(t *testing.T) {
			toDatabase.unplug()
			clients.AwaitFailures(8)
			toDatabase.mend(t)
		}},
		{"nothing comes from the database", func(t *testing.T) {
			toDatabase.hold()
			clients.AwaitFailures(2)
			toDatabase.mend(t)
		}},
		{"connections to clients are cut", func(*testing.T) {
			for range 5 {
				toRouter.cut()
				clients.Await(1)
			}
		}},
		{"there is no way to the router", func(t *testing.T) {
			toRouter.unplug()
			eventually(t, "that the router has noticed", func() bool { return srv.Counters().Active.Load() == 0 })
			toRouter.mend(t)
		}},
		{"everything is late", func(t *testing.T) {
			for range 3 {
				toRouter.hold()
				toDatabase.hold()
				toRouter.mend(t)
				toDatabase.mend(t)
				clients.Await(1)
			}
		}},
		{"the disk is full", func(t *testing.T) {
			database.LimitFiles(t, at.config.Schema)
			clients.AwaitFailures(8)
			database.FreeFiles(t)
		}},
		{"the certificate is replaced", func(t *testing.T) {
			if err := srv.SetCredentials(ca.issue(t, leaf).credentials(t)); err != nil {
				t.Error(err)
			}
			clients.Await(1) // those that are connected stay so
			toRouter.cut()
		}},
		{"the clock jumps forward", func(*testing.T) { clock.Store(int64(24 * time.Hour)) }},
		{"the clock jumps back", func(*testing.T) { clock.Store(-int64(24 * time.Hour)) }},
	} {
		t.Run(fault.name, func(t *testing.T) {
			fault.make(t)
			clients.Await(10)
		})
	}
	clients.Finish()
	eventually(t, "that no connection is left", func() bool { return srv.Counters().Active.Load() == 0 })
}
