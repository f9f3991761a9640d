package tests

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

func (c *consumption) simpleConfig() consumer.SimpleConfig {
	return consumer.SimpleConfig{
		NameServers: c.cluster.NameServers, Group: "billing", Subscriptions: []consumer.Subscription{{Topic: consumedTopic}},
		From: consumer.Earliest(), Logger: slog.New(slog.DiscardHandler),
	}
}

func (c *consumption) simple(change ...func(*consumer.SimpleConfig)) *consumer.Simple {
	c.Helper()
	cfg := c.simpleConfig()
	for _, f := range change {
		f(&cfg)
	}
	s, err := consumer.NewSimple(c.Context(), cfg)
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { c.closeSimple(s) })
	return s
}

func (c *consumption) closeSimple(s *consumer.Simple) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Context()), harness.Timeout)
	defer cancel()
	c.check(s.Close(ctx))
}

// run has a consumer handle messages until stop.
func (c *consumption) run(s *consumer.Simple, h consumer.Handler) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.Context()))
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx, h) }() // stop waits for it
	stop = sync.OnceFunc(func() {
		cancel()
		c.check(<-ran)
	})
	c.Cleanup(stop)
	return stop
}

func (c *consumption) receive(s *consumer.Simple, max int, invisible time.Duration) []*consumer.Popped {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), harness.Timeout)
	defer cancel()
	ps, err := s.Receive(ctx, max, invisible)
	if err != nil {
		c.Fatal(err)
	}
	return ps
}

// nothing fails when there is a message for the consumer.
func (c *consumption) nothing(s *consumer.Simple) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), 200*time.Millisecond)
	defer cancel()
	if ps, err := s.Receive(ctx, 1, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
		c.Errorf("got %d messages, %v, want none", len(ps), err)
	}
}

func (c *consumption) send(m *message.Message) {
	c.Helper()
	m.Topic = consumedTopic
	_, err := c.producer.Send(c.Context(), m)
	c.check(err)
}

// One queue keeps as many members busy as there are.
func TestSimple_MoreMembersThanQueues(t *testing.T) {
	c := newConsumption(t, 1)
	const members = 8
	c.publish(1, members)
	var inside atomic.Int32
	all := make(chan struct{})
	for range members {
		c.run(c.simple(func(cfg *consumer.SimpleConfig) { cfg.Concurrency = 1 }), func(ctx context.Context, d *consumer.Delivery) error {
			if inside.Add(1) == members {
				close(all)
			}
			select {
			case <-all:
			case <-ctx.Done():
				return ctx.Err()
			}
			return c.handle(ctx, d)
		})
	}
	consumptionWait(c, "all members are in handlers at once", all)
	c.allOnce()
}

// Nothing is lost, and nothing comes twice while no invisible time ends, while members
// come and go.
func TestSimple_NothingLostNothingTwice(t *testing.T) {
	c := newConsumption(t, 3)
	member := func() (leave func()) {
		s := c.simple(func(cfg *consumer.SimpleConfig) { cfg.Invisible = time.Hour })
		stop := c.run(s, c.handle)
		return func() {
			stop()
			c.closeSimple(s)
		}
	}
	var leave []func()
	for range 4 {
		leave = append(leave, member())
	}
	for i := range 8 {
		c.publish(3, 200)
		leave = append(leave, member())
		leave[i]()
	}
	c.allOnce()
	c.consumed("billing")
}

// consumed waits until a group has nothing left to do.
func (c *consumption) consumed(group string) {
	c.Helper()
	harness.Eventually(c, "the group has consumed all", func() bool {
		g, err := c.admin.DescribeGroup(c.Context(), group, admin.Target{})
		if err != nil {
			return false
		}
		lag := int64(0)
		for _, q := range g.Queues {
			lag += q.Lag
		}
		return lag == 0
	})
}

// A handler that takes long keeps its message.
func TestSimple_RenewalKeepsAMessage(t *testing.T) {
	c := newConsumption(t, 1)
	c.publish(1, 3)
	const invisible = 2 * time.Second // a renewal has half of it to arrive
	for range 2 {
		c.run(c.simple(func(cfg *consumer.SimpleConfig) { cfg.Invisible = invisible }), func(ctx context.Context, d *consumer.Delivery) error {
			long := time.NewTimer(2 * invisible)
			defer long.Stop()
			select {
			case <-long.C:
			case <-ctx.Done():
				c.Errorf("the handler's context ends: %v", context.Cause(ctx))
			}
			return c.handle(ctx, d)
		})
	}
	c.allOnce()
}

