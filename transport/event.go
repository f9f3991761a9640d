package transport

import (
	"context"

	"github.com/nats-io/nats.go"

	"github.com/rmqio/rmq/transport/protocol"
)

// What may wait in memory for the callback of a subscription; what is beyond it
// is dropped and logged. What arrives at an inbox was asked for, so those who
// ask bound it; a server refuses early, so that its queue is short.
const (
	noLimit        = -1
	eventMessages  = 1 << 16
	eventBytes     = 64 << 20
	serverMessages = 1 << 18
	serverBytes    = 256 << 20
)

// subscription is a NATS subscription with a goroutine that ends.
type subscription struct {
	conn  *Conn
	sub   *nats.Subscription
	ended chan struct{} // closed after the last callback
}

// subscribe calls fn for each message on a subject, one at a time, over all
// reconnects until the subscription or the connection is closed.
func (c *Conn) subscribe(subject string, messages, bytes int, fn nats.MsgHandler) (*subscription, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed(c.addr)
	}
	sub, err := c.nc.Subscribe(subject, fn)
	if err != nil {
		return nil, unreachable("subscribe to %s at %s: %w", subject, c.addr, err)
	}
	s := &subscription{conn: c, sub: sub, ended: make(chan struct{})}
	c.receivers.Add(1)
	sub.SetClosedHandler(func(string) {
		close(s.ended)
		c.receivers.Done()
	})
	if err := sub.SetPendingLimits(messages, bytes); err != nil {
		return nil, unreachable("subscribe to %s at %s: %w", subject, c.addr, err)
	}
	return s, nil
}

// drain ends the subscription after the messages that have arrived, or as soon
// as ctx ends, and waits for the last callback. Without a connection nothing
// more can arrive, and nats.go would wait for one.
func (s *subscription) drain(ctx context.Context) {
	if s.conn.Connected() && s.sub.Drain() == nil {
		select {
		case <-s.ended:
			return
		case <-ctx.Done():
		}
	}
	_ = s.sub.Unsubscribe() // fails only if it has ended already
	<-s.ended
}

// Publish sends an event frame to a subject; nobody answers it. Errors:
// protocol.Unreachable, protocol.Closed, protocol.IllegalMessage for an event
// that is too large.
func (c *Conn) Publish(subject string, code protocol.Code, event any) error {
	if err := c.calls.refusal(); err != nil {
		return err
	}
	return c.send(subject, "", protocol.Frame{Kind: protocol.KindEvent, Code: code}, event)
}

// Subscribe calls fn for each event frame on a subject, one at a time, until
// stop or Close. It outlives reconnects; what is published in between is lost.
// fn must not block; the payload is its to keep. A call of fn that has begun
// when stop is called may go on after it.
func (c *Conn) Subscribe(subject string, fn func(protocol.Frame)) (stop func(), err error) {
	s, err := c.subscribe(subject, eventMessages, eventBytes, func(m *nats.Msg) {
		f, err := protocol.DecodeFrame(m.Data)
		if err != nil || f.Kind != protocol.KindEvent {
			c.logger.Warn("not an event", "subject", subject, "kind", f.Kind, "error", err)
			return
		}
		fn(f)
	})
	if err != nil {
		return nil, err
	}
	return func() { _ = s.sub.Unsubscribe() }, nil // fails only if it has ended already
}
