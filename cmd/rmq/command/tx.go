package command

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/transport/protocol"
)

func (a *app) txCommand() *cobra.Command {
	c := noun("tx", "Transactions that nobody has decided: list, check, resolve", a.txList(), a.txCheck(), a.txResolve())
	c.Aliases = []string{"transaction", "transactions"}
	return c
}

// txRow is a transaction that is not decided. The fields are API.
type txRow struct {
	MessageID string    `json:"messageId"`
	Topic     string    `json:"topic"`
	Broker    string    `json:"broker"`
	Queue     int       `json:"queue"`
	Group     string    `json:"producerGroup"`
	StoreTime time.Time `json:"storeTime"`
	Checks    int       `json:"checks"`
	// NextCheck is missing when producers are asked no more.
	NextCheck *time.Time `json:"nextCheck"`
	Handle    string     `json:"handle"`
}

func newTxRow(x admin.Transaction) txRow {
	r := txRow{
		MessageID: x.MessageID.String(), Topic: x.Queue.Topic, Broker: x.Queue.Broker, Queue: x.Queue.ID, Group: x.Group,
		StoreTime: x.StoreTime.UTC(), Checks: x.Checks, Handle: x.Handle,
	}
	if !x.NextCheck.IsZero() {
		r.NextCheck = new(x.NextCheck.UTC())
	}
	return r
}

func (a *app) txList() *cobra.Command {
	var t admin.Target
	var topic, group string
	var limit int
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "Transactions that are not decided, the oldest first",
		Long: `Transactions that are not decided, the oldest first.

Producers are asked for the outcome from time to time. Without NEXT-CHECK they were
asked as often as is allowed, and a person must decide: rmq tx resolve.`,
		Args: takes(),
		RunE: a.withAdmin(func(ctx context.Context, ad *admin.Admin, _ []string) error {
			if limit < 0 {
				return usagef("--limit %d is negative", limit)
			}
			var rows []txRow
			for x, err := range ad.Transactions(ctx, topic, group, t) {
				if err != nil {
					return err
				}
				rows = append(rows, newTxRow(x))
				if limit > 0 && len(rows) == limit {
					break
				}
			}
			return printList(a, rows, txTable())
		}),
	}
	c.Flags().StringVar(&topic, "topic", "", "only those of the `TOPIC`")
	c.Flags().StringVarP(&group, "group", "g", "", "only those of the producer `GROUP`")
	c.Flags().IntVar(&limit, "limit", 100, "at most so many; 0: all")
	targetFlags(c, &t)
	return c
}

func txTable() table[txRow] {
	return table[txRow]{
		name: func(r txRow) string { return r.Handle },
		columns: []column[txRow]{
			{title: "STORED", cell: func(r txRow) string { return momentText(&r.StoreTime) }},
			{title: "MESSAGE", cell: func(r txRow) string { return r.MessageID }},
			{title: "TOPIC", cell: func(r txRow) string { return r.Topic }},
			{title: "BROKER", cell: func(r txRow) string { return r.Broker }},
			{title: "QUEUE", cell: func(r txRow) string { return number(r.Queue) }, wide: true},
			{title: "GROUP", cell: func(r txRow) string { return r.Group }},
			{title: "CHECKS", cell: func(r txRow) string { return number(r.Checks) }},
			{title: "NEXT-CHECK", cell: func(r txRow) string { return momentText(r.NextCheck) }},
			{title: "HANDLE", cell: func(r txRow) string { return r.Handle }},
		},
	}
}

// txChecked counts what was asked for. The fields are API.
type txChecked struct {
	Asked    int `json:"asked"`
	NobodyOf int `json:"nobodyToAsk"`
}

