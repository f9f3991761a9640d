package consumer

import (
	"slices"
	"testing"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

func twoBrokers() *client.Route {
	topic := func(broker string) protocol.TopicRoute {
		return protocol.TopicRoute{Broker: broker, ReadQueues: 2, WriteQueues: 2, Perm: message.PermReadWrite}
	}
	return &client.Route{Topic: "t", Brokers: []protocol.TopicRoute{topic("a"), topic("b")}}
}

func member(id string, topics ...string) protocol.Member {
	return protocol.Member{ClientID: id, Topics: topics}
}

// planFor is the plan of member c1.
func planFor(members map[string][]protocol.Member) (map[string][]share, bool) {
	m := &membership{self: "c1", engine: &engine{settings: settings{strategy: Averagely}}}
	return m.plan([]*client.Route{twoBrokers()}, members)
}

func TestPlanJoinsTheViewsOfAllBrokers(t *testing.T) {
	plan, complete := planFor(map[string][]protocol.Member{
		"a": {member("c1", "t"), member("c2", "t"), member("c0", "other")},
		"b": {member("c1", "t")}, // has just started and has not seen c2
	})
	if !complete {
		t.Fatal("got an incomplete plan")
	}
	if got := plan["a"]; len(got) != 1 || len(got[0].queues) != 2 {
		t.Fatalf("broker a: got %v, want both queues", got)
	}
	if got := plan["b"]; len(got) != 1 || len(got[0].queues) != 0 {
		t.Fatalf("broker b: got %v, want an empty share: its queues are c2's", got)
	}
	if !planned(plan, message.Queue{Topic: "t", Broker: "b"}) {
		t.Fatal("a queue of another member is not given up")
	}
	if planned(plan, message.Queue{Topic: "t", Broker: "a"}) {
		t.Fatal("an own queue is given up")
	}
}

func TestPlanWaitsForItsOwnMembership(t *testing.T) {
	plan, complete := planFor(map[string][]protocol.Member{"a": {member("c2", "t")}, "b": {member("c2", "t")}})
	if complete || len(plan) != 0 {
		t.Fatalf("got plan %v, complete %v; want none to act on", plan, complete)
	}
}

func TestPlanLeavesSilentBrokersAlone(t *testing.T) {
	plan, _ := planFor(map[string][]protocol.Member{"a": {member("c1", "t"), member("c2", "t")}})
	if _, ok := plan["b"]; ok {
		t.Fatal("the plan has a broker that does not answer")
	}
	if planned(plan, message.Queue{Topic: "t", Broker: "b"}) || planned(plan, message.Queue{Topic: "t", Broker: "gone"}) {
		t.Fatal("queues of a broker that is away are given up")
	}
}

func TestGoneOnlyByWordOfTheBroker(t *testing.T) {
	routes := []*client.Route{twoBrokers()}
	for q, want := range map[message.Queue]bool{
		{Topic: "t", Broker: "a", ID: 1}: false,
		{Topic: "t", Broker: "a", ID: 2}: true, // fewer queues now
		{Topic: "t", Broker: "c", ID: 0}: false,
		{Topic: "u", Broker: "a", ID: 0}: false,
	} {
		if got := gone(q, routes); got != want {
			t.Errorf("%v: got %v, want %v", q, got, want)
		}
	}
}

func TestSubscribersAreSortedWithoutDoubles(t *testing.T) {
	got := subscribers(twoBrokers(), map[string][]protocol.Member{
		"a": {member("c3", "t"), member("c1", "t")}, "b": {member("c1", "t"), member("c2", "u", "t")}, "c": {member("c9", "t")},
	})
	if !slices.Equal(got, []string{"c1", "c2", "c3"}) {
		t.Fatalf("got %v", got)
	}
}
