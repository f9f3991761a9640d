package admin_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

// failAll has group "billing" fail all of topic orders: one message is a dead
// letter, the others wait for their retry.
func failAll(t *testing.T, c *harness.Cluster, a *admin.Admin, n int) {
	t.Helper()
	var first atomic.Bool
	p, err := consumer.NewPush(t.Context(), consumer.Config{
		NameServers: c.NameServers, Group: "billing", From: consumer.Earliest(), Subscriptions: []consumer.Subscription{{Topic: "orders"}},
	}, func(_ context.Context, d *consumer.Delivery) error {
		if first.CompareAndSwap(false, true) {
			return consumer.ErrReject
		}
		return consumer.RetryAfter(time.Hour, errors.New("not now"))
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }() // waited for below
	harness.Eventually(t, "all have failed", func() bool {
		g, err := a.DescribeGroup(t.Context(), "billing", admin.Target{})
		return err == nil && g.Retrying() == int64(n-1) && len(all(t, a.DeadLetters(t.Context(), "billing", admin.Target{}))) == 1
	})
	if _, err := a.DeleteGroup(t.Context(), "billing", admin.Target{}); !errors.Is(err, protocol.Conflict) {
		t.Errorf("a group with members: %v", err)
	}
	stop()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
}

// What waits for its retry goes with the group; its dead letters stay if it is not
// said that they go, too.
func TestDeleteGroup_TakesWhatIsItsOwn(t *testing.T) {
	for _, deadLetters := range []bool{false, true} {
		c := harness.Start(t)
		a := open(t, c.NameServers...)
		send(t, c, 4)
		failAll(t, c, a, 4)
		remove := a.DeleteGroup
		if deadLetters {
			remove = a.DeleteGroupAndDeadLetters
		}
		for _, dryRun := range []bool{true, false} {
			changes, err := remove(t.Context(), "billing", admin.Target{DryRun: dryRun})
			if err != nil || len(changes) != 1 || changes[0].Retries != 3 || changes[0].DeadLetters != 1 || changes[0].DeadLettersGone != deadLetters || changes[0].After != nil {
				t.Fatalf("dry run %t: got %+v, %v", dryRun, changes, err)
			}
			_, err = a.DescribeGroup(t.Context(), "billing", admin.Target{})
			if gone := errors.Is(err, protocol.GroupNotFound); gone == dryRun {
				t.Errorf("dry run %t: %v", dryRun, err)
			}
		}
		if n, err := a.PendingDelayed(t.Context(), message.RetryTopic("billing"), admin.Target{}); n != 0 || err != nil && !errors.Is(err, protocol.TopicNotFound) {
			t.Errorf("%d messages wait for their retry, %v", n, err)
		}
		names, err := a.TopicNames(t.Context())
		if err != nil || slices.Contains(names, message.RetryTopic("billing")) || slices.Contains(names, message.DLQTopic("billing")) == deadLetters {
			t.Errorf("topics %v, %v", names, err)
		}
		if n := len(all(t, a.DeadLetters(t.Context(), "billing", admin.Target{}))); (n == 1) == deadLetters {
			t.Errorf("%d dead letters", n)
		}
	}
}

// A producer says goodbye: it is not listed any more once it is closed.
func TestClients_AClosedProducerIsGone(t *testing.T) {
	c := harness.Start(t, func(c *broker.Config) { c.SessionTimeout = time.Hour }) // nobody is gone by itself
	a := open(t, c.NameServers...)
	for i := range 20 {
		p, err := producer.New(t.Context(), producer.Config{NameServers: c.NameServers, Group: "shop"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Send(t.Context(), &message.Message{Topic: "orders", Body: []byte("x")}); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 { // else it closes while its first heartbeat is on the way
			harness.Eventually(t, "it is listed", func() bool {
				list, err := a.Clients(t.Context(), "", admin.Target{})
				return err == nil && len(list) == 1
			})
		}
		if err := p.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		// A goodbye is waited for, but not for long.
		harness.Eventually(t, "it is listed no more", func() bool {
			list, err := a.Clients(t.Context(), "", admin.Target{})
			return err == nil && len(list) == 0
		})
	}
}
