create index idx_msg_queues_deleted_at on msg_queues (deleted_at);
drop index idx_msg_queues_updated_at;
