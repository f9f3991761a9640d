package admin_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

// A client of two brokers is one client.
func TestClients_OfAllBrokers(t *testing.T) {
	c, a := spread(t)
	p := member(t, c, "g", consumer.Earliest())
	member(t, c, "h", consumer.Latest())
	sender := newSender(t, c, nil)
	if _, err := sender.Send(t.Context(), &message.Message{Topic: "t", Body: []byte("x")}, on(0)); err != nil {
		t.Fatal(err)
	}
	var all []admin.Client
	harness.Eventually(t, "all three are known", func() bool {
		var err error
		all, err = a.Clients(t.Context(), "", admin.Target{})
		groups := 0
		for _, c := range all {
			groups += len(c.ProducerGroups) + len(c.Subscriptions)
		}
		return err == nil && groups >= 3
	})
	members, err := a.Clients(t.Context(), "g", admin.Target{})
	if err != nil || len(members) != 1 {
		t.Fatalf("members of g: %+v, %v", members, err)
	}
	m := members[0]
	var queues []message.Queue
	for _, q := range m.Queues {
		queues = append(queues, message.Queue{Topic: q.Topic, Broker: q.Broker, ID: q.Queue})
		if q.Group != "g" || q.Fence == 0 {
			t.Errorf("got %+v", q)
		}
	}
	if !slices.Equal(queues, p.Assigned()) || !slices.Equal(m.Brokers, []string{"broker-a", "broker-b"}) || m.Language != "go" || m.Version == "" || len(m.Addresses) != 2 ||
		len(m.Subscriptions) != 1 || !slices.Equal(m.Subscriptions[0].Topics, []string{"t"}) || m.Subscriptions[0].Start.Target != protocol.ResetToEarliest || m.Since.IsZero() || m.HeartbeatAge < 0 {
		t.Errorf("got %+v, assigned %v", m, p.Assigned())
	}
	one, err := a.Client(t.Context(), m.ID, admin.Target{Brokers: []string{"broker-b"}})
	if err != nil || one.ID != m.ID || len(one.Queues) != 1 || len(one.Brokers) != 1 || len(one.Addresses) != 1 {
		t.Errorf("at one broker: %+v, %v", one, err)
	}
	i := slices.IndexFunc(all, func(c admin.Client) bool { return slices.Contains(c.ProducerGroups, "shop") })
	if i < 0 || len(all[i].Queues) != 0 || len(all[i].Subscriptions) != 0 {
		t.Errorf("the producer: %+v", all)
	}
	if !slices.IsSortedFunc(all, func(a, b admin.Client) int { return compare(a.ID, b.ID) }) {
		t.Errorf("not sorted: %+v", all)
	}
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func TestClients_NotThere(t *testing.T) {
	a := open(t, harness.Start(t).NameServers...)
	if _, err := a.CreateGroup(t.Context(), protocol.GroupConfig{Name: "g", ConsumeEnabled: true}, admin.Target{}); err != nil {
		t.Fatal(err)
	}
	if list, err := a.Clients(t.Context(), "", admin.Target{}); err != nil || len(list) != 0 {
		t.Errorf("got %+v, %v", list, err)
	}
	if list, err := a.Clients(t.Context(), "g", admin.Target{}); err != nil || len(list) != 0 {
		t.Errorf("an empty group: got %+v, %v", list, err)
	}
	if _, err := a.Clients(t.Context(), "nope", admin.Target{}); !errors.Is(err, protocol.GroupNotFound) {
		t.Errorf("a group that is not there: %v", err)
	}
	if _, err := a.Client(t.Context(), "nobody", admin.Target{}); !errors.Is(err, protocol.NotFound) {
		t.Errorf("a client that is not there: %v", err)
	}
	if _, err := a.Client(t.Context(), "a b", admin.Target{}); !errors.Is(err, message.ErrIllegalName) {
		t.Errorf("what is no client id: %v", err)
	}
}
