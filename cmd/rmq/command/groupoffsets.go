package command

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// queueFlags choose a topic and one of its queues.
type queueFlags struct{ topic, queue string }

func (f *queueFlags) declare(c *cobra.Command) {
	c.Flags().StringVar(&f.topic, "topic", "", "only this `TOPIC` (default: all that the group reads)")
	c.Flags().StringVar(&f.queue, "queue", "", "only the queue `BROKER/N`, or N of each broker that has it; needs --topic")
}

// one is the queue that was chosen, nil for all; its broker becomes the target.
func (f *queueFlags) one(t *admin.Target) (*int, error) {
	if f.queue == "" {
		return nil, nil
	}
	if f.topic == "" {
		return nil, usagef("--queue needs --topic: queues of different topics have nothing in common")
	}
	return parseQueue(f.queue, t)
}

// parseQueue reads BROKER/N, which restricts the target to that broker, or N.
func parseQueue(text string, t *admin.Target) (*int, error) {
	name, digits, both := strings.Cut(text, "/")
	if !both {
		name, digits = "", text
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || both && message.CheckBroker(name) != nil {
		return nil, usagef("--queue %q: want BROKER/N or N", text)
	}
	if both && len(t.Brokers) > 0 {
		return nil, usagef("--queue %s names its broker: leave out --broker, or give the number alone", text)
	}
	if both {
		t.Brokers = []string{name}
	}
	return new(int(n)), nil
}

func (a *app) groupReset() *cobra.Command {
	var t admin.Target
	var f queueFlags
	var to string
	c := &cobra.Command{
		Use: "reset GROUP --to earliest|latest|-10m|TIME|OFFSET", Short: "Set the offsets of a consumer group",
		Long: `Set the offsets of a consumer group.

Running consumers go on from the new offsets by themselves. The answer shows
every offset before and after, and how many messages are skipped (below 0: so
many come again); --dry-run shows it without changing anything. An offset that
a queue does not have is taken for the nearest one that it has.`,
		Example: `  rmq group reset billing --to earliest --dry-run
  rmq group reset billing --to -2h --topic orders
  rmq group reset billing --to 1200 --topic orders --queue broker-a/3`,
		Args:              takes("GROUP"),
		ValidArgsFunction: a.completeGroups,
	}
	c.RunE = a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
		p, err := parsePosition("--to", to, a.now())
		if err != nil {
			return err
		}
		queue, err := f.one(&t)
		if err != nil {
			return err
		}
		r := admin.Reset{Group: args[0], Topic: f.topic, Queue: queue}
		r.To, r.Value = p.resetTarget()
		changes, err := ad.ResetOffsets(ctx, r, t)
		return a.offsetsChanged(ctx, ad, args[0], f.topic, changes, err)
	})
	c.Flags().StringVar(&to, "to", "", "`WHERE` to: earliest, latest, -10m (ago), a time (RFC 3339) or an offset")
	f.declare(c)
	changeFlags(c, &t)
	return c
}

func (a *app) groupSkip() *cobra.Command {
	var t admin.Target
	var f queueFlags
	c := &cobra.Command{
		Use: "skip GROUP", Short: "Set a consumer group to the end of its queues, past all that waits",
		Args:              takes("GROUP"),
		ValidArgsFunction: a.completeGroups,
	}
	c.RunE = a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
		queue, err := f.one(&t)
		if err != nil {
			return err
		}
		changes, err := ad.SkipBacklog(ctx, args[0], f.topic, queue, t)
		if err := a.offsetsChanged(ctx, ad, args[0], f.topic, changes, err); err != nil {
			return err
		}
		var sum int64
		for _, c := range changes {
			sum += c.Skipped
		}
		a.note("%s %d messages in %d queues", map[bool]string{false: "skipped", true: "dry run: would skip"}[t.DryRun], sum, len(changes))
		return nil
	})
	f.declare(c)
	changeFlags(c, &t)
	return c
}

func (a *app) groupClone() *cobra.Command {
	var t admin.Target
	var clone admin.Clone
	c := &cobra.Command{
		Use: "clone FROM TO", Short: "Set a consumer group to the offsets of another",
		Long: `Set a consumer group to the offsets of another. It is created when it is not
known. It must be offline, and have no other offsets in the queues that it is
set in unless --force is given. --dry-run shows every offset before and after.`,
		Args:              takes("FROM", "TO"),
		ValidArgsFunction: a.completeGroups,
	}
	c.RunE = a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
		clone.From, clone.To = args[0], args[1]
		if clone.From == clone.To {
			return usagef("group %q cannot be cloned to itself", clone.To)
		}
		changes, err := ad.CloneOffsets(ctx, clone, t)
		return a.offsetsChanged(ctx, ad, clone.From, clone.Topic, changes, err)
	})
	c.Flags().StringVar(&clone.Topic, "topic", "", "only this `TOPIC` (default: all that FROM has consumed)")
	c.Flags().BoolVar(&clone.Force, "force", false, "overwrite offsets that TO has")
	changeFlags(c, &t)
	return c
}

// offsetsChanged prints what a change of offsets did, also when only a part of it
// was done.
func (a *app) offsetsChanged(ctx context.Context, ad *admin.Admin, group, topic string, changes []admin.OffsetChange, err error) error {
	err = topicError(ctx, ad, topic, groupError(ctx, ad, group, err))
	if err == nil && len(changes) == 0 {
		a.note("nothing to set: group %q has no offset there yet; --topic names a topic that it has not read", group)
	}
	return a.changed(err, func() error { return printList(a, changes, offsetTable()) })
}

func offsetTable() table[admin.OffsetChange] {
	before := func(r admin.OffsetChange) string {
		if r.Before < 0 {
			return ""
		}
		return number(r.Before)
	}
	return table[admin.OffsetChange]{
		name: func(r admin.OffsetChange) string { return r.Topic + "/" + r.Broker + "/" + number(r.Queue) },
		columns: []column[admin.OffsetChange]{
			{title: "TOPIC", cell: func(r admin.OffsetChange) string { return r.Topic }},
			{title: "BROKER", cell: func(r admin.OffsetChange) string { return r.Broker }},
			{title: "QUEUE", cell: func(r admin.OffsetChange) string { return number(r.Queue) }},
			{title: "BEFORE", cell: before},
			{title: "AFTER", cell: func(r admin.OffsetChange) string { return number(r.After) }},
			{title: "SKIPPED", cell: func(r admin.OffsetChange) string { return number(r.Skipped) }},
		},
	}
}

// resetTarget is the position as a broker wants it.
func (p position) resetTarget() (protocol.ResetTarget, int64) {
	switch p.kind {
	case fromEarliest:
		return protocol.ResetToEarliest, 0
	case fromLatest:
		return protocol.ResetToLatest, 0
	case fromOffset:
		return protocol.ResetToOffset, p.offset
	}
	return protocol.ResetToTime, p.time.UnixMilli()
}
