package command

import (
	"context"
	"iter"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/message"
)

func (a *app) dlqCommand() *cobra.Command {
	return noun("dlq", "Dead letters, which a consumer group has given up: list, peek, resend, export, purge",
		a.dlqList(), a.dlqPeek(), a.dlqResend(), a.dlqExport(), a.dlqPurge())
}

// deadLetterRow is a dead letter in a list. The fields are API.
type deadLetterRow struct {
	MessageID      string `json:"messageId"`
	Topic          string `json:"topic"` // the original one
	Queue          int    `json:"queue"`
	Offset         int64  `json:"offset"`
	Broker         string `json:"broker"`
	DLQOffset      int64  `json:"dlqOffset"`
	ReconsumeTimes int    `json:"reconsumeTimes"`
	StoreTime      string `json:"storeTime"` // when it became a dead letter
	LastError      string `json:"lastError"`
}

func newDeadLetterRow(m *message.Stored) deadLetterRow {
	r := deadLetterRow{
		MessageID: m.ID.String(), Broker: m.Queue.Broker, DLQOffset: m.QueueOffset,
		ReconsumeTimes: m.ReconsumeTimes, StoreTime: m.StoreTime.UTC().Format(lineTime),
	}
	if o := m.Origin; o != nil {
		r.Topic, r.Queue, r.Offset, r.LastError = o.Topic, o.Queue, o.Offset, o.LastError
	}
	return r
}

func deadLetterTable() table[deadLetterRow] {
	return table[deadLetterRow]{
		name: func(r deadLetterRow) string { return r.MessageID },
		columns: []column[deadLetterRow]{
			{title: "TIME", cell: func(r deadLetterRow) string { return r.StoreTime }},
			{title: "MESSAGE", cell: func(r deadLetterRow) string { return r.MessageID }},
			{title: "TOPIC", cell: func(r deadLetterRow) string { return r.Topic }},
			{title: "BROKER", cell: func(r deadLetterRow) string { return r.Broker }, wide: true},
			{title: "QUEUE", cell: func(r deadLetterRow) string { return number(r.Queue) }, wide: true},
			{title: "OFFSET", cell: func(r deadLetterRow) string { return number(r.Offset) }, wide: true},
			{title: "TIMES", cell: func(r deadLetterRow) string { return number(r.ReconsumeTimes) }},
			{title: "ERROR", cell: func(r deadLetterRow) string { return firstLine(r.LastError) }},
		},
	}
}

// firstLine is a text as it fits into a row: printable, and not long.
func firstLine(text string) string {
	const most = 80
	readable := string(appendReadable(nil, []byte(text)))
	if runes := []rune(readable); len(runes) > most {
		return string(runes[:most]) + "..."
	}
	return readable
}

// dlqAction is the body of a command for the dead letters of one group.
type dlqAction func(ctx context.Context, ad *admin.Admin, group string) error

func (a *app) dlqVerb(c *cobra.Command, act dlqAction) *cobra.Command {
	c.Args, c.ValidArgsFunction = takes("GROUP"), a.completeGroups
	c.RunE = a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error { return act(ctx, ad, args[0]) })
	return c
}

// deadLetters are at most so many of the newest; 0: all. One that cannot be read ends
// the list with its error.
func deadLetters(ctx context.Context, ad *admin.Admin, group string, t admin.Target, most int) iter.Seq2[message.Stored, error] {
	return func(yield func(message.Stored, error) bool) {
		n := 0
		for m, err := range ad.DeadLetters(ctx, group, t) {
			if n++; !yield(m, err) || err != nil || n == most {
				return
			}
		}
	}
}

func (a *app) dlqList() *cobra.Command {
	var t admin.Target
	var count int
	c := a.dlqVerb(&cobra.Command{
		Use: "list GROUP", Aliases: []string{"ls"}, Short: "The dead letters of a group, newest first, with their origins and errors",
	}, func(ctx context.Context, ad *admin.Admin, group string) error {
		if count < 0 {
			return usagef("--count %d is negative", count)
		}
		var rows []deadLetterRow
		for m, err := range deadLetters(ctx, ad, group, t, count) {
			if err != nil {
				return printDone(a, rows, deadLetterTable(), err)
			}
			rows = append(rows, newDeadLetterRow(&m))
		}
		if len(rows) == 0 { // a group that was deleted may have left some
			if _, err := ad.DescribeGroup(ctx, group, t); err != nil {
				return groupError(ctx, ad, group, err)
			}
		}
		return printList(a, rows, deadLetterTable())
	})
	c.Flags().IntVar(&count, "count", 100, "at most `N`; 0: all")
	targetFlags(c, &t)
	return c
}

func (a *app) dlqPeek() *cobra.Command {
	var t admin.Target
	var count int
	c := a.dlqVerb(&cobra.Command{
		Use: "peek GROUP", Short: "Print the newest dead letters of a group as messages",
	}, func(ctx context.Context, ad *admin.Admin, group string) error {
		if count < 1 {
			return usagef("--count %d: want at least 1", count)
		}
		return a.printFound(ctx, ad.DeadLetters(ctx, group, t), count, "")
	})
	c.Flags().IntVar(&count, "count", 10, "at most `N` messages")
	targetFlags(c, &t)
	return c
}

