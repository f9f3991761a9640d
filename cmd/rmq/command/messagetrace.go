package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// journeyRow is what happened to a message. The fields are API.
type journeyRow struct {
	Time      time.Time          `json:"time"`
	Event     protocol.TraceKind `json:"event"`
	Group     string             `json:"group,omitempty"`
	Client    string             `json:"client,omitempty"`
	Topic     string             `json:"topic,omitempty"`
	Broker    string             `json:"broker"`
	Queue     int                `json:"queue"`
	Offset    *int64             `json:"offset"` // null while the message is held back
	LogIndex  uint64             `json:"logIndex"`
	Fence     uint64             `json:"fence,omitempty"`
	Attempts  int                `json:"attempts,omitempty"`
	DeliverAt *time.Time         `json:"deliverAt,omitempty"`
	Error     string             `json:"error,omitempty"`
	Bytes     int                `json:"bytes,omitempty"`
}

// journeyState is how a message is now. The fields are API.
type journeyState struct {
	State     protocol.TraceKind `json:"state"`
	Group     string             `json:"group,omitempty"`
	Client    string             `json:"client,omitempty"`
	Topic     string             `json:"topic"`
	Broker    string             `json:"broker"`
	Queue     int                `json:"queue"`
	Offset    *int64             `json:"offset"`
	Committed *int64             `json:"committed"` // null: the group has no offset
	DeliverAt *time.Time         `json:"deliverAt,omitempty"`
}

// journeyLog is how far a broker's log was looked at. The fields are API.
type journeyLog struct {
	Broker     string `json:"broker"`
	LookedTo   uint64 `json:"lookedTo"`
	LastRecord uint64 `json:"lastRecord"`
	Error      string `json:"error,omitempty"`
}

// journey is the journey of a message. The fields are API.
type journey struct {
	MessageID string         `json:"messageId"`
	Events    []journeyRow   `json:"events"`
	Now       []journeyState `json:"now"`
	Logs      []journeyLog   `json:"logs"`
	Truncated bool           `json:"truncated"`
}

func (a *app) messageTrace() *cobra.Command {
	var t admin.Target
	var records int64
	c := &cobra.Command{
		Use: "trace ID", Short: "Show the journey of a message: stored, held back, acknowledged, retried, dead",
		Long: `Show the journey of a message: where and when it was stored, held back and shown,
which clients had its queue, when each group acknowledged it, gave it back or gave it
up, and how it is now. Brokers answer from their logs: no client has to be set up for it.

  rmq message trace 28d709fc037fa7410000000000000001

EVENT is one of
  stored                in its queue, where consumers see it
  delayed, due          held back until its time, and shown then
  prepared, asked       held back as a half message, and its producers asked for the outcome
  committed, rolledBack what they said; parked: nobody is asked any more
  recalled              taken back before its time
  leased, freed         a client got the queue, or lost it, before the message was acknowledged
  popped, postponed     handed out to a member for a time, or given another time
  acked                 the group's offset passed it, and CLIENT had the queue then; or
                        it was popped and acknowledged alone
  filtered              passed over by a pop: the group's filter does not want it
  skipped, reset        the group's offset was set behind it, or back
  retrying, due, dead   given back by a group, delivered to it again, given up
  resent                sent again from the dead letters
  topicDeleted, groupDeleted

A client that had the queue before the message came is known when it acknowledges it.
A broker looks at so many records of its log as --records says, from the first one that
has the message on; when that is not enough the exit code is 7.`,
		Args: takes("ID"),
		RunE: a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
			return a.traceMessage(ctx, ad, args[0], records, t)
		}),
	}
	c.Flags().Int64Var(&records, "records", protocol.DefaultTraceRecords, "look at so many `RECORDS` of a broker's log at most")
	targetFlags(c, &t)
	return c
}

func (a *app) traceMessage(ctx context.Context, ad *admin.Admin, text string, records int64, t admin.Target) error {
	id, err := message.ParseID(text)
	switch {
	case err != nil:
		return usagef("%v", err)
	case records < 1:
		return usagef("--records %d: want 1 or more", records)
	}
	found, err := ad.TraceMessage(ctx, id, records, t)
	if errors.Is(err, protocol.NotFound) {
		return messageNotFound("no broker has message "+text, err)
	}
	if err != nil {
		return err
	}
	j := newJourney(found)
	if err := printObject(a, j, j.MessageID, func(w io.Writer) error { return j.write(w, a.output == outWide, !a.noHeaders) }); err != nil {
		return err
	}
	return j.shortfall()
}

