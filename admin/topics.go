package admin

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// DefaultQueues is how many queues a topic gets on each broker when nothing
// else is said, as in RocketMQ's defaultTopicQueueNums.
const DefaultQueues = 8

// TopicSpec is a topic to create. Zero fields have defaults.
type TopicSpec struct {
	Name string
	// ReadQueues and WriteQueues are per broker; 0 is DefaultQueues.
	ReadQueues  int
	WriteQueues int
	// Perm is read and write when 0; take permissions away with AlterTopic.
	Perm message.Perm
	// RetentionMillis is for how long messages can be read: 0
	// (protocol.KeepByDefault), protocol.KeepForever, or at least
	// protocol.MinRetentionMillis.
	RetentionMillis int64
	// KeepUntilConsumed keeps messages beyond that until every group that reads
	// the topic has consumed them, and while no group reads it.
	KeepUntilConsumed bool
	// Type is the kind of messages that the topic takes; empty: message.Mixed.
	Type message.Kind
	// Quota bounds what each broker takes for the topic; 0: no bound.
	Quota protocol.Rates
}

func (s TopicSpec) config() protocol.TopicConfig {
	return protocol.TopicConfig{
		Name:        s.Name,
		ReadQueues:  cmp.Or(s.ReadQueues, DefaultQueues),
		WriteQueues: cmp.Or(s.WriteQueues, DefaultQueues),
		Perm:        cmp.Or(s.Perm, message.PermReadWrite),

		RetentionMillis:   s.RetentionMillis,
		KeepUntilConsumed: s.KeepUntilConsumed,

		Type:  s.Type,
		Quota: s.Quota,
	}
}

// TopicPatch is a change of a topic; nil fields stay as they are.
type TopicPatch struct {
	ReadQueues  *int
	WriteQueues *int
	Perm        *message.Perm
	// RetentionMillis and KeepUntilConsumed are as in TopicSpec.
	RetentionMillis   *int64
	KeepUntilConsumed *bool
	// Type is as in TopicSpec. It holds for what is sent from then on: messages
	// that are in the topic stay.
	Type *message.Kind
	// Quota is a change of the topic's quota.
	Quota RatesPatch
}

func (p TopicPatch) apply(c protocol.TopicConfig) protocol.TopicConfig {
	if p.ReadQueues != nil {
		c.ReadQueues = *p.ReadQueues
	}
	if p.WriteQueues != nil {
		c.WriteQueues = *p.WriteQueues
	}
	if p.Perm != nil {
		c.Perm = *p.Perm
	}
	if p.RetentionMillis != nil {
		c.RetentionMillis = *p.RetentionMillis
	}
	if p.KeepUntilConsumed != nil {
		c.KeepUntilConsumed = *p.KeepUntilConsumed
	}
	if p.Type != nil && cmp.Or(*p.Type, message.Mixed) != cmp.Or(c.Type, message.Mixed) {
		c.Type = *p.Type
	}
	c.Quota = p.Quota.apply(c.Quota)
	return c
}

// TopicChange is what a change did, or with DryRun would do, on one broker.
type TopicChange struct {
	Broker string
	// Before is nil for a topic that is created.
	Before *protocol.TopicConfig
	// After is nil for a topic that is deleted.
	After *protocol.TopicConfig
}

// BrokerTopic is a topic on one broker.
type BrokerTopic struct {
	Broker string
	protocol.TopicStatus
}

// Topic is a topic on all brokers that have it, sorted by broker.
type Topic struct {
	Name    string
	Brokers []BrokerTopic
}

// CreateTopic makes a topic on every broker of the target. Conflict is returned,
// and nothing is created, when one of them has it.
func (a *Admin) CreateTopic(ctx context.Context, s TopicSpec, t Target) ([]TopicChange, error) {
	if err := message.CheckTopic(s.Name); err != nil {
		return nil, err
	}
	brokers, err := a.masters(ctx, t)
	if err != nil {
		return nil, err
	}
	existing, err := a.topicOn(ctx, s.Name, brokers)
	if err == nil {
		return nil, protocol.Errorf(protocol.Conflict, "topic %q exists on broker %s", s.Name, existing[0].Broker)
	}
	if !isCode(err, protocol.TopicNotFound) {
		return nil, err
	}
	changes := make([]TopicChange, len(brokers))
	for i, b := range brokers {
		changes[i] = TopicChange{Broker: b, After: new(s.config())}
	}
	return a.putTopic(ctx, fmt.Sprintf("create topic %q", s.Name), protocol.PutCreate, changes, t.DryRun)
}

// AlterTopic changes a topic on every broker of the target that has it.
// TopicNotFound is returned when none has.
func (a *Admin) AlterTopic(ctx context.Context, name string, p TopicPatch, t Target) ([]TopicChange, error) {
	existing, err := a.findTopic(ctx, name, t)
	if err != nil {
		return nil, err
	}
	changes := make([]TopicChange, len(existing))
	for i, b := range existing {
		changes[i] = TopicChange{Broker: b.Broker, Before: &b.TopicConfig, After: new(p.apply(b.TopicConfig))}
	}
	return a.putTopic(ctx, fmt.Sprintf("alter topic %q", name), protocol.PutAlter, changes, t.DryRun)
}

