package producer

import (
	"context"
	"errors"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// askTimeout bounds one try of a request that is repeated.
const askTimeout = time.Second

func heldHandle(q message.Queue, id message.ID, origin uint64, position int) client.Handle {
	return client.Handle{Broker: q.Broker, Held: protocol.Held{Origin: origin, Position: position, ID: id.String(), Topic: q.Topic}}
}

// Recall takes a delayed message back by the RecallHandle of its receipt, which
// may be another producer's. It reports true when nobody will get the message,
// and false when it was delivered before. It is repeated until ctx's deadline,
// or SendTimeout, while the broker cannot be reached. Errors are *Error:
// ErrBadHandle, and ErrNotFound for a handle of another cluster, a forged one,
// or one so old that the broker has forgotten it.
func (p *Producer) Recall(ctx context.Context, handle string) (recalled bool, err error) {
	const op = "recall message of"
	h, err := client.ParseHandle(handle)
	if err != nil {
		return false, client.Wrap(op, "", "", err)
	}
	ctx, cancel := p.bound(ctx)
	defer cancel()
	if err := p.client.Known(ctx, h.Broker); err != nil {
		return false, client.Wrap(op, h.Topic, h.Broker, err)
	}
	resp, err := ask[protocol.RecallResponse](ctx, p, h.Broker, &protocol.RecallRequest{Held: h.Held})
	if err != nil {
		return false, client.Wrap(op, h.Topic, h.Broker, err)
	}
	return resp.Recalled, nil
}

// bound gives a context without a deadline that of SendTimeout.
func (p *Producer) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, p.cfg.SendTimeout)
}

// ask sends a request to a broker that may be carried out more than once, again
// and again while that may help, until ctx ends.
func ask[Resp any](ctx context.Context, p *Producer, broker string, req protocol.Request) (*Resp, error) {
	for tries := 0; ; tries++ {
		resp, err := askOnce[Resp](ctx, p, broker, req)
		if err == nil || ctx.Err() != nil || !protocol.CodeOf(err).Retryable() {
			return resp, err
		}
		wait := backoff(tries)
		var refusal *protocol.Error
		if errors.As(err, &refusal) {
			wait = max(wait, refusal.RetryAfter())
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		}
	}
}

func askOnce[Resp any](ctx context.Context, p *Producer, broker string, req protocol.Request) (*Resp, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return client.Call[Resp](ctx, p.client, broker, protocol.ClassClient, req)
}
