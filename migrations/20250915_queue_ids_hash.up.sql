-- Each service knows the number of its queues, and the XOR of the MD5 digests of
-- their ids: recipient ids for a messaging service (role M), notifier ids for a
-- notifier service (role N). Triggers keep both in step with msg_queues.

create or replace function xor_combine(state bytea, value bytea)
returns bytea
language plpgsql
immutable strict
as $function$
declare
  combined bytea := state;
begin
  if length(state) <> length(value) then
    raise exception 'xor_combine: % bytes and % bytes', length(state), length(value);
  end if;

  for i in 0 .. length(state) - 1 loop
    combined := set_byte(combined, i, get_byte(state, i) # get_byte(value, i));
  end loop;
  return combined;
end
$function$;

create or replace aggregate xor_aggregate(bytea) (
  sfunc = xor_combine,
  stype = bytea,
  initcond = '\x00000000000000000000000000000000'
);

alter table services
  add column queue_count bigint not null default 0,
  add column queue_ids_hash bytea not null
    default '\x00000000000000000000000000000000';

-- update_all_aggregates counts anew for each service that has queues; a service
-- without queues is left as it is.
create function update_all_aggregates()
returns void
language plpgsql
as $function$
begin
  update services s
     set queue_count = a.queue_count, queue_ids_hash = a.queue_ids_hash
    from (
      select q.rcv_service_id as service_id,
             count(*) as queue_count,
             xor_aggregate(decode(md5(q.recipient_id), 'hex')) as queue_ids_hash
        from msg_queues q
       where q.deleted_at is null and q.rcv_service_id is not null
       group by q.rcv_service_id
    ) a
   where s.service_role = 'M' and s.service_id = a.service_id;

  update services s
     set queue_count = a.queue_count, queue_ids_hash = a.queue_ids_hash
    from (
      select q.ntf_service_id as service_id,
             count(*) as queue_count,
             xor_aggregate(decode(md5(coalesce(
               q.notifier_id, '\x00000000000000000000000000000000'
             )), 'hex')) as queue_ids_hash
        from msg_queues q
       where q.deleted_at is null and q.ntf_service_id is not null
       group by q.ntf_service_id
    ) a
   where s.service_role = 'N' and s.service_id = a.service_id;
end
$function$;

select update_all_aggregates();

-- update_aggregates adds a queue to a service (p_change 1) or takes it away (-1).
-- A service that does not have the role is left alone.
create function update_aggregates(
  p_service_id bytea,
  p_role text,
  p_queue_id bytea,
  p_change bigint
)
returns void
language plpgsql
as $function$
begin
  update services s
     set queue_count = s.queue_count + p_change,
         queue_ids_hash = xor_combine(s.queue_ids_hash, decode(md5(p_queue_id), 'hex'))
   where s.service_id = p_service_id and s.service_role = p_role;
end
$function$;

create function on_queue_insert()
returns trigger
language plpgsql
as $function$
begin
  if new.rcv_service_id is not null then
    perform update_aggregates(new.rcv_service_id, 'M', new.recipient_id, 1);
  end if;
  if new.ntf_service_id is not null and new.notifier_id is not null then
    perform update_aggregates(new.ntf_service_id, 'N', new.notifier_id, 1);
  end if;
  return null;
end
$function$;

create function on_queue_delete()
returns trigger
language plpgsql
as $function$
begin
  if old.deleted_at is not null then
    return null;
  end if;
  if old.rcv_service_id is not null then
    perform update_aggregates(old.rcv_service_id, 'M', old.recipient_id, -1);
  end if;
  if old.ntf_service_id is not null and old.notifier_id is not null then
    perform update_aggregates(old.ntf_service_id, 'N', old.notifier_id, -1);
  end if;
  return null;
end
$function$;

-- A queue counts for a service while it is live and associated with it. What it
-- counted for before the update is taken away and what it counts for after it is
-- added, unless the two are the same.
create function on_queue_update()
returns trigger
language plpgsql
as $function$
declare
  rcv_old boolean := old.deleted_at is null and old.rcv_service_id is not null;
  rcv_new boolean := new.deleted_at is null and new.rcv_service_id is not null;
  rcv_same boolean := rcv_old and rcv_new
    and old.rcv_service_id = new.rcv_service_id;
  ntf_old boolean := old.deleted_at is null
    and old.ntf_service_id is not null and old.notifier_id is not null;
  ntf_new boolean := new.deleted_at is null
    and new.ntf_service_id is not null and new.notifier_id is not null;
  ntf_same boolean := ntf_old and ntf_new
    and old.ntf_service_id = new.ntf_service_id and old.notifier_id = new.notifier_id;
begin
  if rcv_old and not rcv_same then
    perform update_aggregates(old.rcv_service_id, 'M', old.recipient_id, -1);
  end if;
  if rcv_new and not rcv_same then
    perform update_aggregates(new.rcv_service_id, 'M', new.recipient_id, 1);
  end if;
  if ntf_old and not ntf_same then
    perform update_aggregates(old.ntf_service_id, 'N', old.notifier_id, -1);
  end if;
  if ntf_new and not ntf_same then
    perform update_aggregates(new.ntf_service_id, 'N', new.notifier_id, 1);
  end if;
  return null;
end
$function$;

create trigger tr_queue_insert
  after insert on msg_queues
  for each row execute function on_queue_insert();

create trigger tr_queue_delete
  after delete on msg_queues
  for each row execute function on_queue_delete();

create trigger tr_queue_update
  after update on msg_queues
  for each row execute function on_queue_update();
