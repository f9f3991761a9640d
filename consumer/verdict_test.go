package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestJudge(t *testing.T) {
	fault := errors.New("no funds")
	for name, c := range map[string]struct {
		limit, times, attempt int // attempt beyond times
		laned                 bool
		err                   error
		dead, here            bool
		delay                 int64
		pause                 time.Duration
	}{
		"by the policy":              {err: fault, attempt: 1, delay: protocol.ByPolicy, pause: time.Second},
		"after a time":               {err: fmt.Errorf("x: %w", RetryAfter(1500*time.Microsecond, fault)), attempt: 1, delay: 2, pause: 1500 * time.Microsecond},
		"at once":                    {err: RetryAfter(-1, nil), attempt: 1},
		"rejected":                   {err: fmt.Errorf("x: %w", ErrReject), attempt: 1, dead: true, delay: protocol.ByPolicy, pause: time.Second},
		"often":                      {err: fault, times: 100, attempt: 1, delay: protocol.ByPolicy, pause: time.Second},
		"below its limit":            {limit: 3, times: 2, attempt: 1, err: fault, delay: protocol.ByPolicy, pause: time.Second},
		"at its limit":               {limit: 3, times: 3, attempt: 1, err: fault, dead: true, delay: protocol.ByPolicy, pause: time.Second},
		"never again":                {limit: -1, attempt: 1, err: fault, dead: true, delay: protocol.ByPolicy, pause: time.Second},
		"lane":                       {laned: true, attempt: 1000, err: fault, here: true, pause: time.Second},
		"lane after a time":          {laned: true, attempt: 1, err: RetryAfter(time.Minute, fault), here: true, pause: time.Minute},
		"lane rejected":              {laned: true, attempt: 2, err: ErrReject, dead: true, delay: protocol.ByPolicy, pause: time.Second},
		"lane below its limit":       {laned: true, limit: 2, attempt: 2, err: fault, here: true, pause: time.Second},
		"lane at its limit":          {laned: true, limit: 2, attempt: 3, err: fault, dead: true, delay: protocol.ByPolicy, pause: time.Second},
		"lane that was sent back":    {laned: true, limit: 3, times: 2, attempt: 2, err: fault, dead: true, delay: protocol.ByPolicy, pause: time.Second},
		"lane that is given up once": {laned: true, limit: -1, attempt: 1, err: fault, dead: true, delay: protocol.ByPolicy, pause: time.Second},
	} {
		cfg := validConfig()
		cfg.MaxReconsumeTimes = c.limit
		p := newTestPush(t, cfg, ignore)
		it := &item{queue: newProcessQueue(queueA, 7, 0, 0, orderGroups), offset: 5, laned: c.laned}
		it.ReconsumeTimes, it.Attempt = c.times, c.times+c.attempt
		v := p.judge(it, c.err)
		if (v.back == nil) != c.here || v.pause != c.pause {
			t.Errorf("%s: got %+v", name, v)
			continue
		}
		if v.back == nil {
			continue
		}
		if b := v.back; b.Dead != c.dead || b.DelayMillis != c.delay || b.Fence != 7 || b.Offset != 5 || b.Group != "g" || b.Error != c.err.Error() {
			t.Errorf("%s: got %+v", name, b)
		}
		if want := map[bool]int{true: c.attempt}[c.laned]; v.back.Attempts != want {
			t.Errorf("%s: got %d attempts, want %d", name, v.back.Attempts, want)
		}
	}
}

func TestExtend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := validConfig()
		cfg.ConsumeTimeout = time.Minute
		start := time.Now()
		c := newTestPush(t, cfg, func(ctx context.Context, d *Delivery) error {
			child, cancel := context.WithCancel(ctx)
			defer cancel()
			<-time.After(50 * time.Second)
			if !d.Extend(2 * time.Minute) {
				t.Error("not extended")
			}
			if at, _ := ctx.Deadline(); at.Sub(start) != 170*time.Second {
				t.Errorf("deadline after %v", at.Sub(start))
			}
			<-child.Done()
			if d.Extend(time.Hour) || !errors.Is(child.Err(), context.DeadlineExceeded) {
				t.Errorf("it is over, %v", child.Err())
			}
			return ctx.Err()
		})
		d := &Delivery{}
		if err := c.call(t.Context(), d); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 170*time.Second {
			t.Errorf("got %v after %v", err, time.Since(start))
		}
		if d.Extend(time.Hour) {
			t.Error("extended after its end")
		}
	})
}

// The broker does not take the message back at first, and its answer is lost: the
// handler is not asked again, the request is the same, and the offset waits.
func TestSendBack_IsRepeatedUntilItIsAnswered(t *testing.T) {
	b := startFake(t, 1)
	b.store(0, 2)
	var mu sync.Mutex
	var requests []protocol.SendBackRequest
	b.takeBack = func(r *protocol.SendBackRequest) (*protocol.SendBackResponse, error) {
		mu.Lock()
		defer mu.Unlock()
		if requests = append(requests, *r); len(requests) < 2 {
			return nil, protocol.Errorf(protocol.UnknownOutcome, "lost")
		}
		if c := b.committedAt(0); c > 0 {
			t.Errorf("committed %d before the broker has the message", c)
		}
		return &protocol.SendBackResponse{}, nil
	}
	var seen record
	cfg, _ := groupConfig(b, t)
	_, stop := run(t, cfg, func(ctx context.Context, d *Delivery) error {
		_ = seen.handle(ctx, d)
		if d.QueueOffset == 0 {
			return errors.New("no funds")
		}
		return nil
	})
	eventually(t, "the offset passes", func() bool { return b.committedAt(0) == 2 })
	stop()
	mu.Lock()
	defer mu.Unlock()
	if seen.count() != 2 || len(requests) != 2 || requests[0] != requests[1] || requests[0].ClientID == "" {
		t.Errorf("%d calls of handlers, requests %+v", seen.count(), requests)
	}
}