// A handler that never ends is left alone: its message goes to another.
func TestSimple_ConsumeTimeout(t *testing.T) {
	c := newConsumption(t, 1)
	c.publish(1, 1)
	s := c.simple(func(cfg *consumer.SimpleConfig) {
		cfg.Invisible, cfg.ConsumeTimeout = 2*time.Second, 3*time.Second
	})
	stuck, free := make(chan error, 1), make(chan struct{})
	var calls atomic.Int32
	c.run(s, func(ctx context.Context, d *consumer.Delivery) error {
		if calls.Add(1) == 1 {
			<-ctx.Done()
			stuck <- context.Cause(ctx)
			<-free
		}
		return c.handle(ctx, d)
	})
	if err := consumptionReceive(c, "the end of the handler's context", stuck); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	harness.Eventually(t, "the message is handed out again", func() bool { n, _ := c.deliveries(); return n == 1 })
	close(free)
}

func consumptionReceive[T any](c *consumption, what string, from <-chan T) T {
	c.Helper()
	timer := time.NewTimer(harness.Timeout)
	defer timer.Stop()
	select {
	case v := <-from:
		return v
	case <-timer.C:
		c.Fatalf("not within %v: %s", harness.Timeout, what)
		panic("unreachable")
	}
}

// The messages of a message group come one after another, in order, whoever gets them.
func TestSimple_OrderOfMessageGroups(t *testing.T) {
	c := newConsumption(t, 2)
	const groups, each = 5, 40
	for i := range each {
		for g := range groups {
			c.send(&message.Message{Group: strconv.Itoa(g), Body: []byte(strconv.Itoa(i))})
		}
	}
	var mu sync.Mutex
	seen, busy, failed, total := map[string][]string{}, map[string]bool{}, map[string]bool{}, 0
	handle := func(_ context.Context, d *consumer.Delivery) error {
		mu.Lock()
		if busy[d.Group] {
			t.Errorf("two messages of group %s at once", d.Group)
		}
		busy[d.Group] = true
		mu.Unlock()
		mu.Lock()
		defer mu.Unlock()
		busy[d.Group] = false
		if key := d.Group + "/" + string(d.Body); strings.HasSuffix(key, "7") && !failed[key] {
			failed[key] = true
			return consumer.RetryAfter(20*time.Millisecond, errors.New("once"))
		}
		seen[d.Group] = append(seen[d.Group], string(d.Body))
		total++
		return nil
	}
	for range 3 {
		c.run(c.simple(), handle)
	}
	harness.Eventually(t, "all messages", func() bool { mu.Lock(); defer mu.Unlock(); return total >= groups*each })
	mu.Lock()
	defer mu.Unlock()
	for g, bodies := range seen {
		for i, b := range bodies {
			if b != strconv.Itoa(i) {
				t.Fatalf("group %s: got %v", g, bodies)
			}
		}
	}
}

