package transport

import (
	"errors"
	"net"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rmqio/rmq/transport/protocol"
)

// How a connection is watched and made again. A peer that is gone without a
// word is noticed after pingInterval * (maxPingsOut + 1); a write that does not
// move for writeTimeout ends the connection.
const (
	dialTimeout     = 2 * time.Second
	reconnectWait   = 50 * time.Millisecond
	reconnectJitter = 50 * time.Millisecond
	pingInterval    = 2 * time.Second
	maxPingsOut     = 2
	writeTimeout    = 10 * time.Second
)

func (c *Conn) natsOptions(o Options) []nats.Option {
	opts := []nats.Option{
		nats.Name(o.Name),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		nats.ReconnectBufSize(-1), // nothing is kept while the connection is down
		nats.ReconnectOnFlusherError(),
		nats.IgnoreAuthErrorAbort(),
		nats.IgnoreDiscoveredServers(),
		nats.Timeout(dialTimeout),
		nats.FlusherTimeout(writeTimeout),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(maxPingsOut),
		nats.SkipSubjectValidation(),
		nats.SkipHostLookup(),
		nats.SetCustomDialer(dialer{c}),
		nats.ConnectHandler(c.connected),
		nats.ReconnectHandler(c.connected),
		nats.DisconnectErrHandler(c.disconnected),
		nats.ErrorHandler(c.failed),
		nats.ClosedHandler(func(*nats.Conn) { close(c.gone) }),
	}
	if o.InProcess != nil {
		opts = append(opts, nats.InProcessServer(o.InProcess))
	}
	return opts
}

// dialAddr is what nats.go is given to parse; it dials nothing in process.
func (c *Conn) dialAddr(o Options) string {
	if o.InProcess != nil {
		return "127.0.0.1:1"
	}
	return c.addr
}

// dialer gives up dialing when the connection is closed: nats.go holds its own
// lock while it dials, so Close would wait for the timeout otherwise.
type dialer struct{ c *Conn }

func (d dialer) Dial(network, addr string) (net.Conn, error) {
	nd := net.Dialer{Timeout: dialTimeout}
	return nd.DialContext(d.c.life, network, addr)
}

func (c *Conn) connected(nc *nats.Conn) {
	<-c.dialed
	c.logger.Info("connected", "server", nc.ConnectedServerName())
	if limit := nc.MaxPayload(); limit < protocol.MaxFrameBytes {
		c.logger.Warn("the server takes smaller messages than it should", "max_payload", limit, "want", protocol.MaxFrameBytes)
	}
	c.calls.open()
	if c.onConnect != nil {
		c.onConnect()
	}
}

func (c *Conn) disconnected(_ *nats.Conn, err error) {
	<-c.dialed
	if err == nil {
		err = errors.New("closed")
	}
	c.logger.Info("disconnected", "error", err)
	c.calls.interrupt(unreachable("connection to %s was cut: %w", c.addr, err))
}

// failed takes the errors that nats.go reports outside of any call.
func (c *Conn) failed(_ *nats.Conn, sub *nats.Subscription, err error) {
	<-c.dialed
	switch {
	case errors.Is(err, nats.ErrSlowConsumer) && sub != nil:
		dropped, _ := sub.Dropped()
		c.logger.Error("messages were dropped: they arrived faster than they were taken", "subject", sub.Subject, "dropped", dropped)
	case errors.Is(err, nats.ErrPermissionViolation):
		c.logger.Error("the server denied a subject", "error", err)
		if subject, ok := deniedPublish(err); ok {
			c.calls.failSubject(subject, protocol.Errorf(protocol.NoPermission, "%s: %v", c.addr, err))
		}
	default:
		c.logger.Warn("connection error", "error", err)
	}
}

// deniedPublish finds the subject in a server's text "... Publish to "x"".
func deniedPublish(err error) (string, bool) {
	_, rest, ok := strings.Cut(err.Error(), `Publish to "`)
	if !ok {
		return "", false
	}
	subject, _, ok := strings.Cut(rest, `"`)
	return subject, ok
}
