package store_test

import (
	"context"
	"crypto/md5"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/smpq/smpq/internal/pgtest"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
)

// newService returns a service with a random id and certificate.
func newService(role queue.Role) queue.Service {
	// The outline of a certificate, as readers of logs want it.
	cert := slices.Concat([]byte("\x30\x28\x30\x20"), randomBytes(32), []byte("\x30\x00\x03\x02\x00\x00"))
	chain := queue.CertChain{cert}
	return queue.Service{
		ID: queue.ServiceID{EntityID: randomID()}, Role: role, CertChain: chain, CertHash: chain.IdentityHash(), CreatedAt: store.Today(),
	}
}

// addService adds a service.
func (f fixture) addService(t testing.TB, role queue.Role) queue.ServiceID {
	t.Helper()
	sv := newService(role)
	id, err := f.Service(t.Context(), sv)
	if err != nil || id != sv.ID {
		t.Fatalf("service %s, %v", id, err)
	}
	return id
}

// contract: QS-16
func TestOneServicePerCertificate(t *testing.T) {
	f := newFixture(t, 1<<20)
	other := openStore(t, store.Options{Config: f.config})
	for range 10 {
		sv := newService(queue.RoleNotifier)
		ids := make([]queue.ServiceID, 8)
		var wg sync.WaitGroup
		for i := range ids {
			wg.Go(func() {
				mine := sv
				mine.ID = queue.ServiceID{EntityID: randomID()}
				s := f.Store
				if i%2 == 0 {
					s = other
				}
				var err error
				if ids[i], err = s.Service(t.Context(), mine); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if slices.ContainsFunc(ids, func(id queue.ServiceID) bool { return id != ids[0] }) {
			t.Fatalf("several ids for one certificate: %v", ids)
		}
		wrong := sv
		wrong.Role = queue.RoleMessaging
		_, err := f.Service(t.Context(), wrong)
		wantError(t, err, store.CodeService, store.ErrRole)
		taken := newService(queue.RoleNotifier)
		taken.ID = ids[0]
		_, err = f.Service(t.Context(), taken)
		wantError(t, err, store.CodeAuth, store.ErrTaken)
	}
	if n := f.number(t, "select count(*) from services"); n != 10 {
		t.Errorf("%d services, want 10", n)
	}
}

// wantQueues checks the number and the hash of the queues of a service.
func (f fixture) wantQueues(t testing.TB, id queue.ServiceID, party queue.Party, ids ...[]byte) {
	t.Helper()
	var want store.Aggregate
	for _, id := range ids {
		for i, b := range md5.Sum(id) {
			want.IDsHash[i] ^= b
		}
		want.Count++
	}
	got, err := f.ServiceQueues(t.Context(), id, party)
	if err != nil || got != want {
		t.Errorf("queues of service %s: %+v, %v, want %+v", id, got, err, want)
	}
}

// contract: QS-14, QS-20
func TestServiceQueues(t *testing.T) {
	eachCache(t, func(t *testing.T, f fixture) {
		receiver, notifying := f.addService(t, queue.RoleMessaging), f.addService(t, queue.RoleNotifier)
		f.wantQueues(t, receiver, queue.PartyRecipient)
		for _, unknown := range []struct {
			id    queue.ServiceID
			party queue.Party
		}{{queue.ServiceID{EntityID: randomID()}, queue.PartyRecipient}, {receiver, queue.PartyNotifier}} {
			a, err := f.ServiceQueues(t.Context(), unknown.id, unknown.party)
			wantError(t, err, store.CodeAuth, store.ErrNoService)
			if a != (store.Aggregate{}) {
				t.Errorf("%+v", a)
			}
		}
		r := fullRecord()
		q := f.add(t, r)
		for range 2 {
			if err := f.SetService(t.Context(), q, queue.PartyRecipient, receiver); err != nil {
				t.Fatal(err)
			}
			if err := f.SetService(t.Context(), q, queue.PartyNotifier, notifying); err != nil {
				t.Fatal(err)
			}
		}
		r.RcvService, r.Notifier.Service = receiver, notifying
		wantView(t, f.wantFound(t, r), r)
		f.wantQueues(t, receiver, queue.PartyRecipient, r.RecipientID.Bytes())
		f.wantQueues(t, notifying, queue.PartyNotifier, r.Notifier.ID.Bytes())

		n := randomNotifier()
		if _, err := f.AddNotifier(t.Context(), q, n); err != nil {
			t.Fatal(err)
		}
		r.Notifier = &n
		wantView(t, f.wantFound(t, r), r)
		f.wantQueues(t, notifying, queue.PartyNotifier)

		plain := f.add(t, newRecord())
		wantError(t, f.SetService(t.Context(), plain, queue.PartyNotifier, notifying), store.CodeAuth, store.ErrNotSet)
		err := f.SetService(t.Context(), plain, queue.PartyRecipient, queue.ServiceID{EntityID: randomID()})
		if store.CodeOf(err) != store.CodeStore {
			t.Errorf("an unknown service: %v", err)
		}
		if err := f.SetService(t.Context(), q, queue.PartyRecipient, queue.ServiceID{}); err != nil {
			t.Fatal(err)
		}
		f.wantQueues(t, receiver, queue.PartyRecipient)
	})
}

// One statement associates many queues; each gets its own result.
func TestSetServices(t *testing.T) {
	eachCache(t, func(t *testing.T, f fixture) {
		service := f.addService(t, queue.RoleMessaging)
		var queues []*store.Queue
		var ids [][]byte
		for range 20 {
			q := f.add(t, newRecord())
			queues, ids = append(queues, q), append(ids, q.ID().Bytes())
		}
		deleted, gone := f.add(t, newRecord()), f.add(t, newRecord())
		if _, err := f.DeleteQueue(t.Context(), deleted); err != nil {
			t.Fatal(err)
		}
		f.exec(t, "update msg_queues set deleted_at = 0 where recipient_id = $1", gone.ID())
		if err := f.SetService(t.Context(), queues[3], queue.PartyRecipient, service); err != nil {
			t.Fatal(err)
		}
		all := append(slices.Clone(queues), deleted, gone, queues[0])
		var errs []error
		if n := f.writes(t, func() { errs = f.SetServices(t.Context(), all, queue.PartyRecipient, service) }); n != 1 {
			t.Errorf("%d transactions, want 1", n)
		}
		for i, err := range errs {
			switch all[i] {
			case deleted:
				wantError(t, err, store.CodeAuth, store.ErrDeleted)
			case gone:
				wantError(t, err, store.CodeAuth, store.ErrStale)
			default:
				if err != nil || view(t, all[i]).RcvService != service {
					t.Errorf("queue %d: %v", i, err)
				}
			}
		}
		f.wantQueues(t, service, queue.PartyRecipient, ids...)
		for _, err := range f.SetServices(t.Context(), queues, queue.PartyNotifier, service) {
			wantError(t, err, store.CodeAuth, store.ErrNotSet)
		}
		if errs := f.SetServices(t.Context(), nil, queue.PartyRecipient, service); len(errs) != 0 {
			t.Errorf("%v", errs)
		}
	})
}

func TestNotifierServices(t *testing.T) {
	f := newFixture(t, 1<<20)
	service := f.addService(t, queue.RoleNotifier)
	var ids []queue.NotifierID
	for i := range 4 {
		r := fullRecord()
		q := f.add(t, r)
		if i < 2 {
			if err := f.SetService(t.Context(), q, queue.PartyNotifier, service); err != nil {
				t.Fatal(err)
			}
		}
		ids = append(ids, r.Notifier.ID)
	}
	unknown := queue.NotifierID{EntityID: randomID()}
	byService, missing, err := f.NotifierServices(t.Context(), append(slices.Clone(ids), unknown))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(byService[service], ids[:2]) || !slices.Equal(byService[queue.ServiceID{}], ids[2:]) || len(byService) != 2 {
		t.Errorf("by service: %v", byService)
	}
	if !slices.Equal(missing, []queue.NotifierID{unknown}) {
		t.Errorf("unknown: %v", missing)
	}
	if byService, missing, err := f.NotifierServices(t.Context(), nil); len(byService) != 0 || len(missing) != 0 || err != nil {
		t.Errorf("of none: %v, %v, %v", byService, missing, err)
	}
}

// Whatever is changed in the name of an administrator is announced.
func TestServicesAnnounced(t *testing.T) {
	f := newFixture(t, 1<<20)
	admin := openStore(t, store.Options{Config: f.config, Admin: "tester"})
	q := f.add(t, newRecord())
	service := f.addService(t, queue.RoleMessaging)
	theirs, err := admin.QueueByRecipient(t.Context(), q.ID())
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range admin.SetServices(t.Context(), []*store.Queue{theirs}, queue.PartyRecipient, service) {
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		found, err := f.QueueByRecipient(ctx, q.ID())
		if err == nil && view(t, found).RcvService == service {
			return
		}
	}
	t.Error("the router has not heard of it")
}

// Associations with services are in the store log as well.
//
// contract: QS-18
func TestServicesLogged(t *testing.T) {
	log := filepath.Join(t.TempDir(), "store.log")
	f := newFixture(t, 0)
	f.Store = openStore(t, store.Options{Config: f.config, StoreLog: log})
	service := f.addService(t, queue.RoleMessaging)
	one, many := f.add(t, newRecord()), f.add(t, newRecord())
	if err := f.SetService(t.Context(), one, queue.PartyRecipient, service); err != nil {
		t.Fatal(err)
	}
	for _, err := range f.SetServices(t.Context(), []*store.Queue{one, many}, queue.PartyRecipient, service) {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"NEW_SERVICE", "CREATE", "CREATE", "QUEUE_SERVICE", "QUEUE_SERVICE"}
	if got := logTags(t, log); !slices.Equal(got, want) {
		t.Errorf("store log has %v, want %v", got, want)
	}
}

// Schemas that keep no aggregates have the same answers.
//
// contract: QS-20
func TestServiceQueuesWithoutAggregates(t *testing.T) {
	c := store.Config{DSN: pgtest.DSN(t), Schema: schemaName, Application: "smpq test"}
	conn := pgtest.Conn(t, c.DSN)
	if _, err := schema.Migrate(t.Context(), conn, c.Schema, schema.StoreMessages, schema.Options{}); err != nil {
		t.Fatal(err)
	}
	f := fixture{openStore(t, store.Options{Config: c, CacheSize: 1 << 20}), c, conn}
	receiver, notifying := f.addService(t, queue.RoleMessaging), f.addService(t, queue.RoleNotifier)
	f.wantQueues(t, receiver, queue.PartyRecipient)
	_, err := f.ServiceQueues(t.Context(), receiver, queue.PartyNotifier)
	wantError(t, err, store.CodeAuth, store.ErrNoService)
	r := fullRecord()
	q := f.add(t, r)
	for party, id := range map[queue.Party]queue.ServiceID{queue.PartyRecipient: receiver, queue.PartyNotifier: notifying} {
		if err := f.SetService(t.Context(), q, party, id); err != nil {
			t.Fatal(err)
		}
	}
	f.wantQueues(t, receiver, queue.PartyRecipient, r.RecipientID.Bytes())
	f.wantQueues(t, notifying, queue.PartyNotifier, r.Notifier.ID.Bytes())
}
