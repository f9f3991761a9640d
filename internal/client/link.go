package client

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

const (
	// connectGrace is how long a new connection is waited for. One that was up
	// and is down is not waited for: another address, or the caller's next try,
	// is better.
	connectGrace = time.Second
	// idleLink is how long a connection stays that nobody uses.
	idleLink = 5 * time.Minute
	// drainTimeout bounds how long the end of a connection waits for its own answers.
	drainTimeout = 500 * time.Millisecond
)

// pool has one connection for each address that was needed, be it a broker's, a
// name server's or both. Each is dialled by a goroutine that close waits for.
type pool struct {
	options transport.Options
	serve   func(*transport.Conn) (*transport.Server, error) // of a new connection, before it is used; nil: nothing
	log     *slog.Logger
	closing chan struct{}
	dialers sync.WaitGroup

	mu     sync.Mutex
	closed bool
	links  map[string]*link
}

func newPool(options transport.Options) *pool {
	return &pool{options: options, log: options.Logger, closing: make(chan struct{}), links: map[string]*link{}}
}

// link is the connection to one address, which may be down.
type link struct {
	addr   string
	start  time.Time
	conn   atomic.Pointer[transport.Conn]
	server *transport.Server // of conn, set before it; nil: none
	dialed chan struct{}     // closed when dialling has ended; then err holds
	err    error
	up     chan struct{} // closed at the first connect
	upOnce sync.Once
	used   atomic.Int64 // Unix seconds
}

// get returns the link of an address, whatever its state.
func (p *pool) get(addr string) (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, protocol.Closed
	}
	l := p.links[addr]
	if l == nil {
		l = &link{addr: addr, start: time.Now(), dialed: make(chan struct{}), up: make(chan struct{})}
		p.links[addr] = l
		p.dialers.Go(func() { p.dial(l) })
	}
	l.used.Store(time.Now().Unix())
	return l, nil
}

func (p *pool) dial(l *link) {
	defer close(l.dialed)
	o := p.options
	o.OnConnect = func() {
		l.upOnce.Do(func() { close(l.up) })
		p.options.OnConnect()
	}
	conn, err := transport.Dial(l.addr, o)
	if err == nil && p.serve != nil {
		if l.server, err = p.serve(conn); err != nil {
			conn.Close()
		}
	}
	if err != nil {
		l.err = protocol.Errorf(protocol.Unreachable, "dial %s: %v", l.addr, err)
		return
	}
	l.conn.Store(conn)
}

// dialled returns the connection, up or down.
func (p *pool) dialled(addr string) (*transport.Conn, error) {
	l, err := p.get(addr)
	if err != nil {
		return nil, err
	}
	<-l.dialed
	return l.conn.Load(), l.err
}

// connected returns the connection if it is up now.
func (p *pool) connected(addr string) *transport.Conn {
	p.mu.Lock()
	l := p.links[addr]
	p.mu.Unlock()
	if l == nil {
		return nil
	}
	conn := l.conn.Load()
	if conn == nil || !conn.Connected() {
		return nil
	}
	l.used.Store(time.Now().Unix())
	return conn
}

// wait returns the connection to an address once it is up; Unreachable when it
// is down, or not up within connectGrace of its first use.
func (p *pool) wait(ctx context.Context, addr string) (*transport.Conn, error) {
	l, err := p.get(addr)
	if err != nil {
		return nil, err
	}
	if conn := l.conn.Load(); conn != nil && conn.Connected() {
		return conn, nil
	}
	grace := time.NewTimer(time.Until(l.start.Add(connectGrace)))
	defer grace.Stop()
	for _, step := range []<-chan struct{}{l.dialed, l.up} {
		select {
		case <-step:
		case <-grace.C:
			return nil, protocol.Errorf(protocol.Unreachable, "no connection to %s", addr)
		case <-p.closing:
			return nil, protocol.Closed
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: no connection to %s: %w", protocol.Unreachable, addr, ctx.Err())
		}
		if l.conn.Load() == nil {
			return nil, l.err // of the first step
		}
	}
	conn := l.conn.Load()
	if !conn.Connected() {
		return nil, protocol.Errorf(protocol.Unreachable, "no connection to %s", addr)
	}
	return conn, nil
}

// prune closes what nobody has used for idleLink, except the addresses in keep.
func (p *pool) prune(now time.Time, keep []string) {
	kept := map[string]bool{}
	for _, addr := range keep {
		kept[addr] = true
	}
	var idle []*link
	p.mu.Lock()
	for addr, l := range p.links {
		if !kept[addr] && now.Unix()-l.used.Load() > int64(idleLink.Seconds()) {
			idle = append(idle, l)
			delete(p.links, addr)
		}
	}
	p.mu.Unlock()
	closeLinks(idle)
}

// close ends all connections; calls that wait fail with Closed.
func (p *pool) close() {
	p.mu.Lock()
	already := p.closed
	p.closed = true
	var all []*link
	for _, l := range p.links {
		all = append(all, l)
	}
	p.mu.Unlock()
	if already {
		return
	}
	close(p.closing)
	p.dialers.Wait()
	closeLinks(all)
}

func closeLinks(links []*link) {
	for _, l := range links {
		l.close()
	}
}

// close answers what was taken and ends the connection: a broker that is not told that
// a reply has arrived would bring it again, to nobody.
func (l *link) close() {
	conn := l.conn.Load()
	if conn == nil {
		return
	}
	if l.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
		_ = l.server.Drain(ctx) // what is not answered by then is not
		cancel()
	}
	conn.Close()
}
