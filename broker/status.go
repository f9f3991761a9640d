package broker

import (
	"context"
	"time"

	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// status answers how the broker is.
type status struct {
	state   *state
	clients *clients
	cfg     Config
	started time.Time
}

func (s *status) register(m *transport.Mux) { transport.Handle(m, s.brokerStatus) }

func (s *status) brokerStatus(context.Context, *protocol.BrokerStatusRequest) (*protocol.BrokerStatusResponse, error) {
	log := s.state.log.Status()
	resp := &protocol.BrokerStatusResponse{
		Cluster: s.cfg.Cluster, Broker: s.cfg.Name, ID: s.cfg.ID, Version: s.cfg.Version,
		StartedAt: s.started.UnixMilli(), Writable: log.Refusing == nil, FlushMode: string(log.Flush),
		FirstIndex: log.FirstIndex, LastIndex: log.LastIndex, DiskBytes: log.DiskBytes,
		Topics: s.state.topics.Count(), Groups: s.state.groups.Count(), Clients: s.clients.count(),
	}
	if disk, err := s.state.log.Disk(); err != nil {
		s.cfg.Logger.Error("status", "err", err)
	} else {
		resp.DiskUsedPercent, resp.DiskFreeBytes, resp.DiskLevel = disk.UsedPercent, disk.FreeBytes, disk.Level.String()
	}
	if log.Refusing != nil {
		resp.Reason = log.Refusing.Error()
	}
	return resp, nil
}
