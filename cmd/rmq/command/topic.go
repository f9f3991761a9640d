package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/transport/protocol"
)

func (a *app) topicCommand() *cobra.Command {
	c := noun("topic", "Topics: list, create, describe, change, delete, peek",
		a.topicList(), a.topicCreate(), a.topicDescribe(), a.topicAlter(), a.topicDelete(), a.topicRoute(), a.topicStats(), a.topicPeek())
	c.Aliases = []string{"topics"}
	return c
}

// topicRow is a topic in a list. The fields are API.
type topicRow struct {
	Topic       string `json:"topic"`
	Brokers     int    `json:"brokers"`
	ReadQueues  int    `json:"readQueues"`
	WriteQueues int    `json:"writeQueues"`
	Perm        string `json:"perm"`
	// Retention is default, forever or a duration.
	Retention string `json:"retention"`
	// KeepUntilConsumed says that every broker does so.
	KeepUntilConsumed bool `json:"keepUntilConsumed"`
	// Type is the kind of messages that the topic takes, of all brokers.
	Type string `json:"type"`
	// MessagesPerSecond and BytesPerSecond are what all brokers together take for
	// the topic; 0: there is a broker without a bound.
	MessagesPerSecond int64 `json:"messagesPerSecond"`
	BytesPerSecond    int64 `json:"bytesPerSecond"`
}

func newTopicRow(t admin.Topic) topicRow {
	r := topicRow{Topic: t.Name, Brokers: len(t.Brokers), KeepUntilConsumed: true}
	for _, b := range t.Brokers {
		r.ReadQueues += b.ReadQueues
		r.WriteQueues += b.WriteQueues
		r.Perm = same(r.Perm, b.Perm.String())
		r.Retention = same(r.Retention, retentionText(b.RetentionMillis))
		r.KeepUntilConsumed = r.KeepUntilConsumed && b.KeepUntilConsumed
		r.Type = eachType(r.Type, typeText(b.Type))
		r.MessagesPerSecond += b.Quota.MessagesPerSecond
		r.BytesPerSecond += b.Quota.BytesPerSecond
	}
	if slices.ContainsFunc(t.Brokers, func(b admin.BrokerTopic) bool { return b.Quota.MessagesPerSecond == 0 }) {
		r.MessagesPerSecond = 0
	}
	if slices.ContainsFunc(t.Brokers, func(b admin.BrokerTopic) bool { return b.Quota.BytesPerSecond == 0 }) {
		r.BytesPerSecond = 0
	}
	return r
}

// same is what all brokers have, or that they differ.
func same(before, next string) string {
	if before == "" || before == next {
		return next
	}
	return "mixed"
}

func (a *app) topicList() *cobra.Command {
	var t admin.Target
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "All topics",
		Args: takes(),
		RunE: a.withAdmin(func(ctx context.Context, ad *admin.Admin, _ []string) error {
			topics, err := ad.ListTopics(ctx, t)
			if err != nil {
				return err
			}
			rows := make([]topicRow, len(topics))
			for i, t := range topics {
				rows[i] = newTopicRow(t)
			}
			return printList(a, rows, topicTable())
		}),
	}
	targetFlags(c, &t)
	return c
}

func topicTable() table[topicRow] {
	return table[topicRow]{
		name: func(r topicRow) string { return r.Topic },
		columns: []column[topicRow]{
			{title: "TOPIC", cell: func(r topicRow) string { return r.Topic }},
			{title: "BROKERS", cell: func(r topicRow) string { return number(r.Brokers) }},
			{title: "READ", cell: func(r topicRow) string { return number(r.ReadQueues) }},
			{title: "WRITE", cell: func(r topicRow) string { return number(r.WriteQueues) }},
			{title: "PERM", cell: func(r topicRow) string { return r.Perm }},
			{title: "RETENTION", cell: func(r topicRow) string { return r.Retention }, wide: true},
			{title: "KEEP", cell: func(r topicRow) string { return keepText(r.KeepUntilConsumed) }, wide: true},
			{title: "TYPE", cell: func(r topicRow) string { return r.Type }, wide: true},
			{title: "MESSAGES/S", cell: func(r topicRow) string { return rateText(r.MessagesPerSecond) }, wide: true},
			{title: "BYTES/S", cell: func(r topicRow) string { return rateText(r.BytesPerSecond) }, wide: true},
		},
	}
}

