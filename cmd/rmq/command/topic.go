package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

func (a *app) topicCommand() *cobra.Command {
	c := noun("topic", "Topics: list, create, describe, change, delete",
		a.topicList(), a.topicCreate(), a.topicDescribe(), a.topicAlter(), a.topicDelete(), a.topicRoute(), a.topicStats())
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
}

func newTopicRow(t admin.Topic) topicRow {
	r := topicRow{Topic: t.Name, Brokers: len(t.Brokers), KeepUntilConsumed: true}
	for _, b := range t.Brokers {
		r.ReadQueues += b.ReadQueues
		r.WriteQueues += b.WriteQueues
		r.Perm = same(r.Perm, b.Perm.String())
		r.Retention = same(r.Retention, retentionText(b.RetentionMillis))
		r.KeepUntilConsumed = r.KeepUntilConsumed && b.KeepUntilConsumed
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
		},
	}
}

// topicFlags are the settings of a topic on the command line.
type topicFlags struct {
	queues, readQueues, writeQueues int
	perm                            string
	retention                       string
	keep                            bool
}

func (f *topicFlags) declare(cmd *cobra.Command) {
	cmd.Flags().IntVar(&f.queues, "queues", 0, "read and write queues on each broker")
	cmd.Flags().IntVar(&f.readQueues, "read-queues", 0, "queues to read on each broker")
	cmd.Flags().IntVar(&f.writeQueues, "write-queues", 0, "queues to write on each broker")
	cmd.Flags().StringVar(&f.perm, "perm", "", "permission: rw, r, w or none")
	complete(cmd, "perm", "rw", "r", "w", "none")
	cmd.Flags().StringVar(&f.retention, "retention", "", "how long messages are kept: a `DURATION` (72h, 7d), forever, or default: as the broker does")
	complete(cmd, "retention", "default", "forever", "1h", "24h", "72h", "7d")
	cmd.Flags().BoolVar(&f.keep, "keep-until-consumed", false, "keep messages beyond that until all groups have consumed them")
}

// patch is what was said on the command line, checked.
func (f *topicFlags) patch(cmd *cobra.Command) (admin.TopicPatch, error) {
	var p admin.TopicPatch
	if err := errors.Join(exclusive(cmd, "queues", "read-queues"), exclusive(cmd, "queues", "write-queues")); err != nil {
		return p, err
	}
	for _, q := range []struct {
		flag  string
		value int
		to    []**int
	}{
		{"queues", f.queues, []**int{&p.ReadQueues, &p.WriteQueues}},
		{"read-queues", f.readQueues, []**int{&p.ReadQueues}},
		{"write-queues", f.writeQueues, []**int{&p.WriteQueues}},
	} {
		if !cmd.Flags().Changed(q.flag) {
			continue
		}
		if q.value < 1 {
			return p, usagef("--%s %d: want at least 1", q.flag, q.value)
		}
		for _, to := range q.to {
			*to = &q.value
		}
	}
	if f.perm != "" {
		perm, err := message.ParsePerm(f.perm)
		if err != nil {
			return p, usagef("--perm: %v", err)
		}
		p.Perm = &perm
	}
	if cmd.Flags().Changed("keep-until-consumed") {
		p.KeepUntilConsumed = &f.keep
	}
	if cmd.Flags().Changed("retention") {
		millis, err := topicRetention(f.retention)
		if err != nil {
			return p, usagef("--retention %q: %v", f.retention, err)
		}
		p.RetentionMillis = &millis
	}
	return p, nil
}

func (a *app) topicCreate() *cobra.Command {
	var t admin.Target
	var f topicFlags
	var ifMissing bool
	c := &cobra.Command{
		Use: "create TOPIC", Short: "Create a topic on all brokers, or on chosen ones",
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

func newTopicSpec(name string, p admin.TopicPatch) admin.TopicSpec {
	s := admin.TopicSpec{Name: name}
	if p.ReadQueues != nil {
		s.ReadQueues = *p.ReadQueues
	}
	if p.WriteQueues != nil {
		s.WriteQueues = *p.WriteQueues
	}
	if p.Perm != nil {
		s.Perm = *p.Perm
	}
	if p.RetentionMillis != nil {
		s.RetentionMillis = *p.RetentionMillis
	}
	if p.KeepUntilConsumed != nil {
		s.KeepUntilConsumed = *p.KeepUntilConsumed
	}
	return s
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
		Use: "alter TOPIC", Short: "Change the queues, the permission or the retention of a topic",
		Args:              takes("TOPIC"),
		ValidArgsFunction: a.completeTopics,
	}
	c.RunE = a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
		p, err := f.patch(c)
		if err != nil {
			return err
		}
		if p == (admin.TopicPatch{}) {
			return usagef("nothing to change: give --queues, --read-queues, --write-queues, --perm, --retention or --keep-until-consumed")
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

func (a *app) topicStats() *cobra.Command {
	var t admin.Target
	c := &cobra.Command{
		Use: "stats TOPIC", Short: "Where each queue of a topic begins and ends",
		Args:              takes("TOPIC"),
		ValidArgsFunction: a.completeTopics,
		RunE: a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
			v, err := a.describeTopic(ctx, ad, args[0], t)
			if err != nil {
				return err
			}
			return printList(a, v.Queues, queueTable())
		}),
	}
	targetFlags(c, &t)
	return c
}

func (v *topicView) write(w io.Writer, headers bool) error {
	err := writeFields(w, "topic", v.Topic, "perm", v.Perm, "read queues", number(v.ReadQueues),
		"write queues", number(v.WriteQueues), "retention", v.Retention, "keep until consumed", keepText(v.KeepUntilConsumed),
		"messages", number(v.Messages))
	if err != nil {
		return err
	}
	fmt.Fprintln(w)
	return queueTable().write(w, v.Queues, false, headers)
}
