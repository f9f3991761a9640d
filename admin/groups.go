package admin

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// Group is a consumer group on all brokers that have it.
type Group struct {
	Name string
	// ConsumeEnabled is false when one broker refuses the group's pulls.
	ConsumeEnabled bool
	// PerMemberSubscriptions is true when one broker lets members have different
	// topics.
	PerMemberSubscriptions bool
	// RetryMax and RetryPolicy are those of the first broker; see protocol.GroupConfig.
	RetryMax    int
	RetryPolicy protocol.RetryPolicy
	// Brokers are those that have the group, sorted.
	Brokers []string
	// Members are the clients in the group, sorted by id.
	Members []protocol.Member
	// Queues is the group's progress, sorted by topic, broker and queue.
	Queues []QueueLag
}

// Lag is how many messages the group has not consumed, with those that wait for
// their retry; at least so many, if AtLeast says so.
func (g *Group) Lag() int64 {
	var n int64
	for _, q := range g.Queues {
		n += q.Lag
	}
	return n
}

// Retrying is how many of them failed and wait for their time.
func (g *Group) Retrying() int64 {
	var n int64
	for _, q := range g.Queues {
		n += q.Retrying
	}
	return n
}

// AtLeast says that not all messages could be looked at; see QueueLag.
func (g *Group) AtLeast() bool {
	return slices.ContainsFunc(g.Queues, func(q QueueLag) bool { return q.AtLeast })
}

// LagMillis is the age of the oldest of them; 0 when there is none.
func (g *Group) LagMillis() int64 {
	var oldest int64
	for _, q := range g.Queues {
		oldest = max(oldest, q.LagMillis)
	}
	return oldest
}

// QueueLag is a group's progress in one queue.
type QueueLag struct {
	Group  string `json:"group"`
	Topic  string `json:"topic"`
	Broker string `json:"broker"`
	Queue  int    `json:"queue"`
	// Committed is the next offset to consume; -1 when nothing was committed.
	Committed int64 `json:"committed"`
	Min       int64 `json:"min"`
	End       int64 `json:"end"`
	// Lag is how many messages are there to consume, counted by the broker at one
	// moment. In a queue without a committed offset it counts from where its owner
	// begins, without one from where the first of the members does, and while the
	// group has no members all that is there. With a filter only those count that it
	// lets through.
	Lag int64 `json:"lag"`
	// LagMillis is the age of the oldest of them in the queue; 0 when there is none.
	LagMillis int64 `json:"lagMillis"`
	// Retrying is how many of them failed and wait for their time; only the group's
	// retry topic has some.
	Retrying int64 `json:"retrying"`
	// AtLeast says that a filter had to look at more messages than one request may:
	// Lag is at least this, LagMillis at most. The next call goes on from there.
	AtLeast bool `json:"atLeast"`
	// Filtered says that the group reads the topic with a filter: its members' or,
	// while it has none, the last that they had. FilterUnknown says that no member
	// ever told the broker whether it does: all messages count.
	Filtered      bool `json:"filtered"`
	FilterUnknown bool `json:"filterUnknown"`
	// Owner is the client that holds the queue, if any.
	Owner string `json:"owner"`
	// InFlight and Ready are of Lag, where the group pops: how many are handed out and
	// not acknowledged, and how many can be handed out now. The others wait for earlier
	// messages of their message groups.
	InFlight int64 `json:"inFlight"`
	Ready    int64 `json:"ready"`
}

func newQueueLag(group, broker string, o protocol.GroupOffset) QueueLag {
	return QueueLag{
		Group: group, Topic: o.Topic, Broker: broker, Queue: o.Queue,
		Committed: o.Committed, Min: o.Min, End: o.End,
		Lag: o.Lag, LagMillis: o.LagMillis, Owner: o.Owner,
		Retrying: o.Retrying, AtLeast: o.AtLeast, Filtered: o.Filtered, FilterUnknown: o.FilterUnknown,
		InFlight: o.InFlight, Ready: o.Ready,
	}
}

func compareQueues(a, b QueueLag) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Broker, b.Broker), cmp.Compare(a.Queue, b.Queue))
}

// GroupChange is what a change did, or with DryRun would do, on one broker.
type GroupChange struct {
	Broker string
	// Before is nil for a group that is created.
	Before *protocol.GroupConfig
	// After is nil for a group that is deleted.
	After *protocol.GroupConfig
	// Retries is how many messages that were to be delivered again go with a group
	// that is deleted.
	Retries int64
	// DeadLetters is how many the group had there; DeadLettersGone says that they go
	// with it.
	DeadLetters     int64
	DeadLettersGone bool
}

