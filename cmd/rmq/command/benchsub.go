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
	consumers, err := b.openConsumers(ctx, group)
	if err != nil {
		return err
	}
	b.receive(ctx, consumers)
	return errors.Join(closeConsumers(ctx, consumers, b.app.reach.timeout), b.shortOf())
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
		c, err := b.app.newPull(ctx, subFlags{group: group, topics: []string{b.flags.topic}}, from)
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
}

// receive polls until the time is over, the count is reached, or nothing comes
// any more.
func (b *benchmark) receive(ctx context.Context, consumers []*consumer.Pull) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	b.begun = time.Now()
	s := &arrivals{benchmark: b, stop: stop}
	var watching, polling sync.WaitGroup
	watching.Go(func() { b.watch(ctx) })
	for i, c := range consumers {
		polling.Go(func() { s.poll(ctx, c, b.tallies[i]) })
	}
	polling.Wait()
	stop()
	watching.Wait()
	b.first = s.first + b.flags.warmup
}

func (s *arrivals) poll(ctx context.Context, c *consumer.Pull, t *tally) {
	for {
		waiting, cancel := context.WithTimeout(ctx, s.flags.idle)
		ds, err := c.Poll(waiting, s.flags.batch)
		waited := waiting.Err() != nil
		cancel()
		switch {
		case ctx.Err() != nil || err != nil && waited && s.idle():
			return
		case err == nil && s.came(ds, t):
			s.stop()
			return
		case err != nil && !waited:
			t.failed(1, err)
		}
	}
}

// idle reports that nothing has come for --idle-timeout.
func (s *arrivals) idle() bool {
	now := s.clock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return now-s.last >= s.flags.idle
}

// came enters messages and reports whether that was all.
func (s *arrivals) came(ds []*consumer.Delivery, t *tally) (over bool) {
	wall, now := time.Now(), s.clock()
	s.mu.Lock()
	if !s.some {
		s.some, s.first = true, now
	}
	s.last = now
	since := now - s.first
	counted := since >= s.flags.warmup
	if counted {
		s.count += int64(len(ds))
	}
	over = s.flags.count > 0 && s.count >= int64(s.flags.count) || s.flags.count == 0 && since >= s.flags.warmup+s.flags.duration
	s.mu.Unlock()
	for len(ds) > 0 {
		n, bytes := together(ds)
		t.done(n, bytes, counted, wall.Sub(ds[0].StoreTime), now)
		ds = ds[n:]
	}
	return over
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
