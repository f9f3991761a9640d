package broker

import (
	"fmt"
	"testing"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// groups are those of the broker as it runs now.
func (h *holding) groups() *groupAdmin {
	return &groupAdmin{
		state: h.state, clients: newClients(h.state, nil, Config{Now: h.state.now}), now: h.state.now,
		topics: &topicAdmin{state: h.state, registration: &registration{}},
	}
}

// A dead-letter topic that retention has emptied is of no use without its group.
func TestDeleteGroup_TakesAnEmptyDeadLetterTopic(t *testing.T) {
	h := newHolding(t)
	h.topic(message.DLQTopic("g"), 1)
	h.check(h.state.append(t.Context(), store.Record{Type: store.GroupRecord, Data: group.EncodePut(group.Default("g"))}))
	a := h.groups()
	resp, err := a.deleteGroup(t.Context(), &protocol.DeleteGroupRequest{Group: "g"})
	h.check(err)
	_, there := h.state.topics.Lookup(message.DLQTopic("g"))
	if _, known := h.state.groups.Config("g"); resp.DeadLetters != 0 || there || known {
		t.Errorf("got %+v; the topic is there: %t; the group is: %t", resp, there, known)
	}
}

// One request looks at no more than its budget, each queue at its part of it, and says
// so; those that come after it count on.
func TestLag_IsBounded(t *testing.T) {
	h := newHolding(t)
	a, topics := h.groups(), map[uint64]bool{}
	var sub group.Subscription
	for i := range 3 {
		c := h.counting(fmt.Sprint("t", i))
		for range 20 {
			c.send("a", "b")
		}
		topics[c.topic.ID] = true
		s := group.NewSessions(0)
		_, err := s.Heartbeat(h.state.now(), &protocol.HeartbeatRequest{ClientID: "c", Inbox: "rmq.c.x", Consumers: []protocol.Subscription{{
			Group: "g", Topics: []string{c.topic.Name}, Filters: []protocol.TopicFilter{{Topic: c.topic.Name, Kind: protocol.FilterTag, Text: "a"}},
		}}})
		h.check(err)
		one, _ := s.Subscription("g")
		sub = sub.With(one, func(string) bool { return true })
	}
	h.check(h.state.append(t.Context(), store.Record{Type: store.SubscribeRecord, Data: group.EncodeSubscription("g", sub)}))
	const steps = 30
	for call := 0; ; call++ {
		budget := &store.Budget{Steps: steps, Bytes: 1 << 20}
		queues, err := a.lag("g", topics, budget)
		h.check(err)
		exact := 0
		for _, q := range queues {
			if !q.AtLeast {
				exact++
			}
			if !q.Filtered || q.Lag > 20 || q.Lag == 0 || !q.AtLeast && q.Lag != 20 {
				t.Errorf("call %d: got %+v", call, q)
			}
		}
		if exact == len(queues) {
			if call < 3 {
				t.Errorf("60 batches of 2 messages with %d steps take %d calls", steps, call+1)
			}
			return
		}
		if used := steps - budget.Steps; used > steps+9 || call > 20 { // a queue may go over by a batch
			t.Fatalf("call %d: used %d of %d", call, used, steps)
		}
	}
}
