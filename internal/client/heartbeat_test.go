package client

import (
	"errors"
	"slices"
	"testing"

	"github.com/rmqio/rmq/transport/protocol"
)

func subscribe(group string, topics ...string) []protocol.Subscription {
	return []protocol.Subscription{{Group: group, Topics: topics}}
}

func TestHeartbeat_GoesToBrokersOfSubscribedTopics(t *testing.T) {
	s := startSite(t, "")
	a, b := startBroker(s, "a", "orders"), startBroker(s, "b", "other")
	c := clientOf(t, s)
	c.Announce(nil, subscribe("g", "orders", "later"))
	eventually(t, "two heartbeats", func() bool { return a.beatCount() > 1 })
	got := a.lastBeat()
	if got.ClientID != c.ID() || got.Inbox == "" || got.Language != "go" || got.Version == "" ||
		len(got.Consumers) != 1 || got.Consumers[0].Group != "g" || !slices.Equal(got.Consumers[0].Topics, []string{"orders", "later"}) {
		t.Errorf("got %+v", got)
	}
	if n := b.beatCount(); n != 0 {
		t.Errorf("got %d heartbeats at a broker without the topic, want none", n)
	}
	b.setTopics(config("other"), config("later"))
	eventually(t, "a heartbeat where the topic appears", func() bool { return b.beatCount() > 0 })
}

func TestHeartbeat_GoesToBrokersThatWereSentTo(t *testing.T) {
	s := startSite(t, "")
	a, b := startBroker(s, "a"), startBroker(s, "b")
	c := clientOf(t, s)
	c.Announce([]string{"shop"}, nil)
	c.Start(t.Context(), "a", protocol.ClassSend, &protocol.HeartbeatRequest{}, func([]byte, error) {})
	eventually(t, "a heartbeat", func() bool { return slices.Equal(a.lastBeat().Producers, []string{"shop"}) })
	if n := b.beatCount(); n != 0 {
		t.Errorf("got %d heartbeats at a broker that was not sent to, want none", n)
	}
}

func TestHeartbeat_AtOnceWhenUnknown(t *testing.T) {
	s := startSite(t, "")
	a := startBroker(s, "a", "orders")
	c := clientOf(t, s)
	c.Announce(nil, subscribe("g", "orders"))
	eventually(t, "a heartbeat", func() bool { return a.beatCount() > 0 })
	before := a.beatCount()
	// Far more than the clock alone would send in the time.
	for i := range 20 {
		_, err := Call[protocol.SyncLeasesResponse](t.Context(), c, "a", protocol.ClassClient, &protocol.SyncLeasesRequest{})
		if !errors.Is(err, protocol.UnknownMember) {
			t.Fatalf("got %v, want %v", err, protocol.UnknownMember)
		}
		eventually(t, "a heartbeat", func() bool { return a.beatCount() > before+i })
	}
}

func TestHeartbeat_AfterReconnect(t *testing.T) {
	ns, s := startSite(t, ""), startSite(t, "")
	a := startBroker(s, "a", "orders")
	a.register(ns)
	c := clientOf(t, ns)
	c.Announce(nil, subscribe("g", "orders"))
	eventually(t, "a heartbeat", func() bool { return a.beatCount() > 0 })
	addr := s.addr()
	s.stop()
	a = startBroker(startSite(t, addr), "a", "orders")
	eventually(t, "a heartbeat to the broker that is back", func() bool { return a.beatCount() > 0 })
}

func TestLeave_IsLastWord(t *testing.T) {
	s := startSite(t, "")
	a := startBroker(s, "a", "orders")
	c := clientOf(t, s)
	c.Announce([]string{"shop"}, append(subscribe("g", "orders"), subscribe("h", "orders")...))
	eventually(t, "a heartbeat", func() bool { return a.beatCount() > 0 })
	if err := c.Leave(t.Context(), "g"); err != nil {
		t.Fatal(err)
	}
	if left := a.goodbyes(); len(left) != 1 {
		t.Fatalf("got %v, want one leave", left)
	}
	n := a.beatCount()
	eventually(t, "another heartbeat", func() bool { return a.beatCount() > n })
	if got := a.lastBeat().Consumers; len(got) != 1 || got[0].Group != "h" {
		t.Fatalf("got %v after leaving g, want h alone", got)
	}
}

func TestCheck_GoesToAllBrokersOfTheTopics(t *testing.T) {
	s := startSite(t, "")
	a, b, other := startBroker(s, "a", "orders"), startBroker(s, "b"), startBroker(s, "c", "other")
	c := clientOf(t, s)
	c.Announce([]string{"shop"}, nil)
	c.Check("shop", []string{"orders", "later"})
	eventually(t, "a heartbeat, though nothing was sent", func() bool { return slices.Equal(a.lastBeat().Checkers, []string{"shop"}) })
	b.setTopics(config("later"))
	eventually(t, "a heartbeat where the topic appears", func() bool { return slices.Equal(b.lastBeat().Checkers, []string{"shop"}) })
	if n := other.beatCount(); n != 0 {
		t.Errorf("got %d heartbeats at a broker of another topic, want none", n)
	}
	if err := c.Leave(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if says := c.beats.takeOff("a", ""); len(c.beatTargets()) != 0 || !c.beats.idle() || says != nil {
		t.Errorf("after the goodbye heartbeats go to %v and say %+v", c.beatTargets(), says)
	}
}

// What takes off after a goodbye began says nothing of what was said goodbye to, and
// the goodbye waits for what took off before.
func TestLeave_IsTheLastWord(t *testing.T) {
	b := newBeats()
	b.announce([]string{"shop"}, subscribe("g", "orders"))
	if says := b.takeOff("a", "c"); says == nil || len(says.Producers) != 1 || len(says.Consumers) != 1 {
		t.Fatalf("got %+v", says)
	}
	b.forget("")
	if says := b.takeOff("b", "c"); says != nil {
		t.Fatalf("after the goodbye began: %+v", says)
	}
	settled := make(chan struct{})
	go func() { b.settle(t.Context()); close(settled) }()
	select {
	case <-settled:
		t.Error("the goodbye overtakes a heartbeat")
	default:
	}
	b.landed("a")
	<-settled
}

func TestWatch_GoesToAllBrokersOfTheTopic(t *testing.T) {
	s := startSite(t, "")
	a, b := startBroker(s, "a", "orders"), startBroker(s, "b", "orders")
	c := clientOf(t, s)
	c.Announce([]string{"shop"}, nil)
	c.Start(t.Context(), "a", protocol.ClassSend, &protocol.HeartbeatRequest{}, func([]byte, error) {})
	c.Watch("orders")
	eventually(t, "heartbeats to both", func() bool { return a.beatCount() > 0 && b.beatCount() > 0 })
	if got := b.lastBeat(); got.Checkers != nil {
		t.Errorf("got checkers %v without a checker", got.Checkers)
	}
}
