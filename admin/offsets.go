package admin

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// Reset says where a group's offsets are set to.
type Reset struct {
	Group string
	// Topic is empty for all topics that the group reads; else the group need not
	// have read it before.
	Topic string
	// Queue is nil for all queues of the topic, else the one of this number on
	// every broker of the target that has it.
	Queue *int
	// To is where to; Value is the offset of ResetToOffset or the time of
	// ResetToTime in Unix milliseconds. An offset that a queue does not have is
	// taken for the nearest one that it has, its end at most; a negative one is
	// refused with InvalidArgument.
	To    protocol.ResetTarget
	Value int64
}

// Clone says which group is set to the offsets of which other.
type Clone struct {
	From, To string
	// Topic is empty for all topics.
	Topic string
	// Force overwrites offsets that To has.
	Force bool
}

// OffsetChange is one queue's committed offset before and after a change.
type OffsetChange struct {
	Group  string `json:"group"`
	Topic  string `json:"topic"`
	Broker string `json:"broker"`
	Queue  int    `json:"queue"`
	// Before is -1 when nothing was committed.
	Before int64 `json:"before"`
	After  int64 `json:"after"`
	// Skipped is how many messages the group had to consume before After, and has
	// not any more; below 0: so many come again.
	Skipped int64 `json:"skipped"`
}

// ResetOffsets sets a group's offsets on the target's brokers, or with DryRun
// tells what it would set. Members that own such a queue go on from the new
// offset by themselves. Nothing is set before every broker has said that it can.
// TopicNotFound, QueueNotFound or GroupNotFound is returned when no broker of the
// target has it.
func (a *Admin) ResetOffsets(ctx context.Context, r Reset, t Target) ([]OffsetChange, error) {
	g, err := a.DescribeGroup(ctx, r.Group, t)
	if err != nil {
		return nil, err
	}
	topics, err := r.topics(g)
	if err != nil {
		return nil, err
	}
	brokers, err := a.masters(ctx, t)
	if err != nil {
		return nil, err
	}
	var steps []change
	for _, topic := range topics {
		steps = append(steps, a.reset(r, topic))
	}
	return a.inTwo(ctx, steps, brokers, t.DryRun)
}

// SkipBacklog sets a group's offsets to the ends of its queues; Skipped of the
// changes says how many messages each of them has that are not consumed any more.
// Topic and queue are those of Reset.
func (a *Admin) SkipBacklog(ctx context.Context, group, topic string, queue *int, t Target) ([]OffsetChange, error) {
	return a.ResetOffsets(ctx, Reset{Group: group, Topic: topic, Queue: queue, To: protocol.ResetToLatest}, t)
}

// CloneOffsets sets a group's offsets on the target's brokers to those of another,
// or with DryRun tells what it would set; the group is created when it is not
// known. Queues that the other has committed nothing in stay as they are. Nothing
// is set before every broker has said that it can. Errors: GroupNotFound and
// TopicNotFound, and Conflict when the group that is set has members or, without
// Force, other offsets in one of the queues.
func (a *Admin) CloneOffsets(ctx context.Context, c Clone, t Target) ([]OffsetChange, error) {
	if err := message.CheckGroup(c.To); err != nil {
		return nil, err
	}
	if c.Topic != "" {
		if err := message.CheckAnyTopic(c.Topic); err != nil {
			return nil, err
		}
	}
	brokers, err := a.masters(ctx, t)
	if err != nil {
		return nil, err
	}
	if _, err := a.findGroup(ctx, c.From, t); err != nil {
		return nil, err
	}
	if err := a.offline(ctx, c.To); err != nil {
		return nil, err
	}
	return a.inTwo(ctx, []change{a.clone(c)}, brokers, t.DryRun)
}

// offline returns a Conflict when a group has members at any broker.
func (a *Admin) offline(ctx context.Context, group string) error {
	all, err := a.findGroup(ctx, group, Target{})
	if isCode(err, protocol.GroupNotFound) {
		return nil
	}
	for _, x := range all {
		if len(x.value.Members) > 0 {
			return protocol.Errorf(protocol.Conflict, "group %q is online: client %q is in it", group, x.value.Members[0].ClientID)
		}
	}
	return err
}

