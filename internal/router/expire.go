package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/smpq/smpq/internal/store"
)

// expire removes what is too old. Whatever fails is tried again the next time.
func (r *Router) expire() {
	if err := r.Expire(r.stopping); err != nil && r.stopping.Err() == nil {
		r.log.LogAttrs(r.stopping, slog.LevelWarn, "not all could be expired", slog.Any("error", err))
	}
}

// Expire removes queues that were deleted long ago, and old messages, as the router
// does by itself every ExpireInterval. It may be called before the router serves.
func (r *Router) Expire(ctx context.Context) error {
	now := r.o.Now()
	removed, purging := r.store.PurgeDeleted(ctx, now.Add(-r.o.DeletedTTL).Unix())
	if purging != nil {
		purging = fmt.Errorf("remove deleted queues: %w", purging)
	}
	expired, expiring := r.store.ExpireMessages(ctx, store.ExpireOptions{Before: now.Add(-r.o.MessageTTL).Unix(), Batch: r.o.ExpireBatch})
	if expiring != nil {
		expiring = fmt.Errorf("expire messages: %w", expiring)
	}
	r.counters.MsgExpired.Add(expired.Messages)
	r.log.LogAttrs(ctx, slog.LevelInfo, "expired",
		slog.Int64("messages", expired.Messages), slog.Int64("queues", expired.Queues), slog.Int64("deleted_queues", removed.Queues))
	return errors.Join(purging, expiring)
}