// CreateGroup makes a consumer group on every broker of the target. Groups are
// also made by the first consumer; creating one beforehand is for settings.
func (a *Admin) CreateGroup(ctx context.Context, g protocol.GroupConfig, t Target) ([]GroupChange, error) {
	if err := message.CheckGroup(g.Name); err != nil {
		return nil, err
	}
	brokers, err := a.masters(ctx, t)
	if err != nil {
		return nil, err
	}
	existing, err := a.groupOn(ctx, g.Name, brokers)
	if err == nil {
		return nil, protocol.Errorf(protocol.Conflict, "group %q exists on broker %s", g.Name, existing[0].broker)
	}
	if !isCode(err, protocol.GroupNotFound) {
		return nil, err
	}
	changes := make([]GroupChange, len(brokers))
	for i, b := range brokers {
		changes[i] = GroupChange{Broker: b, After: &g}
	}
	return a.putGroup(ctx, fmt.Sprintf("create group %q", g.Name), protocol.PutCreate, changes, t.DryRun)
}

// AlterGroup changes a group on every broker of the target that has it.
func (a *Admin) AlterGroup(ctx context.Context, g protocol.GroupConfig, t Target) ([]GroupChange, error) {
	existing, err := a.findGroup(ctx, g.Name, t)
	if err != nil {
		return nil, err
	}
	changes := make([]GroupChange, len(existing))
	for i, x := range existing {
		changes[i] = GroupChange{Broker: x.broker, Before: &x.value.GroupConfig, After: &g}
	}
	return a.putGroup(ctx, fmt.Sprintf("alter group %q", g.Name), protocol.PutAlter, changes, t.DryRun)
}

func (a *Admin) putGroup(ctx context.Context, op string, mode protocol.PutMode, changes []GroupChange, dryRun bool) ([]GroupChange, error) {
	if dryRun || len(changes) == 0 {
		return changes, nil
	}
	brokers := make([]string, len(changes))
	for i, c := range changes {
		brokers[i] = c.Broker
	}
	req := &protocol.PutGroupRequest{Group: *changes[0].After, Mode: mode}
	answers := request[protocol.Empty](ctx, a, brokers, req)
	return made(changes, answers), outcome(op, answers)
}

// DeleteGroup removes a group with its offsets and with what waits for its retry from
// every broker of the target that has it; Conflict while it has members. Its dead
// letters stay where they are, for ResendDeadLetter and PurgeDeadLetters.
func (a *Admin) DeleteGroup(ctx context.Context, name string, t Target) ([]GroupChange, error) {
	return a.deleteGroup(ctx, protocol.DeleteGroupRequest{Group: name}, t)
}

// DeleteGroupAndDeadLetters is DeleteGroup that removes the dead letters, too.
func (a *Admin) DeleteGroupAndDeadLetters(ctx context.Context, name string, t Target) ([]GroupChange, error) {
	return a.deleteGroup(ctx, protocol.DeleteGroupRequest{Group: name, WithDeadLetters: true}, t)
}

func (a *Admin) deleteGroup(ctx context.Context, req protocol.DeleteGroupRequest, t Target) ([]GroupChange, error) {
	existing, err := a.findGroup(ctx, req.Group, t)
	if err != nil {
		return nil, err
	}
	changes := make([]GroupChange, len(existing))
	brokers := make([]string, len(existing))
	for i, x := range existing {
		changes[i], brokers[i] = GroupChange{Broker: x.broker, Before: &x.value.GroupConfig}, x.broker
	}
	req.DryRun = t.DryRun
	answers := request[protocol.DeleteGroupResponse](ctx, a, brokers, &req)
	for i, x := range answers {
		if x.err == nil {
			changes[i].Retries, changes[i].DeadLetters, changes[i].DeadLettersGone = x.value.Retries, x.value.DeadLetters, req.WithDeadLetters
		}
	}
	return made(changes, answers), outcome(fmt.Sprintf("delete group %q", req.Group), answers)
}

// ListGroups gives all groups of the target's brokers with members and
// progress, sorted by name.
func (a *Admin) ListGroups(ctx context.Context, t Target) ([]Group, error) {
	brokers, err := a.masters(ctx, t)
	if err != nil {
		return nil, err
	}
	answers := request[protocol.ListGroupsResponse](ctx, a, brokers, &protocol.ListGroupsRequest{})
	if err := firstError(answers); err != nil {
		return nil, err
	}
	byName := make(map[string]*Group)
	for _, x := range answers {
		for _, s := range x.value.Groups {
			if byName[s.Name] == nil {
				byName[s.Name] = &Group{Name: s.Name, ConsumeEnabled: true}
			}
			byName[s.Name].add(x.broker, s)
		}
	}
	if err := a.complete(ctx, brokers, byName); err != nil {
		return nil, err
	}
	return sortedValues(byName, func(g *Group) string { return g.Name }), nil
}

