-- Services: clients with a long-term certificate that own many queues, as their
-- recipient or as their notifier.

create table services (
  service_id bytea not null,
  service_role text not null,
  service_cert bytea not null,
  service_cert_hash bytea not null,
  created_at bigint not null,
  primary key (service_id),
  unique (service_cert_hash)
);

create index idx_services_service_role on services (service_role);

alter table msg_queues
  add column rcv_service_id bytea
    references services (service_id) on update restrict on delete set null,
  add column ntf_service_id bytea
    references services (service_id) on update restrict on delete set null;

create index idx_msg_queues_rcv_service_id on msg_queues (rcv_service_id, deleted_at);
create index idx_msg_queues_ntf_service_id on msg_queues (ntf_service_id, deleted_at);
