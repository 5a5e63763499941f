package config

// DefaultDailyBlockQuota is what the router uses if the section [AUTH] lacks
// daily_block_queue_quota.
const DefaultDailyBlockQuota = 20

// DailyBlockQuota returns how many queues may be blocked in one day. 0: any number;
// negative: none. The error is a [*ValueError].
func (f *File) DailyBlockQuota() (int64, error) {
	r := reader{file: f, section: "AUTH"}
	n := r.number("daily_block_queue_quota", DefaultDailyBlockQuota)
	return n, r.err
}
