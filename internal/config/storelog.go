package config

import (
	"errors"
	"slices"
)

// What the router uses for keys that the section [STORE_LOG] lacks.
const (
	DefaultConnection = "postgresql://smp@/smp_server_store"
	DefaultSchema     = "smp_server"
)

// HasStoreLog reports whether there are keys in the section [STORE_LOG]: every
// file that is meant for a router has some.
func (f *File) HasStoreLog() bool {
	return slices.ContainsFunc(f.entries, func(e entry) bool { return e.Section == storeLogSection })
}

// StoreLog returns the section [STORE_LOG], with the router's defaults for
// absent keys. The error joins a [*ValueError] for each value that is wrong.
func (f *File) StoreLog() (StoreLog, error) {
	c, err := f.read(func(k Key) bool { return k.Section == storeLogSection })
	return c.StoreLog, err
}

// DefaultDailyBlockQuota is what the router uses if the section [AUTH] lacks
// daily_block_queue_quota.
const DefaultDailyBlockQuota = 20

// DailyBlockQuota returns how many queues may be blocked in one day. 0: any number;
// negative: none. The error is a [*ValueError].
func (f *File) DailyBlockQuota() (int64, error) {
	c, err := f.read(func(k Key) bool { return k.Path() == "AUTH.daily_block_queue_quota" })
	return int64(c.Auth.DailyBlockQueueQuota), err
}

// read returns what the file says of some keys.
func (f *File) read(which func(Key) bool) (Router, error) {
	r := &reader{Sources: Sources{File: f}}
	var c Router
	r.read(&c, which)
	if len(r.errs) > 0 {
		return Router{}, errors.Join(r.errs...)
	}
	return c, nil
}
