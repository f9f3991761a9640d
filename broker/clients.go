package broker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// clients knows which clients are there, and gives leases of queues to members
// of groups. Sessions are in memory; leases are records of the log, so that a
// restart neither frees them nor changes their fences.
type clients struct {
	state  *state
	conn   *transport.Conn
	broker string
	now    func() time.Time
	logger *slog.Logger
	// joined is called when there is a new client to be asked for transactions.
	joined func()
	// seen is called after each heartbeat, and ended when a client has ended its session.
	seen, ended func(client string)
	// gone is called when a member of a group is not there any more.
	gone func(group string)

	notices *notices

	mu       sync.Mutex
	sessions *group.Sessions

	// subscribing is held from the look at what a group subscribes to the record
	// applied.
	subscribing sync.Mutex

	// leasing is held from the look at a lease to the record applied, so that two
	// members cannot be granted the same queue. It is taken before mu.
	leasing sync.Mutex
}

// newClients takes up the holders of leases that were found in the log: they
// keep them until they come back or the session timeout has passed.
func newClients(s *state, conn *transport.Conn, cfg Config) *clients {
	c := &clients{
		state: s, conn: conn, broker: cfg.Name, now: cfg.Now, logger: cfg.Logger,
		notices: newNotices(), sessions: group.NewSessions(cfg.SessionTimeout), joined: func() {}, seen: func(string) {}, ended: func(string) {}, gone: func(string) {},
	}
	c.sessions.MustAgree = func(name string) bool {
		g, ok := s.groups.Config(name)
		return !ok || !g.PerMemberSubscriptions
	}
	c.sessions.Remembered = s.groups.Subscription
	for _, h := range s.groups.Holders() {
		c.sessions.Adopt(cfg.Now(), h.Client, h.Group)
	}
	return c
}

func (c *clients) register(m *transport.Mux) {
	transport.Handle(m, c.heartbeat)
	transport.Handle(m, c.leaveGroup)
	transport.Handle(m, c.listMembers)
	transport.Handle(m, c.syncLeases)
}

// run ends sessions that were not renewed.
func (c *clients) run(ctx context.Context) {
	tick := time.NewTicker(c.sessions.Timeout() / 12)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.expire(ctx)
		}
	}
}

func (c *clients) expire(ctx context.Context) {
	c.mu.Lock()
	expired := c.sessions.Expire(c.now())
	c.mu.Unlock()
	for _, e := range expired {
		c.logger.Info("session ended without heartbeats", "client_id", e.Client)
		for _, g := range e.Groups {
			c.left(ctx, e.Client, g)
		}
	}
}

func (c *clients) heartbeat(ctx context.Context, r *protocol.HeartbeatRequest) (*protocol.HeartbeatResponse, error) {
	c.mu.Lock()
	before := c.sessions.Joined()
	changed, err := c.sessions.Heartbeat(c.now(), r)
	joined := c.sessions.Joined() > before
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if joined {
		c.joined()
	}
	c.seen(r.ClientID)
	for _, g := range changed {
		c.remember(ctx, g)
		c.left(ctx, r.ClientID, g)
	}
	return &protocol.HeartbeatResponse{SessionMillis: c.sessions.Timeout().Milliseconds()}, nil
}

func (c *clients) leaveGroup(ctx context.Context, r *protocol.LeaveGroupRequest) (*protocol.Empty, error) {
	c.mu.Lock()
	var changed []string
	current := c.sessions.IsCurrent(r.ClientID, r.Incarnation)
	if current {
		changed = c.sessions.Leave(c.now(), r.ClientID, r.Group)
	}
	c.mu.Unlock()
	if current && r.Group == "" {
		c.ended(r.ClientID)
	}
	for _, g := range changed {
		c.left(ctx, r.ClientID, g)
	}
	return &protocol.Empty{}, nil
}

// left follows up a change of a client in a group: when the client is not in it
// any more its leases end, and the members are told in either case.
func (c *clients) left(ctx context.Context, client, groupName string) {
	c.mu.Lock()
	alive := c.sessions.Alive(client, groupName)
	c.mu.Unlock()
	if !alive {
		if err := c.releaseAll(ctx, client, groupName); err != nil {
			// The queues stay with the client that is gone until syncLeases finds
			// that it is not alive.
			c.logger.Error("end leases", "client_id", client, "group", groupName, "err", err)
		}
		c.gone(groupName)
	}
	c.notify(groupName)
}

func (c *clients) releaseAll(ctx context.Context, client, groupName string) error {
	c.leasing.Lock()
	defer c.leasing.Unlock()
	byTopic := map[uint64][]int{}
	for _, p := range c.state.groups.LeasesOf(groupName, client) {
		byTopic[p.TopicID] = append(byTopic[p.TopicID], p.Queue)
	}
	for topicID, queues := range byTopic {
		if err := c.lease(ctx, group.EncodeRelease(groupName, topicID, client, queues)); err != nil {
			return err
		}
	}
	return nil
}

func (c *clients) lease(ctx context.Context, data []byte) error {
	return c.state.append(ctx, store.Record{Type: store.LeasesRecord, Data: data})
}

func (c *clients) listMembers(_ context.Context, r *protocol.ListMembersRequest) (*protocol.ListMembersResponse, error) {
	return &protocol.ListMembersResponse{Members: c.members(r.Group)}, nil
}

func (c *clients) members(groupName string) []protocol.Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions.Members(groupName)
}

// checkers are the inboxes of those that can be asked for the transactions of a
// producer group.
func (c *clients) checkers(groupName string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions.Checkers(groupName)
}

// inbox is the subject for a client's events; empty when it has no session.
func (c *clients) inbox(client string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions.Inbox(client)
}

func (c *clients) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions.Count()
}

// groups are those that have members, whether or not the log knows them yet.
func (c *clients) groups() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions.Groups()
}
