-- Messages move into the database. Each queue row carries the state of its
-- messages: whether senders may write (false from the message that exceeded the
-- quota until the queue is drained), whether there may be messages to expire,
-- and how many messages there are, quota markers included.
--
-- Every function locks the queue's row before it looks at the queue's messages,
-- so that two sessions never work on one queue at a time. A soft-deleted queue
-- has no messages to these functions.

create table messages (
  message_id bigint generated always as identity,
  recipient_id bytea not null
    references msg_queues (recipient_id) on update restrict on delete cascade,
  msg_id bytea not null,
  msg_ts bigint not null,
  msg_quota boolean not null,
  msg_ntf_flag boolean not null,
  msg_body bytea not null,
  primary key (message_id)
);

create index idx_messages_recipient_id_message_id on messages (recipient_id, message_id);
create index idx_messages_recipient_id_msg_ts on messages (recipient_id, msg_ts);
create index idx_messages_recipient_id_msg_quota on messages (recipient_id, msg_quota);

alter table msg_queues
  add column msg_can_write boolean not null default true,
  add column msg_queue_expire boolean not null default false,
  add column msg_queue_size bigint not null default 0;

create index idx_msg_queues_updated_at_recipient_id
  on msg_queues (deleted_at, updated_at, msg_queue_expire, recipient_id);
drop index idx_msg_queues_updated_at;

-- write_message appends a message, or a quota marker in its place when the queue
-- is full. No row: the queue is closed to senders, or does not exist.
create function write_message(
  p_recipient_id bytea,
  p_msg_id bytea,
  p_msg_ts bigint,
  p_msg_quota boolean,
  p_msg_ntf_flag boolean,
  p_msg_body bytea,
  p_quota integer
)
returns table (quota_written boolean, was_empty boolean)
language plpgsql
as $function$
declare
  queue record;
begin
  select q.msg_can_write as open, q.msg_queue_size as size
    into queue
    from msg_queues q
   where q.recipient_id = p_recipient_id and q.deleted_at is null
     for update;

  if not found or not (queue.open or queue.size = 0) then
    return;
  end if;

  was_empty := queue.size = 0;
  quota_written := p_msg_quota or queue.size >= p_quota;

  insert into messages (recipient_id, msg_id, msg_ts, msg_quota, msg_ntf_flag, msg_body)
  select p_recipient_id, p_msg_id, p_msg_ts, quota_written,
         p_msg_ntf_flag and not quota_written,
         case when quota_written then ''::bytea else p_msg_body end;

  update msg_queues q
     set msg_can_write = not quota_written,
         msg_queue_expire = true,
         msg_queue_size = q.msg_queue_size + 1
   where q.recipient_id = p_recipient_id;

  return next;
end
$function$;

-- try_del_msg deletes the oldest message if it is the given one, and returns it.
-- A queue that counts messages but has none is put right on the way.
create function try_del_msg(p_recipient_id bytea, p_msg_id bytea)
returns table (
  r_msg_id bytea,
  r_msg_ts bigint,
  r_msg_quota boolean,
  r_msg_ntf_flag boolean,
  r_msg_body bytea
)
language plpgsql
as $function$
declare
  queue record;
  head record;
begin
  select q.msg_queue_size as size
    into queue
    from msg_queues q
   where q.recipient_id = p_recipient_id and q.deleted_at is null
     for update;

  if not found then
    return;
  end if;

  select m.*
    into head
    from messages m
   where m.recipient_id = p_recipient_id
   order by m.message_id
   limit 1;

  if not found then
    update msg_queues q
       set msg_can_write = true, msg_queue_expire = false, msg_queue_size = 0
     where q.recipient_id = p_recipient_id and queue.size <> 0;
    return;
  end if;

  delete from messages m
   where m.message_id = head.message_id and m.msg_id = p_msg_id;

  if found then
    update msg_queues q
       set msg_can_write = q.msg_can_write or q.msg_queue_size <= 1,
           msg_queue_expire = q.msg_queue_size > 1,
           msg_queue_size = greatest(q.msg_queue_size - 1, 0)
     where q.recipient_id = p_recipient_id;

    return query
    select head.msg_id, head.msg_ts, head.msg_quota, head.msg_ntf_flag, head.msg_body;
  end if;
end
$function$;

