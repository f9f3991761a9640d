package group

import (
	"errors"
	"testing"

	"github.com/rmqio/rmq/transport/protocol"
)

// broadcasting is subscribing in which every subscription broadcasts.
func broadcasting(client, subscriptions string) *protocol.HeartbeatRequest {
	req := subscribing(client, subscriptions)
	for i := range req.Consumers {
		req.Consumers[i].Broadcast = true
	}
	return req
}

func TestBroadcast_MembersDoTheSame(t *testing.T) {
	s := agreeing(false)
	accept := func(req *protocol.HeartbeatRequest) {
		t.Helper()
		if _, err := s.Heartbeat(start, req); err != nil {
			t.Fatal(err)
		}
	}
	accept(broadcasting("a", "g:t"))
	accept(subscribing("b", "h:t"))
	accept(broadcasting("c", "g:t,u"))
	refused(t, s, start, subscribing("d", "g:t"), `"d" shares queues`, "which was there first, reads all queues")
	refused(t, s, start, broadcasting("d", "h:t"), `"d" reads all queues`, `"b", which was there first, shares queues`)
	refused(t, s, start, subscribing("c", "g:t,u"), `"c" shares queues`, `"a"`) // the same topics as before
	for _, m := range s.Members("g") {
		if !m.Broadcast {
			t.Errorf("member %s is said to share queues", m.ClientID)
		}
	}
	s.Leave(start, "a", "g")
	s.Leave(start, "c", "g")
	accept(subscribing("d", "g:t"))
	refused(t, s, start, broadcasting("a", "g:t"))
}

func TestBroadcast_AndNotInOneHeartbeat(t *testing.T) {
	req := broadcasting("a", "g:t; g:u")
	req.Consumers[1].Broadcast = false
	if _, err := agreeing(true).Heartbeat(start, req); !errors.Is(err, protocol.InvalidArgument) {
		t.Errorf("got %v, want InvalidArgument", err)
	}
}