func TestSimple_HandleExpires(t *testing.T) {
	c := newConsumption(t, 1)
	c.publish(1, 1)
	s := c.simple()
	first := c.receive(s, 1, time.Second)[0]
	second := c.receive(s, 1, time.Minute)[0]
	if second.ID != first.ID || first.Attempt != 1 || second.Attempt != 2 {
		t.Fatalf("got %v at attempt %d, then %v at %d", first.ID, first.Attempt, second.ID, second.Attempt)
	}
	for name, err := range map[string]error{
		"ack": first.Ack(t.Context()), "change": first.ChangeInvisible(t.Context(), time.Second), "reject": first.Reject(t.Context(), nil),
	} {
		if !errors.Is(err, consumer.ErrHandleExpired) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	c.check(second.Ack(t.Context()))
	c.check(second.Ack(t.Context()))
	c.consumed("billing")
	if err := first.Ack(t.Context()); err != nil {
		t.Errorf("ack of what is finished: got %v", err)
	}
}

// An ack that is late, and nobody else had the message, counts.
func TestSimple_LateAck(t *testing.T) {
	c := newConsumption(t, 1)
	c.publish(1, 1)
	s := c.simple()
	p := c.receive(s, 1, 20*time.Millisecond)[0]
	harness.Eventually(t, "the time is over", func() bool { return time.Now().After(p.InvisibleUntil().Add(20 * time.Millisecond)) })
	c.check(p.Ack(t.Context()))
	c.nothing(s)
}

func TestSimple_ChangeInvisible(t *testing.T) {
	c := newConsumption(t, 1)
	c.publish(1, 1)
	s := c.simple()
	p := c.receive(s, 1, time.Second)[0]
	until := p.InvisibleUntil()
	c.check(p.ChangeInvisible(t.Context(), time.Hour))
	harness.Eventually(t, "its first time is over", func() bool { return time.Now().After(until) })
	c.nothing(s)
	c.check(p.ChangeInvisible(t.Context(), consumer.MinInvisible))
	if again := c.receive(s, 1, time.Minute)[0]; again.ID != p.ID || again.Attempt != 2 {
		t.Errorf("got %v, attempt %d", again.ID, again.Attempt)
	}
}

func TestSimple_AckOfMany(t *testing.T) {
	c := newConsumption(t, 3)
	c.publish(3, 100)
	s := c.simple()
	var all []*consumer.Popped
	for len(all) < c.sent {
		all = append(all, c.receive(s, consumer.MaxReceive, time.Minute)...)
	}
	c.check(s.Ack(t.Context(), all...))
	c.consumed("billing")
	c.nothing(s)
}

func TestSimple_RejectIsADeadLetter(t *testing.T) {
	c := newConsumption(t, 1)
	c.publish(1, 2)
	s := c.simple()
	ps := c.receive(s, 2, time.Minute)
	c.check(ps[0].Reject(t.Context(), errors.New("no such account")))
	stop := c.run(s, c.handle)
	c.check(ps[1].ChangeInvisible(t.Context(), consumer.MinInvisible))
	harness.Eventually(t, "the other is handled", func() bool { n, _ := c.deliveries(); return n == 1 })
	stop()
	dead := c.deadLetters("billing", 1)
	if dead[0].ID != ps[0].ID || dead[0].Origin == nil || dead[0].Origin.Topic != consumedTopic ||
		dead[0].Origin.LastError != "no such account" || dead[0].ReconsumeTimes != 1 {
		t.Errorf("got %+v, origin %+v", dead[0], dead[0].Origin)
	}
	c.consumed("billing")
}

// deadLetters waits for so many dead letters of a group.
func (c *consumption) deadLetters(group string, n int) []*consumer.Delivery {
	c.Helper()
	p, err := consumer.NewPull(c.Context(), consumer.PullConfig{
		NameServers: c.cluster.NameServers, Subscriptions: []consumer.Subscription{{Topic: message.DLQTopic(group)}}, From: consumer.Earliest(),
	})
	if err != nil {
		c.Fatal(err)
	}
	defer func() { c.check(p.Close(context.WithoutCancel(c.Context()))) }()
	ctx, cancel := context.WithTimeout(c.Context(), harness.Timeout)
	defer cancel()
	var all []*consumer.Delivery
	for len(all) < n {
		ds, err := p.Poll(ctx, n)
		if err != nil {
			c.Fatal(err)
		}
		all = append(all, ds...)
	}
	return all
}

// A handler that rejects makes a dead letter, and one that fails too often, too; by the
// group's policy.
func TestSimple_FailuresOfHandlers(t *testing.T) {
	c := newConsumption(t, 2)
	_, err := c.admin.CreateGroup(t.Context(), protocol.GroupConfig{
		Name: "billing", ConsumeEnabled: true, RetryMax: 2,
		RetryPolicy: protocol.RetryPolicy{Kind: protocol.RetryExponential, FirstMillis: 10, MaxMillis: 20},
	}, admin.Target{})
	c.check(err)
	c.publish(2, 2)
	var mu sync.Mutex
	calls := map[string][]int{}
	c.run(c.simple(), func(_ context.Context, d *consumer.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		calls[string(d.Body)] = append(calls[string(d.Body)], d.Attempt)
		switch string(d.Body) {
		case "0":
			return fmt.Errorf("%w: it is poison", consumer.ErrReject)
		case "1":
			panic("always")
		case "2":
			if d.Attempt < 3 {
				return consumer.RetryAfter(10*time.Millisecond, errors.New("not yet"))
			}
		}
		return nil
	})
	dead := c.deadLetters("billing", 2)
	c.consumed("billing")
	bodies := []string{string(dead[0].Body), string(dead[1].Body)}
	if slices.Sort(bodies); !slices.Equal(bodies, []string{"0", "1"}) {
		t.Errorf("dead are %v", bodies)
	}
	mu.Lock()
	defer mu.Unlock()
	for body, want := range map[string]string{"0": "[1]", "1": "[1 2 3]", "2": "[1 2 3]", "3": "[1]"} {
		if got := fmt.Sprint(calls[body]); got != want {
			t.Errorf("%s: attempts %s, want %s", body, got, want)
		}
	}
}

// The cluster may go and come back: what was acknowledged stays so, what was not comes
// again when its time is over.
func TestSimple_Restart(t *testing.T) {
	c := newConsumption(t, 2)
	c.publish(2, 20)
	s := c.simple()
	var all []*consumer.Popped
	for len(all) < c.sent {
		all = append(all, c.receive(s, c.sent, 15*time.Second)...)
	}
	c.check(s.Ack(t.Context(), all[:30]...))
	c.cluster.Restart()
	c.check(s.Ack(t.Context(), all[30:35]...)) // the handles survive
	left := map[message.ID]bool{}
	for _, p := range all[35:] {
		left[p.ID] = true
	}
	for len(left) > 0 {
		for _, p := range c.receive(s, 10, time.Minute) {
			if !left[p.ID] || p.Attempt != 2 {
				t.Fatalf("got %v, attempt %d", p.ID, p.Attempt)
			}
			delete(left, p.ID)
			c.check(p.Ack(t.Context()))
		}
	}
	c.nothing(s)
}

// Handlers go on over a restart, and nothing is lost.
func TestSimple_RunOverARestart(t *testing.T) {
	c := newConsumption(t, 2)
	c.run(c.simple(), c.handle)
	c.publish(2, 50)
	c.cluster.Restart()
	c.publish(2, 50)
	harness.Eventually(t, "all messages", func() bool { n, _ := c.deliveries(); return n == c.sent })
	c.consumed("billing")
}

func TestSimple_Filter(t *testing.T) {
	c := newConsumption(t, 2)
	for i := range 60 {
		c.send(&message.Message{Tag: []string{"a", "b", "c"}[i%3], Properties: map[string]string{"n": strconv.Itoa(i)}})
	}
	for name, f := range map[string]struct {
		sub  consumer.Subscription
		want int
	}{
		"tags": {consumer.Subscription{Tag: "a || c"}, 40}, "sql": {consumer.Subscription{SQL: "n < 10"}, 10}, "none": {consumer.Subscription{Tag: "x"}, 0},
	} {
		s := c.simple(func(cfg *consumer.SimpleConfig) {
			f.sub.Topic = consumedTopic
			cfg.Group, cfg.Subscriptions = name, []consumer.Subscription{f.sub}
		})
		for got := 0; got < f.want; {
			ps := c.receive(s, 7, time.Minute)
			got += len(ps)
			c.check(s.Ack(t.Context(), ps...))
		}
		c.nothing(s)
		c.consumed(name)
	}
}

// A group is consumed by push or by pop, not both at a time; it may change.
func TestSimple_PushOrPop(t *testing.T) {
	c := newConsumption(t, 1)
	c.publish(1, 5)
	cfg := c.config()
	cfg.ClientID = "!first" // so that the queue stays its own
	stop := c.push(cfg, c.handle)
	c.allOnce()
	s := c.simple()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Timeout)
	defer cancel()
	if _, err := s.Receive(ctx, 1, time.Minute); !errors.Is(err, protocol.Conflict) {
		t.Fatalf("got %v", err)
	}
	stop()
	c.publish(1, 5)
	c.run(s, c.handle)
	c.allOnce()
	c.consumed("billing")
}

