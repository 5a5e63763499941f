drop trigger tr_queue_update on msg_queues;
drop trigger tr_queue_delete on msg_queues;
drop trigger tr_queue_insert on msg_queues;

drop function on_queue_update;
drop function on_queue_delete;
drop function on_queue_insert;
drop function update_aggregates;
drop function update_all_aggregates;

alter table services
  drop column queue_count,
  drop column queue_ids_hash;

drop aggregate xor_aggregate(bytea);
drop function xor_combine;
