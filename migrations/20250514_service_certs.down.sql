drop index idx_msg_queues_ntf_service_id;
drop index idx_msg_queues_rcv_service_id;

alter table msg_queues
  drop column ntf_service_id,
  drop column rcv_service_id;

drop index idx_services_service_role;
drop table services;
