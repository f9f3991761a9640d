package admin_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

// peeked are the numbers of the newest messages, up to n, and the errors among them.
func peeked(t *testing.T, a *admin.Admin, p admin.Peek, n int) (all []int, failures error) {
	t.Helper()
	for m, err := range a.Newest(t.Context(), p, admin.Target{}) {
		if err != nil {
			failures = errors.Join(failures, err)
		} else {
			all = append(all, int(m.ID.Counter()))
		}
		if len(all) == n {
			break
		}
	}
	return all, failures
}

// Messages of a queue come newest first, wherever batches and pages begin; those of
// different queues by the time they were stored.
func TestNewest_IsCompleteAndInOrder(t *testing.T) {
	c, a := orders(t)
	const each = 500
	n := 0
	for len(batches(n, each)) > 0 {
		b := batches(n, each)
		store(t, c, b...)
		for _, ms := range b {
			n += len(ms)
		}
	}
	for q := range 2 {
		all, err := peeked(t, a, admin.Peek{Topic: "orders", Queue: &q}, -1)
		if err != nil || !slices.IsSortedFunc(all, func(a, b int) int { return b - a }) || len(slices.Compact(slices.Clone(all))) != len(all) {
			t.Errorf("queue %d: %v, %v", q, all, err)
		}
	}
	all, err := peeked(t, a, admin.Peek{Topic: "orders"}, -1)
	if err != nil || len(all) != n {
		t.Errorf("got %d of %d messages, %v", len(all), n, err)
	}
	slices.Sort(all)
	if len(slices.Compact(all)) != n {
		t.Error("some came twice")
	}
	if first, err := peeked(t, a, admin.Peek{Topic: "orders"}, 7); err != nil || len(first) != 7 {
		t.Errorf("got %v, %v", first, err)
	}
}

// batches are the next ones for two queues: of different sizes, from number n on.
func batches(n, most int) (b [][]*message.Message) {
	for size := 1 + n%7; n < most && len(b) < 20; size = size%7 + 1 {
		var ms []*message.Message
		for range size {
			ms = append(ms, numbered(n, "x"))
			n++
		}
		b = append(b, ms)
	}
	return b
}

func TestNewest_OfAllBrokers(t *testing.T) {
	c, a := spread(t)
	fill(t, c, 1, message.Queue{Broker: "broker-b"})
	var bodies []string
	for m, err := range a.Newest(t.Context(), admin.Peek{Topic: "t"}, admin.Target{}) {
		if err != nil {
			t.Fatal(err)
		}
		if bodies = append(bodies, string(m.Body)); len(bodies) == 1 {
			fill(t, c, 1, message.Queue{Broker: "broker-a"}) // too late to be among them
		}
	}
	if len(bodies) != 31 || bodies[0] != "broker-b/0 0" {
		t.Errorf("got %d: %q", len(bodies), bodies)
	}
	count := 0
	for m, err := range a.Newest(t.Context(), admin.Peek{Topic: "t", Queue: new(1)}, admin.Target{}) {
		if count++; err != nil || m.Queue.Broker != "broker-a" || m.Queue.ID != 1 || m.QueueOffset != int64(10-count) {
			t.Errorf("got %+v, %v", m, err)
		}
	}
	if count != 10 {
		t.Errorf("got %d of queue 1", count)
	}
	groups, err := a.ListGroups(t.Context(), admin.Target{})
	if err != nil || len(groups) != 0 {
		t.Errorf("looking makes groups: %+v, %v", groups, err)
	}
}

func TestNewest_NotThere(t *testing.T) {
	a := open(t, harness.Start(t).NameServers...)
	for _, s := range []admin.TopicSpec{{Name: "empty", ReadQueues: 1}, {Name: "shut", Perm: message.PermWrite}} {
		if _, err := a.CreateTopic(t.Context(), s, admin.Target{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		peek admin.Peek
		want error
	}{
		{admin.Peek{Topic: "empty"}, nil},
		{admin.Peek{Topic: "shut"}, nil}, // and empty
		{admin.Peek{Topic: "nope"}, protocol.TopicNotFound},
		{admin.Peek{Topic: "a.b"}, message.ErrIllegalName},
		{admin.Peek{Topic: "empty", Queue: new(1)}, protocol.QueueNotFound}, // it is for writing only
		{admin.Peek{Topic: "empty", Queue: new(-1)}, protocol.QueueNotFound},
	} {
		if all, err := peeked(t, a, c.peek, -1); len(all) > 0 || !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
			t.Errorf("%+v: got %v, %v", c.peek, all, err)
		}
	}
}

// What is above damage is found, and what is in other queues.
func TestNewest_AroundDamage(t *testing.T) {
	c, _ := orders(t, func(cfg *broker.Config) { cfg.Store.SegmentBytes = 1 << 20 })
	const each, requests = 1500, 5
	for r := range requests {
		var batches [][]*message.Message
		for i := range each {
			body := strings.Repeat("x", 500)
			if r == 1 {
				body = "spoil me" + body
			}
			batches = append(batches, []*message.Message{numbered(r*each+i, body)})
		}
		store(t, c, batches...)
	}
	c.Stop()
	spoil(t, c.Config.DataDir, "spoil me", each)
	c.Start()
	a := open(t, c.NameServers...)
	harness.Eventually(t, "the broker is back", func() bool {
		brokers, err := a.Cluster(t.Context())
		return err == nil && len(brokers) == 1 && brokers[0].Err == nil
	})
	got, err := peeked(t, a, admin.Peek{Topic: "orders"}, -1)
	slices.Sort(got)
	if !errors.Is(err, protocol.Damaged) || len(got) != 3*each || got[0] != 2*each {
		t.Errorf("got %d messages, %v", len(got), err)
	}
}
