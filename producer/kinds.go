package producer

import (
	"slices"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

// kindsOf are the types that a topic has on its brokers, but for those that take
// every message.
func kindsOf(route *client.Route) (kinds []message.Kind) {
	for i := range route.Brokers {
		k := route.Brokers[i].Type
		if k != "" && k != message.Mixed && !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	return kinds
}

// foreign reports whether a broker of the route refuses the message for its kind. It
// is sent all the same, because the route may be late, but in a batch of its own: a
// broker refuses batches as a whole.
func (f *fan) foreign(e *entry) bool {
	return slices.ContainsFunc(f.kinds, func(k message.Kind) bool {
		switch is := e.m.Kind(); {
		case k == message.Transaction || e.purpose == batch.ToTransaction:
			return k != message.Transaction || e.purpose != batch.ToTransaction
		case k == message.Priority:
			return is != message.Priority && is != message.Normal
		default:
			return is != k
		}
	})
}
