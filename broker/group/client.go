package group

import (
	"slices"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

// Client is a client that has a session.
type Client struct {
	ID string
	// Said is its last heartbeat, which may name groups that it has left since. It
	// is shared and must not be changed.
	Said *protocol.HeartbeatRequest
	// Consumers are the subscriptions of the groups that it is in.
	Consumers []protocol.Subscription
	// Since is when its first heartbeat came, Seen when the last one did.
	Since, Seen time.Time
}

// Clients returns up to limit clients behind an id, sorted by id: the members of a
// group or, without a group, all that are in one or produce: a client that has left
// its groups is gone, though its session has not expired. More says that there are
// others behind them.
func (s *Sessions) Clients(group, after string, limit int) (list []Client, more bool) {
	from := s.clients
	if group != "" {
		from = s.members[group]
	}
	var ids []string
	for id, c := range from {
		if id > after && c.active() {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	if more = len(ids) > limit; more {
		ids = ids[:limit]
	}
	for _, id := range ids {
		list = append(list, s.clients[id].client(id))
	}
	return list, more
}

// Client returns one of the clients that Clients returns.
func (s *Sessions) Client(id string) (Client, bool) {
	c, ok := s.clients[id]
	if !ok || !c.active() {
		return Client{}, false
	}
	return c.client(id), true
}

func (s *session) active() bool {
	return !s.adopted() && (len(s.topics) > 0 || len(s.said.Producers) > 0)
}

func (s *session) client(id string) Client {
	c := Client{ID: id, Said: s.said, Since: s.since, Seen: s.seen}
	for _, sub := range s.said.Consumers {
		if _, in := s.topics[sub.Group]; in {
			c.Consumers = append(c.Consumers, sub)
		}
	}
	return c
}

// Starts returns where the members of a group begin that have said so, by client.
// The map is the caller's.
func (s *Sessions) Starts(group string) map[string]protocol.Start {
	starts := make(map[string]protocol.Start, len(s.members[group]))
	for id, c := range s.members[group] {
		for _, sub := range c.said.Consumers {
			if sub.Group == group && sub.Start != nil {
				starts[id] = *sub.Start
			}
		}
	}
	return starts
}

// CheckStart tells whether a position can be resolved to an offset; nil is none. The
// error is a *protocol.Error with InvalidArgument.
func CheckStart(s *protocol.Start) error {
	if s == nil {
		return nil
	}
	switch s.Target {
	case protocol.ResetToEarliest, protocol.ResetToLatest, protocol.ResetToTime:
		return nil
	case protocol.ResetToOffset:
		if s.Value < 0 {
			return protocol.Errorf(protocol.InvalidArgument, "offset %d is negative", s.Value)
		}
		return nil
	}
	return protocol.Errorf(protocol.InvalidArgument, "%.100q is no position in a queue", s.Target)
}
