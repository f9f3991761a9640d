package admin_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

// spread is a cluster of two brokers: topic t has two queues on broker-a and one on
// broker-b, with ten messages each.
func spread(t *testing.T) (*harness.Cluster, *admin.Admin) {
	t.Helper()
	c := harness.Start(t)
	addBroker(t, c, "broker-b")
	a := open(t, c.NameServers...)
	for broker, queues := range map[string]int{"broker-a": 2, "broker-b": 1} {
		if _, err := a.CreateTopic(t.Context(), admin.TopicSpec{Name: "t", ReadQueues: queues, WriteQueues: queues}, admin.Target{Brokers: []string{broker}}); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, c, 10, message.Queue{Broker: "broker-a"}, message.Queue{Broker: "broker-a", ID: 1}, message.Queue{Broker: "broker-b"})
	return c, a
}

// fill sends n messages to each queue of topic t, one after another.
func fill(t *testing.T, c *harness.Cluster, n int, queues ...message.Queue) {
	t.Helper()
	p := newSender(t, c, nil)
	for i := range n {
		for _, q := range queues {
			m := &message.Message{Topic: "t", Body: fmt.Appendf(nil, "%s/%d %d", q.Broker, q.ID, i)}
			if _, err := p.Send(t.Context(), m, producer.ToQueue(q)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// changesOf is what offsets become, as "broker/queue before->after skipped".
func changesOf(changes []admin.OffsetChange) string {
	var all []string
	for _, c := range changes {
		all = append(all, fmt.Sprintf("%s/%d %d->%d %+d", strings.TrimPrefix(c.Broker, "broker-"), c.Queue, c.Before, c.After, c.Skipped))
	}
	return strings.Join(all, ", ")
}

// lagText is a group's lag as "broker/queue committed:lag".
func lagText(t *testing.T, a *admin.Admin, group string) string {
	t.Helper()
	rows, err := a.GroupLag(t.Context(), group, admin.Target{})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range rows {
		all = append(all, fmt.Sprintf("%s/%d %d:%d", strings.TrimPrefix(r.Broker, "broker-"), r.Queue, r.Committed, r.Lag))
	}
	return strings.Join(all, ", ")
}

func wantLag(t *testing.T, a *admin.Admin, group, want string) {
	t.Helper()
	if got := lagText(t, a, group); got != want {
		t.Errorf("lag of %s: got %q, want %q", group, got, want)
	}
}

// member reads topic t as a member of a group and commits by hand.
func member(t *testing.T, c *harness.Cluster, group string, from consumer.StartPosition) *consumer.Pull {
	t.Helper()
	return reader(t, c, group, "t", from)
}

func reader(t *testing.T, c *harness.Cluster, group, topic string, from consumer.StartPosition) *consumer.Pull {
	t.Helper()
	p, err := consumer.NewPull(t.Context(), consumer.PullConfig{
		NameServers: c.NameServers, Group: group, From: from, ManualCommit: true,
		Subscriptions: []consumer.Subscription{{Topic: topic}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { leave(t, p) })
	<-p.Ready()
	return p
}

func leave(t *testing.T, p *consumer.Pull) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), harness.Timeout)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Error(err)
	}
}

// take has a member read and commit n messages, and returns the bodies, sorted.
func take(t *testing.T, p *consumer.Pull, n int) (bodies []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), harness.Timeout)
	defer cancel()
	for len(bodies) < n {
		ds, err := p.Poll(ctx, n-len(bodies))
		if err != nil {
			t.Fatalf("after %d of %d messages: %v", len(bodies), n, err)
		}
		for _, d := range ds {
			bodies = append(bodies, string(d.Body))
		}
	}
	if err := p.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	slices.Sort(bodies)
	return bodies
}

func mustReset(t *testing.T, a *admin.Admin, r admin.Reset, target admin.Target, want string) {
	t.Helper()
	changes, err := a.ResetOffsets(t.Context(), r, target)
	if err != nil {
		t.Fatal(err)
	}
	if got := changesOf(changes); got != want {
		t.Errorf("%+v: got %q, want %q", r, got, want)
	}
}

