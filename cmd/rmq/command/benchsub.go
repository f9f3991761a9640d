package command

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rmqio/rmq/consumer"
)

// sub measures receiving.
func (b *benchmark) sub(ctx context.Context) error {
	group := b.flags.group
	if group == "" {
		group = b.freshGroup()
		defer b.deleteGroup(ctx, group)
	}
	members, err := b.openMembers(ctx, group)
	if err != nil {
		return err
	}
	b.receive(ctx, members)
	return errors.Join(closeMembers(ctx, members, b.app.reach.timeout), b.shortOf())
}

// openConsumers opens the members of the group and waits until they have their
// queues.
func (b *benchmark) openConsumers(ctx context.Context, group string) ([]*consumer.Pull, error) {
	from, err := parsePosition("--from", b.flags.from, b.app.now())
	if err != nil {
		return nil, err
	}
	var consumers []*consumer.Pull
	fail := func(err error) ([]*consumer.Pull, error) {
		return nil, errors.Join(err, closeConsumers(ctx, consumers, b.app.reach.timeout))
	}
	for range b.flags.clients {
		c, err := b.app.newPull(ctx, subFlags{group: group, tag: b.flags.tag, topics: []string{b.flags.topic}}, from)
		if err != nil {
			return fail(err)
		}
		consumers = append(consumers, c)
	}
	waiting, cancel := context.WithTimeout(ctx, b.app.reach.timeout)
	defer cancel()
	for _, c := range consumers {
		select {
		case <-c.Ready():
		case <-waiting.Done():
			return fail(context.Cause(waiting))
		}
	}
	return consumers, nil
}

func closeConsumers(ctx context.Context, consumers []*consumer.Pull, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	var errs []error
	for _, c := range consumers {
		errs = append(errs, c.Close(ctx))
	}
	return errors.Join(errs...)
}

// arrivals are what all consumers of a benchmark share.
type arrivals struct {
	*benchmark
	stop context.CancelFunc

	mu    sync.Mutex
	some  bool          // something has come
	first time.Duration // when that was
	last  time.Duration // when something came last; before, when reading began
	count int64         // of what is counted
	over  bool          // the time is over, or the count is reached
}

// receive has the members consume until the time is over, the count is reached, or
// nothing comes any more.
func (b *benchmark) receive(ctx context.Context, members []benchMember) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	b.begun = time.Now()
	s := &arrivals{benchmark: b, stop: stop}
	var watching, consuming sync.WaitGroup
	watching.Go(func() { b.watch(ctx) })
	watching.Go(func() { s.stopIdle(ctx) })
	for i, m := range members {
		consuming.Go(func() { m.consume(ctx, s, b.tallies[i]) })
	}
	consuming.Wait()
	stop()
	watching.Wait()
	b.first = s.first + b.flags.warmup
}

// stopIdle ends the run when nothing has come for --idle-timeout.
func (s *arrivals) stopIdle(ctx context.Context) {
	tick := time.NewTicker(min(s.flags.idle, time.Second) / 4)
	defer tick.Stop()
	for !s.idle() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
	s.stop()
}

// idle reports that nothing has come for --idle-timeout.
func (s *arrivals) idle() bool {
	now := s.clock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return now-s.last >= s.flags.idle
}

// came enters messages, and ends the run when that was all. What comes after the end
// does not count.
func (s *arrivals) came(ds []*consumer.Delivery, t *tally) {
	wall, now := time.Now(), s.clock()
	s.mu.Lock()
	if !s.some {
		s.some, s.first = true, now
	}
	s.last = now
	since := now - s.first
	counted := since >= s.flags.warmup && !s.over
	if counted {
		s.count += int64(len(ds))
	}
	s.over = s.over || s.flags.count > 0 && s.count >= int64(s.flags.count) || s.flags.count == 0 && since >= s.flags.warmup+s.flags.duration
	over := s.over
	s.mu.Unlock()
	for len(ds) > 0 {
		n, bytes := together(ds)
		t.done(n, bytes, counted, wall.Sub(ds[0].StoreTime), now)
		ds = ds[n:]
	}
	if over {
		s.stop()
	}
}

// together is how many messages, from the first on, were stored at one time.
func together(ds []*consumer.Delivery) (n int, bytes int64) {
	for n < len(ds) && ds[n].StoreTime.Equal(ds[0].StoreTime) {
		bytes += int64(len(ds[n].Body))
		n++
	}
	return n, bytes
}

// shortOf is the failure when --count was not reached.
func (b *benchmark) shortOf() error {
	var messages int64
	for _, t := range b.tallies {
		messages += t.messages
	}
	if b.flags.count == 0 || messages >= int64(b.flags.count) {
		return nil
	}
	return &Failure{
		Code: "TIMED_OUT", exit: exitUnavailable,
		Message: number(messages) + " of " + number(b.flags.count) + " messages came, then none for " + b.flags.idle.String(),
	}
}
