package tests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

// hears waits until a listener has got so many messages, each once.
func (c *consumption) hears(l *listener, n int) {
	c.Helper()
	harness.Eventually(c, fmt.Sprintf("%d messages", n), func() bool { got, _ := l.deliveries(); return got == n })
	if _, again := l.deliveries(); again != 0 {
		c.Errorf("%d messages came again", again)
	}
}

func (c *consumption) broadcast(client, dir string) consumer.Config {
	cfg := c.config()
	cfg.Broadcast, cfg.ClientID, cfg.OffsetsDir, cfg.BrokerOffsets = true, client, dir, dir == ""
	return cfg
}

// Every member gets every message, in both ways of keeping offsets; who was away goes on
// where it was, over a restart of the server.
func TestBroadcast_EveryMemberGetsAll(t *testing.T) {
	for _, where := range []string{"file", "broker"} {
		t.Run(where, func(t *testing.T) {
			c := newConsumption(t, 4)
			dir := map[string]string{"file": t.TempDir()}[where]
			var one, two listener
			c.push(c.broadcast("one", dir), one.handle)
			stop := c.push(c.broadcast("two", dir), two.handle)
			c.publish(4, 20)
			c.hears(&one, 80)
			c.hears(&two, 80)
			stop()
			c.publish(4, 10)
			c.cluster.Restart()
			c.publish(4, 10)
			c.push(c.broadcast("two", dir), two.handle)
			c.hears(&one, 160)
			c.hears(&two, 160)
		})
	}
}

// knows waits until the broker knows so many members of the group.
func (c *consumption) knows(members int) {
	c.Helper()
	harness.Eventually(c, fmt.Sprintf("%d members", members), func() bool {
		clients, err := c.admin.Clients(c.Context(), "billing", admin.Target{})
		return err == nil && len(clients) == members
	})
}

// Whoever shares queues is refused by a group that broadcasts, and the other way; so is a
// member with another subscription. Who was there first is not disturbed.
func TestBroadcast_MembersAreAlike(t *testing.T) {
	c := newConsumption(t, 2)
	refused := func(cfg consumer.Config, parts ...string) {
		t.Helper()
		p, err := consumer.NewPush(t.Context(), cfg, c.handle)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), harness.Timeout)
		defer cancel()
		err = p.Run(ctx)
		if !errors.Is(err, consumer.ErrRefused) || !errors.Is(err, protocol.Conflict) {
			t.Fatalf("got %v, want ErrRefused", err)
		}
		for _, part := range append(parts, "one", "late") {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q is not in %q", part, err)
			}
		}
	}
	var one listener
	cfg := c.broadcast("one", t.TempDir())
	stop := c.push(cfg, one.handle)
	c.knows(1) // who broadcasts reads before any broker knows it
	sharing := c.config()
	sharing.ClientID = "late"
	refused(sharing, "shares queues", "broadcasting")
	other := c.broadcast("late", t.TempDir())
	other.Subscriptions = []consumer.Subscription{{Topic: consumedTopic, Tag: "a"}}
	refused(other, "tag a")
	c.publish(2, 5)
	c.hears(&one, 10)
	stop()
	sharing.ClientID = "one"
	c.push(sharing, c.handle)
	refused(c.broadcast("late", t.TempDir()), "shares queues", "broadcasting")
}

// Offsets on the brokers are an ordinary group's: exact lag, reset while it runs. Those
// in files are nobody's business, and no lag is made up.
func TestBroadcast_OffsetsOfAGroup(t *testing.T) {
	c := newConsumption(t, 2)
	c.publish(2, 10)
	var one, two listener
	stop := c.push(c.broadcast("one", ""), one.handle)
	c.push(c.broadcast("two", t.TempDir()), two.handle)
	c.hears(&one, 20)
	c.hears(&two, 20)
	c.knows(2)
	if lag, err := c.admin.GroupLag(t.Context(), "billing", admin.Target{}); err != nil || len(lag) != 0 {
		t.Errorf("lag of the group itself: got %v, %v, want none", lag, err)
	}
	own := consumer.BroadcastGroup("billing", "one")
	if _, err := c.admin.ResetOffsets(t.Context(), admin.Reset{Group: own, Topic: consumedTopic, To: protocol.ResetToEarliest}, admin.Target{}); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "all of them again", func() bool { _, again := one.deliveries(); return again == 20 })
	stop()
	c.publish(2, 3)
	lag, err := c.admin.GroupLag(t.Context(), own, admin.Target{})
	total := int64(0)
	for _, q := range lag {
		total += q.Lag
	}
	if err != nil || total != 6 {
		t.Errorf("lag of the member that is away: got %d, %v, want 6", total, err)
	}
	clients, err := c.admin.Clients(t.Context(), "billing", admin.Target{})
	if err != nil || len(clients) != 1 || clients[0].ID != "two" || !clients[0].Subscriptions[0].Broadcast {
		t.Errorf("clients: got %+v, %v", clients, err)
	}
}

