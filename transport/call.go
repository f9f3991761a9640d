package transport

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rmqio/rmq/transport/protocol"
)

// DefaultTimeout is how long Call waits when its context has no deadline.
const DefaultTimeout = 5 * time.Second

// Call sends a request to a subject and waits for the answer. Without a
// deadline in ctx it waits DefaultTimeout. Errors: protocol.Unreachable at once
// when the connection is down, is cut while the call waits, or nobody serves the
// subject; protocol.UnknownOutcome (and ctx.Err()) after the deadline; ctx.Err()
// when ctx is cancelled; protocol.Closed; and the server's refusals as
// *protocol.Error. Slices in the answer are the caller's.
func Call[Resp any](ctx context.Context, c *Conn, subject string, req protocol.Request) (*Resp, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	type answer struct {
		payload []byte
		err     error
	}
	answers := make(chan answer, 1)
	c.Start(ctx, subject, req, func(payload []byte, err error) { answers <- answer{payload, err} })
	a := <-answers
	if a.err != nil {
		return nil, a.err
	}
	resp := new(Resp)
	if err := protocol.Unmarshal(a.payload, resp); err != nil {
		return nil, protocol.Errorf(protocol.SystemError, "answer of %s to %s: %v", subject, req.RequestCode(), err)
	}
	return resp, nil
}

// Start sends a request and returns; done is called exactly once, perhaps before
// Start returns, with the answer or one of the errors of Call. done must not
// block; the payload is its to keep. Without a deadline in ctx the call waits as
// long as the connection stands. Start takes no goroutine per call; it blocks
// only while the network takes less than what is sent.
func (c *Conn) Start(ctx context.Context, subject string, req protocol.Request, done func(payload []byte, err error)) {
	id, err := c.calls.add(ctx, subject, done)
	if err != nil {
		done(nil, err)
		return
	}
	f := protocol.Frame{Kind: protocol.KindRequest, Code: req.RequestCode(), ID: id}
	if deadline, ok := ctx.Deadline(); ok {
		f.Timeout = max(time.Until(deadline), time.Millisecond)
	}
	if err := c.send(subject, c.inbox, f, req); err != nil {
		c.calls.finish(id, nil, err)
	}
}

// receive takes what arrives at the inbox.
func (c *Conn) receive(m *nats.Msg) {
	if subject, ok := unserved(m); ok {
		c.calls.failSubject(subject, unreachable("nobody serves %s at %s", subject, c.addr))
		return
	}
	frame, rest := protocol.CutFrame(m.Data)
	c.receiveFrame(frame)
	for len(rest) > 0 {
		frame, rest = protocol.CutFrame(rest)
		c.receiveFrame(frame)
	}
}

func (c *Conn) receiveFrame(b []byte) {
	f, err := protocol.DecodeFrame(b)
	switch {
	case err != nil:
		c.badAnswer(f, err)
	case f.Kind == protocol.KindResponse:
		c.calls.finish(f.ID, f.Payload, nil)
	case f.Kind == protocol.KindError:
		c.calls.finish(f.ID, nil, decodeError(f.Payload))
	case f.Kind == protocol.KindEvent && c.onEvent != nil:
		c.onEvent(f)
	}
}

// unserved tells of the server's notice that a subject has no subscriber.
func unserved(m *nats.Msg) (subject string, ok bool) {
	if len(m.Data) != 0 || len(m.Header) == 0 || m.Header.Get("Status") != "503" {
		return "", false
	}
	return m.Header.Get("Nats-Subject"), true
}

// badAnswer ends the call that a damaged answer seems to belong to: the request
// was carried out, or not.
func (c *Conn) badAnswer(f protocol.Frame, err error) {
	c.logger.Warn("a damaged frame arrived", "code", f.Code, "id", f.ID, "error", err)
	if f.Kind == protocol.KindResponse || f.Kind == protocol.KindError {
		c.calls.finish(f.ID, nil, fmt.Errorf("%w: the answer is damaged: %w", protocol.UnknownOutcome, err))
	}
}

func decodeError(payload []byte) error {
	e := new(protocol.Error)
	if err := json.Unmarshal(payload, e); err != nil || e.Code == 0 {
		return protocol.Errorf(protocol.SystemError, "refused with an error that cannot be read: %.100q", payload)
	}
	return e
}

// send builds a frame around the payload's encoding and publishes it.
func (c *Conn) send(subject, reply string, f protocol.Frame, payload any) error {
	return c.build(f, payload, func(frame []byte) error { return c.publish(subject, reply, frame) })
}

// build hands a frame around the payload's encoding to fn, for the time of the call.
func (c *Conn) build(f protocol.Frame, payload any, fn func(frame []byte) error) error {
	buffer := c.buffers.Get().(*[]byte)
	defer c.buffers.Put(buffer)
	b, err := protocol.Marshal((*buffer)[:protocol.FrameHeader], payload)
	if err != nil {
		return err
	}
	*buffer = b // it may have grown
	if len(b) > protocol.MaxFrameBytes {
		return protocol.Errorf(protocol.IllegalMessage, "frame of %d bytes, the limit is %d", len(b), protocol.MaxFrameBytes)
	}
	protocol.FinishFrame(b, &f)
	return fn(b)
}

// publish hands a frame to nats.go, which copies it.
func (c *Conn) publish(subject, reply string, frame []byte) error {
	err := c.nc.PublishRequest(subject, reply, frame)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrConnectionClosed):
		return errClosed(c.addr)
	case errors.Is(err, nats.ErrMaxPayload):
		return protocol.Errorf(protocol.IllegalMessage, "frame of %d bytes, the server at %s takes %d", len(frame), c.addr, c.nc.MaxPayload())
	default:
		return unreachable("send to %s: %w", c.addr, err)
	}
}
