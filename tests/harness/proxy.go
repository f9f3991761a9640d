package harness

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Proxy is a network between clients and a server that a test can break. Its
// methods are safe for concurrent use.
type Proxy struct {
	listener net.Listener
	running  sync.WaitGroup
	deaf     atomic.Bool

	mu     sync.Mutex
	closed bool
	target string
	conns  map[net.Conn]struct{}
}

// StartProxy runs a proxy until the test ends. It refuses connections until it
// has a target.
func StartProxy(t testing.TB) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, conns: map[net.Conn]struct{}{}}
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Addr is where clients find the proxy, host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Target says where connections from now on go.
func (p *Proxy) Target(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = addr
}

// Lose loses what the server says from now on. The connections are of no use
// any more: Cut ends them, and ends the losing.
func (p *Proxy) Lose() { p.deaf.Store(true) }

// Cut cuts all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close() // only the copying goroutines hear of it
	}
	p.deaf.Store(false)
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.listener.Close()
	p.Cut()
	p.running.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		target := p.target
		p.mu.Unlock()
		server, err := net.Dial("tcp", target)
		if err != nil {
			client.Close()
			continue
		}
		p.join(client, server)
	}
}

// join copies both ways until one end is closed.
func (p *Proxy) join(client, server net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		client.Close()
		server.Close()
		return
	}
	p.conns[client], p.conns[server] = struct{}{}, struct{}{}
	p.running.Go(func() { p.copy(server, client, func() bool { return false }) })
	p.running.Go(func() { p.copy(client, server, p.deaf.Load) })
}

func (p *Proxy) copy(to, from net.Conn, lost func() bool) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !lost() {
			if _, failed := to.Write(buffer[:n]); failed != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	to.Close()
	from.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, to)
	delete(p.conns, from)
}
