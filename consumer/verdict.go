package consumer

import (
	"context"
	"errors"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// ErrReject, returned by a handler, alone or wrapped, makes the message a dead letter
// at once.
var ErrReject = errors.New("message is rejected")

// RetryAfter is err with the time after which the message shall be delivered again,
// at least; not negative, and up to message.MaxDelay.
func RetryAfter(d time.Duration, err error) error {
	return &retryAfter{pause: min(max(d, 0), message.MaxDelay), err: err}
}

type retryAfter struct {
	pause time.Duration
	err   error
}

func (r *retryAfter) Error() string {
	if r.err == nil {
		return "to be tried again after " + r.pause.String()
	}
	return r.err.Error()
}

func (r *retryAfter) Unwrap() error { return r.err }

// verdict is what is to become of a message that a handler has failed.
type verdict struct {
	// back is what the broker is asked; nil: the message is tried again here, after
	// the pause.
	back  *protocol.SendBackRequest
	pause time.Duration
	drop  bool // it is given up, and nobody else gets it
}

// judge decides. A message of a lane stays in its place, ahead of the others of its
// lane, unless it is given up.
func (c *Push) judge(it *item, err error) verdict {
	if c.cfg.Broadcast {
		return c.judgeAlone(it, err)
	}
	limit, failed := c.cfg.MaxReconsumeTimes, it.ReconsumeTimes+1
	if it.laned {
		failed = it.Attempt
	}
	dead := errors.Is(err, ErrReject) || limit != 0 && failed > max(limit, 0)
	v := verdict{pause: c.cfg.SuspendTime}
	delay := int64(protocol.ByPolicy)
	var after *retryAfter
	if errors.As(err, &after) {
		v.pause = after.pause
		delay = (after.pause + time.Millisecond - 1).Milliseconds()
	}
	if it.laned && !dead {
		return v
	}
	q := it.queue.queue
	v.back = &protocol.SendBackRequest{
		Group: c.cfg.Group, Topic: q.Topic, Queue: q.ID, Offset: it.offset, MessageID: it.ID.String(), Fence: it.queue.fence,
		DelayMillis: delay, Dead: dead, Error: errorText(err),
	}
	if it.laned {
		v.back.Attempts = it.Attempt - it.ReconsumeTimes
	}
	return v
}

// errorText is what the broker is told of an error; it cuts it further.
func errorText(err error) string {
	text := err.Error()
	return text[:min(len(text), 2*message.MaxErrorBytes)]
}

// giveBackTimeout bounds one request; a broker that hangs is asked again.
const giveBackTimeout = 5 * time.Second

// settle does what the verdict says. It reports whether the message is finished; else
// it is tried again, or left to the queue's next owner.
func (c *Push) settle(ctx context.Context, e *engine, it *item, v verdict, err error) (finished bool) {
	log := c.settings.log.With("topic", it.Topic, "broker", it.queue.queue.Broker, "queue", it.queue.queue.ID,
		"offset", it.offset, "message_id", it.ID, "attempt", it.Attempt, "error", err)
	if v.drop {
		log.Error("handler failed, the message is dropped")
		e.dropped(it, err)
		return true
	}
	if v.back != nil {
		ctx, x := c.settling(ctx, e, it, v)
		answer, refusal := giveBack(ctx, e, it.queue.queue.Broker, v.back)
		x.End(failureOf(refusal))
		switch {
		case refusal == nil && answer.Dead:
			log.Warn("handler failed, the message is a dead letter")
			return true
		case refusal == nil:
			log.Warn("handler failed, the message is delivered again", "at", time.UnixMilli(answer.DeliverAtMillis))
			return true
		}
		log = log.With("refusal", refusal)
		it.held = nil
		if protocol.CodeOf(refusal).Retryable() {
			it.held = &heldVerdict{verdict: v, err: err}
		}
		it.refused++
		v.pause = doubled(handlerRetryFirst, handlerRetryMost, it.refused)
	}
	if e.buffer.fail(it, time.Now().Add(v.pause)) {
		log.Warn("handler failed, the message is tried again here", "pause", v.pause)
		return false
	}
	log.Warn("handler failed, the message is left to the queue's next owner")
	return false
}

// giveBack asks the broker. The outcome of a request that was not answered is not
// known: the same request again is safe, and one that was made anew is not.
func giveBack(ctx context.Context, e *engine, broker string, req *protocol.SendBackRequest) (*protocol.SendBackResponse, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, giveBackTimeout)
	defer cancel()
	req.ClientID = e.client.ID()
	return client.Call[protocol.SendBackResponse](ctx, e.client, broker, protocol.ClassClient, req)
}

// heldVerdict is one that the broker has not confirmed: the handler is not asked
// again, because the message may be given back already.
type heldVerdict struct {
	verdict
	err error
}
