// Package nameserver keeps which brokers there are and which topics they have,
// answers clients that ask for it, and tells them when it changes. It owns that
// table, in memory only: a name server that starts again is told everything by
// the brokers' next heartbeats. Name servers share nothing and never speak to
// one another or to brokers of their own accord, and never touch a message.
package nameserver

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// DefaultTimeout is how long a broker may be silent.
const DefaultTimeout = 3 * time.Second

const (
	maxTick        = 100 * time.Millisecond // between looks for silent brokers
	drainTimeout   = time.Second            // for running requests at the end
	maxEventTopics = 1000                   // beyond it an event names none, which means any
)

// Config are the settings of a name server; the zero value is usable.
type Config struct {
	// Timeout is how long a broker may be silent before it is dropped; 0:
	// DefaultTimeout.
	Timeout time.Duration
	// Logger takes the coming and going of brokers; nil: nothing is logged.
	Logger *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// NameServer is one name server. Its methods are safe for concurrent use.
type NameServer struct {
	timeout time.Duration
	logger  *slog.Logger
	now     func() time.Time
	conn    *transport.Conn
	ready   chan struct{}

	mu       sync.Mutex
	registry *registry
}

// New makes a name server that is reached through conn, which stays the
// caller's and must outlive Run.
func New(cfg Config, conn *transport.Conn) *NameServer {
	n := &NameServer{timeout: cfg.Timeout, logger: cfg.Logger, now: cfg.Now, conn: conn, ready: make(chan struct{})}
	if n.timeout <= 0 {
		n.timeout = DefaultTimeout
	}
	if n.logger == nil {
		n.logger = slog.New(slog.DiscardHandler)
	}
	if n.now == nil {
		n.now = time.Now
	}
	n.registry = newRegistry(n.timeout)
	return n
}

// Ready is closed when the name server takes requests.
func (n *NameServer) Ready() <-chan struct{} { return n.ready }

// Run serves until ctx ends and returns nil then, or an error when it cannot
// serve. It is called once.
func (n *NameServer) Run(ctx context.Context) error {
	servers, err := n.serve()
	if err == nil {
		close(n.ready)
		n.dropSilent(ctx)
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	for _, s := range servers {
		err = errors.Join(err, s.Drain(end))
	}
	return err
}

// dropSilent looks for silent brokers until ctx ends.
func (n *NameServer) dropSilent(ctx context.Context) {
	tick := time.NewTicker(min(maxTick, max(n.timeout/4, time.Millisecond)))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			n.expire()
		}
	}
}

func (n *NameServer) expire() {
	n.mu.Lock()
	c, dropped := n.registry.expire(n.now())
	n.mu.Unlock()
	for _, b := range dropped {
		n.logger.Warn("broker dropped: no heartbeat", "cluster", b.Cluster, "broker", b.Broker, "id", b.ID, "silent", n.timeout)
	}
	n.tell(c)
}

// tell publishes a change of routes. A client that misses it asks again by
// itself before long.
func (n *NameServer) tell(c change) {
	if !c.any {
		return
	}
	event := protocol.RouteChangedEvent{Topics: c.topics}
	if len(event.Topics) > maxEventTopics {
		event.Topics = nil
	}
	if err := n.conn.Publish(protocol.NameServerEvents, protocol.RouteChanged, &event); err != nil {
		n.logger.Warn("a change of routes was not published", "error", err)
	}
}
