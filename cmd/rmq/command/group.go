package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/transport/protocol"
)

func (a *app) groupCommand() *cobra.Command {
	c := noun("group", "Consumer groups: list, describe, lag, reset, skip, clone, create, alter, delete",
		a.groupList(), a.groupDescribe(), a.groupLag(), a.groupClients(), a.groupReset(), a.groupSkip(), a.groupClone(),
		a.groupCreate(), a.groupAlter(), a.groupDelete())
	c.Aliases = []string{"groups"}
	return c
}

// groupRow is a consumer group in a list. The fields are API.
type groupRow struct {
	Group          string `json:"group"`
	ConsumeEnabled bool   `json:"consumeEnabled"`
	Brokers        int    `json:"brokers"`
	Members        int    `json:"members"`
	Topics         int    `json:"topics"`
	Lag            int64  `json:"lag"`
	Retrying       int64  `json:"retrying"` // of Lag
	AtLeast        bool   `json:"atLeast"`  // Lag is
}

func newGroupRow(g admin.Group) groupRow {
	return groupRow{
		Group: g.Name, ConsumeEnabled: g.ConsumeEnabled, Brokers: len(g.Brokers),
		Members: len(g.Members), Topics: len(groupTopics(g)),
		Lag: g.Lag(), Retrying: g.Retrying(), AtLeast: g.AtLeast(),
	}
}

func groupTopics(g admin.Group) map[string]bool {
	topics := make(map[string]bool)
	for _, q := range g.Queues {
		topics[q.Topic] = true
	}
	return topics
}

func (a *app) groupList() *cobra.Command {
	var t admin.Target
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "All consumer groups",
		Args: takes(),
		RunE: a.withAdmin(func(ctx context.Context, ad *admin.Admin, _ []string) error {
			groups, err := ad.ListGroups(ctx, t)
			if err != nil {
				return err
			}
			rows := make([]groupRow, len(groups))
			for i, g := range groups {
				rows[i] = newGroupRow(g)
			}
			return printList(a, rows, groupTable())
		}),
	}
	targetFlags(c, &t)
	return c
}

func groupTable() table[groupRow] {
	return table[groupRow]{
		name: func(r groupRow) string { return r.Group },
		columns: []column[groupRow]{
			{title: "GROUP", cell: func(r groupRow) string { return r.Group }},
			{title: "MEMBERS", cell: func(r groupRow) string { return number(r.Members) }},
			{title: "TOPICS", cell: func(r groupRow) string { return number(r.Topics) }},
			{title: "LAG", cell: func(r groupRow) string { return lagText(r.Lag, r.AtLeast) }},
			{title: "BROKERS", cell: func(r groupRow) string { return number(r.Brokers) }, wide: true},
			{title: "ENABLED", cell: func(r groupRow) string { return fmt.Sprint(r.ConsumeEnabled) }, wide: true},
		},
	}
}

// memberRow is a client in a group. The fields are API.
type memberRow struct {
	ClientID string   `json:"clientId"`
	Version  string   `json:"version"`
	Topics   []string `json:"topics"`
	// Queues is how many queues the member owns.
	Queues int `json:"queues"`
}

// groupView is a consumer group with its members and progress. The fields are API.
type groupView struct {
	Group          string           `json:"group"`
	ConsumeEnabled bool             `json:"consumeEnabled"`
	PerMember      bool             `json:"perMemberSubscriptions"`
	Lag            int64            `json:"lag"`
	Retrying       int64            `json:"retrying"` // of Lag
	AtLeast        bool             `json:"atLeast"`  // Lag is
	RetryMax       int              `json:"retryMax"` // 0: the default, 16; -1: none
	RetryPolicy    string           `json:"retryPolicy"`
	Brokers        []string         `json:"brokers"`
	Members        []memberRow      `json:"members"`
	Queues         []admin.QueueLag `json:"queues"`
}

func newGroupView(g *admin.Group) *groupView {
	v := &groupView{
		Group: g.Name, ConsumeEnabled: g.ConsumeEnabled, PerMember: g.PerMemberSubscriptions, Brokers: g.Brokers,
		Lag: g.Lag(), Retrying: g.Retrying(), AtLeast: g.AtLeast(),
		RetryMax: g.RetryMax, RetryPolicy: policyText(g.RetryPolicy),
		Members: []memberRow{}, Queues: append([]admin.QueueLag{}, g.Queues...),
	}
	owned := make(map[string]int)
	for _, q := range g.Queues {
		owned[q.Owner]++
	}
	for _, m := range g.Members {
		v.Members = append(v.Members, memberRow{
			ClientID: m.ClientID, Version: m.Version, Topics: append([]string{}, m.Topics...), Queues: owned[m.ClientID],
		})
	}
	return v
}

