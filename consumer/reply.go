package consumer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// Errors of Reply, beside those of the brokers.
var (
	// ErrNotRequest: nobody asked for a reply to the message.
	ErrNotRequest = errors.New("message is not a request")
	// ErrNobodyWaits: the requester is gone, has given up, or has had another reply.
	ErrNobodyWaits = errors.New("nobody waits for the reply")
)

const (
	opReply = "reply to request of"

	// replyTimeout bounds a reply to a request without a deadline.
	replyTimeout = 3 * time.Second
	// leastReplyTimeout is what a reply gets however late it is by this machine's
	// clock, which may be wrong: the requester knows whether it still waits.
	leastReplyTimeout = time.Second
	// replyHedge is after which time the other brokers of the topic are given the
	// reply too: the requester may not reach the one that its request came from.
	replyHedge = 200 * time.Millisecond

	replyRetryFirst = 10 * time.Millisecond
	replyRetryMost  = time.Second
)

// Reply sends the reply to a request, as producer.Request sends them. It returns
// nil when the requester has it. The message's topic is that of the request,
// whatever it says. Reply waits for a requester that has lost its connection to
// come back, at any broker of the topic, until the requester's deadline or the
// end of ctx. Only the first reply to a request counts.
//
// Errors are *Error: ErrNotRequest; ErrNobodyWaits; protocol.IllegalMessage for a
// reply that breaks a rule; protocol.UnknownOutcome when no broker said in time
// what became of it.
func (d *Delivery) Reply(ctx context.Context, m *message.Message) error {
	return client.Wrap(opReply, d.Topic, "", d.reply(ctx, m))
}

func (d *Delivery) reply(ctx context.Context, m *message.Message) error {
	if d.CorrelationID == "" || d.ReplyTo == "" || d.replies == nil {
		return fmt.Errorf("%w: %w", protocol.InvalidArgument, ErrNotRequest)
	}
	b, err := d.replies.encode(d, m)
	if err != nil {
		return fmt.Errorf("%w: %w", protocol.IllegalMessage, err)
	}
	ctx, cancel := context.WithTimeout(ctx, d.replyTime(time.Now()))
	defer cancel()
	err = d.replies.send(ctx, d.Queue, &protocol.SendReplyRequest{ClientID: d.ReplyTo, Batch: b})
	switch protocol.CodeOf(err) {
	case protocol.UnknownMember, protocol.NotFound:
		return fmt.Errorf("%w: %w", ErrNobodyWaits, err)
	}
	return err
}

// replyTime is how long a reply may take.
func (d *Delivery) replyTime(now time.Time) time.Duration {
	if d.ReplyBy.IsZero() {
		return replyTimeout
	}
	return max(d.ReplyBy.Sub(now), leastReplyTimeout)
}

// replier sends the replies of one consumer. It is safe for concurrent use.
type replier struct {
	client *client.Client
	ids    *message.IDSource
}

func newReplier(c *client.Client) *replier { return &replier{client: c, ids: message.NewIDSource()} }

// encode makes a batch of the reply.
func (r *replier) encode(d *Delivery, m *message.Message) ([]byte, error) {
	if m == nil {
		return nil, errors.New("the reply is nil")
	}
	x := *m
	x.Topic, x.CorrelationID, x.ReplyTo, x.ReplyBy = d.Topic, d.CorrelationID, "", time.Time{}
	x.Compression, x.OriginalBytes = message.None, 0 // a body that a program sees is not compressed
	if x.ID.IsZero() {
		x.ID = r.ids.Next()
	}
	if x.BornTime.IsZero() {
		x.BornTime = time.Now()
	}
	if x.IsDelayed() {
		return nil, fmt.Errorf("%w: a reply cannot be delayed", message.ErrIllegalMessage)
	}
	if err := x.Validate(); err != nil {
		return nil, err
	}
	b := batch.NewBuilder(x.Topic, 0)
	b.Add(&x)
	return b.Finish(), nil
}

// send gives the reply to the broker that the request came from and, when that
// does not settle it soon, to the topic's other brokers too. The requester knows
// a reply that it has.
func (r *replier) send(ctx context.Context, from message.Queue, req *protocol.SendReplyRequest) error {
	ctx, cancel := context.WithCancel(ctx)
	var trying sync.WaitGroup
	defer trying.Wait()
	defer cancel()
	others := r.others(from)
	answers := make(chan error, 1+len(others))
	open := 0
	try := func(brokers ...string) {
		open += len(brokers)
		for _, broker := range brokers {
			trying.Go(func() { answers <- r.sendTo(ctx, broker, req) })
		}
	}
	try(from.Broker)
	hedge := time.NewTimer(replyHedge)
	defer hedge.Stop()
	var worst error
	for {
		select {
		case <-hedge.C:
			try(others...)
			others = nil
		case err := <-answers:
			if settled(err) {
				return err
			}
			if open--; open == 0 {
				try(others...)
				others = nil
			}
			if worst == nil || errors.Is(err, protocol.UnknownMember) {
				worst = err
			}
			if open == 0 {
				return worst
			}
		}
	}
}

// settled reports whether no other broker can say anything else.
func settled(err error) bool {
	switch protocol.CodeOf(err) {
	case 0, protocol.NotFound, protocol.IllegalMessage, protocol.InvalidArgument:
		return true
	}
	return false
}

// others are the topic's brokers, as known, but the one that the request is from.
func (r *replier) others(from message.Queue) (brokers []string) {
	route := r.client.CachedRoute(from.Topic)
	if route == nil {
		return nil
	}
	for _, b := range route.Brokers {
		if b.Broker != from.Broker && !slices.Contains(brokers, b.Broker) {
			brokers = append(brokers, b.Broker)
		}
	}
	return brokers
}

// sendTo gives the reply to one broker, again and again while that may help. The
// broker waits for the requester to come back.
func (r *replier) sendTo(ctx context.Context, broker string, req *protocol.SendReplyRequest) error {
	for failures := 1; ; failures++ {
		_, err := client.Call[protocol.Empty](ctx, r.client, broker, protocol.ClassClient, req)
		if err == nil || ctx.Err() != nil || !protocol.CodeOf(err).Retryable() {
			return err
		}
		pause := doubled(replyRetryFirst, replyRetryMost, failures)
		var refusal *protocol.Error
		if errors.As(err, &refusal) {
			pause = max(pause, refusal.RetryAfter())
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}
