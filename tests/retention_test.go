package tests

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/tests/harness"
)

// disk is one that a test fills; the broker then drops what it can.
type disk struct{ used, looks atomic.Int64 }

func (d *disk) config(cfg *broker.Config) {
	cfg.Store.FirstSegmentBytes, cfg.Store.SegmentBytes = 64<<10, 64<<10
	cfg.Retention = broker.Retention{MaxAge: -1, Interval: 5 * time.Millisecond}
	cfg.Store.DiskUse = func(string) (int, int64, error) {
		d.looks.Add(1)
		return int(d.used.Load()), 1 << 20, nil
	}
}

// fill keeps the disk too full until the condition holds.
func (d *disk) fill(t testing.TB, what string, condition func() bool) {
	t.Helper()
	d.used.Store(86)
	harness.Eventually(t, what, condition)
	d.used.Store(0)
	looks := d.looks.Load()
	harness.Eventually(t, "the broker sees that the disk has room", func() bool { return d.looks.Load() >= looks+2 })
}

func (c *consumption) pull(prefetch int) *consumer.Pull {
	c.Helper()
	p, err := consumer.NewPull(c.Context(), consumer.PullConfig{
		NameServers: c.cluster.NameServers, Group: "billing", Subscriptions: []consumer.Subscription{{Topic: consumedTopic}},
		From: consumer.Earliest(), MaxPrefetch: prefetch, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		c.Fatal(err)
	}
	return p
}

// poll takes messages of the one queue up to an offset.
func (c *consumption) poll(p *consumer.Pull, to int64) (offsets []int64) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), harness.Timeout)
	defer cancel()
	for len(offsets) == 0 || offsets[len(offsets)-1] < to {
		ds, err := p.Poll(ctx, 1)
		if err != nil {
			c.Fatalf("after offsets %v: %v", offsets, err)
		}
		offsets = append(offsets, ds[0].QueueOffset)
	}
	return offsets
}

func (c *consumption) bounds() (first, end int64) {
	c.Helper()
	t, err := c.admin.DescribeTopic(c.Context(), consumedTopic, admin.Target{})
	if err != nil {
		c.Fatal(err)
	}
	return t.Brokers[0].Queues[0].Min, t.Brokers[0].Queues[0].End
}

func large(m *message.Message) { m.Body = append(m.Body, make([]byte, 3000)...) }

// TestRetention_ConsumersGoOnWhereTheQueueBegins drops messages under a consumer
// that is slow, and others while no consumer is there.
func TestRetention_ConsumersGoOnWhereTheQueueBegins(t *testing.T) {
	var disk disk
	c := newConsumption(t, 1, disk.config)
	c.publish(1, 10, large)
	p := c.pull(4)
	if got := c.poll(p, 2); !slices.Equal(got, []int64{0, 1, 2}) {
		t.Fatalf("got offsets %v, want 0 to 2", got)
	}
	drop := func(n int) (first, end int64) {
		t.Helper()
		for range n {
			c.publish(1, 1, large)
		}
		disk.fill(t, "messages are dropped", func() bool { first, end := c.bounds(); return first > end-50 })
		return c.bounds()
	}
	first, end := drop(100)
	if first < 50 || end != 110 {
		t.Fatalf("the queue has offsets %d to %d", first, end)
	}
	lag, err := p.Lag(t.Context())
	if q := (message.Queue{Topic: consumedTopic, Broker: c.broker}); err != nil || lag[q] != end-first {
		t.Errorf("got lag %v, want %d: %v", lag, end-first, err)
	}
	c.check(p.Commit(t.Context()))
	g, err := c.admin.DescribeGroup(t.Context(), "billing", admin.Target{})
	if err != nil || g.Lag() != end-first {
		t.Errorf("got lag %+v, want %d: %v", g, end-first, err)
	}
	c.wantJump(c.poll(p, end-1), 3, first, end)
	c.check(p.Close(context.WithoutCancel(t.Context())))

	committed := end
	first, end = drop(100)
	p = c.pull(4)
	got := c.poll(p, end-1)
	if first <= committed || got[0] != first {
		t.Errorf("the group had committed %d, the queue begins at %d, and the first message has offset %d", committed, first, got[0])
	}
	c.wantJump(got, first, first, end)
	c.check(p.Close(context.WithoutCancel(t.Context())))
}

// wantJump wants offsets from one on without a gap, then from first to end.
func (c *consumption) wantJump(got []int64, from, first, end int64) {
	c.Helper()
	want := from
	for _, offset := range got {
		if offset == first && want < first {
			want = first
		}
		if offset != want {
			c.Fatalf("got offsets %v, want some from %d on and then %d to %d", got, from, first, end)
		}
		want++
	}
	if want != end {
		c.Errorf("got offsets %v up to %d, want %d", got, want, end)
	}
}

// TestRetention_NothingLeftToConsume: who reads to the end is there when all that
// is missing was hidden.
func TestRetention_NothingLeftToConsume(t *testing.T) {
	var clock atomic.Int64
	clock.Store(time.Now().UnixMilli())
	c := newConsumption(t, 1, func(cfg *broker.Config) {
		cfg.Now = func() time.Time { return time.UnixMilli(clock.Load()) }
		cfg.SessionTimeout = 1000 * time.Hour
		cfg.Retention.Interval = 5 * time.Millisecond
	})
	c.publish(1, 10)
	p := c.pull(2)
	c.poll(p, 2)
	clock.Add((broker.DefaultMaxAge + time.Minute).Milliseconds())
	harness.Eventually(t, "all is hidden", func() bool { first, end := c.bounds(); return first == 10 && end == 10 })
	ctx, cancel := context.WithTimeout(t.Context(), harness.Timeout)
	defer cancel()
	for d, err := range p.MessagesToEnd(ctx) {
		if err != nil || d.QueueOffset > 9 {
			t.Errorf("got %v, %v", d, err)
		}
	}
	c.check(ctx.Err())
	c.check(p.Close(context.WithoutCancel(t.Context())))
	c.publish(1, 1)
	p = c.pull(2)
	if got := c.poll(p, 10); !slices.Equal(got, []int64{10}) {
		t.Errorf("got offsets %v, want 10 alone", got)
	}
	c.check(p.Close(context.WithoutCancel(t.Context())))
}
