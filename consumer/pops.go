package consumer

import (
	"context"
	"errors"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// popBytes is the most that one pop asks for.
const popBytes = pullBytes

// popAll begins the pops that a Receive wants to be under way. It returns when to try
// again without being asked; zero: when something happens.
func (s *Simple) popAll(ctx context.Context, most int, invisible time.Duration) (next time.Time) {
	now := time.Now()
	wait := pullWait
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, max(deadline.Sub(now), 0)) // nobody is there to take what comes later
	}
	for broker, topics := range s.reachable() {
		again := s.shelf.begin(broker, invisible, now, func() {
			req := s.popRequest(topics, most, invisible, wait)
			s.running.Go(func() { s.pop(broker, req, invisible) })
		})
		if !again.IsZero() && (next.IsZero() || again.Before(next)) {
			next = again
		}
	}
	return next
}

// reachable are the topics that can be read, by broker.
func (s *Simple) reachable() map[string][]string {
	brokers := map[string][]string{}
	for _, topic := range s.settings.topics {
		route := s.client.CachedRoute(topic)
		if route == nil {
			continue
		}
		for _, b := range route.Brokers {
			if b.Perm.CanRead() && b.ReadQueues > 0 {
				brokers[b.Broker] = append(brokers[b.Broker], topic)
			}
		}
	}
	return brokers
}

func (s *Simple) popRequest(topics []string, most int, invisible, wait time.Duration) *protocol.PopRequest {
	req := &protocol.PopRequest{
		WaitMillis: wait.Milliseconds(), InvisibleMillis: invisible.Milliseconds(), MaxCount: int64(most), MaxBytes: popBytes,
		Group: s.settings.group, ClientID: s.client.ID(),
	}
	for _, topic := range topics {
		t := protocol.PopTopic{Topic: topic}
		if f := s.settings.filters[topic]; f != nil {
			req.Filters = append(req.Filters, f.wire)
			t.Filter = len(req.Filters)
		}
		req.Topics = append(req.Topics, t)
	}
	return req
}

// pop asks a broker and puts what comes on the shelf.
func (s *Simple) pop(broker string, req *protocol.PopRequest, invisible time.Duration) {
	ctx, cancel := context.WithTimeout(s.life, time.Duration(req.WaitMillis)*time.Millisecond+pullGrace)
	defer cancel()
	resp, err := client.Call[protocol.PopResponse](ctx, s.client, broker, protocol.ClassPull, req)
	var ps []*Popped
	if err == nil {
		ps, err = s.popped(resp, req, broker, time.Now().Add(invisible))
	}
	if !s.shelf.put(ps, invisible) {
		s.giveBack(ps)
	}
	var asked time.Duration
	var refusal *protocol.Error
	if errors.As(err, &refusal) {
		asked = refusal.RetryAfter()
	}
	failures := s.shelf.landed(broker, invisible, err != nil && len(ps) == 0, asked, time.Now())
	if failures == 1 && s.life.Err() == nil {
		s.settings.log.Warn("pop failed, consuming goes on when the broker answers", "broker", broker, "error", err)
	}
}

// popped makes messages of an answer. The error is that of one of the queues that have
// one; it is told apart.
func (s *Simple) popped(resp *protocol.PopResponse, req *protocol.PopRequest, broker string, until time.Time) (all []*Popped, last error) {
	for i := range resp.Queues {
		q := &resp.Queues[i]
		if q.Topic < 0 || q.Topic >= len(req.Topics) {
			continue
		}
		from := message.Queue{Topic: req.Topics[q.Topic].Topic, Broker: broker, ID: q.Queue}
		var err error
		if q.Err != nil {
			err = q.Err
		} else {
			var wanted, others []*Popped
			wanted, others, err = s.unpack(q, s.settings.filters[from.Topic], from, until)
			all = append(all, wanted...)
			for _, p := range others {
				s.settler.start(acknowledged, p, func(err error) { s.logUnsettled("message that the filter keeps out is not passed", p, err) })
			}
		}
		s.tell(from, err)
		if err != nil {
			last = err
		}
	}
	return all, last
}

// tell reports the first of several errors of a queue in a row that does not pass by
// itself.
func (s *Simple) tell(q message.Queue, err error) {
	code := protocol.CodeOf(err)
	if code.Retryable() || code == protocol.UnknownMember || !s.shelf.news(q, code) || err == nil {
		return
	}
	s.settings.log.Error("queue cannot be read, trying again", "topic", q.Topic, "broker", q.Broker, "queue", q.ID, "error", err)
	s.shelf.report(client.Wrap(opReceive, q.Topic, q.Broker, err))
}
