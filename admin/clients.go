package admin

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// Client is a client that has a session at one or more brokers.
type Client struct {
	ID       string
	Language string
	// Version is that of its SDK.
	Version string
	// Addresses are those its connections come from, host:port, sorted, as far as
	// the brokers know them.
	Addresses []string
	// ProducerGroups are the groups that it sends for; Checkers those of them whose
	// transactions it can be asked for.
	ProducerGroups []string
	Checkers       []string
	// Subscriptions are the consumer groups that it is a member of, sorted.
	Subscriptions []protocol.Subscription
	// Queues are those that it owns, sorted by group, topic, broker and queue.
	Queues []OwnedQueue
	// Brokers are those that know it, sorted.
	Brokers []string
	// Since is when the oldest of its sessions began.
	Since time.Time
	// HeartbeatAge is how long ago its last heartbeat came to any broker.
	HeartbeatAge time.Duration
}

// OwnedQueue is a queue that a client reads for a group.
type OwnedQueue struct {
	Group  string `json:"group"`
	Topic  string `json:"topic"`
	Broker string `json:"broker"`
	Queue  int    `json:"queue"`
	// Fence grows with each owner of the queue.
	Fence uint64 `json:"fence"`
}

// Clients gives the clients that have a session at a broker of the target, sorted
// by id: those of a consumer group or, without one, all. GroupNotFound is returned
// when no broker has the group.
func (a *Admin) Clients(ctx context.Context, group string, t Target) ([]Client, error) {
	if group != "" {
		if _, err := a.findGroup(ctx, group, t); err != nil {
			return nil, err
		}
	}
	return a.clients(ctx, protocol.ListClientsRequest{Group: group}, t)
}

// Client gives one client; NotFound when no broker of the target has a session of
// it.
func (a *Admin) Client(ctx context.Context, id string, t Target) (*Client, error) {
	if err := message.CheckClientID(id); err != nil {
		return nil, err
	}
	found, err := a.clients(ctx, protocol.ListClientsRequest{ClientID: id}, t)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, protocol.Errorf(protocol.NotFound, "client %q is not connected", id)
	}
	return &found[0], nil
}

func (a *Admin) clients(ctx context.Context, req protocol.ListClientsRequest, t Target) ([]Client, error) {
	brokers, err := a.masters(ctx, t)
	if err != nil {
		return nil, err
	}
	answers := ask(ctx, brokers, func(ctx context.Context, broker string) ([]protocol.ClientStatus, error) {
		return a.clientsOn(ctx, broker, req)
	})
	if err := firstError(answers); err != nil {
		return nil, err
	}
	byID := make(map[string]*Client)
	for _, x := range answers {
		for _, s := range x.value {
			if byID[s.ClientID] == nil {
				byID[s.ClientID] = newClient(&s)
			}
			byID[s.ClientID].add(x.broker, &s)
		}
	}
	return sortedValues(byID, func(c *Client) string { return c.ID }), nil
}

// clientsOn asks for all pages.
func (a *Admin) clientsOn(ctx context.Context, broker string, req protocol.ListClientsRequest) ([]protocol.ClientStatus, error) {
	req.Max = protocol.MaxListClients
	var all []protocol.ClientStatus
	for {
		resp, err := client.Call[protocol.ListClientsResponse](ctx, a.client, broker, protocol.ClassAdmin, &req)
		if err != nil {
			return nil, err
		}
		all = append(all, resp.Clients...)
		if !resp.More || len(resp.Clients) == 0 {
			return all, nil
		}
		req.After = resp.Clients[len(resp.Clients)-1].ClientID
	}
}

func newClient(s *protocol.ClientStatus) *Client {
	return &Client{
		ID: s.ClientID, Language: s.Language, Version: s.Version,
		Since: time.UnixMilli(s.SinceMillis), HeartbeatAge: time.Duration(s.HeartbeatAgeMillis) * time.Millisecond,
	}
}

// add takes in what one broker knows of the client. What its heartbeats say may
// come to one broker before another.
func (c *Client) add(broker string, s *protocol.ClientStatus) {
	c.Brokers = append(c.Brokers, broker)
	if since := time.UnixMilli(s.SinceMillis); since.Before(c.Since) {
		c.Since = since
	}
	c.HeartbeatAge = min(c.HeartbeatAge, time.Duration(s.HeartbeatAgeMillis)*time.Millisecond)
	if s.Address != "" {
		c.Addresses = union(c.Addresses, s.Address)
	}
	c.ProducerGroups = union(c.ProducerGroups, s.Producers...)
	c.Checkers = union(c.Checkers, s.Checkers...)
	for _, sub := range s.Consumers {
		if !slices.ContainsFunc(c.Subscriptions, func(o protocol.Subscription) bool { return o.Group == sub.Group }) {
			c.Subscriptions = append(c.Subscriptions, sub)
		}
	}
	slices.SortFunc(c.Subscriptions, func(a, b protocol.Subscription) int { return cmp.Compare(a.Group, b.Group) })
	for _, l := range s.Leases {
		c.Queues = append(c.Queues, OwnedQueue{Group: l.Group, Topic: l.Topic, Broker: broker, Queue: l.Queue, Fence: l.Fence})
	}
	slices.SortFunc(c.Queues, func(a, b OwnedQueue) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Broker, b.Broker), cmp.Compare(a.Queue, b.Queue))
	})
}

func union(list []string, more ...string) []string {
	list = append(list, more...)
	slices.Sort(list)
	return slices.Compact(list)
}
