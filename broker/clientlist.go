package broker

import (
	"context"
	"time"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// clientAdmin tells which clients are there.
type clientAdmin struct {
	state   *state
	clients *clients
	now     func() time.Time
	// peers are the addresses of connections by their names, which are the
	// clients' ids.
	peers func() map[string]string
}

// listPage is roughly how many bytes one answer has at most, after its first client.
const listPage = 1 << 20

func (a *clientAdmin) register(m *transport.Mux) { transport.Handle(m, a.listClients) }

func (a *clientAdmin) listClients(_ context.Context, r *protocol.ListClientsRequest) (*protocol.ListClientsResponse, error) {
	if r.Max < 1 || r.Max > protocol.MaxListClients {
		return nil, protocol.Errorf(protocol.InvalidArgument, "%d clients; 1 to %d can be asked for", r.Max, protocol.MaxListClients)
	}
	found, more := a.clients.list(r)
	resp := &protocol.ListClientsResponse{More: more}
	peers, bytes := a.peers(), 0
	for _, c := range found {
		s := a.status(c)
		s.Address = peers[c.ID]
		if bytes += jsonBytes(&s); bytes > listPage && len(resp.Clients) > 0 {
			resp.More = true
			break
		}
		resp.Clients = append(resp.Clients, s)
	}
	return resp, nil
}

// list is what a request asks for.
func (c *clients) list(r *protocol.ListClientsRequest) (found []group.Client, more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.ClientID == "" {
		return c.sessions.Clients(r.Group, r.After, r.Max)
	}
	one, ok := c.sessions.Client(r.ClientID)
	if !ok || r.Group != "" && !c.sessions.IsMember(r.ClientID, r.Group) || r.ClientID <= r.After {
		return nil, false
	}
	return []group.Client{one}, false
}

func (a *clientAdmin) status(c group.Client) protocol.ClientStatus {
	s := protocol.ClientStatus{
		ClientID: c.ID, Language: c.Said.Language, Version: c.Said.Version,
		Producers: c.Said.Producers, Checkers: c.Said.Checkers, Consumers: c.Consumers,
		SinceMillis: c.Since.UnixMilli(), HeartbeatAgeMillis: max(a.now().Sub(c.Seen).Milliseconds(), 0),
	}
	for _, sub := range c.Consumers {
		for _, p := range a.state.groups.LeasesOf(sub.Group, c.ID) {
			if t, ok := a.state.topics.ByID(p.TopicID); ok {
				s.Leases = append(s.Leases, protocol.ClientLease{Group: sub.Group, Topic: t.Name, Queue: p.Queue, Fence: p.Fence})
			}
		}
	}
	return s
}

// jsonBytes is roughly how long the client is in JSON.
func jsonBytes(s *protocol.ClientStatus) int {
	n := 512
	for _, names := range [][]string{s.Producers, s.Checkers} {
		for _, name := range names {
			n += len(name) + 4
		}
	}
	for _, sub := range s.Consumers {
		n += len(sub.Group) + 128
		for _, t := range sub.Topics {
			n += len(t) + 4
		}
	}
	for _, l := range s.Leases {
		n += len(l.Group) + len(l.Topic) + 80
	}
	return n
}
