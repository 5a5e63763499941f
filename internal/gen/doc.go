// Package gen writes synthetic store logs: as many queues as one asks for, with
// the mix of records that the log of a real router has, the same bytes for the
// same options.
//
// Everything about a queue, its ids and keys as well as what happens to it, is
// drawn from a random stream that starts from the seed and the number of the
// queue. So a queue can be forgotten when its line is written, and drawn again
// when something happens to it later: the memory needed does not depend on the
// length of the log.
//
// A log is a sequence of slots. Each has the CREATE of one queue and the later
// records of queues that were created in one of the slots before, so that the
// lives of many queues overlap, as they do in a router.
//
// The lines are put together here and not by the package storelog, of which
// they are a test: half of them are in forms that it reads but does not write.
package gen
