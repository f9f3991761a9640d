//go:build linux

package main

import (
	"context"
	"errors"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/rmqio/rmq/tests/churn"
)

// The plans of a cycle. A frozen member sleeps for longer than any session lasts.
const (
	cleanTime  = 40 * time.Second
	churnTime  = 2 * time.Minute
	frozenTime = 60 * time.Second
)

// membersChurn has members of a group leave in good order, and then be killed and
// frozen too, each time with a server that is killed now and then.
func membersChurn(ctx context.Context, b *site, r *result) error {
	var all churn.Counts
	for n := 0; n < b.cycles && b.more(ctx); n++ {
		clean := churn.Plan{For: cleanTime, Pause: time.Second, Most: 8}
		rough := churn.Plan{For: churnTime, Pause: 2 * time.Second, Most: 8, Kill: true, Freeze: frozenTime}
		for i, p := range []churn.Plan{clean, rough} {
			p.Seed = b.random.Uint64()
			c, err := churnOnce(ctx, b, r, filepath.Join(b.dir, strconv.Itoa(2*n+i)), p)
			if err != nil {
				return err
			}
			all = all.Plus(c)
			r.cycle(c.Killed+c.Frozen+c.Restarted, int64(c.Messages), int64(c.Missing))
		}
	}
	r.note("%+v", all)
	return nil
}

// churnOnce carries out a plan against a server of its own.
func churnOnce(ctx context.Context, b *site, r *result, data string, p churn.Plan) (churn.Counts, error) {
	s, err := startServer(ctx, b.cfg, data, "127.0.0.1:0")
	if err != nil {
		return churn.Counts{}, err
	}
	defer func() { s.stop(syscall.SIGKILL) }()
	p.Addr = s.listen
	p.Restart = func() error {
		s.stop(syscall.SIGKILL)
		next, err := startServer(ctx, b.cfg, data, p.Addr)
		if next != nil {
			s = next
		}
		return err
	}
	h, err := churn.Run(ctx, p)
	if err != nil {
		return churn.Counts{}, err
	}
	told, err := churn.Committed(ctx, p.Addr)
	s.stop(syscall.SIGTERM)
	if err = errors.Join(err, s.panicked(), h.ReadLog(data)); err != nil {
		return churn.Counts{}, err
	}
	if err := errors.Join(h.CheckCommitted(told), h.Check()); err != nil {
		r.violate("seed %d: %v", p.Seed, err)
	}
	return h.Counts(), nil
}