func (a *app) topicCreate() *cobra.Command {
	var t admin.Target
	var f topicFlags
	var ifMissing bool
	c := &cobra.Command{
		Use: "create TOPIC", Short: "Create a topic on all brokers, or on chosen ones",
		Long: topicTypesText,
		Example: `  rmq topic create orders --queues 16
  rmq topic create alarms --type PRIORITY --queues 10
  rmq topic create clicks --retention 24h --bytes-per-second 10485760`,
		Args: takes("TOPIC"),
	}
	c.RunE = a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
		p, err := f.patch(c)
		if err != nil {
			return err
		}
		changes, err := ad.CreateTopic(ctx, newTopicSpec(args[0], p), t)
		if ifMissing && errors.Is(err, protocol.Conflict) {
			return a.printTopicChanges(args[0], nil, t.DryRun)
		}
		return a.changed(err, func() error { return a.printTopicChanges(args[0], changes, t.DryRun) })
	})
	f.declare(c)
	changeFlags(c, &t)
	c.Flags().BoolVar(&ifMissing, "if-not-exists", false, "succeed when it exists, whatever its settings")
	return c
}

// changed prints what was changed even when a part failed.
func (a *app) changed(err error, print func() error) error {
	var partial *admin.PartialError
	if err != nil && !errors.As(err, &partial) {
		return err
	}
	return errors.Join(print(), err)
}

func (a *app) topicAlter() *cobra.Command {
	var t admin.Target
	var f topicFlags
	c := &cobra.Command{
		Use: "alter TOPIC", Short: "Change the settings of a topic",
		Example: `  rmq topic alter orders --queues 16
  rmq topic alter orders --type FIFO
  rmq topic alter orders --messages-per-second 5000 --bytes-per-second 0`,
		Args:              takes("TOPIC"),
		ValidArgsFunction: a.completeTopics,
	}
	c.RunE = a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
		p, err := f.patch(c)
		if err != nil {
			return err
		}
		if p == (admin.TopicPatch{}) {
			return usagef("nothing to change: give --queues, --read-queues, --write-queues, --perm, --retention, --keep-until-consumed, --type, --messages-per-second or --bytes-per-second")
		}
		changes, err := ad.AlterTopic(ctx, args[0], p, t)
		err = topicError(ctx, ad, args[0], err)
		return a.changed(err, func() error { return a.printTopicChanges(args[0], changes, t.DryRun) })
	})
	f.declare(c)
	changeFlags(c, &t)
	return c
}

func (a *app) topicDelete() *cobra.Command {
	var t admin.Target
	var yes bool
	c := &cobra.Command{
		Use: "delete TOPIC", Aliases: []string{"rm"}, Short: "Delete a topic with its messages and offsets",
		Args:              takes("TOPIC"),
		ValidArgsFunction: a.completeTopics,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if !yes && !t.DryRun {
			if err := a.confirm("topic", args[0]); err != nil {
				return err
			}
		}
		return a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
			changes, err := ad.DeleteTopic(ctx, args[0], t)
			err = topicError(ctx, ad, args[0], err)
			return a.changed(err, func() error { return a.printTopicChanges(args[0], changes, t.DryRun) })
		})(cmd, args)
	}
	changeFlags(c, &t)
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}

