package producer

import (
	"testing"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// Only a message that a broker refuses is foreign: whatever is has a batch to itself.
func TestFan_Foreign(t *testing.T) {
	normal, half := entry{m: &message.Message{}}, entry{m: &message.Message{}, purpose: batch.ToTransaction}
	grouped, urgent := entry{m: &message.Message{Group: "g"}}, entry{m: &message.Message{Priority: 3}}
	delayed := entry{m: &message.Message{Delay: time.Hour}, purpose: batch.ToTimer}
	all := []*entry{&normal, &grouped, &delayed, &urgent, &half}
	for _, c := range []struct {
		types []message.Kind
		home  []*entry
	}{
		{[]message.Kind{""}, all},
		{[]message.Kind{message.Mixed, ""}, all},
		{[]message.Kind{message.Normal, message.Normal}, []*entry{&normal}},
		{[]message.Kind{message.Mixed, message.FIFO}, []*entry{&grouped}},
		{[]message.Kind{message.Delayed}, []*entry{&delayed}},
		{[]message.Kind{message.Transaction}, []*entry{&half}},
		{[]message.Kind{message.Priority}, []*entry{&normal, &urgent}},
		{[]message.Kind{message.Normal, message.FIFO}, nil},
	} {
		route := &client.Route{}
		for _, k := range c.types {
			route.Brokers = append(route.Brokers, protocol.TopicRoute{Type: k})
		}
		f := &fan{kinds: kindsOf(route)}
		home := map[*entry]bool{}
		for _, e := range c.home {
			home[e] = true
		}
		for i, e := range all {
			if f.foreign(e) == home[e] {
				t.Errorf("types %q, message %d: got %v", c.types, i, !home[e])
			}
		}
	}
}
