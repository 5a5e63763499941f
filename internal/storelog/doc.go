// Package storelog reads, writes and replays the store log, the append-only
// text file in which a router in memory mode keeps its queues and services.
//
// The log has one record a line; every line ends with LF. There is no header,
// no checksum and no comment. The first word is the tag:
//
//	CREATE rid=… rk=… rdh=… sid=… sk=… …    a queue with all its fields
//	LINK recipient-id link-id fixed user   its short link with data
//	LDELETE recipient-id                   the link is removed
//	SECURE recipient-id key                the sender's key
//	KEYS recipient-id key,key…             other recipient keys
//	NOTIFIER recipient-id id key secret    notifier credentials
//	NDELETE recipient-id                   they are removed
//	SUSPEND, BLOCK, UNBLOCK recipient-id   the status
//	TIME recipient-id seconds              the day of the last use
//	DELETE recipient-id                    the queue is removed
//	NEW_SERVICE service_id=… role=… …      a service
//	QUEUE_SERVICE recipient-id R|N id      its association with a queue
//
// [Parse] and [Append] handle one line, and [Replay] computes what a router holds
// after it has read the whole log.
package storelog
