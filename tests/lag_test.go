package tests

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

const (
	lagQueues = 4
	lagRounds = 4
	lagBurst  = 400 // messages of a round
)

// pacing is a group whose members process as many messages as the test lets them,
// and what it knows of it.
type pacing struct {
	name  string
	sub   consumer.Subscription
	wants func(tag string) bool
	// fails processes all, and gives every third message back.
	fails  bool
	tokens chan struct{}

	mu       sync.Mutex
	sent     [lagQueues]int // that it wants
	handled  [lagQueues]int // and has processed, or given back
	returned int            // messages given back
}

func (p *pacing) handle(ctx context.Context, d *consumer.Delivery) error {
	if !p.fails {
		select {
		case <-p.tokens:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handled[d.Queue.ID]++
	if p.fails && d.QueueOffset%3 == 0 {
		p.returned++
		return errors.New("not now")
	}
	return nil
}

func (p *pacing) counts() (sent, handled int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for q := range lagQueues {
		sent, handled = sent+p.sent[q], handled+p.handled[q]
	}
	return sent, handled
}

// loadLag sends messages with random tags to all queues, and lets each group process
// some of what it wants.
func loadLag(c *consumption, groups []*pacing) {
	var sending sync.WaitGroup
	for range 2 {
		sending.Go(func() {
			errs := make(chan error, lagBurst/2)
			for range lagBurst / 2 {
				q, tag := rand.IntN(lagQueues), []string{"paid", "open", "void", ""}[rand.IntN(4)]
				m := &message.Message{Topic: consumedTopic, Tag: tag, Properties: map[string]string{"state": tag}, Body: []byte(tag)}
				for _, g := range groups {
					if g.wants(tag) {
						g.mu.Lock()
						g.sent[q]++
						g.mu.Unlock()
					}
				}
				to := producer.ToQueue(message.Queue{Broker: c.broker, ID: q})
				c.producer.SendAsync(c.Context(), m, func(_ producer.Receipt, err error) { errs <- err }, to)
			}
			for range lagBurst / 2 {
				c.check(<-errs)
			}
		})
	}
	for _, g := range groups {
		for range rand.IntN(lagBurst) {
			g.tokens <- struct{}{}
		}
	}
	sending.Wait()
}

// quiet waits until every group has processed what it may.
func quiet(c *consumption, groups []*pacing) {
	for _, g := range groups {
		harness.Eventually(c, g.name+" has processed what it may", func() bool {
			sent, handled := g.counts()
			return handled == sent || !g.fails && len(g.tokens) == 0
		})
	}
}

// wrong says what is wrong with the lag of a group while all is quiet; empty: nothing.
func (p *pacing) wrong(g *admin.Group) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	total := 0
	for q := range lagQueues {
		total += p.sent[q] - p.handled[q]
	}
	if g.Lag() != int64(total+p.returned) || g.Retrying() != int64(p.returned) || g.AtLeast() {
		return fmt.Sprintf("got %d with %d that wait for their retry, counted %d and %d", g.Lag(), g.Retrying(), total, p.returned)
	}
	for _, q := range g.Queues {
		filtered := p.sub.Tag != "" || p.sub.SQL != ""
		if q.Topic != consumedTopic {
			continue
		}
		if n := int64(p.sent[q.Queue] - p.handled[q.Queue]); q.Lag != n || q.Filtered != filtered || q.FilterUnknown || n == 0 && q.LagMillis != 0 {
			return fmt.Sprintf("queue %d: got %+v, counted %d", q.Queue, q, n)
		}
	}
	return ""
}

// watch looks at the lags while everything runs: none is below zero, above what was
// sent, or guessed.
func watch(ctx context.Context, c *consumption, groups []*pacing) {
	for ctx.Err() == nil {
		for _, p := range groups {
			g, err := c.admin.DescribeGroup(c.Context(), p.name, admin.Target{})
			if errors.Is(err, protocol.GroupNotFound) || protocol.CodeOf(err).Retryable() { // the machine may be too busy to say
				continue
			}
			c.check(err)
			if sent, _ := p.counts(); err == nil && (g.Lag() < 0 || g.Lag() > 2*int64(sent) || g.AtLeast()) {
				c.Errorf("%s: a lag of %d when %d were sent", p.name, g.Lag(), sent)
			}
		}
	}
}

// At every moment of rest the broker's lag is what the test counts itself: of groups
// with and without filters, of messages that wait for their retry, and of groups
// whose members have left.
func TestLag_IsExactUnderLoad(t *testing.T) {
	c := newConsumption(t, lagQueues)
	_, err := c.admin.CreateGroup(t.Context(), protocol.GroupConfig{
		Name: "flaky", ConsumeEnabled: true, RetryPolicy: protocol.RetryPolicy{Kind: protocol.RetryExponential, FirstMillis: time.Hour.Milliseconds()},
	}, admin.Target{})
	c.check(err)
	all := func(string) bool { return true }
	paid := func(tag string) bool { return tag == "paid" }
	groups := []*pacing{
		{name: "everything", wants: all},
		{name: "tagged", sub: consumer.Subscription{Tag: "paid"}, wants: paid},
		{name: "either", sub: consumer.Subscription{Tag: "paid || open"}, wants: func(tag string) bool { return tag == "paid" || tag == "open" }},
		{name: "chosen", sub: consumer.Subscription{SQL: "state = 'paid'"}, wants: paid},
		{name: "flaky", sub: consumer.Subscription{SQL: "state <> 'void'"}, wants: func(tag string) bool { return tag != "void" }, fails: true},
	}
	var stops []func()
	for _, g := range groups {
		g.tokens = make(chan struct{}, lagRounds*lagBurst)
		cfg := c.config()
		cfg.Group, cfg.Ordered, cfg.ShutdownTimeout = g.name, !g.fails, 50*time.Millisecond
		g.sub.Topic = consumedTopic
		cfg.Subscriptions = []consumer.Subscription{g.sub}
		if g.fails {
			cfg.Concurrency = 1 // so that what is finished is committed
		}
		stops = append(stops, c.push(cfg, g.handle))
	}
	exact := func(when string) {
		for _, g := range groups {
			wrong := "nobody looked"
			defer func() {
				if t.Failed() {
					t.Logf("%s: %s: %s", when, g.name, wrong)
				}
			}()
			harness.Eventually(t, when+": the lag of "+g.name+" is what it is", func() bool {
				d, err := c.admin.DescribeGroup(t.Context(), g.name, admin.Target{})
				if err == nil {
					wrong = g.wrong(d)
				}
				return err == nil && wrong == ""
			})
		}
	}
	for round := range lagRounds {
		ctx, stop := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		watching.Go(func() { watch(ctx, c, groups) })
		loadLag(c, groups)
		stop()
		watching.Wait()
		quiet(c, groups)
		exact(fmt.Sprint("round ", round))
	}
	for _, stop := range stops {
		stop()
	}
	exact("when the members have left")
	c.cluster.Restart()
	exact("after a restart")
}
