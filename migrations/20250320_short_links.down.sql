-- Link data and the contact mode have no place in the older table and are lost.
-- A queue with several recipient keys has none either, and nothing tells which
-- key could go: such a queue stops the migration.

do $check$
declare
  several bytea;
begin
  select q.recipient_id into several
    from msg_queues q
   where length(q.recipient_keys) < 2
      or get_byte(q.recipient_keys, 0) <> 1
      or get_byte(q.recipient_keys, 1) <> length(q.recipient_keys) - 2
   limit 1;
  if found then
    raise exception 'queue % does not have exactly one recipient key',
      translate(encode(several, 'base64'), '+/', '-_');
  end if;
end
$check$;

alter table msg_queues add column snd_secure boolean not null default false;

update msg_queues
   set snd_secure = queue_mode is not distinct from 'M',
       recipient_keys = substring(recipient_keys from 3);

alter table msg_queues rename column recipient_keys to recipient_key;

drop index idx_msg_queues_link_id;
alter table msg_queues
  drop column queue_mode,
  drop column link_id,
  drop column fixed_data,
  drop column user_data;
