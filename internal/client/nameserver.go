package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rmqio/rmq/internal/client/lookup"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

const (
	defaultTimeout = 5 * time.Second // of calls whose ctx has no deadline
	// tryTimeout is what one name server gets before the next is asked. The last one
	// has all the time of the call, unless another has answered.
	tryTimeout = time.Second
	// emptyInterval is how often an endpoint is asked that never answered.
	emptyInterval = time.Second
)

// nameServers are the addresses as resolved now, and which one answers.
type nameServers struct {
	mu      sync.Mutex
	addrs   []string
	at      int
	watched map[string]func() // stops of the event subscriptions
}

func newNameServers() *nameServers { return &nameServers{watched: map[string]func(){}} }

// order is all addresses, beginning with the one that answered last.
func (n *nameServers) order() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append(slices.Clone(n.addrs[n.at:]), n.addrs[:n.at]...)
}

// stick makes addr the first to be asked.
func (n *nameServers) stick(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i := slices.Index(n.addrs, addr); i >= 0 {
		n.at = i
	}
}

// set replaces the addresses; it says which are new, and gives the stops of
// the subscriptions of those that are gone.
func (n *nameServers) set(addrs []string) (added []string, stops []func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var current string
	if len(n.addrs) > 0 {
		current = n.addrs[n.at]
	}
	n.addrs = slices.Clone(addrs)
	n.at = max(slices.Index(n.addrs, current), 0)
	for addr, stop := range n.watched {
		if !slices.Contains(addrs, addr) {
			stops = append(stops, stop)
			delete(n.watched, addr)
		}
	}
	for _, addr := range addrs {
		if n.watched[addr] == nil {
			n.watched[addr] = func() {}
			added = append(added, addr)
		}
	}
	return added, stops
}

// watching keeps the stop of an address's subscription; false when the address
// is gone meanwhile.
func (n *nameServers) watching(addr string, stop func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.watched[addr] == nil {
		return false
	}
	n.watched[addr] = stop
	return true
}

// NameServerAddrs are the name servers as resolved now; none while an endpoint
// has not answered yet.
func (c *Client) NameServerAddrs() []string {
	c.names.mu.Lock()
	defer c.names.mu.Unlock()
	return slices.Clone(c.names.addrs)
}

// useNameServers takes a list into use and listens to the events of each.
// Only New and the endpoint's goroutine call it.
func (c *Client) useNameServers(addrs []string) {
	added, stops := c.names.set(addrs)
	for _, stop := range stops {
		stop()
	}
	for _, addr := range added {
		c.spawn(func() { c.watchNameServer(addr) })
	}
}

// watchNameServer listens to the events of one name server, also after it was
// away. What changed before the subscription is asked for.
func (c *Client) watchNameServer(addr string) {
	conn, err := c.pool.dialled(addr)
	var stop func()
	if err == nil {
		stop, err = conn.Subscribe(protocol.NameServerEvents, c.routeEvent)
	}
	if err != nil {
		c.log.Warn("no events from name server, its routes are polled", "address", addr, "error", err)
		return
	}
	if !c.names.watching(addr, stop) {
		stop()
	}
	c.routes.markAll()
}

// askEndpoint asks the endpoint for name servers once; a failure leaves the
// list as it is.
func (c *Client) askEndpoint(ctx context.Context, url string) {
	addrs, err := lookup.Fetch(ctx, url)
	if err != nil {
		c.log.Warn("endpoint gives no name servers, the last list is kept", "error", err)
		return
	}
	c.useNameServers(addrs)
}

// followEndpoint asks again until the client is closed.
func (c *Client) followEndpoint(url string, interval time.Duration) {
	for {
		wait := interval
		if len(c.NameServerAddrs()) == 0 {
			wait = min(interval, emptyInterval)
		}
		if !c.pause(wait) {
			return
		}
		c.askEndpoint(c.ctx, url)
	}
}

// QueryNameServer asks one particular name server.
func QueryNameServer[Resp any](ctx context.Context, c *Client, addr string, req protocol.Request) (*Resp, error) {
	resp, err := queryAt[Resp](ctx, c, addr, req, defaultTimeout)
	if err != nil {
		return nil, Wrap(req.RequestCode().String(), "", "", err)
	}
	return resp, nil
}

func queryAt[Resp any](ctx context.Context, c *Client, addr string, req protocol.Request, timeout time.Duration) (*Resp, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var resp *Resp
	conn, err := c.pool.wait(ctx, addr)
	if err == nil {
		resp, err = transport.Call[Resp](ctx, conn, protocol.NameServerSubject(protocol.ClassRoute), req)
	}
	if err != nil {
		return nil, fmt.Errorf("name server %s: %w", addr, err)
	}
	return resp, nil
}

// query asks the name servers one after another until one answers with
// something. A name server that has just started knows nothing yet: so empty
// answers and TopicNotFound count only when no other knows more.
func query[Resp any](ctx context.Context, c *Client, req protocol.Request, empty func(*Resp) bool) (*Resp, error) {
	ctx, cancel := withDeadline(ctx, defaultTimeout)
	defer cancel()
	var nothing *Resp
	var notFound, failed error
	order := c.names.order()
	for i, addr := range order {
		timeout := tryTimeout
		if deadline, _ := ctx.Deadline(); i == len(order)-1 && nothing == nil && notFound == nil {
			timeout = time.Until(deadline)
		}
		resp, err := queryAt[Resp](ctx, c, addr, req, timeout)
		switch {
		case err == nil && !empty(resp):
			c.names.stick(addr)
			return resp, nil
		case err == nil:
			nothing = resp
		case errors.Is(err, protocol.TopicNotFound):
			notFound = err
		case !protocol.CodeOf(err).Retryable() || ctx.Err() != nil:
			return nil, err
		default:
			failed = errors.Join(failed, err)
		}
	}
	switch {
	case nothing != nil || notFound != nil:
		return nothing, notFound
	case failed != nil:
		return nil, failed
	}
	return nil, fmt.Errorf("%w: %w", protocol.Unreachable, ErrNoNameServer)
}

// Cluster lists all brokers, sorted by cluster, name and id.
func (c *Client) Cluster(ctx context.Context) ([]protocol.BrokerInfo, error) {
	resp, err := query(ctx, c, &protocol.QueryClusterRequest{}, func(r *protocol.QueryClusterResponse) bool { return len(r.Brokers) == 0 })
	if err != nil {
		return nil, Wrap("list brokers", "", "", err)
	}
	c.brokers.learnCluster(resp.Brokers)
	return resp.Brokers, nil
}

// Topics lists the names of all topics, sorted.
func (c *Client) Topics(ctx context.Context) ([]string, error) {
	resp, err := query(ctx, c, &protocol.QueryTopicsRequest{}, func(r *protocol.QueryTopicsResponse) bool { return len(r.Topics) == 0 })
	if err != nil {
		return nil, Wrap("list topics", "", "", err)
	}
	return resp.Topics, nil
}

func withDeadline(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d)
}
