// Package transport moves protocol frames between named endpoints over NATS:
// connections that reconnect for ever, typed calls, events, and servers with
// admission limits. It owns the connections and the goroutines that wait on
// them. It never stores anything, never retries a request, and knows no meaning
// of any code beyond the frame.
package transport

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/rmqio/rmq/transport/protocol"
)

// Options are the settings of a connection; the zero value is usable.
type Options struct {
	// Name is for logs and the server's connection list.
	Name string
	// Logger takes what happens to the connection; nil: nothing is logged.
	Logger *slog.Logger
	// InProcess, when set, is an embedded server to connect to without TCP; the
	// address is then only a name for logs and errors.
	InProcess interface{ InProcessConn() (net.Conn, error) }
	// OnEvent takes the event frames that arrive at the inbox, one at a time. It
	// must not block. The payload is its to keep.
	OnEvent func(protocol.Frame)
	// OnConnect is called after each connect and reconnect, one at a time, the
	// first time perhaps before Dial has returned. It must not block.
	OnConnect func()
}

// Conn is a connection to one NATS server that is made again whenever it is
// lost. Its methods are safe for concurrent use; none of them but Start,
// Publish, Connected and Inbox may be called from a callback of the connection.
type Conn struct {
	addr      string
	inbox     string
	logger    *slog.Logger
	onEvent   func(protocol.Frame)
	onConnect func()

	nc      *nats.Conn
	dialed  chan struct{} // closed when nc is set; callbacks of nc wait for it
	gone    chan struct{} // closed after the last callback of nc
	life    context.Context
	cancel  context.CancelFunc
	calls   calls
	answers answers
	buffers sync.Pool // of *[]byte, each at least a frame's header long
	shut    sync.Once

	receivers sync.WaitGroup // one for each subscription

	mu      sync.Mutex
	closed  bool
	servers []*Server
}

// Dial makes a connection to the server at addr (host:port). It tries once and
// returns, connected or not: a connection that does not stand is tried again
// until Close. An error is returned only for an address that can never work.
func Dial(addr string, o Options) (*Conn, error) {
	if err := checkAddr(addr, o); err != nil {
		return nil, err
	}
	c := newConn(addr, o)
	nc, err := nats.Connect("nats://"+c.dialAddr(o), c.natsOptions(o)...)
	if err != nil {
		c.cancel()
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	c.nc = nc
	if _, err := c.subscribe(c.inbox, noLimit, noLimit, c.receive); err != nil {
		close(c.dialed)
		c.Close()
		return nil, err
	}
	if nc.IsConnected() {
		c.calls.open()
	}
	close(c.dialed)
	return c, nil
}

func newConn(addr string, o Options) *Conn {
	c := &Conn{
		addr: addr, inbox: protocol.InboxSubject(rand.Text()),
		logger: o.Logger, onEvent: o.OnEvent, onConnect: o.OnConnect,
		dialed: make(chan struct{}), gone: make(chan struct{}),
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	c.logger = c.logger.With("connection", o.Name, "addr", addr)
	// A connection lives until Close, whatever becomes of its maker's context.
	c.life, c.cancel = context.WithCancel(context.Background())
	c.buffers.New = func() any {
		b := make([]byte, protocol.FrameHeader, 4096)
		return &b
	}
	c.calls.init(unreachable("not connected to %s", addr))
	return c
}

func checkAddr(addr string, o Options) error {
	if o.InProcess != nil {
		return nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || host == "" || port == "" {
		return protocol.Errorf(protocol.InvalidArgument, "address %q is not host:port", addr)
	}
	return nil
}

// Addr is the address that was dialed.
func (c *Conn) Addr() string { return c.addr }

// Inbox is the subject at which answers and events for this connection arrive.
// It stays the same over reconnects.
func (c *Conn) Inbox() string { return c.inbox }

// Connected reports whether calls can be made at the moment.
func (c *Conn) Connected() bool { return c.calls.refusal() == nil }

// WaitConnected returns when the connection stands, or with the error of ctx,
// or with protocol.Closed.
func (c *Conn) WaitConnected(ctx context.Context) error {
	for {
		select {
		case <-c.life.Done():
			return errClosed(c.addr)
		case <-ctx.Done():
			return unreachable("not connected to %s: %w", c.addr, ctx.Err())
		case <-c.calls.standing():
			return nil
		}
	}
}

// Close ends the connection. What was published goes out if the connection
// stands; pending calls fail with protocol.Closed; handlers of servers on this
// connection have their contexts cancelled. It returns when all goroutines of
// the connection have ended, so it must not be called from one of its callbacks.
func (c *Conn) Close() { c.shut.Do(c.close) }

func (c *Conn) close() {
	c.cancel()
	c.calls.close(errClosed(c.addr))
	c.mu.Lock()
	c.closed = true
	servers := slices.Clone(c.servers)
	c.mu.Unlock()
	c.nc.Close()
	<-c.gone
	c.receivers.Wait()
	for _, s := range servers {
		s.running.Wait()
	}
	c.calls.watches.Wait()
}

func errClosed(addr string) error {
	return fmt.Errorf("%w: the connection to %s was closed", protocol.Closed, addr)
}

// unreachable makes an error that is protocol.Unreachable and whatever %w adds.
func unreachable(format string, args ...any) error {
	return fmt.Errorf("%w: %w", protocol.Unreachable, fmt.Errorf(format, args...))
}
