package tests

import (
	"testing"
	"time"

	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// Only who holds the lease of a queue reads it for the group.
func TestFence_OfAPull(t *testing.T) {
	c := newConsumption(t, 1)
	c.publish(1, 1)
	conn, err := transport.Dial(c.cluster.Addr(), transport.Options{Name: "fence"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	g := &idleGroups{consumption: c, conn: conn, client: "owner@1"}
	fence := g.join(1)[0]
	for _, p := range []struct {
		client string
		fence  uint64
		fenced bool
	}{{g.client, fence, false}, {g.client, fence - 1, true}, {g.client, 0, true}, {"other@1", fence, true}} {
		resp := callIdle[protocol.PullResponse](g, protocol.ClassPull, &protocol.PullRequest{
			Group: "idle-0", ClientID: p.client, MaxBytes: 1 << 20, MaxCount: 32,
			Queues: []protocol.PullQueue{{Topic: consumedTopic, Fence: p.fence}},
		})
		got := resp.Queues[0]
		if fenced := got.Err != nil && got.Err.Code == protocol.Fenced; fenced != p.fenced || !fenced && (got.Err != nil || got.Next != 1) {
			t.Errorf("client %s with fence %d: got %+v, want fenced %v", p.client, p.fence, got, p.fenced)
		}
	}
}

// A restart frees no queue: its owner has a session's time to come back.
func TestFence_ALeaseOutlivesARestart(t *testing.T) {
	c := newConsumption(t, 1, func(cfg *broker.Config) { cfg.SessionTimeout = time.Minute })
	dial := func(client string) *idleGroups {
		conn, err := transport.Dial(c.cluster.Addr(), transport.Options{Name: client})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		return &idleGroups{consumption: c, conn: conn, client: client}
	}
	fence := dial("owner@1").join(1)[0]
	c.cluster.Restart()
	other := dial("other@1")
	callIdle[protocol.HeartbeatResponse](other, protocol.ClassClient, &protocol.HeartbeatRequest{
		ClientID: other.client, Inbox: other.conn.Inbox(), Consumers: []protocol.Subscription{{Group: "idle-0", Topics: []string{consumedTopic}}},
	})
	sync := &protocol.SyncLeasesRequest{ClientID: other.client, Group: "idle-0", Topic: consumedTopic, Queues: []int{0}}
	if got := callIdle[protocol.SyncLeasesResponse](other, protocol.ClassClient, sync).Leases; len(got) != 0 {
		t.Errorf("another member is given the queue: %+v", got)
	}
	if got := dial("owner@1").join(1)[0]; got != fence {
		t.Errorf("the owner comes back to fence %d, and had %d", got, fence)
	}
}
