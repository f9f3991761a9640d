package tests

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
)

// crowd are members of one group in this process.
type crowd struct {
	*consumption
	stops []func() // of those that run
	named int
	// unknown is why shares did not know, when it was asked last.
	unknown error
}

// join starts n members at once and does not wait for their queues.
func (c *crowd) join(n int) {
	c.Helper()
	for range n {
		cfg := c.config()
		cfg.ClientID = fmt.Sprintf("member-%03d", c.named)
		cfg.Concurrency = 1
		c.named++
		p, err := consumer.NewPush(c.Context(), cfg, c.handle)
		if err != nil {
			c.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.WithoutCancel(c.Context()))
		ran := make(chan error, 1)
		go func() { ran <- p.Run(ctx) }() // its stop waits for it
		stop := sync.OnceFunc(func() {
			cancel()
			c.check(<-ran)
		})
		c.stops = append(c.stops, stop)
		c.Cleanup(stop)
	}
}

// leave has n members leave at once; the function waits until they have.
func (c *crowd) leave(n int) (wait func()) {
	var leaving sync.WaitGroup
	for _, stop := range c.stops[:n] {
		leaving.Go(stop)
	}
	c.stops = c.stops[n:]
	return leaving.Wait
}

// settled waits until the members that are left own all queues evenly. It looks
// rarely, so that the looking is not what is measured.
func (c *crowd) settled(queues int) {
	c.Helper()
	deadline := time.NewTimer(4 * harness.Timeout)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !evenly(c.shares(), len(c.stops), queues) {
		select {
		case <-deadline.C:
			shares := c.shares()
			c.Fatalf("%d queues are not shared evenly by %d members: %v; the last question: %v", queues, len(c.stops), shares, c.unknown)
		case <-tick.C:
		}
	}
}

// evenly reports whether all queues are owned, by all members, none of which has
// two more than another.
func evenly(owners map[string]int, members, queues int) bool {
	total, least, most := 0, queues, 0
	for _, n := range owners {
		total, least, most = total+n, min(least, n), max(most, n)
	}
	return len(owners) == members && total == queues && most-least <= 1
}

// shares is how many queues each member owns: nobody any while the group is not known,
// or the server too busy to say, which a machine with other work makes it.
func (c *crowd) shares() map[string]int {
	c.Helper()
	g, err := c.admin.DescribeGroup(c.Context(), "billing", admin.Target{})
	if c.unknown = err; err != nil {
		return nil
	}
	return ownersOf(g)
}

// A group of 200 members shares 1,000 queues: all come at once, one leaves, one
// comes, and half of them leave. The times are reported.
func TestSettling_200MembersAnd1000Queues(t *testing.T) {
	const members, queues = 200, 1000
	// A session that ends because the machine is busy would be one more to leave.
	c := &crowd{consumption: newConsumption(t, queues, func(cfg *broker.Config) { cfg.SessionTimeout = time.Minute })}
	timed := func(what string, do func()) {
		began := time.Now()
		do()
		c.settled(queues)
		t.Logf("%s: settled after %d ms", what, time.Since(began).Milliseconds())
	}
	timed("200 members come at once", func() { c.join(members) })
	timed("one leaves", func() { c.leave(1)() })
	timed("one comes", func() { c.join(1) })
	wait := func() {}
	timed("100 leave at once", func() { wait = c.leave(members / 2) })
	wait()
	c.leave(len(c.stops))()
	harness.Eventually(t, "nobody owns a queue", func() bool { return len(c.shares()) == 0 && c.unknown == nil })
}

// moves is who handled a message of each queue when.
type moves struct {
	mu   sync.Mutex
	last map[int]turn
	// pauses are the times between the last message that a queue's old owner handled
	// and the first of the new one.
	pauses []time.Duration
}

type turn struct {
	member string
	at     time.Time
}

func (m *moves) handler(member string, next consumer.Handler) consumer.Handler {
	return func(ctx context.Context, d *consumer.Delivery) error {
		now := time.Now()
		m.mu.Lock()
		if before, ok := m.last[d.Queue.ID]; ok && before.member != member {
			m.pauses = append(m.pauses, now.Sub(before.at))
		}
		m.last[d.Queue.ID] = turn{member, now}
		m.mu.Unlock()
		return next(ctx, d)
	}
}

// queues is how many have had an owner.
func (m *moves) queues() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.last)
}

func (m *moves) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.pauses)
}

// trickle sends a message to each queue every 2 ms until it is stopped.
func (c *consumption) trickle(queues int) (stop func()) {
	ctx, cancel := context.WithCancel(c.Context())
	var sending sync.WaitGroup
	sending.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			for q := range queues {
				m := &message.Message{Topic: consumedTopic, Body: strconv.AppendInt(nil, int64(c.sent), 10)}
				c.sent++
				c.producer.SendAsync(c.Context(), m, func(_ producer.Receipt, err error) { c.check(err) }, producer.ToQueue(message.Queue{Broker: c.broker, ID: q}))
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	return func() {
		cancel()
		sending.Wait()
		c.check(c.producer.Flush(c.Context()))
	}
}

// Queues go to a member that comes, and back when it leaves, under load: nothing
// comes twice, and the pauses of the moved queues are reported.
func TestSettling_PauseOfAMovedQueue(t *testing.T) {
	const queues, rounds = 16, 5
	c := newConsumption(t, queues)
	m := &moves{last: map[int]turn{}}
	c.push(c.config(), m.handler("first", c.handle))
	stop := c.trickle(queues)
	harness.Eventually(t, "messages of all queues", func() bool { return m.queues() == queues })
	for i := range rounds {
		leave := c.push(c.config(), m.handler("second", c.handle))
		harness.Eventually(t, "half of the queues have moved", func() bool { return m.count() >= (2*i+1)*queues/2 })
		leave()
		harness.Eventually(t, "they are back", func() bool { return m.count() >= (i+1)*queues })
	}
	stop()
	c.allOnce()
	slices.Sort(m.pauses)
	if len(m.pauses) != rounds*queues {
		t.Errorf("%d queues moved, want %d", len(m.pauses), rounds*queues)
	}
	t.Logf("pause of a moved queue: median %v, at most %v", m.pauses[len(m.pauses)/2], m.pauses[len(m.pauses)-1])
}
