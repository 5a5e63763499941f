drop procedure expire_old_messages;
drop function delete_expired_msgs;
drop function try_del_peek_msg;
drop function try_del_msg;
drop function write_message;

create index idx_msg_queues_updated_at on msg_queues (deleted_at, updated_at);
drop index idx_msg_queues_updated_at_recipient_id;

alter table msg_queues
  drop column msg_can_write,
  drop column msg_queue_expire,
  drop column msg_queue_size;

drop index idx_messages_recipient_id_message_id;
drop index idx_messages_recipient_id_msg_ts;
drop index idx_messages_recipient_id_msg_quota;
drop table messages;
