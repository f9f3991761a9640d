package command

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/transport/protocol"
)

// recallRow is what became of one message. The fields are API.
type recallRow struct {
	Handle   string `json:"recallHandle"`
	Recalled bool   `json:"recalled"` // false: it was delivered before
}

func (a *app) messageRecall() *cobra.Command {
	return &cobra.Command{
		Use: "recall HANDLE...", Short: "Take delayed messages back before their time",
		Long: `Take delayed messages back before their time.

The handle is what ` + "`rmq pub --delay` and `rmq message delayed`" + ` print. A message
that was delivered already cannot be taken back: the exit code is 6 then.

  rmq pub orders later --delay 1h
  rmq message recall HANDLE`,
		Args: takes("HANDLE..."),
		RunE: a.withAdmin(a.recall),
	}
}

func (a *app) recall(ctx context.Context, ad *admin.Admin, handles []string) error {
	if err := checkHandles(handles); err != nil {
		return err
	}
	var rows []recallRow
	late := 0
	var failure error
	for _, h := range handles {
		recalled, err := ad.Recall(ctx, h)
		if failure = err; err != nil {
			break
		}
		if !recalled {
			late++
		}
		rows = append(rows, recallRow{h, recalled})
	}
	if err := printDone(a, rows, recallTable(), failure); err != nil || late == 0 {
		return err
	}
	f := &Failure{Message: fmt.Sprintf("%d of %d messages were delivered before", late, len(handles))}
	f.named("ALREADY_DELIVERED")
	return f
}

// checkHandles fails before anything is done when one of them never was a handle.
func checkHandles(handles []string) error {
	for _, h := range handles {
		if err := admin.CheckHandle(h); err != nil {
			return usagef("%q: %s", h, strings.TrimPrefix(err.Error(), protocol.InvalidArgument.String()+": "))
		}
	}
	return nil
}

// printDone prints what was done before a failure, which makes the exit code
// partial; nothing, if that is nothing.
func printDone[T any](a *app, rows []T, t table[T], failure error) error {
	if failure != nil && len(rows) == 0 {
		return failure
	}
	if err := printList(a, rows, t); err != nil || failure == nil {
		return err
	}
	return &Failure{Code: "PARTIAL", Message: fmt.Sprintf("%d were done, then: %v", len(rows), failure), exit: exitPartial, cause: failure}
}

func recallTable() table[recallRow] {
	return table[recallRow]{
		name: func(r recallRow) string { return r.Handle },
		columns: []column[recallRow]{
			{title: "HANDLE", cell: func(r recallRow) string { return r.Handle }},
			{title: "RESULT", cell: func(r recallRow) string {
				if r.Recalled {
					return "recalled"
				}
				return "already delivered"
			}},
		},
	}
}

// delayedRow is a message that waits for its time. The fields are API.
type delayedRow struct {
	MessageID string    `json:"messageId"`
	Topic     string    `json:"topic"`
	Broker    string    `json:"broker"`
	Queue     int       `json:"queue"`
	DeliverAt time.Time `json:"deliverAt"`
	StoreTime time.Time `json:"storeTime"`
	Handle    string    `json:"recallHandle"`
}

func (a *app) messageDelayed() *cobra.Command {
	var t admin.Target
	var limit int
	c := &cobra.Command{
		Use: "delayed [TOPIC]", Short: "Messages that wait for their time, those that are due first first",
		Args: takes("[TOPIC]"), ValidArgsFunction: a.completeTopics,
		RunE: a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
			if limit < 0 {
				return usagef("--limit %d is negative", limit)
			}
			topic := ""
			if len(args) == 1 {
				topic = args[0]
			}
			var rows []delayedRow
			for d, err := range ad.Delayed(ctx, topic, t) {
				if err != nil {
					return err
				}
				rows = append(rows, delayedRow{d.MessageID.String(), d.Queue.Topic, d.Queue.Broker, d.Queue.ID, d.DeliverAt.UTC(), d.StoreTime.UTC(), d.Handle})
				if limit > 0 && len(rows) == limit {
					break
				}
			}
			return printList(a, rows, delayedTable())
		}),
	}
	c.Flags().IntVar(&limit, "limit", 100, "at most so many messages; 0: all")
	targetFlags(c, &t)
	return c
}

func delayedTable() table[delayedRow] {
	return table[delayedRow]{
		name: func(r delayedRow) string { return r.Handle },
		columns: []column[delayedRow]{
			{title: "DELIVER-AT", cell: func(r delayedRow) string { return momentText(&r.DeliverAt) }},
			{title: "MESSAGE", cell: func(r delayedRow) string { return r.MessageID }},
			{title: "TOPIC", cell: func(r delayedRow) string { return r.Topic }},
			{title: "BROKER", cell: func(r delayedRow) string { return r.Broker }},
			{title: "QUEUE", cell: func(r delayedRow) string { return number(r.Queue) }},
			{title: "STORED", cell: func(r delayedRow) string { return momentText(&r.StoreTime) }, wide: true},
			{title: "HANDLE", cell: func(r delayedRow) string { return r.Handle }},
		},
	}
}