func (a *app) dlqExport() *cobra.Command {
	var t admin.Target
	c := a.dlqVerb(&cobra.Command{
		Use: "export GROUP", Short: "Print all dead letters of a group as messages, one JSON object a line",
		Example: "  rmq dlq export billing > billing.ndjson",
	}, func(ctx context.Context, ad *admin.Admin, group string) error {
		if a.output == outTable {
			a.output = outNDJSON
		}
		return a.printFound(ctx, ad.DeadLetters(ctx, group, t), 0, "")
	})
	targetFlags(c, &t)
	return c
}

// resentRow is a dead letter that was sent again. The fields are API.
type resentRow struct {
	MessageID string `json:"messageId"`
	Topic     string `json:"topic"`
	Broker    string `json:"broker"`
	Queue     int    `json:"queue"`
	Offset    int64  `json:"offset"` // -1: a dry run
	Action    string `json:"action"` // resent, duplicate: it was before, or would be resent
}

func (a *app) dlqResend() *cobra.Command {
	var t admin.Target
	var count int
	var every, yes bool
	c := a.dlqVerb(&cobra.Command{
		Use: "resend GROUP", Short: "Send dead letters of a group to their original topics again, with their ids",
		Long: `Send dead letters of a group to their original topics again, with their ids.

All groups that read the topic get them. They stay among the dead letters until
they are purged; to resend one twice within a day does nothing.`,
		Example: "  rmq dlq resend billing --count 1 --dry-run\n  rmq dlq resend billing --all --yes",
	}, func(ctx context.Context, ad *admin.Admin, group string) error {
		switch {
		case every == (count > 0) || count < 0:
			return usagef("one of --all and --count N is needed")
		case every && !yes && !t.DryRun:
			f := usagef("to resend all needs a yes")
			f.Hint = "add --yes, or look first with --dry-run"
			return f
		}
		var rows []resentRow
		for m, err := range deadLetters(ctx, ad, group, t, count) {
			row := resentRow{MessageID: m.ID.String(), Broker: m.Queue.Broker, Offset: -1, Action: "would be resent"}
			if m.Origin != nil {
				row.Topic, row.Queue = m.Origin.Topic, m.Origin.Queue
			}
			if err == nil && !t.DryRun {
				err = row.resend(ctx, ad, group, &m)
			}
			if err != nil {
				return printDone(a, rows, resentTable(), err)
			}
			rows = append(rows, row)
		}
		return printList(a, rows, resentTable())
	})
	c.Flags().IntVar(&count, "count", 0, "the newest `N`")
	c.Flags().BoolVar(&every, "all", false, "all of them")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	changeFlags(c, &t)
	return c
}

func (r *resentRow) resend(ctx context.Context, ad *admin.Admin, group string, m *message.Stored) error {
	done, err := ad.ResendDeadLetter(ctx, group, m)
	r.Topic, r.Queue, r.Offset, r.Action = done.Queue.Topic, done.Queue.ID, done.Offset, "resent"
	if done.Duplicate {
		r.Action = "duplicate"
	}
	return err
}

func resentTable() table[resentRow] {
	return table[resentRow]{
		name: func(r resentRow) string { return r.MessageID },
		columns: []column[resentRow]{
			{title: "MESSAGE", cell: func(r resentRow) string { return r.MessageID }},
			{title: "ACTION", cell: func(r resentRow) string { return r.Action }},
			{title: "TOPIC", cell: func(r resentRow) string { return r.Topic }},
			{title: "BROKER", cell: func(r resentRow) string { return r.Broker }},
			{title: "QUEUE", cell: func(r resentRow) string { return number(r.Queue) }},
			{title: "OFFSET", cell: func(r resentRow) string {
				if r.Offset < 0 {
					return ""
				}
				return number(r.Offset)
			}},
		},
	}
}

// purgedRow is what was removed from one broker. The fields are API.
type purgedRow struct {
	Group    string `json:"group"`
	Broker   string `json:"broker"`
	Messages int64  `json:"messages"`
	DryRun   bool   `json:"dryRun"`
}

func (a *app) dlqPurge() *cobra.Command {
	var t admin.Target
	var yes bool
	c := a.dlqVerb(&cobra.Command{
		Use: "purge GROUP", Short: "Remove all dead letters of a group for ever",
	}, func(ctx context.Context, ad *admin.Admin, group string) error {
		if !yes && !t.DryRun {
			f := usagef("to purge the dead letters of %q needs a yes", group)
			f.Hint = "add --yes, or look first with --dry-run"
			return f
		}
		purged, err := ad.PurgeDeadLetters(ctx, group, t)
		return a.changed(err, func() error {
			rows := make([]purgedRow, len(purged))
			for i, p := range purged {
				rows[i] = purgedRow{group, p.Broker, p.Messages, t.DryRun}
			}
			return printList(a, rows, table[purgedRow]{
				name: func(r purgedRow) string { return r.Broker },
				columns: []column[purgedRow]{
					{title: "GROUP", cell: func(r purgedRow) string { return r.Group }},
					{title: "BROKER", cell: func(r purgedRow) string { return r.Broker }},
					{title: "ACTION", cell: func(r purgedRow) string { return actionText("purged", r.DryRun) }},
					{title: "MESSAGES", cell: func(r purgedRow) string { return number(r.Messages) }},
				},
			})
		})
	})
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	changeFlags(c, &t)
	return c
}
