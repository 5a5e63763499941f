drop table msg_queues;
