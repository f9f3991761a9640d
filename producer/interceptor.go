package producer

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// ErrRefused is wrapped by the error of a send that an Interceptor has refused.
var ErrRefused = errors.New("refused by an interceptor")

// Interceptor is called with every message that is to be sent, on the sender's
// goroutine and before the message is checked. It may
//   - let the message go: return it, or nil;
//   - change it: return a changed copy, never change the message itself;
//   - refuse it: return an error. The send fails with it and ErrRefused, and
//     with ErrIllegalMessage unless the error has a code of its own.
//
// The second result, which may be nil, is called once when the send is over, with
// what its sender gets: like a callback of SendAsync, on a goroutine that calls
// one after another, so that Send may have returned before; in a batch on the
// sender's goroutine. It may send, and must not Flush or Close. Flush and Close
// wait for it.
//
// Interceptors see what those before them return, and are told in the reverse
// order. They are safe for concurrent use.
type Interceptor func(ctx context.Context, m *message.Message) (sent *message.Message, told func(Receipt, error), err error)

// told are those who want to hear of the end of a send, in the order in which
// they saw the message.
type told []func(Receipt, error)

func (ts told) tell(r Receipt, err error) {
	for i := len(ts) - 1; i >= 0; i-- {
		ts[i](r, err)
	}
}

// intercept shows the message to the interceptors. With an error the send is over,
// and those who saw the message before know it.
func (p *Producer) intercept(ctx context.Context, m *message.Message) (*message.Message, told, error) {
	var ts told
	for _, show := range p.cfg.Interceptors {
		sent, tell, err := show(ctx, m)
		if err != nil {
			err = refusal(m.Topic, err)
			ts.tell(Receipt{}, err)
			return nil, nil, err
		}
		if sent != nil {
			m = sent
		}
		if tell != nil {
			ts = append(ts, tell)
		}
	}
	return m, ts, nil
}

// toldAll are told for each message of a batch; nil: nobody wants to hear.
type toldAll []told

func (ts toldAll) tell(outcome func(i int) (Receipt, error)) {
	for i := range ts {
		ts[i].tell(outcome(i))
	}
}

// interceptAll is intercept for a batch: one that is refused ends all.
func (p *Producer) interceptAll(ctx context.Context, ms []*message.Message) ([]*message.Message, toldAll, error) {
	if len(p.cfg.Interceptors) == 0 {
		return ms, nil, nil
	}
	sent, ts := slices.Clone(ms), make(toldAll, len(ms))
	for i, m := range ms {
		if m == nil {
			continue // which is refused later
		}
		var err error
		if sent[i], ts[i], err = p.intercept(ctx, m); err != nil {
			err = fmt.Errorf("message %d of %d: %w", i, len(ms), err)
			ts[:i].tell(func(int) (Receipt, error) { return Receipt{}, err })
			return nil, nil, err
		}
	}
	return sent, ts, nil
}

func refusal(topic string, err error) error {
	var known *Error
	if errors.As(err, &known) { // of another send, such as one that the interceptor made
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if code := protocol.CodeOf(err); code != protocol.SystemError {
		return sendError(topic, "", fmt.Errorf("%w: %w", ErrRefused, err))
	}
	return sendError(topic, "", coded(protocol.IllegalMessage, fmt.Errorf("%w: %w", ErrRefused, err)))
}

// accept takes a message over, or says why not. A free message goes to near's
// queue while that is as good as any. Interceptors and spans are dealt with here,
// so that without them nothing is spent on them.
func (p *Producer) accept(ctx context.Context, e entry, opts []SendOption, near *queue) (*queue, error) {
	if e.m == nil || len(p.cfg.Interceptors) == 0 && p.telemetry.Idle(ctx) {
		return p.take(ctx, e, opts, near)
	}
	return p.acceptObserved(ctx, e, opts, near)
}

func (p *Producer) acceptObserved(ctx context.Context, e entry, opts []SendOption, near *queue) (*queue, error) {
	m, ts, err := p.intercept(ctx, e.m)
	if err != nil {
		return nil, err
	}
	e.m, e.trace = p.telemetry.Begin(ctx, m)
	e.done = p.telling(&e, ts)
	var q *queue
	if err = p.stillTransaction(&e); err == nil {
		q, err = p.take(ctx, e, opts, near)
	}
	if err != nil {
		p.traced(e.trace, Receipt{}, err)
		ts.tell(Receipt{}, err)
	}
	return q, err
}

// telling is what is called back when the send of the entry is over: e.done, and
// those who want to be told before.
func (p *Producer) telling(e *entry, ts told) func(Receipt, error) {
	done := e.done
	switch {
	case len(ts) == 0:
		return done
	case done != nil:
		return func(r Receipt, err error) { ts.tell(r, err); done(r, err) }
	case e.call != nil:
		return ts.tell // who waits is not told by a callback
	}
	topic := e.m.Topic
	return func(r Receipt, err error) {
		ts.tell(r, err)
		if err != nil {
			p.logLost(topic, r.MessageID, err)
		}
	}
}

// stillTransaction holds what interceptors made of a half message to the rules of
// half messages.
func (p *Producer) stillTransaction(e *entry) error {
	if e.purpose != batch.ToTransaction {
		return nil
	}
	return p.checkTransaction(e.m)
}

// logLost tells of a message that nobody waits for.
func (p *Producer) logLost(topic string, id message.ID, err error) {
	p.cfg.Logger.Warn("message sent one way is not stored", "topic", topic, "message_id", id, "error", err)
}
