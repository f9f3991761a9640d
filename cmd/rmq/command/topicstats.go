package command

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
)

// topicStatsView is what goes through a topic and what is in it. The fields are API.
type topicStatsView struct {
	Topic    string `json:"topic"`
	Messages int64  `json:"messages"`
	// OverMillis is for how long it was looked at for the rates.
	OverMillis int64      `json:"overMillis"`
	In         admin.Flow `json:"in"`
	// Out counts a message once for each group that it was given to.
	Out    admin.Flow      `json:"out"`
	Queues []queueStatsRow `json:"queues"`
}

// queueStatsRow is one queue. The fields are API.
type queueStatsRow struct {
	queueRow
	InPerSecond float64 `json:"inPerSecond"`
}

func newTopicStatsView(s *admin.TopicStats) *topicStatsView {
	v := &topicStatsView{
		Topic: s.Topic, Messages: s.Messages(), OverMillis: s.Over.Milliseconds(), In: s.In, Out: s.Out, Queues: []queueStatsRow{},
	}
	for _, q := range s.Queues {
		v.Queues = append(v.Queues, queueStatsRow{newQueueRow(s.Topic, q.Broker, q.QueueStatus), q.InPerSecond})
	}
	return v
}

func (a *app) topicStats() *cobra.Command {
	var t admin.Target
	var over time.Duration
	c := &cobra.Command{
		Use: "stats TOPIC", Short: "What goes through a topic, and what is in its queues",
		Long: `What goes through a topic, and what is in its queues: messages and bytes a second in
and out, over the time that is given, and all since the brokers started (out counts a
message once for each group that gets it); offsets, and when the oldest and the newest
message of each queue were stored.`,
		Example: `  rmq topic stats orders
  rmq topic stats orders --over 4s -o json`,
		Args:              takes("TOPIC"),
		ValidArgsFunction: a.completeTopics,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if over < 0 || over >= a.reach.timeout {
			return usagef("--over %s: want 0 (no rates) or more, and less than --timeout %s", over, a.reach.timeout)
		}
		return a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
			s, err := ad.TopicStats(ctx, args[0], over, t)
			if err != nil {
				return topicError(ctx, ad, args[0], err)
			}
			v := newTopicStatsView(s)
			return printObject(a, v, v.Topic, func(w io.Writer) error { return v.write(w, a.output == outWide, !a.noHeaders) })
		})(cmd, args)
	}
	c.Flags().DurationVar(&over, "over", time.Second, "look again after this `TIME`, for the rates; 0: no rates")
	targetFlags(c, &t)
	return c
}

func (v *topicStatsView) write(w io.Writer, wide, headers bool) error {
	err := writeFields(w, "topic", v.Topic, "messages", number(v.Messages), "in", flowText(v.In), "out", flowText(v.Out))
	if err != nil {
		return err
	}
	fmt.Fprintln(w)
	return queueStatsTable().write(w, v.Queues, wide, headers)
}

func flowText(f admin.Flow) string {
	return fmt.Sprintf("%s messages/s, %s bytes/s; %d messages, %d bytes since the brokers started",
		rateNumber(f.MessagesPerSecond), rateNumber(f.BytesPerSecond), f.Messages, f.Bytes)
}

func rateNumber(perSecond float64) string { return strconv.FormatFloat(perSecond, 'f', 1, 64) }

func queueStatsTable() table[queueStatsRow] {
	return table[queueStatsRow]{
		name: func(r queueStatsRow) string { return queueTable().name(r.queueRow) },
		columns: []column[queueStatsRow]{
			{title: "BROKER", cell: func(r queueStatsRow) string { return r.Broker }},
			{title: "QUEUE", cell: func(r queueStatsRow) string { return number(r.Queue) }},
			{title: "MIN", cell: func(r queueStatsRow) string { return number(r.Min) }},
			{title: "END", cell: func(r queueStatsRow) string { return number(r.End) }},
			{title: "MESSAGES", cell: func(r queueStatsRow) string { return number(r.Messages) }},
			{title: "IN/S", cell: func(r queueStatsRow) string { return rateNumber(r.InPerSecond) }},
			{title: "OLDEST", cell: func(r queueStatsRow) string { return momentText(r.FirstStoreTime) }},
			{title: "NEWEST", cell: func(r queueStatsRow) string { return momentText(r.LastStoreTime) }},
		},
	}
}
