package broker

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// heartbeatInterval is how often a broker tells each name server that it is
// there; name servers drop it after 3 s of silence.
const heartbeatInterval = time.Second

// registration keeps the broker in the routes of all its name servers, which
// know nothing of one another.
type registration struct {
	identity  protocol.BrokerIdentity
	addresses []string
	state     *state
	logger    *slog.Logger
	servers   []*nameServer
}

// nameServer is one of them. Its goroutine alone talks to it.
type nameServer struct {
	*registration
	addr   string // empty: in this process
	conn   *transport.Conn
	owned  bool // conn is this registration's to close
	asked  chan asked
	known  uint64        // data version that it has; 0: not certain
	soon   chan struct{} // the connection came back
	failed bool          // the last attempt, so that a failure is logged once
}

// topicChange is what became of one topic, from one data version to the next.
type topicChange struct {
	base    uint64
	put     []protocol.TopicConfig
	removed []string
}

// asked asks a name server's goroutine to tell it of a change, or, without one,
// to register. tried is closed when that was tried.
type asked struct {
	change *topicChange
	tried  chan struct{}
}

func newRegistration(cfg Config, addresses []string, own *transport.Conn, s *state) *registration {
	r := &registration{
		identity: protocol.BrokerIdentity{
			Cluster: cfg.Cluster, Broker: cfg.Name, ID: cfg.ID,
			Incarnation: uint64(cfg.Now().UnixNano()),
		},
		addresses: addresses, state: s, logger: cfg.Logger,
	}
	if len(cfg.NameServers) == 0 {
		r.servers = []*nameServer{r.nameServer("")}
		r.servers[0].conn = own
	}
	for _, addr := range cfg.NameServers {
		n := r.nameServer(addr)
		conn, err := transport.Dial(addr, transport.Options{Name: cfg.Name, Logger: cfg.Logger, OnConnect: func() {
			select {
			case n.soon <- struct{}{}:
			default:
			}
		}})
		if err != nil {
			cfg.Logger.Error("name server", "addr", addr, "err", err)
			continue
		}
		n.conn, n.owned = conn, true
		r.servers = append(r.servers, n)
	}
	return r
}

func (r *registration) nameServer(addr string) *nameServer {
	return &nameServer{registration: r, addr: addr, asked: make(chan asked), soon: make(chan struct{}, 1)}
}

// run talks to all name servers until ctx ends, and then leaves the routes.
func (r *registration) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, n := range r.servers {
		wg.Go(func() { n.run(ctx) })
	}
	wg.Wait()
	r.leave(context.WithoutCancel(ctx))
}

// close closes the connections, after run has returned.
func (r *registration) close() {
	for _, n := range r.servers {
		if n.owned {
			n.conn.Close()
		}
	}
}

// update tells all name servers of a change of topics, and returns when each was
// tried. One that cannot be reached hears of it with the next heartbeat that
// reaches it.
func (r *registration) update(ctx context.Context, change *topicChange) {
	var wg sync.WaitGroup
	for _, n := range r.servers {
		wg.Go(func() { n.ask(ctx, change) })
	}
	wg.Wait()
}

// waitFirst returns when every name server was tried once, so that clients find
// the broker as soon as it is open. A name server that is down is no error.
func (r *registration) waitFirst(ctx context.Context) error {
	r.update(ctx, nil)
	return ctx.Err()
}

func (n *nameServer) ask(ctx context.Context, change *topicChange) {
	a := asked{change: change, tried: make(chan struct{})}
	select {
	case n.asked <- a:
	case <-ctx.Done():
		return
	}
	select {
	case <-a.tried:
	case <-ctx.Done():
	}
}

func (n *nameServer) run(ctx context.Context) {
	tick := time.NewTicker(heartbeatInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-n.asked:
			n.log(n.follow(ctx, a.change))
			close(a.tried)
		case <-n.soon:
			n.log(n.heartbeat(ctx, nil))
		case <-tick.C:
			n.log(n.heartbeat(ctx, nil))
		}
	}
}

func (n *nameServer) log(err error) {
	switch {
	case err != nil && !n.failed && !errors.Is(err, context.Canceled):
		n.logger.Warn("name server", "addr", n.addr, "err", err)
	case err == nil && n.failed:
		n.logger.Info("name server is back", "addr", n.addr)
	}
	n.failed = err != nil
}

// follow tells of a change alone when the name server is known to have what came
// before it, and registers with everything otherwise.
func (n *nameServer) follow(ctx context.Context, change *topicChange) error {
	if change == nil || change.base == 0 || change.base != n.known {
		return n.register(ctx)
	}
	return n.heartbeat(ctx, change)
}

// heartbeat renews the registration, with or without a change, and makes it when
// the name server does not have it, as after its restart.
func (n *nameServer) heartbeat(ctx context.Context, change *topicChange) error {
	call, cancel := context.WithTimeout(ctx, heartbeatInterval)
	defer cancel()
	req := &protocol.BrokerHeartbeatRequest{BrokerIdentity: n.identity, DataVersion: n.state.topics.Version()}
	if change != nil {
		req.Base, req.Changed, req.Removed = change.base, change.put, change.removed
	}
	n.known = 0 // until it answers
	resp, err := transport.Call[protocol.BrokerHeartbeatResponse](call, n.conn, protocol.NameServerSubject(protocol.ClassBroker), req)
	if err != nil {
		return err
	}
	if resp.Register {
		return n.register(ctx)
	}
	n.known = req.DataVersion
	return nil
}

func (n *nameServer) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, heartbeatInterval)
	defer cancel()
	if n.owned {
		if err := n.conn.WaitConnected(ctx); err != nil {
			return err
		}
	}
	req := &protocol.RegisterBrokerRequest{BrokerIdentity: n.identity, Addresses: n.addresses, DataVersion: n.state.topics.Version()}
	for _, t := range n.state.topics.List() {
		req.Topics = append(req.Topics, t.TopicConfig)
	}
	n.known = 0 // until it answers
	_, err := transport.Call[protocol.RegisterBrokerResponse](ctx, n.conn, protocol.NameServerSubject(protocol.ClassBroker), req)
	if err == nil {
		n.known = req.DataVersion
	}
	return err
}

func (r *registration) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, heartbeatInterval)
	defer cancel()
	var wg sync.WaitGroup
	for _, n := range r.servers {
		wg.Go(func() {
			req := &protocol.LeaveBrokerRequest{BrokerIdentity: r.identity}
			_, err := transport.Call[protocol.Empty](ctx, n.conn, protocol.NameServerSubject(protocol.ClassBroker), req)
			if err != nil {
				r.logger.Warn("leave name server", "addr", n.addr, "err", err)
			}
		})
	}
	wg.Wait()
}