// A message that fails is tried again by each member for itself; nothing is sent back,
// and other messages do not wait.
func TestBroadcast_Failures(t *testing.T) {
	c := newConsumption(t, 1)
	c.publish(1, 5)
	cfg := c.broadcast("one", t.TempDir())
	cfg.MaxReconsumeTimes = 2
	dropped := make(chan error, 10)
	cfg.OnError = func(err error) { dropped <- err }
	var one listener
	stop := c.push(cfg, func(ctx context.Context, d *consumer.Delivery) error {
		one.handle(ctx, d)
		if string(d.Body) == "1" {
			return consumer.RetryAfter(time.Millisecond, errors.New("no funds"))
		}
		return nil
	})
	if err := <-dropped; !errors.Is(err, consumer.ErrDropped) || !strings.Contains(err.Error(), "no funds") {
		t.Errorf("got %v, want ErrDropped", err)
	}
	harness.Eventually(t, "three attempts", func() bool { n, again := one.deliveries(); return n == 5 && again == 2 })
	stop()
	topics, err := c.admin.TopicNames(t.Context())
	if err != nil || slices.Contains(topics, message.RetryTopic("billing")) {
		t.Errorf("topics: got %v, %v, and want no retry topic", topics, err)
	}
	c.publish(1, 1)
	var again listener
	c.push(cfg, again.handle)
	c.hears(&again, 1)
}