// A broker that refuses for good leaves the message to the consumer.
func TestSendBack_RefusedIsTriedAgainHere(t *testing.T) {
	b := startFake(t, 1)
	b.store(0, 1)
	b.takeBack = func(*protocol.SendBackRequest) (*protocol.SendBackResponse, error) {
		return nil, protocol.Errorf(protocol.NoPermission, "not you")
	}
	cfg, _ := groupConfig(b, t)
	_, stop := run(t, cfg, func(_ context.Context, d *Delivery) error {
		if d.Attempt == 1 {
			return errors.New("once more")
		}
		return nil
	})
	eventually(t, "it is finished", func() bool { return b.committedAt(0) == 1 })
	stop()
}

// failingGroup is a cluster with topic t and group g, and what handlers saw.
type failingGroup struct {
	*testing.T
	cluster *harness.Cluster
	admin   *admin.Admin
	mu      sync.Mutex
	seen    []string
}

func newFailingGroup(t *testing.T, cfg protocol.GroupConfig, messages ...*message.Message) *failingGroup {
	t.Helper()
	c := harness.Start(t)
	a, err := admin.New(t.Context(), admin.Config{NameServers: c.NameServers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	cfg.Name, cfg.ConsumeEnabled = "g", true
	_, err = a.CreateGroup(t.Context(), cfg, admin.Target{})
	if err == nil {
		_, err = a.CreateTopic(t.Context(), admin.TopicSpec{Name: "t", ReadQueues: 1, WriteQueues: 1}, admin.Target{})
	}
	p, perr := producer.New(t.Context(), producer.Config{NameServers: c.NameServers})
	if err = errors.Join(err, perr); err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		m.Topic = "t"
		if _, err := p.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &failingGroup{T: t, cluster: c, admin: a}
}

func (f *failingGroup) run(change func(*Config), fail func(d *Delivery) error) (stop func()) {
	cfg := Config{NameServers: f.cluster.NameServers, Group: "g", Subscriptions: []Subscription{{Topic: "t"}}, From: Earliest(), SuspendTime: 10 * time.Millisecond}
	change(&cfg)
	_, stop = run(f.T, cfg, func(_ context.Context, d *Delivery) error {
		f.mu.Lock()
		f.seen = append(f.seen, fmt.Sprintf("%s%d", d.Body, d.Attempt))
		f.mu.Unlock()
		if d.Topic != "t" {
			f.Errorf("topic %q", d.Topic)
		}
		return fail(d)
	})
	return stop
}

func (f *failingGroup) calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.seen)
}

func (f *failingGroup) dead() (all []message.Stored) {
	for m, err := range f.admin.DeadLetters(f.Context(), "g", admin.Target{}) {
		if err == nil {
			all = append(all, m)
		}
	}
	return all
}

func body(text string) *message.Message { return &message.Message{Body: []byte(text)} }

func TestRetry_APoisonMessageBlocksNobodyAndIsADeadLetter(t *testing.T) {
	f := newFailingGroup(t, protocol.GroupConfig{RetryMax: 3, RetryPolicy: protocol.RetryPolicy{Kind: protocol.RetryExponential, FirstMillis: 1, MaxMillis: 4}},
		body("p"), body("a"), body("r"))
	stop := f.run(func(*Config) {}, func(d *Delivery) error {
		switch string(d.Body) {
		case "p":
			panic("poison")
		case "r":
			return fmt.Errorf("never: %w", ErrReject)
		}
		return nil
	})
	eventually(t, "two dead letters", func() bool { return len(f.dead()) == 2 })
	stop()
	calls := f.calls()
	slices.Sort(calls)
	if want := []string{"a1", "p1", "p2", "p3", "p4", "r1"}; !slices.Equal(calls, want) {
		t.Errorf("got %v, want %v", calls, want)
	}
	for _, m := range f.dead() {
		times, text := 4, "poison"
		if string(m.Body) == "r" {
			times, text = 1, "never"
		}
		if m.ReconsumeTimes != times || m.Origin.Topic != "t" || !strings.Contains(m.Origin.LastError, text) || len(m.Origin.LastError) > message.MaxErrorBytes {
			t.Errorf("got %+v of %+v", m, m.Origin)
		}
	}
}

func TestRetry_ALaneWaitsAlone(t *testing.T) {
	in := func(group, text string) *message.Message { return &message.Message{Group: group, Body: []byte(text)} }
	f := newFailingGroup(t, protocol.GroupConfig{RetryMax: protocol.NoRetry}, in("x", "p"), in("x", "q"), in("y", "a"))
	var done sync.WaitGroup
	done.Add(1)
	stop := f.run(func(c *Config) { c.MaxReconsumeTimes = 2 }, func(d *Delivery) error {
		switch string(d.Body) {
		case "a":
			done.Done()
		case "p":
			done.Wait() // or the other lane would wait for this one
			return errors.New("no funds")
		}
		return nil
	})
	eventually(t, "the next of the lane comes", func() bool { return slices.Contains(f.calls(), "q1") })
	stop()
	calls := slices.DeleteFunc(f.calls(), func(s string) bool { return s == "a1" })
	if want := []string{"p1", "p2", "p3", "q1"}; !slices.Equal(calls, want) {
		t.Errorf("got %v, want %v", calls, want)
	}
	if dead := f.dead(); len(dead) != 1 || dead[0].ReconsumeTimes != 3 || dead[0].Group != "x" {
		t.Errorf("got %+v", dead)
	}
}