// DescribeGroup gives one group; GroupNotFound when no broker of the target has it.
func (a *Admin) DescribeGroup(ctx context.Context, name string, t Target) (*Group, error) {
	if err := message.CheckGroup(name); err != nil {
		return nil, err
	}
	brokers, err := a.masters(ctx, t)
	if err != nil {
		return nil, err
	}
	found, err := a.groupOn(ctx, name, brokers)
	if err != nil {
		return nil, err
	}
	g := &Group{Name: name, ConsumeEnabled: true}
	for _, x := range found {
		g.add(x.broker, x.value)
	}
	return g, a.complete(ctx, brokers, map[string]*Group{name: g})
}

// complete adds the queues that groups have to read on brokers where they have
// never read their topics.
func (a *Admin) complete(ctx context.Context, brokers []string, groups map[string]*Group) error {
	requests := make(map[string]*protocol.ListGroupsRequest)
	for _, g := range groups {
		for broker, topics := range g.unread(brokers) {
			if requests[broker] == nil {
				requests[broker] = &protocol.ListGroupsRequest{}
			}
			requests[broker].Reading = append(requests[broker].Reading, protocol.GroupTopics{Group: g.Name, Topics: topics})
		}
	}
	answers := ask(ctx, slices.Sorted(maps.Keys(requests)), func(ctx context.Context, broker string) (*protocol.ListGroupsResponse, error) {
		return client.Call[protocol.ListGroupsResponse](ctx, a.client, broker, protocol.ClassAdmin, requests[broker])
	})
	for _, x := range answers {
		if x.err != nil {
			return x.err
		}
		for _, s := range x.value.Groups {
			groups[s.Name].read(x.broker, s.Queues)
		}
	}
	return nil
}

// unread are the group's topics, sorted, that brokers said nothing of.
func (g *Group) unread(brokers []string) map[string][]string {
	said := make(map[string]map[string]bool)
	for _, q := range g.Queues {
		if said[q.Topic] == nil {
			said[q.Topic] = make(map[string]bool)
		}
		said[q.Topic][q.Broker] = true
	}
	topics := make(map[string][]string)
	for _, t := range slices.Sorted(maps.Keys(said)) {
		for _, b := range brokers {
			if !said[t][b] {
				topics[b] = append(topics[b], t)
			}
		}
	}
	return topics
}

// GroupLag gives a group's progress in all its queues.
func (a *Admin) GroupLag(ctx context.Context, name string, t Target) ([]QueueLag, error) {
	g, err := a.DescribeGroup(ctx, name, t)
	if err != nil {
		return nil, err
	}
	return g.Queues, nil
}

// add takes in what one broker knows of the group.
func (g *Group) add(broker string, s protocol.GroupStatus) {
	if len(g.Brokers) == 0 {
		g.RetryMax, g.RetryPolicy = s.RetryMax, s.RetryPolicy
	}
	g.Brokers = append(g.Brokers, broker)
	g.ConsumeEnabled = g.ConsumeEnabled && s.ConsumeEnabled
	g.PerMemberSubscriptions = g.PerMemberSubscriptions || s.PerMemberSubscriptions
	for _, m := range s.Members {
		if !slices.ContainsFunc(g.Members, func(o protocol.Member) bool { return o.ClientID == m.ClientID }) {
			g.Members = append(g.Members, m)
		}
	}
	slices.SortFunc(g.Members, func(a, b protocol.Member) int { return cmp.Compare(a.ClientID, b.ClientID) })
	g.read(broker, s.Queues)
}

func (g *Group) read(broker string, queues []protocol.GroupOffset) {
	for _, o := range queues {
		g.Queues = append(g.Queues, newQueueLag(g.Name, broker, o))
	}
	slices.SortFunc(g.Queues, compareQueues)
}

func (a *Admin) findGroup(ctx context.Context, name string, t Target) ([]answer[protocol.GroupStatus], error) {
	if err := message.CheckGroup(name); err != nil {
		return nil, err
	}
	brokers, err := a.masters(ctx, t)
	if err != nil {
		return nil, err
	}
	return a.groupOn(ctx, name, brokers)
}

// groupOn is the group on those of the brokers that have it; GroupNotFound when
// none has.
func (a *Admin) groupOn(ctx context.Context, name string, brokers []string) ([]answer[protocol.GroupStatus], error) {
	answers := ask(ctx, brokers, func(ctx context.Context, broker string) (protocol.GroupStatus, error) {
		req := &protocol.ListGroupsRequest{Group: name}
		r, err := client.Call[protocol.ListGroupsResponse](ctx, a.client, broker, protocol.ClassAdmin, req)
		if err != nil {
			return protocol.GroupStatus{}, err
		}
		if len(r.Groups) == 0 {
			return protocol.GroupStatus{}, protocol.Errorf(protocol.GroupNotFound, "group %q is not known", name)
		}
		return r.Groups[0], nil
	})
	return without(answers, protocol.GroupNotFound)
}
