-- Expiry looks for live queues by the day of their last change.

create index idx_msg_queues_updated_at on msg_queues (deleted_at, updated_at);
drop index idx_msg_queues_deleted_at;
