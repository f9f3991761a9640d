package consumer

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// clockSkew is how far the clocks of a consumer and a broker may differ before
// a queue that appears late is not read from its beginning.
const clockSkew = 10 * time.Second

// starts knows where queues begin. Latest is the time at which the consumer
// started, not the end of the queue when it comes to ask for it: a server may
// have been away meanwhile, and what was sent to it first is not missed.
type starts struct {
	from  StartPosition
	since time.Time
	first map[string][]message.Queue // by topic: sorted, the queues seen at first
}

func newStarts(from StartPosition, now time.Time) starts {
	return starts{from: from, since: now, first: map[string][]message.Queue{}}
}

// see notes the queues of a topic, none when it does not exist. Only the first
// call for a topic counts.
func (s *starts) see(topic string, queues []message.Queue) {
	if _, seen := s.first[topic]; !seen {
		s.first[topic] = queues
	}
}

func (s *starts) of(q message.Queue) StartPosition {
	if strings.HasPrefix(q.Topic, message.RetryPrefix) {
		return Earliest() // what failed was not processed, whenever it failed
	}
	seen, ok := s.first[q.Topic]
	if s.from.kind != startLatest || !ok {
		return s.from
	}
	if _, early := slices.BinarySearchFunc(seen, q, message.Queue.Compare); early {
		return AtTime(s.since.Add(time.Millisecond)) // the first one that is wholly after the start
	}
	return AtTime(s.since.Add(-clockSkew))
}

// announced is what brokers are told, so that they know what there is to consume
// before the group has committed anything.
func (s *starts) announced() *protocol.Start {
	switch s.from.kind {
	case startEarliest:
		return &protocol.Start{Target: protocol.ResetToEarliest}
	case startOffset:
		return &protocol.Start{Target: protocol.ResetToOffset, Value: s.from.offset}
	case startTime:
		return &protocol.Start{Target: protocol.ResetToTime, Value: s.from.at.UnixMilli()}
	default:
		return &protocol.Start{Target: protocol.ResetToTime, Value: s.since.UnixMilli() + 1}
	}
}

// startsAt asks a broker for the offsets of start positions. Queues whose offset
// cannot be told are missing from the result, and their errors are joined.
func (e *engine) startsAt(ctx context.Context, broker string, positions map[message.Queue]StartPosition) (map[message.Queue]int64, error) {
	found, err := e.offsetsAt(ctx, broker, positions)
	starts := make(map[message.Queue]int64, len(found))
	for q, o := range found {
		starts[q] = positions[q].resolve(o)
	}
	return starts, err
}

// offsetsAt is startsAt with all that the broker says.
func (e *engine) offsetsAt(ctx context.Context, broker string, positions map[message.Queue]StartPosition) (map[message.Queue]protocol.QueueOffsets, error) {
	if len(positions) == 0 {
		return nil, nil
	}
	req := &protocol.QueryOffsetsRequest{}
	var queues []message.Queue
	for q, p := range positions {
		queues = append(queues, q)
		req.Queues = append(req.Queues, p.query(q.Topic, q.ID))
	}
	resp, err := client.Call[protocol.QueryOffsetsResponse](ctx, e.client, broker, protocol.ClassClient, req)
	if err != nil {
		return nil, err
	}
	if len(resp.Queues) != len(queues) {
		return nil, client.Wrap("query offsets", "", broker,
			protocol.Errorf(protocol.SystemError, "answer for %d queues, asked for %d", len(resp.Queues), len(queues)))
	}
	found := map[message.Queue]protocol.QueueOffsets{}
	var errs []error
	for i, o := range resp.Queues {
		if o.Err != nil {
			errs = append(errs, client.Wrap("query offsets", queues[i].Topic, broker, o.Err))
			continue
		}
		found[queues[i]] = o
	}
	return found, errors.Join(errs...)
}
