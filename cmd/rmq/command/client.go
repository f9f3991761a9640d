package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/transport/protocol"
)

func (a *app) clientCommand() *cobra.Command {
	c := noun("client", "Clients that are connected: list, describe", a.clientList(), a.clientDescribe())
	c.Aliases = []string{"clients"}
	return c
}

// clientRow is a producer or consumer that is connected. The fields are API.
type clientRow struct {
	ClientID       string   `json:"clientId"`
	Language       string   `json:"language"`
	Version        string   `json:"version"`
	Addresses      []string `json:"addresses"`
	ProducerGroups []string `json:"producerGroups"`
	// Checkers are those of them whose transactions the client can be asked for.
	Checkers      []string             `json:"checkers"`
	Subscriptions []clientSubscription `json:"subscriptions"`
	// Queues are those that the client owns.
	Queues             []admin.OwnedQueue `json:"queues"`
	Brokers            []string           `json:"brokers"`
	Since              time.Time          `json:"since"`
	HeartbeatAgeMillis int64              `json:"heartbeatAgeMillis"`
}

// clientSubscription is what a client reads for a group. The fields are API.
type clientSubscription struct {
	Group  string   `json:"group"`
	Topics []string `json:"topics"`
	// From is where it begins in queues that the group never committed.
	From string `json:"from"`
	// Broadcast: it reads all queues, not a share of them.
	Broadcast bool `json:"broadcast"`
	// Suspended: it hands no messages out, of some queues at least.
	Suspended bool `json:"suspended"`
	// RatePerSecond bounds the messages that it hands out; 0: nothing does.
	RatePerSecond float64 `json:"ratePerSecond"`
}

func newClientSubscription(s protocol.Subscription) clientSubscription {
	return clientSubscription{
		Group: s.Group, Topics: notNull(s.Topics), From: startText(s.Start),
		Broadcast: s.Broadcast, Suspended: s.Suspended, RatePerSecond: float64(s.RatePerHour) / 3600,
	}
}

// mode is how the group's messages come to the client.
func (s clientSubscription) mode() string {
	if s.Broadcast {
		return "broadcast"
	}
	return "shared"
}

// throttle is how the client holds itself back.
func (s clientSubscription) throttle() string {
	switch {
	case s.Suspended:
		return "suspended"
	case s.RatePerSecond > 0:
		return strconv.FormatFloat(s.RatePerSecond, 'g', 4, 64) + "/s"
	}
	return ""
}

// newClientRow shows a client, or what it does for one group.
func newClientRow(c admin.Client, group string) clientRow {
	r := clientRow{
		ClientID: c.ID, Language: c.Language, Version: c.Version, Addresses: notNull(c.Addresses),
		ProducerGroups: notNull(c.ProducerGroups), Checkers: notNull(c.Checkers), Subscriptions: []clientSubscription{},
		Queues: []admin.OwnedQueue{}, Brokers: notNull(c.Brokers), Since: c.Since.UTC(),
		HeartbeatAgeMillis: c.HeartbeatAge.Milliseconds(),
	}
	for _, s := range c.Subscriptions {
		if group == "" || s.Group == group {
			r.Subscriptions = append(r.Subscriptions, newClientSubscription(s))
		}
	}
	for _, q := range c.Queues {
		if group == "" || q.Group == group {
			r.Queues = append(r.Queues, q)
		}
	}
	return r
}

func notNull(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// startText is a position as --from has it.
func startText(s *protocol.Start) string {
	switch {
	case s == nil:
		return ""
	case s.Target == protocol.ResetToOffset:
		return strconv.FormatInt(s.Value, 10)
	case s.Target == protocol.ResetToTime:
		return momentText(new(time.UnixMilli(s.Value).UTC()))
	}
	return string(s.Target)
}

func (r clientRow) groups() string {
	var names []string
	for _, s := range r.Subscriptions {
		names = append(names, s.Group)
	}
	return strings.Join(names, ",")
}

func (r clientRow) topics() string {
	var names []string
	for _, s := range r.Subscriptions {
		names = append(names, s.Topics...)
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), ",")
}

// heartbeat is how long ago the last one came.
func (r clientRow) heartbeat() string {
	return (time.Duration(r.HeartbeatAgeMillis) * time.Millisecond).String() + " ago"
}

func (a *app) clientList() *cobra.Command {
	var t admin.Target
	var group string
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "Producers and consumers that are connected",
		Args: takes(),
		RunE: a.withAdmin(func(ctx context.Context, ad *admin.Admin, _ []string) error {
			return a.listClients(ctx, ad, group, t)
		}),
	}
	c.Flags().StringVarP(&group, "group", "g", "", "only members of the consumer `GROUP`")
	targetFlags(c, &t)
	return c
}

func (a *app) groupClients() *cobra.Command {
	var t admin.Target
	c := &cobra.Command{
		Use: "clients GROUP", Short: "Members of a consumer group and the queues that they own",
		Args:              takes("GROUP"),
		ValidArgsFunction: a.completeGroups,
		RunE: a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
			return a.listClients(ctx, ad, args[0], t)
		}),
	}
	targetFlags(c, &t)
	return c
}

