// Package stats keeps the statistics of a router as smp-server has them: what was done
// since a time, which is the start of the day where a line is written for each day.
//
//	smp-server-stats.daily.log  a line for each day, comma-separated, without header
//	smp-server-stats.log        the counters while the router does not run
//	smp-server-metrics.txt      metrics in the text format of Prometheus
//
// The router itself counts from its start on and is never reset. So nothing is lost
// where one day ends and the next one begins: a report has the difference to what the
// counters were when it began.
package stats
