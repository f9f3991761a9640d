package admin_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

func rates(messages, bytes int64) admin.RatesPatch {
	return admin.RatesPatch{MessagesPerSecond: &messages, BytesPerSecond: &bytes}
}

// changesText is broker:before>after for each change.
func changesText(changes []admin.QuotaChange) (text string) {
	one := func(r *protocol.Rates) string {
		if r == nil {
			return "none"
		}
		return fmt.Sprint(r.MessagesPerSecond, ",", r.BytesPerSecond)
	}
	for _, c := range changes {
		text += c.Broker + ":" + one(c.Before) + ">" + one(c.After) + " "
	}
	return text
}

func TestQuota_IsOnEveryBrokerOfTheTarget(t *testing.T) {
	c := harness.Start(t)
	crash := addBroker(t, c, "broker-b")
	a := open(t, c.NameServers...)
	for i, s := range []struct {
		patch  admin.RatesPatch
		target admin.Target
		want   string
	}{
		{rates(5, 0), admin.Target{Brokers: []string{"broker-b"}}, "broker-b:none>5,0 "},
		{admin.RatesPatch{BytesPerSecond: new(int64(9))}, admin.Target{DryRun: true}, "broker-a:none>0,9 broker-b:5,0>5,9 "},
		{admin.RatesPatch{BytesPerSecond: new(int64(9))}, admin.Target{}, "broker-a:none>0,9 broker-b:5,0>5,9 "},
		{admin.RatesPatch{BytesPerSecond: new(int64)}, admin.Target{}, "broker-a:0,9>none broker-b:5,9>5,0 "},
		{rates(0, 0), admin.Target{}, "broker-b:5,0>none "},
		{rates(7, 7), admin.Target{}, "broker-a:none>7,7 broker-b:none>7,7 "},
	} {
		changes, err := a.SetQuota(t.Context(), protocol.QuotaOfClient, "c", s.patch, s.target)
		if got := changesText(changes); err != nil || got != s.want {
			t.Fatalf("change %d: got %s, %v; want %s", i, got, err, s.want)
		}
	}
	if _, err := a.SetQuota(t.Context(), protocol.QuotaOfGroup, "", rates(1, 0), admin.Target{Brokers: []string{"broker-b"}}); err != nil {
		t.Fatal(err)
	}
	list, err := a.ListQuotas(t.Context(), admin.Target{})
	if got := fmt.Sprint(list); err != nil || got != "[{broker-a {client c {7 7}}} {broker-b {client c {7 7}}} {broker-b {producerGroup  {1 0}}}]" {
		t.Errorf("got %s, %v", got, err)
	}
	if changes, err := a.DeleteQuota(t.Context(), protocol.QuotaOfClient, "c", admin.Target{}); err != nil || changesText(changes) != "broker-a:7,7>none broker-b:7,7>none " {
		t.Errorf("delete: %s, %v", changesText(changes), err)
	}
	if _, err := a.DeleteQuota(t.Context(), protocol.QuotaOfClient, "c", admin.Target{}); !errors.Is(err, protocol.NotFound) {
		t.Errorf("delete again: %v", err)
	}
	crash()
	if _, err := a.SetQuota(t.Context(), protocol.QuotaOfClient, "c", rates(1, 1), admin.Target{Brokers: []string{"broker-b"}}); err == nil {
		t.Error("a broker that is gone has set a quota")
	}
}

func TestQuota_Mistakes(t *testing.T) {
	a := open(t, harness.Start(t).NameServers...)
	for name, c := range map[string]struct {
		scope protocol.QuotaScope
		name  string
		patch admin.RatesPatch
		want  error
	}{
		"scope":           {"topic", "t", rates(1, 1), protocol.InvalidArgument},
		"group's name":    {protocol.QuotaOfGroup, "a.b", rates(1, 1), message.ErrIllegalName},
		"client's name":   {protocol.QuotaOfClient, "a b", rates(1, 1), message.ErrIllegalName},
		"negative":        {protocol.QuotaOfClient, "c", rates(-1, 1), protocol.InvalidArgument},
		"too high":        {protocol.QuotaOfClient, "c", rates(1, 1<<60), protocol.InvalidArgument},
		"nothing is left": {protocol.QuotaOfClient, "c", rates(0, 0), protocol.NotFound},
	} {
		if changes, err := a.SetQuota(t.Context(), c.scope, c.name, c.patch, admin.Target{}); !errors.Is(err, c.want) || len(changes) != 0 {
			t.Errorf("%s: got %s, %v; want %v", name, changesText(changes), err, c.want)
		}
	}
}

func TestTopic_TypeAndQuota(t *testing.T) {
	a := open(t, harness.Start(t).NameServers...)
	spec := admin.TopicSpec{Name: "t", Type: message.FIFO, Quota: protocol.Rates{MessagesPerSecond: 3}}
	if _, err := a.CreateTopic(t.Context(), spec, admin.Target{}); err != nil {
		t.Fatal(err)
	}
	if r, err := a.TopicRoute(t.Context(), "t"); err != nil || r[0].Type != message.FIFO {
		t.Errorf("the route says %v, %v", r, err)
	}
	patch := admin.TopicPatch{Type: new(message.Normal), Quota: admin.RatesPatch{BytesPerSecond: new(int64(4))}}
	changes, err := a.AlterTopic(t.Context(), "t", patch, admin.Target{})
	if err != nil || changes[0].After.Type != message.Normal || changes[0].After.Quota != (protocol.Rates{MessagesPerSecond: 3, BytesPerSecond: 4}) {
		t.Errorf("got %+v, %v", changes, err)
	}
	if r, err := a.DescribeTopic(t.Context(), "t", admin.Target{}); err != nil || r.Brokers[0].TopicConfig != *changes[0].After {
		t.Errorf("got %+v, %v", r, err)
	}
	for _, bad := range []admin.TopicPatch{{Type: new(message.Kind("fifo"))}, {Quota: rates(-1, 0)}} {
		if _, err := a.AlterTopic(t.Context(), "t", bad, admin.Target{}); !errors.Is(err, protocol.InvalidArgument) {
			t.Errorf("got %v", err)
		}
	}
}
