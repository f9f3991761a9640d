package nameserver

import (
	"context"

	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// What is worked on at a time. Clients' questions have limits of their own, so
// that they do not hold up heartbeats.
const (
	maxRequests     = 1024
	maxRequestBytes = 64 << 20
)

// serve takes requests of both classes. On an error the servers that run
// already are returned beside it.
func (n *NameServer) serve() ([]*transport.Server, error) {
	brokers := transport.NewMux()
	transport.Handle(brokers, n.registerBroker)
	transport.Handle(brokers, n.brokerHeartbeat)
	transport.Handle(brokers, n.leaveBroker)
	clients := transport.NewMux()
	transport.Handle(clients, n.queryRoute)
	transport.Handle(clients, n.queryCluster)
	transport.Handle(clients, n.queryTopics)

	limits := transport.Limits{Requests: maxRequests, Bytes: maxRequestBytes}
	var servers []*transport.Server
	for class, mux := range map[protocol.Class]*transport.Mux{protocol.ClassBroker: brokers, protocol.ClassRoute: clients} {
		s, err := transport.Serve(n.conn, protocol.NameServerSubject(class), limits, mux)
		if err != nil {
			return servers, err
		}
		servers = append(servers, s)
	}
	return servers, nil
}

func (n *NameServer) registerBroker(_ context.Context, req *protocol.RegisterBrokerRequest) (*protocol.RegisterBrokerResponse, error) {
	n.mu.Lock()
	c, err := n.registry.register(n.now(), req)
	n.mu.Unlock()
	if err != nil {
		n.logger.Warn("a registration was refused", "cluster", req.Cluster, "broker", req.Broker, "id", req.ID, "error", err)
		return nil, err
	}
	if c.any {
		n.logger.Info("broker registered", "cluster", req.Cluster, "broker", req.Broker, "id", req.ID,
			"addresses", req.Addresses, "topics", len(req.Topics), "changed", len(c.topics))
	}
	n.tell(c)
	return &protocol.RegisterBrokerResponse{TimeoutMillis: n.timeout.Milliseconds()}, nil
}

func (n *NameServer) brokerHeartbeat(_ context.Context, req *protocol.BrokerHeartbeatRequest) (*protocol.BrokerHeartbeatResponse, error) {
	n.mu.Lock()
	known, c, err := n.registry.heartbeat(n.now(), req)
	n.mu.Unlock()
	if err != nil {
		return nil, err
	}
	n.tell(c)
	return &protocol.BrokerHeartbeatResponse{Register: !known}, nil
}

func (n *NameServer) leaveBroker(_ context.Context, req *protocol.LeaveBrokerRequest) (*protocol.Empty, error) {
	n.mu.Lock()
	c, err := n.registry.leave(req.BrokerIdentity)
	n.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if c.any {
		n.logger.Info("broker left", "cluster", req.Cluster, "broker", req.Broker, "id", req.ID)
	}
	n.tell(c)
	return &protocol.Empty{}, nil
}

func (n *NameServer) queryRoute(_ context.Context, req *protocol.QueryRouteRequest) (*protocol.QueryRouteResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	routes, err := n.registry.route(req.Topic)
	if err != nil {
		return nil, err
	}
	return &protocol.QueryRouteResponse{Brokers: routes}, nil
}

func (n *NameServer) queryCluster(context.Context, *protocol.QueryClusterRequest) (*protocol.QueryClusterResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &protocol.QueryClusterResponse{Brokers: n.registry.cluster()}, nil
}

func (n *NameServer) queryTopics(context.Context, *protocol.QueryTopicsRequest) (*protocol.QueryTopicsResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &protocol.QueryTopicsResponse{Topics: n.registry.topics()}, nil
}