// A reset holds on every broker with the topic, whether the group has read there or
// not, and a dry run on none.
func TestReset_Offline(t *testing.T) {
	_, a := spread(t)
	if _, err := a.CreateGroup(t.Context(), protocol.GroupConfig{Name: "g", ConsumeEnabled: true}, admin.Target{Brokers: []string{"broker-a"}}); err != nil {
		t.Fatal(err)
	}
	mustReset(t, a, admin.Reset{Group: "g", To: protocol.ResetToLatest}, admin.Target{}, "") // it reads nothing
	toFour := admin.Reset{Group: "g", Topic: "t", To: protocol.ResetToOffset, Value: 4}
	const want = "a/0 -1->4 +4, a/1 -1->4 +4, b/0 -1->4 +4"
	mustReset(t, a, toFour, admin.Target{DryRun: true}, want)
	wantLag(t, a, "g", "")
	mustReset(t, a, toFour, admin.Target{}, want)
	wantLag(t, a, "g", "a/0 4:6, a/1 4:6, b/0 4:6")
	mustReset(t, a, admin.Reset{Group: "g", To: protocol.ResetToOffset, Value: 99, Topic: "t", Queue: new(1)}, admin.Target{}, "a/1 4->10 +6")
	mustReset(t, a, admin.Reset{Group: "g", To: protocol.ResetToEarliest}, admin.Target{Brokers: []string{"broker-b"}}, "b/0 4->0 -4")
	wantLag(t, a, "g", "a/0 4:6, a/1 10:0, b/0 0:10")
	changes, err := a.SkipBacklog(t.Context(), "g", "", nil, admin.Target{})
	if got := changesOf(changes); err != nil || got != "a/0 4->10 +6, a/1 10->10 +0, b/0 0->10 +10" {
		t.Errorf("skip: got %q, %v", got, err)
	}
	wantLag(t, a, "g", "a/0 10:0, a/1 10:0, b/0 10:0")
}