// What waits for its retry when a group changes from push to pop is not lost.
func TestSimple_TakesOverRetries(t *testing.T) {
	c := newConsumption(t, 1)
	c.publish(1, 1)
	failed := make(chan struct{}, 1)
	stop := c.push(c.config(), func(context.Context, *consumer.Delivery) error {
		failed <- struct{}{}
		return consumer.RetryAfter(2*time.Second, errors.New("later")) // when this member is gone
	})
	consumptionReceive(c, "the failure", failed)
	stop()
	p := c.receive(c.simple(), 1, time.Minute)[0]
	if p.Topic != consumedTopic || p.Attempt != 2 || p.Queue.Topic != message.RetryTopic("billing") {
		t.Errorf("got topic %q from %v, attempt %d", p.Topic, p.Queue, p.Attempt)
	}
	c.check(p.Ack(t.Context()))
}

func TestSimple_Reply(t *testing.T) {
	c := newConsumption(t, 1)
	c.run(c.simple(), func(ctx context.Context, d *consumer.Delivery) error {
		return d.Reply(ctx, &message.Message{Body: append([]byte("re: "), d.Body...)})
	})
	ctx, cancel := context.WithTimeout(t.Context(), harness.Timeout)
	defer cancel()
	reply, err := c.producer.Request(ctx, &message.Message{Topic: consumedTopic, Body: []byte("hello")})
	if err != nil || string(reply.Body) != "re: hello" {
		t.Errorf("got %v, %v", reply, err)
	}
}

// A consumer that leaves takes no message with it: what waits at the broker for it ends.
func TestSimple_LeavesNothingBehind(t *testing.T) {
	c := newConsumption(t, 1)
	for range 10 {
		s := c.simple()
		c.publish(1, 1)
		got := make(chan error, 1)
		go func() {
			for {
				ps, err := s.Receive(t.Context(), 1, time.Hour)
				if err != nil {
					got <- err
					return
				}
				c.check(s.Ack(t.Context(), ps...))
				for _, p := range ps {
					c.check(c.handle(t.Context(), &p.Delivery))
				}
			}
		}()
		harness.Eventually(t, "it waits", func() bool { n, _ := c.deliveries(); return n == c.sent })
		c.closeSimple(s)
		if err := consumptionReceive(c, "the end", got); !errors.Is(err, consumer.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
	c.publish(1, 1)
	c.run(c.simple(), c.handle)
	c.allOnce()
}