func (a *app) groupDescribe() *cobra.Command {
	var t admin.Target
	c := &cobra.Command{
		Use: "describe GROUP", Aliases: []string{"info"}, Short: "Members and progress of a consumer group",
		Args:              takes("GROUP"),
		ValidArgsFunction: a.completeGroups,
		RunE: a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
			g, err := ad.DescribeGroup(ctx, args[0], t)
			if err != nil {
				return groupError(ctx, ad, args[0], err)
			}
			v := newGroupView(g)
			return printObject(a, v, v.Group, func(w io.Writer) error { return v.write(w, !a.noHeaders) })
		}),
	}
	targetFlags(c, &t)
	return c
}

func (v *groupView) write(w io.Writer, headers bool) error {
	err := writeFields(w, "group", v.Group, "enabled", fmt.Sprint(v.ConsumeEnabled), "per-member subscriptions", keepText(v.PerMember),
		"lag", lagText(v.Lag, v.AtLeast), "retrying", number(v.Retrying), "retries", retryMaxText(v.RetryMax)+", "+v.RetryPolicy, "brokers", strings.Join(v.Brokers, ", "))
	if err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := memberTable().write(w, v.Members, false, headers); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return lagTable().write(w, v.Queues, false, headers)
}

func memberTable() table[memberRow] {
	return table[memberRow]{
		name: func(r memberRow) string { return r.ClientID },
		columns: []column[memberRow]{
			{title: "MEMBER", cell: func(r memberRow) string { return r.ClientID }},
			{title: "VERSION", cell: func(r memberRow) string { return r.Version }},
			{title: "QUEUES", cell: func(r memberRow) string { return number(r.Queues) }},
			{title: "TOPICS", cell: func(r memberRow) string { return strings.Join(r.Topics, ",") }},
		},
	}
}

func lagTable() table[admin.QueueLag] {
	committed := func(r admin.QueueLag) string {
		if r.Committed < 0 {
			return ""
		}
		return number(r.Committed)
	}
	return table[admin.QueueLag]{
		name: func(r admin.QueueLag) string {
			return r.Group + "/" + r.Topic + "/" + r.Broker + "/" + number(r.Queue)
		},
		columns: []column[admin.QueueLag]{
			{title: "GROUP", cell: func(r admin.QueueLag) string { return r.Group }, wide: true},
			{title: "TOPIC", cell: func(r admin.QueueLag) string { return r.Topic }},
			{title: "BROKER", cell: func(r admin.QueueLag) string { return r.Broker }},
			{title: "QUEUE", cell: func(r admin.QueueLag) string { return number(r.Queue) }},
			{title: "COMMITTED", cell: committed},
			{title: "END", cell: func(r admin.QueueLag) string { return number(r.End) }},
			{title: "LAG", cell: func(r admin.QueueLag) string { return lagText(r.Lag, r.AtLeast) }},
			{title: "RETRYING", cell: func(r admin.QueueLag) string { return number(r.Retrying) }},
			{title: "IN FLIGHT", cell: func(r admin.QueueLag) string { return number(r.InFlight) }},
			{title: "READY", cell: func(r admin.QueueLag) string { return number(r.Ready) }, wide: true},
			{title: "AGE", cell: func(r admin.QueueLag) string { return durationText(r.LagMillis) }},
			{title: "FILTER", cell: filterText, wide: true},
			{title: "OWNER", cell: func(r admin.QueueLag) string { return r.Owner }},
		},
	}
}

// groupError turns "not found" into a failure with the names that are near.
func groupError(ctx context.Context, ad *admin.Admin, name string, err error) error {
	if !errors.Is(err, protocol.GroupNotFound) {
		return err
	}
	return notFound(protocol.GroupNotFound, unknownGroupText(name), name, groupNames(ctx, ad), "rmq group list")
}

func (a *app) groupCreate() *cobra.Command {
	var t admin.Target
	var retries retryFlags
	cfg := protocol.GroupConfig{}
	c := &cobra.Command{
		Use: "create GROUP", Short: "Create a consumer group; the first consumer does it too",
		Args: takes("GROUP"),
	}
	c.RunE = a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
		var err error
		cfg.Name, cfg.RetryMax = args[0], retries.max
		if cfg.RetryPolicy, err = parsePolicy(retries.policy); err != nil {
			return err
		}
		changes, err := ad.CreateGroup(ctx, cfg, t)
		return a.changed(err, func() error { return a.printGroupChanges(args[0], changes, t.DryRun) })
	})
	c.Flags().BoolVar(&cfg.ConsumeEnabled, "consume-enabled", true, "let the group consume")
	c.Flags().BoolVar(&cfg.PerMemberSubscriptions, "per-member-subscriptions", false, perMemberUsage)
	retries.declare(c)
	changeFlags(c, &t)
	return c
}

