-- The queue table in its first form: one recipient key per queue, sender key
-- required or not by snd_secure.

create table msg_queues (
  recipient_id bytea not null,
  recipient_key bytea not null,
  rcv_dh_secret bytea not null,
  sender_id bytea not null,
  sender_key bytea,
  snd_secure boolean not null,
  notifier_id bytea,
  notifier_key bytea,
  rcv_ntf_dh_secret bytea,
  status text not null,
  updated_at bigint,
  deleted_at bigint,
  primary key (recipient_id)
);

create unique index idx_msg_queues_sender_id on msg_queues (sender_id);
create unique index idx_msg_queues_notifier_id on msg_queues (notifier_id);
create index idx_msg_queues_deleted_at on msg_queues (deleted_at);
