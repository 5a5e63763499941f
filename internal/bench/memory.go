package bench

import (
	"context"
	"errors"
	"time"
)

// MemoryOptions say what [Memory] does. The rate of the load is not used.
type MemoryOptions struct {
	Options
	// Process is that of the router.
	Process Process
	// Settle is how long the connections are idle before the memory is measured.
	Settle time.Duration
}

// A MemoryReport is what a router's process needs for clients that are idle.
type MemoryReport struct {
	Router        string        `json:"router"`
	Connections   int           `json:"connections"`
	Subscriptions int           `json:"subscriptions"`
	MessageSize   int           `json:"message_bytes"`
	Stages        []MemoryStage `json:"stages"`
}

// A MemoryStage is what the process uses at a stage, and what each unit has added that
// came with it.
type MemoryStage struct {
	Name    string `json:"stage"`
	Process Sample `json:"process"`
	Units   int    `json:"units,omitempty"` // 0 at the first stage
	Unit    string `json:"unit,omitempty"`
	// RSS is what a unit adds to the memory of the process, all in; Heap and Stacks are
	// what of it is in use. The former includes gaps, which the next stage may fill.
	RSS    int64 `json:"rss_bytes_each,omitempty"`
	Heap   int64 `json:"heap_bytes_each,omitempty"`
	Stacks int64 `json:"stack_bytes_each,omitempty"`
}

// Memory finds out how much memory of a router's process connections take that are
// subscribed to a queue, have sent a message and received one, and are idle now; and
// how much more queues and subscriptions. Garbage is collected before each measurement.
func Memory(ctx context.Context, o MemoryOptions) (r MemoryReport, err error) {
	// What the router makes once and keeps is there before the first measurement.
	first := o.Options
	first.Connections, first.Queues = min(o.Connections, setupConcurrency), 1
	l, err := Open(ctx, first)
	if err == nil {
		err = errors.Join(l.sendOne(ctx), l.Close(ctx))
	}
	if err != nil {
		return r, err
	}
	r = MemoryReport{Router: o.Router.String(), Connections: o.Connections, Subscriptions: o.Connections * o.Queues, MessageSize: o.Size}
	if err := r.stage(ctx, &o, "nobody connected", 0, ""); err != nil {
		return r, err
	}
	one := o.Options
	one.Queues = 1
	if l, err = Open(ctx, one); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, l.Close(ctx)) }()
	more := o.Connections * (o.Queues - 1)
	for _, s := range []struct {
		name  string
		units int
		unit  string
		do    func() error
	}{
		{"connections, each subscribed to a queue", o.Connections, "connection", func() error { return l.sendOne(ctx) }},
		{"more queues, which the router has in memory", more, "queue", func() error { return l.create(ctx, o.Queues-1, false) }},
		{"subscriptions to them", more, "subscription", func() error { return l.subscribe(ctx) }},
	} {
		if err := s.do(); err != nil {
			return r, err
		}
		if err := r.stage(ctx, &o, s.name, s.units, s.unit); err != nil {
			return r, err
		}
	}
	return r, nil
}

// stage adds a stage, when all has settled.
func (r *MemoryReport) stage(ctx context.Context, o *MemoryOptions, name string, units int, unit string) error {
	settled := time.NewTimer(o.Settle)
	defer settled.Stop()
	select {
	case <-settled.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	now, err := o.Process.Sample(ctx, true)
	if err != nil {
		return err
	}
	s := MemoryStage{Name: name, Process: now, Units: units, Unit: unit}
	if units > 0 {
		before := r.Stages[len(r.Stages)-1].Process
		s.RSS = (now.RSS - before.RSS) / int64(units)
		s.Heap = (now.Heap - before.Heap) / int64(units)
		s.Stacks = (now.Stacks - before.Stacks) / int64(units)
	}
	r.Stages = append(r.Stages, s)
	return nil
}
