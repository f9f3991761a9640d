package command

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
)

// stampBytes begin each body: which run it is of, when it was due, and 1 when it
// counts.
const stampBytes = 17

// endToEnd measures from a producer's call to a consumer's hands.
type endToEnd struct {
	*benchmark
	run      uint64       // tells our messages from those of others
	stored   atomic.Int64 // counted messages that were acknowledged
	received atomic.Int64 // and those that have come
}

// e2e measures the whole way.
func (b *benchmark) e2e(ctx context.Context) error {
	e := &endToEnd{benchmark: b}
	var id [8]byte
	rand.Read(id[:]) // it never fails
	e.run = binary.BigEndian.Uint64(id[:])
	group := b.freshGroup()
	defer b.deleteGroup(ctx, group)
	consumers, err := b.openConsumers(ctx, group)
	if err != nil {
		return err
	}
	err = e.measure(ctx, consumers)
	return errors.Join(err, closeConsumers(ctx, consumers, b.app.reach.timeout))
}

// measure sends with one tally for each client, and receives with another.
func (e *endToEnd) measure(ctx context.Context, consumers []*consumer.Pull) error {
	clients, err := e.openSenders(ctx, func(i int, c *sendingClient) {
		c.tally = newTally() // it is added for its errors
		c.message = e.stamped
		c.acknowledged = func(t turn) {
			if t.counted {
				e.stored.Add(int64(t.n))
			}
		}
	})
	if err != nil {
		return err
	}
	receiving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	e.start()
	for i, c := range consumers {
		wg.Go(func() { e.receive(receiving, c, e.tallies[i]) })
	}
	e.send(ctx, clients)
	err = closeSenders(ctx, clients, e.app.reach.timeout)
	e.drain(ctx)
	stop()
	wg.Wait()
	for i, c := range clients {
		e.tallies[i].errors += c.tally.errors
		e.tallies[i].err = c.tally.err
	}
	e.missing()
	return err
}

// stamped is a message of its own with the time at which it is due: at the
// consumer, if it is delayed.
func (e *endToEnd) stamped(t turn) *message.Message {
	m := &message.Message{Topic: e.flags.topic, Body: make([]byte, e.flags.size)}
	if e.flags.delay > 0 {
		// A message has its time to the millisecond.
		m.DeliverAt = e.begun.Add(t.at + e.flags.delay).Truncate(time.Millisecond)
		t.at = m.DeliverAt.Sub(e.begun)
	}
	binary.BigEndian.PutUint64(m.Body, e.run)
	binary.BigEndian.PutUint64(m.Body[8:], uint64(t.at))
	if t.counted {
		m.Body[16] = 1
	}
	return m
}

func (e *endToEnd) receive(ctx context.Context, c *consumer.Pull, t *tally) {
	for {
		ds, err := c.Poll(ctx, benchPoll)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			t.failed(1, err)
			continue
		}
		now := e.clock()
		for _, d := range ds {
			e.came(d, t, now)
		}
	}
}

func (e *endToEnd) came(d *consumer.Delivery, t *tally, now time.Duration) {
	if len(d.Body) < stampBytes || binary.BigEndian.Uint64(d.Body) != e.run {
		return // somebody else's
	}
	at := time.Duration(binary.BigEndian.Uint64(d.Body[8:]))
	counted := d.Body[16] == 1
	t.done(1, int64(len(d.Body)), counted, now-at, now)
	if counted {
		e.received.Add(1)
	}
}

// drain waits until all that is stored has come, or nothing comes any more.
func (e *endToEnd) drain(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	before, since := int64(-1), time.Now()
	for e.received.Load() < e.stored.Load() {
		if now := e.received.Load(); now != before {
			before, since = now, time.Now()
		}
		if time.Since(since) > e.flags.idle+e.flags.delay {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// missing counts as errors what is stored and did not come.
func (e *endToEnd) missing() {
	if n := e.stored.Load() - e.received.Load(); n > 0 {
		e.tallies[0].failed(int(n), fmt.Errorf("%d messages that were acknowledged did not arrive", n))
	}
}
