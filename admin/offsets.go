package admin

import (
	"context"
	"fmt"
	"slices"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// Reset says where a group's offsets are set to.
type Reset struct {
	Group string
	// Topic is empty for all topics that the group has progress in.
	Topic string
	// Queue is nil for all queues of the topic.
	Queue *int
	// To is where to; Value is the offset of ResetToOffset or the time of
	// ResetToTime in Unix milliseconds.
	To    protocol.ResetTarget
	Value int64
}

// OffsetChange is one queue's committed offset before and after a reset.
type OffsetChange struct {
	Group  string `json:"group"`
	Topic  string `json:"topic"`
	Broker string `json:"broker"`
	Queue  int    `json:"queue"`
	// Before is -1 when nothing was committed.
	Before int64 `json:"before"`
	After  int64 `json:"after"`
}

// ResetOffsets sets a group's offsets on the target's brokers, or with DryRun
// tells what it would set. Members that own such a queue go on from the new
// offset by themselves. TopicNotFound or GroupNotFound is returned when no
// broker of the target has it.
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
	var changes []OffsetChange
	for _, topic := range topics {
		c, err := a.resetTopic(ctx, r, topic, brokers, t.DryRun)
		changes = append(changes, c...)
		if err != nil {
			return changes, err
		}
	}
	return changes, nil
}

func (r Reset) topics(g *Group) ([]string, error) {
	if r.Topic != "" {
		return []string{r.Topic}, message.CheckAnyTopic(r.Topic)
	}
	var topics []string
	for _, q := range g.Queues {
		topics = append(topics, q.Topic)
	}
	slices.Sort(topics)
	return slices.Compact(topics), nil
}

func (a *Admin) resetTopic(ctx context.Context, r Reset, topic string, brokers []string, dryRun bool) ([]OffsetChange, error) {
	req := &protocol.ResetOffsetsRequest{
		Group: r.Group, Topic: topic, Queue: -1, Target: r.To, Value: r.Value, DryRun: dryRun,
	}
	if r.Queue != nil {
		req.Queue = *r.Queue
	}
	answers := ask(ctx, brokers, func(ctx context.Context, broker string) ([]OffsetChange, error) {
		resp, err := client.Call[protocol.ResetOffsetsResponse](ctx, a.client, broker, protocol.ClassAdmin, req)
		if err != nil {
			return nil, err
		}
		return offsetChanges(req, broker, resp.Queues), nil
	})
	answers, err := having(answers)
	if err != nil {
		return nil, err
	}
	var changes []OffsetChange
	for _, x := range answers {
		changes = append(changes, x.value...)
	}
	return changes, outcome(fmt.Sprintf("reset offsets of group %q", r.Group), answers)
}

// having drops the brokers that do not have the topic or the group; when none
// has, the error says so.
func having[T any](answers []answer[T]) ([]answer[T], error) {
	kept := slices.DeleteFunc(slices.Clone(answers), func(x answer[T]) bool {
		return isCode(x.err, protocol.TopicNotFound) || isCode(x.err, protocol.GroupNotFound)
	})
	if len(kept) == 0 && len(answers) > 0 {
		return nil, answers[0].err
	}
	return kept, nil
}

func offsetChanges(req *protocol.ResetOffsetsRequest, broker string, queues []protocol.OffsetChange) []OffsetChange {
	changes := make([]OffsetChange, len(queues))
	for i, q := range queues {
		changes[i] = OffsetChange{
			Group: req.Group, Topic: req.Topic, Broker: broker, Queue: q.Queue, Before: q.Before, After: q.After,
		}
	}
	return changes
}