func (r Reset) topics(g *Group) ([]string, error) {
	if r.Topic != "" {
		return []string{r.Topic}, message.CheckAnyTopic(r.Topic)
	}
	topics := make(map[string]bool)
	for _, q := range g.Queues {
		topics[q.Topic] = true
	}
	return slices.Sorted(maps.Keys(topics)), nil
}

// change sets offsets on one broker, or tells what it would set.
type change struct {
	op string
	at func(ctx context.Context, broker string, dryRun bool) ([]OffsetChange, error)
}

func (a *Admin) reset(r Reset, topic string) change {
	req := protocol.ResetOffsetsRequest{
		Group: r.Group, Topic: topic, Queue: -1, Target: r.To, Value: r.Value, CreateGroup: true,
	}
	if r.Queue != nil {
		req.Queue = *r.Queue
	}
	return change{fmt.Sprintf("reset offsets of group %q in topic %q", r.Group, topic), func(ctx context.Context, broker string, dryRun bool) ([]OffsetChange, error) {
		req := req
		req.DryRun = dryRun
		resp, err := client.Call[protocol.ResetOffsetsResponse](ctx, a.client, broker, protocol.ClassAdmin, &req)
		if err != nil {
			return nil, err
		}
		changes := make([]OffsetChange, len(resp.Queues))
		for i, q := range resp.Queues {
			changes[i] = newOffsetChange(r.Group, topic, broker, q)
		}
		return changes, nil
	}}
}

func (a *Admin) clone(c Clone) change {
	return change{fmt.Sprintf("clone offsets of group %q to %q", c.From, c.To), func(ctx context.Context, broker string, dryRun bool) ([]OffsetChange, error) {
		req := &protocol.CloneOffsetsRequest{From: c.From, To: c.To, Topic: c.Topic, Force: c.Force, DryRun: dryRun}
		resp, err := client.Call[protocol.CloneOffsetsResponse](ctx, a.client, broker, protocol.ClassAdmin, req)
		if err != nil {
			return nil, err
		}
		changes := make([]OffsetChange, len(resp.Queues))
		for i, q := range resp.Queues {
			changes[i] = newOffsetChange(c.To, q.Topic, broker, q.OffsetChange)
		}
		return changes, nil
	}}
}

func newOffsetChange(group, topic, broker string, c protocol.OffsetChange) OffsetChange {
	return OffsetChange{
		Group: group, Topic: topic, Broker: broker, Queue: c.Queue, Before: c.Before, After: c.After, Skipped: c.Skipped,
	}
}

// inTwo asks all brokers what the steps would do; when none of them refuses, it has
// the steps done, one after another. Brokers that do not have what a step is about
// are left out of it.
func (a *Admin) inTwo(ctx context.Context, steps []change, brokers []string, dryRun bool) ([]OffsetChange, error) {
	var planned []OffsetChange
	at := make([][]string, len(steps))
	for i, s := range steps {
		answers, err := s.on(ctx, brokers, true)
		if err == nil {
			err = firstError(answers)
		}
		if err != nil {
			return nil, err
		}
		for _, x := range answers {
			planned, at[i] = append(planned, x.value...), append(at[i], x.broker)
		}
	}
	if dryRun {
		return planned, nil
	}
	var done []OffsetChange
	for i, s := range steps {
		answers, err := s.on(ctx, at[i], false)
		for _, x := range answers {
			done = append(done, x.value...)
		}
		if err == nil {
			err = outcome(s.op, answers)
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

func (s change) on(ctx context.Context, brokers []string, dryRun bool) ([]answer[[]OffsetChange], error) {
	return having(ask(ctx, brokers, func(ctx context.Context, broker string) ([]OffsetChange, error) {
		return s.at(ctx, broker, dryRun)
	}))
}

// having drops the brokers that do not have the topic, the queue or the group; when
// none has, the error says so.
func having[T any](answers []answer[T]) ([]answer[T], error) {
	kept := slices.DeleteFunc(slices.Clone(answers), func(x answer[T]) bool {
		return isCode(x.err, protocol.TopicNotFound) || isCode(x.err, protocol.GroupNotFound) || isCode(x.err, protocol.QueueNotFound)
	})
	if len(kept) > 0 || len(answers) == 0 {
		return kept, nil
	}
	for _, x := range answers { // that of a broker that has the topic says more
		if isCode(x.err, protocol.QueueNotFound) {
			return nil, x.err
		}
	}
	return nil, answers[0].err
}
