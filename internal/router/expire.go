package router

import (
	"log/slog"

	"github.com/smpq/smpq/internal/store"
)

// expire removes queues that were deleted long ago, and old messages. Whatever fails
// is tried again the next time.
func (r *Router) expire() {
	now := r.o.Now()
	removed, err := r.store.PurgeDeleted(r.stopping, now.Add(-r.o.DeletedTTL).Unix())
	if err != nil && r.stopping.Err() == nil {
		r.log.LogAttrs(r.stopping, slog.LevelWarn, "deleted queues cannot be removed", slog.Any("error", err))
	}
	expired, err := r.store.ExpireMessages(r.stopping, store.ExpireOptions{Before: now.Add(-r.o.MessageTTL).Unix(), Batch: r.o.ExpireBatch})
	r.counters.MsgExpired.Add(expired.Messages)
	if err != nil && r.stopping.Err() == nil {
		r.log.LogAttrs(r.stopping, slog.LevelWarn, "messages cannot be expired", slog.Any("error", err))
	}
	r.log.LogAttrs(r.stopping, slog.LevelInfo, "expired",
		slog.Int64("messages", expired.Messages), slog.Int64("queues", expired.Queues), slog.Int64("deleted_queues", removed.Queues))
}
