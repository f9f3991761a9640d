package command

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/transport/protocol"
)

// clearScreen moves a terminal's cursor home and wipes what is below.
const clearScreen = "\x1b[H\x1b[2J"

func (a *app) groupLag() *cobra.Command {
	var t admin.Target
	var watch time.Duration
	c := &cobra.Command{
		Use: "lag [GROUP]", Short: "How far consumer groups are behind, queue by queue",
		Args:              takes("[GROUP]"),
		ValidArgsFunction: a.completeGroups,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		show := a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
			rows, err := lagRows(ctx, ad, args, t)
			if err != nil {
				return err
			}
			return printList(a, rows, lagTable())
		})
		if !c.Flags().Changed("watch") {
			return show(cmd, args)
		}
		return a.watch(cmd, watch, func() error { return show(cmd, args) })
	}
	c.Flags().DurationVarP(&watch, "watch", "w", 0, "show it again every `INTERVAL`, until interrupted")
	c.Flags().Lookup("watch").NoOptDefVal = "2s"
	targetFlags(c, &t)
	return c
}

func lagRows(ctx context.Context, ad *admin.Admin, args []string, t admin.Target) ([]admin.QueueLag, error) {
	if len(args) == 1 {
		rows, err := ad.GroupLag(ctx, args[0], t)
		return rows, groupError(ctx, ad, args[0], err)
	}
	groups, err := ad.ListGroups(ctx, t)
	var rows []admin.QueueLag
	for _, g := range groups {
		rows = append(rows, g.Queues...)
	}
	return rows, err
}

// watch shows again and again: on a terminal in place, else one after another.
func (a *app) watch(cmd *cobra.Command, every time.Duration, show func() error) error {
	if every <= 0 {
		return usagef("--watch %s: want more than 0", every)
	}
	if a.output == outJSON {
		a.output = outNDJSON
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if isTerminal(a.out) {
			fmt.Fprint(a.out, clearScreen)
		}
		if err := show(); err != nil {
			return err
		}
		select {
		case <-cmd.Context().Done():
			return nil
		case <-tick.C:
		}
	}
}

func (a *app) groupReset() *cobra.Command {
	var t admin.Target
	var to string
	var queue int
	r := admin.Reset{}
	c := &cobra.Command{
		Use: "reset GROUP --to earliest|latest|-10m|TIME|OFFSET", Short: "Set the offsets of a consumer group",
		Long: `Set the offsets of a consumer group.

Running consumers go on from the new offsets by themselves. The answer shows
every offset before and after; --dry-run shows it without changing anything.`,
		Args:              takes("GROUP"),
		ValidArgsFunction: a.completeGroups,
	}
	c.RunE = a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
		p, err := parsePosition("--to", to, a.now())
		if err != nil {
			return err
		}
		r.Group = args[0]
		r.To, r.Value = p.resetTarget()
		if c.Flags().Changed("queue") {
			r.Queue = &queue
		}
		changes, err := ad.ResetOffsets(ctx, r, t)
		err = topicError(ctx, ad, r.Topic, groupError(ctx, ad, r.Group, err))
		return a.changed(err, func() error { return printList(a, changes, offsetTable()) })
	})
	c.Flags().StringVar(&to, "to", "", "`WHERE` to: earliest, latest, -10m (ago), a time (RFC 3339) or an offset")
	c.Flags().StringVar(&r.Topic, "topic", "", "only this `TOPIC` (default: all that the group has consumed)")
	c.Flags().IntVar(&queue, "queue", 0, "only the queue `N`")
	changeFlags(c, &t)
	return c
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