func (a *app) groupDelete() *cobra.Command {
	var t admin.Target
	var yes, deadLetters bool
	c := &cobra.Command{
		Use: "delete GROUP", Aliases: []string{"rm"}, Short: "Delete a consumer group with its offsets",
		Long: `Delete a consumer group with its offsets and with the messages that wait for
their retry. Its dead letters stay, so that rmq dlq can look at them and send them
again, unless --with-dead-letters is given. A group that has members is not deleted.`,
		Example: `  rmq group delete billing --dry-run
  rmq group delete billing --with-dead-letters --yes`,
		Args:              takes("GROUP"),
		ValidArgsFunction: a.completeGroups,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if !yes && !t.DryRun {
			if err := a.confirm("group", args[0]); err != nil {
				return err
			}
		}
		return a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
			remove := ad.DeleteGroup
			if deadLetters {
				remove = ad.DeleteGroupAndDeadLetters
			}
			changes, err := remove(ctx, args[0], t)
			err = groupError(ctx, ad, args[0], err)
			a.noteLeft(args[0], changes)
			return a.changed(err, func() error { return a.printGroupChanges(args[0], changes, t.DryRun) })
		})(cmd, args)
	}
	changeFlags(c, &t)
	c.Flags().BoolVar(&deadLetters, "with-dead-letters", false, "delete the dead letters, too")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// noteLeft tells of dead letters that a deleted group leaves.
func (a *app) noteLeft(group string, changes []admin.GroupChange) {
	var left int64
	for _, c := range changes {
		if !c.DeadLettersGone {
			left += c.DeadLetters
		}
	}
	if left > 0 {
		a.note("%d dead letters stay: rmq dlq list %s", left, group)
	}
}

// groupSettings are a group's settings on one broker. The fields are API.
type groupSettings struct {
	ConsumeEnabled         bool `json:"consumeEnabled"`
	PerMemberSubscriptions bool `json:"perMemberSubscriptions"`
	// RetryMax is 0 for the default, 16, and -1 for none.
	RetryMax    int    `json:"retryMax"`
	RetryPolicy string `json:"retryPolicy"`
}

func newGroupSettings(c *protocol.GroupConfig) *groupSettings {
	if c == nil {
		return nil
	}
	return &groupSettings{ConsumeEnabled: c.ConsumeEnabled, PerMemberSubscriptions: c.PerMemberSubscriptions,
		RetryMax: c.RetryMax, RetryPolicy: policyText(c.RetryPolicy)}
}

// groupChangeRow is what happened to a group on one broker. The fields are API.
type groupChangeRow struct {
	Group  string         `json:"group"`
	Broker string         `json:"broker"`
	Action string         `json:"action"`
	DryRun bool           `json:"dryRun"`
	Before *groupSettings `json:"before"`
	After  *groupSettings `json:"after"`
	// Retries and DeadLetters are messages that go with a deleted group.
	Retries     int64 `json:"retries"`
	DeadLetters int64 `json:"deadLetters"`
}

func (a *app) printGroupChanges(group string, changes []admin.GroupChange, dryRun bool) error {
	rows := make([]groupChangeRow, len(changes))
	for i, c := range changes {
		rows[i] = groupChangeRow{
			Group: group, Broker: c.Broker, Action: actionOf(c.Before, c.After), DryRun: dryRun,
			Before: newGroupSettings(c.Before), After: newGroupSettings(c.After), Retries: c.Retries,
		}
		if c.DeadLettersGone {
			rows[i].DeadLetters = c.DeadLetters
		}
	}
	return printList(a, rows, groupChangeTable())
}

func groupChangeTable() table[groupChangeRow] {
	enabled := func(s *groupSettings) string { return fmt.Sprint(s.ConsumeEnabled) }
	retries := func(s *groupSettings) string { return retryMaxText(s.RetryMax) + ", " + s.RetryPolicy }
	return table[groupChangeRow]{
		name: func(r groupChangeRow) string { return r.Group },
		columns: []column[groupChangeRow]{
			{title: "GROUP", cell: func(r groupChangeRow) string { return r.Group }},
			{title: "BROKER", cell: func(r groupChangeRow) string { return r.Broker }},
			{title: "ACTION", cell: func(r groupChangeRow) string { return actionText(r.Action, r.DryRun) }},
			{title: "ENABLED", cell: func(r groupChangeRow) string { return transition(r.Before, r.After, enabled) }},
			{title: "RETRIES", cell: func(r groupChangeRow) string { return transition(r.Before, r.After, retries) }, wide: true},
			{title: "RETRYING", cell: func(r groupChangeRow) string { return number(r.Retries) }, wide: true},
			{title: "DEAD LETTERS", cell: func(r groupChangeRow) string { return number(r.DeadLetters) }, wide: true},
		},
	}
}
