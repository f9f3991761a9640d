// Package client is what the producer, the consumer and the admin SDK share:
// it finds the name servers, keeps routes and connections, sends heartbeats,
// and calls brokers by name. It owns its connections and its goroutines
// (routes, heartbeats, the endpoint, and short ones for each slow call), all
// joined by Close.
//
// It never decides what is sent, pulled or retried, and never imports the
// server side.
package client

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rmqio/rmq/transport"
)

// leaveTimeout bounds the goodbye of Close.
const leaveTimeout = 500 * time.Millisecond

// Client is one client of a cluster. Make one with New; all methods are safe
// for concurrent use. It survives the loss of any server, and of all of them
// for a while.
type Client struct {
	id string
	// incarnation tells the client from another one with its id.
	incarnation uint64
	log         *slog.Logger
	pool        *pool
	names       *nameServers
	brokers     directory
	routes      *routes
	beats       *beats
	refusals    refusals
	events      events

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
}

// New checks the configuration, every fault of it at once, and starts to
// connect; it does not wait for a server. Only with an endpoint it waits for
// the endpoint's first answer, for 3 s at most. Values of ctx are kept, its end
// is not.
func New(ctx context.Context, cfg Config) (*Client, error) {
	source, err := cfg.resolve()
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	c := &Client{id: cfg.ClientID, incarnation: rand.Uint64()>>11 | 1, log: cfg.Logger, names: newNameServers(), routes: newRoutes(), beats: newBeats()}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	c.pool = newPool(transport.Options{Name: c.id, Logger: c.log, OnEvent: c.events.arrived, OnConnect: c.connected})
	c.pool.serve = cfg.serveReplies()
	if source.Endpoint == "" {
		c.useNameServers(source.Addrs)
	} else {
		c.askEndpoint(ctx, source.Endpoint)
		c.running.Go(func() { c.followEndpoint(source.Endpoint, cfg.EndpointInterval) })
	}
	c.running.Go(c.followRoutes)
	c.running.Go(c.followBeats)
	return c, nil
}

// ID is the client's name among all clients.
func (c *Client) ID() string { return c.id }

// Incarnation is what tells the client from another one with its id.
func (c *Client) Incarnation() uint64 { return c.incarnation }

// Close says goodbye to the brokers that know the client, for half a second at
// most, and ends every connection. Pending calls fail with Closed.
func (c *Client) Close() {
	if !c.beats.idle() {
		ctx, cancel := context.WithTimeout(c.ctx, leaveTimeout)
		if err := c.Leave(ctx, ""); err != nil {
			c.log.Debug("goodbye is not answered", "error", err)
		}
		cancel()
	}
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.pool.close()
	c.running.Wait()
}

// connected is called after each connect: while there was no connection,
// events may have been missed and sessions may have ended.
func (c *Client) connected() {
	c.routes.markAll()
	c.beats.now()
}

// spawn runs fn in a goroutine that Close waits for; false when closed.
func (c *Client) spawn(fn func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.running.Go(fn)
	return true
}

// pause waits; false when the client is closed meanwhile.
func (c *Client) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-c.ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