// A member that pulls: what it has not asked beyond comes again, a seek is remembered.
func TestBroadcast_Pull(t *testing.T) {
	c := newConsumption(t, 1)
	c.publish(1, 5)
	dir := t.TempDir()
	read := func(n int) (bodies []string, p *consumer.Pull) {
		t.Helper()
		p, err := consumer.NewPull(t.Context(), consumer.PullConfig{
			NameServers: c.cluster.NameServers, Group: "billing", Subscriptions: []consumer.Subscription{{Topic: consumedTopic}},
			From: consumer.Earliest(), Broadcast: true, OffsetsDir: dir, ClientID: "one", ManualCommit: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		for d, err := range p.Messages(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if bodies = append(bodies, string(d.Body)); len(bodies) == n {
				break
			}
		}
		return bodies, p
	}
	got, p := read(2)
	c.check(p.Commit(t.Context()))
	if err := p.Assign(); !errors.Is(err, consumer.ErrHasGroup) {
		t.Errorf("assign: got %v, want ErrHasGroup", err)
	}
	c.check(p.Close(t.Context()))
	more, p := read(3)
	c.check(p.Commit(t.Context()))
	c.check(p.Seek(t.Context(), p.Assigned()[0], consumer.AtOffset(4)))
	c.check(p.Commit(t.Context()))
	c.check(p.Close(t.Context()))
	last, p := read(1)
	c.check(p.Close(t.Context()))
	if all := slices.Concat(got, more, last); !slices.Equal(all, []string{"0", "1", "2", "3", "4", "4"}) {
		t.Errorf("got %v", all)
	}
}

// `rmq sub --broadcast` that is killed goes on behind what it had written down, and the
// file is free.
func TestBroadcast_KilledProcess(t *testing.T) {
	binary := harness.Binary(t)
	c := newConsumption(t, 2)
	dir := t.TempDir()
	line := fmt.Sprintf("sub %s -n %s --group billing --broadcast --client-id me --offsets-dir %s --from earliest --raw", consumedTopic, c.cluster.NameServers[0], dir)
	file := filepath.Join(dir, "me", "billing", "offsets.json")
	for round := range 2 {
		c.publish(2, 50)
		run := start(t, binary, line)
		var lines []int
		for len(lines) < 100 {
			n, err := strconv.Atoi(run.line(run.stdout))
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, n)
		}
		if slices.Sort(lines); lines[0] != 100*round || lines[99] != 100*round+99 {
			t.Errorf("round %d: got messages %d to %d", round, lines[0], lines[99])
		}
		written := fmt.Sprintf(`"offset":%d`, 50*(round+1))
		harness.Eventually(t, "the offsets are written down", func() bool {
			b, err := os.ReadFile(file)
			return err == nil && strings.Count(string(b), written) == 2
		})
		if round == 0 {
			second := start(t, binary, line)
			if code, errs := second.wait(); code != 6 || !strings.Contains(errs, "OFFSETS_IN_USE") {
				t.Errorf("a second one: exits with %d, %s", code, errs)
			}
		}
		run.cmd.Process.Kill() // it is waited for
		run.cmd.Wait()
	}
}

// Batches of several members, with failures, groups and a rebalance: nothing is lost, and
// each message group is in order.
func TestBatch_OfAGroup(t *testing.T) {
	c := newConsumption(t, 4)
	var mu sync.Mutex
	seen, last, largest, failures := map[int]bool{}, map[string]int{}, 0, 0
	handle := func(_ context.Context, ds []*consumer.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		largest = max(largest, len(ds))
		for i, d := range ds {
			n, err := strconv.Atoi(string(d.Body))
			if err != nil {
				return err
			}
			if n%37 == 0 && d.Attempt == 1 {
				failures++
				return consumer.Processed(i, consumer.RetryAfter(time.Millisecond, errors.New("not yet")))
			}
			c.handle(t.Context(), d)
			if seen[n] {
				continue // a queue that moves while a message of it has failed comes again from there
			}
			if before, ok := last[d.Group]; d.Group != "" && ok && n <= before {
				t.Errorf("group %s: %d comes after %d", d.Group, n, before)
			}
			seen[n], last[d.Group] = true, n
		}
		return nil
	}
	c.publish(1, 400, func(m *message.Message) { m.Group = []string{"", "a", "b", ""}[c.sent%4] })
	var runs []func()
	for range 2 {
		cfg := c.config()
		cfg.BatchSize, cfg.Concurrency = 16, 2
		p, err := consumer.NewPushBatch(t.Context(), cfg, handle)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		ran := make(chan error, 1)
		go func() { ran <- p.Run(ctx) }() // waited for below
		runs = append(runs, func() { cancel(); c.check(<-ran) })
		consumptionWait(c, "the consumer has its queues", p.Ready())
	}
	c.publish(4, 100)
	harness.Eventually(t, "all messages", func() bool { n, _ := c.deliveries(); return n == c.sent })
	for _, stop := range runs {
		stop()
	}
	if largest < 2 || largest > 16 || failures == 0 {
		t.Errorf("batches of up to %d with %d failures; want 2 to 16, and some", largest, failures)
	}
}

// A consumer is suspended, slowed down and made larger while it runs.
func TestPush_Throttled(t *testing.T) {
	c := newConsumption(t, 2)
	p, err := consumer.NewPush(t.Context(), c.config(), c.handle)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }() // waited for at the end
	defer func() { cancel(); c.check(<-ran) }()
	consumptionWait(c, "the consumer has its queues", p.Ready())
	p.Suspend()
	c.publish(2, 20)
	harness.Eventually(t, "the broker says that it is suspended", func() bool {
		clients, err := c.admin.Clients(t.Context(), "billing", admin.Target{})
		return err == nil && len(clients) == 1 && clients[0].Subscriptions[0].Suspended
	})
	if n, _ := c.deliveries(); n != 0 {
		t.Errorf("%d messages came while it was suspended", n)
	}
	c.check(errors.Join(p.SetRate(1000, 1), p.SetConcurrency(2)))
	p.Resume()
	c.allOnce()
}