func (a *app) txCheck() *cobra.Command {
	var t admin.Target
	var topic string
	c := &cobra.Command{
		Use: "check [HANDLE]", Short: "Have producers asked now for the outcome of one transaction, or of all",
		Example: "  rmq tx check --topic orders\n  rmq tx check HANDLE",
		Args:    takes("[HANDLE]"),
		RunE: a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
			if len(args) == 1 && topic != "" {
				return usagef("HANDLE and --topic exclude one another")
			}
			rows, err := checkTransactions(ctx, ad, args, topic, t)
			if err != nil {
				return err
			}
			return printList(a, []txChecked{rows}, table[txChecked]{
				name: func(c txChecked) string { return number(c.Asked) },
				columns: []column[txChecked]{
					{title: "ASKED", cell: func(c txChecked) string { return number(c.Asked) }},
					{title: "NOBODY-TO-ASK", cell: func(c txChecked) string { return number(c.NobodyOf) }},
				},
			})
		}),
	}
	c.Flags().StringVar(&topic, "topic", "", "only those of the `TOPIC`")
	targetFlags(c, &t)
	return c
}

func checkTransactions(ctx context.Context, ad *admin.Admin, handles []string, topic string, t admin.Target) (txChecked, error) {
	if len(handles) == 0 {
		c, err := ad.CheckTransactions(ctx, topic, t)
		return txChecked{c.Asked, c.NobodyOf}, err
	}
	asked, err := ad.CheckTransaction(ctx, handles[0])
	if asked || err != nil {
		return txChecked{Asked: 1}, err
	}
	return txChecked{NobodyOf: 1}, nil
}

// txResolved is a transaction as it was decided. The fields are API.
type txResolved struct {
	Handle   string `json:"handle"`
	Decision string `json:"decision"`
	Topic    string `json:"topic"`
	Broker   string `json:"broker"`
	Queue    int    `json:"queue"`
	Offset   int64  `json:"offset"` // -1: it was rolled back
}

func (a *app) txResolve() *cobra.Command {
	var commit, rollback bool
	c := &cobra.Command{
		Use: "resolve HANDLE...", Short: "Decide on transactions in place of their producers",
		Example: "  rmq tx list -o name | xargs rmq tx resolve --rollback",
		Args:    takes("HANDLE..."),
		RunE: a.withAdmin(func(ctx context.Context, ad *admin.Admin, handles []string) error {
			d := protocol.Commit
			switch {
			case commit && rollback:
				return usagef("--commit and --rollback exclude one another")
			case !commit && !rollback:
				return usagef("one of --commit and --rollback is needed")
			case rollback:
				d = protocol.Rollback
			}
			if err := checkHandles(handles); err != nil {
				return err
			}
			return a.resolve(ctx, ad, handles, d)
		}),
	}
	c.Flags().BoolVar(&commit, "commit", false, "show the messages to consumers")
	c.Flags().BoolVar(&rollback, "rollback", false, "drop the messages")
	return c
}

// resolve decides on all, and prints those that it could before an error.
func (a *app) resolve(ctx context.Context, ad *admin.Admin, handles []string, d protocol.Decision) error {
	var rows []txResolved
	var failure error
	for _, h := range handles {
		r, err := ad.ResolveTransaction(ctx, h, d)
		if err != nil {
			failure = err
			break
		}
		rows = append(rows, txResolved{h, string(d), r.Queue.Topic, r.Queue.Broker, r.Queue.ID, r.Offset})
	}
	return printDone(a, rows, txResolvedTable(), failure)
}

func txResolvedTable() table[txResolved] {
	return table[txResolved]{
		name: func(r txResolved) string { return r.Handle },
		columns: []column[txResolved]{
			{title: "HANDLE", cell: func(r txResolved) string { return r.Handle }},
			{title: "DECISION", cell: func(r txResolved) string { return r.Decision }},
			{title: "TOPIC", cell: func(r txResolved) string { return r.Topic }},
			{title: "BROKER", cell: func(r txResolved) string { return r.Broker }},
			{title: "QUEUE", cell: func(r txResolved) string { return number(r.Queue) }},
			{title: "OFFSET", cell: func(r txResolved) string {
				if r.Offset < 0 {
					return ""
				}
				return number(r.Offset)
			}},
		},
	}
}
