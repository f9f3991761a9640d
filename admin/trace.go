package admin

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// Journey is what brokers say of one message. The slices are the caller's.
type Journey struct {
	MessageID message.ID
	// Events are what happened: those of one broker in the order of its log, those of
	// different ones by time.
	Events []JourneyEvent
	// States are how the message is now, at each place and for each group.
	States []JourneyState
	// Searched is how far each broker that has the message looked.
	Searched []Searched
}

// Whole reports whether nothing was left out.
func (j *Journey) Whole() bool {
	return !slices.ContainsFunc(j.Searched, func(s Searched) bool { return s.Until < s.Last || s.Err != nil })
}

// JourneyEvent is one thing that happened to a message at a broker.
type JourneyEvent struct {
	Broker string
	Time   time.Time
	protocol.TraceStep
}

// JourneyState is how a message is now at a place of a broker.
type JourneyState struct {
	Broker string
	protocol.TraceState
}

// Searched is how far a broker's log was looked at.
type Searched struct {
	Broker string
	// Until is the last record that was looked at, and Last the last one that there
	// was.
	Until, Last uint64
	// Err says what could not be read; nil: nothing.
	Err error
}

// TraceMessage asks the brokers of the target for the journey of a message: where it
// was stored, when it was held back and shown, who had it and when it was
// acknowledged, given back, given up or sent again. The brokers answer from their
// logs; no client has to be set up for it. Each looks at no more than so many
// records from the first one that has the message on (0: protocol.DefaultTraceRecords),
// and at no more than the time of ctx allows; Searched says how far it came. Errors:
// protocol.NotFound when no broker's log has the message.
func (a *Admin) TraceMessage(ctx context.Context, id message.ID, records int64, t Target) (*Journey, error) {
	brokers, err := a.masters(ctx, t)
	if err != nil {
		return nil, err
	}
	req := &protocol.TraceMessageRequest{ID: id.String(), MaxRecords: records}
	answers, err := without(request[protocol.TraceMessageResponse](ctx, a, brokers, req), protocol.NotFound)
	if err != nil {
		return nil, client.Wrap("trace message", "", "", err)
	}
	j := &Journey{MessageID: id}
	for _, x := range answers {
		j.add(x.broker, x.value)
	}
	slices.SortStableFunc(j.Events, func(a, b JourneyEvent) int {
		if a.Broker == b.Broker {
			return cmp.Compare(a.LogIndex, b.LogIndex)
		}
		return cmp.Compare(a.Millis, b.Millis)
	})
	return j, nil
}

func (j *Journey) add(broker string, r *protocol.TraceMessageResponse) {
	for _, e := range r.Events {
		j.Events = append(j.Events, JourneyEvent{Broker: broker, Time: time.UnixMilli(e.Millis), TraceStep: e})
	}
	for _, s := range r.States {
		j.States = append(j.States, JourneyState{Broker: broker, TraceState: s})
	}
	searched := Searched{Broker: broker, Until: r.Until, Last: r.Last}
	if r.Damage != "" {
		searched.Err = protocol.Errorf(protocol.Damaged, "%s", r.Damage)
	}
	j.Searched = append(j.Searched, searched)
}