func newJourney(found *admin.Journey) journey {
	j := journey{MessageID: found.MessageID.String(), Events: []journeyRow{}, Now: []journeyState{}, Truncated: !found.Whole()}
	for _, e := range found.Events {
		j.Events = append(j.Events, journeyRow{
			Time: e.Time.UTC(), Event: e.Kind, Group: e.Group, Client: e.Client, Topic: e.Topic, Broker: e.Broker, Queue: e.Queue,
			Offset: offsetOf(e.Offset), LogIndex: e.LogIndex, Fence: e.Fence, Attempts: e.Attempt,
			DeliverAt: moment(e.DeliverAtMillis), Error: e.Error, Bytes: e.Bytes,
		})
	}
	for _, s := range found.States {
		j.Now = append(j.Now, journeyState{
			State: s.State, Group: s.Group, Client: s.Client, Topic: s.Topic, Broker: s.Broker, Queue: s.Queue,
			Offset: offsetOf(s.Offset), Committed: offsetOf(s.Committed), DeliverAt: moment(s.DeliverAtMillis),
		})
	}
	for _, l := range found.Searched {
		row := journeyLog{Broker: l.Broker, LookedTo: l.Until, LastRecord: l.Last}
		if l.Err != nil {
			row.Error = l.Err.Error()
		}
		j.Logs = append(j.Logs, row)
	}
	return j
}

// offsetOf is nil for none.
func offsetOf(offset int64) *int64 {
	if offset < 0 {
		return nil
	}
	return &offset
}

func offsetText(offset *int64) string {
	if offset == nil {
		return ""
	}
	return number(*offset)
}

// write shows both lists to people.
func (j *journey) write(w io.Writer, wide, headers bool) error {
	if err := journeyTable().write(w, j.Events, wide, headers); err != nil || len(j.Now) == 0 {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return journeyStates().write(w, j.Now, wide, headers)
}

// shortfall is the failure that something was left out; nil when nothing was.
func (j *journey) shortfall() error {
	if !j.Truncated {
		return nil
	}
	var texts []string
	for _, l := range j.Logs {
		if l.LookedTo < l.LastRecord {
			texts = append(texts, fmt.Sprintf("%s looked until record %d of %d", l.Broker, l.LookedTo, l.LastRecord))
		}
		if l.Error != "" {
			texts = append(texts, l.Broker+": "+l.Error)
		}
	}
	return &Failure{
		Code: "PARTIAL", Message: "there may be more events: " + strings.Join(texts, "; "),
		Hint: "look further with --records and --timeout", exit: exitPartial,
	}
}

func journeyTable() table[journeyRow] {
	return table[journeyRow]{
		columns: []column[journeyRow]{
			{title: "TIME", cell: func(r journeyRow) string { return momentText(&r.Time) }},
			{title: "EVENT", cell: func(r journeyRow) string { return string(r.Event) }},
			{title: "GROUP", cell: func(r journeyRow) string { return r.Group }},
			{title: "CLIENT", cell: func(r journeyRow) string { return r.Client }},
			{title: "TOPIC", cell: func(r journeyRow) string { return r.Topic }},
			{title: "BROKER", cell: func(r journeyRow) string { return r.Broker }},
			{title: "QUEUE", cell: func(r journeyRow) string { return number(r.Queue) }},
			{title: "OFFSET", cell: func(r journeyRow) string { return offsetText(r.Offset) }},
			{title: "RECORD", cell: func(r journeyRow) string { return number(r.LogIndex) }, wide: true},
			{title: "FENCE", cell: func(r journeyRow) string { return number(r.Fence) }, wide: true},
			{title: "DETAIL", cell: journeyRow.detail},
		},
	}
}

func (r journeyRow) detail() string {
	var parts []string
	if r.Bytes > 0 {
		parts = append(parts, fmt.Sprintf("%d bytes", r.Bytes))
	}
	if r.Attempts > 0 {
		parts = append(parts, fmt.Sprintf("failed %d times", r.Attempts))
	}
	if r.Error != "" {
		parts = append(parts, fmt.Sprintf("last with %q", r.Error))
	}
	if r.DeliverAt != nil {
		parts = append(parts, "due "+momentText(r.DeliverAt))
	}
	return strings.Join(parts, ", ")
}

func journeyStates() table[journeyState] {
	return table[journeyState]{
		columns: []column[journeyState]{
			{title: "NOW", cell: func(s journeyState) string { return string(s.State) }},
			{title: "GROUP", cell: func(s journeyState) string { return s.Group }},
			{title: "CLIENT", cell: func(s journeyState) string { return s.Client }},
			{title: "TOPIC", cell: func(s journeyState) string { return s.Topic }},
			{title: "BROKER", cell: func(s journeyState) string { return s.Broker }},
			{title: "QUEUE", cell: func(s journeyState) string { return number(s.Queue) }},
			{title: "OFFSET", cell: func(s journeyState) string { return offsetText(s.Offset) }},
			{title: "COMMITTED", cell: func(s journeyState) string { return offsetText(s.Committed) }},
			{title: "DUE", cell: func(s journeyState) string { return momentText(s.DeliverAt) }},
		},
	}
}