func (a *Admin) putTopic(ctx context.Context, op string, mode protocol.PutMode, changes []TopicChange, dryRun bool) ([]TopicChange, error) {
	if dryRun {
		return changes, nil
	}
	wanted := make(map[string]*protocol.TopicConfig, len(changes))
	brokers := make([]string, len(changes))
	for i, c := range changes {
		brokers[i], wanted[c.Broker] = c.Broker, c.After
	}
	answers := ask(ctx, brokers, func(ctx context.Context, broker string) (*protocol.PutTopicResponse, error) {
		req := &protocol.PutTopicRequest{Topic: *wanted[broker], Mode: mode}
		return client.Call[protocol.PutTopicResponse](ctx, a.client, broker, protocol.ClassAdmin, req)
	})
	for i, x := range answers {
		if x.err == nil {
			changes[i].After = &x.value.Topic
		}
	}
	return made(changes, answers), outcome(op, answers)
}

// DeleteTopic removes a topic with its messages and offsets from every broker
// of the target that has it. TopicNotFound is returned when none has.
func (a *Admin) DeleteTopic(ctx context.Context, name string, t Target) ([]TopicChange, error) {
	existing, err := a.findTopic(ctx, name, t)
	if err != nil {
		return nil, err
	}
	changes := make([]TopicChange, len(existing))
	brokers := make([]string, len(existing))
	for i, b := range existing {
		changes[i], brokers[i] = TopicChange{Broker: b.Broker, Before: &b.TopicConfig}, b.Broker
	}
	if t.DryRun {
		return changes, nil
	}
	answers := request[protocol.Empty](ctx, a, brokers, &protocol.DeleteTopicRequest{Topic: name})
	return made(changes, answers), outcome(fmt.Sprintf("delete topic %q", name), answers)
}

// made keeps the changes whose answers are good; both are in the same order.
func made[C, T any](changes []C, answers []answer[T]) []C {
	var kept []C
	for i, x := range answers {
		if x.err == nil {
			kept = append(kept, changes[i])
		}
	}
	return kept
}

// ListTopics gives all topics of the target's brokers, sorted by name, without
// their queues' offsets.
func (a *Admin) ListTopics(ctx context.Context, t Target) ([]Topic, error) {
	brokers, err := a.masters(ctx, t)
	if err != nil {
		return nil, err
	}
	answers := request[protocol.ListTopicsResponse](ctx, a, brokers, &protocol.ListTopicsRequest{})
	if err := firstError(answers); err != nil {
		return nil, err
	}
	byName := make(map[string]*Topic)
	for _, x := range answers {
		for _, s := range x.value.Topics {
			if byName[s.Name] == nil {
				byName[s.Name] = &Topic{Name: s.Name}
			}
			byName[s.Name].Brokers = append(byName[s.Name].Brokers, BrokerTopic{Broker: x.broker, TopicStatus: s})
		}
	}
	return sortedValues(byName, func(t *Topic) string { return t.Name }), nil
}

func sortedValues[T any](m map[string]*T, name func(*T) string) []T {
	out := make([]T, 0, len(m))
	for _, v := range m {
		out = append(out, *v)
	}
	slices.SortFunc(out, func(a, b T) int { return cmp.Compare(name(&a), name(&b)) })
	return out
}

// DescribeTopic gives a topic with the offsets of all its queues.
func (a *Admin) DescribeTopic(ctx context.Context, name string, t Target) (*Topic, error) {
	found, err := a.findTopic(ctx, name, t)
	if err != nil {
		return nil, err
	}
	return &Topic{Name: name, Brokers: found}, nil
}

func (a *Admin) findTopic(ctx context.Context, name string, t Target) ([]BrokerTopic, error) {
	if err := message.CheckAnyTopic(name); err != nil {
		return nil, err
	}
	brokers, err := a.masters(ctx, t)
	if err != nil {
		return nil, err
	}
	return a.topicOn(ctx, name, brokers)
}

// topicOn is the topic on those of the brokers that have it; TopicNotFound when
// none has.
func (a *Admin) topicOn(ctx context.Context, name string, brokers []string) ([]BrokerTopic, error) {
	req := &protocol.ListTopicsRequest{Topic: name, Stats: true}
	answers, err := without(request[protocol.ListTopicsResponse](ctx, a, brokers, req), protocol.TopicNotFound)
	if err != nil {
		return nil, err
	}
	var found []BrokerTopic
	for _, x := range answers {
		for _, s := range x.value.Topics {
			found = append(found, BrokerTopic{Broker: x.broker, TopicStatus: s})
		}
	}
	if len(found) == 0 {
		return nil, protocol.Errorf(protocol.TopicNotFound, "topic %q is not known", name)
	}
	return found, nil
}

// TopicRoute gives what the name server tells clients of a topic, sorted by
// broker. TopicNotFound is returned when no broker registered it.
func (a *Admin) TopicRoute(ctx context.Context, name string) ([]protocol.TopicRoute, error) {
	if err := message.CheckAnyTopic(name); err != nil {
		return nil, err
	}
	r, err := a.client.Route(ctx, name)
	if err != nil {
		return nil, err
	}
	return r.Brokers, nil
}

// TopicNames gives the names of all topics that the name server knows, sorted.
func (a *Admin) TopicNames(ctx context.Context) ([]string, error) { return a.client.Topics(ctx) }
