package client

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// directory knows where brokers are, from every answer that says so.
type directory struct {
	mu      sync.RWMutex
	brokers map[string]*broker
}

// broker is where one broker was last seen. Only prefer changes.
type broker struct {
	name   string
	id     int
	addrs  []string
	prefer atomic.Int32 // the address that is tried first
}

func (d *directory) get(name string) *broker {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.brokers[name]
}

func (d *directory) learnCluster(brokers []protocol.BrokerInfo) {
	seen := make([]*broker, len(brokers))
	for i, b := range brokers {
		seen[i] = &broker{name: b.Broker, id: b.ID, addrs: b.Addresses}
	}
	d.learn(seen)
}

func (d *directory) learnRoute(brokers []protocol.TopicRoute) {
	seen := make([]*broker, len(brokers))
	for i, b := range brokers {
		seen[i] = &broker{name: b.Broker, id: b.ID, addrs: b.Addresses}
	}
	d.learn(seen)
}

// learn keeps, of the brokers with one name, the one with the lowest id: the
// master.
func (d *directory) learn(seen []*broker) {
	masters := map[string]*broker{}
	for _, b := range seen {
		if m := masters[b.name]; m == nil || b.id < m.id {
			masters[b.name] = b
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.brokers == nil {
		d.brokers = map[string]*broker{}
	}
	for name, b := range masters {
		if old := d.brokers[name]; old == nil || old.id != b.id || !slices.Equal(old.addrs, b.addrs) {
			d.brokers[name] = b
		}
	}
}

// inOrder gives the addresses, beginning with the preferred one.
func (b *broker) inOrder() []string {
	at := int(b.prefer.Load())
	if at == 0 {
		return b.addrs
	}
	return append(slices.Clone(b.addrs[at:]), b.addrs[:at]...)
}

func (b *broker) preferAddr(addr string) {
	b.prefer.Store(int32(max(slices.Index(b.addrs, addr), 0)))
}

func (b *broker) preferNext() {
	if n := int32(len(b.addrs)); n > 0 {
		b.prefer.Store((b.prefer.Load() + 1) % n)
	}
}

// Address is where a broker is called, as host:port; empty when it is not known.
func (c *Client) Address(broker string) string {
	b := c.brokers.get(broker)
	if b == nil || len(b.addrs) == 0 {
		return ""
	}
	return b.addrs[int(b.prefer.Load())%len(b.addrs)]
}

func (b *broker) subject(class protocol.Class) string {
	return protocol.BrokerSubject(b.name, b.id, class)
}

// Call sends a request to a broker and waits for the answer, for 5 s when ctx
// has no deadline. A broker that no answer has named yet is asked for at the
// name servers; of several addresses the first that can be reached is used.
func Call[Resp any](ctx context.Context, c *Client, broker string, class protocol.Class, req protocol.Request) (*Resp, error) {
	ctx, cancel := withDeadline(ctx, defaultTimeout)
	defer cancel()
	var resp *Resp
	b, conn, err := c.reach(ctx, broker)
	if err == nil {
		c.beats.used(broker, class)
		resp, err = transport.Call[Resp](ctx, conn, b.subject(class), req)
	}
	if err != nil {
		c.noteFailure(b, err)
		return nil, Wrap(req.RequestCode().String(), "", broker, err)
	}
	return resp, nil
}

// Known returns nil when there is, or was, a broker of this name; NotFound when
// the name servers know none.
func (c *Client) Known(ctx context.Context, broker string) error {
	if c.brokers.get(broker) != nil {
		return nil
	}
	if _, err := c.Cluster(ctx); err != nil {
		return err
	}
	if c.brokers.get(broker) == nil {
		return protocol.Errorf(protocol.NotFound, "no name server knows broker %q: it is another cluster's, or has not been up for a while", broker)
	}
	return nil
}

// Start sends a request to a broker by name and returns. Done is called exactly
// once, possibly before Start returns, and must not block; the payload is its
// to keep, and req is not used any more. An error wraps ErrNotSent when the request never left.
func (c *Client) Start(ctx context.Context, broker string, class protocol.Class, req protocol.Request, done func(payload []byte, err error)) {
	if b := c.brokers.get(broker); b != nil {
		for _, addr := range b.inOrder() {
			if conn := c.pool.connected(addr); conn != nil {
				c.start(ctx, b, conn, class, req, done)
				return
			}
		}
	}
	started := c.spawn(func() {
		b, conn, err := c.reach(ctx, broker)
		if err != nil {
			c.noteFailure(b, err)
			done(nil, fmt.Errorf("%w: %w", ErrNotSent, err))
			return
		}
		c.start(ctx, b, conn, class, req, done)
	})
	if !started {
		done(nil, fmt.Errorf("%w: %w", ErrNotSent, protocol.Closed))
	}
}

func (c *Client) start(ctx context.Context, b *broker, conn *transport.Conn, class protocol.Class, req protocol.Request, done func([]byte, error)) {
	c.beats.used(b.name, class)
	l := &landing{done: done}
	l.parties.Store(2)
	conn.Start(ctx, b.subject(class), req, func(payload []byte, err error) {
		c.noteFailure(b, err)
		l.payload, l.err = payload, err
		l.arrive()
	})
	l.arrive()
}

// landing holds back an answer, such as the end of ctx, that comes while the
// request is still being written: when done is called, the request is free.
type landing struct {
	parties atomic.Int32 // the writer and the answer
	payload []byte
	err     error
	done    func([]byte, error)
}

func (l *landing) arrive() {
	if l.parties.Add(-1) == 0 {
		l.done(l.payload, l.err)
	}
}

// reach finds a connection to the broker that is up.
func (c *Client) reach(ctx context.Context, name string) (*broker, *transport.Conn, error) {
	b := c.brokers.get(name)
	if b == nil {
		if _, err := c.Cluster(ctx); err != nil {
			return nil, nil, err
		}
		if b = c.brokers.get(name); b == nil {
			return nil, nil, protocol.Errorf(protocol.Unreachable, "no name server knows broker %q", name)
		}
	}
	var last error = protocol.Errorf(protocol.Unreachable, "broker %q has no address", name)
	for _, addr := range b.inOrder() {
		conn, err := c.pool.wait(ctx, addr)
		if err == nil {
			b.preferAddr(addr)
			return b, conn, nil
		}
		last = err
	}
	return b, nil, last
}

// noteFailure draws the conclusions from an answer: where the broker is not, it
// may have moved, and a session that the broker forgot must be opened again.
func (c *Client) noteFailure(b *broker, err error) {
	switch protocol.CodeOf(err) {
	case protocol.Unreachable:
		if b != nil {
			b.preferNext()
		}
		c.routes.markAll()
	case protocol.UnknownMember:
		c.beats.now()
	}
}