func (a *app) listClients(ctx context.Context, ad *admin.Admin, group string, t admin.Target) error {
	clients, err := ad.Clients(ctx, group, t)
	if err != nil {
		return groupError(ctx, ad, group, err)
	}
	rows := make([]clientRow, len(clients))
	for i, c := range clients {
		rows[i] = newClientRow(c, group)
	}
	return printList(a, rows, clientTable())
}

func clientTable() table[clientRow] {
	return table[clientRow]{
		name: func(r clientRow) string { return r.ClientID },
		columns: []column[clientRow]{
			{title: "CLIENT", cell: func(r clientRow) string { return r.ClientID }},
			{title: "LANGUAGE", cell: func(r clientRow) string { return r.Language }},
			{title: "VERSION", cell: func(r clientRow) string { return r.Version }},
			{title: "ADDRESS", cell: func(r clientRow) string { return strings.Join(r.Addresses, ",") }},
			{title: "PRODUCER-GROUPS", cell: func(r clientRow) string { return strings.Join(r.ProducerGroups, ",") }},
			{title: "CONSUMER-GROUPS", cell: func(r clientRow) string { return r.groups() }},
			{title: "QUEUES", cell: func(r clientRow) string { return number(len(r.Queues)) }},
			{title: "HEARTBEAT", cell: func(r clientRow) string { return r.heartbeat() }},
			{title: "TOPICS", cell: func(r clientRow) string { return r.topics() }, wide: true},
			{title: "BROKERS", cell: func(r clientRow) string { return strings.Join(r.Brokers, ",") }, wide: true},
			{title: "SINCE", cell: func(r clientRow) string { return momentText(&r.Since) }, wide: true},
		},
	}
}

func (a *app) clientDescribe() *cobra.Command {
	var t admin.Target
	c := &cobra.Command{
		Use: "describe CLIENT", Aliases: []string{"info"}, Short: "Version, subscriptions and owned queues of a client",
		Args:              takes("CLIENT"),
		ValidArgsFunction: a.completeClients,
		RunE: a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
			found, err := ad.Client(ctx, args[0], t)
			if errors.Is(err, protocol.NotFound) {
				return notFound(protocol.NotFound, fmt.Sprintf("client %q is not connected", args[0]), args[0], clientIDs(ctx, ad), "rmq client list")
			}
			if err != nil {
				return err
			}
			r := newClientRow(*found, "")
			return printObject(a, &r, r.ClientID, func(w io.Writer) error { return r.write(w, !a.noHeaders) })
		}),
	}
	targetFlags(c, &t)
	return c
}

func (a *app) completeClients(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeNames(cmd, args, clientIDs)
}

// clientIDs are the names for completion and suggestions; none on any error.
func clientIDs(ctx context.Context, ad *admin.Admin) []string {
	clients, err := ad.Clients(ctx, "", admin.Target{})
	if err != nil {
		return nil
	}
	ids := make([]string, len(clients))
	for i, c := range clients {
		ids[i] = c.ID
	}
	return ids
}

func (r *clientRow) write(w io.Writer, headers bool) error {
	err := writeFields(w, "client", r.ClientID, "language", r.Language, "version", r.Version,
		"addresses", strings.Join(r.Addresses, ", "), "brokers", strings.Join(r.Brokers, ", "),
		"since", momentText(&r.Since), "last heartbeat", r.heartbeat(),
		"producer groups", strings.Join(r.ProducerGroups, ", "), "answers checks of", strings.Join(r.Checkers, ", "))
	if err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := subscriptionTable().write(w, r.Subscriptions, false, headers); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return ownedTable().write(w, r.Queues, false, headers)
}

func subscriptionTable() table[clientSubscription] {
	return table[clientSubscription]{
		name: func(r clientSubscription) string { return r.Group },
		columns: []column[clientSubscription]{
			{title: "GROUP", cell: func(r clientSubscription) string { return r.Group }},
			{title: "TOPICS", cell: func(r clientSubscription) string { return strings.Join(r.Topics, ",") }},
			{title: "FROM", cell: func(r clientSubscription) string { return r.From }},
			{title: "MODE", cell: func(r clientSubscription) string { return r.mode() }},
			{title: "THROTTLE", cell: func(r clientSubscription) string { return r.throttle() }},
		},
	}
}

func ownedTable() table[admin.OwnedQueue] {
	return table[admin.OwnedQueue]{
		name: func(r admin.OwnedQueue) string { return r.Topic + "/" + r.Broker + "/" + number(r.Queue) },
		columns: []column[admin.OwnedQueue]{
			{title: "GROUP", cell: func(r admin.OwnedQueue) string { return r.Group }},
			{title: "TOPIC", cell: func(r admin.OwnedQueue) string { return r.Topic }},
			{title: "BROKER", cell: func(r admin.OwnedQueue) string { return r.Broker }},
			{title: "QUEUE", cell: func(r admin.OwnedQueue) string { return number(r.Queue) }},
			{title: "FENCE", cell: func(r admin.OwnedQueue) string { return number(r.Fence) }},
		},
	}
}
