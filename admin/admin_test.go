package admin_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/fabric"
	"github.com/rmqio/rmq/transport/protocol"
)

func open(t *testing.T, nameServers ...string) *admin.Admin {
	t.Helper()
	a, err := admin.New(t.Context(), admin.Config{NameServers: nameServers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// addBroker runs a second broker that registers with the cluster's name server;
// the function that is returned takes its NATS server away, as a crash does.
func addBroker(t *testing.T, c *harness.Cluster, name string) (crash func()) {
	t.Helper()
	f, err := fabric.Start(fabric.Config{Name: name, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := broker.Open(t.Context(), broker.Config{Name: name, DataDir: t.TempDir(), NameServers: c.NameServers}, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), harness.Timeout)
		defer cancel()
		_ = b.Close(ctx) // its NATS server may be gone
		f.Close()
	})
	a := open(t, c.NameServers...)
	harness.Eventually(t, "the broker answers", func() bool {
		found, err := a.Cluster(t.Context())
		return err == nil && slices.ContainsFunc(found, func(b admin.Broker) bool { return b.Broker == name && b.Err == nil })
	})
	return f.Close
}

func brokers[C any](changes []C, broker func(C) string) string {
	var names []string
	for _, c := range changes {
		names = append(names, broker(c))
	}
	return strings.Join(names, " ")
}

func topicBrokers(changes []admin.TopicChange) string {
	return brokers(changes, func(c admin.TopicChange) string { return c.Broker })
}

func TestTopic_IsOnEveryBrokerOfTheTarget(t *testing.T) {
	c := harness.Start(t)
	addBroker(t, c, "broker-b")
	a := open(t, c.NameServers...)
	ctx := t.Context()
	spec := admin.TopicSpec{Name: "orders", WriteQueues: 2}
	changes, err := a.CreateTopic(ctx, spec, admin.Target{DryRun: true})
	if err != nil || topicBrokers(changes) != "broker-a broker-b" {
		t.Fatalf("dry run: %v, %v", changes, err)
	}
	if changes, err = a.CreateTopic(ctx, spec, admin.Target{}); err != nil || topicBrokers(changes) != "broker-a broker-b" {
		t.Fatalf("create: %v, %v", changes, err)
	}
	if got := *changes[1].After; changes[1].Before != nil || got.ReadQueues != admin.DefaultQueues || got.WriteQueues != 2 || got.Perm != message.PermReadWrite {
		t.Errorf("got %+v", got)
	}
	if _, err := a.CreateTopic(ctx, spec, admin.Target{}); !errors.Is(err, protocol.Conflict) {
		t.Errorf("again: %v", err)
	}
	route, err := a.TopicRoute(ctx, "orders")
	if err != nil || brokers(route, func(r protocol.TopicRoute) string { return r.Broker }) != "broker-a broker-b" {
		t.Errorf("route: %v, %v", route, err)
	}
	if changes, err = a.AlterTopic(ctx, "orders", admin.TopicPatch{Perm: new(message.PermRead)}, admin.Target{Brokers: []string{"broker-b"}}); err != nil || len(changes) != 1 ||
		changes[0].Before.Perm != message.PermReadWrite || changes[0].After.Perm != message.PermRead || changes[0].After.WriteQueues != 2 {
		t.Errorf("alter: %+v, %v", changes, err)
	}
	if changes, err = a.DeleteTopic(ctx, "orders", admin.Target{Brokers: []string{"broker-b"}}); err != nil || topicBrokers(changes) != "broker-b" || changes[0].After != nil {
		t.Errorf("delete: %+v, %v", changes, err)
	}
	topic, err := a.DescribeTopic(ctx, "orders", admin.Target{})
	if err != nil || len(topic.Brokers) != 1 || topic.Brokers[0].Broker != "broker-a" || len(topic.Brokers[0].Queues) == 0 {
		t.Errorf("describe: %+v, %v", topic, err)
	}
}

func TestTopic_NotThere(t *testing.T) {
	a := open(t, harness.Start(t).NameServers...)
	ctx := t.Context()
	_, describe := a.DescribeTopic(ctx, "nope", admin.Target{})
	_, route := a.TopicRoute(ctx, "nope")
	_, alter := a.AlterTopic(ctx, "nope", admin.TopicPatch{}, admin.Target{})
	_, remove := a.DeleteTopic(ctx, "nope", admin.Target{})
	for _, err := range []error{describe, route, alter, remove} {
		if !errors.Is(err, protocol.TopicNotFound) {
			t.Errorf("got %v", err)
		}
	}
	_, bad := a.CreateTopic(ctx, admin.TopicSpec{Name: "a.b"}, admin.Target{})
	_, reserved := a.CreateTopic(ctx, admin.TopicSpec{Name: "%DLQ%g"}, admin.Target{})
	for _, err := range []error{bad, reserved} {
		if !errors.Is(err, message.ErrIllegalName) {
			t.Errorf("got %v", err)
		}
	}
	_, unknown := a.CreateTopic(ctx, admin.TopicSpec{Name: "t"}, admin.Target{Brokers: []string{"nobody"}})
	_, none := a.CreateTopic(ctx, admin.TopicSpec{Name: "t"}, admin.Target{Cluster: "nobody"})
	if !errors.Is(unknown, admin.ErrBrokerNotFound) || !errors.Is(none, admin.ErrNoBroker) {
		t.Errorf("got %v and %v", unknown, none)
	}
}

func TestBroker_ThatIsAwayIsNotPassedOver(t *testing.T) {
	c := harness.Start(t)
	crash := addBroker(t, c, "broker-b")
	a := open(t, c.NameServers...)
	changes, err := a.CreateTopic(t.Context(), admin.TopicSpec{Name: "t"}, admin.Target{})
	if err != nil || len(changes) != 2 {
		t.Fatalf("%v, %v", changes, err)
	}
	crash()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err = a.DescribeTopic(ctx, "t", admin.Target{}); err == nil {
		t.Error("a broker that does not answer is passed over")
	}
	h := a.Health(t.Context())
	if h.Healthy || len(h.Problems) == 0 || !strings.Contains(h.Problems[0], "broker-b") {
		t.Errorf("got %+v", h)
	}
}

func TestGroup_LagAndReset(t *testing.T) {
	c := harness.Start(t)
	a := open(t, c.NameServers...)
	ctx := t.Context()
	if _, err := a.CreateTopic(ctx, admin.TopicSpec{Name: "orders", ReadQueues: 2, WriteQueues: 2}, admin.Target{}); err != nil {
		t.Fatal(err)
	}
	send(t, c, 10)
	consume(t, c, "billing", 10)
	send(t, c, 5)
	g, err := a.DescribeGroup(ctx, "billing", admin.Target{})
	if err != nil || g.Lag() != 5 || !slices.Equal(g.Brokers, []string{"broker-a"}) || !g.ConsumeEnabled || len(g.Queues) != 2 {
		t.Fatalf("got %+v, %v", g, err)
	}
	for _, q := range g.Queues {
		if q.Lag == 0 && q.LagMillis != 0 {
			t.Errorf("an age without lag: %+v", q)
		}
	}
	reset := admin.Reset{Group: "billing", To: protocol.ResetToEarliest}
	if changes, err := a.ResetOffsets(ctx, reset, admin.Target{DryRun: true}); err != nil || len(changes) != 2 || changes[0].After != 0 || changes[0].Before != g.Queues[0].Committed {
		t.Errorf("dry run: %+v, %v", changes, err)
	}
	if lag := lagOf(t, a); lag != 5 {
		t.Errorf("a dry run moves offsets: lag %d", lag)
	}
	reset.Queue = new(1)
	if changes, err := a.ResetOffsets(ctx, reset, admin.Target{}); err != nil || len(changes) != 1 || changes[0].Queue != 1 {
		t.Errorf("one queue: %+v, %v", changes, err)
	}
	reset.Queue = nil
	if _, err := a.ResetOffsets(ctx, reset, admin.Target{}); err != nil {
		t.Error(err)
	}
	if lag := lagOf(t, a); lag != 15 {
		t.Errorf("lag %d after a reset to the beginning, want 15", lag)
	}
	reset.Topic = "nope"
	if _, err := a.ResetOffsets(ctx, reset, admin.Target{}); !errors.Is(err, protocol.TopicNotFound) {
		t.Errorf("got %v", err)
	}
	reset.Group = "nope"
	if _, err := a.ResetOffsets(ctx, reset, admin.Target{}); !errors.Is(err, protocol.GroupNotFound) {
		t.Errorf("got %v", err)
	}
}

func lagOf(t *testing.T, a *admin.Admin) (sum int64) {
	t.Helper()
	rows, err := a.GroupLag(t.Context(), "billing", admin.Target{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		sum += r.Lag
	}
	return sum
}

func send(t *testing.T, c *harness.Cluster, n int) {
	t.Helper()
	p, err := producer.New(t.Context(), producer.Config{NameServers: c.NameServers})
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		if _, err := p.Send(t.Context(), &message.Message{Topic: "orders", Body: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func consume(t *testing.T, c *harness.Cluster, group string, n int) {
	t.Helper()
	p, err := consumer.NewPull(t.Context(), consumer.PullConfig{
		NameServers: c.NameServers, Group: group, From: consumer.Earliest(),
		Subscriptions: []consumer.Subscription{{Topic: "orders"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), harness.Timeout)
	defer cancel()
	for n > 0 {
		ds, err := p.Poll(ctx, n)
		if err != nil {
			t.Fatal(err)
		}
		n -= len(ds)
	}
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestGroup_Lifecycle(t *testing.T) {
	c := harness.Start(t)
	addBroker(t, c, "broker-b")
	a := open(t, c.NameServers...)
	ctx := t.Context()
	cfg := protocol.GroupConfig{Name: "g", ConsumeEnabled: true}
	if changes, err := a.CreateGroup(ctx, cfg, admin.Target{DryRun: true}); err != nil || len(changes) != 2 {
		t.Fatalf("dry run: %+v, %v", changes, err)
	}
	if changes, err := a.CreateGroup(ctx, cfg, admin.Target{}); err != nil || len(changes) != 2 {
		t.Fatalf("create: %+v, %v", changes, err)
	}
	if _, err := a.CreateGroup(ctx, cfg, admin.Target{}); !errors.Is(err, protocol.Conflict) {
		t.Errorf("again: %v", err)
	}
	cfg.ConsumeEnabled = false
	if changes, err := a.AlterGroup(ctx, cfg, admin.Target{Brokers: []string{"broker-b"}}); err != nil || len(changes) != 1 || !changes[0].Before.ConsumeEnabled {
		t.Errorf("alter: %+v, %v", changes, err)
	}
	groups, err := a.ListGroups(ctx, admin.Target{})
	if err != nil || len(groups) != 1 || groups[0].ConsumeEnabled || len(groups[0].Brokers) != 2 {
		t.Errorf("list: %+v, %v", groups, err)
	}
	if changes, err := a.DeleteGroup(ctx, "g", admin.Target{}); err != nil || len(changes) != 2 {
		t.Errorf("delete: %+v, %v", changes, err)
	}
	if _, err := a.DescribeGroup(ctx, "g", admin.Target{}); !errors.Is(err, protocol.GroupNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestHealth_OfClusterAndNameServers(t *testing.T) {
	c := harness.Start(t)
	a := open(t, append(c.NameServers, "127.0.0.1:1")...)
	ctx := t.Context()
	h := a.Health(ctx)
	if !h.Healthy || len(h.NameServers) != 2 || h.NameServers[0].Err != nil || h.NameServers[0].Brokers != 1 || h.NameServers[1].Err == nil || len(h.Problems) != 1 {
		t.Errorf("got %+v", h)
	}
	cluster, err := a.Cluster(ctx)
	if err != nil || len(cluster) != 1 || cluster[0].Err != nil || cluster[0].Status == nil || !cluster[0].Status.Writable {
		t.Errorf("got %+v, %v", cluster, err)
	}
	c.Stop()
	if h := a.Health(ctx); h.Healthy || len(h.Problems) != 2 {
		t.Errorf("got %+v", h)
	}
}

func TestNew_WithoutAnyAddress(t *testing.T) {
	nothing := func(string) (string, bool) { return "", false }
	if _, err := admin.New(t.Context(), admin.Config{LookupEnv: nothing}); !errors.Is(err, admin.ErrNoNameServer) {
		t.Errorf("got %v", err)
	}
}