// topicError turns "not found" into a failure with the names that are near.
func topicError(ctx context.Context, ad *admin.Admin, name string, err error) error {
	if !errors.Is(err, protocol.TopicNotFound) {
		return err
	}
	return notFound(protocol.TopicNotFound, unknownTopicText(name), name, topicNames(ctx, ad), "rmq topic list")
}

func (a *app) topicRoute() *cobra.Command {
	return &cobra.Command{
		Use: "route TOPIC", Short: "Which brokers have a topic and where clients reach them",
		Args:              takes("TOPIC"),
		ValidArgsFunction: a.completeTopics,
		RunE: a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
			brokers, err := ad.TopicRoute(ctx, args[0])
			if err != nil {
				return topicError(ctx, ad, args[0], err)
			}
			rows := make([]routeRow, len(brokers))
			for i, b := range brokers {
				rows[i] = routeRow{
					Topic: args[0], Cluster: b.Cluster, Broker: b.Broker, ID: b.ID, Addresses: b.Addresses,
					ReadQueues: b.ReadQueues, WriteQueues: b.WriteQueues, Perm: b.Perm.String(),
				}
			}
			return printList(a, rows, routeTable())
		}),
	}
}

// routeRow is a topic at one broker as clients see it. The fields are API.
type routeRow struct {
	Topic       string   `json:"topic"`
	Cluster     string   `json:"cluster"`
	Broker      string   `json:"broker"`
	ID          int      `json:"id"`
	Addresses   []string `json:"addresses"`
	ReadQueues  int      `json:"readQueues"`
	WriteQueues int      `json:"writeQueues"`
	Perm        string   `json:"perm"`
}

func routeTable() table[routeRow] {
	return table[routeRow]{
		name: func(r routeRow) string { return r.Broker },
		columns: []column[routeRow]{
			{title: "CLUSTER", cell: func(r routeRow) string { return r.Cluster }},
			{title: "BROKER", cell: func(r routeRow) string { return r.Broker }},
			{title: "ID", cell: func(r routeRow) string { return number(r.ID) }},
			{title: "ADDRESSES", cell: func(r routeRow) string { return strings.Join(r.Addresses, ",") }},
			{title: "READ", cell: func(r routeRow) string { return number(r.ReadQueues) }},
			{title: "WRITE", cell: func(r routeRow) string { return number(r.WriteQueues) }},
			{title: "PERM", cell: func(r routeRow) string { return r.Perm }},
		},
	}
}

func (a *app) describeTopic(ctx context.Context, ad *admin.Admin, name string, t admin.Target) (*topicView, error) {
	topic, err := ad.DescribeTopic(ctx, name, t)
	if err != nil {
		return nil, topicError(ctx, ad, name, err)
	}
	return newTopicView(topic), nil
}

func (a *app) topicDescribe() *cobra.Command {
	var t admin.Target
	c := &cobra.Command{
		Use: "describe TOPIC", Aliases: []string{"info"}, Short: "Settings and queues of a topic",
		Args:              takes("TOPIC"),
		ValidArgsFunction: a.completeTopics,
		RunE: a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
			v, err := a.describeTopic(ctx, ad, args[0], t)
			if err != nil {
				return err
			}
			return printObject(a, v, v.Topic, func(w io.Writer) error { return v.write(w, !a.noHeaders) })
		}),
	}
	targetFlags(c, &t)
	return c
}

func (v *topicView) write(w io.Writer, headers bool) error {
	err := writeFields(w, "topic", v.Topic, "perm", v.Perm, "read queues", number(v.ReadQueues),
		"write queues", number(v.WriteQueues), "retention", v.Retention, "keep until consumed", keepText(v.KeepUntilConsumed),
		"type", v.Type, "messages a second", rateText(v.MessagesPerSecond), "bytes a second", rateText(v.BytesPerSecond),
		"messages", number(v.Messages))
	if err != nil {
		return err
	}
	fmt.Fprintln(w)
	return queueTable().write(w, v.Queues, false, headers)
}
