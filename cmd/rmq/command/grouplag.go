package command

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
)

// clearScreen moves a terminal's cursor home and wipes what is below.
const clearScreen = "\x1b[H\x1b[2J"

// What `rmq group lag` can be summed up by.
const (
	byQueue = "queue"
	byTopic = "topic"
	byGroup = "group"
)

func (a *app) groupLag() *cobra.Command {
	var t admin.Target
	var watch time.Duration
	var by string
	c := &cobra.Command{
		Use: "lag [GROUP]", Short: "How far consumer groups are behind, queue by queue",
		Long: `How far consumer groups are behind, in messages and by the age of the oldest
message that waits. A queue that the group has never committed shows - and all
that its members would read; while it has none, all that is there.

With a filter only the messages count that it lets through: the filter of the
members or, while the group has none, the last that they had (-o wide shows
where nobody knows of one). A broker looks at 200,000 messages for that at once:
>=N says that there are more, and the next call, or --watch, counts on from
there. RETRYING are messages that failed and wait for their time; LAG includes
them, AGE does not. IN FLIGHT are messages that a group that pops was handed and
has not acknowledged; COMMITTED is the lowest that it has not finished, and -o
wide shows how many are READY to be handed out.`,
		Example: `  rmq group lag billing
  rmq group lag --by group --watch=5s`,
		Args:              takes("[GROUP]"),
		ValidArgsFunction: a.completeGroups,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if !slices.Contains([]string{byQueue, byTopic, byGroup}, by) {
			return usagef("--by %q: want %s, %s or %s", by, byGroup, byTopic, byQueue)
		}
		show := func(ctx context.Context, ad *admin.Admin, args []string) error {
			rows, err := lagRows(ctx, ad, args, t)
			if err != nil {
				return err
			}
			return a.printLag(rows, by)
		}
		if !c.Flags().Changed("watch") {
			return a.withAdmin(show)(cmd, args)
		}
		return a.watch(cmd.Context(), watch, show, args)
	}
	c.Flags().DurationVarP(&watch, "watch", "w", 0, "show it again every `INTERVAL`, until interrupted")
	c.Flags().Lookup("watch").NoOptDefVal = "2s"
	c.Flags().StringVar(&by, "by", byQueue, "a line for each `WHAT`: group, topic or queue")
	complete(c, "by", byGroup, byTopic, byQueue)
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

func (a *app) printLag(rows []admin.QueueLag, by string) error {
	if by == byQueue {
		return printList(a, rows, lagTable())
	}
	return printList(a, sumLag(rows, by), lagSumTable(by))
}

// lagSum is the lag of a group, in one topic or in all. The fields are API.
type lagSum struct {
	Group string `json:"group"`
	Topic string `json:"topic,omitempty"`
	// Queues is how many there are, Behind how many of them have a lag.
	Queues int   `json:"queues"`
	Behind int   `json:"behind"`
	Lag    int64 `json:"lag"`
	// LagMillis is the age of the oldest message that waits.
	LagMillis int64 `json:"lagMillis"`
	// Retrying is how many messages of Lag failed and wait for their time.
	Retrying int64 `json:"retrying"`
	// InFlight and Ready are of Lag, where the group pops.
	InFlight int64 `json:"inFlight"`
	Ready    int64 `json:"ready"`
	// AtLeast says that Lag is at least this.
	AtLeast bool `json:"atLeast"`
}

// sumLag sums rows up that are sorted by group and topic.
func sumLag(rows []admin.QueueLag, by string) []lagSum {
	var sums []lagSum
	for _, r := range rows {
		next := lagSum{Group: r.Group}
		if by == byTopic {
			next.Topic = r.Topic
		}
		if last := len(sums) - 1; last < 0 || sums[last].Group != next.Group || sums[last].Topic != next.Topic {
			sums = append(sums, next)
		}
		s := &sums[len(sums)-1]
		s.Queues++
		s.Behind += int(min(r.Lag, 1))
		s.Lag += r.Lag
		s.LagMillis = max(s.LagMillis, r.LagMillis)
		s.Retrying += r.Retrying
		s.InFlight += r.InFlight
		s.Ready += r.Ready
		s.AtLeast = s.AtLeast || r.AtLeast
	}
	return sums
}

func lagSumTable(by string) table[lagSum] {
	t := table[lagSum]{
		name:    func(r lagSum) string { return strings.TrimSuffix(r.Group+"/"+r.Topic, "/") },
		columns: []column[lagSum]{{title: "GROUP", cell: func(r lagSum) string { return r.Group }}},
	}
	if by == byTopic {
		t.columns = append(t.columns, column[lagSum]{title: "TOPIC", cell: func(r lagSum) string { return r.Topic }})
	}
	t.columns = append(t.columns,
		column[lagSum]{title: "QUEUES", cell: func(r lagSum) string { return number(r.Queues) }},
		column[lagSum]{title: "BEHIND", cell: func(r lagSum) string { return number(r.Behind) }},
		column[lagSum]{title: "LAG", cell: func(r lagSum) string { return lagText(r.Lag, r.AtLeast) }},
		column[lagSum]{title: "RETRYING", cell: func(r lagSum) string { return number(r.Retrying) }},
		column[lagSum]{title: "IN FLIGHT", cell: func(r lagSum) string { return number(r.InFlight) }},
		column[lagSum]{title: "READY", cell: func(r lagSum) string { return number(r.Ready) }, wide: true},
		column[lagSum]{title: "AGE", cell: func(r lagSum) string { return durationText(r.LagMillis) }},
	)
	return t
}

// lagText is a lag for tables.
func lagText(lag int64, atLeast bool) string {
	if atLeast {
		return ">=" + number(lag)
	}
	return number(lag)
}

// filterText says whether a filter decides what counts.
func filterText(r admin.QueueLag) string {
	switch {
	case r.FilterUnknown:
		return "unknown"
	case r.Filtered:
		return "yes"
	}
	return "none"
}

// watch shows again and again: on a terminal in place, else one block after
// another. Each look has the time of --timeout.
func (a *app) watch(ctx context.Context, every time.Duration, show action, args []string) error {
	if every <= 0 {
		return usagef("--watch %s: want more than 0", every)
	}
	if a.output == outJSON {
		a.output = outNDJSON
	}
	ad, err := a.admin(ctx)
	if err != nil {
		return err
	}
	defer ad.Close()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for first := true; ; first = false {
		err := a.block(first, func() error {
			ctx, cancel := context.WithTimeout(ctx, a.reach.timeout)
			defer cancel()
			return show(ctx, ad, args)
		})
		if err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return interruption(ctx)
		case <-tick.C:
		}
	}
}

// block writes what show prints at once, so that a terminal does not flicker.
func (a *app) block(first bool, show func() error) error {
	out, b := a.out, &bytes.Buffer{}
	switch {
	case isTerminal(out):
		b.WriteString(clearScreen)
	case !first && a.output == outYAML:
		b.WriteString("---\n")
	case !first && (a.output == outTable || a.output == outWide):
		b.WriteString("\n")
	}
	a.out = b
	err := show()
	a.out = out
	if err == nil {
		_, err = out.Write(b.Bytes())
	}
	return err
}