// Where one broker refuses, none is changed.
func TestReset_AllOrNothing(t *testing.T) {
	_, a := spread(t)
	if _, err := a.CreateTopic(t.Context(), admin.TopicSpec{Name: "u", ReadQueues: 1, WriteQueues: 1}, admin.Target{}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.CreateGroup(t.Context(), protocol.GroupConfig{Name: "g", ConsumeEnabled: true}, admin.Target{}); err != nil {
		t.Fatal(err)
	}
	for _, topic := range []string{"t", "u"} {
		if _, err := a.ResetOffsets(t.Context(), admin.Reset{Group: "g", Topic: topic, To: protocol.ResetToEarliest}, admin.Target{}); err != nil {
			t.Fatal(err)
		}
	}
	const before = "a/0 0:10, a/1 0:10, b/0 0:10, a/0 0:0, b/0 0:0"
	for _, c := range []struct {
		code   protocol.ErrorCode
		r      admin.Reset
		target admin.Target
	}{
		{protocol.QueueNotFound, admin.Reset{Group: "g", Queue: new(1), To: protocol.ResetToLatest}, admin.Target{}}, // t has it, u has not
		{protocol.QueueNotFound, admin.Reset{Group: "g", Topic: "t", Queue: new(1), To: protocol.ResetToLatest}, admin.Target{Brokers: []string{"broker-b"}}},
		{protocol.TopicNotFound, admin.Reset{Group: "g", Topic: "v", To: protocol.ResetToLatest}, admin.Target{}},
		{protocol.GroupNotFound, admin.Reset{Group: "h", To: protocol.ResetToLatest}, admin.Target{}},
		{protocol.GroupNotFound, admin.Reset{Group: "h", Topic: "t", To: protocol.ResetToLatest}, admin.Target{DryRun: true}},
		{protocol.InvalidArgument, admin.Reset{Group: "g", To: protocol.ResetToOffset, Value: -1}, admin.Target{}},
		{protocol.InvalidArgument, admin.Reset{Group: "g", To: "middle"}, admin.Target{}},
	} {
		if changes, err := a.ResetOffsets(t.Context(), c.r, c.target); !errors.Is(err, c.code) || len(changes) != 0 {
			t.Errorf("%+v: got %v, %v; want %v", c.r, changes, err, c.code)
		}
	}
	wantLag(t, a, "g", before)
}

func TestReset_MembersGoOnFromThere(t *testing.T) {
	c, a := spread(t)
	p := member(t, c, "g", consumer.Earliest())
	first := take(t, p, 30)
	wantLag(t, a, "g", "a/0 10:0, a/1 10:0, b/0 10:0")
	mustReset(t, a, admin.Reset{Group: "g", To: protocol.ResetToEarliest}, admin.Target{}, "a/0 10->0 -10, a/1 10->0 -10, b/0 10->0 -10")
	if again := take(t, p, 30); !slices.Equal(again, first) {
		t.Errorf("got %q again, want %q", again, first)
	}
	wantLag(t, a, "g", "a/0 10:0, a/1 10:0, b/0 10:0")
	fill(t, c, 5, message.Queue{Broker: "broker-b"})
	wantLag(t, a, "g", "a/0 10:0, a/1 10:0, b/0 10:5")
	changes, err := a.SkipBacklog(t.Context(), "g", "t", new(0), admin.Target{Brokers: []string{"broker-b"}})
	if got := changesOf(changes); err != nil || got != "b/0 10->15 +5" {
		t.Errorf("skip: %q, %v", got, err)
	}
	wantLag(t, a, "g", "a/0 10:0, a/1 10:0, b/0 15:0")
}

// A broker that the group has never read from counts as well, in the list too.
func TestLag_OfAllBrokers(t *testing.T) {
	c, a := spread(t)
	if _, err := a.CreateGroup(t.Context(), protocol.GroupConfig{Name: "g", ConsumeEnabled: true}, admin.Target{Brokers: []string{"broker-a"}}); err != nil {
		t.Fatal(err)
	}
	mustReset(t, a, admin.Reset{Group: "g", Topic: "t", Queue: new(1), To: protocol.ResetToOffset, Value: 3}, admin.Target{}, "a/1 -1->3 +3")
	const want = "a/0 -1:10, a/1 3:7, b/0 -1:10"
	wantLag(t, a, "g", want)
	groups, err := a.ListGroups(t.Context(), admin.Target{})
	if err != nil || len(groups) != 1 || groups[0].Lag() != 27 || !slices.Equal(groups[0].Brokers, []string{"broker-a"}) || groups[0].LagMillis() != groups[0].Queues[0].LagMillis && groups[0].LagMillis() == 0 {
		t.Errorf("list: got %+v, %v", groups, err)
	}
	rows, err := a.GroupLag(t.Context(), "g", admin.Target{Brokers: []string{"broker-a"}})
	if err != nil || len(rows) != 2 {
		t.Errorf("of one broker: got %+v, %v", rows, err)
	}
	p := member(t, c, "g", consumer.Latest()) // it begins at the end where nothing is committed
	harness.Eventually(t, "the start is known", func() bool {
		rows, err := a.GroupLag(t.Context(), "g", admin.Target{})
		return err == nil && rows[0].Lag == 0 && rows[1].Lag == 7 && rows[2].Lag == 0
	})
	take(t, p, 7)
	if got := lagOfGroup(t, a, "g"); got != 0 {
		t.Errorf("lag %d when all is consumed", got)
	}
}

func lagOfGroup(t *testing.T, a *admin.Admin, group string) int64 {
	t.Helper()
	g, err := a.DescribeGroup(t.Context(), group, admin.Target{})
	if err != nil {
		t.Fatal(err)
	}
	return g.Lag()
}

func TestClone_OnAllBrokers(t *testing.T) {
	c, a := spread(t)
	if _, err := a.CreateGroup(t.Context(), protocol.GroupConfig{Name: "from", ConsumeEnabled: true}, admin.Target{}); err != nil {
		t.Fatal(err)
	}
	mustReset(t, a, admin.Reset{Group: "from", Topic: "t", To: protocol.ResetToOffset, Value: 4}, admin.Target{}, "a/0 -1->4 +4, a/1 -1->4 +4, b/0 -1->4 +4")
	clone := func(cl admin.Clone, target admin.Target) (string, error) {
		t.Helper()
		changes, err := a.CloneOffsets(t.Context(), cl, target)
		return changesOf(changes), err
	}
	const want = "a/0 -1->4 +4, a/1 -1->4 +4, b/0 -1->4 +4"
	if got, err := clone(admin.Clone{From: "from", To: "to"}, admin.Target{DryRun: true}); err != nil || got != want {
		t.Errorf("dry run: %q, %v", got, err)
	}
	if _, err := a.DescribeGroup(t.Context(), "to", admin.Target{}); !errors.Is(err, protocol.GroupNotFound) {
		t.Errorf("a dry run makes the group: %v", err)
	}
	if got, err := clone(admin.Clone{From: "from", To: "to"}, admin.Target{}); err != nil || got != want {
		t.Errorf("clone: %q, %v", got, err)
	}
	wantLag(t, a, "to", "a/0 4:6, a/1 4:6, b/0 4:6")

	// One queue that differs keeps all others from being set.
	mustReset(t, a, admin.Reset{Group: "from", To: protocol.ResetToLatest}, admin.Target{}, "a/0 4->10 +6, a/1 4->10 +6, b/0 4->10 +6")
	mustReset(t, a, admin.Reset{Group: "to", To: protocol.ResetToLatest}, admin.Target{Brokers: []string{"broker-a"}}, "a/0 4->10 +6, a/1 4->10 +6")
	if _, err := clone(admin.Clone{From: "from", To: "to"}, admin.Target{}); !errors.Is(err, protocol.Conflict) {
		t.Errorf("offsets of its own: %v", err)
	}
	wantLag(t, a, "to", "a/0 10:0, a/1 10:0, b/0 4:6")

	// Online at one broker is online.
	p := member(t, c, "to", consumer.Earliest())
	for _, target := range []admin.Target{{}, {Brokers: []string{"broker-b"}}, {DryRun: true}} {
		if _, err := clone(admin.Clone{From: "from", To: "to", Force: true}, target); !errors.Is(err, protocol.Conflict) {
			t.Errorf("%+v: online: %v", target, err)
		}
	}
	leave(t, p)
	if got, err := clone(admin.Clone{From: "from", To: "to", Topic: "t", Force: true}, admin.Target{}); err != nil || got != "a/0 10->10 +0, a/1 10->10 +0, b/0 4->10 +6" {
		t.Errorf("by force: %q, %v", got, err)
	}

	// Also where it is not set.
	if _, err := a.CreateTopic(t.Context(), admin.TopicSpec{Name: "u"}, admin.Target{Brokers: []string{"broker-b"}}); err != nil {
		t.Fatal(err)
	}
	reader(t, c, "elsewhere", "u", consumer.Earliest())
	if _, err := clone(admin.Clone{From: "from", To: "elsewhere"}, admin.Target{Brokers: []string{"broker-a"}}); !errors.Is(err, protocol.Conflict) {
		t.Errorf("online at another broker: %v", err)
	}
	for _, c := range []struct {
		want error
		cl   admin.Clone
	}{
		{protocol.GroupNotFound, admin.Clone{From: "nope", To: "to"}},
		{protocol.TopicNotFound, admin.Clone{From: "from", To: "to", Topic: "nope"}},
		{protocol.InvalidArgument, admin.Clone{From: "from", To: "from"}},
		{message.ErrIllegalName, admin.Clone{From: "from", To: "a.b"}},
		{message.ErrIllegalName, admin.Clone{From: "from", To: "to", Topic: "a.b"}},
	} {
		if _, err := clone(c.cl, admin.Target{}); !errors.Is(err, c.want) {
			t.Errorf("%+v: got %v, want %v", c.cl, err, c.want)
		}
	}
}
