package importer

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/jackc/pgx/v5"

	"github.com/smpq/smpq/internal/schema"
	"github.com/smpq/smpq/internal/store"
	"github.com/smpq/smpq/internal/storelog"
)

// merge imports into a schema that has data. A dry run does it all, and is rolled
// back.
func (im *importing) merge(ctx context.Context, tx pgx.Tx, log *storelog.State) error {
	s, err := store.OpenSchema(ctx, tx, im.o.Schema)
	if err != nil {
		return err
	}
	if err := limitWaiting(ctx, tx); err != nil {
		return err
	}
	m, err := store.NewMerge(ctx, tx, s)
	if err != nil {
		return err
	}
	im.o.Progress.Phase("copying queues", im.expected(log), "queues")
	copied, err := store.CopyQueues(ctx, tx, m.Target(), log.DrainQueues(ctx), im.o.Progress.Add)
	if err != nil {
		return err
	}
	im.res.Queues, im.res.Checksum = copied.Rows, copied.String()
	if !im.o.SkipVerify {
		im.o.Progress.Phase("verifying the copy", 0, "queues")
		have, err := m.Checksum(ctx)
		if err != nil {
			return err
		}
		if have != copied.Checksum {
			return fmt.Errorf("%w: queues in the log: %s; copied: %s", ErrDifferent, copied.Checksum, have)
		}
	}
	im.o.Progress.Phase("merging", 0, "queues")
	addedServices, err := im.mergeServices(ctx, m, log)
	if err != nil {
		return err
	}
	im.res.Present, err = m.Compare(ctx, func(c store.Conflict) error {
		return im.rejects.reject("queue "+c.Queue.RecipientID.String(), c.Reason, storelog.AppendQueue(nil, &c.Queue), true)
	})
	if err != nil {
		return err
	}
	if im.res.Added, err = m.Insert(ctx); err != nil {
		return err
	}
	im.res.Unchanged = im.res.Added == 0 && im.rejects.conflicts == 0 && addedServices == 0
	if err := im.verifyMerge(ctx, m, tx, s); err != nil {
		return err
	}
	if im.o.DryRun || im.res.Unchanged {
		return nil
	}
	return store.Analyze(ctx, tx, s)
}

// mergeServices adds services and returns how many are new.
func (im *importing) mergeServices(ctx context.Context, m *store.Merge, log *storelog.State) (added int, err error) {
	matches, err := m.Services(ctx, log.Services())
	if err != nil {
		return 0, err
	}
	for _, match := range matches {
		sv := match.Service
		switch {
		case match.Refused != "":
			text := storelog.Append(nil, &storelog.NewService{Service: sv})
			reason := fmt.Sprintf("%s; %d associations of queues are left out", match.Refused, match.Queues)
			if err := im.rejects.reject("service "+sv.ID.String(), reason, text, true); err != nil {
				return 0, err
			}
		case match.Known.IsZero():
			added++
		case match.Known != sv.ID:
			im.o.Log.InfoContext(ctx, "the schema has a service of the log under another id; its queues get that id")
			im.o.Log.DebugContext(ctx, "service", slog.String("log", sv.ID.String()), slog.String("schema", match.Known.String()))
		}
	}
	return added, nil
}

func (im *importing) verifyMerge(ctx context.Context, m *store.Merge, q store.Querier, s store.Schema) error {
	if im.o.SkipVerify {
		return nil
	}
	missing, err := m.Missing(ctx)
	if err != nil {
		return err
	}
	if missing > 0 {
		return fmt.Errorf("%w: %d queues of the log are not in schema %s", ErrDifferent, missing, schema.Quote(im.o.Schema))
	}
	wrong, err := store.WrongAggregates(ctx, q, s)
	if err != nil {
		return err
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%w: service %s has a wrong number or hash of queues", ErrDifferent, wrong[0])
	}
	im.res.Verified = true
	return nil
}
