-- Short links: a queue may have a link id and two parts of link data. The mode
-- of a queue (M messaging, C contact, null unknown) takes the place of
-- snd_secure, and a queue may have several recipient keys: one byte with their
-- number, then each key behind one byte with its length.

alter table msg_queues
  add column queue_mode text,
  add column link_id bytea,
  add column fixed_data bytea,
  add column user_data bytea;

update msg_queues
   set queue_mode = case when snd_secure then 'M' end,
       recipient_key = set_byte('\x0100', 1, length(recipient_key)) || recipient_key;

alter table msg_queues drop column snd_secure;
alter table msg_queues rename column recipient_key to recipient_keys;

create unique index idx_msg_queues_link_id on msg_queues (link_id);
