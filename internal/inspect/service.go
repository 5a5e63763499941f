package inspect

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/store"
)

// A ServiceReport is what the database has of one service.
type ServiceReport struct {
	ID        queue.ServiceID `json:"service_id"`
	Role      string          `json:"role"`       // "messaging", "notifier" or "proxy"
	CreatedAt string          `json:"created_at"` // a day

	// CertHash is the fingerprint of the identity certificate.
	CertHash     string        `json:"certificate_hash"`
	Certificates []Certificate `json:"certificates"` // the leaf first

	// The live queues that are associated with the service, counted.
	RcvQueues int64 `json:"receiving_queues"` // as their receiving service
	NtfQueues int64 `json:"notifier_queues"`  // as their notifier service

	// Stored is the number and the hash of the queues of the service in its role
	// as the table has them; absent: the schema keeps none. Counted is what they
	// should be.
	Stored  *Aggregate `json:"stored,omitempty"`
	Counted *Aggregate `json:"counted,omitempty"`

	// Problems are what is wrong with the service, in words.
	Problems []string `json:"problems,omitempty"`
}

// An Aggregate stands for a set of queues.
type Aggregate struct {
	Queues  int64  `json:"queues"`
	IDsHash string `json:"ids_hash"` // XOR of the MD5 digests of the ids, in hex
}

// A Certificate is a certificate of a chain. One that cannot be parsed has only
// its fingerprint.
type Certificate struct {
	SHA256    string `json:"sha256"` // base64url
	Subject   string `json:"subject,omitempty"`
	NotBefore string `json:"not_before,omitempty"`
	NotAfter  string `json:"not_after,omitempty"`
}

// Services reports on all services, in the order in which they are stored.
func Services(ctx context.Context, conn *pgx.Conn, s store.Schema) ([]ServiceReport, error) {
	reports := []ServiceReport{}
	err := store.Snapshot(ctx, conn, func(q store.Querier) error {
		services, err := store.Services(ctx, q, s)
		if err != nil {
			return err
		}
		queues, err := store.CountServiceQueues(ctx, q, s)
		if err != nil {
			return err
		}
		for _, sv := range services {
			reports = append(reports, newServiceReport(sv, queues[sv.ID], s.HasAggregates()))
		}
		return nil
	})
	return reports, err
}

// Service reports on one service; without one it is ErrNotFound.
func Service(ctx context.Context, conn *pgx.Conn, s store.Schema, id queue.ServiceID) (ServiceReport, error) {
	reports, err := Services(ctx, conn, s)
	if err != nil {
		return ServiceReport{}, err
	}
	for _, r := range reports {
		if r.ID == id {
			return r, nil
		}
	}
	return ServiceReport{}, fmt.Errorf("service %s: %w among the %s of schema %q",
		id, ErrNotFound, plural(int64(len(reports)), "service"), s.Name)
}

func newServiceReport(sv store.ServiceRow, queues store.ServiceQueues, aggregates bool) ServiceReport {
	r := ServiceReport{
		ID:        sv.ID,
		Role:      sv.Role.String(),
		CreatedAt: formatDate(queue.DateOf(sv.CreatedAt)),
		CertHash:  base64.URLEncoding.EncodeToString(sv.CertHash),
		RcvQueues: queues.Rcv.Count,
		NtfQueues: queues.Ntf.Count,
	}
	for _, der := range sv.CertChain {
		r.Certificates = append(r.Certificates, newCertificate(der))
	}
	if !bytes.Equal(sv.CertHash, sv.CertChain.IdentityHash()) {
		r.problem("the certificate hash is not that of the identity certificate")
	}
	own := store.Aggregate{}
	switch sv.Role {
	case queue.RoleMessaging:
		own = queues.Rcv
		r.wrongRole(queues.Ntf.Count, "notifier")
	case queue.RoleNotifier:
		own = queues.Ntf
		r.wrongRole(queues.Rcv.Count, "receiving")
	case queue.RoleProxy:
		r.wrongRole(queues.Rcv.Count, "receiving")
		r.wrongRole(queues.Ntf.Count, "notifier")
	}
	if aggregates {
		r.Stored, r.Counted = newAggregate(sv.Queues), newAggregate(own)
		if sv.Queues != own {
			r.problem(fmt.Sprintf("the table has another number or hash of queues than the %s that there are", plural(own.Count, "queue")))
		}
	}
	return r
}

func (r *ServiceReport) problem(text string) { r.Problems = append(r.Problems, text) }

// wrongRole notes queues for which the service acts in another role than its own.
func (r *ServiceReport) wrongRole(n int64, as string) {
	if n > 0 {
		r.problem(fmt.Sprintf("%s have it as %s service, which is not its role", plural(n, "queue"), as))
	}
}

func newAggregate(a store.Aggregate) *Aggregate {
	return &Aggregate{Queues: a.Count, IDsHash: hex.EncodeToString(a.IDsHash[:])}
}

func newCertificate(der []byte) Certificate {
	sum := sha256.Sum256(der)
	c := Certificate{SHA256: base64.URLEncoding.EncodeToString(sum[:])}
	if cert, err := x509.ParseCertificate(der); err == nil {
		c.Subject = cert.Subject.String()
		c.NotBefore = cert.NotBefore.UTC().Format(time.RFC3339)
		c.NotAfter = cert.NotAfter.UTC().Format(time.RFC3339)
	}
	return c
}
