package router

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"log/slog"
	"maps"
	"os"

	"github.com/smpq/smpq/internal/atomicfile"
	"github.com/smpq/smpq/internal/ntflog"
	"github.com/smpq/smpq/internal/queue"
	"github.com/smpq/smpq/internal/smp"
)

// maxLineReports is how many lines that cannot be read are named in the log of the
// router.
const maxLineReports = 10

// restoreNotifications reads the notification log, if there is one, and writes it anew
// without what is too old or cannot be read. The old one stays under another name.
func (r *Router) restoreNotifications() error {
	name := r.o.NotificationLog
	if name == "" {
		return nil
	}
	ctx := context.Background()
	f, err := os.Open(name) //nolint:gosec // the operator names it
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		err := r.readNotifications(ctx, f)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		if err := atomicfile.SetAside(name); err != nil {
			return err
		}
	}
	if err := r.writeNotifications(); err != nil { // there may be room for them later
		r.log.LogAttrs(ctx, slog.LevelError, "notifications cannot be saved", slog.Any("error", err))
	}
	return nil
}

// readNotifications takes over the notifications of a log.
func (r *Router) readNotifications(ctx context.Context, f *os.File) error {
	before := r.o.Now().Add(-r.o.NotificationTTL).Unix()
	expired, unreadable := 0, 0
	n := &r.notifications
	n.mu.Lock()
	defer n.mu.Unlock()
	for record, err := range ntflog.Read(f) {
		if line, ok := errors.AsType[*ntflog.LineError](err); ok {
			if unreadable++; unreadable <= maxLineReports {
				r.log.LogAttrs(ctx, slog.LevelWarn, "a saved notification cannot be read, and is lost",
					slog.String("file", r.o.NotificationLog), slog.Int64("line", line.Line), slog.Any("error", line.Err))
			}
			continue
		}
		if err != nil {
			return err
		}
		if record.Time < before {
			expired++
			continue
		}
		r.keep(record.Notifier, notification{record.Time, record.Message, &smp.NMSG{Nonce: record.Nonce, Meta: record.Meta}})
	}
	r.counters.MsgNtfExpired.Add(int64(expired))
	r.log.LogAttrs(ctx, slog.LevelInfo, "notifications were restored",
		slog.Int("notifications", n.count), slog.Int("expired", expired), slog.Int("unreadable", unreadable))
	return nil
}

// saveNotifications writes the notification log if it has changed.
func (r *Router) saveNotifications() {
	n := &r.notifications
	n.mu.Lock()
	dirty := n.dirty
	n.mu.Unlock()
	if !dirty {
		return
	}
	if err := r.writeNotifications(); err != nil {
		r.log.LogAttrs(r.stopping, slog.LevelError, "notifications cannot be saved", slog.Any("error", err))
	}
}

// writeNotifications writes the notification log.
func (r *Router) writeNotifications() (err error) {
	n := &r.notifications
	n.saving.Lock()
	defer n.saving.Unlock()
	n.mu.Lock()
	lists := maps.Clone(n.lists) // what is in a list does not change any more
	n.dirty = false
	n.mu.Unlock()
	defer func() {
		if err != nil {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.dirty = true
		}
	}()
	f, err := atomicfile.Create(r.o.NotificationLog)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := ntflog.Write(f, records(lists)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Replace()
}

// records returns notifications as the log has them, the oldest first for each notifier.
func records(lists map[queue.NotifierID][]notification) iter.Seq[ntflog.Record] {
	return func(yield func(ntflog.Record) bool) {
		for id, list := range lists {
			for _, one := range list {
				if !yield(ntflog.Record{Notifier: id, Message: one.message, Time: one.at, Nonce: one.event.Nonce, Meta: one.event.Meta}) {
					return
				}
			}
		}
	}
}
