package broker

import (
	"context"
	"slices"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/pop"
	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/transport/protocol"
)

// syncLeases brings what a member owns to what it wants, as far as queues are
// free. Membership is looked at under the lock that leaving takes too, so that a
// client that has left is granted nothing.
func (c *clients) syncLeases(ctx context.Context, r *protocol.SyncLeasesRequest) (*protocol.SyncLeasesResponse, error) {
	c.leasing.Lock()
	defer c.leasing.Unlock()
	t, err := c.checkSync(r)
	if err != nil {
		return nil, err
	}
	if err := c.releaseUnwanted(ctx, t, r); err != nil {
		return nil, err
	}
	if err := c.grantFree(ctx, t, r); err != nil {
		return nil, err
	}
	resp := &protocol.SyncLeasesResponse{}
	for _, p := range c.state.groups.LeasesOf(r.Group, r.ClientID) {
		if p.TopicID == t.ID {
			resp.Leases = append(resp.Leases, protocol.Lease{Queue: p.Queue, Fence: p.Fence, Committed: p.Committed})
		}
	}
	return resp, nil
}

func (c *clients) checkSync(r *protocol.SyncLeasesRequest) (topic.Topic, error) {
	c.mu.Lock()
	member := c.sessions.IsMember(r.ClientID, r.Group) && c.sessions.IsCurrent(r.ClientID, r.Incarnation)
	c.mu.Unlock()
	if !member {
		return topic.Topic{}, protocol.Errorf(protocol.UnknownMember, "client %q is not in group %q", r.ClientID, r.Group)
	}
	if g, ok := c.state.groups.Config(r.Group); ok && !g.ConsumeEnabled {
		return topic.Topic{}, protocol.Errorf(protocol.NoPermission, "consuming is switched off for group %q", r.Group)
	}
	t, err := c.state.topic(r.Topic)
	for _, q := range r.Queues {
		if err == nil {
			_, err = queueOf(t, q, t.ReadQueues)
		}
		if err == nil && c.state.pops.InFlight(pop.Key{Group: r.Group, Topic: t.ID, Queue: uint32(q)}, c.now().UnixMilli()) {
			err = protocol.Errorf(protocol.Conflict, "group %q has popped messages of queue %d of topic %q that are not acknowledged", r.Group, q, r.Topic)
		}
	}
	return t, err
}

// endDeadLease ends the lease of a queue whose holder is gone. It is a Conflict if the
// holder is alive.
func (c *clients) endDeadLease(ctx context.Context, k pop.Key) error {
	c.leasing.Lock()
	defer c.leasing.Unlock()
	holder, _, held := c.state.groups.Lease(k.Group, k.Topic, int(k.Queue))
	switch {
	case !held:
		return nil
	case c.alive(holder, k.Group):
		return protocol.Errorf(protocol.Conflict, "group %q is consumed by push or pull consumers: client %q has leased queue %d", k.Group, holder, k.Queue)
	}
	return c.lease(ctx, group.EncodeRelease(k.Group, k.Topic, holder, []int{int(k.Queue)}))
}

func (c *clients) isMember(client, groupName string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions.IsMember(client, groupName)
}

func (c *clients) releaseUnwanted(ctx context.Context, t topic.Topic, r *protocol.SyncLeasesRequest) error {
	var unwanted []int
	for _, p := range c.state.groups.LeasesOf(r.Group, r.ClientID) {
		if p.TopicID == t.ID && !slices.Contains(r.Queues, p.Queue) {
			unwanted = append(unwanted, p.Queue)
		}
	}
	if len(unwanted) == 0 {
		return nil
	}
	if err := c.lease(ctx, group.EncodeRelease(r.Group, t.ID, r.ClientID, unwanted)); err != nil {
		return err
	}
	c.notify(r.Group)
	return nil
}

// grantFree gives the member the queues that nobody holds, or that a client
// holds that is not alive.
func (c *clients) grantFree(ctx context.Context, t topic.Topic, r *protocol.SyncLeasesRequest) error {
	var free []int
	for _, q := range r.Queues {
		holder, _, held := c.state.groups.Lease(r.Group, t.ID, q)
		if held && holder == r.ClientID || held && c.alive(holder, r.Group) {
			continue
		}
		if held {
			if err := c.lease(ctx, group.EncodeRelease(r.Group, t.ID, holder, []int{q})); err != nil {
				return err
			}
		}
		free = append(free, q)
	}
	if len(free) == 0 {
		return nil
	}
	return c.lease(ctx, group.EncodeLeases(r.Group, t.ID, r.ClientID, free))
}

func (c *clients) alive(client, groupName string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions.Alive(client, groupName)
}
