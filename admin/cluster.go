package admin

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/transport/protocol"
)

// Broker is a broker as the name server knows it and as it says it is.
type Broker struct {
	protocol.BrokerInfo
	// Status is nil when the broker did not answer; Err says why.
	Status *protocol.BrokerStatusResponse
	Err    error
}

// NameServer is one of the configured name servers.
type NameServer struct {
	Addr string
	// Brokers is how many it knows.
	Brokers int
	// RoundTrip is how long the answer took.
	RoundTrip time.Duration
	// Err is why it did not answer; nil when it did.
	Err error
}

// Health says whether the cluster can send and receive.
type Health struct {
	// Healthy is true when a name server answers, knows at least one broker, and
	// all brokers answer and take writes.
	Healthy bool
	// Problems are sentences for people; none when healthy and all name servers answer.
	Problems    []string
	NameServers []NameServer
	Brokers     []Broker
}

// Cluster gives all brokers with their status, sorted by cluster, name and id.
// A broker that does not answer is in the list, with Err.
func (a *Admin) Cluster(ctx context.Context) ([]Broker, error) {
	infos, err := a.client.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	brokers := make([]Broker, len(infos))
	var wg sync.WaitGroup
	for i, info := range infos {
		brokers[i].BrokerInfo = info
		if info.ID != 0 {
			continue // clients talk to masters only
		}
		wg.Go(func() {
			b := &brokers[i]
			b.Status, b.Err = client.Call[protocol.BrokerStatusResponse](ctx, a.client, info.Broker, protocol.ClassAdmin, &protocol.BrokerStatusRequest{})
		})
	}
	wg.Wait()
	return brokers, nil
}

// NameServers asks every configured name server how many brokers it knows, in
// the order of the configuration.
func (a *Admin) NameServers(ctx context.Context) []NameServer {
	addrs := a.client.NameServerAddrs()
	servers := make([]NameServer, len(addrs))
	var wg sync.WaitGroup
	for i, addr := range addrs {
		wg.Go(func() { servers[i] = a.nameServer(ctx, addr) })
	}
	wg.Wait()
	return servers
}

func (a *Admin) nameServer(ctx context.Context, addr string) NameServer {
	start := time.Now()
	r, err := client.QueryNameServer[protocol.QueryClusterResponse](ctx, a.client, addr, &protocol.QueryClusterRequest{})
	s := NameServer{Addr: addr, RoundTrip: time.Since(start), Err: err}
	if err == nil {
		s.Brokers = len(r.Brokers)
	}
	return s
}

// Health looks at all name servers and brokers. It returns no error: what
// cannot be reached is a problem in the answer.
func (a *Admin) Health(ctx context.Context) *Health {
	h := &Health{NameServers: a.NameServers(ctx)}
	answering := 0
	for _, s := range h.NameServers {
		if s.Err == nil {
			answering++
			continue
		}
		h.problem("name server %s does not answer: %v", s.Addr, s.Err)
	}
	if answering == 0 {
		return h
	}
	brokers, err := a.Cluster(ctx)
	switch {
	case err != nil:
		h.problem("the list of brokers is not to be had: %v", err)
	case len(brokers) == 0:
		h.problem("no broker is registered")
	}
	h.Brokers, h.Healthy = brokers, len(brokers) > 0
	for _, b := range brokers {
		h.Healthy = h.check(b) && h.Healthy
	}
	return h
}

func (h *Health) check(b Broker) bool {
	switch {
	case b.Err != nil:
		h.problem("broker %s does not answer: %v", b.Broker, b.Err)
		return false
	case b.Status != nil && !b.Status.Writable:
		h.problem("broker %s takes no writes: %s", b.Broker, b.Status.Reason)
		return false
	}
	return true
}

func (h *Health) problem(format string, args ...any) {
	h.Problems = append(h.Problems, fmt.Sprintf(format, args...))
}