-- try_del_peek_msg deletes the oldest message if it is the given one, and returns
-- the deleted message, if any, and after it the oldest one that is left, if any.
create function try_del_peek_msg(p_recipient_id bytea, p_msg_id bytea)
returns table (
  r_msg_id bytea,
  r_msg_ts bigint,
  r_msg_quota boolean,
  r_msg_ntf_flag boolean,
  r_msg_body bytea
)
language plpgsql
as $function$
declare
  queue record;
  head record;
  deleted boolean := false;
  left_over boolean;
begin
  select q.msg_queue_size as size
    into queue
    from msg_queues q
   where q.recipient_id = p_recipient_id and q.deleted_at is null
     for update;

  if not found then
    return;
  end if;

  select m.*
    into head
    from messages m
   where m.recipient_id = p_recipient_id
   order by m.message_id
   limit 1;
  left_over := found;

  if head.msg_id = p_msg_id then
    delete from messages m where m.message_id = head.message_id;
    deleted := found;

    if deleted then
      return query
      select head.msg_id, head.msg_ts, head.msg_quota, head.msg_ntf_flag, head.msg_body;
    end if;

    select m.*
      into head
      from messages m
     where m.recipient_id = p_recipient_id
     order by m.message_id
     limit 1;
    left_over := found;
  end if;

  if left_over then
    return query
    select head.msg_id, head.msg_ts, head.msg_quota, head.msg_ntf_flag, head.msg_body;

    update msg_queues q
       set msg_can_write = q.msg_can_write or q.msg_queue_size <= 1,
           msg_queue_expire = q.msg_queue_size > 1,
           msg_queue_size = greatest(q.msg_queue_size - 1, 0)
     where q.recipient_id = p_recipient_id and deleted;
  else
    update msg_queues q
       set msg_can_write = true, msg_queue_expire = false, msg_queue_size = 0
     where q.recipient_id = p_recipient_id and (deleted or queue.size <> 0);
  end if;
end
$function$;

-- delete_expired_msgs deletes the messages that are older than p_old_ts (Unix
-- seconds) and in front of all that are not, and returns their number. It leaves
-- quota markers, and a queue that another session is using.
create function delete_expired_msgs(p_recipient_id bytea, p_old_ts bigint)
returns bigint
language plpgsql
as $function$
declare
  queue record;
  keep bigint;
  expired bigint;
begin
  select q.msg_queue_size as size
    into queue
    from msg_queues q
   where q.recipient_id = p_recipient_id and q.deleted_at is null
     for update skip locked;

  if not found or queue.size = 0 then
    return 0;
  end if;

  select min(m.message_id)
    into keep
    from messages m
   where m.recipient_id = p_recipient_id and not m.msg_quota and m.msg_ts >= p_old_ts;

  delete from messages m
   where m.recipient_id = p_recipient_id
     and not m.msg_quota
     and (keep is null or m.message_id < keep);
  get diagnostics expired = row_count;

  update msg_queues q
     set msg_can_write = q.msg_can_write or q.msg_queue_size <= expired,
         msg_queue_expire = q.msg_queue_size > expired and keep is not null,
         msg_queue_size = greatest(q.msg_queue_size - expired, 0)
   where q.recipient_id = p_recipient_id and expired > 0;

  return expired;
end
$function$;

-- expire_old_messages applies delete_expired_msgs to the live queues that were
-- changed after p_old_queue (Unix seconds) and may have messages to expire. It
-- commits after each queue, so it cannot be called in a transaction. A queue that
-- fails is left with a warning.
create procedure expire_old_messages(
  in p_old_queue bigint,
  in p_old_ts bigint,
  in batch_size integer,
  out r_expired_msgs_count bigint,
  out r_stored_msgs_count bigint,
  out r_stored_queues bigint
)
language plpgsql
as $procedure$
declare
  batch bytea[];
  id bytea := '';
begin
  r_expired_msgs_count := 0;

  loop
    batch := array(
      select q.recipient_id
        from msg_queues q
       where q.deleted_at is null
         and q.updated_at > p_old_queue
         and q.msg_queue_expire
         and q.recipient_id > id
       order by q.recipient_id
       limit batch_size
    );
    exit when cardinality(batch) = 0;

    foreach id in array batch loop
      begin
        r_expired_msgs_count := r_expired_msgs_count + delete_expired_msgs(id, p_old_ts);
      exception when others then
        raise warning 'expire_old_messages: queue %: %', encode(id, 'base64'), sqlerrm;
        continue;
      end;
      commit;
    end loop;
  end loop;

  select count(*) into r_stored_msgs_count from messages;
  select count(*) into r_stored_queues from msg_queues q where q.deleted_at is null;
end
$procedure$;
