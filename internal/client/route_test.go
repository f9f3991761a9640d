package client

import (
	"slices"
	"testing"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestRoute_QueuesFollowPermissions(t *testing.T) {
	r := newRoute("t", []protocol.TopicRoute{
		{Broker: "c", ID: 0, ReadQueues: 1, WriteQueues: 2, Perm: message.PermReadWrite},
		{Broker: "b", ID: 0, ReadQueues: 1, WriteQueues: 1, Perm: message.PermRead},
		{Broker: "a", ID: 0, ReadQueues: 1, WriteQueues: 1, Perm: message.PermWrite},
		{Broker: "c", ID: 1, ReadQueues: 9, WriteQueues: 9, Perm: message.PermReadWrite},
	})
	queue := func(broker string, id int) message.Queue { return message.Queue{Topic: "t", Broker: broker, ID: id} }
	if got, want := r.ReadQueues(), []message.Queue{queue("b", 0), queue("c", 0)}; !slices.Equal(got, want) {
		t.Errorf("read: got %v, want %v", got, want)
	}
	if got, want := r.WriteQueues(), []message.Queue{queue("a", 0), queue("c", 0), queue("c", 1)}; !slices.Equal(got, want) {
		t.Errorf("write: got %v, want %v", got, want)
	}
}

func TestRoutes_OlderAnswerDoesNotReplaceNewer(t *testing.T) {
	r := newRoutes()
	older, newer := r.nextSeq(), r.nextSeq()
	two := newRoute("t", []protocol.TopicRoute{{Broker: "a", WriteQueues: 2}})
	one := newRoute("t", []protocol.TopicRoute{{Broker: "a", WriteQueues: 1}})
	changed := r.changed
	if got := r.apply("t", newer, two); got != two {
		t.Fatalf("got %v, want the newer", got)
	}
	select {
	case <-changed:
	default:
		t.Error("the change was not told")
	}
	if got := r.apply("t", older, one); got != two {
		t.Errorf("got %v, want the newer to stay", got)
	}
	if typed := newRoute("t", []protocol.TopicRoute{{Broker: "a", WriteQueues: 2, Type: message.Priority}}); typed.equal(two) {
		t.Error("a route of another type is the same")
	}
	changed = r.changed
	if got := r.apply("t", r.nextSeq(), newRoute("t", two.Brokers)); got != two {
		t.Errorf("got %v, want the same route to stay what it is", got)
	}
	select {
	case <-changed:
		t.Error("a change was told that is none")
	default:
	}
}

func TestNameServers_RotateAndStick(t *testing.T) {
	n := newNameServers()
	n.set([]string{"a", "b", "c"})
	n.stick("b")
	if got := n.order(); !slices.Equal(got, []string{"b", "c", "a"}) {
		t.Errorf("got %v, want b first", got)
	}
	added, _ := n.set([]string{"d", "b"})
	if got := n.order(); !slices.Equal(got, []string{"b", "d"}) || !slices.Equal(added, []string{"d"}) {
		t.Errorf("got %v with %v added, want b still first and d added", got, added)
	}
	n.set([]string{"d"})
	if got := n.order(); !slices.Equal(got, []string{"d"}) {
		t.Errorf("got %v, want d alone", got)
	}
	n.set(nil)
	if got := n.order(); len(got) != 0 {
		t.Errorf("got %v, want none", got)
	}
}
