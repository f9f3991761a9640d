package admin_test

import (
	"context"
	"errors"
	"testing"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

// reject makes dead letters of group "billing" of all that is in topic orders.
func reject(t *testing.T, c *harness.Cluster, a *admin.Admin, want int) []message.Stored {
	t.Helper()
	p, err := consumer.NewPush(t.Context(), consumer.Config{
		NameServers: c.NameServers, Group: "billing", From: consumer.Earliest(), Subscriptions: []consumer.Subscription{{Topic: "orders"}},
	}, func(context.Context, *consumer.Delivery) error { return consumer.ErrReject })
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }() // waited for below
	var dead []message.Stored
	harness.Eventually(t, "all are dead letters", func() bool {
		dead = all(t, a.DeadLetters(t.Context(), "billing", admin.Target{}))
		return len(dead) == want
	})
	stop()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	return dead
}

func TestDeadLetters(t *testing.T) {
	c := harness.Start(t)
	a := open(t, c.NameServers...)
	if got := all(t, a.DeadLetters(t.Context(), "billing", admin.Target{})); len(got) != 0 {
		t.Fatalf("a group that nobody knows has %d", len(got))
	}
	if got, err := a.PurgeDeadLetters(t.Context(), "billing", admin.Target{}); len(got) != 0 || err != nil {
		t.Fatalf("got %v, %v", got, err)
	}
	if err := firstErr(a.DeadLetters(t.Context(), "a b", admin.Target{})); !errors.Is(err, message.ErrIllegalName) {
		t.Errorf("got %v", err)
	}
	send(t, c, 3)
	dead := reject(t, c, a, 3)
	if m := dead[0]; m.QueueOffset != 2 || m.ReconsumeTimes != 1 || m.Origin.Topic != "orders" || m.Origin.LastError != consumer.ErrReject.Error() {
		t.Errorf("got %+v of %+v", m, m.Origin)
	}

	for i, duplicate := range []bool{false, true} {
		r, err := a.ResendDeadLetter(t.Context(), "billing", &dead[1])
		if err != nil || r.MessageID != dead[1].ID || r.Queue.Topic != "orders" || r.Duplicate != duplicate {
			t.Fatalf("%d: got %+v, %v", i, r, err)
		}
		m, err := a.MessageAt(t.Context(), r.Queue, r.Offset)
		if err != nil || m.ID != dead[1].ID || m.Origin == nil || m.Origin.Topic != "%DLQ%billing" || m.Origin.Offset != dead[1].QueueOffset {
			t.Fatalf("%d: got %+v, %v", i, m, err)
		}
	}
	missing := dead[1]
	missing.QueueOffset = 100
	if _, err := a.ResendDeadLetter(t.Context(), "billing", &missing); !errors.Is(err, protocol.OffsetOutOfRange) {
		t.Errorf("got %v", err)
	}

	dead = reject(t, c, a, 4)
	if dead[0].ID != dead[2].ID {
		t.Errorf("the one that was sent again has another id: %v, %v", dead[0].ID, dead[2].ID)
	}
	for _, dry := range []bool{true, false} {
		got, err := a.PurgeDeadLetters(t.Context(), "billing", admin.Target{DryRun: dry})
		if err != nil || len(got) != 1 || got[0] != (admin.Purged{Broker: "broker-a", Messages: 4}) {
			t.Fatalf("got %+v, %v", got, err)
		}
		if left := len(all(t, a.DeadLetters(t.Context(), "billing", admin.Target{}))); left != map[bool]int{true: 4}[dry] {
			t.Errorf("dry run %v: %d are left", dry, left)
		}
	}
}

func TestPatchGroup_Retries(t *testing.T) {
	c := harness.Start(t)
	a := open(t, c.NameServers...)
	if _, err := a.CreateGroup(t.Context(), protocol.GroupConfig{Name: "billing"}, admin.Target{}); err != nil {
		t.Fatal(err)
	}
	policy, most := protocol.RetryPolicy{Kind: protocol.RetryExponential, FirstMillis: 1000}, 5
	if _, err := a.PatchGroup(t.Context(), "billing", admin.GroupPatch{RetryMax: &most, RetryPolicy: &policy}, admin.Target{}); err != nil {
		t.Fatal(err)
	}
	g, err := a.DescribeGroup(t.Context(), "billing", admin.Target{})
	if err != nil || g.RetryMax != 5 || g.RetryPolicy != policy || g.ConsumeEnabled {
		t.Errorf("got %+v, %v", g, err)
	}
	most = -2
	if _, err := a.PatchGroup(t.Context(), "billing", admin.GroupPatch{RetryMax: &most}, admin.Target{}); !errors.Is(err, protocol.InvalidArgument) {
		t.Errorf("got %v", err)
	}
}
